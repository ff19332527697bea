"""Distances and nearest neighbours on the CPU: which algorithm runs, and within how much memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tuning import KNN_BLOCKS, KNN_GROUPS, KNN_LEAST_SLICE
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import Result
from fastnn.kernels.distance import bytewise, direct, filtered
from fastnn.kernels.distance.pairs import plan_pairs, range_of
from fastnn.kernels.distance.select import merge

_OBJECTS = 1 << 12      # bytes for the objects and the alignment of a batch's arrays


def plan_pairwise_l2(x: Array, y: Array, distances: Result, squared: bool,
                     algorithm: str) -> Callable[[Array, Array, Array], None]:
    """Return a function (x, y, distances)."""
    if x.dtype != np.uint8:
        return plan_pairs(x, y, squared, algorithm == "gemm")
    squares = bytewise.plan_pairs(x, y)

    def roots(x: Array, y: Array, distances: Array) -> None:
        squares(x, y, distances)
        np.sqrt(distances, out=distances)

    return squares if squared else roots


def plan_knn(queries: Array, points: Array, distances: Result, indices: Result, squared: bool, algorithm: str,
             memory_budget: int) -> Callable[[Array, Array, Array, Array], None]:
    """Return a function (queries, points, distances, indices)."""
    count, k = distances.shape
    plan = partial(_plan_search, k=k, itemsize=distances.dtype.itemsize, algorithm=algorithm,
                   memory_budget=memory_budget)
    searches = {get_num_threads(): plan(queries, points)}
    finish = partial(_finish.launch(1, work=0), squared)

    def knn(queries: Array, points: Array, distances: Array, indices: Array) -> None:
        search = searches.get(threads := get_num_threads())
        if search is None:                  # with another number of threads, another scratch fits into the budget
            search = searches[threads] = plan(queries, points)
        search(queries, points, distances, indices)
        odd = np.empty(count + 1, np.int64)
        finish(queries, points, distances, indices, odd)
        if odd[0]:
            for row in odd[1:odd[0] + 1]:
                _rank_again(queries[row:row + 1], points, squared, memory_budget, distances[row], indices[row])

    return knn


@block_kernel(writes="distances odd", typed_by="queries")
def _finish(block: int, squared: bool, queries: Array, points: Array, distances: Array, indices: Array,
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
            plan_pairs(query, part, bool(power), False)(query, part, values)
        lengths = np.concatenate([lengths, found[:, 0]], axis=1)
        best = np.concatenate([best, np.arange(first, first + len(part))])
        order = np.lexsort((best, lengths[1], lengths[0]))[:k]
        best, lengths = best[order], lengths[:, order]
    indices[:], distances[:] = best, lengths[int(squared)]


def _plan_search(queries: Array, points: Array, k: int, itemsize: int, algorithm: str,
                 memory_budget: int) -> Callable[..., Any]:
    """Return a function (queries, points, squares, indices) that finds neighbours by the squares of their distances."""
    methods: list[Any] = [bytewise if queries.dtype == np.uint8 else direct]
    if filtered.can_help(queries, points, k, algorithm):
        methods.insert(0, filtered)                 # the other one where this has no room, or gives up
    for method in methods:
        batch, slices, least = _fit(method, queries, points, k, itemsize, memory_budget)
        if batch:
            break
    else:
        raise ValueError(f"memory_budget: expected at least {least} bytes for k = {k} and {queries.shape[1]} "
                         f"dimensions, got {memory_budget}")
    searches = [_merged(each.plan_search(queries[:batch], points, k, slices), batch, slices)
                for each in (method, methods[-1])]
    if batch == len(queries) and method is not filtered:
        return searches[0]

    def in_batches(queries: Array, points: Array, squares: Array, indices: Array) -> None:
        search, instead = searches
        for first in range(0, len(queries), batch):
            first = min(first, len(queries) - batch)    # all batches have one size, so that their scratch has, too
            part = slice(first, first + batch)
            arrays = queries[part], points, squares[part], indices[part]
            if search(*arrays):
                search = instead
                search(*arrays)

    return in_batches


def _merged(search: Callable[..., bool | None], batch: int, slices: int) -> Callable[..., bool | None]:
    """Return a search that merges the heaps of all slices; like those of the filter, it returns whether it gave up."""
    if slices == 1:
        return search

    def merged(queries: Array, points: Array, squares: Array, indices: Array) -> bool | None:
        heaps = empty((slices * batch, squares.shape[1]), squares.dtype)
        heap_indices = empty(heaps.shape, np.int64)
        if search(queries, points, heaps, heap_indices):
            return True
        merge(batch, slices, heaps, heap_indices, squares, indices, work=heaps.size)
        return None

    return merged


def _fit(method: Any, queries: Array, points: Array, k: int, itemsize: int, memory_budget: int) -> tuple[int, int, int]:
    """Return how many queries to take at once, 0 for want of memory, how many slices of points, the least budget."""
    count = len(queries)
    scratch, query, rows, group = method.memory(queries, k)
    heap = k * (itemsize + 8)
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
