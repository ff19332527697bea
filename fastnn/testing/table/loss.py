"""Losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import (
    F32,
    Array,
    Benchmark,
    Call,
    Kernel,
    Options,
    Refused,
    TorchFunction,
    draw,
    normal,
    two_arrays_benchmark,
    two_arrays_samples,
)


def _scores_samples(*options: Options) -> Callable[[np.random.Generator, np.dtype], Iterator[Call]]:
    def samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
        for n, classes in [(5, 4), (1, 1), (3, 10), (130, 7)]:
            for option in options:
                yield Call((3 * draw(rng, dtype, n, classes), rng.integers(0, classes, n)), option)

    return samples


def _scores_refused() -> Iterator[Refused]:
    x, labels = normal(3, 4), np.array([0, 3, 1])
    yield Refused(Call((x, np.array([0, 4, 1]))), ValueError, r"labels: expected labels from 0 to 3 .* got 4")
    yield Refused(Call((x, np.array([0, -1, 1]))), ValueError, r"labels: expected labels from 0 to 3 .* got -1")
    yield Refused(Call((x, labels[:2])), ValueError, r"labels: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((x, labels * 1.0)), TypeError, r"labels: expected integer class labels, got float64")
    yield Refused(Call((x[0], labels)), ValueError, r"x: expected 2 dimensions \(N, C\)")
    yield Refused(Call((x[:0], labels[:0])), ValueError, r"x: expected at least one element")
    yield Refused(Call((x, labels), {"reduction": "max"}), ValueError, r"reduction: expected one of .* got 'max'")


def _loss_gradient(call: Call, loss: Any, grad: Array) -> Call:
    return Call((float(grad) if np.ndim(grad) == 0 else grad, *call.args), call.kwargs)


def _torch_hinge_loss(x: Any, labels: Any, margin: float = 1.0, reduction: str = "mean") -> Any:
    return x.shape[1] * TorchFunction("multi_margin_loss")(x, labels, margin=margin, reduction=reduction)


_scores_benchmark = Benchmark(
    "6400 x 100", lambda n: Call((normal(100 * n, 100, dtype=F32), np.random.default_rng(0).integers(0, 100, 100 * n))),
    64, 6400 * 400.0, "byte")


def _cross_entropy_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    yield from _scores_samples({}, {"label_smoothing": 0.1, "reduction": "sum"}, {"reduction": "none"})(rng, dtype)
    weighted: list[Options] = [
        {}, {"ignore_index": 1}, {"label_smoothing": 0.3, "reduction": "sum", "ignore_index": 0},
        {"label_smoothing": 0.1}, {"reduction": "none", "ignore_index": -1}]
    for n, classes, *places in [(6, 4), (70, 100), (2, 3, 5), (3, 5, 2, 3), (2, 40, 37)]:
        for options in weighted:
            labels = rng.integers(0, classes, (n, *places))
            labels[0] = options.get("ignore_index", 0)
            weight = () if options == weighted[0] else (rng.random(classes).astype(dtype) + dtype.type(0.5),)
            yield Call((3 * draw(rng, dtype, n, classes, *places), labels, *weight), options)


def _cross_entropy_refused() -> Iterator[Refused]:
    x, labels = normal(3, 4), np.array([0, 3, 1])
    for refused in _scores_refused():
        if "x: expected 2 dimensions" not in refused.match:
            yield refused
    yield Refused(Call((x[0], labels)), ValueError, r"x: expected 2 dimensions \(N, C\), or more \(N, C, ...\)")
    yield Refused(Call((x, labels - 1), {"ignore_index": 0}), ValueError, r"labels: expected labels from 0 .* got -1")
    yield Refused(Call((x, labels, np.ones(3))), ValueError, r"weight: expected shape \(4,\), got \(3,\)")
    yield Refused(Call((x, labels, np.ones(4, F32))), TypeError, r"weight: expected float64 as x has, got float32")
    yield Refused(Call((x, labels), {"ignore_index": 1.0}), TypeError, r"ignore_index: expected an integer, got 1.0")
    yield Refused(Call((x[:, :, None], labels)), ValueError, r"labels: expected shape \(3, 1\), got \(3,\)")


_tokens_benchmark = Benchmark(
    "2048 x 2048",
    lambda n: Call((normal(32 * n, 2048, dtype=F32), np.random.default_rng(0).integers(0, 2048, 32 * n))),
    64, 2048 * 8192.0, "byte")
_pixels_benchmark = Benchmark(
    "16 x 20 x 64 x 64", lambda n: Call((normal(n, 20, 64, 64, dtype=F32),
                                         np.random.default_rng(0).integers(0, 20, (n, 64, 64)))),
    16, 16 * 20 * 4096 * 4.0, "byte")


def _binary_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call in two_arrays_samples(rng, dtype):
        x, shape = 4 * call.args[0], call.args[0].shape
        targets = rng.random(shape).astype(dtype)
        weight, pos_weight = (rng.random(s).astype(dtype) + dtype.type(0.5) for s in (shape[:1] + shape[1:] if
                              len(shape) < 4 else (shape[0], 1, 1, shape[3]), shape[1:] or (1,)))
        yield Call((x, targets))
        yield Call((x, targets, weight), {"reduction": "sum"})
        yield Call((x, targets), {"pos_weight": pos_weight, "reduction": "none"})
        yield Call((x, targets, weight), {"pos_weight": pos_weight})


def _binary_refused() -> Iterator[Refused]:
    x = np.ones((2, 3))
    yield Refused(Call((x, np.ones((2, 4)))), ValueError, r"targets: expected shape \(2, 3\), got \(2, 4\)")
    yield Refused(Call((x, None)), TypeError, r"targets: expected an array, got None")
    yield Refused(Call((x, np.ones((2, 3), int))), TypeError, r"targets: expected float32 or float64, got int64")
    yield Refused(Call((x, x, np.ones(2))), ValueError, r"weight: expected a shape that broadcasts .* got \(2,\)")
    yield Refused(Call((x, x), {"pos_weight": np.ones(3, F32)}), TypeError, r"pos_weight: expected float64 as x has")
    yield Refused(Call((x[:0], x[:0])), ValueError, r"x: expected at least one element")
    yield Refused(Call((x, x), {"reduction": None}), ValueError, r"reduction: expected one of")


def _mse_loss_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call in two_arrays_samples(rng, dtype):
        for reduction in ("mean", "sum", "none"):
            yield Call(call.args, {"reduction": reduction})


def _mse_loss_refused() -> Iterator[Refused]:
    yield Refused(Call((np.ones(3), np.ones(4))), ValueError, r"y: expected shape \(3,\), got \(4,\)")
    yield Refused(Call((np.ones(0), np.ones(0))), ValueError, r"x: expected at least one element")
    yield Refused(Call((np.ones(3), np.ones(3)), {"reduction": 3}), ValueError, r"reduction: expected one of")


ROWS = (
    Kernel("cross_entropy", _cross_entropy_samples, torch=TorchFunction("cross_entropy"), inputs=(0,),
           refused=_cross_entropy_refused, backward=_loss_gradient, has_out=False,
           benchmarks=(_scores_benchmark, _tokens_benchmark, _pixels_benchmark)),
    Kernel("binary_cross_entropy_with_logits", _binary_samples, torch=TorchFunction("binary_cross_entropy_with_logits"),
           inputs=(0,), refused=_binary_refused, backward=_loss_gradient, has_out=False,
           benchmarks=(two_arrays_benchmark,)),
    Kernel("hinge_loss", _scores_samples({}, {"margin": 0.5, "reduction": "sum"}, {"reduction": "none"}),
           torch=_torch_hinge_loss, inputs=(0,), refused=_scores_refused, backward=_loss_gradient, has_out=False,
           benchmarks=(_scores_benchmark,)),
    Kernel("mse_loss", _mse_loss_samples, torch=TorchFunction("mse_loss"), inputs=(0,), refused=_mse_loss_refused,
           backward=_loss_gradient, has_out=False, benchmarks=(two_arrays_benchmark,)),
)
