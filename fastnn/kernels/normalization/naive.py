"""Batch normalization as its formulas say; the other implementations are compared with them.

All is computed in the widest numbers there are, which on most machines reach far beyond float64, and rounded when it
is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels.normalization import as_channels


@np.errstate(all="ignore")                  # NaN and inf travel without a warning
def batch_norm(x: Array, running_mean: Any, running_var: Any, weight: Array | None,
               bias: Array | None, of_batch: bool, momentum: float, eps: float, relu: bool, stats: Any,
               y: Array) -> None:
    x, y = as_channels(x.astype(np.longdouble)), as_channels(y)
    N, C, L = x.shape
    for c in range(C):
        if of_batch:
            mean = sum(x[n, c, i] for n in range(N) for i in range(L)) / (N * L)
            var = sum((x[n, c, i] - mean) ** 2 for n in range(N) for i in range(L)) / (N * L)
        else:
            mean, var = np.longdouble(running_mean[c]), np.longdouble(running_var[c])
        for n in range(N):
            for i in range(L):
                value = _scaled((x[n, c, i] - mean) / np.sqrt(var + eps), c, weight, bias)
                y[n, c, i] = 0 if relu and value < 0 else value
        if stats is not None:
            stats[:, c] = mean, 1 / np.sqrt(var + eps)
        if of_batch and running_mean is not None:
            running_mean[c] = (1 - momentum) * np.longdouble(running_mean[c]) + momentum * mean
            running_var[c] = (1 - momentum) * np.longdouble(running_var[c]) + momentum * var * N * L / (N * L - 1)


@np.errstate(all="ignore")
def batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, bias: Array | None, mean: Array,
                        invstd: Array, training: bool, relu: bool, grad_x: Array | None, grad_weight: Array,
                        grad_bias: Array) -> None:
    grad_output, x = as_channels(grad_output.astype(np.longdouble)), as_channels(x.astype(np.longdouble))
    grad_x = None if grad_x is None else as_channels(grad_x)
    z = (x - mean[:, None]) * invstd[:, None]
    N, C, L = x.shape
    for c in range(C):
        grads = grad_output[:, c]
        for n in range(N):
            for i in range(L):
                if relu and grad_bias.dtype.type(_scaled(z[n, c, i], c, weight, bias)) <= 0:
                    grads[n, i] = 0
        grad_bias[c] = sum_g = sum(grads[n, i] for n in range(N) for i in range(L))
        grad_weight[c] = sum_gz = sum(grads[n, i] * z[n, c, i] for n in range(N) for i in range(L))
        if grad_x is None:
            continue
        for n in range(N):
            for i in range(L):
                grad_z = grads[n, i]
                if training:
                    grad_z -= sum_g / (N * L) + z[n, c, i] * sum_gz / (N * L)
                grad_x[n, c, i] = grad_z * invstd[c] * (1 if weight is None else weight[c])


def _scaled(z: float, c: int, weight: Array | None, bias: Array | None) -> float:
    return z * (1 if weight is None else weight[c]) + (0 if bias is None else bias[c])
