"""The direct convolution: every shape of its tile, its fused epilogue, depthwise filters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels._cpu.llvm import lanes
from fastnn.kernels._cpu.tiles import tile_shape
from fastnn.kernels.conv import depthwise, narrow
from fastnn.testing import assert_close

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 2, 5, 19), (1, 2, 3, 3), {"padding": 1}),                  # rows longer than a vector, one filter
    ((2, 3, 6, 37), (3, 3, 3, 3), {"padding": 1}),
    ((1, 5, 4, 4), (31, 5, 3, 3), {"padding": 1}),                  # one vector of pixels, many filters
    ((1, 130, 6, 5), (11, 130, 2, 2), {}),                          # more taps than one running sum
    ((2, 4, 18, 18), (8, 4, 3, 3), {"stride": 2, "padding": 1}),
    ((1, 3, 20, 21), (14, 3, 4, 4), {"stride": 4}),
    ((1, 2, 20, 20), (5, 2, 3, 3), {"stride": 3, "padding": 2}),
    ((2, 3, 8, 8), (6, 3, 4, 4), {"stride": 4}),                    # patches: its gradient is one product
    ((2, 4, 8, 12), (6, 2, 4, 2), {"stride": (4, 2), "groups": 2}),
    ((17, 3, 3, 7), (4, 3, 1, 1), {}),                              # rows merged into one
    ((1, 4, 9, 20), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
    ((2, 3, 9, 7), (6, 1, 3, 2), {"stride": 2, "padding": 1, "groups": 3}),
    ((2, 3, 9, 37), (3, 1, 3, 3), {"stride": 2, "padding": 1, "groups": 3}),
    ((1, 2, 9, 7), (2, 1, 2, 2), {"stride": (4, 3), "padding": (1, 0), "groups": 2}),      # pixels that no tap reaches,
    ((1, 2, 2, 2), (2, 1, 1, 1), {"stride": 3, "padding": 1, "groups": 2}),                # none that one reaches
    ((1, 2, 9, 9), (2, 1, 5, 6), {"padding": 2, "groups": 2}),      # depthwise with too many taps for registers
    ((1, 40, 7, 9), (36, 40, 3, 3), {"padding": 1}),                # filters turned round in vectors
    ((1, 38, 5, 6), (30, 19, 5, 5), {"padding": 2, "groups": 2}),
    ((3, 40, 6, 6), (34, 40, 3, 3), {"padding": 1, "stride": 2}),   # a gradient packed once for several blocks
]
NARROW: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 9, 8, 8), (130, 9, 3, 3), {"padding": 1}),                 # one image, whose scratch many blocks share
    ((70, 5, 3, 4), (40, 5, 3, 3), {"padding": 1, "stride": 2}),    # several images to a block, and some left over
    ((3, 12, 7, 7), (48, 6, 3, 3), {"padding": 2, "dilation": 2, "groups": 2}),
    ((2, 200, 2, 3), (17, 200, 1, 1), {}),                          # two running sums
    ((5, 20, 9, 14), (16, 20, 5, 3), {"padding": (2, 1), "stride": (1, 2)}),
]
SHAPES += NARROW


@pytest.mark.parametrize(("image", "filters", "options"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_naive(image: tuple, filters: tuple, options: dict, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in (image, filters, filters[:1]))
    y = kernels.conv2d(x, weight, bias, algorithm="direct", **options)
    assert_close(y, kernels.conv2d(x, weight, bias, target="naive", **options))
    grad = rng.standard_normal(y.shape).astype(dtype)
    assert_close(kernels.conv2d_backward(grad, x, weight, algorithm="direct", **options),
                 kernels.conv2d_backward(grad, x, weight, target="naive", **options), gradient=True)


@pytest.mark.parametrize(("image", "filters", "options"), NARROW)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_narrow_images_have_the_bits_of_wide_ones(image: tuple, filters: tuple, options: dict, dtype: type,
                                                  tune: Any) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(image).astype(dtype), rng.standard_normal(filters).astype(dtype)
    bias = rng.standard_normal(filters[0]).astype(dtype)

    def both() -> tuple[Any, Any]:
        y = kernels.conv2d(x, weight, bias, algorithm="direct", activation="relu", **options)
        grad = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
        return y, kernels.conv2d_backward(grad, x, weight, algorithm="direct", needs=(True, False, False), **options)[0]

    y, grad_x = both()
    alone = kernels.conv2d(x[-1:], weight, bias, algorithm="direct", activation="relu", **options)
    assert alone.tobytes() == y[-1:].tobytes()
    tune(narrow, "fits", lambda *shape: False)
    assert [array.tobytes() for array in both()] == [y.tobytes(), grad_x.tobytes()]


def test_relu_gives_the_bits_of_the_plain_call() -> None:
    rng = np.random.default_rng(0)
    for image, filters, options in SHAPES:
        x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in (image, filters, filters[:1]))
        x[0, 0, 1, 1] = np.nan
        plain = kernels.conv2d(x, weight, bias, algorithm="direct", **options)
        y = kernels.conv2d(x, weight, bias, algorithm="direct", activation="relu", **options)
        assert y.tobytes() == np.where(plain < 0, np.float32(0), plain).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_belongs(value: float) -> None:
    """Vectors read beyond the ends of rows: nothing of that may reach a result."""
    rng = np.random.default_rng(0)
    for image, filters, options in SHAPES:
        x, weight = rng.standard_normal(image), rng.standard_normal(filters)
        x[0, 0, -1, -1] = x[-1, -1, 0, 0] = value
        with np.errstate(invalid="ignore"):
            y = kernels.conv2d(x, weight, algorithm="direct", **options)
            assert_close(y, kernels.conv2d(x, weight, target="naive", **options))
            grad = rng.standard_normal(y.shape)
            assert_close(kernels.conv2d_backward(grad, x, weight, algorithm="direct", **options)[1],
                         kernels.conv2d_backward(grad, x, weight, target="naive", **options)[1], gradient=True)


def test_depthwise_bands(tune: Any) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 3, 11, 21)), rng.standard_normal((3, 1, 3, 3))
    assert depthwise.fits(weight)
    tune(depthwise, "_BAND", 9)
    tune(depthwise, "DEPTHWISE_SCRATCH", 60)
    for options in ({"padding": 1, "groups": 3}, {"padding": 1, "groups": 3, "stride": 2}):
        y = kernels.conv2d(x, weight, algorithm="direct", activation="relu", **options)
        assert_close(y, kernels.conv2d(x, weight, target="naive", activation="relu", **options))
        grad = rng.standard_normal(y.shape)
        assert_close(kernels.conv2d_backward(grad, x, weight, algorithm="direct", **options),
                     kernels.conv2d_backward(grad, x, weight, target="naive", **options), gradient=True)


def test_a_tile_fits_its_product() -> None:
    """There are few shapes of tiles, as each is compiled, and none is larger than the registers."""
    shapes = {tile_shape(rows, vectors) for rows in range(1, 300) for vectors in (1, 2, 3, 7, 100)}
    assert len(shapes) <= 10
    assert lanes(np.empty(0, np.float32)) == 2 * lanes(np.empty(0))
