"""Distances and nearest neighbours on a GPU, by tiles of squares that a block keeps in registers.

A block walks along the dimensions with a tile of either set of points in shared memory; each thread adds up the squares
of `rows` x `columns` pairs. The bits of a square depend on its two points alone: one thread forms it, dimension by
dimension, sums of 256 of them being added up. `knn` offers the tile, still in registers, to the heaps of its queries:
no M x N matrix is made.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import SIMULATED, cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.rows import block_size, place, row_sum, run_rows
from fastnn.kernels._gpu.tuning import KNN_LEAST_SLICE, KNN_WAITING, PAIR_BLOCKS, PAIR_HIGH, PAIR_STEP, PAIR_WIDE

_THREADS = PAIR_WIDE * PAIR_HIGH
_APART = _THREADS // PAIR_STEP                      # rows between those that a thread loads
_DEPTH = 32 if SIMULATED else 256                   # dimensions of a sum: of bytes, exact in float32 up to 258
_INT32 = 33025                                      # dimensions of bytes whose sum is an int32
_LAST = np.iinfo(np.int64).max
_NAN = math.nan


def _panels(count: int, size: int) -> int:
    """Return how many groups of so many there are, the last perhaps smaller."""
    return -(-count // size)


class _Tile(NamedTuple):
    """What a kernel is compiled for."""

    real: Any               # the type of differences and of their sums over up to _DEPTH dimensions
    total: Any              # the type of the sums of those sums
    rows: int               # of a thread
    columns: int
    folded: bool            # whether there are several sums
    products: bool          # whether products are summed, instead of squares of differences

    @property
    def height(self) -> int:
        return PAIR_HIGH * self.rows

    @property
    def width(self) -> int:
        return PAIR_WIDE * self.columns

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of tiles in shared memory: lines are longer, so that threads store into different banks."""
        return (PAIR_STEP, self.height + 4), (PAIR_STEP, self.width + 2)


