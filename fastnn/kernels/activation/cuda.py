"""Activations on a GPU: one loop over the grid for all that gives one result an element."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastnn.kernels._arrays import Array
from fastnn.kernels._blocks import THREADS, blocks_for
from fastnn.kernels._cuda import cuda, launch


@functools.cache
def _unary(function: Callable[..., Any]) -> Any:
    function = cuda.jit(device=True)(function)

    @cuda.jit
    def kernel(x: Array, option: Any, y: Array) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            y[i] = function(x[i], option)

    return kernel


def _relu(x: Any, zero: Any) -> Any:
    return zero if x < zero else x


def relu(x: Array, y: Array) -> None:
    launch(_unary(_relu), blocks_for(x.size), THREADS, x, x.dtype.type(0), y)
