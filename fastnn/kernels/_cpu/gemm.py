"""Matrix products over packed panels: every operand is copied once into the order in which the tile reads it."""

from __future__ import annotations

import functools

import numpy as np
from numba.extending import register_jitable

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import named
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
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


def multiply(a: Array, a_by_rows: bool, b: Array, b_by_rows: bool, bias: Array, y: Array) -> None:
    """Write y = a b + bias; a and b are given as they are, or by rows: a as (rows, depth), b as (columns, depth)."""
    width = lanes(y)
    tall, wide = tile_shape(y.shape[0], panels(y.shape[1], width))
    a = pack_rows(a[None], tall) if a_by_rows else pack_columns(a[None], tall)
    b = pack_rows(b[None], wide * width) if b_by_rows else pack_columns(b[None], wide * width)
    cuts = min(a.shape[1], max(panels(LEAST_BLOCKS, b.shape[1]), panels(a.shape[1], MOST_PANELS)))
    _multiply(tall, wide)(b.shape[1] * cuts, a[0], b.reshape(-1), np.arange(a.shape[2]) * (wide * width), bias, cuts, y,
                          y.reshape(-1), work=y.size * a.shape[2])


@functools.cache
def _multiply(rows: int, vectors: int) -> BlockKernel:
    """The kernel of all products whose tile has this shape."""
    tile = gather_tile(rows, vectors)

    @block_kernel(writes="y result")
    @named("multiply", f"{rows}x{vectors}")
    def multiply(block: int, a: Array, b: Array, offsets: Array, bias: Array, cuts: int, y: Array,
                 result: Array) -> None:
        """Some panels of rows of one panel of columns: all of their totals grow by DEPTH products at a time."""
        depth, columns = a.shape[1], vectors * lanes(y)
        panel, cut = block // cuts, block % cuts
        first, last = cut * a.shape[0] // cuts, (cut + 1) * a.shape[0] // cuts
        left = panel * columns
        inside = min(columns, y.shape[1] - left)
        totals = np.zeros((last - first, rows, columns), y.dtype)
        if bias.size:
            for i in range(last - first):
                for r in range(rows):
                    for j in range(inside):
                        totals[i, r, j] = bias[left + j]
        begins = panel * depth * columns + np.arange(vectors) * lanes(y)
        total_at = np.arange(vectors) * lanes(y)
        for k in range(0, depth, DEPTH):
            end = min(k + DEPTH, depth)
            for i in range(first, last):
                total = totals[i - first]
                if end == depth and inside == columns:
                    target = result[i * rows * y.shape[1] + left :]
                    target_line, count = y.shape[1], y.shape[0] - i * rows
                else:
                    target = total.reshape(-1)
                    target_line, count = columns, rows
                tile(a[i, k:end], b, begins, offsets[k:end], total, 0, target, total_at, target_line, count)
        if inside < columns:
            for i in range(first * rows, min(y.shape[0], last * rows)):
                for j in range(inside):
                    y[i, left + j] = totals[i // rows - first, i % rows, j]

    return multiply