def _tile(x: Array, y: Array, *, products: bool = False) -> _Tile:
    real = np.float64 if x.dtype == np.float64 else np.float32
    folded = x.shape[1] > _DEPTH
    total: Any = real
    if x.dtype == np.uint8 and folded:
        total = np.int32 if x.shape[1] <= _INT32 else np.float64
    columns = 4 if SIMULATED or real is np.float64 else 8
    tile = _Tile(real, total, min(columns, PAIR_WIDE), columns, folded, products)
    if len(x) <= 2 * PAIR_HIGH:
        return tile._replace(rows=1)
    few = _panels(len(x), tile.height) * _panels(len(y), tile.width) < PAIR_BLOCKS // 2
    return tile._replace(rows=tile.rows // 2) if few else tile


@functools.cache
def _sums(tile: _Tile) -> Any:
    """Make the function that leaves a thread's part of a tile in `totals`; threads are synchronised afterwards."""
    real, total, rows, columns, folded, products = tile
    height, width, zero = tile.height, tile.width, real(0)

    @cuda.jit(device=True)
    def sums(x: Array, y: Array, dimensions: int, first_x: int, first_y: int, x_tile: Array, y_tile: Array,
             totals: Array) -> None:
        parts = cuda.local.array((rows, columns), real)
        a = cuda.local.array(rows, real)
        b = cuda.local.array(columns, real)
        t = cuda.threadIdx.x
        lane, row, at, own = t % PAIR_WIDE, t // PAIR_WIDE * rows, t // PAIR_STEP, t % PAIR_STEP
        x_begin, y_begin = (first_x + at) * dimensions + own, (first_y + at) * dimensions + own
        jump = _APART * dimensions
        for i in range(rows):
            for j in range(columns):
                parts[i, j] = zero
                totals[i, j] = total(0)
        for begin in range(0, max(1, dimensions), PAIR_STEP):
            if folded and begin % _DEPTH == 0:
                for i in range(rows):
                    for j in range(columns):
                        totals[i, j] += total(parts[i, j])
                        parts[i, j] = zero
            # What lies beyond the last dimension is 0, and so is a row beyond the last, of which nothing is used.
            x_end = x.size if begin + own < dimensions else 0
            for p in range(height // _APART):
                k = x_begin + begin + p * jump
                x_tile[own, at + p * _APART] = real(x[k]) if k < x_end else zero
            y_end = y.size if begin + own < dimensions else 0
            for p in range(width // _APART):
                k = y_begin + begin + p * jump
                y_tile[own, at + p * _APART] = real(y[k]) if k < y_end else zero
            cuda.syncthreads()
            for d in range(PAIR_STEP):
                for i in range(rows):
                    a[i] = x_tile[d, row + i]
                for j in range(columns):
                    b[j] = y_tile[d, lane + j * PAIR_WIDE]
                for i in range(rows):
                    for j in range(columns):
                        if products:
                            parts[i, j] = cuda.fma(a[i], b[j], parts[i, j])
                        else:
                            difference = a[i] - b[j]
                            parts[i, j] = cuda.fma(difference, difference, parts[i, j])
            cuda.syncthreads()
        for i in range(rows):
            for j in range(columns):
                totals[i, j] += total(parts[i, j])

    return sums


# --- all pairs ---------------------------------------------------------------------------------------------


@functools.cache
def _pairs(tile: _Tile, result: Any, squared: bool) -> Any:
    real, total, rows, columns, _, products = tile
    height, width, (x_shape, y_shape), sums = tile.height, tile.width, tile.shapes, _sums(tile)

    @cuda.jit
    def pairs(x: Array, y: Array, dimensions: int, x_lengths: Array, y_lengths: Array, distances: Array) -> None:
        x_tile = cuda.shared.array(x_shape, real, alignment=16)
        y_tile = cuda.shared.array(y_shape, real, alignment=16)
        totals = cuda.local.array((rows, columns), total)
        across = (distances.shape[1] + width - 1) // width
        down = cuda.blockIdx.x // across
        first_x, first_y = down * height, (cuda.blockIdx.x - down * across) * width
        sums(x, y, dimensions, first_x, first_y, x_tile, y_tile, totals)
        t = cuda.threadIdx.x
        corner_x, corner_y = first_x + t // PAIR_WIDE * rows, first_y + t % PAIR_WIDE
        for i in range(rows):
            m = corner_x + i
            for j in range(columns):
                n = corner_y + j * PAIR_WIDE
                if m < distances.shape[0] and n < distances.shape[1]:
                    if products:
                        distances[m, n] = result(x_lengths[m] + y_lengths[n] - 2.0 * np.float64(totals[i, j]))
                    else:
                        value = result(totals[i, j])
                        distances[m, n] = value if squared else result(math.sqrt(value))

    return pairs


@functools.cache
def _mend(result: Any, squared: bool, products: bool) -> Any:
    """Make the kernel that forms distances again of which a square left the range, and ends those of products.

    Where it is part of the one before, that one's sums do not stay in registers.
    """
    apart, zero = _apart(squared), result(0)
    small = 2.0**-100 if np.dtype(result).itemsize == 4 else 2.0**-960      # from there on nothing that counts is lost
    least = small if squared else math.sqrt(small)

    @cuda.jit
    def mend(x: Array, y: Array, dimensions: int, x_lengths: Array, y_lengths: Array, distances: Array) -> None:
        for m in range(cuda.blockIdx.x, distances.shape[0], cuda.gridDim.x):
            for n in range(cuda.threadIdx.x, distances.shape[1], THREADS):
                value = distances[m, n]
                if products:
                    left = not (abs(value) < math.inf and x_lengths[m] + y_lengths[n] >= small)
                else:
                    left = value < least or value == math.inf
                if left:
                    distances[m, n] = result(apart(x, y, m * dimensions, n * dimensions, dimensions))
                elif products:
                    value = zero if value < zero else value
                    distances[m, n] = value if squared else result(math.sqrt(value))

    return mend


@functools.cache
def _apart(squared: bool) -> Any:
    """Make the function that returns a distance in float64, by differences that are scaled so that no square leaves its
    range."""
    @cuda.jit(device=True)
    def apart(x: Array, y: Array, at_x: int, at_y: int, dimensions: int) -> float:
        largest, total = 0.0, 0.0
        for d in range(dimensions):
            largest = max(largest, abs(np.float64(x[at_x + d]) - np.float64(y[at_y + d])))
        unit = 2.0**-600 if 2.0**400 < largest < math.inf else 2.0**600 if largest < 2.0**-400 else 1.0
        for first in range(0, dimensions, _DEPTH):
            part = 0.0
            for d in range(first, min(first + _DEPTH, dimensions)):
                difference = (np.float64(x[at_x + d]) - np.float64(y[at_y + d])) * unit
                part += difference * difference
            total += part
        return total / unit / unit if squared else math.sqrt(total) / unit

    return apart


@functools.cache
def _lengths(real: Any, group: int) -> Any:
    row_of_thread, row_total, size = place(group), row_sum(group), block_size(group)

    @cuda.jit
    def lengths(x: Array, squares: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(x)
        total = 0.0
        for d in range(lane, columns, group):
            total += np.float64(x[n, d]) * np.float64(x[n, d])
        total = row_total(parts, total)
        if n < x.shape[0] and lane == 0:
            squares[n] = total

    return lengths


def pairwise_l2(x: Array, y: Array, distances: Array, squared: bool, algorithm: str) -> None:
    products = algorithm == "gemm" and x.dtype != np.uint8
    tile = _tile(x, y, products=products)
    lengths = [_device.xp.empty(len(points) if products else 1, np.float64) for points in (x, y)]
    if products:
        for points, found in zip((x, y), lengths):
            run_rows(_lengths, points, points, found)
    result: Any = distances.dtype.type
    args = x.reshape(-1), y.reshape(-1), x.shape[1], *lengths, distances
    launch(_pairs(tile, result, squared), _panels(len(x), tile.height) * _panels(len(y), tile.width), _THREADS, *args)
    if x.dtype != np.uint8:
        launch(_mend(result, squared, products), blocks_for(len(x), 1), THREADS, *args)


# --- nearest neighbours ------------------------------------------------------------------------------------


@cuda.jit(device=True)
def _before(a: float, i: int, b: float, j: int) -> bool:
    """Whether a candidate of value a and index i comes before one of b and j; NaN comes last."""
    if a < b or a > b:
        return a < b
    if a == b or (math.isnan(a) and math.isnan(b)):     # a != a is False for NaN by numba-cuda-mlir 0.6
        return i < j
    return math.isnan(b)


@cuda.jit(device=True)
def _sink(values: Array, indices: Array, part: int, row: int, size: int, value: float, index: int) -> None:
    """Put a candidate in place of the top of a heap, the worst of which is its top."""
    at, child = 0, 1
    while child < size:
        if child + 1 < size and _before(values[part, row, child], indices[part, row, child],
                                        values[part, row, child + 1], indices[part, row, child + 1]):
            child += 1
        if not _before(value, index, values[part, row, child], indices[part, row, child]):
            break
        values[part, row, at], indices[part, row, at] = values[part, row, child], indices[part, row, child]
        at, child = child, 2 * child + 1
    values[part, row, at], indices[part, row, at] = value, index


@cuda.jit(device=True)
def _sort(values: Array, indices: Array, part: int, row: int) -> None:
    """Sort a heap, the nearest first."""
    for size in range(values.shape[2] - 1, 0, -1):
        value, index = values[part, row, size], indices[part, row, size]
        values[part, row, size], indices[part, row, size] = values[part, row, 0], indices[part, row, 0]
        _sink(values, indices, part, row, size, value, index)


@functools.cache
def _search(tile: _Tile, stored: Any) -> Any:
    """Make the kernel that fills the heaps (slices, queries, k) over slices of the points, sorted.

    A candidate that comes before a query's k-th, as the block last knew it, waits in shared memory. Once there is no
    room for one, all that wait go into the heaps, and those that found none are offered again: what is in the heaps in
    the end does not depend on the order in which threads came.
    """
    real, total, rows, columns, _, _ = tile
    height, width, (x_shape, y_shape), sums = tile.height, tile.width, tile.shapes, _sums(tile)
    waiting_shape = KNN_WAITING, height

    @cuda.jit(device=True)
    def take(waiting: Array, waiting_at: Array, count: Array, row: int, values: Array, indices: Array, part: int,
             query: int) -> None:
        """Take what waits for a row of the tile into its heap."""
        for w in range(min(count[row], KNN_WAITING)):
            value, index = waiting[w, row], waiting_at[w, row]
            if _before(value, index, values[part, query, 0], indices[part, query, 0]):
                _sink(values, indices, part, query, values.shape[2], value, index)

    @cuda.jit
    def search(queries: Array, points: Array, dimensions: int, size: int, slice_size: int, values: Array,
               indices: Array) -> None:
        x_tile = cuda.shared.array(x_shape, real, alignment=16)
        y_tile = cuda.shared.array(y_shape, real, alignment=16)
        waiting = cuda.shared.array(waiting_shape, stored)
        waiting_at = cuda.shared.array(waiting_shape, np.int64)
        count = cuda.shared.array(height, np.int32)
        worst = cuda.shared.array(height, stored)
        worst_at = cuda.shared.array(height, np.int64)
        full = cuda.shared.array(1, np.int32)
        totals = cuda.local.array((rows, columns), total)
        t = cuda.threadIdx.x
        across = (values.shape[1] + height - 1) // height
        part = cuda.blockIdx.x // across
        first = (cuda.blockIdx.x - part * across) * height
        query = first + t
        keeps = t < height and query < values.shape[1]      # the heap of this query
        if keeps:
            for i in range(values.shape[2]):
                values[part, query, i], indices[part, query, i] = stored(_NAN), _LAST
        if t < height:
            # Nothing comes before minus infinity: rows of the tile that are no queries take nothing.
            count[t], worst[t], worst_at[t] = 0, stored(_NAN if keeps else -math.inf), _LAST
        if t == 0:
            full[0] = 0
        end = min((part + 1) * slice_size, size)
        for begin in range(part * slice_size, end, width):
            sums(queries, points, dimensions, first, begin, x_tile, y_tile, totals)
            left = -1                                       # a bit for each pair that has not been taken
            while True:
                near = 0
                for i in range(rows):
                    limit = worst[t // PAIR_WIDE * rows + i]
                    for j in range(columns):
                        if not stored(totals[i, j]) > limit:
                            near |= 1 << (i * columns + j)
                near &= left
                while near != 0:
                    bit = near & -near
                    near ^= bit
                    pair, value = 0, stored(0)
                    for i in range(rows):                   # registers have no addresses
                        for j in range(columns):
                            if bit == 1 << (i * columns + j):
                                pair, value = i * columns + j, stored(totals[i, j])
                    row = t // PAIR_WIDE * rows + pair // columns
                    n = begin + t % PAIR_WIDE + pair % columns * PAIR_WIDE
                    if n < end and _before(value, n, worst[row], worst_at[row]):
                        slot = cuda.atomic.add(count, row, 1)
                        if slot < KNN_WAITING:
                            waiting[slot, row], waiting_at[slot, row] = value, n
                            left ^= bit
                        else:
                            full[0] = 1
                cuda.syncthreads()
                again = full[0]
                cuda.syncthreads()
                if again == 0:
                    break
                if keeps:
                    take(waiting, waiting_at, count, t, values, indices, part, query)
                    count[t], worst[t], worst_at[t] = 0, values[part, query, 0], indices[part, query, 0]
                if t == 0:
                    full[0] = 0
                cuda.syncthreads()
        if keeps:
            take(waiting, waiting_at, count, t, values, indices, part, query)
            _sort(values, indices, part, query)

    return search


@functools.cache
def _merge(stored: Any) -> Any:
    """Make the kernel that merges the sorted candidates of all slices, one query a block."""

    @cuda.jit
    def merge(part_values: Array, part_indices: Array, taken: Array, values: Array, indices: Array) -> None:
        best = cuda.shared.array(_THREADS, stored)
        best_at = cuda.shared.array(_THREADS, np.int64)
        best_part = cuda.shared.array(_THREADS, np.int64)
        t, query = cuda.threadIdx.x, cuda.blockIdx.x
        for part in range(t, part_values.shape[0], _THREADS):
            taken[part, query] = 0
        for rank in range(values.shape[1]):
            value, index, origin = stored(_NAN), _LAST, -1
            for part in range(t, part_values.shape[0], _THREADS):
                at = taken[part, query]
                if at < values.shape[1] and _before(part_values[part, query, at], part_indices[part, query, at],
                                                    value, index):
                    value, index, origin = part_values[part, query, at], part_indices[part, query, at], part
            best[t], best_at[t], best_part[t] = value, index, origin
            step = _THREADS // 2
            while step > 0:
                cuda.syncthreads()
                if t < step and _before(best[t + step], best_at[t + step], best[t], best_at[t]):
                    best[t], best_at[t], best_part[t] = best[t + step], best_at[t + step], best_part[t + step]
                step //= 2
            cuda.syncthreads()
            if t == 0:
                values[query, rank], indices[query, rank] = best[0], best_at[0]
            if best_part[0] >= 0 and best_part[0] % _THREADS == t:
                taken[best_part[0], query] += 1
            cuda.syncthreads()

    return merge


def knn(queries: Array, points: Array, distances: Array, indices: Array, squared: bool, algorithm: str,
        memory_budget: int) -> None:
    if algorithm == "filter":
        raise ValueError("algorithm: expected 'auto' or 'direct' for target 'cuda', got 'filter'")
    _nearest(queries, points, memory_budget, distances, indices)
    if not squared:
        _device.xp.sqrt(distances, out=distances)


def _nearest(queries: Array, points: Array, memory_budget: int, squares: Array, indices: Array) -> None:
    tile, (count, k) = _tile(queries, points), squares.shape
    blocks = _panels(count, tile.height)
    least = max(KNN_LEAST_SLICE, 8 * k)
    heap = count * (k * (squares.itemsize + 8) + 8)
    slices = max(1, min(_panels(PAIR_BLOCKS, blocks), len(points) // least, memory_budget // heap))
    size = _panels(len(points), slices * tile.width) * tile.width
    slices = _panels(len(points), size)
    stored: Any = squares.dtype.type
    kernel = _search(tile, stored)
    args = queries.reshape(-1), points.reshape(-1), points.shape[1], len(points), size
    if slices == 1:
        launch(kernel, blocks, _THREADS, *args, squares[None], indices[None])
        return
    part_squares = _device.xp.empty((slices, count, k), squares.dtype)
    part_indices = _device.xp.empty((slices, count, k), np.int64)
    taken = _device.xp.empty((slices, count), np.int64)
    launch(kernel, blocks * slices, _THREADS, *args, part_squares, part_indices)
    launch(_merge(stored), count, _THREADS, part_squares, part_indices, taken, squares, indices)
