"""Nearest neighbours by a filter: a cheap product rules most points out, the direct sum decides among the rest.

Which points are nearest to x follows from f(y) = |Y|^2 / 2 - X Y = (|x - y|^2 - |X|^2) / 2, where X = x - c and
Y = y - c for any c; here that is a mean of points, which only makes the bound below tight. The filter forms
v = w - P from operands X', Y' that are X and Y rounded to bfloat16 (float32 where there is no matrix unit), P the
product X' Y' as computed, w the float32 next to |Y|^2 / 2. Let r_x >= |X - X'| and N_x >= |X|, |X'|, the same for y,
u = 2^-24 and S = (N_x + N_y)^2, so that N_x N_y <= S / 4 and |w| + |X' Y'| <= S. Then by Cauchy and Schwarz

    X Y - X' Y'       = (X - X') Y + X' (Y - Y')    at most r_x N_y + r_y N_x,
    P - X' Y'         products of bfloat16 are exact in float32; at most D + 32 sums, in any order, and as many
                      roundings of products where they are of float32 (Higham 2002, 3.1): (D + 34) u S / 4,
    w - |Y|^2 / 2     summed in float64 from differences that are rounded once: 4 u S,
    v - (w - P)       u S,
    f from the squares that `direct` computes, whose relative error is (259 + D / 256) u: (259 + D / 256) u S / 2,
    the bounds below as rounded to float32: 4 u S,

all together, with some room for products of roundings, v is within

    E = r_x N_y + r_y N_x + (D + 600) u S / 3 + 2^-100 D

of what ranks x and y in `direct`. The last term is for underflow: a product, sum or square below 2^-126 is lost. There
is no overflow while S < 1e37; otherwise, and where anything is not finite, E is infinite or NaN.

So the k-th smallest v + E of any points is at least the k-th smallest f, and a point whose v - E is above it is no
neighbour. r and N come from X' itself: r is 2^-22 |X'| for the rounding of x - c beside the norm of what rounding to
bfloat16 leaves, which is about a third of the worst case. Points that pass wait in a queue, are tested again with the
last bound, and those left are compared by the tiles of `direct`. If more than one in FILTER_USEFUL of all is left, the
filter gives up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastnn._checks import FLOATS, Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper, sums_helper
from fastnn.kernels._cpu.dot import BYTES, WIDTH, WORDS, float_tile, matrix_unit, start_unit, stop_unit, transpose_block
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.tiles import tile_columns
from fastnn.kernels._cpu.tuning import FILTER_DIMENSIONS, FILTER_QUERIES, FILTER_SAMPLE, FILTER_USEFUL, QUERY_GROUP
from fastnn.kernels._memory import empty
from fastnn.kernels.distance import direct
from fastnn.kernels.distance.select import LAST, by_slices, lowest_bit, offer, passing_dot, sort

_MOST = 64                                  # neighbours that the filter is made for
_HIGHEST = 1 << 18                          # dimensions up to which the bound has room for products of roundings
_UNIT_ROUNDOFF = 2.0**-24

_HALF, _ONE, _SHIFT, _UPPER = np.uint32(0x7FFF), np.uint32(1), np.uint32(16), np.uint32(0xFFFF0000)
_SMALLEST = np.float32(2.0**-126)


@inlined_helper
def _to_bfloat16(value: float) -> Any:
    """Return the bits of a float32 number rounded to bfloat16, 0 below the normal numbers; a NaN may become any."""
    bits = np.float32(value).view(np.uint32)
    bits = np.uint32(np.uint32(bits + np.uint32(_HALF + np.uint32((bits >> _SHIFT) & _ONE))) & _UPPER)
    return bits if abs(np.uint32(bits).view(np.float32)) >= _SMALLEST else np.uint32(0)


@helper
def _subtract(point: Array, center: Array, difference: Array) -> None:
    for d in range(point.size):
        difference[d] = point[d] - center[d]


@sums_helper
def _round(values: Array, unit: bool, words: Array) -> tuple[float, float]:
    """Write float32 numbers as words; return their norm, and that of what rounding leaves."""
    squares, errors = 0.0, 0.0
    if unit:
        for n in range(values.size // 2):
            a, b = values[2 * n], values[2 * n + 1]
            low, high = _to_bfloat16(a), _to_bfloat16(b)
            words[n] = np.uint32(np.uint32(low >> _SHIFT) | high)
            a_error = np.float64(a - np.uint32(low).view(np.float32))
            b_error = np.float64(b - np.uint32(high).view(np.float32))
            squares += np.float64(a) * np.float64(a) + np.float64(b) * np.float64(b)
            errors += a_error * a_error + b_error * b_error
    else:
        for n in range(values.size):
            words[n] = np.float32(values[n]).view(np.uint32)
            squares += np.float64(values[n]) * np.float64(values[n])
    return math.sqrt(squares), math.sqrt(errors)


@helper
def _reduce(point: Array, center: Array, unit: bool, values: Array, words: Array) -> tuple[float, float, float]:
    """Write the words of a point; return N, r and |Y|^2 / 2. `values` has zeros behind the last dimension."""
    _subtract(point, center, values)
    norm, left = _round(values, unit, words)
    r = 1.000001 * left + 4 * _UNIT_ROUNDOFF * norm + 2.0**-140 * point.size
    return norm + r, r, norm * norm / 2


@block_kernel(writes="packed norms residuals")
def _pack_queries(block: int, queries: Array, center: Array, unit: bool, packed: Array, norms: Array,
                  residuals: Array) -> None:
    """One panel of rows as a float tile reads it, with their N and r."""
    steps = packed.shape[1]
    words = np.empty(steps * WORDS, np.uint32)
    values = np.zeros(words.size * (2 if unit else 1), np.float32)
    for place in range(WIDTH):
        row = block * WIDTH + place
        norms[row], residuals[row] = 0, 0
        words[:] = 0
        if row < queries.shape[0]:
            norms[row], residuals[row], _ = _reduce(queries[row], center, unit, values, words)
        half, i = divmod(place, 16)
        for step in range(steps):
            for word in range(WORDS):
                packed[block, step, half, i, word] = words[step * WORDS + word]


@helper
def _pack_points(points: Array, left: int, end: int, center: Array, unit: bool, values: Array, words: Array,
                 begins: Array, panel: Array, halves: Array) -> tuple[float, float]:
    """A panel of points from `left` on, as a float tile reads it, and their |Y|^2 / 2; return the largest N and r."""
    norm, residual = 0.0, 0.0
    for j in range(WIDTH):
        begins[j] = j * words.shape[1]
        n, r, half = _reduce(points[min(left + j, end - 1)], center, unit, values, words[j])
        halves[j] = half
        norm = n if (n > norm) | (n != n) else norm          # NaN stays
        residual = r if (r > residual) | (r != r) else residual
    flat = words.reshape(-1)
    for step in range(panel.shape[0]):
        for half in range(2):
            transpose_block(flat, begins, 16 * half, step * WORDS, panel, (2 * step + half) * 16 * WORDS, 16)
    return norm, residual


@helper
def _limit(norms: Array, residuals: Array, norm: float, residual: float, rounding: float, underflow: float,
           worst: Array, slack: Array, limits: Array) -> None:
    """Set E of every query of a panel and the points of another, and the v from which on a point is no neighbour."""
    for i in range(WIDTH):
        scale = (norms[i] + norm) * (norms[i] + norm)
        error = residuals[i] * norm + norms[i] * residual + rounding * scale + underflow
        slack[i] = np.inf if scale > 1e37 else error
        limits[i] = worst[i] + slack[i]


@helper
def _prune(least: Array, waiting: Array, row: int, count: int, worst: float) -> int:
    """Keep of the points that wait those whose least possible value is not above the worst; return how many."""
    kept = 0
    for n in range(count):
        if not least[row, n] > worst:
            least[row, kept], waiting[row, kept] = least[row, n], waiting[row, n]
            kept += 1
    return kept


@helper
def _decide(queries: Array, row: int, points: Array, waiting: Array, count: int, begins: Array, panel: Array,
            totals: Array, squares: Array, indices: Array) -> None:
    """Take the points that wait for a query into its heap by their direct distance."""
    query = queries[row : row + 1]
    width = begins.size
    for first in range(0, count, width):
        for j in range(width):
            begins[j] = waiting[row, min(first + j, count - 1)] * points.shape[1]
        direct.compare(query, points, begins, panel, totals)
        for j in range(min(width, count - first)):
            offer(squares, indices, row, totals[0, 0, j], waiting[row, first + j])


@block_kernel(writes="squares indices gave_up")
def _search(block: int, slices: int, unit: bool, together: int, capacity: int, queries: Array, points: Array,
            center: Array, packed: Array, norms: Array, residuals: Array, squares: Array, indices: Array,
            gave_up: Array) -> None:
    """The heaps of a group of query panels over one slice of the points; squares is (slices queries, k)."""
    steps, dimensions, k = packed.shape[1], points.shape[1], squares.shape[1]
    queries = queries.reshape(queries.shape[0], dimensions, 1)
    squares, indices = by_slices(squares, slices), by_slices(indices, slices)
    group, part = divmod(block, slices)
    begin, end = points.shape[0] * part // slices, points.shape[0] * (part + 1) // slices
    top = group * QUERY_GROUP * WIDTH
    rows = min(QUERY_GROUP * WIDTH, squares.shape[1] - top)
    packed, queries = packed[group * QUERY_GROUP : (group + 1) * QUERY_GROUP], queries[top : top + rows]
    squares, indices = squares[part, top : top + rows], indices[part, top : top + rows]
    squares[:] = np.nan
    indices[:] = LAST

    words, panel = np.zeros((WIDTH, steps * WORDS), np.uint32), np.empty((together, steps, 2, 16, WORDS), np.uint32)
    values, begins = np.zeros(words.shape[1] * (2 if unit else 1), np.float32), np.empty(WIDTH, np.int64)
    halves, largest = np.empty((together, WIDTH), np.float32), np.empty((together, 2))
    tile = np.empty((WIDTH, WIDTH), np.float32)
    limits, slack = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    worst = np.full((packed.shape[0], WIDTH), np.nan, np.float32)      # the k-th smallest v + E of each query
    best, best_indices = np.full((rows, k), np.nan, np.float32), np.full((rows, k), LAST)
    waiting, least, count = np.empty((rows, capacity), np.int64), np.empty((rows, capacity), np.float32), np.zeros(
        rows, np.int64)
    width = tile_columns(points)
    exact_panel, totals = np.empty((min(dimensions, direct.DEPTH), width), points.dtype), np.empty(
        (1, 1, width), points.dtype)
    exact_begins = np.empty(width, np.int64)
    rounding, underflow, decided = (dimensions + 600) * _UNIT_ROUNDOFF / 3, 2.0**-100 * dimensions, 0

    start_unit(unit)
    for first in range(begin, end, together * WIDTH):
        if gave_up[0]:
            break
        present = min(together, -(-(end - first) // WIDTH))
        for p in range(present):
            largest[p] = _pack_points(points, first + p * WIDTH, end, center, unit, values, words, begins, panel[p],
                                      halves[p])
        for q in range(packed.shape[0]):
            for p in range(present):
                left = first + p * WIDTH
                float_tile(packed[q], panel[p], tile, unit)
                for i in range(WIDTH):
                    for j in range(WIDTH):
                        tile[i, j] = halves[p, j] - tile[i, j]
                here = top + q * WIDTH
                _limit(norms[here : here + WIDTH], residuals[here : here + WIDTH], largest[p, 0], largest[p, 1],
                       rounding, underflow, worst[q], slack, limits)
                inside = (1 << min(WIDTH, end - left)) - 1
                for i in range(min(WIDTH, rows - q * WIDTH)):
                    row = q * WIDTH + i
                    columns = passing_dot(tile, i * WIDTH, limits[i]) & inside
                    while columns:
                        j = lowest_bit(columns)
                        columns &= columns - 1
                        offer(best, best_indices, row, tile[i, j] + slack[i], left + j)
                        worst[q, i] = best[row, 0]
                        limits[i] = worst[q, i] + slack[i]
                        if count[row] == capacity:
                            count[row] = _prune(least, waiting, row, capacity, worst[q, i])
                            if 2 * count[row] > capacity:
                                decided += count[row]
                                _decide(queries, row, points, waiting, count[row], exact_begins, exact_panel, totals,
                                        squares, indices)
                                count[row] = 0
                        least[row, count[row]], waiting[row, count[row]] = tile[i, j] - slack[i], left + j
                        count[row] += 1
        if decided * FILTER_USEFUL > rows * (first + together * WIDTH - begin):
            gave_up[0] = 1
    stop_unit(unit)
    if not gave_up[0]:
        for row in range(rows):
            count[row] = _prune(least, waiting, row, count[row], worst[row // WIDTH, row % WIDTH])
            _decide(queries, row, points, waiting, count[row], exact_begins, exact_panel, totals, squares, indices)
            sort(squares, indices, row)


def _center(points: Array) -> Array:
    """Return a vector near the middle of the points; any finite one is right."""
    with np.errstate(all="ignore"):
        center = points[:: max(1, len(points) // FILTER_SAMPLE)][:FILTER_SAMPLE].mean(0)
    return np.where(np.isfinite(center), center, 0).astype(points.dtype)


def _steps(dimensions: int) -> int:
    return panels(dimensions, WORDS * (2 if matrix_unit() else 1))


def _together(dimensions: int) -> int:
    """Return how many panels of points a block takes at once, so that they stay in the cache."""
    return max(1, min(4, (1 << 20) // (WIDTH * BYTES * max(1, _steps(dimensions)))))


def _capacity(k: int) -> int:
    """Return how many points may wait a query."""
    return 128 + 4 * k


def memory(queries: Array, k: int) -> tuple[int, int, int, int]:
    """Return bytes of scratch a thread, and a query; queries that go together, and of a block."""
    dimensions = queries.shape[1]
    row, heap = BYTES * _steps(dimensions), 12 * (k + _capacity(k)) + 16
    scratch = (1 + _together(dimensions)) * WIDTH * row + 2 * row + QUERY_GROUP * WIDTH * heap + (1 << 14)
    return scratch + direct.memory(queries, k)[0], row + 16 + dimensions * queries.itemsize, WIDTH, QUERY_GROUP * WIDTH


def can_help(queries: Array, points: Array, k: int, algorithm: str) -> bool:
    """Whether to try the filter: where it works if it is asked for, where it is likely to be faster by "auto"."""
    if queries.dtype not in FLOATS or k > _MOST or points.shape[1] > _HIGHEST:
        return False
    return algorithm == "filter" or (algorithm == "auto" and len(queries) >= FILTER_QUERIES
                                     and points.shape[1] >= FILTER_DIMENSIONS and len(points) >= 32 * k)


def plan_search(queries: Array, points: Array, k: int, slices: int) -> Callable[..., bool]:
    """Return a function (queries, points, heaps, indices): it fills the heaps (slices queries, k), sorted, or gives up.

    It returns whether it gave up.
    """
    unit, count = matrix_unit(), panels(len(queries), WIDTH)
    shape = count, _steps(queries.shape[1]), 2, 16, WORDS
    pack = _pack_queries.launch(count, work=queries.size)
    run = partial(_search.launch(panels(count, QUERY_GROUP) * slices, work=len(queries) * points.size), slices, unit,
                  _together(queries.shape[1]), _capacity(k))

    def search(queries: Array, points: Array, heaps: Array, indices: Array) -> bool:
        center, packed, gave_up = _center(points), empty(shape, np.uint32), np.zeros(1, np.int64)
        norms, residuals = np.empty((2, count * WIDTH))
        pack(queries, center, unit, packed, norms, residuals)
        run(queries, points, center, packed, norms, residuals, heaps, indices, gave_up)
        return bool(gave_up[0])

    return search
