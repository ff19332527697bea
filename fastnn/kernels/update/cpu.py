"""Updates by chunks of the flat arrays, each in one loop that LLVM vectorizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn.kernels._arrays import EMPTY, Array
from fastnn.kernels._elementwise import chunk, chunks
from fastnn.kernels._jit import BlockKernel, block_kernel, helper, inlined_helper
from fastnn.kernels._vectors import row_max_size


@helper
def _limits(real: Any, itemsize: int, eps: float) -> tuple[Any, Any]:
    """Return between which magnitudes a gradient has a square that counts beside eps and does not overflow."""
    small, large = (2.0**-50, 2.0**60) if itemsize == 4 else (2.0**-450, 2.0**500)
    return real(0 if eps > small else small), real(large)


@helper
def _all_within(parameter: Array, grad: Array, decay: Any, small: Any, large: Any) -> bool:
    """Whether no gradient is beyond these limits, as far as can be told at once."""
    if small > 0 or not row_max_size(grad) < large / 2:
        return False
    return decay == 0 or abs(decay) * row_max_size(parameter) < large / 2


@inlined_helper
def _root(old: Any, square: Any, new: Any, g: Any) -> Any:
    """sqrt(old square + new g^2) without the squares."""
    a, b = np.sqrt(old) * np.sqrt(square), np.sqrt(new) * abs(g)
    longer, shorter = (a, b) if a > b else (b, a)
    ratio = shorter / longer if longer > 0 else longer
    return longer * np.sqrt(1 + ratio * ratio) if longer < np.inf else longer


@block_kernel(writes="parameter buffer", typed_by="parameter")
def _sgd(block: int, parameter: Array, grad: Array, buffer: Array, lr: float, momentum: float, nesterov: bool,
         weight_decay: float) -> None:
    parameter, grad, buffer = chunk(block, parameter), chunk(block, grad), chunk(block, buffer)
    real = parameter.dtype.type
    rate, keep, decay = real(lr), real(momentum), real(weight_decay)
    for i in range(parameter.size):
        g = grad[i]
        if decay != 0:
            g += decay * parameter[i]
        if buffer.size:
            buffer[i] = keep * buffer[i] + g
            g = g + keep * buffer[i] if nesterov else buffer[i]
        parameter[i] -= rate * g


@block_kernel(writes="parameter square_avg buffer", typed_by="parameter")
def _rmsprop(block: int, parameter: Array, grad: Array, square_avg: Array, buffer: Array, lr: float, alpha: float,
             eps: float, weight_decay: float, momentum: float) -> None:
    parameter, grad = chunk(block, parameter), chunk(block, grad)
    square_avg, buffer = chunk(block, square_avg), chunk(block, buffer)
    real = parameter.dtype.type
    rate, old, new, least = real(lr), real(alpha), real(1 - alpha), real(eps)
    decay, keep = real(weight_decay), real(momentum)
    small, large = _limits(real, parameter.itemsize, eps)
    if _all_within(parameter, grad, decay, small, large):
        for i in range(parameter.size):
            g = grad[i]
            if decay != 0:
                g += decay * parameter[i]
            square_avg[i] = old * square_avg[i] + new * g * g
            change = g / (np.sqrt(square_avg[i]) + least)
            if buffer.size:
                buffer[i] = change = keep * buffer[i] + change
            parameter[i] -= rate * change
        return
    for i in range(parameter.size):
        g = grad[i]
        if decay != 0:
            g += decay * parameter[i]
        square = old * square_avg[i] + new * g * g
        length = np.sqrt(square) if small <= abs(g) < large else _root(old, square_avg[i], new, g)
        square_avg[i] = square
        change = g / (length + least)
        if buffer.size:
            buffer[i] = change = keep * buffer[i] + change
        parameter[i] -= rate * change


@block_kernel(writes="parameter exp_avg exp_avg_sq", typed_by="parameter")
def _adam(block: int, parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, rate: float, beta1: float,
          beta2: float, root: float, eps: float, penalty: float, shrink: float) -> None:
    """`rate` and `root` hold the corrections of the bias; `penalty` and `shrink` are the two kinds of weight decay."""
    parameter, grad = chunk(block, parameter), chunk(block, grad)
    exp_avg, exp_avg_sq = chunk(block, exp_avg), chunk(block, exp_avg_sq)
    real = parameter.dtype.type
    step, old1, new1, old2, new2 = real(rate), real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
    correction, least, decay, kept = real(root), real(eps), real(penalty), real(shrink)
    small, large = _limits(real, parameter.itemsize, eps)
    if _all_within(parameter, grad, decay, small, large):
        for i in range(parameter.size):
            g = grad[i]
            if decay != 0:
                g += decay * parameter[i]
            exp_avg[i] = old1 * exp_avg[i] + new1 * g
            exp_avg_sq[i] = old2 * exp_avg_sq[i] + new2 * g * g
            parameter[i] = kept * parameter[i] - step * (exp_avg[i] / (np.sqrt(exp_avg_sq[i]) / correction + least))
        return
    for i in range(parameter.size):
        g = grad[i]
        if decay != 0:
            g += decay * parameter[i]
        exp_avg[i] = old1 * exp_avg[i] + new1 * g
        square = old2 * exp_avg_sq[i] + new2 * g * g
        length = np.sqrt(square) if small <= abs(g) < large else _root(old2, exp_avg_sq[i], new2, g)
        exp_avg_sq[i] = square
        parameter[i] = kept * parameter[i] - step * (exp_avg[i] / (length / correction + least))


def sgd_update(parameter: Array, grad: Array, momentum_buffer: Array | None, lr: float, momentum: float,
               nesterov: bool, weight_decay: float) -> None:
    _run(_sgd, parameter, grad, _or_empty(momentum_buffer, parameter), lr, momentum, nesterov, weight_decay)


def rmsprop_update(parameter: Array, grad: Array, square_avg: Array, momentum_buffer: Array | None, lr: float,
                   alpha: float, eps: float, weight_decay: float, momentum: float) -> None:
    _run(_rmsprop, parameter, grad, square_avg, _or_empty(momentum_buffer, parameter), lr, alpha, eps, weight_decay,
         momentum)


def adam_update(parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, step: int, lr: float, beta1: float,
                beta2: float, eps: float, weight_decay: float, decoupled: bool) -> None:
    penalty, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    _run(_adam, parameter, grad, exp_avg, exp_avg_sq, lr / (1 - beta1**step), beta1, beta2,
         math.sqrt(1 - beta2**step), eps, penalty, shrink)


def _or_empty(array: Array | None, like: Array) -> Array:
    return EMPTY[like.dtype] if array is None else array


def _run(kernel: BlockKernel, parameter: Array, *args: Array | float) -> None:
    kernel(chunks(parameter), parameter, *args, work=parameter.size)
