"""Elementary functions that LLVM vectorizes: no branches, no calls, float64 inside for every dtype."""

from __future__ import annotations

import numpy as np

from fastnn.kernels._jit import helper, sums_helper

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693147180369123816490     # the first 33 bits of ln 2: a multiple k of it is exact
_LN2_LOW = 1.90821492927058770002e-10
_ROUND = 1.5 * 2.0**52                  # adding it rounds to an integer, which then stands in the lowest bits


@sums_helper
def _small_expm1(r: float) -> float:
    """Return exp(r) - 1 for |r| <= ln(2) / 2 by Taylor's series."""
    p = 1 / 479001600 + r * (1 / 6227020800)
    p = 1 / 3628800 + r * (1 / 39916800 + r * p)
    p = 1 / 40320 + r * (1 / 362880 + r * p)
    p = 1 / 720 + r * (1 / 5040 + r * p)
    p = 1 / 24 + r * (1 / 120 + r * p)
    return r + r * r * (1 / 2 + r * (1 / 6 + r * p))


@helper
def _exp_parts(x: float) -> tuple[float, float]:
    """Return s = 2^k and p with exp(x) = s (1 + p) for |p| < 0.42; s is 0 where exp(x) < 2.2e-308."""
    clamped = np.float64(x)
    clamped = -709.0 if clamped < -709.0 else clamped
    clamped = 710.0 if clamped > 710.0 else clamped
    shifted = clamped * _LOG2_E + _ROUND
    k = shifted - _ROUND
    p = _small_expm1((clamped - k * _LN2_HIGH) - k * _LN2_LOW)
    power = np.int64((np.float64(shifted).view(np.int64) + 1023) << 52).view(np.float64)
    return 0.0 if clamped < -708.39 else power, p


@helper
def exp(x: float) -> float:
    """Return exp(x) as float64: 0 below x = -708.39, inf above 709.43."""
    s, p = _exp_parts(x)
    return s + s * p


@helper
def expm1(x: float) -> float:
    """Return exp(x) - 1 as float64, exact to rounding also near 0."""
    s, p = _exp_parts(x)
    return (s - 1) + s * p
