"""Every kernel of the table, on every target. The naive version runs at a batch of 1, the others at the full one."""

from __future__ import annotations

import time
from typing import Any

import fastnn
from fastnn import _device
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


class OnGpu:
    """Seconds of one call on a GPU, its arrays there, from the call to the end of its work."""

    params = (list(CALLS),)
    param_names = ("call",)
    timeout = 300
    rounds = 1
    warmup_time = 0.0

    def setup(self, name: str) -> None:
        if _device.why_not() is not None:
            raise NotImplementedError(_device.why_not())          # asv leaves it out
        self.row, benchmark = CALLS[name]
        self.call = benchmark.call(benchmark.n).map(fastnn.to_device)
        self.time_call(name)                                    # compiles

    def time_call(self, name: str) -> None:
        self.row(self.call)
        _device.synchronize()


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
