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


def _mse_loss_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call in two_arrays_samples(rng, dtype):
        for reduction in ("mean", "sum", "none"):
            yield Call(call.args, {"reduction": reduction})


def _mse_loss_refused() -> Iterator[Refused]:
    yield Refused(Call((np.ones(3), np.ones(4))), ValueError, r"y: expected shape \(3,\), got \(4,\)")
    yield Refused(Call((np.ones(0), np.ones(0))), ValueError, r"x: expected at least one element")
    yield Refused(Call((np.ones(3), np.ones(3)), {"reduction": 3}), ValueError, r"reduction: expected one of")


ROWS = (
    Kernel("cross_entropy", _scores_samples({}, {"label_smoothing": 0.1, "reduction": "sum"}, {"reduction": "none"}),
           torch=TorchFunction("cross_entropy"), inputs=(0,), refused=_scores_refused, backward=_loss_gradient,
           has_out=False, benchmarks=(_scores_benchmark,)),
    Kernel("hinge_loss", _scores_samples({}, {"margin": 0.5, "reduction": "sum"}, {"reduction": "none"}),
           torch=_torch_hinge_loss, inputs=(0,), refused=_scores_refused, backward=_loss_gradient, has_out=False,
           benchmarks=(_scores_benchmark,)),
    Kernel("mse_loss", _mse_loss_samples, torch=TorchFunction("mse_loss"), inputs=(0,), refused=_mse_loss_refused,
           backward=_loss_gradient, has_out=False, benchmarks=(two_arrays_benchmark,)),
)
