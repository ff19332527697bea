"""Classification by the nearest points, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastnn import _device, kernels, random
from fastnn._checks import as_int


class KNearestNeighbors:
    """The commonest class among the k nearest points; in a tie, the one that has the nearest point.

    Cover and Hart, "Nearest neighbor pattern classification" (IEEE Transactions on Information Theory 13, 1967).

    Parameters
    ----------
    k : int, default 5
        How many neighbours vote.
    memory_budget : int, optional
        Bytes that a search may use beside the data, see `fastnn.kernels.knn`.

    Raises
    ------
    ValueError
        If k is below 1, or above the number of points; if points and labels do not fit.

    Notes
    -----
    Distances are Euclidean, and exact: images as they are, uint8, are searched fastest. Points may be a
    `numpy.memmap` larger than memory. Where points and queries are arrays on a GPU, they are searched there; labels and
    predictions are NumPy's.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import data, models
    >>> digits = data.digits()
    >>> model = models.KNearestNeighbors(k=3).fit(digits.train.images, digits.train.labels)
    >>> np.mean(model.predict(digits.test.images) == digits.test.labels).round(3)
    np.float64(0.986)
    """

    def __init__(self, k: int = 5, *, memory_budget: int | None = None) -> None:
        self.k = as_int("k", k, 1)
        self.memory_budget = memory_budget

    def fit(self, points: NDArray[Any], labels: NDArray[Any]) -> Self:
        """Keep the points; nothing is copied or computed.

        Parameters
        ----------
        points : ndarray of float32, float64 or uint8, shape (N, ...)
        labels : ndarray of integers from 0, shape (N,)
        """
        points, labels = _array(points), kernels.to_host(labels)
        if len(points) < self.k:
            raise ValueError(f"points: expected at least k = {self.k}, got {len(points)}")
        integers = labels.dtype.kind in "iu"
        if labels.shape != points.shape[:1] or not integers or labels.min() < 0:
            least = f", least {labels.min()}" if integers and labels.size else ""
            raise ValueError(f"labels: expected an integer from 0 for each of {len(points)} points, got {labels.dtype} "
                             f"of shape {labels.shape}{least}")
        self.points, self.labels = _rows(points), labels
        return self

    def neighbors(self, queries: NDArray[Any], k: int | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return distances and indices of the nearest points, nearest first.

        Parameters
        ----------
        queries : ndarray of the points' dtype, shape (M, ...)
        k : int, optional
            How many; the model's k where not given.

        Returns
        -------
        distances, indices : ndarray, shape (M, k)
            On the GPU, where the points are.
        """
        if not hasattr(self, "points"):
            raise RuntimeError("KNearestNeighbors: expected a call of fit before this one")
        return kernels.knn(_rows(_array(queries)), self.points, self.k if k is None else k,
                           memory_budget=self.memory_budget)

    def predict(self, queries: NDArray[Any]) -> NDArray[np.int64]:
        """Return the class of each query."""
        nearest = self.neighbors(queries)[1]
        return vote(self.labels[kernels.to_host(nearest)])


def vote(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the commonest label of each row; in a tie, the one that comes first in it.

    Parameters
    ----------
    labels : ndarray of integers from 0, shape (M, k)
        Those of the neighbours, nearest first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.models.nearest_neighbors import vote
    >>> vote(np.array([[2, 1, 1], [2, 1, 0]]))
    array([1, 2])
    """
    rows = np.arange(len(labels))[:, None]
    votes = np.zeros((len(labels), int(labels.max(initial=0)) + 1), np.int64)
    np.add.at(votes, (rows, labels), 1)
    winner = votes[rows, labels].argmax(1)      # the nearest of those whose class has most votes
    return labels[rows[:, 0], winner]


def cross_validate(points: NDArray[Any], labels: NDArray[Any], ks: Sequence[int], folds: int = 5, *,
                   seed: int = 0) -> NDArray[np.float64]:
    """Return the accuracy of each k on each fold, by the points of the other folds.

    Parameters
    ----------
    points : ndarray of float32, float64 or uint8, shape (N, ...)
    labels : ndarray of integers from 0, shape (N,)
    ks : sequence of int
        The numbers of neighbours that are compared: one search a fold serves them all.
    folds : int, default 5
        Into how many parts, of sizes that differ by one at most, the points are divided.
    seed : int, default 0
        What decides which point is in which.

    Returns
    -------
    ndarray, shape (folds, len(ks))

    Raises
    ------
    ValueError
        If there are not 2 folds to N, or a k is not from 1 to the points of all folds but one.

    Examples
    --------
    >>> from fastnn import data
    >>> from fastnn.models.nearest_neighbors import cross_validate
    >>> train = data.digits().train
    >>> cross_validate(train.images, train.labels, [1, 3, 50]).mean(0).round(2)
    array([0.99, 0.99, 0.94])
    """
    if not 2 <= folds <= len(points):
        raise ValueError(f"folds: expected from 2 to the number of points, {len(points)}, got {folds}")
    parts = np.array_split(random.generator(seed, "folds").permutation(len(points)), folds)
    least = len(points) - len(parts[0])
    if not ks or not 1 <= min(ks) <= max(ks) <= least:
        raise ValueError(f"ks: expected numbers from 1 to {least}, the points of {folds - 1} folds, got {list(ks)}")
    accuracies = np.empty((folds, len(ks)))
    for fold, held in enumerate(parts):
        others = np.sort(np.concatenate([part for part in parts if part is not held]))
        model = KNearestNeighbors(max(ks)).fit(points[others], labels[others])
        near = model.labels[kernels.to_host(model.neighbors(points[held])[1])]
        accuracies[fold] = [np.mean(vote(near[:, :k]) == labels[held]) for k in ks]
    return accuracies


def _array(samples: Any) -> Any:
    return samples if _device.is_device(samples) or _device.is_foreign(samples) else np.asarray(samples)


def _rows(samples: NDArray[Any]) -> NDArray[Any]:
    return samples.reshape(len(samples), math.prod(samples.shape[1:]))
