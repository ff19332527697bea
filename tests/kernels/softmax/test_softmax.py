"""What the table of kernels cannot say of softmax: infinite rows and all axes as in torch, documented errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from fastnn import kernels

EPS = float(np.finfo(np.float32).eps)
INF = np.inf
ROWS = np.array([[-INF, -INF, -INF], [INF, 1, 2], [INF, INF, 0], [-INF, 1, 2], [np.nan, 1, 2], [np.nan] * 3, [0, 0, 0]])


def _worst(actual: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> float:
    return float(np.max(np.abs(actual - truth) / (EPS * np.abs(scale))))


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_float32_errors_of_softmax_are_those_documented(classes: int) -> None:
    rng = np.random.default_rng(0)
    x = (10 * rng.standard_normal((50, classes))).astype(np.float32)
    v = x.astype(np.float64)
    truth = special.softmax(v, -1)
    assert _worst(kernels.softmax(x), truth, truth * (4 + v.max(-1, keepdims=True) - v)) <= 1
    logarithms = special.log_softmax(v, -1)
    assert _worst(kernels.log_softmax(x), logarithms, np.abs(logarithms) + 2 + np.log(classes)) <= 1


@pytest.mark.peers
@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_infinite_rows_is_torchs(name: str, target: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(ROWS, requires_grad=True)
    expected = getattr(torch.nn.functional, name)(x, dim=1)
    grad_output = np.arange(21.0).reshape(7, 3)
    expected.backward(torch.tensor(grad_output))
    with np.errstate(all="ignore"):
        y = getattr(kernels, name)(ROWS, target=target)
        grad = getattr(kernels, f"{name}_backward")(grad_output, y, target=target)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
def test_softmax_along_any_axis_is_torchs(name: str, axis: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, grad_output = rng.standard_normal((2, 2, 3, 4, 5))
    tensor = torch.tensor(x, requires_grad=True)
    expected = getattr(torch.nn.functional, name)(tensor, dim=axis)
    expected.backward(torch.tensor(grad_output))
    out = np.empty((5, 4, 3, 2)).T
    y = getattr(kernels, name)(x, axis, out=out)
    assert y is out
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-13)
    grad = getattr(kernels, f"{name}_backward")(grad_output, y, axis)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_softmax_of_a_number_has_axes_0_and_minus_1() -> None:
    for axis in (0, -1):
        assert kernels.softmax(np.array(3.0), axis) == 1
    with pytest.raises(ValueError, match=r"axis: expected from -1 to 0 for shape \(\), got 1"):
        kernels.softmax(np.array(3.0), 1)
