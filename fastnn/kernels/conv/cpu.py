"""Convolutions as implicit matrix products over packed panels.

The columns of the product are pixels, its rows output channels, its depth the taps (channel, row, column) of a
filter. Image patches are copied into a panel for one tile's width of pixels at a time, in runs of pixels of one row.
The geometry travels to block functions as six integers: stride, padding and dilation, each of rows and of columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastnn.kernels._arrays import EMPTY, Array
from fastnn.kernels._jit import block_kernel, helper
from fastnn.kernels._matrix import DEPTH, ROWS, multiply_tile, pack_columns, pack_rows, panels, tile_columns

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

# Blocks that the gradient by the weights is cut into at least, where the batch allows it.
SLICES = 64


def conv2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    groups = geometry.groups
    packed = pack_rows(weight.reshape(groups, len(weight) // groups, -1), ROWS)
    pixels = len(y) * y.shape[2] * y.shape[3]
    _forward(groups * panels(pixels, tile_columns(x)), x, packed, EMPTY[x.dtype] if bias is None else bias,
             *_flat(geometry), weight.shape[2], weight.shape[3], y, work=y.size * packed.shape[2])


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    ) -> tuple[Array | None, Array | None, Array | None]:
    grad_x = np.zeros_like(x) if needs[0] else None
    grad_weight = np.zeros_like(weight) if needs[1] else None
    grad_bias = _channel_sums(grad_output) if needs[2] else None
    if x.size:
        if grad_x is not None:
            _scatter(grad_output, weight, EMPTY[x.dtype], geometry, grad_x)
        if grad_weight is not None:
            _correlate(x, grad_output, geometry, grad_weight)
    return grad_x, grad_weight, grad_bias


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    _scatter(x, weight, EMPTY[x.dtype] if bias is None else bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> tuple[Array | None, Array | None, Array | None]:
    grad_x = np.zeros_like(x) if needs[0] else None
    grad_weight = np.zeros_like(weight) if needs[1] else None
    grad_bias = _channel_sums(grad_output) if needs[2] else None
    if x.size:
        if grad_x is not None:
            conv2d(grad_output, weight, None, geometry, grad_x)
        if grad_weight is not None:
            _correlate(grad_output, x, geometry, grad_weight)
    return grad_x, grad_weight, grad_bias


def _flat(geometry: Geometry) -> tuple[int, ...]:
    return *geometry.stride, *geometry.padding, *geometry.dilation


def _channel_sums(grad_output: Array) -> Array:
    total = np.zeros(grad_output.shape[1], grad_output.dtype)
    _sum_channel(len(total), grad_output, total, work=grad_output.size)
    return total


def _scatter(grad_output: Array, weight: Array, bias: Array, geometry: Geometry, grad_x: Array) -> None:
    """Write the gradient of a convolution by its input, which is the transposed convolution, plus a bias."""
    groups, (filters, channels, height, width) = geometry.groups, weight.shape
    # (group, tap, filter, channel): a panel holds ROWS channels of one tap
    taps = weight.reshape(groups, filters // groups, channels, height * width).transpose(0, 3, 1, 2)
    packed = pack_columns(np.ascontiguousarray(taps).reshape(-1, filters // groups, channels), ROWS)
    _spread(len(grad_x) * groups * packed.shape[1], grad_output, packed, bias, *_flat(geometry), width, groups, grad_x,
            work=grad_output.size * weight[0].size)


def _correlate(x: Array, grad_output: Array, geometry: Geometry, grad_weight: Array) -> None:
    """Write the gradient of a convolution by its weights: slices of the batch by themselves, then their sum."""
    groups, filters = geometry.groups, len(grad_weight) // geometry.groups
    n, pixels = len(x), grad_output.shape[2] * grad_output.shape[3]
    filter_panels = panels(filters, ROWS)
    packed = np.empty((n, groups, filter_panels, pixels, ROWS), x.dtype)
    _pack_filters(n * groups * filter_panels, grad_output, packed, work=packed.size)
    tap_panels = panels(grad_weight[0].size, tile_columns(x))
    slices = min(n, panels(SLICES, groups * tap_panels))
    partial = np.empty((slices, *grad_weight.shape), x.dtype)
    _correlate_slice(slices * groups * tap_panels, x, packed, *_flat(geometry), grad_output.shape[3], partial,
                     work=n * pixels * grad_weight.size)
    _sum_slices(panels(grad_weight.size, 4096), partial.reshape(slices, -1), grad_weight.reshape(-1), work=partial.size)


@helper
def _clip(first: int, count: int, start: int, step: int, size: int) -> tuple[int, int]:
    """Return the range within [first, first + count) whose positions start + i step lie within [0, size)."""
    low, high = first, first + count
    if start + low * step < 0:
        low = min(high, (-start + step - 1) // step)
    if start + (high - 1) * step >= size:
        high = max(low, (size - 1 - start) // step + 1) if size > start else low
    return low, high


@block_kernel(writes="y", sums=True)
def _forward(block: int, x: Array, packed: Array, bias: Array, stride_y: int, stride_x: int, padding_y: int,
             padding_x: int, dilation_y: int, dilation_x: int, kernel_y: int, kernel_x: int, y: Array) -> None:
    """One panel of pixels of one group, all its filters. packed: (groups, panels, taps, ROWS)."""
    groups, filter_panels, depth, rows = packed.shape
    height, width = x.shape[2], x.shape[3]
    out_y, out_x = y.shape[2], y.shape[3]
    filters, channels = y.shape[1] // groups, x.shape[1] // groups
    columns = tile_columns(x)
    group = block % groups
    first = block // groups * columns
    last = min(first + columns, y.shape[0] * out_y * out_x)
    patches = np.empty((depth, columns), x.dtype)
    patches[:, last - first :] = 0

    begin = first
    while begin < last:                                # a run: pixels of one output row
        n, i, j = begin // (out_y * out_x), begin // out_x % out_y, begin % out_x
        count = min(out_x - j, last - begin)
        at = begin - first - j
        for c in range(channels):
            image = x[n, group * channels + c]
            for k in range(kernel_y):
                row = i * stride_y - padding_y + k * dilation_y
                for l in range(kernel_x):              # noqa: E741
                    patch = patches[(c * kernel_y + k) * kernel_x + l]
                    start = l * dilation_x - padding_x
                    low, high = _clip(j, count, start, stride_x, width)
                    if not 0 <= row < height:
                        low = high = j
                    patch[at + j : at + low] = 0
                    if stride_x == 1:
                        for p in range(low, high):
                            patch[at + p] = image[row, p + start]
                    else:
                        for p in range(low, high):
                            patch[at + p] = image[row, p * stride_x + start]
                    patch[at + high : at + j + count] = 0
        begin += count

    tile, total = np.empty((rows, columns), x.dtype), np.empty((rows, columns), x.dtype)
    images = y.reshape(y.shape[0], y.shape[1], out_y * out_x)
    for panel in range(filter_panels):
        total[:] = 0
        for k in range(0, depth, DEPTH):
            tile[:] = 0
            multiply_tile(packed[group, panel, k : k + DEPTH], patches[k : k + DEPTH], tile)
            for i in range(rows):
                for j in range(columns):
                    total[i, j] += tile[i, j]
        for i in range(min(rows, filters - panel * rows)):
            f = group * filters + panel * rows + i
            begin = first
            while begin < last:                        # a run: pixels of one image
                n, pixel = divmod(begin, out_y * out_x)
                count = min(out_y * out_x - pixel, last - begin)
                at = begin - first
                if bias.size:
                    for j in range(count):
                        images[n, f, pixel + j] = total[i, at + j] + bias[f]
                else:
                    for j in range(count):
                        images[n, f, pixel + j] = total[i, at + j]
                begin += count


@block_kernel(writes="grad_x", sums=True)
def _spread(block: int, grad_output: Array, packed: Array, bias: Array, stride_y: int, stride_x: int, padding_y: int,
            padding_x: int, dilation_y: int, dilation_x: int, kernel_x: int, groups: int, grad_x: Array) -> None:
    """ROWS input channels of one group of one image. packed: (groups taps, channel panels, filters, ROWS)."""
    taps, channel_panels, filters, rows = packed.shape[0] // groups, packed.shape[1], packed.shape[2], packed.shape[3]
    n, group, panel = block // channel_panels // groups, block // channel_panels % groups, block % channel_panels
    height, width = grad_x.shape[2], grad_x.shape[3]
    out_x = grad_output.shape[3]
    pixels = grad_output.shape[2] * out_x
    channels = grad_x.shape[1] // groups
    columns = tile_columns(grad_x)
    top = group * channels + panel * rows
    inside = min(rows, channels - panel * rows)
    images = grad_output.reshape(grad_output.shape[0], grad_output.shape[1], pixels)
    for c in range(top, top + inside):
        grad_x[n, c] = bias[c] if bias.size else 0

    gradients = np.empty((filters, columns), grad_x.dtype)
    tile = np.empty((rows, columns), grad_x.dtype)
    for first in range(0, pixels, columns):
        last = min(first + columns, pixels)
        gradients[:, last - first :] = 0
        for f in range(filters):
            for p in range(last - first):
                gradients[f, p] = images[n, group * filters + f, first + p]
        for tap in range(taps):
            k, l = tap // kernel_x, tap % kernel_x     # noqa: E741
            tile[:] = 0
            multiply_tile(packed[group * taps + tap, panel], gradients, tile)
            start = l * dilation_x - padding_x
            begin = first
            while begin < last:                        # a run: pixels of one row
                i, j = begin // out_x, begin % out_x
                count = min(out_x - j, last - begin)
                at = begin - first - j
                row = i * stride_y - padding_y + k * dilation_y
                if 0 <= row < height:
                    low, high = _clip(j, count, start, stride_x, width)
                    for c in range(inside):
                        line = grad_x[n, top + c, row]
                        if stride_x == 1:
                            for p in range(low, high):
                                line[p + start] += tile[c, at + p]
                        else:
                            for p in range(low, high):
                                line[p * stride_x + start] += tile[c, at + p]
                begin += count


@block_kernel(writes="packed")
def _pack_filters(block: int, grad_output: Array, packed: Array) -> None:
    """One panel of filters of one image, pixel by pixel. packed: (N, groups, panels, pixels, ROWS)."""
    groups, filter_panels, rows = packed.shape[1], packed.shape[2], packed.shape[4]
    n, group, panel = block // filter_panels // groups, block // filter_panels % groups, block % filter_panels
    filters = grad_output.shape[1] // groups
    images = grad_output.reshape(grad_output.shape[0], grad_output.shape[1], packed.shape[3])
    inside = min(rows, filters - panel * rows)
    if inside < rows:
        packed[n, group, panel] = 0
    for i in range(inside):
        image = images[n, group * filters + panel * rows + i]
        for p in range(len(image)):
            packed[n, group, panel, p, i] = image[p]


@block_kernel(writes="partial", sums=True)
def _correlate_slice(block: int, x: Array, packed: Array, stride_y: int, stride_x: int, padding_y: int, padding_x: int,
                     dilation_y: int, dilation_x: int, out_x: int, partial: Array) -> None:
    """A tile's width of taps of one group, all its filters, over one slice of the batch."""
    groups, filter_panels, pixels, rows = packed.shape[1], packed.shape[2], packed.shape[3], packed.shape[4]
    slices, (channels, kernel_y, kernel_x) = partial.shape[0], partial.shape[2:]
    filters, depth = partial.shape[1] // groups, channels * kernel_y * kernel_x
    height, width = x.shape[2], x.shape[3]
    columns = tile_columns(x)
    tap_panels = (depth + columns - 1) // columns
    cut, group, tap_panel = block // tap_panels // groups, block // tap_panels % groups, block % tap_panels
    first_tap = tap_panel * columns
    taps = min(columns, depth - first_tap)

    total = np.zeros((filter_panels, rows, columns), x.dtype)
    tile = np.empty((rows, columns), x.dtype)
    patches = np.zeros((DEPTH, columns), x.dtype)      # (pixel, tap)
    for n in range(cut * x.shape[0] // slices, (cut + 1) * x.shape[0] // slices):
        for first in range(0, pixels, DEPTH):
            last = min(first + DEPTH, pixels)
            for t in range(taps):
                tap = first_tap + t
                c, k, l = tap // (kernel_y * kernel_x), tap // kernel_x % kernel_y, tap % kernel_x   # noqa: E741
                image = x[n, group * channels + c]
                start = l * dilation_x - padding_x
                begin = first
                while begin < last:                    # a run: pixels of one row
                    i, j = begin // out_x, begin % out_x
                    count = min(out_x - j, last - begin)
                    at = begin - first - j
                    row = i * stride_y - padding_y + k * dilation_y
                    low, high = _clip(j, count, start, stride_x, width)
                    if not 0 <= row < height:
                        low = high = j
                    for p in range(j, low):
                        patches[at + p, t] = 0
                    for p in range(low, high):
                        patches[at + p, t] = image[row, p * stride_x + start]
                    for p in range(high, j + count):
                        patches[at + p, t] = 0
                    begin += count
            for panel in range(filter_panels):
                tile[:] = 0
                multiply_tile(packed[n, group, panel, first:last], patches[: last - first], tile)
                for i in range(rows):
                    for j in range(columns):
                        total[panel, i, j] += tile[i, j]

    weights = partial.reshape(slices, partial.shape[1], depth)
    for f in range(filters):
        for t in range(taps):
            weights[cut, group * filters + f, first_tap + t] = total[f // rows, f % rows, t]


@block_kernel(writes="total")
def _sum_slices(block: int, partial: Array, total: Array) -> None:
    """4096 elements of the sum over slices, in their order."""
    first, last = block * 4096, min(block * 4096 + 4096, len(total))
    for j in range(first, last):
        total[j] = partial[0, j]
    for i in range(1, len(partial)):
        for j in range(first, last):
            total[j] += partial[i, j]


@block_kernel(writes="total")
def _sum_channel(channel: int, grad_output: Array, total: Array) -> None:
    """The sum of one channel, in float64: eight running sums a row of the image, then all of them."""
    n, rows = grad_output.shape[0], grad_output.shape[2]
    channel_sum = 0.0
    for i in range(n):
        for j in range(rows):
            row_sum = 0.0
            for value in grad_output[i, channel, j]:
                row_sum += value
            channel_sum += row_sum
    total[channel] = channel_sum
