"""What our tests and benchmarks use, and what users hold their own kernels and layers against."""

from __future__ import annotations

from fastnn.testing.compare import (
    GRADIENT_TOLERANCES,
    TOLERANCES,
    assert_close,
    assert_same_bits,
    assert_same_neighbors,
)
from fastnn.testing.gradients import GradientCheck, check_gradients, numeric_gradient, relative_error
from fastnn.testing.table import KERNELS, Benchmark, Call, Kernel, Refused

__all__ = [
    "GRADIENT_TOLERANCES",
    "KERNELS",
    "TOLERANCES",
    "Benchmark",
    "Call",
    "GradientCheck",
    "Kernel",
    "Refused",
    "assert_close",
    "assert_same_bits",
    "assert_same_neighbors",
    "check_gradients",
    "numeric_gradient",
    "relative_error",
]
