"""Every kernel of the table, on every target. The naive version runs at a batch of 1, the others at the full one."""

from __future__ import annotations

import time
from typing import Any

from fastnn.testing import KERNELS

TARGETS = ["naive", "cpu"]
CALLS = {f"{row.name}: {benchmark.label}": (row, benchmark) for row in KERNELS.values() for benchmark in row.benchmarks}


class Kernels:
    """Seconds and memory of one call."""

    params = (TARGETS, list(CALLS))
    param_names = ("target", "call")
    timeout = 300
    rounds = 1
    warmup_time = 0.0

    def setup(self, target: str, name: str) -> None:
        self.row, benchmark = CALLS[name]
        self.call = benchmark.call(1 if target == "naive" else benchmark.n)
        if target != "naive":
            self.row(self.call, target=target)         # compiles

    def time_call(self, target: str, name: str) -> None:
        self.row(self.call, target=target)

    def peakmem_call(self, target: str, name: str) -> None:
        self.row(self.call, target=target)


class Speedup:
    """How many times as fast as the naive version a target is, the naive one timed at a batch of 1 and scaled."""

    params = (["cpu"], list(CALLS))
    param_names = ("target", "call")
    timeout = 300
    unit = "times"

    def track_speedup(self, target: str, name: str) -> float:
        row, benchmark = CALLS[name]
        naive = seconds(row, benchmark.call(1), "naive", repeats=1) * benchmark.n
        return naive / seconds(row, benchmark.call(benchmark.n), target, repeats=9)


def seconds(row: Any, call: Any, target: str, repeats: int) -> float:
    """The median of `repeats` calls, after one that compiles."""
    if repeats > 1:
        row(call, target=target)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        row(call, target=target)
        times.append(time.perf_counter() - begin)
    return sorted(times)[repeats // 2]
