"""Updates on a GPU, each in one kernel: a thread reads several elements of all arrays before it writes the first."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for, either, real_of
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.tuning import UPDATE_AT_ONCE

_CHUNK = UPDATE_AT_ONCE * THREADS               # elements of a block: neighbours go to neighbouring threads

# Elements past the end are read as the last one, whose values nothing uses, so that no branch parts the loads.


@functools.cache
def _sgd(real: Any, buffered: bool, nesterov: bool) -> Any:
    @cuda.jit
    def sgd(parameter: Array, grad: Array, buffer: Array, rate: Any, keep: Any, decay: Any) -> None:
        p = cuda.local.array(UPDATE_AT_ONCE, real)
        g = cuda.local.array(UPDATE_AT_ONCE, real)
        b = cuda.local.array(UPDATE_AT_ONCE, real)
        size = parameter.size
        for first in range(cuda.blockIdx.x * _CHUNK + cuda.threadIdx.x, size, cuda.gridDim.x * _CHUNK):
            for j in range(UPDATE_AT_ONCE):
                i = min(first + j * THREADS, size - 1)
                p[j], g[j] = parameter[i], grad[i]
                if buffered:
                    b[j] = buffer[i]
            for j in range(UPDATE_AT_ONCE):
                i = first + j * THREADS
                if i < size:
                    change = g[j]
                    if decay != 0:
                        change += decay * p[j]
                    if buffered:
                        moved = keep * b[j] + change
                        buffer[i] = moved
                        change = change + keep * moved if nesterov else moved
                    parameter[i] = p[j] - rate * change

    return sgd


@functools.cache
def _length(real: Any) -> Any:
    """Make the function that returns sqrt(square), or, where the square of the gradient leaves the range, what it was.

    That is sqrt(old before + new g^2) without the squares. A square too small to count beside eps is left alone.
    """
    small, large = map(real, (2.0**-50, 2.0**60) if np.dtype(real).itemsize == 4 else (2.0**-450, 2.0**500))
    one, zero, infinite = real(1), real(0), real(math.inf)

    @cuda.jit(device=True)
    def length(square: Any, old: Any, before: Any, new: Any, g: Any, least: Any) -> Any:
        size = abs(g)
        if size < large and (size >= small or least > small):
            return real(math.sqrt(square))
        a, b = real(math.sqrt(old)) * real(math.sqrt(before)), real(math.sqrt(new)) * size
        longer, shorter = (a, b) if a > b else (b, a)
        if not zero < longer < infinite:
            return longer
        ratio = shorter / longer
        return longer * real(math.sqrt(one + ratio * ratio))

    return length


@functools.cache
def _rmsprop(real: Any, buffered: bool) -> Any:
    length = _length(real)

    @cuda.jit
    def rmsprop(parameter: Array, grad: Array, square_avg: Array, buffer: Array, rate: Any, old: Any, new: Any,
                least: Any, decay: Any, keep: Any) -> None:
        p = cuda.local.array(UPDATE_AT_ONCE, real)
        g = cuda.local.array(UPDATE_AT_ONCE, real)
        s = cuda.local.array(UPDATE_AT_ONCE, real)
        b = cuda.local.array(UPDATE_AT_ONCE, real)
        size = parameter.size
        for first in range(cuda.blockIdx.x * _CHUNK + cuda.threadIdx.x, size, cuda.gridDim.x * _CHUNK):
            for j in range(UPDATE_AT_ONCE):
                i = min(first + j * THREADS, size - 1)
                p[j], g[j], s[j] = parameter[i], grad[i], square_avg[i]
                if buffered:
                    b[j] = buffer[i]
            for j in range(UPDATE_AT_ONCE):
                i = first + j * THREADS
                if i < size:
                    slope = g[j]
                    if decay != 0:
                        slope += decay * p[j]
                    square = old * s[j] + new * slope * slope
                    square_avg[i] = square
                    change = slope / (length(square, old, s[j], new, slope, least) + least)
                    if buffered:
                        change = keep * b[j] + change
                        buffer[i] = change
                    parameter[i] = p[j] - rate * change

    return rmsprop


@functools.cache
def _adam(real: Any) -> Any:
    length = _length(real)

    @cuda.jit
    def adam(parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, step: Any, old1: Any, new1: Any,
             old2: Any, new2: Any, correction: Any, least: Any, decay: Any, kept: Any) -> None:
        p = cuda.local.array(UPDATE_AT_ONCE, real)
        g = cuda.local.array(UPDATE_AT_ONCE, real)
        m = cuda.local.array(UPDATE_AT_ONCE, real)
        v = cuda.local.array(UPDATE_AT_ONCE, real)
        size = parameter.size
        for first in range(cuda.blockIdx.x * _CHUNK + cuda.threadIdx.x, size, cuda.gridDim.x * _CHUNK):
            for j in range(UPDATE_AT_ONCE):
                i = min(first + j * THREADS, size - 1)
                p[j], g[j], m[j], v[j] = parameter[i], grad[i], exp_avg[i], exp_avg_sq[i]
            for j in range(UPDATE_AT_ONCE):
                i = first + j * THREADS
                if i < size:
                    slope = g[j]
                    if decay != 0:
                        slope += decay * p[j]
                    mean = old1 * m[j] + new1 * slope
                    square = old2 * v[j] + new2 * slope * slope
                    exp_avg[i], exp_avg_sq[i] = mean, square
                    root = length(square, old2, v[j], new2, slope, least)
                    parameter[i] = kept * p[j] - step * (mean / (root / correction + least))

    return adam


def sgd_update(parameter: Array, grad: Array, momentum_buffer: Array | None, lr: float, momentum: float,
               weight_decay: float, nesterov: bool) -> None:
    kernel = _sgd(real_of(parameter), momentum_buffer is not None, nesterov)
    _run(kernel, parameter, grad, either(momentum_buffer, parameter), lr, momentum, weight_decay)


def rmsprop_update(parameter: Array, grad: Array, square_avg: Array, momentum_buffer: Array | None, lr: float,
                   alpha: float, eps: float, weight_decay: float, momentum: float) -> None:
    kernel = _rmsprop(real_of(parameter), momentum_buffer is not None)
    _run(kernel, parameter, grad, square_avg, either(momentum_buffer, parameter), lr, alpha, 1 - alpha, eps,
         weight_decay, momentum)


def adam_update(parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, step: int, lr: float, beta1: float,
                beta2: float, eps: float, weight_decay: float, decoupled: bool) -> None:
    penalty, kept = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    _run(_adam(real_of(parameter)), parameter, grad, exp_avg, exp_avg_sq, lr / (1 - beta1**step), beta1, 1 - beta1,
         beta2, 1 - beta2, math.sqrt(1 - beta2**step), eps, penalty, kept)


def _run(kernel: Any, parameter: Array, *args: Any) -> None:
    """Launch a kernel over the elements, its options rounded to their dtype."""
    real = real_of(parameter)
    launch(kernel, blocks_for(parameter.size, _CHUNK), THREADS, parameter,
           *[real(arg) if isinstance(arg, float) else arg for arg in args])
