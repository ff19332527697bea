"""Softmax and its logarithm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastnn.testing.table.base import (
    F32,
    Benchmark,
    Call,
    Kernel,
    Options,
    Refused,
    TorchFunction,
    draw,
    float_refused,
    from_output,
    normal,
)


def _softmax_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[tuple[int, ...], Options]] = [
        ((4, 10), {}), ((3, 4, 5), {"axis": 1}), ((2, 3), {"axis": 0}), ((1, 1), {}), ((2, 700), {})]
    for shape, options in cases:
        yield Call((3 * draw(rng, dtype, *shape),), options)


def _softmax_refused() -> Iterator[Refused]:
    yield from float_refused()
    yield Refused(Call((np.ones((2, 3)),), {"axis": 2}), ValueError, r"axis: expected from -2 to 1 .* got 2")


def _softmax(name: str) -> Kernel:
    return Kernel(
        name, _softmax_samples, inputs=(0,), refused=_softmax_refused, backward=from_output,
        torch=lambda x, axis=-1: TorchFunction(name)(x, dim=axis),
        benchmarks=(Benchmark("6400 x 1000", lambda n: Call((normal(100 * n, 1000, dtype=F32),)), 64, 6400 * 8000.0,
                              "byte"),))


ROWS = (_softmax("softmax"), _softmax("log_softmax"))
