"""Distances and neighbours on a GPU, where the table's samples do not reach: sums of sums, slices, ties, large k."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, kernels

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DTYPES = [np.float32, np.float64, np.uint8]
DEPTH = 40 if _device.SIMULATED else 700          # more dimensions than one sum takes
MANY = 90 if _device.SIMULATED else 9000          # points that are cut into slices


def points(dtype: Any, *shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape).astype(dtype) if dtype == np.uint8 else rng.standard_normal(shape).astype(dtype)


def nearest(queries: np.ndarray, data: np.ndarray, k: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    distances, indices = kernels.knn(fastnn.to_device(queries), fastnn.to_device(data), k, **options)
    return fastnn.to_host(distances), fastnn.to_host(indices)


def all_pairs(x: np.ndarray, y: np.ndarray, **options: Any) -> np.ndarray:
    return fastnn.to_host(kernels.pairwise_l2(fastnn.to_device(x), fastnn.to_device(y), **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
def test_sums_of_sums(dtype: Any, algorithm: str) -> None:
    x, y = points(dtype, 5, DEPTH), points(dtype, 3, DEPTH, seed=1)
    truth = ((x[:, None].astype(float) - y) ** 2).sum(-1)
    found = all_pairs(x, y, squared=True, algorithm=algorithm)
    np.testing.assert_allclose(found, truth, rtol={np.float32: 1e-5, np.float64: 1e-13, np.uint8: 0}[dtype])
    np.testing.assert_array_equal(all_pairs(y, x, squared=True, algorithm=algorithm).T, found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_are_those_of_all_pairs_to_the_bit(dtype: Any) -> None:
    """For few queries, whose points are cut into slices, for more, and one by one."""
    queries, data = points(dtype, 20, 3), points(dtype, MANY, 3, seed=1)
    squares = all_pairs(queries, data, squared=True)
    order = np.argsort(squares, axis=1, kind="stable")[:, :3]
    for part in (slice(0, 1), slice(0, 20)):
        distances, indices = nearest(queries[part], data, 3, squared=True)
        assert (indices == order[part]).all()
        assert (distances == np.take_along_axis(squares, order, 1)[part]).all()


@pytest.mark.parametrize("budget", [1, 1 << 26])
def test_ties_and_nan(budget: int) -> None:
    """The lowest index first, and NaN after inf, through slices or not."""
    data = np.zeros((MANY, 2), np.float32)
    data[::2] = 3
    data[5], data[7], data[-1] = np.nan, np.inf, 0.5
    distances, indices = nearest(np.array([[0.5, 0.5]], np.float32), data, MANY, memory_budget=budget)
    truth = [MANY - 1, *[i for i in range(1, MANY - 1, 2) if i not in (5, 7)], *range(0, MANY, 2), 7, 5]
    assert indices[0].tolist() == truth
    np.testing.assert_array_equal(distances[0, -2:], [np.inf, np.nan])
    _, indices = nearest(np.array([[0.5, 0.5]], np.float32), data, 4, memory_budget=budget)
    assert indices[0].tolist() == truth[:4]


def test_products_of_infinite_points() -> None:
    """inf - inf in |x|^2 - 2 x y + |y|^2 is decided by the differences."""
    x, y = np.full((1, 2), np.inf, np.float32), np.zeros((2, 2), np.float32)
    assert all_pairs(x, y, algorithm="gemm").tolist() == all_pairs(x, y).tolist() == [[np.inf, np.inf]]


def test_filter_is_refused() -> None:
    x = fastnn.to_device(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"algorithm: expected 'auto' or 'direct' .* got 'filter'"):
        kernels.knn(x, x, 1, algorithm="filter")
