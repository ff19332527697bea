"""Elementary functions in forms that LLVM vectorizes: no branches and no calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from fastnn.kernels._cpu.compiler import inlined_helper, inlined_sums_helper

# (1 + 2 z) exp(z^2) erfc(z) in powers of t = (z - 3.5) / (z + 3.5): its Chebyshev series, cut where terms fall below
# the rounding of float64. (The form is Shepherd and Laframboise's, Math. Comp. 36, 1981.)
_ERFCX = (
    1.2423492448711544, -0.1400091801376261, -0.010555596332221669, 0.09751909515384956, -0.11508959816003075,
    0.08798315380941167, -0.04882332583088402, 0.019099331128772476, -0.004215019879774186, -0.00030226912344206617,
    0.0005643842668705102, -0.00012150735579328694, -4.2781739959539994e-05, 2.42478383463427e-05,
    2.327330953779143e-06, -3.792648061218764e-06, -4.3092373983167324e-08, 5.776043883970021e-07,
    -8.611571571113197e-09, -7.964393647370814e-08, 6.651894382374226e-10, 6.921847242408962e-09,
    6.040390099347386e-11,
)

# (F(x) - 1/2) / x in powers of u = 2 (x / top)^2 - 1, for |x| <= top: fitted in float64 so that the largest error of F
# is least. F is the normal distribution P, or P(x) + x p(x) with its density p; beyond top it is 0 or 1 to rounding.
_PROBABILITY = (5.5, (
    0.12855193, -0.0641724765, 0.0477369912, -0.0387872644, 0.0320817344, -0.0261124987, 0.0202880353, -0.0146712409,
    0.0104684308, -0.00767491246, 0.00423671957, -0.00122917874, 0.00102354877, -0.00136890716, 0.000538177032,
))
_SLOPE = (5.75, (
    0.123071827, -0.0622814074, 0.0493672229, -0.047294233, 0.0517065004, -0.0595244691, 0.0667544603, -0.0705780163,
    0.0693856329, -0.0593601093, 0.0431616008, -0.0349264853, 0.0316949487, -0.0162227601, 0.00106085988,
    -0.00283063785, 0.00621741684, -0.00244581047,
))


def _functions(dtype: Any, integer: Any, mantissa: int, lowest: float) -> list[Callable[[Any], Any]]:
    """Return the functions of this module for one dtype: all their constants are of it, so that nothing is widened.

    `mantissa` is the number of its bits; exp is 0 from `lowest` down, where results would be denormal.
    """
    double = dtype is np.float64
    one, two = dtype(1), dtype(2)

    log2_e, ln2_high, ln2_low = dtype(1 / math.log(2)), dtype(0.693145751953125), dtype(1.4286068203094172e-06)
    to_integer = dtype(1.5 * 2.0**mantissa)    # adding it rounds to an integer, which then stands in the lowest bits
    bias, shift = integer(1 - np.finfo(dtype).minexp), integer(mantissa)
    zero, least, most = dtype(0), dtype(lowest), dtype(np.finfo(dtype).maxexp * math.log(2))
    taylor = tuple(dtype(1 / math.factorial(n)) for n in range(14))
    three, ln2, root_2_less_1 = dtype(3), dtype(math.log(2)), dtype(math.sqrt(2) - 1)
    atanh = tuple(dtype(2 / (2 * k + 1)) for k in range(1, 11))

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
    def sigmoids(x: Any) -> Any:
        e = exp(-abs(x))
        large = one / (one + e)
        small = e * large
        return (small if x < zero else large), (large if x < zero else small)

    @inlined_helper
    def tanh(x: Any) -> Any:
        s, p = exp_parts(-two * abs(x))
        expm1 = (s - one) + s * p
        return math.copysign(expm1 / (two + expm1), x)

    @inlined_sums_helper
    def twice_atanh_excess(z: Any) -> Any:
        """(2 atanh(s) - 2 s) / s with z = s^2 <= 0.03: terms beyond these are below rounding."""
        c, p = atanh, atanh[3]
        if double:
            p += z * (c[4] + z * (c[5] + z * (c[6] + z * (c[7] + z * (c[8] + z * c[9])))))
        return z * (c[0] + z * (c[1] + z * (c[2] + z * p)))

    @inlined_helper
    def log1p_exp(x: Any) -> Any:
        e = exp(-abs(x))
        large = e > root_2_less_1                   # then half of 1 + e is nearer to 1
        s = (e - one if large else e) / (e + three if large else e + two)
        logarithm = two * s + s * twice_atanh_excess(s * s)
        return ln2 + logarithm if large else logarithm

    return [exp, sigmoid, sigmoids, tanh, log1p_exp, twice_atanh_excess]


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


_single = _functions(np.float32, np.int32, 23, -87.33)
_double = _functions(np.float64, np.int64, 52, -708.39)
exp, sigmoid, sigmoids, tanh, log1p_exp = map(_by_dtype, _single[:5], _double[:5])
"""exp, sigmoid and tanh of a number in its dtype; (sigmoid(x), sigmoid(-x)); log(1 + exp(-|x|)).

