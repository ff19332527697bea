"""Nearest neighbours and distances of bytes, in exact integers: |x - y|^2 = |x|^2 - 2 x y + |y|^2.

|y|^2 - 2 x y ranks the points for a query. It is formed modulo 2^32, which is harmless for up to _SMALL dimensions,
where 255^2 D < 2^31 bounds all three; of more dimensions, so many at a time give products that are summed in 64 bits.
Where the tile takes bytes of x as signed, x - 128 takes the place of x, and |y|^2 - 2 * 128 sum(y) that of |y|^2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper
from fastnn.kernels._cpu.dot import BYTES, WIDTH, WORDS, byte_tile, matrix_unit, start_unit, stop_unit, transpose_block
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.tuning import QUERY_GROUP
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels.distance.select import LAST, by_slices, lowest_bit, offer, passing_dot, sort

_SMALL = 32768
_STEPS = _SMALL // BYTES                    # of one sum in 32 bits
_NO_SUMS = {True: np.empty(0, np.int32), False: EMPTY[np.dtype(np.int64)]}


@helper
def _sums(point: Array) -> tuple[int, int]:
    """Return the sums of squares and of values."""
    length, total = 0, 0
    for first in range(0, point.size, _SMALL):
        part_length: Any = np.int32(0)      # in 32 bits sums take twice as wide vectors
        part_total: Any = np.int32(0)
        for value in point[first : first + _SMALL]:
            part_length = np.int32(part_length + np.int32(value) * np.int32(value))
            part_total = np.int32(part_total + np.int32(value))
        length += int(part_length)
        total += int(part_total)
    return length, total


@block_kernel(writes="packed lengths")
def _pack_queries(block: int, queries: Array, unit: bool, packed: Array, lengths: Array) -> None:
    """One panel of rows as a byte tile reads it, and their |x|^2."""
    flip, depth = np.uint8(0 if unit else 128), queries.shape[1]
    packed[block] = 0
    for row in range(block * WIDTH, min((block + 1) * WIDTH, queries.shape[0])):
        half, i = divmod(row - block * WIDTH, 16)
        lengths[row] = _sums(queries[row])[0]
        for step in range(packed.shape[1]):
            first = step * BYTES
            for d in range(min(BYTES, depth - first)):
                packed[block, step, half, i, d] = queries[row, first + d] ^ flip


@helper
def _pack_points(points: Array, left: int, end: int, unit: bool, panel: Array, tail: Array, lengths: Array) -> None:
    """A panel of points as a byte tile reads it, from point `left` on, and what stands for their |y|^2."""
    depth = points.shape[1]
    begins, tails = np.empty(WIDTH, np.int64), np.arange(WIDTH) * BYTES
    full = depth // BYTES
    for j in range(WIDTH):
        point = points[min(left + j, end - 1)]
        begins[j] = min(left + j, end - 1) * depth
        length, total = _sums(point)
        lengths[j] = length if unit else length - 256 * total
        for d in range(depth - full * BYTES):
            tail[j * BYTES + d] = point[full * BYTES + d]
    flat = points.reshape(-1)
    for half in range(2):
        for step in range(full):
            transpose_block(flat, begins, 16 * half, step * BYTES, panel, (2 * step + half) * 16 * WORDS, 16)
        if full < panel.shape[0]:
            transpose_block(tail, tails, 16 * half, 0, panel, (2 * full + half) * 16 * WORDS, 16)


@helper
def _compare(queries: Array, panel: Array, lengths: Array, unit: bool, tile: Array, values: Array) -> None:
    """Set values[i, j] to |y|^2 - 2 x y for row i of a panel of queries and row j of one of points."""
    for first in range(0, max(1, panel.shape[0]), _STEPS):
        byte_tile(queries[first : first + _STEPS], panel[first : first + _STEPS], tile, unit)
        if first == 0:
            for i in range(WIDTH):
                for j in range(WIDTH):
                    values[i, j] = lengths[j] - 2 * tile[i, j]
        else:
            for i in range(WIDTH):
                for j in range(WIDTH):
                    values[i, j] -= 2 * tile[i, j]


@block_kernel(writes="squares indices")
def _search(block: int, slices: int, unit: bool, together: int, sums: Array, queries: Array, query_lengths: Array,
            points: Array, squares: Array, indices: Array) -> None:
    """The heaps of a group of query panels over one slice of the points; squares is (slices queries, k)."""
    steps = queries.shape[1]
    squares, indices = by_slices(squares, slices), by_slices(indices, slices)
    group, part = divmod(block, slices)
    begin, end = points.shape[0] * part // slices, points.shape[0] * (part + 1) // slices
    top = group * QUERY_GROUP * WIDTH
    queries = queries[group * QUERY_GROUP : (group + 1) * QUERY_GROUP]
    lengths = query_lengths[top : top + QUERY_GROUP * WIDTH]
    panel, tail = np.empty((together, steps, 2, 16, WORDS), np.uint32), np.zeros(WIDTH * BYTES, np.uint8)
    point_lengths, bounds = np.empty((together, WIDTH), sums.dtype), np.empty(lengths.size, sums.dtype)
    tile, values = np.empty((WIDTH, WIDTH), np.int32), np.empty((WIDTH, WIDTH), sums.dtype)
    most = np.iinfo(sums.dtype).max
    bounds[:] = most
    squares, indices = squares[part, top : top + lengths.size], indices[part, top : top + lengths.size]
    squares[:] = np.nan
    indices[:] = LAST
    start_unit(unit)
    for first in range(begin, end, together * WIDTH):
        count = min(together, -(-(end - first) // WIDTH))
        for p in range(count):
            _pack_points(points, first + p * WIDTH, end, unit, panel[p], tail, point_lengths[p])
        for q in range(queries.shape[0]):
            for p in range(count):
                left = first + p * WIDTH
                _compare(queries[q], panel[p], point_lengths[p], unit, tile, values)
                inside = (1 << min(WIDTH, end - left)) - 1
                for i in range(min(WIDTH, lengths.size - q * WIDTH)):
                    row = q * WIDTH + i
                    columns = passing_dot(values, i * WIDTH, bounds[row]) & inside
                    while columns:
                        j = lowest_bit(columns)
                        columns &= columns - 1
                        offer(squares, indices, row, np.float64(values[i, j] + lengths[row]), left + j)
                        if not np.isnan(squares[row, 0]):
                            bounds[row] = np.int64(squares[row, 0]) - lengths[row]
    stop_unit(unit)
    for row in range(lengths.size):
        sort(squares, indices, row)


def memory(queries: Array, k: int) -> tuple[int, int, int, int]:
    """Return bytes of scratch a thread, and a query; queries that go together, and of a block."""
    panel = WIDTH * BYTES * panels(queries.shape[1], BYTES)
    return _together(queries.shape[1]) * panel + (1 << 15), panel // WIDTH + 8, WIDTH, QUERY_GROUP * WIDTH


def _together(dimensions: int) -> int:
    """Return how many panels of points a block takes at once, so that they stay in the cache."""
    return max(1, min(4, (1 << 19) // (WIDTH * max(1, dimensions))))


def _plan_packing(queries: Array, unit: bool) -> Callable[[Array], tuple[Array, Array]]:
    """Return a function of queries that returns panels of them, and their |x|^2."""
    count, shape = len(queries), (panels(len(queries), WIDTH), panels(queries.shape[1], BYTES), 2, 16, BYTES)
    launch = _pack_queries.launch(shape[0], work=queries.size)

    def pack(queries: Array) -> tuple[Array, Array]:
        packed, lengths = empty(shape, np.uint8), np.empty(count, np.int64)
        launch(queries, unit, packed, lengths)
        return packed, lengths

    return pack


def plan_search(queries: Array, points: Array, k: int, slices: int) -> Callable[..., None]:
    """Return a function (queries, points, heaps, indices): it fills the heaps (slices queries, k), sorted."""
    unit, dimensions = matrix_unit(), queries.shape[1]
    pack = _plan_packing(queries, unit)
    launch = partial(_search.launch(panels(len(queries), QUERY_GROUP * WIDTH) * slices,
                                    work=len(queries) * points.size),
                     slices, unit, _together(dimensions), _NO_SUMS[dimensions <= _SMALL])
    return lambda queries, points, heaps, indices: launch(*pack(queries), points, heaps, indices)


@block_kernel(writes="distances")
def _pairs(block: int, unit: bool, sums: Array, queries: Array, query_lengths: Array, points: Array,
           distances: Array) -> None:
    """The distances of all query panels from one panel of points, as squares if `distances` are integers."""
    left, count = block * WIDTH, query_lengths.size
    panel, tail = np.empty((queries.shape[1], 2, 16, WORDS), np.uint32), np.zeros(WIDTH * BYTES, np.uint8)
    lengths, tile = np.empty(WIDTH, sums.dtype), np.empty((WIDTH, WIDTH), np.int32)
    values = np.empty((WIDTH, WIDTH), sums.dtype)
    _pack_points(points, left, points.shape[0], unit, panel, tail, lengths)
    start_unit(unit)
    for q in range(queries.shape[0]):
        _compare(queries[q], panel, lengths, unit, tile, values)
        for i in range(min(WIDTH, count - q * WIDTH)):
            length, result = query_lengths[q * WIDTH + i], distances[q * WIDTH + i, left : left + WIDTH]
            for j in range(result.size):
                result[j] = values[i, j] + length
    stop_unit(unit)


def plan_pairs(x: Array, y: Array) -> Callable[[Array, Array, Array], None]:
    """Return a function (x, y, distances)."""
    unit = matrix_unit()
    pack = _plan_packing(x, unit)
    launch = partial(_pairs.launch(panels(len(y), WIDTH), work=len(x) * y.size), unit, _NO_SUMS[x.shape[1] <= _SMALL])
    return lambda x, y, distances: launch(*pack(x), y, distances)
