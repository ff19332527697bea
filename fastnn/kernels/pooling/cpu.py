"""Pooling in long loops over contiguous memory.

Rows of small images are too short for vector instructions, and a stride would scatter their loads. So maxima are
taken of *phases*: the cells of the padded images whose row and column leave the same remainders modulo the strides,
packed side by side. In that order each tap of the kernel is one shift of one phase, the same for all windows of
several images, and a loop over it runs at the speed of the cache.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import block_kernel, helper, inlined_helper
from fastnn.kernels._vectors import STREAMED, row_sum, stream
from fastnn.kernels.pooling.naive import Pair

_CELLS = 4096                                   # about so many cells of the input make a block: they stay in cache
_NO_INDICES = np.empty((0, 0, 0), np.int64)


def max_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, y: Array,
               indices: Array | None) -> None:
    if y.size:
        # A larger stride would find the same windows, in more phases.
        stride_h, stride_w = (min(s, size + 2 * p) for s, size, p in zip(stride, x.shape[2:], padding))
        x, y = _images(x), _images(y)
        indices = _NO_INDICES if indices is None else _images(indices)
        group, band, blocks = _cut(y, stride_h * x.shape[2])
        _max(blocks, x, *kernel, stride_h, stride_w, *padding, *dilation, group, band, y, indices,
             work=y.size * kernel[0] * kernel[1] // 2)


def max_pool2d_backward(grad_output: Array, indices: Array, grad_x: Array) -> bool:
    if grad_x.size == 0:
        return indices.size == 0
    images = grad_x.shape[0] * grad_x.shape[1]
    gradients, grad_x = (a.reshape(images, a.shape[2] * a.shape[3]) for a in (grad_output, grad_x))
    group = 1 + _CELLS // grad_x.shape[1]
    blocks = -(-images // group)
    inside = np.empty(blocks, np.bool_)
    _route(blocks, gradients, indices.reshape(gradients.shape), group, grad_x, inside, work=grad_x.size // 2)
    return bool(inside.all())


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
        _spread_windows(grad_output, *windows, grad_x)


def adaptive_avg_pool2d(x: Array, y: Array) -> None:
    if y.size:
        _average_windows(x, *_shares(x.shape[2:], y.shape[2:], x.dtype), y)


def adaptive_avg_pool2d_backward(grad_output: Array, grad_x: Array) -> None:
    if grad_x.size:
        _spread_windows(grad_output, *_shares(grad_x.shape[2:], grad_output.shape[2:], grad_x.dtype), grad_x)


def _images(array: Array) -> Array:
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _cut(y: Array, cells: int) -> tuple[int, int, int]:
    """Cut images y whose rows cost `cells` into blocks: images in each, rows of each image in it, and their number."""
    images, rows = y.shape[:2]
    band = min(rows, max(1, _CELLS // cells))
    group = max(1, _CELLS // (rows * cells))
    return group, band, -(-images // group) * -(-rows // band)


# --- maxima ------------------------------------------------------------------------------------------------


@block_kernel(writes="y indices")
def _max(block: int, x: Array, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
         dilation_h: int, dilation_w: int, group: int, band: int, y: Array, indices: Array) -> None:
    """The maxima of `band` rows of windows in each of `group` images."""
    width = x.shape[2]
    bands = -(-y.shape[1] // band)
    first_image, first = block // bands * group, block % bands * band
    images, rows = min(group, len(x) - first_image), min(band, y.shape[1] - first)
    slots = rows + (kernel_h - 1) * dilation_h // stride_h
    columns = y.shape[2] + (kernel_w - 1) * dilation_w // stride_w
    phases = _phases(x, first_image, images, first * stride_h - pad_h, -pad_w, stride_h, stride_w, slots, columns)

    best = np.full(phases.shape[2], -np.inf, x.dtype)
    tap = np.zeros(len(best) if indices.size else 0, np.int32)
    offsets = np.empty(kernel_h * kernel_w, np.int64)
    for a in range(kernel_h):
        for b in range(kernel_w):
            h, w, here = a * dilation_h, b * dilation_w, np.int32(a * kernel_w + b)
            offsets[here] = h * width + w
            phase_h, phase_w, shift = h % stride_h, w % stride_w, max(0, h // stride_h * columns + w // stride_w)
            if indices.size:
                for t in range(len(best) - shift):
                    value, old = phases[phase_h, phase_w, shift + t], best[t]
                    larger = (value > old) | ((value != value) & (old == old))
                    best[t] = value if larger else old
                    tap[t] = here if larger else tap[t]
            else:
                for t in range(len(best) - shift):
                    value, old = phases[phase_h, phase_w, shift + t], best[t]
                    best[t] = value if (value > old) | (value != value) else old

    for n in range(images):
        for i in range(rows):
            found = max(0, (n * slots + i) * columns)
            for j in range(y.shape[2]):
                y[first_image + n, first + i, j] = best[found + j]
            if indices.size:
                top = (first + i) * stride_h - pad_h
                for j in range(y.shape[2]):
                    left = j * stride_w - pad_w
                    place = top * width + left + offsets[tap[found + j]]
                    if best[found + j] == -np.inf:              # its tap may lie outside of the image
                        place = (top if top >= 0 else top % dilation_h) * width
                        place += left if left >= 0 else left % dilation_w
                    indices[first_image + n, first + i, j] = place


@helper
def _phases(x: Array, first_image: int, images: int, top: int, left: int, stride_h: int, stride_w: int, slots: int,
            columns: int) -> Array:
    """Pack images by phase: [r, c, n, s, t] is cell (top + s stride_h + r, left + t stride_w + c) of image n.

    What lies outside of the image is -inf. The last three axes are returned as one.
    """
    height, width = x.shape[1:]
    packed = np.full((stride_h, stride_w, images, slots, columns), -np.inf, x.dtype)
    for r in range(stride_h):
        begin, end = max(0, -((top + r) // stride_h)), min(slots, (height - 1 - top - r) // stride_h + 1)
        for c in range(stride_w):
            skipped = max(0, -((left + c) // stride_w))
            count = min(columns, (width - 1 - left - c) // stride_w + 1) - skipped
            first = max(0, left + c + skipped * stride_w)
            for n in range(images):
                for s in range(begin, end):
                    h = max(0, top + r + s * stride_h)
                    if stride_w == 1:                           # constants, for which the compiler makes vector loads
                        for t in range(count):
                            packed[r, c, n, s, skipped + t] = x[first_image + n, h, first + t]
                    elif stride_w == 2:
                        for t in range(count):
                            packed[r, c, n, s, skipped + t] = x[first_image + n, h, first + 2 * t]
                    else:
                        for t in range(count):
                            packed[r, c, n, s, skipped + t] = x[first_image + n, h, first + stride_w * t]
    return packed.reshape(stride_h, stride_w, images * slots * columns)


@block_kernel(writes="grad_x inside")
def _route(block: int, grad_output: Array, indices: Array, group: int, grad_x: Array, inside: Array) -> None:
    """Add the gradients of a group of images where their maxima were, and say whether all places are in the image."""
    result, streams = _draft_images(block, group, grad_x)
    cells, all_inside = np.uint64(grad_x.shape[1]), True
    for n in range(len(result)):
        gradients, places, image = grad_output[block * group + n], indices[block * group + n], result[n]
        for place in range(image.size):
            image[place] = 0
        for t in range(places.size):
            if np.uint64(places[t]) < cells:            # a negative one is huge
                image[max(0, places[t])] += gradients[t]
            else:
                all_inside = False
    inside[block] = all_inside
    if streams:
        stream(result.reshape(result.size), grad_x[block * group:block * group + len(result)].reshape(result.size))


@helper
def _draft_images(block: int, group: int, images: Array) -> tuple[Array, bool]:
    """Where a block's group of images is written first: if there are many small ones, in memory to be streamed."""
    part = images[block * group:min(len(images), block * group + group)]
    streams = images.nbytes >= STREAMED and part.size <= 4 * _CELLS
    return (np.empty(part.shape, part.dtype) if streams else part), streams


