"""Batch normalization on a GPU where the table's samples do not reach: parts of lines, columns, few channels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, kernels
from fastnn.testing import assert_close

pytestmark = pytest.mark.cuda

# Several parts a line, tails of parts, several columns a channel, more columns than a block takes.
SHAPES = [(5, 2, 35), (9, 2), (19, 3), (40, 1), (11, 2, 3), (1, 1, 101)]
if not _device.SIMULATED:
    SHAPES += [(40, 3, 31, 31), (7, 500, 9), (3000, 40), (70000, 2)]


def on_device(function: Any, *args: Any, **options: Any) -> tuple:
    result = function(*[fastnn.to_device(a) if isinstance(a, np.ndarray) else a for a in args], **{
        key: fastnn.to_device(value) if isinstance(value, np.ndarray) else value for key, value in options.items()})
    return tuple([None if array is None else fastnn.to_host(array) for array in result])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_and_their_tails(shape: tuple[int, ...], dtype: Any) -> None:
    """As two passes in float64, with a mean of many standard deviations."""
    rng = np.random.default_rng(0)
    x = (1e4 + rng.standard_normal(shape)).astype(dtype)
    x.flat[0] = -1e4                                        # which the sums are taken about
    grad = rng.standard_normal(shape).astype(dtype)
    weight, bias = (rng.standard_normal(shape[1]).astype(dtype) for _ in range(2))
    axes, c = (0, *range(2, len(shape))), (1, -1) + (1,) * (len(shape) - 2)
    exact = x.astype(np.float64)
    mean, invstd = exact.mean(axes), 1 / np.sqrt(exact.var(axes) + 1e-5)
    z = (exact - mean.reshape(c)) * invstd.reshape(c)
    y, *stats = on_device(kernels.batch_norm, x, None, None, weight, bias, activation="relu", return_stats=True)
    scaled = z * weight.astype(np.float64).reshape(c) + bias.astype(np.float64).reshape(c)
    assert_close(stats, [mean, invstd], dtype=np.float64, factor=100)
    assert_close(y, np.maximum(scaled, 0), dtype=dtype, factor=100)
    far = np.abs(scaled) > 1e-3                             # from where rounding decides about the ReLU
    grad = np.where(far, grad, 0).astype(dtype)
    g = np.where(scaled > 0, grad, 0).astype(np.float64)
    centred = g - g.mean(axes, keepdims=True) - z * (g * z).mean(axes, keepdims=True)
    expected = (invstd * weight).reshape(c) * centred, (g * z).sum(axes), g.sum(axes)
    found = on_device(kernels.batch_norm_backward, grad, x, weight, mean, invstd, bias=bias, activation="relu")
    assert_close(found, expected, dtype=dtype, factor=100, gradient=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_what_is_not_finite_stays_in_its_channel(value: float, place: int) -> None:
    """The mean is infinite as in naive, also where the first value is, which sums are taken about else."""
    rng = np.random.default_rng(0)
    for shape in ((7, 2, 3), (3, 2, 40)):
        x = rng.standard_normal(shape).astype(np.float32)
        x[0, 0, place] = value
        running = np.zeros(2, np.float32), np.ones(2, np.float32)
        naive = kernels.batch_norm(x, *map(np.copy, running), training=True, return_stats=True, target="naive")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                 # the simulator's arithmetic is NumPy's
            found = on_device(kernels.batch_norm, x, *running, training=True, return_stats=True)
        assert_close(found, naive, dtype=np.float32, factor=10)


def test_no_variance_and_no_eps_in_inference() -> None:
    x = np.array([[1.0, 2.0], [3.0, 2.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y, _, invstd = on_device(kernels.batch_norm, x, np.array([2, 2], np.float32), np.array([0, 4], np.float32),
                                 eps=0.0, return_stats=True)
    np.testing.assert_array_equal(y, [[-np.inf, 0], [np.inf, 0]])
    np.testing.assert_array_equal(invstd, [np.inf, 0.5])


def test_no_values() -> None:
    for shape in ((0, 3), (2, 3, 0)):
        x = np.zeros(shape, np.float32)
        y, mean, invstd = on_device(kernels.batch_norm, x, np.ones(3, np.float32), np.ones(3, np.float32), eps=0.0,
                                    return_stats=True)
        assert y.shape == shape
        assert mean.tolist() == invstd.tolist() == [1, 1, 1]
        grads = on_device(kernels.batch_norm_backward, x, x, np.ones(3, np.float32), mean, invstd, training=False)
        assert grads[0].shape == shape
        assert grads[1].tolist() == grads[2].tolist() == [0, 0, 0]
