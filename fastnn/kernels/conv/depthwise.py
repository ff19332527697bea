"""Gradients by the weights of depthwise convolutions, whose filters see one channel each.

For so few products a filter, pixels of the gradient are not put in order by filters: vectors of them, as they lie, are
multiplied with the pixels that each tap reads, in one pass, and the lanes added up in the end.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from fastnn.kernels._arrays import Array, empty
from fastnn.kernels._jit import BlockKernel, block_kernel, sums_helper
from fastnn.kernels._matrix import DEPTH, panels
from fastnn.kernels._simd import dot_tile, lanes
from fastnn.kernels.conv._scratch import fill, layout

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

_BAND = DEPTH               # vectors of pixels at most that are summed up at once, unless a row has more
_TAPS = 25                  # so many sums stay in registers
_BLOCKS = 16


def fits(weight: Array) -> bool:
    """Whether these are the filters of a depthwise convolution of a size that is done here."""
    return weight.shape[1] == 1 and weight.shape[2] * weight.shape[3] <= _TAPS and len(weight) > 1


def correlate(x: Array, grad_output: Array, geometry: Geometry, grad_weight: Array) -> None:
    """Write the gradient by the weights, of shape (filters, 1, rows, columns)."""
    height, width = grad_output.shape[2:]
    rows, columns = (tuple(k * geometry.dilation[axis] for k in range(grad_weight.shape[2 + axis])) for axis in (0, 1))
    line = panels(width, lanes(x)) * lanes(x)
    band = max(1, min(height, _BAND // (line // lanes(x))))
    scratch_y, scratch_x = band + max(rows) // geometry.stride[0], line + max(columns) // geometry.stride[1]
    offsets, *phases = layout(1, geometry.stride, rows, columns, scratch_y, scratch_x)
    walk = (np.arange(band)[:, None] * scratch_x + np.arange(0, line, lanes(x))).ravel()
    filters = len(grad_weight)
    slices = min(len(x), panels(_BLOCKS, filters))
    partial = np.zeros((slices, filters, len(offsets)), x.dtype)
    _correlate(len(offsets))(
        slices * filters, x, grad_output, geometry.groups, offsets, *phases, walk, *geometry.stride,
        -geometry.padding[0], -geometry.padding[1], scratch_y, scratch_x, band, line,
        empty((slices * filters, len(phases[0]) * len(phases[1]) * scratch_y * scratch_x + lanes(x)), x.dtype),
        empty((slices * filters, band * line + lanes(x)), x.dtype), partial, work=grad_output.size * len(offsets))
    total = grad_weight.reshape(filters, -1)
    total[...] = partial[0]
    for part in partial[1:]:
        total += part


@functools.cache
def _correlate(taps: int) -> BlockKernel:
    """The kernel for filters of so many taps."""
    multiply = dot_tile(taps)

    def correlate(block: int, x: Array, grad_output: Array, groups: int, offsets: Array, phases_y: Array,
                  phases_x: Array, walk: Array, stride_y: int, stride_x: int, top: int, left: int, scratch_y: int,
                  scratch_x: int, band: int, line: int, scratches: Array, pixels: Array, partial: Array) -> None:
        """One filter over one slice of the batch."""
        slices, filters = partial.shape[:2]
        cut, f = block // filters, block % filters
        channel = f // (filters // groups)
        height, width = grad_output.shape[2:]
        scratch, gradient = scratches[block], pixels[block]
        total = np.zeros((taps, lanes(x)), x.dtype)
        zero = np.zeros(1, np.int64)
        for n in range(cut * x.shape[0] // slices, (cut + 1) * x.shape[0] // slices):
            for first_row in range(0, height, band):
                fill(x, n, channel, channel + 1, first_row, phases_y, phases_x, top, left, stride_y, stride_x,
                     scratch_y, scratch_x, scratch)
                fill(grad_output, n, f, f + 1, first_row, zero, zero, 0, 0, 1, 1, band, line, gradient)
                if _is_finite(scratch):
                    multiply(scratch, offsets, walk, gradient, total)
                    continue
                for i in range(min(band, height - first_row)):     # what lies beyond a row's end counts 0 times
                    for t in range(taps):
                        for j in range(width):
                            total[t, 0] += scratch[offsets[t] + i * scratch_x + j] * gradient[i * line + j]
        for t in range(taps):
            for j in range(lanes(x)):
                partial[cut, f, t] += total[t, j]

    correlate.__qualname__ = f"correlate_{taps}"
    return block_kernel(writes="scratches pixels partial", sums=True)(correlate)


@sums_helper
def _is_finite(array: Array) -> bool:
    zero = array.dtype.type(0)
    total = zero
    for value in array:
        total += value * zero
    return total == 0
