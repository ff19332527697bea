"""Softmax as its formulas say; the other implementations are compared with them. Arrays come as rows.

All is computed in the widest numbers there are, which on most machines reach far beyond float64.
"""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array


def softmax(x: Array, y: Array) -> None:
    x = x.astype(np.longdouble)
    for n in range(len(x)):
        e = np.exp(x[n] - x[n].max())
        y[n] = e / e.sum()


def softmax_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y = grad_output.astype(np.longdouble), y.astype(np.longdouble)
    for n in range(len(y)):
        grad_x[n] = y[n] * (grad_output[n] - (grad_output[n] * y[n]).sum())


def log_softmax(x: Array, y: Array) -> None:
    x = x.astype(np.longdouble)
    for n in range(len(x)):
        shifted = x[n] - x[n].max()
        y[n] = shifted - np.log(np.exp(shifted).sum())


def log_softmax_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y = grad_output.astype(np.longdouble), y.astype(np.longdouble)
    for n in range(len(y)):
        grad_x[n] = grad_output[n] - np.exp(y[n]) * grad_output[n].sum()
