"""The padded scratch that convolutions walk over: how it is laid out, and how images get there."""

from __future__ import annotations

import functools

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._jit import helper
from fastnn.kernels._simd import copy_vector, lanes


@functools.lru_cache(maxsize=256)
def layout(channels: int, stride: tuple[int, int], rows: tuple[int, ...], columns: tuple[int, ...], height: int,
            line: int) -> tuple[Array, Array, Array]:
    """Where each tap's row begins in a scratch of phases of height x line: an offset for each (channel, row, column) of
    a filter; the phases of rows and of columns that taps read."""
    phases_y, phase_y = np.unique(np.array(rows) % stride[0], return_inverse=True)
    phases_x, phase_x = np.unique(np.array(columns) % stride[1], return_inverse=True)
    phase = np.arange(channels)[:, None, None] * (len(phases_y) * len(phases_x)) + phase_y[:, None] * len(phases_x)
    shift = np.array(rows)[:, None] // stride[0] * line + np.array(columns) // stride[1]
    offsets = ((phase + phase_x) * (height * line) + shift).ravel()
    for array in (offsets, phases_y, phases_x):
        array.flags.writeable = False
    return offsets, phases_y, phases_x


_put_zeros, _copy, _copy_every_2nd, _copy_every_4th = (copy_vector(step) for step in (0, 1, 2, 4))


@helper
def fill(images: Array, n: int, first_channel: int, last_channel: int, first_row: int, phases_y: Array,
          phases_x: Array, top: int, left: int, stride_y: int, stride_x: int, height: int, line: int,
          scratch: Array) -> None:
    """Copy channels of an image into phases of height x line, from a row of output on, zeros outside of the image.

    Vectors may reach beyond a row's end, which the next row writes again; so the scratch is longer by one vector.
    """
    vector, flat = lanes(scratch), images.reshape(-1)
    channels, rows, columns = images.shape[1:]
    at = 0
    for c in range(first_channel, last_channel):
        for r in phases_y:
            for s in phases_x:
                column = s + left
                begin = max(0, min(line, (stride_x - 1 - column) // stride_x))
                end = max(begin, min(line, (columns - 1 - column) // stride_x + 1))
                for i in range(height):
                    row = (first_row + i) * stride_y + r + top
                    if begin == end or not 0 <= row < rows:
                        for t in range(0, line, vector):
                            _put_zeros(flat, 0, scratch, at + t)
                        at += line
                        continue
                    source = max(0, ((n * channels + c) * rows + row) * columns + begin * stride_x + column)
                    for t in range(0, begin, vector):
                        _put_zeros(flat, 0, scratch, at + t)
                    reads = source + (end - begin + vector) * stride_x
                    if stride_x == 1 and reads <= flat.size:
                        for t in range(0, end - begin, vector):
                            _copy(flat, source + t, scratch, at + begin + t)
                    elif stride_x == 2 and reads <= flat.size:
                        for t in range(0, end - begin, vector):
                            _copy_every_2nd(flat, source + 2 * t, scratch, at + begin + t)
                    elif stride_x == 4 and reads <= flat.size:
                        for t in range(0, end - begin, vector):
                            _copy_every_4th(flat, source + 4 * t, scratch, at + begin + t)
                    else:
                        for t in range(end - begin):
                            scratch[at + begin + t] = flat[source + t * stride_x]
                    for t in range(end, line, vector):
                        _put_zeros(flat, 0, scratch, at + t)
                    at += line
    for t in range(at, scratch.size):
        scratch[t] = 0
