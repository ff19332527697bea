"""Activations by chunks of the flat array, in loops that LLVM vectorizes."""

from __future__ import annotations

import math
from typing import Any

from fastnn._checks import Array
from fastnn.kernels._cpu.elementwise import binary, chunks, unary
from fastnn.kernels._cpu.launch import BlockKernel
from fastnn.kernels._cpu.math import probability, sigmoids, slope
from fastnn.kernels._cpu.math import sigmoid as sigmoid_of
from fastnn.kernels._cpu.math import tanh as tanh_of

_SLOPE = 2 * math.sqrt(2 / math.pi)     # of twice the inner line of the tanh form of gelu
_CUBIC = 0.044715
_FLAT = 64.0                            # from where on all forms of gelu are 0 or x to rounding


@unary
def _relu(x: Any, option: Any) -> Any:
    zero = type(x)(0)
    return zero if x < zero else x


@binary
def _relu_backward(grad: Any, y: Any, option: Any) -> Any:
    zero = type(y)(0)
    return zero if y <= zero else grad


@unary
def _leaky_relu(x: Any, slope: Any) -> Any:
    return x if x > type(x)(0) else slope * x


@binary
def _leaky_relu_backward(grad: Any, x: Any, slope: Any) -> Any:
    return grad if x > type(x)(0) else slope * grad


@unary
def _sigmoid(x: Any, option: Any) -> Any:
    return sigmoid_of(x)


@binary
def _sigmoid_backward(grad: Any, y: Any, option: Any) -> Any:
    return grad * y * (type(y)(1) - y)


@unary
def _tanh(x: Any, option: Any) -> Any:
    return tanh_of(x)


@binary
def _tanh_backward(grad: Any, y: Any, option: Any) -> Any:
    return grad * (type(y)(1) - y * y)


@unary
def _gelu(x: Any, option: Any) -> Any:
    return x * probability(x)


@binary
def _gelu_backward(grad: Any, x: Any, option: Any) -> Any:
    return grad * (slope(x) + type(x)(0) * x)               # NaN for inf, as the formula says


@unary
def _gelu_tanh(x: Any, option: Any) -> Any:
    """(1 + tanh(u)) / 2 = sigmoid(2 u), which cancels nowhere."""
    slope, cubic = type(x)(_SLOPE), type(x)(_CUBIC)
    return x * sigmoid_of(slope * (x + cubic * x * x * x))


@binary
def _gelu_tanh_backward(grad: Any, x: Any, option: Any) -> Any:
    one, three, slope, cubic, flat = type(x)(1), type(x)(3), type(x)(_SLOPE), type(x)(_CUBIC), type(x)(_FLAT)
    v = x if abs(x) < flat else math.copysign(flat, x)      # whose cube does not overflow
    left, right = sigmoids(slope * (v + cubic * v * v * v))
    return grad * (left + v * left * right * slope * (one + three * cubic * v * v) + type(x)(0) * x)


@binary
def _add(x: Any, y: Any, option: Any) -> Any:
    return x + y


@binary
def _add_relu(x: Any, y: Any, option: Any) -> Any:
    total, zero = x + y, type(x)(0)
    return zero if total < zero else total


@binary
def _dropout(x: Any, mask: Any, scale: Any) -> Any:
    return x * (type(x)(0) if mask == 0 else scale)


def _run(kernel: BlockKernel, *arrays: Array, option: float = 0.0, cost: int = 1) -> None:
    """Run an elementwise kernel; `cost` is its time an element, in that of a copy."""
    *inputs, result = arrays
    kernel(chunks(result), *inputs, option, result, work=cost * result.size // 5)


def relu(x: Array, y: Array) -> None:
    _run(_relu, x, y)


def relu_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_relu_backward, grad_output, y, grad_x)


def leaky_relu(x: Array, negative_slope: float, y: Array) -> None:
    _run(_leaky_relu, x, y, option=negative_slope)


def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float, grad_x: Array) -> None:
    _run(_leaky_relu_backward, grad_output, x, grad_x, option=negative_slope)


def sigmoid(x: Array, y: Array) -> None:
    _run(_sigmoid, x, y, cost=2)


def sigmoid_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_sigmoid_backward, grad_output, y, grad_x)


def tanh(x: Array, y: Array) -> None:
    _run(_tanh, x, y, cost=2)


def tanh_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    _run(_tanh_backward, grad_output, y, grad_x)


def gelu(x: Array, approximate: str, y: Array) -> None:
    _run(_gelu if approximate == "none" else _gelu_tanh, x, y, cost=3)


def gelu_backward(grad_output: Array, x: Array, approximate: str, grad_x: Array) -> None:
    _run(_gelu_backward if approximate == "none" else _gelu_tanh_backward, grad_output, x, grad_x, cost=3)


def add(x: Array, y: Array, z: Array) -> None:
    _run(_add, x, y, z)


def add_relu(x: Array, y: Array, z: Array) -> None:
    _run(_add_relu, x, y, z)


def dropout(x: Array, mask: Array, p: float, y: Array) -> None:
    _run(_dropout, x, mask, y, option=1 / (1 - p) if p < 1 else 0.0)


def dropout_backward(grad_output: Array, mask: Array, p: float, grad_x: Array) -> None:
    dropout(grad_output, mask, p, grad_x)
