"""What the table of kernels cannot say of embedding: the order of sums, large tables, rows that most indices name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels.embedding import cpu
from fastnn.testing import assert_same_bits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_are_formed_in_the_order_of_the_indices(dtype: Any) -> None:
    """Whatever the blocks: as float64 sums of one number after the other."""
    rng = np.random.default_rng(0)
    for count, rows, columns in [(3000, 50, 40), (500, 3, 300), (40, 5000, 9)]:
        input = np.minimum(rng.geometric(0.3, count) - 1, rows - 1)             # most are few rows
        grad = (rng.standard_normal((count, columns)) * 10 ** rng.uniform(-9, 9, (count, 1))).astype(dtype)
        sums = np.zeros((rows, columns))
        np.add.at(sums, input, grad.astype(np.float64))
        assert_same_bits(kernels.embedding_backward(grad, input, rows) + dtype(0), sums.astype(dtype) + dtype(0))


def test_the_gradient_of_the_padding_is_zero() -> None:
    grad, input = np.ones((4, 2), np.float32), np.array([1, 2, 1, 0])
    for padding_idx, target in [(1, "naive"), (1, "cpu"), (-2, "naive"), (-2, "cpu")]:
        found = kernels.embedding_backward(grad, input, 3, padding_idx=padding_idx, target=target)
        np.testing.assert_array_equal(found, [[1, 1], [0, 0], [1, 1]])


def test_rows_written_past_the_caches(tune: Callable[..., None]) -> None:
    tune(cpu, "STREAMED", 0)
    rng = np.random.default_rng(0)
    for columns in (1, 16, 19, 64):
        weight, input = rng.standard_normal((9, columns)).astype(np.float32), rng.integers(0, 9, (41, 7))
        assert_same_bits(kernels.embedding(input, weight), weight[input])


def test_a_wrong_index_is_named_and_nothing_is_written() -> None:
    weight, out = np.ones((3, 2)), np.full((2, 2), 7.0)
    for wrong in (3, -1, -(1 << 40)):
        with pytest.raises(ValueError, match=f"input: expected indices of 3 rows, from 0 to 2, got {wrong}$"):
            kernels.embedding(np.array([0, wrong]), weight, out=out)
    with pytest.raises(ValueError, match=f"got {1 << 63}$"):
        kernels.embedding(np.array([0, 1 << 63], np.uint64), weight, out=out)
    with pytest.raises(ValueError, match=r"weight: expected at least one row .* got shape \(0, 2\)"):
        kernels.embedding(np.array([0]), weight[:0])
    np.testing.assert_array_equal(out, 7)
