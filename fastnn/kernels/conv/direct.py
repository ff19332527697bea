"""Convolutions as matrix products whose second operand is never made.

A block copies its part of the image into a scratch of *phases*, zeros around it: phase (r, s) holds the pixels whose
row and column leave the remainders r and s modulo the strides. There each tap of a filter is a shift: what it reads
for the output positions q, q + 1, ... lies at offset + q, offset + q + 1, ..., the offset being the same for all
positions of the block. So the register tile walks over rows of the scratch as they lie; nothing is copied tap by tap.
Positions run over rows that are a little longer than the output's, and what falls between these is thrown away.

The input gradient is such a convolution too: of the gradient, by the taps that reach the pixels of one phase. The
weight gradient sums over pixels instead: a tile has taps for rows, single elements of the padded image at the same
distance from each other for all pixels, and filters for columns, which the gradient is put in order by.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.gemm import DEPTH, pack_columns, pack_rows, panels
from fastnn.kernels._cpu.launch import BlockKernel, Launch, block_kernel
from fastnn.kernels._cpu.llvm import ROWS, lanes
from fastnn.kernels._cpu.tiles import gather_tile, tile_columns, tile_shape, transpose_tile, walk_tile
from fastnn.kernels._cpu.tuning import (
    DIRECT_BLOCKS,
    DIRECT_CUT,
    DIRECT_FILLS,
    DIRECT_SCRATCH,
    DIRECT_SUMS,
    LEAST_BLOCKS,
)
from fastnn.kernels._cpu.vectors import row_sum
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY, result_of
from fastnn.kernels._plans import Gradients, Needs
from fastnn.kernels.conv import depthwise, narrow, sparse
from fastnn.kernels.conv._scratch import Axis, Scratch, fill, fill_part, fill_parts, plan_scratch
from fastnn.kernels.conv.geometry import Geometry, phases_of
from fastnn.kernels.kept import KeptWeight

_RUN, _LONG = 192, 1 << 16  # products of one running sum, in sums of so many at most; beyond, DEPTH of them

Convolve: TypeAlias = "Callable[..., None] | Convolution | narrow.Convolution"
Backward: TypeAlias = Callable[[Array, Array, Array], Gradients]


def form_of(weight: Array, geometry: Geometry) -> str:
    """Return what a convolution without Winograd's algorithm is called."""
    if geometry.sparse:
        return "loops over the taps that meet pixels, as zeros around the image would be far more than it"
    return "depthwise" if geometry.groups > 1 and depthwise.fits(weight) else "direct"


def plan_conv2d(x: Array, weight: Array, y: Array, relu: bool, geometry: Geometry) -> Convolve:
    """Return a function (x, weight, bias, y) of the convolution plus a bias, and with relu 0 where it is negative."""
    if geometry.sparse:
        return sparse.plan_conv2d(x, weight, y, relu, geometry)
    if geometry.groups > 1 and depthwise.fits(weight):
        return depthwise.plan_conv2d(x, weight, y, relu, geometry)
    filters = len(weight) // geometry.groups
    return _plan(x, y, geometry.groups, filters, weight[0].size, _taps(weight.shape, geometry), geometry.stride,
                 functools.partial(_pack, groups=geometry.groups), relu=relu)


def plan_conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: Needs) -> Backward:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    by_x = plan_input_gradient(grad_output, weight, None, geometry, x) if needs[0] and x.size else _nothing
    by_weight = _plan_weight_gradient(x, grad_output, weight, geometry) if needs[1] and x.size else _nothing
    return _plan_backward(lambda grad_output, x, weight, grad_x: by_x(grad_output, weight, None, grad_x),
                          lambda grad_output, x, grad_weight: by_weight(x, grad_output, grad_weight),
                          grad_output, x, weight, needs)


def plan_conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                                   needs: Needs) -> Backward:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    by_x = plan_conv2d(grad_output, weight, x, False, geometry) if needs[0] and x.size else _nothing
    by_weight = _plan_weight_gradient(grad_output, x, weight, geometry) if needs[1] and x.size else _nothing
    return _plan_backward(lambda grad_output, x, weight, grad_x: by_x(grad_output, weight, None, grad_x),
                          lambda grad_output, x, grad_weight: by_weight(grad_output, x, grad_weight),
                          grad_output, x, weight, needs)


