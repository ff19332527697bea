"""Loops that LLVM does not vectorize by itself: sums and maxima of rows, short rows, and writing past the caches.

The result of a sum may depend on its order, so the vectorizer leaves it alone; here it is spelt out in vectors as wide
as the host's registers. The end of a row, what is less than some vectors, it leaves to a loop of single numbers, which
takes longer than all the rest where rows are short; here it is part of a vector. Memory far larger than the caches is
best written past them: that spares the machine reading its old contents, a third of the traffic of an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config, helper
from fastnn.kernels._cpu.llvm import BYTES, FEATURES, FUSED, broadcast, data_of
from fastnn.kernels._cpu.tuning import ACCUMULATORS, DRAFTED, ELEMENTS_AHEAD, STREAMED

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _last_cache() -> int:
    """Bytes of the processor's last cache, as far as Linux tells."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip()
        return int(size.removesuffix("K")) << 10
    except (OSError, ValueError):
        return STREAMED


CACHED = max(STREAMED, _last_cache())       # and where it costs a copy


def _elements(dtype: Any) -> Any:
    return {32: ir.FloatType(), 64: ir.DoubleType()}[dtype.bitwidth]


def _load(builder: ir.IRBuilder, array: Any, index: Any, lanes: int, mask: Any) -> Any:
    """Load lanes of an array; with a mask, those that it names, and 0 for the others."""
    element = array.data.type.pointee
    vector, align = ir.VectorType(element, lanes), 4 if element == ir.FloatType() else 8
    pointer = builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())
    if mask is None:
        value = builder.load(pointer)
        value.align = align
        return value
    masked_load = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [pointer.type, _I32, mask.type, vector]),
        f"llvm.masked.load.v{lanes}f{8 * align}.p0")
    return builder.call(masked_load, [pointer, _I32(align), mask, ir.Constant(vector, [0.0] * lanes)])


def _prefetch(builder: ir.IRBuilder, array: Any, index: Any, count: int) -> None:
    """Have elements of an array fetched that will be needed soon; they may lie beyond its end."""
    element = array.data.type.pointee
    line = 64 // (4 if element == ir.FloatType() else 8)
    for first in range(0, count, line):
        pointer = builder.gep(array.data, [builder.add(index, _I64(first))])
        function = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        prefetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        builder.call(prefetch, [pointer, _I32(0), _I32(3), _I32(1)])


def _double(builder: ir.IRBuilder, value: Any) -> Any:
    wide = ir.VectorType(ir.DoubleType(), value.type.count)
    return value if value.type == wide else builder.fpext(value, wide)


# --- sums and maxima ---------------------------------------------------------------------------------------


