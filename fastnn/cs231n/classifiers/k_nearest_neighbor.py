"""The classifier by nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import kernels
from fastnn._checks import FLOATS, Array, as_array, as_int, check_rank, check_shape
from fastnn.cs231n._common import promoted

__all__ = ["KNearestNeighbor"]


class KNearestNeighbor:
    """The commonest class among the k nearest training examples, by L2 distance; in a tie, the smallest label.

    The three ways to compute distances differ in how many of them `fastnn.pairwise_l2` finds in a call: one, one test
    example's, or all. It sums (x - y)^2, exactly for uint8, so that all three give the same.

    Attributes
    ----------
    X_train, y_train : arrays of shapes (num_train, D) and (num_train,), or None before training
        What was given to `train`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import KNearestNeighbor
    >>> knn = KNearestNeighbor()
    >>> knn.train(np.array([[0.0], [1.0], [5.0]]), np.array([2, 2, 7]))
    >>> knn.predict(np.array([[0.5], [9.0]]), k=1)
    array([2, 7])
    >>> knn.compute_distances_no_loops(np.array([[0.5]]))
    array([[0.5, 0.5, 4.5]])
    """

    def __init__(self) -> None:
        self.X_train: Any = None
        self.y_train: Any = None

    def train(self, X: Array, y: Array) -> None:
        """Keep examples X of shape (num_train, D) and their labels y of shape (num_train,)."""
        X, y = as_array("X", X), as_array("y", y)
        check_rank("X", X, 2, layout="(num_train, D)")
        check_shape("y", y, X.shape[:1])
        self.X_train, self.y_train = X, y

    def predict(self, X: Array, k: int = 1, num_loops: int = 0) -> Array:
        """Return the labels of examples X of shape (num_test, D) by their k nearest neighbours.

        num_loops, 0, 1 or 2, says which of the three ways computes the distances.
        """
        ways = (self.compute_distances_no_loops, self.compute_distances_one_loop, self.compute_distances_two_loops)
        if num_loops not in (0, 1, 2):
            raise ValueError(f"num_loops: expected 0, 1 or 2, got {num_loops!r}")
        return self.predict_labels(ways[num_loops](X), k=k)

    def compute_distances_two_loops(self, X: Array) -> Array:
        """Return the distances (num_test, num_train) of X to the training examples, one a call of the kernel."""
        X, points, dists = self._points(X)
        for i in range(len(X)):
            for j in range(len(points)):
                dists[i, j] = kernels.pairwise_l2(X[i : i + 1], points[j : j + 1])[0, 0]
        return dists

    def compute_distances_one_loop(self, X: Array) -> Array:
        """Return the distances (num_test, num_train) of X to the training examples, one row a call of the kernel."""
        X, points, dists = self._points(X)
        for i in range(len(X)):
            dists[i] = kernels.pairwise_l2(X[i : i + 1], points)[0]
        return dists

    def compute_distances_no_loops(self, X: Array) -> Array:
        """Return the distances (num_test, num_train) of X to the training examples, in one call of the kernel."""
        X, points, _ = self._points(X)
        return kernels.pairwise_l2(X, points)

    def predict_labels(self, dists: Array, k: int = 1) -> Array:
        """Return the labels of the test examples whose distances to the training examples are given."""
        if self.y_train is None:
            raise RuntimeError("KNearestNeighbor: expected a call of train before predict_labels")
        dists = as_array("dists", dists)
        check_rank("dists", dists, 2, layout="(num_test, num_train)")
        check_shape("dists", dists, (len(dists), len(self.y_train)))
        if as_int("k", k, 1) > len(self.y_train):
            raise ValueError(f"k: expected from 1 to the number of training examples, {len(self.y_train)}, got {k}")
        labels, votes = np.unique(self.y_train, return_inverse=True)
        nearest = votes[np.argsort(dists, axis=1, kind="stable")[:, :k]]
        return labels[np.array([np.bincount(row).argmax() for row in nearest], np.int64)]

    def _points(self, X: Array) -> tuple[Array, Array, Array]:
        """Return test and training examples in one dtype, and where their distances are written."""
        if self.X_train is None:
            raise RuntimeError("KNearestNeighbor: expected a call of train before distances")
        X, points = as_array("X", X), self.X_train
        check_rank("X", X, 2, layout="(num_test, D)")
        check_shape("X", X, (len(X), points.shape[1]))
        if not X.dtype == points.dtype == np.uint8:
            X, points = promoted(X=X, X_train=points)
        return X, points, np.empty((len(X), len(points)), X.dtype if X.dtype in FLOATS else np.float64)
