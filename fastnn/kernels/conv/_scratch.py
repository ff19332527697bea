"""The padded scratch that convolutions walk over: how it is laid out, and how images get there.

A *phase* (r, s) holds the pixels whose row and column leave the remainders r and s modulo the strides, zeros around
them. There each tap of a filter is a shift, the same for all results.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.llvm import lanes
from fastnn.kernels._cpu.tiles import copy_vector, put_zeros
from fastnn.kernels._cpu.tuning import LEAST_BLOCKS

Axis: TypeAlias = tuple[tuple[int, ...], int]   # shifts of an axis' taps in its scratch, and the first pixel there


class Scratch(NamedTuple):
    """What fills a scratch with a band of rows of one group of one image: what compiled code takes of a plan."""

    groups: int                             # of channels
    band: int                               # rows of results that a scratch is for
    bands: int                              # of an image
    stride_y: int                           # of the pixels that become rows of one phase
    stride_x: int
    top: int                                # the row of an image that the first result reads, by the first tap
    left: int
    height: int                             # rows of a phase
    line: int                               # elements from one of them to the next
    share: int                              # channels of a part, each of which a block may fill
    parts: int
    part: int                               # elements of a part


def plan_scratch(channels: int, groups: int, taps: tuple[Axis, Axis], stride: tuple[int, int], vector: int, band: int,
                 rows: int, line: int, images: int = 0) -> tuple[Scratch, int, tuple[Array, Array, Array]]:
    """Return how scratches are filled for images of so many rows of results, the elements of one, and what `layout`
    says of them; for so many images in all where blocks share their scratches."""
    (tap_rows, top), (tap_columns, left) = taps
    bands, height = panels(rows, band), band + max(tap_rows) // stride[0]
    share = panels(channels, panels(LEAST_BLOCKS, images * groups * bands)) if images else channels
    offsets, phases_y, phases_x = layout(channels, stride, tap_rows, tap_columns, height, line)
    # Filling a part may write one vector more.
    offsets = (offsets.reshape(channels, -1) + np.arange(channels)[:, None] // share * vector).ravel()
    part, parts = share * len(phases_y) * len(phases_x) * height * line + vector, panels(channels, share)
    scratch = Scratch(groups, band, bands, *stride, top, left, height, line, share, parts, part)
    return scratch, parts * part, (offsets, phases_y, phases_x)


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


@helper
def fill_part(scratch: Scratch, phases_y: Array, phases_x: Array, images: Array, image: int, part: int,
              pixels: Array) -> None:
    """Fill the part of the scratch of an image, which counts bands of groups of images."""
    channels, band = images.shape[1] // scratch.groups, image % scratch.bands
    n, group = image // scratch.bands // scratch.groups, image // scratch.bands % scratch.groups
    first, last = part * scratch.share, min(channels, (part + 1) * scratch.share)
    fill(images, n, group * channels + first, group * channels + last, band * scratch.band, phases_y, phases_x,
         scratch.top, scratch.left, scratch.stride_y, scratch.stride_x, scratch.height, scratch.line,
         pixels[part * scratch.part : (part + 1) * scratch.part])


@block_kernel(writes="scratches")
def fill_parts(block: int, scratch: Scratch, phases_y: Array, phases_x: Array, images: Array, scratches: Array) -> None:
    """A part of a scratch that several blocks read."""
    image, part = divmod(block, scratch.parts)
    fill_part(scratch, phases_y, phases_x, images, image, part, scratches[image])
