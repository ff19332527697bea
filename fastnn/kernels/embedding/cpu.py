"""Embedding by blocks of rows, its gradient by blocks of the table.

For the gradient, the places of each index are sorted by counting, in their order. A block owns rows of the table, or a
slice of their columns, and adds up the gradients that they have. So each sum has one order, that of the places, however
the table is cut: by numbers of gradients, as a few rows may have most of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.llvm import BYTES
from fastnn.kernels._cpu.rows import part_of_rows, row_blocks, rows_of_block
from fastnn.kernels._cpu.tuning import EMBEDDING_SLICE, EMBEDDING_VALUES, STREAMED
from fastnn.kernels._cpu.vectors import draft, finish, row_map, store_past_caches, use_widest_vectors
from fastnn.kernels._outputs import result_of, shaped

_copy = row_map(lambda row, _, __: row)
_add = row_map(lambda total, a, _: total + a)
_add_two = row_map(lambda total, a, b: total + a + b)


def plan_embedding(weight: Array, count: int) -> Callable[..., None]:
    """Return a function (input, weight, y) of so many indices."""
    y = shaped((count, weight.shape[1]), weight.dtype)
    if y.size == 0:
        return lambda input, weight, y: None
    run, streamed = _take.launch(row_blocks(y), work=y.size // 4), y.size * y.itemsize >= STREAMED
    return lambda input, weight, y: run(streamed, input, weight, y)


@block_kernel(writes="y", typed_by="y")
def _take(block: int, streamed: bool, input: Array, weight: Array, y: Array) -> None:
    use_widest_vectors()
    rows, place = rows_of_block(block, y), part_of_rows(block, y)
    if streamed and place.ctypes.data % BYTES == 0 and y.shape[1] * y.itemsize % BYTES == 0:
        flat = place.reshape(place.size)
        for n in rows:
            store_past_caches(weight[input[n]], flat, (n - rows.start) * y.shape[1])
        return
    part = draft(place, streamed)
    for n in rows:
        row = weight[input[n]]
        _copy(row, row, row, (), part[n - rows.start])
    finish(part, place)


def plan_embedding_backward(grad_output: Array, size: int, skipped: int) -> Callable[..., None]:
    """Return a function (grad_output, input, grad_weight) of a table of so many rows."""
    count, columns = grad_output.shape
    if columns == 0:
        return lambda grad_output, input, grad_weight: None
    integer = np.dtype(np.int64)
    new_starts, new_order = (result_of((n,), integer, grad_output).new for n in (size + 2, count))
    sort, slices = _sort.launch(1, work=count + size), -(-columns // EMBEDDING_SLICE)
    parts = -(-(count + size) * min(columns, EMBEDDING_SLICE) // EMBEDDING_VALUES)
    run = _sum.launch(parts * slices, work=(count + size) * columns // 4)

    def embedding_backward(grad_output: Array, input: Array, grad_weight: Array) -> None:
        starts, order = new_starts(), new_order()
        sort(input, skipped, starts, order)
        run(parts, grad_output, starts, order, grad_weight)

    return embedding_backward


@block_kernel(writes="starts order", typed_by="order")
def _sort(block: int, input: Array, skipped: int, starts: Array, order: Array) -> None:
    """Write the places of each index v, in their order, to order[starts[v]:starts[v + 1]]; those of `skipped` nowhere.

    While places are written, starts[v + 1] is where the next one of v goes; behind the last one the next index begins.
    """
    for v in range(starts.size):
        starts[v] = 0
    for v in input:
        if v != skipped:
            starts[v + 2] += 1
    for v in range(2, starts.size):
        starts[v] += starts[v - 1]
    for i in range(input.size):
        v = input[i]
        if v != skipped:
            order[starts[v + 1]] = i
            starts[v + 1] += 1


@helper
def _row_at(starts: Array, work: int) -> int:
    """Return the first row of the table before which there is so much work: one for each row and each gradient."""
    low, high = 0, starts.size - 2
    while low < high:
        middle = (low + high) // 2
        if starts[middle] + middle < work:
            low = middle + 1
        else:
            high = middle
    return low


@block_kernel(writes="grad_weight", typed_by="grad_output")
def _sum(block: int, parts: int, grad_output: Array, starts: Array, order: Array, grad_weight: Array) -> None:
    """Some columns of some rows of the table."""
    use_widest_vectors()
    size, columns = grad_weight.shape
    part, first = block % parts, block // parts * EMBEDDING_SLICE
    last = min(columns, first + EMBEDDING_SLICE)
    share, totals = -(-(order.size + size) // parts), np.empty(last - first)
    for v in range(_row_at(starts, part * share), _row_at(starts, part * share + share)):
        result, i, end = grad_weight[v, first:last], starts[v], starts[v + 1]
        if i == end:
            result[:] = 0
            continue
        row = grad_output[order[i], first:last]
        if i + 1 == end:
            _copy(row, row, row, (), result)
            continue
        _copy(row, row, row, (), totals)
        for j in range(i + 1, end - 1, 2):
            _add_two(totals, grad_output[order[j], first:last], grad_output[order[j + 1], first:last], (), totals)
        if (end - i) % 2 == 0:
            row = grad_output[order[end - 1], first:last]
            _add(totals, row, row, (), totals)
        _copy(totals, totals, totals, (), result)
