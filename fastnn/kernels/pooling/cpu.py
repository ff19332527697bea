"""Pooling: means and their gradients, in long loops over contiguous memory. Maxima are in `maxima`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.tuning import POOL_CELLS
from fastnn.kernels._cpu.vectors import CACHED, draft, finish, is_finite, row_sum
from fastnn.kernels._outputs import Result
from fastnn.kernels.pooling.maxima import plan_adaptive_max_pool2d as plan_adaptive_max_pool2d
from fastnn.kernels.pooling.maxima import plan_max_pool2d as plan_max_pool2d
from fastnn.kernels.pooling.maxima import plan_max_pool2d_backward as plan_max_pool2d_backward
from fastnn.kernels.pooling.naive import SCALE, Pair

_UNROLLED = 3                                   # cells across the kernels that have a loop of their own


class _Windows(NamedTuple):
    """The windows of an image."""

    rows: Array                             # where the windows of rows begin, and where they end
    columns: Array
    heights: Array                          # factors of the divisors
    widths: Array
    kernel: int                             # what columns' windows have in common where they are small, else 0
    stride: int
    pad: int
    gain: float                             # how much larger than the largest gradient of a result a cell's can be
    whole: bool                             # whether there is one window, of all cells


_Find = Callable[..., _Windows]             # from the sizes of images, those of results, and a dtype


def plan_avg_pool2d(x: Array, y: Result, **window: Any) -> Callable[[Array, Array], None]:
    """Return a function (x, y)."""
    return _plan_means(x, y, partial(_windows, **window))


def plan_avg_pool2d_backward(grad_output: Array, grad_x: Result, **window: Any) -> Callable[[Array, Array], None]:
    """Return a function (grad_output, grad_x)."""
    return _plan_gradient(grad_output, grad_x, partial(_windows, **window))


def plan_adaptive_avg_pool2d(x: Array, y: Result) -> Callable[[Array, Array], None]:
    """Return a function (x, y)."""
    return _plan_means(x, y, _shares)


def plan_adaptive_avg_pool2d_backward(grad_output: Array, grad_x: Result) -> Callable[[Array, Array], None]:
    """Return a function (grad_output, grad_x)."""
    return _plan_gradient(grad_output, grad_x, _shares)


def _plan_means(x: Array, y: Result, find: _Find) -> Callable[[Array, Array], None]:
    if 0 in y.shape:
        return _clear
    windows, images, rows = find(x.shape[2:], y.shape[2:], x.dtype), y.shape[0] * y.shape[1], y.shape[2]
    if windows.whole:
        group = 1 + POOL_CELLS // (x.shape[2] * x.shape[3])
        return partial(_average_images.launch(-(-images // group), work=x.size // 4),
                       float(windows.heights[0]) * float(windows.widths[0]), group)
    cells = x.shape[2] * x.shape[3] // rows + 1         # about, for a row of results
    band, group = min(rows, max(1, POOL_CELLS // cells)), max(1, POOL_CELLS // (rows * cells))
    return partial(_average.launch(-(-images // group) * -(-rows // band), work=x.size // 2), *windows[:7], group, band)


def _plan_gradient(grad_output: Array, grad_x: Result, find: _Find) -> Callable[[Array, Array], None]:
    if grad_output.size == 0:
        return _clear
    windows = find(grad_x.shape[2:], grad_output.shape[2:], grad_x.dtype)
    images, cells = grad_x.shape[0] * grad_x.shape[1], grad_x.shape[2] * grad_x.shape[3]
    group = 1 + POOL_CELLS // cells
    return partial(_input_gradient_of_images.launch(-(-images // group), work=images * cells // 2), *windows[:8], group,
                   images * cells * grad_x.dtype.itemsize >= CACHED)


def _clear(given: Array, result: Array) -> None:
    """The result where there are no windows."""
    result[...] = 0


# --- windows -----------------------------------------------------------------------------------------------


def _windows(sizes: Pair, counts: Pair, dtype: np.dtype, *, kernel: Pair, stride: Pair, padding: Pair,
             count_include_pad: bool, divisor: int | None) -> _Windows:
    """The windows of a kernel in images of `sizes`."""
    cells, lengths = [], []
    for size, count, k, s, p in zip(sizes, counts, kernel, stride, padding):
        begin = np.arange(count) * s - p
        end = np.minimum(begin + k, size + p)
        cells.append(np.array([np.maximum(begin, 0), np.minimum(end, size)]))
        lengths.append(end - begin if count_include_pad else np.diff(cells[-1], axis=0)[0])
    if divisor is not None:
        lengths = [np.full(counts[0], divisor), np.ones(counts[1])]
    common = (kernel[1], min(stride[1], sizes[1] + 2), padding[1]) if kernel[1] <= _UNROLLED else (0, 0, 0)
    return _described(sizes, cells, lengths, common, dtype)


def _shares(sizes: Pair, counts: Pair, dtype: np.dtype) -> _Windows:
    """The windows that are shares of the rows and columns."""
    cells = [np.array([np.arange(count) * size // count, -(-np.arange(1, count + 1) * size // count)])
             for size, count in zip(sizes, counts)]
    width = sizes[1] // counts[1]
    common = (width, width, 0) if width <= _UNROLLED and sizes[1] == width * counts[1] else (0, 0, 0)
    return _described(sizes, cells, [np.diff(c, axis=0)[0] for c in cells], common, dtype)


def _described(sizes: Pair, cells: list[Array], lengths: list[Array], common: tuple[int, int, int],
               dtype: np.dtype) -> _Windows:
    heights, widths = (length.astype(dtype) for length in lengths)
    whole = all(c.tolist() == [[0], [size]] for c, size in zip(cells, sizes))
    return _Windows(cells[0], cells[1], heights, widths, *common, _gain(cells, lengths), whole)


def _gain(cells: list[Array], lengths: list[Array]) -> float:
    """How many windows a cell is in at most, over the smallest divisor."""
    gain = 1.0
    for (begin, end), length in zip(cells, lengths):        # of the windows up to one, those that end after it begins
        gain *= np.max(np.arange(1, begin.size + 1) - np.searchsorted(end, begin, "right")) / np.min(length)
    return float(gain)


# --- means -------------------------------------------------------------------------------------------------


@inlined_helper
def _images(array: Array) -> Array:
    return array.reshape(array.shape[0] * array.shape[1], array.shape[2], array.shape[3])


@block_kernel(writes="y", typed_by="x")
def _average_images(block: int, divisor: float, group: int, x: Array, y: Array) -> None:
    """The means of whole images."""
    x, y = x.reshape(y.size, x.shape[2] * x.shape[3]), y.reshape(-1)
    first, end = block * group, min(len(x), block * group + group)
    for n in range(first, end):
        y[n] = row_sum(x[n]) / divisor
    if not is_finite(y[first:end]):
        _average_images_again(x[first:end], divisor, y[first:end])


@helper
def _average_images_again(x: Array, divisor: float, y: Array) -> None:
    """The means that are not finite, of smaller cells."""
    for n in range(len(x)):
        if not np.isfinite(y[n]):
            total = 0.0
            for value in x[n]:
                total += value * SCALE
            y[n] = total / divisor / SCALE


@inlined_helper
def _total(cells: Array, first: int, count: int) -> float:
    total = cells[first]
    for a in range(1, count):
        total += cells[first + a]
    return total


@helper
def _average_again(image: Array, columns: Array, height: float, widths: Array, y: Array) -> None:
    """The means of a row of windows that are not finite, from the rows of an image, of smaller cells."""
    scale = y.dtype.type(SCALE)
    for j in range(y.size):
        if not np.isfinite(y[j]):
            total = y.dtype.type(0)
            for h in range(len(image)):
                for w in range(max(0, columns[0, j]), columns[1, j]):
                    total += image[h, w] * scale
            y[j] = total / (height * widths[j]) / scale


@block_kernel(writes="y", typed_by="x")
def _average(block: int, rows: Array, columns: Array, heights: Array, widths: Array, kernel: int, stride: int, pad: int,
             group: int, band: int, x: Array, y: Array) -> None:
    """The means of `band` rows of windows in each of `group` images: sums of columns first, then of these sums."""
    x, y = _images(x), _images(y)
    bands, width, count = -(-y.shape[1] // band), x.shape[2], y.shape[2]
    first_image, first = block // bands * group, block % bands * band
    padded = np.zeros(max(pad + width, (count - 1) * stride + kernel), x.dtype)
    sums, totals = padded[pad:pad + width], np.empty(count, x.dtype)
    for n in range(first_image, min(first_image + group, len(x))):
        for i in range(first, min(first + band, y.shape[1])):
            top, bottom = max(0, rows[0, i]), rows[1, i]
            if bottom - top == 2:
                for w in range(width):
                    sums[w] = x[n, top, w] + x[n, top + 1, w]
            elif bottom - top == 3:
                for w in range(width):
                    sums[w] = x[n, top, w] + x[n, top + 1, w] + x[n, top + 2, w]
            else:
                for w in range(width):
                    sums[w] = x[n, top, w]
                for h in range(top + 1, bottom):
                    for w in range(width):
                        sums[w] += x[n, h, w]
            if (kernel == 2) & (stride == 2):           # constants, for which the compiler makes vector loads
                for j in range(count):
                    totals[j] = _total(padded, 2 * j, 2)
            elif (kernel == 3) & (stride == 2):
                for j in range(count):
                    totals[j] = _total(padded, 2 * j, 3)
            elif (kernel == 3) & (stride == 1):
                for j in range(count):
                    totals[j] = _total(padded, j, 3)
            else:
                for j in range(count):
                    totals[j] = _total(sums, max(0, columns[0, j]), columns[1, j] - columns[0, j])
            for j in range(count):
                y[n, i, j] = totals[j] / (heights[i] * widths[j])
    last_image, last = min(first_image + group, len(x)), min(first + band, y.shape[1])
    begin, end = (first_image * y.shape[1] + first) * count, ((last_image - 1) * y.shape[1] + last) * count
    if not is_finite(y.reshape(-1)[begin:end]):         # one image, where not all of its rows are in a block
        for n in range(first_image, last_image):
            for i in range(first, last):
                _average_again(x[n, max(0, rows[0, i]):rows[1, i]], columns, heights[i], widths, y[n, i])


@helper
def _input_gradient_again(grad_output: Array, rows: Array, columns: Array, heights: Array, widths: Array,
                          image: Array) -> None:
    """The cells of an image that are not finite, of smaller gradients."""
    scale = image.dtype.type(SCALE)
    total = np.zeros(image.shape, image.dtype)
    for i in range(heights.size):
        for j in range(widths.size):
            share = grad_output[i, j] * scale / (heights[i] * widths[j])
            for h in range(max(0, rows[0, i]), rows[1, i]):
                for w in range(max(0, columns[0, j]), columns[1, j]):
                    total[h, w] += share
    for h in range(len(image)):
        for w in range(image.shape[1]):
            if not np.isfinite(image[h, w]):
                image[h, w] = total[h, w] / scale


@block_kernel(writes="grad_x", typed_by="grad_x")
def _input_gradient_of_images(block: int, rows: Array, columns: Array, heights: Array, widths: Array, kernel: int,
                              stride: int, pad: int, gain: float, group: int, streamed: bool, grad_output: Array,
                              grad_x: Array) -> None:
    """The transpose of `_average` on a group of images: gradients go over columns first, then over rows."""
    grad_output, grad_x = _images(grad_output), _images(grad_x)
    part = grad_x[block * group:min(len(grad_x), block * group + group)]
    result = draft(part, streamed)
    width, count = grad_x.shape[2], grad_output.shape[2]
    before = kernel                                     # zeros on both sides of a row of windows
    shares = np.zeros(before + max(count, width + pad) + 1, grad_x.dtype)
    padded = np.empty(pad + width + 1, grad_x.dtype)
    row, largest = padded[pad:pad + width], np.finfo(grad_x.dtype).max
    for n in range(len(result)):
        image, filled = result[n], 0
        for i in range(grad_output.shape[1]):
            grads = grad_output[block * group + n, i]
            for j in range(count):
                shares[before + j] = grads[j] / (heights[i] * widths[j])
            if (kernel == 2) & (stride == 2):
                for q in range(padded.size // 2):
                    padded[2 * q] = padded[2 * q + 1] = shares[before + q]
            elif (kernel == 3) & (stride == 2):
                for q in range(padded.size // 2):
                    padded[2 * q] = shares[before + q] + shares[before - 1 + q]
                    padded[2 * q + 1] = shares[before + q]
            elif (kernel == 3) & (stride == 1):
                for w in range(width):
                    row[w] = _total(shares, max(0, before + pad - 2) + w, 3)
            else:
                for w in range(width):
                    row[w] = 0
                for j in range(count):
                    for w in range(max(0, columns[0, j]), columns[1, j]):
                        row[w] += shares[before + j]
            top, end = max(0, rows[0, i]), max(0, rows[1, i])
            for h in range(filled, top):
                for w in range(width):
                    image[h, w] = 0
            for h in range(top, min(filled, end)):
                for w in range(width):
                    image[h, w] += row[w]
            for h in range(max(top, filled), end):
                for w in range(width):
                    image[h, w] = row[w]
            filled = max(filled, end)
        for h in range(filled, grad_x.shape[1]):
            for w in range(width):
                image[h, w] = 0
        if gain > 1 and not np.abs(grad_output[block * group + n]).max() < largest / gain:
            _input_gradient_again(grad_output[block * group + n], rows, columns, heights, widths, image)
    finish(result, part)