def _nothing(*arrays: Any) -> None:
    """A gradient that nobody needs, or of no pixels."""


def _plan_backward(by_x: Callable[..., None], by_weight: Callable[..., None], grad_output: Array, x: Array,
                   weight: Array, needs: Needs) -> Backward:
    """Return the function of the gradients that are needed, by the functions that write them."""
    samples, channels, pixels = *grad_output.shape[:2], math.prod(grad_output.shape[2:])
    by_bias, none = _sum_channel.launch(channels, work=grad_output.size), x.size == 0
    new_x = result_of(x.shape, x.dtype, x).new if needs[0] else None
    new_weight = result_of(weight.shape, x.dtype, x).new if needs[1] else None

    def backward(grad_output: Array, x: Array, weight: Array) -> Gradients:
        grad_x = grad_weight = grad_bias = None
        if new_x:
            grad_x = new_x()
            by_x(grad_output, x, weight, grad_x)
        if new_weight:
            grad_weight = new_weight()
            by_weight(grad_output, x, grad_weight)
            if none:
                grad_weight[:] = 0
        if needs[2]:
            grad_bias = np.empty(channels, x.dtype)
            by_bias(grad_output.reshape(samples, channels, pixels), grad_bias)
        return grad_x, grad_weight, grad_bias

    return backward


def _taps(weight: tuple[int, ...], geometry: Geometry) -> tuple[Axis, Axis]:
    """The taps of a convolution: they reach forwards from the padding's first row and column."""
    rows, columns = (
        (tuple(k * geometry.dilation[axis] for k in range(weight[2 + axis])), -geometry.padding[axis])
        for axis in (0, 1))
    return rows, columns


