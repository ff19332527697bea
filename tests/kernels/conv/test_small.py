"""Convolutions of little work: loops in one launch, chosen by the shape of one image alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels.conv import cpu, direct, small
from fastnn.testing import assert_close

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((3, 1, 8, 8), (1, 1, 3, 3), {"padding": 1}),
    ((2, 2, 5, 4), (2, 2, 2, 2), {"padding": (1, 0)}),
    ((2, 4, 4, 5), (4, 2, 1, 2), {"groups": 2, "stride": (1, 2)}),
    ((1, 1, 9, 7), (2, 1, 3, 2), {"stride": (2, 3), "padding": (2, 1), "dilation": (1, 2)}),
    ((2, 1, 2, 3), (1, 1, 2, 2), {"padding": 5, "stride": 4}),              # taps that reach no pixel
    ((1, 1, 1, 300), (1, 1, 1, 4), {"dilation": 3}),
    ((2, 3, 4, 4), (3, 1, 2, 2), {"groups": 3}),
]


@pytest.mark.parametrize(("image", "filters", "options"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_agrees_with_naive(image: tuple, filters: tuple, options: dict, dtype: type, value: float) -> None:
    """So it does where an image, a filter or a gradient holds what is not finite, at a border."""
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in (image, filters, filters[:1]))
    grad = rng.standard_normal(kernels.conv2d(x, weight, **options).shape).astype(dtype)
    assert small.fits(weight, x, grad)
    for array in (x, weight, grad):
        planted = [a.copy() if a is array else a for a in (x, weight, grad)]
        planted[[a is array for a in (x, weight, grad)].index(True)].flat[0] = value
        images, taps, slopes = planted
        results = []
        for target in ("naive", "cpu"):
            with np.errstate(invalid="ignore"):
                results.append((
                    kernels.conv2d(images, taps, bias, activation="relu", target=target, **options),
                    *kernels.conv2d_backward(slopes, images, taps, target=target, **options)))
        assert_close(results[1], results[0], gradient=True, what=f"{options} with {value}")


@pytest.mark.parametrize(("image", "filters", "options"), [SHAPES[0], SHAPES[2]])
def test_transposed(image: tuple, filters: tuple, options: dict) -> None:
    """It is the gradient by the input, plus a bias; its gradients are a convolution and a correlation."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(image), rng.standard_normal(filters)
    y = kernels.conv2d(x, weight, **options)
    rest = [(n + 2 * p - k) % s for n, p, k, s in zip(image[2:], *(
        pair if isinstance(pair, tuple) else (pair, pair)
        for pair in (options.get("padding", 0), filters[2:], options.get("stride", 1))))]
    bias = rng.standard_normal(image[1])
    assert small.fits(weight, x, y)
    images, slopes = rng.standard_normal(y.shape), rng.standard_normal(x.shape)
    for value in (1.0, np.inf):
        weight[0, 0, 0, 0] = slopes[0, 0, 0, 0] = value
        with np.errstate(invalid="ignore"):
            got, expected = (
                (kernels.conv_transpose2d(images, weight, bias, output_padding=rest, target=target, **options),
                 *kernels.conv_transpose2d_backward(slopes, images, weight, output_padding=rest, target=target,
                                                    **options)) for target in ("cpu", "naive"))
        assert_close(got, expected, gradient=True)


def test_the_shape_of_one_image_decides(tune: Any) -> None:
    """A large batch has the bits of single images; its gradient by the weights is formed by many blocks."""
    rng = np.random.default_rng(0)
    x, weight, grad = (rng.standard_normal(s).astype(np.float32)
                       for s in ((300, 1, 8, 8), (1, 1, 3, 3), (300, 1, 8, 8)))
    assert small.fits(weight, x, x)
    assert small.fits(weight, x[:1], x[:1])
    assert weight.size * x.size > small.SMALL_BATCH_PRODUCTS
    y, grads = kernels.conv2d(x, weight, padding=1), kernels.conv2d_backward(grad, x, weight, padding=1)
    transposed = kernels.conv_transpose2d_backward(grad, x, weight, padding=1)
    for n in (0, 299):
        one = slice(n, n + 1)
        assert kernels.conv2d(x[one], weight, padding=1).tobytes() == y[one].tobytes()
        alone = kernels.conv2d_backward(grad[one], x[one], weight, padding=1)
        assert alone[0].tobytes() == grads[0][one].tobytes()
        alone = kernels.conv_transpose2d_backward(grad[one], x[one], weight, padding=1)
        assert alone[0].tobytes() == transposed[0][one].tobytes()
    tune(small, "SMALL_BATCH_PRODUCTS", 1 << 40)
    assert_close(kernels.conv2d_backward(grad, x, weight, padding=1), grads, gradient=True)
    assert_close(kernels.conv_transpose2d_backward(grad, x, weight, padding=1), transposed, gradient=True)


def test_larger_work_and_direct_by_name_are_done_elsewhere(tune: Any) -> None:
    ran = []
    for name in ("plan_conv2d", "plan_conv2d_backward"):
        tune(direct, name, lambda *args: ran.append("direct") or (lambda *args: (None, None, None)))
    x, weight = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
    kernels.conv2d(x, weight)
    assert not ran
    kernels.conv2d(x, weight, algorithm="direct")
    kernels.conv2d_backward(np.ones((1, 1, 6, 6), np.float32), x, weight, algorithm="direct")
    kernels.conv2d(np.ones((1, 3, 32, 32), np.float32), np.ones((8, 3, 3, 3), np.float32))
    assert len(ran) == 3
    assert cpu.small is small


def test_options_are_checked_whatever_was_asked_before() -> None:
    """1, 1.0 and True are the same key of a cache."""
    x, weight = np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2))
    for good in (1, (1, 1), [1, 1], np.int64(1), np.array([1, 1]), (1,), [1], np.array([1]), np.array(1)):
        assert kernels.conv2d(x, weight, stride=good, dilation=good, padding=good).shape == (1, 1, 5, 5)
        options: Any = {"dilation": good, "padding": good, "output_padding": good}
        y = kernels.conv_transpose2d(x, weight, stride=(2,), **options)
        assert y.shape == (1, 1, 7, 7)
        grads = kernels.conv_transpose2d_backward(y, x, weight, stride=[2], **options)
        expected = kernels.conv_transpose2d_backward(y, x, weight, stride=2, dilation=1, padding=1, output_padding=1)
        assert_close(grads, expected)
    for option in ("stride", "dilation", "padding"):
        for bad in (True, 1.0, (1, True), (1.0, 1), [1, 1.0]):
            with pytest.raises(TypeError, match=f"{option}: expected an integer"):
                kernels.conv2d(x, weight, **{option: bad})
            with pytest.raises(TypeError, match=f"{option}: expected an integer"):
                kernels.conv_transpose2d(x, weight, **{option: bad})
        with pytest.raises(ValueError, match=f"{option}: expected an integer or a pair"):
            kernels.conv2d(x, weight, **{option: (1, 1, 1)})
    for bad in (True, 1.0):
        with pytest.raises(TypeError, match="groups: expected an integer"):
            kernels.conv2d(x, weight, groups=bad)
