"""Pooling: means and their gradients, in long loops over contiguous memory. Maxima are in `maxima`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.tuning import POOL_CELLS
from fastnn.kernels._cpu.vectors import draft, exceeds_caches, finish, is_finite, row_sum
from fastnn.kernels.pooling.maxima import max_pool2d as max_pool2d
from fastnn.kernels.pooling.maxima import max_pool2d_backward as max_pool2d_backward
from fastnn.kernels.pooling.naive import SCALE, Pair

_UNROLLED = 3                                   # cells across the kernels that have a loop of their own


def avg_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool, divisor: int | None,
               y: Array) -> None:
    if y.size:
        windows = _windows(x.shape[2:], y.shape[2:], kernel, stride, padding, count_include_pad, divisor, x.dtype)
        _average_windows(x, *windows, y)


def avg_pool2d_backward(grad_output: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool,
                        divisor: int | None, grad_x: Array) -> None:
    if grad_x.size:
        windows = _windows(grad_x.shape[2:], grad_output.shape[2:], kernel, stride, padding, count_include_pad, divisor,
                           grad_x.dtype)
        _input_gradient(grad_output, *windows, grad_x)


def adaptive_avg_pool2d(x: Array, y: Array) -> None:
    if y.size:
        _average_windows(x, *_shares(x.shape[2:], y.shape[2:], x.dtype), y)


def adaptive_avg_pool2d_backward(grad_output: Array, grad_x: Array) -> None:
    if grad_output.size == 0:
        grad_x[...] = 0
    else:
        _input_gradient(grad_output, *_shares(grad_x.shape[2:], grad_output.shape[2:], grad_x.dtype), grad_x)


def _images(array: Array) -> Array:
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _cut(y: Array, cells: int) -> tuple[int, int, int]:
    """Cut images y whose rows cost `cells` into blocks: images in each, rows of each image in it, and their number."""
    images, rows = y.shape[:2]
    band = min(rows, max(1, POOL_CELLS // cells))
    group = max(1, POOL_CELLS // (rows * cells))
    return group, band, -(-images // group) * -(-rows // band)


# --- means -------------------------------------------------------------------------------------------------

# Where the windows of rows and of columns begin and end, the factors of their divisors, what columns' windows have in
# common (kernel, stride and padding of a small kernel, or zeros), how much larger than the largest gradient of a result
# a cell's gradient can be, and whether there is one window, of all cells.
Plan = tuple[Array, Array, Array, Array, tuple[int, int, int], float, bool]


@lru_cache(64)
def _windows(sizes: Pair, counts: Pair, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool,
             divisor: int | None, dtype: np.dtype) -> Plan:
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
    heights, widths = (length.astype(dtype) for length in lengths)
    return cells[0], cells[1], heights, widths, common, _gain(cells, lengths), _is_whole(cells, sizes)


@lru_cache(64)
def _shares(sizes: Pair, counts: Pair, dtype: np.dtype) -> Plan:
    """As `_windows`, where the windows are shares of the rows and columns."""
    cells = [np.array([np.arange(count) * size // count, -(-np.arange(1, count + 1) * size // count)])
             for size, count in zip(sizes, counts)]
    lengths = [np.diff(c, axis=0)[0] for c in cells]
    width = sizes[1] // counts[1]
    common = (width, width, 0) if width <= _UNROLLED and sizes[1] == width * counts[1] else (0, 0, 0)
    heights, widths = (length.astype(dtype) for length in lengths)
    return cells[0], cells[1], heights, widths, common, _gain(cells, lengths), _is_whole(cells, sizes)


def _gain(cells: list[Array], lengths: list[Array]) -> float:
    """How many windows a cell is in at most, over the smallest divisor."""
    gain = 1.0
    for (begin, end), length in zip(cells, lengths):        # of the windows up to one, those that end after it begins
        gain *= np.max(np.arange(1, begin.size + 1) - np.searchsorted(end, begin, "right")) / np.min(length)
    return float(gain)


def _is_whole(cells: list[Array], sizes: Pair) -> bool:
    """Whether there is one window, of all cells."""
    return all(c.tolist() == [[0], [size]] for c, size in zip(cells, sizes))


def _average_windows(x: Array, rows: Array, columns: Array, heights: Array, widths: Array,
                     common: tuple[int, int, int], gain: float, whole: bool, y: Array) -> None:
    x, y = _images(x), _images(y)
    if whole:
        x = x.reshape(len(x), x.shape[1] * x.shape[2])
        group = 1 + POOL_CELLS // x.shape[1]
        _average_images(-(-len(x) // group), x, float(heights[0]) * float(widths[0]), group, y.reshape(len(y)),
                        work=x.size // 4)
        return
    group, band, blocks = _cut(y, x.shape[1] * x.shape[2] // y.shape[1] + 1)
    _average(blocks, x, rows, columns, heights, widths, *common, group, band, y, work=x.size // 2)


def _input_gradient(grad_output: Array, rows: Array, columns: Array, heights: Array, widths: Array,
                    common: tuple[int, int, int], gain: float, whole: bool, grad_x: Array) -> None:
    grad_output, grad_x = _images(grad_output), _images(grad_x)
    group = 1 + POOL_CELLS // (grad_x.shape[1] * grad_x.shape[2])
    _input_gradient_of_images(-(-len(grad_x) // group), grad_output, rows, columns, heights, widths, *common, gain,
                              group, exceeds_caches(grad_x), grad_x, work=grad_x.size // 2)


@block_kernel(writes="y", typed_by="x")
def _average_images(block: int, x: Array, divisor: float, group: int, y: Array) -> None:
    """The means of whole images."""
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
def _average(block: int, x: Array, rows: Array, columns: Array, heights: Array, widths: Array, kernel: int, stride: int,
             pad: int, group: int, band: int, y: Array) -> None:
    """The means of `band` rows of windows in each of `group` images: sums of columns first, then of these sums."""
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
def _input_gradient_of_images(block: int, grad_output: Array, rows: Array, columns: Array, heights: Array,
                              widths: Array, kernel: int, stride: int, pad: int, gain: float, group: int,
                              streamed: bool, grad_x: Array) -> None:
    """The transpose of `_average` on a group of images: gradients go over columns first, then over rows."""
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
