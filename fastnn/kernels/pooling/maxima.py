"""Max pooling: a vector of windows at a time, whose cells are read where they lie in the image; and its gradient.

LLVM's vectorizer does not make this of loops, as rows are short and windows step over cells. Vectors at the edges of an
image are masked, so that they read nothing outside of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import config, inlined_helper, renamed
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.llvm import Vectors, broadcast, data_of, lanes
from fastnn.kernels._cpu.tuning import POOL_CELLS
from fastnn.kernels._cpu.vectors import CACHED, draft, finish
from fastnn.kernels._outputs import Result
from fastnn.kernels.pooling import naive
from fastnn.kernels.pooling.naive import Pair

_NO_INDICES = np.empty((0, 0, 0, 0), np.int64)
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def plan_max_pool2d(x: Array, y: Result, indices: Result | None, kernel: Pair, stride: Pair, padding: Pair,
                    dilation: Pair) -> Callable[..., None]:
    """Return a function (x, y), or (x, y, indices)."""
    height, width = x.shape[2:]
    if min((kernel[0] - 1) * dilation[0], height) * width + min((kernel[1] - 1) * dilation[1], width) >= 1 << 31:
        return functools.partial(naive.max_pool2d, kernel=kernel, stride=stride, padding=padding,
                                 dilation=dilation)            # a place in a window has 32 bits
    if 0 in y.shape:
        return _nothing
    # A larger stride would find the same windows.
    step_h, step_w = min(stride[0], height + 2 * padding[0]), min(stride[1], width + 2 * padding[1])
    rows, results = max(1, POOL_CELLS // (step_h * width)), math.prod(y.shape)
    window = *kernel, step_h, step_w, *padding, *dilation, rows
    launch = (_maxima if indices is None else _maxima_and_indices).launch(
        -(-results // (y.shape[3] * rows)), work=results * kernel[0] * kernel[1] // 4)
    if indices is None:
        return functools.partial(launch, window, _NO_INDICES)
    return lambda x, y, indices: launch(window, indices, x, y)


def _nothing(*arrays: Array) -> None:
    """The maxima of no windows."""


@functools.cache
def _window_maxima(stride: int, edge: bool, indexed: bool) -> Any:
    """Return the function maxima(x, corner, column, width, rows, row_step, columns, column_step, step, count, y, begin,
    indices, place): y[begin + t] = the largest x[corner + t step + a row_step + b column_step].

    t counts the lanes of a vector, a < rows and b < columns the cells of a window. step is `stride`, or any number if
    that is 0. Where that cell has its first maximum, counted from `corner`, is added to `place` for indices[begin + t].

    At an `edge`, cells count that are in columns [0, width), x[corner] being in `column`; windows count if t < count.
    Elsewhere all do, and `stride` vectors may be read from each cell of the first window.
    """
    def python(x: Array, corner: int, column: int, width: int, rows: int, row_step: int, columns: int,
               column_step: int, step: int, count: int, y: Array, begin: int, indices: Array, place: int) -> None:
        for t in range(min(count, lanes(x))):
            best, where = -math.inf, -1
            for a in range(rows):
                for b in range(columns):
                    if 0 <= column + t * step + b * column_step < width:
                        offset = t * step + a * row_step + b * column_step
                        value = x[corner + offset]
                        if where < 0 or value > best or (value != value and best == best):
                            best, where = value, offset
            y[begin + t] = best
            if indexed:
                indices[begin + t] = place + where

    if config.DISABLE_JIT:
        return python

    @intrinsic
    def maxima(typingctx: Any, x: Any, corner: Any, column: Any, width: Any, rows: Any, row_step: Any, columns: Any,
               column_step: Any, step: Any, count: Any, y: Any, begin: Any, indices: Any, place: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            (x, corner, column, width, rows, row_step, columns, column_step, step, count, y, begin, indices,
             place) = data_of(context, builder, signature, args)
            vector = Vectors(builder, signature.args[0].dtype)
            size, element = vector.lanes, vector.type.element
            narrow, wide = ir.VectorType(_I32, size), ir.VectorType(_I64, size)
            line, none = ir.Constant(narrow, [*range(size)]), ir.Constant(narrow, [-1] * size)
            lowest = ir.Constant(vector.type, [-math.inf] * size)

            def narrowed(value: Any) -> Any:
                return broadcast(builder, builder.trunc(value, _I32), size)

            def inside(first: Any, by: Any) -> Any:
                at = builder.add(narrowed(first), builder.mul(line, by))
                return builder.icmp_unsigned("<", at, narrowed(width))        # a negative one is huge

            def masked(name: str, result: Any, *arguments: Any) -> Any:
                function = ir.FunctionType(result, [argument.type for argument in arguments])
                return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

            def load(at: Any, first: Any) -> Any:
                """x[at:], which stands in the columns from `first` on."""
                if not edge:
                    return vector.load(x, at)
                return masked(f"llvm.masked.load.v{size}f{8 * vector.align}.p0", vector.type, vector.at(x, at),
                              _I32(vector.align), inside(first, ir.Constant(narrow, [1] * size)), lowest)

            def cells(at: Any, first: Any) -> Any:
                """One cell of each window."""
                if stride == 1:
                    return load(at, first)
                if stride == 2:
                    parts = load(at, first), load(builder.add(at, _I64(size)), builder.add(first, _I64(size)))
                    return vector.shuffle(*parts, [*range(0, 2 * size, 2)])
                values = lowest
                for t in range(size):
                    skipped = builder.mul(step, _I64(t))
                    there = builder.icmp_unsigned("<", builder.add(first, skipped), width)
                    cell = builder.load(builder.gep(x, [builder.select(there, builder.add(at, skipped), _I64(0))]))
                    values = builder.insert_element(
                        values, builder.select(there, cell, ir.Constant(element, -math.inf)), _I32(t))
                return values

            best = cgutils.alloca_once_value(builder, lowest)
            where = cgutils.alloca_once_value(builder, none if edge else ir.Constant(narrow, [0] * size))
            with cgutils.for_range(builder, rows, intp=_I64) as row, cgutils.for_range(
                    builder, columns, intp=_I64) as tap:
                shift = builder.mul(tap.index, column_step)
                offset, first = builder.add(builder.mul(row.index, row_step), shift), builder.add(column, shift)
                value, old, place_of_old = cells(builder.add(corner, offset), first), builder.load(best), builder.load(
                    where)
                larger = builder.and_(builder.fcmp_unordered(">", value, old), builder.fcmp_ordered("ord", old, old))
                if edge:                        # the first cell inside, whatever its value
                    larger = builder.or_(larger, builder.and_(builder.icmp_signed("==", place_of_old, none),
                                                              inside(first, narrowed(step))))
                builder.store(builder.select(larger, value, old), best)
                builder.store(builder.select(larger, narrowed(offset), place_of_old), where)

            def store(value: Any, data: Any, name: str, align: int) -> None:
                pointer = builder.bitcast(builder.gep(data, [begin]), value.type.as_pointer())
                if edge:
                    masked(f"llvm.masked.store.{name}.p0", ir.VoidType(), value, pointer, _I32(align),
                           builder.icmp_signed("<", line, narrowed(count)))
                else:
                    builder.store(value, pointer).align = align

            store(builder.load(best), y, f"v{size}f{8 * vector.align}", vector.align)
            if indexed:
                at = builder.add(builder.load(where), builder.mul(line, narrowed(step)))
                store(builder.add(builder.sext(at, wide), broadcast(builder, place, size)), indices, f"v{size}i64", 8)
            return context.get_dummy_value()

        return types.void(x, *[types.intp] * 9, y, types.intp, indices, types.intp), codegen

    return maxima


@inlined_helper
def _inside(begin: int, size: int, kernel: int, dilation: int) -> tuple[int, int]:
    """The first of a window's taps that is in an image of `size`, and how many are."""
    first = (dilation - 1 - begin) // dilation if begin < 0 else 0
    return first, min(kernel, (size - 1 - begin) // dilation + 1) - first


def _maxima_of(indexed: bool) -> BlockKernel:
    """Make the kernel that computes some rows of results, and indices or none."""
    plain, plain_edge, halved, halved_edge, any_edge = (
        _window_maxima(stride, edge, indexed) for stride, edge in (
            (1, False), (1, True), (2, False), (2, True), (0, True)))

    def kernel(block: int, window: tuple[int, ...], indices: Array, x: Array, y: Array) -> None:
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, rows = window
        (_, _, height, width), (_, _, out_h, out_w) = x.shape, y.shape
        x, size, line = x.reshape(-1), lanes(y), dilation_h * width
        begin, end = block * rows * out_w, min(y.size, (block + 1) * rows * out_w)
        result, places = y.reshape(-1)[begin:end], indices.reshape(-1)[begin:end]
        last = (kernel_w - 1) * dilation_w
        wide = last > 2 * width                         # neighbours have few taps in common that meet the image
        for r in range(block * rows, end // out_w):
            top = r % out_h * stride_h - pad_h
            skipped, count = _inside(top, height, kernel_h, dilation_h)
            top += skipped * dilation_h
            for first in range(0, out_w, 1 if wide else size):
                j = first if wide else max(0, min(first, out_w - size))    # the last vector may overlap with another
                left, at = j * stride_w - pad_w, r * out_w + j - begin
                across, windows = kernel_w, out_w - j
                if wide:                                # one window, of the taps alone that are in the image
                    skipped, across = _inside(left, width, kernel_w, dilation_w)
                    left, windows = left + skipped * dilation_w, 1
                place = top * width + left
                corner = r // out_h * height * width + place
                edge = ((size > out_w) | wide | (left < 0) | (left + (size - 1) * stride_w + last >= width)
                        | (corner + (count - 1) * line + last + size * stride_w > x.size))
                if stride_w == 1:
                    if edge:
                        plain_edge(x, corner, left, width, count, line, across, dilation_w, 1, windows, result, at,
                                   places, place)
                    else:
                        plain(x, corner, left, width, count, line, kernel_w, dilation_w, 1, size, result, at, places,
                              place)
                elif stride_w == 2:
                    if edge:
                        halved_edge(x, corner, left, width, count, line, across, dilation_w, 2, windows, result, at,
                                    places, place)
                    else:
                        halved(x, corner, left, width, count, line, kernel_w, dilation_w, 2, size, result, at, places,
                               place)
                else:
                    any_edge(x, corner, left, width, count, line, across, dilation_w, stride_w, windows, result, at,
                             places, place)

    named = renamed(kernel, __name__, "maxima_and_indices" if indexed else "maxima")
    return block_kernel(writes="y indices", typed_by="x")(named)


_maxima, _maxima_and_indices = _maxima_of(False), _maxima_of(True)


# --- shares --------------------------------------------------------------------------------------------------


def plan_adaptive_max_pool2d(x: Array, y: Result, indices: Result | None) -> Callable[..., None]:
    """Return a function (x, y), or (x, y, indices)."""
    if 0 in y.shape:
        return _nothing
    (height, width), (rows, columns) = x.shape[2:], y.shape[2:]
    if height % rows == 0 and width % columns == 0:
        kernel = height // rows, width // columns
        return plan_max_pool2d(x, y, indices, kernel, kernel, (0, 0), (1, 1))
    count = max(1, POOL_CELLS // (-(-height // rows) * width))
    launch = _maxima_of_shares.launch(-(-math.prod(y.shape[:3]) // count), work=x.size + math.prod(y.shape))
    return lambda x, y, indices=_NO_INDICES: launch(count, x, y, indices)


@inlined_helper
def _share(i: int, size: int, parts: int) -> tuple[int, int]:
    """Where part i of `size` cells, cut into overlapping parts of whole cells, begins and ends."""
    return i * size // parts, ((i + 1) * size + parts - 1) // parts


@block_kernel(writes="y indices", typed_by="x")
def _maxima_of_shares(block: int, count: int, x: Array, y: Array, indices: Array) -> None:
    """The maxima of `count` rows of results: of the cells above each other first, then of these."""
    height, width, rows, columns = x.shape[2], x.shape[3], y.shape[2], y.shape[3]
    x, y = x.reshape(x.shape[0] * x.shape[1], height, width), y.reshape(y.shape[0] * y.shape[1] * rows, columns)
    places = indices.reshape(indices.size)
    best, at = np.empty(width, x.dtype), np.empty(width, np.int64)
    for r in range(block * count, min(len(y), block * count + count)):
        top, bottom = _share(r % rows, height, rows)
        first = x[r // rows, top]
        for w in range(width):
            best[w], at[w] = first[w], top * width + w
        for h in range(top + 1, bottom):
            cells = x[r // rows, h]
            for w in range(width):
                value, old = cells[w], best[w]
                larger = (value > old) | (np.isnan(value) & ~np.isnan(old))
                best[w] = value if larger else old
                at[w] = h * width + w if larger else at[w]
        for j in range(columns):
            left, right = _share(j, width, columns)
            largest, place = best[left], at[left]
            for w in range(left + 1, right):
                value, old = best[w], largest
                same = (value == old) | (np.isnan(value) & np.isnan(old))
                if (value > old) | (np.isnan(value) & ~np.isnan(old)) | (same & (at[w] < place)):
                    largest, place = value, at[w]
            y[r, j] = largest
            if places.size > 0:
                places[r * columns + j] = place


# --- gradients ---------------------------------------------------------------------------------------------


def plan_max_pool2d_backward(grad_output: Array, indices: Array, grad_x: Result) -> Callable[..., bool]:
    """Return a function (grad_output, indices, grad_x) that returns whether all indices are in their image."""
    images, cells = grad_x.shape[0] * grad_x.shape[1], grad_x.shape[2] * grad_x.shape[3]
    if images == 0:
        return lambda grad_output, indices, grad_x: True
    group = 1 + POOL_CELLS // cells
    route = functools.partial(_route.launch(-(-images // group), work=images * cells // 2), group,
                              images * cells * grad_x.dtype.itemsize >= CACHED)

    def max_pool2d_backward(grad_output: Array, indices: Array, grad_x: Array) -> bool:
        outside = np.zeros(1, np.bool_)
        route(grad_output, indices, grad_x, outside)
        return not outside[0]

    return max_pool2d_backward


@block_kernel(writes="grad_x outside", typed_by="grad_x")
def _route(block: int, group: int, streamed: bool, grad_output: Array, indices: Array, grad_x: Array,
           outside: Array) -> None:
    """Add the gradients of a group of images where their maxima were, and say if a place is outside of the image."""
    images, windows = grad_x.shape[0] * grad_x.shape[1], grad_output.shape[2] * grad_output.shape[3]
    grad_output, indices = grad_output.reshape(images, windows), indices.reshape(images, windows)
    grad_x = grad_x.reshape(images, grad_x.shape[2] * grad_x.shape[3])
    part = grad_x[block * group:min(images, block * group + group)]
    result = draft(part, streamed)
    cells = np.uint64(grad_x.shape[1])
    for n in range(len(result)):
        gradients, places, image = grad_output[block * group + n], indices[block * group + n], result[n]
        for place in range(image.size):
            image[place] = 0
        for t in range(places.size):
            if np.uint64(places[t]) < cells:            # a negative one is huge
                image[max(0, places[t])] += gradients[t]
            else:
                outside[0] = True
    finish(result, part)
