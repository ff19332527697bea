"""Quantised networks on a GPU: a thread gives one result after another.

Products are formed in float64, where they are exact, and rounded to float32: the compiler would join one of float32
with the sum that follows, and skip its rounding.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for, either, real_of
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels.conv.geometry import Geometry
from fastnn.kernels.kept import KeptWeight

Pair = tuple[int, int]

# From here on there are no fractions: what is added is rounded, halves to even.
_WHOLE = {np.float32: np.float32(1.5 * 2**23), np.float64: np.float64(1.5 * 2**52)}


@functools.cache
def _rounding(real: Any) -> Any:
    whole, zero, most = _WHOLE[real], real(0), real(255)

    @cuda.jit(device=True)
    def byte(value: Any) -> Any:
        positive = value if value > zero else zero
        return np.uint8(((positive if positive < most else most) + whole) - whole)

    return byte


@functools.cache
def _quantize(real: Any) -> Any:
    byte = _rounding(real)

    @cuda.jit
    def quantize(x: Array, scale: Any, zero_point: Any, y: Array) -> None:
        """x is (N, channels, pixels), y (N, pixels, channels)."""
        channels, pixels = x.shape[1], x.shape[2]
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            n, c, p = i // (channels * pixels), i // pixels % channels, i % pixels
            y[n, p, c] = byte(x[n, c, p] / scale + zero_point)

    return quantize


def quantize_per_tensor(x: Array, scale: float, y: Array, zero_point: int) -> None:
    if x.size:
        channels, real = x.shape[1] if x.ndim == 4 else 1, real_of(x)
        launch(_quantize(real), blocks_for(x.size), THREADS, x.reshape(len(x), channels, -1), real(scale),
               real(zero_point), y.reshape(len(x), -1, channels))


@cuda.jit
def _lookup(x: Array, table: Array, y: Array) -> None:
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        y[i] = table[x[i]]


def lookup_int8(x: Array, table: Array, y: Array) -> None:
    launch(_lookup, blocks_for(x.size), THREADS, x.reshape(-1), table, y.reshape(-1))


@functools.cache
def _convolve(biased: bool, added: bool, rounds: bool) -> Any:
    byte, single, double = _rounding(np.float32), np.float32, np.float64

    @cuda.jit
    def convolve(x: Array, weight: Array, scale: Array, bias: Array, residual: Array, residual_scale: Any,
                 row_stride: int, column_stride: int, above: int, before: int, row_step: int, column_step: int,
                 groups: int, zero_point: int, y: Array) -> None:
        filters, channels, tall, wide = weight.shape
        rows, columns = y.shape[1], y.shape[2]
        for place in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            o, j, i = place % filters, place // filters % columns, place // (filters * columns) % rows
            n = place // (filters * columns * rows)
            first, total = o // (filters // groups) * channels, 0
            for a in range(tall):
                h = i * row_stride - above + a * row_step
                for b in range(wide):
                    w = j * column_stride - before + b * column_step
                    if h >= 0 and h < x.shape[1] and w >= 0 and w < x.shape[2]:
                        for c in range(channels):
                            total += (int(x[n, h, w, first + c]) - zero_point) * int(weight[o, c, a, b])
            value = single(double(single(total)) * double(scale[o]))
            if biased:
                value = single(value + bias[o])
            if added:
                value = single(value + single(double(residual_scale) * double(residual[n, i, j, o])))
            y[n, i, j, o] = byte(value) if rounds else value

    return convolve


def conv2d_int8(x: Array, weight: Array, scale: Array, bias: Array | None, residual: Array | None,
                residual_scale: float, kept: KeptWeight | None, y: Array, geometry: Geometry, zero_point: int,
                dtype: np.dtype) -> None:
    weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    kernel = _convolve(bias is not None, residual is not None, dtype == np.uint8)
    launch(kernel, blocks_for(y.size), THREADS, x, weight, scale, either(bias, scale), either(residual, x),
           np.float32(residual_scale), *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups,
           zero_point, y)


@cuda.jit
def _maxima(x: Array, tall: int, wide: int, row_stride: int, column_stride: int, above: int, before: int,
            row_step: int, column_step: int, y: Array) -> None:
    rows, columns, channels = y.shape[1], y.shape[2], y.shape[3]
    for place in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        c, j, i = place % channels, place // channels % columns, place // (channels * columns) % rows
        n, best = place // (channels * columns * rows), np.uint8(0)
        for a in range(tall):
            h = i * row_stride - above + a * row_step
            for b in range(wide):
                w = j * column_stride - before + b * column_step
                if h >= 0 and h < x.shape[1] and w >= 0 and w < x.shape[2]:
                    best = max(best, x[n, h, w, c])
        y[n, i, j, c] = best


def max_pool2d_int8(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> None:
    launch(_maxima, blocks_for(y.size), THREADS, x, *kernel, *stride, *padding, *dilation, y)
