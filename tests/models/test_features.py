"""Nearest neighbours and Gabor filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastnn import data, models, testing
from fastnn.models.gabor import gabor_filters
from fastnn.models.nearest_neighbors import cross_validate, vote

# --- nearest neighbours ---


def test_most_votes_win_and_the_nearest_of_equals() -> None:
    assert vote(np.array([[1, 2, 2], [2, 1, 0], [0, 1, 1], [3, 3, 0]])).tolist() == [2, 2, 1, 3]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (200, 7))
    for row, winner in zip(labels, vote(labels)):
        counts = np.bincount(row, minlength=4)
        assert winner == next(label for label in row if counts[label] == counts.max())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_neighbours_are_those_of_brute_force(dtype: type) -> None:
    digits = data.digits()
    points, queries = digits.train.images.astype(dtype), digits.test.images[:50].astype(dtype)
    model = models.KNearestNeighbors(4).fit(points, digits.train.labels)
    distances, indices = model.neighbors(queries)
    all_pairs = np.linalg.norm(queries.reshape(50, 1, -1).astype(float) - points.reshape(1, len(points), -1), axis=2)
    np.testing.assert_array_equal(indices, np.argsort(all_pairs, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(distances, np.sort(all_pairs, axis=1)[:, :4], rtol=1e-6)


def test_points_may_be_a_memmap(tmp_path: Path) -> None:
    images = data.digits().train.images.reshape(-1, 64)
    images.tofile(tmp_path / "points")
    mapped = np.memmap(tmp_path / "points", np.uint8, "r", shape=images.shape)
    model = models.KNearestNeighbors(3, memory_budget=1 << 20).fit(mapped, data.digits().train.labels)
    assert np.shares_memory(model.points, mapped)
    expected = models.KNearestNeighbors(3).fit(images, data.digits().train.labels)
    np.testing.assert_array_equal(model.predict(images[:40]), expected.predict(images[:40]))


def test_each_point_is_in_one_fold() -> None:
    points = np.arange(12.0)[:, None]
    labels = np.arange(12) // 6
    accuracies = cross_validate(points, labels, [1, 2], folds=12)
    assert accuracies.shape == (12, 2)
    # Leaving one out, only the two points at the border see a neighbour of the other class as near as their own.
    assert accuracies[:, 0].sum() >= 10
    assert np.array_equal(accuracies, cross_validate(points, labels, [1, 2], folds=12))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: models.KNearestNeighbors(0), "k: expected at least 1, got 0"),
    (lambda: models.KNearestNeighbors(5).fit(np.zeros((3, 2)), np.zeros(3, int)), "points: expected at least k = 5,"),
    (lambda: models.KNearestNeighbors(1).fit(np.zeros((3, 2)), np.zeros(2, int)), "labels: expected an integer from 0"),
    (lambda: models.KNearestNeighbors(1).fit(np.zeros((3, 2)), np.zeros(3)), "labels: expected an integer from 0"),
    (lambda: models.KNearestNeighbors(1).fit(np.zeros((2, 2)), np.array([0, -1])), "labels: expected .*, least -1"),
    (lambda: models.KNearestNeighbors(1).fit(np.zeros((2, 2)), ["cat", "dog"]), "labels: expected an integer from 0"),
    (lambda: models.KNearestNeighbors(1).fit(np.zeros((2, 2)), [0, 1]).neighbors(np.zeros((1, 2)), 0), "k: expected"),
    (lambda: cross_validate(np.zeros((4, 2)), np.zeros(4, int), [1], folds=1), "folds: expected from 2 to the number"),
    (lambda: cross_validate(np.zeros((4, 2)), np.zeros(4, int), [3], folds=2), "ks: expected numbers from 1 to 2, the"),
    (lambda: cross_validate(np.zeros((4, 2)), np.zeros(4, int), [], folds=2), r"ks: expected numbers .* got \[\]"),
])
def test_what_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_no_queries_and_no_points() -> None:
    model = models.KNearestNeighbors(1).fit(np.zeros((2, 3)), [0, 1])
    assert model.predict(np.zeros((0, 3))).shape == (0,)
    with pytest.raises(RuntimeError, match="expected a call of fit before this one"):
        models.KNearestNeighbors().predict(np.zeros((1, 3)))


# --- Gabor filters ---


def test_filters_have_mean_0_and_norm_1_and_come_in_pairs() -> None:
    filters = gabor_filters(4, [0.1, 0.3], 9)
    assert filters.shape == (16, 1, 9, 9)
    np.testing.assert_allclose(filters.mean((2, 3)), 0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(filters, axis=(2, 3)), 1)
    even, odd = filters[:8], filters[8:]
    np.testing.assert_allclose(even, even[:, :, ::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(odd, -odd[:, :, ::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize("place", range(4))
def test_the_energy_is_largest_where_direction_and_width_fit(place: int) -> None:
    angle = np.pi * place / 4
    y, x = np.mgrid[:32, :32]
    waves = np.cos(2 * np.pi * 0.25 * (x * np.cos(angle) + y * np.sin(angle)) + 0.7)[None, None].astype(np.float32)
    energy = models.GaborBank(4, [0.1, 0.25], pool=32)(waves).ravel()
    assert energy.argmax() == 4 + place


def test_the_energy_does_not_depend_on_where_in_its_wave_an_edge_lies() -> None:
    x = np.arange(64)
    waves = np.stack([np.cos(2 * np.pi * 0.25 * x + phase) for phase in (0, 0.5, 1.5)]).astype(np.float32)
    images = np.repeat(waves[:, None, None], 64, axis=2)
    energy = models.GaborBank(1, [0.25], size=9, pool=1)(images)[:, 0, 10:-10, 10:-10]
    assert np.ptp(energy) < 0.02 * energy.mean()


def test_the_gradient_of_the_bank() -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 9, 8))
    checks = testing.check_gradients(models.GaborBank(3, (0.2, 0.4), size=5).to(np.float64), x)
    assert max(check.error for check in checks) <= 1e-7


@pytest.mark.parametrize(("options", "message"), [
    ({"orientations": 0}, "orientations: expected at least 1, got 0"),
    ({"frequencies": ()}, "frequencies: expected numbers above 0 and below 0.5 cycles a pixel"),
    ({"frequencies": (0.5,)}, "frequencies: expected numbers above 0"),
    ({"frequencies": (0.1, np.nan)}, "frequencies: expected numbers above 0"),
    ({"frequencies": 0.2}, "frequencies: expected numbers above 0"),
    ({"pool": 0}, "pool: expected at least 1, got 0"),
    ({"size": 4}, "size: expected an odd number from 3, got 4"),
])
def test_filters_that_cannot_be_made(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.GaborBank(**options)  # type: ignore[arg-type]
