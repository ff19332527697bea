"""Pooling on a GPU: a thread gives one result after another, neighbours in a row to neighbouring threads.

The windows of small kernels are compiled in, so that all cells of one are read at once. Instead of cells outside of the
image others are read, as a branch would part the loads. Sums of large windows are shared by groups of threads, whose
size depends on the window alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn._device import SIMULATED, cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for, either, group_sum, real_of
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.tuning import POOL_AT_ONCE, POOL_BLOCKS, POOL_NARROW, POOL_UNROLLED, POOL_WINDOWS
from fastnn.kernels.pooling.naive import SCALE, Pair

_SHARED = 4800 if SIMULATED else 48000          # bytes for cells in a block's shared memory
_FREE = np.int32(2**31 - 1)


@cuda.jit(device=True)
def _split(i: int, rows: int, columns: int) -> Any:
    """Return the plane, row and column of element i."""
    row = i // columns
    return row // rows, row % rows, i % columns


@cuda.jit(device=True)
def _carried(plane: int, row: int, column: int, rows: int, columns: int) -> Any:
    """Return a place whose row and column may be up to twice too large, with what is too much carried."""
    if column >= columns:
        row, column = row + 1, column - columns
    if row >= rows:
        plane, row = plane + 1, row - rows
    return plane, row, column


@cuda.jit(device=True)
def _window(i: int, size: int, count: int, kernel: int, stride: int, padding: int, with_padding: bool) -> Any:
    """Return where window i begins and ends inside an image of `size`, and the number that counts in the divisor."""
    begin = i * stride - padding
    end = min(begin + kernel, size + padding)
    first, last = max(begin, 0), min(end, size)
    return first, last, end - begin if with_padding else last - first


@cuda.jit(device=True)
def _share(i: int, size: int, count: int, kernel: int, stride: int, padding: int, with_padding: bool) -> Any:
    """Return the same of part i of `size` cells cut into `count` overlapping parts of whole cells."""
    first, last = i * size // count, -(-(i + 1) * size // count)
    return first, last, last - first


# --- maxima ----------------------------------------------------------------------------------------------------------


def max_pool2d(x: Array, y: Array, indices: Array | None = None, *, kernel: Pair, stride: Pair, padding: Pair,
               dilation: Pair) -> None:
    window = (*kernel, *stride, *padding, *dilation)
    fixed = window if kernel[0] * kernel[1] <= POOL_UNROLLED else None
    inside = _all_inside(x.shape[2:], y.shape[2:], kernel, stride, padding, dilation)
    launch(_maxima(fixed, inside, indices is not None), blocks_for(y.size), THREADS, x.reshape(-1), *x.shape[2:],
           *y.shape[2:], *window, y.reshape(-1), either(indices, y).reshape(-1))


def _all_inside(sizes: Pair, counts: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Whether no window reaches over an edge."""
    return all(p == 0 and (count - 1) * s + (k - 1) * d < size
               for size, count, k, s, p, d in zip(sizes, counts, kernel, stride, padding, dilation))


@cuda.jit(device=True)
def _reach(begin: int, kernel: int, step: int, size: int) -> Any:
    """Return a window's first and last place inside an image of `size`: others are read as the nearer one of them."""
    first = begin if begin >= 0 else begin - begin // step * step
    return first, min(begin + (kernel - 1) * step, size - 1 - (size - 1 - begin) % step)


