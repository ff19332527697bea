"""Classification by the nearest points."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fastnn import kernels
from fastnn._checks import as_int
from fastnn.estimators.base import check_choice

_DTYPES = (np.float64, np.float32, np.uint8)        # what is none of them becomes the first


class KNeighborsClassifier(ClassifierMixin, BaseEstimator):
    """The commonest class among the nearest points, found exactly by `fastnn.kernels.knn`.

    Parameters
    ----------
    n_neighbors : int, default 5
        How many neighbours vote.
    weights : {"uniform", "distance"}
        Whether all have the same weight, or the inverse of their distance. Where some are at distance 0, they vote
        alone.
    memory_budget : int, optional
        Bytes that a search may use beside points, queries and results, see `fastnn.kernels.knn`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels. If several have the most votes, the first of them is predicted.
    n_features_in_ : int
        Features of a sample.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names and all of them are strings.

    Notes
    -----
    Distances are Euclidean. Points of float32, float64 and uint8 stay what they are, and are not copied if they are
    C-contiguous: they may be a `numpy.memmap` larger than memory. uint8 is searched fastest. Everything else becomes
    float64. Queries take the dtype of the points if their values fit it; otherwise each search converts all points to a
    dtype that holds both.

    Examples
    --------
    >>> from fastnn import data
    >>> from fastnn.estimators import KNeighborsClassifier
    >>> train, test = data.digits().train, data.digits().test
    >>> classifier = KNeighborsClassifier(3).fit(train.images.reshape(-1, 64), train.labels)
    >>> round(classifier.score(test.images.reshape(-1, 64), test.labels), 3)
    0.986
    """

    def __init__(self, n_neighbors: int = 5, *, weights: str = "uniform", memory_budget: int | None = None) -> None:
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.memory_budget = memory_budget

    def fit(self, X: Any, y: Any) -> Self:
        """Keep the points and their labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            The class of each.

        Returns
        -------
        self
        """
        k = as_int("n_neighbors", self.n_neighbors, 1)
        check_choice("weights", self.weights, ("uniform", "distance"))
        if self.memory_budget is not None:
            as_int("memory_budget", self.memory_budget, 1)
        X, y = validate_data(self, X, y, dtype=_DTYPES, order="C")
        check_classification_targets(y)
        if k > len(X):
            raise ValueError(f"n_neighbors: expected at most n_samples = {len(X)}, got {k}")
        self.classes_, self._labels = np.unique(y, return_inverse=True)
        self._points = X
        return self

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None,
                   return_distance: bool = True) -> Any:
        """Return the distances and indices of the nearest points, nearest first.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), optional
            Queries. By default they are the points themselves, and no point counts as its own neighbour.
        n_neighbors : int, optional
            How many; the parameter of the classifier where not given.
        return_distance : bool, default True
            Whether distances are returned, or the indices alone.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors)
            Of the points' dtype, and float64 for uint8.
        indices : ndarray of shape (n_queries, n_neighbors)
            Of points at the same distance, the lowest comes first.
        """
        check_is_fitted(self, "classes_")
        k = as_int("n_neighbors", self.n_neighbors if n_neighbors is None else n_neighbors, 1)
        others = len(self._points) - (X is None)
        if k > others:
            raise ValueError(f"n_neighbors: expected at most {others}, the points there are"
                             f"{' beside a point itself' if X is None else ''}, got {k}")
        if X is None:
            distances, indices = self._search(self._points, k + 1)
            kept = indices != np.arange(len(indices))[:, None]
            kept[kept.all(1), -1] = False       # more than k points at the same place, which come before it
            distances, indices = distances[kept].reshape(-1, k), indices[kept].reshape(-1, k)
        else:
            distances, indices = self._search(validate_data(self, X, dtype=_DTYPES, order="C", reset=False), k)
        return (distances, indices) if return_distance else indices

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the share of each class in the votes.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), or None
            Queries; None stands for the points, each classified by the others.

        Returns
        -------
        ndarray of shape (n_queries, n_classes)
        """
        distances, indices = self.kneighbors(X)
        weights = np.ones_like(distances)
        if self.weights == "distance":          # times the nearest's, which neither 0 nor inf can harm
            nearest = distances[:, :1]
            np.divide(nearest, distances, out=weights, where=distances != nearest)
        shape = len(indices), len(self.classes_)
        cells = np.arange(shape[0])[:, None] * shape[1] + self._labels[indices]
        votes = np.bincount(cells.ravel(), weights.ravel(), shape[0] * shape[1]).reshape(shape)
        return votes / votes.sum(1, keepdims=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class that has most votes.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), or None
            Queries; None stands for the points, each classified by the others.

        Returns
        -------
        ndarray of shape (n_queries,)
        """
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _search(self, queries: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        points = self._points
        if queries.dtype != points.dtype:
            with np.errstate(invalid="ignore", over="ignore"):
                same = queries.astype(points.dtype)
            if np.array_equal(same, queries):
                queries = same
            else:
                common = np.result_type(queries, points)
                queries, points = queries.astype(common, copy=False), points.astype(common, copy=False)
        return kernels.knn(queries, points, k, memory_budget=self.memory_budget)
