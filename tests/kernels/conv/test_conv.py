"""What the table cannot say of convolutions: bounds, rules of padding, and geometries drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastnn
from fastnn import _device, kernels
from fastnn.testing import assert_close


def magnitudes(x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    """sum |x weight|, what error bounds are stated in."""
    return kernels.conv2d(np.abs(x).astype(np.float64), np.abs(weight).astype(np.float64), **options)


@pytest.mark.parametrize("taps", [3 * 3 * 3, 64 * 3 * 3, 200 * 5 * 5])
def test_float32_keeps_its_bound(taps: int) -> None:
    """|error| <= (min(K, 512) + K / 512 + 1) eps sum |x weight|."""
    rng = np.random.default_rng(taps)
    channels = taps // 9 if taps % 25 else taps // 25
    size = 3 if taps % 25 else 5
    x = rng.standard_normal((2, channels, 12, 11)).astype(np.float32) * 10 ** rng.uniform(-3, 3, (2, channels, 1, 1))
    x = x.astype(np.float32)
    weight = rng.standard_normal((15, channels, size, size)).astype(np.float32)
    error = np.abs(kernels.conv2d(x, weight, padding=1).astype(np.float64)
                   - kernels.conv2d(x.astype(np.float64), weight.astype(np.float64), padding=1))
    bound = (min(taps, 512) + taps / 512 + 1) * np.finfo(np.float32).eps
    assert (error <= bound * magnitudes(x, weight, padding=1)).all()
    assert error.any(), "float32 was computed in float64, or the test is empty"


@pytest.mark.parametrize(("size", "stride", "kernel"), [
    (5, 1, 3), (5, 2, 3), (6, 2, 3), (7, 3, 2), (4, 3, 5), (6, 1, 2)])
def test_same_padding_gives_ceil_of_size_over_stride(size: int, stride: int, kernel: int) -> None:
    """TensorFlow's rule: where the padding cannot be even, the larger part comes after the image."""
    x, weight = np.random.default_rng(0).standard_normal((1, 1, size, size)), np.ones((1, 1, kernel, kernel))
    y = kernels.conv2d(x, weight, padding="same", stride=stride)
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    before = total // 2
    padded = np.pad(x, ((0, 0), (0, 0), (before, total - before), (before, total - before)))
    assert y.shape == (1, 1, out, out)
    assert_close(y, kernels.conv2d(padded, weight, stride=stride))


def test_an_image_does_not_depend_on_its_batch() -> None:
    rng = np.random.default_rng(0)
    for shape, filters in [((5, 3, 7, 6), (20, 3, 3, 3)), ((3, 40, 5, 5), (33, 40, 3, 3))]:
        x, weight = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(filters).astype(np.float32)
        whole = kernels.conv2d(x, weight, padding=1)
        grad = rng.standard_normal(whole.shape).astype(np.float32)
        grad_x = kernels.conv2d_backward(grad, x, weight, padding=1)[0]
        for n in range(len(x)):
            alone = kernels.conv2d(x[n : n + 1], weight, padding=1)
            assert alone.tobytes() == whole[n : n + 1].tobytes()
            alone = kernels.conv2d_backward(grad[n : n + 1], x[n : n + 1], weight, padding=1)[0]
            assert alone.tobytes() == grad_x[n : n + 1].tobytes()


@pytest.mark.parametrize(("image", "filters", "options"), [
    ((2, 3, 13, 11), (4, 3, 3, 3), {"padding": 1}),
    ((1, 4, 14, 9), (6, 2, 3, 2), {"stride": (2, 3), "padding": (2, 1), "groups": 2}),
    ((2, 1, 17, 12), (3, 1, 3, 3), {"dilation": 5, "padding": 5}),
    ((1, 2, 9, 8), (3, 2, 1, 1), {"stride": 7}),
])
def test_bits_do_not_depend_on_how_an_image_is_cut(image: tuple, filters: tuple, options: dict,
                                                   tune: Any) -> None:
    """Scratch so small that every band has few rows gives what one band gives."""
    from fastnn.kernels.conv import direct

    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(image).astype(np.float32), rng.standard_normal(filters).astype(np.float32)
    whole = kernels.conv2d(x, weight, **options)
    grad = rng.standard_normal(whole.shape).astype(np.float32)
    grads = kernels.conv2d_backward(grad, x, weight, **options)
    assert_close(whole, kernels.conv2d(x, weight, target="naive", **options))
    for scratch in (1, 200, 1000):
        tune(direct, "DIRECT_SCRATCH", scratch)
        assert kernels.conv2d(x, weight, **options).tobytes() == whole.tobytes()
        cut = kernels.conv2d_backward(grad, x, weight, **options)
        assert cut[0].tobytes() == grads[0].tobytes()
        assert_close(cut[1], grads[1], gradient=True)
    tune(direct, "DIRECT_SUMS", 1)
    assert_close(kernels.conv2d_backward(grad, x, weight, **options)[1], grads[1], gradient=True)


