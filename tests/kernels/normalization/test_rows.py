"""What the table of kernels cannot say of layer and group normalization: rows of every length, accuracy, statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels.normalization import rows
from fastnn.testing import assert_close, assert_same_bits


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, ...]:
    """The formulas over the last axis, of a weight for each of its places."""
    x, weight, bias, grad = (array.astype(np.float64) for array in (x, weight, bias, grad))
    invstd = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    z, h = (x - x.mean(-1, keepdims=True)) * invstd, grad * weight
    grad_x = invstd * (h - h.mean(-1, keepdims=True) - z * (h * z).mean(-1, keepdims=True))
    return z * weight + bias, grad_x, (grad * z).sum(0), grad.sum(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("streamed", [False, True])
def test_rows_of_every_length(dtype: Any, streamed: bool, tune: Callable[..., None]) -> None:
    """Parts of vectors, several rows at once and parts of one; written past the caches, too."""
    tune(rows, "exceeds_caches", lambda x: streamed)
    rng = np.random.default_rng(0)
    for count, length in [(70, 1), (70, 2), (41, 7), (300, 8), (41, 31), (41, 64), (41, 100), (9, 1027), (3, 17000)]:
        x, grad = rng.standard_normal((2, count, length)).astype(dtype)
        weight, bias = rng.standard_normal((2, length)).astype(dtype)
        y, *stats = kernels.layer_norm(x, length, weight, bias, return_stats=True)
        found = y, *kernels.layer_norm_backward(grad, x, length, weight, *stats)
        truth = tuple(array.astype(dtype) for array in norm(x, weight, bias, grad))
        assert_close(found, truth, gradient=True, factor=2, what=f"({count}, {length})")
        again = kernels.group_norm(x, 1, weight, bias, return_stats=True)
        assert_same_bits(again, (y, *(s[:, None] for s in stats)))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("places", [1, 9, 63, 64, 700, 9000, 17_000])
def test_channels_of_every_length(places: int, streamed: bool, tune: Callable[..., None]) -> None:
    """As layer normalization of a group with its weights repeated."""
    tune(rows, "exceeds_caches", lambda x: streamed)
    rng = np.random.default_rng(places)
    x, grad = rng.standard_normal((2, 5, 6, places)).astype(np.float32)
    weight, bias = rng.standard_normal((2, 6)).astype(np.float32)
    y, *stats = kernels.group_norm(x, 2, weight, bias, return_stats=True)
    grads = kernels.group_norm_backward(grad, x, 2, weight, *stats)
    for group in (0, 1):
        channels = slice(3 * group, 3 * group + 3)
        flat = (x[:, channels].reshape(5, -1), np.repeat(weight[channels], places), np.repeat(bias[channels], places),
                grad[:, channels].reshape(5, -1))
        truth = [array.astype(np.float32) for array in norm(*flat)]
        assert_close((y[:, channels].reshape(5, -1), grads[0][:, channels].reshape(5, -1)), tuple(truth[:2]),
                     gradient=True)
        assert_close(tuple(g[channels] for g in grads[1:]), tuple(
            array.reshape(3, places).sum(1) for array in truth[2:]), gradient=True, factor=4)


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_a_mean_of_1e4_with_a_deviation_of_a_tenth(target: str) -> None:
    """What float32 sums would lose."""
    rng = np.random.default_rng(0)
    x = (1e4 + 0.1 * rng.standard_normal((7, 90))).astype(np.float32)
    one, zero = np.ones(90, np.float32), np.zeros(90, np.float32)
    y, mean, invstd = kernels.layer_norm(x, 90, return_stats=True, target=target)
    wide = x.astype(np.float64)
    assert_close((mean, invstd), (wide.mean(-1), 1 / np.sqrt(wide.var(-1) + 1e-5)), factor=100)
    assert_close(y, norm(x, one, zero, x)[0].astype(np.float32), factor=0.1)


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_nan_and_inf_stay_in_their_rows(target: str) -> None:
    for shape, option, name in [((5, 90), 90, "layer_norm"), ((5, 2, 70), 1, "group_norm")]:
        x = np.random.default_rng(0).standard_normal(shape)
        x[1].flat[80], x[3].flat[0], x[4] = np.nan, np.inf, np.nan
        y, *stats = getattr(kernels, name)(x, option, return_stats=True, target=target)
        grad_x, *_ = getattr(kernels, f"{name}_backward")(np.ones(shape), x, option, None, *stats, target=target)
        for result in (y, grad_x):
            assert [np.isnan(row).all() for row in result] == [np.isnan(row).any() for row in result]
            assert set(np.argwhere(np.isnan(result))[:, 0]) == {1, 3, 4}
        assert np.isnan(stats[1].ravel()).tolist() == [False, True, False, True, True]


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    rng = np.random.default_rng(0)
    for shape, option, name in [((600, 33), 33, "layer_norm"), ((90, 4, 80), 2, "group_norm")]:
        x = rng.standard_normal(shape).astype(np.float32)
        y, *stats = getattr(kernels, name)(x, option, return_stats=True)
        assert_same_bits(getattr(kernels, name)(x[41:43], option), y[41:43])
        backward = getattr(kernels, f"{name}_backward")
        grad, *_ = backward(x, x, option, None, *stats)
        assert_same_bits(backward(x[41:43], x[41:43], option, None, *(s[41:43] for s in stats))[0], grad[41:43])


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_are_torchs(dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 4, 6), (4, 6), (4, 6)))
    tensors = map(torch.from_numpy, (x, weight, bias))
    expected = torch.native_layer_norm(next(tensors), [4, 6], *tensors, 1e-3)
    found = kernels.layer_norm(x, [4, 6], weight, bias, eps=1e-3, return_stats=True)
    for got, should in zip(found, expected):
        assert_close(got.astype(dtype), should.numpy().reshape(got.shape), factor=4)
