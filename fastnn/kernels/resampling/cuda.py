"""Resampling on a GPU: a thread gives one result after another, neighbours in a row to neighbouring threads.

Where a row of a result lies is computed where it is needed, in float64, as `naive.pixel` and `naive.pixels` say.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for, real_of
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels.resampling.naive import Steps


@cuda.jit(device=True)
def _split(i: int, rows: int, columns: int) -> Any:
    """Return the plane, row and column of element i."""
    row = i // columns
    return row // rows, row % rows, i % columns


@cuda.jit(device=True)
def _pixel(i: int, step: float, size: int) -> int:
    return min(int(np.float32(i * step)), size - 1)


@cuda.jit(device=True)
def _pixels(i: int, step: float, size: int, align_corners: bool) -> Any:
    place = i * step if align_corners else max(0.0, (i + 0.5) * step - 0.5)
    first = min(int(place), size - 1)
    return first, min(first + 1, size - 1), place - first


@cuda.jit
def _nearest(x: Array, height: int, width: int, rows: int, columns: int, down: float, across: float, y: Array) -> None:
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        plane, row, column = _split(i, rows, columns)
        y[i] = x[(plane * height + _pixel(row, down, height)) * width + _pixel(column, across, width)]


@functools.cache
def _bilinear(real: Any) -> Any:
    @cuda.jit
    def bilinear(x: Array, height: int, width: int, rows: int, columns: int, down: float, across: float,
                 align_corners: bool, y: Array) -> None:
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            plane, row, column = _split(i, rows, columns)
            top, bottom, share_below = _pixels(row, down, height, align_corners)
            left, right, share_right = _pixels(column, across, width, align_corners)
            near, far = real(1.0 - share_right), real(share_right)
            above, below = (plane * height + top) * width, (plane * height + bottom) * width
            upper = near * x[above + left] + far * x[above + right]
            lower = near * x[below + left] + far * x[below + right]
            y[i] = real(1.0 - share_below) * upper + real(share_below) * lower

    return bilinear


# --- gradients ---------------------------------------------------------------------------------------------

# Rows ascend with those of the result. A pixel's gradient is summed up from a row of the result that may be before the
# first that it has a share in, to the last.


@cuda.jit(device=True)
def _start(pixel: int, step: float) -> int:
    """Return a row of a result that lies before a pixel, or the first."""
    return max(0, int((pixel - 1.0) / step) - 2) if step > 0 else 0


@functools.cache
def _nearest_backward(real: Any) -> Any:
    @cuda.jit
    def nearest_backward(grad_output: Array, rows: int, columns: int, height: int, width: int, down: float,
                         across: float, grad_x: Array) -> None:
        for cell in range(cuda.grid(1), grad_x.size, cuda.gridsize(1)):
            plane, h, w = _split(cell, height, width)
            total = real(0)
            for i in range(_start(h, down), rows):
                row = _pixel(i, down, height)
                if row > h:
                    break
                if row == h:
                    for j in range(_start(w, across), columns):
                        column = _pixel(j, across, width)
                        if column > w:
                            break
                        if column == w:
                            total += grad_output[(plane * rows + i) * columns + j]
            grad_x[cell] = total

    return nearest_backward


@cuda.jit(device=True)
def _share(pixel: int, first: int, second: int, share: float) -> float:
    """Return a pixel's share in a result that lies between two, one of which it is."""
    return (1.0 - share if pixel == first else 0.0) + (share if pixel == second else 0.0)


@functools.cache
def _bilinear_backward(real: Any) -> Any:
    @cuda.jit
    def bilinear_backward(grad_output: Array, rows: int, columns: int, height: int, width: int, down: float,
                          across: float, align_corners: bool, grad_x: Array) -> None:
        for cell in range(cuda.grid(1), grad_x.size, cuda.gridsize(1)):
            plane, h, w = _split(cell, height, width)
            total = real(0)
            for i in range(_start(h, down), rows):
                top, bottom, below = _pixels(i, down, height, align_corners)
                if top > h:
                    break
                if top == h or bottom == h:
                    share = real(_share(h, top, bottom, below))
                    for j in range(_start(w, across), columns):
                        left, right, far = _pixels(j, across, width, align_corners)
                        if left > w:
                            break
                        if left == w or right == w:
                            grad = grad_output[(plane * rows + i) * columns + j]
                            total += share * (real(_share(w, left, right, far)) * grad)
            grad_x[cell] = total

    return bilinear_backward


def nearest(x: Array, y: Array, steps: Steps) -> None:
    launch(_nearest, blocks_for(y.size), THREADS, x.reshape(-1), *x.shape[2:], *y.shape[2:], *steps, y.reshape(-1))


def bilinear(x: Array, y: Array, steps: Steps, align_corners: bool) -> None:
    launch(_bilinear(real_of(x)), blocks_for(y.size), THREADS, x.reshape(-1), *x.shape[2:], *y.shape[2:], *steps,
           align_corners, y.reshape(-1))


def nearest_backward(grad_output: Array, grad_x: Array, steps: Steps) -> None:
    launch(_nearest_backward(real_of(grad_x)), blocks_for(grad_x.size), THREADS, grad_output.reshape(-1),
           *grad_output.shape[2:], *grad_x.shape[2:], *steps, grad_x.reshape(-1))


def bilinear_backward(grad_output: Array, grad_x: Array, steps: Steps, align_corners: bool) -> None:
    launch(_bilinear_backward(real_of(grad_x)), blocks_for(grad_x.size), THREADS, grad_output.reshape(-1),
           *grad_output.shape[2:], *grad_x.shape[2:], *steps, align_corners, grad_x.reshape(-1))
