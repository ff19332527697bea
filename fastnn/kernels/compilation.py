"""What is compiled here and for what machine, for those who report it: `fastnn doctor` and `fastnn warmup`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn.kernels._cpu import cache as cache
from fastnn.kernels._cpu.ahead import EnoughError as EnoughError
from fastnn.kernels._cpu.ahead import compile_ahead as compile_ahead
from fastnn.kernels._cpu.ahead import is_ahead as is_ahead
from fastnn.kernels._cpu.ahead import launching_nothing as launching_nothing
from fastnn.kernels._cpu.compiler import config, made
from fastnn.kernels._cpu.launch import PARALLEL_WORK
from fastnn.kernels._cpu.llvm import ROWS
from fastnn.kernels._cpu.threads import state
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


def functions() -> list[Any]:
    """Return what was compiled or loaded in this process, in that order: each with its seconds and where it is from."""
    return list(made.values())
