"""Matrix products over packed panels: operands are copied into the order in which the tile reads them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import inlined_helper, named
from fastnn.kernels._cpu.launch import BlockKernel, Launch, block_kernel
from fastnn.kernels._cpu.llvm import BYTES, lanes
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tiles import copy_vector, gather_tile, tile_shape, transpose_rows, transpose_tile
from fastnn.kernels._cpu.tuning import BLOCKS_A_THREAD, COPIED_A_CYCLE, MOST_COLUMNS, MOST_PANELS, TRANSPOSED_A_CYCLE
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY

# Depth of one running sum; longer ones are sums of such sums, which keeps their rounding error small.
DEPTH = 512

_copy = copy_vector(1)


@register_jitable
def panels(size: int, width: int) -> int:
    """Return how many panels of `width` cover `size`."""
    return -(-size // width)


@block_kernel(writes="packed flat")
def _pack_rows(block: int, matrices: Array, source: Array, packed: Array, flat: Array) -> None:
    """One panel of rows of a (group, rows, depth) array, its tail filled with zeros; both arrays, and flat."""
    group, panel = divmod(block, packed.shape[1])
    depth, width = packed.shape[2], packed.shape[3]
    first, vector = panel * width, lanes(packed)
    inside = min(width, matrices.shape[1] - first)
    begin, target = (group * matrices.shape[1] + first) * depth, block * depth * width
    whole = 0
    if begin + panels(width, vector) * vector * depth <= source.size and inside == width:
        # What a vector writes beyond the panel's width is written again later: by columns on its left, by rows below.
        # Never beyond the panel, though: the next one is another thread's.
        whole = max(0, (depth - panels(panels(width, vector) * vector - width, width)) // vector * vector)
        for k in range(0, whole, vector):
            for i in range((width - 1) // vector * vector, -1, -vector):
                transpose_tile(source, begin + i * depth + k, depth, flat, target + k * width + i, width)
    for k in range(whole, depth):
        for i in range(inside):
            packed[group, panel, k, i] = matrices[group, first + i, k]
        for i in range(inside, width):
            packed[group, panel, k, i] = 0


@block_kernel(writes="packed")
def _pack_columns(block: int, matrices: Array, packed: Array) -> None:
    """One panel of columns of a (group, depth, columns) array, its tail filled with zeros."""
    group, panel = divmod(block, packed.shape[1])
    depth, width = packed.shape[2], packed.shape[3]
    first = panel * width
    inside = min(width, matrices.shape[2] - first)
    for k in range(depth):
        for i in range(inside):
            packed[group, panel, k, i] = matrices[group, k, first + i]
        for i in range(inside, width):
            packed[group, panel, k, i] = 0


def pack_rows(matrices: Array, width: int) -> Array:
    """Return the rows of each matrix of (groups, rows, depth) as panels: (groups, panels, depth, width)."""
    groups, rows, depth = matrices.shape
    packed = empty((groups, panels(rows, width), depth, width), matrices.dtype)
    _pack_rows(groups * packed.shape[1], matrices, matrices.reshape(-1), packed, packed.reshape(-1), work=packed.size)
    return packed


def pack_columns(matrices: Array, width: int) -> Array:
    """Return the columns of each matrix of (groups, depth, columns) as panels: (groups, panels, depth, width)."""
    groups, depth, columns = matrices.shape
    packed = empty((groups, panels(columns, width), depth, width), matrices.dtype)
    _pack_columns(groups * packed.shape[1], matrices, packed, work=packed.size)
    return packed


class Form(NamedTuple):
    """How a product is cut into blocks, and how its operands lie: what compiled code takes."""

    row_parts: int                          # parts of the panels of rows
    column_parts: int                       # and of columns; a block is one part of both
    depth: int
    a_by_rows: bool                         # whether a comes as (rows, depth); else as (depth, rows)
    b_by_rows: bool                         # whether b comes as (columns, depth); else as (depth, columns)
    packed_b: int                           # elements of a scratch for panels of columns, before those for rows


class Product:
    """How matrices of certain shapes are multiplied: calling it writes y = a b + bias, of each group where there are.

    Then a, b and y have one more dimension, and a bias has one row for all. A block packs what it reads itself, DEPTH
    of the depth at a time: all of its columns, and as many rows as the second cache holds. So operands are read as they
    lie. Into how many blocks y is cut follows from the threads, for no element's sum depends on it.
    """

    def __init__(self, groups: int, shape: tuple[int, int], depth: int, dtype: np.dtype, a_by_rows: bool,
                 b_by_rows: bool) -> None:
        vector = BYTES // dtype.itemsize
        tall, wide = tile_shape(shape[0], panels(shape[1], vector))
        self.kernel, self.width = _multiply(tall, wide), wide * vector
        self.offsets, self.none = np.arange(min(depth, DEPTH)) * self.width, EMPTY[dtype]
        self.by_rows, self.depth, self.work = (a_by_rows, b_by_rows), depth, groups * shape[0] * shape[1] * depth
        self.groups, self.shape = groups, (groups, *shape)
        self.cost = _Cost(groups, panels(shape[0], tall), panels(shape[1], self.width), tall, wide, vector,
                          *self.by_rows)
        self.launches: dict[int, tuple[Launch, Form, tuple[int, int]]] = {}         # by the number of threads

    def __call__(self, a: Array, b: Array, bias: Array, y: Array, packed_b: Array | None = None) -> None:
        threads = get_num_threads()
        launch, form, scratch = self.launches.get(threads) or self._cut(threads)
        packed = self.none if packed_b is None else packed_b.reshape(-1)
        launch(a.reshape(-1), b.reshape(-1), packed, self.offsets, bias, form, empty(scratch, y.dtype),
               y.reshape(self.shape), y.reshape(-1))

    def _cut(self, threads: int) -> tuple[Launch, Form, tuple[int, int]]:
        cost, depth = self.cost, len(self.offsets)
        rows, columns = cost.best(threads)
        height, breadth = min(MOST_PANELS, panels(cost.a_panels, rows)), panels(cost.b_panels, columns)
        packed_b = breadth * (depth * self.width + cost.vector)
        form = Form(rows, columns, self.depth, *self.by_rows, packed_b)
        launch = self.kernel.launch(self.groups * rows * columns, work=self.work, workers=threads)
        found = self.launches[threads] = launch, form, (threads, packed_b + height * (depth * cost.tall + cost.vector))
        return found

    def pack_b(self, b: Array) -> Array:
        """Return b as panels, for a call with `packed_b`."""
        return (pack_rows if self.by_rows[1] else pack_columns)(b.reshape(self.groups, *b.shape[-2:]), self.width)


def plan_product(a: Array, a_by_rows: bool, b: Array, b_by_rows: bool) -> Product:
    """Return how to multiply matrices like these; by rows: a is (rows, depth), b is (columns, depth)."""
    rows, depth = a.shape[-2:] if a_by_rows else a.shape[:-3:-1]
    return Product(len(a) if a.ndim == 3 else 1, (rows, b.shape[-2 if b_by_rows else -1]), depth, a.dtype, a_by_rows,
                   b_by_rows)


class _Cost(NamedTuple):
    """What a step of the depth costs, in cycles of the multiply-add units, of which there are two."""

    groups: int
    a_panels: int
    b_panels: int
    tall: int                               # rows of a tile
    wide: int                               # vectors of a tile
    vector: int                             # columns of a vector
    a_by_rows: bool
    b_by_rows: bool

    def best(self, threads: int) -> tuple[int, int]:
        """Return the parts of the rows and of the columns with which so many threads end first."""
        least, most = panels(self.b_panels, MOST_COLUMNS), BLOCKS_A_THREAD * threads
        cuts = [(row_parts, column_parts) for column_parts in range(least, min(self.b_panels, least + most) + 1)
                for row_parts in range(1, min(self.a_panels, max(1, most // column_parts)) + 1)]
        return min(cuts, key=lambda parts: self.of(parts[0], parts[1], threads))

    def of(self, row_parts: int, column_parts: int, threads: int) -> float:
        height, breadth = panels(self.a_panels, row_parts), panels(self.b_panels, column_parts)
        block = (height * breadth * self.tall * self.wide / 2 + height * self.tall / _packed_a_cycle(self.a_by_rows)
                 + breadth * self.wide * self.vector / _packed_a_cycle(self.b_by_rows))
        return panels(self.groups * row_parts * column_parts, threads) * block


def _packed_a_cycle(transposed: bool) -> int:
    return TRANSPOSED_A_CYCLE if transposed else COPIED_A_CYCLE


@inlined_helper
def _pack(source: Array, origin: int, by_rows: bool, size: int, line: int, first: int, last: int, k: int, count: int,
          packed: Array, at: int, width: int) -> None:
    """Pack some panels of `width` rows, of all of `size` of the matrix at `origin`, and `count` steps of the depth.

    A panel takes `count` times its width, and a vector more. Whole vectors are written: what is too much is written
    again, by those on their left or of the next step, or lies behind the panel. What there is not, is any number.
    """
    vector = lanes(packed)
    reach, panel = panels(width, vector) * vector, count * width + vector
    if by_rows:
        whole = count // vector * vector
        for p in range(first, last):
            begin, here, inside = origin + p * width * line + k, at + (p - first) * panel, size - p * width
            for n in range(0, whole, vector):
                for i in range(reach - vector, -1, -vector):
                    row = min(i, inside - 1)
                    transpose_rows(source, begin + row * line + n, line, inside - row, packed, here + n * width + i,
                                   width)
    else:                                   # step by step, as it lies in memory
        end = origin + k * line + last * width - width + reach
        whole = min(count, max(0, (source.size - end) // line + 1))             # within the matrix's memory
        for n in range(whole):
            for p in range(first, last):
                for i in range(reach - vector, -1, -vector):
                    _copy(source, origin + (k + n) * line + p * width + i, packed,
                          at + (p - first) * panel + n * width + i)
    for p in range(first, last):
        for n in range(whole, count):
            for i in range(width):
                row = min(p * width + i, size - 1)
                packed[at + (p - first) * panel + n * width + i] = source[
                    origin + (row * line + k + n if by_rows else (k + n) * line + row)]


@functools.cache
def _multiply(rows: int, vectors: int) -> BlockKernel:
    """The kernel of all products whose tile has this shape."""
    tile = gather_tile(rows, vectors)

    @block_kernel(writes="packed scratch y result")     # packed is read alone; but so it has the type of scratch
    @named("multiply", f"{rows}x{vectors}")
    def multiply(block: int, worker: int, a: Array, b: Array, packed: Array, offsets: Array, bias: Array, form: Form,
                 scratch: Array, y: Array, result: Array) -> None:
        """Some panels of rows times some of columns: sums of DEPTH products each are added to y."""
        height, line = y.shape[1:]
        vector, columns, depth = lanes(y), vectors * lanes(y), form.depth
        rest, column_part = divmod(block, form.column_parts)
        group, row_part = divmod(rest, form.row_parts)
        corner_of_group = group * height * line
        a_panels, b_panels = panels(height, rows), panels(line, columns)
        first, last = row_part * a_panels // form.row_parts, (row_part + 1) * a_panels // form.row_parts
        left = column_part * b_panels // form.column_parts
        right = (column_part + 1) * b_panels // form.column_parts
        own = scratch[worker]
        packed_a, packed_b = own[form.packed_b :], packed if packed.size else own
        start, edge = np.zeros((rows, columns), y.dtype), np.empty(rows * columns, y.dtype)
        totals, total_at = start.reshape(-1), np.arange(vectors) * vector
        for k in range(0, depth, DEPTH):
            count = min(DEPTH, depth - k)
            if packed.size == 0:
                _pack(b, group * depth * line, form.b_by_rows, line, depth if form.b_by_rows else line, left, right, k,
                      count, packed_b, 0, columns)
            for begin in range(first, last, MOST_PANELS):
                after = min(last, begin + MOST_PANELS)
                _pack(a, group * height * depth, form.a_by_rows, height, depth if form.a_by_rows else height, begin,
                      after, k, count, packed_a, 0, rows)
                for j in range(left, right):
                    corner = j * columns
                    inside = min(columns, line - corner)
                    begins = total_at + (((group * b_panels + j) * depth + k) * columns if packed.size else
                                         (j - left) * (count * columns + vector))
                    if k == 0 and bias.size:
                        for r in range(rows):
                            for c in range(inside):
                                start[r, c] = bias[corner + c]
                    for i in range(begin, after):
                        top = i * rows
                        tall, whole = min(rows, height - top), inside == columns
                        if k and whole:
                            for r in range(tall):
                                for c in range(0, columns, vector):
                                    _copy(result, corner_of_group + (top + r) * line + corner + c, totals,
                                          r * columns + c)
                        elif k:
                            for r in range(tall):
                                for c in range(inside):
                                    start[r, c] = y[group, top + r, corner + c]
                        panel = packed_a[(i - begin) * (count * rows + vector) :][: count * rows].reshape(count, rows)
                        target = result[corner_of_group + top * line + corner :] if whole else edge
                        tile(panel, packed_b, begins, offsets[:count], start, 0, target, total_at,
                             line if whole else columns, tall)
                        if not whole:
                            for r in range(tall):
                                for c in range(inside):
                                    y[group, top + r, corner + c] = edge[r * columns + c]

    return multiply
