"""Convolutions of little but zeros: costs, results and NaN where paddings and steps are far larger than the image."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels._cpu.compiler import config
from fastnn.kernels.conv import geometry, small
from fastnn.testing import KERNELS, assert_close

FAR = [2_000, 1 << 38]
CALLS: list[tuple[tuple[int, ...], tuple[int, ...], Any]] = [
    ((1, 4, 3, 3), (4, 4, 3, 3), lambda n: {"padding": n, "dilation": n}),
    ((1, 8, 3, 4), (8, 1, 3, 3), lambda n: {"padding": n, "dilation": n, "groups": 8}),
    ((2, 4, 3, 4), (6, 2, 3, 3), lambda n: {"padding": "same", "dilation": n, "groups": 2}),
    ((1, 4, 4, 3), (4, 4, 3, 2), lambda n: {"stride": n}),
    ((1, 8, 3, 3), (8, 8, 1, 1), lambda n: {"stride": n, "padding": n}),
    ((1, 8, 3, 3), (8, 8, 1, 1), lambda n: {"stride": n + 1, "padding": n}),
    ((1, 4, 3, 3), (4, 4, 3, 3), lambda n: {"stride": n, "padding": n, "dilation": n}),
    ((1, 2, 3, 5), (3, 2, 3, 2), lambda n: {"stride": (1, n), "padding": (n, n + 1), "dilation": (n, n)}),
]
TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], Any]] = [
    ((1, 4, 3, 3), (4, 4, 3, 3), lambda n: {"padding": n, "dilation": n}),
    ((1, 8, 3, 4), (8, 1, 3, 3), lambda n: {"padding": n, "dilation": n, "groups": 8}),
    ((1, 4, 1, 1), (4, 4, 3, 3), lambda n: {"stride": n}),
    ((1, 4, 3, 3), (4, 2, 3, 3), lambda n: {"stride": n, "padding": n, "groups": 2}),
    ((1, 8, 1, 1), (8, 8, 2, 2), lambda n: {"stride": n, "padding": n // 2, "output_padding": n - 1}),
]
WALK = [(name, image, filters, options) for name, calls in (("conv2d", CALLS), ("conv_transpose2d", TRANSPOSED))
        for image, filters, options in calls]


def run(name: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, grad: np.ndarray | None,
        **options: Any) -> tuple[np.ndarray, ...]:
    y = getattr(kernels, name)(x, weight, bias, **options)
    grads = getattr(kernels, f"{name}_backward")(np.ones_like(y) if grad is None else grad, x, weight, **options)
    return y, *grads


def draw(name: str, image: tuple, filters: tuple, dtype: Any, **options: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(dtype) for shape in (image, filters))
    y = getattr(kernels, name)(x, weight, **options)
    return [x, weight, rng.standard_normal(y.shape[1]).astype(dtype), rng.standard_normal(y.shape).astype(dtype)]


@pytest.mark.parametrize(("name", "image", "filters", "options"), WALK)
def test_costs_do_not_grow_with_a_number(name: str, image: tuple, filters: tuple, options: Any) -> None:
    """Scratch with the zeros around 4 x 4 pixels takes 355 MB at padding and dilation 2,000."""
    for n in FAR:
        arrays = draw(name, image, filters, np.float32, **options(n))
        for algorithm in ({}, {"algorithm": "direct"}) if name == "conv2d" else ({},):
            expected = run(name, *[a.astype(np.float64) for a in arrays], target="naive", **options(n))
            run(name, *arrays, **options(n), **algorithm)           # compiles
            tracemalloc.start()
            found = run(name, *arrays, **options(n), **algorithm)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert_close(found, expected, dtype=np.float32, gradient=True, what=f"{name} {options(n)}")
            assert peak < 1 << 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("name", "image", "filters", "options"), WALK)
def test_nan_and_inf_travel_as_in_naive(name: str, image: tuple, filters: tuple, options: Any, value: float) -> None:
    """A zero outside of the image times inf is NaN."""
    options = options(2000)
    arrays = draw(name, image, filters, np.float64, **options)
    for i in (0, 1, 3):
        planted = [a.copy() for a in arrays]
        planted[i].flat[arrays[i].size // 2] = value
        with np.errstate(invalid="ignore"):
            found = run(name, *planted, **options)
            expected = run(name, *planted, target="naive", **options)
        assert_close(found, expected, gradient=True, what=f"{name} {options} with {value} in argument {i}")


@pytest.mark.skipif(config.DISABLE_JIT, reason="takes long uncompiled")
def test_memory_goes_with_the_results_where_these_are_large() -> None:
    """Not with a padded copy of each channel."""
    x, weight = np.ones((1, 64, 2, 3), np.float32), np.ones((1, 64, 2, 3), np.float32)
    for options in ({"padding": 1000, "dilation": 500}, {"padding": 700, "stride": 2}):
        grad = kernels.conv2d(x, weight, **options)
        kernels.conv2d_backward(grad, x, weight, **options)
        tracemalloc.start()
        y = kernels.conv2d(x, weight, **options)
        kernels.conv2d_backward(grad, x, weight, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * y.nbytes


@pytest.mark.parametrize("name", ["conv2d", "conv2d_backward", "conv_transpose2d", "conv_transpose2d_backward"])
def test_every_sample_can_be_done_so(name: str, tune: Any) -> None:
    row = KERNELS[name]
    tune(geometry, "PADDED_ELEMENTS", -1)
    tune(geometry, "PADDED_MULTIPLE", -1)
    tune(small, "fits", lambda *arrays: False)
    for call in row.calls(np.dtype(np.float32)):
        if call.kwargs.get("algorithm", "direct") == "direct":
            assert_close(row(call), row(call.astype(np.float64), target="naive"), dtype=np.float32,
                         gradient=name.endswith("backward"), what=f"{name} {call.kwargs}")


def test_a_long_sum_keeps_the_bound() -> None:
    """|error| <= (min(K, 512) + K / 512 + 1) eps sum |x weight|, where plain float32 sums would not."""
    x, weight = np.full((1, 30_000, 1, 1), np.float32(1 / 3)), np.ones((1, 30_000, 1, 1), np.float32)
    y = kernels.conv2d(x, weight, padding=1000, stride=1000)
    assert y.shape == (1, 1, 3, 3)
    assert abs(float(y[0, 0, 1, 1]) / (30_000 * float(x[0, 0, 0, 0])) - 1) < 1e-6
    assert np.count_nonzero(y) == 1


def test_ordinary_convolutions_are_not_done_so() -> None:
    """The dilated ones of segmentation, and paddings of a filter's size, too."""
    for image, filters, options in [
            ((1, 2048, 33, 33), (256, 2048, 3, 3), {"padding": 18, "dilation": 18}),
            ((1, 2048, 65, 65), (256, 2048, 3, 3), {"padding": 36, "dilation": 36}),
            ((1, 2048, 1, 1), (512, 2048, 3, 3), {"padding": 1}),
            ((1, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
            ((1, 512, 2, 2), (512, 512, 5, 5), {"padding": 2})]:
        padding, dilation, stride = (options.get(key, default) for key, default in
                                     (("padding", 0), ("dilation", 1), ("stride", 1)))
        assert not geometry.fit(image, filters, stride, padding, dilation, 1)[0].sparse
