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
from fastnn.kernels._cpu.tiles import (
    copy_vector,
    gather_tile,
    tile_cost,
    tile_shape,
    tile_shapes,
    transpose_rows,
    transpose_tile,
)
from fastnn.kernels._cpu.tuning import (
    BLOCKS_A_THREAD,
    COPIED_A_CYCLE,
    CYCLES_A_TILE,
    FEW_CYCLES,
    MOST_COLUMNS,
    MOST_FOR_ONE_TILE,
    MOST_PANELS,
    TRANSPOSED_A_CYCLE,
)
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY

# Depth of one running sum; longer ones are sums of such sums, which keeps their rounding error small.
DEPTH = 512
SUMS = 64                                   # columns whose sums are a block

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

    blocks: int = 0                         # parts of all groups
    row_parts: int = 1                      # parts of the panels of rows
    column_parts: int = 1                   # and of columns; a block is one part of both
    rows: int = 0
    columns: int = 0
    depth: int = 0
    a_by_rows: int = 0                      # whether a comes as (rows, depth); else as (depth, rows)
    b_by_rows: int = 0                      # whether b comes as (columns, depth); else as (depth, columns)
    packed_b: int = 0                       # elements of a scratch for panels of columns, before those for rows
    relu: int = 0                           # whether what is negative becomes 0


class Product:
    """A product of matrices of certain shapes, y = a b + bias; of each group, where there are.

    Then a, b and y have one more dimension, and a bias has one row for all. A block packs what it reads itself, DEPTH
    of the depth at a time: all of its columns, and as many rows as the second cache holds. So operands are read as they
    lie. Into how many blocks y is cut follows from the threads, for no element's sum depends on it.
    """

    def __init__(self, groups: int, shape: tuple[int, int], depth: int, dtype: np.dtype, a_by_rows: bool,
                 b_by_rows: bool, relu: bool = False) -> None:
        self.groups, self.shape, self.depth, self.dtype = groups, shape, depth, dtype
        self.by_rows, self.relu = (a_by_rows, b_by_rows), relu
        self.work = groups * shape[0] * shape[1] * depth
        self.vector = BYTES // dtype.itemsize
        self.vectors = panels(shape[1], self.vector)
        self.least = min(map(self.cycles, tile_shapes(self.vectors)))

    def cycles(self, tile: tuple[int, int]) -> int:
        """Return what it takes by a tile of these rows and vectors."""
        return self.groups * self.depth * tile_cost(tile, self.shape[0], self.vectors)

    def cut(self, tile: tuple[int, int], threads: int) -> tuple[Form, int]:
        """Return its form, and the elements of a worker's scratch."""
        (tall, wide), vector, depth = tile, self.vector, min(self.depth, DEPTH)
        cost = _Cost(self.groups, panels(self.shape[0], tall), panels(self.shape[1], wide * vector), tall, wide, vector,
                     *self.by_rows)
        rows, columns = cost.best(threads)
        height, breadth = min(MOST_PANELS, panels(cost.a_panels, rows)), panels(cost.b_panels, columns)
        packed_b = breadth * (depth * wide * vector + vector)
        form = Form(self.groups * rows * columns, rows, columns, *self.shape, self.depth, int(self.by_rows[0]),
                    int(self.by_rows[1]), packed_b, int(self.relu))
        return form, packed_b + height * (depth * tall + vector)


