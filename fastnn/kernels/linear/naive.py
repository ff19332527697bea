"""Linear maps and products of matrices as their formulas say; the other implementations are compared with them."""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array
from fastnn.kernels.kept import KeptWeight


def linear(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array, relu: bool) -> None:
    for n in range(x.shape[0]):
        for o in range(weight.shape[0]):
            y[n, o] = 0 if bias is None else bias[o]
            for i in range(x.shape[1]):
                y[n, o] += x[n, i] * weight[o, i]
    if relu:
        y[y < 0] = 0


def linear_backward(grad_output: Array, x: Array, weight: Array,
                    needs: tuple[bool, bool, bool]) -> tuple[Array | None, Array | None, Array | None]:
    grad_x, grad_weight, grad_bias = np.zeros_like(x), np.zeros_like(weight), np.zeros(len(weight), x.dtype)
    for n in range(x.shape[0]):
        for o in range(weight.shape[0]):
            for i in range(x.shape[1]):
                grad_x[n, i] += grad_output[n, o] * weight[o, i]
                grad_weight[o, i] += grad_output[n, o] * x[n, i]
            grad_bias[o] += grad_output[n, o]
    return grad_x if needs[0] else None, grad_weight if needs[1] else None, grad_bias if needs[2] else None


def bmm(input: Array, mat2: Array, y: Array) -> None:
    for b in range(y.shape[0]):
        for n in range(y.shape[1]):
            for p in range(y.shape[2]):
                y[b, n, p] = 0
                for m in range(input.shape[2]):
                    y[b, n, p] += input[b, n, m] * mat2[b, m, p]


def bmm_backward(grad_output: Array, input: Array, mat2: Array,
                 needs: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    grad_input, grad_mat2 = np.zeros_like(input), np.zeros_like(mat2)
    for b in range(grad_output.shape[0]):
        for n in range(grad_output.shape[1]):
            for p in range(grad_output.shape[2]):
                for m in range(input.shape[2]):
                    grad_input[b, n, m] += grad_output[b, n, p] * mat2[b, m, p]
                    grad_mat2[b, m, p] += grad_output[b, n, p] * input[b, n, m]
    return grad_input if needs[0] else None, grad_mat2 if needs[1] else None
