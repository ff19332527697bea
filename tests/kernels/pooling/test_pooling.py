"""What the table of kernels cannot say of pooling: NaN, ties, windows at the edges, and every option as in torch."""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.testing import assert_close

pytestmark = pytest.mark.parametrize("target", ["naive", "cpu"])

NAN, INF = np.nan, np.inf
WINDOWS: list[tuple[Any, dict[str, Any]]] = [
    (kernel, {"stride": stride, "padding": padding, "ceil_mode": ceil_mode})
    for kernel, stride, padding, ceil_mode in product([2, 3, (3, 2)], [None, 1, 2, (3, 4)], [0, 1], [False, True])
] + [(1, {}), (5, {"stride": 1, "padding": 2}), ((5, 6), {}), (7, {"stride": 9, "padding": 3, "ceil_mode": True})]


def image(*rows: list[float], dtype: Any = np.float64) -> np.ndarray:
    return np.array(rows, dtype)[None, None]


def max_pool(x: np.ndarray, *args: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The maxima and their indices, after a check that the maxima are the same bits without indices."""
    y, indices = kernels.max_pool2d(x, *args, **options, return_indices=True)
    assert kernels.max_pool2d(x, *args, **options).tobytes() == y.tobytes()
    return y, indices


# --- max ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_passes_on_and_the_first_one_is_the_place(dtype: type, target: str) -> None:
    x = image([1, NAN, 5, 6], [NAN, 2, 7, 8], [1, 2, 3, 4], [5, 6, INF, NAN], dtype=dtype)
    y, indices = max_pool(x, 2, target=target)
    np.testing.assert_array_equal(y, [[[[NAN, 8], [6, NAN]]]])
    np.testing.assert_array_equal(indices, [[[[1, 7], [13, 15]]]])


def test_equal_maxima_give_all_to_the_first_one(target: str) -> None:
    """As after a ReLU, whose zeros tie all the time."""
    y, indices = max_pool(np.zeros((1, 2, 4, 6)), 2, target=target)
    np.testing.assert_array_equal(indices[0, 1], [[0, 2, 4], [12, 14, 16]])
    grad = kernels.max_pool2d_backward(np.ones(y.shape), indices, (1, 2, 4, 6), target=target)
    np.testing.assert_array_equal(grad[0, 0], [[1, 0, 1, 0, 1, 0], [0] * 6] * 2)


def test_zeros_of_both_signs_are_equal(target: str) -> None:
    y, indices = max_pool(image([-1, 0.0], [-0.0, 0.0]), 2, target=target)
    assert indices.item() == 1
    assert not np.signbit(y).any()
    y, indices = max_pool(image([-0.0, 0.0], [0.0, -0.0]), 2, target=target)
    assert indices.item() == 0
    assert np.signbit(y).all()


@pytest.mark.parametrize(("options", "expected"), [
    ({"kernel_size": 2}, [[0, 2], [8, 10]]),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, [[0, 1], [4, 5]]),
    ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}, [[5]]),
    ({"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}, [[0, 2], [8, 10]]),
])
def test_a_window_of_minus_infinity_has_its_first_cell_as_maximum(options: dict, expected: list, target: str) -> None:
    """Never -1 or a cell of the padding, where the gradient would be written outside of the image."""
    y, indices = max_pool(np.full((2, 1, 4, 4), -INF), **options, target=target)
    np.testing.assert_array_equal(indices, np.array([[expected]] * 2))
    assert (y == -INF).all()
    grad = kernels.max_pool2d_backward(np.ones(y.shape), indices, (2, 1, 4, 4), target=target)
    assert grad.sum() == y.size


def test_the_last_window_does_not_start_in_the_padding(target: str) -> None:
    """Where torch's documented formula gives 3 windows, and its code 2."""
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    y = kernels.max_pool2d(x, 2, stride=2, padding=1, ceil_mode=True, target=target)
    np.testing.assert_array_equal(y, [[[[0, 2], [6, 8]]]])
    y = kernels.max_pool2d(x, 2, stride=2, ceil_mode=True, target=target)
    np.testing.assert_array_equal(y, [[[[4, 5], [7, 8]]]])
    y = kernels.max_pool2d(x, 4, stride=2, ceil_mode=True, target=target)
    np.testing.assert_array_equal(y, [[[[8]]]])


def test_a_stride_beyond_the_image_leaves_one_window(target: str) -> None:
    y, indices = max_pool(np.arange(12.0).reshape(1, 1, 3, 4), 2, stride=10**9, target=target)
    assert (y.item(), indices.item()) == (5, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [31, 32, 33, 50, 67])
def test_rows_of_several_vectors(width: int, dtype: type, target: str) -> None:
    """Windows inside of an image and at its edges, NaN and -inf among them, up to the last cell of the last image."""
    rng = np.random.default_rng(width)
    x = rng.integers(-4, 4, (3, 1, 6, width)).astype(dtype)
    x[rng.random(x.shape) < 0.2], x[rng.random(x.shape) < 0.1] = -INF, NAN
    for kernel, stride, padding, dilation in product([2, (3, 2), 3], [1, 2, (2, 3), (1, 7)], [0, 1], [1, (1, 2)]):
        options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        y, indices = max_pool(x, kernel, **options, target=target)
        expected = kernels.max_pool2d(x, kernel, **options, return_indices=True, target="naive")
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_array_equal(indices, expected[1])
        alone, _ = max_pool(x[2:], kernel, **options, target=target)
        assert alone.tobytes() == y[2:].tobytes()


@pytest.mark.parametrize(("shape", "kernel", "options"), [
    ((1, 1, 1, 5), (2, 1), {"padding": (1, 0), "dilation": (2, 1)}),
    ((1, 1, 4, 2), (3, 3), {"padding": 1, "dilation": (1, 3), "stride": 9, "ceil_mode": True}),
])
def test_windows_without_a_cell_are_refused(shape: tuple, kernel: tuple, options: dict, target: str) -> None:
    """torch returns -inf with an index outside of the image."""
    with pytest.raises(ValueError, match="dilation: expected windows with a cell inside the image"):
        kernels.max_pool2d(np.ones(shape), kernel, **options, target=target)


@pytest.mark.parametrize("bad", [-1, 16, 2**62, -2**63])
def test_indices_outside_of_the_image_are_refused(bad: int, target: str) -> None:
    with pytest.raises(ValueError, match=f"indices: expected values from 0 to 15 .* got {bad}"):
        kernels.max_pool2d_backward(np.ones((1, 1, 1, 2)), np.array([[[[0, bad]]]]), (1, 1, 4, 4), target=target)


def test_an_image_has_the_same_bits_alone_and_in_a_batch(target: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, 9, 7)).astype(np.float32)
    for pool in (max_pool, lambda *args, **options: (kernels.avg_pool2d(*args, **options),)):
        for y, alone in zip(pool(x, 3, stride=2, padding=1, target=target),
                            pool(x[3:4], 3, stride=2, padding=1, target=target)):
            assert y[3:4].tobytes() == alone.tobytes()


