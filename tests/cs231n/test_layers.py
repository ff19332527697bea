"""Layers and losses: the examples of CS231n's notebooks with the numbers printed there, and gradients by differences.

The inputs and outputs are those of assignment 2 (2018): FullyConnectedNets, BatchNormalization, Dropout and
ConvolutionalNetworks. Errors are the course's: max |x - y| / max(1e-8, |x| + |y|), with the bounds of its notebooks.
"""

# ruff: noqa: NPY002

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import cs231n
from fastnn.cs231n import fast_layers, layer_utils, layers

Array = np.ndarray
randn = np.random.randn

CONV = [(layers.conv_forward_naive, layers.conv_backward_naive),
        *((getattr(fast_layers, f"conv_forward_{way}"), getattr(fast_layers, f"conv_backward_{way}"))
          for way in ("fast", "im2col", "strides"))]
POOL = [(layers.max_pool_forward_naive, layers.max_pool_backward_naive),
        *((getattr(fast_layers, f"max_pool_forward_{way}"), getattr(fast_layers, f"max_pool_backward_{way}"))
          for way in ("fast", "im2col", "reshape"))]
POOL_PARAM = {"pool_height": 2, "pool_width": 2, "stride": 2}


def rel_error(x: Any, y: Any) -> float:
    x, y = np.asarray(x), np.asarray(y)
    assert x.shape == y.shape
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))))


def ramp(start: float, stop: float, *shape: int) -> Array:
    return np.linspace(start, stop, int(np.prod(shape))).reshape(shape)


# --- what the notebooks print ---


def test_affine_forward() -> None:
    out, cache = layers.affine_forward(x := ramp(-0.1, 0.5, 2, 4, 5, 6), w := ramp(-0.2, 0.3, 120, 3),
                                       b := ramp(-0.3, 0.1, 3))
    assert rel_error(out, [[1.49834967, 1.70660132, 1.91485297], [3.25553199, 3.5141327, 3.77273342]]) < 1e-8
    assert all(kept is given for kept, given in zip(cache, (x, w, b)))


def test_relu_forward() -> None:
    out, _ = layers.relu_forward(ramp(-0.5, 0.5, 3, 4))
    assert rel_error(out, [[0, 0, 0, 0], [0, 0, 0.04545455, 0.13636364], [0.22727273, 0.31818182, 0.40909091, 0.5]]
                     ) < 1e-7


def test_losses() -> None:
    x, y = 0.001 * randn(50, 10), np.random.randint(10, size=50)
    for loss, printed in ((layers.svm_loss, 8.9996027491), (layers.softmax_loss, 2.3025458445)):
        value, dx = loss(x, y)
        assert rel_error(value, printed) < 1e-11
        assert rel_error(dx, cs231n.eval_numerical_gradient(lambda x, f=loss: f(x, y)[0], x, verbose=False)) < 2e-8


@pytest.mark.parametrize(("forward", "backward"), CONV)
def test_conv_forward(forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    out, _ = forward(ramp(-0.1, 0.5, 2, 3, 4, 4), ramp(-0.2, 0.3, 3, 3, 4, 4), ramp(-0.1, 0.2, 3),
                     {"stride": 2, "pad": 1})
    assert rel_error(out, [[[[-0.08759809, -0.10987781], [-0.18387192, -0.2109216]],
                            [[0.21027089, 0.21661097], [0.22847626, 0.23004637]],
                            [[0.50813986, 0.54309974], [0.64082444, 0.67101435]]],
                           [[[-0.98053589, -1.03143541], [-1.19128892, -1.24695841]],
                            [[0.69108355, 0.66880383], [0.59480972, 0.56776003]],
                            [[2.36270298, 2.36904306], [2.38090835, 2.38247847]]]]) < 3e-8


@pytest.mark.parametrize(("forward", "backward"), POOL)
def test_max_pool_forward(forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    out, _ = forward(ramp(-0.3, 0.4, 2, 3, 4, 4), POOL_PARAM)
    assert rel_error(out, [[[[-0.26315789, -0.24842105], [-0.20421053, -0.18947368]],
                            [[-0.14526316, -0.13052632], [-0.08631579, -0.07157895]],
                            [[-0.02736842, -0.01263158], [0.03157895, 0.04631579]]],
                           [[[0.09052632, 0.10526316], [0.14947368, 0.16421053]],
                            [[0.20842105, 0.22315789], [0.26736842, 0.28210526]],
                            [[0.32631579, 0.34105263], [0.38526316, 0.4]]]]) < 5e-8


def test_batchnorm_in_training() -> None:
    X, W1, W2 = randn(200, 50), randn(50, 60), randn(60, 3)
    a = np.maximum(0, X.dot(W1)).dot(W2)
    assert rel_error(a.mean(axis=0), [-2.3814598, -13.18038246, 1.91780462]) < 1e-8
    out, _ = layers.batchnorm_forward(a, np.ones(3), np.zeros(3), {"mode": "train"})
    assert np.abs(out.mean(axis=0)).max() < 1e-15
    assert rel_error(out.std(axis=0), [0.99999999, 1, 1]) < 5e-9
    out, _ = layers.batchnorm_forward(a, np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0]), {"mode": "train"})
    assert rel_error(out.mean(axis=0), [11, 12, 13]) < 1e-14
    assert rel_error(out.std(axis=0), [0.99999999, 1.99999999, 2.99999999]) < 5e-9


