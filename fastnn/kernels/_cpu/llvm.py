"""LLVM's vectors, as intrinsics spell them out: how wide the host's are, and instructions for them."""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import register_jitable

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config

I64 = ir.IntType(64)


def _features() -> set[str]:
    """What the processor can do, in LLVM's words; NUMBA_CPU_FEATURES names it for code that runs on another one."""
    named = config.CPU_FEATURES
    return set((llvmlite.binding.get_host_cpu_features().flatten() if named is None else named).split(","))


FEATURES = _features()


def _host_tile() -> tuple[int, int, int, int]:
    """Rows of a tile, vectors in a row and bytes of a vector, so that the tile fills the host's registers; their
    number."""
    if "+avx512f" in FEATURES:
        return 14, 2, 64, 32
    if "+avx2" in FEATURES:
        return 6, 2, 32, 16
    if "+neon" in FEATURES:
        return 12, 2, 16, 32
    return 4, 2, 16, 16


ROWS, VECTORS, BYTES, REGISTERS = _host_tile()

# It lets LLVM fuse a product and a sum where the host can, without a library call where it cannot.
FUSED = ("contract",)


@register_jitable
def lanes(array: Array) -> int:
    """Return how many elements of this array's dtype a vector holds."""
    return BYTES // array.itemsize


class Vectors:
    """LLVM's instructions for vectors of a float dtype."""

    def __init__(self, builder: ir.IRBuilder, dtype: Any) -> None:
        self.builder = builder
        self.lanes = 8 * BYTES // dtype.bitwidth
        self.align = dtype.bitwidth // 8
        self.type = ir.VectorType({32: ir.FloatType(), 64: ir.DoubleType()}[dtype.bitwidth], self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)

    def at(self, data: Any, offset: Any, kind: Any = None) -> Any:
        """Where a vector, of this type or another, lies."""
        return self.builder.bitcast(self.builder.gep(data, [offset]), (kind or self.type).as_pointer())

    def load(self, data: Any, offset: Any) -> Any:
        value = self.builder.load(self.at(data, offset))
        value.align = self.align
        return value

    def store(self, value: Any, data: Any, offset: Any) -> None:
        self.builder.store(value, self.at(data, offset, value.type)).align = self.align

    def stream(self, value: Any, data: Any, offset: Any) -> None:
        """Store a vector past the caches, where its address is a multiple of its size."""
        store = self.builder.store(value, self.at(data, offset, value.type))
        store.align = BYTES
        store.set_metadata("nontemporal", self.builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))

    def prefetch(self, data: Any, offset: Any) -> None:
        """Ask for what is read soon; it need not exist."""
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(ir.VoidType(), [byte, word, word, word]), "llvm.prefetch.p0")
        address = self.builder.bitcast(self.builder.gep(data, [offset]), byte)
        self.builder.call(function, [address, *(ir.Constant(word, n) for n in (0, 3, 1))])   # to read, into all caches

    def load_broadcast(self, data: Any, offset: Any) -> Any:
        """One element in every lane."""
        return broadcast(self.builder, self.builder.load(self.builder.gep(data, [offset])), self.lanes)

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

    def constant(self, value: float) -> Any:
        return ir.Constant(self.type, [value] * self.lanes)

    def fused(self, x: Any, y: Any, total: Any) -> Any:
        """x y + total, fused where the host can; with FUSED, LLVM chooses which of two products that is."""
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.align}"
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(self.type, [self.type] * 3), name)
        return self.builder.call(function, [x, y, total])

    def transpose(self, rows: list) -> list:
        """As many vectors as they have lanes, as the rows of a matrix."""
        rows, size = list(rows), self.lanes
        distance = size // 2
        while distance:                     # exchange the off-diagonal blocks of distance x distance
            low = [j if j & distance == 0 else size + j - distance for j in range(size)]
            high = [j + distance if j & distance == 0 else size + j for j in range(size)]
            for i in range(size):
                if i & distance == 0:
                    x, y = rows[i], rows[i + distance]
                    rows[i], rows[i + distance] = self.shuffle(x, y, low), self.shuffle(x, y, high)
            distance //= 2
        return rows


def index(n: int) -> ir.Constant:
    return ir.Constant(I64, n)


def integer_of(builder: ir.IRBuilder, data: Any, n: Any) -> Any:
    return builder.load(builder.gep(data, [n]))


def data_of(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list:
    """Pointers to the elements of arrays; integers as they are."""
    return [context.make_array(ty)(context, builder, value).data if isinstance(ty, types.Array) else value
            for ty, value in zip(signature.args, args)]


def length_of(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, position: int) -> Any:
    array = context.make_array(signature.args[position])(context, builder, args[position])
    return cgutils.unpack_tuple(builder, array.shape)[0]


def all_lanes(builder: ir.IRBuilder, bits: Any) -> Any:
    """One bit: whether all of a vector of bits are set."""
    size = bits.type.count
    word = builder.bitcast(bits, ir.IntType(size))
    return builder.icmp_unsigned("==", word, ir.Constant(word.type, (1 << size) - 1))


def broadcast(builder: ir.IRBuilder, value: Any, lanes: int) -> Any:
    """A number or bit in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))