# --- mean --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "divisors"), [
    ({}, [[9, 9, 6], [9, 9, 6], [6, 6, 4]]),                            # cells beyond the padding never count
    ({"count_include_pad": False}, [[4, 6, 2], [6, 9, 3], [2, 3, 1]]),
    ({"divisor_override": 7}, [[7] * 3] * 3),
])
def test_divisors_at_the_edges(options: dict, divisors: list, target: str) -> None:
    x = np.ones((1, 1, 4, 4))
    cells = np.outer([2, 3, 1], [2, 3, 1])
    y = kernels.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, **options, target=target)
    np.testing.assert_allclose(y[0, 0], cells / np.array(divisors), rtol=1e-15)
    grad = kernels.avg_pool2d_backward(np.ones(y.shape), x.shape, 3, stride=2, padding=1, ceil_mode=True, **options,
                                       target=target)
    assert grad.sum() == pytest.approx(y.sum())                         # for x = 1 the map is its own gradient's sum


def test_nan_stays_in_its_windows(target: str) -> None:
    x = np.ones((1, 1, 4, 6))
    x[0, 0, 1, 2] = NAN
    np.testing.assert_array_equal(kernels.avg_pool2d(x, 2, target=target), [[[[1, NAN, 1], [1, 1, 1]]]])
    grad = np.array([[[[1, NAN, 1], [1, 1, 1]]]])
    grad_x = kernels.avg_pool2d_backward(grad, x.shape, 2, target=target)
    np.testing.assert_array_equal(np.isnan(grad_x[0, 0]), np.kron(np.isnan(grad[0, 0]), np.ones((2, 2), bool)))


