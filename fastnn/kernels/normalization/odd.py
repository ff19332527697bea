"""Channels and rows whose sums or factors leave the range of their dtype, or whose mean hides their deviation.

They are rare, and done slowly: one number after the other in float64, scaled by powers of two. The same functions serve
the CPU and the GPU. They see arrays flat, of (samples, channels, length), or of (rows, channels, places); a row is a
channel of one sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastnn._checks import Array


def functions(jit: Callable[[Callable], Any]) -> SimpleNamespace:
    """Return the functions, compiled by `jit`."""

    @jit
    def unit(largest: float) -> float:
        """Return a power of two that brings numbers, and their squares, well into the range."""
        if 2.0**400 < largest < math.inf:
            return 2.0**-600
        return 2.0**600 if largest < 2.0**-400 else 1.0

    @jit
    def factors(a: float, b: float) -> tuple[float, float]:
        """Return two numbers whose product is a b, and neither of which turns back what the other has done."""
        return (a * b, 1.0) if (abs(a) > 1) != (abs(b) > 1) else (a, b)

    @jit
    def value(x: float, mean: float, left: float, right: float, offset: float) -> float:
        """Return (x - mean) left right + offset, a quarter of it first: parts may be larger than the whole."""
        return 4.0 * ((0.25 * np.float64(x) - 0.25 * mean) * left * right + 0.25 * offset)

    @jit
    def is_odd(high: float, scale: float, offset: float, factor: float, itemsize: int) -> bool:
        """Whether (x - high) scale + offset may leave the range on the way; `factor` is what scale was made of."""
        smallest, large = (2.0**-126, 2.0**100) if itemsize == 4 else (2.0**-1022, 2.0**1000)
        return not (abs(high) < large and abs(offset) < large and (factor == 0 or smallest <= abs(scale) < math.inf))

    @jit
    def has_odd_sums(total: float, product: float, n: int, invstd: float, itemsize: int) -> bool:
        """Whether sums of gradients, and what is made of them, may leave the range; `product` is that with z."""
        smallest, large = (2.0**-126, 2.0**100) if itemsize == 4 else (2.0**-1022, 2.0**1000)
        slope = abs(product / n * invstd)
        return not (2.0**-400 < invstd < 2.0**400 and abs(total) < large and abs(product) < large
                    and (product == 0 or smallest <= slope < large) and (total == 0 or abs(product) > 2.0**-900))

    @jit
    def statistics(x: Array, samples: int, channels: int, length: int, c: int, eps: float, mean: float,
                   var: float) -> tuple[float, float, float]:
        """Return a channel's mean, its variance and 1 / sqrt(var + eps), the first two again where they are not good.

        A mean far larger than the deviation is off by some of the latter: the mean of what it leaves is added to it.
        """
        total, hidden = var + eps, 2.0**-32 * mean
        if 2.0**-960 < total < math.inf and hidden * hidden < total:
            return mean, var, 1 / math.sqrt(total)
        n, largest = samples * length, 0.0
        for k in range(samples):
            for i in range((k * channels + c) * length, (k * channels + c + 1) * length):
                largest = max(largest, abs(np.float64(x[i])))
        small = unit(largest)
        mean, rest, var = 0.0, 0.0, 0.0
        for k in range(samples):
            for i in range((k * channels + c) * length, (k * channels + c + 1) * length):
                mean += small * np.float64(x[i])
        mean /= n
        for k in range(samples):
            for i in range((k * channels + c) * length, (k * channels + c + 1) * length):
                rest += small * np.float64(x[i]) - mean
        mean += rest / n if abs(rest) < math.inf else 0.0
        for k in range(samples):
            for i in range((k * channels + c) * length, (k * channels + c + 1) * length):
                var += (small * np.float64(x[i]) - mean) * (small * np.float64(x[i]) - mean)
        var /= n
        small_eps = eps * small * small
        if var == 0 or (small_eps == math.inf and not math.isnan(var)):
            return mean / small, var / small / small, 1 / math.sqrt(eps)
        return mean / small, var / small / small, small / math.sqrt(var + small_eps)

    @jit
    def gradients(grad_output: Array, x: Array, samples: int, channels: int, length: int, c: int, factor: float,
                  offset: float, mean: float, invstd: float, floor: float, training: bool, needs_x: bool,
                  grad_x: Array) -> tuple[float, float]:
        """Write a channel's gradient by x; return those by its weight and its bias."""
        n, largest, total, product = samples * length, 0.0, 0.0, 0.0
        left, right = factors(invstd, factor)
        for k in range(samples):
            for i in range((k * channels + c) * length, (k * channels + c + 1) * length):
                largest = max(largest, abs(np.float64(grad_output[i])))
        small = unit(largest)
        for k in range(samples):
            for i in range((k * channels + c) * length, (k * channels + c + 1) * length):
                g = 0.0 if value(x[i], mean, left, right, offset) <= floor else small * np.float64(grad_output[i])
                total += g
                product += g * value(x[i], mean, invstd, 1.0, 0.0)          # NaN for 0 times inf, too
        if needs_x:
            left_back, large = factors(left, 1 / small)
            for k in range(samples):
                for i in range((k * channels + c) * length, (k * channels + c + 1) * length):
                    g = 0.0 if value(x[i], mean, left, right, offset) <= floor else small * np.float64(grad_output[i])
                    if training:
                        g -= total / n + value(x[i], mean, invstd, 1.0, 0.0) * (product / n)
                    grad_x[i] = g * left_back * right * large
        return product / small, total / small

    @jit
    def is_odd_row(largest_grad: float, largest_term: float, invstd: float) -> bool:
        """Whether the gradient of a row may leave the range on the way; a term is a gradient times its weight."""
        return not (2.0**-400 < invstd < 2.0**400
                    and (largest_grad == 0 or (2.0**-400 < largest_grad < 2.0**400
                                               and 2.0**-400 < largest_term < 2.0**400)))

    @jit
    def tamed(number: float) -> tuple[float, int]:
        """Return a number whose square is well in the range, and the power of 2^600 by which that was divided."""
        if 2.0**400 < abs(number) < math.inf:
            return 2.0**-600 * number, 1
        return (2.0**600 * number, -1) if 0 < abs(number) < 2.0**-400 else (number, 0)

    @jit
    def term(grad: float, weight: float, level: int) -> float:
        """Return their product over 2^(600 level), which is not less than its own level."""
        left, above = tamed(grad)
        right, below = tamed(weight)
        product = left * right
        for _ in range(level - above - below):
            product *= 2.0**-600
        return product

    @jit
    def row_gradient(grad_output: Array, x: Array, weight: Array, r: int, groups: int, channels: int, places: int,
                     mean: float, invstd: float, grad_x: Array, begin: int) -> None:
        """Write the gradient of row r from `begin` on."""
        length = channels * places
        first, of_group, level, total, product = r * length, r % groups * channels, -2, 0.0, 0.0
        for i in range(length):
            left, above = tamed(np.float64(grad_output[first + i]))
            right, below = tamed(np.float64(weight[of_group + i // places]))
            if abs(left) > 0 and abs(right) > 0:
                level = max(level, above + below)
        for i in range(length):
            grad = term(np.float64(grad_output[first + i]), np.float64(weight[of_group + i // places]), level)
            total += grad
            product += grad * value(x[first + i], mean, invstd, 1.0, 0.0)
        back = 2.0**600 if level > 0 else 2.0**-600 if level < 0 else 1.0
        left, middle = factors(invstd, back)
        left, right = factors(left, back if abs(level) == 2 else 1.0)
        for i in range(length):
            grad = term(np.float64(grad_output[first + i]), np.float64(weight[of_group + i // places]), level)
            grad -= total / length + value(x[first + i], mean, invstd, 1.0, 0.0) * (product / length)
            grad_x[begin + i] = grad * left * middle * right

    @jit
    def channel_gradients(grad_output: Array, x: Array, mean: Array, invstd: Array, groups: int, channels: int,
                          places: int, c: int) -> tuple[float, float]:
        """Return the gradients by the weight and the bias of channel c of all groups."""
        largest, total, product = 0.0, 0.0, 0.0
        for r in range(c // channels, mean.size, groups):
            for i in range((r * channels + c % channels) * places, (r * channels + c % channels + 1) * places):
                largest = max(largest, abs(np.float64(grad_output[i])))
        small = unit(largest)
        for r in range(c // channels, mean.size, groups):
            for i in range((r * channels + c % channels) * places, (r * channels + c % channels + 1) * places):
                g = small * np.float64(grad_output[i])
                total += g
                product += g * value(x[i], mean[r], invstd[r], 1.0, 0.0)
        return product / small, total / small

    return SimpleNamespace(factors=factors, value=value, is_odd=is_odd, has_odd_sums=has_odd_sums,
                           statistics=statistics, gradients=gradients, is_odd_row=is_odd_row,
                           row_gradient=row_gradient, channel_gradients=channel_gradients)
