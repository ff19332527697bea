"""Normalization."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from fastnn.testing.table.base import F32, Array, Benchmark, Call, Kernel, Options, Refused, TorchFunction, normal


def _batch_norm_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[tuple[int, ...], bool, bool, Options]] = [
        ((6, 3), True, True, {"training": True}),
        ((3, 4, 5), True, True, {"training": True, "momentum": 0.3, "eps": 1e-3}),
        ((2, 3, 4, 5), True, True, {"training": True}),
        ((2, 3, 4, 5), False, False, {"training": True}),
        ((2, 3, 4, 5), True, True, {"training": False}),
        ((3, 2), False, True, {"training": False}),
        ((4, 2, 3), True, False, {"training": False}),
        ((5, 17, 1, 1), True, True, {"training": True}),
        ((2, 17, 8, 9), True, True, {"training": True}),
        ((2, 17, 8, 9), False, True, {"training": False}),
        ((3, 300), True, False, {"training": True}),
        ((5, 2, 70), False, False, {"training": True}),
        ((5, 3), True, True, {"training": True, "activation": "relu"}),
        ((2, 17, 8, 9), True, False, {"training": True, "activation": "relu"}),
        ((2, 17, 8, 9), True, True, {"training": False, "activation": "relu"}),
        ((9, 3, 2, 2), False, True, {"training": False, "activation": "relu"}),
    ]
    for shape, affine, running, options in cases:
        channels = shape[1]
        x = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
        statistics = (rng.standard_normal(channels), rng.random(channels) + 0.5) if running else (None, None)
        parameters = (rng.random(channels) + 0.5, rng.standard_normal(channels)) if affine else (None, None)
        yield Call((x, *(a if a is None else a.astype(dtype) for a in (*statistics, *parameters))),
                   {**options, "return_stats": True})


def _batch_norm_refused() -> Iterator[Refused]:
    x, m, v = normal(4, 3), np.zeros(3), np.ones(3)
    yield Refused(Call((normal(4), m, v)), ValueError, r"x: expected 2 or 3 or 4 dimensions")
    yield Refused(Call((x, m[:2], v)), ValueError, r"running_mean: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((normal(4, 5, 6, 3), m, v)), ValueError, r"running_mean: .*the layout is N x C x H x W, and x")
    yield Refused(Call((normal(4, 5, 3), m, v)), ValueError, r"running_mean: .* the layout is N x C x L, and x of")
    yield Refused(Call((x, None, v)), ValueError, r"running_mean: expected .* both or neither")
    yield Refused(Call((x, m, v, np.ones(4))), ValueError, r"weight: expected shape \(3,\)")
    yield Refused(Call((x[:1], m, v), {"training": True}), ValueError, r"x: expected more than one value a channel")
    yield Refused(Call((x[:0], m, v), {"training": True}), ValueError, r"x: expected more than one value a channel")
    yield Refused(Call((x, m, v), {"eps": 0.0, "training": True}), ValueError, r"eps: expected a positive number")
    yield Refused(Call((x, m, v), {"momentum": None}), TypeError, r"momentum: expected a number, got None")
    yield Refused(Call((x, m, m), {"training": True}), ValueError, r"running_var: expected memory of its own")
    yield Refused(Call((x, m, v), {"eps": -1.0}), ValueError, r"eps: expected a number from 0")
    yield Refused(Call((x, m, v), {"momentum": 2.0}), ValueError, r"momentum: expected a number from 0 to 1, got 2.0")
    yield Refused(Call((x, m.astype(F32), v)), TypeError, r"running_mean: expected float64 as x has, got float32")
    yield Refused(Call((x, m, v), {"activation": "elu"}), ValueError, r"activation: expected None or 'relu', got 'elu'")


def _batch_norm_backward_refused() -> Iterator[Refused]:
    x, m, v = normal(4, 3), np.zeros(3), np.ones(3)
    yield Refused(Call((x[:3], x, None, m, v)), ValueError, r"grad_output: expected shape \(4, 3\), got \(3, 3\)")
    yield Refused(Call((x, x, None, m, v), {"bias": m[:2]}), ValueError, r"bias: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((x, x, None, m, v), {"activation": "tanh"}), ValueError, r"activation: expected None or 'relu'")
    yield Refused(Call((x, x, None, m, v), {"needs": (True, True)}), ValueError, r"needs: expected three bools")


def _torch_batch_norm(*args: Any, return_stats: bool, training: bool, activation: str | None = None,
                      **options: Any) -> Any:
    y = TorchFunction("batch_norm")(*args, training=training or args[1] is None, **options)
    return y if activation is None else y.relu()


def _batch_norm_gradient(call: Call, result: Any, grad: Array) -> Call:
    x, running_mean, _, weight, bias = call.args
    return Call((grad, x, weight, *result[1:]), {
        "training": bool(call.kwargs["training"] or running_mean is None), "bias": bias,
        "activation": call.kwargs.get("activation")})


def _layer_norm_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    # Rows of a part of a vector, of some vectors and a part, and longer than a block.
    cases: list[tuple[tuple[int, ...], Any, bool, bool, Options]] = [
        ((6, 5), 5, True, True, {}),
        ((2, 3, 4, 5), (4, 5), True, True, {"eps": 1e-3}),
        ((40, 3), (3,), True, False, {}),
        ((2, 19, 37), 37, False, False, {}),
        ((4, 1, 3), (1, 3), True, True, {}),
        ((3,), (3,), True, True, {}),
        ((2, 4099), 4099, True, True, {}),
    ]
    for shape, normalized, weighted, biased, options in cases:
        last = shape[len(shape) - (1 if isinstance(normalized, int) else len(normalized)):]
        yield Call(tuple(_norm_arrays(rng, dtype, shape, last, weighted, biased, normalized)),
                   {**options, "return_stats": True})


def _group_norm_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    # Channels of few places and of many, and groups of one channel and of all.
    cases: list[tuple[tuple[int, ...], int, bool, bool, Options]] = [
        ((3, 6, 2, 5), 3, True, True, {}),
        ((2, 6), 2, True, True, {"eps": 1e-3}),
        ((3, 4, 7), 4, True, False, {}),
        ((2, 4, 9, 9), 2, True, True, {}),
        ((3, 4, 67), 1, True, False, {}),
        ((2, 2, 70), 2, False, False, {}),
    ]
    for shape, groups, weighted, biased, options in cases:
        yield Call(tuple(_norm_arrays(rng, dtype, shape, shape[1:2], weighted, biased, groups)),
                   {**options, "return_stats": True})


def _norm_arrays(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...], of_one: tuple[int, ...],
                 weighted: bool, biased: bool, option: Any) -> Iterator[Any]:
    """x, an option, weight and bias."""
    yield (3 + 2 * rng.standard_normal(shape)).astype(dtype)
    yield option
    yield (rng.random(of_one) + 0.5).astype(dtype) if weighted else None
    yield rng.standard_normal(of_one).astype(dtype) if biased else None


def _layer_norm_refused() -> Iterator[Refused]:
    x = normal(4, 3)
    yield Refused(Call((x, 4)), ValueError, r"x: expected a shape that ends .*, \(4,\), got \(4, 3\)")
    yield Refused(Call((x, (2, 4, 3))), ValueError, r"x: expected a shape that ends with normalized_shape")
    yield Refused(Call((x, ())), ValueError, r"normalized_shape: expected at least one dimension, got \(\)")
    yield Refused(Call((normal(4, 0), 0)), ValueError, r"normalized_shape: expected at least 1, got 0")
    yield Refused(Call((x, 3.0)), TypeError, r"normalized_shape: expected an integer, got 3\.0")
    yield Refused(Call((x, 3, np.ones(2))), ValueError, r"weight: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((x, (4, 3), None, np.ones(3))), ValueError, r"bias: expected shape \(4, 3\), got \(3,\)")
    yield Refused(Call((x, 3), {"eps": 0.0}), ValueError, r"eps: expected a positive number, got 0")
    yield Refused(Call((x, 3, np.ones(3, F32))), TypeError, r"weight: expected float64 as x has, got float32")
    yield Refused(Call((x, 3), {"out": np.ones(3)}), ValueError, r"out: expected shape \(4, 3\), got \(3,\)")


def _layer_norm_backward_refused() -> Iterator[Refused]:
    x, m, v = normal(4, 3), np.zeros(4), np.ones(4)
    yield Refused(Call((x[:3], x, 3, None, m, v)), ValueError, r"grad_output: expected shape \(4, 3\), got \(3, 3\)")
    yield Refused(Call((x, x, 3, None, m[:3], v)), ValueError, r"mean: expected shape \(4,\), got \(3,\)")
    yield Refused(Call((x, x, 3, None, m, None)), TypeError, r"invstd: expected an array, got None")
    yield Refused(Call((x, x, 3, None, m, v.astype(F32))), TypeError, r"invstd: expected float64 as return_stats=True")
    yield Refused(Call((x, x, 3, np.ones(4), m, v)), ValueError, r"weight: expected shape \(3,\), got \(4,\)")
    yield Refused(Call((x, x, 3, None, m, v), {"needs": (True, True)}), ValueError, r"needs: expected three bools")


def _group_norm_refused() -> Iterator[Refused]:
    x = normal(2, 6, 5)
    yield Refused(Call((x, 4)), ValueError, r"num_groups: expected a divisor of the 6 channels .*, got 4")
    yield Refused(Call((x, 0)), ValueError, r"num_groups: expected at least 1, got 0")
    yield Refused(Call((x, (2,))), TypeError, r"num_groups: expected an integer, got \(2,\)")
    yield Refused(Call((normal(6), 2)), ValueError, r"x: expected at least 2 dimensions \(N, C, \.\.\.\), got")
    yield Refused(Call((normal(2, 6, 0), 2)), ValueError, r"x: expected at least one value a group to take statistics")
    yield Refused(Call((x, 2, np.ones(5))), ValueError, r"weight: expected shape \(6,\), got \(5,\)")
    yield Refused(Call((x, 2), {"eps": -1.0}), ValueError, r"eps: expected a number from 0")


def _group_norm_backward_refused() -> Iterator[Refused]:
    x, m, v = normal(2, 6, 5), np.zeros((2, 3)), np.ones((2, 3))
    yield Refused(Call((x, x, 2, None, m, v)), ValueError, r"mean: expected shape \(2, 2\), got \(2, 3\)")
    yield Refused(Call((x, x, 4, None, m, v)), ValueError, r"num_groups: expected a divisor of the 6 channels")
    yield Refused(Call((x, x[:1], 3, None, m, v)), ValueError, r"grad_output: expected shape \(1, 6, 5\)")


def _torch_layer_norm(x: Any, normalized_shape: Any, *parameters: Any, return_stats: bool, **options: Any) -> Any:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
    return TorchFunction("layer_norm")(x, shape, *parameters, **options)


def _torch_group_norm(*args: Any, return_stats: bool, **options: Any) -> Any:
    return TorchFunction("group_norm")(*args, **options)


def _row_norm_gradient(call: Call, result: Any, grad: Array) -> Call:
    x, option, weight, _ = call.args
    return Call((grad, x, option, weight, *result[1:]))


def _row_norm_benchmark(label: str, n: int, option: Any, parameters: int, *shape: int) -> Benchmark:
    return Benchmark(label, lambda count: Call(
        (normal(shape[0] * count, *shape[1:], dtype=F32), option, np.ones(parameters, F32), np.zeros(parameters, F32)),
        {"return_stats": True}), n, n * prod(shape) * 8.0, "byte")


ROWS = (
    Kernel("batch_norm", _batch_norm_samples, inputs=(0, 3, 4), refused=_batch_norm_refused, writes=(1, 2), factor=4,
           torch=_torch_batch_norm, backward=_batch_norm_gradient, refused_by_backward=_batch_norm_backward_refused,
           given_to_backward=(0, 1, 2),                # what follows are statistics of its own
           benchmarks=(Benchmark(
               "64 x 32 x 28 x 28, training",
               lambda n: Call((normal(n, 32, 28, 28, dtype=F32), None, None, np.ones(32, F32), np.zeros(32, F32)),
                              {"training": True, "return_stats": True}), 64, 64 * 32 * 784 * 4 * 4.0, "byte"),)),
    Kernel("layer_norm", _layer_norm_samples, inputs=(0, 2, 3), refused=_layer_norm_refused, torch=_torch_layer_norm,
           backward=_row_norm_gradient, refused_by_backward=_layer_norm_backward_refused, factor=4,
           given_to_backward=(0, 1, 3), benchmarks=(_row_norm_benchmark("8192 x 256", 64, 256, 256, 128, 256),)),
    Kernel("group_norm", _group_norm_samples, inputs=(0, 2, 3), refused=_group_norm_refused, torch=_torch_group_norm,
           backward=_row_norm_gradient, refused_by_backward=_group_norm_backward_refused, factor=4,
           given_to_backward=(0, 1, 3), benchmarks=(
               _row_norm_benchmark("64 x 64 x 28 x 28, 8 groups", 64, 8, 64, 1, 64, 28, 28),)),
)
