"""Embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import F32, Array, Benchmark, Call, Kernel, Options, Refused, TorchFunction, draw, normal


def _samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    # Rows that are met often, once and never, of a part of a vector and of several slices.
    cases: list[tuple[tuple[int, ...], int, int, Any, Options]] = [
        ((5,), 4, 3, np.int64, {}),
        ((3, 40), 7, 170, np.int32, {"padding_idx": 2}),        # too large for differences, which know no padding
        ((2, 3, 2), 300, 1, np.uint8, {"padding_idx": -1}),
        ((4,), 9, 300, np.int16, {}),
        ((600,), 3, 8, np.uint64, {}),
    ]
    for shape, rows, columns, integer, options in cases:
        yield Call((rng.integers(0, min(rows, 256), shape).astype(integer), draw(rng, dtype, rows, columns)), options)


def _refused() -> Iterator[Refused]:
    weight, input = normal(4, 3), np.array([0, 3, 1])
    yield Refused(Call((input + 1, weight)), ValueError, r"input: expected indices of 4 rows, from 0 to 3, got 4")
    yield Refused(Call((input - 1, weight)), ValueError, r"input: expected indices of 4 rows, from 0 to 3, got -1")
    yield Refused(Call((input * 1.0, weight)), TypeError, r"input: expected integer indices, got float64")
    yield Refused(Call((input > 0, weight)), TypeError, r"input: expected integer indices, got bool")
    yield Refused(Call(([0, 1], weight)), TypeError, r"input: expected an array, got list")
    yield Refused(Call((input, weight[0])), ValueError, r"weight: expected 2 dimensions \(V, D\), got shape \(3,\)")
    yield Refused(Call((input, weight), {"padding_idx": 4}), ValueError, r"padding_idx: .*from -4 to 3, got 4")
    yield Refused(Call((input, weight), {"padding_idx": 1.0}), TypeError, r"padding_idx: expected an integer, got 1\.0")
    yield Refused(Call((input + 1, weight), {"out": np.ones((3, 3))}), ValueError, r"input: expected indices of 4 rows")


def _backward_refused() -> Iterator[Refused]:
    grad, input = normal(3, 2), np.array([0, 3, 1])
    yield Refused(Call((grad, input, 3)), ValueError, r"input: expected indices of 3 rows, from 0 to 2, got 3")
    yield Refused(Call((grad[:2], input, 4)), ValueError, r"grad_output: expected shape .* got \(2, 2\)")
    yield Refused(Call((grad, input, -1)), ValueError, r"num_embeddings: expected at least 0, got -1")
    yield Refused(Call((grad, input, 1 << 60)), ValueError, r"num_embeddings: expected at most")
    yield Refused(Call((grad, input, 4), {"padding_idx": -5}), ValueError, r"padding_idx: .*from -4 to 3, got -5")


def _torch(input: Any, weight: Any, **options: Any) -> Any:
    return TorchFunction("embedding")(input.long(), weight, **options)


def _gradient(call: Call, y: Array, grad: Array) -> Call:
    input, weight = call.args
    return Call((grad, input, len(weight)), call.kwargs)


ROWS = (
    Kernel("embedding", _samples, torch=_torch, inputs=(1,), refused=_refused, backward=_gradient,
           refused_by_backward=_backward_refused, benchmarks=(Benchmark(
               "8192 of 2048 x 256",
               lambda n: Call((np.random.default_rng(0).integers(0, 2048, 128 * n), normal(2048, 256, dtype=F32))), 64,
               8192 * 256 * 8.0, "byte"),)),
)
