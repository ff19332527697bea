"""Activations by chunks of the flat array, and softmax by rows, each in loops that LLVM vectorizes."""

from __future__ import annotations

import math

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import BlockKernel, block_kernel, helper
from fastnn.kernels._math import erfc, exp, expm1

_CHUNK = 8192          # elements of a block
_LANES = 32            # partial sums and maxima of a row, so that they fill vectors

_SQRT_HALF = math.sqrt(1 / 2)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_SLOPE = math.sqrt(2 / math.pi)         # of the inner line of the tanh form of gelu
_CUBIC = 0.044715


@helper
def _chunk(x: Array, block: int) -> Array:
    return x[block * _CHUNK:(block + 1) * _CHUNK]


@helper
def _tanh(x: float) -> float:
    e = expm1(-2 * abs(x))
    return math.copysign(e / (2 + e), x)


# --- one result an element ---------------------------------------------------------------------------------


@block_kernel(writes="y")
def _relu(block: int, x: Array, y: Array) -> None:
    x, y = _chunk(x, block), _chunk(y, block)
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] < zero else x[i]


@block_kernel(writes="grad_x")
def _relu_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y, grad_x = _chunk(grad_output, block), _chunk(y, block), _chunk(grad_x, block)
    zero = y.dtype.type(0)
    for i in range(y.size):
        grad_x[i] = zero if y[i] <= zero else grad_output[i]


@block_kernel(writes="y")
def _leaky_relu(block: int, x: Array, negative_slope: float, y: Array) -> None:
    x, y = _chunk(x, block), _chunk(y, block)
    zero, slope = x.dtype.type(0), x.dtype.type(negative_slope)
    for i in range(x.size):
        y[i] = x[i] if x[i] > zero else slope * x[i]


@block_kernel(writes="grad_x")
def _leaky_relu_backward(block: int, grad_output: Array, x: Array, negative_slope: float, grad_x: Array) -> None:
    grad_output, x, grad_x = _chunk(grad_output, block), _chunk(x, block), _chunk(grad_x, block)
    zero, slope = x.dtype.type(0), x.dtype.type(negative_slope)
    for i in range(x.size):
        grad_x[i] = grad_output[i] if x[i] > zero else slope * grad_output[i]


@block_kernel(writes="y")
def _sigmoid(block: int, x: Array, y: Array) -> None:
    x, y = _chunk(x, block), _chunk(y, block)
    for i in range(x.size):
        e = exp(-abs(x[i]))
        y[i] = (e if x[i] < 0 else 1.0) / (1 + e)


@block_kernel(writes="grad_x")
def _sigmoid_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y, grad_x = _chunk(grad_output, block), _chunk(y, block), _chunk(grad_x, block)
    one = y.dtype.type(1)
    for i in range(y.size):
        grad_x[i] = grad_output[i] * y[i] * (one - y[i])


@block_kernel(writes="y")
def _tanh_forward(block: int, x: Array, y: Array) -> None:
    x, y = _chunk(x, block), _chunk(y, block)
    for i in range(x.size):
        y[i] = _tanh(x[i])


@block_kernel(writes="grad_x")
def _tanh_backward(block: int, grad_output: Array, y: Array, grad_x: Array) -> None:
    grad_output, y, grad_x = _chunk(grad_output, block), _chunk(y, block), _chunk(grad_x, block)
    one = y.dtype.type(1)
    for i in range(y.size):
        grad_x[i] = grad_output[i] * (one - y[i] * y[i])


@block_kernel(writes="y")
def _gelu(block: int, x: Array, y: Array) -> None:
    x, y = _chunk(x, block), _chunk(y, block)
    for i in range(x.size):
        v = np.float64(x[i])
        y[i] = 0.5 * v * erfc(-v * _SQRT_HALF)


@block_kernel(writes="grad_x")
def _gelu_backward(block: int, grad_output: Array, x: Array, grad_x: Array) -> None:
    grad_output, x, grad_x = _chunk(grad_output, block), _chunk(x, block), _chunk(grad_x, block)
    for i in range(x.size):
        v = np.float64(x[i])
        grad_x[i] = grad_output[i] * (0.5 * erfc(-v * _SQRT_HALF) + v * (_DENSITY * exp(-0.5 * v * v)))