def test_a_stride_beyond_the_image_costs_no_scratch() -> None:
    x, weight = np.ones((3, 16, 2, 2), np.float32), np.ones((2, 16, 1, 1), np.float32)
    assert kernels.conv2d(x, weight, stride=10**6).tolist() == [[[[16.0]], [[16.0]]]] * 3
    grad_x = kernels.conv2d_backward(np.ones((3, 2, 1, 1), np.float32), x, weight, stride=10**3)[0]
    assert grad_x[0, 0].tolist() == [[2.0, 0.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="stride: expected at most"):
        kernels.conv2d(x, weight, stride=10**30)
    with pytest.raises(TypeError, match="stride: expected an integer, got True"):
        kernels.conv2d(x, weight, stride=True)


def test_needs_that_are_not_three_are_refused() -> None:
    x, weight = np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1))
    with pytest.raises(ValueError, match="needs: expected three bools"):
        kernels.conv2d_backward(x, x, weight, needs=(True,))  # type: ignore[arg-type]


def test_needs_leaves_out_what_is_not_needed() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 2, 5, 5)), rng.standard_normal((3, 2, 3, 3))
    grad = rng.standard_normal((2, 3, 3, 3))
    whole = kernels.conv2d_backward(grad, x, weight)
    for target in ("naive", "cpu"):
        for needs in [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]:
            some = kernels.conv2d_backward(grad, x, weight, needs=needs, target=target)
            for needed, got, should in zip(needs, some, whole, strict=True):
                assert_close(got, should if needed else None, gradient=True)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes of images and filters, and options, that fit together."""
    groups = draw(st.integers(1, 3))
    channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    size = [max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 4)) for k, d, p in zip(kernel, dilation, padding)]
    options = {"stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), "padding": padding,
               "dilation": dilation, "groups": groups}
    return (draw(st.integers(1, 3)), channels * groups, *size), (filters * groups, channels, *kernel), options


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(geometries(), st.integers(0, 1000))
def test_any_geometry_agrees_with_naive(geometry: tuple, seed: int) -> None:
    image, filters, options = geometry
    rng = np.random.default_rng(seed)
    x, weight, bias = rng.standard_normal(image), rng.standard_normal(filters), rng.standard_normal(filters[0])
    y = kernels.conv2d(x, weight, bias, **options)
    assert_close(y, kernels.conv2d(x, weight, bias, target="naive", **options))
    grad = rng.standard_normal(y.shape)
    assert_close(kernels.conv2d_backward(grad, x, weight, **options),
                 kernels.conv2d_backward(grad, x, weight, target="naive", **options), gradient=True)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(geometries(), st.integers(0, 1000))
def test_transposed_convolution_is_the_gradient_by_the_input(geometry: tuple, seed: int) -> None:
    image, filters, options = geometry
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal(image), rng.standard_normal(filters)
    grad = rng.standard_normal(kernels.conv2d(x, weight, **options).shape)
    expected = kernels.conv2d_backward(grad, x, weight, **options)[0]
    rest = [(n + 2 * p - d * (k - 1) - 1) % s for n, p, d, k, s in zip(
        image[2:], options["padding"], options["dilation"], filters[2:], options["stride"])]
    assert_close(kernels.conv_transpose2d(grad, weight, output_padding=rest, **options), expected)


def test_targets() -> None:
    """The argument wins over the context, which wins over the default."""
    x, weight = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 2, 2), np.float32)
    expected = kernels.conv2d(x, weight)
    with fastnn.use_target("naive"):
        np.testing.assert_array_equal(kernels.conv2d(x, weight), expected)
        np.testing.assert_array_equal(kernels.conv2d(x, weight, target="cpu"), expected)
    with pytest.raises(ValueError, match="target"), fastnn.use_target("gpu"):
        pass


@pytest.mark.skipif(_device.why_not() is None, reason="there is a GPU, or a simulator of one")
def test_cuda_without_a_gpu_is_one_sentence_that_names_the_extra() -> None:
    x = np.ones((1, 1, 3, 3), np.float32)
    sentence = r'^CUDA cannot be used here \(.*\); it needs an NVIDIA GPU .* pip install "fastnn-kernels\[cuda13\]"'
    with pytest.raises(RuntimeError, match=sentence):
        kernels.conv2d(x, x, target="cuda")
    with pytest.raises(RuntimeError, match=sentence), fastnn.use_target("cuda"):
        pass
    with pytest.raises(RuntimeError, match=sentence):
        fastnn.to_device(x)


def test_anything_that_numpy_sees_as_an_array() -> None:
    class Wrapped:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return self.array

    x, weight = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 2, 2), np.float32)
    np.testing.assert_array_equal(kernels.conv2d(Wrapped(x), Wrapped(weight)), kernels.conv2d(x, weight))
    with pytest.raises(TypeError, match="x: expected an array without a mask, got a masked one"):
        kernels.conv2d(np.ma.masked_equal(x, 0), weight)
    with pytest.raises(TypeError, match=r"x: expected float32 or float64, got >f4"):
        kernels.conv2d(x.astype(">f4"), weight)


@pytest.mark.peers
def test_torch_tensors_go_in() -> None:
    torch = pytest.importorskip("torch")
    x, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2)
    assert isinstance(kernels.conv2d(x, weight), np.ndarray)
    with pytest.raises(TypeError, match=r"x: Tensor could not be read as a NumPy array: .*detach"):
        kernels.conv2d(x.requires_grad_(), weight)
