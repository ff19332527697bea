"""Pooling as its formulas say: the judge of the other implementations."""

from __future__ import annotations

import numpy as np

from fastnn.kernels._arrays import Array

Pair = tuple[int, int]


def max_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, y: Array,
               indices: Array | None) -> None:
    height, width = x.shape[2:]
    for n, c, i, j in np.ndindex(y.shape):
        best = None
        for a in range(kernel[0]):
            for b in range(kernel[1]):
                h = i * stride[0] - padding[0] + a * dilation[0]
                w = j * stride[1] - padding[1] + b * dilation[1]
                if 0 <= h < height and 0 <= w < width:
                    value = x[n, c, h, w]
                    if best is None or value > best or (np.isnan(value) and not np.isnan(best)):
                        best, place = value, h * width + w
        y[n, c, i, j] = best
        if indices is not None:
            indices[n, c, i, j] = place


def max_pool2d_backward(grad_output: Array, indices: Array, grad_x: Array) -> bool:
    grad_x[...] = 0
    width = max(1, grad_x.shape[3])
    for n, c, i, j in np.ndindex(grad_output.shape):
        h, w = divmod(indices[n, c, i, j], width)
        if not (0 <= h < grad_x.shape[2]):
            return False
        grad_x[n, c, h, w] += grad_output[n, c, i, j]
    return True


def avg_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool, divisor: int | None,
               y: Array) -> None:
    for n, c, i, j in np.ndindex(y.shape):
        rows, height = _window(i, x.shape[2], kernel[0], stride[0], padding[0], count_include_pad)
        columns, width = _window(j, x.shape[3], kernel[1], stride[1], padding[1], count_include_pad)
        y[n, c, i, j] = 0
        for h in rows:
            for w in columns:
                y[n, c, i, j] += x[n, c, h, w]
        y[n, c, i, j] /= divisor or height * width


def avg_pool2d_backward(grad_output: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool,
                        divisor: int | None, grad_x: Array) -> None:
    grad_x[...] = 0
    for n, c, i, j in np.ndindex(grad_output.shape):
        rows, height = _window(i, grad_x.shape[2], kernel[0], stride[0], padding[0], count_include_pad)
        columns, width = _window(j, grad_x.shape[3], kernel[1], stride[1], padding[1], count_include_pad)
        for h in rows:
            for w in columns:
                grad_x[n, c, h, w] += grad_output[n, c, i, j] / (divisor or height * width)


def adaptive_avg_pool2d(x: Array, y: Array) -> None:
    for n, c, i, j in np.ndindex(y.shape):
        rows = _share(i, x.shape[2], y.shape[2])
        columns = _share(j, x.shape[3], y.shape[3])
        y[n, c, i, j] = 0
        for h in rows:
            for w in columns:
                y[n, c, i, j] += x[n, c, h, w]
        y[n, c, i, j] /= len(rows) * len(columns)


def adaptive_avg_pool2d_backward(grad_output: Array, grad_x: Array) -> None:
    grad_x[...] = 0
    for n, c, i, j in np.ndindex(grad_output.shape):
        rows = _share(i, grad_x.shape[2], grad_output.shape[2])
        columns = _share(j, grad_x.shape[3], grad_output.shape[3])
        for h in rows:
            for w in columns:
                grad_x[n, c, h, w] += grad_output[n, c, i, j] / (len(rows) * len(columns))


def _window(i: int, size: int, kernel: int, stride: int, padding: int, with_padding: bool) -> tuple[range, int]:
    """The cells of window i inside an image of `size`, and the number that counts in the divisor."""
    begin = i * stride - padding
    end = min(begin + kernel, size + padding)
    cells = range(max(begin, 0), min(end, size))
    return cells, end - begin if with_padding else len(cells)


def _share(i: int, size: int, parts: int) -> range:
    """Part i of `size` cells cut into overlapping parts of whole cells."""
    return range(i * size // parts, -(-(i + 1) * size // parts))
