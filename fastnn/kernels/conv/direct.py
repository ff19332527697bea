"""Convolutions as matrix products whose second operand is never made.

A block copies its part of the image into a scratch of *phases*, zeros around it: phase (r, s) holds the pixels whose
row and column leave the remainders r and s modulo the strides. There each tap of a filter is a shift: what it reads
for the output positions q, q + 1, ... lies at offset + q, offset + q + 1, ..., the offset being the same for all
positions of the block. So the register tile walks over rows of the scratch as they lie; nothing is copied tap by tap.
Positions run over rows that are a little longer than the output's, and what falls between these is thrown away.

The gradient by the input is such a convolution too: of the gradient, by the taps that reach the pixels of one phase.
The gradient by the weights multiplies the same shifted rows with the gradient.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from fastnn.kernels._arrays import EMPTY, Array
from fastnn.kernels._jit import block_kernel, helper, sums_helper
from fastnn.kernels._matrix import DEPTH, ROWS, pack_rows, panels
from fastnn.kernels._simd import multiply_columns_tile, multiply_rows_tile, tile_columns

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

_BLOCKS = 16                # so many blocks at least, where the work can be cut so
_SCRATCH = 1 << 17          # elements of a block's scratch at most, unless one row of output needs more
_SUMS = 1 << 16             # elements of the gradient by the weights that a block sums up

Axis = tuple[tuple[int, ...], int]              # shifts of an axis' taps in its scratch, and the first pixel there


def conv2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    filters = weight.reshape(geometry.groups, len(weight) // geometry.groups, -1)
    _convolve_phase(x, filters, bias, geometry, _taps(weight.shape, geometry), geometry.stride, (0, 0), (1, 1), y)


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    ) -> tuple[Array | None, Array | None, Array | None]:
    grad_x = np.empty_like(x) if needs[0] else None
    grad_weight = np.zeros_like(weight) if needs[1] else None
    grad_bias = _channel_sums(grad_output) if needs[2] else None
    if x.size:
        if grad_x is not None:
            _spread(grad_output, weight, None, geometry, grad_x)
        if grad_weight is not None:
            _correlate(x, grad_output, geometry, grad_weight)
    return grad_x, grad_weight, grad_bias


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    _spread(x, weight, bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> tuple[Array | None, Array | None, Array | None]:
    grad_x = np.empty_like(x) if needs[0] else None
    grad_weight = np.zeros_like(weight) if needs[1] else None
    grad_bias = _channel_sums(grad_output) if needs[2] else None
    if x.size:
        if grad_x is not None:
            conv2d(grad_output, weight, None, geometry, grad_x)
        if grad_weight is not None:
            _correlate(grad_output, x, geometry, grad_weight)
    return grad_x, grad_weight, grad_bias


def _channel_sums(grad_output: Array) -> Array:
    total = np.zeros(grad_output.shape[1], grad_output.dtype)
    _sum_channel(len(total), grad_output, total, work=grad_output.size)
    return total


def _taps(weight: tuple[int, ...], geometry: Geometry) -> tuple[Axis, Axis]:
    """The taps of a convolution: they reach forwards from the padding's first row and column."""
    rows, columns = (
        (tuple(k * geometry.dilation[axis] for k in range(weight[2 + axis])), -geometry.padding[axis])
        for axis in (0, 1))
    return rows, columns


@functools.lru_cache(maxsize=256)
def _layout(channels: int, stride: tuple[int, int], rows: tuple[int, ...], columns: tuple[int, ...], band: int,
            width: int) -> tuple[Array, Array, Array, int, int, int]:
    """Where each tap's row begins in the scratch: the offsets, the phases of rows and of columns that taps read, and
    the scratch's rows, columns and elements.

    There is an offset for each (channel, row, column) of a filter, and zeros up to whole tiles.
    """
    phases_y, phase_y = np.unique(np.array(rows) % stride[0], return_inverse=True)
    phases_x, phase_x = np.unique(np.array(columns) % stride[1], return_inverse=True)
    height, line = band + max(rows) // stride[0], width + max(columns) // stride[1]
    phase = np.arange(channels)[:, None, None] * (len(phases_y) * len(phases_x)) + phase_y[:, None] * len(phases_x)
    shift = np.array(rows)[:, None] // stride[0] * line + np.array(columns) // stride[1]
    offsets = ((phase + phase_x) * (height * line) + shift).ravel()
    size = channels * len(phases_y) * len(phases_x) * height * line
    assert offsets.max() + (band - 1) * line + width <= size, "a tap would read beyond the scratch"
    padded = np.zeros(panels(offsets.size, ROWS) * ROWS, np.int64)
    padded[: offsets.size] = offsets
    for array in (padded, phases_y, phases_x):
        array.flags.writeable = False
    return padded, phases_y, phases_x, height, line, size


