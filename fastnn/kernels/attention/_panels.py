"""What attention's passes share: panels of rows, and what is done to scores, whose columns stand in vectors.

A matrix of scores has a row for what a pass walks along, and `VECTORS` vectors of columns for what it owns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config, helper, inlined_helper
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.llvm import ROWS, VECTORS, Vectors, data_of, index, lanes
from fastnn.kernels._cpu.tiles import transpose_tile


def rows_for(features: int) -> int:
    """Return the rows of the tile that wastes the least on so many features, each in a row."""
    return min(range(max(1, ROWS - 3), ROWS + 1), key=lambda rows: -(-features // rows) * (rows * VECTORS + 1))


# --- panels ----------------------------------------------------------------------------------------------------------


@helper
def pack_panel(source: Array, begin: int, inside: int, depth: int, target: Array, at: int, width: int) -> None:
    """Copy rows of a flat array to columns: element k of row i comes to at + k width + i, for i < inside; else 0.

    Vectors may write into what would be row `depth`, if `width` is not a multiple of them.
    """
    vector, whole = lanes(target), 0
    across = panels(width, vector) * vector
    if inside == width and begin + across * depth <= source.size:
        whole = depth // vector * vector
        for k in range(0, whole, vector):
            for i in range(across - vector, -1, -vector):       # what is written beyond the width is written again
                transpose_tile(source, begin + i * depth + k, depth, target, at + k * width + i, width)
    for k in range(whole, depth):
        for i in range(inside):
            target[at + k * width + i] = source[begin + i * depth + k]
        for i in range(inside, width):
            target[at + k * width + i] = 0


@helper
def unpack_panel(source: Array, at: int, width: int, inside: int, depth: int, target: Array, begin: int) -> None:
    """Copy columns back to rows: the element at + k width + i is k of row i."""
    vector = lanes(source)
    whole, down = inside // vector * vector, depth // vector * vector
    for k in range(0, down, vector):
        for i in range(0, whole, vector):
            transpose_tile(source, at + k * width + i, width, target, begin + i * depth + k, depth)
    for k in range(depth):
        for i in range(whole if k < down else 0, inside):
            target[begin + i * depth + k] = source[at + k * width + i]


@helper
def add_seen_rows(rows: Array, begin: int, weights: Array, first: int, last: int, totals: Array) -> None:
    """Compute totals[e, c] += sum over r of rows[begin + r, e] weights[r, c], but leave out what has weight 0.

    So what is hidden adds nothing, even if it is NaN or inf.
    """
    for r in range(first, last):
        for c in range(weights.shape[1]):
            weight = weights[r, c]
            if weight != 0:
                for e in range(totals.shape[0]):
                    totals[e, c] += rows[begin + r, e] * weight


# --- scores ----------------------------------------------------------------------------------------------------------


def _over_columns(python: Callable[[Array, Array], Array], instruction: str) -> Any:
    """Return a function (c, count, d) that changes the rows of c, as far as `count`, by the row d."""
    def interpreted(c: Array, count: int, d: Array) -> None:
        with np.errstate(all="ignore"):
            c[:count] = python(c[:count], d)

    @intrinsic
    def compiled(typingctx: Any, c: Any, count: Any, d: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            c, count, d = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[2].dtype)
            columns = [index(v * vector.lanes) for v in range(VECTORS)]
            row = [vector.load(d, column) for column in columns]
            with cgutils.for_range(builder, count) as loop:
                for column, value in zip(columns, row):
                    place = builder.add(builder.mul(loop.index, index(VECTORS * vector.lanes)), column)
                    vector.store(getattr(builder, instruction)(vector.load(c, place), value), c, place)
            return context.get_dummy_value()

        return types.void(c, types.intp, d), codegen

    return interpreted if config.DISABLE_JIT else compiled


subtract_from_columns = _over_columns(np.subtract, "fsub")
multiply_columns = _over_columns(np.multiply, "fmul")


def _column_max_python(c: Array, count: int, d: Array) -> None:
    d[...] = np.fmax.reduce(c[:count], axis=0, initial=-np.inf)


@intrinsic
def _column_max_compiled(typingctx: Any, c: Any, count: Any, d: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        c, count, d = data_of(context, builder, signature, args)
        vector = Vectors(builder, signature.args[2].dtype)
        columns = [index(v * vector.lanes) for v in range(VECTORS)]
        lowest = vector.constant(float("-inf"))
        slots = [cgutils.alloca_once_value(builder, lowest) for _ in columns]
        with cgutils.for_range(builder, count) as loop:
            for column, slot in zip(columns, slots):
                value = vector.load(c, builder.add(builder.mul(loop.index, index(VECTORS * vector.lanes)), column))
                largest = builder.load(slot)
                builder.store(builder.select(builder.fcmp_ordered(">", value, largest), value, largest), slot)
        for column, slot in zip(columns, slots):
            vector.store(builder.load(slot), d, column)
        return context.get_dummy_value()

    return types.void(c, types.intp, d), codegen


column_max: Any = _column_max_python if config.DISABLE_JIT else _column_max_compiled
"""column_max(c, count, d): write the largest elements of columns to d, of the rows before `count`; NaN do not count."""


# --- masks -----------------------------------------------------------------------------------------------------------
# They come as two arrays, of bools and of floats, of which one or both are empty: so one kernel does for all of them.


def masks_of(mask: Array | None, dtype: np.dtype) -> tuple[Array, Array]:
    """Return masks as kernels take them."""
    bools, floats = np.empty((0, 0, 0), bool), np.empty((0, 0, 0), dtype)
    return (bools, floats) if mask is None else (mask, floats) if mask.dtype == bool else (bools, mask)


@inlined_helper
def masked(score: float, bools: Array, floats: Array, m: int, i: int, j: int) -> float:
    """Return the score of query i and key j with mask m, which has one row or column where all would be the same."""
    if bools.size:
        return score if bools[m, i if bools.shape[1] > 1 else 0, j if bools.shape[2] > 1 else 0] else -np.inf
    if floats.size:
        mask = floats[m, i if floats.shape[1] > 1 else 0, j if floats.shape[2] > 1 else 0]
        return -np.inf if mask == -np.inf else score + mask
    return score


@helper
def mask_columns(bools: Array, floats: Array, m: int, scores: Array, key: int, count: int, query: int,
                 inside: int) -> None:
    """Mask scores whose rows are keys, and whose columns are queries."""
    if bools.size or floats.size:
        for k in range(count):
            for c in range(inside):
                scores[k, c] = masked(scores[k, c], bools, floats, m, query + c, key + k)


@helper
def mask_rows(bools: Array, floats: Array, m: int, scores: Array, query: int, first: int, last: int, key: int,
              inside: int) -> None:
    """Mask scores whose rows, from `first` to `last`, are queries, and whose columns are keys."""
    if bools.size or floats.size:
        for r in range(first, last):
            for c in range(inside):
                scores[r, c] = masked(scores[r, c], bools, floats, m, query + r, key + c)
