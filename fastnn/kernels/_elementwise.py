"""Kernels of one result an element, made of functions of numbers; they see arrays flat, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import BlockKernel, block_kernel, helper, inlined_helper
from fastnn.kernels._vectors import finish_stores, store_past_caches, streamable, use_widest_vectors

CHUNK = 8192            # elements of a block
_STRIP = 128            # elements computed between two bursts of stores past the caches: processors overlap so many


def chunks(x: Array) -> int:
    """Return the number of chunks of a flat array; its size alone decides."""
    return -(-x.size // CHUNK)


@helper
def chunk(block: int, x: Array) -> Array:
    """Return a block's part of a flat array."""
    return x[block * CHUNK:(block + 1) * CHUNK]


def unary(function: Callable[[Any, Any], Any]) -> BlockKernel:
    """Make a kernel (x, option, y) that computes y = function(x, option), option being a number of x's dtype."""
    function = inlined_helper(function)

    @helper
    def plain(x: Array, option: Any, y: Array) -> None:
        use_widest_vectors()
        for i in range(x.size):
            y[i] = function(x[i], option)

    def kernel(block: int, x: Array, option: float, y: Array) -> None:
        use_widest_vectors()
        number = x.dtype.type(option)
        first, last = streamable(chunk(block, y), _STRIP, y.nbytes)
        x, y, strip = chunk(block, x), chunk(block, y), np.empty(_STRIP, y.dtype)
        for begin in range(first, last, _STRIP):
            for i in range(_STRIP):
                strip[i] = function(x[max(0, begin) + i], number)
            store_past_caches(strip, y, begin)
        plain(x[:first], number, y[:first])
        plain(x[last:], number, y[last:])
        if last:
            finish_stores()

    return _named(kernel, function)


def binary(function: Callable[[Any, Any, Any], Any]) -> BlockKernel:
    """Make a kernel (a, b, option, y) that computes y = function(a, b, option), option being a number of a's dtype."""
    function = inlined_helper(function)

    @helper
    def plain(a: Array, b: Array, option: Any, y: Array) -> None:
        use_widest_vectors()
        for i in range(a.size):
            y[i] = function(a[i], b[i], option)

    def kernel(block: int, a: Array, b: Array, option: float, y: Array) -> None:
        use_widest_vectors()
        number = a.dtype.type(option)
        first, last = streamable(chunk(block, y), _STRIP, y.nbytes)
        a, b, y, strip = chunk(block, a), chunk(block, b), chunk(block, y), np.empty(_STRIP, y.dtype)
        for begin in range(first, last, _STRIP):
            for i in range(_STRIP):
                strip[i] = function(a[max(0, begin) + i], b[max(0, begin) + i], number)
            store_past_caches(strip, y, begin)
        plain(a[:first], b[:first], number, y[:first])
        plain(a[last:], b[last:], number, y[last:])
        if last:
            finish_stores()

    return _named(kernel, function)


def _named(kernel: Callable[..., None], function: Any) -> BlockKernel:
    kernel.__module__, kernel.__qualname__ = function.__module__, function.__qualname__
    return block_kernel(writes="y")(kernel)
