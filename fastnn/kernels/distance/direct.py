"""Sums of squared differences by register tiles: packed panels of queries against panels of points, packed as met.

A block compares a group of query panels with some point panels, depth by depth, so that what it works on stays in the
cache whatever the dimension. Each sum is over dimensions in one order, whatever its place in a tile, and whatever tile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper
from fastnn.kernels._cpu.dot import BYTES, transpose_block
from fastnn.kernels._cpu.gemm import pack_rows, panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.llvm import ROWS
from fastnn.kernels._cpu.tiles import square_row, square_tile, tile_columns
from fastnn.kernels._cpu.tuning import ONE_ROW_ELEMENTS, ONE_ROW_QUERIES, QUERY_GROUP
from fastnn.kernels.distance.select import LAST, by_slices, lowest_bit, offer, passing, sort

DEPTH = 256             # dimensions of one running sum


@helper
def pack_points(points: Array, begins: Array, first: int, panel: Array) -> None:
    """Set panel[d, j] to the coordinate first + d of the point that begins at begins[j] in the flat array."""
    depth, width = panel.shape
    lanes, flat, done = BYTES // panel.itemsize, points.reshape(-1), 0
    if width % lanes == 0:
        done = depth // lanes * lanes
        for left in range(0, width, lanes):
            for d in range(0, done, lanes):
                transpose_block(flat, begins, left, first + d, panel, d * width + left, width)
    for d in range(done, depth):
        for j in range(width):
            panel[d, j] = flat[begins[j] + first + d]


@helper
def _group(group: int, queries: Array) -> tuple[int, Array]:
    """Return the first row of a group of query panels, and the panels; groups are as even as can be."""
    count = queries.shape[0]
    groups = -(-count // QUERY_GROUP)
    first = count * group // groups
    return first * queries.shape[2], queries[first : count * (group + 1) // groups]


@helper
def begin_panel(left: int, end: int, depth: int, begins: Array) -> int:
    """Set where the points of a panel begin, the last one again beyond the end; return how many there are."""
    for j in range(begins.size):
        begins[j] = min(left + j, end - 1) * depth
    return min(begins.size, end - left)


@helper
def compare(queries: Array, points: Array, begins: Array, panel: Array, totals: Array) -> None:
    """Set totals[q, i, j] to the squared distance from row i of query panel q to the point at begins[j]."""
    (count, depth, rows), width = queries.shape, panel.shape[1]
    a, b, c = queries.reshape(-1), panel.reshape(-1), totals.reshape(-1)
    totals[:] = 0
    for first in range(0, depth, DEPTH):
        last = min(first + DEPTH, depth)
        pack_points(points, begins, first, panel[: last - first])
        for q in range(count):
            if rows == 1:
                square_row(a, q * depth + first, b, 0, last - first, c, q * width, width)
            else:
                square_tile(a, (q * depth + first) * rows, b, 0, last - first, c, q * rows * width, width)


def panel_rows(queries: Array, points: Array) -> int:
    """Return how many queries are a panel: one if there are few, or little to do with them."""
    return 1 if len(queries) <= ONE_ROW_QUERIES or len(queries) * points.size <= ONE_ROW_ELEMENTS else ROWS


def pack_queries(queries: Array, rows: int) -> Array:
    """Return queries as panels (panels, D rows) of so many."""
    if rows == 1:
        return queries
    packed = pack_rows(queries[None], rows)
    return packed.reshape(packed.shape[1], packed.shape[2] * rows)


@block_kernel(writes="squares indices")
def _search(block: int, rows: int, slices: int, queries: Array, points: Array, squares: Array, indices: Array) -> None:
    """The heaps of a group of query panels over one slice of the points; squares is (slices queries, k)."""
    width, depth = tile_columns(queries), points.shape[1]
    queries = queries.reshape(queries.shape[0], depth, rows)
    squares, indices = by_slices(squares, slices), by_slices(indices, slices)
    group, part = divmod(block, slices)
    begin, end = points.shape[0] * part // slices, points.shape[0] * (part + 1) // slices
    top, queries = _group(group, queries)
    panel, begins = np.empty((min(depth, DEPTH), width), queries.dtype), np.empty(width, np.int64)
    totals = np.empty((queries.shape[0], rows, width), queries.dtype)
    count = min(queries.shape[0] * rows, squares.shape[1] - top)
    squares, indices = squares[part, top : top + count], indices[part, top : top + count]
    squares[:] = np.nan
    indices[:] = LAST
    for left in range(begin, end, width):
        inside = begin_panel(left, end, depth, begins)
        compare(queries, points, begins, panel, totals)
        for row in range(count):
            columns = passing(totals, row * width, squares[row, 0]) & ((1 << inside) - 1)
            while columns:
                j = lowest_bit(columns)
                columns &= columns - 1
                offer(squares, indices, row, totals[row // rows, row % rows, j], left + j)
    for row in range(count):
        sort(squares, indices, row)


def memory(queries: Array, k: int) -> tuple[int, int, int, int]:
    """Return bytes of scratch a thread, and a query; queries that go together, and of a block."""
    width, size = tile_columns(queries), queries.itemsize
    return width * (DEPTH + ROWS + QUERY_GROUP * ROWS) * size, queries.shape[1] * size, ROWS, QUERY_GROUP * ROWS


def plan_search(queries: Array, points: Array, k: int, slices: int) -> Callable[..., None]:
    """Return a function (queries, points, heaps, indices): it fills the heaps (slices queries, k), sorted."""
    rows = panel_rows(queries, points)
    launch = partial(_search.launch(panels(panels(len(queries), rows), QUERY_GROUP) * slices,
                                    work=len(queries) * points.size), rows, slices)
    if rows == 1:
        return launch
    return lambda queries, points, heaps, indices: launch(pack_queries(queries, rows), points, heaps, indices)
