"""Sums of squared differences by register tiles: packed panels of queries against panels of points, packed as met.

A block compares a group of query panels with some point panels, depth by depth, so that what it works on stays in the
cache whatever the dimension. Each sum is over dimensions in one order, whatever its place in a tile, and whatever tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastnn.kernels._arrays import Array
from fastnn.kernels._dot import BYTES, transpose_block
from fastnn.kernels._jit import block_kernel, config, helper
from fastnn.kernels._matrix import pack_rows, panels
from fastnn.kernels._simd import (
    ROWS,
    Vectors,
    _product,
    _squared_difference,
    _sums,
    data_of,
    index,
    tile_columns,
)
from fastnn.kernels.distance.select import LAST, lowest_bit, offer, passing, sort

DEPTH = 256             # dimensions of one running sum
GROUP = 16              # query panels of a block, which share the packing of points
_LITTLE = 1 << 14
_FEW = 6                # queries of which a tile of one row each is faster than a full tile


def _tile(rows: int, term: Callable[..., Any], combine: Callable[[Array, Array], Array]) -> Any:
    """Return the tile(a, a_at, b, b_at, depth, c, c_at, line): c[i, j] += sum over k of term(a[k, i], b[k, j]).

    All are flat: a is (depth, rows) from a_at on, b (depth, tile_columns) from b_at on, and rows of c begin at c_at and
    every `line` behind. A sum begins with 0, and is added to c at its end.
    """
    def python(a: Array, a_at: int, b: Array, b_at: int, depth: int, c: Array, c_at: int, line: int) -> None:
        columns = tile_columns(b)
        left = a[a_at : a_at + depth * rows].reshape(depth, rows, 1)
        right = b[b_at : b_at + depth * columns].reshape(depth, 1, columns)
        for i, total in enumerate(combine(left, right).sum(0)):
            c[c_at + i * line : c_at + i * line + columns] += total

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, a_at: Any, b: Any, b_at: Any, depth: Any, c: Any, c_at: Any, line: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_at, b, b_at, depth, c, c_at, line = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[5].dtype)
            columns = tile_columns(np.empty(0, str(signature.args[5].dtype)))
            parts = range(0, columns, vector.lanes)
            a, b, c = (builder.gep(data, [at]) for data, at in ((a, a_at), (b, b_at), (c, c_at)))

            def terms(k: Any) -> Iterator[Any]:
                b_row = [vector.load(b, builder.add(builder.mul(k, index(columns)), index(j))) for j in parts]
                a_row = (vector.spread(a, builder.add(builder.mul(k, index(rows)), index(i))) for i in range(rows))
                return (term(builder, x, y) for x in a_row for y in b_row)

            slots = [builder.add(builder.mul(line, index(i)), index(j)) for i in range(rows) for j in parts]
            for slot, value in zip(slots, _sums(builder, depth, [vector.zero] * len(slots), terms)):
                vector.store(builder.fadd(vector.load(c, slot), value), c, slot)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(a, integer, b, integer, integer, c, integer, integer), codegen

    return tile


square_tile = _tile(ROWS, _squared_difference, lambda x, y: (x - y) ** 2)
square_row = _tile(1, _squared_difference, lambda x, y: (x - y) ** 2)
product_tile = _tile(ROWS, _product, np.multiply)


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
    groups = -(-count // GROUP)
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


def pack_queries(queries: Array, points: Array) -> Array:
    """Return queries as panels (panels, D, rows), of one row if there are few, or little to do with them."""
    if len(queries) <= _FEW or len(queries) * points.size <= _LITTLE:
        return queries[:, :, None]
    return pack_rows(queries[None], ROWS)[0]


@block_kernel(writes="squares indices")
def _search(block: int, queries: Array, points: Array, squares: Array, indices: Array) -> None:
    """The heaps of a group of query panels over one slice of the points; squares is (slices, queries, k)."""
    slices, width, rows, depth = squares.shape[0], tile_columns(queries), queries.shape[2], points.shape[1]
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
    return width * (DEPTH + ROWS + GROUP * ROWS) * size, queries.shape[1] * size, ROWS, GROUP * ROWS


def search(queries: Array, points: Array, heaps: Array, indices: Array) -> bool:
    """Fill the heaps (slices, queries, k) of all queries over slices of the points, sorted."""
    packed = pack_queries(queries, points)
    _search(panels(len(packed), GROUP) * len(heaps), packed, points, heaps, indices, work=len(queries) * points.size)
    return True
