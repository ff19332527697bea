"""What the table of kernels cannot say of distances: cancellation, exactness, order of neighbours, memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numba import config

import fastnn
from fastnn import kernels

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes long uncompiled")
DTYPES = [np.float32, np.float64, np.uint8]


def _points(n: int, dimensions: int, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return (256 * np.random.default_rng(seed).random((n, dimensions))).astype(dtype)


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances in float64, row by row."""
    return np.stack([((row.astype(np.float64) - y) ** 2).sum(-1) for row in x])


def _brute_force(queries: np.ndarray, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The neighbours by a stable sort of the whole matrix, which puts NaN last and ties in order."""
    squares = kernels.pairwise_l2(queries, points, squared=True)
    indices = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squares, indices, 1), indices


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    fastnn.set_num_threads(None)


# --- cancellation: scikit-learn#9354, pytorch#42479, faiss#3245 ----------------------------------------------


def _far_from_the_origin() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (4e6 + 2e3 * rng.standard_normal((5200, 3))).astype(np.float32)


def _two_clusters() -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = np.where(np.arange(2200) % 2, 500.0, -500.0)[:, None] / np.sqrt(64)
    return (centers + 0.05 * rng.standard_normal((2200, 64))).astype(np.float32)


@compiled
@pytest.mark.parametrize("data", [_far_from_the_origin, _two_clusters])
def test_first_neighbours_are_right_where_the_expanded_form_cancels(data: object) -> None:
    queries, points = np.split(data(), [200])
    truth = _squares(queries, points)
    distances, indices = kernels.knn(queries, points, 1)
    found = np.take_along_axis(truth, indices, 1)[:, 0]
    assert np.mean(indices[:, 0] == truth.argmin(1)) == 1
    np.testing.assert_allclose(distances[:, 0], np.sqrt(found), rtol=1e-5)
    assert np.mean(kernels.pairwise_l2(queries, points, algorithm="gemm").argmin(1) == truth.argmin(1)) < 0.9


# --- documented errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimensions", [1, 3, 255, 256, 257, 3072])
def test_errors_are_those_documented(dimensions: int, dtype: type) -> None:
    x, y = _points(20, dimensions, dtype), _points(40, dimensions, dtype, seed=1)
    truth = ((x[:, None].astype(np.longdouble) - y) ** 2).sum(-1)
    eps = np.finfo(dtype).eps
    error = np.abs(kernels.pairwise_l2(x, y, squared=True) - truth)
    assert np.all(error <= eps / 2 * (min(dimensions, 256) + dimensions / 256 + 3) * truth)
    lengths = np.sqrt((x.astype(float) ** 2).sum(-1)[:, None] * (y.astype(float) ** 2).sum(-1))
    error = np.abs(kernels.pairwise_l2(x, y, squared=True, algorithm="gemm") - truth)
    assert np.all(error <= eps * (min(dimensions, 256) + 2) * lengths + eps * truth)


@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("dimensions", [1, 256, 257, 1000])
def test_bytes_are_exact_at_their_largest(dimensions: int, algorithm: str) -> None:
    x = np.zeros((2, dimensions), np.uint8)
    x[1] = 255
    squares = kernels.pairwise_l2(x, 255 - x, squared=True, algorithm=algorithm)
    assert squares.dtype == np.int64
    np.testing.assert_array_equal(squares, 65025 * dimensions * np.array([[1, 0], [0, 1]]))
    roots = kernels.pairwise_l2(x, 255 - x, algorithm=algorithm)
    assert roots.dtype == np.float64
    np.testing.assert_array_equal(roots, np.sqrt(squares))
    assert kernels.knn(x, x, 1, squared=True)[0].dtype == np.int64
    assert kernels.knn(x, x, 1)[0].dtype == np.float64


def test_gemm_is_never_negative_and_keeps_nan() -> None:
    x = np.float32(1e4) + _points(50, 7)
    assert np.all(kernels.pairwise_l2(x, x, squared=True, algorithm="gemm") >= 0)
    x[0, 0], x[1, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        distances = kernels.pairwise_l2(x, x, algorithm="gemm")
    assert np.isnan(distances[:2]).all()
    assert np.isnan(distances[:, :2]).all()
    assert np.isfinite(distances[2:, 2:]).all()


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_infinite_coordinates_are_infinitely_far(target: str) -> None:
    x = np.array([[np.inf, 0.0], [-np.inf, 0.0], [0.0, 0.0], [np.nan, 0.0]])
    with np.errstate(invalid="ignore"):
        distances = kernels.pairwise_l2(x, x, target=target)
    inf, nan = np.inf, np.nan
    np.testing.assert_array_equal(
        distances, [[nan, inf, inf, nan], [inf, nan, inf, nan], [inf, inf, 0, nan], [nan, nan, nan, nan]])


# --- the bits of a distance depend on its two points alone -----------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("dimensions", [3, 300])
def test_bits_do_not_depend_on_place(dimensions: int, algorithm: str, dtype: type) -> None:
    x, y = _points(300, dimensions, dtype), _points(70, dimensions, dtype, seed=1)
    whole = kernels.pairwise_l2(x, y, algorithm=algorithm)
    np.testing.assert_array_equal(kernels.pairwise_l2(y, x, algorithm=algorithm), whole.T)
    np.testing.assert_array_equal(kernels.pairwise_l2(x[13:17], y[31:64], algorithm=algorithm), whole[13:17, 31:64])
    np.testing.assert_array_equal(kernels.pairwise_l2(x[299:], y[69:], algorithm=algorithm), whole[299:, 69:])


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_depend_on_no_other_query_no_budget_and_no_threads(dtype: type, threads: None) -> None:
    queries, points = _points(240, 24, dtype), _points(5000, 24, dtype, seed=1)
    expected = _brute_force(queries, points, 7)
    for count in (1, 2, 3):
        fastnn.set_num_threads(count)
        for budget in (None, 1 << 19, 1 << 20):
            for actual, right in zip(kernels.knn(queries, points, 7, squared=True, memory_budget=budget), expected):
                np.testing.assert_array_equal(actual, right)
        for one in (0, 13, 14, 239):
            for actual, right in zip(kernels.knn(queries[one:one + 1], points, 7, squared=True), expected):
                np.testing.assert_array_equal(actual, right[one:one + 1])


# --- order of neighbours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("queries", "points", "dimensions", "k"), [
    pytest.param(1, 9000, 2, 5, marks=compiled), (3, 40, 5, 40), (100, 33, 1, 32), (2, 1, 3, 1), (1, 300, 700, 300),
    (460, 20, 0, 3),
])
def test_neighbours_are_those_of_a_full_sort(queries: int, points: int, dimensions: int, k: int, dtype: type) -> None:
    x, y = np.floor(_points(queries, dimensions) / 64).astype(dtype), np.floor(_points(points, dimensions, seed=1) / 64)
    for actual, right in zip(kernels.knn(x, y.astype(dtype), k, squared=True), _brute_force(x, y.astype(dtype), k)):
        np.testing.assert_array_equal(actual, right)


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_ties_go_to_the_lowest_index(target: str) -> None:
    points = np.zeros((40 if target == "naive" else 20_000, 3), np.float32)
    distances, indices = kernels.knn(np.ones((2, 3), np.float32), points, 6, squared=True, target=target)
    np.testing.assert_array_equal(indices, [range(6)] * 2)
    np.testing.assert_array_equal(distances, np.full((2, 6), 3))


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_comes_after_inf_and_in_order(dtype: type, target: str) -> None:
    points = np.array([[np.nan], [np.inf], [3.0], [np.nan], [-np.inf], [1.0], [np.nan]], dtype)
    with np.errstate(invalid="ignore"):
        distances, indices = kernels.knn(np.array([[1.0], [np.nan]], dtype), points, 7, target=target)
    np.testing.assert_array_equal(indices, [[5, 2, 1, 4, 0, 3, 6], range(7)])
    np.testing.assert_array_equal(distances[0], [0, 2, np.inf, np.inf, np.nan, np.nan, np.nan])
    assert np.isnan(distances[1]).all()


def test_nan_is_never_nearer_in_any_slice() -> None:
    points = _points(9000, 4)
    points[::2] = np.nan
    _, indices = kernels.knn(points[1:2], points, 4500)
    assert indices[0, 0] == 1
    assert np.all(indices % 2 == 1)


@pytest.mark.peers
@pytest.mark.parametrize("squared", [False, True])
def test_neighbours_are_torchs(squared: bool) -> None:
    torch = pytest.importorskip("torch")
    queries, points = _points(30, 19, np.float64), _points(400, 19, np.float64, seed=1)
    distances = torch.cdist(torch.tensor(queries), torch.tensor(points), compute_mode="donot_use_mm_for_euclid_dist")
    expected, indices = torch.topk(distances, 8, largest=False)
    actual = kernels.knn(queries, points, 8, squared=squared)
    np.testing.assert_allclose(actual[0], expected.numpy() ** (2 if squared else 1), rtol=1e-13)
    np.testing.assert_array_equal(actual[1], indices.numpy())


# --- memory --------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_points_is_never_copied(dtype: type, tmp_path: Path) -> None:
    points = np.memmap(tmp_path / "points", dtype, "w+", shape=(40_000, 96))
    points[:] = _points(40_000, 96, dtype)
    queries = np.array(points[[7, 39_999, 20_000]])
    kernels.knn(queries, points, 3)                            # what the first call compiles is not counted
    tracemalloc.start()
    _, indices = kernels.knn(queries, points, 3, memory_budget=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(indices[:, 0], [7, 39_999, 20_000])
    assert peak <= 1 << 20 < points.nbytes


@compiled
def test_the_budget_bounds_what_many_queries_take(threads: None) -> None:
    fastnn.set_num_threads(1)
    queries, points = _points(4000, 64), _points(50, 64)
    kernels.knn(queries, points, 2)
    tracemalloc.start()
    distances, indices = kernels.knn(queries, points, 2, memory_budget=400_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 400_000 + distances.nbytes + indices.nbytes
    assert queries.nbytes > 2 * 400_000


def test_a_budget_too_small_is_refused_with_the_least_that_works(threads: None) -> None:
    fastnn.set_num_threads(1)
    queries, points = _points(20, 64), _points(50, 64)
    with pytest.raises(ValueError, match=r"memory_budget: expected at least \d+ bytes .* got 1000$") as refused:
        kernels.knn(queries, points, 2, memory_budget=1000)
    least = int(str(refused.value).split()[4])
    expected = kernels.knn(queries, points, 2)
    np.testing.assert_array_equal(kernels.knn(queries, points, 2, memory_budget=least), expected)
    with pytest.raises(ValueError, match=f"memory_budget: expected at least {least} bytes"):
        kernels.knn(queries, points, 2, memory_budget=least - 1)
    with pytest.raises(ValueError, match="memory_budget: expected at least 1, got 0"):
        kernels.knn(queries, points, 2, memory_budget=0)


def test_points_of_mixed_or_wrong_dtypes_are_refused() -> None:
    x = _points(3, 2)
    with pytest.raises(TypeError, match=r"points: expected uint8 as queries has, got float32"):
        kernels.knn(x.astype(np.uint8), x, 1)
    with pytest.raises(TypeError, match=r"x: expected float32, float64 or uint8, got int8"):
        kernels.pairwise_l2(x.astype(np.int8), x)
    with pytest.raises(TypeError, match=r"out: expected int64, got float64"):
        kernels.pairwise_l2(x.astype(np.uint8), x.astype(np.uint8), squared=True, out=np.empty((3, 3)))
    with pytest.raises(ValueError, match=r"k: expected from 1 to the number of points, 0, got 1"):
        kernels.knn(x, x[:0], 1)
