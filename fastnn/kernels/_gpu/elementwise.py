"""CUDA kernels of one result an element, made of functions of numbers; they see arrays flat."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.tuning import ELEMENTWISE_AT_ONCE

_CHUNK = ELEMENTWISE_AT_ONCE * THREADS


@functools.cache
def _mapping(function: Callable[[Any, Any, Any], Any], real: Any) -> Any:
    formula = cuda.jit(device=True)(function)

    def kernel(a: Array, b: Array, option: Any, y: Array) -> None:
        results = cuda.local.array(ELEMENTWISE_AT_ONCE, real)
        for first in range(cuda.blockIdx.x * _CHUNK, y.size, cuda.gridDim.x * _CHUNK):
            begin = first + cuda.threadIdx.x
            if first + _CHUNK <= y.size:
                for j in range(ELEMENTWISE_AT_ONCE):
                    results[j] = formula(a[begin + j * THREADS], b[begin + j * THREADS], option)
                for j in range(ELEMENTWISE_AT_ONCE):
                    y[begin + j * THREADS] = results[j]
            else:
                for i in range(begin, y.size, THREADS):
                    y[i] = formula(a[i], b[i], option)

    kernel.__module__, kernel.__name__, kernel.__qualname__ = function.__module__, function.__name__, function.__name__
    return cuda.jit(kernel)


def run_map(function: Callable[[Any, Any, Any], Any], a: Array, b: Array, option: float, y: Array) -> None:
    """Compute y = function(a, b, option), element by element; `option` is a number of y's dtype there.

    A function of one array leaves b alone, for which a then stands.
    """
    real: Any = y.dtype.type
    launch(_mapping(function, real), blocks_for(y.size, _CHUNK), THREADS, a, b, real(option), y)
