"""Activations by chunks of the flat array, and softmax by rows, each in loops that LLVM vectorizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn.kernels import _math
from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import BlockKernel, block_kernel
from fastnn.kernels._math import chunk, chunks, exp, log_sum_exp, row_blocks, row_max, row_sum, rows_of_block

_SLOPE = 2 * math.sqrt(2 / math.pi)     # of twice the inner line of the tanh form of gelu
_CUBIC = 0.044715


# --- one result an element ---------------------------------------------------------------------------------


@block_kernel(writes="y")
def _relu(block: int, x: Array, y: Array) -> None:
    x, y = chunk(block, x), chunk(block, y)
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] < zero else x[i]


@block_kernel(writes="grad_x")
def _relu_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y, grad_x = chunk(block, grad_output), chunk(block, y), chunk(block, grad_x)
    zero = y.dtype.type(0)
    for i in range(y.size):
        grad_x[i] = zero if y[i] <= zero else grad_output[i]


@block_kernel(writes="y")
def _leaky_relu(block: int, x: Array, negative_slope: float, y: Array) -> None:
    x, y = chunk(block, x), chunk(block, y)
    zero, slope = x.dtype.type(0), x.dtype.type(negative_slope)
    for i in range(x.size):
        y[i] = x[i] if x[i] > zero else slope * x[i]


@block_kernel(writes="grad_x")
def _leaky_relu_backward(block: int, grad_output: Array, x: Array, negative_slope: float, grad_x: Array) -> None:
    grad_output, x, grad_x = chunk(block, grad_output), chunk(block, x), chunk(block, grad_x)
    zero, slope = x.dtype.type(0), x.dtype.type(negative_slope)
    for i in range(x.size):
        grad_x[i] = grad_output[i] if x[i] > zero else slope * grad_output[i]


@block_kernel(writes="y")
def _sigmoid(block: int, x: Array, y: Array) -> None:
    x, y = chunk(block, x), chunk(block, y)
    for i in range(x.size):
        y[i] = _math.sigmoid(x[i])


@block_kernel(writes="grad_x")
def _sigmoid_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y, grad_x = chunk(block, grad_output), chunk(block, y), chunk(block, grad_x)
    one = y.dtype.type(1)
    for i in range(y.size):
        grad_x[i] = grad_output[i] * y[i] * (one - y[i])


@block_kernel(writes="y")
def _tanh(block: int, x: Array, y: Array) -> None:
    x, y = chunk(block, x), chunk(block, y)
    for i in range(x.size):
        y[i] = _math.tanh(x[i])


@block_kernel(writes="grad_x")
def _tanh_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y, grad_x = chunk(block, grad_output), chunk(block, y), chunk(block, grad_x)
    one = y.dtype.type(1)
    for i in range(y.size):
        grad_x[i] = grad_output[i] * (one - y[i] * y[i])


@block_kernel(writes="y")
def _gelu(block: int, x: Array, y: Array) -> None:
    x, y = chunk(block, x), chunk(block, y)
    for i in range(x.size):
        probability, _ = _math.normal(x[i])
        y[i] = x[i] * probability


@block_kernel(writes="grad_x")
def _gelu_backward(block: int, grad_output: Array, x: Array, grad_x: Array) -> None:
    grad_output, x, grad_x = chunk(block, grad_output), chunk(block, x), chunk(block, grad_x)
    for i in range(x.size):
        probability, density = _math.normal(x[i])
        grad_x[i] = grad_output[i] * (probability + x[i] * density)


@block_kernel(writes="y")
def _gelu_tanh(block: int, x: Array, y: Array) -> None:
    """(1 + tanh(u)) / 2 = sigmoid(2 u), which cancels nowhere."""
    x, y, real = chunk(block, x), chunk(block, y), x.dtype.type
    slope, cubic = real(_SLOPE), real(_CUBIC)
    for i in range(x.size):
        v = x[i]
        y[i] = v * _math.sigmoid(slope * (v + cubic * v * v * v))


@block_kernel(writes="grad_x")
def _gelu_tanh_backward(block: int, grad_output: Array, x: Array, grad_x: Array) -> None:
    grad_output, x, grad_x, real = chunk(block, grad_output), chunk(block, x), chunk(block, grad_x), x.dtype.type
    one, slope, cubic = real(1), real(_SLOPE), real(_CUBIC)
    for i in range(x.size):
        v = x[i]
        w = slope * (v + cubic * v * v * v)
        left, right = _math.sigmoid(w), _math.sigmoid(-w)
        grad_x[i] = grad_output[i] * (left + v * left * right * slope * (one + real(3) * cubic * v * v))


@block_kernel(writes="z")
def _add(block: int, x: Array, y: Array, z: Array) -> None:
    x, y, z = chunk(block, x), chunk(block, y), chunk(block, z)
    for i in range(x.size):
        z[i] = x[i] + y[i]


@block_kernel(writes="z")
def _add_relu(block: int, x: Array, y: Array, z: Array) -> None:
    x, y, z = chunk(block, x), chunk(block, y), chunk(block, z)
    zero = x.dtype.type(0)
    for i in range(x.size):
        total = x[i] + y[i]
        z[i] = zero if total < zero else total


@block_kernel(writes="y")
def _dropout(block: int, x: Array, mask: Array, scale: float, y: Array) -> None:
    x, mask, y = chunk(block, x), chunk(block, mask), chunk(block, y)
    dropped, kept = x.dtype.type(0), x.dtype.type(scale)
    for i in range(x.size):
        y[i] = x[i] * (dropped if mask[i] == 0 else kept)


def _run(kernel: BlockKernel, *args: Any, cost: int = 1) -> None:
    """Run an elementwise kernel; `cost` is its operations an element."""
    kernel(chunks(args[0]), *args, work=cost * args[0].size)


def relu(x: Array, y: Array) -> None:
    _run(_relu, x, y)


def relu_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_relu_backward, grad_output, y, grad_x)


def leaky_relu(x: Array, negative_slope: float, y: Array) -> None:
    _run(_leaky_relu, x, negative_slope, y)


def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float, grad_x: Array) -> None:
    _run(_leaky_relu_backward, grad_output, x, negative_slope, grad_x)


def sigmoid(x: Array, y: Array) -> None:
    _run(_sigmoid, x, y, cost=20)


def sigmoid_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_sigmoid_backward, grad_output, y, grad_x)


def tanh(x: Array, y: Array) -> None:
    _run(_tanh, x, y, cost=20)


def tanh_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_tanh_backward, grad_output, y, grad_x)


def gelu(x: Array, approximate: str, y: Array) -> None:
    _run(_gelu if approximate == "none" else _gelu_tanh, x, y, cost=40)


def gelu_backward(grad_output: Array, x: Array, approximate: str, grad_x: Array) -> None:
    _run(_gelu_backward if approximate == "none" else _gelu_tanh_backward, grad_output, x, grad_x, cost=40)


def add(x: Array, y: Array, z: Array) -> None:
    _run(_add, x, y, z)


def add_relu(x: Array, y: Array, z: Array) -> None:
    _run(_add_relu, x, y, z)


def dropout(x: Array, mask: Array, p: float, y: Array) -> None:
    _run(_dropout, x, mask, 1 / (1 - p) if p < 1 else 0.0, y)


def dropout_backward(grad_output: Array, mask: Array, p: float, grad_x: Array) -> None:
    dropout(grad_output, mask, p, grad_x)


# --- rows --------------------------------------------------------------------------------------------------


@block_kernel(writes="y")
def _softmax(block: int, x: Array, y: Array) -> None:
    for n in rows_of_block(block, x):
        scores, result = x[n], y[n]
        largest = row_max(scores)
        for i in range(scores.size):
            result[i] = exp(scores[i] - largest)
        scale = x.dtype.type(1 / row_sum(result))
        for i in range(scores.size):
            result[i] *= scale


@block_kernel(writes="grad_x")
def _softmax_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    terms = np.empty(y.shape[1])
    for n in rows_of_block(block, y):
        grads, probabilities, result = grad_output[n], y[n], grad_x[n]
        for i in range(result.size):
            terms[i] = np.float64(grads[i]) * probabilities[i]
        total = row_sum(terms)
        for i in range(result.size):
            result[i] = probabilities[i] * (grads[i] - total)


@block_kernel(writes="y")
def _log_softmax(block: int, x: Array, y: Array) -> None:
    for n in rows_of_block(block, x):
        scores, result = x[n], y[n]
        largest, logarithm = log_sum_exp(scores, result)
        for i in range(scores.size):
            result[i] = np.float64(scores[i]) - largest - logarithm


@block_kernel(writes="grad_x")
def _log_softmax_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    for n in rows_of_block(block, y):
        grads, logarithms, result = grad_output[n], y[n], grad_x[n]
        total = row_sum(grads)
        for i in range(result.size):
            result[i] = grads[i] - exp(logarithms[i]) * total


def _run_rows(kernel: BlockKernel, *arrays: Array) -> None:
    kernel(row_blocks(arrays[0]), *arrays, work=40 * arrays[0].size)


def softmax(x: Array, y: Array) -> None:
    _run_rows(_softmax, x, y)


def softmax_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run_rows(_softmax_backward, grad_output, y, grad_x)


def log_softmax(x: Array, y: Array) -> None:
    _run_rows(_log_softmax, x, y)


def log_softmax_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run_rows(_log_softmax_backward, grad_output, y, grad_x)