def _line(stride: int, columns: tuple[int, ...], left: int, pixels: int, width: int) -> int:
    """Elements from one row of a phase to the next: what pads a row's end pads the next one's begin too."""
    reach = max(columns) // stride
    firsts, ends = [], []
    for phase in {c % stride for c in columns}:
        firsts.append(min(-((phase + left) // stride), width + reach))
        ends.append(min((pixels - 1 - phase - left) // stride + 1, width + reach))
    return max(width, *ends, width + reach - max(0, min(firsts)))


class Walk(NamedTuple):
    """How blocks walk over images and results: what compiled code takes of a plan."""

    scratch: Scratch
    shared: int                             # whether scratches are filled before, as many blocks read the same
    by_rows: int                            # whether vectors of results begin anew in each row
    cuts: int                               # parts of the filters, each for a job of every band
    first_y: int                            # the results that are written: [first_y::step_y, first_x::step_x]
    first_x: int
    step_y: int
    step_x: int
    height: int                             # how many these are
    width: int
    jobs: int                               # a job is a band of rows of one group of one image, by a cut of its filters
    run: int                                # products of one running sum
    positive: int                           # whether negative results become 0


class Convolution(NamedTuple):
    """A product of packed filters and a scratch of pixels: calling it writes the results plus a bias."""

    source: tuple[int, ...]                 # shapes, of pixels in one row where that makes no difference
    y: tuple[int, ...]
    pack: Callable[[Array, int], Array]     # makes panels of so many filters
    tile_rows: int
    layout: tuple[Array, Array, Array]      # of the scratch; see there
    places: Array                           # where the results of a group's filters begin
    scratches: tuple[int, int]              # how many of them, and elements of each
    walk: Walk
    fill: Launch | None                     # fills the scratches that blocks share
    launch: Launch

    def __call__(self, source: Array, weight: Array, bias: Array | None, y: Array,
                 kept: KeptWeight | None = None) -> None:
        dtype = y.dtype
        y = y.reshape(self.y)
        packed = (self.pack(weight, self.tile_rows) if kept is None else
                  kept.made(weight, (len(self.places), self.tile_rows), lambda own: self.pack(own, self.tile_rows)))
        source, scratches = source.reshape(self.source), empty(self.scratches, dtype)
        if self.fill is not None:
            self.fill(self.walk.scratch, *self.layout[1:], source, scratches)
        self.launch(self.walk, source, packed, *self.layout, EMPTY[dtype] if bias is None else bias, self.places,
                    scratches, y, y.reshape(-1))


def _plan(source: Array, y: Array, groups: int, filters: int, depth: int, taps: tuple[Axis, Axis],
          stride: tuple[int, int], pack: Callable[[Array, int], Array], first: tuple[int, int] = (0, 0),
          step: tuple[int, int] = (1, 1), places: Array | None = None,
          relu: bool = False) -> Convolution | narrow.Convolution:
    """Return how to write y[:, :, first::step]: images convolved by some filters a group, whose taps reach as told.

    With places, these are where the filters' results begin in a group of y.
    """
    (rows, top), (columns, left) = taps
    vector, channels = lanes(y), source.shape[1] // groups
    from_shape, to_shape = source.shape, y.shape
    height, width = (from_shape[2:] if places is not None else
                     (panels(size - begin, jump) for size, begin, jump in zip(to_shape[2:], first, step)))
    merges = rows == columns == (0,) and stride == step == (1, 1) and (top, left) == (0, 0) and (
        from_shape[2:] == (height, width) and _merges(width, vector, to_shape[0] * groups))
    reach, run = max(rows) // stride[0], _RUN if depth <= _LONG else DEPTH
    line = _line(stride[1], columns, left, from_shape[3], width)
    phases = len({r % stride[0] for r in rows}) * len({c % stride[1] for c in columns})
    if places is None and narrow.fits(filters, height * width if merges else width,
                                      channels * phases * (height + reach) * line, vector):
        return narrow.plan(source, y, groups, filters, taps, stride, line, (height, width), first, step, run, relu,
                           pack)
    if merges:
        height, width, line = 1, height * width, height * width
        from_shape, to_shape = (*from_shape[:2], 1, width), (*to_shape[:2], 1, width)
    by_rows = width >= vector
    cores = panels(LEAST_BLOCKS, to_shape[0] * groups)
    bands = min(cores, max(1, height * width // (8 * vector)))
    band = max(1, min(-(-height // bands), max(DIRECT_SCRATCH // (channels * phases * line) - reach, reach // 2 + 1)))
    slots = band * panels(width, vector) if by_rows else panels((band - 1) * line + width, vector)
    tile = tile_shape(filters, slots)
    cuts = min(panels(filters, tile[0]), panels(cores, panels(height, band)),
               max(1, filters * len(rows) * len(columns) // DIRECT_CUT))
    shared, images = cuts > DIRECT_FILLS, to_shape[0] * groups * panels(height, band)
    blocks = min(images * cuts, DIRECT_BLOCKS)
    scratch, size, layout = plan_scratch(channels, groups, taps, stride, vector, band, height, line,
                                         to_shape[0] if shared else 0)
    walk = Walk(scratch, int(shared), int(by_rows), cuts, *first, *step, height, width, images * cuts, run, int(relu))
    return Convolution(
        from_shape, to_shape, pack, tile[0], layout,
        np.arange(filters) * (to_shape[2] * to_shape[3]) if places is None else places,
        (images if shared else blocks, size + max(columns) + tile[1] * vector), walk,
        fill_parts.launch(images * scratch.parts, work=images * size) if shared else None,
        _convolve(*tile).launch(blocks, work=y.size * depth))


def _merges(width: int, vector: int, images: int) -> bool:
    """Whether the rows of an image that is not padded count as one long row."""
    return width < vector or (images >= LEAST_BLOCKS and width % vector > 0)


def _pack(weight: Array, width: int, groups: int) -> Array:
    """Return filters as panels (groups, panels, depth, width)."""
    return pack_rows(weight.reshape(groups, len(weight) // groups, -1), width)


def _pack_turned(weight: Array, width: int, groups: int, used: Array) -> Array:
    """Return filters (filters, channels, taps) as those from results to channels, by some of their taps."""
    weight = weight.reshape(*weight.shape[:2], -1)
    filters, channels, _ = weight.shape
    packed = empty((groups, panels(channels, width), filters // groups * len(used), width), weight.dtype)
    _turn(groups * packed.shape[1], weight, weight.reshape(-1), used, packed, packed.reshape(-1), work=packed.size)
    return packed


@block_kernel(writes="packed flat", typed_by="packed")
def _turn(block: int, weight: Array, source: Array, used: Array, packed: Array, flat: Array) -> None:
    """One panel of channels; both arrays, and flat."""
    group, panel = divmod(block, packed.shape[1])
    channels, taps = weight.shape[1:]
    depth, width = packed.shape[2:]
    first, filters, vector = max(0, panel * width), depth // len(used), lanes(packed)
    inside = max(0, min(width, channels - first))
    read, written = panels(width, vector) * vector * taps + vector, (panels(taps, vector) * vector + 1) * width + vector
    for f in range(filters):
        begin, target = ((group * filters + f) * channels + first) * taps, (block * depth + f * len(used)) * width
        if len(used) == taps and begin + read <= source.size and target + written <= (block + 1) * depth * width:
            # What a vector writes beyond a row is written again later: by columns on its left, by rows below.
            for t in range(0, taps, vector):
                for i in range((width - 1) // vector * vector, -1, -vector):
                    transpose_tile(source, begin + i * taps + t, taps, flat, target + t * width + i, width)
            continue
        for t in range(len(used)):
            begin_tap, at = max(0, begin + used[t]), max(0, target + t * width)
            for i in range(inside):
                flat[at + i] = source[begin_tap + i * taps]
            for i in range(inside, width):
                flat[at + i] = 0


def plan_input_gradient(grad_output: Array, weight: Array, bias: Array | None, geometry: Geometry,
                        grad_x: Array) -> Convolve:
    """Return a function (grad_output, weight, bias, grad_x) of the transposed convolution, plus a bias."""
    if geometry.sparse:
        return sparse.plan_input_gradient(grad_output, weight, geometry, grad_x)
    groups, (filters, channels) = geometry.groups, weight.shape[:2]
    if groups == filters and bias is None and depthwise.fits(weight):
        return depthwise.plan_input_gradient(grad_output, weight, geometry, grad_x)
    exact = tuple(size * step for size, step in zip(grad_output.shape[2:], geometry.stride)) == grad_x.shape[2:]
    if exact and weight.shape[2:] == geometry.stride and geometry.padding == (0, 0) and geometry.dilation == (1, 1):
        return _plan_spread(grad_output, weight, geometry, grad_x)
    rows, columns = (phases_of(weight, geometry, axis, grad_x.shape[2 + axis]) for axis in (0, 1))
    is_partial = any(len(reach) < min(step, size) for reach, step, size in zip((rows, columns), geometry.stride,
                                                                               grad_x.shape[2:]))
    phases = []
    for top, left in itertools.product(rows, columns):
        taps, used = [], []
        for reach in (rows[top], columns[left]):
            begin = min(reach.values())
            used.append(np.array(list(reach)))
            taps.append((tuple(r - begin for r in reach.values()), begin))
        chosen = (used[0][:, None] * weight.shape[3] + used[1]).ravel()
        phases.append(_plan(grad_output, grad_x, groups, channels, filters // groups * len(chosen), (taps[0], taps[1]),
                            (1, 1), functools.partial(_pack_turned, groups=groups, used=chosen), (top, left),
                            geometry.stride))
    if len(phases) == 1 and not is_partial:
        return phases[0]

    def by_phases(grad_output: Array, weight: Array, bias: Array | None, grad_x: Array) -> None:
        if is_partial:                      # no tap reaches some of the pixels
            grad_x[...] = 0 if bias is None else bias[:, None, None]
        for phase in phases:
            phase(grad_output, weight, bias, grad_x)

    return by_phases


def _plan_spread(grad_output: Array, weight: Array, geometry: Geometry, grad_x: Array) -> Convolve:
    """Where every pixel is reached once: a product by the pixel, whose results go to stride x stride pixels."""
    groups, channels, (height, width) = geometry.groups, weight.shape[1], grad_x.shape[2:]
    places = ((np.arange(channels)[:, None] * height + np.arange(geometry.stride[0]))[..., None] * width
              + np.arange(geometry.stride[1])).ravel()
    filters = len(weight) // groups

    def pack(weight: Array, width: int) -> Array:
        return pack_columns(weight.reshape(groups, filters, -1), width)

    plan = _plan(grad_output, grad_x, groups, places.size, filters, (((0,), 0), ((0,), 0)), (1, 1), pack, (0, 0),
                 geometry.stride, places)
    pixels = places.size // channels

    def spread(grad_output: Array, weight: Array, bias: Array | None, grad_x: Array) -> None:
        plan(grad_output, weight, bias if bias is None else np.repeat(bias, pixels), grad_x)

    return spread


class Share(NamedTuple):
    """How blocks take their parts of a weight gradient: what compiled code takes of a plan."""

    stride_y: int
    top: int                                # the row of an image that the first result reads, by the first tap
    left: int
    scratch_y: int                          # rows of pixels in a scratch
    line: int                               # elements from one of them to the next
    band: int                               # rows of results that are summed up at a time
    share: int                              # channels of a block
    groups: int
    packed_first: int                       # whether all of the gradient is put in order before


def _plan_weight_gradient(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Callable[..., None]:
    """Return a function (x, grad_output, grad_weight): slices of the batch by themselves, then their sum."""
    if geometry.sparse:
        return sparse.plan_weight_gradient(x, grad_output, weight, geometry)
    if depthwise.fits(weight):
        return depthwise.plan_weight_gradient(x, grad_output, weight, geometry)
    groups, (all_filters, channels, kernel_y, kernel_x) = geometry.groups, weight.shape
    (stride_y, stride_x), (dilation_y, dilation_x) = geometry.stride, geometry.dilation
    height, width = grad_output.shape[2:]
    reach, line = (kernel_y - 1) * dilation_y, (width - 1) * stride_x + (kernel_x - 1) * dilation_x + 1
    filters = all_filters // groups
    share = max(1, min(channels, DIRECT_SUMS // (kernel_y * kernel_x * filters)))
    slices = min(len(x), panels(LEAST_BLOCKS, groups * panels(channels, share)))
    share = min(share, panels(channels, panels(LEAST_BLOCKS, groups * slices)))
    band = min(height, max(1, (DIRECT_SCRATCH // (share * line) - reach) // stride_y, reach // (2 * stride_y)),
               max(1, DIRECT_SCRATCH // ((filters + tile_columns(x)) * width)))
    scratch_y = (band - 1) * stride_y + reach + 1
    parts, run, vectors, begins, walk = _walk(
        share, kernel_y, kernel_x, dilation_y, dilation_x, stride_y, stride_x, scratch_y, line, band, width,
        panels(filters, lanes(x)))
    shares, columns = panels(channels, share), vectors * lanes(x)
    blocks, filter_panels = slices * groups * shares, panels(filters, columns)
    totals = blocks, len(begins) // parts, filter_panels, parts * run, columns
    by_slice = slices, groups * shares, *totals[1:]
    packed_first = shares > 1 and slices == len(x)      # as several blocks read the same pixels of the gradient
    pixels = ((len(x) * groups, filter_panels, height * width, columns) if packed_first else
              (blocks, filter_panels, band * width, columns))
    scratches = blocks, share * scratch_y * line + lanes(x)
    pack = _pack_gradient.launch(pixels[0] * filter_panels, work=math.prod(pixels))
    multiply = _weight_gradient_slice(parts, run, vectors).launch(blocks, work=grad_output.size * weight[0].size)
    add = _sum_slices.launch(math.prod(by_slice[1:4]), work=math.prod(totals))
    shared = Share(stride_y, -geometry.padding[0], -geometry.padding[1], scratch_y, line, band, share, groups,
                   int(packed_first))

    def weight_gradient(x: Array, grad_output: Array, grad_weight: Array) -> None:
        flat, sums, packed = grad_output.reshape(-1), empty(totals, x.dtype), empty(pixels, x.dtype)
        if packed_first:
            pack(flat, filters, packed)
        multiply(shared, x, grad_output, flat, begins, walk, empty(scratches, x.dtype), packed, sums)
        add(sums.reshape(by_slice), groups, share * kernel_y * kernel_x, grad_weight.reshape(all_filters, -1))

    return weight_gradient


def _walk(channels: int, kernel_y: int, kernel_x: int, dilation_y: int, dilation_x: int, stride_y: int, stride_x: int,
          height: int, line: int, band: int, width: int, vectors: int) -> tuple[int, int, int, Array, Array]:
    """The tile of a weight gradient: parts, the run of taps in each, vectors of filters; where the taps of each
    part begin in channels of height x line, and how far from there the pixels of a band lie."""
    tall, vectors = (ROWS, 2) if vectors > 1 else (2 * ROWS, 1)
    run = kernel_x if dilation_x == 1 and kernel_x <= tall else 1
    taps = np.arange(0, kernel_x, run) * dilation_x
    begins = (np.arange(channels)[:, None, None] * (height * line) + np.arange(kernel_y)[:, None] * (dilation_y * line)
              + taps).ravel()
    parts = min(range(tall // run, max(0, tall // run - 2), -1), key=lambda parts: panels(len(begins), parts) * parts)
    begins = np.resize(begins, panels(len(begins), parts) * parts)
    walk = (np.arange(band)[:, None] * (stride_y * line) + np.arange(width) * stride_x).ravel()
    return parts, run, vectors, begins, walk


@helper
def _scatter(total: Array, at: int, rows: int, begin: int, end: int, line: int, width: int, corner: int,
             result_line: int, step: int, places: Array, result: Array) -> None:
    """Put the positions from begin to end of some filters where they belong; what lies between lines is dropped."""
    at = max(0, at)
    while begin < end:
        row, column = begin // line, begin % line
        count = max(0, min(end - begin, width - column))
        first = max(0, corner + row * result_line + column * step)
        for i in range(rows):
            place = max(0, first + places[i])
            if step == 1:
                for t in range(count):
                    result[place + t] = total[i, at + t]
            elif step == 2:
                for t in range(count):
                    result[place + t * 2] = total[i, at + t]
            else:
                for t in range(count):
                    result[place + t * step] = total[i, at + t]
        at += line - column
        begin += line - column


@functools.cache
def _convolve(tile_rows: int, tile_vectors: int) -> BlockKernel:
    """The kernel of all convolutions whose tile has this shape."""
    multiply = gather_tile(tile_rows, tile_vectors)

    @block_kernel(writes="scratches y result", sums=True)
    @named("convolve", f"{tile_rows}x{tile_vectors}")
    def convolve(block: int, walk: Walk, source: Array, packed: Array, offsets: Array, phases_y: Array,
                 phases_x: Array, bias: Array, places: Array, scratches: Array, y: Array, result: Array) -> None:
        """Jobs, each a band of rows of one group of one image, by a cut of its filters.

        packed: (groups, panels, taps, rows), result is y.
        """
        groups, filter_panels, depth = packed.shape[:3]
        line, band, cuts, width, by_rows = walk.scratch.line, walk.scratch.band, walk.cuts, walk.width, walk.by_rows
        first_column, row_step = walk.first_x, walk.step_y
        filters, results = len(places), y.shape[1] // groups
        bands, plane, vector = walk.scratch.bands, y.shape[2] * y.shape[3], lanes(y)
        columns = tile_vectors * vector
        starts = np.zeros((groups * filter_panels if bias.size else 1, tile_rows, columns), y.dtype)
        if bias.size:
            for f in range(groups * filters):
                starts[f // filters * filter_panels + f % filters // tile_rows, f % filters % tile_rows] = bias[f]
        totals = np.empty(((filter_panels + cuts - 1) // cuts, tile_rows, columns), y.dtype)
        total_at = np.arange(tile_vectors) * vector
        begins, result_at = np.empty(tile_vectors, np.int64), np.empty(tile_vectors, np.int64)
        row_vectors = (width + vector - 1) // vector
        direct = by_rows and walk.step_x == 1

        blocks = min(walk.jobs, DIRECT_BLOCKS)
        for job in range(block * walk.jobs // blocks, (block + 1) * walk.jobs // blocks):
            cut, image = job % cuts, job // cuts
            first_panel, last_panel = cut * filter_panels // cuts, (cut + 1) * filter_panels // cuts
            n, group, first_row = image // bands // groups, image // bands % groups, image % bands * band
            scratch = scratches[image if walk.shared else block]
            if not walk.shared:
                fill_part(walk.scratch, phases_y, phases_x, source, image, 0, scratch)
            rows = min(band, walk.height - first_row)
            positions = (rows - 1) * line + width
            vectors = rows * row_vectors if by_rows else (positions + vector - 1) // vector
            for v in range(0, vectors, tile_vectors):
                for j in range(tile_vectors):
                    at = min(v + j, vectors - 1)       # beyond the last, the last once more
                    if by_rows:
                        row, column = at // row_vectors, min(at % row_vectors * vector, width - vector)
                        begins[j] = row * line + column
                        result_row = walk.first_y + (first_row + row) * row_step
                        result_at[j] = result_row * y.shape[3] + first_column + column
                    else:
                        begins[j] = at * vector
                corner = (n * groups + group) * results * plane
                for k in range(0, depth, walk.run):         # what a run reads stays in the first cache for all panels
                    end, last = min(k + walk.run, depth), k + walk.run >= depth
                    for panel in range(first_panel, last_panel):
                        inside, total = min(tile_rows, filters - panel * tile_rows), totals[panel - first_panel]
                        start = total if k else starts[group * filter_panels + panel if bias.size else 0]
                        if last and direct:
                            target = result[corner + panel * tile_rows * plane :]
                            target_at, target_plane, target_rows = result_at, plane, inside
                        else:
                            target = total.reshape(-1)
                            target_at, target_plane, target_rows = total_at, columns, tile_rows
                        multiply(packed[group, panel, k:end], scratch, begins, offsets[k:end], start,
                                 walk.positive if last else 0, target, target_at, target_plane, target_rows)
                        if last and not direct:
                            for j in range(tile_vectors):
                                _scatter(total, j * vector, inside, begins[j], min(begins[j] + vector, positions), line,
                                         width, corner + (walk.first_y + first_row * row_step) * y.shape[3]
                                         + first_column, row_step * y.shape[3], walk.step_x,
                                         places[panel * tile_rows :], result)

    return convolve


@functools.cache
def _weight_gradient_slice(parts: int, run: int, tile_vectors: int) -> BlockKernel:
    """The kernel of all weight gradients whose tile has this shape."""
    multiply = walk_tile(parts, run, tile_vectors)

    @block_kernel(writes="scratches pixels totals", sums=True)
    @named("weight_gradient", f"{parts}x{run}x{tile_vectors}")
    def weight_gradient(block: int, shared: Share, x: Array, grad_output: Array, gradient: Array, begins: Array,
                        walk: Array, scratches: Array, pixels: Array, totals: Array) -> None:
        """A share of the channels of one group, all its filters, over one slice of the batch."""
        groups, share, band, scratch_y, line = (shared.groups, shared.share, shared.band, shared.scratch_y,
                                                shared.line)
        channels, filters = x.shape[1] // groups, grad_output.shape[1] // groups
        shares = (channels + share - 1) // share
        slices = totals.shape[0] // (groups * shares)
        cut, group, part = block // shares // groups, block // shares % groups, block % shares
        first_channel, last_channel = part * share, min(channels, part * share + share)
        height, width = grad_output.shape[2:]
        scratch, total = scratches[block], totals[block]
        packed = pixels[0 if shared.packed_first else block]   # (panel, position, filter)
        tap_panels, filter_panels = total.shape[:2]
        total[:] = 0
        if not shared.packed_first:
            packed[:] = 0                   # as filters beyond the last remain
        plane = scratch_y * line
        inside = np.where(begins < (last_channel - first_channel) * plane, begins, 0)
        zero = np.zeros(1, np.int64)
        for n in range(cut * x.shape[0] // slices, (cut + 1) * x.shape[0] // slices):
            for first_row in range(0, height, band):
                first = group * channels + first_channel
                fill(x, n, first, group * channels + last_channel, first_row * shared.stride_y, zero, zero, shared.top,
                     shared.left, 1, 1, scratch_y, line, scratch)
                positions = min(band, height - first_row) * width
                at = 0
                if shared.packed_first:
                    packed, at = pixels[n * groups + group], first_row * width
                else:
                    _pack_pixels(gradient[((n * groups + group) * filters * height + first_row) * width :], filters,
                                 height * width, positions, packed)
                for q in range(0, positions, DEPTH):
                    end = min(q + DEPTH, positions)
                    for panel in range(filter_panels):
                        for t in range(tap_panels):
                            multiply(scratch, inside[t * parts :], walk[q:end], packed[panel, at + q : at + end], 0,
                                     total[t, panel])

    return weight_gradient


@block_kernel(writes="packed", typed_by="packed")
def _pack_gradient(block: int, pixels: Array, filters: int, packed: Array) -> None:
    """One panel of filters of one group of one image."""
    image, panel = divmod(block, packed.shape[1])
    positions, columns = packed.shape[2:]
    first, part = panel * columns, packed[image, panel : panel + 1]
    if filters - first < columns:
        part[:] = 0                         # as filters beyond the last remain
    _pack_pixels(pixels[(image * filters + first) * positions :], min(columns, filters - first), positions, positions,
                 part)


@helper
def _pack_pixels(pixels: Array, filters: int, plane: int, positions: int, packed: Array) -> None:
    """Turn planes of pixels into panels (panel, pixel, filter)."""
    width, columns = lanes(packed), packed.shape[2]
    whole = filters // width * width if positions >= width else 0
    for f in range(0, whole, width):
        panel, column = f // columns, f % columns
        for q in range(0, positions, width):
            at = min(q, positions - width)
            transpose_tile(pixels, f * plane + at, plane, packed[panel].reshape(-1), at * columns + column, columns)
    for f in range(whole, filters):
        panel, column = f // columns, f % columns
        for q in range(positions):
            packed[panel, q, column] = pixels[f * plane + q]


@block_kernel(writes="grad_weight")
def _sum_slices(block: int, totals: Array, groups: int, share: int, grad_weight: Array) -> None:
    """One tile of the sum over slices, in their order, put where it belongs in (filters, taps).

    totals: (slice, group and share of its taps, panel of taps, panel of filters, tap, filter).
    """
    slices, parts, tap_panels, filter_panels, rows, columns = totals.shape
    part, t, panel = block // (tap_panels * filter_panels), block // filter_panels % tap_panels, block % filter_panels
    tile = totals[0, part, t, panel]
    if slices > 1:
        tile = tile.copy()
        for cut in range(1, slices):
            for i in range(rows):
                for j in range(columns):
                    tile[i, j] += totals[cut, part, t, panel, i, j]
    group, first = part // (parts // groups), part % (parts // groups) * share + t * rows
    last = min(first - t * rows + share, grad_weight.shape[1])
    filters = grad_weight.shape[0] // groups
    for j in range(min(columns, filters - panel * columns)):
        result = grad_weight[group * filters + panel * columns + j]
        for i in range(min(rows, last - first)):
            result[max(0, first) + i] = tile[i, j]


@block_kernel(writes="total", sums=True)
def _sum_channel(channel: int, grad_output: Array, total: Array) -> None:
    """The sum of one channel of (N, channels, pixels), in float64."""
    channel_sum = 0.0
    for n in range(grad_output.shape[0]):
        channel_sum += row_sum(grad_output[n, channel])
    total[channel] = channel_sum
