"""All distances by |x|^2 - 2 x y + |y|^2: a matrix product over packed panels, and the lengths in float64."""

from __future__ import annotations

import math

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import block_kernel
from fastnn.kernels._matrix import pack_rows, panels
from fastnn.kernels._simd import ROWS, multiply_tile, tile_columns
from fastnn.kernels.distance.direct import DEPTH, GROUP, begin_panel, pack_points


@block_kernel(writes="lengths")
def _squared_lengths(block: int, x: Array, lengths: Array) -> None:
    total = 0.0
    for d in range(x.shape[1]):
        total += np.float64(x[block, d]) * np.float64(x[block, d])
    lengths[block] = total


@block_kernel(writes="distances")
def _pairs(block: int, queries: Array, points: Array, squared: bool, query_lengths: Array, point_lengths: Array,
           distances: Array) -> None:
    """The distances of a group of query panels from one panel of points."""
    width, depth = tile_columns(queries), points.shape[1]
    group, right = divmod(block, -(-points.shape[0] // width))
    queries = queries[group * GROUP : (group + 1) * GROUP]
    panel, tile = np.empty((min(depth, DEPTH), width), queries.dtype), np.empty((ROWS, width), queries.dtype)
    totals, begins = np.zeros((queries.shape[0], ROWS, width)), np.empty(width, np.int64)
    top, left = group * GROUP * ROWS, right * width
    inside = begin_panel(left, points.shape[0], depth, begins)
    for first in range(0, depth, DEPTH):
        last = min(first + DEPTH, depth)
        part = panel[: last - first]
        pack_points(points, begins, first, part)
        for q in range(queries.shape[0]):
            tile[:] = 0
            multiply_tile(queries[q, first:last], part, tile)
            for i in range(ROWS):
                for j in range(width):
                    totals[q, i, j] += tile[i, j]
    for row in range(min(queries.shape[0] * ROWS, distances.shape[0] - top)):
        products, result = totals[row // ROWS, row % ROWS], distances[top + row, left : left + inside]
        length, lengths = query_lengths[top + row], point_lengths[left : left + inside]
        for j in range(result.size):
            square = length + lengths[j] - 2 * products[j]
            square = 0.0 if square < 0 else square
            result[j] = square if squared else math.sqrt(square)


def pairs(x: Array, y: Array, squared: bool, distances: Array) -> None:
    x_lengths, y_lengths = np.empty(len(x)), np.empty(len(y))
    _squared_lengths(len(x), x, x_lengths, work=x.size)
    _squared_lengths(len(y), y, y_lengths, work=y.size)
    queries = pack_rows(x[None], ROWS)[0]
    blocks = panels(len(queries), GROUP) * panels(len(y), tile_columns(queries))
    _pairs(blocks, queries, y, squared, x_lengths, y_lengths, distances, work=len(x) * y.size)
