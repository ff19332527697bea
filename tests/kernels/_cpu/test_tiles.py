"""The vector building blocks, each by itself: the formula of its docstring, in NumPy."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from fastnn.kernels._cpu import tiles

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
RNG = np.random.default_rng(0)


def draw(*shape: int, dtype: Any) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def call(tile: Any, *args: Any) -> None:
    """Blocks are inlined into compiled functions."""
    count = len(args)
    names = ", ".join(f"a{i}" for i in range(count))
    scope = {"tile": tile}
    exec(f"def run({names}):\n    tile({names})\n", scope)
    numba.njit(error_model="numpy")(scope["run"])(*args)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=100 * np.finfo(actual.dtype).eps)


@DTYPES
@pytest.mark.parametrize("depth", [0, 1, 7])
def test_tiles_of_panels(dtype: Any, depth: int) -> None:
    columns = tiles.tile_columns(np.empty(0, dtype))
    for tile, rows, term in [(tiles.product_tile, tiles.ROWS, np.multiply),
                             (tiles.square_tile, tiles.ROWS, lambda x, y: (x - y) ** 2),
                             (tiles.square_row, 1, lambda x, y: (x - y) ** 2)]:
        a, b, c = draw(depth + 1, rows, dtype=dtype), draw(depth + 2, columns, dtype=dtype), draw(rows, 50, dtype=dtype)
        expected = c.copy()
        expected[:, 3 : 3 + columns] += term(a[1:, :, None], b[2:, None, :]).sum(0)
        call(tile, a.reshape(-1), rows, b.reshape(-1), 2 * columns, depth, c.reshape(-1), 3, 50)
        close(c, expected)


@DTYPES
@pytest.mark.parametrize(("rows", "vectors"), [(3, 2), (1, 3)])
def test_gather_tile(dtype: Any, rows: int, vectors: int) -> None:
    """Vectors of b and c lie anywhere; rows beyond `inside` are left alone."""
    width = tiles.lanes(np.empty(0, dtype))
    begins, c_begins = np.array([5, 40, 1])[:vectors], np.array([60, 2, 130])[:vectors]
    offsets, start = np.array([3, 0, 11, 7]), draw(rows, vectors * width, dtype=dtype)
    a, b = draw(len(offsets), rows, dtype=dtype), draw(80, dtype=dtype)
    for positive in (0, 1):
        c = draw(200 * rows, dtype=dtype)
        expected = c.copy()
        for i in range(rows - 1):
            for v in range(vectors):
                for j in range(width):
                    value = start[i, v * width + j] + (a[:, i] * b[begins[v] + offsets + j]).sum()
                    expected[c_begins[v] + i * 190 + j] = max(0, value) if positive else value
        call(tiles.gather_tile(rows, vectors), a, b, begins, offsets, start, positive, c, c_begins, 190, rows - 1)
        close(c, expected)


@DTYPES
@pytest.mark.parametrize(("parts", "run", "vectors", "apart"), [(2, 3, 2, 0), (1, 4, 1, 1)])
def test_walk_tile(dtype: Any, parts: int, run: int, vectors: int, apart: int) -> None:
    width = tiles.lanes(np.empty(0, dtype))
    begins, offsets = np.array([4, 9]), np.array([1, 30, 2])
    rows = (begins[:parts, None] + np.arange(run) * (apart * width or 1)).ravel()
    a, b = draw(120, dtype=dtype), draw(len(offsets), vectors * width, dtype=dtype)
    for first in (0, 1):
        c = draw(parts * run, vectors * width, dtype=dtype)
        expected = (0 if first else c) + a[rows[:, None] + offsets] @ b
        call(tiles.walk_tile(parts, run, vectors, apart), a, begins, offsets, b, first, c)
        close(c, expected)


@DTYPES
def test_dot_tile(dtype: Any) -> None:
    width = tiles.lanes(np.empty(0, dtype))
    begins, offsets = np.array([4, 0, 9]), np.array([1, 30])
    a, b, c = draw(80, dtype=dtype), draw(2 * width, dtype=dtype), draw(3, width, dtype=dtype)
    expected = c + sum(a[begins[:, None] + offsets[k] + np.arange(width)] * b[k * width : (k + 1) * width]
                       for k in range(2))
    call(tiles.dot_tile(3), a, begins, offsets, b, c)
    close(c, expected)


@DTYPES
def test_stencil_tile(dtype: Any) -> None:
    offsets, weights, a = np.array([3, 0, 12]), draw(3, dtype=dtype), draw(120, dtype=dtype)
    for positive in (0, 1):
        c = np.zeros(80, dtype)
        expected = 0.5 + sum(weights[k] * a[offsets[k] : offsets[k] + 37] for k in range(3))
        call(tiles.stencil_tile(3), a, offsets, weights, dtype(0.5), positive, c, 37)
        close(c[:37], np.maximum(expected, 0) if positive else expected)


@DTYPES
def test_copies_and_transposes(dtype: Any) -> None:
    width = tiles.lanes(np.empty(0, dtype))
    a, b = draw(20 * width + 9, dtype=dtype), np.zeros(20 * width + 9, dtype)
    call(tiles.transpose_tile, a, 2, width + 1, b, 3, width + 4)
    for i in range(width):
        np.testing.assert_array_equal(b[3 + i * (width + 4) :][:width], a[2 + i :: width + 1][:width])
    for step in (0, 1, 2, 4):
        b[:] = 7
        call(tiles.copy_vector(step), a, 5, b, 3)
        np.testing.assert_array_equal(b[3 : 3 + width], a[5::step][:width] if step else 0)
        assert (b[:3] == 7).all()
        assert (b[3 + width :] == 7).all()
