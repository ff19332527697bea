"""Winograd's convolutions F(4 x 4, 3 x 3) and F(2 x 2, 5 x 5): 36 products a filter and channel for the results of a
tile, 16 or 4, instead of 144 or 100.

A tile of results y reads 6 x 6 pixels d of each channel, and

    y = A^T [ sum over channels of (G w G^T) * (B^T d B) ] A,

products of 36 numbers one by one (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016,
equation 12): 36 matrix products over the channels. The input gradient is such a convolution of the gradient by the
filters turned round. The weight gradient is in `winograd_weights`.

A block takes some tiles through all steps while they are in its cache; only where many blocks, each of some filters,
read the same tiles, these are transformed before. Lanes of a vector are channels of pixels, and
filters of results, which go out as the pixels came in: by transposing vectors of them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.llvm import ROWS, VECTORS, lanes
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tiles import tile_columns, transpose_tile, walk_tile
from fastnn.kernels._cpu.tuning import LEAST_BLOCKS, WINOGRAD_CACHED_FILTERS, WINOGRAD_FEW, WINOGRAD_SHARERS
from fastnn.kernels._cpu.vectors import STREAMED
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels.conv._tiles import PRODUCTS, SIDE, matrices, places, results_of, staged_pixels, tile_loader
from fastnn.kernels.conv._transforms import put_pixels, transform_tile, transformed_products
from fastnn.kernels.conv.geometry import Geometry
from fastnn.kernels.kept import KeptWeight

_RUN = 128                                  # channels of one running sum, and of filters that a block transforms itself
_LINES = _RUN + 1                           # of these in memory: at powers of 2 products would share few cache lines


def pack(weight: Array, backward: bool = False) -> Array:
    """Return the transformed filters, in the order in which tiles read them: (panels, products, channels, columns)."""
    results, channels = (weight.shape[1], len(weight)) if backward else weight.shape[:2]
    columns = tile_columns(weight)
    packed = empty((panels(results, columns), PRODUCTS, channels, columns), weight.dtype)
    cuts = min(channels, panels(LEAST_BLOCKS, len(packed)))
    _pack(weight.shape[2])(len(packed) * cuts, weight.reshape(-1), int(backward), results, cuts, packed,
                           packed.reshape(-1), work=packed.size)
    return packed


@functools.cache
def _pack(taps: int) -> BlockKernel:
    """The kernel that transforms filters of taps x taps."""
    pack_panel = _panel_packer(taps)

    @block_kernel(writes="packed flat")
    @named("pack", taps)
    def pack(block: int, weight: Array, backward: int, results: int, cuts: int, packed: Array, flat: Array) -> None:
        """A cut of the channels of one panel of filters."""
        channels, columns = packed.shape[2], packed.shape[3]
        panel, cut = block // cuts, block % cuts
        first, end = cut * channels // cuts, (cut + 1) * channels // cuts
        pack_panel(weight, backward, results, channels, panel * columns, first, end, flat,
                   (panel * PRODUCTS * channels + first) * columns, channels, columns)

    return pack


def pack_taps(weight: Array) -> Array:
    """Return the filters as they are, a vector of them side by side: (vectors, channels, taps, lanes)."""
    filters, channels, vector = *weight.shape[:2], lanes(weight)
    packed = np.zeros((panels(filters, vector), channels, weight[0, 0].size, vector), weight.dtype)
    for first, part in zip(range(0, filters, vector), packed):
        own = weight[first : first + vector]
        part[..., : len(own)] = own.reshape(len(own), channels, -1).transpose(1, 2, 0)
    return packed


@functools.cache
def _panel_packer(taps: int) -> Any:
    """Return the function that transforms some channels of a panel of filters, or of the filters turned round."""
    _, g, _ = matrices(taps)
    transform, count = transform_tile(g, g), taps * taps

    @helper
    @named("pack_panel", taps)
    def pack_panel(weight: Array, backward: int, results: int, channels: int, first_result: int, first: int, end: int,
                   packed: Array, begin: int, height: int, columns: int) -> None:
        """A product is height x columns."""
        vector = lanes(packed)
        loaded = (count + vector - 1) // vector * vector
        result_step, channel_step = (count, results * count) if backward else (channels * count, count)
        pixels = np.zeros(loaded * vector, packed.dtype)
        corner, step = ((count - 1) * vector, -vector) if backward else (0, vector)
        for c in range(first, end):
            for left in range(0, columns, vector):
                result = first_result + left
                source = result * result_step + c * channel_step
                if result + vector <= results and source + (vector - 1) * result_step + loaded <= weight.size:
                    for t in range(0, count, vector):
                        transpose_tile(weight, source + t, result_step, pixels, t * vector, vector)
                else:
                    for t in range(count):
                        for r in range(vector):
                            inside = result + r < results
                            pixels[t * vector + r] = weight[source + t + r * result_step] if inside else 0
                transform(pixels, corner, taps * step, step, packed, begin + (c - first) * columns + left,
                          SIDE * height * columns, height * columns)

    return pack_panel


class Cut(NamedTuple):
    """What blocks do, each a cut of the filters over a group of tiles: what compiled code takes of a plan."""

    pad_y: int                              # rows of zeros before an image
    pad_x: int
    group: int                              # tiles in each
    cuts: int                               # of the filters
    backward: int                           # whether filters are turned round
    fused: int                              # whether a block transforms the filters, which it alone uses, itself
    few: int                                # whether it does so anew for each tile, from what `pack_taps` made
    shared: int                             # whether tiles were transformed before, as many blocks read the same
    positive: int                           # whether negative results become 0


class Winograd(NamedTuple):
    """A convolution by tiles: calling it writes the results plus a bias.

    It returns for each image whether all of its sums are finite: where they are not, a tile's NaN or inf may have come
    to more of its results than the formula says.
    """

    cut: Cut
    places: tuple[Array, Array]             # where pixels of a row of x and of y lie among their tiles, in vectors
    offsets: Array                          # from a tile's product for the first channel to that for any other
    biases: int                             # filters, and those that fill up their last panel
    staged: int                             # elements of a worker's scratch for pixels
    transformed: int                        # and for transformed tiles
    totals: tuple[int, int]                 # and for sums of products
    groups: int                             # of tiles
    streamed: bool
    load: BlockKernel
    load_blocks: int
    convolve: BlockKernel
    work: int

    def __call__(self, x: Array, weight: Array, bias: Array | None, y: Array, kept: KeptWeight | None = None) -> Array:
        cut, dtype, workers = self.cut, y.dtype, get_num_threads()
        few, columns = kept is not None and kept.constant and cut.few, self.totals[1]
        cut = cut._replace(few=int(few), fused=cut.fused if kept is None else 0)
        if kept is None:
            packed = (empty((workers, PRODUCTS, _LINES, columns), dtype) if cut.fused else
                      pack(weight, bool(cut.backward)))
        elif few:                           # fewer bytes to read than those of transformed filters
            packed, weight = empty((1, 1, 1, columns), dtype), kept.made(weight, "winograd, taps", pack_taps)
        else:
            packed = kept.made(weight, "winograd", pack)
        if bias is None:
            biases = EMPTY[dtype]
        else:
            biases = np.zeros(self.biases, dtype)
            biases[: len(bias)] = bias
        finite, pixels, staging = np.ones(len(x), np.uint8), x.reshape(-1), empty((workers, self.staged), dtype)
        transformed = empty((self.groups if cut.shared else workers, self.transformed), dtype)
        if cut.shared:
            self.load(self.load_blocks, x, pixels, *y.shape[2:], cut.pad_y, cut.pad_x, self.places[0], cut.group,
                      staging, transformed, work=transformed.size, workers=workers)
        self.convolve(self.groups * cut.cuts, cut, x, pixels, weight.reshape(-1), packed, packed.reshape(-1),
                      self.offsets, *self.places, biases, staging, transformed, empty((workers, *self.totals), dtype),
                      self.streamed, y, y.reshape(-1), finite, work=self.work, workers=workers)
        return finite.view(bool)


def plan_conv2d(x: Array, weight: Array, y: Array, relu: bool, geometry: Geometry) -> Winograd:
    """Return a function (x, weight, bias, y, kept)."""
    return _plan(x, weight, y, geometry.padding, False, relu)


def plan_input_gradient(grad_output: Array, weight: Array, geometry: Geometry, grad_x: Array) -> Winograd:
    """Return a function (grad_output, weight, None, grad_x)."""
    last = weight.shape[2] - 1
    padding = last - geometry.padding[0], last - geometry.padding[1]
    return _plan(grad_output, weight, grad_x, padding, True, False)


def _plan(x: Array, weight: Array, y: Array, padding: tuple[int, int], backward: bool, relu: bool) -> Winograd:
    taps, vector, columns, channels = weight.shape[2], lanes(y), tile_columns(y), x.shape[1]
    out, filter_panels = results_of(taps), panels(y.shape[1], columns)
    across = panels(y.shape[3], out)
    tiles = y.shape[0] * panels(y.shape[2], out) * across
    # Of two tiles the small one is for few rows alone: for a tenth of the time nobody wants to compile it.
    large, small = (panels(tiles, rows) * (rows + 1) for rows in (ROWS, ROWS * 4 // 7))
    rows = ROWS * 4 // 7 if 10 * small < 9 * large else ROWS
    groups = panels(tiles, 3 * ROWS)
    if channels * y.shape[1] < WINOGRAD_CACHED_FILTERS:     # they stay in the cache, so blocks may as well be small
        groups = max(groups, min(LEAST_BLOCKS, panels(tiles, rows)))
    group = panels(panels(tiles, groups), rows) * rows
    groups = panels(tiles, group)
    cuts = max(1, min(filter_panels // 2, panels(LEAST_BLOCKS, groups)))
    shared, chunks, channel = cuts > WINOGRAD_SHARERS, panels(channels, vector), np.arange(channels)
    return Winograd(
        Cut(*padding, group, cuts, int(backward), int(groups == 1), int(tiles <= WINOGRAD_FEW and group == rows),
            int(shared), int(relu)),
        (places(x.shape[3], out * across + taps - 1, vector), places(y.shape[3], out * across, vector)),
        channel // vector * (PRODUCTS * group * vector) + channel % vector, filter_panels * columns,
        staged_pixels(group, across, SIDE, out) * vector, chunks * PRODUCTS * group * vector,
        (PRODUCTS * group, columns), groups, y.nbytes >= STREAMED, _load_groups(taps), groups * chunks,
        _convolve_tiles(taps, rows), y.size * channels)


@helper
def _unstage(staged: Array, places: Array, first: int, end: int, corner: int, bias: Array, bias_begin: int,
             positive: int, pixels: Array, begin: int, plane: int, channels: int, streamed: bool) -> int:
    """Put pixels first to end back into their channels; returns 1 if all are finite, else 0."""
    vector, finite = lanes(staged), 1
    width, line = places.size - vector, places[places.size - vector]
    if end - first >= vector:
        for q in range(first, end, vector):
            row, column = min(q, end - vector) // width, min(q, end - vector) % width
            finite &= put_pixels(staged, places, column, corner + row * line, bias, bias_begin, positive, pixels,
                                 begin + row * width, plane, channels, streamed)
        return finite
    zero = pixels.dtype.type(0)
    for q in range(first, end):
        place = (corner + q // width * line + q % width) * vector
        for c in range(channels):
            value = staged[place + c]
            if value * zero != zero:
                finite = 0
            if bias_begin >= 0:
                value += bias[bias_begin + c]
            pixels[begin + c * plane + q] = zero if positive and value < zero else value
    return finite


@functools.cache
def _load_groups(taps: int) -> BlockKernel:
    """The kernel that transforms tiles for several blocks."""
    load, out = tile_loader(taps), results_of(taps)

    @block_kernel(writes="staging transformed")
    @named("load_groups", taps)
    def load_groups(block: int, worker: int, x: Array, pixels: Array, height: int, width: int, pad_y: int, pad_x: int,
                    places: Array, group: int, staging: Array, transformed: Array) -> None:
        """A vector of channels of a group of tiles, of results of height x width."""
        images, channels = x.shape[:2]
        down, across, vector = (height + out - 1) // out, (width + out - 1) // out, lanes(x)
        chunks, size = (channels + vector - 1) // vector, PRODUCTS * group * vector
        first, chunk = block // chunks * group, block % chunks
        load(0, x, pixels, chunk * vector, min(channels, chunk * vector + vector), first,
             min(images * down * across, first + group), down, across, pad_y, pad_x, places, staging[worker],
             transformed[block // chunks, chunk * size : chunk * size + size], vector, group * vector, 0, 0, 1)

    return load_groups


@functools.cache
def _convolve_tiles(taps: int, tile_rows: int) -> BlockKernel:
    """The kernel of all convolutions of filters of taps x taps whose register tile has so many rows."""
    a, g, _ = matrices(taps)
    out, load, pack_panel = results_of(taps), tile_loader(taps), _panel_packer(taps)
    transform_sums = transform_tile(a, a)
    multiply, multiply_taps = walk_tile(1, tile_rows, VECTORS, apart=1), transformed_products(g, tile_rows)

    @block_kernel(writes="packed packed_flat staging transformed totals y result finite")
    @named("convolve", taps, tile_rows)
    def convolve(block: int, worker: int, part: Cut, x: Array, pixels: Array, weight: Array, packed: Array,
                 packed_flat: Array, offsets: Array, places: Array, y_places: Array, bias: Array, staging: Array,
                 transformed: Array, totals: Array, streamed: bool, y: Array, result: Array, finite: Array) -> None:
        """A cut of the filters over a group of tiles."""
        group, cuts, fused = part.group, part.cuts, part.fused
        staged, total = staging[worker], totals[worker]
        tiles = transformed[block // cuts if part.shared else worker]
        sums, channels, columns = total.reshape(-1), x.shape[1], packed.shape[3]
        images, filters, height, width = y.shape
        filter_panels = (filters + columns - 1) // columns
        down, across, vector = (height + out - 1) // out, (width + out - 1) // out, lanes(y)
        line, begins, cut = out * across, np.zeros(1, np.int64), block % cuts
        first = block // cuts * group
        end = min(images * down * across, first + group)
        if not part.shared:
            load(0, x, pixels, 0, channels, first, end, down, across, part.pad_y, part.pad_x, places, staged, tiles,
                 vector, group * vector, PRODUCTS * group * vector, 0, channels)
        for panel in range(cut * filter_panels // cuts, (cut + 1) * filter_panels // cuts):
            for c in range(0, channels, _RUN):
                last = min(channels, c + _RUN)
                if part.few:
                    for left in range(0, columns, vector):
                        f = panel * columns + left
                        begin = (min(f, (filters - 1) // vector * vector) * channels + c * vector) * taps * taps
                        for t in range(end - first):
                            multiply_taps(weight, begin, tiles, t * vector, offsets[c:last], int(c == 0), sums,
                                          t * columns + left, group * columns)
                    continue
                if fused:
                    pack_panel(weight, part.backward, filters, channels, panel * columns, c, last, packed_flat,
                               worker * PRODUCTS * _LINES * columns, _LINES, columns)
                for k in range(PRODUCTS):
                    rows = packed[worker, k, : last - c] if fused else packed[panel, k, c:last]
                    for t in range(0, end - first, tile_rows):
                        begins[0] = (k * group + t) * vector
                        multiply(tiles, begins, offsets[c:last], rows, int(c == 0),
                                 total[k * group + t : k * group + t + tile_rows])
            for left in range(0, min(columns, filters - panel * columns), vector):
                f = panel * columns + left
                inside = min(vector, filters - f)
                t = first
                while t < end:                              # a row of an image's tiles, or what is here of it
                    n, i, j = t // (down * across), t // across % down, t % across
                    count = min(end - t, across - j)
                    for s in range(count):
                        transform_sums(sums, (t + s - first) * columns + left, SIDE * group * columns,
                                       group * columns, staged, (j + s) * out * vector, line * vector, vector)
                    step = 1 if count < across else out
                    begin = (n * filters + f) * height * width
                    for row in range(i * out, min(height, i * out + out), step):
                        last = min(height, row + step) * width
                        if count < across:
                            last = row * width + min(width, (j + count) * out)
                        if not _unstage(staged, y_places, row * width + j * out, last, -i * out * line, bias,
                                        f if bias.size else -1, part.positive, result, begin, height * width, inside,
                                        streamed):
                            finite[n] = 0
                    t += count

    return convolve
