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
from fastnn.kernels._jit import block_kernel, helper
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
             work=y.size * kernel[0] * kernel[1])


def max_pool2d_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    if grad_x.size:
        images = grad_x.shape[0] * grad_x.shape[1]
        gradients, grad_x = (a.reshape(images, a.shape[2] * a.shape[3]) for a in (grad_output, grad_x))
        group = 1 + _CELLS // grad_x.shape[1]
        _route(-(-images // group), gradients, indices.reshape(gradients.shape), group, grad_x, work=grad_x.size)


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


@block_kernel(writes="grad_x")
def _route(block: int, grad_output: Array, indices: Array, group: int, grad_x: Array) -> None:
    """Add the gradients of a group of images where their maxima were."""
    for n in range(block * group, min(block * group + group, len(grad_x))):
        for place in range(grad_x.shape[1]):
            grad_x[n, place] = 0
        for t in range(grad_output.shape[1]):
            grad_x[n, indices[n, t]] += grad_output[n, t]


# --- means -------------------------------------------------------------------------------------------------


@lru_cache(64)
def _windows(sizes: Pair, counts: Pair, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool,
             divisor: int | None, dtype: np.dtype) -> tuple[Array, Array, Array, Array]:
    """Where the windows of each row and column begin and end in images of `sizes`, and the factors of their divisor."""
    cells, lengths = [], []
    for size, count, k, s, p in zip(sizes, counts, kernel, stride, padding):
        begin = np.arange(count) * s - p
        end = np.minimum(begin + k, size + p)
        cells.append(np.array([np.maximum(begin, 0), np.minimum(end, size)]))
        lengths.append(end - begin if count_include_pad else np.diff(cells[-1], axis=0)[0])
    if divisor is not None:
        lengths = [np.full(counts[0], divisor), np.ones(counts[1])]
    return cells[0], cells[1], lengths[0].astype(dtype), lengths[1].astype(dtype)


@lru_cache(64)
def _shares(sizes: Pair, counts: Pair, dtype: np.dtype) -> tuple[Array, Array, Array, Array]:
    """As `_windows`, where the windows are shares of the rows and columns."""
    cells = [np.array([np.arange(count) * size // count, -(-np.arange(1, count + 1) * size // count)])
             for size, count in zip(sizes, counts)]
    heights, widths = (np.diff(c, axis=0)[0].astype(dtype) for c in cells)
    return cells[0], cells[1], heights, widths


def _average_windows(x: Array, rows: Array, columns: Array, heights: Array, widths: Array, y: Array) -> None:
    x, y = _images(x), _images(y)
    group, band, blocks = _cut(y, x.shape[1] * x.shape[2] // y.shape[1] + 1)
    _average(blocks, x, rows, columns, heights, widths, group, band, y, work=x.size)


def _spread_windows(grad_output: Array, rows: Array, columns: Array, heights: Array, widths: Array,
                    grad_x: Array) -> None:
    grad_output, grad_x = _images(grad_output), _images(grad_x)
    group = 1 + _CELLS // (grad_x.shape[1] * grad_x.shape[2])
    _spread(-(-len(grad_x) // group), grad_output, rows, columns, heights, widths, group, grad_x, work=grad_x.size)


@block_kernel(writes="y")
def _average(block: int, x: Array, rows: Array, columns: Array, heights: Array, widths: Array, group: int, band: int,
             y: Array) -> None:
    """The means of `band` rows of windows in each of `group` images: sums of columns first, then of these sums."""
    bands = -(-y.shape[1] // band)
    first_image, first = block // bands * group, block % bands * band
    sums = np.empty(x.shape[2], x.dtype)
    for n in range(first_image, min(first_image + group, len(x))):
        for i in range(first, min(first + band, y.shape[1])):
            top = max(0, rows[0, i])
            for w in range(len(sums)):
                sums[w] = x[n, top, w]
            for h in range(top + 1, rows[1, i]):
                for w in range(len(sums)):
                    sums[w] += x[n, h, w]
            for j in range(y.shape[2]):
                left = max(0, columns[0, j])
                total = sums[left]
                for w in range(left + 1, columns[1, j]):
                    total += sums[w]
                y[n, i, j] = total / (heights[i] * widths[j])


@block_kernel(writes="grad_x")
def _spread(block: int, grad_output: Array, rows: Array, columns: Array, heights: Array, widths: Array, group: int,
            grad_x: Array) -> None:
    """The transpose of `_average` on a group of images: gradients spread over columns first, then over rows."""
    spread = np.empty(grad_x.shape[2], grad_x.dtype)
    for n in range(block * group, min(block * group + group, len(grad_x))):
        for h in range(grad_x.shape[1]):
            for w in range(len(spread)):
                grad_x[n, h, w] = 0
        for i in range(grad_output.shape[1]):
            for w in range(len(spread)):
                spread[w] = 0
            for j in range(grad_output.shape[2]):
                share = grad_output[n, i, j] / (heights[i] * widths[j])
                for w in range(max(0, columns[0, j]), columns[1, j]):
                    spread[w] += share
            for h in range(max(0, rows[0, i]), rows[1, i]):
                for w in range(len(spread)):
                    grad_x[n, h, w] += spread[w]
