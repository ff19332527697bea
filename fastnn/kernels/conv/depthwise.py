"""Depthwise convolutions, whose filters see one channel each, and their weight gradients.

There are so few products that a filter is kept in registers and pixels are read as they lie, a row after the other:
each vector of results is the sum over the taps of a vector of pixels. The input gradient is such a convolution by the
filters turned round; with a stride it is one for each phase of the pixels, by the taps that reach it, and a block does
all phases of its rows. For the weight gradient vectors of the gradient are multiplied with the pixels that each tap
reads, in one pass, and the lanes added up in the end.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import named, sums_helper
from fastnn.kernels._cpu.gemm import DEPTH, panels
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.llvm import lanes
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tiles import copy_vector, dot_tile, stencil_tile
from fastnn.kernels._cpu.tuning import DEPTHWISE_LEAST_SCRATCH, DEPTHWISE_SCRATCH, DEPTHWISE_TAPS, LEAST_BLOCKS
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels.conv._scratch import fill, layout
from fastnn.kernels.conv.geometry import Geometry, phases_of

_BAND = DEPTH               # vectors of pixels at most that are summed up at once, unless a row has more

_copy = copy_vector(1)


def fits(weight: Array) -> bool:
    """Whether these are the filters of a depthwise convolution of a size that is done here."""
    return weight.shape[1] == 1 and weight.shape[2] * weight.shape[3] <= DEPTHWISE_TAPS and len(weight) > 1


class Bands(NamedTuple):
    """What blocks do, each a band of rows of a channel of an image: what compiled code takes of a plan."""

    groups: int
    stride_y: int
    stride_x: int
    top: int                                # the row of an image that the first result reads, by the first tap
    left: int
    scratch_y: int                          # rows of a phase in the scratch
    line: int                               # elements from one of them to the next
    band: int                               # rows of results
    positive: int                           # whether negative results become 0


def plan_conv2d(x: Array, weight: Array, y: Array, relu: bool, geometry: Geometry) -> Callable[..., None]:
    """Return a function (x, weight, bias, y) of the convolution plus a bias, and with relu 0 where it is negative."""
    height, width = y.shape[2:]
    rows, columns = _taps(weight, geometry)
    line = width + max(columns) // geometry.stride[1]
    whole = panels(height, max(1, min(height, DEPTHWISE_SCRATCH // line)))
    band = panels(height, max(whole, min(panels(LEAST_BLOCKS, len(x) * len(weight)),
                                         panels(height * line, DEPTHWISE_LEAST_SCRATCH))))
    scratch_y = band + max(rows) // geometry.stride[0]
    offsets, *phases = layout(1, geometry.stride, rows, columns, scratch_y, line)
    vector, none = lanes(x), EMPTY[x.dtype]
    bands = Bands(geometry.groups, *geometry.stride, -geometry.padding[0], -geometry.padding[1], scratch_y, line, band,
                  int(relu))
    scratch = len(phases[0]) * len(phases[1]) * scratch_y * line + max(columns) + 2 * vector
    kernel, blocks, work = _convolve(len(offsets)), len(x) * len(weight) * panels(height, band), y.size * len(offsets)

    def conv2d(x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        workers = get_num_threads()
        kernel(blocks, bands, x, weight.reshape(len(weight), -1), offsets, *phases, none if bias is None else bias,
               empty((workers, scratch), x.dtype), empty((workers, band * line + vector), x.dtype), y, y.reshape(-1),
               work=work, workers=workers)

    return conv2d


def plan_input_gradient(grad_output: Array, weight: Array, geometry: Geometry, grad_x: Array) -> Callable[..., None]:
    """Return a function (grad_output, weight, None, grad_x), where each channel has a filter."""
    if geometry.stride != (1, 1):
        return _plan_strided_gradient(grad_output, weight, geometry, grad_x)
    padding = tuple((size - 1) * step - pad
                    for size, step, pad in zip(weight.shape[2:], geometry.dilation, geometry.padding))
    convolve = plan_conv2d(grad_output, weight, grad_x, False, replace(geometry, padding=padding))

    def input_gradient(grad_output: Array, weight: Array, bias: None, grad_x: Array) -> None:
        convolve(grad_output, np.ascontiguousarray(weight[:, :, ::-1, ::-1]), bias, grad_x)

    return input_gradient


class Phases(NamedTuple):
    """What blocks do, each a band of rows of a channel's input gradient: what compiled code takes of a plan."""

    stride_y: int
    stride_x: int
    top: int                                # the row of a gradient that the first pixels read, by the first tap
    left: int
    scratch_y: int                          # rows of the scratch
    line: int                               # elements from one of them to the next
    band: int                               # rows of a phase
    partial: int                            # whether no tap reaches some of the pixels


