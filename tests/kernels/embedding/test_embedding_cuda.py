"""Embedding on a GPU: indices that sort by several digits, and those out of range, which nobody looks at before."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn
from fastnn import _device, kernels

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("size", [3, 70] if _device.SIMULATED else [3, 256, 70_000])
def test_the_order_of_places_is_kept(size: int) -> None:
    """Sums of numbers of many magnitudes tell."""
    rng = np.random.default_rng(0)
    count = 19 if _device.SIMULATED else 5000
    input = np.minimum(rng.geometric(0.2, count), size) - 1
    grad = rng.standard_normal((count, 3)) * 10 ** rng.uniform(-9, 9, (count, 1))
    expected = np.zeros((size, 3))
    np.add.at(expected, input, grad)
    found = kernels.embedding_backward(fastnn.to_device(grad), fastnn.to_device(input), size)
    np.testing.assert_array_equal(fastnn.to_host(found), expected)


def test_an_index_out_of_range_gives_nan_and_no_gradient(nothing_waits) -> None:
    input, weight = np.array([1, -1, 0, 5, 1]), np.arange(6.0).reshape(3, 2)
    there = fastnn.to_device(input), fastnn.to_device(weight)
    nothing_waits(lambda: kernels.embedding(*there))
    y = fastnn.to_host(kernels.embedding(*there))
    np.testing.assert_array_equal(y, [[2, 3], [np.nan] * 2, [0, 1], [np.nan] * 2, [2, 3]])
    grad = fastnn.to_device(np.ones((5, 2)))
    nothing_waits(lambda: kernels.embedding_backward(grad, there[0], 3))
    found = fastnn.to_host(kernels.embedding_backward(grad, there[0], 3))
    np.testing.assert_array_equal(found, [[1, 1], [2, 2], [0, 0]])
