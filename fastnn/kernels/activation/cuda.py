"""Activations on a GPU: their formulas, for numbers, and the masks of dropout.

exp, tanh and erfc are the CUDA library's, which in float32 are off by at most 1, 2 and 4 units in the last place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for
from fastnn.kernels._gpu.elementwise import run_map
from fastnn.kernels._gpu.launch import launch


@functools.cache
def _formulas(real: Any) -> dict[str, Callable[[Any, Any, Any], Any]]:
    """Return the formulas (x, other, option) for numbers of a dtype, to which all of their constants belong."""
    zero, half, one, three = map(real, (0, 0.5, 1, 3))
    inverse_root, density_at_0 = real(1 / math.sqrt(2)), real(1 / math.sqrt(2 * math.pi))
    slope, cubic = real(2 * math.sqrt(2 / math.pi)), real(0.044715)     # of twice the inner line of the tanh form
    flat = real(64)                             # from where on all forms of gelu are 0 or x to rounding
    formulas: dict[str, Callable[[Any, Any, Any], Any]] = {}

    def formula(function: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
        formulas[function.__name__] = function
        return function

    @cuda.jit(device=True)
    def sigmoids(x: Any) -> tuple[Any, Any]:
        """Return sigmoid(x) and sigmoid(-x), neither by a difference."""
        e = real(math.exp(-abs(x)))
        large, small = one / (one + e), e / (one + e)
        return (small, large) if x < zero else (large, small)

    @cuda.jit(device=True)
    def probability(x: Any) -> Any:
        return half * real(math.erfc(-x * inverse_root))

    @formula
    def relu(x: Any, other: Any, option: Any) -> Any:
        return zero if x < zero else x

    @formula
    def relu_backward(grad: Any, y: Any, option: Any) -> Any:
        return zero if y <= zero else grad

    @formula
    def leaky_relu(x: Any, other: Any, slope: Any) -> Any:
        return x if x > zero else slope * x

    @formula
    def leaky_relu_backward(grad: Any, x: Any, slope: Any) -> Any:
        return grad if x > zero else slope * grad

    @formula
    def sigmoid(x: Any, other: Any, option: Any) -> Any:
        return sigmoids(x)[0]

    @formula
    def sigmoid_backward(grad: Any, y: Any, option: Any) -> Any:
        return grad * y * (one - y)

    @formula
    def tanh(x: Any, other: Any, option: Any) -> Any:
        return real(math.tanh(x))

    @formula
    def tanh_backward(grad: Any, y: Any, option: Any) -> Any:
        return grad * (one - y * y)

    @formula
    def gelu(x: Any, other: Any, option: Any) -> Any:
        return x * probability(x)

    @formula
    def gelu_backward(grad: Any, x: Any, option: Any) -> Any:
        return grad * (probability(x) + x * (density_at_0 * real(math.exp(-half * x * x))))

    @formula
    def gelu_tanh(x: Any, other: Any, option: Any) -> Any:
        """(1 + tanh(u)) / 2 = sigmoid(2 u), which cancels nowhere."""
        return x * sigmoids(slope * (x + cubic * x * x * x))[0]

    @formula
    def gelu_tanh_backward(grad: Any, x: Any, option: Any) -> Any:
        v = x if abs(x) < flat else real(math.copysign(flat, x))        # whose cube does not overflow
        left, right = sigmoids(slope * (v + cubic * v * v * v))
        return grad * (left + v * left * right * slope * (one + three * cubic * v * v) + zero * x)

    @formula
    def silu(x: Any, other: Any, option: Any) -> Any:
        return x * sigmoids(x)[0]

    @formula
    def silu_backward(grad: Any, x: Any, option: Any) -> Any:
        left, right = sigmoids(x)
        return grad * (left * (one + x * right))

    @formula
    def add(x: Any, y: Any, option: Any) -> Any:
        return x + y

    @formula
    def add_relu(x: Any, y: Any, option: Any) -> Any:
        total = x + y
        return zero if total < zero else total

    @formula
    def dropout(x: Any, mask: Any, scale: Any) -> Any:
        return x * (zero if mask == 0 else scale)

    return formulas


@functools.cache
def _of_two_options(real: Any) -> dict[str, Any]:
    """Return the kernels (x, other, first option, second option, result)."""
    zero, one = real(0), real(1)

    @cuda.jit
    def softplus(x: Array, other: Array, beta: Any, threshold: Any, y: Array) -> None:
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            value = x[i]
            z = value * beta
            rest = real(math.log1p(real(math.exp(-abs(z))))) / beta
            y[i] = value if z > threshold else (value if z > zero else zero) + rest

    @cuda.jit
    def softplus_backward(grad: Array, x: Array, beta: Any, threshold: Any, grad_x: Array) -> None:
        for i in range(cuda.grid(1), grad_x.size, cuda.gridsize(1)):
            z = x[i] * beta
            e = real(math.exp(-abs(z)))
            grad_x[i] = grad[i] if z > threshold else grad[i] * ((e if z < zero else one) / (one + e))

    return {"softplus": softplus, "softplus_backward": softplus_backward}


def elementwise(name: str, size: int, dtype: np.dtype) -> Callable[..., None]:
    """Return a function (*arrays, option, result), all flat, that writes the results of a formula, by its name."""
    real: Any = dtype.type
    if kernel := _of_two_options(real).get(name):
        def run_two(*args: Any) -> None:
            *arrays, options, result = args
            launch(kernel, blocks_for(size), THREADS, arrays[0], arrays[-1], *map(real, options), result)

        return run_two
    formula = _formulas(real)[name]

    def run(*args: Any) -> None:
        *arrays, option, result = args
        run_map(formula, arrays[0], arrays[-1], option, result)

    return run


# --- masks -------------------------------------------------------------------------------------------------

# Philox 4x64 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), its numbers taken
# in NumPy's order. Words are uint64, and no sum or product overflows one, of which NumPy would warn in the simulator;
# constants are halves of words, as not every compiler takes whole ones.
_ROUNDS = 10
_FACTOR_0, _FACTOR_2 = (np.uint64(0xD2E7470E), np.uint64(0xE14C6C93)), (np.uint64(0xCA5A8263), np.uint64(0x95121157))
_STEP_0, _STEP_1 = (np.uint64(0x9E3779B9), np.uint64(0x7F4A7C15)), (np.uint64(0xBB67AE85), np.uint64(0x84CAA73B))
_LOW, _HALF, _ONE, _DROPPED = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(1), np.uint64(8)


@cuda.jit(device=True)
def _product(a: Any, b_high: Any, b_low: Any) -> tuple[Any, Any]:
    """Return the high and the low word of a product."""
    a_high, a_low = a >> _HALF, a & _LOW
    low = a_low * b_low
    middle = a_high * b_low + (low >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF), (other << _HALF) | (low & _LOW)


@cuda.jit(device=True)
def _sum(a: Any, b_high: Any, b_low: Any) -> Any:
    low = (a & _LOW) + b_low
    return (((a >> _HALF) + b_high + (low >> _HALF)) << _HALF) | (low & _LOW)


@cuda.jit(device=True)
def _keep(word: Any, threshold: Any, mask: Array, at: int) -> None:
    """Write whether the two numbers of a word, of 24 bits each, reach the threshold."""
    if at < mask.size:
        mask[at] = (word & _LOW) >> _DROPPED >= threshold
    if at + 1 < mask.size:
        mask[at + 1] = word >> _HALF >> _DROPPED >= threshold


@cuda.jit
def _dropout_mask(key_0: Any, key_1: Any, threshold: Any, mask: Array) -> None:
    for i in range(cuda.grid(1), (mask.size + 7) // 8, cuda.gridsize(1)):
        a, b, c, d = np.uint64(i) + _ONE, np.uint64(0), np.uint64(0), np.uint64(0)
        p, q = key_0, key_1
        for _ in range(_ROUNDS):
            a_high, a_low = _product(a, _FACTOR_0[0], _FACTOR_0[1])
            c_high, c_low = _product(c, _FACTOR_2[0], _FACTOR_2[1])
            a, b, c, d = c_high ^ b ^ p, c_low, a_high ^ d ^ q, a_low
            p, q = _sum(p, _STEP_0[0], _STEP_0[1]), _sum(q, _STEP_1[0], _STEP_1[1])
        _keep(a, threshold, mask, 8 * i)
        _keep(b, threshold, mask, 8 * i + 2)
        _keep(c, threshold, mask, 8 * i + 4)
        _keep(d, threshold, mask, 8 * i + 6)


def dropout_mask(key: tuple[int, int], p: float, mask: Array) -> None:
    """Write what `np.random.Generator(np.random.Philox(seed)).random(mask.size, np.float32) >= p` is, to the bit.

    `key` is that of the bit generator's state, at the beginning of which its counter is 0.
    """
    threshold = math.ceil(float(np.float32(p)) * 2**24)         # numbers are multiples of 2^-24
    launch(_dropout_mask, blocks_for(-(-mask.size // 8)), THREADS,
           np.uint64(key[0]), np.uint64(key[1]), np.uint64(threshold), mask)
