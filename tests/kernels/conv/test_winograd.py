"""Winograd's convolution: its algebra, its error bounds, tiles that are cut, and what is not finite."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numba import config

import fastnn
from fastnn import kernels
from fastnn.kernels._cpu.llvm import ROWS
from fastnn.kernels._cpu.vectors import STREAMED
from fastnn.kernels.conv import cpu, winograd
from fastnn.kernels.conv._tiles import matrices
from fastnn.kernels.conv._transforms import toom_cook
from fastnn.kernels.conv.geometry import fit
from fastnn.testing import assert_close

# images, filters, rows and columns of filters, padding
SHAPES = [
    ((1, 1, 3, 3), 1, 3, 0),                    # one result
    ((1, 1, 5, 5), 1, 5, 0),
    ((2, 5, 7, 9), 3, 3, 1),                    # tiles that reach beyond the image, fewer channels than lanes
    ((2, 5, 7, 9), 3, 5, 2),
    ((3, 16, 8, 8), 32, 3, 1),                  # nothing left over
    ((2, 33, 3, 2), 17, 3, (1, 2)),
    ((2, 33, 3, 1), 17, 5, (4, 3)),
    ((40, 18, 4, 4), 34, 3, 1),                 # a tile an image, several images a group
    ((1, 20, 23, 70), 20, 3, (2, 0)),           # groups that begin within a row of tiles
    ((1, 20, 23, 70), 20, 5, (4, 0)),
    ((1, 130, 13, 13), 130, 3, 1),              # few tiles: filters are transformed where they are used
    ((16, 40, 32, 20), 30, 3, 1),               # more tiles than are transformed at once
    ((3, 20, 5, 6), 330, 3, 1),                 # many filters: their blocks share transformed tiles
]


def draw(shape: tuple[int, ...], dtype: type = np.float64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def results(x: np.ndarray, weight: np.ndarray, padding: int) -> tuple[int, ...]:
    less = 2 * padding + 1 - weight.shape[2]
    return len(x), len(weight), x.shape[2] + less, x.shape[3] + less


@pytest.mark.parametrize(("outputs", "taps"), [(2, 3), (4, 3), (3, 4), (2, 5)])
def test_toom_cook_is_a_convolution(outputs: int, taps: int) -> None:
    """In exact numbers: y[i] = sum over k of d[i + k] g[k]."""
    points = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2"))[: outputs + taps - 2]
    a, g, b = (np.array(matrix) for matrix in toom_cook(points, outputs, taps))
    d, w = np.arange(outputs + taps - 1.0) ** 2, np.arange(1.0, taps + 1)
    np.testing.assert_allclose(a @ ((g @ w) * (b @ d)), np.correlate(d, w), rtol=1e-13)


@pytest.mark.parametrize(("image", "filters", "taps", "padding"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_direct(image: tuple, filters: int, taps: int, padding: int, dtype: type) -> None:
    x, weight, bias = draw(image, dtype), draw((filters, image[1], taps, taps), dtype, 1), draw((filters,), dtype, 2)
    for activation in (None, "relu"):
        y = kernels.conv2d(x, weight, bias, padding=padding, algorithm="winograd", activation=activation)
        truth = kernels.conv2d(x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64),
                               padding=padding, algorithm="direct", activation=activation)
        assert_close(y, truth, dtype=dtype, factor=10)
    grad = draw(y.shape, dtype, 3)
    grads = kernels.conv2d_backward(grad, x, weight, padding=padding, algorithm="winograd")
    truths = kernels.conv2d_backward(*(array.astype(np.float64) for array in (grad, x, weight)), padding=padding,
                                     algorithm="direct")
    assert_close(grads, truths, dtype=dtype, factor=10, gradient=True)


def tiles_of(array: np.ndarray, size: int, distance: int, before: int, down: int, across: int) -> np.ndarray:
    """The size x size pixels of each tile: (N, channels, down, across, size, size)."""
    n, channels, height, width = array.shape
    padded = np.zeros((n, channels, distance * down + 4, distance * across + 4))
    padded[:, :, before : before + height, before : before + width] = array
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    return windows[:, :, : distance * down : distance, : distance * across : distance]


@pytest.mark.parametrize(("image", "filters", "taps", "padding"), [
    ((2, 16, 9, 11), 20, 3, 1), ((3, 100, 8, 8), 16, 3, 0), ((1, 600, 6, 5), 17, 3, 2), ((20, 16, 32, 20), 20, 3, 1),
    ((2, 16, 9, 11), 20, 5, 2), ((3, 100, 8, 8), 16, 5, 0), ((1, 600, 6, 5), 17, 5, 4), ((4, 16, 32, 20), 20, 5, 2)])
def test_float32_keeps_its_bound(image: tuple, filters: int, taps: int, padding: int) -> None:
    A, G, B = (np.abs(np.array(matrix)) for matrix in matrices(taps))
    out = 7 - taps
    rng = np.random.default_rng(0)
    scales = 10 ** rng.uniform(-3, 3, (image[0], image[1], 1, 1))
    x = (draw(image) * scales).astype(np.float32)
    weight = draw((filters, image[1], taps, taps), np.float32, 1)
    shape = results(x, weight, padding)
    down, across = -(-shape[2] // out), -(-shape[3] // out)
    grad = draw(shape, np.float32, 2)
    y = kernels.conv2d(x, weight, padding=padding, algorithm="winograd")
    grad_x, grad_weight, _ = kernels.conv2d_backward(grad, x, weight, padding=padding, algorithm="winograd")
    x64, weight64, grad64 = (array.astype(np.float64) for array in (x, weight, grad))
    truth = kernels.conv2d(x64, weight64, padding=padding, algorithm="direct")
    true_x, true_weight, _ = kernels.conv2d_backward(grad64, x64, weight64, padding=padding, algorithm="direct")
    eps = np.finfo(np.float32).eps

    def magnitudes(images: np.ndarray, filters: np.ndarray, before: int, result: np.ndarray) -> np.ndarray:
        rows, columns = -(-result.shape[2] // out), -(-result.shape[3] // out)
        d = B @ np.abs(tiles_of(images, 6, out, before, rows, columns)) @ B.T
        m = np.einsum("ncijkl,fckl->nfijkl", d, G @ np.abs(filters) @ G.T)
        full = (A @ m @ A.T).transpose(0, 1, 2, 4, 3, 5).reshape(*result.shape[:2], out * rows, out * columns)
        return full[:, :, : result.shape[2], : result.shape[3]]

    channels = image[1]
    error, bound = np.abs(y - truth), (min(channels, 128) + channels / 128 + 40) * eps
    assert (error <= bound * magnitudes(x64, weight64, padding, truth)).all()
    assert error.any()
    turned = weight64.swapaxes(0, 1)[:, :, ::-1, ::-1]
    error, bound = np.abs(grad_x - true_x), (min(filters, 128) + filters / 128 + 40) * eps
    assert (error <= bound * magnitudes(grad64, turned, taps - 1 - padding, true_x)).all()
    assert error.any()
    d = B @ np.abs(tiles_of(x64, 6, out, padding, down, across)) @ B.T
    dy = A.T @ np.abs(tiles_of(grad64, out, out, 0, down, across)) @ A
    tiles = image[0] * down * across
    error, bound = np.abs(grad_weight - true_weight), (min(tiles, 512) + tiles / 24 + 50) * eps
    assert (error <= bound * (G.T @ np.einsum("ncijkl,nfijkl->fckl", d, dy) @ G)).all()
    assert error.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_stays_where_it_belongs(value: float) -> None:
    """3e38 is finite, but not when it is transformed."""
    x, weight = draw((3, 5, 9, 9), np.float32), draw((18, 5, 3, 3), np.float32, 1)
    x[1, 2, 4, 4] = value
    y = kernels.conv2d(x, weight, padding=1, algorithm="winograd")
    direct = kernels.conv2d(x, weight, padding=1, algorithm="direct")
    assert y[1].tobytes() == direct[1].tobytes()
    assert np.isfinite(y).sum() >= y.size - 18 * 9
    grad = draw(y.shape, np.float32, 2)
    grad[1, 3, 4, 4] = value
    x[1, 2, 4, 4] = 1
    options = {"padding": 1, "needs": (True, True, True)}
    with np.errstate(all="ignore"):
        grads = kernels.conv2d_backward(grad, x, weight, algorithm="winograd", **options)
        assert_close(grads, kernels.conv2d_backward(grad, x, weight, algorithm="direct", **options), factor=10,
                     gradient=True)
    weight[4, 1, 0, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(kernels.conv2d(x, weight, algorithm="winograd")),
                                  np.isnan(kernels.conv2d(x, weight, algorithm="direct")))


def test_a_biased_result_may_be_infinite() -> None:
    """The bias comes after the check of the sums, and the ReLU after the bias."""
    x, weight, bias = draw((1, 16, 8, 8), np.float32), draw((16, 16, 3, 3), np.float32, 1), np.zeros(16, np.float32)
    bias[:2] = np.inf, -np.inf
    y = kernels.conv2d(x, weight, bias, padding=1, algorithm="winograd", activation="relu")
    assert (y[0, 0] == np.inf).all()
    assert not y[0, 1].any()
    assert np.isfinite(y[0, 2:]).all()


def test_packed_filters_give_the_same_bits() -> None:
    for image, filters, taps, padding in SHAPES:
        x, weight = draw(image, np.float32), draw((filters, image[1], taps, taps), np.float32, 1)
        y = kernels.conv2d(x, weight, padding=padding, algorithm="winograd")
        for constant in (False, True):
            kept = kernels.KeptWeight(constant)
            again = kernels.conv2d(x, weight, padding=padding, algorithm="winograd", kept=kept)
            assert y.tobytes() == again.tobytes()


@pytest.mark.parametrize("taps", [3, 5])
def test_a_tile_by_itself_has_the_bits_that_it_has_among_others(taps: int) -> None:
    """Its filters are transformed in the registers, over several running sums and filters that fill no vector."""
    images, weight = draw((50, 150, 2, 2), np.float32), draw((70, 150, taps, taps), np.float32, 1)
    kept = kernels.KeptWeight(constant=True)
    many = kernels.conv2d(images, weight, padding=taps // 2, algorithm="winograd", kept=kept)
    for x, y in zip(images[:2], many):
        alone = kernels.conv2d(x[None], weight, padding=taps // 2, algorithm="winograd", kept=kept)
        assert alone.tobytes() == y.tobytes()
    assert kept.last is not None
    assert {"winograd", "winograd, taps"} == set(kept.last[1])


def test_results_past_the_caches_are_the_same(tune: Any) -> None:
    """Some of these shapes have rows that fit lines of the cache, some do not."""
    for image, filters, taps, padding in [*SHAPES, ((2, 16, 16, 16), 40, 3, 1)]:
        x, weight = draw(image, np.float32), draw((filters, image[1], taps, taps), np.float32, 1)
        tune(winograd, "STREAMED", STREAMED)
        expected = kernels.conv2d(x, weight, padding=padding, algorithm="winograd")
        tune(winograd, "STREAMED", 0)
        assert kernels.conv2d(x, weight, padding=padding, algorithm="winograd").tobytes() == expected.tobytes()


def test_what_keeps_filters_is_checked() -> None:
    x, weight = draw((1, 2, 5, 5)), draw((2, 2, 3, 3))
    with pytest.raises(TypeError, match="kept: expected KeptWeight or None, got dict"):
        kernels.conv2d(x, weight, kept={})


def test_kept_filters_are_those_of_the_weights() -> None:
    x, weight = draw((1, 32, 9, 9), np.float32), draw((32, 32, 3, 3), np.float32, 1)
    kept = kernels.KeptWeight()
    for change in (None, (0, 0, 0, 0), (31, 31, 2, 2), None):
        before = kept.last
        if change is not None:
            weight[change] += 1
        y = kernels.conv2d(x, weight, padding=1, algorithm="winograd", kept=kept)
        assert y.tobytes() == kernels.conv2d(x, weight, padding=1, algorithm="winograd").tobytes()
        assert before is None or (kept.last is before) == (change is None)
    other = draw((16, 32, 5, 5), np.float32, 2)
    y = kernels.conv2d(x, other, padding=2, algorithm="winograd", kept=kept)
    assert y.tobytes() == kernels.conv2d(x, other, padding=2, algorithm="winograd").tobytes()


@pytest.mark.skipif(ROWS != 14, reason="the plan of another register tile")
def test_few_tiles_transform_their_filters() -> None:
    """So the shapes above see both ways, of one image and of its batch of three."""
    for n, one_group in ((1, True), (3, False)):
        x, weight = np.empty((n, 130, 13, 13), np.float32), np.empty((130, 130, 3, 3), np.float32)
        geometry, _ = fit(x.shape, weight.shape, 1, 1, 1, 1)
        assert (winograd.plan_conv2d(x, weight, x, False, geometry).groups == 1) == one_group


@pytest.mark.skipif(config.DISABLE_JIT or config.BOUNDSCHECK, reason="runs on one thread")
def test_threads_may_change_their_number_meanwhile() -> None:
    """Scratch is made for as many workers as are launched."""
    x, weight = draw((4, 64, 16, 16), np.float32), draw((64, 64, 3, 3), np.float32, 1)
    expected = kernels.conv2d(x, weight, padding=1, algorithm="winograd")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            fastnn.set_num_threads(1)
            fastnn.set_num_threads(4)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            y = kernels.conv2d(x, weight, padding=1, algorithm="winograd")
            assert y.tobytes() == expected.tobytes()
    finally:
        stop.set()
        thread.join()
        fastnn.set_num_threads(None)


def test_bits_do_not_depend_on_batch_and_threads() -> None:
    for image, filters, taps, padding in SHAPES[5:]:
        x, weight = draw((3, *image[1:]), np.float32), draw((filters, image[1], taps, taps), np.float32, 1)
        whole = kernels.conv2d(x, weight, padding=padding, algorithm="winograd")
        grad = draw(whole.shape, np.float32, 2)
        grads = kernels.conv2d_backward(grad, x, weight, padding=padding, algorithm="winograd")
        fastnn.set_num_threads(1)
        try:
            alone = kernels.conv2d_backward(grad, x, weight, padding=padding, algorithm="winograd")
        finally:
            fastnn.set_num_threads(None)
        for one, other in zip(grads, alone, strict=True):
            assert one.tobytes() == other.tobytes()
        for n in range(3):
            part = slice(n, n + 1)
            y = kernels.conv2d(x[part], weight, padding=padding, algorithm="winograd")
            assert y.tobytes() == whole[n].tobytes()
            assert kernels.conv2d_backward(grad[part], x[part], weight, padding=padding,
                                           algorithm="winograd")[0].tobytes() == grads[0][n].tobytes()


@pytest.mark.parametrize(("image", "filters", "options", "chosen"), [
    ((1, 64, 32, 32), 64, {"padding": 1}, True),
    ((1, 3, 32, 32), 64, {"padding": 1}, False),                # little to save
    ((1, 48, 5, 5), 48, {"padding": 1}, False),                 # tiles of which two fifths are of use
    ((1, 64, 32, 32), 64, {"padding": 1, "stride": 2}, False),
])
def test_auto_chooses_by_shapes(image: tuple, filters: int, options: dict, chosen: bool) -> None:
    x, weight = draw(image, np.float32), draw((filters, image[1], 3, 3), np.float32, 1)
    geometry, shape = fit(x.shape, weight.shape, options.get("stride", 1), 1, 1, 1)
    assert (cpu._saved(weight, np.empty(shape, np.float32), geometry) >= cpu.WINOGRAD_PRODUCTS) == chosen
    name = "winograd" if chosen else "direct"
    assert kernels.conv2d(x, weight, **options).tobytes() == kernels.conv2d(x, weight, algorithm=name,
                                                                            **options).tobytes()
    assert cpu._saved(weight.astype(np.float64), np.empty(shape), geometry) == 0
