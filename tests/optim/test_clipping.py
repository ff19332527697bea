"""Gradient clipping, against torch and at its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import nn, optim, random
from fastnn.testing import assert_close


def parameters(dtype: Any = np.float64) -> list[nn.Parameter]:
    rng = random.generator(0, "test")
    made = [nn.Parameter(np.zeros(shape, dtype), np.asarray(rng.standard_normal(shape), dtype))
            for shape in ((3, 4), (5,), ())]
    return [*made, nn.Parameter(np.zeros(2, dtype))]


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [0.0, 0.5, 3.0, 100.0])
def test_as_torch(limit: float, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    for ours, theirs in ((optim.clip_grad_norm_, torch.nn.utils.clip_grad_norm_),
                         (optim.clip_grad_value_, torch.nn.utils.clip_grad_value_)):
        params = parameters(dtype)
        tensors = []
        for parameter in params:
            tensor = torch.tensor(parameter.data, requires_grad=True)
            tensor.grad = None if parameter.grad is None else torch.tensor(parameter.grad)
            tensors.append(tensor)
        norm, expected = ours(iter(params), limit), theirs(tensors, limit)
        if norm is not None:
            assert type(norm) is float
            assert norm == pytest.approx(float(expected), rel=1e-6)
        for parameter, tensor in zip(params[:-1], tensors):
            assert_close(parameter.grad, tensor.grad.numpy())
        assert params[-1].grad is None


def test_small_gradients_stay_as_they_are() -> None:
    params = parameters()
    before = [parameter.grad for parameter in params]
    optim.clip_grad_norm_(params, 100.0)
    assert all(parameter.grad is grad for parameter, grad in zip(params, before))


def test_gradients_that_share_memory_are_scaled_once() -> None:
    grad = np.array([3.0, 4.0])
    params = [nn.Parameter(np.zeros(2), grad), nn.Parameter(np.zeros(2), grad)]
    assert optim.clip_grad_norm_(params, 1.0) == pytest.approx(np.sqrt(50))
    np.testing.assert_allclose(params[0].grad, grad / np.sqrt(50), rtol=1e-6)
    np.testing.assert_array_equal(params[1].grad, params[0].grad)


def test_norm_is_summed_in_float64() -> None:
    grad = np.full(1000, 1e30, np.float32)
    norm = optim.clip_grad_norm_([nn.Parameter(np.zeros(1000, np.float32), grad)], 1.0)
    assert norm == pytest.approx(1e30 * 1000**0.5)


@pytest.mark.parametrize("size", [1e308, 1e200, 1e-200, 5e-324])
def test_squares_that_leave_the_range(size: float) -> None:
    parameter = nn.Parameter(np.zeros(2), np.array([size, -size / 4]))
    grad = parameter.grad
    norm = optim.clip_grad_norm_([parameter, nn.Parameter(np.zeros(1, np.float32), np.ones(1, np.float32))], 0.5)
    expected = np.hypot(np.hypot(size, size / 4), 1)
    assert norm == pytest.approx(expected, rel=1e-15)
    np.testing.assert_allclose(parameter.grad, 0.5 * (grad / expected), rtol=1e-5)
    alone = nn.Parameter(np.zeros(2), grad)
    assert optim.clip_grad_norm_([alone], 0.5) == pytest.approx(np.hypot(size, size / 4), rel=1e-15)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows(value: float) -> None:
    parameter = nn.Parameter(np.zeros(2), np.array([value, 1.0]))
    assert not np.isfinite(optim.clip_grad_norm_([parameter], 1.0))
    assert np.isnan(parameter.grad).any()


def test_nothing_to_clip() -> None:
    assert optim.clip_grad_norm_([], 1.0) == 0.0


def test_wrong_values() -> None:
    with pytest.raises(ValueError, match="max_norm: expected a number from 0"):
        optim.clip_grad_norm_([], -1.0)
    with pytest.raises(ValueError, match="value: expected a number from 0"):
        optim.clip_grad_value_([], -1.0)
