"""Updates of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import F32, Array, Benchmark, Call, Kernel, Options, Refused, draw, normal


def _state(rng: np.random.Generator, dtype: np.dtype, count: int) -> Iterator[tuple[Array, ...]]:
    for shape in [(3, 4), (1,), (8209,)]:
        parameter, grad = (draw(rng, dtype, *shape) for _ in range(2))
        yield (parameter, grad, *(rng.random(shape).astype(dtype) for _ in range(count)))


def _sgd_update_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for arrays in _state(rng, dtype, 1):
        yield Call((*arrays[:2], None), {"lr": 0.1, "weight_decay": 0.01})
        yield Call(arrays, {"lr": 0.1, "momentum": 0.9})
        yield Call(arrays, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01})


def _rmsprop_update_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for arrays in _state(rng, dtype, 2):
        yield Call((*arrays[:3], None), {"lr": 0.01})
        yield Call(arrays, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01})


def _adam_update_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for arrays in _state(rng, dtype, 2):
        cases: tuple[Options, ...] = ({"step": 1}, {"step": 7, "betas": (0.8, 0.95), "weight_decay": 0.1},
                                      {"step": 3, "weight_decay": 0.1, "decoupled": True})
        for options in cases:
            yield Call(arrays, {"lr": 0.01, **options})


def _update_refused(count: int, **options: Any) -> Callable[[], Iterator[Refused]]:
    def refused() -> Iterator[Refused]:
        parameter, *states = (np.ones(3) for _ in range(count + 1))
        yield Refused(Call((parameter, np.ones(2), *states), options), ValueError, r"grad: expected shape \(3,\)")
        yield Refused(Call((parameter, np.ones(3, F32), *states), options), TypeError, r"expected float\d\d")
        yield Refused(Call((parameter, parameter, *states), options), ValueError, r"expected memory of its own")
        yield Refused(Call((parameter.tolist(), np.ones(3), *states), options), TypeError,
                      r"parameter: expected a NumPy array, got list")

    return refused


def _update_benchmark(count: int, **options: Any) -> Benchmark:
    def call(n: int) -> Call:
        return Call(tuple(normal(64 * n, 3136, dtype=F32) ** 2 for _ in range(2 + count)), options)

    return Benchmark("401,408 parameters", call, 2, 401408 * 4 * (3.0 + 2 * count), "byte")


ROWS = (
    Kernel("sgd_update", _sgd_update_samples, writes=(0, 2), has_out=False,
           refused=_update_refused(1, lr=0.1, momentum=0.9), benchmarks=(_update_benchmark(1, lr=0.1, momentum=0.9),)),
    Kernel("rmsprop_update", _rmsprop_update_samples, writes=(0, 2, 3), has_out=False,
           refused=_update_refused(1, lr=0.1), benchmarks=(_update_benchmark(1, lr=0.1),)),
    Kernel("adam_update", _adam_update_samples, writes=(0, 2, 3), has_out=False,
           refused=_update_refused(2, lr=0.1, step=1), benchmarks=(_update_benchmark(2, lr=0.1, step=1),)),
)
