"""Elementary functions and sums in forms that LLVM vectorizes: no branches, no calls, and sums in several parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import helper, inlined_helper, inlined_sums_helper

# (1 + 2 z) exp(z^2) erfc(z) in powers of t = (z - 3.5) / (z + 3.5): its Chebyshev series, cut where terms fall below
# the rounding of each dtype. (The form is Shepherd and Laframboise's, Math. Comp. 36, 1981.)
_ERFCX = {
    np.float32: (
        1.2423493, -0.1400099, -0.010556854, 0.09753384, -0.11507481, 0.08789725, -0.048887115, 0.019309068,
        -0.004089686, -0.00054061227, 0.0004488069,
    ),
    np.float64: (
        1.2423492448711544, -0.1400091801376261, -0.010555596332221669, 0.09751909515384956, -0.11508959816003075,
        0.08798315380941167, -0.04882332583088402, 0.019099331128772476, -0.004215019879774186, -0.00030226912344206617,
        0.0005643842668705102, -0.00012150735579328694, -4.2781739959539994e-05, 2.42478383463427e-05,
        2.327330953779143e-06, -3.792648061218764e-06, -4.3092373983167324e-08, 5.776043883970021e-07,
        -8.611571571113197e-09, -7.964393647370814e-08, 6.651894382374226e-10, 6.921847242408962e-09,
        6.040390099347386e-11,
    ),
}


def _functions(dtype: Any, integer: Any, mantissa: int, lowest: float) -> list[Callable[[Any], Any]]:
    """Return the functions of this module for one dtype: all their constants are of it, so that nothing is widened.

    `mantissa` is the number of its bits; exp is 0 from `lowest` down, where results would be denormal.
    """
    double = dtype is np.float64
    half, one, two = dtype(0.5), dtype(1), dtype(2)

    log2_e, ln2_high, ln2_low = dtype(1 / math.log(2)), dtype(0.693145751953125), dtype(1.4286068203094172e-06)
    to_integer = dtype(1.5 * 2.0**mantissa)    # adding it rounds to an integer, which then stands in the lowest bits
    bias, shift = integer(1 - np.finfo(dtype).minexp), integer(mantissa)
    zero, least, most = dtype(0), dtype(lowest), dtype(np.finfo(dtype).maxexp * math.log(2))
    taylor = tuple(dtype(1 / math.factorial(n)) for n in range(14))

    @inlined_sums_helper
    def small_expm1(r: Any) -> Any:
        c, p = taylor, taylor[7]
        if double:
            p += r * (c[8] + r * (c[9] + r * (c[10] + r * (c[11] + r * (c[12] + r * c[13])))))
        return r + r * r * (c[2] + r * (c[3] + r * (c[4] + r * (c[5] + r * (c[6] + r * p)))))

    @inlined_helper
    def exp_parts(x: Any) -> Any:
        """Return s = 2^k and p with exp(x) = s (1 + p) and |p| < 0.42."""
        x = least if x < least else x
        x = most if x > most else x
        shifted = x * log2_e + to_integer
        k = shifted - to_integer
        p = small_expm1((x - k * ln2_high) - k * ln2_low)
        power = integer((dtype(shifted).view(integer) + bias) << shift).view(dtype)
        return zero if x <= least else power, p

    @inlined_helper
    def exp(x: Any) -> Any:
        s, p = exp_parts(x)
        return s * (one + p)

    @inlined_helper
    def sigmoid(x: Any) -> Any:
        e = exp(-abs(x))
        return (e if x < zero else one) / (one + e)

    @inlined_helper
    def tanh(x: Any) -> Any:
        s, p = exp_parts(-two * abs(x))
        expm1 = (s - one) + s * p
        return math.copysign(expm1 / (two + expm1), x)

    root_half, density = dtype(math.sqrt(1 / 2)), dtype(1 / math.sqrt(2 * math.pi))
    middle, far = dtype(3.5), dtype(1e9)
    erfcx = tuple(dtype(c) for c in _ERFCX[dtype])

    @inlined_sums_helper
    def erfcx_series(t: Any) -> Any:
        c, p = erfcx, erfcx[10]
        if double:
            p += t * (c[11] + t * (c[12] + t * (c[13] + t * (c[14] + t * (c[15] + t * (c[16] + t * (
                c[17] + t * (c[18] + t * (c[19] + t * (c[20] + t * (c[21] + t * c[22])))))))))))
        return c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * (
            c[5] + t * (c[6] + t * (c[7] + t * (c[8] + t * (c[9] + t * p)))))))))

    @inlined_helper
    def normal(x: Any) -> Any:
        e = exp(-half * x * x)
        z = abs(x) * root_half
        z = far if z > far else z
        tail = half * e * (erfcx_series((z - middle) / (z + middle)) / (one + two * z))
        return tail if x < zero else one - tail, density * e

    return [exp, sigmoid, tanh, normal]


def _by_dtype(single: Callable[[Any], Any], double: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function of a number that runs the one for its dtype."""

    def function(x: Any) -> Any:
        return (single if isinstance(x, np.float32) else double)(x)

    @overload(function, jit_options={"forceinline": True})
    def compiled(x: Any) -> Any:
        chosen = single if x == types.float32 else double

        def implementation(x: Any) -> Any:
            return chosen(x)

        return implementation

    return function


