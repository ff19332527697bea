"""Distances by register tiles: packed panels of queries against panels of points, packed as they are met.

A block compares a group of query panels with some point panels, depth by depth, so that what it works on stays in the
cache whatever the dimension. Each distance is a sum over dimensions in one order, whatever its place in a tile.
"""

from __future__ import annotations

import math

import numpy as np

from fastnn.kernels._arrays import EMPTY, Array
from fastnn.kernels._jit import block_kernel, get_num_threads, helper
from fastnn.kernels._matrix import pack_rows, panels
from fastnn.kernels._simd import ROWS, distance_tile, multiply_tile, tile_columns
from fastnn.kernels.distance import bytes as byte_search, direct
from fastnn.kernels.distance.select import merge

_DEPTH = 256            # dimensions of one running sum: squares of bytes, of which 258 fit into float32, stay exact
_GROUP = 16             # query panels of a block, which share the packing of points
_BLOCKS = 32            # blocks that few queries and many points are cut into
_LAST = np.iinfo(np.int64).max

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


@helper
def _compare(queries: Array, points: Array, expanded: bool, panel: Array, tile: Array, totals: Array) -> None:
    """Set totals[q, i, j] to the sum for query panel q and point j: of squared differences, or of products."""
    depth = queries.shape[1]
    totals[:] = 0
    for first in range(0, depth, _DEPTH):
        last = min(first + _DEPTH, depth)
        part = panel[:last - first]
        for d in range(last - first):
            for j in range(points.shape[0]):
                part[d, j] = points[j, first + d]
        for q in range(queries.shape[0]):
            tile[:] = 0
            if expanded:
                multiply_tile(queries[q, first:last], part, tile)
            else:
                distance_tile(queries[q, first:last], part, tile)
            for i in range(tile.shape[0]):
                for j in range(tile.shape[1]):
                    totals[q, i, j] += tile[i, j]


# --- all pairs ---------------------------------------------------------------------------------------------


@block_kernel(writes="lengths")
def _squared_lengths(block: int, x: Array, lengths: Array) -> None:
    total = 0.0
    for d in range(x.shape[1]):
        total += np.float64(x[block, d]) * np.float64(x[block, d])
    lengths[block] = total


@block_kernel(writes="distances")
def _pairwise(block: int, queries: Array, points: Array, squared: bool, query_lengths: Array, point_lengths: Array,
              sums: Array, distances: Array) -> None:
    """The distances of a group of query panels and one panel of points; lengths are empty unless expanded."""
    width = tile_columns(queries)
    group, right = divmod(block, -(-points.shape[0] // width))
    queries, points = queries[group * _GROUP:(group + 1) * _GROUP], points[right * width:(right + 1) * width]
    expanded = query_lengths.size > 0
    panel, tile = np.zeros((_DEPTH, width), queries.dtype), np.empty((ROWS, width), queries.dtype)
    totals = np.empty((queries.shape[0], ROWS, width), sums.dtype)
    _compare(queries, points, expanded, panel, tile, totals)
    top, left = group * _GROUP * ROWS, right * width
    for row in range(min(queries.shape[0] * ROWS, distances.shape[0] - top)):
        squares, result = totals[row // ROWS, row % ROWS], distances[top + row, left:left + points.shape[0]]
        if expanded:
            for j in range(result.size):
                square = query_lengths[top + row] + point_lengths[left + j] - 2 * squares[j]
                squares[j] = 0.0 if square < 0 else square
        if squared:
            for j in range(result.size):
                result[j] = squares[j]
        else:
            for j in range(result.size):
                result[j] = math.sqrt(squares[j])


def _packed(queries: Array) -> Array:
    """Return queries as panels (panels, D, ROWS), bytes as float32."""
    return pack_rows(queries.astype(_tile_dtype(queries), copy=False)[None], ROWS)[0]


def _tile_dtype(x: Array) -> np.dtype:
    return _DOUBLE if x.dtype == _DOUBLE else _SINGLE


def pairwise_l2(x: Array, y: Array, squared: bool, algorithm: str, distances: Array) -> None:
    x_lengths = y_lengths = EMPTY[_DOUBLE]
    sums = EMPTY[_SINGLE if x.dtype == _SINGLE and algorithm == "direct" else _DOUBLE]
    if algorithm == "gemm":
        x_lengths, y_lengths = np.empty(len(x)), np.empty(len(y))
        _squared_lengths(len(x), x, x_lengths, work=x.size)
        _squared_lengths(len(y), y, y_lengths, work=y.size)
    queries = _packed(x)
    blocks = panels(len(queries), _GROUP) * panels(len(y), tile_columns(queries))
    _pairwise(blocks, queries, y, squared, x_lengths, y_lengths, sums, distances, work=len(x) * y.size)


# --- nearest neighbours ------------------------------------------------------------------------------------


def knn(queries: Array, points: Array, algorithm: str, memory_budget: int, squares: Array, indices: Array) -> None:
    batch, slices = _plan(queries, points, squares, memory_budget)
    for first in range(0, len(queries), batch):
        part = slice(first, first + batch)
        _knn_of_batch(queries[part], points, slices, squares[part], indices[part])


def _knn_of_batch(queries: Array, points: Array, slices: int, squares: Array, indices: Array) -> None:
    heaps = np.empty((slices, *squares.shape), squares.dtype)
    heap_indices = np.empty(heaps.shape, np.int64)
    if queries.dtype == np.uint8:
        byte_search.search(queries, points, heaps, heap_indices)
    else:
        packed = direct.pack_queries(queries)
        direct.search(panels(len(packed), direct.GROUP) * slices, packed, points, heaps, heap_indices,
                      work=len(queries) * points.size)
    merge(len(queries), heaps, heap_indices, squares, indices, work=heaps.size)


def _plan(queries: Array, points: Array, squares: Array, memory_budget: int) -> tuple[int, int]:
    """Return how many queries to take at once, and into how many slices to cut the points, within the budget."""
    tile, k = _tile_dtype(queries), squares.shape[1]
    width = tile_columns(np.empty(0, tile))
    scratch = width * ((_DEPTH + ROWS) * tile.itemsize + _GROUP * ROWS * squares.itemsize)
    heap = k * (squares.itemsize + 8)
    copies = 1 if queries.dtype == tile else 2          # packed, and for bytes their float32
    query = queries.shape[1] * copies * tile.itemsize + heap
    free = memory_budget - get_num_threads() * scratch
    batch = free // query // ROWS * ROWS
    if batch <= 0:
        raise ValueError(f"memory_budget: expected at least {memory_budget - free + ROWS * query} bytes for k = {k} "
                         f"and {queries.shape[1]} dimensions, got {memory_budget}")
    batch = min(batch, ROWS * panels(len(queries), ROWS))
    slices = min(_BLOCKS // panels(batch, _GROUP * ROWS), len(points) // max(2048, 32 * k),
                 1 + (free - batch * query) // (batch * heap))
    return batch, max(1, slices)
