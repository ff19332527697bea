"""Tiles of images through small constant matrices, in vector registers: what Winograd's convolution is made of.

Every lane of a vector is one channel, so tiles of any size and place are dealt with alike.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config
from fastnn.kernels._cpu.llvm import (
    FUSED,
    I64,
    Vectors,
    all_lanes,
    broadcast,
    data_of,
    index,
    integer_of,
    lanes,
    length_of,
)
from fastnn.kernels._cpu.tiles import product, sums_of

Matrix: TypeAlias = tuple[tuple[float, ...], ...]


def toom_cook(points: tuple[Fraction, ...], outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T, G and B^T: A^T ((G g) * (B^T d)) are the `outputs` results of a filter g of `taps` over d.

    With A^T evaluating at the points and at infinity, G doing so over each point's Lagrange denominator, and B^T being
    the coefficients of the numerators (Toom 1963, Cook 1966; Winograd, "Arithmetic Complexity of Computations", 1980).
    """
    def product(roots: tuple[Fraction, ...]) -> list[Fraction]:
        """Coefficients of the polynomial with these roots, the constant one first."""
        result = [Fraction(1)]
        for root in roots:
            result = [high - root * low for high, low in zip([Fraction(0), *result], [*result, Fraction(0)])]
        return result

    def denominator(point: Fraction) -> Fraction:
        result = Fraction(1)
        for other in points:
            result *= point - other if other != point else 1
        return result

    infinity = [Fraction(0)] * (outputs + taps)
    a = [[p**i for p in points] + [Fraction(i == outputs - 1)] for i in range(outputs)]
    g = [[p**i / denominator(p) for i in range(taps)] for p in points] + [[*infinity[: taps - 1], Fraction(1)]]
    b = [[*product(tuple(q for q in points if q != p)), Fraction(0)] for p in points] + [product(points)]
    first, second, third = (tuple(tuple(float(value) for value in row) for row in matrix) for matrix in (a, g, b))
    return first, second, third


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix))


@functools.cache
def transform_tile(left: Matrix, right: Matrix) -> Any:
    """Return the tile(a, a_begin, a_line, a_step, b, b_begin, b_line, b_step): b = left a right^T, of vectors.

    The vector of `lanes` elements at row i and column j is at begin + i line + j step of a flat array.
    """

    def python(a: Array, a_begin: int, a_line: int, a_step: int, b: Array, b_begin: int, b_line: int,
               b_step: int) -> None:
        def at(shape: tuple[int, ...], begin: int, line: int, step: int) -> Array:
            i, j, lane = np.ogrid[: shape[0], : shape[1], : lanes(b)]
            return begin + i * line + j * step + lane

        first, second = np.array(left, b.dtype), np.array(right, b.dtype)
        with np.errstate(all="ignore"):
            half = np.tensordot(first, a[at((first.shape[1], second.shape[1]), a_begin, a_line, a_step)], (1, 0))
            result = np.tensordot(second, half, (1, 1)).swapaxes(0, 1)
        b[at((len(first), len(second)), b_begin, b_line, b_step)] = result

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, a_begin: Any, a_line: Any, a_step: Any, b: Any, b_begin: Any, b_line: Any,
             b_step: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_begin, a_line, a_step, b, b_begin, b_line, b_step = data_of(context, builder, signature, args)
            vectors = Vectors(builder, signature.args[4].dtype)
            half = []                       # columns of left a
            for j in range(len(right[0])):
                begin = builder.add(a_begin, builder.mul(a_step, index(j)))
                half.append(_apply(vectors, left, [
                    vectors.load(a, builder.add(begin, builder.mul(a_line, index(i)))) for i in range(len(left[0]))]))
            for i in range(len(left)):
                begin = builder.add(b_begin, builder.mul(b_line, index(i)))
                for j, value in enumerate(_apply(vectors, right, [column[i] for column in half])):
                    vectors.store(value, b, builder.add(begin, builder.mul(b_step, index(j))))
            return context.get_dummy_value()

        return types.void(a, *[types.intp] * 3, b, *[types.intp] * 3), codegen

    return tile


