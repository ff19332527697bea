"""The vector-register building blocks: tiles of matrix products held in registers, and transposes.

LLVM's vectorizer does not find this form from loops; spelt out in its vector types, it runs at the speed of the
machine's multiply-add units, on whatever vectors the host has: LLVM splits what is wider than a register.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config
from fastnn.kernels._cpu.llvm import (
    BYTES,
    FUSED,
    I64,
    REGISTERS,
    ROWS,
    VECTORS,
    Vectors,
    broadcast,
    data_of,
    index,
    integer_of,
    lanes,
    length_of,
)
from fastnn.kernels._cpu.tuning import ROWS_AHEAD


@register_jitable
def tile_columns(array: Array) -> int:
    """Return the columns of a tile of this array's dtype."""
    return VECTORS * BYTES // array.itemsize


@functools.cache
def tile_shapes(vectors: int) -> list[tuple[int, int]]:
    """Return the rows and vectors of tiles for so many vectors: of few shapes, as each is compiled by itself."""
    return [*((ROWS - less, 2) for less in range(4)), *[(2 * ROWS, 1)] * (vectors == 1),
            *((few, _registers_for(few)) for few in (8, 6, 3, 1) if few < ROWS - 3)]


def tile_cost(tile: tuple[int, int], rows: int, vectors: int) -> int:
    """Return the cycles of a step of the depth, for a product of so many rows and vectors.

    Two products a cycle, or two loads, of which one of a vector touches two lines.
    """
    tall, wide = tile
    return -(-rows // tall) * -(-vectors // wide) * (max(tall * wide, tall + 2 * wide) + 1)


def tile_shape(rows: int, vectors: int) -> tuple[int, int]:
    """Return the tile that fits a product of so many rows and vectors: it fills the registers, or wastes less."""
    return min(tile_shapes(vectors), key=lambda tile: tile_cost(tile, rows, vectors))


def _registers_for(rows: int) -> int:
    """Return the vectors of a tile of a few rows."""
    return min(8, (REGISTERS - 1) // (rows + 1))


def sums_of(builder: ir.IRBuilder, depth: Any, start: list, terms: Callable[[Any], Iterator[Any]]) -> list:
    """Add to each value of start, for k from 0 to depth - 1, its one of terms(k); all stay in registers."""
    entry = builder.block
    loop, done = builder.append_basic_block("depth"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", depth, index(0)), loop, done)

    builder.position_at_end(loop)
    k = builder.phi(I64)
    k.add_incoming(index(0), entry)
    totals = [builder.phi(value.type) for value in start]
    sums = [builder.fadd(total, term, flags=FUSED) for total, term in zip(totals, terms(k))]
    following = builder.add(k, index(1))
    k.add_incoming(following, loop)
    for total, begin, value in zip(totals, start, sums):
        total.add_incoming(begin, entry)
        total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)

    builder.position_at_end(done)
    results = []
    for begin, value in zip(start, sums):
        result = builder.phi(value.type)
        result.add_incoming(begin, entry)
        result.add_incoming(value, loop)
        results.append(result)
    return results


def product(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    return builder.fmul(x, y, flags=FUSED)


def _squared_difference(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    difference = builder.fsub(x, y)
    return builder.fmul(difference, difference, flags=FUSED)


def _panel_tile(rows: int, term: Callable[..., Any], combine: Callable[[Array, Array], Array]) -> Any:
    """Return the tile(a, a_at, b, b_at, depth, c, c_at, line): c[i, j] += sum over k of term(a[k, i], b[k, j]).

    All are flat: a is (depth, rows) from a_at on, b (depth, tile_columns) from b_at on, and rows of c begin at c_at and
    every `line` behind. A sum begins with 0, and is added to c at its end. It has the order of k, so its bits depend on
    its own row and column alone.
    """
    def python(a: Array, a_at: int, b: Array, b_at: int, depth: int, c: Array, c_at: int, line: int) -> None:
        columns = tile_columns(b)
        left = a[a_at : a_at + depth * rows].reshape(depth, rows, 1)
        right = b[b_at : b_at + depth * columns].reshape(depth, 1, columns)
        for i, total in enumerate(combine(left, right).sum(0)):
            c[c_at + i * line : c_at + i * line + columns] += total

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, a_at: Any, b: Any, b_at: Any, depth: Any, c: Any, c_at: Any, line: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_at, b, b_at, depth, c, c_at, line = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[5].dtype)
            columns = VECTORS * vector.lanes
            parts = range(0, columns, vector.lanes)
            a, b, c = (builder.gep(data, [at]) for data, at in ((a, a_at), (b, b_at), (c, c_at)))

            def terms(k: Any) -> Iterator[Any]:
                b_row = [vector.load(b, builder.add(builder.mul(k, index(columns)), index(j))) for j in parts]
                a_row = (vector.load_broadcast(a, builder.add(builder.mul(k, index(rows)), index(i)))
                         for i in range(rows))
                return (term(builder, x, y) for x in a_row for y in b_row)

            slots = [builder.add(builder.mul(line, index(i)), index(j)) for i in range(rows) for j in parts]
            for slot, value in zip(slots, sums_of(builder, depth, [vector.zero] * len(slots), terms)):
                vector.store(builder.fadd(vector.load(c, slot), value), c, slot)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(a, integer, b, integer, integer, c, integer, integer), codegen

    return tile


square_tile = _panel_tile(ROWS, _squared_difference, lambda x, y: (x - y) ** 2)
square_row = _panel_tile(1, _squared_difference, lambda x, y: (x - y) ** 2)
product_tile = _panel_tile(ROWS, product, np.multiply)


@functools.cache
def gather_tile(rows: int, vectors: int) -> Any:
    """Return the tile(a, b, begins, offsets, start, positive, c, c_begins, plane, inside) of this shape.

    c[c_begins[v] + i plane + j] = start[i, v lanes + j] + sum over k of a[k, i] b[begins[v] + offsets[k] + j], for
    i < inside, and 0 where that is less and `positive`. So vectors of b and of c lie anywhere: a convolution's rows
    need no copy. a is (depth, rows), b and c are flat, the begins and offsets int64, start is (rows, columns).
    """
    def python(a: Array, b: Array, begins: Array, offsets: Array, start: Array, positive: int, c: Array,
               c_begins: Array, plane: int, inside: int) -> None:
        width = lanes(c)
        line = (begins[:vectors, None] + np.arange(width)).ravel()
        total = np.zeros_like(start)
        with np.errstate(all="ignore"):
            for k, offset in enumerate(offsets):
                total += a[k][:, None] * b[line + offset]
            total += start
        for i in range(min(rows, inside)):
            value = np.where((total[i] < 0) & bool(positive), 0, total[i])
            for v in range(vectors):
                at = c_begins[v] + i * plane
                c[at : at + width] = value[v * width : (v + 1) * width]

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, b: Any, begins: Any, offsets: Any, start: Any, positive: Any, c: Any,
             c_begins: Any, plane: Any, inside: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, b, begins, offsets, start, positive, c, c_begins, plane, inside = data_of(
                context, builder, signature, args)
            vector = Vectors(builder, signature.args[6].dtype)
            b_parts = [builder.gep(b, [integer_of(builder, begins, index(v))]) for v in range(vectors)]

            def terms(k: Any) -> Iterator[Any]:
                offset = integer_of(builder, offsets, k)
                b_row = [vector.load(part, offset) for part in b_parts]
                a_row = (vector.load_broadcast(a, builder.add(builder.mul(k, index(rows)), index(i)))
                         for i in range(rows))
                return (product(builder, x, y) for x in a_row for y in b_row)

            depth = length_of(context, builder, signature, args, 3)
            results = sums_of(builder, depth, [vector.zero] * (rows * vectors), terms)
            positive = builder.icmp_signed("!=", positive, index(0))
            c_parts = [builder.gep(c, [integer_of(builder, c_begins, index(v))]) for v in range(vectors)]
            for i in range(rows):
                with builder.if_then(builder.icmp_signed("<", index(i), inside)):
                    at = builder.mul(plane, index(i))
                    for v in range(vectors):
                        slot = i * vectors + v
                        value = builder.fadd(vector.load(start, index(slot * vector.lanes)), results[slot])
                        negative = builder.and_(builder.fcmp_ordered("<", value, vector.zero),
                                                broadcast(builder, positive, vector.lanes))
                        vector.store(builder.select(negative, vector.zero, value), c_parts[v], at)
            return context.get_dummy_value()

        return types.void(a, b, begins, offsets, start, types.intp, c, c_begins, types.intp, types.intp), codegen

    return tile


@functools.cache
def walk_tile(parts: int, run: int, vectors: int, apart: int = 0) -> Any:
    """Return the tile(a, begins, offsets, b, first, c) of parts x run rows and so many vectors.

    c[p run + r, j] += sum over k of a[begins[p] + r + offsets[k]] b[k, j], or = with `first`: a is flat and read where
    it lies, its rows in parts that begin anywhere. begins and offsets are int64, b is (depth, columns), c is
    (rows, columns). With `apart` the rows of a part lie so many vectors from each other instead of one element.
    """
    def python(a: Array, begins: Array, offsets: Array, b: Array, first: int, c: Array) -> None:
        rows = (begins[:parts, None] + np.arange(run) * (apart * lanes(a) or 1)).ravel()
        total = np.zeros_like(c)
        with np.errstate(all="ignore"):
            for k, offset in enumerate(offsets):
                total += a[rows + offset][:, None] * b[k]
            c[...] = total if first else c + total

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, begins: Any, offsets: Any, b: Any, first: Any, c: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, begins, offsets, b, first, c = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[5].dtype)
            columns = vectors * vector.lanes
            a_parts = [builder.gep(a, [integer_of(builder, begins, index(p))]) for p in range(parts)]
            slots = [index(i * vector.lanes) for i in range(parts * run * vectors)]

            def terms(k: Any) -> Iterator[Any]:
                offset, top = integer_of(builder, offsets, k), builder.mul(k, index(columns))
                b_row = [vector.load(b, builder.add(top, index(v * vector.lanes))) for v in range(vectors)]
                for v in range(vectors):
                    vector.prefetch(b, builder.add(top, index(v * vector.lanes + ROWS_AHEAD * columns)))
                between = apart * vector.lanes or 1
                a_row = (vector.load_broadcast(part, builder.add(offset, index(r * between)))
                         for part in a_parts for r in range(run))
                return (product(builder, x, y) for x in a_row for y in b_row)

            depth = length_of(context, builder, signature, args, 2)
            results = sums_of(builder, depth, [vector.zero] * len(slots), terms)
            with builder.if_else(builder.icmp_signed("!=", first, index(0))) as (alone, added):
                with alone:
                    for slot, result in zip(slots, results):
                        vector.store(result, c, slot)
                with added:
                    for slot, result in zip(slots, results):
                        vector.store(builder.fadd(vector.load(c, slot), result), c, slot)
            return context.get_dummy_value()

        return types.void(a, begins, offsets, b, types.intp, c), codegen

    return tile


@functools.cache
def dot_tile(rows: int) -> Any:
    """Return the tile(a, begins, offsets, b, c): c[i, j] += sum over k of a[begins[i] + offsets[k] + j] b[k, j].

    j counts the lanes of a vector. a and b are flat, b's vectors one after the other, begins and offsets are int64, c
    is (rows, lanes): the sum of its lanes is a product of what lies in a and b.
    """
    def python(a: Array, begins: Array, offsets: Array, b: Array, c: Array) -> None:
        line = np.arange(c.shape[1])
        total = np.zeros_like(c)
        for k, offset in enumerate(offsets):
            total += a[begins[:, None] + offset + line] * b[k * line.size : (k + 1) * line.size]
        c += total

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, begins: Any, offsets: Any, b: Any, c: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, begins, offsets, b, c = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[4].dtype)
            parts = [builder.gep(a, [integer_of(builder, begins, index(i))]) for i in range(rows)]
            slots = [index(i * vector.lanes) for i in range(rows)]

            def terms(k: Any) -> Iterator[Any]:
                offset, value = integer_of(builder, offsets, k), vector.load(b, builder.mul(k, index(vector.lanes)))
                return (product(builder, vector.load(part, offset), value) for part in parts)

            results = sums_of(builder, length_of(context, builder, signature, args, 2), [vector.zero] * rows, terms)
            for slot, result in zip(slots, results):
                vector.store(builder.fadd(vector.load(c, slot), result), c, slot)
            return context.get_dummy_value()

        return types.void(a, begins, offsets, b, c), codegen

    return tile


@functools.cache
def stencil_tile(taps: int) -> Any:
    """Return the tile(a, offsets, weights, start, positive, c, count): c[j] = start + sum over k of
    weights[k] a[offsets[k] + j], for j < count, and 0 where that is less and `positive`.

    All arrays are flat, the offsets int64, start a number. Whole vectors are read and written, beyond count too.
    """
    def python(a: Array, offsets: Array, weights: Array, start: float, positive: int, c: Array, count: int) -> None:
        line = np.arange(-(-count // lanes(c)) * lanes(c))
        total = np.zeros(line.size, c.dtype)
        with np.errstate(all="ignore"):
            for offset, weight in zip(offsets[:taps], weights):
                total += weight * a[offset + line]
            total += start
        c[: line.size] = np.where((total < 0) & bool(positive), 0, total)

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, offsets: Any, weights: Any, start: Any, positive: Any, c: Any,
             count: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, offsets, weights, start, positive, c, count = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[5].dtype)
            parts = [builder.gep(a, [integer_of(builder, offsets, index(k))]) for k in range(taps)]
            factors = [vector.load_broadcast(weights, index(k)) for k in range(taps)]
            start = broadcast(builder, start, vector.lanes)
            positive = broadcast(builder, builder.icmp_signed("!=", positive, index(0)), vector.lanes)
            with cgutils.for_range_slice(builder, index(0), count, index(vector.lanes), inc=True) as (j, _):
                total = vector.zero
                for part, factor in zip(parts, factors):
                    total = builder.fadd(total, product(builder, vector.load(part, j), factor), flags=FUSED)
                value = builder.fadd(total, start)
                negative = builder.and_(builder.fcmp_ordered("<", value, vector.zero), positive)
                vector.store(builder.select(negative, vector.zero, value), c, j)
            return context.get_dummy_value()

        return types.void(a, offsets, weights, c.dtype, types.intp, c, types.intp), codegen

    return tile


def _transpose_python(a: Array, a_begin: int, a_line: int, rows: int, b: Array, b_begin: int, b_line: int) -> None:
    size = lanes(a)
    for j in range(size):
        at = b_begin + j * b_line
        for i in range(size):
            b[at + i] = a[a_begin + min(i, rows - 1) * a_line + j]


@intrinsic
def _transpose(typingctx: Any, a: Any, a_begin: Any, a_line: Any, rows: Any, b: Any, b_begin: Any, b_line: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        a, a_begin, a_line, count, b, b_begin, b_line = data_of(context, builder, signature, args)
        vector = Vectors(builder, signature.args[4].dtype)
        size, last = vector.lanes, builder.sub(count, index(1))
        loaded = []
        for i in range(size):
            row = builder.select(builder.icmp_signed("<", index(i), last), index(i), last)
            loaded.append(vector.load(a, builder.add(a_begin, builder.mul(a_line, row))))
        for i, row in enumerate(vector.transpose(loaded)):      # in this order: what overlaps is written again
            vector.store(row, b, builder.add(b_begin, builder.mul(b_line, index(i))))
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, types.intp, b, types.intp, types.intp), codegen


transpose_rows: Any = _transpose_python if config.DISABLE_JIT else _transpose
"""transpose_rows(a, a_begin, a_line, rows, b, b_begin, b_line): copy `lanes` x `lanes` elements of flat arrays,
transposed.

Element (i, j) is at begin + i line + j. Only so many rows of a are read, the others are as the last of them. Rows of b
are written in their order, so they may overlap.
"""


@register_jitable
def transpose_tile(a: Array, a_begin: int, a_line: int, b: Array, b_begin: int, b_line: int) -> None:
    """Copy `lanes` x `lanes` elements, as `transpose_rows` does with all rows."""
    transpose_rows(a, a_begin, a_line, lanes(a), b, b_begin, b_line)


@functools.cache
def copy_vector(step: int) -> Any:
    """Return copy(a, a_begin, b, b_begin): one vector of b is every step-th element of a; step is a power of 2.

    It reads step vectors of a. With step 0 it writes zeros.
    """
    def python(a: Array, a_begin: int, b: Array, b_begin: int) -> None:
        b[b_begin : b_begin + lanes(b)] = a[a_begin : a_begin + step * lanes(b) : step] if step else 0

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def copy(typingctx: Any, a: Any, a_begin: Any, b: Any, b_begin: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_begin, b, b_begin = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[2].dtype)
            even = list(range(0, 2 * vector.lanes, 2))
            values = [vector.load(a, builder.add(a_begin, index(i * vector.lanes))) for i in range(step)]
            while len(values) > 1:
                values = [vector.shuffle(x, y, even) for x, y in zip(values[::2], values[1::2])]
            vector.store(values[0] if values else vector.zero, b, b_begin)
            return context.get_dummy_value()

        return types.void(a, types.intp, b, types.intp), codegen

    return copy


put_zeros: Any = copy_vector(0)
