"""Linear maps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastnn.testing.table.base import F32, Benchmark, Call, Kernel, Refused, TorchFunction, draw, normal


def _linear_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for n, i, o in [(3, 5, 2), (1, 1, 1), (15, 7, 33), (2, 600, 3)]:
        yield Call((draw(rng, dtype, n, i), draw(rng, dtype, o, i), draw(rng, dtype, o)))


def _linear_refused() -> Iterator[Refused]:
    x, w = normal(3, 4), normal(2, 4)
    yield Refused(Call((x[0], w)), ValueError, r"x: expected 2 dimensions")
    yield Refused(Call((x, w[:, :3])), ValueError, r"weight: expected shape \(O, 4\)")
    yield Refused(Call((x, w, normal(3))), ValueError, r"bias: expected shape \(2,\), got \(3,\)")
    yield Refused(Call((x, w.astype(int))), TypeError, r"weight: expected float32 or float64, got int64")


ROWS = (
    Kernel("linear", _linear_samples, torch=TorchFunction("linear"), inputs=(0, 1, 2), refused=_linear_refused,
           backward=lambda call, y, grad: Call((grad, *call.args[:2]), call.kwargs),
           benchmarks=(Benchmark(
               "64 x 3136 by 128 x 3136", lambda n: Call((normal(n, 3136, dtype=F32), normal(128, 3136, dtype=F32))),
               64, 2.0 * 64 * 3136 * 128, "flop"),)),
)
