"""The nearest so far: a test of a whole row of candidates, and a heap for each query, its worst on top."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config, helper, inlined_helper
from fastnn.kernels._cpu.dot import WIDTH
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.tiles import tile_columns

LAST = np.iinfo(np.int64).max


def _passing(lanes: Callable[[Any], int]) -> Any:
    """Return the function that says which values of a row pass: bit j of its result is of column j."""
    def python(values: Array, begin: int, bound: float) -> int:
        row = values.reshape(-1)[begin : begin + lanes(values)]
        return sum(1 << j for j, value in enumerate(row) if not value >= bound)

    @intrinsic
    def compiled(typingctx: Any, values: Any, begin: Any, bound: Any) -> Any:
        bits = values.dtype.bitwidth
        count = lanes(np.empty(0, str(values.dtype)))
        element = {"float32": ir.FloatType(), "float64": ir.DoubleType()}.get(str(values.dtype), ir.IntType(bits))

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            vector, index = ir.VectorType(element, count), ir.IntType(32)
            row = builder.load(builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer()))
            row.align = bits // 8
            undefined = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(undefined, args[2], ir.Constant(index, 0))
            bounds = builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(index, count), [0] * count))
            compare = builder.icmp_signed if isinstance(element, ir.IntType) else builder.fcmp_unordered
            passes = builder.bitcast(compare("<", row, bounds), ir.IntType(count))
            return builder.zext(passes, ir.IntType(64))

        return types.int64(values, types.intp, values.dtype), codegen

    return python if config.DISABLE_JIT else compiled


passing = _passing(lambda array: int(tile_columns(array)))
"""passing(values, begin, bound): bit j says that in a row of a distance tile not values.flat[begin + j] >= bound."""

passing_dot = _passing(lambda array: WIDTH)
"""The same for a row of a dot tile."""


@intrinsic
def _lowest_bit(typingctx: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


def _lowest_bit_python(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


lowest_bit: Any = _lowest_bit_python if config.DISABLE_JIT else _lowest_bit


@inlined_helper
def _before(a: float, i: int, b: float, j: int) -> bool:
    """Whether a candidate of value a and index i comes before one of b and j; NaN comes last."""
    if a < b or a > b:
        return a < b
    if a == b or (math.isnan(a) and math.isnan(b)):
        return i < j
    return math.isnan(b)


@helper
def _sink(values: Array, indices: Array, row: int, size: int, value: float, index: int) -> None:
    """Put a candidate in place of the top of a row's heap."""
    at, child = 0, 1
    while child < size:
        if child + 1 < size and _before(values[row, child], indices[row, child],
                                        values[row, child + 1], indices[row, child + 1]):
            child += 1
        if not _before(value, index, values[row, child], indices[row, child]):
            break
        values[row, at], indices[row, at] = values[row, child], indices[row, child]
        at, child = child, 2 * child + 1
    values[row, at], indices[row, at] = value, index


@inlined_helper
def offer(values: Array, indices: Array, row: int, value: float, index: int) -> None:
    """Take a candidate into the heap that is a row of two arrays if it comes before the worst."""
    if _before(value, index, values[row, 0], indices[row, 0]):
        _sink(values, indices, row, values.shape[1], value, index)


@helper
def sort(values: Array, indices: Array, row: int) -> None:
    """Sort a heap, the nearest first."""
    for size in range(values.shape[1] - 1, 0, -1):
        value, index = values[row, size], indices[row, size]
        values[row, size], indices[row, size] = values[row, 0], indices[row, 0]
        _sink(values, indices, row, size, value, index)


@inlined_helper
def by_slices(heaps: Array, slices: int) -> Array:
    """Return heaps (slices queries, k) as (slices, queries, k)."""
    return heaps.reshape(slices, heaps.shape[0] // slices, heaps.shape[1])


@block_kernel(writes="squares indices")
def merge(block: int, slices: int, heaps: Array, heap_indices: Array, squares: Array, indices: Array) -> None:
    """Merge the sorted candidates of one query over all slices."""
    taken = np.zeros(slices, np.int64)
    part_squares, part_indices = by_slices(heaps, slices), by_slices(heap_indices, slices)
    for rank in range(squares.shape[1]):
        square, index, best = np.nan, LAST, 0
        for part in range(taken.size):
            at = taken[part]
            if _before(part_squares[part, block, at], part_indices[part, block, at], square, index):
                square, index, best = part_squares[part, block, at], part_indices[part, block, at], part
        squares[block, rank], indices[block, rank] = square, index
        taken[best] += 1