@functools.cache
def transformed_products(g: Matrix, line: int) -> Any:
    """Return the tile(a, a_begin, b, begin, offsets, first, c, c_begin, c_line) of products by transformed filters.

    c[k] += sum over i of (g w[i] g^T)[k] b[begin + offsets[i] + k lines], or = with `first`: w[i] are vectors of
    filters one after the other in a, c[k] is at c_begin + k c_line, and a line of b is `line` vectors. So transformed
    filters never leave the registers. Offsets are int64, all others flat.
    """
    side, taps = len(g), len(g[0])

    def python(a: Array, a_begin: int, b: Array, begin: int, offsets: Array, first: int, c: Array, c_begin: int,
               c_line: int) -> None:
        vector = lanes(c)
        filters = a[a_begin : a_begin + len(offsets) * taps * taps * vector].reshape(len(offsets), taps, taps, vector)
        transform = np.array(g, c.dtype)
        total = np.zeros((side * side, vector), c.dtype)
        with np.errstate(all="ignore"):
            for weights, offset in zip(filters, offsets):
                half = np.tensordot(transform, weights, (1, 0))
                transformed = np.tensordot(transform, half, (1, 1)).swapaxes(0, 1).reshape(-1, vector)
                total += b[begin + offset + np.arange(side * side) * (line * vector)][:, None] * transformed
            for k, value in enumerate(total):
                at = c_begin + k * c_line
                c[at : at + vector] = value if first else c[at : at + vector] + value

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, a_begin: Any, b: Any, begin: Any, offsets: Any, first: Any, c: Any, c_begin: Any,
             c_line: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            a, a_begin, b, begin, offsets, first, c, c_begin, c_line = data_of(context, builder, signature, args)
            vectors, depth = Vectors(builder, signature.args[6].dtype), length_of(context, builder, signature, args, 4)
            a, b = builder.gep(a, [a_begin]), builder.gep(b, [begin])
            for rows in (range(side // 2), range(side // 2, side)):     # the sums of all would not fit the registers
                def terms(i: Any, rows: range = rows) -> Any:
                    at = builder.mul(i, index(taps * taps * vectors.lanes))
                    pixel = integer_of(builder, offsets, i)
                    half = [_apply(vectors, g, [
                        vectors.load(a, builder.add(at, index((t * taps + j) * vectors.lanes))) for t in range(taps)])
                        for j in range(taps)]
                    return (product(builder, value, vectors.load_broadcast(
                        b, builder.add(pixel, index((row * side + j) * line * vectors.lanes))))
                        for row in rows for j, value in enumerate(_apply(vectors, g, [column[row] for column in half])))

                results = sums_of(builder, depth, [vectors.zero] * (len(rows) * side), terms)
                for k, result in enumerate(results, rows.start * side):
                    at = builder.add(c_begin, builder.mul(c_line, index(k)))
                    before = builder.fadd(vectors.load(c, at), result)
                    vectors.store(builder.select(builder.icmp_signed("!=", first, index(0)), result, before), c, at)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(a, integer, b, integer, offsets, integer, c, integer, integer), codegen

    return tile


def _apply(vectors: Vectors, matrix: Matrix, values: list[Any]) -> list[Any]:
    """The product of a matrix with a column of vectors; rows and columns for opposite points share their work.

    It says which products are fused with a sum: left to LLVM, that follows from what else is computed, and so do the
    bits.
    """
    builder = vectors.builder

    def combine(row: list[tuple[float, Any]]) -> Any:
        row = sorted(((factor, value) for factor, value in row if factor), key=lambda term: term[0] != 1)
        total = None
        for factor, value in row:
            if factor == 1:
                total = value if total is None else builder.fadd(total, value)
            elif total is None:
                total = builder.fmul(value, vectors.constant(factor))
            else:
                total = vectors.fused(value, vectors.constant(factor), total)
        return total

    for j in range(len(values) - 1):        # columns of +p and -p: their sum for even powers, their difference for odd
        left, right = transposed(matrix)[j : j + 2]
        if any(left[1:]) and all(abs(x) == abs(y) for x, y in zip(left, right)):
            both = [(x, 0.0) if x == y else (0.0, x) for x, y in zip(left, right)]
            values = [*values[:j], builder.fadd(values[j], values[j + 1]), builder.fsub(values[j], values[j + 1]),
                      *values[j + 2 :]]
            matrix = tuple((*row[:j], *pair, *row[j + 2 :]) for row, pair in zip(matrix, both))
    results: list[Any] = []
    for i, row in enumerate(matrix):
        if len(results) > i:
            continue
        terms = list(zip(row, values))
        following = matrix[i + 1] if i + 1 < len(matrix) else ()
        if following and any(x != y for x, y in zip(row, following)) and all(
                abs(x) == abs(y) for x, y in zip(row, following)):       # rows of +p and -p
            even = combine([term for term, y in zip(terms, following) if term[0] == y])
            odd = combine([term for term, y in zip(terms, following) if term[0] != y])
            results += [builder.fadd(even, odd), builder.fsub(even, odd)]
        else:
            results.append(combine(terms))
    return results


def _take_python(x: Array, begin: int, plane: int, places: Array, at: int, corner: int, staged: Array) -> None:
    width = lanes(x)
    for i in range(width):
        place = (corner + places[at + i]) * width
        staged[place : place + width] = x[begin + at + i : begin + at + i + (width - 1) * plane + 1 : plane]


@intrinsic
def _take(typingctx: Any, x: Any, begin: Any, plane: Any, places: Any, at: Any, corner: Any, staged: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        x, begin, plane, places, at, corner, staged = data_of(context, builder, signature, args)
        vectors = Vectors(builder, signature.args[6].dtype)
        begin = builder.add(begin, at)
        channels = [vectors.load(x, builder.add(begin, builder.mul(plane, index(c)))) for c in range(vectors.lanes)]
        for i, pixel in enumerate(vectors.transpose(channels)):
            vectors.store(pixel, staged, _place(vectors, places, builder.add(at, index(i)), corner))
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, places, types.intp, types.intp, staged), codegen


take_pixels: Any = _take_python if config.DISABLE_JIT else _take
"""take_pixels(x, begin, plane, places, at, corner, staged): `lanes` pixels of as many channels, channels side by side.

The vector of pixel at + i, whose channels lie `plane` elements apart from x[begin + at + i] on, is written as vector
corner + places[at + i] of `staged`.
"""


def _place(vectors: Vectors, places: Any, at: Any, corner: Any) -> Any:
    builder = vectors.builder
    return builder.mul(builder.add(corner, builder.load(builder.gep(places, [at]))), index(vectors.lanes))


def _put_python(staged: Array, places: Array, at: int, corner: int, bias: Array, bias_begin: int, positive: int,
                y: Array, begin: int, plane: int, inside: int, streamed: bool) -> int:
    width = lanes(y)
    lane = np.arange(width)
    pixels = staged[(corner + places[at : at + width])[:, None] * width + lane]
    with np.errstate(all="ignore"):
        value = pixels + (bias[bias_begin : bias_begin + width] if bias_begin >= 0 else 0)
    value = np.where((value < 0) & bool(positive), 0, value)
    y[begin + at + np.arange(inside)[:, None] * plane + lane] = value.T[:inside]
    return int(np.isfinite(pixels).all())


@intrinsic
def _put(typingctx: Any, staged: Any, places: Any, at: Any, corner: Any, bias: Any, bias_begin: Any, positive: Any,
         y: Any, begin: Any, plane: Any, inside: Any, streamed: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        staged, places, at, corner, bias, bias_begin, positive, y, begin, plane, inside, streamed = data_of(
            context, builder, signature, args)
        vectors = Vectors(builder, signature.args[7].dtype)
        entry, some, joined = builder.block, builder.append_basic_block("bias"), builder.append_basic_block("joined")
        builder.cbranch(builder.icmp_signed(">=", bias_begin, index(0)), some, joined)
        builder.position_at_end(some)
        given = vectors.load(bias, bias_begin)
        builder.branch(joined)
        builder.position_at_end(joined)
        start = builder.phi(vectors.type)
        start.add_incoming(vectors.zero, entry)
        start.add_incoming(given, some)

        positive = broadcast(builder, builder.icmp_signed("!=", positive, index(0)), vectors.lanes)
        pixels, check = [], vectors.zero
        for i in range(vectors.lanes):
            pixel = vectors.load(staged, _place(vectors, places, builder.add(at, index(i)), corner))
            # 0 times what is not finite is NaN, and stays so.
            check = builder.fadd(check, builder.fmul(pixel, vectors.zero, flags=FUSED), flags=FUSED)
            value = builder.fadd(pixel, start)
            negative = builder.and_(builder.fcmp_ordered("<", value, vectors.zero), positive)
            pixels.append(builder.select(negative, vectors.zero, value))
        begin, channels = builder.add(begin, at), vectors.transpose(pixels)
        # The bits of all addresses that would not be 0 if they were those of vectors.
        bits = builder.or_(builder.ptrtoint(builder.gep(y, [begin]), I64), builder.mul(plane, index(vectors.align)))
        whole = builder.icmp_signed("==", builder.and_(bits, index(vectors.lanes * vectors.align - 1)), index(0))
        whole = builder.and_(whole, builder.icmp_signed("==", inside, index(vectors.lanes)))
        with builder.if_else(builder.and_(streamed, whole)) as (past_caches, usually):
            with past_caches:
                for c, channel in enumerate(channels):
                    vectors.stream(channel, y, builder.add(begin, builder.mul(plane, index(c))))
            with usually:
                for c, channel in enumerate(channels):
                    with builder.if_then(builder.icmp_signed("<", index(c), inside)):
                        vectors.store(channel, y, builder.add(begin, builder.mul(plane, index(c))))
        finite = all_lanes(builder, builder.fcmp_ordered("==", check, vectors.zero))
        return builder.zext(finite, ir.IntType(64))

    integers = [types.intp] * 3
    return types.intp(staged, places, *integers[:2], bias, *integers[:2], y, *integers, types.boolean), codegen


put_pixels: Any = _put_python if config.DISABLE_JIT else _put
"""put_pixels(staged, places, at, corner, bias, bias_begin, positive, y, begin, plane, inside, streamed): the way back.

`lanes` pixels of the first `inside` channels of a vector, plus these channels' bias if bias_begin is not negative, and
0 where that is negative and `positive`. They are written past the caches if they are `streamed` and fit their lines.
Returns 1 if what was staged is finite, else 0.
"""