# --- means -------------------------------------------------------------------------------------------------

# Where the windows of rows and of columns begin and end, the factors of their divisors, and what columns' windows have
# in common: kernel, stride and padding, or zeros where they have nothing.
Plan = tuple[Array, Array, Array, Array, tuple[int, int, int]]


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
    common = kernel[1], min(stride[1], sizes[1] + 2 * padding[1]), padding[1]
    return cells[0], cells[1], lengths[0].astype(dtype), lengths[1].astype(dtype), common


@lru_cache(64)
def _shares(sizes: Pair, counts: Pair, dtype: np.dtype) -> Plan:
    """As `_windows`, where the windows are shares of the rows and columns."""
    cells = [np.array([np.arange(count) * size // count, -(-np.arange(1, count + 1) * size // count)])
             for size, count in zip(sizes, counts)]
    heights, widths = (np.diff(c, axis=0)[0].astype(dtype) for c in cells)
    width = 0 if sizes[1] % counts[1] else sizes[1] // counts[1]
    return cells[0], cells[1], heights, widths, (width, width, 0)


def _average_windows(x: Array, rows: Array, columns: Array, heights: Array, widths: Array,
                     common: tuple[int, int, int], y: Array) -> None:
    x, y = _images(x), _images(y)
    if y.shape[1] == y.shape[2] == 1 and rows[1, 0] - rows[0, 0] == x.shape[1] and common[0] >= x.shape[2]:
        x = x.reshape(len(x), x.shape[1] * x.shape[2])
        group = 1 + _CELLS // x.shape[1]
        _average_images(-(-len(x) // group), x, float(heights[0]) * float(widths[0]), group, y.reshape(len(y)),
                        work=x.size // 4)
        return
    group, band, blocks = _cut(y, x.shape[1] * x.shape[2] // y.shape[1] + 1)
    _average(blocks, x, rows, columns, heights, widths, *common, group, band, y, work=x.size // 2)


def _spread_windows(grad_output: Array, rows: Array, columns: Array, heights: Array, widths: Array,
                    common: tuple[int, int, int], grad_x: Array) -> None:
    grad_output, grad_x = _images(grad_output), _images(grad_x)
    group = 1 + _CELLS // (grad_x.shape[1] * grad_x.shape[2])
    _spread(-(-len(grad_x) // group), grad_output, rows, columns, heights, widths, *common, group, grad_x,
            work=grad_x.size // 2)


@block_kernel(writes="y")
def _average_images(block: int, x: Array, divisor: float, group: int, y: Array) -> None:
    """The means of whole images."""
    for n in range(block * group, min(len(x), block * group + group)):
        y[n] = row_sum(x[n]) / divisor


@inlined_helper
def _total(cells: Array, first: int, count: int) -> float:
    total = cells[first]
    for a in range(1, count):
        total += cells[first + a]
    return total


@block_kernel(writes="y")
def _average(block: int, x: Array, rows: Array, columns: Array, heights: Array, widths: Array, kernel: int, stride: int,
             pad: int, group: int, band: int, y: Array) -> None:
    """The means of `band` rows of windows in each of `group` images: sums of columns first, then of these sums."""
    bands, width, count = -(-y.shape[1] // band), x.shape[2], y.shape[2]
    first_image, first = block // bands * group, block % bands * band
    padded = np.zeros(max(pad + width, (count - 1) * stride + kernel), x.dtype)
    sums, totals = padded[pad:pad + width], np.empty(count, x.dtype)
    for n in range(first_image, min(first_image + group, len(x))):
        for i in range(first, min(first + band, y.shape[1])):
            top, end = max(0, rows[0, i]), rows[1, i]
            if end - top == 2:
                for w in range(width):
                    sums[w] = x[n, top, w] + x[n, top + 1, w]
            elif end - top == 3:
                for w in range(width):
                    sums[w] = x[n, top, w] + x[n, top + 1, w] + x[n, top + 2, w]
            else:
                for w in range(width):
                    sums[w] = x[n, top, w]
                for h in range(top + 1, end):
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


@block_kernel(writes="grad_x")
def _spread(block: int, grad_output: Array, rows: Array, columns: Array, heights: Array, widths: Array, kernel: int,
            stride: int, pad: int, group: int, grad_x: Array) -> None:
    """The transpose of `_average` on a group of images: gradients spread over columns first, then over rows."""
    result, streams = _draft_images(block, group, grad_x)
    width, count = grad_x.shape[2], grad_output.shape[2]
    before = kernel                                     # zeros on both sides of a row of windows
    shares = np.zeros(before + max(count, width + pad) + 1, grad_x.dtype)
    padded = np.empty(pad + width + 1, grad_x.dtype)
    spread = padded[pad:pad + width]
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
                    spread[w] = _total(shares, max(0, before + pad - 2) + w, 3)
            else:
                for w in range(width):
                    spread[w] = 0
                for j in range(count):
                    for w in range(max(0, columns[0, j]), columns[1, j]):
                        spread[w] += shares[before + j]
            top, end = max(0, rows[0, i]), max(0, rows[1, i])
            for h in range(filled, top):
                for w in range(width):
                    image[h, w] = 0
            for h in range(top, min(filled, end)):
                for w in range(width):
                    image[h, w] += spread[w]
            for h in range(max(top, filled), end):
                for w in range(width):
                    image[h, w] = spread[w]
            filled = max(filled, end)
        for h in range(filled, grad_x.shape[1]):
            for w in range(width):
                image[h, w] = 0
    if streams:
        stream(result.reshape(result.size), grad_x[block * group:block * group + len(result)].reshape(result.size))
