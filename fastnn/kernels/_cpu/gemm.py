"""Matrix products over packed panels: every operand is copied once into the order in which the tile reads it."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import named
from fastnn.kernels._cpu.launch import BlockKernel, Launch, block_kernel
from fastnn.kernels._cpu.llvm import lanes
from fastnn.kernels._cpu.tiles import gather_tile, tile_shape, transpose_tile
from fastnn.kernels._cpu.tuning import LEAST_BLOCKS, MOST_PANELS
from fastnn.kernels._memory import empty

# Depth of one running sum; longer ones are sums of such sums, which keeps their rounding error small.
DEPTH = 512


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


class Product(NamedTuple):
    """How matrices of certain shapes are multiplied: calling it writes y = a b + bias, of each group where there are.

    Then a, b and y have one more dimension, and a bias has one row for all.
    """

    a_by_rows: bool                         # whether a comes as (rows, depth); else as (depth, rows)
    b_by_rows: bool                         # whether b comes as (columns, depth); else as (depth, columns)
    tall: int                               # rows of a tile
    width: int                              # columns of a tile
    offsets: Array                          # of each step of the depth in a panel of b
    cuts: int                               # parts of a's panels, each for a block of every panel of b of its group
    launch: Launch

    def __call__(self, a: Array, b: Array, bias: Array, y: Array, packed_b: Array | None = None) -> None:
        a = (pack_rows if self.a_by_rows else pack_columns)(_groups(a), self.tall)
        b = self.pack_b(b) if packed_b is None else packed_b
        self.launch(a, b.reshape(-1), self.offsets, bias, self.cuts, _groups(y), y.reshape(-1))

    def pack_b(self, b: Array) -> Array:
        """Return b as panels."""
        return (pack_rows if self.b_by_rows else pack_columns)(_groups(b), self.width)


def _groups(matrices: Array) -> Array:
    return matrices if matrices.ndim == 3 else matrices[None]


def plan_product(a: Array, a_by_rows: bool, b: Array, b_by_rows: bool) -> Product:
    """Return how to multiply matrices like these; by rows: a is (rows, depth), b is (columns, depth)."""
    groups = len(a) if a.ndim == 3 else 1
    rows, depth = a.shape[-2:] if a_by_rows else a.shape[:-3:-1]
    columns = b.shape[-2 if b_by_rows else -1]
    tall, wide = tile_shape(rows, panels(columns, lanes(a)))
    width = wide * lanes(a)
    a_panels, b_panels = panels(rows, tall), panels(columns, width)
    cuts = min(a_panels, max(panels(LEAST_BLOCKS, groups * b_panels), panels(a_panels, MOST_PANELS)))
    return Product(a_by_rows, b_by_rows, tall, width, np.arange(depth) * width, cuts,
                   _multiply(tall, wide).launch(groups * b_panels * cuts, work=groups * rows * columns * depth))


@functools.cache
def _multiply(rows: int, vectors: int) -> BlockKernel:
    """The kernel of all products whose tile has this shape."""
    tile = gather_tile(rows, vectors)

    @block_kernel(writes="y result")
    @named("multiply", f"{rows}x{vectors}")
    def multiply(block: int, a: Array, b: Array, offsets: Array, bias: Array, cuts: int, y: Array,
                 result: Array) -> None:
        """Some panels of rows of one panel of columns: all of their totals grow by DEPTH products at a time."""
        depth, columns, rest = a.shape[2], vectors * lanes(y), block // cuts
        all_rows, line = y.shape[1:]
        group, cut = rest // panels(line, columns), block % cuts
        first, last = cut * a.shape[1] // cuts, (cut + 1) * a.shape[1] // cuts
        left = rest % panels(line, columns) * columns
        inside = min(columns, line - left)
        totals = np.zeros((last - first, rows, columns), y.dtype)
        if bias.size:
            for i in range(last - first):
                for r in range(rows):
                    for j in range(inside):
                        totals[i, r, j] = bias[left + j]
        begins = rest * depth * columns + np.arange(vectors) * lanes(y)
        total_at = np.arange(vectors) * lanes(y)
        for k in range(0, depth, DEPTH):
            end = min(k + DEPTH, depth)
            for i in range(first, last):
                total = totals[i - first]
                if end == depth and inside == columns:
                    target = result[(group * all_rows + i * rows) * line + left :]
                    target_line, count = line, all_rows - i * rows
                else:
                    target = total.reshape(-1)
                    target_line, count = columns, rows
                tile(a[group, i, k:end], b, begins, offsets[k:end], total, 0, target, total_at, target_line, count)
        if inside < columns:
            for i in range(first * rows, min(all_rows, last * rows)):
                for j in range(inside):
                    y[group, i, left + j] = totals[i // rows - first, i % rows, j]

    return multiply
