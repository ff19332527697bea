"""Sums of rows and of channels on a GPU, in an order that follows from shapes alone."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, block_sum, blocks_for
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.tuning import SUM_BLOCKS, SUM_ROWS


@functools.cache
def _sum_rows(inner_dtype: np.dtype, dtype: np.dtype, has_bias: bool, relu: bool) -> Any:
    total, real = inner_dtype.type, dtype.type

    @cuda.jit
    def sum_rows(rows: Array, run: int, inner: int, bias: Array, sums: Array) -> None:
        size = rows.shape[1]
        for place in range(cuda.grid(1), sums.size, cuda.gridsize(1)):
            part, i = place // size, place % size
            value = total(0)
            for row in range(part * run, min(part * run + run, rows.shape[0])):
                value += rows[row, i]
            found = real(value)
            if has_bias:
                found += bias[i // inner % bias.size]
            if relu and found < real(0):
                found = real(0)
            sums[place] = found

    return sum_rows


def add_parts(parts: Array, bias: Array | None, inner: int, relu: bool, c: Array) -> None:
    """Write the sum of arrays, from the first to the last, plus the bias, one of which counts for `inner` elements."""
    launch(_sum_rows(c.dtype, c.dtype, bias is not None, relu), blocks_for(c.size), THREADS, parts, len(parts), inner,
           c.reshape(-1) if bias is None else bias, c.reshape(-1))


def sum_rows(rows: Array, dtype: np.dtype) -> Array:
    """Return the sum of a matrix's rows, in float64 and then rounded."""
    while True:
        parts = max(1, -(-len(rows) // SUM_ROWS))
        sums = _device.xp.empty((parts, rows.shape[1]), dtype if parts == 1 else np.dtype(np.float64))
        launch(_sum_rows(np.dtype(np.float64), sums.dtype, False, False), blocks_for(sums.size), THREADS, rows,
               SUM_ROWS, 1, sums.reshape(-1), sums.reshape(-1))
        if parts == 1:
            return sums.reshape(-1)
        rows = sums


@cuda.jit
def _sum_channels(x: Array, run: int, sums: Array) -> None:
    """One block's share of the images, of one channel."""
    partial = cuda.shared.array(THREADS, np.float64)
    images, channels, pixels = x.shape
    thread = cuda.threadIdx.x
    part, channel = cuda.blockIdx.x // channels, cuda.blockIdx.x % channels
    n, pixel = part * run + thread // pixels, thread % pixels
    more_n, more_pixels = THREADS // pixels, THREADS % pixels
    last = min(part * run + run, images)
    total = 0.0
    while n < last:
        total += x[n, channel, pixel]
        n, pixel = n + more_n, pixel + more_pixels
        if pixel >= pixels:
            n, pixel = n + 1, pixel - pixels
    partial[thread] = total
    total = block_sum(partial, thread)
    if thread == 0:
        sums[part, channel] = total


def sum_channels(x: Array) -> Array:
    """Return the sums over images and pixels, of shape (channels,), in float64 and then rounded."""
    images, channels = x.shape[:2]
    run = max(1, -(-images * channels // SUM_BLOCKS))
    parts = -(-images // run)
    sums = _device.xp.empty((parts, channels), np.dtype(np.float64))
    launch(_sum_channels, parts * channels, THREADS, x.reshape(images, channels, math.prod(x.shape[2:])), run, sums)
    return sum_rows(sums, x.dtype)
