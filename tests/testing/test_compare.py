"""The helpers that judge are judged too."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import nn
from fastnn.testing import (
    GRADIENT_TOLERANCES,
    TOLERANCES,
    assert_close,
    assert_same_bits,
    assert_same_neighbors,
    check_gradients,
    relative_error,
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gradient", [False, True])
def test_assert_close_holds_its_tolerance(dtype: type, gradient: bool) -> None:
    tolerance = (GRADIENT_TOLERANCES if gradient else TOLERANCES)[np.dtype(dtype)]
    expected = np.array([1.0, 100.0, -3.0], dtype)
    assert_close(expected + dtype(90 * tolerance) * np.array([0, 1, 0], dtype), expected, gradient=gradient)
    with pytest.raises(AssertionError, match=r"weights: 1 of 3 elements differ; .* at \(1,\)"):
        assert_close(expected + dtype(120 * tolerance) * np.array([0, 1, 0], dtype), expected, gradient=gradient,
                     what="weights")


@pytest.mark.parametrize(("actual", "expected"), [
    (np.array([np.nan]), np.array([1.0])),
    (np.array([1.0]), np.array([np.nan])),
    (np.array([np.inf]), np.array([-np.inf])),
    (np.array([np.inf]), np.array([1.0])),
    (np.array([1, 2]), np.array([1, 3])),
    (np.ones(2), np.ones(3)),
    (None, np.ones(1)),
    (np.ones(1), None),
    ((np.ones(1),), (np.ones(1), np.ones(1))),
])
def test_differences_are_found(actual: object, expected: object) -> None:
    for compare in (assert_close, assert_same_bits):
        with pytest.raises(AssertionError):
            compare(actual, expected)


def test_assert_close_takes_equal_infinities_and_nothing() -> None:
    assert_close((np.array([np.inf, np.nan, 1.0]), None), (np.array([np.inf, np.nan, 1.0]), None))


@pytest.mark.parametrize(("actual", "expected", "message"), [
    (np.array([1.0, 0.0]), np.array([1.0, -0.0]), r"y: 1 of 2 elements .* the first at \(1,\): 0.0 for -0.0"),
    (np.array([np.nan]), -np.array([np.nan]), "y: 1 of 1 elements"),
    (np.float32(1), np.float64(1), "y: expected float64, got float32"),
    (np.float64(1), np.nextafter(1, 2), r"y: 1 of 1 elements have other bits, the first at \(\)"),
])
def test_other_bits_are_found(actual: object, expected: object, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_same_bits(actual, expected, what="y")


def test_same_bits_lie_anyhow() -> None:
    x, none = np.arange(6.0).reshape(2, 3), np.empty((0, 2))
    assert_same_bits((x.T, None, none, np.bool_(True)), (x.T.copy(), None, none.copy(), np.array(True)))


def test_assert_same_neighbors() -> None:
    truth = np.array([[1.0, 2.0, 2.0, 5.0]]), np.array([[4, 1, 2, 3]])
    assert_same_neighbors((truth[0], np.array([[4, 2, 1, 3]])), truth, tolerance=1e-6)
    assert_same_neighbors((truth[0], np.array([[4, 1, 2, 9]])), truth, tolerance=1e-6)     # a tie that goes on
    with pytest.raises(AssertionError, match="query 0, rank 0: expected point 4, got 1"):
        assert_same_neighbors((truth[0], np.array([[1, 4, 2, 3]])), truth, tolerance=1e-6)
    with pytest.raises(AssertionError):
        assert_same_neighbors((truth[0] * 1.001, truth[1]), truth, tolerance=1e-6)


class Wrong(nn.Linear):
    """A layer whose gradient by x is a little off."""

    def forward(self, x: np.ndarray, *, training: bool = True) -> tuple:
        y, backward = super().forward(x, training=training)
        return y, lambda grad_y, *, input_grad=True: backward(grad_y, input_grad=input_grad) * (1 + 1e-6)


def test_check_gradients_finds_a_small_error() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4))
    right = {c.name: c.error for c in check_gradients(nn.Linear(4, 2).to(np.float64), x)}
    wrong = {c.name: c.error for c in check_gradients(Wrong(4, 2).to(np.float64), x)}
    assert max(right.values()) < 1e-8
    assert wrong["x"] > 1e-7
    assert wrong["weight"] < 1e-8


def test_check_gradients_counts_kinks_and_puts_everything_back() -> None:
    # No bias before batch normalization, which takes it away: its gradient is 0, and differences would show rounding.
    layer = nn.Sequential(nn.Linear(3, 50, bias=False), nn.BatchNorm1d(50), nn.Dropout(0.3), nn.ReLU(),
                          nn.Linear(50, 1))
    layer.to(np.float64)
    state = layer.state_dict()
    x = np.random.default_rng(0).standard_normal((8, 3))
    kept = x.copy()
    for whole in (False, True):
        checks = check_gradients(layer, x, whole=whole)
        assert max(c.error for c in checks) < 1e-7
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    np.testing.assert_array_equal(x, kept)
    assert all(p.grad is None for p in layer.parameters())

    zeros = np.array([[0.0, 1.0, -1.0]])               # ReLU has no slope at 0
    (check,) = check_gradients(nn.ReLU(), zeros)
    assert check.kinks == 1
    assert check.error < 1e-9


def test_check_gradients_leaves_kinks_out_of_both_gradients() -> None:
    class WrongReLU(nn.Module):
        def forward(self, x: np.ndarray, *, training: bool = True) -> tuple:
            return np.maximum(x, 0), lambda grad_y, *, input_grad=True: 1.001 * (x > 0) * grad_y + 1e6 * (x == 0)

    x = np.linspace(0.0, 3.0, 31)
    (check,) = check_gradients(WrongReLU(), x)
    assert check.kinks == 1
    assert check.error == pytest.approx(0.001 / 2.001, rel=1e-3)


def test_check_gradients_refuses_many_kinks() -> None:
    x = np.arange(1.0, 41.0)
    x[:4] = 0
    (check,) = check_gradients(nn.ReLU(), x)
    assert check.kinks == 4
    for zeros, size in ((5, 40), (3, 10), (1, 1)):
        x = np.arange(1.0, size + 1.0)
        x[:zeros] = 0
        with pytest.raises(AssertionError, match=f"x: {zeros} of {size} steps cross a kink"):
            check_gradients(nn.ReLU(), x)


def test_check_gradients_refuses_float32() -> None:
    with pytest.raises(TypeError, match=r"weight: expected float64, .* got float32; convert the module with \.to"):
        check_gradients(nn.Linear(2, 2), np.ones((1, 2)))


def test_relative_error_of_nothing_is_small() -> None:
    assert relative_error(np.zeros(4), np.full(4, 1e-12)) < 1e-8
