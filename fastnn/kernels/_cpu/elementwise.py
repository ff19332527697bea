"""Kernels of one result an element, made of functions of numbers; they see arrays flat, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper, named_after, renamed
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.tuning import CHUNK, STRIP
from fastnn.kernels._cpu.vectors import STREAMED, store_past_caches, streamable, use_widest_vectors


def chunks(size: int) -> int:
    """Return the number of chunks of a flat array of this size."""
    return -(-size // CHUNK)


@helper
def chunk(block: int, x: Array) -> Array:
    """Return a block's part of a flat array."""
    return x[block * CHUNK:(block + 1) * CHUNK]


def mapping(function: Callable[[Any, Any, Any], Any]) -> Callable[[Array, Array, Any, Array, bool], None]:
    """Make a function (a, b, option, y, past_caches) for kernels: y = function(a, b, option), element by element.

    a, b and y are flat; option is a number or a tuple.
    """
    named = named_after(function)
    function = inlined_helper(function)

    @helper
    @named
    def plain(a: Array, b: Array, option: Any, y: Array) -> None:
        use_widest_vectors()
        for i in range(y.size):
            y[i] = function(a[i], b[i], option)

    @helper
    @named
    def streamed(a: Array, b: Array, option: Any, y: Array) -> None:
        use_widest_vectors()
        strip = np.empty(STRIP, y.dtype)
        left = y.size % STRIP
        for begin in range(0, y.size - left, STRIP):
            for i in range(STRIP):                      # a constant, for which the loop needs no remainder
                strip[i] = function(a[max(0, begin) + i], b[max(0, begin) + i], option)
            store_past_caches(strip, y, begin)
        for i in range(left):
            strip[i] = function(a[y.size - left + i], b[y.size - left + i], option)
        store_past_caches(strip[:left], y, y.size - left)

    @helper
    @named
    def run(a: Array, b: Array, option: Any, y: Array, past_caches: bool) -> None:
        if not past_caches:
            plain(a, b, option, y)
            return
        first, last = streamable(y)
        if first > 0:
            plain(a[:first], b[:first], option, y[:first])
        streamed(a[first:last], b[first:last], option, y[first:last])
        if last < y.size:
            plain(a[last:], b[last:], option, y[last:])

    return run


def unary(function: Callable[[Any, Any], Any]) -> BlockKernel:
    """Make a kernel (x, option, y) that computes y = function(x, option), option being a number of x's dtype."""
    named, of_number = named_after(function), inlined_helper(function)

    @named
    def of_first(a: Any, b: Any, option: Any) -> Any:
        return of_number(a, option)

    run = mapping(of_first)

    def kernel(block: int, x: Array, option: float, y: Array) -> None:
        part = chunk(block, x)
        run(part, part, x.dtype.type(option), chunk(block, y), y.nbytes >= STREAMED)

    return block_kernel(writes="y", typed_by="y")(renamed(kernel, function.__module__, function.__qualname__))


def binary(function: Callable[[Any, Any, Any], Any]) -> BlockKernel:
    """Make a kernel (a, b, option, y) that computes y = function(a, b, option), option being a number of a's dtype."""
    run = mapping(function)

    def kernel(block: int, a: Array, b: Array, option: float, y: Array) -> None:
        run(chunk(block, a), chunk(block, b), a.dtype.type(option), chunk(block, y), y.nbytes >= STREAMED)

    return block_kernel(writes="y", typed_by="y")(renamed(kernel, function.__module__, function.__qualname__))


def same_bits(a: Array, b: Array) -> bool:
    """Return whether two arrays of one shape and dtype hold the same bits."""
    bits = np.dtype(f"u{a.itemsize}")
    same = np.empty(chunks(a.size), np.uint8)
    _same(len(same), a.reshape(-1).view(bits), b.reshape(-1).view(bits), same, work=a.size // 5)
    return bool(same.all())


@block_kernel(writes="same", typed_by="a")
def _same(block: int, a: Array, b: Array, same: Array) -> None:
    left, right = chunk(block, a), chunk(block, b)
    differing = left[0] ^ right[0]
    for i in range(left.size):
        differing |= left[i] ^ right[i]
    same[block] = differing == 0