class Products:
    """One launch of a product, or of two by one tile, and of the sums of so many columns of a matrix."""

    def __init__(self, *products: Product, dtype: np.dtype | None = None, sums: int = 0) -> None:
        self.products, self.sums = products, sums
        self.dtype = products[0].dtype if dtype is None else dtype
        self.tile = tile_of(*products)
        self.width = self.tile[1] * (BYTES // self.dtype.itemsize)
        self.kernel, self.none = _multiply(*self.tile), EMPTY[self.dtype]
        self.offsets = np.arange(max([min(one.depth, DEPTH) for one in products], default=0)) * self.width
        self.launches: dict[int, tuple[Launch, Form, Form, tuple[int, int]]] = {}   # by the number of threads

    def __call__(self, a: Array, b: Array, bias: Array, y: Array | None, packed_b: Array | None = None,
                 a2: Array | None = None, b2: Array | None = None, y2: Array | None = None,
                 terms: Array | None = None, sums: Array | None = None) -> None:
        """Write y = a b + bias, y2 = a2 b2, and the sums of the rows of `terms`."""
        threads, none = get_num_threads(), self.none
        launch, form, form2, scratch = self.launches.get(threads) or self._cut(threads)
        launch(empty(scratch, self.dtype), self.offsets, a.reshape(-1), b.reshape(-1),
               none if packed_b is None else packed_b.reshape(-1), bias, form, none if y is None else y.reshape(-1),
               none if a2 is None else a2.reshape(-1), none if b2 is None else b2.reshape(-1), form2,
               none if y2 is None else y2.reshape(-1), none if terms is None else terms.reshape(-1),
               none if sums is None else sums)

    def _cut(self, threads: int) -> tuple[Launch, Form, Form, tuple[int, int]]:
        cuts = [one.cut(self.tile, threads) for one in self.products]
        forms, scratches = zip(*cuts, *[(Form(), 0)] * (2 - len(cuts)))
        launch = self.kernel.launch(sum(form.blocks for form in forms) + panels(self.sums, SUMS),
                                    work=sum(one.work for one in self.products), workers=threads)
        found = self.launches[threads] = launch, *forms, (threads, max(scratches))
        return found

    def pack_b(self, b: Array) -> Array:
        """Return b of the first product as panels, for a call with `packed_b`."""
        first = self.products[0]
        pack = pack_rows if first.by_rows[1] else pack_columns
        return pack(b.reshape(first.groups, *b.shape[-2:]), self.width)


def product_of(a: Array, a_by_rows: bool, b: Array, b_by_rows: bool, relu: bool = False) -> Product:
    """Return the product of matrices like these; by rows: a is (rows, depth), b is (columns, depth)."""
    rows, depth = a.shape[-2:] if a_by_rows else a.shape[:-3:-1]
    return Product(len(a) if a.ndim == 3 else 1, (rows, b.shape[-2 if b_by_rows else -1]), depth, a.dtype, a_by_rows,
                   b_by_rows, relu)


def tile_of(*products: Product) -> tuple[int, int]:
    """Return the best tile for all, or the usual one where another gains less than compiling it is worth."""
    def cycles(tile: tuple[int, int]) -> int:
        return sum(one.cycles(tile) for one in products)

    usual, least = tile_shape(64, 2), sum(one.least for one in products)
    if cycles(usual) <= max(MOST_FOR_ONE_TILE * least, least + max(FEW_CYCLES, min(least, CYCLES_A_TILE))):
        return usual
    return min(tile_shapes(max(one.vectors for one in products)), key=cycles)


def suit_one_tile(first: Product, second: Product) -> bool:
    """Whether two products cost little more with one tile than with one each."""
    tile = tile_of(first, second)
    cycles, least = first.cycles(tile) + second.cycles(tile), first.least + second.least
    return cycles <= max(least + FEW_CYCLES, MOST_FOR_ONE_TILE * least)


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


@inlined_helper
def _sum_columns(block: int, terms: Array, sums: Array) -> None:
    """Sums of SUMS columns of a matrix, in float64 and in the order of its rows."""
    line = len(sums)
    first, last = block * SUMS, min(block * SUMS + SUMS, line)
    totals = np.zeros(SUMS, np.float64)
    for row in range(0, terms.size, line):
        for i in range(first, last):
            totals[i - first] += terms[row + i]
    for i in range(first, last):
        sums[i] = totals[i - first]


@functools.cache
def _multiply(rows: int, vectors: int) -> BlockKernel:
    """The kernel of all products whose tile has this shape."""
    tile = gather_tile(rows, vectors)

    # packed is read alone; but so it has the type of scratch
    @block_kernel(writes="scratch packed y y2 sums", typed_by="a")
    @named("multiply", f"{rows}x{vectors}")
    def multiply(block: int, worker: int, scratch: Array, offsets: Array, a: Array, b: Array, packed: Array,
                 bias: Array, form: Form, y: Array, a2: Array, b2: Array, form2: Form, y2: Array, terms: Array,
                 sums: Array) -> None:
        """Some panels of rows times some of columns, where sums of DEPTH products each are added to y; or sums."""
        if block >= form.blocks + form2.blocks:
            _sum_columns(block - form.blocks - form2.blocks, terms, sums)
            return
        second = block >= form.blocks
        if second:
            block -= form.blocks
            form, a, b, y = form2, a2, b2, y2
        kept, biased = packed.size > 0 and not second, bias.size > 0 and not second
        height, line, depth = form.rows, form.columns, form.depth
        vector, columns = lanes(y), vectors * lanes(y)
        rest, column_part = divmod(block, form.column_parts)
        group, row_part = divmod(rest, form.row_parts)
        a_panels, b_panels = panels(height, rows), panels(line, columns)
        first, last = row_part * a_panels // form.row_parts, (row_part + 1) * a_panels // form.row_parts
        left = column_part * b_panels // form.column_parts
        right = (column_part + 1) * b_panels // form.column_parts
        own = scratch[worker]
        packed_a, packed_b = own[form.packed_b :], packed if kept else own
        start, edge = np.zeros((rows, columns), y.dtype), np.empty(rows * columns, y.dtype)
        totals, total_at = start.reshape(-1), np.arange(vectors) * vector
        for k in range(0, depth, DEPTH):
            count = min(DEPTH, depth - k)
            relu = form.relu and k + count == depth
            if not kept:
                _pack(b, group * depth * line, form.b_by_rows, line, depth if form.b_by_rows else line, left, right, k,
                      count, packed_b, 0, columns)
            for begin in range(first, last, MOST_PANELS):
                after = min(last, begin + MOST_PANELS)
                _pack(a, group * height * depth, form.a_by_rows, height, depth if form.a_by_rows else height, begin,
                      after, k, count, packed_a, 0, rows)
                for j in range(left, right):
                    inside = min(columns, line - j * columns)
                    begins = total_at + (((group * b_panels + j) * depth + k) * columns if kept else
                                         (j - left) * (count * columns + vector))
                    if k == 0 and biased:
                        for r in range(rows):
                            for c in range(inside):
                                start[r, c] = bias[j * columns + c]
                    for i in range(begin, after):
                        corner = (group * height + i * rows) * line + j * columns
                        tall, whole = min(rows, height - i * rows), inside == columns
                        if k and whole:
                            for r in range(tall):
                                for c in range(0, columns, vector):
                                    _copy(y, corner + r * line + c, totals, r * columns + c)
                        elif k:
                            for r in range(tall):
                                for c in range(inside):
                                    start[r, c] = y[corner + r * line + c]
                        panel = packed_a[(i - begin) * (count * rows + vector) :][: count * rows].reshape(count, rows)
                        target, step = (y[corner:], line) if whole else (edge, columns)
                        tile(panel, packed_b, begins, offsets[:count], start, 0, target, total_at, step, tall)
                        if relu:
                            for r in range(tall):
                                for c in range(columns):
                                    if target[r * step + c] < 0:
                                        target[r * step + c] = 0
                        if not whole:
                            for r in range(tall):
                                for c in range(inside):
                                    y[corner + r * line + c] = edge[r * columns + c]

    return multiply