def test_batchnorm_of_running_averages() -> None:
    W1, W2, bn_param = randn(50, 60), randn(60, 3), {"mode": "train"}
    for mode in ["train"] * 50 + ["test"]:
        bn_param["mode"] = mode
        a = np.maximum(0, randn(200, 50).dot(W1)).dot(W2)
        out, _ = layers.batchnorm_forward(a, np.ones(3), np.zeros(3), bn_param)
    assert rel_error(out.mean(axis=0), [-0.03927354, -0.04349152, -0.10452688]) < 2e-7
    assert rel_error(out.std(axis=0), [1.01531427, 1.01238373, 0.97819987]) < 1e-8


def test_running_averages_are_the_biased_ones() -> None:
    x, mean, var = randn(5, 3), randn(3), np.random.rand(3)
    bn_param = {"mode": "train", "momentum": 0.7, "running_mean": mean.copy(), "running_var": var.copy()}
    layers.batchnorm_forward(x, np.ones(3), np.zeros(3), bn_param)
    assert rel_error(bn_param["running_mean"], 0.7 * mean + 0.3 * x.mean(axis=0)) < 1e-15
    assert rel_error(bn_param["running_var"], 0.7 * var + 0.3 * x.var(axis=0)) < 1e-15


def test_spatial_batchnorm_in_training() -> None:
    x, bn_param = 4 * randn(2, 3, 4, 5) + 10, {"mode": "train"}
    assert rel_error(x.mean(axis=(0, 2, 3)), [9.33463814, 8.90909116, 9.11056338]) < 1e-9
    out, _ = layers.spatial_batchnorm_forward(x, np.ones(3), np.zeros(3), bn_param)
    assert np.abs(out.mean(axis=(0, 2, 3))).max() < 1e-15
    assert rel_error(out.std(axis=(0, 2, 3)), [0.99999962, 0.99999951, 0.9999996]) < 5e-9
    # The notebook gives integers here.
    out, _ = layers.spatial_batchnorm_forward(x, np.asarray([3, 4, 5]), np.asarray([6, 7, 8]), bn_param)
    assert rel_error(out.mean(axis=(0, 2, 3)), [6, 7, 8]) < 1e-14
    assert rel_error(out.std(axis=(0, 2, 3)), [2.99999885, 3.99999804, 4.99999798]) < 5e-9


def test_spatial_batchnorm_of_running_averages() -> None:
    bn_param = {"mode": "train"}
    for mode in ["train"] * 50 + ["test"]:
        bn_param["mode"] = mode
        out, _ = layers.spatial_batchnorm_forward(2.3 * randn(10, 4, 11, 12) + 13, np.ones(4), np.zeros(4), bn_param)
    assert rel_error(out.mean(axis=(0, 2, 3)), [-0.08034406, 0.07562881, 0.05716371, 0.04378383]) < 2e-7
    assert rel_error(out.std(axis=(0, 2, 3)), [0.96718744, 1.0299714, 1.02887624, 1.00585577]) < 1e-8


