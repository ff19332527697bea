"""Embedding as its formulas say; the other implementations are compared with them. Indices come flat."""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array


def embedding(input: Array, weight: Array, y: Array, count: int) -> None:
    for i in range(count):
        y[i] = weight[input[i]]


@np.errstate(all="ignore")                  # NaN and inf travel without a warning
def embedding_backward(grad_output: Array, input: Array, grad_weight: Array, size: int, skipped: int) -> None:
    sums = np.zeros((size, grad_output.shape[1]), np.longdouble)
    for i, index in enumerate(input):
        if index != skipped:
            sums[index] += grad_output[i]
    grad_weight[...] = sums
