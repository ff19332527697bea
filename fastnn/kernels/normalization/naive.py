"""Batch normalization as its formulas say: the judge of the other implementations.

Values come as (N, C, L). All is computed in float64, whatever their dtype, and rounded when it is written.
"""

from __future__ import annotations

import numpy as np

from fastnn.kernels._arrays import Array


def batch_norm(x: Array, weight: Array | None, bias: Array | None, eps: float, of_batch: bool, relu: bool, mean: Array,
               var: Array, y: Array) -> None:
    x = x.astype(np.float64)
    N, C, L = x.shape
    for c in range(C):
        if of_batch:
            mean[c] = sum(x[n, c, i] for n in range(N) for i in range(L)) / (N * L)
            var[c] = sum((x[n, c, i] - mean[c]) ** 2 for n in range(N) for i in range(L)) / (N * L)
        for n in range(N):
            for i in range(L):
                value = _scaled((x[n, c, i] - mean[c]) / np.sqrt(var[c] + eps), c, weight, bias)
                y[n, c, i] = 0 if relu and value < 0 else value


def batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, bias: Array | None, mean: Array,
                        invstd: Array, training: bool, relu: bool, grad_x: Array | None, grad_weight: Array,
                        grad_bias: Array) -> None:
    z = (x - mean[:, None]) * invstd[:, None]
    N, C, L = x.shape
    for c in range(C):
        grads = grad_output[:, c].astype(np.float64)
        for n in range(N):
            for i in range(L):
                if relu and _scaled(z[n, c, i], c, weight, bias) <= 0:
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