def test_layernorm_forward() -> None:
    X, W1, W2 = randn(4, 50), randn(50, 60), randn(60, 3)
    a = np.maximum(0, X.dot(W1)).dot(W2)
    assert rel_error(a.mean(axis=1), [-59.06673243, -47.60782686, -43.31137368, -26.40991744]) < 1e-9
    out, _ = layers.layernorm_forward(a, np.ones(3), np.zeros(3), {"mode": "train"})
    assert np.abs(out.mean(axis=1)).max() < 1e-14
    assert rel_error(out.std(axis=1), [0.99999995, 0.99999999, 1, 0.99999969]) < 5e-9
    out, _ = layers.layernorm_forward(a, np.full(3, 3.0), np.full(3, 5.0), {"mode": "train"})
    assert rel_error(out.std(axis=1), [2.99999985, 2.99999998, 2.99999999, 2.99999907]) < 5e-9


def test_spatial_groupnorm_forward() -> None:
    x = 4 * randn(2, 6, 4, 5) + 10
    assert rel_error(x.reshape(4, -1).mean(axis=1), [9.72505327, 8.51114185, 8.9147544, 9.43448077]) < 1e-9
    out, _ = layers.spatial_groupnorm_forward(x, np.ones((1, 6, 1, 1)), np.zeros((1, 6, 1, 1)), 2, {"mode": "train"})
    assert np.abs(out.reshape(4, -1).mean(axis=1)).max() < 1e-15
    printed = np.array([3.67070958, 3.09892597, 4.27043622, 3.97521327])       # deviations of x
    assert rel_error(out.reshape(4, -1).std(axis=1), printed / np.sqrt(printed**2 + 1e-5)) < 1e-12


def test_dropout_draws_the_notebooks_masks() -> None:
    x = randn(500, 500) + 10
    for p, mean, dropped in ((0.25, 10.014059117, 0.749784), (0.4, 9.97791765876, 0.600796),
                             (0.7, 9.98781191216, 0.30074)):
        out, _ = layers.dropout_forward(x, {"mode": "train", "p": p})
        assert rel_error(out.mean(), mean) < 1e-11
        assert (out == 0).mean() == dropped
        out, cache = layers.dropout_forward(x, {"mode": "test", "p": p})
        assert out is x
        assert layers.dropout_backward(x, cache) is x


# --- gradients ---

_X = (4, 5)
_IMAGES = (2, 6, 4, 5)
GRADIENTS: list[tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...], tuple[Any, ...], float]] = [
    # name, forward, backward, shapes of arrays, other arguments, bound
    ("affine", layers.affine_forward, layers.affine_backward, ((10, 2, 3), (6, 5), (5,)), (), 5e-10),
    ("relu", layers.relu_forward, layers.relu_backward, ((10, 10),), (), 5e-12),
    ("batchnorm", layers.batchnorm_forward, layers.batchnorm_backward, (_X, (5,), (5,)), ({"mode": "train"},), 1e-8),
    ("batchnorm_alt", layers.batchnorm_forward, layers.batchnorm_backward_alt, (_X, (5,), (5,)), ({"mode": "train"},),
     1e-8),
    ("batchnorm test", layers.batchnorm_forward, layers.batchnorm_backward, (_X, (5,), (5,)),
     ({"mode": "test", "running_var": np.ones(5)},), 1e-8),
    ("layernorm", layers.layernorm_forward, layers.layernorm_backward, (_X, (5,), (5,)), ({},), 1e-8),
    ("spatial_batchnorm", layers.spatial_batchnorm_forward, layers.spatial_batchnorm_backward,
     (_IMAGES, (6,), (6,)), ({"mode": "train"},), 5e-7),
    ("spatial_groupnorm", layers.spatial_groupnorm_forward, layers.spatial_groupnorm_backward,
     (_IMAGES, (1, 6, 1, 1), (1, 6, 1, 1)), (2, {}), 5e-7),
    ("spatial_groupnorm, flat", layers.spatial_groupnorm_forward, layers.spatial_groupnorm_backward,
     (_IMAGES, (6,), (6,)), (3, {}), 5e-7),
    ("dropout", layers.dropout_forward, layers.dropout_backward, ((10, 10),), ({"mode": "train", "p": 0.2, "seed": 9},),
     1e-10),
    *((f.__name__, f, b, ((4, 3, 5, 5), (2, 3, 3, 3), (2,)), ({"stride": 1, "pad": 1},), 5e-8) for f, b in CONV[:2]),
    *((f"{f.__name__}, strided", f, b, ((2, 2, 7, 6), (3, 2, 3, 2), (3,)), ({"stride": 2, "pad": 0},), 5e-8)
      for f, b in CONV[:2]),
    *((f.__name__, f, b, ((3, 2, 8, 8),), (POOL_PARAM,), 1e-10) for f, b in POOL[:2]),
    *((f"{f.__name__}, overlapping", f, b, ((3, 2, 7, 5),), ({"pool_height": 3, "pool_width": 2, "stride": 1},), 1e-10)
      for f, b in POOL[:2]),
    ("affine_relu", layer_utils.affine_relu_forward, layer_utils.affine_relu_backward, ((2, 3, 4), (12, 10), (10,)), (),
     5e-9),
    ("conv_relu", layer_utils.conv_relu_forward, layer_utils.conv_relu_backward, ((2, 3, 8, 8), (3, 3, 3, 3), (3,)),
     ({"stride": 1, "pad": 1},), 5e-8),
    ("conv_relu_pool", layer_utils.conv_relu_pool_forward, layer_utils.conv_relu_pool_backward,
     ((2, 3, 8, 8), (3, 3, 3, 3), (3,)), ({"stride": 1, "pad": 1}, POOL_PARAM), 5e-8),
    ("conv_bn_relu", layer_utils.conv_bn_relu_forward, layer_utils.conv_bn_relu_backward,
     ((2, 3, 6, 6), (3, 3, 3, 3), (3,), (3,), (3,)), ({"stride": 1, "pad": 1}, {"mode": "train"}), 2e-6),
]


