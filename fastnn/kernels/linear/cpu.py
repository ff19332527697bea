"""Linear maps as products of packed panels; see `fastnn.kernels._matrix`."""

from __future__ import annotations

import numpy as np

from fastnn.kernels._arrays import EMPTY, Array, empty
from fastnn.kernels._jit import block_kernel
from fastnn.kernels._matrix import multiply, panels


def linear(x: Array, weight: Array, bias: Array | None, y: Array) -> None:
    if y.size:
        bias = EMPTY[x.dtype] if bias is None else bias
        multiply(x, True, weight, True, bias, y)


def linear_backward(grad_output: Array, x: Array, weight: Array,
                    needs: tuple[bool, bool, bool]) -> tuple[Array | None, Array | None, Array | None]:
    none = EMPTY[x.dtype]
    grad_x = empty(x.shape, x.dtype) if needs[0] else None
    grad_weight = np.zeros_like(weight) if needs[1] else None
    grad_bias = np.zeros(len(weight), x.dtype) if needs[2] else None
    if len(x):
        if grad_x is not None:
            multiply(grad_output, True, weight, False, none, grad_x)
        if grad_weight is not None:
            multiply(grad_output, False, x, False, none, grad_weight)
        if grad_bias is not None:
            _sum_rows(panels(len(grad_bias), 64), grad_output, grad_bias, work=grad_output.size)
    return grad_x, grad_weight, grad_bias


@block_kernel(writes="total")
def _sum_rows(block: int, matrix: Array, total: Array) -> None:
    """Sums of 64 columns of a matrix, in float64 and in the order of its rows."""
    first, last = block * 64, min(block * 64 + 64, matrix.shape[1])
    sums = np.zeros(64, np.float64)
    for n in range(matrix.shape[0]):
        for i in range(first, last):
            sums[i - first] += matrix[n, i]
    for i in range(first, last):
        total[i] = sums[i - first]
