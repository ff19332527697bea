"""Embedding on a GPU: a group of threads takes a row of the result, or of the table for its gradient.

For the gradient, indices and their places are sorted by one digit after the other, from the lowest, so that places of
one index keep their order. A block counts the digits of its indices, one scan over all counts says where those of each
block go, and each index goes behind those before it in its block. No atomics: a thread looks at all of its block.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for, real_of
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.rows import block_size, place, run_rows

_BITS = THREADS.bit_length() - 1                # of a digit: a thread counts one of its values


def embedding(input: Array, weight: Array, y: Array, count: int) -> None:
    if y.size:
        run_rows(_take, y, input, weight, y)


def embedding_backward(grad_output: Array, input: Array, grad_weight: Array, size: int, skipped: int) -> None:
    if grad_weight.size == 0:
        return
    if input.size == 0:
        grad_weight[...] = 0
        return
    keys, places = _sorted(input, size, skipped)
    columns = grad_weight.shape[1]
    group = min(THREADS, 1 << (columns - 1).bit_length())
    threads = block_size(group)
    launch(_sum(real_of(grad_weight), group), -(-size * group // threads), threads, grad_output, keys, places,
           grad_weight)


def _sorted(input: Array, size: int, skipped: int) -> tuple[Array, Array]:
    """Return the indices in order, and their places; those that count for nothing are `size`."""
    count, blocks = input.size, -(-input.size // THREADS)
    keys, places, new_keys, new_places = (_device.xp.empty(count, np.int64) for _ in range(4))
    counts = _device.xp.empty(blocks * THREADS, np.int64)
    launch(_begin, blocks_for(count), THREADS, input, size, skipped, keys, places)
    for shift in range(0, size.bit_length(), _BITS):
        launch(_count, blocks, THREADS, keys, shift, counts)
        launch(_move, blocks, THREADS, keys, places, shift, counts.cumsum() - counts, new_keys, new_places)
        keys, places, new_keys, new_places = new_keys, new_places, keys, places
    return keys, places


@functools.cache
def _take(real: Any, group: int) -> Any:
    row_of_thread, nan = place(group), real(math.nan)

    @cuda.jit
    def take(input: Array, weight: Array, y: Array) -> None:
        n, lane, columns = row_of_thread(y)
        index = input[n] if columns else 0
        inside = 0 <= index < weight.shape[0]
        for c in range(lane, columns, group):
            y[n, c] = weight[index, c] if inside else nan

    return take


@cuda.jit
def _begin(input: Array, size: int, skipped: int, keys: Array, places: Array) -> None:
    for i in range(cuda.grid(1), input.size, cuda.gridsize(1)):
        index = input[i]
        keys[i] = index if 0 <= index < size and index != skipped else size
        places[i] = i


@cuda.jit(device=True)
def _digit(keys: Array, i: int, shift: int) -> int:
    return (keys[i] >> shift) % THREADS if i < keys.size else -1


@cuda.jit
def _count(keys: Array, shift: int, counts: Array) -> None:
    """Write how many keys of a block have each digit, the digits first."""
    digits = cuda.shared.array(THREADS, np.int64)
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    digits[thread] = _digit(keys, block * THREADS + thread, shift)
    cuda.syncthreads()
    found = 0
    for k in range(THREADS):
        found += 1 if digits[k] == thread else 0
    counts[thread * cuda.gridDim.x + block] = found


@cuda.jit
def _move(keys: Array, places: Array, shift: int, begins: Array, new_keys: Array, new_places: Array) -> None:
    digits = cuda.shared.array(THREADS, np.int64)
    thread, block = cuda.threadIdx.x, cuda.blockIdx.x
    i = block * THREADS + thread
    digit = _digit(keys, i, shift)
    digits[thread] = digit
    cuda.syncthreads()
    if i < keys.size:
        there = begins[digit * cuda.gridDim.x + block]
        for k in range(thread):
            there += 1 if digits[k] == digit else 0
        new_keys[there], new_places[there] = keys[i], places[i]


@cuda.jit(device=True)
def _first(keys: Array, key: int) -> int:
    """Return how many keys are less."""
    low, high = 0, keys.size
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@functools.cache
def _sum(real: Any, group: int) -> Any:
    row_of_thread = place(group)

    @cuda.jit
    def sum_rows(grad_output: Array, keys: Array, places: Array, grad_weight: Array) -> None:
        v, lane, columns = row_of_thread(grad_weight)
        first, last = _first(keys, v), _first(keys, v + 1)
        for c in range(lane, columns, group):
            total = 0.0
            for i in range(first, last):
                total += np.float64(grad_output[places[i], c])
            grad_weight[v, c] = real(total)

    return sum_rows
