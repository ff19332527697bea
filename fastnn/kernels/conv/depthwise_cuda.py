"""Depthwise convolutions on a GPU, whose filters see one channel each: loops over the pixels, bound by memory.

There are too few products for tiles of them. A thread sums a few results that lie below each other, for which it reads
each weight once; the caches serve neighbouring results, which read the same pixels. For the weight gradient a block of
threads sums, for one row of a filter's taps, over some rows of the results, and then these sums are added up.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu import gemm
from fastnn.kernels._gpu.blocks import THREADS, block_sum, blocks_for, dense
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.sums import sum_rows
from fastnn.kernels._gpu.tuning import (
    DEPTHWISE_BAND,
    DEPTHWISE_BLOCKS,
    DEPTHWISE_MULTIPLE,
    DEPTHWISE_TAPS,
    DEPTHWISE_TERMS,
)
from fastnn.kernels.conv.geometry import Geometry


def fits(weight: Array, geometry: Geometry) -> bool:
    """Whether these are the filters of a depthwise convolution."""
    return (weight.shape[1] == 1 and weight.shape[2] * weight.shape[3] <= DEPTHWISE_TAPS
            and geometry.groups > 1 and len(weight) <= DEPTHWISE_MULTIPLE * geometry.groups)


def _kind(x: Array, weight: Array, y: Array, geometry: Geometry) -> tuple[Any, ...]:
    """What kernels are compiled for."""
    small = max(x.size, y.size, *((y.shape[2 + axis] + weight.shape[2 + axis]) * max(
        geometry.stride[axis], geometry.dilation[axis]) + geometry.padding[axis] for axis in (0, 1))) < gemm.SMALL
    return x.dtype, small, weight.shape[2:], geometry.stride


def _types(small: bool) -> tuple[Any, Any]:
    """Return the types of offsets and of indices."""
    return (np.int32, np.uint32) if small else (np.int64, np.uint64)


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, y: Array) -> None:
    """Write the convolution plus a bias, and with relu 0 where that is negative."""
    results = len(y) * len(weight) * -(-y.shape[2] // DEPTHWISE_BAND) * y.shape[3]
    launch(_convolve(*_kind(x, weight, y, geometry), bias is not None, relu), blocks_for(results), THREADS,
           x.reshape(-1), weight.reshape(-1), weight.reshape(-1) if bias is None else bias, *x.shape[1:], *y.shape,
           *geometry.padding, *geometry.dilation, y.reshape(-1))


@functools.cache
def _convolve(dtype: np.dtype, small: bool, taps: tuple[int, int], stride: tuple[int, int], has_bias: bool,
              relu: bool) -> Any:
    real, (taps_y, taps_x), (stride_y, stride_x), (offset, index) = dtype.type, taps, stride, _types(small)

    @cuda.jit
    def convolve(x: Array, weight: Array, bias: Array, channels: int, height: int, width: int, images: int,
                 filters: int, out_y: int, out_x: int, before_y: int, before_x: int, spacing_y: int, spacing_x: int,
                 y: Array) -> None:
        x, weight, y = dense(x), dense(weight), dense(y)
        total = cuda.local.array(DEPTHWISE_BAND, real)
        bands, multiple = (out_y + DEPTHWISE_BAND - 1) // DEPTHWISE_BAND, filters // channels
        bottom, right, down = index(height), index(width), offset(stride_y * width)
        for place in range(cuda.grid(1), images * filters * bands * out_x, cuda.gridsize(1)):
            line, j = place // out_x, place % out_x
            plane, first = line // bands, line % bands * DEPTHWISE_BAND
            n, o = plane // filters, plane % filters
            top, left = offset(first * stride_y - before_y), offset(j * stride_x - before_x)
            corner = offset(((n * channels + o // multiple) * height + top) * width + left)
            for b in range(DEPTHWISE_BAND):
                total[b] = real(0)
            for k in range(taps_y):
                row, begin = offset(top + k * spacing_y), offset(corner + k * spacing_y * width)
                for tap_x in range(taps_x):
                    inside, source = index(left + tap_x * spacing_x) < right, offset(begin + tap_x * spacing_x)
                    factor = weight[index((o * taps_y + k) * taps_x + tap_x)]
                    for b in range(DEPTHWISE_BAND):
                        pixel = real(0)
                        if inside and index(row + b * stride_y) < bottom:
                            pixel = x[index(source + b * down)]
                        total[b] += pixel * factor
            for b in range(DEPTHWISE_BAND):
                if first + b < out_y:
                    value = total[b]
                    if has_bias:
                        value += bias[o]
                    if relu and value < real(0):
                        value = real(0)
                    y[index((plane * out_y + first + b) * out_x + j)] = value

    return convolve


def input_gradient(grad_output: Array, weight: Array, bias: Array | None, geometry: Geometry, grad_x: Array) -> None:
    """Write the input gradient, plus a bias."""
    launch(_input_gradient(*_kind(grad_x, weight, grad_output, geometry), bias is not None), blocks_for(grad_x.size),
           THREADS, grad_output.reshape(-1), weight.reshape(-1), weight.reshape(-1) if bias is None else bias,
           *grad_output.shape[1:], *grad_x.shape, *geometry.padding, *geometry.dilation, grad_x.reshape(-1))


@functools.cache
def _input_gradient(dtype: np.dtype, small: bool, taps: tuple[int, int], stride: tuple[int, int],
                    has_bias: bool) -> Any:
    real, (taps_y, taps_x), (stride_y, stride_x), (offset, index) = dtype.type, taps, stride, _types(small)

    @cuda.jit
    def input_gradient(grad_output: Array, weight: Array, bias: Array, filters: int, out_y: int, out_x: int,
                       images: int, channels: int, height: int, width: int, before_y: int, before_x: int,
                       spacing_y: int, spacing_x: int, grad_x: Array) -> None:
        grad_output, weight, grad_x = dense(grad_output), dense(weight), dense(grad_x)
        multiple = filters // channels
        bottom, right = index(out_y), index(out_x)
        for place in range(cuda.grid(1), images * channels * height * width, cuda.gridsize(1)):
            line, column = place // width, place % width
            plane, row = line // height, line % height
            n, c = plane // channels, plane % channels
            top, left = offset(row + before_y), offset(column + before_x)
            total = real(0)
            for o in range(c * multiple, c * multiple + multiple):
                source = offset((n * filters + o) * out_y * out_x)
                for k in range(taps_y):
                    i = offset(top - k * spacing_y)
                    if i % stride_y == 0:
                        for tap_x in range(taps_x):
                            j = offset(left - tap_x * spacing_x)
                            if j % stride_x == 0:
                                at_i, at_j = offset(i // stride_y), offset(j // stride_x)
                                pixel = real(0)
                                if index(at_i) < bottom and index(at_j) < right:
                                    pixel = grad_output[index(source + at_i * out_x + at_j)]
                                total += pixel * weight[index((o * taps_y + k) * taps_x + tap_x)]
            if has_bias:
                total += bias[c]
            grad_x[index(place)] = total

    return input_gradient


def weight_gradient(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Array:
    """Return the weight gradient."""
    (images, filters, out_y, out_x), taps_y = grad_output.shape, weight.shape[2]
    lines = images * out_y
    run = max(1, min(DEPTHWISE_TERMS * THREADS // out_x, -(-lines * filters * taps_y // DEPTHWISE_BLOCKS)))
    parts = max(1, -(-lines // run))
    sums = _device.xp.empty((parts, weight.size), x.dtype)
    launch(_weight_gradient(*_kind(x, weight, grad_output, geometry)), parts * filters * taps_y, THREADS, x.reshape(-1),
           grad_output.reshape(-1), *x.shape[1:], *grad_output.shape, *geometry.padding, *geometry.dilation, run,
           sums.reshape(-1))
    return sum_rows(sums, x.dtype).reshape(weight.shape)


@functools.cache
def _weight_gradient(dtype: np.dtype, small: bool, taps: tuple[int, int], stride: tuple[int, int]) -> Any:
    real, (taps_y, taps_x), (stride_y, stride_x), (offset, index) = dtype.type, taps, stride, _types(small)

    @cuda.jit
    def weight_gradient(x: Array, grad_output: Array, channels: int, height: int, width: int, images: int, filters: int,
                        out_y: int, out_x: int, before_y: int, before_x: int, spacing_y: int, spacing_x: int, run: int,
                        sums: Array) -> None:
        """One row of a filter's taps, over the rows of one share."""
        x, grad_output = dense(x), dense(grad_output)
        terms = cuda.shared.array(THREADS, real)
        total = cuda.local.array(taps_x, real)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        k, o, part = block % taps_y, block // taps_y % filters, block // taps_y // filters
        c = o // (filters // channels)
        bottom, right = index(height), index(width)
        step_i, step_j = THREADS // out_x, THREADS % out_x
        line, j = part * run + thread // out_x, thread % out_x
        last = min(part * run + run, images * out_y)
        for tap_x in range(taps_x):
            total[tap_x] = real(0)
        while line < last:
            n, i = line // out_y, line % out_y
            grad = grad_output[index(((n * filters + o) * out_y + i) * out_x + j)]
            row, left = offset(i * stride_y - before_y + k * spacing_y), offset(j * stride_x - before_x)
            begin, inside = offset(((n * channels + c) * height + row) * width + left), index(row) < bottom
            for tap_x in range(taps_x):
                pixel = real(0)
                if inside and index(left + tap_x * spacing_x) < right:
                    pixel = x[index(begin + tap_x * spacing_x)]
                total[tap_x] += pixel * grad
            line, j = line + step_i, j + step_j
            if j >= out_x:
                line, j = line + 1, j - out_x
        for tap_x in range(taps_x):
            terms[thread] = total[tap_x]
            found = block_sum(terms, thread)
            if thread == 0:
                sums[((part * filters + o) * taps_y + k) * taps_x + tap_x] = found

    return weight_gradient
