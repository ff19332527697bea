"""Linear maps as their formulas say; the other implementations are compared with them."""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array
from fastnn.kernels.kept import KeptWeight


def linear(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
    for n in range(x.shape[0]):
        for o in range(weight.shape[0]):
            y[n, o] = 0 if bias is None else bias[o]
            for i in range(x.shape[1]):
                y[n, o] += x[n, i] * weight[o, i]


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
