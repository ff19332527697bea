"""KNeighborsClassifier, against scikit-learn's, and on files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn

neighbors = pytest.importorskip("sklearn.neighbors")

from fastnn.estimators import KNeighborsClassifier  # noqa: E402

MIB = 1 << 20


def points(dtype: Any = np.float64, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (20 * rng.standard_normal((n, 10)) + 100).astype(dtype), rng.integers(0, 4, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("itself", [False, True], ids=["queries", "points"])
def test_it_is_what_scikit_learn_finds(dtype: Any, weights: str, itself: bool) -> None:
    X, y = points(dtype)
    ours = KNeighborsClassifier(7, weights=weights).fit(X, y)
    theirs = neighbors.KNeighborsClassifier(7, weights=weights, algorithm="brute").fit(X, y)
    queries = None if itself else np.concatenate([X[:5], X[:50] + dtype(3)])       # some at distance 0
    for k in (None, 1, 20):
        distances, indices = ours.kneighbors(queries, k)
        their_distances, their_indices = theirs.kneighbors(queries, k)
        assert np.array_equal(indices, their_indices)
        np.testing.assert_allclose(distances, their_distances, rtol=1e-5, atol=0.02)      # theirs subtract squares
        assert np.array_equal(ours.kneighbors(queries, k, return_distance=False), indices)
        assert distances.dtype == dtype
    if itself:
        return
    np.testing.assert_allclose(ours.predict_proba(queries)[5:], theirs.predict_proba(queries)[5:], atol=1e-4)
    assert np.array_equal(ours.predict(queries)[5:], theirs.predict(queries)[5:])


def test_points_at_distance_0_vote_alone() -> None:
    X, y = np.array([[0.0], [0.0], [1.0], [1.0], [1.0]]), ["a", "b", "c", "c", "c"]
    classifier = KNeighborsClassifier(weights="distance").fit(X, y)
    assert classifier.predict_proba([[0.0]]).tolist() == [[0.5, 0.5, 0.0]]
    assert classifier.predict([[0.0], [0.9]]).tolist() == ["a", "c"]
    np.testing.assert_allclose(classifier.predict_proba([[0.25]]), [[4 / 12, 4 / 12, 4 / 12]])


def test_distances_beyond_the_range_of_floats_still_vote() -> None:
    X = np.array([[-1e38], [1e38], [1e38]], np.float32)
    for weights in ("uniform", "distance"):
        shares = KNeighborsClassifier(3, weights=weights).fit(X, [0, 1, 1]).predict_proba(X)
        assert np.isfinite(shares).all()
        np.testing.assert_allclose(shares.sum(1), 1)


def test_no_point_is_its_own_neighbor_where_many_are_at_one_place() -> None:
    indices = KNeighborsClassifier(3).fit(np.zeros((10, 2)), np.arange(10) % 2).kneighbors(return_distance=False)
    assert indices[0].tolist() == [1, 2, 3]
    assert indices[9].tolist() == [0, 1, 2]
    assert not (indices == np.arange(10)[:, None]).any()


def test_without_queries_each_point_is_judged_by_the_others() -> None:
    X, y = points()
    classifier = KNeighborsClassifier(5).fit(X, y)
    others = np.arange(1, len(X))
    alone = KNeighborsClassifier(5).fit(X[others], y[others])
    assert np.array_equal(classifier.predict_proba(None)[0], alone.predict_proba(X[:1])[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_queries_of_another_dtype_keep_their_values(dtype: Any) -> None:
    X, y = points(dtype)
    queries = X[:40].astype(np.float64)
    classifier, exact = KNeighborsClassifier(5).fit(X, y), KNeighborsClassifier(5).fit(X.astype(np.float64), y)
    for given in (queries, queries + 1e-9, queries.astype(np.int64), (queries - 300).tolist()):
        distances, indices = classifier.kneighbors(given)
        expected, expected_indices = exact.kneighbors(given)
        assert np.array_equal(indices, expected_indices)
        np.testing.assert_allclose(distances, expected, rtol=1e-6)


def test_bytes_stay_bytes_and_integers_become_float64() -> None:
    X, y = points(np.uint8)
    as_bytes, as_ints = (KNeighborsClassifier().fit(data, y) for data in (X, X.astype(np.int16)))
    distances, indices = as_bytes.kneighbors(X[:9])
    assert distances.dtype == np.float64
    assert np.array_equal(as_ints.kneighbors(X[:9].astype(np.int16))[1], indices)
    assert np.array_equal(distances, np.sqrt(np.square(X[:9, None] - X[indices].astype(np.int64)).sum(2)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_memmap_is_not_copied(tmp_path: Path, dtype: Any, mode: Any) -> None:
    itemsize = np.dtype(dtype).itemsize
    shape = 64 * MIB // (512 * itemsize), 512
    rng = np.random.default_rng(0)
    rng.integers(0, 256, 64 * MIB // itemsize, dtype=np.uint8).astype(dtype).tofile(tmp_path / "points")
    X, y = np.memmap(tmp_path / "points", dtype, mode, shape=shape), np.arange(shape[0]) % 10
    queries = np.array(X[-20:])
    classifier = KNeighborsClassifier(1, memory_budget=4 * MIB)
    classifier.fit(X[:500], y[:500]).predict(queries)           # compiles
    tracemalloc.start()
    try:
        predictions = classifier.fit(X, y).predict(queries)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(predictions, y[-20:])
    assert peak < 16 * MIB


def test_the_memory_budget_reaches_the_search() -> None:
    X, y = points()
    with pytest.raises(ValueError, match="memory_budget: expected at least"):
        KNeighborsClassifier(memory_budget=1).fit(X, y).predict(X)


def test_digits_as_they_are() -> None:
    train, test = fastnn.data.digits().train, fastnn.data.digits().test
    classifier = KNeighborsClassifier(3).fit(train.images.reshape(-1, 64), train.labels)
    assert classifier.score(test.images.reshape(-1, 64), test.labels) >= 0.985


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"n_neighbors": 0}, ValueError, "n_neighbors: expected at least 1, got 0"),
    ({"n_neighbors": 2.5}, TypeError, "n_neighbors: expected an integer, got 2.5"),
    ({"n_neighbors": 301}, ValueError, "n_neighbors: expected at most n_samples = 300, got 301"),
    ({"weights": "near"}, ValueError, "weights: expected one of uniform, distance, got 'near'"),
    ({"memory_budget": 0}, ValueError, "memory_budget: expected at least 1, got 0"),
])
def test_wrong_parameters(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KNeighborsClassifier(**options).fit(*points())


def test_too_many_neighbors_in_a_search() -> None:
    X, y = points()
    classifier = KNeighborsClassifier().fit(X, y)
    with pytest.raises(ValueError, match="n_neighbors: expected at most 300, the points there are, got 301"):
        classifier.kneighbors(X, 301)
    with pytest.raises(ValueError, match="at most 299, the points there are beside a point itself, got 300"):
        classifier.kneighbors(n_neighbors=300)