def test_shares_overlap_where_sizes_do_not_divide(target: str) -> None:
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(kernels.adaptive_avg_pool2d(x, (1, 3), target=target), [[[[0.5, 2, 3.5]]]])
    np.testing.assert_array_equal(kernels.adaptive_avg_pool2d(x, (None, 5), target=target), x)
    np.testing.assert_array_equal(kernels.adaptive_avg_pool2d(x[..., :2], (1, 4), target=target), [[[[0, 0, 1, 1]]]])
    assert kernels.adaptive_avg_pool2d(x, (0, 3), target=target).shape == (1, 1, 0, 3)
    assert not kernels.adaptive_avg_pool2d_backward(np.empty((1, 1, 0, 3)), x.shape, target=target).any()


@pytest.mark.parametrize(("shape", "kernel", "options", "expected"), [
    ((1, 3), (1, 3), {"stride": 3, "padding": (0, 1)}, 1),
    ((3, 1), (3, 1), {"stride": 3, "padding": (1, 0)}, 1),
    ((3, 3), 3, {"stride": 3, "padding": 1}, 8 / 9),
    ((3, 3), 4, {"stride": 9, "padding": 2}, 8 / 16),
    ((3, 3), 4, {"stride": 9, "padding": 2, "count_include_pad": False}, 2),
    ((3, 3), 3, {"stride": 9, "padding": (0, 1), "divisor_override": 2}, 8),
])
def test_one_window_that_does_not_reach_the_last_cells(shape: tuple, kernel: Any, options: dict, expected: float,
                                                       target: str) -> None:
    x = np.array([1.0, 2, 4, 2, 3, 5, 4, 4, 6])[: shape[0] * shape[1]].reshape(1, 1, *shape)
    np.testing.assert_allclose(kernels.avg_pool2d(x, kernel, **options, target=target), [[[[expected]]]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kernel", "options"), [
    (2, {}), (3, {"stride": 2, "padding": 1}), (3, {"stride": 1, "padding": 1, "count_include_pad": False}),
    (5, {"stride": 1, "padding": 2, "ceil_mode": True}), ((7, 9), {}), ((7, 9), {"padding": (0, 4), "stride": 3}),
    (2, {"stride": 1, "divisor_override": 4}), (4, {"stride": 1, "divisor_override": 1 << 20}),
])
def test_a_mean_is_reached_though_its_sum_is_too_large(kernel: Any, options: dict, dtype: type, target: str) -> None:
    """Means up to the largest number, and sums of both signs; so for gradients."""
    signs = np.random.default_rng(0).choice([-1, 1], (2, 3, 7, 9))
    for x in (np.ones((2, 3, 7, 9)), signs, np.where(signs > 0, 1, -1e-30)):
        x = x * float(np.finfo(dtype).max) * (1 - 1e-6)
        exact = kernels.avg_pool2d(x / 2**100, kernel, **options, target="naive")
        y = kernels.avg_pool2d(x.astype(dtype), kernel, **options, target=target)
        assert_close(y / dtype(2**100), exact.astype(dtype))
        grad = x.flat[: y.size].reshape(y.shape)
        exact = kernels.avg_pool2d_backward(grad / 2**100, x.shape, kernel, **options, target="naive")
        if np.abs(exact).max() < float(np.finfo(dtype).max) / 2**100:
            grad_x = kernels.avg_pool2d_backward(grad.astype(dtype), x.shape, kernel, **options, target=target)
            assert_close(grad_x / dtype(2**100), exact.astype(dtype), gradient=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, (7, 3), (1, 9), 11])
