"""What the table of kernels cannot say of activations: edge values as in torch, no overflow, documented errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from fastnn import kernels
from fastnn.testing.table.activation import ACTIVATIONS

EDGES = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310, -1e-310, 1e-30, 0.5, -0.5, 40.0, -40.0, 1e4, -1e4])
EPS = float(np.finfo(np.float32).eps)

ELEMENTWISE = [
    ("relu", "relu", {}, "y"),
    ("leaky_relu", "leaky_relu", {}, "x"),
    ("leaky_relu", "leaky_relu", {"negative_slope": 0.3}, "x"),
    ("leaky_relu", "leaky_relu", {"negative_slope": -0.5}, "x"),
    ("leaky_relu", "leaky_relu", {"negative_slope": 0.0}, "x"),
    ("sigmoid", "sigmoid", {}, "y"),
    ("tanh", "tanh", {}, "y"),
    ("gelu", "gelu", {}, "x"),
    ("gelu", "gelu", {"approximate": "tanh"}, "x"),
    ("silu", "silu", {}, "x"),
    ("softplus", "softplus", {}, "x"),
    ("softplus", "softplus", {"beta": -0.5, "threshold": 3.0}, "x"),
]


def test_no_activation_is_missing() -> None:
    assert {name for name, *_ in ELEMENTWISE} == set(ACTIVATIONS)


@pytest.mark.peers
@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize(("name", "torch_name", "options", "kept"), ELEMENTWISE)
def test_edge_values_are_torchs(name: str, torch_name: str, options: dict, kept: str, target: str) -> None:
    """NaN, inf, signed zeros, denormal and saturating values, forward and backward."""
    torch = pytest.importorskip("torch")
    x = torch.tensor(EDGES, requires_grad=True)
    expected = getattr(torch.nn.functional, torch_name)(x, **options)
    expected.backward(torch.full_like(expected, 2.0))
    with np.errstate(all="ignore"):
        y = getattr(kernels, name)(EDGES, **options, target=target)
        grad = getattr(kernels, f"{name}_backward")(np.full_like(EDGES, 2.0), y if kept == "y" else EDGES, **options,
                                                    target=target)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(np.signbit(y[3:5]), np.signbit(expected.detach().numpy()[3:5]))


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_relu_keeps_nan_and_has_gradient_0_at_0(target: str) -> None:
    np.testing.assert_array_equal(kernels.relu(np.array([np.nan, -1.0]), target=target), [np.nan, 0])
    grad = kernels.relu_backward(np.ones(3), np.array([0.0, 1.0, np.nan]), target=target)
    np.testing.assert_array_equal(grad, [0, 1, 1])
    total = kernels.add_relu(np.array([np.nan, 1.0, -3.0]), np.array([1.0, -np.inf, 1.0]), target=target)
    np.testing.assert_array_equal(total, [np.nan, 0, 0])


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu", "silu", "softplus", "softmax", "log_softmax"])
def test_large_values_overflow_nowhere(name: str, dtype: type, target: str) -> None:
    x = np.array([-1e4, -200, 0, 200, 1e4], dtype)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        y = getattr(kernels, name)(x, target=target)
    assert np.isfinite(y).all()


def _worst(actual: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> float:
    return float(np.max(np.abs(actual - truth) / (EPS * np.abs(scale))))


def test_float32_errors_are_those_documented() -> None:
    x = np.concatenate([np.linspace(-12, 12, 40_001), np.logspace(-30, 0, 999), -np.logspace(-30, 0, 999)])
    x = x.astype(np.float32)
    v, one = x.astype(np.float64), np.ones_like(x)
    probability, density = special.ndtr(v), np.exp(-v * v / 2) / np.sqrt(2 * np.pi)
    assert _worst(kernels.sigmoid(x), special.expit(v), special.expit(v)) <= 3
    assert _worst(kernels.tanh(x), np.tanh(v), np.tanh(v)) <= 3
    assert _worst(kernels.silu(x), v * special.expit(v), v * special.expit(v)) <= 4
    slope = special.expit(v) * (1 + v * special.expit(-v))
    assert _worst(kernels.silu_backward(one, x), slope, one) <= 5
    assert _worst(kernels.softplus(x), np.logaddexp(0, v), (1 + abs(v) / 4) * np.logaddexp(0, v)) <= 4
    assert _worst(kernels.softplus_backward(one, x), special.expit(v), (1 + abs(v) / 4) * special.expit(v)) <= 4
    assert _worst(kernels.gelu(x), v * probability, v) <= 3
    assert _worst(kernels.gelu_backward(one, x), probability + v * density, one) <= 5
    for name in ("gelu", "gelu_backward"):
        args = (one, x) if name == "gelu_backward" else (x,)
        truth = getattr(kernels, name)(*[a.astype(np.float64) for a in args], "tanh")
        assert _worst(getattr(kernels, name)(*args, "tanh"), truth, v if name == "gelu" else one) <= 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_functions_are_right_to_some_units_in_the_last_place(dtype: type) -> None:
    largest = np.log(np.finfo(dtype).max)
    scores = np.stack([np.zeros(20_001), -np.linspace(0, float(largest) - 2, 20_001)], -1).astype(dtype)
    exponents = kernels.softmax(scores)[:, 1]           # exp(x) / (1 + exp(x))
    truth = special.expit(scores[:, 1].astype(np.longdouble))
    assert np.max(np.abs(exponents - truth) / truth) <= 4 * np.finfo(dtype).eps
    small = np.logspace(-30, -3, 1000).astype(dtype)
    np.testing.assert_allclose(kernels.tanh(small), np.tanh(small.astype(np.longdouble)), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (0, 2)])
def test_no_dimension_or_no_element(shape: tuple, target: str) -> None:
    x = np.zeros(shape)
    for name in ACTIVATIONS:
        assert getattr(kernels, name)(x, target=target).shape == shape
    np.testing.assert_array_equal(kernels.softmax(x, target=target), np.ones(shape))
    np.testing.assert_array_equal(kernels.log_softmax(x, target=target), np.zeros(shape))
    np.testing.assert_array_equal(kernels.add(x, x, target=target), x)
    np.testing.assert_array_equal(kernels.dropout(x, np.ones(shape, bool), 0.5, target=target), x)


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_dropout_scales_what_any_nonzero_byte_keeps(target: str) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    for run in (kernels.dropout, kernels.dropout_backward):
        np.testing.assert_array_equal(run(x, np.array([0, 1, 2, 255], np.uint8), 0.5, target=target), [0, 4, 6, 8])
        np.testing.assert_array_equal(run(x, np.array([1, 1, 0, 0], bool), 0, target=target), [1, 2, 0, 0])


@pytest.mark.peers
@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_dropout_of_everything_is_torchs(target: str) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.dropout(torch.tensor(EDGES), 1.0)
    with np.errstate(invalid="ignore"):
        y = kernels.dropout(EDGES, np.zeros(EDGES.shape, bool), 1.0, target=target)
    np.testing.assert_array_equal(y, expected.numpy())


@pytest.mark.parametrize(("call", "error", "match"), [
    (lambda: kernels.leaky_relu(np.ones(2), "0.1"), TypeError, r"negative_slope: expected a number, got '0.1'"),
    (lambda: kernels.leaky_relu(np.ones(2), np.nan), ValueError, r"negative_slope: expected a number"),
    (lambda: kernels.softplus(np.ones(2), 0.0), ValueError, r"beta: expected a number from 1e-30 to .* got 0.0"),
    (lambda: kernels.softplus(np.ones(2), np.inf), ValueError, r"beta: expected a number from 1e-30 to .* got inf"),
    (lambda: kernels.softplus(np.ones(2), 1.0, None), TypeError, r"threshold: expected a number, got None"),
    (lambda: kernels.gelu(np.ones(2), "erf"), ValueError, r"approximate: expected one of .*, got 'erf'"),
    (lambda: kernels.dropout(np.ones(2), np.ones(2, bool), 1.5), ValueError,
     r"p: expected a number from 0 to 1, got 1.5"),
    (lambda: kernels.dropout(np.ones(2), np.ones(2, bool), -0.1), ValueError, r"p: expected a number from 0 to 1"),
    (lambda: kernels.dropout(np.ones(2), np.ones(2, int), 0.5), TypeError, r"mask: expected bool or uint8, got int64"),
    (lambda: kernels.dropout_backward(np.ones(2), np.ones(3, bool), 0.5), ValueError, r"mask: expected shape \(2,\)"),
    (lambda: kernels.relu_backward(np.ones(2), np.ones(3)), ValueError, r"y: expected shape \(2,\), got \(3,\)"),
    (lambda: kernels.softmax_backward(np.ones(2), np.ones(2), 1.0), TypeError, r"axis: expected an integer, got 1.0"),
])
def test_options_that_do_not_fit_are_refused(call: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
