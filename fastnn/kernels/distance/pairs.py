"""All distances between two sets of points, by sums of squared differences or by |x|^2 - 2 x y + |y|^2.

A block walks with a slab of points, packed once, over a group of query panels. The sums of a panel fill rows as long as
the slab is wide, which go to the result in one piece each, past the caches if it is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.llvm import ROWS
from fastnn.kernels._cpu.tiles import product_tile, square_row, square_tile, tile_columns
from fastnn.kernels._cpu.tuning import LEAST_BLOCKS, PAIR_GROUP, PAIR_LARGEST_GROUP, PAIR_SLAB
from fastnn.kernels._cpu.vectors import STREAMED, row_range, store_past_caches, streamable
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels.distance.direct import DEPTH, begin_panel, pack_points, pack_queries, panel_rows
from fastnn.kernels.distance.select import lowest_bit, passing


@block_kernel(writes="lengths")
def _squared_lengths(block: int, x: Array, lengths: Array) -> None:
    total = 0.0
    for first in range(0, x.shape[1], DEPTH):
        part = 0.0
        for d in range(first, min(first + DEPTH, x.shape[1])):
            part += np.float64(x[block, d]) * np.float64(x[block, d])
        total += part
    lengths[block] = total


@helper
def range_of(x: Array) -> tuple[float, float]:
    """Return between which squares of distances, but for inf, nothing that counts was lost; the roots of both."""
    return (2.0**-100, 2.0**-50) if x.itemsize == 4 else (2.0**-960, 2.0**-480)


@helper
def _apart(x: Array, y: Array, squared: bool) -> float:
    """The distance of two points in float64, by differences that are scaled so that no square leaves its range."""
    same = 0
    while same < y.size and x[same] - y[same] == 0:         # not so for inf
        same += 1
    if same == y.size:                      # as each point of a set is to itself
        return 0.0
    largest, total = 0.0, 0.0
    for d in range(y.size):
        largest = max(largest, abs(np.float64(x[d]) - np.float64(y[d])))
    unit = 2.0**-600 if 2.0**400 < largest < np.inf else 2.0**600 if largest < 2.0**-400 else 1.0
    for first in range(0, y.size, DEPTH):
        part = 0.0
        for d in range(first, min(first + DEPTH, y.size)):
            difference = (np.float64(x[d]) - np.float64(y[d])) * unit
            part += difference * difference
        total += part
    return total / unit / unit if squared else math.sqrt(total) / unit


@block_kernel(writes="distances")
def _pairs(block: int, rows: int, slabs: int, groups: int, slab: int, by_products: bool, squared: bool,
           query_lengths: Array, point_lengths: Array, queries: Array, points: Array, distances: Array) -> None:
    """The distances of a group of query panels from a slab of points, which has so many panels."""
    count, depth, width = queries.shape[0], points.shape[1], tile_columns(queries)
    queries = queries.reshape(count, depth, rows)
    group, part = divmod(block, slabs)
    first_panel, last_panel = count * group // groups, count * (group + 1) // groups
    left, line = part * slab * width, slab * width
    end = min(left + line, points.shape[0])
    packed, begins = np.empty((slab, min(depth, DEPTH), width), queries.dtype), np.empty(width, np.int64)
    totals = np.empty((last_panel - first_panel if depth > DEPTH else 1, rows, line), queries.dtype)
    small, root = range_of(queries)
    least = queries.dtype.type(-1.0 if by_products else small if squared else root)
    a, b, c = queries.reshape(-1), packed.reshape(-1), totals.reshape(-1)
    for first in range(0, max(1, depth), DEPTH):
        last = min(first + DEPTH, depth)
        for p in range(-(-(end - left) // width)):
            begin_panel(left + p * width, end, depth, begins)
            pack_points(points, begins, first, packed[p, : last - first])
        for q in range(first_panel, last_panel):
            total = totals[q - first_panel if depth > DEPTH else 0]
            if first == 0:
                total[:] = 0
            a_at, c_at = (q * depth + first) * rows, (q - first_panel) * rows * line if depth > DEPTH else 0
            for p in range(-(-(end - left) // width)):
                b_at = p * packed.shape[1] * width
                if by_products:
                    product_tile(a, a_at, b, b_at, last - first, c, c_at + p * width, line)
                elif rows == 1:
                    square_row(a, a_at, b, b_at, last - first, c, c_at + p * width, line)
                else:
                    square_tile(a, a_at, b, b_at, last - first, c, c_at + p * width, line)
            if last < depth:
                continue
            for i in range(min(rows, distances.shape[0] - q * rows)):
                values, result = total[i, : end - left], distances[q * rows + i, left:end]
                if by_products:
                    length, lengths = query_lengths[q * rows + i], point_lengths[left:end]
                    for j in range(values.size):
                        both = length + lengths[j]
                        square = both - 2 * np.float64(values[j])
                        square = square if (both >= small) & (abs(square) < np.inf) else np.inf
                        values[j] = 0.0 if square < 0 else square
                if not squared:
                    for j in range(values.size):
                        values[j] = math.sqrt(values[j])
                smallest, largest = row_range(values)
                if smallest < least or largest == np.inf:
                    for begin in range(0, values.size, width):
                        columns = -1 if largest == np.inf else passing(total, i * line + begin, least)
                        columns &= (1 << min(width, values.size - begin)) - 1
                        while columns:
                            j = begin + lowest_bit(columns)
                            columns &= columns - 1
                            if values[j] < least or values[j] == np.inf:
                                values[j] = _apart(queries[q, :, i], points[left + j], squared)
                if distances.nbytes < STREAMED:
                    for j in range(values.size):
                        result[j] = values[j]
                else:
                    begin, finish = streamable(result)
                    for j in range(begin):
                        result[j] = values[j]
                    store_past_caches(values[begin:finish], result, begin)
                    for j in range(finish, values.size):
                        result[j] = values[j]


def plan_pairs(x: Array, y: Array, squared: bool, by_products: bool) -> Callable[[Array, Array, Array], None]:
    """Return a function (x, y, distances)."""
    rows = ROWS if by_products else panel_rows(x, y)
    query_panels, slab = panels(len(x), rows), PAIR_SLAB if x.shape[1] > DEPTH // 2 else 2 * PAIR_SLAB
    slabs = panels(len(y), slab * tile_columns(x))
    groups = max(panels(query_panels, PAIR_LARGEST_GROUP),
                 min(panels(query_panels, PAIR_GROUP), panels(LEAST_BLOCKS, slabs)))
    run = partial(_pairs.launch(groups * slabs, work=len(x) * y.size), rows, slabs, groups, slab, by_products, squared)
    if by_products:
        counts = len(x), len(y)
        measure = [_squared_lengths.launch(len(points), work=points.size) for points in (x, y)]

        def with_lengths(x: Array, y: Array, distances: Array) -> None:
            lengths = np.empty(counts[0]), np.empty(counts[1])
            measure[0](x, lengths[0])
            measure[1](y, lengths[1])
            run(*lengths, pack_queries(x, rows), y, distances)

        return with_lengths
    run = partial(run, EMPTY[np.dtype(np.float64)], EMPTY[np.dtype(np.float64)])
    return run if rows == 1 else lambda x, y, distances: run(pack_queries(x, rows), y, distances)
