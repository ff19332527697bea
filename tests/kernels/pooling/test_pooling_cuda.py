"""Pooling on a GPU where the table's samples do not reach: large windows, large planes, indices of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, kernels
from fastnn.testing import assert_close

pytestmark = pytest.mark.cuda

SCALE = 1 if _device.SIMULATED else 6


def scattered(grad: np.ndarray, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return fastnn.to_host(kernels.max_pool2d_backward(fastnn.to_device(grad), fastnn.to_device(indices), shape))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 23, 40), (5, 3, 6, 7), (1, 2, 1, 1)], ids=["bands", "groups", "cells"])
def test_gradients_of_maxima_have_the_bits_of_naive(shape: tuple[int, ...], dtype: Any) -> None:
    """Any index may come any number of times; additions come in the windows' order."""
    rng = np.random.default_rng(0)
    shape = (*shape[:2], shape[2] * SCALE, shape[3] * SCALE)
    cells = shape[2] * shape[3]
    windows = (*shape[:2], 3 * SCALE, 8)
    grad = (rng.standard_normal(windows) * 10.0 ** rng.integers(-3, 4, windows)).astype(dtype)
    for indices in (rng.integers(0, cells, windows), rng.integers(0, min(3, cells), windows) * (cells // 3)):
        naive = kernels.max_pool2d_backward(grad, indices, shape, target="naive")
        assert scattered(grad, indices, shape).tobytes() == naive.tobytes()


def test_indices_outside_are_passed_over() -> None:
    indices = np.array([[[[0, -1, 4, 3, 2**62, -2**62]]], [[[-4, 1, 1, 8, 3, -1]]]])
    grad = np.arange(1.0, 13).reshape(indices.shape)
    expected = [[[[1, 0], [0, 4]]], [[[0, 8 + 9], [0, 11]]]]
    np.testing.assert_array_equal(scattered(grad, indices, (2, 1, 2, 2)), expected)


def test_no_windows_give_zeros() -> None:
    empty = np.zeros((2, 1, 0, 3))
    assert not scattered(empty, empty.astype(np.int64), (2, 1, 2, 2)).any()
    assert not fastnn.to_host(kernels.adaptive_avg_pool2d_backward(fastnn.to_device(empty), (2, 1, 2, 2))).any()


@pytest.mark.parametrize("options", [
    {"kernel_size": 9, "stride": 1, "padding": 4}, {"kernel_size": (1, 9), "stride": (1, 2), "padding": (0, 3),
                                                    "dilation": (1, 2)},
    {"kernel_size": (11, 2), "stride": 3, "padding": (5, 1), "ceil_mode": True},
    {"kernel_size": 4, "stride": 2, "padding": 2, "dilation": 3, "ceil_mode": True}], ids=str)
def test_windows_over_the_edges(options: dict[str, Any]) -> None:
    """Cells beyond an edge are read as ones of the window: the first of equal maxima stays the first."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (1, 2, 11, 14)).astype(np.float32)
    x[0, 0, :5], x[0, 1, 3, 3] = -np.inf, np.nan
    naive = kernels.max_pool2d(x, return_indices=True, target="naive", **options)
    found = kernels.max_pool2d(fastnn.to_device(x), return_indices=True, **options)
    for ours, expected in zip(found, naive):
        np.testing.assert_array_equal(fastnn.to_host(ours), expected)


@pytest.mark.parametrize("options", [
    {"kernel_size": 7, "stride": 2, "padding": 3, "count_include_pad": False}, {"kernel_size": (10, 12)},
    {"kernel_size": (5, 4), "stride": 3, "padding": 2, "ceil_mode": True}, {"kernel_size": 9, "stride": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "divisor_override": 7}], ids=str)
def test_means_of_large_windows(options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 10, 12))
    naive = kernels.avg_pool2d(x, target="naive", **options)
    assert_close(fastnn.to_host(kernels.avg_pool2d(fastnn.to_device(x), **options)), naive)
    grad = np.random.default_rng(1).standard_normal(naive.shape)
    naive = kernels.avg_pool2d_backward(grad, x.shape, target="naive", **options)
    found = kernels.avg_pool2d_backward(fastnn.to_device(grad), x.shape, **options)
    assert_close(fastnn.to_host(found), naive, gradient=True)


@pytest.mark.parametrize("size", [1, (1, 5), (3, 4), (12, 30)], ids=str)
def test_shares(size: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 9, 20))
    naive = kernels.adaptive_avg_pool2d(x, size, target="naive")
    assert_close(fastnn.to_host(kernels.adaptive_avg_pool2d(fastnn.to_device(x), size)), naive)
    grad = np.random.default_rng(1).standard_normal(naive.shape)
    naive = kernels.adaptive_avg_pool2d_backward(grad, x.shape, target="naive")
    found = kernels.adaptive_avg_pool2d_backward(fastnn.to_device(grad), x.shape)
    assert_close(fastnn.to_host(found), naive, gradient=True)


def test_nan_stays_in_its_windows() -> None:
    """Also where it is read instead of a cell beyond an edge."""
    x = np.ones((1, 1, 6, 6))
    x[0, 0, 0, 0] = np.nan
    for kernel, padding in ((3, 1), (5, 2)):
        naive = kernels.avg_pool2d(x, kernel, padding=padding, target="naive")
        found = kernels.avg_pool2d(fastnn.to_device(x), kernel, padding=padding)
        np.testing.assert_array_equal(np.isnan(fastnn.to_host(found)), np.isnan(naive))
        grad = np.where(np.isnan(naive), np.nan, 1)
        naive = kernels.avg_pool2d_backward(grad, x.shape, kernel, padding=padding, target="naive")
        found = kernels.avg_pool2d_backward(fastnn.to_device(grad), x.shape, kernel, padding=padding)
        np.testing.assert_array_equal(np.isnan(fastnn.to_host(found)), np.isnan(naive))


@pytest.mark.parametrize("far", [9, 10**9])
def test_costs_do_not_grow_with_a_kernel_beyond_the_image(far: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    for stride in (1, far // 2, far):
        options: dict[str, Any] = {"kernel_size": far, "stride": stride, "padding": far // 2}
        naive = kernels.max_pool2d(x, return_indices=True, target="naive", **options)
        found = kernels.max_pool2d(fastnn.to_device(x), return_indices=True, **options)
        assert_close(tuple(map(fastnn.to_host, found)), naive)
        naive = kernels.avg_pool2d(x, target="naive", **options)
        assert_close(fastnn.to_host(kernels.avg_pool2d(fastnn.to_device(x), **options)), naive)
        grad_x = kernels.avg_pool2d_backward(naive, x.shape, target="naive", **options)
        found = kernels.avg_pool2d_backward(fastnn.to_device(naive), x.shape, **options)
        assert_close(fastnn.to_host(found), grad_x, gradient=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_is_reached_though_its_sum_is_too_large(dtype: Any) -> None:
    x = np.full((1, 2, 5, 6), np.finfo(dtype).max, dtype)
    for options in ({"kernel_size": 2}, {"kernel_size": (5, 6)}, {"kernel_size": 3, "divisor_override": 9}):
        found = fastnn.to_host(kernels.avg_pool2d(fastnn.to_device(x), **options))
        np.testing.assert_allclose(found, x[0, 0, 0, 0], rtol=1e-6)
    for size in (1, (2, 3), 4):
        found = fastnn.to_host(kernels.adaptive_avg_pool2d(fastnn.to_device(x), size))
        np.testing.assert_allclose(found, x[0, 0, 0, 0], rtol=1e-6)
    grad = x[:, :, :4, :4] * dtype(0.9) * np.array([1, 1, -1, -1], dtype)[:, None]
    options = {"kernel_size": 2, "stride": 1, "divisor_override": 1}
    naive = kernels.avg_pool2d_backward(grad, (1, 2, 5, 5), target="naive", **options)
    found = fastnn.to_host(kernels.avg_pool2d_backward(fastnn.to_device(grad), (1, 2, 5, 5), **options))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(naive))
    assert np.isfinite(found[:, :, 2]).all()
    naive = kernels.adaptive_avg_pool2d_backward(grad[..., :1], (1, 2, 1, 1), target="naive")
    found = fastnn.to_host(kernels.adaptive_avg_pool2d_backward(fastnn.to_device(grad[..., :1]), (1, 2, 1, 1)))
    np.testing.assert_array_equal(found, naive)
    assert not found.any()
