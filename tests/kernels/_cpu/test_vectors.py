"""Sums and maxima of rows, and results so large that they are written past the caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels._cpu import elementwise, launch, math, vectors
from fastnn.testing.table.activation import ACTIVATIONS

SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 1000]
STREAMED = 6000 if launch.config.DISABLE_JIT else vectors.STREAMED       # plain Python streams less
SMALL = 1003 if launch.config.DISABLE_JIT else 100_001                    # elements of a float32 array that is not
LARGE = STREAMED // 4 + 1000                                            # and of one that is
CACHED = 6000 if launch.config.DISABLE_JIT else 1 << 20
DRAFTED = CACHED // 4 + 1000                # elements of an array that is drafted


@pytest.fixture(autouse=True)
def streams_less(tune: Any) -> None:
    tune(vectors, "CACHED", CACHED)
    if launch.config.DISABLE_JIT:
        tune(elementwise, "STREAMED", STREAMED)


@launch.block_kernel(writes="results")
def _reduce(block: int, a: np.ndarray, b: np.ndarray, results: np.ndarray) -> None:
    real = a.dtype.type
    results[0], results[1] = vectors.row_sum(a), vectors.row_max(a)
    results[2], results[3] = vectors.row_squares(a, 0.25), vectors.row_products(a, b, 0.25)
    results[6], results[7] = vectors.row_sums(a, b, 0.25)
    line = real(0.25), real(0), real(2), real(0.125), real(0)
    results[4], results[5] = vectors.row_sums_above(a, b, 0.25, line)


def reduce(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    results = np.empty(8)
    _reduce(1, a, b, results, work=0)
    return results


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_sums_and_maxima(size: int, dtype: type) -> None:
    """Parts of vectors too: each element counts once, and none beyond the end."""
    rng = np.random.default_rng(size)
    a, b = (rng.standard_normal(size).astype(dtype) for _ in range(2))
    x, y = a.astype(np.float64), b.astype(np.float64)
    above = (y - 0.25) * 2 + 0.125 > 0
    expected = [x.sum(), x.max(), ((x - 0.25) ** 2).sum(), (x * (y - 0.25)).sum(), x[above].sum(),
                (x * (y - 0.25))[above].sum(), x.sum(), (x * (y - 0.25)).sum()]
    np.testing.assert_allclose(reduce(a, b), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_nan_at_every_place(size: int, dtype: type) -> None:
    for place in {0, size // 2, size - 1}:
        a = np.arange(size, dtype=dtype)
        a[place] = np.nan
        total, largest, *_ = reduce(a, a)
        assert np.isnan(total)
        assert largest == (np.nanmax(a) if size > 1 else -np.inf)
        a[place] = np.inf
        assert reduce(a, a)[:2].tolist() == [np.inf, np.inf]


@launch.block_kernel(writes="y")
def _copy(block: int, x: np.ndarray, y: np.ndarray) -> None:
    vectors.stream(x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_streams_write_what_they_are_given_and_no_more(size: int, dtype: type) -> None:
    x = np.arange(size, dtype=dtype)
    for offset in range(5):
        memory = np.full(size + 40, -1, dtype)
        _copy(1, x, memory[offset:offset + size], work=0)
        np.testing.assert_array_equal(memory[offset:offset + size], x)
        assert (memory[:offset] == -1).all()
        assert (memory[offset + size:] == -1).all()


@launch.block_kernel(writes="y")
def _logarithm(block: int, x: np.ndarray, y: np.ndarray) -> None:
    for i in range(x.size):
        y[i] = math.log(x[i])


def test_logarithm() -> None:
    x = np.concatenate([np.geomspace(1e-300, 1e300, 2001), 1 + np.linspace(-0.5, 1, 1001), [1.0, np.nan]])
    y = np.empty_like(x)
    _logarithm(1, x, y, work=0)
    np.testing.assert_allclose(y, np.log(x), rtol=4e-16, atol=2e-16)


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{name: getattr(kernels, name) for name in ACTIVATIONS},
    "relu_backward": lambda x, **o: kernels.relu_backward(x, x, **o),
    "gelu_backward": lambda x, **o: kernels.gelu_backward(x, x, "tanh", **o),
    "dropout": lambda x, **o: kernels.dropout(x, x > 0, 0.5, **o),
    "add_relu": lambda x, **o: kernels.add_relu(x, x, **o),
    "mse_loss": lambda x, **o: kernels.mse_loss(x, x[::-1].copy(), reduction="none", **o),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_large_results_have_the_bits_of_small_ones(name: str) -> None:
    """Wherever the result lies, and whatever is computed in strips of vectors or one by one."""
    x = values(LARGE)
    run = ELEMENTWISE[name]
    expected = np.concatenate([run(x[i:i + SMALL]) for i in range(0, LARGE, SMALL)]) if name != "mse_loss" else (
        ((x.astype(np.float64) - x[::-1]) ** 2).astype(np.float32))
    assert run(x).tobytes() == expected.tobytes()
    if name in ACTIVATIONS:
        memory = np.empty(LARGE + 40, np.float32)
        for offset in (1, 16, 19):
            memory[:] = -1
            run(x, out=memory[offset:offset + LARGE])
            assert memory[offset:offset + LARGE].tobytes() == expected.tobytes()
            assert (memory[:offset] == -1).all()
            assert (memory[offset + LARGE:] == -1).all()


@pytest.mark.parametrize("classes", [3, 63, 64, 4097] if launch.config.DISABLE_JIT else [
    3, 10, 63, 64, 1000, 4096, 4097, 70_000])
def test_rows_of_large_results_have_the_bits_of_rows_alone(classes: int) -> None:
    x = values(max(8, DRAFTED // classes + 1), classes)
    grad = x[::-1].copy()
    labels, weight = np.arange(len(x)) % classes, np.linspace(0.5, 1.5, classes, dtype=np.float32)
    for run in (lambda x, g, t: kernels.softmax(x), lambda x, g, t: kernels.log_softmax(x),
                lambda x, g, t: kernels.softmax_backward(g, x), lambda x, g, t: kernels.log_softmax_backward(g, x),
                lambda x, g, t: kernels.cross_entropy(x, t, reduction="none"),
                lambda x, g, t: kernels.cross_entropy_backward(1.0, x, t, reduction="sum"),
                lambda x, g, t: kernels.cross_entropy_backward(1.0, x, t, weight, label_smoothing=0.1, reduction="sum"),
                lambda x, g, t: kernels.hinge_loss_backward(1.0, x, t, reduction="sum")):
        whole = run(x, grad, labels)
        for part in (slice(0, 1), slice(5, 8), slice(len(x) - 2, len(x))):
            assert whole[part].tobytes() == run(x[part], grad[part], labels[part]).tobytes()


@pytest.mark.skipif(launch.config.DISABLE_JIT, reason="much to do in Python")
@pytest.mark.parametrize("size", [8, 13, 32, 65])
def test_images_of_large_results_have_the_bits_of_images_alone(size: int) -> None:
    x = values(DRAFTED // (size * size) // 17 + 1, 17, size, size)
    pooled = values(*x.shape[:2], size // 2, size // 2)
    places = np.random.default_rng(0).integers(0, size * size, pooled.shape)
    statistics = values(4, 17) ** 2
    mean, invstd = np.linspace(-1, 1, 17), np.linspace(1, 2, 17)

    def labels_of(x: np.ndarray) -> np.ndarray:
        """A label for each pixel."""
        return np.abs(x[:, 0]).astype(int) % 17

    for run in (lambda x, p, i: kernels.batch_norm(x, *statistics, activation="relu"),
                lambda x, p, i: kernels.batch_norm_backward(x[::-1].copy()[::-1], x, statistics[0], mean, invstd,
                                                            training=False, activation="relu")[0],
                lambda x, p, i: kernels.max_pool2d(x, 3, stride=2, padding=1),
                lambda x, p, i: kernels.max_pool2d_backward(p, i, x.shape),
                lambda x, p, i: kernels.avg_pool2d_backward(p, x.shape, 2),
                lambda x, p, i: kernels.avg_pool2d(x, 3, stride=1, padding=1),
                lambda x, p, i: kernels.adaptive_avg_pool2d_backward(p, x.shape),
                lambda x, p, i: kernels.interpolate(p, x.shape[2:]),
                lambda x, p, i: kernels.interpolate(p, x.shape[2:], mode="bilinear"),
                lambda x, p, i: kernels.interpolate_backward(p, x.shape),
                lambda x, p, i: kernels.interpolate_backward(p, x.shape, mode="bilinear"),
                lambda x, p, i: kernels.cross_entropy_backward(1.0, x, labels_of(x), reduction="sum")):
        whole = run(x, pooled, places)
        for part in (slice(0, 1), slice(len(x) - 2, len(x))):
            assert whole[part].tobytes() == run(x[part], pooled[part], places[part]).tobytes()


@pytest.mark.skipif(launch.config.DISABLE_JIT, reason="much to do in Python")
@pytest.mark.parametrize("shape", [(300, 17, 30, 30), (70, 20, 8, 400), (70_000, 70), (9000, 20, 5, 5)])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_normalization_of_large_batches(shape: tuple[int, ...], activation: str | None) -> None:
    """Against NumPy in float64: each way through, streamed, with samples that are no multiple of any block."""
    x, grad = values(*shape), values(*shape)[::-1].copy()
    weight, bias = values(2, shape[1])
    axes, c = tuple(i for i in range(len(shape)) if i != 1), (1, -1) + (1,) * (len(shape) - 2)
    mean, var = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
    invstd = 1 / np.sqrt(var + 1e-5)
    z = (x - mean.reshape(c)) * invstd.reshape(c)
    line = z * weight.reshape(c) + bias.reshape(c)
    y, *statistics = kernels.batch_norm(x, None, None, weight, bias, return_stats=True, activation=activation)
    np.testing.assert_allclose(statistics, (mean, invstd), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y, np.maximum(line, 0) if activation else line, atol=3e-6)
    g = np.where((y > 0) | (activation is None), grad, 0).astype(np.float64)
    grads = kernels.batch_norm_backward(grad, x, weight, *statistics, bias=bias, activation=activation)
    expected = g - g.mean(axes, keepdims=True) - z * (g * z).mean(axes, keepdims=True)
    np.testing.assert_allclose(grads[0], expected * (invstd * weight).reshape(c), atol=1e-5)
    np.testing.assert_allclose(grads[1], (g * z).sum(axes), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(grads[2], g.sum(axes), rtol=1e-5, atol=1e-4)