@pytest.mark.parametrize(("forward", "backward", "shapes", "rest", "bound"), [case[1:] for case in GRADIENTS],
                         ids=[case[0] for case in GRADIENTS])
def test_gradients(forward: Callable[..., Any], backward: Callable[..., Any], shapes: tuple[Any, ...],
                   rest: tuple[Any, ...], bound: float) -> None:
    arrays = [randn(*shape) for shape in shapes]
    out, cache = forward(*arrays, *rest)
    dout = randn(*out.shape)
    grads = backward(dout, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    for place, (array, grad) in enumerate(zip(arrays, grads, strict=True)):
        def f(moved: Array, place: int = place) -> Array:
            return np.asarray(forward(*arrays[:place], moved, *arrays[place + 1 :], *rest)[0])

        numeric = cs231n.eval_numerical_gradient_array(f, array, dout)
        # Where a gradient is 0 by cancellation the course's error is that of rounding over rounding.
        noise = np.abs(grad) < 1e-6
        assert np.abs(grad - numeric)[noise].max(initial=0) < 1e-9
        assert rel_error(np.where(noise, 0, grad), np.where(noise, 0, numeric)) < bound


# --- fast and naive, dtypes ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fast_agrees_with_naive_and_takes_its_cache(dtype: Any) -> None:
    x, w, b = (a.astype(dtype) for a in (randn(3, 3, 9, 8), randn(4, 3, 3, 3), randn(4)))
    bound = 1e-4 if dtype == np.float32 else 1e-9
    (naive, cache), (fast, fast_cache) = (f(x, w, b, {"stride": 2, "pad": 1}) for f, _ in CONV[:2])
    dout = randn(*naive.shape).astype(dtype)
    assert naive.dtype == fast.dtype == dtype
    assert rel_error(naive, fast) < bound
    grads = [backward(dout, c) for _, backward in CONV[:2] for c in (cache, fast_cache)]
    for others in grads[1:]:
        for one, other in zip(grads[0], others):
            assert one.dtype == other.dtype == dtype
            assert rel_error(one, other) < bound
    (naive, cache), (fast, fast_cache) = (f(x, POOL_PARAM) for f, _ in POOL[:2])
    dout = randn(*naive.shape).astype(dtype)
    assert (naive == fast).all()
    assert (POOL[0][1](dout, cache) == POOL[1][1](dout, fast_cache)).all()


@pytest.mark.parametrize(("given", "result"), [
    (("f4", "f4"), "f4"), (("f8", "f8"), "f8"), (("f4", "f8"), "f8"), (("i8", "i8"), "f8"), (("i8", "f4"), "f8"),
    (("u1", "f4"), "f4"), (("f2", "f2"), "f4"), (("?", "i4"), "f8"), ((">f8", "f8"), "f8")])
def test_dtypes_are_promoted_as_by_numpy(given: tuple[str, str], result: str) -> None:
    x, w = np.ones((2, 3), given[0]), np.ones((3, 4), given[1])
    out, cache = layers.affine_forward(x, w, np.zeros(4, given[1]))
    assert out.dtype == result
    assert (out == 3).all()
    assert all(grad.dtype == result for grad in layers.affine_backward(out, cache))


@pytest.mark.parametrize("forward", [layers.batchnorm_forward, layers.layernorm_forward])
def test_float32_stays_float32(forward: Callable[..., Any]) -> None:
    param: dict[str, Any] = {"mode": "train"}
    out, _ = forward(randn(4, 3).astype(np.float32), np.ones(3, np.float32), np.zeros(3, np.float32), param)
    assert out.dtype == np.float32
    assert all(value.dtype == np.float32 for key, value in param.items() if key != "mode")


def test_strided_and_readonly_arrays() -> None:
    x = randn(6, 8)[::2, ::2]
    x.flags.writeable = False
    out, _ = layers.affine_forward(x, randn(3, 4).T, np.zeros(3))
    assert out.shape == (3, 3)


# --- mistakes ---

_x, _w, _b, _conv = np.ones((2, 3, 4, 4)), np.ones((5, 3, 2, 2)), np.ones(5), {"stride": 1, "pad": 0}
_rows, _one, _matrix, _bn = np.ones((4, 3)), np.ones(3), np.ones((3, 2)), {"mode": "train"}
MISTAKES: list[tuple[Callable[..., Any], tuple[Any, ...], type[Exception], str]] = [
    (layers.affine_forward, (_x, _matrix, np.ones(2)), ValueError, r"w: expected 48 rows .* got shape \(3, 2\)"),
    (layers.affine_forward, (_rows, _matrix, _one), ValueError, r"b: expected shape \(2,\), got \(3,\)"),
    (layers.affine_forward, ([[1.0]], _matrix, _one), TypeError, "x: expected an array, got list"),
    (layers.affine_forward, (_rows * 1j, _matrix, np.ones(2)), TypeError, "x: expected real numbers, got complex128"),
    (layers.affine_backward, (_rows, (_rows, _matrix, np.ones(2))), ValueError, r"dout: expected shape \(4, 2\)"),
    (layers.relu_backward, (_rows, _one), ValueError, r"dout: expected shape \(3,\), got \(4, 3\)"),
    (layers.batchnorm_forward, (_rows, _one, _one, {}), ValueError, r"bn_param: expected the key 'mode', got \[\]"),
    (layers.batchnorm_forward, (_rows, _one, _one, "train"), TypeError, "bn_param: expected a dict, got str"),
    (layers.batchnorm_forward, (_rows, _one, _one, {"mode": "eval"}), ValueError,
     r"bn_param\['mode'\]: expected 'train' or 'test', got 'eval'"),
    (layers.batchnorm_forward, (_rows, _one, _one, {**_bn, "momentum": 2}), ValueError,
     r"bn_param\['momentum'\]: expected a number from 0 to 1, got 2"),
    (layers.batchnorm_forward, (_rows, _one, _one, {**_bn, "eps": -1}), ValueError,
     r"bn_param\['eps'\]: expected a number from 0"),
    (layers.batchnorm_forward, (_rows, _one, _one, {**_bn, "running_mean": _b}), ValueError,
     r"bn_param\['running_mean'\]: expected shape \(3,\), got \(5,\)"),
    (layers.batchnorm_forward, (_x, _one, _one, _bn), ValueError, r"x: expected 2 dimensions \(N, D\)"),
    (layers.batchnorm_forward, (_rows, _b, _one, _bn), ValueError, r"gamma: expected shape \(3,\), got \(5,\)"),
    (layers.batchnorm_forward, (_rows, _one, _b, _bn), ValueError, r"beta: expected shape \(3,\), got \(5,\)"),
    (layers.batchnorm_forward, (_rows[:1], _one, _one, _bn), ValueError, "x: expected more than one value"),
    (layers.batchnorm_backward, (_one, (_rows, _one, _one, _one, True)), ValueError, r"dout: expected shape \(4, 3\)"),
    (layers.spatial_batchnorm_forward, (_rows, _one, _one, _bn), ValueError, r"x: expected 4 dimensions \(N, C, H"),
    (layers.layernorm_forward, (_rows, _b, _one, {}), ValueError, r"gamma: expected shape \(3,\), got \(5,\)"),
    (layers.layernorm_forward, (_rows[:, :1], _one[:1], _one[:1], {}), ValueError, "x: expected more than one value"),
    (layers.layernorm_forward, (_rows, _one, _one, None), TypeError, "ln_param: expected a dict, got NoneType"),
    (layers.layernorm_forward, (_rows, _one, _one, {"eps": 0}), ValueError, "eps: expected a positive number"),
    (layers.layernorm_backward, (_one, (_rows[None], _rows, _one, _one, _one)), ValueError, "dout: expected shape"),
    (layers.spatial_groupnorm_forward, (_x, _one, _one, 2, {}), ValueError, "G: expected a divisor of the 3 channels"),
    (layers.spatial_groupnorm_forward, (_x, _one, _one[None], 3, {}), ValueError, r"beta: expected shape \(3,\)"),
    (layers.dropout_forward, (_rows, {"mode": "train"}), ValueError, "dropout_param: expected the key 'p'"),
    (layers.dropout_forward, (_rows, {"mode": "train", "p": 1.5}), ValueError,
     r"dropout_param\['p'\]: expected a number from 0 to 1, got 1.5"),
    (layers.dropout_forward, (_rows, {"mode": "on", "p": 0.5}), ValueError,
     r"dropout_param\['mode'\]: expected 'train' or 'test', got 'on'"),
    (layers.dropout_backward, (_one, ({"p": 0.5}, _rows > 0)), ValueError, r"dout: expected shape \(4, 3\)"),
]
for _forward, _backward in CONV[:2]:
    MISTAKES += [
        (_forward, (_rows, _w, _b, _conv), ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got shape \(4, 3\)"),
        (_forward, (_x, _w[:, :2], _b, _conv), ValueError, "w: expected 3 channels in each filter"),
        (_forward, (_x, np.ones((5, 3, 9, 2)), _b, _conv), ValueError, "w: expected a kernel no larger"),
        (_forward, (_x, _w, _one, _conv), ValueError, r"b: expected shape \(5,\), got \(3,\)"),
        (_forward, (_x, _w, _b, {"stride": 1}), ValueError, "conv_param: expected the key 'pad'"),
        (_forward, (_x, _w, _b, {"stride": 1, "pad": 0.5}), TypeError, r"conv_param\['pad'\]: expected an integer"),
        (_forward, (_x, _w, _b, {"stride": 0, "pad": 1}), ValueError, r"conv_param\['stride'\]: expected at least 1"),
        (_backward, (_x, (_x, _w, _b, _conv)), ValueError, r"dout: expected shape \(2, 5, 3, 3\)"),
    ]
for _forward, _backward in POOL[:2]:
    MISTAKES += [
        (_forward, (_rows, POOL_PARAM), ValueError, r"x: expected 4 dimensions \(N, C, H, W\)"),
        (_forward, (_x, {**POOL_PARAM, "pool_width": 9}), ValueError, "pool_param: expected windows"),
        (_forward, (_x, {"stride": 2}), ValueError, "pool_param: expected the key 'pool_height'"),
        (_backward, (_x, _forward(_x, POOL_PARAM)[1]), ValueError, r"dout: expected shape \(2, 3, 2, 2\)"),
    ]
for _loss in (layers.svm_loss, layers.softmax_loss):
    MISTAKES += [
        (_loss, (_rows, np.array([0, 1, 2, 3])), ValueError, "y: expected labels from 0 to 2 for 3 classes, got 3"),
        (_loss, (_rows, np.zeros(4)), TypeError, "y: expected integer class labels, got float64"),
        (_loss, (_rows, np.zeros(3, int)), ValueError, r"y: expected shape \(4,\), got \(3,\)"),
        (_loss, (_one, np.zeros(3, int)), ValueError, r"x: expected 2 dimensions \(N, C\)"),
    ]


@pytest.mark.parametrize(("function", "arguments", "kind", "sentence"), MISTAKES)
def test_mistakes_are_named_as_the_course_names_things(function: Callable[..., Any], arguments: tuple[Any, ...],
                                                       kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=f"^{sentence}"):
        function(*arguments)


def test_a_refused_batch_leaves_bn_param_as_it_was() -> None:
    bn_param = {"mode": "train", "running_mean": np.ones(3), "running_var": np.ones(3)}
    with pytest.raises(ValueError, match="beta"):
        layers.batchnorm_forward(_rows, _one, np.ones(4), bn_param)
    assert (bn_param["running_mean"] == 1).all()
    assert (bn_param["running_var"] == 1).all()
