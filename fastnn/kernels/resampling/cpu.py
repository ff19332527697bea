"""Resampling by rows: those of images that results need are stretched once, and results are made of whole rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import inlined_helper
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.tuning import DRAFTED
from fastnn.kernels._cpu.vectors import draft, exceeds_caches, finish, use_widest_vectors
from fastnn.kernels._outputs import Result, shaped
from fastnn.kernels.resampling.naive import Steps

_Run = Callable[[Array, Array], None]
_Places = tuple[Array, Array, Array, Array]     # what `_pixels` returns


def plan_nearest(x: Array, y: Result, steps: Steps) -> _Run:
    """Return a function (x, y)."""
    rows, columns = (_pixel(*axis) for axis in zip(y.shape[2:], steps, x.shape[2:]))
    return _plan_rows(_nearest, y, y.shape[3], rows, columns, _doubles(columns, x.shape[3]))


def plan_bilinear(x: Array, y: Result, steps: Steps, align_corners: bool) -> _Run:
    """Return a function (x, y)."""
    rows, columns = (_pixels(*axis, align_corners, x.dtype) for axis in zip(y.shape[2:], steps, x.shape[2:]))
    return _plan_rows(_bilinear, y, y.shape[3], *rows, *columns)


def plan_nearest_backward(grad_output: Array, grad_x: Result, steps: Steps) -> _Run:
    """Return a function (grad_output, grad_x)."""
    axes = [(pixel, pixel, np.ones(len(pixel), grad_x.dtype), np.zeros(len(pixel), grad_x.dtype)) for pixel in (
        _pixel(*axis) for axis in zip(grad_output.shape[2:], steps, grad_x.shape[2:]))]
    return _plan_gradient(grad_output, grad_x, axes, _doubles(axes[1][0], grad_x.shape[3]))


def plan_bilinear_backward(grad_output: Array, grad_x: Result, steps: Steps, align_corners: bool) -> _Run:
    """Return a function (grad_output, grad_x)."""
    axes = [_pixels(*axis, align_corners, grad_x.dtype) for axis in zip(grad_output.shape[2:], steps, grad_x.shape[2:])]
    return _plan_gradient(grad_output, grad_x, axes, False)


def _plan_gradient(grad_output: Array, grad_x: Result, axes: Sequence[_Places], doubled: bool) -> _Run:
    rows, columns = (_shares(axis, size) for axis, size in zip(axes, grad_x.shape[2:]))
    width = max(grad_x.shape[3], grad_output.shape[3])
    return _plan_rows(_input_gradient, grad_x, width, *rows, *columns, doubled)


def _plan_rows(kernel: BlockKernel, result: Result, width: int, *tables: object) -> _Run:
    """Return a function whose blocks make as many rows, of all images, as a draft has room for."""
    rows, count = result.shape[0] * result.shape[1] * result.shape[2], max(1, DRAFTED // width)
    return functools.partial(kernel.launch(-(-rows // count), work=rows * width // 2), *tables, count,
                             exceeds_caches(shaped(*result[:2])))


# --- where rows of results lie, and columns likewise -------------------------------------------------------


def _pixel(count: int, step: float, size: int) -> Array:
    """Return `naive.pixel` of each of `count` rows."""
    return np.minimum((np.arange(count) * step).astype(np.float32).astype(np.int64), size - 1)


def _pixels(count: int, step: float, size: int, align_corners: bool, dtype: np.dtype) -> _Places:
    """Return `naive.pixels` of each of `count` rows: the first and the second pixel, and the shares of both."""
    i = np.arange(count)
    place = i * step if align_corners else np.maximum(0, (i + 0.5) * step - 0.5)
    first = np.minimum(place.astype(np.int64), size - 1)
    share = place - first
    return first, np.minimum(first + 1, size - 1), (1 - share).astype(dtype), share.astype(dtype)


def _doubles(pixel: Array, size: int) -> bool:
    """Whether each pixel comes twice."""
    return np.array_equal(pixel, np.arange(2 * size) // 2)


def _shares(places: _Places, size: int) -> tuple[Array, Array, Array]:
    """Return the shares that each of `size` pixels has in rows of a result.

    Those of pixel h are shares[ends[h]:ends[h + 1]], in as many rows from begins[h] on.
    """
    (first, second, near, far), h = places, np.arange(size)
    begins = np.searchsorted(second, h)
    counts = np.searchsorted(first, h, "right") - begins
    ends = np.concatenate([[0], counts.cumsum()])
    i, h = np.arange(ends[-1]) + np.repeat(begins - ends[:-1], counts), np.repeat(h, counts)
    return begins, ends, np.where(first[i] == h, near[i], 0) + np.where(second[i] == h, far[i], 0)


# --- kernels -----------------------------------------------------------------------------------------------


@inlined_helper
def _rows_of(images: Array) -> Array:
    return images.reshape(images.shape[0] * images.shape[1] * images.shape[2], images.shape[3])


@block_kernel(writes="y", typed_by="x")
def _nearest(block: int, rows: Array, columns: Array, doubled: bool, count: int, streamed: bool, x: Array,
             y: Array) -> None:
    height, out_height, x, y = x.shape[2], y.shape[2], _rows_of(x), _rows_of(y)
    part = y[block * count:min(len(y), block * count + count)]
    result = draft(part, streamed)
    made = -1                                   # the row of x that the last row was made of
    for k in range(len(result)):
        n, i = divmod(block * count + k, out_height)
        needed, target = n * height + rows[i], result[k]
        source = x[needed]
        if needed == made:
            last = result[max(0, k - 1)]
            for j in range(target.size):
                target[j] = last[j]
        elif doubled:
            for w in range(source.size):        # a constant stride, for which the compiler makes vector stores
                target[2 * w] = target[2 * w + 1] = source[w]
        else:
            for j in range(target.size):
                target[j] = source[max(0, columns[j])]
        made = needed
    finish(result, part)


@inlined_helper
def _stretch(row: Array, left: Array, right: Array, near: Array, far: Array, stretched: Array) -> None:
    for j in range(stretched.size):
        stretched[j] = near[j] * row[max(0, left[j])] + far[j] * row[max(0, right[j])]


@block_kernel(writes="y", typed_by="x")
def _bilinear(block: int, top: Array, bottom: Array, above: Array, below: Array, left: Array, right: Array, near: Array,
              far: Array, count: int, streamed: bool, x: Array, y: Array) -> None:
    use_widest_vectors()
    height, out_height, x, y = x.shape[2], y.shape[2], _rows_of(x), _rows_of(y)
    part = y[block * count:min(len(y), block * count + count)]
    result = draft(part, streamed)
    upper, lower = np.empty(y.shape[1], y.dtype), np.empty(y.shape[1], y.dtype)
    in_upper = in_lower = -1                    # the rows of x that are stretched there
    for k in range(len(result)):
        n, i = divmod(block * count + k, out_height)
        first, second, target = n * height + top[i], n * height + bottom[i], result[k]
        if in_upper != first:
            if in_lower == first:
                upper, lower, in_lower = lower, upper, in_upper
            else:
                _stretch(x[first], left, right, near, far, upper)
            in_upper = first
        if in_lower != second:
            _stretch(x[second], left, right, near, far, lower)
            in_lower = second
        a, b = above[i], below[i]
        for j in range(target.size):
            target[j] = a * upper[j] + b * lower[j]
    finish(result, part)


@block_kernel(writes="grad_x", typed_by="grad_x")
def _input_gradient(block: int, row_begins: Array, row_ends: Array, row_shares: Array, begins: Array, ends: Array,
                    shares: Array, doubled: bool, count: int, streamed: bool, grad_output: Array,
                    grad_x: Array) -> None:
    """The transpose: rows of gradients are added up first, then their columns."""
    use_widest_vectors()
    height, out_height, grad_output, grad_x = grad_x.shape[2], grad_output.shape[2], _rows_of(grad_output), _rows_of(
        grad_x)
    part = grad_x[block * count:min(len(grad_x), block * count + count)]
    result, sums = draft(part, streamed), np.empty(grad_output.shape[1], grad_x.dtype)
    for k in range(len(result)):
        n, h = divmod(block * count + k, height)
        target, i = result[k], n * out_height + row_begins[h]
        sums[:] = 0
        for s in range(row_ends[h], row_ends[h + 1]):
            grads, share = grad_output[i], row_shares[s]
            for j in range(sums.size):
                sums[j] += share * grads[j]
            i += 1
        if doubled:
            for w in range(target.size):
                target[w] = sums[2 * w] + sums[2 * w + 1]
        else:
            for w in range(target.size):
                total, j = grad_x.dtype.type(0), begins[w]
                for s in range(ends[w], ends[w + 1]):
                    total += shares[s] * sums[j]
                    j += 1
                target[w] = total
    finish(result, part)