def _band(line: int, reach: int, height: int, blocks: int) -> int:
    """Rows of output that a block makes: few enough for its scratch of lines, and for `blocks` of them in the image.

    `reach` more rows are copied for them, of which there must not be many times as many as of theirs.
    """
    return max(1, min(-(-height // blocks), max(_SCRATCH // line - reach, reach // 2 + 1)))


def _line(channels: int, stride: tuple[int, int], rows: tuple[int, ...], columns: tuple[int, ...], width: int) -> int:
    """Elements of the scratch for one row of output."""
    phases = len({r % stride[0] for r in rows}) * len({c % stride[1] for c in columns})
    return channels * phases * (width + max(columns) // stride[1])


def _convolve_phase(source: Array, filters: Array, bias: Array | None, geometry: Geometry, taps: tuple[Axis, Axis],
                    stride: tuple[int, int], first: tuple[int, int], step: tuple[int, int], y: Array) -> None:
    """Write y[:, :, first::step]: images convolved by filters (groups, filters, taps), whose taps reach as told."""
    (rows, top), (columns, left) = taps
    groups, channels = geometry.groups, source.shape[1] // geometry.groups
    height, width = (panels(size - begin, jump) for size, begin, jump in zip(y.shape[2:], first, step))
    band = _band(_line(channels, stride, rows, columns, width), max(rows) // stride[0], height,
                 panels(_BLOCKS, len(y) * groups))
    offsets, *phases, scratch_y, scratch_x, size = _layout(channels, stride, rows, columns, band, width)
    _convolve(len(y) * groups * panels(height, band), source, pack_rows(filters, ROWS), offsets, *phases,
              EMPTY[source.dtype] if bias is None else bias, *stride, top, left, scratch_y, scratch_x, size, band,
              *first, *step, height, width, y, work=y.size * filters.shape[2])


def _spread(grad_output: Array, weight: Array, bias: Array | None, geometry: Geometry, grad_x: Array) -> None:
    """Write the gradient of a convolution by its input, which is the transposed convolution, plus a bias."""
    groups, (filters, channels) = geometry.groups, weight.shape[:2]
    weight = weight.reshape(groups, filters // groups, channels, *weight.shape[2:]).transpose(0, 2, 1, 3, 4)
    for first in np.ndindex(geometry.stride):
        if first[0] >= grad_x.shape[2] or first[1] >= grad_x.shape[3]:
            continue
        used, taps = [], []
        for axis in (0, 1):
            # Pixel i of the phase is row i stride + first, which tap k reaches from output row i + reach[k].
            reach = {}
            for k in range(weight.shape[3 + axis]):
                row, rest = divmod(first[axis] + geometry.padding[axis] - k * geometry.dilation[axis],
                                   geometry.stride[axis])
                if rest == 0:
                    reach[k] = row
            begin = min(reach.values(), default=0)
            used.append(list(reach))
            taps.append((tuple(r - begin for r in reach.values()), begin))
        if not all(used):                              # no tap reaches these pixels
            phase = grad_x[:, :, first[0] :: geometry.stride[0], first[1] :: geometry.stride[1]]
            phase[...] = 0 if bias is None else bias[:, None, None]
            continue
        phase_weight = weight[:, :, :, used[0]][..., used[1]].reshape(groups, channels, -1)
        _convolve_phase(grad_output, np.ascontiguousarray(phase_weight), bias, geometry, (taps[0], taps[1]), (1, 1),
                        (first[0], first[1]), geometry.stride, grad_x)


def _correlate(x: Array, grad_output: Array, geometry: Geometry, grad_weight: Array) -> None:
    """Write the gradient of a convolution by its weights: slices of the batch by themselves, then their sum."""
    groups, (filters, channels, kernel_y, kernel_x) = geometry.groups, grad_weight.shape
    (rows, top), (columns, left) = _taps(grad_weight.shape, geometry)
    height, width = grad_output.shape[2:]
    share = max(1, min(channels, _SUMS // (kernel_y * kernel_x * filters // groups)))
    shares = panels(channels, share)
    reach, gradients = max(columns) // geometry.stride[1], filters // groups + tile_columns(x)
    line = max(_line(share, geometry.stride, rows, columns, width), gradients * (width + reach))
    band = _band(line, max(rows) // geometry.stride[0], height, 1)
    offsets, *phases, scratch_y, scratch_x, size = _layout(share, geometry.stride, rows, columns, band, width)
    slices = min(len(x), panels(_BLOCKS, groups * shares))
    partial = grad_weight[None] if slices == 1 else np.empty((slices, *grad_weight.shape), x.dtype)
    _correlate_slice(slices * groups * shares, x, grad_output, offsets, *phases, *geometry.stride, top, left, scratch_y,
                     scratch_x, size, band, share, groups, partial, work=grad_output.size * grad_weight[0].size)
    if slices > 1:
        _sum_slices(panels(grad_weight.size, 4096), partial.reshape(slices, -1), grad_weight.reshape(-1),
                    work=partial.size)


@helper
def _fill(image: Array, first_row: int, phases_y: Array, phases_x: Array, top: int, left: int, stride_y: int,
          stride_x: int, height: int, width: int, scratch: Array) -> None:
    """Copy channels of an image into phases of height x width, from a row of output on, zeros outside of the image."""
    scratch[:] = 0
    plane = 0
    for c in range(image.shape[0]):
        for r in phases_y:
            for s in phases_x:
                column = s + left
                begin = max(0, (stride_x - 1 - column) // stride_x)
                end = min(width, (image.shape[2] - 1 - column) // stride_x + 1)
                source = max(0, begin * stride_x + column)
                for i in range(height):
                    row = (first_row + i) * stride_y + r + top
                    if 0 <= row < image.shape[1]:
                        at = max(0, plane + i * width + begin)
                        if stride_x == 1:              # a constant, for which the compiler makes vector loads
                            for t in range(end - begin):
                                scratch[at + t] = image[c, row, source + t]
                        else:
                            for t in range(end - begin):
                                scratch[at + t] = image[c, row, source + t * stride_x]
                plane += height * width


@sums_helper
def _is_finite(array: Array) -> bool:
    zero = array.dtype.type(0)
    total = zero
    for value in array:
        total += value * zero
    return total == 0


@block_kernel(writes="y", sums=True)
def _convolve(block: int, source: Array, packed: Array, offsets: Array, phases_y: Array, phases_x: Array, bias: Array,
              stride_y: int, stride_x: int, top: int, left: int, scratch_y: int, scratch_x: int, size: int, band: int,
              first_y: int, first_x: int, step_y: int, step_x: int, height: int, width: int, y: Array) -> None:
    """A band of rows of one group of one image, all its filters. packed: (groups, panels, taps, ROWS)."""
    groups, filter_panels, depth, rows = packed.shape
    bands = (height + band - 1) // band
    n, group, first_row = block // bands // groups, block // bands % groups, block % bands * band
    filters, channels = y.shape[1] // groups, source.shape[1] // groups
    columns = tile_columns(y)
    scratch = np.empty(size + columns, y.dtype)
    _fill(source[n, group * channels : (group + 1) * channels], first_row, phases_y, phases_x, top, left, stride_y,
          stride_x, scratch_y, scratch_x, scratch)
    scratch[size:] = 0

    tile, total = np.empty((rows, columns), y.dtype), np.empty((rows, columns), y.dtype)
    positions = (min(band, height - first_row) - 1) * scratch_x + width
    for q in range(0, positions, columns):
        for panel in range(filter_panels):
            total[:] = 0
            for k in range(0, depth, DEPTH):
                end = min(k + DEPTH, depth)
                tile[:] = 0
                multiply_rows_tile(packed[group, panel, k:end], scratch[q:], offsets[k:end], tile)
                for i in range(rows):
                    for j in range(columns):
                        total[i, j] += tile[i, j]
            for i in range(min(rows, filters - panel * rows)):
                f = group * filters + panel * rows + i
                shift = bias[f] if bias.size else y.dtype.type(0)
                begin = q
                while begin < min(q + columns, positions):          # a run: positions of one row
                    row, column = begin // scratch_x, begin % scratch_x
                    count = min(scratch_x - column, q + columns - begin)
                    line = y[n, f, first_y + (first_row + row) * step_y]
                    at = max(0, begin - q)
                    if step_x == 1:
                        for j in range(min(count, width - column)):
                            line[column + j] = total[i, at + j] + shift
                    else:
                        for j in range(min(count, width - column)):
                            line[first_x + (column + j) * step_x] = total[i, at + j] + shift
                    begin += count


@block_kernel(writes="partial", sums=True)
def _correlate_slice(block: int, x: Array, grad_output: Array, offsets: Array, phases_y: Array, phases_x: Array,
                     stride_y: int, stride_x: int, top: int, left: int, scratch_y: int, scratch_x: int, size: int,
                     band: int, share: int, groups: int, partial: Array) -> None:
    """A share of the channels of one group, all its filters, over one slice of the batch."""
    slices, (channels, kernel_y, kernel_x) = partial.shape[0], partial.shape[2:]
    filters = partial.shape[1] // groups
    shares = (channels + share - 1) // share
    cut, group, part = block // shares // groups, block // shares % groups, block % shares
    first_channel, last_channel = part * share, min(channels, part * share + share)
    height, width = grad_output.shape[2:]
    columns, rows = tile_columns(x), ROWS
    tap_panels, filter_panels = len(offsets) // rows, (filters + columns - 1) // columns

    total = np.zeros((tap_panels, filter_panels, rows, columns), x.dtype)
    tile = np.empty((rows, columns), x.dtype)
    scratch = np.zeros(size, x.dtype)
    # (filter panel, position, filter); positions between the rows of output stay 0
    gradients = np.zeros((filter_panels, band * scratch_x, columns), x.dtype)
    for n in range(cut * x.shape[0] // slices, (cut + 1) * x.shape[0] // slices):
        for first_row in range(0, height, band):
            _fill(x[n, group * channels + first_channel : group * channels + last_channel], first_row, phases_y,
                  phases_x, top, left, stride_y, stride_x, scratch_y, scratch_x, scratch)
            inside = min(band, height - first_row)
            for f in range(filters):
                image = grad_output[n, group * filters + f]
                panel, column = f // columns, f % columns
                for i in range(inside):
                    for j in range(width):
                        gradients[panel, i * scratch_x + j, column] = image[first_row + i, j]
            positions = (inside - 1) * scratch_x + width
            # What lies between rows counts 0 times; where it is not finite, rows are summed one by one instead.
            step, length = (DEPTH, DEPTH) if _is_finite(scratch) else (scratch_x, width)
            for q in range(0, positions, step):
                end = min(q + length, positions)
                for t in range(tap_panels):
                    for panel in range(filter_panels):
                        tile[:] = 0
                        multiply_columns_tile(scratch[q:], gradients[panel, q:end], offsets[t * rows :], tile)
                        for i in range(rows):
                            for j in range(columns):
                                total[t, panel, i, j] += tile[i, j]

    for f in range(filters):
        for c in range(first_channel, last_channel):
            for k in range(kernel_y):
                for l in range(kernel_x):              # noqa: E741
                    tap = ((c - first_channel) * kernel_y + k) * kernel_x + l
                    value = total[tap // rows, f // columns, tap % rows, f % columns]
                    partial[cut, group * filters + f, c, k, l] = value


@block_kernel(writes="total")
def _sum_slices(block: int, partial: Array, total: Array) -> None:
    """4096 elements of the sum over slices, in their order."""
    first, last = block * 4096, min(block * 4096 + 4096, len(total))
    for j in range(first, last):
        total[j] = partial[0, j]
    for i in range(1, len(partial)):
        for j in range(first, last):
            total[j] += partial[i, j]


@block_kernel(writes="total", sums=True)
def _sum_channel(channel: int, grad_output: Array, total: Array) -> None:
    """The sum of one channel, in float64."""
    channel_sum = 0.0
    for n in range(grad_output.shape[0]):
        for i in range(grad_output.shape[2]):
            for j in range(grad_output.shape[3]):
                channel_sum += np.float64(grad_output[n, channel, i, j])
    total[channel] = channel_sum