def _fold(start: float, term: Callable, combine: Callable, double: bool = True, results: int = 1) -> Any:
    """Return an intrinsic fold(a, b, constants): what `combine` makes of all term(a[i], b[i], *constants), as built.

    A term may have several results; fold returns a tuple of what is made of each. The order follows from the arrays'
    size alone: interleaved vectors first, then single ones, then a part of one.
    """

    @intrinsic
    def fold(typingctx: Any, a: Any, b: Any, constants: Any) -> Any:
        result = types.float64 if double else a.dtype
        element, lanes = _elements(result), 8 * BYTES // result.bitwidth
        vector = ir.VectorType(element, lanes)
        returned = result if results == 1 else types.UniTuple(result, results)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            arrays = [context.make_array(ty)(context, builder, value) for ty, value in zip(signature.args, args[:2])]
            size = cgutils.unpack_tuple(builder, arrays[0].shape)[0]

            def fold_in(index: Any, slots: list, mask: Any = None) -> None:
                value = term(builder, *[_load(builder, array, index, lanes, mask) for array in arrays], *numbers)
                for part, slot in zip(value if results > 1 else (value,), slots):
                    part = part if mask is None else builder.select(mask, part, first)
                    builder.store(combine(builder, builder.load(slot), part), slot)

            def folded(totals: list) -> Any:
                while len(totals) > 1:
                    totals = [combine(builder, *pair) for pair in zip(totals[::2], totals[1::2])]
                total, count = totals[0], lanes
                while count > 1:
                    count //= 2
                    halves = [builder.shuffle_vector(total, total, ir.Constant(ir.VectorType(_I32, count), [*lane]))
                              for lane in (range(count), range(count, 2 * count))]
                    total = combine(builder, *halves)
                return builder.extract_element(total, _I32(0))

            first = ir.Constant(vector, [start] * lanes)
            numbers = [broadcast(builder, value, lanes) for value in cgutils.unpack_tuple(builder, args[2])]
            slots = [[cgutils.alloca_once_value(builder, first) for _ in range(results)] for _ in range(ACCUMULATORS)]
            begin = _I64(0)
            for step in (ACCUMULATORS * lanes, lanes):
                end = builder.sub(size, builder.srem(builder.sub(size, begin), _I64(step)))
                with cgutils.for_range_slice(builder, begin, end, _I64(step), inc=True) as (index, _):
                    for array in arrays if step > lanes else ():
                        _prefetch(builder, array, builder.add(index, _I64(ELEMENTS_AHEAD)), step)
                    for k in range(step // lanes):
                        fold_in(builder.add(index, _I64(k * lanes)), slots[k])
                begin = end
            left = broadcast(builder, builder.sub(size, begin), lanes)
            fold_in(begin, slots[0], builder.icmp_signed("<", ir.Constant(left.type, [*range(lanes)]), left))

            values = [folded([builder.load(slot) for slot in of_result]) for of_result in zip(*slots)]
            return values[0] if results == 1 else context.make_tuple(builder, returned, values)

        return returned(a, b, constants), codegen

    return fold


def _add(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    return builder.fadd(x, y, flags=("contract",))


def _larger(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", y, x), y, x)


def _value(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return a


def _negative_and_value(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return builder.fneg(a), a


def _nothing(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return builder.fmul(a, ir.Constant(a.type, [0.0] * a.type.count))


def _double_value(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return _double(builder, a)


def _shifted_square(builder: ir.IRBuilder, a: Any, b: Any, shift: Any) -> Any:
    difference = builder.fsub(_double(builder, a), shift)
    return builder.fmul(difference, difference, flags=("contract",))


def _gap(builder: ir.IRBuilder, a: Any, b: Any, top: Any, scale: Any) -> Any:
    return builder.fsub(top, builder.fmul(_double(builder, a), scale, flags=("contract",)), flags=("contract",))


def _shifted_product(builder: ir.IRBuilder, a: Any, b: Any, shift: Any) -> Any:
    return builder.fmul(_double(builder, a), builder.fsub(_double(builder, b), shift), flags=("contract",))


def _above(builder: ir.IRBuilder, a: Any, b: Any, high: Any, low: Any, scale: Any, offset: Any, floor: Any) -> Any:
    line = builder.fadd(builder.fmul(builder.fsub(builder.fsub(b, high), low), scale), offset)
    return builder.select(builder.fcmp_ordered("<=", line, floor), ir.Constant(a.type, [0.0] * a.type.count), a)


def _value_and_product(builder: ir.IRBuilder, a: Any, b: Any, shift: Any) -> Any:
    return _double(builder, a), _shifted_product(builder, a, b, shift)


def _value_and_standardized(builder: ir.IRBuilder, a: Any, b: Any, half: Any, twice: Any) -> Any:
    a, b, one_half = _double(builder, a), _double(builder, b), ir.Constant(half.type, [0.5] * half.type.count)
    difference = builder.fsub(builder.fmul(b, one_half, flags=FUSED), half, flags=FUSED)
    return a, builder.fmul(a, builder.fmul(difference, twice), flags=FUSED)


def _value_and_product_above(builder: ir.IRBuilder, a: Any, b: Any, shift: Any, *line: Any) -> Any:
    return _value_and_product(builder, _above(builder, a, b, *line), b, shift)


if config.DISABLE_JIT:
    def _above_python(a: Array, b: Array, constants: tuple) -> Array:
        _, high, low, scale, offset, floor = constants
        return np.where(((b - high) - low) * scale + offset <= floor, a.dtype.type(0), a)

    def _sum(a: Array, b: Array, constants: tuple) -> float:
        return a.sum(dtype=np.float64)

    def _squares(a: Array, b: Array, constants: tuple) -> float:
        return ((a - np.float64(constants[0])) ** 2).sum()

    def _gaps(a: Array, b: Array, constants: tuple) -> float:
        return (constants[0] - a * np.float64(constants[1])).sum()

    def _products(a: Array, b: Array, constants: tuple) -> float:
        return (a * (b - np.float64(constants[0]))).sum()

    def _sums(a: Array, b: Array, constants: tuple) -> tuple[float, float]:
        return a.sum(dtype=np.float64), _products(a, b, constants)

    def _sums_above(a: Array, b: Array, constants: tuple) -> tuple[float, float]:
        return _sums(_above_python(a, b, constants), b, constants)

    def _standardized_sums(a: Array, b: Array, constants: tuple) -> tuple[float, float]:
        return a.sum(dtype=np.float64), (a * ((0.5 * b.astype(np.float64) - constants[0]) * constants[1])).sum()

    def _nothings(a: Array, b: Array, constants: tuple) -> float:
        return 0.0 if np.isfinite(a).all() else np.nan

    def _max(a: Array, b: Array, constants: tuple) -> float:
        return max((value for value in a if value == value), default=a.dtype.type(-np.inf))

    def _range(a: Array, b: Array, constants: tuple) -> tuple[float, float]:
        return _max(-a, b, constants), _max(a, b, constants)
else:
    _sum = _fold(0.0, _double_value, _add)
    _squares = _fold(0.0, _shifted_square, _add)
    _gaps = _fold(0.0, _gap, _add)
    _products = _fold(0.0, _shifted_product, _add)
    _sums = _fold(0.0, _value_and_product, _add, results=2)
    _sums_above = _fold(0.0, _value_and_product_above, _add, results=2)
    _standardized_sums = _fold(0.0, _value_and_standardized, _add, results=2)
    _nothings = _fold(0.0, _nothing, _add, double=False)
    _max = _fold(float("-inf"), _value, _larger, double=False)
    _range = _fold(float("-inf"), _negative_and_value, _larger, double=False, results=2)


@helper
def row_sum(row: Array) -> float:
    """Return the sum of a row in float64."""
    return _sum(row, row, ())


@helper
def row_squares(row: Array, mean: float) -> float:
    """Return the sum of (row - mean)^2 in float64."""
    return _squares(row, row, (mean,))


@helper
def row_gaps(row: Array, top: float, scale: float) -> float:
    """Return the sum of top - scale row in float64."""
    return _gaps(row, row, (top, scale))


@helper
def row_products(a: Array, b: Array, mean: float) -> float:
    """Return the sum of a (b - mean) in float64."""
    return _products(a, b, (mean,))


@helper
def row_sums(a: Array, b: Array, mean: float) -> tuple[float, float]:
    """Return the sums of a and of a (b - mean) in float64."""
    return _sums(a, b, (mean,))


@helper
def row_sums_above(a: Array, b: Array, mean: float, line: tuple[float, ...]) -> tuple[float, float]:
    """Return the sums of a and of a (b - mean) in float64, but where b is at a floor.

    `line` is (high, low, scale, offset, floor): it is where ((b - high) - low) scale + offset <= floor, in b's dtype.
    """
    return _sums_above(a, b, (mean, *line))


@helper
def row_standardized_sums(a: Array, b: Array, half: float, twice: float) -> tuple[float, float]:
    """Return the sums of a and of a (b / 2 - half) twice in float64."""
    return _standardized_sums(a, b, (half, twice))


@helper
def row_max(row: Array) -> float:
    """Return the largest element of a row; NaN are passed over."""
    return _max(row, row, ())


@helper
def row_range(row: Array) -> tuple[float, float]:
    """Return the smallest and the largest element of a row; NaN are passed over."""
    negative, largest = _range(row, row, ())
    return -negative, largest


@helper
def is_finite(row: Array) -> bool:
    """Return whether all elements of a row are finite."""
    return _nothings(row, row, ()) == 0


# --- rows, element by element --------------------------------------------------------------------------------


class _Lanes:
    """A vector of numbers, with operators."""

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self.builder, self.builder.fadd(self.value, other.value, flags=FUSED))

    def __sub__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self.builder, self.builder.fsub(self.value, other.value, flags=FUSED))

    def __mul__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self.builder, self.builder.fmul(self.value, other.value, flags=FUSED))

    def __rmul__(self, number: float) -> _Lanes:
        return _Lanes(self.builder, ir.Constant(self.value.type, [number] * self.value.type.count)) * self


def _store(builder: ir.IRBuilder, value: Any, array: Any, index: Any, mask: Any) -> None:
    """Store float64 lanes in an array of either dtype; with a mask, those that it names."""
    element = array.data.type.pointee
    vector, align = ir.VectorType(element, value.type.count), 4 if element == ir.FloatType() else 8
    value = value if vector == value.type else builder.fptrunc(value, vector)
    pointer = builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())
    if mask is None:
        builder.store(value, pointer).align = align
        return
    masked_store = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [vector, pointer.type, _I32, mask.type]),
        f"llvm.masked.store.v{vector.count}f{8 * align}.p0")
    builder.call(masked_store, [value, pointer, _I32(align), mask])


def row_map(formula: Callable[..., Any]) -> Any:
    """Make a function (a, b, c, constants, y) for kernels: y = formula(a, b, c, *constants), element by element.

    It is for rows that may be short, of float32 or float64 each; sums, differences and products of the formula are in
    float64, and fused where the host can. y may be one of the rows. A formula of fewer rows leaves the others alone,
    for which any stands.
    """
    if config.DISABLE_JIT:
        def python(a: Array, b: Array, c: Array, constants: tuple, y: Array) -> None:
            y[:] = formula(*[row.astype(np.float64) for row in (a, b, c)], *constants)

        return python

    lanes = BYTES // 8

    @intrinsic
    def run(typingctx: Any, a: Any, b: Any, c: Any, constants: Any, y: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            *rows, result = [context.make_array(ty)(context, builder, value)
                             for ty, value in zip(signature.args, args) if isinstance(ty, types.Array)]
            numbers = [_Lanes(builder, broadcast(builder, value, lanes))
                       for value in cgutils.unpack_tuple(builder, args[3])]

            def compute(index: Any, mask: Any = None) -> None:
                values = [_Lanes(builder, _double(builder, _load(builder, row, index, lanes, mask))) for row in rows]
                _store(builder, formula(*values, *numbers).value, result, index, mask)

            begin, size = _I64(0), cgutils.unpack_tuple(builder, result.shape)[0]
            for step in (2 * lanes, lanes):
                end = builder.sub(size, builder.srem(builder.sub(size, begin), _I64(step)))
                with cgutils.for_range_slice(builder, begin, end, _I64(step), inc=True) as (index, _):
                    for k in range(0, step, lanes):
                        compute(builder.add(index, _I64(k)))
                begin = end
            with builder.if_then(builder.icmp_signed("<", begin, size)):
                left = broadcast(builder, builder.sub(size, begin), lanes)
                compute(begin, builder.icmp_signed("<", ir.Constant(left.type, [*range(lanes)]), left))
            return context.get_dummy_value()

        return types.void(a, b, c, constants, y), codegen

    return run


# --- writing past the caches -------------------------------------------------------------------------------


@intrinsic
def _store_compiled(typingctx: Any, source: Any, target: Any, begin: Any) -> Any:
    pointer = ir.VectorType(_elements(source.dtype), 8 * BYTES // source.dtype.bitwidth).as_pointer()

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        arrays = [context.make_array(ty)(context, builder, value) for ty, value in zip(signature.args, args[:2])]
        size, lanes = cgutils.unpack_tuple(builder, arrays[0].shape)[0], _I64(pointer.pointee.count)
        with cgutils.for_range_slice(builder, _I64(0), size, lanes, inc=True) as (index, _):
            value = builder.load(builder.bitcast(builder.gep(arrays[0].data, [index]), pointer))
            value.align = source.dtype.bitwidth // 8
            there = builder.gep(arrays[1].data, [builder.add(args[2], index)])
            store = builder.store(value, builder.bitcast(there, pointer))
            store.align = BYTES
            store.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.void(source, target, types.intp), codegen


def _store_python(source: Array, target: Array, begin: int) -> None:
    target[begin:begin + len(source)] = source


store_past_caches: Any = _store_python if config.DISABLE_JIT else _store_compiled
"""store_past_caches(source, target, begin): copy whole vectors to target[begin:], whose memory is aligned there.

`threads.finish_stores` sees to it that all is there when a launch ends.
"""


@helper
def streamable(part: Array) -> tuple[int, int]:
    """Return from where to where a flat part can be written past the caches: whole vectors, at aligned memory."""
    first = min(part.size, int(-np.intp(part.ctypes.data) % BYTES) // part.itemsize)
    return first, part.size - (part.size - first) % (BYTES // part.itemsize)


@helper
def stream(source: Array, target: Array) -> None:
    """Copy a flat array to one that is written past the caches."""
    first, last = streamable(target)
    target[:first] = source[:first]
    store_past_caches(source[first:last], target, first)
    target[last:] = source[last:]


def exceeds_caches(y: Array) -> bool:
    """Return whether an array shall be written past the caches by those who cannot while they compute."""
    return y.nbytes >= CACHED


@helper
def draft(part: Array, streamed: bool) -> Array:
    """Return where a part of an array is written before `finish`: in place, or in memory to be streamed."""
    return np.empty(part.shape, part.dtype) if streamed and part.size <= DRAFTED else part


@helper
def finish(result: Array, part: Array) -> None:
    """Bring a draft to its place."""
    if result.ctypes.data != part.ctypes.data:
        stream(result.reshape(result.size), part.reshape(part.size))


# --- wide loops --------------------------------------------------------------------------------------------


@intrinsic
def _use_widest_compiled(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        # llvmlite passes on attributes that it does not know, but will not take them itself. Inlined, it would be lost.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


def _use_widest_python() -> None:
    pass


use_widest_vectors: Any = _use_widest_python if config.DISABLE_JIT else _use_widest_compiled
"""use_widest_vectors(): have the loops of the function that calls it use the host's widest registers.

LLVM prefers half of AVX-512's, as a few wide instructions among others do not pay; loops of arithmetic do.
"""


# --- tables ------------------------------------------------------------------------------------------------

_WIDE_TABLES = {"+avx512vbmi", "+avx512bw"} <= FEATURES
_TABLE_BYTES = 64                           # of a vector, of which four hold a table


@intrinsic
def _lookup_compiled(typingctx: Any, x: Any, table: Any, y: Any, first: Any, last: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        x, table, y, first, last = data_of(context, builder, signature, args)
        vector = ir.VectorType(ir.IntType(8), _TABLE_BYTES)

        def at(data: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

        def load(data: Any, place: Any) -> Any:
            value = builder.load(at(data, place))
            value.align = 1
            return value

        entries = [load(table, _I64(_TABLE_BYTES * i)) for i in range(4)]
        choose = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3),
                                                "llvm.x86.avx512.vpermi2var.qi.512")
        whole = builder.and_(builder.sub(last, first), _I64(-_TABLE_BYTES))
        with cgutils.for_range_slice(builder, _I64(0), whole, _I64(_TABLE_BYTES), inc=True) as (i, _):
            place = builder.add(first, i)
            indices = load(x, place)        # of which an instruction sees seven bits, and the sign is the eighth
            low, high = (builder.call(choose, [entries[i], indices, entries[i + 1]]) for i in (0, 2))
            negative = builder.icmp_signed("<", indices, ir.Constant(vector, [0] * _TABLE_BYTES))
            builder.store(builder.select(negative, high, low), at(y, place)).align = 1
        return builder.add(first, whole)

    return types.intp(x, table, y, types.intp, types.intp), codegen


@helper
def _lookup_python(x: Array, table: Array, y: Array, first: int, last: int) -> int:
    return first


lookup_vectors: Any = _lookup_compiled if _WIDE_TABLES and not config.DISABLE_JIT else _lookup_python
"""lookup_vectors(x, table, y, first, last): write y[i] = table[x[i]] for whole vectors of bytes from `first` on, and
return what comes behind them; where the processor has no instruction for it, that is all.
"""
