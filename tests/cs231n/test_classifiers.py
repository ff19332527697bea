"""Classifiers: losses against differences and each other, training, neighbours as in the course's notebook."""

# ruff: noqa: NPY002

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import cs231n, data
from fastnn.cs231n.classifiers import KNearestNeighbor, LinearClassifier, LinearSVM, Softmax

LOSSES = [(cs231n.svm_loss_naive, cs231n.svm_loss_vectorized, cs231n.svm_loss),
          (cs231n.softmax_loss_naive, cs231n.softmax_loss_vectorized, cs231n.softmax_loss)]


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three classes of points around corners, with a column of ones."""
    y = np.arange(150) % 3
    return np.hstack([3 * np.eye(3)[y] + np.random.randn(150, 3), np.ones((150, 1))]), y


@pytest.mark.parametrize(("naive", "vectorized", "of_scores"), LOSSES)
def test_losses_and_their_gradients(naive: Callable[..., Any], vectorized: Callable[..., Any],
                                    of_scores: Callable[..., Any]) -> None:
    W, X, y = 0.1 * np.random.randn(7, 4), np.random.randn(20, 7), np.random.randint(4, size=20)
    for reg in (0.0, 5.0):
        loss, dW = naive(W, X, y, reg)
        numeric = cs231n.eval_numerical_gradient(lambda W, reg=reg: naive(W, X, y, reg)[0], W, verbose=False)
        np.testing.assert_allclose(dW, numeric, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(loss, of_scores(X @ W, y)[0] + reg * np.sum(W**2), rtol=1e-13)
        fast_loss, fast_dW = vectorized(W, X, y, reg)
        np.testing.assert_allclose(fast_loss, loss, rtol=1e-13)
        np.testing.assert_allclose(fast_dW, dW, rtol=1e-12, atol=1e-14)


def test_losses_before_training_are_what_the_course_expects() -> None:
    W, X, y = 1e-4 * np.random.randn(3073, 10), np.random.randn(500, 3073), np.random.randint(10, size=500)
    assert cs231n.svm_loss_naive(W, X, y, 0.0)[0] == pytest.approx(9, abs=0.05)
    assert cs231n.softmax_loss_naive(W, X, y, 0.0)[0] == pytest.approx(-np.log(0.1), abs=0.01)


@pytest.mark.parametrize("kind", [LinearSVM, Softmax])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training(kind: type[LinearClassifier], dtype: Any, capsys: pytest.CaptureFixture[str]) -> None:
    X, y = blobs()
    X = X.astype(dtype)
    classifier = kind()
    losses = classifier.train(X, y, learning_rate=0.05, reg=1e-3, num_iters=201, batch_size=50, verbose=True)
    assert (len(losses), classifier.W.shape, classifier.W.dtype) == (201, (4, 3), dtype)
    assert np.mean(losses[-20:]) < losses[0] / 3
    assert np.mean(classifier.predict(X) == y) > 0.9
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [f"iteration {n} / 201" for n in (0, 100, 200)]
    before = classifier.W.copy()
    classifier.train(X, y, num_iters=1)
    assert 0 < np.abs(classifier.W - before).max() < 0.1      # goes on from where it was


def test_neighbours_by_three_ways() -> None:
    knn = KNearestNeighbor()
    X, y = blobs()
    knn.train(X[:100], y[:100])
    dists = knn.compute_distances_no_loops(X[100:])
    np.testing.assert_allclose(dists, np.linalg.norm(X[100:, None] - X[None, :100], axis=2), rtol=1e-13)
    assert (dists == knn.compute_distances_one_loop(X[100:])).all()
    assert (dists == knn.compute_distances_two_loops(X[100:])).all()
    predicted = [knn.predict(X[100:], k=5, num_loops=loops) for loops in (0, 1, 2)]
    assert all((other == predicted[0]).all() for other in predicted)
    assert np.mean(predicted[0] == y[100:]) > 0.9
    assert knn.predict(X[:0]).shape == (0,)


def test_the_smaller_label_wins_a_tie() -> None:
    knn = KNearestNeighbor()
    knn.train(np.array([[1.0], [2.0], [3.0]]), np.array([9, 4, 4]))
    dists = np.array([[0.0, 1.0, 2.0]])
    assert [knn.predict_labels(dists, k=k)[0] for k in (1, 2, 3)] == [9, 4, 4]


def test_distances_of_bytes_do_not_wrap() -> None:
    knn = KNearestNeighbor()
    knn.train(np.array([[0, 0]], np.uint8), np.array([0]))
    for way in (knn.compute_distances_no_loops, knn.compute_distances_one_loop, knn.compute_distances_two_loops):
        assert way(np.array([[255, 0]], np.uint8)) == 255.0
        assert way(np.array([[300, 400]])) == 500.0


@pytest.mark.real_data
def test_neighbours_of_the_notebook(data_dir: Path) -> None:
    """knn.ipynb of assignment 1: 5,000 images, 500 tests, "Got 137 / 500 correct" with k = 1, 139 with k = 5."""
    cifar = data.cifar10(data_dir)
    X, y = (split[:5000] for split in (cifar.train.images, cifar.train.labels))
    X_test, y_test = (split[:500] for split in (cifar.test.images, cifar.test.labels))
    knn = KNearestNeighbor()
    knn.train(X.reshape(5000, -1).astype(np.float64), y)
    dists = knn.compute_distances_no_loops(X_test.reshape(500, -1).astype(np.float64))
    assert [int(np.sum(knn.predict_labels(dists, k=k) == y_test)) for k in (1, 5)] == [137, 139]


def test_mistakes() -> None:
    W, X, y = np.ones((3, 2)), np.ones((4, 3)), np.zeros(4, int)
    for loss in (loss for case in LOSSES for loss in case[:2]):
        with pytest.raises(ValueError, match=r"^W: expected 3 rows for X of shape \(4, 3\), got shape \(5, 2\)"):
            loss(np.ones((5, 2)), X, y, 0.0)
        with pytest.raises(ValueError, match=r"^y: expected labels from 0 to 1 for 2 classes, got 2"):
            loss(W, X, y + 2, 0.0)
        with pytest.raises(ValueError, match=r"^X: expected 2 dimensions \(N, D\)"):
            loss(W, X[0], y, 0.0)
        with pytest.raises(TypeError, match=r"^reg: expected a number"):
            loss(W, X, y, None)
    svm = LinearSVM()
    with pytest.raises(RuntimeError, match=r"^LinearSVM: expected a call of train"):
        svm.predict(X)
    with pytest.raises(ValueError, match=r"^y: expected labels from 0"):
        svm.train(X, y - 1)
    with pytest.raises(ValueError, match=r"^y: expected shape \(4,\), got \(3,\)"):
        svm.train(X, y[:3])
    with pytest.raises(ValueError, match=r"^X: expected at least one element"):
        svm.train(X[:0], y[:0])
    with pytest.raises(ValueError, match=r"^batch_size: expected at least 1, got 0"):
        svm.train(X, y, batch_size=0)
    with pytest.raises(ValueError, match=r"^learning_rate: expected a number from 0"):
        svm.train(X, y, learning_rate=-1.0)
    knn = KNearestNeighbor()
    with pytest.raises(RuntimeError, match=r"^KNearestNeighbor: expected a call of train"):
        knn.predict(X)
    with pytest.raises(RuntimeError, match=r"^KNearestNeighbor: expected a call of train"):
        knn.predict_labels(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"^y: expected shape \(4,\)"):
        knn.train(X, y[:3])
    knn.train(X, y)
    with pytest.raises(ValueError, match=r"^X: expected shape \(2, 3\), got \(2, 5\)"):
        knn.predict(np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"^num_loops: expected 0, 1 or 2, got 3"):
        knn.predict(X, num_loops=3)
    with pytest.raises(ValueError, match=r"^k: expected from 1 to the number of training examples, 4, got 5"):
        knn.predict(X, k=5)
    with pytest.raises(ValueError, match=r"^dists: expected shape \(2, 4\), got \(2, 3\)"):
        knn.predict_labels(np.ones((2, 3)))
