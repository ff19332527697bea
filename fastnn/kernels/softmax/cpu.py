"""Softmax by blocks of rows, in loops that LLVM vectorizes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.math import exp
from fastnn.kernels._cpu.rows import exp_rows, log_sum_exp, part_of_rows, row_blocks, rows_of_block
from fastnn.kernels._cpu.vectors import (
    draft,
    exceeds_caches,
    finish,
    row_gaps,
    row_products,
    row_sum,
    use_widest_vectors,
)

_NO_OVERFLOW = 2.0**960                 # below the rounding of the largest number, which a difference leaves finite


@block_kernel(writes="y", typed_by="y")
def _softmax(block: int, streamed: bool, x: Array, y: Array) -> None:
    use_widest_vectors()
    rows, part = rows_of_block(block, x), draft(part_of_rows(block, y), streamed)
    exp_rows(x, rows, np.empty(len(rows), x.dtype), part)
    for n in range(len(rows)):
        result = part[n]
        scale = x.dtype.type(1 / row_sum(result))
        for i in range(result.size):
            result[i] *= scale
    finish(part, part_of_rows(block, y))


@block_kernel(writes="grad_x", typed_by="y")
def _softmax_backward(block: int, streamed: bool, grad_output: Array, y: Array, grad_x: Array) -> None:
    use_widest_vectors()
    rows, part = rows_of_block(block, y), draft(part_of_rows(block, grad_x), streamed)
    for n in rows:
        grads, probabilities, result = grad_output[n], y[n], part[n - rows.start]
        total = row_products(grads, probabilities, 0.0)
        if _NO_OVERFLOW <= abs(total) < np.inf:
            for i in range(result.size):
                p, difference = probabilities[i], grads[i] - total
                result[i] = p * difference if abs(difference) < np.inf else p * grads[i] - p * total
        else:
            for i in range(result.size):
                result[i] = probabilities[i] * (grads[i] - total)
    finish(part, part_of_rows(block, grad_x))


@block_kernel(writes="y", typed_by="y")
def _log_softmax(block: int, streamed: bool, x: Array, y: Array) -> None:
    use_widest_vectors()
    rows, part = rows_of_block(block, x), draft(part_of_rows(block, y), streamed)
    largest, logs = np.empty(len(rows), x.dtype), np.empty(len(rows))
    log_sum_exp(x, rows, largest, logs)
    for n in range(len(rows)):
        scores, result, m, logarithm = x[rows.start + n], part[n], np.float64(largest[n]), logs[n]
        for i in range(scores.size):
            result[i] = scores[i] - m - logarithm
    finish(part, part_of_rows(block, y))


@block_kernel(writes="grad_x", typed_by="y")
def _log_softmax_backward(block: int, streamed: bool, room: float, grad_output: Array, y: Array,
                          grad_x: Array) -> None:
    """Sums are formed of gradients times `room`, a power of two, so that none overflows."""
    use_widest_vectors()
    rows, part = rows_of_block(block, y), draft(part_of_rows(block, grad_x), streamed)
    logarithms, terms = y[rows.start:rows.stop].reshape(part.size), part.reshape(part.size)
    for i in range(terms.size):
        terms[i] = exp(logarithms[i])
    for n in range(len(rows)):
        grads, result = grad_output[rows.start + n], part[n]
        total, back = -row_gaps(grads, 0.0, room), 1 / room
        for i in range(result.size):
            result[i] = (room * np.float64(grads[i]) - result[i] * total) * back
    finish(part, part_of_rows(block, grad_x))


def _plan_rows(kernel: BlockKernel, x: Array, *numbers: float) -> Callable[..., None]:
    """Return a function (*inputs, result)."""
    return functools.partial(kernel.launch(row_blocks(x), work=x.size), exceeds_caches(x), *numbers)


plan_softmax = functools.partial(_plan_rows, _softmax)
plan_softmax_backward = functools.partial(_plan_rows, _softmax_backward)
plan_log_softmax = functools.partial(_plan_rows, _log_softmax)


def plan_log_softmax_backward(x: Array) -> Callable[..., None]:
    return _plan_rows(_log_softmax_backward, x, 2.0 ** (-1 - x.shape[1].bit_length()))
