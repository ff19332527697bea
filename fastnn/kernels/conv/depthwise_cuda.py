"""Depthwise convolutions on a GPU, whose filters see one channel each: loops over the pixels, bound by memory.

There are too few products for tiles of them. A thread sums a few results that lie below each other, for which it reads
each weight once; that pixels are read again by their neighbours is for the caches. The gradient by the weights is a
sum for each row of a filter's taps and each share of the images, in a block of threads, and then over the shares.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.kernels import _cuda
from fastnn.kernels._arrays import Array
from fastnn.kernels._blocks import THREADS, block_sum, blocks_for
from fastnn.kernels._cuda import SIMULATED, cuda, launch
from fastnn.kernels._sums import sum_rows

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

_BAND = 4                                       # results of a thread
_MULTIPLE = 4                                   # filters for a channel: more are better done as a product
_TERMS = 4 if SIMULATED else 256                # that a thread adds up at most, where there are images enough to share
_BLOCKS = 2 if SIMULATED else 132 * 8


def fits(weight: Array, geometry: Geometry) -> bool:
    """Whether these are the filters of a depthwise convolution."""
    return weight.shape[1] == 1 and geometry.groups > 1 and len(weight) <= _MULTIPLE * geometry.groups


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, y: Array) -> None:
    """Write the convolution plus a bias, and with relu 0 where that is negative."""
    bands = -(-y.shape[2] // _BAND) * y.shape[3]
    launch(_convolve(x.dtype, bias is not None, relu, weight.shape[2:], geometry.stride),
           blocks_for(len(y) * len(weight) * bands), THREADS, x, weight, weight if bias is None else bias,
           *geometry.padding, *geometry.dilation, y)


@functools.cache
def _convolve(dtype: np.dtype, has_bias: bool, relu: bool, taps: tuple[int, int], stride: tuple[int, int]) -> Any:
    real, (taps_y, taps_x), (stride_y, stride_x) = dtype.type, taps, stride

    @cuda.jit
    def convolve(x: Array, weight: Array, bias: Array, before_y: int, before_x: int, spacing_y: int, spacing_x: int,
                 y: Array) -> None:
        _, channels, height, width = x.shape
        images, filters, out_y, out_x = y.shape
        bands = (out_y + _BAND - 1) // _BAND
        total = cuda.local.array(_BAND, real)
        for place in range(cuda.grid(1), images * filters * bands * out_x, cuda.gridsize(1)):
            line, j = place // out_x, place % out_x
            plane, first = line // bands, line % bands * _BAND
            n, o = plane // filters, plane % filters
            c = o // (filters // channels)
            for b in range(_BAND):
                total[b] = real(0)
            for k in range(taps_y):
                top = first * stride_y - before_y + k * spacing_y
                for l in range(taps_x):                              # noqa: E741
                    column = j * stride_x - before_x + l * spacing_x
                    factor = weight[o, 0, k, l]
                    for b in range(_BAND):
                        row = top + b * stride_y
                        pixel = real(0)
                        if 0 <= row < height and 0 <= column < width:
                            pixel = x[n, c, row, column]
                        total[b] += pixel * factor
            for b in range(_BAND):
                if first + b < out_y:
                    value = total[b]
                    if has_bias:
                        value += bias[o]
                    if relu and value < real(0):
                        value = real(0)
                    y[n, o, first + b, j] = value

    return convolve


def spread(grad_output: Array, weight: Array, bias: Array | None, geometry: Geometry, grad_x: Array) -> None:
    """Write the gradient by the images, plus a bias."""
    launch(_spread(grad_x.dtype, bias is not None, weight.shape[2:], geometry.stride), blocks_for(grad_x.size), THREADS,
           grad_output, weight, weight if bias is None else bias, *geometry.padding, *geometry.dilation, grad_x)


@functools.cache
def _spread(dtype: np.dtype, has_bias: bool, taps: tuple[int, int], stride: tuple[int, int]) -> Any:
    real, (taps_y, taps_x), (stride_y, stride_x) = dtype.type, taps, stride

    @cuda.jit
    def spread(grad_output: Array, weight: Array, bias: Array, before_y: int, before_x: int, spacing_y: int,
               spacing_x: int, grad_x: Array) -> None:
        _, filters, out_y, out_x = grad_output.shape
        images, channels, height, width = grad_x.shape
        multiple = filters // channels
        for place in range(cuda.grid(1), images * channels * height * width, cuda.gridsize(1)):
            line, column = place // width, place % width
            plane, row = line // height, line % height
            n, c = plane // channels, plane % channels
            total = real(0)
            for o in range(c * multiple, c * multiple + multiple):
                for k in range(taps_y):
                    i = row + before_y - k * spacing_y
                    if i % stride_y == 0:
                        i //= stride_y
                        for l in range(taps_x):                      # noqa: E741
                            j = column + before_x - l * spacing_x
                            if j % stride_x == 0:
                                j //= stride_x
                                pixel = real(0)
                                if 0 <= i < out_y and 0 <= j < out_x:
                                    pixel = grad_output[n, o, i, j]
                                total += pixel * weight[o, 0, k, l]
            if has_bias:
                total += bias[c]
            grad_x[n, c, row, column] = total

    return spread


def correlate(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Array:
    """Return the gradient by the weights."""
    images, filters, pixels = len(x), len(weight), math.prod(grad_output.shape[2:])
    taps_y, taps_x = weight.shape[2:]
    parts = max(1, min(images, max(-(-_BLOCKS // (filters * taps_y)), -(-images * pixels // (_TERMS * THREADS)))))
    run = max(1, -(-images // parts))
    parts = max(1, -(-images // run))
    sums = _cuda.xp.empty((parts, filters, taps_y, taps_x), x.dtype)
    launch(_correlate(x.dtype, taps_x, geometry.stride), parts * filters * taps_y, THREADS, x, grad_output, run,
           *geometry.padding, *geometry.dilation, sums)
    return sum_rows(sums.reshape(parts, -1), x.dtype).reshape(weight.shape)


@functools.cache
def _correlate(dtype: np.dtype, taps_x: int, stride: tuple[int, int]) -> Any:
    real, (stride_y, stride_x) = dtype.type, stride

    @cuda.jit
    def correlate(x: Array, grad_output: Array, run: int, before_y: int, before_x: int, spacing_y: int, spacing_x: int,
                  sums: Array) -> None:
        """One row of a filter's taps, over the images of one share."""
        parts = cuda.shared.array(THREADS, real)
        total = cuda.local.array(taps_x, real)
        images, channels, height, width = x.shape
        _, filters, out_y, out_x = grad_output.shape
        taps_y = sums.shape[2]
        thread = cuda.threadIdx.x
        k, block = cuda.blockIdx.x % taps_y, cuda.blockIdx.x // taps_y
        o, part = block % filters, block // filters
        c = o // (filters // channels)
        for l in range(taps_x):                                      # noqa: E741
            total[l] = real(0)
        step_i, step_j = THREADS // out_x, THREADS % out_x
        for n in range(part * run, min(part * run + run, images)):
            i, j = thread // out_x, thread % out_x
            while i < out_y:
                row = i * stride_y - before_y + k * spacing_y
                grad = grad_output[n, o, i, j]
                for l in range(taps_x):                              # noqa: E741
                    column = j * stride_x - before_x + l * spacing_x
                    pixel = real(0)
                    if 0 <= row < height and 0 <= column < width:
                        pixel = x[n, c, row, column]
                    total[l] += pixel * grad
                i, j = i + step_i, j + step_j
                if j >= out_x:
                    i, j = i + 1, j - out_x
        for l in range(taps_x):                                      # noqa: E741
            parts[thread] = total[l]
            found = block_sum(parts, thread)
            if thread == 0:
                sums[part, o, k, l] = found

    return correlate
