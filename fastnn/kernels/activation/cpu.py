"""Activations by chunks of the flat array, in loops that LLVM vectorizes: their formulas, for numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn.kernels._cpu.elementwise import binary, chunks, unary
from fastnn.kernels._cpu.launch import Launch
from fastnn.kernels._cpu.math import probability, sigmoids, slope
from fastnn.kernels._cpu.math import sigmoid as sigmoid_of
from fastnn.kernels._cpu.math import tanh as tanh_of

_SLOPE = 2 * math.sqrt(2 / math.pi)     # of twice the inner line of the tanh form of gelu
_CUBIC = 0.044715
_FLAT = 64.0                            # from where on all forms of gelu are 0 or x to rounding
# By what their time an element is, in that of a copy.
_COSTS = {"sigmoid": 2, "tanh": 2, "gelu": 3, "gelu_tanh": 3, "gelu_backward": 3, "gelu_tanh_backward": 3}


@unary
def relu(x: Any, option: Any) -> Any:
    zero = type(x)(0)
    return zero if x < zero else x


@binary
def relu_backward(grad: Any, y: Any, option: Any) -> Any:
    zero = type(y)(0)
    return zero if y <= zero else grad


@unary
def leaky_relu(x: Any, slope: Any) -> Any:
    return x if x > type(x)(0) else slope * x


@binary
def leaky_relu_backward(grad: Any, x: Any, slope: Any) -> Any:
    return grad if x > type(x)(0) else slope * grad


@unary
def sigmoid(x: Any, option: Any) -> Any:
    return sigmoid_of(x)


@binary
def sigmoid_backward(grad: Any, y: Any, option: Any) -> Any:
    return grad * y * (type(y)(1) - y)


@unary
def tanh(x: Any, option: Any) -> Any:
    return tanh_of(x)


@binary
def tanh_backward(grad: Any, y: Any, option: Any) -> Any:
    return grad * (type(y)(1) - y * y)


@unary
def gelu(x: Any, option: Any) -> Any:
    return x * probability(x)


@binary
def gelu_backward(grad: Any, x: Any, option: Any) -> Any:
    return grad * (slope(x) + type(x)(0) * x)               # NaN for inf, as the formula says


@unary
def gelu_tanh(x: Any, option: Any) -> Any:
    """(1 + tanh(u)) / 2 = sigmoid(2 u), which cancels nowhere."""
    slope, cubic = type(x)(_SLOPE), type(x)(_CUBIC)
    return x * sigmoid_of(slope * (x + cubic * x * x * x))


@binary
def gelu_tanh_backward(grad: Any, x: Any, option: Any) -> Any:
    one, three, slope, cubic, flat = type(x)(1), type(x)(3), type(x)(_SLOPE), type(x)(_CUBIC), type(x)(_FLAT)
    v = x if abs(x) < flat else math.copysign(flat, x)      # whose cube does not overflow
    left, right = sigmoids(slope * (v + cubic * v * v * v))
    return grad * (left + v * left * right * slope * (one + three * cubic * v * v) + type(x)(0) * x)


@binary
def add(x: Any, y: Any, option: Any) -> Any:
    return x + y


@binary
def add_relu(x: Any, y: Any, option: Any) -> Any:
    total, zero = x + y, type(x)(0)
    return zero if total < zero else total


@binary
def dropout(x: Any, mask: Any, scale: Any) -> Any:
    return x * (type(x)(0) if mask == 0 else scale)


def elementwise(name: str, size: int, dtype: np.dtype) -> Launch:
    """Return the launch (*arrays, option, result), all flat, of a formula, by its name."""
    return globals()[name].launch(chunks(size), work=_COSTS.get(name, 1) * size // 5)