def _plan_strided_gradient(grad_output: Array, weight: Array, geometry: Geometry, grad_x: Array) -> Callable[..., None]:
    rows, columns = (phases_of(weight, geometry, axis, grad_x.shape[2 + axis]) for axis in (0, 1))
    shifts_y, shifts_x = ([shift for taps in axis.values() for shift in taps.values()] for axis in (rows, columns))
    top, left = min(shifts_y, default=0), min(shifts_x, default=0)
    reach_y, reach_x = max(shifts_y, default=0) - top, max(shifts_x, default=0) - left
    (height, width), size_x = map(panels, grad_x.shape[2:], geometry.stride), weight.shape[3]
    line = width + reach_x
    whole = panels(height, max(1, min(height, DEPTHWISE_SCRATCH // line)))
    band = panels(height, max(whole, min(panels(LEAST_BLOCKS, len(grad_x) * len(weight)),
                                         panels(height * line, DEPTHWISE_LEAST_SCRATCH))))
    scratch_y = band + reach_y
    taps: list[int] = []
    phases, offsets = [], []
    for (row, by_row), (column, by_column) in itertools.product(rows.items(), columns.items()):
        phases.append((row, column, len(taps), len(taps) + len(by_row) * len(by_column)))
        for (k, shift_y), (l, shift_x) in itertools.product(by_row.items(), by_column.items()):     # noqa: E741
            taps.append(k * size_x + l)
            offsets.append((shift_y - top) * line + shift_x - left)
    is_partial = len(phases) < math.prod(map(min, geometry.stride, grad_x.shape[2:]))
    plan = Phases(*geometry.stride, top, left, scratch_y, line, band, int(is_partial))
    tables = (np.array(phases, np.int64).reshape(-1, 4), *(np.array(t, np.int64) for t in (taps, offsets, [0])))
    scratch = scratch_y * line + reach_x + lanes(grad_x)
    blocks, work = len(grad_x) * len(weight) * panels(height, band), grad_output.size * len(taps)

    def input_gradient(grad_output: Array, weight: Array, bias: None, grad_x: Array) -> None:
        workers = get_num_threads()
        _spread(blocks, plan, grad_output, weight.reshape(len(weight), -1), *tables,
                empty((workers, scratch), grad_x.dtype), empty((workers, band * line), grad_x.dtype), grad_x,
                grad_x.reshape(-1), work=work, workers=workers)

    return input_gradient


@block_kernel(writes="scratches lines grad_x result", sums=True)
def _spread(block: int, worker: int, plan: Phases, grad_output: Array, weight: Array, phases: Array, taps: Array,
            offsets: Array, zero: Array, scratches: Array, lines: Array, grad_x: Array, result: Array) -> None:
    """All phases of a band of rows of one channel's gradient; both arrays, and result."""
    _, channels, height, width = grad_x.shape
    band, line, stride_y, stride_x = plan.band, plan.line, plan.stride_y, plan.stride_x
    count = ((height + stride_y - 1) // stride_y + band - 1) // band
    image, first_row = block // count, block % count * band
    n, c = image // channels, image % channels
    scratch, found = scratches[worker], lines[worker]
    fill(grad_output, n, c, c + 1, first_row, zero, zero, plan.top, plan.left, 1, 1, plan.scratch_y, line, scratch)
    begin = max(0, (image * height + first_row * stride_y) * width)
    if plan.partial:
        result[begin : (image * height + min(height, (first_row + band) * stride_y)) * width] = 0
    for phase in phases:
        row, column = phase[0], phase[1]
        rows = min(band, (height - row + stride_y - 1) // stride_y - first_row)
        columns = (width - column + stride_x - 1) // stride_x
        total = found[: max(0, rows * line)]
        total[:] = 0
        for t in range(phase[2], phase[3]):
            factor, pixels = weight[c, taps[t]], scratch[offsets[t] :]
            for i in range(total.size):
                total[i] += factor * pixels[i]
        for i in range(rows):
            pixels, target = total[i * line :], result[begin + (i * stride_y + row) * width + column :]
            if stride_x == 1:
                for j in range(columns):
                    target[j] = pixels[j]
            elif stride_x == 2:
                for j in range(columns):
                    target[2 * j] = pixels[j]
            else:
                for j in range(columns):
                    target[stride_x * j] = pixels[j]


def _taps(weight: Array, geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns that taps read."""
    rows, columns = (tuple(k * step for k in range(size)) for size, step in zip(weight.shape[2:], geometry.dilation))
    return rows, columns


@functools.cache
def _convolve(taps: int) -> BlockKernel:
    """The kernel for filters of so many taps."""
    multiply = stencil_tile(taps)

    @block_kernel(writes="scratches lines y result")
    @named("convolve", taps)
    def convolve(block: int, worker: int, bands: Bands, x: Array, weight: Array, offsets: Array, phases_y: Array,
                 phases_x: Array, bias: Array, scratches: Array, lines: Array, y: Array, result: Array) -> None:
        """A band of rows of one channel of an image."""
        _, filters, height, width = y.shape
        band, line, vector = bands.band, bands.line, lanes(y)
        count = (height + band - 1) // band
        image, first_row = block // count, block % count * band
        n, f = image // filters, image % filters
        scratch, found, channel = scratches[worker], lines[worker], f // (filters // bands.groups)
        fill(x, n, channel, channel + 1, first_row, phases_y, phases_x, bands.top, bands.left, bands.stride_y,
             bands.stride_x, bands.scratch_y, line, scratch)
        count = min(band, height - first_row)
        start = bias[f] if bias.size else y.dtype.type(0)
        multiply(scratch, offsets, weight[f], start, bands.positive, found, count * line)
        target = max(0, (image * height + first_row) * width)
        if width < vector:
            for i in range(count):
                for j in range(width):
                    result[target + i * width + j] = found[i * line + j]
            return
        for i in range(count):
            for t in range(0, width, vector):
                at = min(t, width - vector)
                _copy(found, i * line + at, result, target + i * width + at)

    return convolve


class Parts(NamedTuple):
    """How blocks take their parts of a weight gradient: what compiled code takes of a plan."""

    groups: int
    stride_y: int
    stride_x: int
    top: int                                # the row of an image that the first result reads, by the first tap
    left: int
    scratch_y: int                          # rows of a phase in the scratch
    scratch_x: int                          # elements from one of them to the next
    band: int                               # rows of results that are summed up at a time
    line: int                               # elements from one of them to the next


def plan_weight_gradient(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Callable[..., None]:
    """Return a function (x, grad_output, grad_weight), this one being (filters, 1, rows, columns)."""
    height, width = grad_output.shape[2:]
    rows, columns = _taps(weight, geometry)
    line = panels(width, lanes(x)) * lanes(x)
    band = max(1, min(height, _BAND // (line // lanes(x))))
    scratch_y, scratch_x = band + max(rows) // geometry.stride[0], line + max(columns) // geometry.stride[1]
    offsets, *phases = layout(1, geometry.stride, rows, columns, scratch_y, scratch_x)
    walk = (np.arange(band)[:, None] * scratch_x + np.arange(0, line, lanes(x))).ravel()
    filters = len(weight)
    slices = min(len(x), panels(LEAST_BLOCKS, filters))
    blocks = slices * filters
    parts = Parts(geometry.groups, *geometry.stride, -geometry.padding[0], -geometry.padding[1], scratch_y, scratch_x,
                  band, line)
    scratches = blocks, len(phases[0]) * len(phases[1]) * scratch_y * scratch_x + lanes(x)
    pixels = blocks, band * line + lanes(x)
    launch = _weight_gradient(len(offsets)).launch(blocks, work=grad_output.size * len(offsets))

    def weight_gradient(x: Array, grad_output: Array, grad_weight: Array) -> None:
        partial = np.zeros((slices, filters, len(offsets)), x.dtype)
        launch(parts, x, grad_output, offsets, *phases, walk, empty(scratches, x.dtype), empty(pixels, x.dtype),
               partial)
        total = grad_weight.reshape(filters, -1)
        total[...] = partial[0]
        with np.errstate(all="ignore"):      # NaN and inf travel without a warning
            for part in partial[1:]:
                total += part

    return weight_gradient


@functools.cache
def _weight_gradient(taps: int) -> BlockKernel:
    """The kernel for filters of so many taps."""
    multiply = dot_tile(taps)

    @block_kernel(writes="scratches pixels partial", sums=True)
    @named("weight_gradient", taps)
    def weight_gradient(block: int, parts: Parts, x: Array, grad_output: Array, offsets: Array, phases_y: Array,
                        phases_x: Array, walk: Array, scratches: Array, pixels: Array, partial: Array) -> None:
        """One filter over one slice of the batch."""
        slices, filters = partial.shape[:2]
        band, line, scratch_x = parts.band, parts.line, parts.scratch_x
        cut, f = block // filters, block % filters
        channel = f // (filters // parts.groups)
        height, width = grad_output.shape[2:]
        scratch, gradient = scratches[block], pixels[block]
        total, before = np.zeros((taps, lanes(x)), x.dtype), np.empty((taps, lanes(x)), x.dtype)
        zero = np.zeros(1, np.int64)
        for n in range(cut * x.shape[0] // slices, (cut + 1) * x.shape[0] // slices):
            for first_row in range(0, height, band):
                fill(x, n, channel, channel + 1, first_row, phases_y, phases_x, parts.top, parts.left,
                     parts.stride_y, parts.stride_x, parts.scratch_y, scratch_x, scratch)
                fill(grad_output, n, f, f + 1, first_row, zero, zero, 0, 0, 1, 1, band, line, gradient)
                before[:] = total
                multiply(scratch, offsets, walk, gradient, total)
                if _is_finite(total.reshape(-1)):
                    continue
                total[:] = before                               # 0 times inf or NaN, of pixels beyond a row's end
                for i in range(min(band, height - first_row)):
                    for t in range(taps):
                        for j in range(width):
                            total[t, 0] += scratch[offsets[t] + i * scratch_x + j] * gradient[i * line + j]
        for t in range(taps):
            for j in range(lanes(x)):
                partial[cut, f, t] += total[t, j]

    return weight_gradient


@sums_helper
def _is_finite(array: Array) -> bool:
    zero = array.dtype.type(0)
    total = zero
    for value in array:
        total += value * zero
    return total == 0
