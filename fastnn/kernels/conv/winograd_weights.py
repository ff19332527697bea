"""Gradients by the weights of Winograd's convolutions: what `winograd` does, transposed in w.

    gradient = G^T [ sum over tiles of (A dy A^T) * (B^T d B) ] G

of tiles dy of the gradient by the results and d of the pixels. It is done in one of two ways. With few tiles, all are
transformed first, each once; then a block takes some filters and channels through sums and transform. With many, what
is transformed would go through memory again and again; there a block transforms some tiles for itself, two rows of the
products at a time, and keeps the sums of many filters, and slices of the tiles are added up in the end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import named, sums_helper
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.llvm import ROWS, VECTORS, lanes
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tiles import tile_columns, transpose_tile, walk_tile
from fastnn.kernels._cpu.tuning import (
    LEAST_BLOCKS,
    WINOGRAD_FEW_ELEMENTS,
    WINOGRAD_FEW_TILES,
    WINOGRAD_LEAST_GROUP,
    WINOGRAD_SUMS,
)
from fastnn.kernels._memory import empty
from fastnn.kernels.conv._tiles import PAIRS, PRODUCTS, SIDE, matrices, places, results_of, staged_pixels, tile_loader
from fastnn.kernels.conv._transforms import transform_tile, transposed
from fastnn.kernels.conv.geometry import Geometry

_LONGEST_SUM = 512                                      # tiles that are summed up at once


def plan_weight_gradient(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Callable[..., bool]:
    """Return a function (x, grad_output, grad_weight) that returns whether the gradient is finite."""
    (filters, channels), columns, out = weight.shape[:2], tile_columns(x), results_of(weight.shape[2])
    rows = min((ROWS, ROWS - 1), key=lambda rows: panels(filters, rows) * (rows + 1))
    down, across = panels(grad_output.shape[2], out), panels(grad_output.shape[3], out)
    tiles = len(x) * down * across
    width = panels(channels, columns) * columns + panels(filters, rows) * rows
    few = tiles <= WINOGRAD_FEW_TILES and tiles * width * PRODUCTS <= WINOGRAD_FEW_ELEMENTS
    form = _plan_few if few else _plan_many
    return form(x, grad_output, weight, geometry, down, across, rows)


def _pixel_places(x: Array, grad_output: Array, taps: int, across: int) -> tuple[Array, Array]:
    """Where pixels of a row lie in the scratch of tiles."""
    line = results_of(taps) * across
    return places(x.shape[3], line + taps - 1, lanes(x)), places(grad_output.shape[3], line, lanes(x))


# --- few tiles ---------------------------------------------------------------------------------------------


def _plan_few(x: Array, grad_output: Array, weight: Array, geometry: Geometry, down: int, across: int,
              rows: int) -> Callable[..., bool]:
    filters, channels, taps, _ = weight.shape
    dtype, vector, columns = x.dtype, lanes(x), tile_columns(x)
    tiles, x_panels, width = len(x) * down * across, panels(channels, columns), panels(filters, rows) * rows
    width = panels(width, vector) * vector
    x_shape, grad_shape = (x_panels, PRODUCTS, tiles, columns), (PRODUCTS, tiles, width)
    pixel_places = _pixel_places(x, grad_output, taps, across)
    staged = staged_pixels(down * across, across, SIDE, results_of(taps)) * vector
    cuts = min(panels(filters, rows), panels(LEAST_BLOCKS, x_panels))
    offsets, work = np.arange(tiles) * width, grad_output.size * channels
    transform_all, multiply_all, padding = _transform_all(taps), _multiply_all(taps, rows), geometry.padding

    def of_few(x: Array, grad_output: Array, grad_weight: Array) -> bool:
        workers, x_tiles, grad_tiles = get_num_threads(), empty(x_shape, dtype), empty(grad_shape, dtype)
        transform_all(
            x_panels * VECTORS + width // vector, x, x.reshape(-1), grad_output, grad_output.reshape(-1), *padding,
            *pixel_places, down, across, empty((workers, staged), dtype), x_tiles, x_tiles.reshape(-1), grad_tiles,
            grad_tiles.reshape(-1), work=x_tiles.size + grad_tiles.size, workers=workers)
        finite = np.ones(x_panels * cuts, np.uint8)
        multiply_all(x_panels * cuts, x_tiles, grad_tiles, grad_tiles.reshape(-1), offsets,
                     empty((workers, PRODUCTS, rows, columns), dtype), grad_weight.reshape(filters, -1), finite,
                     work=work, workers=workers)
        return bool(finite.all())

    return of_few


@functools.cache
def _transform_all(taps: int) -> BlockKernel:
    """The kernel that transforms all tiles of pixels and of gradients."""
    load_pixels, load_gradients = tile_loader(taps), tile_loader(taps, of_results=True)

    @block_kernel(writes="staging x_tiles x_flat grad_tiles grad_tiles_flat")
    @named("transform_all", taps)
    def transform_all(block: int, worker: int, x: Array, pixels: Array, grad_output: Array, gradients: Array,
                      pad_y: int, pad_x: int, x_places: Array, grad_places: Array, down: int, across: int,
                      staging: Array, x_tiles: Array, x_flat: Array, grad_tiles: Array,
                      grad_tiles_flat: Array) -> None:
        """A vector of channels, or of filters after them."""
        x_panels, _, tiles, columns = x_tiles.shape
        vector, width = lanes(x), grad_tiles.shape[2]
        f = block * vector - x_panels * columns
        if f < 0:
            c = block * vector
            load_pixels(0, x, pixels, c, min(c + vector, x.shape[1]), 0, tiles, down, across, pad_y, pad_x, x_places,
                        staging[worker], x_flat[c // columns * PRODUCTS * tiles * columns + c % columns :], columns,
                        tiles * columns, 0, 0, 1)
        else:
            load_gradients(0, grad_output, gradients, f, min(f + vector, grad_output.shape[1]), 0, tiles, down, across,
                           0, 0, grad_places, staging[worker], grad_tiles_flat[f:], width, tiles * width, 0, 0, 1)

    return transform_all


@functools.cache
def _multiply_all(taps: int, tile_rows: int) -> BlockKernel:
    """The kernel that makes gradients of all transformed tiles."""
    _, g, _ = matrices(taps)
    multiply, transform = walk_tile(1, tile_rows, VECTORS), transform_tile(transposed(g), transposed(g))
    count = taps * taps

    @block_kernel(writes="totals result finite")
    @named("multiply_all", taps, tile_rows)
    def multiply_all(block: int, worker: int, x_tiles: Array, grad_tiles: Array, gradients: Array, offsets: Array,
                     totals: Array, result: Array, finite: Array) -> None:
        """A cut of the panels of filters for one panel of channels."""
        x_panels, _, tiles, columns = x_tiles.shape
        filters, width, vector = result.shape[0], grad_tiles.shape[2], lanes(x_tiles)
        filter_panels, cuts = (filters + tile_rows - 1) // tile_rows, finite.size // x_panels
        x_panel, cut = block // cuts, block % cuts
        first, inside = x_panel * columns * count, min(columns, result.shape[1] // count - x_panel * columns) * count
        total, begins = totals[worker], np.zeros(1, np.int64)
        sums = total.reshape(-1)
        loaded = (count + vector - 1) // vector * vector
        products, line = np.empty(loaded * vector, result.dtype), np.empty(columns * count + vector, result.dtype)
        products[count * vector :] = 0
        check = result.dtype.type(0)
        for panel in range(cut * filter_panels // cuts, (cut + 1) * filter_panels // cuts):
            for k in range(PRODUCTS):
                begins[0] = k * tiles * width + panel * tile_rows
                multiply(gradients, begins, offsets, x_tiles[x_panel, k], 1, total[k])
            for row in range(min(tile_rows, filters - panel * tile_rows)):
                for left in range(0, columns, vector):
                    transform(sums, row * columns + left, SIDE * tile_rows * columns, tile_rows * columns, products, 0,
                              taps * vector, vector)
                    # Backwards: what a row writes into the next one is written again.
                    for t in range(loaded - vector, -1, -vector):
                        transpose_tile(products, t * vector, vector, line, left * count + t, count)
                check += _copy(line[:inside], result[panel * tile_rows + row, first : first + inside])
        finite[block] = check == check

    return multiply_all


@sums_helper
def _copy(line: Array, result: Array) -> float:
    """Copy elements; returns 0 if they are finite, else NaN."""
    zero = line.dtype.type(0)
    check = zero
    for i in range(line.size):
        result[i] = line[i]
        check += line[i] * zero
    return check


# --- many tiles --------------------------------------------------------------------------------------------


def _plan_many(x: Array, grad_output: Array, weight: Array, geometry: Geometry, down: int, across: int,
               rows: int) -> Callable[..., bool]:
    filters, channels, taps, _ = weight.shape
    dtype, vector, columns, out = x.dtype, lanes(x), tile_columns(x), results_of(taps)
    tiles, x_panels, filter_panels = len(x) * down * across, panels(channels, columns), panels(filters, rows)
    cuts = panels(filter_panels, max(1, WINOGRAD_SUMS // (2 * SIDE * rows * x_panels * columns)))
    share = panels(filter_panels, cuts)
    cuts = panels(filter_panels, share)
    width = panels(share * rows, vector) * vector
    slices = min(panels(LEAST_BLOCKS, len(PAIRS) * cuts), panels(tiles, WINOGRAD_LEAST_GROUP))
    group = min(panels(tiles, slices), _LONGEST_SUM,
                max(WINOGRAD_LEAST_GROUP, WINOGRAD_SUMS // (2 * SIDE * (x_panels * columns + width))))
    shape = slices, len(PAIRS), filters, 2 * taps, x_panels * columns
    scratches = ((staged_pixels(group, across, SIDE, out) * vector,),
                 (staged_pixels(group, across, out, out) * vector,), (2 * SIDE * x_panels, group, columns),
                 (2 * SIDE * group * width,), (2 * SIDE, share, x_panels, rows, columns))
    pixel_places, padding = _pixel_places(x, grad_output, taps, across), geometry.padding
    factors = np.array(matrices(taps)[1], dtype)[np.array(PAIRS)]       # what each row counts in each of the gradient
    multiply_slices, offsets = _multiply_slices(taps, rows), np.arange(group) * width
    blocks, work = slices * len(PAIRS) * cuts, grad_output.size * channels
    add = _sum_slices.launch(filters, work=math.prod(shape))

    def of_many(x: Array, grad_output: Array, grad_weight: Array) -> bool:
        workers, partial, finite = get_num_threads(), empty(shape, dtype), np.ones(filters, np.uint8)
        multiply_slices(blocks, x, x.reshape(-1), grad_output, grad_output.reshape(-1), offsets, *pixel_places,
                        *padding, *[empty((workers, *scratch), dtype) for scratch in scratches], partial,
                        partial.reshape(-1), work=work, workers=workers)
        add(partial, factors, grad_weight.reshape(filters, channels, -1), finite)
        return bool(finite.all())

    return of_many


@functools.cache
def _multiply_slices(taps: int, tile_rows: int) -> BlockKernel:
    """The kernel that makes two rows of the products, and of the gradient's columns, of a slice of the tiles."""
    _, g, _ = matrices(taps)
    out, transform = results_of(taps), transform_tile(((1.0, 0.0), (0.0, 1.0)), transposed(g))
    load_pixels, load_gradients = tile_loader(taps, by_pairs=True), tile_loader(taps, of_results=True, by_pairs=True)
    multiply = walk_tile(1, tile_rows, VECTORS)

    @block_kernel(writes="x_staging grad_staging x_tiles grad_tiles totals partial result")
    @named("multiply_slices", taps, tile_rows)
    def multiply_slices(block: int, worker: int, x: Array, x_flat: Array, grad_output: Array, grad_flat: Array,
                        offsets: Array, x_places: Array, grad_places: Array, pad_y: int, pad_x: int, x_staging: Array,
                        grad_staging: Array, x_tiles: Array, grad_tiles: Array, totals: Array, partial: Array,
                        result: Array) -> None:
        """Two rows of the products of a share of the filters' panels over one slice of all tiles."""
        slices, filters, channels = partial.shape[0], partial.shape[2], x.shape[1]
        group, columns, vector = x_tiles.shape[2], x_tiles.shape[3], lanes(x)
        height, width = grad_output.shape[2:]
        down, across = (height + out - 1) // out, (width + out - 1) // out
        tiles = x.shape[0] * down * across
        total, transformed, gradients = totals[worker], x_tiles[worker], grad_tiles[worker]
        sums, products, begins = total.reshape(-1), transformed.reshape(-1), np.zeros(1, np.int64)
        share, x_panels, grad_width = total.shape[1], total.shape[2], gradients.size // (2 * SIDE * group)
        pairs = len(PAIRS)
        pair, cut, part = block % pairs, block // pairs % slices, block // pairs // slices
        first_filter, end_filter = part * share * tile_rows, min(filters, (part + 1) * share * tile_rows)
        begin, end = cut * tiles // slices, (cut + 1) * tiles // slices
        for first in range(begin, end, group):
            last = min(end, first + group)
            load_pixels(pair, x, x_flat, 0, channels, first, last, down, across, pad_y, pad_x, x_places,
                        x_staging[worker], products, columns, x_panels * group * columns, vector, group * columns,
                        VECTORS)
            load_gradients(pair, grad_output, grad_flat, first_filter, end_filter, first, last, down, across, 0, 0,
                           grad_places, grad_staging[worker], gradients, grad_width, group * grad_width, vector, 0,
                           filters)
            for k in range(2 * SIDE):
                for panel in range((end_filter - first_filter + tile_rows - 1) // tile_rows):
                    begins[0] = k * group * grad_width + panel * tile_rows
                    for c in range(x_panels):
                        multiply(gradients, begins, offsets[: last - first],
                                 transformed[k * x_panels + c, : last - first], int(first == begin),
                                 total[k, panel, c])
        step, depth = share * x_panels * tile_rows * columns, x_panels * columns
        for f in range(first_filter, end_filter):
            panel, row = (f - first_filter) // tile_rows, (f - first_filter) % tile_rows
            for c in range(0, depth, vector):
                at = ((panel * x_panels + c // columns) * tile_rows + row) * columns + c % columns
                transform(sums, at, SIDE * step, step, result,
                          ((cut * pairs + pair) * filters + f) * 2 * taps * depth + c, taps * depth, depth)

    return multiply_slices


@block_kernel(writes="grad_weight finite")
def _sum_slices(f: int, partial: Array, factors: Array, grad_weight: Array, finite: Array) -> None:
    """The sum of a filter's slices and rows of products: (slices, pairs of rows, filters, 2 x taps, channels)."""
    taps, depth = factors.shape[2], partial.shape[4]
    rows = np.empty((2 * taps, depth), partial.dtype)
    total = np.zeros((taps * taps, depth), partial.dtype)
    for pair in range(3):
        for t in range(2 * taps):
            for c in range(depth):
                rows[t, c] = partial[0, pair, f, t, c]
            for cut in range(1, partial.shape[0]):
                for c in range(depth):
                    rows[t, c] += partial[cut, pair, f, t, c]
        for t in range(taps * taps):
            for r in range(2):
                factor = factors[pair, r, t // taps]
                for c in range(depth):
                    total[t, c] += factor * rows[taps * r + t % taps, c]
    zero = partial.dtype.type(0)
    check = zero
    for c in range(grad_weight.shape[1]):
        for t in range(taps * taps):
            grad_weight[f, c, t] = total[t, c]
            check += total[t, c] * zero
    if check != zero:
        finite[f] = 0
