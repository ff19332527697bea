"""What attention's passes share: panels of rows, and what is done to scores, whose columns stand in vectors.

A matrix of scores has a row for what a pass walks along, and `VECTORS` vectors of columns for what it owns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.lib.stride_tricks import as_strided

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config, helper, inlined_helper
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.llvm import ROWS, VECTORS, Vectors, data_of, index, lanes
from fastnn.kernels._cpu.tiles import transpose_rows, transpose_tile


def rows_for(features: int) -> int:
    """Return the rows of the tile that wastes the least on so many features, each in a row."""
    return min(range(max(1, ROWS - 3), ROWS + 1), key=lambda rows: -(-features // rows) * (rows * VECTORS + 1))


# --- heads -----------------------------------------------------------------------------------------------------------


class Heads(NamedTuple):
    """Matrices, one a head, wherever their rows lie in memory: a layer keeps those of all heads side by side."""

    flat: Array
    at: Array                               # (heads, 2): row i of head n begins at at[n, 0] + i at[n, 1]


def by_heads(array: Array, shape: tuple[int, ...]) -> Heads:
    """Return an array (..., rows, elements), one of `rows_in_place`, as matrices of shape (heads, rows, elements)."""
    if array.flags.c_contiguous:
        return Heads(array.reshape(-1), _places(shape[:1], (shape[1] * shape[2], shape[2])))
    size = array.itemsize
    strides = tuple([step // size for step in array.strides])
    reach = 1 + sum([(count - 1) * step for count, step in zip(array.shape, strides)])
    return Heads(as_strided(array, (reach,), (size,)), _places(array.shape[:-2], strides[:-1]))


@functools.lru_cache(64)
def _places(leading: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    begins = np.zeros(leading, np.int64)
    for axis, (count, step) in enumerate(zip(leading, strides)):
        begins += np.arange(count).reshape(-1, *(1,) * (len(leading) - 1 - axis)) * step
    return np.stack([begins.reshape(-1), np.full(begins.size, strides[-1])], axis=1)


@inlined_helper
def place(at: Array, n: int, i: int) -> int:
    """Return where row i of head n begins."""
    return at[n, 0] + i * at[n, 1]


# --- panels ----------------------------------------------------------------------------------------------------------


@helper
def pack_panel(source: Array, begin: int, line: int, inside: int, depth: int, target: Array, at: int,
               width: int) -> None:
    """Copy rows to columns: element begin + i line + k comes to at + k width + i, for i < inside; else any number does.

    Vectors may write into what would be row `depth`, if `width` is not a multiple of them.
    """
    vector = lanes(target)
    across, whole = panels(width, vector) * vector, depth // vector * vector
    for k in range(0, whole, vector):
        for i in range(across - vector, -1, -vector):       # what is written beyond the width is written again
            row = min(i, inside - 1)
            transpose_rows(source, begin + row * line + k, line, inside - row, target, at + k * width + i, width)
    for k in range(whole, depth):
        for i in range(width):
            target[at + k * width + i] = source[begin + min(i, inside - 1) * line + k]


@helper
def unpack_panel(source: Array, at: int, width: int, inside: int, depth: int, target: Array, begin: int,
                 line: int) -> None:
    """Copy columns back to rows: element at + k width + i comes to begin + i line + k."""
    vector = lanes(source)
    whole, down = inside // vector * vector, depth // vector * vector
    for k in range(0, down, vector):
        for i in range(0, whole, vector):
            transpose_tile(source, at + k * width + i, width, target, begin + i * line + k, line)
    for k in range(depth):
        for i in range(whole if k < down else 0, inside):
            target[begin + i * line + k] = source[at + k * width + i]


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


@helper
def mask_line(bools: Array, floats: Array, m: int, i: int, key: int, line: Array) -> None:
    """Write what mask m adds to the scores of query i and the keys from `key` on; -inf where they are hidden."""
    if bools.size:
        row = bools[m, i if bools.shape[1] > 1 else 0]
        if row.size == 1:
            line[:] = 0 if row[0] else -np.inf
        else:
            part = row[key : key + line.size]
            for c in range(line.size):
                line[c] = 0 if part[c] else -np.inf
    else:
        numbers = floats[m, i if floats.shape[1] > 1 else 0]
        if numbers.size == 1:
            line[:] = numbers[0]
        else:
            part_of_numbers = numbers[key : key + line.size]
            for c in range(line.size):
                line[c] = part_of_numbers[c]


@inlined_helper
def masked(score: float, added: float) -> float:
    """Return a score and what a mask adds; what is hidden may be NaN or inf."""
    return added if added == -np.inf else score + added


@helper
def mask_columns(bools: Array, floats: Array, m: int, scores: Array, key: int, count: int, query: int,
                 inside: int) -> None:
    """Mask scores whose rows are keys, and whose columns are queries."""
    if bools.size or floats.size:
        keys, width = scores.shape
        lines = np.empty((width, keys), scores.dtype)
        if max(bools.shape[1], floats.shape[1]) == 1:       # one line for all queries
            mask_line(bools, floats, m, 0, key, lines[0, :count])
            for k in range(count):
                row, added = scores[k], lines[0, k]
                for c in range(width):
                    row[c] = masked(row[c], added)
        else:
            flat, panel = scores.reshape(scores.size), np.empty(scores.size, scores.dtype)
            for c in range(inside):
                mask_line(bools, floats, m, query + c, key, lines[c, :count])
            pack_panel(lines.reshape(lines.size), 0, keys, inside, count, panel, 0, width)
            for i in range(count * width):
                flat[i] = masked(flat[i], panel[i])


@helper
def mask_rows(bools: Array, floats: Array, m: int, scores: Array, query: int, first: int, last: int, key: int,
              inside: int) -> None:
    """Mask scores whose rows, from `first` to `last`, are queries, and whose columns are keys."""
    if bools.size or floats.size:
        line = np.empty(inside, scores.dtype)
        for r in range(first, last):
            row = scores[r]
            mask_line(bools, floats, m, query + r, key, line)
            for c in range(inside):
                row[c] = masked(row[c], line[c])
