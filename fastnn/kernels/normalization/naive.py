"""Normalization as its formulas say; the other implementations are compared with them.

All is computed in the widest numbers there are, which on most machines reach far beyond float64, and rounded when it
is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels.normalization import Gradients, Rows, Statistics, as_channels


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


@np.errstate(all="ignore")
def normalize_rows(x: Array, weight: Array | None, bias: Array | None, eps: float, y: Array,
                   rows: Rows) -> tuple[Array, Array]:
    """Layer and group normalization."""
    R, G, C, P = rows
    x, y, stats = x.astype(np.longdouble).reshape(R, C, P), y.reshape(R, C, P), np.empty((2, R))
    weight, bias = (None if a is None else a.reshape(G * C) for a in (weight, bias))
    for r in range(R):
        mean = sum(x[r, c, p] for c in range(C) for p in range(P)) / (C * P)
        var = sum((x[r, c, p] - mean) ** 2 for c in range(C) for p in range(P)) / (C * P)
        for c in range(C):
            for p in range(P):
                y[r, c, p] = _scaled((x[r, c, p] - mean) / np.sqrt(var + eps), r % G * C + c, weight, bias)
        stats[:, r] = mean, 1 / np.sqrt(var + eps)
    return stats[0], stats[1]


@np.errstate(all="ignore")
def normalize_rows_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array, rows: Rows,
                            needs: tuple[bool, bool, bool]) -> Gradients:
    R, G, C, P = rows
    result, grad_weight, grad_bias = np.empty_like(x), np.zeros(G * C, np.longdouble), np.zeros(G * C, np.longdouble)
    grad_output, x, grad_x = grad_output.reshape(R, C, P), x.reshape(R, C, P), result.reshape(R, C, P)
    weight_of = np.ones(G * C) if weight is None else weight.reshape(G * C)
    for r in range(R):
        first = r % G * C                                               # of the row's channels
        z = (x[r].astype(np.longdouble) - mean.reshape(R)[r]) * invstd.reshape(R)[r]
        grads = grad_output[r].astype(np.longdouble)
        grad_z = grads * weight_of[first:first + C, None]
        grad_weight[first:first + C] += (grads * z).sum(axis=1)
        grad_bias[first:first + C] += grads.sum(axis=1)
        grad_x[r] = invstd.reshape(R)[r] * (grad_z - grad_z.sum() / (C * P) - z * (grad_z * z).sum() / (C * P))
    of_weight, of_bias = (None if weight is None or not need else grad.astype(x.dtype).reshape(weight.shape)
                          for grad, need in ((grad_weight, needs[1]), (grad_bias, needs[2])))
    return result if needs[0] else None, of_weight, of_bias


def _scaled(z: float, c: int, weight: Array | None, bias: Array | None) -> float:
    return z * (1 if weight is None else weight[c]) + (0 if bias is None else bias[c])
