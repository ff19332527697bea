"""Sums of squared differences by register tiles: packed panels of queries against panels of points, packed as met.

A block compares a group of query panels with some point panels, depth by depth, so that what it works on stays in the
cache whatever the dimension. Each sum is over dimensions in one order, whatever its place in a tile, and whatever tile.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn.kernels._arrays import Array
from fastnn.kernels._dot import BYTES, transpose_block
from fastnn.kernels._jit import block_kernel, config, helper
from fastnn.kernels._matrix import pack_rows, panels
from fastnn.kernels._simd import ROWS, distance_tile, tile_columns
from fastnn.kernels.distance.select import LAST, lowest_bit, offer, passing, sort

DEPTH = 256             # dimensions of one running sum
GROUP = 16              # query panels of a block, which share the packing of points
_SLAB = 8               # panels of points of a block of pairs
_LITTLE = 1 << 14
_FEW = 6                # queries of which a tile of one row each is faster than a full tile


def _row_tile_python(a: Array, b: Array, c: Array) -> None:
    for k in range(len(b)):
        c[0] += (a[k, 0] - b[k]) ** 2


@intrinsic
def _row_tile(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    element = {32: ir.FloatType(), 64: ir.DoubleType()}[c.dtype.bitwidth]
    lanes = tile_columns(np.empty(0, str(c.dtype)))
    vector = ir.VectorType(element, lanes)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        left, right, out = [context.make_array(ty)(context, builder, value)
                            for ty, value in zip(signature.args, args)]
        undefined = ir.Constant(vector, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        slot = cgutils.alloca_once(builder, vector)
        target = builder.bitcast(out.data, vector.as_pointer())
        initial = builder.load(target)
        initial.align = c.dtype.bitwidth // 8
        builder.store(initial, slot)
        with cgutils.for_range(builder, cgutils.unpack_tuple(builder, right.shape)[0]) as loop:
            first = builder.insert_element(undefined, builder.load(builder.gep(left.data, [loop.index])),
                                           ir.Constant(ir.IntType(32), 0))
            pointer = builder.gep(right.data, [builder.mul(loop.index, ir.Constant(loop.index.type, lanes))])
            row = builder.load(builder.bitcast(pointer, vector.as_pointer()))
            row.align = c.dtype.bitwidth // 8
            difference = builder.fsub(builder.shuffle_vector(first, undefined, zeros), row)
            square = builder.fmul(difference, difference, flags=("contract",))
            builder.store(builder.fadd(builder.load(slot), square, flags=("contract",)), slot)
        builder.store(builder.load(slot), target).align = c.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(a, b, c), codegen


row_tile: Any = _row_tile_python if config.DISABLE_JIT else _row_tile
"""row_tile(a, b, c): what `distance_tile` does, of one row: a is (depth, 1), c is (1, tile_columns)."""


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
def compare(queries: Array, points: Array, begins: Array, panel: Array, tile: Array, totals: Array) -> None:
    """Set totals[q, i, j] to the squared distance from row i of query panel q to the point at begins[j]."""
    depth = queries.shape[1]
    totals[:] = 0
    for first in range(0, depth, DEPTH):
        last = min(first + DEPTH, depth)
        part = panel[: last - first]
        pack_points(points, begins, first, part)
        for q in range(queries.shape[0]):
            if first == 0:
                _add(queries[q, first:last], part, totals[q])
            else:
                tile[:] = 0
                _add(queries[q, first:last], part, tile)
                for i in range(tile.shape[0]):
                    for j in range(tile.shape[1]):
                        totals[q, i, j] += tile[i, j]


@helper
def _add(queries: Array, panel: Array, tile: Array) -> None:
    if queries.shape[1] == 1:
        row_tile(queries, panel, tile)
    else:
        distance_tile(queries, panel, tile)


@block_kernel(writes="distances")
def _pairs(block: int, queries: Array, points: Array, squared: bool, distances: Array) -> None:
    """The distances of a group of query panels from a few panels of points."""
    width, rows, depth = tile_columns(queries), queries.shape[2], points.shape[1]
    group, slab = divmod(block, -(-points.shape[0] // (_SLAB * width)))
    top, queries = _group(group, queries)
    panel, tile = np.empty((min(depth, DEPTH), width), queries.dtype), np.empty((rows, width), queries.dtype)
    totals, begins = np.empty((queries.shape[0], rows, width), queries.dtype), np.empty(width, np.int64)
    end = min((slab + 1) * _SLAB * width, points.shape[0])
    for left in range(slab * _SLAB * width, end, width):
        inside = begin_panel(left, end, depth, begins)
        compare(queries, points, begins, panel, tile, totals)
        for row in range(min(queries.shape[0] * rows, distances.shape[0] - top)):
            squares, result = totals[row // rows, row % rows], distances[top + row, left : left + inside]
            if squared:
                for j in range(result.size):
                    result[j] = squares[j]
            else:
                for j in range(result.size):
                    result[j] = math.sqrt(squares[j])


def pairs(x: Array, y: Array, squared: bool, distances: Array) -> None:
    queries = _packed(x, y)
    slabs = panels(len(y), _SLAB * tile_columns(queries))
    _pairs(panels(len(queries), GROUP) * slabs, queries, y, squared, distances, work=len(x) * y.size)


def _packed(queries: Array, points: Array) -> Array:
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
    panel, tile = np.empty((min(depth, DEPTH), width), queries.dtype), np.empty((rows, width), queries.dtype)
    totals, begins = np.empty((queries.shape[0], rows, width), queries.dtype), np.empty(width, np.int64)
    count = min(queries.shape[0] * rows, squares.shape[1] - top)
    squares, indices = squares[part, top : top + count], indices[part, top : top + count]
    squares[:] = np.nan
    indices[:] = LAST
    for left in range(begin, end, width):
        inside = begin_panel(left, end, depth, begins)
        compare(queries, points, begins, panel, tile, totals)
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
    packed = _packed(queries, points)
    _search(panels(len(packed), GROUP) * len(heaps), packed, points, heaps, indices, work=len(queries) * points.size)
    return True
