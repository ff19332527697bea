"""Every kernel with each of its dimensions 0 or 1: forward and backward take the same shapes, as the naive version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn.testing import KERNELS, Call, Kernel, assert_close
from fastnn.testing.table import as_tuple
from fastnn.testing.table.activation import ACTIVATIONS

Make = Callable[..., Call]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def whole(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def labels(n: int, c: int) -> np.ndarray:
    return np.arange(n) % max(1, c)


def normalized(shape: tuple[int, ...], **options: Any) -> Call:
    c = shape[1]
    return Call((draw(*shape), np.zeros(c), np.ones(c), np.ones(c), np.zeros(c)), {"return_stats": True, **options})


# What makes a call of sizes that are all different, whichever of them is changed.
CALLS: list[tuple[str, dict[str, int], Make]] = [
    ("conv2d", {"n": 2, "c": 2, "h": 3, "w": 4, "o": 3, "kh": 2, "kw": 3},
     lambda n, c, h, w, o, kh, kw: Call((draw(n, c, h, w), draw(o, c, kh, kw), draw(o)), {"padding": 1})),
    ("conv2d", {"n": 2, "c": 9, "h": 4, "w": 6, "o": 7},
     lambda n, c, h, w, o: Call((draw(n, c, h, w), draw(o, c, 3, 3), draw(o)), {"padding": 1, "algorithm": "direct"})),
    ("conv_transpose2d", {"n": 2, "c": 2, "h": 3, "w": 4, "o": 3, "kh": 2, "kw": 3},
     lambda n, c, h, w, o, kh, kw: Call((draw(n, c, h, w), draw(c, o, kh, kw), draw(o)))),
    ("linear", {"n": 2, "i": 3, "o": 4}, lambda n, i, o: Call((draw(n, i), draw(o, i), draw(o)))),
    ("bmm", {"b": 2, "n": 3, "m": 4, "p": 5}, lambda b, n, m, p: Call((draw(b, n, m), draw(b, m, p)))),
    *(("scaled_dot_product_attention", {"n": 2, "h": 3, "l": queries, "s": 5, "e": 4, "v": 6},
       lambda n, h, l, s, e, v, causal=causal: Call(                                                    # noqa: E741
           (draw(n, h, l, e), draw(n, h, s, e), draw(n, h, s, v), draw(n, 1, l, s) > -1),
           {"is_causal": causal, "return_lse": True})) for queries, causal in ((2, False), (9, True))),
    ("max_pool2d", {"n": 2, "c": 3, "h": 5, "w": 6},
     lambda n, c, h, w: Call((draw(n, c, h, w), 2), {"padding": 1, "return_indices": True})),
    ("avg_pool2d", {"n": 2, "c": 3, "h": 5, "w": 6}, lambda n, c, h, w: Call((draw(n, c, h, w), 2), {"padding": 1})),
    ("adaptive_avg_pool2d", {"n": 2, "c": 3, "h": 5, "w": 6, "oh": 4, "ow": 7},
     lambda n, c, h, w, oh, ow: Call((draw(n, c, h, w), (oh, ow)))),
    ("adaptive_max_pool2d", {"n": 2, "c": 3, "h": 5, "w": 6, "oh": 4, "ow": 7},
     lambda n, c, h, w, oh, ow: Call((draw(n, c, h, w), (oh, ow)), {"return_indices": True})),
    *(("interpolate", {"n": 2, "c": 3, "h": 5, "w": 6}, lambda n, c, h, w, mode=mode: Call(
        (draw(n, c, h, w), (4, 7)), {"mode": mode})) for mode in ("nearest", "bilinear")),
    ("batch_norm", {"n": 2, "c": 3, "h": 5, "w": 6}, lambda n, c, h, w: normalized((n, c, h, w), training=True)),
    ("batch_norm", {"n": 2, "c": 3, "h": 5, "w": 6}, lambda n, c, h, w: normalized((n, c, h, w), training=False)),
    ("batch_norm", {"n": 5, "c": 3}, lambda n, c: normalized((n, c), training=True)),
    ("batch_norm", {"n": 2, "c": 3, "l": 4}, lambda n, c, l: normalized((n, c, l), training=False)),     # noqa: E741
    ("layer_norm", {"a": 2, "b": 3, "c": 4}, lambda a, b, c: Call(
        (draw(a, b, c), (b, c), np.ones((b, c)), np.zeros((b, c))), {"return_stats": True})),
    ("group_norm", {"n": 2, "c": 6, "h": 4, "w": 5}, lambda n, c, h, w: Call(
        (draw(n, c, h, w), 1 + (c % 2 == 0), np.ones(c), np.zeros(c)), {"return_stats": True})),
    ("embedding", {"n": 2, "v": 4, "d": 3}, lambda n, v, d: Call((labels(n, v), draw(v, d)))),
    *((name, {"a": 2, "b": 3, "c": 4}, lambda a, b, c: Call((draw(a, b, c),)))
      for name in ACTIVATIONS),
    *((name, {"a": 2, "b": 3, "c": 4}, lambda a, b, c, axis=axis: Call((draw(a, b, c),), {"axis": axis}))
      for name in ("softmax", "log_softmax") for axis in (0, 1, -1)),
    ("dropout", {"a": 2, "b": 3}, lambda a, b: Call((draw(a, b), draw(a, b) > 0, 0.5))),
    *((name, {"a": 2, "b": 3}, lambda a, b: Call((draw(a, b), draw(a, b)))) for name in ("add", "add_relu")),
    *((name, {"n": 5, "c": 3}, lambda n, c, reduction=reduction: Call((draw(n, c), labels(n, c)),
                                                                      {"reduction": reduction}))
      for name in ("cross_entropy", "hinge_loss") for reduction in ("mean", "sum", "none")),
    ("cross_entropy", {"n": 2, "c": 3, "p": 5},
     lambda n, c, p: Call((draw(n, c, p), labels(n * p, c).reshape(n, p), np.ones(c)), {"ignore_index": 1})),
    *(("binary_cross_entropy_with_logits", {"a": 2, "b": 3}, lambda a, b, reduction=reduction: Call(
        (draw(a, b), abs(draw(a, b)), np.ones((a, 1))), {"pos_weight": np.ones(b), "reduction": reduction}))
      for reduction in ("mean", "none")),
    *(("mse_loss", {"a": 2, "b": 3}, lambda a, b, reduction=reduction: Call((draw(a, b), draw(a, b)),
                                                                           {"reduction": reduction}))
      for reduction in ("mean", "sum", "none")),
    *(("pairwise_l2", {"m": 2, "n": 3, "d": 4}, lambda m, n, d, algorithm=algorithm: Call(
        (draw(m, d), draw(n, d)), {"algorithm": algorithm})) for algorithm in ("direct", "gemm")),
    *(("knn", {"m": 2, "n": 3, "d": 70, "k": 1}, lambda m, n, d, k, algorithm=algorithm: Call(
        (draw(m, d), draw(n, d), k), {"algorithm": algorithm})) for algorithm in ("auto", "direct", "filter")),
    ("quantize_per_tensor", {"n": 2, "c": 3, "h": 4, "w": 5},
     lambda n, c, h, w: Call((draw(n, c, h, w), 0.02, 100))),
    ("quantize_per_tensor", {"n": 2, "i": 3}, lambda n, i: Call((draw(n, i), 0.02, 100))),
    ("lookup_int8", {"a": 2, "b": 3}, lambda a, b: Call((whole(a, b), np.arange(255, -1, -1, np.uint8)))),
    ("conv2d_int8", {"n": 2, "c": 2, "h": 3, "w": 4, "o": 3, "kh": 2, "kw": 3},
     lambda n, c, h, w, o, kh, kw: Call((whole(n, h, w, c), whole(o, c, kh, kw).view(np.int8), np.full(o, 0.01)),
                                        {"padding": 1, "zero_point": 5})),
    ("linear_int8", {"n": 2, "i": 3, "o": 4},
     lambda n, i, o: Call((whole(n, i), whole(o, i).view(np.int8), np.full(o, 0.01)))),
    ("max_pool2d_int8", {"n": 2, "c": 3, "h": 5, "w": 6},
     lambda n, c, h, w: Call((whole(n, h, w, c), 2), {"padding": 1})),
    ("sgd_update", {"a": 2, "b": 3}, lambda a, b: Call((draw(a, b), draw(a, b), draw(a, b)), {"lr": 0.1,
                                                                                              "momentum": 0.9})),
    ("rmsprop_update", {"a": 2, "b": 3}, lambda a, b: Call((draw(a, b), draw(a, b), np.ones((a, b)), None),
                                                           {"lr": 0.1})),
    ("adam_update", {"a": 2, "b": 3}, lambda a, b: Call((draw(a, b), draw(a, b), draw(a, b), np.ones((a, b))),
                                                        {"lr": 0.1, "step": 1})),
]


def test_every_kernel_is_walked() -> None:
    names = {name for name, _, _ in CALLS}
    assert names | {f"{name}_backward" for name in names if KERNELS[name].backward} == set(KERNELS)


def result_or_refusal(row: Kernel, call: Call, target: str) -> Any:
    try:
        return row.run(call, target)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(("name", "sizes", "make"), CALLS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(CALLS)])
@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("target", ["cpu", pytest.param("cuda", marks=[
    pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")])])
def test_each_dimension(name: str, sizes: dict[str, int], make: Make, size: int, target: str) -> None:
    row = KERNELS[name]
    if target == "cuda" and make(**sizes).kwargs.get("algorithm") in ("direct", "filter"):
        pytest.skip("the same as another, or one for the CPU alone")
    backward = KERNELS.get(f"{name}_backward")
    for changed in sizes:
        call, what = make(**{**sizes, changed: size}), f"{name} with {changed} = {size}"
        naive, found = (result_or_refusal(row, call, which) for which in ("naive", target))
        if isinstance(naive, str) or isinstance(found, str):
            assert naive == found, what
            assert ": expected" in found, what
            assert size == 0 or name == "batch_norm", f"{what}: {found}"
            if backward is not None:
                result = row(make(**sizes), target="naive")
                grad = np.asarray(as_tuple(result)[0])
                with pytest.raises(ValueError, match=": expected"):
                    backward(row.backward(call, result, grad))
            continue
        assert_close(found, naive, what=what)
        if backward is None:
            continue
        gradient = row.backward(call, row(call.copy(), target="naive"),
                                np.asarray(np.random.default_rng(1).standard_normal(np.shape(found[0]))))
        naive, found = (backward.run(gradient, which) for which in ("naive", target))
        compared: list[Any] = [found, naive]
        if name == "scaled_dot_product_attention":          # with one key some are 0, up to the rounding of the others
            compared = [np.concatenate([grad.ravel() for grad in grads]) for grads in compared]
        assert_close(*compared, gradient=True, what=f"gradient of {what}")
        for i, grad in zip(row.inputs, found):
            assert grad.shape == call.args[i].shape, what