To a few units in the last place; what would be denormal is 0.
"""


# --- the normal distribution -------------------------------------------------------------------------------


def _single_step(top: float, coefficients: tuple[float, ...]) -> Callable[[Any], Any]:
    """Return the function F of a float32 that the coefficients are for."""
    f = np.float32
    c = (*map(f, coefficients), *(f(0),) * (18 - len(coefficients)))
    long, end, scale, zero, half, one = len(coefficients) == 18, f(top), f(2 / top**2), f(0), f(0.5), f(1)

    @inlined_sums_helper
    def series(x: Any) -> Any:
        u = x * x * scale - one
        p = c[14] + u * (c[15] + u * (c[16] + u * c[17])) if long else c[14]
        return half + x * (c[0] + u * (c[1] + u * (c[2] + u * (c[3] + u * (c[4] + u * (c[5] + u * (c[6] + u * (
            c[7] + u * (c[8] + u * (c[9] + u * (c[10] + u * (c[11] + u * (c[12] + u * (c[13] + u * p))))))))))))))

    @inlined_helper
    def step(x: Any) -> Any:
        bounded = -end if x < -end else x
        value = series(end if bounded > end else bounded)
        value = zero if x < -end else value
        return one if x > end else value

    return step


_root_half, _density = math.sqrt(1 / 2), 1 / math.sqrt(2 * math.pi)
_exp_double = _double[0]


@inlined_sums_helper
def _erfcx_series(t: float) -> float:
    c = _ERFCX
    p = c[10] + t * (c[11] + t * (c[12] + t * (c[13] + t * (c[14] + t * (c[15] + t * (c[16] + t * (
        c[17] + t * (c[18] + t * (c[19] + t * (c[20] + t * (c[21] + t * c[22])))))))))))
    return c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * (
        c[5] + t * (c[6] + t * (c[7] + t * (c[8] + t * (c[9] + t * p)))))))))


@inlined_helper
def _double_normal(x: float) -> tuple[float, float]:
    """The normal distribution and its density."""
    e = _exp_double(-0.5 * x * x)
    z = abs(x) * _root_half
    z = 1e9 if z > 1e9 else z
    above, below = z + 3.5, 1.0 + 2.0 * z
    inverse = 1.0 / (above * below)                             # the one division for two
    tail = 0.5 * e * (_erfcx_series((z - 3.5) * below * inverse) * above * inverse)
    return tail if x < 0.0 else 1.0 - tail, _density * e


@inlined_helper
def _double_probability(x: float) -> float:
    return _double_normal(x)[0]


@inlined_helper
def _double_slope(x: float) -> float:
    probability, density = _double_normal(x)
    return probability + x * density


probability = _by_dtype(_single_step(*_PROBABILITY), _double_probability)
slope = _by_dtype(_single_step(*_SLOPE), _double_slope)
"""The normal distribution P at a number, and P(x) + x p(x), p being its density.

To an absolute error of 1.5 and 3 times 1.2e-7 in float32, to a few units in the last place in float64.
"""


_LN2, _SQRT_2 = math.log(2), math.sqrt(2)
_twice_atanh_excess = _double[5]


@inlined_helper
def log(x: float) -> float:
    """Return the logarithm of a normal positive float64, to a few units in the last place; of NaN and inf, NaN."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> 52) - 1023
    mantissa = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    large = mantissa > _SQRT_2
    mantissa = mantissa * 0.5 if large else mantissa
    power = np.float64(exponent + 1 if large else exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return power * _LN2 + (2.0 * s + s * _twice_atanh_excess(s * s)) + 0.0 * x
