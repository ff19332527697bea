"""Activations as their formulas say, for numbers; the other implementations are compared with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def elementwise(name: str, size: int, dtype: np.dtype) -> Callable[..., None]:
    """Return a function (*arrays, option, result), all flat, that writes the results of a formula, by its name."""
    formula = globals()[name]

    def run(*args: Any) -> None:
        *arrays, option, result = args
        given = option if isinstance(option, tuple) else (option,)
        options = given[:formula.__code__.co_argcount - len(arrays)]
        for i in range(size):
            result[i] = formula(*[array[i] for array in arrays], *options)

    return run


def relu(x: Any) -> Any:
    return 0 if x < 0 else x


def relu_backward(grad_output: Any, y: Any) -> Any:
    return 0 if y <= 0 else grad_output


def leaky_relu(x: Any, negative_slope: float) -> Any:
    return x if x > 0 else negative_slope * x


def leaky_relu_backward(grad_output: Any, x: Any, negative_slope: float) -> Any:
    return grad_output if x > 0 else negative_slope * grad_output


def sigmoid(x: Any) -> Any:
    e = np.exp(-abs(x))
    return e / (1 + e) if x < 0 else 1 / (1 + e)


def sigmoid_backward(grad_output: Any, y: Any) -> Any:
    return grad_output * y * (1 - y)


def tanh(x: Any) -> Any:
    return np.tanh(x)


def tanh_backward(grad_output: Any, y: Any) -> Any:
    return grad_output * (1 - y * y)


def gelu(x: Any) -> Any:
    return float(x) * _probability(float(x))


def gelu_backward(grad_output: Any, x: Any) -> Any:
    v = float(x)
    density = math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
    return grad_output * (_probability(v) + v * density)


def _probability(v: float) -> float:
    return math.erfc(-v / math.sqrt(2)) / 2


def gelu_tanh(x: Any) -> Any:
    v = float(x)
    return v * ((1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v))) / 2)


def gelu_tanh_backward(grad_output: Any, x: Any) -> Any:
    v = max(-64.0, min(float(x), 64.0)) + 0 * float(x)          # t is 1 or -1 far before that, whose square is finite
    t = math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v))
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * v * v)
    return grad_output * ((1 + t) / 2 + v * (1 - t * t) / 2 * inner)


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def silu_backward(grad_output: Any, x: Any) -> Any:
    return grad_output * (sigmoid(x) * (1 + x * sigmoid(-x)))


def softplus(x: Any, beta: float, threshold: float) -> Any:
    z = float(x) * beta
    if z > threshold:
        return x
    return (x if z > 0 else 0) + math.log1p(math.exp(-abs(z))) / beta


def softplus_backward(grad_output: Any, x: Any, beta: float, threshold: float) -> Any:
    z = np.float64(x) * beta
    return grad_output * (1 if z > threshold else sigmoid(z))


def add(x: Any, y: Any) -> Any:
    return x + y


def add_relu(x: Any, y: Any) -> Any:
    return 0 if x + y < 0 else x + y


def dropout(x: Any, mask: Any, scale: float) -> Any:
    return x * (mask != 0) * scale
