"""Batch normalization as its formulas say; the other implementations are compared with them.

All is computed in the widest numbers there are, which on most machines reach far beyond float64, and rounded when it
is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels.normalization import Gradients, Statistics, as_channels


@np.errstate(all="ignore")                  # NaN and inf travel without a warning
def batch_norm(x: Array, running_mean: Any, running_var: Any, weight: Array | None, bias: Array | None,
               momentum: float, eps: float, y: Array, of_batch: bool, relu: bool, return_stats: bool) -> Statistics:
    x, y, stats = as_channels(x.astype(np.longdouble)), as_channels(y), np.empty((2, x.shape[1]))
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
        stats[:, c] = mean, 1 / np.sqrt(var + eps)
        if of_batch and running_mean is not None:
            running_mean[c] = (1 - momentum) * np.longdouble(running_mean[c]) + momentum * mean
            running_var[c] = (1 - momentum) * np.longdouble(running_var[c]) + momentum * var * N * L / (N * L - 1)
    return (stats[0], stats[1]) if return_stats else None


@np.errstate(all="ignore")
def batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array,
                        bias: Array | None, training: bool, relu: bool, needs: tuple[bool, bool, bool]) -> Gradients:
    result, grad_weight, grad_bias = np.empty_like(x), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    grad_output, x = as_channels(grad_output.astype(np.longdouble)), as_channels(x.astype(np.longdouble))
    grad_x = as_channels(result)
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
        for n in range(N):
            for i in range(L):
                grad_z = grads[n, i]
                if training:
                    grad_z -= sum_g / (N * L) + z[n, c, i] * sum_gz / (N * L)
                grad_x[n, c, i] = grad_z * invstd[c] * (1 if weight is None else weight[c])
    return result if needs[0] else None, grad_weight if needs[1] else None, grad_bias if needs[2] else None


def _scaled(z: float, c: int, weight: Array | None, bias: Array | None) -> float:
    return z * (1 if weight is None else weight[c]) + (0 if bias is None else bias[c])