@functools.cache
def _maxima(fixed: tuple[int, ...] | None, inside: bool, indexed: bool) -> Any:
    known, window = fixed is not None, fixed or (0,) * 8

    @cuda.jit
    def maxima(x: Array, height: int, width: int, rows: int, columns: int, tall: int, wide: int, row_stride: int,
               column_stride: int, above: int, before: int, row_step: int, column_step: int, y: Array,
               indices: Array) -> None:
        if known:
            tall, wide, row_stride, column_stride, above, before, row_step, column_step = window
        plane, row, column = _split(cuda.grid(1), rows, columns)
        more_planes, more_rows, more_columns = _split(cuda.gridsize(1), rows, columns)
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            top, left, image = row * row_stride - above, column * column_stride - before, plane * height * width
            first_h, last_h = _reach(top, tall, row_step, height)
            first_w, last_w = _reach(left, wide, column_step, width)
            place = (top if inside else first_h) * width + (left if inside else first_w)
            best = x[image + place]
            down, across = tall, wide
            if not known:                       # of a large kernel, those taps alone that are in the image
                top, left = first_h, first_w
                down, across = (last_h - top) // row_step + 1, (last_w - left) // column_step + 1
            for a in range(down):
                h = top + a * row_step if inside else min(max(top + a * row_step, first_h), last_h)
                for b in range(across):
                    w = left + b * column_step if inside else min(max(left + b * column_step, first_w), last_w)
                    value = x[image + h * width + w]
                    if (value > best) | (math.isnan(value) & (best == best)):
                        best, place = value, h * width + w
            y[i] = best
            if indexed:
                indices[i] = place
            plane, row, column = _carried(plane + more_planes, row + more_rows, column + more_columns, rows, columns)

    return maxima


def adaptive_max_pool2d(x: Array, y: Array, indices: Array | None = None) -> None:
    if y.size == 0:
        return
    kernel = x.shape[2] // y.shape[2], x.shape[3] // y.shape[3]
    if _divides(x.shape[2:], y.shape[2:]):
        max_pool2d(x, y, indices, kernel=kernel, stride=kernel, padding=(0, 0), dilation=(1, 1))
    else:
        launch(_maxima_of_shares, blocks_for(y.size), THREADS, x.reshape(-1), *x.shape[2:], *y.shape[2:],
               y.reshape(-1), indices is not None, either(indices, y).reshape(-1))


@cuda.jit
def _maxima_of_shares(x: Array, height: int, width: int, rows: int, columns: int, y: Array, indexed: bool,
                      indices: Array) -> None:
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        plane, row, column = _split(i, rows, columns)
        top, bottom, _ = _share(row, height, rows, 0, 0, 0, False)
        left, right, _ = _share(column, width, columns, 0, 0, 0, False)
        image = plane * height * width
        place = top * width + left
        best = x[image + place]
        for h in range(top, bottom):
            for w in range(left, right):
                value = x[image + h * width + w]
                if (value > best) | (math.isnan(value) & (not math.isnan(best))):
                    best, place = value, h * width + w
        y[i] = best
        if indexed:
            indices[i] = place


