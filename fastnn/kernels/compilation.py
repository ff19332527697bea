"""What is compiled here and for what machine, for those who report it: `fastnn doctor` and `fastnn warmup`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.kernels._cpu import cache as cache
from fastnn.kernels._cpu.compiler import config
from fastnn.kernels._cpu.launch import PARALLEL_WORK, kernels
from fastnn.kernels._cpu.llvm import ROWS
from fastnn.kernels._cpu.threads import loop_address, state
from fastnn.kernels._cpu.tiles import tile_columns
from fastnn.kernels.activation import relu


def is_off() -> bool:
    """Whether every kernel runs as plain Python, since NUMBA_DISABLE_JIT is set."""
    return bool(config.DISABLE_JIT)


def register_tile(dtype: Any) -> tuple[int, int]:
    """Return the rows and columns of the tile of a matrix product that fills the host's registers."""
    return ROWS, tile_columns(np.empty(0, dtype))


def threading_layer() -> str | None:
    """Return which of Numba's threading layers runs parallel kernels; None where they run on one thread."""
    relu(np.zeros(10 * PARALLEL_WORK, np.float32))      # the layer is known after a launch
    return state.layer


def compile_parallel_loop() -> None:
    """Compile what runs the blocks of any kernel on several threads."""
    loop_address()


def compiled_kernels() -> Iterator[Any]:
    """Iterate over what was compiled or loaded in this process, one for each kernel and combination of types."""
    for kernel in kernels.values():
        yield from kernel.compiled.values()


def seconds() -> float:
    """Return how long this process has compiled and loaded kernels."""
    return sum(kernel.seconds for kernel in kernels.values())
