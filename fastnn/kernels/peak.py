"""What this machine can do at most, and what share of it kernels were found to reach: what `fastnn bench` measures."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np

from fastnn._checks import FLOATS, Array
from fastnn.kernels._cpu import cache
from fastnn.kernels._cpu.dot import LANES, byte_gather_tile, byte_tile_shape
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.llvm import ROWS, lanes
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tiles import gather_tile
from fastnn.kernels.activation import relu

_DEPTH, _TURNS, _BLOCKS = 128, 200, 64          # of products that stay in the first cache
_COPIED = 1 << 25                               # numbers, far more than any cache holds
_REPEATS = 7

_multiply = gather_tile(ROWS, 2)
_BYTE_ROWS, _BYTE_VECTORS = byte_tile_shape(64)
_multiply_bytes = byte_gather_tile(_BYTE_ROWS, _BYTE_VECTORS)


@block_kernel(writes="totals")
def _products(block: int, turns: int, a: Array, b: Array, begins: Array, offsets: Array, total_at: Array,
              totals: Array) -> None:
    """A register tile of products, many times over."""
    total = totals[block]
    for _ in range(turns):
        _multiply(a, b, begins, offsets, total, 0, total.reshape(-1), total_at, total.shape[1], total.shape[0])


@block_kernel(writes="totals")
def _byte_products(block: int, turns: int, a: Array, b: Array, begins: Array, offsets: Array, sums: Array, ones: Array,
                   residual: Array, totals: Array) -> None:
    """The same of bytes."""
    total, columns = totals[block], ones.size
    for _ in range(turns):
        _multiply_bytes(a, begins, 0, offsets, b, 0, sums, 0, ones, ones, 0, residual, np.float32(0), total, 0, columns,
                        begins.size, columns)


def measure() -> dict[str, float]:
    """Measure this machine's peaks on the threads that kernels use, and keep them.

    Returns
    -------
    dict
        Operations a second of products in registers, by dtype, those of bytes as "uint8", and bytes a second of a copy
        far beyond the caches, each of which is read once and written once ("copy").
    """
    peaks = {}
    for dtype in FLOATS:
        width = 2 * lanes(np.empty(0, dtype))
        a, b = np.ones((_DEPTH, ROWS), dtype), np.ones(_DEPTH * width, dtype)
        begins = np.arange(2) * (width // 2)
        totals = np.zeros((_BLOCKS, ROWS, width), dtype)
        launch = _products.launch(_BLOCKS, work=1 << 30)
        args = _TURNS, a, b, begins, np.arange(_DEPTH) * width, begins, totals
        peaks[dtype.name] = 2 * ROWS * width * _DEPTH * _TURNS * _BLOCKS / _least_seconds(launch, *args)
    width = _BYTE_VECTORS * LANES
    begins, offsets = np.arange(_BYTE_ROWS) * 4, np.arange(_DEPTH) * 4
    of_bytes = (
        _TURNS, np.ones(4 * (_DEPTH + _BYTE_ROWS), np.uint8), np.ones(4 * width * _DEPTH, np.int8), begins, offsets,
        np.zeros(width, np.int32), np.ones(width, np.float32), np.empty(0, np.uint8),
        np.empty((_BLOCKS, _BYTE_ROWS * width), np.float32))
    operations = 8 * _BYTE_ROWS * width * _DEPTH * _TURNS * _BLOCKS
    peaks["uint8"] = operations / _least_seconds(_byte_products.launch(_BLOCKS, work=1 << 30), *of_bytes)
    x = np.ones(_COPIED, np.float32)            # copied by relu, which writes past the caches on all threads
    y = np.empty_like(x)
    peaks["copy"] = 2 * x.nbytes / _least_seconds(lambda: relu(x, out=y))
    _save({**_saved(), "peaks": peaks})
    return peaks


def note(kernel: str, call: str, share: float) -> None:
    """Keep the share of the peak that a kernel reached."""
    saved = _saved()
    saved.setdefault("shares", {}).setdefault(kernel, {})[call] = share
    _save(saved)


def seconds(operations: float, size: int, dtype: Any) -> float | None:
    """Return what so many operations or bytes take at the peaks, which is longer; None before these are measured."""
    peaks = _saved().get("peaks")
    if peaks is None:
        return None
    return max(operations / peaks.get(str(dtype), peaks["float32"]), size / peaks["copy"])


def shares(kernel: str) -> dict[str, float]:
    """Return the shares of the peak that a kernel was found to reach, by calls."""
    return dict(_saved().get("shares", {}).get(kernel, {}))


def _least_seconds(function: Any, *args: Any) -> float:
    function(*args)                             # compiles
    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - begin)
    return min(times)


def _file() -> Path | None:
    """The file of this processor and number of threads; None where nothing can be kept."""
    folder = cache.folder()
    return folder and folder / f"bench-{llvmlite.binding.get_host_cpu_name()}-{get_num_threads()}.json"


def _saved() -> dict[str, Any]:
    file = _file()
    try:
        saved = json.loads(file.read_text("utf-8")) if file else {}
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def _save(saved: dict[str, Any]) -> None:
    if file := _file():
        with suppress(OSError):                 # what cannot be kept is measured again
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f".{file.name}.{os.getpid()}.part")
            part.write_text(json.dumps(saved, indent=2), "utf-8")
            part.replace(file)
