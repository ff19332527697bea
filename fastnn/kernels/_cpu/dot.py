"""Tiles of dot products of narrow numbers: bytes in exact integers, and bfloat16 where the host has a matrix unit.

All operands are 32-bit words: four bytes, two bfloat16 numbers or one float32 number. A panel of WIDTH left rows is
(steps, 2, 16 rows, 16 words), one of WIDTH right rows (steps, 2, 16 words, 16 rows), zeros behind the last word. That
is what AMX reads: its tiles are 16 rows of 64 bytes, the right ones with words down and rows across. Where the host
has no AMX, or the system does not grant it, the same panels go through vector registers.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config
from fastnn.kernels._cpu.llvm import FEATURES, REGISTERS, broadcast, data_of, integer_of, length_of

WIDTH = 32                                  # rows of a panel: two tiles, so that each that is loaded is used twice
WORDS = 16                                  # words of a step
BYTES = 4 * WORDS                           # of a row in a step

_F32, _I8, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
_LEFT, _RIGHT = 4, 6                        # tile registers: 0 to 3 hold sums


_MATRIX_UNIT = {"+amx-tile", "+amx-int8", "+amx-bf16"} <= FEATURES and sys.platform == "linux"
# Lanes of a vector, and rows of its register tile, two vectors wide.
LANES, _ROWS = (16, 8) if "+avx512f" in FEATURES else (8, 4)
_BYTE_DOT = {16: "+avx512vnni", 8: "+avxvnni"}[LANES] in FEATURES


@functools.cache
def matrix_unit() -> bool:
    """Whether this process may use AMX. Linux grants its registers to a process that asks, for all of its threads."""
    if not _MATRIX_UNIT or config.DISABLE_JIT or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


def _void(builder: ir.IRBuilder, name: str, *args: Any) -> None:
    """Call an LLVM intrinsic that returns nothing."""
    signature = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}"), args)


def _constant(n: int, of: Any = _I64) -> ir.Constant:
    return ir.Constant(of, n)


@intrinsic
def _start(typingctx: Any, unit: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if _MATRIX_UNIT:
            with builder.if_then(args[0]):
                # Palette 1; tiles of 64 bytes a row, and of 16 rows.
                layout = [1, *[0] * 15, *[BYTES, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8]
                block = ir.Constant(ir.ArrayType(_I8, 64), [_constant(n, _I8) for n in layout])
                pointer = cgutils.alloca_once_value(builder, block)
                _void(builder, "ldtilecfg", builder.bitcast(pointer, _I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.boolean), codegen


@intrinsic
def _stop(typingctx: Any, unit: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if _MATRIX_UNIT:
            with builder.if_then(args[0]):
                _void(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(types.boolean), codegen


def _matrix_tile(builder: ir.IRBuilder, instruction: str, steps: Any, left: Any, right: Any, out: Any) -> None:
    """Four tiles of sums in the tile registers."""
    left, right, out = (builder.bitcast(pointer, _I8.as_pointer()) for pointer in (left, right, out))
    tile_bytes = 16 * BYTES

    def tile(n: int) -> ir.Constant:
        return _constant(n, _I8)

    for n in range(4):
        _void(builder, "tilezero", tile(n))
    with cgutils.for_range(builder, steps) as loop:
        begin = builder.mul(loop.index, _constant(2 * tile_bytes))
        for half in range(2):
            at = builder.add(begin, _constant(half * tile_bytes))
            _void(builder, "tileloadd64", tile(_LEFT + half), builder.gep(left, [at]), _constant(BYTES))
            _void(builder, "tileloadd64", tile(_RIGHT + half), builder.gep(right, [at]), _constant(BYTES))
        for n in range(4):
            _void(builder, instruction, tile(n), tile(_LEFT + n // 2), tile(_RIGHT + n % 2))
    for n in range(4):
        at = (n // 2 * 16 * WIDTH + n % 2 * 16) * 4
        _void(builder, "tilestored64", tile(n), builder.gep(out, [_constant(at)]), _constant(4 * WIDTH))


def _byte_products(builder: ir.IRBuilder, total: Any, left: Any, right: Any) -> Any:
    """Add the products of four signed and four unsigned bytes in every lane."""
    if not _BYTE_DOT:
        return _byte_products_by_halves(builder, total, left, right)
    name = f"llvm.x86.avx512.vpdpbusd.{32 * LANES}"
    signature = ir.FunctionType(total.type, [total.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [total, right, left])


def _byte_products_by_halves(builder: ir.IRBuilder, total: Any, left: Any, right: Any) -> Any:
    """The same by products of 16-bit integers, the bytes at even places, then those at odd ones."""
    halves, wide = ir.VectorType(ir.IntType(16), 2 * LANES), ir.VectorType(_I32, 2 * LANES)
    left, right = builder.bitcast(left, halves), builder.bitcast(right, halves)
    eight, byte = ir.Constant(halves, [8] * 2 * LANES), ir.Constant(halves, [255] * 2 * LANES)
    places = ((builder.ashr(builder.shl(left, eight), eight), builder.and_(right, byte)),
              (builder.ashr(left, eight), builder.lshr(right, eight)))
    for a, b in places:
        products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
        for first in range(2):
            order = ir.Constant(total.type, list(range(first, 2 * LANES, 2)))
            total = builder.add(total, builder.shuffle_vector(products, ir.Constant(wide, ir.Undefined), order))
    return total


def _float_products(builder: ir.IRBuilder, total: Any, left: Any, right: Any) -> Any:
    product = builder.fmul(builder.bitcast(left, total.type), builder.bitcast(right, total.type), flags=("contract",))
    return builder.fadd(total, product, flags=("contract",))


def _register_tile(builder: ir.IRBuilder, products: Any, element: Any, steps: Any, left: Any, right: Any,
                   out: Any) -> None:
    """The same in vector registers, _ROWS rows and two vectors at a time."""
    words, sums = ir.VectorType(_I32, LANES), ir.VectorType(element, LANES)
    left, right = (builder.bitcast(pointer, _I32.as_pointer()) for pointer in (left, right))
    out = builder.bitcast(out, element.as_pointer())
    depth, step_words = builder.mul(steps, _constant(WORDS)), 2 * 16 * WORDS

    def vector(data: Any, at: Any, of: Any) -> Any:
        return builder.bitcast(builder.gep(data, [at]), of.as_pointer())

    for row in range(0, WIDTH, _ROWS):
        for column in range(0, WIDTH, 2 * LANES):
            slots = [cgutils.alloca_once_value(builder, ir.Constant(sums, [0] * LANES)) for _ in range(2 * _ROWS)]
            with cgutils.for_range(builder, depth) as loop:
                begin = builder.mul(builder.lshr(loop.index, _constant(4)), _constant(step_words))
                word = builder.and_(loop.index, _constant(WORDS - 1))
                b = []
                for j in (column, column + LANES):
                    at = builder.add(builder.add(begin, builder.mul(word, _constant(16))),
                                     _constant(j // 16 * 16 * WORDS + j % 16))
                    b.append(builder.load(vector(right, at, words)))
                    b[-1].align = 4
                for i in range(_ROWS):
                    at = builder.add(builder.add(begin, word), _constant((row + i) * WORDS))
                    a = broadcast(builder, builder.load(builder.gep(left, [at])), LANES)
                    for j in range(2):
                        slot = slots[2 * i + j]
                        builder.store(products(builder, builder.load(slot), a, b[j]), slot)
            for i in range(_ROWS):
                for j in range(2):
                    at = _constant((row + i) * WIDTH + column + j * LANES)
                    builder.store(builder.load(slots[2 * i + j]), vector(out, at, sums)).align = 4


def _dot_tile(instruction: str, products: Any, element: Any) -> Any:
    @intrinsic
    def tile(typingctx: Any, a: Any, b: Any, c: Any, unit: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            left, right, out = [context.make_array(ty)(context, builder, value)
                                for ty, value in zip(signature.args[:3], args)]
            steps = cgutils.unpack_tuple(builder, left.shape)[0]
            if not _MATRIX_UNIT:
                _register_tile(builder, products, element, steps, left.data, right.data, out.data)
                return context.get_dummy_value()
            with builder.if_else(args[3]) as (granted, refused):
                with granted:
                    _matrix_tile(builder, instruction, steps, left.data, right.data, out.data)
                with refused:
                    _register_tile(builder, products, element, steps, left.data, right.data, out.data)
            return context.get_dummy_value()

        return types.void(a, b, c, types.boolean), codegen

    return tile


def _words_python(panel: Array, across: bool) -> Array:
    """Return a panel's rows."""
    rows = panel.transpose(1, 3, 0, 2) if across else panel.transpose(1, 2, 0, 3)
    return np.ascontiguousarray(rows).reshape(WIDTH, panel.size // WIDTH)


def _byte_tile_python(a: Array, b: Array, c: Array, unit: bool) -> None:
    c[...] = _words_python(a, False).view(np.int8) @ _words_python(b, True).view(np.uint8).T.astype(np.int64)


def _float_tile_python(a: Array, b: Array, c: Array, unit: bool) -> None:
    c[...] = _words_python(a, False).view(np.float32) @ _words_python(b, True).view(np.float32).T


def _unit_python(unit: bool) -> None:
    """Nothing to start or to stop."""


start_unit: Any = _unit_python if config.DISABLE_JIT else _start
"""start_unit(unit): take the matrix unit for this thread, where `unit` says that there is one."""

stop_unit: Any = _unit_python if config.DISABLE_JIT else _stop
"""stop_unit(unit): give it back."""

byte_tile: Any = _byte_tile_python if config.DISABLE_JIT else _dot_tile("tdpbuud", _byte_products, _I32)
"""byte_tile(a, b, c, unit): c[i, j] = sum of products of the bytes of a's row i and b's row j, modulo 2^32.

Bytes of b are unsigned; those of a too with `unit`, and signed without it. a and b are panels, c is (WIDTH, WIDTH).
"""

float_tile: Any = _float_tile_python if config.DISABLE_JIT else _dot_tile("tdpbf16ps", _float_products, _F32)
"""float_tile(a, b, c, unit): c[i, j] = sum of products, in float32, of a's row i and b's row j.

With `unit` words are pairs of bfloat16 numbers: each product and sum is rounded once at most, and what lies below
2^-126 counts as 0. Without it they are float32 numbers.
"""


@intrinsic
def _transpose(typingctx: Any, source: Any, begins: Any, row: Any, at: Any, target: Any, begin: Any,
               width: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source, begins, target = [context.make_array(signature.args[i])(context, builder, args[i]).data
                                  for i in (0, 1, 4)]
        bits = signature.args[4].dtype.bitwidth
        lanes = 8 * BYTES // bits
        vector = ir.VectorType(ir.IntType(bits), lanes)
        rows = []
        for i in range(lanes):
            first = builder.load(builder.gep(begins, [builder.add(args[2], _constant(i))]))
            pointer = builder.gep(source, [builder.add(first, args[3])])
            rows.append(builder.load(builder.bitcast(pointer, vector.as_pointer())))
            rows[-1].align = 1
        half = 1
        while half < lanes:                 # exchange two quarters of every block of 2 half x 2 half
            upper = [lanes + n - half if n & half else n for n in range(lanes)]
            lower = [lanes + n if n & half else n + half for n in range(lanes)]
            for i in range(lanes):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    rows[i], rows[i + half] = [
                        builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, lanes), order))
                        for order in (upper, lower)]
            half *= 2
        for i, value in enumerate(rows):
            pointer = builder.gep(target, [builder.add(args[5], builder.mul(args[6], _constant(i)))])
            builder.store(value, builder.bitcast(pointer, vector.as_pointer())).align = bits // 8
        return context.get_dummy_value()

    return types.void(source, begins, types.intp, types.intp, target, types.intp, types.intp), codegen


