"""Linear maps as products of packed panels, see `fastnn.kernels._matrix`; those of few weights as in the formula."""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.gemm import multiply, panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.tuning import LINEAR_FEW_WEIGHTS, LINEAR_ROWS
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY


def linear(x: Array, weight: Array, bias: Array | None, y: Array) -> None:
    bias = EMPTY[x.dtype] if bias is None else bias
    if weight.size <= LINEAR_FEW_WEIGHTS:
        _multiply_rows(panels(len(x), LINEAR_ROWS), x, weight, bias, y, work=weight.size * len(x))
    elif y.size:
        multiply(x, True, weight, True, bias, y)


def linear_backward(grad_output: Array, x: Array, weight: Array,
                    needs: tuple[bool, bool, bool]) -> tuple[Array | None, Array | None, Array | None]:
    none = EMPTY[x.dtype]
    grad_x = empty(x.shape, x.dtype) if needs[0] else None
    if weight.size <= LINEAR_FEW_WEIGHTS and len(x) <= LINEAR_ROWS:
        grad_weight = np.empty(weight.shape, x.dtype) if needs[1] else None
        grad_bias = np.empty(len(weight), x.dtype) if needs[2] else None
        no_matrix = weight if needs[0] and needs[1] else np.empty((0, 0), x.dtype)
        _gradients(1, grad_output, x, weight, no_matrix if grad_x is None else grad_x,
                   no_matrix if grad_weight is None else grad_weight, none if grad_bias is None else grad_bias, work=0)
        return grad_x, grad_weight, grad_bias
    grad_weight = np.zeros_like(weight) if needs[1] else None
    grad_bias = np.zeros(len(weight), x.dtype) if needs[2] else None
    if len(x):
        if grad_x is not None and weight.size <= LINEAR_FEW_WEIGHTS:     # as for few rows: their number decides no bits
            _gradients(panels(len(x), LINEAR_ROWS), grad_output, x, weight, grad_x, np.empty((0, 0), x.dtype), none,
                       work=weight.size * len(x))
        elif grad_x is not None:
            multiply(grad_output, True, weight, False, none, grad_x)
        if grad_weight is not None:
            multiply(grad_output, False, x, False, none, grad_weight)
        if grad_bias is not None:
            _sum_rows(panels(len(grad_bias), 64), grad_output, grad_bias, work=grad_output.size)
    return grad_x, grad_weight, grad_bias


# --- few weights -----------------------------------------------------------------------------------------------------


@block_kernel(writes="y", sums=True, typed_by="x")
def _multiply_rows(block: int, x: Array, weight: Array, bias: Array, y: Array) -> None:
    for n in range(block * LINEAR_ROWS, min(len(x), block * LINEAR_ROWS + LINEAR_ROWS)):
        for o in range(len(weight)):
            total = x.dtype.type(0)
            for i in range(x.shape[1]):
                total += x[n, i] * weight[o, i]
            y[n, o] = total + bias[o] if bias.size else total


@block_kernel(writes="grad_x grad_weight grad_bias", sums=True, typed_by="x")
def _gradients(block: int, grad_output: Array, x: Array, weight: Array, grad_x: Array, grad_weight: Array,
               grad_bias: Array) -> None:
    """The gradient by one block of rows, and those by the weights and the bias where there is no other block."""
    for n in range(block * LINEAR_ROWS, min(len(grad_x), block * LINEAR_ROWS + LINEAR_ROWS)):
        for i in range(grad_x.shape[1]):
            grad_x[n, i] = 0
        for o in range(len(weight)):
            for i in range(grad_x.shape[1]):
                grad_x[n, i] += grad_output[n, o] * weight[o, i]
    for o in range(len(grad_weight)):
        for i in range(x.shape[1]):
            total = 0.0
            for n in range(len(x)):
                total += np.float64(grad_output[n, o]) * x[n, i]
            grad_weight[o, i] = total
    for o in range(grad_bias.size):
        total = 0.0
        for n in range(len(x)):
            total += np.float64(grad_output[n, o])
        grad_bias[o] = total


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
