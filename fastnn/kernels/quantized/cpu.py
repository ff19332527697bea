"""Convolutions of bytes as products of packed panels, see `byte_gather_tile`, and loops that LLVM vectorizes.

A block copies the pixels that it reads to a slab, with what lies around the image and channels up to whole words, so
that the tile reads every pixel of a filter where it lies. Its own pixels are rows of the tile, filters its columns.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper, named
from fastnn.kernels._cpu.dot import LANES, byte_gather_tile, byte_tile_shape
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.tuning import CHUNK, INT8_PIXELS, LEAST_BLOCKS
from fastnn.kernels._cpu.vectors import lookup_vectors
from fastnn.kernels._plans import because
from fastnn.kernels.conv.geometry import Geometry
from fastnn.kernels.kept import KeptWeight

Pair = tuple[int, int]

_NO_BYTES = np.empty(0, np.uint8)


@inlined_helper
def _byte(value: Any) -> np.uint8:
    """The nearest byte; 0 for NaN."""
    positive = value if value > 0 else type(value)(0)
    return np.uint8(np.rint(positive if positive < 255 else type(value)(255)))


@inlined_helper
def _number(value: Any) -> Any:
    return value


# --- one byte for one number -----------------------------------------------------------------------------------------


@block_kernel(writes="y")
def _quantize(block: int, x: Array, scale: Any, zero_point: Any, y: Array) -> None:
    """A run of pixels; x is (N, channels, pixels), y (N, pixels, channels)."""
    runs = panels(x.shape[2], CHUNK)
    n, run = divmod(block, runs)
    first, last = run * CHUNK, min(run * CHUNK + CHUNK, x.shape[2])
    channels, image = x.shape[1], y[n]
    line = np.empty(last - first, np.uint8)
    for c in range(channels):
        row = x[n, c, first:last]
        for i in range(line.size):
            line[i] = _byte(row[i] / scale + zero_point)
        for i in range(line.size):
            image[first + i, c] = line[i]


def plan_quantize_per_tensor(x: Array, zero_point: int) -> Callable[..., None]:
    """Return a function (x, scale, y)."""
    channels = x.shape[1] if x.ndim == 4 else 1
    planes, rows = (len(x), channels, -1), (len(x), -1, channels)
    if x.size == 0:
        return lambda x, scale, y: None
    real = x.dtype.type
    launch = _quantize.launch(len(x) * panels(x.size // len(x) // channels, CHUNK), work=4 * x.size)
    return lambda x, scale, y: launch(x.reshape(planes), real(scale), real(zero_point), y.reshape(rows))


@block_kernel(writes="y")
def _lookup(block: int, x: Array, table: Array, y: Array) -> None:
    for i in range(block * CHUNK, min(x.size, block * CHUNK + CHUNK)):
        y[i] = table[x[i]]


@block_kernel(writes="y")
def _lookup_bytes(block: int, x: Array, table: Array, y: Array) -> None:
    first, last = block * CHUNK, min(x.size, block * CHUNK + CHUNK)
    for i in range(lookup_vectors(x, table, y, first, last), last):
        y[i] = table[x[i]]


def plan_lookup_int8(x: Array, table: Array) -> Callable[..., None]:
    """Return a function (x, table, y)."""
    kernel = _lookup_bytes if table.dtype == np.uint8 else _lookup
    launch = kernel.launch(panels(x.size, CHUNK), work=x.size)
    return lambda x, table, y: launch(x.reshape(-1), table, y.reshape(-1))


# --- convolutions ----------------------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """How blocks of a convolution lie in the images; all lengths in bytes of the slab are its own."""

    images: int                             # of a block
    rows: int                               # of the result in a block
    bands: int                              # blocks that share an image
    cuts: int                               # blocks that share these pixels, each with a part of the filters
    groups: int
    slab_rows: int
    slab_columns: int
    word_channels: int                      # channels of a group, up to a whole word
    top: int                                # of the first slab in an image
    left: int
    step: int                               # from one band's first row in an image to the next one's
    zero_point: int


def pack_filters(weight: Array, groups: int, columns: int) -> Array:
    """Return filters as panels of words: (groups, panels, KH KW C / 4, columns, 4), zeros behind the last ones."""
    filters, channels, kh, kw = weight.shape
    per_group, words = filters // groups, panels(channels, 4)
    padded = np.zeros((groups, panels(per_group, columns) * columns, kh, kw, 4 * words), np.int8)
    padded[:, :per_group, :, :, :channels] = weight.reshape(groups, per_group, channels, kh, kw).transpose(
        0, 1, 3, 4, 2)
    return np.ascontiguousarray(padded.reshape(groups, -1, columns, kh * kw * words, 4).transpose(0, 1, 3, 2, 4))


def _sums(weight: Array, groups: int, columns: int) -> Array:
    """Return the sum of each filter in the order of panels: (groups, filters)."""
    sums = weight.reshape(groups, len(weight) // groups, -1).sum(2, np.int32)
    return np.pad(sums, ((0, 0), (0, -sums.shape[1] % columns)))


def _made(kept: KeptWeight | None, weight: Array, form: Any, make: Callable[[Array], Array]) -> Array:
    """Return what `make` makes of a weight, of constant ones what is kept of it."""
    return make(weight) if kept is None or not kept.constant else kept.made(weight, form, make)


@helper
def _fill(x: Array, first: int, count: int, group: int, channels: int, top: int, walk: Walk, slab: Array) -> None:
    """Copy what a block reads of some images; around them lie zero points, behind a pixel's channels anything."""
    height, width, wide = x.shape[1], x.shape[2], walk.word_channels
    line = walk.slab_columns * wide
    begin, end = max(0, -walk.left), min(walk.slab_columns, width - walk.left)
    whole = wide == channels and channels == x.shape[3]
    for i in range(count):
        for row in range(walk.slab_rows):
            at = (i * walk.slab_rows + row) * line
            h = top + row
            if h < 0 or h >= height or begin >= end:
                slab[at : at + line] = walk.zero_point
                continue
            slab[at : at + begin * wide] = walk.zero_point
            slab[at + end * wide : at + line] = walk.zero_point
            pixels = x[first + i, h]
            if whole:
                source = pixels.reshape(-1)[(walk.left + begin) * wide : (walk.left + end) * wide]
                target = slab[at + begin * wide : at + end * wide]
                for b in range(source.size):
                    target[b] = source[b]
            else:
                for column in range(begin, end):
                    place = at + column * wide
                    for c in range(channels):
                        slab[place + c] = pixels[walk.left + column, group * channels + c]
                    for c in range(channels, wide):
                        slab[place + c] = 0


