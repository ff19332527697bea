"""What the table of kernels cannot say of distances: cancellation, exactness, order of neighbours, memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
from numba import config

import fastnn
from fastnn import kernels
from fastnn.kernels import _memory, distance
from fastnn.kernels._cpu import dot
from fastnn.kernels._cpu.vectors import STREAMED
from fastnn.kernels.distance import bytewise, filtered

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="takes long uncompiled")
UNITS = [True, False] if dot.matrix_unit() else [False]      # with AMX, if it is there, and without
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


def _plan_anew(monkeypatch: pytest.MonkeyPatch, module: ModuleType, unit: bool) -> None:
    """Have a module make new plans, with the matrix unit or without."""
    monkeypatch.setattr(module, "matrix_unit", lambda: unit)
    for kernel in (distance._knn, distance._pairwise_l2):
        monkeypatch.setattr(kernel, "plans", {})


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
    assert np.all(error <= eps * (min(dimensions, 256) + dimensions / 256 + 2) * lengths + eps * truth)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("dimensions", [1, 63, 64, 257, 32768, 33100, 70_000])
def test_bytes_are_exact_at_their_largest(dimensions: int, algorithm: str, unit: bool,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    _plan_anew(monkeypatch, bytewise, unit)
    x = np.zeros((2, dimensions), np.uint8)
    x[1] = 255
    squares = kernels.pairwise_l2(x, 255 - x, squared=True, algorithm=algorithm)
    assert squares.dtype == np.int64
    np.testing.assert_array_equal(squares, 65025 * dimensions * np.array([[1, 0], [0, 1]]))
    roots = kernels.pairwise_l2(x, 255 - x, algorithm=algorithm)
    assert roots.dtype == np.float64
    np.testing.assert_array_equal(roots, np.sqrt(squares))
    farthest, _ = kernels.knn(x, 255 - x, 2, squared=True)
    np.testing.assert_array_equal(farthest, 65025 * dimensions * np.array([[0, 1], [0, 1]]))
    assert kernels.knn(x, x, 1, squared=True)[0].dtype == np.int64
    assert kernels.knn(x, x, 1)[0].dtype == np.float64


def test_gemm_is_never_negative_and_keeps_nan() -> None:
    x = np.float32(1e4) + _points(50, 7)
    assert np.all(kernels.pairwise_l2(x, x, squared=True, algorithm="gemm") >= 0)
    x[0, 0], x[1, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        distances = kernels.pairwise_l2(x, x, algorithm="gemm")
    assert np.isnan(distances[0]).all()
    assert (distances[1, 2:] == np.inf).all()               # not inf - inf
    assert np.isnan(distances[1, 1])
    assert np.isnan(distances[:, 0]).all()
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
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("algorithm", ["direct", "gemm"])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_large_results_are_written_whole(offset: int, algorithm: str, squared: bool) -> None:
    """What goes past the caches begins and ends at vectors of the memory, not of the rows."""
    x, y = _points(2100, 5), _points(2003, 5, seed=1)
    memory = np.full(2 * offset + 2100 * 2003, -1, np.float32)
    out = memory[offset : memory.size - offset].reshape(2100, 2003)
    assert out.nbytes >= STREAMED
    kernels.pairwise_l2(x, y, squared=squared, algorithm=algorithm, out=out)
    assert np.all(memory[:offset] == -1)
    assert np.all(memory[memory.size - offset :] == -1)
    for first in range(0, 2100, 300):
        part = kernels.pairwise_l2(x[first : first + 300], y, squared=squared, algorithm=algorithm)
        np.testing.assert_array_equal(out[first : first + 300], part)


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
    (460, 20, 0, 3), pytest.param(70, 3000, 65, 40, marks=compiled), pytest.param(7, 100, 40_000, 3, marks=compiled),
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


# --- the filter: its answer is the direct one's, to the bit ------------------------------------------------------


def _assert_filter_is_direct(queries: np.ndarray, points: np.ndarray, k: int) -> None:
    with np.errstate(all="ignore"):
        expected = kernels.knn(queries, points, k, squared=True, algorithm="direct")
        actual = kernels.knn(queries, points, k, squared=True, algorithm="filter")
    for got, right in zip(actual, expected):
        np.testing.assert_array_equal(got, right)


def _kinds(dtype: type, dimensions: int) -> Iterator[tuple[str, np.ndarray]]:
    """Points of which the filter has it easy, hard, and impossible."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal((700, dimensions))
    yield "random", random
    yield "offset", random + 1000
    yield "clusters", random + 500 * (np.arange(700)[:, None] % 3)
    yield "duplicates", random[rng.integers(0, 40, 700)]
    yield "equal", np.ones((700, dimensions))
    yield "zero", np.zeros((700, dimensions))
    yield "near ties", 1 + 2.0**-9 * rng.integers(-1, 2, (700, dimensions)) + 1e-7 * random
    yield "many lengths", random * 10.0 ** rng.integers(-6, 7, (700, 1))
    yield "huge", random * 1e18
    yield "overflowing", random * 1e25
    yield "tiny", random * 1e-20
    yield "denormal", random * 1e-40
    yield "one far", np.where(np.arange(700)[:, None] == 333, 1e15, random)
    for name, value in (("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf)):
        planted = random.copy()
        planted[::37, dimensions // 2] = value
        yield name, planted


@compiled
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimensions", [1, 33, 300])
def test_the_filter_gives_the_direct_answer(dimensions: int, dtype: type, unit: bool,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    _plan_anew(monkeypatch, filtered, unit)
    for _, points in _kinds(dtype, dimensions):
        with np.errstate(over="ignore"):
            points = points.astype(dtype)
        _assert_filter_is_direct(points[::9][:70] * dtype(1.001), points, 10)
        _assert_filter_is_direct(points[:2], points[::-1], 64)


@pytest.mark.parametrize("unit", UNITS)
def test_the_filter_knows_its_own_rounding(unit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points in an order that is lost in bfloat16, and that a filter without a bound gets wrong."""
    _plan_anew(monkeypatch, filtered, unit)
    rng = np.random.default_rng(0)
    directions = rng.choice([-1.0, 1.0], (300, 40))
    points = (directions * (1 + 1e-5 * rng.permutation(300)[:, None])).astype(np.float32)
    _assert_filter_is_direct(np.zeros((40, 40), np.float32), points, 5)
    _assert_filter_is_direct(points[:40], points + np.float32(1e-4), 5)


def _errors_of_bfloat16(values: np.ndarray) -> np.ndarray:
    """What round-to-nearest bfloat16 leaves of float32 numbers, by NumPy alone."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    return values.astype(np.float64) - np.where(np.abs(rounded) < 2.0**-126, 0, rounded)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("scale", [1.0, 1e-37, 1e15])
def test_operands_of_the_filter_are_within_their_bounds(scale: float, unit: bool) -> None:
    queries = (scale * np.random.default_rng(0).standard_normal((40, 77))).astype(np.float32)
    packed = np.empty((2, 3 if unit else 5, 2, 16, 16), np.uint32)
    norms, residuals = np.empty((2, 64))
    filtered._pack_queries(2, queries, np.zeros(77, np.float32), unit, packed, norms, residuals, work=0)
    words = packed.transpose(0, 2, 3, 1, 4).reshape(64, -1).copy()
    if unit:
        found = (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32)[:40, :77]
        np.testing.assert_array_equal(queries.astype(np.float64) - found, _errors_of_bfloat16(queries))
    else:
        found = words.view(np.float32)[:40, :77]
    left = np.linalg.norm(queries.astype(np.float64) - found, axis=1)
    length = np.linalg.norm(queries.astype(np.float64), axis=1)
    assert np.all((left <= residuals[:40]) & (residuals[:40] <= 1.001 * left + 1e-6 * length + 1e-38))
    assert np.all((length <= norms[:40]) & (np.linalg.norm(found.astype(np.float64), axis=1) <= norms[:40]))


@compiled
def test_the_filter_rules_out_where_it_can_and_gives_up_where_it_cannot() -> None:
    points = _points(4000, 64) + np.float32(1e5)
    heaps, indices = np.empty((200, 10), np.float32), np.empty((200, 10), np.int64)
    gives_up = filtered.plan_search(points[:200], points, 10, 1)
    assert not gives_up(points[:200], points, heaps, indices)
    assert gives_up(points[:200], np.ones_like(points), heaps, indices)
    assert gives_up(points[:200], np.full_like(points, np.nan), heaps, indices)


@compiled
@pytest.mark.parametrize("algorithm", ["direct", "filter"])
def test_algorithms_do_not_depend_on_threads_or_budget(algorithm: str, threads: None) -> None:
    queries, points = _points(1100, 70), _points(5000, 70, seed=1)
    expected = kernels.knn(queries, points, 7, algorithm="direct")
    for count in (1, 2):
        fastnn.set_num_threads(count)
        for budget in (None, 1 << 19, 6 << 20):
            for actual, right in zip(kernels.knn(queries, points, 7, algorithm=algorithm, memory_budget=budget),
                                     expected):
                np.testing.assert_array_equal(actual, right)


# --- the tiles of dot products -----------------------------------------------------------------------------------


def _panels(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of 32-bit words as a left and a right panel."""
    steps = words.reshape(2, 16, -1, 16)
    return np.ascontiguousarray(steps.transpose(2, 0, 1, 3)), np.ascontiguousarray(steps.transpose(2, 0, 3, 1))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_byte_tile_is_exact(steps: int, unit: bool) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (2, 32, 64 * steps)).astype(np.uint8)
    x[:3], y[:2] = 0, 255
    tile = np.full((32, 32), 7, np.int32)
    _byte_tile(_panels(x.view(np.uint32))[0], _panels(y.view(np.uint32))[1], tile, unit)
    np.testing.assert_array_equal(tile, (x if unit else x.view(np.int8)).astype(int) @ y.T.astype(int))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("steps", [1, 5])
def test_float_tile_is_within_its_bound(steps: int, unit: bool) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 32, 16 * steps * (2 if unit else 1))).astype(np.float32)
    tile = np.full((32, 32), np.nan, np.float32)
    if unit:
        x, y = (values.view(np.uint32) >> 16 << 16 for values in (x, y))
        left, right = ((bits >> 16).astype(np.uint16).view(np.uint32) for bits in (x, y))
        x, y = x.view(np.float32), y.view(np.float32)
    else:
        left, right = x.view(np.uint32), y.view(np.uint32)
    _float_tile(_panels(left)[0], _panels(right)[1], tile, unit)
    bound = (x.shape[1] + 2) * 2.0**-24 * (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1))
    assert np.all(np.abs(tile - x.astype(np.float64) @ y.T) <= bound)


@numba.njit(error_model="numpy")
def _byte_tile(a: np.ndarray, b: np.ndarray, c: np.ndarray, unit: bool) -> None:
    dot.start_unit(unit)
    dot.byte_tile(a, b, c, unit)
    dot.stop_unit(unit)


@numba.njit(error_model="numpy")
def _float_tile(a: np.ndarray, b: np.ndarray, c: np.ndarray, unit: bool) -> None:
    dot.start_unit(unit)
    dot.float_tile(a, b, c, unit)
    dot.stop_unit(unit)


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
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", ["direct", "filter"])
@pytest.mark.parametrize(("count", "n", "budget"), [(4000, 50, 400_000), (4100, 50, 1 << 20), (1500, 9000, 3 << 20)])
def test_the_budget_bounds_what_many_queries_take(count: int, n: int, budget: int, algorithm: str, dtype: type,
                                                  threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fastnn.set_num_threads(1)
    queries, points = _points(count, 64, dtype), _points(n, 64, dtype)
    kernels.knn(queries, points, 2, algorithm=algorithm, memory_budget=budget)      # what compiles is not counted
    monkeypatch.setattr(_memory, "_pool", _memory._Pool())
    for _ in range(2):                                      # the pool is cold, then warm
        tracemalloc.start()
        distances, indices = kernels.knn(queries, points, 2, algorithm=algorithm, memory_budget=budget)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= budget + distances.nbytes + indices.nbytes
        del distances, indices


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
