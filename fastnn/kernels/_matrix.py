"""Matrix products over packed panels: every operand is copied once into the order in which the tile reads it."""

from __future__ import annotations

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import block_kernel
from fastnn.kernels._simd import ROWS, multiply_tile, tile_columns

empty = np.empty

# Depth of one running sum; longer ones are sums of such sums, which keeps their rounding error small.
DEPTH = 512


def panels(size: int, width: int) -> int:
    """Return how many panels of `width` cover `size`."""
    return -(-size // width)


@block_kernel(writes="packed")
def _pack_rows(block: int, matrices: Array, packed: Array) -> None:
    """One panel of rows of a (group, rows, depth) array, its tail filled with zeros."""
    group, panel = divmod(block, packed.shape[1])
    depth, width = packed.shape[2], packed.shape[3]
    first = panel * width
    inside = min(width, matrices.shape[1] - first)
    for k in range(depth):
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
    _pack_rows(groups * packed.shape[1], matrices, packed, work=packed.size)
    return packed


def pack_columns(matrices: Array, width: int) -> Array:
    """Return the columns of each matrix of (groups, depth, columns) as panels: (groups, panels, depth, width)."""
    groups, depth, columns = matrices.shape
    packed = empty((groups, panels(columns, width), depth, width), matrices.dtype)
    _pack_columns(groups * packed.shape[1], matrices, packed, work=packed.size)
    return packed


@block_kernel(writes="y")
def _multiply(block: int, a: Array, b: Array, bias: Array, y: Array) -> None:
    """One panel of rows of y = a b + bias, both packed."""
    depth, rows, columns = a.shape[2], a.shape[3], b.shape[3]
    top = block * rows
    tile, total = np.empty((rows, columns), y.dtype), np.empty((rows, columns), y.dtype)
    for panel in range(b.shape[1]):
        left = panel * columns
        total[:] = 0
        for k in range(0, depth, DEPTH):
            tile[:] = 0
            multiply_tile(a[0, block, k : k + DEPTH], b[0, panel, k : k + DEPTH], tile)
            for i in range(rows):
                for j in range(columns):
                    total[i, j] += tile[i, j]
        width = min(columns, y.shape[1] - left)
        for i in range(min(rows, y.shape[0] - top)):
            if bias.size:
                for j in range(width):
                    y[top + i, left + j] = total[i, j] + bias[left + j]
            else:
                for j in range(width):
                    y[top + i, left + j] = total[i, j]


def multiply(a: Array, b: Array, bias: Array, y: Array) -> None:
    """Write y = a b + bias, for a of (1, panels, depth, ROWS), b of (1, panels, depth, columns), bias maybe empty."""
    _multiply(a.shape[1], a, b, bias, y, work=y.size * a.shape[2])


__all__ = ["DEPTH", "ROWS", "multiply", "multiply_tile", "pack_columns", "pack_rows", "panels", "tile_columns"]