def test_shares_reach_their_means_too(size: Any, dtype: type, target: str) -> None:
    largest = np.finfo(dtype).max
    y = kernels.adaptive_avg_pool2d(np.full((2, 3, 7, 9), largest), size, target=target)
    np.testing.assert_allclose(y, largest, rtol=1e-5)
    grad = np.full((1, 1, 4, 1), largest)
    grad[0, 0, :2] *= -1
    assert not kernels.adaptive_avg_pool2d_backward(grad, (1, 1, 1, 1), target=target).any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_true_infinities_stay(target: str) -> None:
    x = image([INF, 1, 1, NAN], [1, 1, -INF, INF])
    np.testing.assert_array_equal(kernels.avg_pool2d(x, 2, target=target), [[[[INF, NAN]]]])
    largest = np.full((1, 1, 2, 2), np.finfo(np.float64).max)
    assert kernels.avg_pool2d(largest, 2, divisor_override=3, target=target) == INF
    assert kernels.avg_pool2d_backward(largest, (1, 1, 3, 3), 2, stride=1, divisor_override=1,
                                       target=target)[0, 0, 1, 1] == INF


@pytest.mark.parametrize("far", [1_000, 10**9, (1 << 40) - 1])
@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"ceil_mode": True, "stride": -1}, {"stride": 1 << 40}])
def test_costs_do_not_grow_with_a_kernel_beyond_the_image(far: int, options: dict, target: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    options = {"padding": far // 2, **options}
    if options.get("stride") == -1:
        options["stride"] = far // 2
    expected = None
    for which in ("naive", target):
        tracemalloc.start()
        y, indices = max_pool(x, far, **options, target=which)
        means = [kernels.avg_pool2d(x, far, count_include_pad=padded, **options, target=which)
                 for padded in (True, False)]
        found = (y, indices, *means, kernels.max_pool2d_backward(y, indices, x.shape, target=which),
                 kernels.avg_pool2d_backward(y, x.shape, far, **options, target=which))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if expected is not None:
            assert_close(found, expected, gradient=True)
            assert peak < 1 << 20
        expected = found
    y, indices = max_pool(x, 3, dilation=1 << 39, stride=1 << 40, ceil_mode=True, target=target)
    np.testing.assert_array_equal(indices, [[[[0]], [[0]]]])


@pytest.mark.parametrize("one", [tuple, list, np.array])
def test_options_may_be_sequences_of_one_and_a_stride_empty(one: Any, target: str) -> None:
    """As in torch."""
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 9))
    for pool in (kernels.max_pool2d, kernels.avg_pool2d):
        np.testing.assert_array_equal(pool(x, one([3]), stride=one([2]), padding=one([1]), target=target),
                                      pool(x, 3, stride=2, padding=1, target=target))
        for empty in ((), []):
            np.testing.assert_array_equal(pool(x, one([3, 2]), stride=empty, target=target),
                                          pool(x, (3, 2), target=target))
    np.testing.assert_array_equal(kernels.max_pool2d(x, 2, dilation=one([3]), target=target),
                                  kernels.max_pool2d(x, 2, dilation=3, target=target))
    grad = np.ones((1, 2, 2, 3))
    np.testing.assert_array_equal(kernels.avg_pool2d_backward(grad, x.shape, one([3]), stride=(), target=target),
                                  kernels.avg_pool2d_backward(grad, x.shape, 3, target=target))
    np.testing.assert_array_equal(kernels.adaptive_avg_pool2d(x, np.array(3), target=target),
                                  kernels.adaptive_avg_pool2d(x, 3, target=target))


@pytest.mark.parametrize("bad", [True, 1.0, (1, True), [1.0, 1]])
def test_what_equals_an_integer_is_none_after_one_was_seen(bad: Any, target: str) -> None:
    for pool in (kernels.max_pool2d, kernels.avg_pool2d):
        pool(np.ones((1, 1, 2, 2)), 1, target=target)
        pool(np.ones((1, 1, 2, 2)), (1, 1), target=target)
        with pytest.raises(TypeError, match="kernel_size: expected an integer"):
            pool(np.ones((1, 1, 2, 2)), bad, target=target)


