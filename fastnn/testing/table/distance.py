"""Distances and nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import F32, F64, U8, Array, Benchmark, Call, Kernel, Refused, draw, normal


def _points(rng: np.random.Generator, dtype: np.dtype, *shape: int) -> Array:
    return rng.integers(0, 256, shape).astype(dtype) if dtype == U8 else draw(rng, dtype, *shape)


def _pairwise_l2_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for m, n, d in [(3, 5, 4), (1, 1, 1), (17, 35, 3), (2, 3, 600), (2, 3, 0), (34, 33, 65)]:
        for squared in (False, True):
            yield Call((_points(rng, dtype, m, d), _points(rng, dtype, n, d)), {"squared": squared})


def _pairwise_l2_refused() -> Iterator[Refused]:
    x = normal(3, 4)
    yield Refused(Call((x, x[:, :3])), ValueError, r"y: expected 4 dimensions as x of shape \(3, 4\) has")
    yield Refused(Call((x[0], x)), ValueError, r"x: expected 2 dimensions")
    yield Refused(Call((x, x.astype(F32))), TypeError, r"y: expected float64 as x has, got float32")
    yield Refused(Call((x.astype(int), x)), TypeError, r"x: expected float32, float64 or uint8, got int64")
    yield Refused(Call((x, x.copy()), {"algorithm": "fast"}), ValueError, r"algorithm: expected one of .* got 'fast'")
    yield Refused(Call((x, x.copy()), {"out": np.empty((3, 4))}), ValueError, r"out: expected shape \(3, 3\)")
    many = np.empty((1 << 31, 0))
    yield Refused(Call((many, many)), ValueError, r"y: expected a result of at most .* elements, got one of shape")


def _torch_distances(x: Any, y: Any, squared: bool = False) -> Any:
    import torch

    distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return distances**2 if squared else distances


def _knn_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for m, n, d, k in [(3, 9, 4, 2), (1, 1, 1, 1), (17, 40, 3, 40), (2, 70, 600, 5), (0, 3, 2, 1), (1, 9000, 2, 5),
                       (33, 65, 37, 3)]:
        for squared in (False, True):
            yield Call((_points(rng, dtype, m, d), _points(rng, dtype, n, d), k), {"squared": squared})


def _knn_refused() -> Iterator[Refused]:
    x = normal(3, 4)
    yield Refused(Call((x, x, 4)), ValueError, r"k: expected from 1 to the number of points, 3, got 4")
    many = np.empty((1 << 31, 0))
    yield Refused(Call((many, many, 1 << 31)), ValueError, r"k: expected a result of at most .* elements")
    yield Refused(Call((x, x, 0)), ValueError, r"k: expected at least 1, got 0")
    yield Refused(Call((x, x, 1.5)), TypeError, r"k: expected an integer, got 1.5")
    yield Refused(Call((x, x[:, :3], 1)), ValueError, r"points: expected 4 dimensions as queries")
    yield Refused(Call((x, x, 1), {"memory_budget": 0}), ValueError, r"memory_budget: expected at least 1, got 0")
    yield Refused(Call((x, x, 1), {"algorithm": "tree"}), ValueError, r"algorithm: expected one of .* got 'tree'")


ROWS = (
    Kernel("pairwise_l2", _pairwise_l2_samples, torch=_torch_distances, refused=_pairwise_l2_refused,
           dtypes=(F32, F64, U8), algorithms=("direct", "gemm"), factor=10,
           benchmarks=(Benchmark("640 x 1000 points of 64 dimensions", lambda n: Call((
               normal(10 * n, 64, dtype=F32), normal(1000, 64, dtype=F32))), 64, 3.0 * 640 * 1000 * 64, "flop"),)),
    Kernel("knn", _knn_samples, refused=_knn_refused, dtypes=(F32, F64, U8), algorithms=("auto", "direct", "filter"),
           only_on_cpu=("filter",), has_out=False,
           benchmarks=(Benchmark("64 queries, 10,000 points of 784 dimensions, k = 10", lambda n: Call((
               normal(n, 784, dtype=F32), normal(10_000, 784, dtype=F32, seed=1), 10)), 64, 3.0 * 64 * 10_000 * 784,
               "flop"),)),
)
