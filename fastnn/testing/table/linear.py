"""Linear maps and products of matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import F32, Benchmark, Call, Kernel, Refused, WithRelu, by_weighted_sums, draw, normal


def _linear_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for n, i, o in [(3, 5, 2), (1, 1, 1), (15, 7, 33), (2, 600, 3)]:
        yield Call((draw(rng, dtype, n, i), draw(rng, dtype, o, i), draw(rng, dtype, o)))
    for n, i, o in [(3, 5, 2), (15, 30, 33)]:
        yield Call((draw(rng, dtype, n, i), draw(rng, dtype, o, i), draw(rng, dtype, o)), {"activation": "relu"})


def _linear_refused() -> Iterator[Refused]:
    x, w = normal(3, 4), normal(2, 4)
    yield Refused(Call((x[0], w)), ValueError, r"x: expected 2 dimensions")
    yield Refused(Call((x, w[:, :3])), ValueError, r"weight: expected shape \(O, 4\)")
    yield Refused(Call((x, w, normal(3))), ValueError, r"bias: expected shape \(2,\), got \(3,\)")
    yield Refused(Call((x, w.astype(int))), TypeError, r"weight: expected float32 or float64, got int64")
    yield Refused(Call((x, w), {"activation": "elu"}), ValueError, r"activation: expected None or 'relu', got 'elu'")


def _bmm_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for b, n, m, p in [(2, 3, 5, 4), (1, 1, 1, 1), (3, 15, 7, 33), (2, 1, 600, 3), (1, 4, 0, 2)]:
        yield Call((draw(rng, dtype, b, n, m), draw(rng, dtype, b, m, p)))


def _bmm_refused() -> Iterator[Refused]:
    a, b = normal(2, 3, 4), normal(2, 4, 5)
    yield Refused(Call((a[0], b)), ValueError, r"input: expected 3 dimensions \(B, N, M\)")
    yield Refused(Call((a, b[0])), ValueError, r"mat2: expected 3 dimensions \(B, M, P\)")
    yield Refused(Call((a, b[:1])), ValueError, r"mat2: expected shape \(2, 4, P\) .* got \(1, 4, 5\)")
    yield Refused(Call((a, b.astype(F32))), TypeError, r"mat2: expected float64 as input has, got float32")


def _bmm_backward_refused() -> Iterator[Refused]:
    a, b = normal(2, 3, 4), normal(2, 4, 5)
    yield Refused(Call((a, a, b)), ValueError, r"grad_output: expected shape \(2, 3, 5\), got \(2, 3, 4\)")
    yield Refused(Call((normal(2, 3, 5), a, b), {"needs": (True,) * 3}), ValueError, r"needs: expected two bools, for")


def _torch_bmm(*args: Any) -> Any:
    import torch

    return torch.bmm(*args)


ROWS = (
    Kernel("linear", _linear_samples, torch=WithRelu("linear"), inputs=(0, 1, 2), refused=_linear_refused,
           backward=by_weighted_sums,
           benchmarks=(Benchmark(
               "64 x 3136 by 128 x 3136", lambda n: Call((normal(n, 3136, dtype=F32), normal(128, 3136, dtype=F32))),
               64, 2.0 * 64 * 3136 * 128, "flop"),)),
    Kernel("bmm", _bmm_samples, torch=_torch_bmm, inputs=(0, 1), refused=_bmm_refused,
           refused_by_backward=_bmm_backward_refused, backward=lambda call, y, grad: Call((grad, *call.args)),
           benchmarks=(Benchmark(
               "64 x 128 x 64 x 128",
               lambda n: Call((normal(n, 128, 64, dtype=F32), normal(n, 64, 128, dtype=F32))), 64,
               2.0 * 64 * 128 * 64 * 128, "flop"),)),
)