exp, sigmoid, tanh, normal = map(
    _by_dtype, _functions(np.float32, np.int32, 23, -87.33), _functions(np.float64, np.int64, 52, -708.39))
"""exp, sigmoid and tanh of a number in its dtype, and the normal distribution with its density, (P, p), at a number.

To a few units in the last place; what would be denormal is 0.
"""


# --- blocks: chunks of a flat array, or rows of a matrix -----------------------------------------------------

CHUNK = 8192            # elements of a block, or about that many in whole rows


def chunks(x: Array) -> int:
    """Return the number of chunks of a flat array; its size alone decides."""
    return -(-x.size // CHUNK)


@helper
def chunk(block: int, x: Array) -> Array:
    """Return a block's part of a flat array."""
    return x[block * CHUNK:(block + 1) * CHUNK]


def row_blocks(x: Array) -> int:
    """Return the number of blocks of rows of a matrix; its shape alone decides."""
    return -(-x.shape[0] // max(1, CHUNK // x.shape[1]))


@helper
def rows_of_block(block: int, x: Array) -> range:
    """Return the rows of a block."""
    count = max(1, CHUNK // x.shape[1])
    return range(block * count, min(x.shape[0], (block + 1) * count))


@helper
def row_sum(row: Array) -> float:
    """Return the sum of a row in float64, as eight interleaved sums that need not wait for each other."""
    a = b = c = d = e = f = g = h = np.float64(0)
    whole = row.size // 8
    for i in range(whole):
        part = row[8 * i:8 * i + 8]
        a, b, c, d = a + part[0], b + part[1], c + part[2], d + part[3]
        e, f, g, h = e + part[4], f + part[5], g + part[6], h + part[7]
    for i in range(8 * whole, row.size):
        a += row[i]
    return ((a + e) + (b + f)) + ((c + g) + (d + h))


@helper
def _larger(a: float, b: float) -> float:
    return a if a > b else b


@helper
def row_max(row: Array) -> float:
    """Return the largest element of a row; NaN are passed over."""
    a = b = c = d = row.dtype.type(-np.inf)
    whole = row.size // 4
    for i in range(whole):
        a, b = _larger(row[4 * i], a), _larger(row[4 * i + 1], b)
        c, d = _larger(row[4 * i + 2], c), _larger(row[4 * i + 3], d)
    for i in range(4 * whole, row.size):
        a = _larger(row[i], a)
    return _larger(_larger(a, b), _larger(c, d))


@helper
def log_sum_exp(row: Array, terms: Array) -> tuple[float, float]:
    """Return m, the largest element of a row, and log(sum of exp(row - m)) as float64; `terms` is overwritten."""
    largest = row_max(row)
    for i in range(row.size):
        terms[i] = exp(row[i] - largest)
    return largest, math.log(row_sum(terms))
