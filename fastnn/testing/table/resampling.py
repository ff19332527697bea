"""Resampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import F32, Array, Benchmark, Call, Kernel, Options, Refused, TorchFunction, draw, normal


def _samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    bilinear: Options = {"mode": "bilinear"}
    cases: list[tuple[tuple[int, ...], Any, Options]] = [
        ((2, 3, 4, 5), None, {"scale_factor": 2}),
        ((1, 2, 7, 6), (3, 9), {}),
        ((1, 1, 3, 37), None, {"scale_factor": (2.5, 0.7)}),
        ((2, 2, 3, 4), None, {"scale_factor": 2, **bilinear}),
        ((1, 2, 7, 6), (3, 9), bilinear),
        ((1, 2, 5, 4), (8, 1), {"align_corners": True, **bilinear}),
        ((1, 1, 3, 37), None, {"scale_factor": (1.3, 0.7), **bilinear}),
        ((1, 1, 1, 1), 3, bilinear),
        ((70, 1, 3, 3), 7, {}),
        ((70, 1, 3, 3), 7, bilinear),
        ((1, 1, 20, 70), (41, 141), {"align_corners": True, **bilinear}),
    ]
    for shape, size, options in cases:
        yield Call((draw(rng, dtype, *shape), size), options)


def _refused() -> Iterator[Refused]:
    x = normal(2, 3, 4, 4)
    yield Refused(Call((x[0], 2)), ValueError, r"x: expected 4 dimensions \(N, C, H, W\)")
    yield Refused(Call((x[..., :0], 2)), ValueError, r"x: expected images with at least one pixel")
    yield Refused(Call((x,)), ValueError, r"size: expected either size or scale_factor, got neither")
    yield Refused(Call((x, 2), {"scale_factor": 2}), ValueError, r"size: expected either .*, got both")
    yield Refused(Call((x, 0)), ValueError, r"size: expected at least 1, got 0")
    yield Refused(Call((x, 2.5)), TypeError, r"size: expected an integer, got 2.5")
    yield Refused(Call((x, 1 << 40)), ValueError, r"size: expected a result of at most")
    yield Refused(Call((x,), {"scale_factor": 0.0}), ValueError, r"scale_factor: expected finite numbers .* got 0")
    yield Refused(Call((x,), {"scale_factor": np.inf}), ValueError, r"scale_factor: expected finite numbers above 0")
    yield Refused(Call((x,), {"scale_factor": (2, 2, 2)}), ValueError, r"scale_factor: expected a number or a pair")
    yield Refused(Call((x,), {"scale_factor": 0.2}), ValueError, r"scale_factor: expected a result of at least one")
    yield Refused(Call((x,), {"scale_factor": 1e30}), ValueError, r"scale_factor: expected at most")
    yield Refused(Call((x, 2), {"mode": "cubic"}), ValueError, r"mode: expected one of 'nearest', .* got 'cubic'")
    yield Refused(Call((x, 2), {"align_corners": True}), ValueError, r"align_corners: expected False for mode")
    yield Refused(Call((x, 2), {"align_corners": 1}), TypeError, r"align_corners: expected a bool, got 1")
    yield Refused(Call((x, 2), {"out": np.empty((2, 3, 2, 3))}), ValueError, r"out: expected shape \(2, 3, 2, 2\)")


def _refused_by_backward() -> Iterator[Refused]:
    grad = np.ones((1, 1, 4, 4))
    yield Refused(Call((grad, (1, 1, 4))), ValueError, r"input_shape: expected \(N, C, H, W\)")
    yield Refused(Call((grad, (1, 2, 2, 2))), ValueError, r"grad_output: expected shape \(1, 2, 4, 4\) for images")
    yield Refused(Call((grad, (1, 1, 2, 2)), {"scale_factor": 3}), ValueError, r"grad_output: expected shape .1, 1, 6")
    yield Refused(Call((grad, (1, 1, 0, 2))), ValueError, r"input_shape: expected images with at least one pixel")
    yield Refused(Call((grad, (1, 1, 1 << 30, 1 << 30))), ValueError, r"input_shape: expected a result of at most")


def _torch_interpolate(x: Any, size: Any = None, align_corners: bool | None = None, **options: Any) -> Any:
    if options.get("mode") == "bilinear":
        options["align_corners"] = bool(align_corners)
    return TorchFunction("interpolate")(x, size, **options)


def _gradient(call: Call, y: Any, grad: Array) -> Call:
    return Call((grad, call.args[0].shape), call.kwargs)


def _benchmark(mode: str) -> Benchmark:
    return Benchmark(f"16 x 64 x 28 x 28, {mode}", lambda n: Call(
        (normal(n, 64, 28, 28, dtype=F32),), {"scale_factor": 2, "mode": mode}), 16, 16 * 64 * 784 * 20.0, "byte")


ROWS = (
    Kernel("interpolate", _samples, torch=_torch_interpolate, inputs=(0,), refused=_refused, backward=_gradient,
           refused_by_backward=_refused_by_backward, benchmarks=(_benchmark("nearest"), _benchmark("bilinear"))),
)
