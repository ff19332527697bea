"""Kernels over the rows of a matrix: how rows make blocks, and the exponentials of rows and their sums."""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper
from fastnn.kernels._cpu.math import exp, log
from fastnn.kernels._cpu.tuning import BLOCK_OF_ROWS, SHORT_ROW
from fastnn.kernels._cpu.vectors import row_max, row_sum


def row_blocks(x: Array) -> int:
    """Return the number of blocks of rows of a matrix; its shape alone decides."""
    return -(-x.shape[0] // max(1, BLOCK_OF_ROWS // x.shape[1]))


@helper
def rows_of_block(block: int, x: Array) -> range:
    """Return the rows of a block."""
    count = max(1, BLOCK_OF_ROWS // x.shape[1])
    return range(block * count, min(x.shape[0], (block + 1) * count))


@helper
def part_of_rows(block: int, y: Array) -> Array:
    """Return a block's rows."""
    rows = rows_of_block(block, y)
    return y[rows.start:rows.stop]


@helper
def exp_rows(x: Array, rows: range, largest: Array, terms: Array) -> None:
    """Compute terms = exp(x - largest) for rows of x, and the largest element of each."""
    for n in rows:
        scores, result = x[n], terms[n - rows.start]
        largest[n - rows.start] = shift = row_max(scores)
        if scores.size >= SHORT_ROW:
            for i in range(scores.size):
                result[i] = exp(scores[i] - shift)
        else:
            for i in range(scores.size):
                result[i] = scores[i] - shift
    if x.shape[1] < SHORT_ROW:                  # one loop over all rows, which is long enough for vectors
        flat = terms.reshape(terms.size)
        for i in range(flat.size):
            flat[i] = exp(flat[i])


@helper
def log_sum_exp(x: Array, rows: range, largest: Array, logs: Array) -> None:
    """Compute for rows of x the largest element m, and log(sum of exp(x - m)) in float64."""
    if x.shape[1] <= BLOCK_OF_ROWS:
        terms = np.empty((len(rows), x.shape[1]), x.dtype)
        exp_rows(x, rows, largest, terms)
        for n in range(len(rows)):
            logs[n] = row_sum(terms[n])
    else:
        strip = np.empty(BLOCK_OF_ROWS, x.dtype)
        for n in rows:
            largest[n - rows.start] = shift = row_max(x[n])
            total = 0.0
            for begin in range(0, x.shape[1], BLOCK_OF_ROWS):
                scores = x[n, begin:begin + BLOCK_OF_ROWS]
                for i in range(scores.size):
                    strip[i] = exp(scores[i] - shift)
                total += row_sum(strip[:scores.size])
            logs[n - rows.start] = total
    for n in range(len(rows)):
        logs[n] = log(logs[n])
