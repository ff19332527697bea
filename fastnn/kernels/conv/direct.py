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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.gemm import DEPTH, pack_columns, pack_rows, panels
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.llvm import ROWS, lanes
from fastnn.kernels._cpu.tiles import gather_tile, tile_columns, tile_shape, transpose_tile, walk_tile
from fastnn.kernels._cpu.tuning import DIRECT_BLOCKS, DIRECT_CUT, DIRECT_SCRATCH, DIRECT_SUMS, LEAST_BLOCKS
from fastnn.kernels._cpu.vectors import row_sum
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels.conv import depthwise, sparse
from fastnn.kernels.conv._scratch import fill, layout

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

_RUN, _LONG = 192, 1 << 16  # products of one running sum, in sums of so many at most; beyond, DEPTH of them

Axis = tuple[tuple[int, ...], int]              # shifts of an axis' taps in its scratch, and the first pixel there


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, y: Array) -> None:
    """Write the convolution plus a bias, and with relu 0 where that is negative."""
    if geometry.sparse:
        sparse.conv2d(x, weight, bias, relu, geometry, y)
        return
    if geometry.groups > 1 and depthwise.fits(weight):
        depthwise.conv2d(x, weight, bias, relu, geometry, y)
        return
    filters = weight.reshape(geometry.groups, len(weight) // geometry.groups, -1)
    _convolve_phase(x, filters, bias, relu, geometry, _taps(weight.shape, geometry), geometry.stride, (0, 0),
                    (1, 1), y)


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    ) -> tuple[Array | None, Array | None, Array | None]:
    grad_x = empty(x.shape, x.dtype) if needs[0] else None
    grad_weight = _empty_gradient(weight, len(x)) if needs[1] else None
    grad_bias = _channel_sums(grad_output) if needs[2] else None
    if x.size:
        if grad_x is not None:
            _input_gradient(grad_output, weight, None, geometry, grad_x)
        if grad_weight is not None:
            _weight_gradient(x, grad_output, geometry, grad_weight)
    return grad_x, grad_weight, grad_bias


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    _input_gradient(x, weight, bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> tuple[Array | None, Array | None, Array | None]:
    grad_x = empty(x.shape, x.dtype) if needs[0] else None
    grad_weight = _empty_gradient(weight, len(x)) if needs[1] else None
    grad_bias = _channel_sums(grad_output) if needs[2] else None
    if x.size:
        if grad_x is not None:
            conv2d(grad_output, weight, None, False, geometry, grad_x)
        if grad_weight is not None:
            _weight_gradient(grad_output, x, geometry, grad_weight)
    return grad_x, grad_weight, grad_bias


def _empty_gradient(weight: Array, images: int) -> Array:
    return empty(weight.shape, weight.dtype) if images else np.zeros_like(weight)


def _channel_sums(grad_output: Array) -> Array:
    total = np.zeros(grad_output.shape[1], grad_output.dtype)
    pixels = grad_output.shape[2] * grad_output.shape[3]
    _sum_channel(len(total), grad_output.reshape(*grad_output.shape[:2], pixels), total, work=grad_output.size)
    return total


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


def _convolve_phase(source: Array, filters: Array, bias: Array | None, relu: bool, geometry: Geometry,
                    taps: tuple[Axis, Axis], stride: tuple[int, int], first: tuple[int, int], step: tuple[int, int],
                    y: Array, places: Array | None = None, used: Array | None = None) -> None:
    """Write y[:, :, first::step]: images convolved by filters (groups, filters, taps), whose taps reach as told.

    With places, the filters are (groups, taps, filters), and these are where their results begin in a group of y. With
    used, they are (filters of the other direction, channels, taps), turned round, and these taps of them are used.
    """
    count = filters.shape[1 if places is None else 2]
    plan = _plan(source.shape, y.shape, lanes(y), geometry.groups, count, taps, stride, first, step,
                 places is not None, DIRECT_SCRATCH)
    packed = (_pack_turned(filters, geometry.groups, used, plan.tile[0]) if used is not None else
              pack_rows(filters, plan.tile[0]) if places is None else pack_columns(filters, plan.tile[0]))
    source, y = source.reshape(plan.source), y.reshape(plan.y)
    _convolve(*plan.tile)(
        plan.scratch[0], plan.jobs, _RUN if packed.shape[2] <= _LONG else DEPTH, source, packed, *plan.layout,
        EMPTY[source.dtype] if bias is None else bias, int(relu), *plan.numbers,
        plan.places if places is None else places, empty(plan.scratch, y.dtype), y, y.reshape(-1),
        work=y.size * packed.shape[2])


def _pack_turned(weight: Array, groups: int, used: Array, width: int) -> Array:
    """Return filters (filters, channels, taps) as those from results to channels: (groups, panels, depth, width)."""
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


class _Plan(NamedTuple):
    """What follows from the shapes of a convolution alone."""

    source: tuple[int, ...]                 # shapes, of pixels in one row where that makes no difference
    y: tuple[int, ...]
    tile: tuple[int, int]
    jobs: int
    layout: tuple[Array, Array, Array]
    numbers: tuple[int, ...]                # arguments of the kernel
    places: Array                           # where the results of a group's filters begin
    scratch: tuple[int, int]


@functools.lru_cache(maxsize=256)
def _plan(source: tuple[int, ...], y: tuple[int, ...], vector: int, groups: int, count: int, taps: tuple[Axis, Axis],
          stride: tuple[int, int], first: tuple[int, int], step: tuple[int, int], scattered: bool,
          most: int) -> _Plan:
    (rows, top), (columns, left) = taps
    channels = source[1] // groups
    height, width = (source[2:] if scattered else
                     (panels(size - begin, jump) for size, begin, jump in zip(y[2:], first, step)))
    if rows == columns == (0,) and stride == step == (1, 1) and (top, left) == (0, 0) and (
            source[2:] == (height, width) and _merges(width, vector, y[0] * groups)):
        height, width = 1, height * width
        source, y = (*source[:2], 1, width), (*y[:2], 1, width)
    by_rows = width >= vector
    reach = max(rows) // stride[0]
    line = _line(stride[1], columns, left, source[3], width)
    phases = len({r % stride[0] for r in rows}) * len({c % stride[1] for c in columns})
    cores = panels(LEAST_BLOCKS, y[0] * groups)
    bands = min(cores, max(1, height * width // (8 * vector)))
    band = max(1, min(-(-height // bands), max(most // (channels * phases * line) - reach, reach // 2 + 1)))
    scratch_y = band + reach
    slots = band * panels(width, vector) if by_rows else panels((band - 1) * line + width, vector)
    tile = tile_shape(count, slots)
    cuts = min(panels(count, tile[0]), panels(cores, panels(height, band)),
               max(1, count * len(rows) * len(columns) // DIRECT_CUT))
    jobs = y[0] * groups * panels(height, band) * cuts
    return _Plan(
        source, y, tile, jobs, layout(channels, stride, rows, columns, scratch_y, line),
        (*stride, top, left, scratch_y, line, int(by_rows), band, cuts, *first, *step, height, width),
        np.arange(count) * (y[2] * y[3]),
        (min(jobs, DIRECT_BLOCKS), channels * phases * scratch_y * line + max(columns) + (tile[1] + 1) * vector))


def _merges(width: int, vector: int, images: int) -> bool:
    """Whether the rows of an image that is not padded count as one long row."""
    return width < vector or (images >= LEAST_BLOCKS and width % vector > 0)


def _input_gradient(grad_output: Array, weight: Array, bias: Array | None, geometry: Geometry, grad_x: Array) -> None:
    """Write the input gradient, which is the transposed convolution, plus a bias."""
    if geometry.sparse:
        sparse.input_gradient(grad_output, weight, bias, geometry, grad_x)
        return
    groups, (filters, channels) = geometry.groups, weight.shape[:2]
    if groups == filters and bias is None and geometry.stride == (1, 1) and depthwise.fits(weight):
        depthwise.input_gradient(grad_output, weight, geometry, grad_x)
        return
    exact = tuple(size * step for size, step in zip(grad_output.shape[2:], geometry.stride)) == grad_x.shape[2:]
    if exact and weight.shape[2:] == geometry.stride and geometry.padding == (0, 0) and geometry.dilation == (1, 1):
        # Every pixel is reached once: a product by the pixel, whose results go to stride x stride pixels.
        height, width = grad_x.shape[2:]
        places = ((np.arange(channels)[:, None] * height + np.arange(geometry.stride[0]))[..., None] * width
                  + np.arange(geometry.stride[1])).ravel()
        _convolve_phase(grad_output, weight.reshape(groups, filters // groups, -1), bias if bias is None else
                        np.repeat(bias, places.size // channels), False, geometry, (((0,), 0), ((0,), 0)), (1, 1),
                        (0, 0), geometry.stride, grad_x, places)
        return
    rows, columns = (_reach(weight, geometry, axis, grad_x.shape[2 + axis]) for axis in (0, 1))
    if any(len(reach) < min(step, size) for reach, step, size in zip((rows, columns), geometry.stride,
                                                                     grad_x.shape[2:])):
        grad_x[...] = 0 if bias is None else bias[:, None, None]        # no tap reaches some of the pixels
    for top, left in itertools.product(rows, columns):
        taps, used = [], []
        for reach in (rows[top], columns[left]):
            begin = min(reach.values())
            used.append(np.array(list(reach)))
            taps.append((tuple(r - begin for r in reach.values()), begin))
        _convolve_phase(grad_output, weight.reshape(filters, channels, -1), bias, False, geometry, (taps[0], taps[1]),
                        (1, 1), (top, left), geometry.stride, grad_x,
                        used=(used[0][:, None] * weight.shape[3] + used[1]).ravel())


def _reach(weight: Array, geometry: Geometry, axis: int, pixels: int) -> dict[int, dict[int, int]]:
    """By the first of the pixels first, first + stride, ... the taps that reach them: from where tap k reaches it."""
    stride = geometry.stride[axis]
    phases: dict[int, dict[int, int]] = {}
    for k in range(weight.shape[2 + axis]):
        shift = k * geometry.dilation[axis] - geometry.padding[axis]
        if shift % stride < pixels:
            phases.setdefault(shift % stride, {})[k] = -(shift // stride)
    return dict(sorted(phases.items()))


def _weight_gradient(x: Array, grad_output: Array, geometry: Geometry, grad_weight: Array) -> None:
    """Write the weight gradient: slices of the batch by themselves, then their sum."""
    if geometry.sparse:
        sparse.weight_gradient(x, grad_output, geometry, grad_weight)
        return
    if depthwise.fits(grad_weight):
        depthwise.weight_gradient(x, grad_output, geometry, grad_weight)
        return
    groups, (filters, channels, kernel_y, kernel_x) = geometry.groups, grad_weight.shape
    (stride_y, stride_x), (dilation_y, dilation_x) = geometry.stride, geometry.dilation
    height, width = grad_output.shape[2:]
    reach, line = (kernel_y - 1) * dilation_y, (width - 1) * stride_x + (kernel_x - 1) * dilation_x + 1
    filters //= groups
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
    totals = empty((blocks, len(begins) // parts, filter_panels, parts * run, columns), x.dtype)
    packed_first = shares > 1 and slices == len(x)      # as several blocks read the same pixels of the gradient
    pixels = empty((len(x) * groups, filter_panels, height * width, columns) if packed_first else
                   (blocks, filter_panels, band * width, columns), x.dtype)
    if packed_first:
        _pack_gradient(len(x) * groups * filter_panels, grad_output.reshape(-1), filters, pixels, work=pixels.size)
    _weight_gradient_slice(parts, run, vectors)(
        blocks, x, grad_output, grad_output.reshape(-1), begins, walk, stride_y, -geometry.padding[0],
        -geometry.padding[1], scratch_y, line, band, share, groups, int(packed_first),
        empty((blocks, share * scratch_y * line + lanes(x)), x.dtype), pixels, totals,
        work=grad_output.size * grad_weight[0].size)
    totals = totals.reshape(slices, -1, *totals.shape[1:])
    _sum_slices(totals[0, :, :, :, 0, 0].size, totals, groups, share * kernel_y * kernel_x,
                grad_weight.reshape(len(grad_weight), -1), work=totals.size)


@functools.lru_cache(maxsize=256)
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
    for array in (begins, walk):
        array.flags.writeable = False
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
    def convolve(block: int, jobs: int, run: int, source: Array, packed: Array, offsets: Array, phases_y: Array,
                 phases_x: Array, bias: Array, positive: int, stride_y: int, stride_x: int, top: int, left: int,
                 scratch_y: int, line: int, by_rows: int, band: int, cuts: int, first_y: int, first_x: int, step_y: int,
                 step_x: int, height: int, width: int, places: Array, scratches: Array, y: Array,
                 result: Array) -> None:
        """Jobs, each a band of rows of one group of one image, by a cut of its filters.

        packed: (groups, panels, taps, rows), result is y.
        """
        groups, filter_panels, depth = packed.shape[:3]
        filters, channels, results = len(places), source.shape[1] // groups, y.shape[1] // groups
        bands, plane, vector = (height + band - 1) // band, y.shape[2] * y.shape[3], lanes(y)
        columns = tile_vectors * vector
        starts = np.zeros((groups * filter_panels if bias.size else 1, tile_rows, columns), y.dtype)
        if bias.size:
            for f in range(groups * filters):
                starts[f // filters * filter_panels + f % filters // tile_rows, f % filters % tile_rows] = bias[f]
        totals = np.empty(((filter_panels + cuts - 1) // cuts, tile_rows, columns), y.dtype)
        total_at = np.arange(tile_vectors) * vector
        begins, result_at = np.empty(tile_vectors, np.int64), np.empty(tile_vectors, np.int64)
        row_vectors = (width + vector - 1) // vector
        direct = by_rows and step_x == 1

        scratch, blocks = scratches[block], scratches.shape[0]
        for job in range(block * jobs // blocks, (block + 1) * jobs // blocks):
            cut, image = job % cuts, job // cuts
            first_panel, last_panel = cut * filter_panels // cuts, (cut + 1) * filter_panels // cuts
            n, group, first_row = image // bands // groups, image // bands % groups, image % bands * band
            fill(source, n, group * channels, (group + 1) * channels, first_row, phases_y, phases_x, top, left,
                 stride_y, stride_x, scratch_y, line, scratch)
            rows = min(band, height - first_row)
            positions = (rows - 1) * line + width
            vectors = rows * row_vectors if by_rows else (positions + vector - 1) // vector
            for v in range(0, vectors, tile_vectors):
                for j in range(tile_vectors):
                    at = min(v + j, vectors - 1)       # beyond the last, the last once more
                    if by_rows:
                        row, column = at // row_vectors, min(at % row_vectors * vector, width - vector)
                        begins[j] = row * line + column
                        result_at[j] = (first_y + (first_row + row) * step_y) * y.shape[3] + first_x + column
                    else:
                        begins[j] = at * vector
                corner = (n * groups + group) * results * plane
                for k in range(0, depth, run):              # what a run reads stays in the first cache for all panels
                    end, last = min(k + run, depth), k + run >= depth
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
                                 positive if last else 0, target, target_at, target_plane, target_rows)
                        if last and not direct:
                            for j in range(tile_vectors):
                                _scatter(total, j * vector, inside, begins[j], min(begins[j] + vector, positions), line,
                                         width, corner + (first_y + first_row * step_y) * y.shape[3] + first_x,
                                         step_y * y.shape[3], step_x, places[panel * tile_rows :], result)

    return convolve


@functools.cache
def _weight_gradient_slice(parts: int, run: int, tile_vectors: int) -> BlockKernel:
    """The kernel of all weight gradients whose tile has this shape."""
    multiply = walk_tile(parts, run, tile_vectors)

    @block_kernel(writes="scratches pixels totals", sums=True)
    @named("weight_gradient", f"{parts}x{run}x{tile_vectors}")
    def weight_gradient(block: int, x: Array, grad_output: Array, gradient: Array, begins: Array, walk: Array,
                        stride_y: int, top: int, left: int, scratch_y: int, line: int, band: int, share: int,
                        groups: int, packed_first: int, scratches: Array, pixels: Array, totals: Array) -> None:
        """A share of the channels of one group, all its filters, over one slice of the batch."""
        channels, filters = x.shape[1] // groups, grad_output.shape[1] // groups
        shares = (channels + share - 1) // share
        slices = totals.shape[0] // (groups * shares)
        cut, group, part = block // shares // groups, block // shares % groups, block % shares
        first_channel, last_channel = part * share, min(channels, part * share + share)
        height, width = grad_output.shape[2:]
        scratch, total = scratches[block], totals[block]
        packed = pixels[0 if packed_first else block]   # (panel, position, filter)
        tap_panels, filter_panels = total.shape[:2]
        total[:] = 0
        if not packed_first:
            packed[:] = 0                   # as filters beyond the last remain
        plane = scratch_y * line
        inside = np.where(begins < (last_channel - first_channel) * plane, begins, 0)
        zero = np.zeros(1, np.int64)
        for n in range(cut * x.shape[0] // slices, (cut + 1) * x.shape[0] // slices):
            for first_row in range(0, height, band):
                first = group * channels + first_channel
                fill(x, n, first, group * channels + last_channel, first_row * stride_y, zero, zero, top, left, 1, 1,
                     scratch_y, line, scratch)
                positions = min(band, height - first_row) * width
                at = 0
                if packed_first:
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