@functools.cache
def _convolve(rows: int, vectors: int, result: str) -> BlockKernel:
    """The kernel of all convolutions whose tile has this shape, with results of this dtype."""
    tile, columns = byte_gather_tile(rows, vectors), vectors * LANES

    @block_kernel(writes="y")
    @named("convolve", f"{rows}x{vectors}", result)
    def convolve(block: int, walk: Walk, x: Array, begins: Array, offsets: Array, packed: Array, start: Array,
                 scale: Array, bias: Array, residual: Array, residual_scale: Any, y: Array) -> None:
        rest, cut = divmod(block, walk.cuts)
        rest, group = divmod(rest, walk.groups)
        part, band = divmod(rest, walk.bands)
        height, width, all_filters = y.shape[1], y.shape[2], y.shape[3]
        filters, first = all_filters // walk.groups, part * walk.images
        images = min(walk.images, x.shape[0] - first)
        pixels = images * min(walk.rows, height - band * walk.rows) * width
        slab = np.empty(walk.images * walk.slab_rows * walk.slab_columns * walk.word_channels, np.uint8)
        _fill(x, first, images, group, x.shape[3] // walk.groups, walk.top + band * walk.step, walk, slab)
        top = (first * height + band * walk.rows) * width
        all_panels, panel_bytes = packed.shape[1], packed.shape[2] * columns * 4
        for panel in range(all_panels * cut // walk.cuts, all_panels * (cut + 1) // walk.cuts):
            left, at = group * filters + panel * columns, group * all_panels + panel
            for p in range(0, pixels, rows):
                tile(slab, begins, p, offsets, packed.reshape(-1), at * panel_bytes, start, at * columns, scale, bias,
                     left, residual, residual_scale, y.reshape(-1), (top + p) * all_filters + left, all_filters,
                     pixels - p, filters - panel * columns)

    return convolve


@functools.cache
def _convolve_channels(result: str) -> BlockKernel:
    """The kernel of convolutions with one filter a channel: loops over channels, which lie together."""
    finish = _byte if result == "uint8" else _number

    @block_kernel(writes="y")
    @named("convolve_channels", result)
    def convolve_channels(block: int, stride: Pair, padding: Pair, dilation: Pair, zero_point: Any, x: Array,
                          weight: Array, scale: Array, bias: Array, residual: Array, residual_scale: Any,
                          y: Array) -> None:
        """A row of one image's result; weight is (KH, KW, C)."""
        n, i = divmod(block, y.shape[1])
        height, width, channels = x.shape[1], x.shape[2], x.shape[3]
        sums, ones = np.empty(channels, np.int32), np.empty(channels, np.float32)
        for j in range(y.shape[2]):
            sums[:] = 0
            for a in range(weight.shape[0]):
                h = i * stride[0] - padding[0] + a * dilation[0]
                for b in range(weight.shape[1]):
                    w = j * stride[1] - padding[1] + b * dilation[1]
                    if 0 <= h < height and 0 <= w < width:
                        pixel, filters = x[n, h, w], weight[a, b]
                        for c in range(channels):
                            sums[c] += np.int32((np.int32(pixel[c]) - zero_point) * np.int32(filters[c]))
            for c in range(channels):
                ones[c] = np.float32(sums[c]) * scale[c] + bias[c]
            if residual.size:
                others = residual[(block * y.shape[2] + j) * channels :]
                for c in range(channels):
                    ones[c] += residual_scale * np.float32(others[c])
            line = y[n, i, j]
            for c in range(channels):
                line[c] = finish(ones[c])

    return convolve_channels


def _plan_channels(weight: Array, shape: tuple[int, ...], geometry: Geometry, zero_point: int,
                   dtype: np.dtype) -> Callable[..., None]:
    """Return a function (x, weight, scale, bias, residual, residual_scale, kept, y) for one filter a channel."""
    launch = functools.partial(
        _convolve_channels(dtype.name).launch(shape[0] * shape[1], work=math.prod(shape) * weight[0].size),
        geometry.stride, geometry.padding, geometry.dilation, np.int32(zero_point))
    no_bias = np.zeros(shape[3], np.float32)

    def turned(weight: Array) -> Array:
        return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))

    def convolve(x: Array, weight: Array, scale: Array, bias: Array | None, residual: Array | None,
                 residual_scale: float, kept: KeptWeight | None, y: Array) -> None:
        launch(x, _made(kept, weight, "int8 channels", turned), scale, no_bias if bias is None else bias,
               _NO_BYTES if residual is None else residual.reshape(-1), np.float32(residual_scale), y)

    return convolve


