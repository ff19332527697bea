"""Blocks of every kernel in any order, one after the other: the same bits; see also the large calls at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fastnn.testing import KERNELS, Call, Kernel
from fastnn.testing.table import CASES

N = 23                      # of rows or images: a whole panel at least, and one that is not


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_samples(row: Kernel, dtype: np.dtype, check_orders: Callable[[Kernel, Call], int]) -> None:
    for call in row.calls(dtype):
        check_orders(row, call)


@pytest.mark.parametrize("row", KERNELS.values(), ids=str)
def test_benchmarks(row: Kernel, check_orders: Callable[[Kernel, Call], int]) -> None:
    rng = np.random.default_rng(0)

    def without_equals(array: np.ndarray) -> np.ndarray:
        """What is written to a wrong place shows only where another value belongs."""
        return array + rng.random(array.shape, array.dtype) if array.dtype.kind == "f" else array

    assert row.benchmarks
    for benchmark in row.benchmarks:
        blocks = check_orders(row, benchmark.call(min(N, benchmark.n)).map(without_equals))
        assert blocks > 1, f"{benchmark.label}: all in one block"
