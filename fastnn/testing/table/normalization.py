"""Normalization."""

from __future__ import annotations

from collections.abc import Iterator
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


ROWS = (
    Kernel("batch_norm", _batch_norm_samples, inputs=(0, 3, 4), refused=_batch_norm_refused, writes=(1, 2), factor=4,
           torch=_torch_batch_norm, backward=_batch_norm_gradient, refused_by_backward=_batch_norm_backward_refused,
           given_to_backward=(0, 1, 2),                # what follows are statistics of its own
           benchmarks=(Benchmark(
               "64 x 32 x 28 x 28, training",
               lambda n: Call((normal(n, 32, 28, 28, dtype=F32), None, None, np.ones(32, F32), np.zeros(32, F32)),
                              {"training": True, "return_stats": True}), 64, 64 * 32 * 784 * 4 * 4.0, "byte"),)),
)