def plan_conv2d_int8(x: Array, weight: Array, residual: Array | None, shape: tuple[int, ...], geometry: Geometry,
                     zero_point: int, dtype: np.dtype) -> Callable[..., None]:
    """Return a function (x, weight, scale, bias, residual, residual_scale, kept, y)."""
    n, height, width, filters = shape
    if 0 in shape:
        return lambda *arrays: None
    if 1 < geometry.groups == x.shape[3] == filters:
        return because("one filter a channel, by loops over channels",
                       _plan_channels(weight, shape, geometry, zero_point, dtype))
    groups, (kh, kw) = geometry.groups, weight.shape[2:]
    rows, vectors = byte_tile_shape(filters // groups)
    columns, channels = vectors * LANES, panels(weight.shape[1], 4) * 4
    parts = panels(filters // groups, columns)
    # Whole images, or bands of one: about as many pixels as share a filter's way from memory.
    band = min(height, max(1, INT8_PIXELS // width))
    images = min(max(1, INT8_PIXELS // (height * width)), max(1, n * groups // LEAST_BLOCKS)) if band == height else 1
    bands = panels(height, band)
    blocks = panels(n, images) * bands * groups
    cuts = min(parts, panels(LEAST_BLOCKS, blocks))
    reach = [(size - 1) * s + (k - 1) * d + 1 for size, s, k, d in zip(
        (band, width), geometry.stride, (kh, kw), geometry.dilation)]
    walk = Walk(images, band, bands, cuts, groups, reach[0], reach[1], channels, -geometry.padding[0],
                -geometry.padding[1], band * geometry.stride[0], zero_point)
    line, (down, across) = reach[1] * channels, geometry.stride
    begins = ((np.arange(images) * reach[0] * line)[:, None, None] + (np.arange(band) * down * line)[:, None]
              + np.arange(width) * across * channels).ravel()
    begins = np.append(begins, np.zeros(rows, np.int64))        # of pixels that a last tile has too many
    offsets = ((np.arange(kh) * geometry.dilation[0] * line)[:, None, None]
               + (np.arange(kw) * geometry.dilation[1] * channels)[:, None] + np.arange(0, channels, 4)).ravel()
    launch = _convolve(rows, vectors, dtype.name).launch(blocks * cuts, work=math.prod(shape) * offsets.size)
    form = "int8", groups, columns
    no_bias = np.zeros(filters, np.float32)

    def pack(weight: Array) -> Array:
        return pack_filters(weight.reshape(filters, -1, kh, kw), groups, columns)

    def summed(weight: Array) -> Array:
        return (-zero_point * _sums(weight, groups, columns)).ravel()

    def convolve(x: Array, weight: Array, scale: Array, bias: Array | None, residual: Array | None,
                 residual_scale: float, kept: KeptWeight | None, y: Array) -> None:
        launch(walk, x, begins, offsets, _made(kept, weight, form, pack),
               _made(kept, weight, (*form, zero_point), summed), scale, no_bias if bias is None else bias,
               _NO_BYTES if residual is None else residual.reshape(-1), np.float32(residual_scale), y)

    return because("products of bytes, whose sums are exact", convolve)


# --- pooling ---------------------------------------------------------------------------------------------------------


@block_kernel(writes="y")
def _maxima(block: int, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, x: Array, y: Array) -> None:
    """A row of one image's result."""
    n, i = divmod(block, y.shape[1])
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for j in range(y.shape[2]):
        best = y[n, i, j]
        best[:] = 0
        for a in range(kernel[0]):
            h = i * stride[0] - padding[0] + a * dilation[0]
            if h < 0 or h >= height:
                continue
            for b in range(kernel[1]):
                w = j * stride[1] - padding[1] + b * dilation[1]
                if w < 0 or w >= width:
                    continue
                cells = x[n, h, w]
                for c in range(channels):
                    best[c] = max(best[c], cells[c])


def plan_max_pool2d_int8(x: Array, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair,
                         dilation: Pair) -> Callable[..., None]:
    """Return a function (x, y)."""
    launch = _maxima.launch(shape[0] * shape[1], work=math.prod(shape) * math.prod(kernel))
    return functools.partial(launch, kernel, stride, padding, dilation)
