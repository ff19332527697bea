"""Batch normalization of values (N, C, L) in two ways; the shape alone decides.

*By channel*: where channels are many and their values stand in long runs, a block does all that one channel needs
while its values are in the core's cache. *By column*: else the values are a matrix (N, C L), each of whose columns has
its own sums and factors, and loops run along its rows, however short the runs of a channel are.
"""

from __future__ import annotations

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import block_kernel, inlined_helper, sums_helper

_LONG, _MANY = 64, 16                           # the least run and number of channels to go by channel
_COLUMNS = 256                                  # columns of a block
_VALUES = 8192                                  # values of a block of runs


def batch_norm(x: Array, weight: Array | None, bias: Array | None, eps: float, of_batch: bool, mean: Array, var: Array,
               y: Array) -> None:
    samples, channels, length = x.shape
    weight = np.ones(channels) if weight is None else weight.astype(np.float64)
    bias = np.zeros(channels) if bias is None else bias.astype(np.float64)
    if of_batch and _by_channel(x):
        _normalize(channels, x, weight, bias, eps, mean, var, y, work=8 * x.size)
        return
    if of_batch:
        matrix, blocks = _matrix(x)
        sums = np.empty(matrix.shape[1])
        _sum(blocks, matrix, sums, work=x.size)
        mean[:] = sums.reshape(channels, length).sum(axis=1) / (samples * length)
        _sum_squares(blocks, matrix, np.repeat(mean, length), sums, work=3 * x.size)
        var[:] = sums.reshape(channels, length).sum(axis=1) / (samples * length)
    _scale(x, mean, weight / np.sqrt(var + eps), bias, y)


def batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array, training: bool,
                        grad_x: Array, grad_weight: Array, grad_bias: Array) -> None:
    samples, channels, length = x.shape
    n = samples * length
    scale = invstd if weight is None else invstd * weight
    sums = np.empty((2, channels))
    by_channel, (matrix, blocks) = _by_channel(x), _matrix(x)
    if by_channel:
        _gradients(channels, grad_output, x, mean, invstd, scale, training, sums, grad_x, work=10 * x.size)
    else:
        gradients = grad_output.reshape(matrix.shape)
        parts = np.empty((2, matrix.shape[1]))
        _sum_gradients(blocks, gradients, matrix, np.repeat(mean, length), parts, work=4 * x.size)
        sums[:] = parts.reshape(2, channels, length).sum(axis=2)
        sums[1] *= invstd
        if training:
            factors = np.repeat([mean, sums[1] / n * invstd, sums[0] / n, scale], length, axis=1)
            _gradient_columns(blocks, gradients, matrix, factors, grad_x.reshape(matrix.shape), work=6 * x.size)
    if not training:
        _scale(grad_output, np.zeros(channels), scale, np.zeros(channels), grad_x)
    grad_bias[:], grad_weight[:] = sums


def _by_channel(x: Array) -> bool:
    return x.shape[1] >= _MANY and x.shape[2] >= _LONG


