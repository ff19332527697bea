"""Activations as their formulas say: the judge of the other implementations. Arrays come flat."""

from __future__ import annotations

import math

import numpy as np

from fastnn._checks import Array


def relu(x: Array, y: Array) -> None:
    for i in range(x.size):
        y[i] = 0 if x[i] < 0 else x[i]


def relu_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    for i in range(y.size):
        grad_x[i] = 0 if y[i] <= 0 else grad_output[i]


def leaky_relu(x: Array, negative_slope: float, y: Array) -> None:
    for i in range(x.size):
        y[i] = x[i] if x[i] > 0 else negative_slope * x[i]


def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float, grad_x: Array) -> None:
    for i in range(x.size):
        grad_x[i] = grad_output[i] if x[i] > 0 else negative_slope * grad_output[i]


def sigmoid(x: Array, y: Array) -> None:
    for i in range(x.size):
        e = np.exp(-abs(x[i]))
        y[i] = e / (1 + e) if x[i] < 0 else 1 / (1 + e)


def sigmoid_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    for i in range(y.size):
        grad_x[i] = grad_output[i] * y[i] * (1 - y[i])


def tanh(x: Array, y: Array) -> None:
    for i in range(x.size):
        y[i] = np.tanh(x[i])


def tanh_backward(grad_output: Array, y: Array, grad_x: Array) -> None:
    for i in range(y.size):
        grad_x[i] = grad_output[i] * (1 - y[i] * y[i])


def gelu(x: Array, approximate: str, y: Array) -> None:
    for i in range(x.size):
        v = float(x[i])
        if approximate == "none":
            y[i] = v * (math.erfc(-v / math.sqrt(2)) / 2)
        else:
            y[i] = v * ((1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v))) / 2)


def gelu_backward(grad_output: Array, x: Array, approximate: str, grad_x: Array) -> None:
    for i in range(x.size):
        v = float(x[i])
        if approximate == "none":
            probability = math.erfc(-v / math.sqrt(2)) / 2
            density = math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
            grad_x[i] = grad_output[i] * (probability + v * density)
        else:
            v = max(-64.0, min(v, 64.0)) + 0 * v                # t is 1 or -1 far before that, whose square is finite
            t = math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v))
            inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * v * v)
            grad_x[i] = grad_output[i] * ((1 + t) / 2 + v * (1 - t * t) / 2 * inner)


def add(x: Array, y: Array, z: Array) -> None:
    for i in range(x.size):
        z[i] = x[i] + y[i]


def add_relu(x: Array, y: Array, z: Array) -> None:
    for i in range(x.size):
        z[i] = 0 if x[i] + y[i] < 0 else x[i] + y[i]


def dropout(x: Array, mask: Array, p: float, y: Array) -> None:
    for i in range(x.size):
        y[i] = x[i] * (mask[i] != 0) * (1 / (1 - p) if p < 1 else 0)


def dropout_backward(grad_output: Array, mask: Array, p: float, grad_x: Array) -> None:
    dropout(grad_output, mask, p, grad_x)
