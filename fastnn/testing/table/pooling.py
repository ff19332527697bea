"""Pooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn import kernels
from fastnn.testing.table.base import (
    F32,
    Array,
    Benchmark,
    Call,
    Kernel,
    Refused,
    Shaped,
    TorchFunction,
    distinct,
    draw,
    normal,
)


def _max_pool2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
        ((2, 3, 4, 6), 2, {}),
        ((1, 2, 7, 5), 3, {"stride": 2, "padding": 1, "return_indices": True}),
        ((2, 1, 8, 9), (2, 3), {"stride": (3, 1), "dilation": (2, 3), "return_indices": True}),
        ((1, 3, 7, 8), 3, {"stride": 2, "ceil_mode": True, "return_indices": True}),
        ((1, 1, 3, 3), 2, {"stride": 2, "padding": 1, "ceil_mode": True}),
        ((1, 1, 1, 1), 1, {}),
        ((1, 2, 35, 40), 2, {"stride": 2}),
        ((2, 3, 9, 8), 5, {"stride": 1, "padding": 2, "return_indices": True}),
        ((70, 2, 3, 3), 2, {"stride": 1, "return_indices": True}),
        ((1, 1, 150, 70), 3, {"stride": 2, "padding": 1}),
        ((1, 1, 3, 4), 2, {"stride": 10**9}),
    ]
    for shape, kernel, options in cases:
        yield Call((distinct(rng, dtype, *shape), kernel), options)


def _max_pool2d_refused() -> Iterator[Refused]:
    x = normal(2, 3, 6, 6)
    yield Refused(Call((x[0], 2)), ValueError, r"x: expected 4 dimensions")
    yield Refused(Call((x, 7)), ValueError, r"kernel_size: .* got kernel_size \(7, 7\)")
    yield Refused(Call((x, 0)), ValueError, r"kernel_size: expected at least 1, got 0")
    yield Refused(Call((x, 2), {"stride": 0}), ValueError, r"stride: expected at least 1, got 0")
    yield Refused(Call((x, 2), {"padding": 2}), ValueError, r"padding: expected at most half of kernel_size")
    yield Refused(Call((x, 2), {"padding": -1}), ValueError, r"padding: expected at least 0, got -1")
    yield Refused(Call((normal(2, 6, 6, 3), 4)), ValueError, r"kernel_size: .* x of shape .* looks like N x H x W x C")
    yield Refused(Call((x, ())), ValueError, r"kernel_size: expected an integer or a pair of them, got \(\)")
    yield Refused(Call((x[:, :, :1], (2, 1)), {"padding": (1, 0), "dilation": (2, 1)}), ValueError,
                  r"dilation: expected windows with a cell inside the image")
    yield Refused(Call((x.astype(int), 2)), TypeError, r"x: expected float32 or float64, got int64")
    yield Refused(Call((x, 2), {"out": np.empty((2, 3, 2, 3))}), ValueError, r"out: expected shape \(2, 3, 3, 3\)")


def _max_pool2d_backward_refused() -> Iterator[Refused]:
    grad, indices = np.ones((1, 1, 2, 2)), np.array([[[[0, 1], [2, 16]]]])
    yield Refused(Call((grad, indices, (1, 1, 4, 4))), ValueError, r"indices: expected values from 0 to 15 .* got 16")
    yield Refused(Call((grad, indices - 1, (1, 1, 4, 4))), ValueError, r"indices: expected values .* got -1")
    yield Refused(Call((grad, indices.astype(np.int32), (1, 1, 4, 4))), TypeError, r"indices: expected int64")
    yield Refused(Call((grad, indices[..., :1], (1, 1, 4, 4))), ValueError, r"indices: expected shape \(1, 1, 2, 2\)")
    yield Refused(Call((grad, indices, (1, 4, 4))), ValueError, r"input_shape: expected \(N, C, H, W\)")
    yield Refused(Call((grad, indices, (1, 1, 4, 0))), ValueError, r"input_shape: expected images with at least one")
    yield Refused(Call((grad, indices, (1, 1, 1 << 30, 1 << 30))), ValueError, r"input_shape: expected a result of at")


def _max_pool2d_gradient(call: Call, result: Any, grad: Array) -> Call:
    if not isinstance(result, tuple):
        result = kernels.max_pool2d(*call.args, **{**call.kwargs, "return_indices": True})
    return Call((grad, result[1], call.args[0].shape))


def _pool_benchmark(channels: int, size: int, *args: Any, **options: Any) -> Benchmark:
    return Benchmark(f"64 x {channels} x {size} x {size}",
                     lambda n: Call((normal(n, channels, size, size, dtype=F32), *args), options),
                     64, 64 * channels * size * size * 4 * 1.25, "byte")


def _avg_pool2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
        ((2, 3, 4, 6), 2, {}),
        ((1, 2, 7, 5), 3, {"stride": 2, "padding": 1}),
        ((1, 2, 7, 6), 3, {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
        ((1, 2, 7, 6), (2, 3), {"stride": (2, 1), "padding": (1, 0), "ceil_mode": True}),
        ((2, 1, 5, 8), (3, 2), {"divisor_override": 4, "ceil_mode": True}),
        ((2, 3, 8, 8), 8, {}),
        ((3, 2, 9, 7), 3, {"stride": 1, "padding": 1}),
        ((1, 1, 50, 70), 3, {"stride": 2}),
        ((1, 1, 1, 1), 1, {}),
    ]
    for shape, kernel, options in cases:
        yield Call((draw(rng, dtype, *shape), kernel), options)


def _avg_pool2d_refused() -> Iterator[Refused]:
    x = normal(2, 3, 6, 6)
    yield Refused(Call((x, 2), {"divisor_override": 0}), ValueError, r"divisor_override: expected")
    yield Refused(Call((x, 7)), ValueError, r"kernel_size: .* got kernel_size \(7, 7\)")
    yield Refused(Call((x, 2), {"padding": 2}), ValueError, r"padding: expected at most half of kernel_size")


def _adaptive_avg_pool2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[tuple[int, ...], Any]] = [
        ((2, 3, 5, 7), 1), ((1, 2, 7, 5), (3, 2)), ((1, 2, 4, 3), (None, 5)), ((1, 1, 1, 1), 3), ((2, 3, 8, 8), 4)]
    for shape, size in cases:
        yield Call((draw(rng, dtype, *shape), size))


def _adaptive_avg_pool2d_refused() -> Iterator[Refused]:
    yield Refused(Call((normal(2, 3, 6, 6), -1)), ValueError, r"output_size: expected at least 0, got -1")
    yield Refused(Call((normal(2, 3, 6, 6), (1, 2, 3))), ValueError, r"output_size: expected an integer or a pair")
    yield Refused(Call((normal(3, 6, 6), 1)), ValueError, r"x: expected 4 dimensions")
    yield Refused(Call((normal(2, 3, 6, 6), 1 << 40)), ValueError, r"output_size: expected a result of at most")


def _adaptive_max_pool2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[tuple[int, ...], Any, bool]] = [
        ((2, 3, 5, 7), 1, True), ((1, 2, 7, 5), (3, 2), True), ((1, 2, 4, 3), (None, 5), False),
        ((1, 1, 1, 1), 3, True), ((2, 3, 8, 8), 4, False), ((1, 2, 9, 70), (4, 11), True), ((9, 2, 3, 4), (2, 3), True)]
    for shape, size, return_indices in cases:
        yield Call((distinct(rng, dtype, *shape), size), {"return_indices": return_indices})


def _adaptive_max_pool2d_gradient(call: Call, result: Any, grad: Array) -> Call:
    if not isinstance(result, tuple):
        result = kernels.adaptive_max_pool2d(*call.args, return_indices=True)
    return Call((grad, result[1], call.args[0].shape))


ROWS = (
    Kernel("max_pool2d", _max_pool2d_samples, torch=TorchFunction("max_pool2d"), inputs=(0,),
           refused=_max_pool2d_refused, backward=_max_pool2d_gradient, refused_by_backward=_max_pool2d_backward_refused,
           benchmarks=(_pool_benchmark(32, 28, 2), _pool_benchmark(64, 14, 2))),
    Kernel("avg_pool2d", _avg_pool2d_samples, torch=TorchFunction("avg_pool2d"), inputs=(0,),
           refused=_avg_pool2d_refused,
           backward=lambda call, y, grad: Call((grad, call.args[0].shape, call.args[1]), call.kwargs),
           benchmarks=(_pool_benchmark(32, 28, 2),)),
    Kernel("adaptive_avg_pool2d", _adaptive_avg_pool2d_samples, torch=TorchFunction("adaptive_avg_pool2d"),
           inputs=(0,), refused=_adaptive_avg_pool2d_refused,
           backward=lambda call, y, grad: Call((grad, call.args[0].shape)),
           benchmarks=(_pool_benchmark(64, 14, 1),)),
    Kernel("adaptive_max_pool2d", _adaptive_max_pool2d_samples, torch=TorchFunction("adaptive_max_pool2d"), inputs=(0,),
           refused=_adaptive_avg_pool2d_refused, backward=_adaptive_max_pool2d_gradient,
           refused_by_backward=_max_pool2d_backward_refused, benchmarks=(_pool_benchmark(64, 13, 6),)),
)
