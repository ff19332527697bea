"""What CUDA kernels over the rows of a matrix share: a group of threads takes a row, and a block some rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, group_max, group_sum
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.tuning import ROW_COLUMNS, ROW_THREADS


def run_rows(make: Callable[[Any, int], Any], x: Array, *args: Any) -> None:
    """Launch the kernel `make(dtype, threads of a group)`, which comes from a cache, on all rows of x."""
    group = row_group(x.shape[1])
    threads = block_size(group)
    launch(make(x.dtype.type, group), -(-len(x) * group // threads), threads, *args)


def row_group(columns: int) -> int:
    """Return how many threads share a row of so many columns."""
    least, most = ROW_THREADS
    return min(most, max(least, 1 << (-(-columns // ROW_COLUMNS) - 1).bit_length()))


def block_size(group: int) -> int:
    """Return the number of threads of a block in which so many share a row."""
    return max(THREADS, group)


@functools.cache
def place(group: int) -> Any:
    """Make the function that returns, for x, a thread's row, its first column, and the row's end.

    Threads beyond the last row get an empty one, and so come to each barrier with the others.
    """
    size = block_size(group)

    @cuda.jit(device=True)
    def row_of_thread(x: Array) -> tuple[int, int, int]:
        i = cuda.blockIdx.x * size + cuda.threadIdx.x       # cuda.grid(1) has 32 bits by numba-cuda-mlir 0.6
        row = i // group
        return row, i - row * group, x.shape[1] if row < x.shape[0] else 0

    return row_of_thread


def _of_row(reduction: Any, group: int) -> Any:
    @cuda.jit(device=True)
    def of_row(parts: Array, value: float) -> float:
        parts[cuda.threadIdx.x] = value
        return reduction(parts, cuda.threadIdx.x, group)

    return of_row


@functools.cache
def row_sum(group: int) -> Any:
    """Make the function that returns the sum of a group's numbers to each of its threads, combined in one order.

    Its first argument is shared memory, as many float64 as the block has threads; it may be written again afterwards.
    """
    return _of_row(group_sum, group)


@functools.cache
def row_max(group: int) -> Any:
    """Make the function that returns the largest of a group's numbers, as `row_sum` the sum; NaN does not count."""
    return _of_row(group_max, group)


@functools.cache
def exp_sum(real: Any, group: int) -> tuple[Any, Any]:
    """Make two functions: of the largest number of a row, as `real`, and of the float64 sum of exp(x - largest).

    x is flat: its row begins at `begin`, and has a number every `step`. The sum is NaN where NaN or inf are among them,
    or nothing but -inf. (One function of both would return them in memory, where it is not inlined.)
    """
    maximum, total, lowest = row_max(group), row_sum(group), real(-math.inf)

    @cuda.jit(device=True)
    def largest_of(parts: Array, x: Array, begin: int, step: int, lane: int, columns: int) -> Any:
        largest = lowest
        for c in range(lane, columns, group):
            score = x[begin + c * step]
            if score > largest:
                largest = score
        return real(maximum(parts, np.float64(largest)))

    @cuda.jit(device=True)
    def sum_of(parts: Array, x: Array, largest: Any, begin: int, step: int, lane: int, columns: int) -> float:
        exponentials = 0.0
        for c in range(lane, columns, group):
            exponentials += np.float64(math.exp(x[begin + c * step] - largest))
        return total(parts, exponentials)

    return largest_of, sum_of
