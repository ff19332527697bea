"""Updates by chunks of the flat arrays, each in one loop that LLVM vectorizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper
from fastnn.kernels._cpu.elementwise import CHUNK, chunk, chunks
from fastnn.kernels._cpu.launch import BlockKernel, Launch, block_kernel
from fastnn.kernels._cpu.tuning import UPDATE_PART
from fastnn.kernels._outputs import EMPTY


@helper
def _least_counts(itemsize: int, eps: float) -> bool:
    """Return whether squares that are too small for their dtype count beside eps."""
    return eps <= (2.0**-50 if itemsize == 4 else 2.0**-450)


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
    real = parameter.dtype.type
    rate, old, new, least = real(lr), real(alpha), real(1 - alpha), real(eps)
    decay, keep, least_counts = real(weight_decay), real(momentum), _least_counts(parameter.itemsize, eps)
    before = np.empty(UPDATE_PART, grad.dtype)
    for begin in range(block * CHUNK, min(block * CHUNK + CHUNK, parameter.size), UPDATE_PART):
        p, b = parameter[begin:begin + UPDATE_PART], buffer[begin:begin + UPDATE_PART]
        s, grads = square_avg[begin:begin + UPDATE_PART], grad[begin:begin + UPDATE_PART]
        if least_counts:                                # roots without squares, of all
            for i in range(p.size):
                g = grads[i]
                if decay != 0:
                    g += decay * p[i]
                change = g / (_root(old, s[i], new, g) + least)
                s[i] = old * s[i] + new * g * g
                if b.size:
                    b[i] = change = keep * b[i] + change
                p[i] -= rate * change
            continue
        overflows = np.int32(0)                         # of 32 bits, as wide as numbers, which loops like
        for i in range(p.size):
            g = grads[i]
            if decay != 0:
                g += decay * p[i]
            before[i] = s[i]
            s[i] = old * s[i] + new * g * g
            overflows = np.int32(overflows | np.int32(s[i] == np.inf))
            change = g / (np.sqrt(s[i]) + least)
            if b.size:
                b[i] = change = keep * b[i] + change
            p[i] -= rate * change
        if overflows:                                   # where the change was 0
            for i in range(p.size):
                if s[i] == np.inf:
                    g = grads[i]
                    if decay != 0:
                        g += decay * (p[i] + rate * b[i] if b.size else p[i])
                    change = g / (_root(old, before[i], new, g) + least)
                    if b.size:
                        b[i] += change
                    p[i] -= rate * change


@block_kernel(writes="parameter exp_avg exp_avg_sq", typed_by="parameter")
def _adam(block: int, parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, rate: float, beta1: float,
          beta2: float, root: float, eps: float, penalty: float, shrink: float) -> None:
    """`rate` and `root` hold the corrections of the bias; `penalty` and `shrink` are the two kinds of weight decay."""
    real = parameter.dtype.type
    step, old1, new1, old2, new2 = real(rate), real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
    correction, least, decay, kept = real(root), real(eps), real(penalty), real(shrink)
    least_counts = _least_counts(parameter.itemsize, eps)
    before = np.empty(UPDATE_PART, grad.dtype)
    for begin in range(block * CHUNK, min(block * CHUNK + CHUNK, parameter.size), UPDATE_PART):
        p, grads = parameter[begin:begin + UPDATE_PART], grad[begin:begin + UPDATE_PART]
        m, v = exp_avg[begin:begin + UPDATE_PART], exp_avg_sq[begin:begin + UPDATE_PART]
        if least_counts:                                # roots without squares, of all
            for i in range(p.size):
                g = grads[i]
                if decay != 0:
                    g += decay * p[i]
                length = _root(old2, v[i], new2, g)
                m[i] = old1 * m[i] + new1 * g
                v[i] = old2 * v[i] + new2 * g * g
                p[i] = kept * p[i] - step * (m[i] / (length / correction + least))
            continue
        overflows = np.int32(0)
        for i in range(p.size):
            g = grads[i]
            if decay != 0:
                g += decay * p[i]
            before[i] = v[i]
            m[i] = old1 * m[i] + new1 * g
            v[i] = old2 * v[i] + new2 * g * g
            overflows = np.int32(overflows | np.int32(v[i] == np.inf))
            p[i] = kept * p[i] - step * (m[i] / (np.sqrt(v[i]) / correction + least))
        if overflows:                                   # where the step was 0
            for i in range(p.size):
                if v[i] == np.inf:
                    g = grads[i]
                    if decay != 0:
                        g += decay * p[i]
                    p[i] -= step * (m[i] / (_root(old2, before[i], new2, g) / correction + least))


def plan_sgd_update(parameter: Array, nesterov: bool) -> Callable[..., None]:
    """Return a function (parameter, grad, momentum_buffer, lr, momentum, weight_decay)."""
    run, none = _launch(_sgd, parameter), EMPTY[parameter.dtype]

    def sgd_update(parameter: Array, grad: Array, momentum_buffer: Array | None, lr: float, momentum: float,
                   weight_decay: float) -> None:
        run(parameter, grad, none if momentum_buffer is None else momentum_buffer, lr, momentum, nesterov, weight_decay)

    return sgd_update


def plan_rmsprop_update(parameter: Array) -> Callable[..., None]:
    """Return a function (parameter, grad, square_avg, momentum_buffer, lr, alpha, eps, weight_decay, momentum)."""
    run, none = _launch(_rmsprop, parameter), EMPTY[parameter.dtype]

    def rmsprop_update(parameter: Array, grad: Array, square_avg: Array, momentum_buffer: Array | None,
                       *numbers: float) -> None:
        run(parameter, grad, square_avg, none if momentum_buffer is None else momentum_buffer, *numbers)

    return rmsprop_update


def plan_adam_update(parameter: Array, decoupled: bool) -> Callable[..., None]:
    """Return a function (parameter, grad, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, weight_decay)."""
    run = _launch(_adam, parameter)

    def adam_update(parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, step: int, lr: float,
                    beta1: float, beta2: float, eps: float, weight_decay: float) -> None:
        penalty, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
        run(parameter, grad, exp_avg, exp_avg_sq, lr / (1 - beta1**step), beta1, beta2, math.sqrt(1 - beta2**step), eps,
            penalty, shrink)

    return adam_update


def _launch(kernel: BlockKernel, parameter: Array) -> Launch:
    return kernel.launch(chunks(parameter.size), work=parameter.size)
