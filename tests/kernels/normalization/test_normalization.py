"""What the table of kernels cannot say of batch normalization: accuracy, running statistics, every option as in torch.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.testing import assert_close

pytestmark = pytest.mark.parametrize("target", ["naive", "cpu"])

# Many channels and long runs, short runs, few channels, no runs, more columns than a block has.
SHAPES = [(3, 17, 8, 8), (4, 17, 3, 3), (5, 2, 70), (6, 3), (2, 300), (3, 1, 9, 9), (1, 18, 65)]


def sample(shape: tuple[int, ...], dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
    """x, running_mean, running_var, weight, bias."""
    rng = np.random.default_rng(0)
    c = shape[1]
    values = (2 + 3 * rng.standard_normal(shape), rng.standard_normal(c), rng.random(c) + 0.5, rng.standard_normal(c),
              rng.standard_normal(c))
    return tuple(v.astype(dtype) for v in values)


# --- accuracy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 16, 8, 8), (64, 3, 2, 2), (300, 4)])
def test_a_mean_of_1e4_with_a_deviation_of_a_tenth(shape: tuple[int, ...], target: str) -> None:
    """E[x^2] - E[x]^2 in float32 gives a variance of 16, and a float32 mean shifts results by half a percent."""
    rng = np.random.default_rng(0)
    x = (1e4 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    weight, grad = (rng.standard_normal(s).astype(np.float32) for s in (shape[1], shape))
    exact = x.astype(np.float64), weight.astype(np.float64), grad.astype(np.float64)
    axes, c = tuple(i for i in range(len(shape)) if i != 1), (1, -1) + (1,) * (len(shape) - 2)
    mean, var = exact[0].mean(axes), exact[0].var(axes)
    invstd = 1 / np.sqrt(var + 1e-5)
    z = (exact[0] - mean.reshape(c)) * invstd.reshape(c)
    running_mean, running_var = np.zeros(shape[1], np.float32), np.ones(shape[1], np.float32)

    y, *statistics = kernels.batch_norm(x, running_mean, running_var, weight, training=True, momentum=1.0,
                                        return_stats=True, target=target)
    assert_close(y, (z * exact[1].reshape(c)).astype(np.float32))
    assert_close(tuple(statistics), (mean, invstd), dtype=np.float64, factor=100)
    n = x.size // shape[1]
    assert_close((running_mean, running_var), tuple(s.astype(np.float32) for s in (mean, var * n / (n - 1))))

    grads = kernels.batch_norm_backward(grad, x, weight, *statistics, target=target)
    g = exact[2]
    centred = g - g.mean(axes, keepdims=True) - z * (g * z).mean(axes, keepdims=True)
    expected = (invstd * exact[1]).reshape(c) * centred, (g * z).sum(axes), g.sum(axes)
    assert_close(grads, tuple(e.astype(np.float32) for e in expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_all_ways_through_agree_with_naive(shape: tuple[int, ...], target: str) -> None:
    x, _, _, weight, bias = sample(shape)
    grad = np.cos(np.arange(x.size)).reshape(shape)
    y, *statistics = kernels.batch_norm(x, None, None, weight, bias, return_stats=True, target=target)
    expected = kernels.batch_norm(x, None, None, weight, bias, return_stats=True, target="naive")
    assert_close((y, *statistics), expected)
    for training in (True, False):
        actual = kernels.batch_norm_backward(grad, x, weight, *statistics, training=training, target=target)
        naive = kernels.batch_norm_backward(grad, x, weight, *expected[1:], training=training, target="naive")
        # Of two samples the terms all but cancel, which the naive version, in wider numbers, does not feel.
        assert_close(actual, naive, gradient=True, factor=4)


@pytest.mark.parametrize("shape", [(8, 16, 9, 8), (64, 3, 2, 2), (301, 4)])
@pytest.mark.parametrize("mean", [0.0, 3.0, 1e3, 1e5])
def test_the_documented_bounds_of_float32(mean: float, shape: tuple[int, ...], target: str) -> None:
    rng = np.random.default_rng(0)
    x = (mean + rng.standard_normal(shape)).astype(np.float32)
    weight, bias, grad = (rng.standard_normal(s).astype(np.float32) for s in (shape[1], shape[1], shape))
    axes, c = tuple(i for i in range(len(shape)) if i != 1), (1, -1) + (1,) * (len(shape) - 2)
    y, m, invstd = kernels.batch_norm(x, None, None, weight, bias, return_stats=True, target=target)
    wide = x.astype(np.float64)
    exact_m, exact_invstd = wide.mean(axes), 1 / np.sqrt(wide.var(axes) + 1e-5)
    z, w, b = (wide - exact_m.reshape(c)) * exact_invstd.reshape(c), weight.reshape(c), bias.reshape(c)
    e = 1.2e-7
    assert (abs(y - (z * w + np.float64(b))) <= 4 * e * (abs(z * w) + abs(b)) + e * e * mean * abs(w) + 1e-12).all()

    grad_x, *_ = kernels.batch_norm_backward(grad, x, weight, m, invstd, target=target)
    terms = np.broadcast_arrays(grad.astype(np.float64), -grad.mean(axes, keepdims=True, dtype=np.float64),
                                -z * (grad * z).mean(axes, keepdims=True))
    scale = exact_invstd.reshape(c) * w
    assert (abs(grad_x - sum(terms) * scale) <= 6 * e * abs(scale) * sum(map(abs, terms)) + 1e-12).all()


def test_equal_values_give_the_bias(target: str) -> None:
    x, bias = np.full((3, 2, 4), [[[0.1], [1e6]]], np.float32), np.array([3, -1], np.float32)
    y, _, invstd = kernels.batch_norm(x, None, None, None, bias, training=True, return_stats=True, target=target)
    np.testing.assert_allclose(y, np.broadcast_to(bias[:, None], x.shape), atol=1e-6)
    np.testing.assert_allclose(invstd, 1e5**0.5)


def test_nan_and_inf_stay_in_their_channels(target: str) -> None:
    for shape in [(3, 17, 8, 8), (3, 17, 2)]:
        x, _, _, weight, bias = sample(shape)
        x[1, 3, 1], x[2, 5, 0] = np.nan, np.inf
        y, *statistics = kernels.batch_norm(x, None, None, weight, bias, return_stats=True, target=target)
        grad_x, *_ = kernels.batch_norm_backward(np.ones(shape), x, weight, *statistics, target=target)
        for result in (y, grad_x):
            assert set(np.argwhere(np.isnan(result))[:, 1]) == {3, 5}
            assert np.isnan(result[:, 3]).all()


def test_inference_gives_a_sample_the_same_bits_in_any_batch(target: str) -> None:
    for shape in [(4, 17, 8, 8), (4, 17, 3), (16, 9, 3), (40, 3, 70), (9, 5)]:
        x, *rest = sample(shape, np.float32)
        assert kernels.batch_norm(x, *rest, target=target)[2:3].tobytes() == \
            kernels.batch_norm(x[2:3], *rest, target=target).tobytes()


# --- running statistics ------------------------------------------------------------------------------------


def test_running_variance_is_unbiased(target: str) -> None:
    x, mean, var = np.array([[1.0], [3.0]]), np.zeros(1), np.zeros(1)
    y = kernels.batch_norm(x, mean, var, training=True, momentum=1.0, eps=1e-12, target=target)
    np.testing.assert_allclose(y, [[-1], [1]], rtol=1e-9)
    assert (mean.item(), var.item()) == (2.0, 2.0)


def test_a_momentum_of_one_over_i_averages_batches(target: str) -> None:
    batches = np.random.default_rng(0).standard_normal((5, 4, 3))
    mean, var = np.zeros(3), np.ones(3)
    for i, x in enumerate(batches, start=1):
        kernels.batch_norm(x, mean, var, training=True, momentum=1 / i, target=target)
    assert_close((mean, var), (batches.mean((0, 1)), batches.var(1, ddof=1).mean(0)))


def test_running_statistics_are_written_through_strides(target: str) -> None:
    x, mean, var, *_ = sample((4, 3, 2), np.float32)
    wide = np.stack([mean, var], axis=1)
    kernels.batch_norm(x, mean, var, training=True, target=target)
    kernels.batch_norm(x, wide[:, 0], wide[:, 1], training=True, target=target)
    np.testing.assert_array_equal(wide, np.stack([mean, var], axis=1))


def test_running_statistics_are_used_and_left_alone_in_inference(target: str) -> None:
    x, mean, var, weight, bias = sample((4, 3, 2))
    mean.setflags(write=False)
    y, used, invstd = kernels.batch_norm(x, mean, var, weight, bias, return_stats=True, target=target)
    assert_close((used, invstd), (mean, 1 / np.sqrt(var + 1e-5)))
    assert_close(y, ((x - mean[:, None]) * (weight * invstd)[:, None]) + bias[:, None])
    grad_x, grad_weight, _ = kernels.batch_norm_backward(x, x, weight, used, invstd, training=False, target=target)
    assert_close(grad_x, x * (weight * invstd)[:, None])
    assert_close(grad_weight, (x * (x - mean[:, None]) * invstd[:, None]).sum((0, 2)))
    assert kernels.batch_norm_backward(x, x, None, used, invstd, training=False, target=target)[1:] == (None, None)


def refused() -> dict[str, tuple[type[Exception], str, dict[str, Any]]]:
    read_only = np.ones(3)
    read_only.setflags(write=False)
    shared = np.ones(4)
    return {
        "shape": (ValueError, r"bias: expected shape \(3,\), got \(2,\)", {"bias": np.ones(2)}),
        "eps": (ValueError, "eps: expected a positive number", {"eps": 0.0}),
        "momentum": (TypeError, "momentum: expected a number, got None", {"momentum": None}),
        "one value": (ValueError, r"x: expected more than one value a channel .* \(1, 3\)", {"x": np.ones((1, 3))}),
        "no value": (ValueError, r"x: expected more than one value a channel .* \(0, 3\)", {"x": np.ones((0, 3))}),
        "out": (ValueError, r"out: expected shape \(4, 3\)", {"out": np.empty((3, 4))}),
        "read-only": (ValueError, "running_var: expected a writable array", {"running_var": read_only}),
        "overlap": (ValueError, "running_var: expected memory of its own, but it overlaps with running_mean",
                    {"running_mean": shared[:3], "running_var": shared[1:]}),
        "one of two": (ValueError, "running_var: expected running_mean and running_var both or neither",
                       {"running_var": None}),
        "target": (ValueError, "target: expected one of", {"target": "fast"}),
    }


@pytest.mark.parametrize("case", refused())
def test_errors_come_before_running_statistics_are_written(case: str, target: str) -> None:
    error, message, changes = refused()[case]
    arguments = {"x": np.arange(12.0).reshape(4, 3), "running_mean": np.ones(3), "running_var": np.ones(3),
                 "training": True, "target": target, **changes}
    with pytest.raises(error, match=message):
        kernels.batch_norm(**arguments)
    for name in ("running_mean", "running_var"):
        assert arguments[name] is None or (arguments[name] == 1).all()


def test_statistics_of_float32_values_must_be_float64(target: str) -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(TypeError, match="mean: expected float64 as batch_norm"):
        kernels.batch_norm_backward(x, x, None, x[0], x[0], target=target)


def test_no_samples_are_fine_in_inference(target: str) -> None:
    for shape in [(0, 17, 8, 8), (0, 3)]:
        x, mean, var, weight, _ = sample(shape)
        y, *statistics = kernels.batch_norm(x, mean, var, weight, return_stats=True, target=target)
        assert y.shape == shape
        grads = kernels.batch_norm_backward(x, x, weight, *statistics, training=False, target=target)
        assert grads[0].shape == shape
        assert not grads[1].any()
        assert not grads[2].any()


# --- peers -------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_option_is_torchs(shape: tuple[int, ...], dtype: type, target: str) -> None:
    torch = pytest.importorskip("torch")
    for training, running, affine, biased in product([True, False], repeat=4):
        x, mean, var, weight, bias = sample(shape, dtype)
        mean, var = (mean, var) if running else (None, None)
        weight, bias = weight if affine else None, bias if biased else None
        tensors = [None if a is None else torch.tensor(a) for a in (x, mean, var, weight, bias)]
        for tensor in (tensors[0], *tensors[3:]):
            if tensor is not None:
                tensor.requires_grad = True
        options = {"momentum": 0.3, "eps": 1e-3}
        expected = torch.nn.functional.batch_norm(*tensors, training=training or not running, **options)
        grad = np.random.default_rng(1).standard_normal(shape).astype(dtype)
        expected.backward(torch.tensor(grad))

        y, *statistics = kernels.batch_norm(x, mean, var, weight, bias, training=training, return_stats=True, **options,
                                            target=target)
        assert_close(y, expected.detach().numpy(), gradient=True)
        if running:
            assert_close((mean, var), (tensors[1].numpy(), tensors[2].numpy()))
        grads = kernels.batch_norm_backward(grad, x, weight, *statistics, training=training or not running,
                                            target=target)
        assert_close(grads[0], tensors[0].grad.numpy(), gradient=True, factor=2)
        if affine:
            assert_close(grads[1], tensors[3].grad.numpy(), gradient=True, factor=2)
        if affine and biased:
            assert_close(grads[2], tensors[4].grad.numpy(), gradient=True)


def test_training_is_a_truth_value(target: str) -> None:
    """Kernels are compiled for bools: whatever else stands for one must not become their type."""
    rng = np.random.default_rng(0)
    grad, x = rng.standard_normal((2, 200, 3))
    _, mean, invstd = kernels.batch_norm(x, None, None, training=True, return_stats=True)
    for training in (None, True, 0, 1):
        grads = kernels.batch_norm_backward(grad, x, None, mean, invstd, training=training, target=target)
        assert_close(grads[0], kernels.batch_norm_backward(grad, x, None, mean, invstd, training=training,
                                                           target="naive")[0], gradient=True)
