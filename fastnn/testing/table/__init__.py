"""The table of kernels: what each computes, on which inputs, against what, and which inputs it must refuse.

Tests, benchmarks, `fastnn bench` and `fastnn warmup` walk this table; a kernel that joins it joins all of them. As in
`fastnn.kernels`, a family has its own file, which ends with its rows.
"""

from __future__ import annotations

import numpy as np

from fastnn.testing.table import (
    activation,
    attention,
    conv,
    distance,
    embedding,
    linear,
    loss,
    normalization,
    pooling,
    quantized,
    resampling,
    softmax,
    update,
)
from fastnn.testing.table.base import Benchmark, Call, Kernel, Refused, as_tuple

__all__ = ["CASES", "KERNELS", "Benchmark", "Call", "Kernel", "Refused", "as_tuple"]

KERNELS: dict[str, Kernel] = {
    row.name: row
    for family in (conv, linear, pooling, resampling, normalization, embedding, activation, attention, softmax, loss,
                   update, distance, quantized)
    for kernel in family.ROWS for row in kernel.with_gradient()}

# Every kernel with each dtype that it takes.
CASES: list[tuple[Kernel, np.dtype]] = [(row, dtype) for row in KERNELS.values() for dtype in row.dtypes]
