"""Distances and nearest neighbours on the CPU: which algorithm runs, and within how much memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn.kernels._arrays import Array, empty
from fastnn.kernels._jit import get_num_threads
from fastnn.kernels._matrix import panels
from fastnn.kernels.distance import bytewise, direct, filtered
from fastnn.kernels.distance.pairs import pairs
from fastnn.kernels.distance.select import merge

_BLOCKS = 32            # blocks that few queries and many points are cut into
_ENOUGH = 8             # groups of queries that need no slices of points beside them
_LEAST_SLICE = 2048     # points worth a heap of their own
_OBJECTS = 1 << 12      # bytes for the objects and the alignment of a batch's arrays


def pairwise_l2(x: Array, y: Array, squared: bool, algorithm: str, distances: Array) -> None:
    if x.dtype == np.uint8:
        bytewise.pairs(x, y, distances)
        if not squared:
            np.sqrt(distances, out=distances)
    else:
        pairs(x, y, squared, algorithm == "gemm", distances)


def knn(queries: Array, points: Array, algorithm: str, memory_budget: int, squares: Array, indices: Array) -> None:
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
    free = memory_budget - get_num_threads() * scratch - _OBJECTS
    batch = min(free // query // rows, panels(count, rows)) * rows
    if batch <= 0:
        return 0, 0, memory_budget - free + rows * query
    batch = min(count, panels(panels(count, panels(count, batch)), rows) * rows)
    groups = panels(batch, group)
    slices = 1 if groups >= _ENOUGH else min(_BLOCKS // groups, len(points) // max(_LEAST_SLICE, 32 * k),
                                             1 + (free - batch * query) // (batch * heap))
    return batch, max(1, slices), 0
