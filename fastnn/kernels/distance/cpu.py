"""Distances and nearest neighbours on the CPU: which algorithm runs, and within how much memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tuning import KNN_BLOCKS, KNN_GROUPS, KNN_LEAST_SLICE
from fastnn.kernels._memory import empty
from fastnn.kernels.distance import bytewise, direct, filtered
from fastnn.kernels.distance.pairs import pairs, range_of
from fastnn.kernels.distance.select import merge

_OBJECTS = 1 << 12      # bytes for the objects and the alignment of a batch's arrays


def pairwise_l2(x: Array, y: Array, squared: bool, algorithm: str, distances: Array) -> None:
    if x.dtype == np.uint8:
        bytewise.pairs(x, y, distances)
        if not squared:
            np.sqrt(distances, out=distances)
    else:
        pairs(x, y, squared, algorithm == "gemm", distances)


def knn(queries: Array, points: Array, squared: bool, algorithm: str, memory_budget: int, distances: Array,
        indices: Array) -> None:
    _nearest(queries, points, algorithm, memory_budget, distances, indices)
    odd = np.empty(len(queries) + 1, np.int64)
    _finish(1, queries, points, squared, distances, indices, odd, work=0)
    for row in odd[1:odd[0] + 1] if odd[0] else ():
        _rank_again(queries[row:row + 1], points, squared, memory_budget, distances[row], indices[row])


@block_kernel(writes="distances odd", typed_by="queries")
def _finish(block: int, queries: Array, points: Array, squared: bool, distances: Array, indices: Array,
            odd: Array) -> None:
    """Take the roots of squares; list the queries of which some left the range of their dtype, behind their number."""
    least, count = range_of(queries)[0], 0
    for row in range(len(queries)):
        left = False
        for rank in range(distances.shape[1]):
            square = distances[row, rank]
            if square == np.inf:
                left = True
            elif square < least:                    # of two different points, which look like one?
                x, y = queries[row], points[indices[row, rank]]
                for d in range(x.size):
                    left |= x[d] != y[d]
            if not squared:
                distances[row, rank] = np.sqrt(square)
        if left:
            count += 1
            odd[count] = row
    odd[0] = count


def _rank_again(query: Array, points: Array, squared: bool, memory_budget: int, distances: Array,
                indices: Array) -> None:
    """Find the neighbours of one query by their distances, which have a wider range than squares."""
    k = len(indices)
    count = max(k, memory_budget // (8 * query.itemsize + 32))
    best, lengths = np.empty(0, np.int64), np.empty((2, 0), query.dtype)
    for first in range(0, len(points), count):
        part = points[first:first + count]
        found = np.empty((2, 1, len(part)), query.dtype)
        for power, values in enumerate(found):
            pairs(query, part, bool(power), False, values)
        lengths = np.concatenate([lengths, found[:, 0]], axis=1)
        best = np.concatenate([best, np.arange(first, first + len(part))])
        order = np.lexsort((best, lengths[1], lengths[0]))[:k]
        best, lengths = best[order], lengths[:, order]
    indices[:], distances[:] = best, lengths[int(squared)]


def _nearest(queries: Array, points: Array, algorithm: str, memory_budget: int, squares: Array,
             indices: Array) -> None:
    """Find the neighbours of all queries by the squares of their distances."""
    methods = [bytewise if queries.dtype == np.uint8 else direct]
    if filtered.can_help(queries, points, squares.shape[1], algorithm):
        methods.insert(0, filtered)                 # the other one where this has no room, or gives up
    for method in methods:
        batch, slices, least = _plan(method, queries, points, squares, memory_budget)
        if batch:
            break
    else:
        raise ValueError(f"memory_budget: expected at least {least} bytes for k = {squares.shape[1]} and "
                         f"{queries.shape[1]} dimensions, got {memory_budget}")
    for first in range(0, len(queries), batch):
        first = min(first, len(queries) - batch)    # all batches have one size, so that their scratch has, too
        part = slice(first, first + batch)
        if slices == 1:
            heaps, heap_indices = squares[None, part], indices[None, part]
        else:
            heaps = empty((slices, *squares[part].shape), squares.dtype)
            heap_indices = empty(heaps.shape, np.int64)
        if not method.search(queries[part], points, heaps, heap_indices):
            method = direct
            method.search(queries[part], points, heaps, heap_indices)
        if slices > 1:
            merge(heaps.shape[1], heaps, heap_indices, squares[part], indices[part], work=heaps.size)


def _plan(method: Any, queries: Array, points: Array, squares: Array, memory_budget: int) -> tuple[int, int, int]:
    """Return how many queries to take at once, 0 for want of memory, how many slices of points, the least budget."""
    count, k = squares.shape
    scratch, query, rows, group = method.memory(queries, k)
    heap = k * (squares.itemsize + 8)
    query += heap
    free = memory_budget - min(get_num_threads(), max(panels(count, group), KNN_BLOCKS)) * scratch - _OBJECTS
    batch = min(free // query // rows, panels(count, rows)) * rows
    if batch <= 0:
        return 0, 0, memory_budget - free + rows * query
    batch = min(count, panels(panels(count, panels(count, batch)), rows) * rows)
    groups = panels(batch, group)
    slices = 1 if groups >= KNN_GROUPS else min(KNN_BLOCKS // groups, len(points) // max(KNN_LEAST_SLICE, 32 * k),
                                             1 + (free - batch * query) // (batch * heap))
    return batch, max(1, slices), 0