@block_kernel(writes="y")
def _gelu_tanh(block: int, x: Array, y: Array) -> None:
    x, y = _chunk(x, block), _chunk(y, block)
    for i in range(x.size):
        v = np.float64(x[i])
        y[i] = 0.5 * v * (1 + _tanh(_SLOPE * (v + _CUBIC * v * v * v)))


@block_kernel(writes="grad_x")
def _gelu_tanh_backward(block: int, grad_output: Array, x: Array, grad_x: Array) -> None:
    grad_output, x, grad_x = _chunk(grad_output, block), _chunk(x, block), _chunk(grad_x, block)
    for i in range(x.size):
        v = np.float64(x[i])
        t = _tanh(_SLOPE * (v + _CUBIC * v * v * v))
        grad_x[i] = grad_output[i] * 0.5 * (1 + t + v * (1 - t * t) * (_SLOPE * (1 + 3 * _CUBIC * v * v)))


@block_kernel(writes="z")
def _add(block: int, x: Array, y: Array, z: Array) -> None:
    x, y, z = _chunk(x, block), _chunk(y, block), _chunk(z, block)
    for i in range(x.size):
        z[i] = x[i] + y[i]


@block_kernel(writes="z")
def _add_relu(block: int, x: Array, y: Array, z: Array) -> None:
    x, y, z = _chunk(x, block), _chunk(y, block), _chunk(z, block)
    zero = x.dtype.type(0)
    for i in range(x.size):
        total = x[i] + y[i]
        z[i] = zero if total < zero else total


@block_kernel(writes="y")
def _dropout(block: int, x: Array, mask: Array, scale: float, y: Array) -> None:
    x, mask, y = _chunk(x, block), _chunk(mask, block), _chunk(y, block)
    dropped, kept = x.dtype.type(0), x.dtype.type(scale)
    for i in range(x.size):
        y[i] = x[i] * (dropped if mask[i] == 0 else kept)


def _run(kernel: BlockKernel, *args: Array | float, cost: int = 1) -> None:
    """Run an elementwise kernel; `cost` is its operations an element."""
    size = args[0].size
    kernel(-(-size // _CHUNK), *args, work=cost * size)


def relu(x: Array, y: Array) -> None:
    _run(_relu, x, y)


def relu_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_relu_backward, grad_output, y, grad_x)


def leaky_relu(x: Array, negative_slope: float, y: Array) -> None:
    _run(_leaky_relu, x, negative_slope, y)


def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float, grad_x: Array) -> None:
    _run(_leaky_relu_backward, grad_output, x, negative_slope, grad_x)


def sigmoid(x: Array, y: Array) -> None:
    _run(_sigmoid, x, y, cost=40)


def sigmoid_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_sigmoid_backward, grad_output, y, grad_x)


def tanh(x: Array, y: Array) -> None:
    _run(_tanh_forward, x, y, cost=40)


def tanh_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_tanh_backward, grad_output, y, grad_x)


def gelu(x: Array, approximate: str, y: Array) -> None:
    _run(_gelu if approximate == "none" else _gelu_tanh, x, y, cost=60)


def gelu_backward(grad_output: Array, x: Array, approximate: str, grad_x: Array) -> None:
    _run(_gelu_backward if approximate == "none" else _gelu_tanh_backward, grad_output, x, grad_x, cost=80)


def add(x: Array, y: Array, z: Array) -> None:
    _run(_add, x, y, z)


def add_relu(x: Array, y: Array, z: Array) -> None:
    _run(_add_relu, x, y, z)


def dropout(x: Array, mask: Array, p: float, y: Array) -> None:
    _run(_dropout, x, mask, 1 / (1 - p) if p < 1 else 0.0, y)


def dropout_backward(grad_output: Array, mask: Array, p: float, grad_x: Array) -> None:
    dropout(grad_output, mask, p, grad_x)


# --- rows --------------------------------------------------------------------------------------------------
