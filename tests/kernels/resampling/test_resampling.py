"""What the table of kernels cannot say of resampling: torch's rules of sizes and places, and what is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import config

from fastnn import kernels

BILINEAR = {"mode": "bilinear"}
CORNERS = {"mode": "bilinear", "align_corners": True}


@pytest.mark.peers
@pytest.mark.parametrize("options", [{}, BILINEAR, CORNERS], ids=str)
@pytest.mark.parametrize("size", [*range(1, 13), None])
def test_places_are_torchs(size: int | None, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 9))
    scale_factor = None if size else (1.3, 2.6)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(x), size, scale_factor, **options, **({} if options else {"mode": "nearest"})).numpy()
    for target in ("naive", "cpu"):
        ours = kernels.interpolate(x, size, scale_factor=scale_factor, **options, target=target)
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("target", ["naive", "cpu"])
@pytest.mark.parametrize("options", [{}, BILINEAR, CORNERS], ids=str)
def test_an_axis_that_keeps_its_size_stays(options: dict[str, Any], target: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(kernels.interpolate(x, (3, 4), **options, target=target), x)
    np.testing.assert_array_equal(kernels.interpolate(x, scale_factor=1.2, **options, target=target), x)
    np.testing.assert_array_equal(kernels.interpolate_backward(x, x.shape, **options, target=target), x)


def test_a_factor_decides_where_pixels_lie_and_a_size_does_not() -> None:
    """3 times 2.5 is 7 rows: 1 / 2.5 apart by the factor, 3 / 7 by the size."""
    x = np.arange(3.0).reshape(1, 1, 3, 1)
    by_factor = kernels.interpolate(x, scale_factor=(2.5, 1), mode="bilinear").ravel()
    by_size = kernels.interpolate(x, (7, 1), mode="bilinear").ravel()
    np.testing.assert_allclose(by_factor, [0, 0.1, 0.5, 0.9, 1.3, 1.7, 2])
    np.testing.assert_allclose(by_size, np.array([0, 1, 4, 7, 10, 13, 14]) / 7)


@pytest.mark.parametrize("options", [{}, BILINEAR], ids=str)
@pytest.mark.parametrize("shape", [(3, 40, 37), (5, 300, 6)] if config.DISABLE_JIT else [(3, 400, 370), (5, 3000, 6)])
def test_images_of_several_blocks_are_rows_by_columns(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """Rows, then columns; and the gradient is the transpose."""
    n, height, width = shape
    x = np.random.default_rng(0).standard_normal((n, 1, height, width))
    counts = height * 3 // 2, width * 2
    rows, columns = (kernels.interpolate(np.eye(size).reshape(1, 1, size, size), (count, size), **options)[0, 0]
                     for count, size in zip(counts, (height, width)))
    y = kernels.interpolate(x, counts, **options)
    np.testing.assert_allclose(y, rows @ x @ columns.T, atol=1e-13)
    np.testing.assert_allclose(kernels.interpolate_backward(y, x.shape, **options), rows.T @ y @ columns, atol=1e-12)


@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_factors_may_be_any_numbers(target: str) -> None:
    x = np.ones((1, 1, 2, 3))
    for factor in (2, 2.0, np.float32(2), [2, 2.0], (np.int64(2),), np.array([2.0, 2.0])):
        assert kernels.interpolate(x, scale_factor=factor, target=target).shape == (1, 1, 4, 6)
    for wrong in (True, "2", (2, None)):
        with pytest.raises(TypeError, match="scale_factor: expected a number, got"):
            kernels.interpolate(x, scale_factor=wrong, target=target)
