"""What the table of kernels cannot say of losses: every option against torch, sums in float64, kinks, edge values."""

from __future__ import annotations

import numpy as np
import pytest
from numba import config
from scipy import special

import fastnn
from fastnn import kernels

EPS = float(np.finfo(np.float32).eps)
compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes long uncompiled")
REDUCTIONS = ["mean", "sum", "none"]


def _scores(n: int, classes: int, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return (3 * rng.standard_normal((n, classes))).astype(dtype), rng.integers(0, classes, n)


@pytest.mark.peers
@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0, 0.1, 1])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (4, 1000)])
def test_cross_entropy_is_torchs(shape: tuple, label_smoothing: float, reduction: str, target: str) -> None:
    torch = pytest.importorskip("torch")
    x, labels = _scores(*shape)
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(tensor, torch.tensor(labels), label_smoothing=label_smoothing,
                                                 reduction=reduction)
    grad = np.arange(1.0, 1 + shape[0]) if reduction == "none" else 2.5
    expected.backward(torch.tensor(grad, dtype=torch.float64))
    options = {"label_smoothing": label_smoothing, "reduction": reduction, "target": target}
    np.testing.assert_allclose(kernels.cross_entropy(x, labels, **options), expected.detach().numpy(), rtol=1e-13,
                               atol=1e-14)
    np.testing.assert_allclose(kernels.cross_entropy_backward(grad, x, labels, **options), tensor.grad.numpy(),
                               rtol=1e-12, atol=1e-14)


@pytest.mark.peers
@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("label_smoothing", [0, 0.1])
def test_cross_entropy_of_infinite_scores_is_torchs(label_smoothing: float, target: str) -> None:
    torch = pytest.importorskip("torch")
    x = np.array([[-np.inf, 1, 2], [-np.inf, 1, 2], [np.inf, 1, 2], [-np.inf] * 3, [np.nan, 1, 2], [1e4, -1e4, 0]])
    labels = np.array([0, 1, 0, 1, 2, 1])
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(tensor, torch.tensor(labels), label_smoothing=label_smoothing,
                                                 reduction="none")
    expected.sum().backward()
    options = {"label_smoothing": label_smoothing, "target": target}
    with np.errstate(all="ignore"):
        losses = kernels.cross_entropy(x, labels, reduction="none", **options)
        grad = kernels.cross_entropy_backward(1.0, x, labels, reduction="sum", **options)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_dtype(dtype: type, target: str) -> None:
    x, labels = _scores(5, 3)
    for name in ("cross_entropy", "hinge_loss"):
        run = getattr(kernels, name)
        assert run(x, labels.astype(dtype), target=target) == run(x, labels, target=target)


@pytest.mark.parametrize("classes", [2, 10, pytest.param(5000, marks=compiled)])
def test_float32_error_of_cross_entropy_is_that_documented(classes: int) -> None:
    x, labels = _scores(300, classes, np.float32)
    x[:100, 0] += 20
    labels[:100] = 0
    v = x.astype(np.float64)
    truth = -special.log_softmax(v, -1)[np.arange(300), labels]
    losses = kernels.cross_entropy(x, labels, reduction="none")
    assert losses.dtype == np.float32
    assert np.all(np.abs(losses - truth) <= EPS * (truth + 2 + np.log(classes)))
    np.testing.assert_allclose(losses, truth, rtol=2e-5)      # small losses are more than rounding errors of 1 + loss
    grads = special.softmax(v, -1)
    grads[np.arange(300), labels] -= 1
    assert np.max(np.abs(kernels.cross_entropy_backward(1.0, x, labels, reduction="sum") - grads)) <= 4 * EPS


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 100), (2, 300, 40), (40, 3, 2)] if config.DISABLE_JIT else [
    (3, 5, 5000), (2, 700, 40), (4000, 3, 2)])
