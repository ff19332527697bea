"""What attention's passes share: panels of rows, and what is done to scores, whose columns stand in vectors.

A matrix of scores has a row for what a pass walks along, and `VECTORS` vectors of columns for what it owns.
"""

from __future__ import annotations

import functools
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


add_to_columns, multiply_columns = _over_columns(np.add, "fadd"), _over_columns(np.multiply, "fmul")


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


@inlined_helper
def _masked_by_bool(score: float, mask: bool) -> float:
    return score if mask else -np.inf


@inlined_helper
def _masked_by_float(score: float, mask: float) -> float:
    return -np.inf if mask == -np.inf else score + mask


@functools.cache
def masked(boolean: bool) -> Any:
    """Return the function (score, mask) for masks of bools, or of floats."""
    return _masked_by_bool if boolean else _masked_by_float


@functools.cache
def mask_of_columns(boolean: bool) -> Any:
    """Return the function (mask, scores, key, count, query, inside) that masks scores whose columns are queries."""
    mask_score = masked(boolean)

    @helper
    def mask_columns(mask: Array, scores: Array, key: int, count: int, query: int, inside: int) -> None:
        of_keys, of_queries = mask.shape[1] > 1, mask.shape[0] > 1
        if of_queries:
            for c in range(inside):
                row = mask[query + c]
                for k in range(count):
                    scores[k, c] = mask_score(scores[k, c], row[key + k if of_keys else 0])
        else:
            for k in range(count):
                value = mask[0, key + k if of_keys else 0]
                for c in range(scores.shape[1]):
                    scores[k, c] = mask_score(scores[k, c], value)

    return mask_columns


@functools.cache
def mask_of_rows(boolean: bool) -> Any:
    """Return the function (mask, scores, query, first, last, key, inside) that masks scores whose rows are queries."""
    mask_score = masked(boolean)

    @helper
    def mask_rows(mask: Array, scores: Array, query: int, first: int, last: int, key: int, inside: int) -> None:
        of_keys, of_queries = mask.shape[1] > 1, mask.shape[0] > 1
        for r in range(first, last):
            row = mask[query + r if of_queries else 0]
            if of_keys:
                for c in range(inside):
                    scores[r, c] = mask_score(scores[r, c], row[key + c])
            else:
                for c in range(inside):
                    scores[r, c] = mask_score(scores[r, c], row[0])

    return mask_rows
