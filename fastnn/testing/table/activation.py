"""Activations, sums of two arrays and dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import (
    F32,
    Array,
    Benchmark,
    Call,
    Kernel,
    Options,
    Refused,
    TorchFunction,
    any_shape_samples,
    float_refused,
    from_output,
    normal,
    two_arrays_benchmark,
    two_arrays_samples,
)


def _from_input(call: Call, y: Any, grad: Array) -> Call:
    return Call((grad, call.args[0]), call.kwargs)


def _activation(name: str, backward: Callable[[Call, Any, Array], Call], *options: Options,
                error: Callable[..., Array], error_of_backward: Callable[..., Array]) -> Kernel:
    return Kernel(
        name, any_shape_samples(*options), torch=TorchFunction(name), inputs=(0,), refused=float_refused,
        backward=backward, error=error, error_of_backward=error_of_backward, benchmarks=(Benchmark(
            "64 x 32 x 28 x 28", lambda n: Call((normal(n, 32, 28, 28, dtype=F32),)), 64, 64 * 32 * 784 * 8.0,
            "byte"),))


def _softplus_error(r: Array, x: Array, beta: float = 1.0, **options: Any) -> Array:
    return (4 + abs(beta * x)) * abs(r) + 1e-31 / abs(beta)


def _two_arrays_refused() -> Iterator[Refused]:
    yield Refused(Call((np.ones(3), np.ones(4))), ValueError, r"y: expected shape \(3,\), got \(4,\)")
    yield Refused(Call((np.ones(3), None)), TypeError, r"y: expected an array, got None")
    yield Refused(Call((np.ones(3), np.ones(3, F32))), TypeError, r"y: expected float64 as x has, got float32")


def _dropout_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call, p in zip(any_shape_samples()(rng, dtype), (0.5, 0.0, 0.25, 0.9)):
        mask = rng.random(call.args[0].shape) >= p
        yield Call((call.args[0], mask if p else mask.astype(np.uint8), p))


def _dropout_refused() -> Iterator[Refused]:
    x = np.ones(3)
    yield Refused(Call((x, np.ones(3), 0.5)), TypeError, r"mask: expected bool or uint8, got float64")
    yield Refused(Call((x, np.ones(2, bool), 0.5)), ValueError, r"mask: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((x, np.ones(3, bool), 1.5)), ValueError, r"p: expected")


ROWS: tuple[Kernel, ...] = (
    _activation("relu", from_output, error=lambda r, x: 0 * r, error_of_backward=lambda r, g, y: 0 * r),
    _activation("leaky_relu", _from_input, {}, {"negative_slope": 0.3},
                error=lambda r, x, *_, **o: 1.01 * abs(r), error_of_backward=lambda r, g, x, *_, **o: 1.01 * abs(r)),
    _activation("sigmoid", from_output, error=lambda r, x: 3 * abs(r), error_of_backward=lambda r, g, y: 2 * abs(r)),
    _activation("tanh", from_output, error=lambda r, x: 3 * abs(r),
                error_of_backward=lambda r, g, y: 2 * abs(g) * np.maximum(1, y * y)),
    _activation("gelu", _from_input, {}, {"approximate": "tanh"},
                error=lambda r, x, *_, **o: 3 * abs(x), error_of_backward=lambda r, g, x, *_, **o: 5 * abs(g)),
    _activation("silu", _from_input, error=lambda r, x: 4 * abs(r) + 1e-31 * abs(x),
                error_of_backward=lambda r, g, x: 5 * abs(g)),
    _activation("softplus", _from_input, {}, {"beta": 2.5}, {"beta": -0.5, "threshold": 3.0}, error=_softplus_error,
                error_of_backward=lambda r, g, x, beta=1.0, **o: (4 + abs(beta * x)) * abs(r) + 1e-31 * abs(g)),
    Kernel("add", two_arrays_samples, torch=lambda x, y: x + y, refused=_two_arrays_refused,
           benchmarks=(two_arrays_benchmark,)),
    Kernel("add_relu", two_arrays_samples, torch=lambda x, y: (x + y).relu(), refused=_two_arrays_refused,
           benchmarks=(two_arrays_benchmark,)),
    Kernel("dropout", _dropout_samples, inputs=(0,), refused=_dropout_refused,
           torch=lambda x, mask, p: x * mask / (1 - p),
           backward=lambda call, y, grad: Call((grad, *call.args[1:])),
           benchmarks=(Benchmark("64 x 128 x 28 x 28", lambda n: Call((
               normal(n, 128, 28, 28, dtype=F32), np.random.default_rng(0).random((n, 128, 28, 28)) > 0.5, 0.5)), 64,
               64 * 128 * 784 * 9.0, "byte"),)),
)

ACTIVATIONS = tuple([row.name for row in ROWS if row.error is not None])
