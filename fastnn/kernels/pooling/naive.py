"""Pooling as its formulas say; the other implementations are compared with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastnn._checks import Array

Pair = tuple[int, int]
Window = tuple[range, range, int]               # rows, columns and the divisor

# What numbers are multiplied with whose sum leaves the range that there is, though their mean does not.
SCALE = 2.0**-64


def max_pool2d(x: Array, y: Array, indices: Array | None = None, *, kernel: Pair, stride: Pair, padding: Pair,
               dilation: Pair) -> None:
    def window(i: int, j: int) -> tuple[range, range]:
        return (_taps(i * stride[0] - padding[0], x.shape[2], kernel[0], dilation[0]),
                _taps(j * stride[1] - padding[1], x.shape[3], kernel[1], dilation[1]))

    _maxima(x, window, y, indices)


def adaptive_max_pool2d(x: Array, y: Array, indices: Array | None = None) -> None:
    def window(i: int, j: int) -> tuple[range, range]:
        return _share(i, x.shape[2], y.shape[2]), _share(j, x.shape[3], y.shape[3])

    _maxima(x, window, y, indices)


def _maxima(x: Array, window: Callable[[int, int], tuple[range, range]], y: Array, indices: Array | None) -> None:
    for n, c, i, j in np.ndindex(y.shape):
        best = None
        rows, columns = window(i, j)
        for h in rows:
            for w in columns:
                value = x[n, c, h, w]
                if best is None or value > best or (np.isnan(value) and not np.isnan(best)):
                    best, place = value, h * x.shape[3] + w
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


def avg_pool2d(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool,
               divisor: int | None) -> None:
    for n, c, i, j in np.ndindex(y.shape):
        rows, height = _window(i, x.shape[2], kernel[0], stride[0], padding[0], count_include_pad)
        columns, width = _window(j, x.shape[3], kernel[1], stride[1], padding[1], count_include_pad)
        y[n, c, i, j] = _mean(x[n, c], rows, columns, divisor or height * width)


def avg_pool2d_backward(grad_output: Array, grad_x: Array, kernel: Pair, stride: Pair, padding: Pair,
                        count_include_pad: bool, divisor: int | None) -> None:
    def window(i: int, j: int) -> Window:
        rows, height = _window(i, grad_x.shape[2], kernel[0], stride[0], padding[0], count_include_pad)
        columns, width = _window(j, grad_x.shape[3], kernel[1], stride[1], padding[1], count_include_pad)
        return rows, columns, divisor or height * width

    _input_gradient(grad_output, window, grad_x)


def adaptive_avg_pool2d(x: Array, y: Array) -> None:
    for n, c, i, j in np.ndindex(y.shape):
        rows = _share(i, x.shape[2], y.shape[2])
        columns = _share(j, x.shape[3], y.shape[3])
        y[n, c, i, j] = _mean(x[n, c], rows, columns, len(rows) * len(columns))


def adaptive_avg_pool2d_backward(grad_output: Array, grad_x: Array) -> None:
    def window(i: int, j: int) -> Window:
        rows = _share(i, grad_x.shape[2], grad_output.shape[2])
        columns = _share(j, grad_x.shape[3], grad_output.shape[3])
        return rows, columns, len(rows) * len(columns)

    _input_gradient(grad_output, window, grad_x)


def _mean(image: Array, rows: range, columns: range, divisor: int) -> float:
    """The sum of a window's cells over a divisor, of smaller cells where the sum leaves the range of numbers."""
    for scale in (1.0, SCALE):
        total = image.dtype.type(0)
        with np.errstate(over="ignore"):
            for h in rows:
                for w in columns:
                    total += image[h, w] * scale
        if np.isfinite(total):
            break
    return total / divisor / scale


def _input_gradient(grad_output: Array, window: Callable[[int, int], Window], grad_x: Array) -> None:
    """Add up in each cell the gradients of its windows, each over its divisor; smaller ones where that is needed."""
    lost = np.ones(grad_x.shape, bool)
    for scale in (1.0, SCALE):
        total = np.zeros_like(grad_x)
        with np.errstate(over="ignore"):
            for n, c, i, j in np.ndindex(grad_output.shape):
                rows, columns, divisor = window(i, j)
                for h in rows:
                    for w in columns:
                        total[n, c, h, w] += grad_output[n, c, i, j] * scale / divisor
        grad_x[lost] = total[lost] / scale
        lost = ~np.isfinite(grad_x)
        if not lost.any():
            break


def _taps(begin: int, size: int, kernel: int, dilation: int) -> range:
    """The cells of a window that begins at `begin` which are inside an image of `size`."""
    first = begin if begin >= 0 else begin % dilation
    return range(first, min(size, begin + (kernel - 1) * dilation + 1), dilation)


def _window(i: int, size: int, kernel: int, stride: int, padding: int, with_padding: bool) -> tuple[range, int]:
    """The cells of window i inside an image of `size`, and the number that counts in the divisor."""
    begin = i * stride - padding
    end = min(begin + kernel, size + padding)
    cells = range(max(begin, 0), min(end, size))
    return cells, end - begin if with_padding else len(cells)


def _share(i: int, size: int, parts: int) -> range:
    """Part i of `size` cells cut into overlapping parts of whole cells."""
    return range(i * size // parts, -(-(i + 1) * size // parts))