def _matrix(x: Array) -> tuple[Array, int]:
    """Return x as a matrix and the number of blocks of its columns."""
    columns = x.shape[1] * x.shape[2]
    return x.reshape(len(x), columns), -(-columns // _COLUMNS)


def _scale(x: Array, mean: Array, scale: Array, shift: Array, y: Array) -> None:
    """Compute y = (x - mean) scale + shift."""
    samples, channels, length = x.shape
    if length >= _LONG:
        runs, count = x.reshape(samples * channels, length), max(1, _VALUES // length)
        _scale_runs(-(-len(runs) // count), runs, mean, scale, shift, count, y.reshape(runs.shape), work=4 * x.size)
    else:
        matrix, blocks = _matrix(x)
        factors = np.repeat([mean, scale, shift], length, axis=1)
        _scale_columns(blocks, matrix, factors, y.reshape(matrix.shape), work=4 * x.size)


# --- by channel --------------------------------------------------------------------------------------------


@block_kernel(writes="mean var y")
def _normalize(c: int, x: Array, weight: Array, bias: Array, eps: float, mean: Array, var: Array, y: Array) -> None:
    n = len(x) * x.shape[2]
    mean[c] = m = _channel_sum(x, c) / n
    var[c] = _channel_squares(x, c, m) / n
    scale, shift = weight[c] / np.sqrt(var[c] + eps), bias[c]
    for k in range(len(x)):
        for i in range(x.shape[2]):
            y[k, c, i] = (x[k, c, i] - m) * scale + shift


@block_kernel(writes="sums grad_x")
def _gradients(c: int, grad_output: Array, x: Array, mean: Array, invstd: Array, scale: Array, training: bool,
               sums: Array, grad_x: Array) -> None:
    n = len(x) * x.shape[2]
    m, factor = mean[c], scale[c]
    sums[0, c] = _channel_sum(grad_output, c)
    sums[1, c] = _channel_products(grad_output, x, c, m) * invstd[c]
    if training:
        mean_g, slope = sums[0, c] / n, sums[1, c] / n * invstd[c]
        for k in range(len(x)):
            for i in range(x.shape[2]):
                grad_x[k, c, i] = (grad_output[k, c, i] - mean_g - (x[k, c, i] - m) * slope) * factor


@sums_helper
def _channel_sum(x: Array, c: int) -> float:
    total = 0.0
    for k in range(len(x)):
        for i in range(x.shape[2]):
            total += np.float64(x[k, c, i])
    return total


@sums_helper
def _channel_squares(x: Array, c: int, mean: float) -> float:
    total = 0.0
    for k in range(len(x)):
        for i in range(x.shape[2]):
            total += (x[k, c, i] - mean) * (x[k, c, i] - mean)
    return total


@sums_helper
def _channel_products(grads: Array, x: Array, c: int, mean: float) -> float:
    total = 0.0
    for k in range(len(x)):
        for i in range(x.shape[2]):
            total += grads[k, c, i] * (x[k, c, i] - mean)
    return total


@block_kernel(writes="y")
def _scale_runs(block: int, x: Array, mean: Array, scale: Array, shift: Array, count: int, y: Array) -> None:
    for r in range(block * count, min(block * count + count, len(x))):
        c = r % len(mean)
        m, factor, offset = mean[c], scale[c], shift[c]
        for i in range(x.shape[1]):
            y[r, i] = (x[r, i] - m) * factor + offset


# --- by column ---------------------------------------------------------------------------------------------


@inlined_helper
def _columns(block: int, columns: int) -> tuple[int, int]:
    """Return the first column of a block and their number."""
    first = max(0, block * _COLUMNS)            # a bound for the compiler, which else allows for negative indices
    return first, min(_COLUMNS, columns - first)


@block_kernel(writes="sums")
def _sum(block: int, x: Array, sums: Array) -> None:
    first, count = _columns(block, x.shape[1])
    for t in range(count):
        sums[first + t] = 0
    for n in range(len(x)):
        for t in range(count):
            sums[first + t] += x[n, first + t]


@block_kernel(writes="sums")
def _sum_squares(block: int, x: Array, mean: Array, sums: Array) -> None:
    first, count = _columns(block, x.shape[1])
    for t in range(count):
        sums[first + t] = 0
    for n in range(len(x)):
        for t in range(count):
            difference = x[n, first + t] - mean[first + t]
            sums[first + t] += difference * difference


@block_kernel(writes="y")
def _scale_columns(block: int, x: Array, factors: Array, y: Array) -> None:
    first, count = _columns(block, x.shape[1])
    for n in range(len(x)):
        for t in range(count):
            mean, scale, shift = factors[0, first + t], factors[1, first + t], factors[2, first + t]
            y[n, first + t] = (x[n, first + t] - mean) * scale + shift


@block_kernel(writes="sums")
def _sum_gradients(block: int, grad_output: Array, x: Array, mean: Array, sums: Array) -> None:
    first, count = _columns(block, x.shape[1])
    for t in range(count):
        sums[0, first + t] = sums[1, first + t] = 0
    for n in range(len(x)):
        for t in range(count):
            sums[0, first + t] += grad_output[n, first + t]
            sums[1, first + t] += grad_output[n, first + t] * (x[n, first + t] - mean[first + t])


@block_kernel(writes="grad_x")
def _gradient_columns(block: int, grad_output: Array, x: Array, factors: Array, grad_x: Array) -> None:
    first, count = _columns(block, x.shape[1])
    for n in range(len(x)):
        for t in range(count):
            mean, slope = factors[0, first + t], factors[1, first + t]
            mean_g, scale = factors[2, first + t], factors[3, first + t]
            grad_x[n, first + t] = (grad_output[n, first + t] - mean_g - (x[n, first + t] - mean) * slope) * scale
