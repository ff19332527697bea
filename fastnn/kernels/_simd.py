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


def _tile(term: Callable[[ir.IRBuilder, Any, Any], Any]) -> Any:
    """Return the intrinsic tile(a, b, c): c[i, j] += sum over k of term(a[k, i], b[k, j]), in LLVM's instructions."""

    @intrinsic
    def tile(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        element = {32: ir.FloatType(), 64: ir.DoubleType()}[c.dtype.bitwidth]
        lanes = 8 * _BYTES // c.dtype.bitwidth
        vector = ir.VectorType(element, lanes)
        columns = _VECTORS * lanes

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            arrays = [context.make_array(ty)(context, builder, value) for ty, value in zip(signature.args, args)]
            a_data, b_data, c_data = (array.data for array in arrays)
            depth = cgutils.unpack_tuple(builder, arrays[0].shape)[0]

            def index(n: int) -> ir.Constant:
                return ir.Constant(I64, n)

            def vector_at(data: Any, offset: Any) -> Any:
                return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

            def load(pointer: Any) -> Any:
                value = builder.load(pointer)
                value.align = c.dtype.bitwidth // 8
                return value

            slots = [vector_at(c_data, index(i * columns + j * lanes)) for i in range(ROWS) for j in range(_VECTORS)]
            start = [load(slot) for slot in slots]
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
            b_at, a_at = builder.mul(k, index(columns)), builder.mul(k, index(ROWS))
            b_row = [load(vector_at(b_data, builder.add(b_at, index(j * lanes)))) for j in range(_VECTORS)]
            sums = []
            for i in range(ROWS):
                scalar = builder.load(builder.gep(a_data, [builder.add(a_at, index(i))]))
                first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
                spread = builder.shuffle_vector(first, undefined, lane0)
                sums += [builder.fadd(totals[i * _VECTORS + j], term(builder, spread, b_row[j]), flags=_FUSED)
                         for j in range(_VECTORS)]
            following = builder.add(k, index(1))
            k.add_incoming(following, loop)
            for total, value in zip(totals, sums):
                total.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)

            builder.position_at_end(done)
            for slot, initial, value in zip(slots, start, sums):
                result = builder.phi(vector)
                result.add_incoming(initial, entry)
                result.add_incoming(value, loop)
                slot.result = result
            for slot in slots:
                builder.store(slot.result, slot).align = c.dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.void(a, b, c), codegen

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


def _distance_tile_python(a: Array, b: Array, c: Array) -> None:
    c += ((a[:, :, None] - b[:, None, :]) ** 2).sum(0)


distance_tile = _distance_tile_python if config.DISABLE_JIT else _tile(_squared_difference)
"""distance_tile(a, b, c): c[i, j] += sum over k of (a[k, i] - b[k, j])^2; otherwise as `multiply_tile`."""