@pytest.mark.parametrize("size", [None, "3", (1, 2, 3), 1.5])
def test_sizes_that_are_none_are_refused(size: Any, target: str) -> None:
    with pytest.raises((TypeError, ValueError), match="output_size: expected"):
        kernels.adaptive_avg_pool2d(np.ones((1, 1, 2, 2)), size, target=target)


# --- peers -------------------------------------------------------------------------------------------------


def with_torch(x: np.ndarray, function: str, *args: Any, **options: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """What torch returns, a gradient for its result, and the gradient of x, or an error."""
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(x, requires_grad=True)
    try:
        result = getattr(torch.nn.functional, function)(tensor, *args, **options)
    except RuntimeError as error:
        return error, x, x
    y = result[0] if isinstance(result, tuple) else result
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(x.dtype)
    y.backward(torch.tensor(grad))
    return result, grad, tensor.grad.numpy()


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
def test_maxima_are_torchs(dilation: Any, dtype: type, target: str) -> None:
    for (kernel, options), shape in product(WINDOWS, [(2, 1, 5, 6), (1, 2, 7, 4)]):
        x = np.random.default_rng(0).integers(-4, 4, shape).astype(dtype)       # many ties
        x[x < -2] = -INF
        result, grad, grad_x = with_torch(x, "max_pool2d", kernel, dilation=dilation, return_indices=True, **options)
        if isinstance(result, Exception):
            with pytest.raises(ValueError, match="expected"):
                kernels.max_pool2d(x, kernel, dilation=dilation, **options, target=target)
            continue
        y, indices = max_pool(x, kernel, dilation=dilation, **options, target=target)
        np.testing.assert_array_equal(y, result[0].detach().numpy())
        np.testing.assert_array_equal(indices, result[1].numpy())
        assert_close(kernels.max_pool2d_backward(grad, indices, shape, target=target), grad_x, gradient=True)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extra", [{}, {"count_include_pad": False}, {"divisor_override": 5}])
def test_means_are_torchs(extra: dict, dtype: type, target: str) -> None:
    for (kernel, options), shape in product(WINDOWS, [(2, 1, 5, 6), (1, 2, 7, 4)]):
        x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        options = {**options, **extra}
        result, grad, grad_x = with_torch(x, "avg_pool2d", kernel, **options)
        if isinstance(result, Exception):
            with pytest.raises(ValueError, match="expected"):
                kernels.avg_pool2d(x, kernel, **options, target=target)
            continue
        assert_close(kernels.avg_pool2d(x, kernel, **options, target=target), result.detach().numpy())
        actual = kernels.avg_pool2d_backward(grad, shape, kernel, **options, target=target)
        assert_close(actual, grad_x, gradient=True)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 5, (3, 4), (None, 1), (7, None), (1, 12)])
def test_shares_are_torchs(size: Any, dtype: type, target: str) -> None:
    for shape in [(2, 3, 5, 6), (1, 2, 1, 9), (3, 1, 8, 4)]:
        x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        result, grad, grad_x = with_torch(x, "adaptive_avg_pool2d", size)
        assert_close(kernels.adaptive_avg_pool2d(x, size, target=target), result.detach().numpy())
        assert_close(kernels.adaptive_avg_pool2d_backward(grad, shape, target=target), grad_x, gradient=True)


@pytest.mark.parametrize("size", [(3, 2), (4, 5), 1, (6, 7), 9])
def test_maxima_of_shares_are_the_first_ones(size: Any, target: str) -> None:
    """Equal ones, NaN and infinities, in shares of one size and of several."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (30, 2, 6, 7)).astype(np.float32)
    x[rng.random(x.shape) < 0.03], x[rng.random(x.shape) < 0.03] = np.nan, -np.inf
    y, indices = kernels.adaptive_max_pool2d(x, size, return_indices=True, target=target)
    naive, places = kernels.adaptive_max_pool2d(x, size, return_indices=True, target="naive")
    np.testing.assert_array_equal(y, naive)
    np.testing.assert_array_equal(indices, places)
    np.testing.assert_array_equal(np.take_along_axis(x.reshape(30, 2, 42), indices.reshape(30, 2, -1), 2), y.reshape(
        30, 2, -1))