def max_pool2d_backward(grad_output: Array, indices: Array, grad_x: Array) -> bool:
    """An index out of range is passed over: to look for one would wait for the GPU."""
    if grad_x.size:
        capacity = _SHARED // (grad_x.itemsize + _FREE.itemsize)
        planes, cells = grad_x.shape[0] * grad_x.shape[1], grad_x.shape[2] * grad_x.shape[3]
        group = max(1, min(capacity // cells, planes // POOL_BLOCKS))
        bands = -(-cells // capacity)
        launch(_scatter(real_of(grad_x), capacity), -(-planes // group) * bands, THREADS, grad_output.reshape(-1),
               indices.reshape(-1), planes, grad_output.shape[2] * grad_output.shape[3], cells, group, bands,
               grad_x.reshape(-1))
    return True


@functools.cache
def _scatter(real: Any, capacity: int) -> Any:
    @cuda.jit
    def scatter(grad_output: Array, indices: Array, planes: int, windows: int, cells: int, group: int, bands: int,
                grad_x: Array) -> None:
        """Add up gradients in shared memory: those of a group of planes, or of one of the bands of a large plane.

        Each cell takes its windows in their order, one in each turn: the least of those that wait for it, which they
        find by an atomic minimum. So sums come in one order, without atomic additions.
        """
        totals = cuda.shared.array(capacity, real)
        owners = cuda.shared.array(capacity, np.int32)
        last_turn = cuda.shared.array(1, np.int32)
        keys = cuda.local.array(POOL_WINDOWS, np.int32)
        grads = cuda.local.array(POOL_WINDOWS, real)
        thread = cuda.threadIdx.x
        plane = cuda.blockIdx.x // bands * group
        count = min(group, planes - plane)
        band = -(-cells // bands) if bands > 1 else count * cells
        low = cuda.blockIdx.x % bands * band
        size = min(band, count * cells - low)
        for k in range(thread, size, THREADS):
            totals[k], owners[k] = real(0), _FREE
        if thread == 0:
            last_turn[0] = 0
        cuda.syncthreads()
        turn = 0
        for first in range(0, count * windows, POOL_WINDOWS * THREADS):
            for j in range(POOL_WINDOWS):
                k = first + j * THREADS + thread
                known = k < count * windows
                place = plane * windows + (k if known else 0)
                index, grads[j] = indices[place], grad_output[place]
                key = index - low + (k // windows * cells if count > 1 else 0)
                keys[j] = key if known and 0 <= index < cells and 0 <= key < size else -1
            waiting = True
            while waiting:
                turn += 1
                for j in range(POOL_WINDOWS):
                    if keys[j] >= 0:
                        cuda.atomic.min(owners, keys[j], np.int32(j * THREADS + thread))
                cuda.syncthreads()
                for j in range(POOL_WINDOWS):
                    key = keys[j]
                    if key >= 0:
                        if owners[key] == j * THREADS + thread:
                            totals[key] += grads[j]
                            owners[key] = _FREE             # no window's number: all others go on waiting
                            keys[j] = -1
                        else:
                            last_turn[0] = turn + 1
                cuda.syncthreads()
                waiting = last_turn[0] > turn
        for k in range(thread, size, THREADS):
            grad_x[plane * cells + low + k] = totals[k]

    return scatter


# --- means -----------------------------------------------------------------------------------------------------------


def avg_pool2d(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool,
               divisor: int | None) -> None:
    area, window = kernel[0] * kernel[1], (*kernel, *stride, *padding)
    if area > POOL_NARROW:
        _sum_in_groups(x, _group(area), False, window, count_include_pad, divisor, y)
        return
    inside = _all_inside(x.shape[2:], y.shape[2:], kernel, stride, padding, (1, 1))
    launch(_means(real_of(x), window, inside, count_include_pad), blocks_for(y.size), THREADS, x.reshape(-1),
           *x.shape[2:], *y.shape[2:], divisor or 0, y.reshape(-1))


def adaptive_avg_pool2d(x: Array, y: Array) -> None:
    if y.size == 0:
        return
    kernel = x.shape[2] // y.shape[2], x.shape[3] // y.shape[3]
    if _divides(x.shape[2:], y.shape[2:]):
        avg_pool2d(x, y, kernel, kernel, (0, 0), True, None)
    else:
        _sum_in_groups(x, _group(kernel[0] * kernel[1]), True, (0,) * 6, True, None, y)


def avg_pool2d_backward(grad_output: Array, grad_x: Array, kernel: Pair, stride: Pair, padding: Pair,
                        count_include_pad: bool, divisor: int | None) -> None:
    window = (*kernel, *stride, *padding)
    reach = [min(-(-k // s), count) for k, s, count in zip(kernel, stride, grad_output.shape[2:])]
    fixed = (*window, *reach) if reach[0] * reach[1] <= POOL_UNROLLED else None
    launch(_input_gradient(real_of(grad_x), fixed, count_include_pad), blocks_for(grad_x.size), THREADS,
           grad_output.reshape(-1), *grad_output.shape[2:], *grad_x.shape[2:], *window, *reach, divisor or 0,
           grad_x.reshape(-1))


def adaptive_avg_pool2d_backward(grad_output: Array, grad_x: Array) -> None:
    if grad_output.size == 0:
        grad_x[...] = 0
    elif _divides(grad_x.shape[2:], grad_output.shape[2:]):
        kernel = grad_x.shape[2] // grad_output.shape[2], grad_x.shape[3] // grad_output.shape[3]
        avg_pool2d_backward(grad_output, grad_x, kernel, kernel, (0, 0), True, None)
    else:
        launch(_input_gradient_of_shares(real_of(grad_x)), blocks_for(grad_x.size), THREADS, grad_output.reshape(-1),
               *grad_output.shape[2:], *grad_x.shape[2:], grad_x.reshape(-1))


def _divides(sizes: Pair, counts: Pair) -> bool:
    """Whether shares are windows of one size, side by side."""
    return sizes[0] % counts[0] == 0 and sizes[1] % counts[1] == 0


def _group(area: int) -> int:
    """Return how many threads, a power of two, share the sum of a window."""
    return min(THREADS, 1 << (area // (2 * POOL_AT_ONCE)).bit_length())


@functools.cache
def _means(real: Any, window: tuple[int, ...], inside: bool, with_padding: bool) -> Any:
    tall, wide, row_stride, column_stride, above, before = window

    @cuda.jit
    def means(x: Array, height: int, width: int, rows: int, columns: int, divisor: int, y: Array) -> None:
        plane, row, column = _split(cuda.grid(1), rows, columns)
        more_planes, more_rows, more_columns = _split(cuda.gridsize(1), rows, columns)
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            top, left, image = row * row_stride - above, column * column_stride - before, plane * height * width
            total, scale = real(0), real(1)
            for _ in range(2):
                total = real(0)
                for a in range(tall):
                    for b in range(wide):
                        h, w = top + a, left + b
                        counts = inside | ((h >= 0) & (h < height) & (w >= 0) & (w < width))
                        value = x[image + (h * width + w if counts else 0)]
                        total += value * scale if counts else real(0)
                if total - total == real(0):
                    break
                scale = real(SCALE)             # once more, of smaller cells
            down = _window(row, height, rows, tall, row_stride, above, with_padding)[2]
            across = _window(column, width, columns, wide, column_stride, before, with_padding)[2]
            y[i] = total / real(divisor if divisor else down * across) / scale
            plane, row, column = _carried(plane + more_planes, row + more_rows, column + more_columns, rows, columns)

    return means


def _sum_in_groups(x: Array, group: int, shares: bool, window: tuple[int, ...], count_include_pad: bool,
                   divisor: int | None, y: Array) -> None:
    launch(_group_means(real_of(x), group, shares), -(-y.size // (THREADS // group)), THREADS, x.reshape(-1),
           *x.shape[2:], *y.shape[2:], *window, count_include_pad, divisor or 0, y.reshape(-1))


@functools.cache
def _group_means(real: Any, group: int, shares: bool) -> Any:
    bounds = _share if shares else _window

    @cuda.jit
    def group_means(x: Array, height: int, width: int, rows: int, columns: int, tall: int, wide: int, row_stride: int,
                    column_stride: int, above: int, before: int, with_padding: bool, divisor: int, y: Array) -> None:
        parts = cuda.shared.array(THREADS, real)
        thread = cuda.threadIdx.x
        member, i = thread % group, cuda.blockIdx.x * (THREADS // group) + thread // group
        plane, row, column = _split(min(i, y.size - 1), rows, columns)
        top, bottom, down = bounds(row, height, rows, tall, row_stride, above, with_padding)
        left, right, across = bounds(column, width, columns, wide, column_stride, before, with_padding)
        breadth = right - left
        cells, corner = (bottom - top) * breadth, (plane * height + top) * width + left
        step, more, skipped = group // breadth * width, group % breadth, width - breadth
        within = member % breadth
        place = corner + member // breadth * width + within
        total = real(0)
        for first in range(member, cells, POOL_AT_ONCE * group):
            for j in range(POOL_AT_ONCE):
                counts = first + j * group < cells
                value = x[place if counts else corner]
                total += value if counts else real(0)
                place, within = place + step + more, within + more
                if within >= breadth:
                    place, within = place + skipped, within - breadth
        parts[thread] = total
        total = group_sum(parts, thread, group)
        if member == 0 and i < y.size:
            scale = real(1)
            if total - total != real(0):        # once more, of smaller cells
                total, scale = real(0), real(SCALE)
                for h in range(top, bottom):
                    for w in range(left, right):
                        total += x[(plane * height + h) * width + w] * scale
            y[i] = total / real(divisor if divisor else down * across) / scale

    return group_means


@functools.cache
def _input_gradient(real: Any, fixed: tuple[int, ...] | None, with_padding: bool) -> Any:
    known, window = fixed is not None, fixed or (0,) * 8

    @cuda.jit
    def input_gradient(grad_output: Array, rows: int, columns: int, height: int, width: int, tall: int, wide: int,
                       row_stride: int, column_stride: int, above: int, before: int, row_reach: int, column_reach: int,
                       divisor: int, grad_x: Array) -> None:
        """Sum over the windows that hold a cell: at most `row_reach` by `column_reach`, the last of which is known."""
        if known:
            tall, wide, row_stride, column_stride, above, before, row_reach, column_reach = window
        plane, h, w = _split(cuda.grid(1), height, width)
        more_planes, more_rows, more_columns = _split(cuda.gridsize(1), height, width)
        for cell in range(cuda.grid(1), grad_x.size, cuda.gridsize(1)):
            last_i, last_j = min((h + above) // row_stride, rows - 1), min((w + before) // column_stride, columns - 1)
            total, scale = real(0), real(1)
            for _ in range(2):
                total = real(0)
                for a in range(row_reach):
                    i = last_i - a
                    down = _window(i, height, rows, tall, row_stride, above, with_padding)[2]
                    for b in range(column_reach):
                        j = last_j - b
                        across = _window(j, width, columns, wide, column_stride, before, with_padding)[2]
                        counts = ((i >= 0) & (h < i * row_stride - above + tall)
                                  & (j >= 0) & (w < j * column_stride - before + wide))
                        grad = grad_output[(plane * rows + i) * columns + j if counts else 0]
                        number = divisor if divisor else down * across if counts else 1
                        total += (grad * scale if counts else real(0)) / real(number)
                if total - total == real(0):
                    break
                scale = real(SCALE)             # once more, of smaller gradients
            grad_x[cell] = total / scale
            plane, h, w = _carried(plane + more_planes, h + more_rows, w + more_columns, height, width)

    return input_gradient


@functools.cache
def _input_gradient_of_shares(real: Any) -> Any:
    @cuda.jit
    def input_gradient_of_shares(grad_output: Array, rows: int, columns: int, height: int, width: int,
                                 grad_x: Array) -> None:
        for cell in range(cuda.grid(1), grad_x.size, cuda.gridsize(1)):
            plane, h, w = _split(cell, height, width)
            total, scale = real(0), real(1)
            for _ in range(2):
                total = real(0)
                for i in range(h * rows // height, ((h + 1) * rows - 1) // height + 1):
                    down = _share(i, height, rows, 0, 0, 0, False)[2]
                    for j in range(w * columns // width, ((w + 1) * columns - 1) // width + 1):
                        across = _share(j, width, columns, 0, 0, 0, False)[2]
                        total += grad_output[(plane * rows + i) * columns + j] * scale / real(down * across)
                if total - total == real(0):
                    break
                scale = real(SCALE)             # once more, of smaller gradients
            grad_x[cell] = total / scale

    return input_gradient_of_shares
