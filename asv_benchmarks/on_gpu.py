"""How peers.py measures on a GPU: by device events, the queue filled first, beside the GPU's peak and bandwidth."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastnn
from fastnn import _device
from fastnn.kernels._gpu.launch import launch

COPIED = (0.1, 8, 33, 400)                  # MB, read and written
_AHEAD = 20e-6                              # seconds a call that the GPU is kept busy before, while the host queues it


def timed(call: Callable[[], Any], number: int = 1) -> float:
    """Return the seconds that a call takes the GPU, of `number` calls that follow each other without a gap.

    What the host does shows only where it takes longer than the GPU: a wait is queued first.
    """
    if _device.SIMULATED:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    cupy = _device.xp
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    _wait(min(_AHEAD * 10 * number, 0.05))
    start.record()
    for _ in range(number):
        call()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3 / number


@functools.cache
def _waiting() -> Any:
    return _device.xp.RawKernel("""
        extern "C" __global__ void wait(long long cycles) {
            long long begin = clock64();
            while (clock64() - begin < cycles) {}
        }""", "wait")


def _wait(seconds: float) -> None:
    """Queue a kernel that does nothing for a while."""
    _waiting()((1,), (1,), (np.int64(seconds * 1.7e9),))


def machine(quick: bool) -> dict[str, Any]:
    """Measure the GPU's peak of float32 arithmetic and its bandwidth."""
    copies = {}
    for megabytes in (1,) if quick else COPIED:
        source = _device.xp.zeros(int(megabytes * 125_000) * 2, np.float32)
        target = _device.xp.empty(source.shape, np.float32)
        copies[str(megabytes)] = 2.0 * source.nbytes / best(lambda source=source, target=target: copy(target, source))
    peak = fused_multiply_adds(quick)
    return {"gpu": _device.gpu(), "compiler": _device.compiler, "date": time.strftime("%Y-%m-%d"),
            "peak": {"multiply": peak, "distance": 0.75 * peak},      # two instructions are three operations, not four
            "copy": copies}


def machine_lines(found: dict[str, Any]) -> list[list[str]]:
    copies = ", ".join(f"{speed / 1e9:.0f} at {size} MB" for size, speed in found["copy"].items())
    return [["GPU", found["gpu"]], ["compiler", found["compiler"]], ["measured on", found["date"]],
            ["multiply-adds from registers, GFLOP/s", f"{found['peak']['multiply'] / 1e9:.0f}"],
            ["copy, GB/s read and written", copies]]


def copy(target: Any, source: Any) -> None:
    target[...] = source


def fused_multiply_adds(quick: bool) -> float:
    """Return the operations a second of kernels that multiply and add in registers alone."""
    @_device.cuda.jit
    def spin(x: Any, turns: int) -> None:
        a = x[0]
        b, c, d, e = a, a + a, a - a, a * a
        f, g, h, i = b, c, d, e
        for _ in range(turns):
            b = a * b + a
            c = a * c + a
            d = a * d + a
            e = a * e + a
            f = a * f + a
            g = a * g + a
            h = a * h + a
            i = a * i + a
        if b + c + d + e + f + g + h + i == a:          # never: but then the loop must run
            x[1] = b

    blocks, threads, turns = (1, 2, 2) if _device.SIMULATED else (132 * 16, 256, 2000 if quick else 20_000)
    x = fastnn.to_device(np.full(2, 1.0001, np.float32))
    seconds = best(lambda: launch(spin, blocks, threads, x, turns))
    return 16.0 * turns * blocks * threads / seconds


def best(call: Callable[[], Any]) -> float:
    timed(call)
    number = 1 if _device.SIMULATED else max(1, math.ceil(1e-3 / max(timed(call), 1e-6)))
    return min(timed(call, number) for _ in range(7))
