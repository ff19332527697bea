"""Matrix products on a GPU, of matrices that may be read out of images: what convolutions and linear maps are there.

c[m, n] = sum over k of a[m, k] b[k, n], and neither b nor c need exist as a matrix: a `Form` says where in an array an
element is. Each block of threads makes one tile of c. It goes along k in steps of a few, for which the pieces of a and
b are read while those before are multiplied, out of shared memory. A thread keeps a small tile of sums in registers,
and uses each number that it reads for several of them.

Sums run along k in segments, whose sums are added in order. If there are enough tiles to fill a GPU, a thread takes the
segments one after the other; else several threads write them to scratch. Both give the same bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import SIMULATED, cuda
from fastnn.kernels._gpu.blocks import dense
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.sums import add_parts
from fastnn.kernels._gpu.tuning import GEMM_BLOCKS, GEMM_LAUNCH, GEMM_READ, GEMM_SCRATCH, GEMM_TILES

SEGMENT = 16 if SIMULATED else 512               # of k
_PAD = 4                                        # between rows of a piece, which different memory banks then hold
_LANES = (2, 2) if SIMULATED else (4, 8)        # how the threads of a warp lie on a tile
SMALL = (1 << 31) - 1024                        # elements of which offsets are 32-bit numbers, past the last tile too


@dataclass(frozen=True)
class Form:
    """Where a product's elements are, by functions for the device.

    `prepare(phase, numbers)` makes the tuple `state`, which begins with how many columns n and how much depth k there
    is; several products of one launch differ in their phase. `depth(k, state, numbers)` returns the offsets of a and b
    and the row and column in the image that b is read from, `column(n, state, numbers)` the offset of b, the row and
    the column: the sums of both are the place. `result(n, state, numbers)` returns the offset of c. Rows of a and c lie
    at even distances.
    """

    prepare: Any
    depth: Any
    column: Any
    result: Any
    checked: bool                               # whether places may lie outside of the image, where it is 0
    a_along_k: bool                             # whether neighbours in memory are those along k
    b_along_k: bool
    bias_of_rows: bool


@dataclass(frozen=True)
class _Tile:
    rows: int
    columns: int
    high: int                                   # rows and columns of a thread
    wide: int
    deep: int                                   # of k at once: divides a block's threads, which divide SEGMENT


def _tiles(dtype: np.dtype) -> tuple[_Tile, ...]:
    """The tiles, the best ones first."""
    return tuple(_Tile(*tile) for tile in GEMM_TILES[dtype.itemsize])


@functools.cache
def _kernel(form: Form, tile: _Tile, dtype: np.dtype, small: bool, has_bias: bool, relu: bool) -> Any:
    prepare, depth, column, result = form.prepare, form.depth, form.column, form.result
    checked, a_along_k, b_along_k, bias_of_rows = form.checked, form.a_along_k, form.b_along_k, form.bias_of_rows
    rows, columns, high, wide, deep = tile.rows, tile.columns, tile.high, tile.wide, tile.deep
    down, across = rows // high, columns // wide
    threads = down * across
    lanes_down, lanes_across = _LANES
    vector_a, vector_b = min(16 // dtype.itemsize, high), min(16 // dtype.itemsize, wide)
    gap_a, gap_b = down * vector_a, across * vector_b
    step_a, step_b = rows + _PAD, columns + _PAD
    size_a, size_b = deep * step_a, deep * step_b
    both_a, both_b = 2 * size_a, 2 * size_b
    each_a, each_b = rows * deep // threads, columns * deep // threads
    apart_a, apart_b = threads // (deep if a_along_k else rows), threads // (deep if b_along_k else columns)
    each, sums = threads // deep, high * wide
    unroll = 2 if sums > 32 else 4              # as registers allow
    real = dtype.type
    offset: Any = np.int32 if small else np.int64
    index: Any = np.uint32 if small else np.uint64
    outside = -(1 << (30 if small else 60))
    unsigned = np.uint64                        # an index that the compiler need not look at for being negative

    @cuda.jit(device=True)
    def multiply(a_tile: Array, a_first: int, b_tile: Array, b_first: int, total: Array) -> None:
        """Add the products of one k."""
        a_part = cuda.local.array(high, real)
        b_part = cuda.local.array(wide, real)
        for i in range(high):
            a_part[i] = a_tile[unsigned(a_first + (i // vector_a * gap_a + i % vector_a))]
        for j in range(wide):
            b_part[j] = b_tile[unsigned(b_first + (j // vector_b * gap_b + j % vector_b))]
        for i in range(high):
            for j in range(wide):
                total[i * wide + j] += a_part[i] * b_part[j]

    @cuda.jit(launch_bounds=(threads, 2))       # leaves 128 registers for a thread
    def product(a: Array, b: Array, bias: Array, c: Array, numbers: Any, height: int, width: int, m_count: int,
                tiles_n: int, phases: int, groups: int, segments: int, run: int, a_step: int, a_group: int,
                b_group: int, c_step: int, c_group: int, c_part: int) -> None:
        a_tile = cuda.shared.array(both_a, real, alignment=16)
        b_tile = cuda.shared.array(both_b, real, alignment=16)
        a_offsets = cuda.shared.array(threads, offset)
        b_offsets = cuda.shared.array(threads, offset)
        k_rows = cuda.shared.array(threads, offset)
        k_columns = cuda.shared.array(threads, offset)
        total = cuda.local.array(sums, real)
        a_next = cuda.local.array(each_a, real)
        b_next = cuda.local.array(each_b, real)
        a_places = cuda.local.array(each_a, offset)
        b_places = cuda.local.array(each_b, offset)
        n_rows = cuda.local.array(each_b, offset)
        n_columns = cuda.local.array(each_b, offset)

        a, b = dense(a), dense(b)
        block = cuda.blockIdx.x
        tiles_m = (m_count + rows - 1) // rows
        m_first = offset(block % tiles_m * rows)
        block //= tiles_m
        n_first = offset(block % tiles_n * columns)
        block //= tiles_n
        state = prepare(block % phases, numbers)
        block //= phases
        group = offset(block % groups)
        part = offset(block // groups)
        n_count, k_count = offset(state[0]), offset(state[1])
        if n_first >= n_count:
            return
        bottom, right = index(height), index(width)
        thread = np.int32(cuda.threadIdx.x)
        lane = thread % (lanes_down * lanes_across)
        warp = thread // (lanes_down * lanes_across)
        top = np.int32((warp // (across // lanes_across) * lanes_down + lane // lanes_across) * vector_a)
        left = np.int32((warp % (across // lanes_across) * lanes_across + lane % lanes_across) * vector_b)

        # Rows and columns beyond the last are read as the last one, and not written.
        a_k = np.int32(thread % deep if a_along_k else thread // rows)
        a_m = np.int32(thread // deep if a_along_k else thread % rows)
        for e in range(each_a):
            m = min(m_first + (a_m + e * apart_a if a_along_k else a_m), m_count - 1)
            a_places[e] = offset(group * a_group + m * a_step)
        b_k = np.int32(thread % deep if b_along_k else thread // columns)
        b_n = np.int32(thread // deep if b_along_k else thread % columns)
        for e in range(each_b):
            n = min(n_first + (b_n + e * apart_b if b_along_k else b_n), n_count - 1)
            in_b, n_row, n_column = column(n, state, numbers)
            b_places[e] = offset(group * b_group + in_b)
            n_rows[e] = offset(n_row)
            n_columns[e] = offset(n_column)
        own = offset(n_first + thread % columns)
        c_place = offset(part * c_part + group * c_group + result(min(own, n_count - 1), state, numbers))

        first = offset(part * run)
        for count in range(offset(min(run, segments - first))):
            start = offset((first + count) * SEGMENT)
            steps = np.int32(max(0, min(SEGMENT, k_count - start) + deep - 1) // deep)
            for s in range(sums):
                total[s] = real(0)
            for step in range(np.int32(steps + 1)):
                if step < steps:
                    if step & (each - 1) == 0:
                        k = start + step * deep + thread
                        if k < k_count:
                            in_a, in_b, k_row, k_column = depth(k, state, numbers)
                            a_offsets[thread] = offset(in_a)
                            b_offsets[thread] = offset(in_b)
                            k_rows[thread] = offset(k_row)
                            k_columns[thread] = offset(k_column)
                        else:
                            a_offsets[thread] = offset(-1)
                            b_offsets[thread] = offset(-1)
                            k_rows[thread] = offset(outside)
                            k_columns[thread] = offset(outside)
                        cuda.syncthreads()
                    k_first = (step & (each - 1)) * deep
                    for e in range(each_a):
                        a_offset = a_offsets[unsigned(k_first + (a_k if a_along_k else a_k + e * apart_a))]
                        a_next[e] = real(0)
                        if a_offset >= 0:
                            a_next[e] = a[index(a_places[e] + a_offset)]
                    for e in range(each_b):
                        at_k = unsigned(k_first + (b_k if b_along_k else b_k + e * apart_b))
                        b_offset = b_offsets[at_k]
                        b_next[e] = real(0)
                        if checked:
                            row = index(n_rows[e] + k_rows[at_k])
                            at = index(n_columns[e] + k_columns[at_k])
                            if row < bottom and at < right:
                                b_next[e] = b[index(b_places[e] + b_offset)]
                        elif b_offset >= 0:
                            b_next[e] = b[index(b_places[e] + b_offset)]
                if step > 0:
                    a_first = (step - 1 & 1) * size_a + top
                    b_first = (step - 1 & 1) * size_b + left
                    for _ in range(deep // unroll):
                        multiply(a_tile, a_first, b_tile, b_first, total)
                        multiply(a_tile, a_first + step_a, b_tile, b_first + step_b, total)
                        if unroll == 4:
                            multiply(a_tile, a_first + 2 * step_a, b_tile, b_first + 2 * step_b, total)
                            multiply(a_tile, a_first + 3 * step_a, b_tile, b_first + 3 * step_b, total)
                        a_first += unroll * step_a
                        b_first += unroll * step_b
                if step < steps:
                    for e in range(each_a):
                        if a_along_k:
                            a_tile[unsigned((step & 1) * size_a + a_k * step_a + a_m + e * apart_a)] = a_next[e]
                        else:
                            a_tile[unsigned((step & 1) * size_a + (a_k + e * apart_a) * step_a + a_m)] = a_next[e]
                    for e in range(each_b):
                        if b_along_k:
                            b_tile[unsigned((step & 1) * size_b + b_k * step_b + b_n + e * apart_b)] = b_next[e]
                        else:
                            b_tile[unsigned((step & 1) * size_b + (b_k + e * apart_b) * step_b + b_n)] = b_next[e]
                cuda.syncthreads()

            # Through shared memory, so that neighbours write neighbours.
            stage = top // vector_a * columns + left
            for i in range(high):
                for j in range(wide):
                    b_tile[unsigned(stage + (j // vector_b * gap_b + j % vector_b))] = total[j]
                for s in range(sums - wide):    # total[i * wide + j] would keep the sums out of registers
                    total[s] = total[s + wide]
                cuda.syncthreads()
                for line in range(thread // columns, down, threads // columns):
                    m = m_first + i // vector_a * gap_a + line * vector_a + i % vector_a
                    if m < m_count and own < n_count:
                        value = b_tile[unsigned(line * columns + thread % columns)]
                        place = unsigned(c_place + m * c_step)
                        value += c[place] if count > 0 else real(0)
                        if first + count == segments - 1:
                            if has_bias:
                                value += bias[group * m_count + m if bias_of_rows else own]
                            if relu and value < real(0):
                                value = real(0)
                        c[place] = value
                cuda.syncthreads()

    return product


@functools.lru_cache(1024)
def _plan(dtype: np.dtype, m_count: int, n_count: int, k_count: int, products: int, free: bool) -> tuple[_Tile, int]:
    """Return the tile, and how many segments a block sums, that should take the least time.

    It is counted in products of a segment of k on one of the GPU's processors. A block sums one segment or all, as the
    order must not depend on n; where the segments run over n, as many as suits.
    """
    segments = max(1, -(-k_count // SEGMENT))
    best = None
    for tile in _tiles(dtype):
        blocks = -(-m_count // tile.rows) * -(-n_count // tile.columns) * products
        runs = {1, segments}
        if free:
            runs |= {min(segments, max(1, -(-segments * blocks // (GEMM_BLOCKS * waves)))) for waves in (1, 2, 4)}
        for run in sorted(runs, reverse=True):
            parts = -(-segments // run)
            work = tile.rows * tile.columns * (1 + GEMM_READ / tile.rows + GEMM_READ / tile.columns)
            cost = -(-blocks * parts // GEMM_BLOCKS) * run * work
            if parts > 1:                       # another launch, and the way through memory
                cost += GEMM_LAUNCH + parts * m_count * n_count * products / GEMM_SCRATCH
            if best is None or cost < best[0]:
                best = cost, tile, run
    assert best is not None
    return best[1], best[2]


@dataclass(frozen=True)
class Layout:
    """How far apart rows and groups lie in a, in b (groups alone) and in c."""

    a_step: int
    a_group: int
    b_group: int
    c_step: int
    c_group: int


def product(form: Form, a: Array, b: Array, bias: Array | None, c: Array, numbers: tuple[int, ...],
            sizes: tuple[int, int, int], layout: Layout, *, image: tuple[int, int] = (0, 0), reach: int = 0,
            groups: int = 1, phases: int = 1, relu: bool = False, free: bool = False) -> None:
    """Write products of `sizes` (m, n, k; the most that a phase has) to c, plus a bias; and 0 where that is negative.

    With `free` the order of the sums may depend on n. `reach` is the largest row or column that a place may have.
    """
    m_count, n_count, k_count = sizes
    if not m_count * n_count:
        return
    tile, run = _plan(c.dtype, m_count, n_count, k_count, groups * phases, free)
    segments = max(1, -(-k_count // SEGMENT))
    parts = -(-segments // run)
    target = c if parts == 1 else _device.xp.empty((parts, c.size), c.dtype)
    small = max(a.size, b.size, target.size) < SMALL and reach < SMALL // 2
    tiles_m, tiles_n = -(-m_count // tile.rows), -(-n_count // tile.columns)
    add = bias is not None and parts == 1
    launch(_kernel(form, tile, c.dtype, small, add, relu and parts == 1), tiles_m * tiles_n * phases * groups * parts,
           tile.rows // tile.high * (tile.columns // tile.wide), a.reshape(-1), b.reshape(-1),
           bias if add else c.reshape(-1), target.reshape(-1), numbers, *image, m_count, tiles_n, phases, groups,
           segments, run, layout.a_step, layout.a_group, layout.b_group, layout.c_step, layout.c_group, c.size)
    if parts > 1:
        add_parts(target, bias, layout.c_step if form.bias_of_rows else 1, relu, c)
