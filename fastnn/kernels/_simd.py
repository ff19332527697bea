"""The vector-register building block: a tile of a matrix product held in registers.

LLVM's vectorizer does not find this form from loops; spelt out in its vector types, it runs at the speed of the
machine's multiply-add units, on whatever vectors the host has: LLVM splits what is wider than a register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from fastnn.kernels._arrays import Array

config: Any = numba.config                  # its settings are made when it is imported, unseen by type checkers
I64 = ir.IntType(64)


def _host_tile() -> tuple[int, int, int]:
    """Rows of a tile, vectors in a row and bytes of a vector, so that the tile fills the host's registers."""
    named = config.CPU_FEATURES                 # NUMBA_CPU_FEATURES, for code that runs on another machine
    features = set((llvmlite.binding.get_host_cpu_features().flatten() if named is None else named).split(","))
    if "+avx512f" in features:
        return 14, 2, 64
    if "+avx2" in features:
        return 6, 2, 32
    if "+neon" in features:
        return 12, 2, 16
    return 4, 2, 16


ROWS, _VECTORS, _BYTES = _host_tile()


@register_jitable
def tile_columns(array: Array) -> int:
    """Return the columns of a tile of this array's dtype."""
    return _VECTORS * _BYTES // array.itemsize


def _tile(term: Callable[[ir.IRBuilder, Any, Any], Any], gather: str = "") -> Any:
    """Return an intrinsic tile: c[i, j] += sum over k of term(a[k, i], b[k, j]), in LLVM's instructions.

    With `gather`, one operand is a flat array of which an array of offsets says where its parts begin: b's rows
    ("rows": b[offsets[k] + j]) or a's columns ("columns": a[offsets[i] + k]). The intrinsic is then
    tile(a, b, offsets, c), otherwise tile(a, b, c).
    """

    def build(a: Any, b: Any, c: Any, *offsets: Any) -> Any:
        element = {32: ir.FloatType(), 64: ir.DoubleType()}[c.dtype.bitwidth]
        lanes = 8 * _BYTES // c.dtype.bitwidth
        vector = ir.VectorType(element, lanes)
        columns = _VECTORS * lanes

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            arrays = [context.make_array(ty)(context, builder, value) for ty, value in zip(signature.args, args)]
            a_data, b_data, *begins, c_data = (array.data for array in arrays)
            depth = cgutils.unpack_tuple(builder, arrays[1 if gather == "columns" else 0].shape)[0]

            def index(n: int) -> ir.Constant:
                return ir.Constant(I64, n)

            def vector_at(data: Any, offset: Any) -> Any:
                return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

            def load(pointer: Any) -> Any:
                value = builder.load(pointer)
                value.align = c.dtype.bitwidth // 8
                return value

            def begin(n: Any) -> Any:
                return builder.load(builder.gep(begins[0], [n]))

            slots = [vector_at(c_data, index(i * columns + j * lanes)) for i in range(ROWS) for j in range(_VECTORS)]
            start = [load(slot) for slot in slots]
            a_begins = [begin(index(i)) for i in range(ROWS)] if gather == "columns" else []
            undefined = ir.Constant(vector, ir.Undefined)
            lane0 = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            entry = builder.block
            loop, done = builder.append_basic_block("depth"), builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed(">", depth, index(0)), loop, done)

            builder.position_at_end(loop)
            k = builder.phi(I64)
            k.add_incoming(index(0), entry)
            totals = [builder.phi(vector) for _ in slots]
            for total, value in zip(totals, start):
                total.add_incoming(value, entry)
            b_at = begin(k) if gather == "rows" else builder.mul(k, index(columns))
            b_row = [load(vector_at(b_data, builder.add(b_at, index(j * lanes)))) for j in range(_VECTORS)]
            sums = []
            for i in range(ROWS):
                a_at = (builder.add(a_begins[i], k) if gather == "columns" else
                        builder.add(builder.mul(k, index(ROWS)), index(i)))
                first = builder.insert_element(undefined, builder.load(builder.gep(a_data, [a_at])),
                                               ir.Constant(ir.IntType(32), 0))
                spread = builder.shuffle_vector(first, undefined, lane0)
                sums += [builder.fadd(totals[i * _VECTORS + j], term(builder, spread, b_row[j]), flags=_FUSED)
                         for j in range(_VECTORS)]
            following = builder.add(k, index(1))
            k.add_incoming(following, loop)
            for total, value in zip(totals, sums):
                total.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)

            builder.position_at_end(done)
            results = []
            for initial, value in zip(start, sums):
                result = builder.phi(vector)
                result.add_incoming(initial, entry)
                result.add_incoming(value, loop)
                results.append(result)
            for slot, result in zip(slots, results):
                builder.store(result, slot).align = c.dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.void(a, b, *offsets, c), codegen

    if gather:
        @intrinsic
        def gathering_tile(typingctx: Any, a: Any, b: Any, offsets: Any, c: Any) -> Any:
            return build(a, b, c, offsets)

        return gathering_tile

    @intrinsic
    def tile(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return build(a, b, c)

    return tile


# It lets LLVM fuse a product and a sum where the host can, without a library call where it cannot.
_FUSED = ("contract",)


def _product(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    return builder.fmul(x, y, flags=_FUSED)


def _squared_difference(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    difference = builder.fsub(x, y)
    return builder.fmul(difference, difference, flags=_FUSED)


def _multiply_tile_python(a: Array, b: Array, c: Array) -> None:
    c += a.T @ b


multiply_tile = _multiply_tile_python if config.DISABLE_JIT else _tile(_product)
"""multiply_tile(a, b, c): c[i, j] += sum over k of a[k, i] b[k, j].

a is (depth, ROWS), b is (depth, tile_columns), c is (ROWS, tile_columns), all C-contiguous and of one dtype. Each
element is one sum in the order of k, so its bits depend on its own row and column alone.
"""


def _rows_tile_python(a: Array, b: Array, offsets: Array, c: Array) -> None:
    for k in range(len(a)):
        c += a[k][:, None] * b[offsets[k] : offsets[k] + c.shape[1]]


multiply_rows_tile = _rows_tile_python if config.DISABLE_JIT else _tile(_product, gather="rows")
"""multiply_rows_tile(a, b, offsets, c): c[i, j] += sum over k of a[k, i] b[offsets[k] + j].

a is (depth, ROWS), b flat, offsets int64 (depth,), c (ROWS, tile_columns): a convolution's rows need no copy.
"""


def _columns_tile_python(a: Array, b: Array, offsets: Array, c: Array) -> None:
    for i in range(len(c)):
        c[i] += a[offsets[i] : offsets[i] + len(b)] @ b


multiply_columns_tile = _columns_tile_python if config.DISABLE_JIT else _tile(_product, gather="columns")
"""multiply_columns_tile(a, b, offsets, c): c[i, j] += sum over k of a[offsets[i] + k] b[k, j].

a is flat, b (depth, tile_columns), offsets int64 (at least ROWS,), c (ROWS, tile_columns).
"""


def _distance_tile_python(a: Array, b: Array, c: Array) -> None:
    c += ((a[:, :, None] - b[:, None, :]) ** 2).sum(0)


distance_tile = _distance_tile_python if config.DISABLE_JIT else _tile(_squared_difference)
"""distance_tile(a, b, c): c[i, j] += sum over k of (a[k, i] - b[k, j])^2; otherwise as `multiply_tile`."""
