"""Activations by chunks of the flat array, in loops that LLVM vectorizes: their formulas, for numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.elementwise import binary, chunk, chunks, mapping, unary
from fastnn.kernels._cpu.launch import Launch, block_kernel
from fastnn.kernels._cpu.math import log1p_exp, probability, sigmoids, slope
from fastnn.kernels._cpu.math import sigmoid as sigmoid_of
from fastnn.kernels._cpu.math import tanh as tanh_of
from fastnn.kernels._cpu.vectors import STREAMED

_SLOPE = 2 * math.sqrt(2 / math.pi)     # of twice the inner line of the tanh form of gelu
_CUBIC = 0.044715
_FLAT = 64.0                            # from where on all forms of gelu are 0 or x to rounding
# By what their time an element is, in that of a copy.
_COSTS = {"sigmoid": 2, "tanh": 2, "gelu": 3, "gelu_tanh": 3, "gelu_backward": 3, "gelu_tanh_backward": 3, "silu": 2,
          "silu_backward": 2, "softplus": 3, "softplus_backward": 2}


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


@unary
def silu(x: Any, option: Any) -> Any:
    return x * sigmoid_of(x)


@binary
def silu_backward(grad: Any, x: Any, option: Any) -> Any:
    left, right = sigmoids(x)
    return grad * (left * (type(x)(1) + x * right))


@mapping
def _softplus_of(x: Any, same: Any, option: Any) -> Any:
    beta, threshold = option
    z, zero = x * beta, type(x)(0)
    return x if z > threshold else (x if z > zero else zero) + log1p_exp(z) / beta


@mapping
def _softplus_slope(grad: Any, x: Any, option: Any) -> Any:
    beta, threshold = option
    z = x * beta
    return grad if z > threshold else grad * sigmoid_of(z)


@block_kernel(writes="y", typed_by="y")
def softplus(block: int, x: Array, option: tuple[float, float], y: Array) -> None:
    part, real = chunk(block, x), x.dtype.type
    _softplus_of(part, part, (real(option[0]), real(option[1])), chunk(block, y), y.nbytes >= STREAMED)


@block_kernel(writes="y", typed_by="y")
def softplus_backward(block: int, grad: Array, x: Array, option: tuple[float, float], y: Array) -> None:
    real = x.dtype.type
    _softplus_slope(chunk(block, grad), chunk(block, x), (real(option[0]), real(option[1])), chunk(block, y),
                    y.nbytes >= STREAMED)


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