def _transpose_python(source: Array, begins: Array, row: int, at: int, target: Array, begin: int, width: int) -> None:
    flat, lanes = target.reshape(-1), BYTES // target.itemsize
    size = BYTES // source.itemsize
    for i in range(lanes):
        first = begins[row + i] + at
        flat[begin + i : begin + lanes * width : width] = source.reshape(-1)[first : first + size].view(target.dtype)


transpose_block: Any = _transpose_python if config.DISABLE_JIT else _transpose
"""transpose_block(source, begins, row, at, target, begin, width): turn a square of 64 bytes a row.

Row i is source[begins[row + i] + at :], column i is target[begin + i :: width], both as flat arrays; the square has 16
rows of 32-bit numbers, or 8 of 64-bit ones, as `target` has.
"""


@functools.cache
def byte_gather_tile(rows: int, vectors: int) -> Any:
    """Return the tile(a, begins, first, offsets, b, at, start, start_at, scale, bias, left, residual, residual_scale,
    y, place, line, rows_inside, columns_inside) of this shape.

    y[place + i line + j] = sum scale[left + j] + bias[left + j] + residual_scale residual[place + i line + j], in
    float32, for what is inside. With y of bytes, that is rounded to the nearest one. A residual of no elements is none.
    The sum is start[start_at + j] and all products, modulo 2^32, of the bytes of words k: of a, unsigned, those at
    begins[first + i] + offsets[k]; of b, signed, those of column j in row k of (depth, columns) words, which begin at
    byte `at`. All are flat, the begins and offsets int64, start int32, scale and bias float32.
    """
    columns = vectors * LANES

    def python(a: Array, begins: Array, first: int, offsets: Array, b: Array, at: int, start: Array, start_at: int,
               scale: Array, bias: Array, left: int, residual: Array, residual_scale: float, y: Array, place: int,
               line: int, rows_inside: int, columns_inside: int) -> None:
        right = b[at : at + len(offsets) * columns * 4].reshape(-1, columns, 4).astype(np.int32)
        count = min(columns, columns_inside)
        part = slice(left, left + count)
        for i in range(min(rows, rows_inside)):
            words = a[begins[first + i] + offsets[:, None] + np.arange(4)].astype(np.int32)
            sums = (words[:, None] * right).sum((0, 2), np.int32) + start[start_at : start_at + columns]
            value = sums[:count].astype(np.float32) * scale[part] + bias[part]
            target = slice(place + i * line, place + i * line + count)
            if residual.size:
                value += residual_scale * residual[target].astype(np.float32)
            y[target] = np.rint(np.clip(np.where(value > 0, value, 0), 0, 255)) if y.dtype == np.uint8 else value

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def tile(typingctx: Any, a: Any, begins: Any, first: Any, offsets: Any, b: Any, at: Any, start: Any,
             start_at: Any, scale: Any, bias: Any, left: Any, residual: Any, residual_scale: Any, y: Any, place: Any,
             line: Any, rows_inside: Any, columns_inside: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            (a, begins, first, offsets, b, at, start, start_at, scale, bias, left, residual, residual_scale, y, place,
             line, rows_inside, columns_inside) = data_of(context, builder, signature, args)
            words, floats = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES)
            parts = [builder.gep(a, [integer_of(builder, begins, builder.add(first, _constant(i)))])
                     for i in range(rows)]
            b = builder.gep(b, [at])

            def vector(data: Any, place: Any) -> Any:
                value = builder.load(builder.bitcast(builder.gep(data, [place]), words.as_pointer()))
                value.align = 1
                return value

            starts = [vector(start, builder.add(start_at, _constant(v * LANES))) for v in range(vectors)] * rows
            depth = length_of(context, builder, signature, args, 3)
            entry, loop, done = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("done")
            builder.branch(loop)            # a filter has a word at least
            builder.position_at_end(loop)
            k, totals = builder.phi(_I64), [builder.phi(words) for _ in starts]
            offset, row = integer_of(builder, offsets, k), builder.mul(k, _constant(4 * columns))
            b_row = [vector(b, builder.add(row, _constant(4 * v * LANES))) for v in range(vectors)]
            sums = []
            for i, part in enumerate(parts):
                word = builder.load(builder.bitcast(builder.gep(part, [offset]), _I32.as_pointer()))
                word.align = 1
                pixel = broadcast(builder, word, LANES)
                sums += [_byte_products(builder, totals[i * vectors + v], b_row[v], pixel) for v in range(vectors)]
            following = builder.add(k, _constant(1))
            for total, begin, value in zip([k, *totals], [_constant(0), *starts], [following, *sums]):
                total.add_incoming(begin, entry)
                total.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
            builder.position_at_end(done)

            def pointer(data: Any, place: Any) -> Any:
                pointed = builder.gep(data, [place])
                return builder.bitcast(pointed, ir.VectorType(pointed.type.pointee, LANES).as_pointer())

            def masked(name: str, result: Any, *operands: Any) -> Any:
                signature = ir.FunctionType(result, [operand.type for operand in operands])
                return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.{name}.p0"),
                                    operands)

            def load(data: Any, place: Any, kind: str, mask: Any) -> Any:
                source = pointer(data, place)
                of = source.type.pointee
                return masked(f"load.v{LANES}{kind}", of, source, _constant(1, _I32), mask, ir.Constant(of, None))

            def constant(value: float) -> ir.Constant:
                return ir.Constant(floats, [value] * LANES)

            inside = broadcast(builder, builder.trunc(columns_inside, _I32), LANES)
            masks = [builder.icmp_signed("<", ir.Constant(words, [v * LANES + j for j in range(LANES)]), inside)
                     for v in range(vectors)]
            scales, biases = ([load(data, builder.add(left, _constant(v * LANES)), "f32", mask)
                               for v, mask in enumerate(masks)] for data in (scale, bias))
            rint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, [floats]),
                                                  f"llvm.rint.v{LANES}f32")

            def finish(added: bool) -> None:
                factor = broadcast(builder, residual_scale, LANES)
                for i in range(rows):
                    with builder.if_then(builder.icmp_signed("<", _constant(i), rows_inside)):
                        for v, mask in enumerate(masks):
                            where = builder.add(builder.add(place, builder.mul(line, _constant(i))),
                                                _constant(v * LANES))
                            value = builder.fmul(builder.sitofp(sums[i * vectors + v], floats), scales[v])
                            value = builder.fadd(value, biases[v])
                            if added:
                                other = builder.uitofp(load(residual, where, "i8", mask), floats)
                                value = builder.fadd(value, builder.fmul(factor, other))
                            kind = "f32"
                            if signature.args[13].dtype == types.uint8:
                                kind = "i8"
                                for less, bound in ((">", constant(0)), ("<", constant(255))):
                                    value = builder.select(builder.fcmp_ordered(less, value, bound), value, bound)
                                value = builder.fptoui(builder.call(rint, [value]), ir.VectorType(_I8, LANES))
                            masked(f"store.v{LANES}{kind}", ir.VoidType(), value, pointer(y, where),
                                   _constant(1, _I32), mask)

            size = length_of(context, builder, signature, args, 11)
            with builder.if_else(builder.icmp_signed(">", size, _constant(0))) as (with_residual, alone):
                with with_residual:
                    finish(True)
                with alone:
                    finish(False)
            return context.get_dummy_value()

        n = types.intp
        return types.void(a, begins, n, offsets, b, n, start, n, scale, bias, n, residual, types.float32, y, n, n, n,
                          n), codegen

    return tile


def byte_tile_shape(columns: int) -> tuple[int, int]:
    """Return rows and vectors of the tile of so many columns: that which fills the registers and wastes the least.

    With more rows, where they begin leaves the integer registers.
    """
    shapes = ((6, 4), (8, 3), (10, 2)) if REGISTERS == 32 else ((4, 2), (8, 1))
    return min(shapes, key=lambda shape: (-(-columns // (shape[1] * LANES)) * shape[1], shape))
