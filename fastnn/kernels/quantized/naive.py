"""Quantised networks as their formulas say; the other implementations are compared with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels.conv.geometry import Geometry
from fastnn.kernels.kept import KeptWeight

Pair = tuple[int, int]


def quantize_per_tensor(x: Array, scale: float, y: Array, zero_point: int) -> None:
    last = np.moveaxis(x, 1, -1)
    for place in np.ndindex(y.shape):
        y[place] = _byte(last[place] / x.dtype.type(scale) + x.dtype.type(zero_point))


def lookup_int8(x: Array, table: Array, y: Array) -> None:
    for place in np.ndindex(x.shape):
        y[place] = table[x[place]]


def conv2d_int8(x: Array, weight: Array, scale: Array, bias: Array | None, residual: Array | None,
                residual_scale: float, kept: KeptWeight | None, y: Array, geometry: Geometry, zero_point: int,
                dtype: np.dtype) -> None:
    height, width = x.shape[1:3]
    weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    filters, channels, rows, columns = weight.shape
    for n, i, j, o in np.ndindex(y.shape):
        first = o // (filters // geometry.groups) * channels
        total = 0
        for c, a, b in np.ndindex(channels, rows, columns):
            h = i * geometry.stride[0] - geometry.padding[0] + a * geometry.dilation[0]
            w = j * geometry.stride[1] - geometry.padding[1] + b * geometry.dilation[1]
            if 0 <= h < height and 0 <= w < width:
                total += (int(x[n, h, w, first + c]) - zero_point) * int(weight[o, c, a, b])
        value = np.float32(total) * scale[o]
        if bias is not None:
            value += bias[o]
        if residual is not None:
            value += np.float32(residual_scale) * np.float32(residual[n, i, j, o])
        y[n, i, j, o] = _byte(value) if dtype == np.uint8 else value


def max_pool2d_int8(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> None:
    height, width = x.shape[1:3]
    for n, i, j, c in np.ndindex(y.shape):
        cells = [(i * stride[0] - padding[0] + a * dilation[0], j * stride[1] - padding[1] + b * dilation[1])
                 for a, b in np.ndindex(kernel)]
        y[n, i, j, c] = max(x[n, h, w, c] for h, w in cells if 0 <= h < height and 0 <= w < width)


def _byte(value: Any) -> Any:
    """The nearest byte; 0 for NaN."""
    return np.rint(min(value, 255)) if value > 0 else 0
