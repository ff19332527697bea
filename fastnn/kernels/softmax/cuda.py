"""Softmax on a GPU: a group of threads takes a row.

exp is the CUDA library's, which in float32 is off by at most 1 unit in the last place.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.rows import block_size, exp_sum, place, row_sum, run_rows


@functools.cache
def _softmax(real: Any, group: int) -> Any:
    row_of_thread, (largest_of, sum_of), size = place(group), exp_sum(real, group), block_size(group)

    @cuda.jit
    def softmax(x: Array, y: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(y)
        begin = n * columns
        largest = largest_of(parts, x, begin, 1, lane, columns)
        total = sum_of(parts, x, largest, begin, 1, lane, columns)
        scale = real(1 / total) if columns else real(0)
        for c in range(lane, columns, group):
            y[n, c] = real(math.exp(x[begin + c] - largest)) * scale

    return softmax


@functools.cache
def _softmax_backward(real: Any, group: int) -> Any:
    row_of_thread, row_total, size = place(group), row_sum(group), block_size(group)

    @cuda.jit
    def softmax_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(y)
        products = 0.0
        for c in range(lane, columns, group):
            products += np.float64(grad_output[n, c]) * np.float64(y[n, c])
        total = row_total(parts, products)
        infinite = not abs(total) < math.inf
        for c in range(lane, columns, group):
            p, grad = np.float64(y[n, c]), np.float64(grad_output[n, c])
            difference = grad - total
            grad_x[n, c] = real(p * difference if infinite or abs(difference) < math.inf else p * grad - p * total)

    return softmax_backward


@functools.cache
def _log_softmax(real: Any, group: int) -> Any:
    row_of_thread, (largest_of, sum_of), size = place(group), exp_sum(real, group), block_size(group)

    @cuda.jit
    def log_softmax(x: Array, y: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(y)
        begin = n * columns
        largest = largest_of(parts, x, begin, 1, lane, columns)
        total = sum_of(parts, x, largest, begin, 1, lane, columns)
        logarithm = math.log(total) if columns else 0.0
        for c in range(lane, columns, group):
            y[n, c] = real(np.float64(x[begin + c]) - np.float64(largest) - logarithm)

    return log_softmax


@functools.cache
def _log_softmax_backward(real: Any, group: int) -> Any:
    row_of_thread, row_total, size = place(group), row_sum(group), block_size(group)

    @cuda.jit
    def log_softmax_backward(grad_output: Array, y: Array, room: float, grad_x: Array) -> None:
        """Sums are formed of gradients times `room`, a power of two, so that none overflows."""
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(y)
        grads = 0.0
        for c in range(lane, columns, group):
            grads += room * np.float64(grad_output[n, c])
        total = row_total(parts, grads)
        for c in range(lane, columns, group):
            grad_x[n, c] = real((room * np.float64(grad_output[n, c]) - np.float64(math.exp(y[n, c])) * total) / room)

    return log_softmax_backward


def softmax(x: Array, y: Array) -> None:
    run_rows(_softmax, x, x.reshape(-1), y)


def softmax_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    run_rows(_softmax_backward, y, grad_output, y, grad_x)


def log_softmax(x: Array, y: Array) -> None:
    run_rows(_log_softmax, x, x.reshape(-1), y)


def log_softmax_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    run_rows(_log_softmax_backward, y, grad_output, y, 2.0 ** (-1 - y.shape[1].bit_length()), grad_x)
