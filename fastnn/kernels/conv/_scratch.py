"""The padded scratch that convolutions walk over: how it is laid out, and how images get there."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.llvm import lanes
from fastnn.kernels._cpu.tiles import copy_vector, put_zeros


def layout(channels: int, stride: tuple[int, int], rows: tuple[int, ...], columns: tuple[int, ...], height: int,
            line: int) -> tuple[Array, Array, Array]:
    """Where each tap's row begins in a scratch of phases of height x line: an offset for each (channel, row, column) of
    a filter; the phases of rows and of columns that taps read."""
    phases_y, phase_y = np.unique(np.array(rows) % stride[0], return_inverse=True)
    phases_x, phase_x = np.unique(np.array(columns) % stride[1], return_inverse=True)
    phase = np.arange(channels)[:, None, None] * (len(phases_y) * len(phases_x)) + phase_y[:, None] * len(phases_x)
    shift = np.array(rows)[:, None] // stride[0] * line + np.array(columns) // stride[1]
    offsets = ((phase + phase_x) * (height * line) + shift).ravel()
    return offsets, phases_y, phases_x


def _row_copier(step: int) -> Any:
    """Return the function that fills rows of a scratch with every step-th element of rows of pixels."""
    copy = copy_vector(step)

    @helper
    @named("copy_rows", step)
    def copy_rows(pixels: Array, source: int, source_step: int, count: int, scratch: Array, at: int, line: int,
                  begin: int, end: int) -> None:
        """Zeros before column begin and from column end on; vectors may reach beyond a row's end."""
        vector = lanes(scratch)
        for _ in range(count):
            for t in range(0, begin, vector):
                put_zeros(pixels, 0, scratch, at + t)
            for t in range(0, end - begin, vector):
                copy(pixels, source + t * step, scratch, at + begin + t)
            for t in range(end, line, vector):
                put_zeros(pixels, 0, scratch, at + t)
            source += source_step
            at += line

    return copy_rows


_copy_rows, _copy_rows_by_2, _copy_rows_by_4 = (_row_copier(step) for step in (1, 2, 4))


@helper
def _put_zero_rows(pixels: Array, scratch: Array, begin: int, end: int) -> None:
    for t in range(begin, end, lanes(scratch)):
        put_zeros(pixels, 0, scratch, t)


@helper
def fill(images: Array, n: int, first_channel: int, last_channel: int, first_row: int, phases_y: Array,
         phases_x: Array, top: int, left: int, stride_y: int, stride_x: int, height: int, line: int,
         scratch: Array) -> None:
    """Copy channels of an image into phases of height x line, from a row of output on, zeros outside of the image.

    Vectors may reach beyond a row's end, which the next row writes again; so the scratch is longer by one vector.
    """
    vector, pixels = lanes(scratch), images.reshape(-1)
    channels, rows, columns = images.shape[1:]
    at, step = 0, stride_y * columns
    for c in range(first_channel, last_channel):
        for r in phases_y:
            above = (first_row * stride_y) + r + top                # the row of pixels that comes to the first one
            first = max(0, min(height, (stride_y - 1 - above) // stride_y))
            last = max(first, min(height, (rows - 1 - above) // stride_y + 1))
            for s in phases_x:
                column = s + left
                begin = max(0, min(line, (stride_x - 1 - column) // stride_x))
                end = max(begin, min(line, (columns - 1 - column) // stride_x + 1))
                count = last - first if begin < end else 0
                source = ((n * channels + c) * rows + above + first * stride_y) * columns + begin * stride_x + column
                whole = 0                                           # rows that may be read in whole vectors
                if count and stride_x in (1, 2, 4):
                    left_over = pixels.size - source - (end - begin + vector) * stride_x
                    whole = min(count, left_over // step + 1) if left_over >= 0 else 0
                _put_zero_rows(pixels, scratch, at, at + first * line)
                at += first * line
                if stride_x == 1:
                    _copy_rows(pixels, source, step, whole, scratch, at, line, begin, end)
                elif stride_x == 2:
                    _copy_rows_by_2(pixels, source, step, whole, scratch, at, line, begin, end)
                else:
                    _copy_rows_by_4(pixels, source, step, whole, scratch, at, line, begin, end)
                at += whole * line
                source += whole * step
                for _ in range(whole, count):
                    for t in range(begin):
                        scratch[at + t] = 0
                    for t in range(begin, end):
                        scratch[at + t] = pixels[source + (t - begin) * stride_x]
                    for t in range(end, line):
                        scratch[at + t] = 0
                    source += step
                    at += line
                _put_zero_rows(pixels, scratch, at, at + (height - first - count) * line)
                at += (height - first - count) * line
    for t in range(at, scratch.size):
        scratch[t] = 0
