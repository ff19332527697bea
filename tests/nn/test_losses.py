"""Losses against torch, and their gradients against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import nn, random
from fastnn.testing import assert_close, check_gradients

SCORES = random.generator(0, "scores").standard_normal((5, 4)) * 2
LABELS = np.array([0, 3, 1, 1, 2])
TRUTH = random.generator(1, "scores").standard_normal((5, 4))
WEIGHT = np.array([1.0, 0.5, 2.0, 3.0])
PROBABILITIES = random.generator(2, "scores").dirichlet(np.ones(4), 5)

LOSSES = [(nn.CrossEntropyLoss(), LABELS), (nn.CrossEntropyLoss(label_smoothing=0.2), LABELS),
          (nn.CrossEntropyLoss(), PROBABILITIES), (nn.CrossEntropyLoss(label_smoothing=0.2), PROBABILITIES),
          (nn.CrossEntropyLoss(0.2, weight=WEIGHT, ignore_index=3), LABELS),
          (nn.CrossEntropyLoss(0.2, weight=WEIGHT), PROBABILITIES), (nn.BCEWithLogitsLoss(), PROBABILITIES),
          (nn.BCEWithLogitsLoss(TRUTH[:, :1], pos_weight=WEIGHT), PROBABILITIES),
          (nn.HingeLoss(), LABELS), (nn.HingeLoss(margin=0.3), LABELS), (nn.MSELoss(), TRUTH)]


def theirs(torch: Any, loss: nn.Module, scores: Any, truth: Any) -> Any:
    if isinstance(loss, nn.CrossEntropyLoss):
        weight = None if loss.weight is None else torch.tensor(loss.weight, dtype=scores.dtype)
        return torch.nn.CrossEntropyLoss(weight, label_smoothing=loss.label_smoothing,
                                         ignore_index=loss.ignore_index)(scores, truth)
    if isinstance(loss, nn.BCEWithLogitsLoss):
        weights = (None if w is None else torch.tensor(w, dtype=scores.dtype) for w in (loss.weight, loss.pos_weight))
        weight, pos_weight = weights
        return torch.nn.BCEWithLogitsLoss(weight, pos_weight=pos_weight)(scores, truth)
    if isinstance(loss, nn.HingeLoss):
        return scores.shape[1] * torch.nn.MultiMarginLoss(margin=loss.margin)(scores, truth)
    return torch.nn.MSELoss()(scores, truth)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("loss", "truth"), LOSSES)
def test_as_torch(loss: nn.Module, truth: np.ndarray, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    scores = SCORES.astype(dtype)
    truth = truth.astype(dtype) if truth.dtype.kind == "f" else truth
    tensor = torch.tensor(scores, requires_grad=True)
    expected = theirs(torch, loss, tensor, torch.tensor(truth))
    (3 * expected).backward()
    value, backward = loss.forward(scores, truth)
    assert isinstance(value, dtype)
    assert_close(value, expected.detach().numpy())
    assert_close(backward(3.0), tensor.grad.numpy(), gradient=True)
    assert loss(scores, truth) == value


@pytest.mark.parametrize(("loss", "truth"), LOSSES)
def test_gradients(loss: nn.Module, truth: np.ndarray) -> None:
    assert check_gradients(loss, SCORES, truth)[0].error <= 1e-7
    _, backward = loss.forward(SCORES, truth)
    grad = backward()
    with pytest.raises(RuntimeError, match="called before"):
        backward()
    np.testing.assert_array_equal(loss.forward(SCORES, truth)[1](1.0), grad)


def test_a_loss_has_no_state() -> None:
    assert nn.CrossEntropyLoss().state_dict() == {}


def test_weights_are_state_and_follow_the_scores() -> None:
    loss = nn.CrossEntropyLoss(weight=[1, 2, 3, 4])
    assert loss.state_dict()["weight"].dtype == np.float32
    assert loss(SCORES, LABELS).dtype == np.float64
    assert loss.to(np.float64).weight.dtype == np.float64
    assert set(nn.BCEWithLogitsLoss(pos_weight=WEIGHT).state_dict()) == {"pos_weight"}
    with pytest.raises(ValueError, match=r"weight: expected shape \(4,\), got \(3,\)"):
        nn.CrossEntropyLoss(weight=WEIGHT[:3])(SCORES, LABELS)
    with pytest.raises(ValueError, match=r"weight: expected shape \(4,\), got \(3,\)"):
        nn.CrossEntropyLoss(weight=WEIGHT[:3])(SCORES, PROBABILITIES)
    with pytest.raises(TypeError, match="weight: expected numbers, got"):
        nn.CrossEntropyLoss(weight="all")


def test_labels_all_of_which_are_ignored() -> None:
    value, backward = nn.CrossEntropyLoss().forward(SCORES, np.full(5, -100))
    assert np.isnan(value)
    assert not backward().any()


def test_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match="labels: expected labels from 0 to 3 for 4 classes, got 4"):
        nn.CrossEntropyLoss().forward(SCORES, np.full(5, 4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", [0, 0.3])
def test_probabilities_of_one_class_are_labels(smoothing: float, dtype: Any) -> None:
    loss, scores = nn.CrossEntropyLoss(smoothing), SCORES.astype(dtype)
    value, backward = loss.forward(scores, np.eye(4, dtype=dtype)[LABELS])
    expected, expected_backward = loss.forward(scores, LABELS)
    assert value.dtype == dtype
    assert_close(value, expected)
    assert_close(backward(2.0), expected_backward(2.0), gradient=True)


def test_scores_that_are_not_finite_give_what_is_not_finite_without_a_warning() -> None:
    loss, scores = nn.CrossEntropyLoss(), np.array([[0.0, -np.inf, 1.0, 2.0], [np.inf, 0.0, 0.0, 0.0]])
    assert np.isnan(loss(scores, np.eye(4)[[0, 0]]))
    scores = np.array([[3e38, -3e38]], np.float32)
    assert loss(scores, np.array([[0.0, 1.0]], np.float32)) == np.inf


@pytest.mark.parametrize(("probabilities", "error", "message"), [
    (PROBABILITIES.astype(np.float32), TypeError, "labels: expected float64 as scores has, got float32"),
    (PROBABILITIES[:, :3], ValueError, r"labels: expected shape \(5, 4\), got \(5, 3\)"),
    (2 * PROBABILITIES, ValueError, "labels: expected probabilities, none negative .* values from .* and sums from 2"),
    (PROBABILITIES - np.array([1, -1, 0, 0]), ValueError, "labels: expected probabilities, none negative"),
    (PROBABILITIES * np.nan, ValueError, "labels: expected probabilities, none negative"),
    (np.eye(4)[LABELS].astype(int), ValueError, r"labels: expected shape \(5,\), got \(5, 4\)"),
])
def test_wrong_probabilities(probabilities: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nn.CrossEntropyLoss().forward(SCORES, probabilities)
