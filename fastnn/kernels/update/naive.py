"""Updates as their formulas say; the other implementations are compared with them.

Squares of gradients are taken in the widest numbers there are, which on most machines reach far beyond float64.
"""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array


def sgd_update(parameter: Array, grad: Array, momentum_buffer: Array | None, lr: float, momentum: float,
               weight_decay: float, nesterov: bool) -> None:
    for i in range(parameter.size):
        g = grad[i] + weight_decay * parameter[i] if weight_decay else grad[i]
        if momentum_buffer is not None:
            momentum_buffer[i] = momentum * momentum_buffer[i] + g
            g = g + momentum * momentum_buffer[i] if nesterov else momentum_buffer[i]
        parameter[i] -= lr * g


def rmsprop_update(parameter: Array, grad: Array, square_avg: Array, momentum_buffer: Array | None, lr: float,
                   alpha: float, eps: float, weight_decay: float, momentum: float) -> None:
    for i in range(parameter.size):
        g = grad[i] + weight_decay * parameter[i] if weight_decay else grad[i]
        square_avg[i] = square = alpha * np.longdouble(square_avg[i]) + (1 - alpha) * np.longdouble(g) ** 2
        change = grad.dtype.type(g / (np.sqrt(square) + eps))
        if momentum_buffer is not None:
            momentum_buffer[i] = change = momentum * momentum_buffer[i] + change
        parameter[i] -= lr * change


def adam_update(parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, step: int, lr: float, beta1: float,
                beta2: float, eps: float, weight_decay: float, decoupled: bool) -> None:
    for i in range(parameter.size):
        g = grad[i]
        if decoupled:
            parameter[i] -= lr * weight_decay * parameter[i]
        elif weight_decay:
            g = g + weight_decay * parameter[i]
        exp_avg[i] = beta1 * exp_avg[i] + (1 - beta1) * g
        exp_avg_sq[i] = square = beta2 * np.longdouble(exp_avg_sq[i]) + (1 - beta2) * np.longdouble(g) ** 2
        mean = np.longdouble(exp_avg[i]) / (1 - beta1**step)
        parameter[i] -= grad.dtype.type(lr * mean / (np.sqrt(square / (1 - beta2**step)) + eps))