def test_places_are_rows_whose_classes_lie_apart(shape: tuple[int, ...], options: dict[str, float]) -> None:
    """In several blocks, of which the last ones are smaller."""
    rng = np.random.default_rng(0)
    x, weight = 3 * rng.standard_normal(shape), rng.random(shape[1])
    labels = np.where(rng.random((shape[0], *shape[2:])) < 0.2, -100, rng.integers(0, shape[1], (shape[0], *shape[2:])))
    rows = np.moveaxis(x, 1, -1).reshape(-1, shape[1])
    for given in ((), (weight,)):
        for reduction in REDUCTIONS:
            expected = kernels.cross_entropy(rows, labels.ravel(), *given, reduction=reduction, **options)
            found = kernels.cross_entropy(x, labels, *given, reduction=reduction, **options)
            np.testing.assert_allclose(found, np.reshape(expected, np.shape(found)), rtol=1e-12, atol=1e-15)
        expected = kernels.cross_entropy_backward(2.0, rows, labels.ravel(), *given, **options)
        found = kernels.cross_entropy_backward(2.0, x, labels, *given, **options)
        np.testing.assert_allclose(np.moveaxis(found, 1, -1).reshape(rows.shape), expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("places", [1, 3])
def test_rows_that_are_ignored_count_nothing_whatever_they_hold(places: int, target: str) -> None:
    x, labels = np.zeros((2, 3, places)), np.array([[1], [7]]).repeat(places, 1)
    x[1, :2], x[1, 2] = np.nan, np.inf
    options = {"ignore_index": 7, "target": target}
    np.testing.assert_allclose(kernels.cross_entropy(x, labels, **options), np.log(3))
    np.testing.assert_allclose(kernels.cross_entropy(x, labels, reduction="none", **options)[:, 0], [np.log(3), 0])
    grad = kernels.cross_entropy_backward(1.0, x, labels, **options)
    np.testing.assert_allclose(grad[0], np.array([[1, -2, 1]]).T.repeat(places, 1) / 3 / places)
    assert not grad[1].any()


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_the_mean_over_no_labels_is_nan_and_has_no_gradient(target: str) -> None:
    x, labels = np.ones((2, 3), np.float32), np.array([-100, -100], np.int8)
    assert np.isnan(kernels.cross_entropy(x, labels, target=target))
    assert kernels.cross_entropy(x, labels, reduction="sum", target=target) == 0
    assert not kernels.cross_entropy_backward(1.0, x, labels, target=target).any()
    assert np.isnan(kernels.cross_entropy(x, np.array([1, 1]), np.array([1, 0, 1], np.float32), target=target))


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
def test_labels_without_a_sign_are_none_that_has_one(dtype: type, target: str) -> None:
    """As bits, 2^64 - 100 is -100."""
    x, labels = np.ones((2, 3)), np.array([0, np.iinfo(dtype).max - 99], dtype)
    for call in (lambda: kernels.cross_entropy(x, labels, target=target),
                 lambda: kernels.cross_entropy_backward(1.0, x, labels, target=target)):
        with pytest.raises(ValueError, match=f"labels: expected labels from 0 to 2 .* got {labels[1]}"):
            call()


@pytest.mark.peers
@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("margin", [1, 0.25, 0, -0.5])
def test_hinge_loss_is_torchs_times_the_classes(margin: float, reduction: str, target: str) -> None:
    torch = pytest.importorskip("torch")
    x, labels = _scores(9, 7)
    tensor = torch.tensor(x, requires_grad=True)
    expected = 7 * torch.nn.functional.multi_margin_loss(tensor, torch.tensor(labels), margin=margin,
                                                         reduction=reduction)
    grad = np.arange(1.0, 10) if reduction == "none" else 2.5
    expected.backward(torch.tensor(grad, dtype=torch.float64))
    options = {"margin": margin, "reduction": reduction, "target": target}
    np.testing.assert_allclose(kernels.hinge_loss(x, labels, **options), expected.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(kernels.hinge_loss_backward(grad, x, labels, **options), tensor.grad.numpy(), rtol=1e-13,
                               atol=1e-15)


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_hinge_loss_at_the_kink_has_no_gradient_and_keeps_nan(target: str) -> None:
    x = np.array([[2.0, 1.0, 0.0]], np.float32)               # 1 + 1 - 2 = 0: just at the margin
    assert kernels.hinge_loss(x, np.array([0]), target=target) == 0
    np.testing.assert_array_equal(kernels.hinge_loss_backward(1.0, x, np.array([0]), target=target), np.zeros((1, 3)))
    for place in range(3):
        x = np.array([[2.0, 1.0, 0.0]])
        x[0, place] = np.nan
        assert np.isnan(kernels.hinge_loss(x, np.array([0]), target=target))


@pytest.mark.peers
@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_mse_loss_is_torchs(shape: tuple, reduction: str, target: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y, weights = rng.standard_normal((3, *shape))
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.mse_loss(tensor, torch.tensor(y), reduction=reduction)
    grad = np.asarray(weights) if reduction == "none" else 2.5
    expected.backward(torch.tensor(grad, dtype=torch.float64))
    x, y = np.asarray(x), np.asarray(y)
    loss = kernels.mse_loss(x, y, reduction=reduction, target=target)
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(kernels.mse_loss_backward(grad, x, y, reduction=reduction, target=target),
                               tensor.grad.numpy(), rtol=1e-13)


@compiled
def test_sums_of_float32_are_formed_in_float64() -> None:
    """A float32 running sum of a million terms is off in its third digit."""
    x, y = np.full(1_000_003, 0.1, np.float32), np.zeros(1_000_003, np.float32)
    square = float(x[0]) ** 2
    assert kernels.mse_loss(x, y) == np.float32(square)
    assert kernels.mse_loss(x, y, reduction="sum") == np.float32(square * x.size)
    scores, labels = np.zeros((300_000, 3), np.float32), np.zeros(300_000, int)
    assert kernels.cross_entropy(scores, labels) == np.float32(np.log(3))
    assert kernels.hinge_loss(scores, labels) == 2


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_is_a_scalar_of_the_dtype_and_overflows_to_inf(reduction: str, target: str) -> None:
    x, labels = np.array([[3e38, -3e38]], np.float32), np.array([1])
    for name in ("cross_entropy", "hinge_loss"):
        with np.errstate(over="ignore" if target == "naive" or config.DISABLE_JIT else "raise"):
            loss = getattr(kernels, name)(x, labels, reduction=reduction, target=target)
        assert loss.dtype == np.float32
        assert isinstance(loss, np.ndarray if reduction == "none" else np.float32)
        assert np.all(loss == np.inf)


@pytest.mark.parametrize("name", ["cross_entropy", "hinge_loss"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_many_losses_overflow_without_a_warning(reduction: str, dtype: type, name: str) -> None:
    largest = float(np.finfo(dtype).max)
    x, labels = np.array([[largest, -largest]] * 3, dtype), np.array([1, 1, 1])
    options = {"margin": 1.5e308} if name == "hinge_loss" else {}
    with np.errstate(over="ignore" if config.DISABLE_JIT else "raise"):
        assert np.all(getattr(kernels, name)(x, labels, reduction=reduction, **options) == np.inf)


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint64])
@pytest.mark.parametrize("name", ["cross_entropy", "hinge_loss"])
def test_labels_are_looked_at_in_each_call(name: str, dtype: type, target: str) -> None:
    x, labels = _scores(5, 3)
    labels = labels.astype(dtype)
    calls = (lambda: getattr(kernels, name)(x, labels, target=target),
             lambda: getattr(kernels, f"{name}_backward")(1.0, x, labels, target=target))
    for call in calls:
        call()
    for wrong in (3, 2**63 + 1 if dtype is np.uint64 else -1):
        labels[2] = wrong
        for call in calls:
            with pytest.raises(ValueError, match=f"labels: expected labels from 0 to 2 for 3 classes, got {wrong}$"):
                call()


@pytest.mark.parametrize("grad", [2, 2.0, np.float32(2), np.float64(2), np.array(2.0), np.array(2, np.int64)])
def test_the_gradient_by_a_loss_is_any_number(grad: object) -> None:
    np.testing.assert_array_equal(kernels.mse_loss_backward(grad, np.array([3.0]), np.array([1.0])), [8.0])


@pytest.mark.parametrize("grad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_travels(grad: float) -> None:
    x, labels = np.array([[1.0, 2.0]]), np.array([0])
    for name in ("cross_entropy_backward", "hinge_loss_backward"):
        assert not np.isfinite(getattr(kernels, name)(grad, x, labels)).any()


@pytest.mark.parametrize(("call", "error", "match"), [
    (lambda x, y: kernels.cross_entropy(x, y, label_smoothing=1.5), ValueError,
     r"label_smoothing: expected a number from 0 to 1, got 1.5"),
    (lambda x, y: kernels.cross_entropy(x, y, label_smoothing="a"), TypeError,
     r"label_smoothing: expected a number, got 'a'"),
    (lambda x, y: kernels.hinge_loss(x, y, margin=None), TypeError, r"margin: expected a number, got None"),
    (lambda x, y: kernels.cross_entropy_backward(np.ones(3), x, y), TypeError,
     r"grad_output: expected a number for reduction 'mean'"),
    (lambda x, y: kernels.cross_entropy_backward("1", x, y), TypeError, r"grad_output: expected a number"),
    (lambda x, y: kernels.hinge_loss_backward(1.0, x, y, reduction="none"), TypeError,
     r"grad_output: expected an array"),
    (lambda x, y: kernels.hinge_loss_backward(np.ones(2), x, y, reduction="none"), ValueError,
     r"grad_output: expected shape \(3,\), got \(2,\)"),
    (lambda x, y: kernels.cross_entropy_backward(np.ones(3, np.float32), x, y, reduction="none"), TypeError,
     r"grad_output: expected float64 as x has, got float32"),
    (lambda x, y: kernels.mse_loss_backward(1.0, x, x[:2]), ValueError, r"y: expected shape \(3, 4\), got \(2, 4\)"),
    (lambda x, y: kernels.mse_loss_backward(1.0, x[:0], x[:0]), ValueError, r"x: expected at least one element"),
])
def test_options_that_do_not_fit_are_refused(call: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(np.ones((3, 4)), np.array([0, 1, 2]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("target", ["naive", "cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_mse_loss_by_what_is_not_finite(reduction: str, target: str) -> None:
    odd = np.array([np.inf, -np.inf, np.nan, 1e308, -1e308, 1.5, -0.0])
    grad, x, y = (values.ravel() for values in np.meshgrid(odd, odd, odd))
    if reduction != "none":
        grad = np.float64(np.inf)
    wide = grad, x.astype(np.longdouble), y.astype(np.longdouble)
    with np.errstate(all="ignore"):
        expected = (2 * (wide[1] - wide[2]) / (x.size if reduction == "mean" else 1) * wide[0]).astype(np.float64)
    if target == "cuda":
        grad, x, y = (fastnn.to_device(np.asarray(values)) for values in (grad, x, y))
    actual = kernels.mse_loss_backward(grad, x, y, reduction=reduction, target=target)
    np.testing.assert_allclose(fastnn.to_host(actual) if target == "cuda" else actual, expected, rtol=1e-15)
