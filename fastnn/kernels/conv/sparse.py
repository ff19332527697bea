"""Convolutions whose image would be lost in the zeros around it: loops over the taps that meet pixels.

With a padding far beyond the image, most taps of a filter see nothing of it, and a scratch that holds the zeros would
grow with the padding and the dilation. Here time goes with the products that count, and memory is a row of sums, which
are float64. NaN and inf make NaN of the zeros outside of the image, so weights are searched for them separately.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper, sums_helper
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels.conv.geometry import Geometry


def plan_conv2d(x: Array, weight: Array, y: Array, relu: bool, geometry: Geometry) -> Callable[..., None]:
    """Return a function (x, weight, bias, y)."""
    launch = _convolve.launch(len(x) * len(weight), work=y.size + weight.size * x.size)
    none, numbers, positive = EMPTY[x.dtype], geometry.numbers, int(relu)
    return lambda x, weight, bias, y: launch(x, weight, none if bias is None else bias, numbers, positive, y)


def plan_input_gradient(grad_output: Array, weight: Array, geometry: Geometry, grad_x: Array) -> Callable[..., None]:
    """Return a function (grad_output, weight, bias, grad_x)."""
    launch = _input_gradient.launch(len(grad_x) * grad_x.shape[1], work=grad_x.size + weight.size * grad_output.size)
    none, numbers = EMPTY[grad_x.dtype], geometry.numbers
    return lambda grad_output, weight, bias, grad_x: launch(grad_output, weight, none if bias is None else bias,
                                                            numbers, grad_x)


def plan_weight_gradient(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Callable[..., None]:
    """Return a function (x, grad_output, grad_weight)."""
    launch = _weight_gradient.launch(len(weight), work=grad_output.size + weight.size * x.size)
    numbers = geometry.numbers
    return lambda x, grad_output, grad_weight: launch(x, grad_output, numbers, grad_weight)


@inlined_helper
def reach(tap: int, stride: int, padding: int, dilation: int, pixels: int, results: int) -> tuple[int, int, int]:
    """Result i reads pixel i stride + shift at a tap: the shift, and from where to where that lies in the image."""
    shift = tap * dilation - padding
    begin = min(results, max(0, -(shift // stride)))
    return shift, begin, max(begin, min(results, (pixels - 1 - shift) // stride + 1))


@helper
def add_outside(result: Array, top: int, bottom: int, begin: int, end: int, value: float) -> None:
    """Add to all results of an image but those of a rectangle, where a tap meets no pixel but a zero."""
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            if not (top <= i < bottom and begin <= j < end):
                result[i, j] += value


@block_kernel(writes="y", typed_by="x", sums=True)
def _convolve(block: int, x: Array, weight: Array, bias: Array, numbers: Array, relu: int, y: Array) -> None:
    """One filter of one image."""
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, groups = numbers
    filters, channels, kernel_y, kernel_x = weight.shape
    n, o = block // filters, block % filters
    image, result, zero = x[n, o // (filters // groups) * channels:], y[n, o], y.dtype.type(0)
    total, start = np.empty(result.shape[1], np.float64), np.float64(bias[o]) if bias.size else 0.0
    for i in range(result.shape[0]):
        total[:] = start
        for k in range(kernel_y):
            row = i * stride_y + k * dilation_y - padding_y
            if 0 <= row < image.shape[1]:
                for l in range(kernel_x):                                           # noqa: E741
                    right, begin, end = reach(l, stride_x, padding_x, dilation_x, image.shape[2], total.size)
                    first = max(0, begin * stride_x + right)
                    for c in range(channels if begin < end else 0):
                        w = np.float64(weight[o, c, k, l])
                        for j in range(end - begin):
                            total[begin + j] += w * image[c, row, first + j * stride_x]
        for j in range(total.size):
            result[i, j] = total[j]
    for c in range(channels):
        for k in range(kernel_y):
            _, top, bottom = reach(k, stride_y, padding_y, dilation_y, image.shape[1], result.shape[0])
            for l in range(kernel_x):                                               # noqa: E741
                _, begin, end = reach(l, stride_x, padding_x, dilation_x, image.shape[2], result.shape[1])
                w = weight[o, c, k, l]
                if not np.isfinite(w):
                    add_outside(result, top, bottom, begin, end, w * zero)
    if relu:
        for i in range(result.shape[0]):
            for j in range(result.shape[1]):
                if result[i, j] < 0:
                    result[i, j] = 0


@block_kernel(writes="grad_x", typed_by="grad_output", sums=True)
def _input_gradient(block: int, grad_output: Array, weight: Array, bias: Array, numbers: Array, grad_x: Array) -> None:
    """One channel of one image."""
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, groups = numbers
    filters, channels, kernel_y, kernel_x = weight.shape
    n, c = block // grad_x.shape[1], block % grad_x.shape[1]
    first_filter, end_filter = c // channels * (filters // groups), (c // channels + 1) * (filters // groups)
    image, zero, (height, width) = grad_x[n, c], grad_x.dtype.type(0), grad_output.shape[2:]
    total, start = np.empty(image.shape[1], np.float64), np.float64(bias[c]) if bias.size else 0.0
    for row in range(image.shape[0]):
        total[:] = start
        for k in range(kernel_y):
            down = row + padding_y - k * dilation_y
            if down % stride_y == 0 and 0 <= down < height * stride_y:
                for l in range(kernel_x):                                           # noqa: E741
                    right, begin, end = reach(l, stride_x, padding_x, dilation_x, total.size, width)
                    first = max(0, begin * stride_x + right)
                    for o in range(first_filter, end_filter if begin < end else first_filter):
                        w = np.float64(weight[o, c % channels, k, l])
                        for j in range(end - begin):
                            total[first + j * stride_x] += w * grad_output[n, o, down // stride_y, begin + j]
        for column in range(total.size):
            image[row, column] = total[column]
    for o in range(first_filter, end_filter):
        for k in range(kernel_y):
            for l in range(kernel_x):                                               # noqa: E741
                w = weight[o, c % channels, k, l]
                if not np.isfinite(w):
                    for row in range(image.shape[0]):
                        down = row + padding_y - k * dilation_y
                        for column in range(image.shape[1]):
                            right = column + padding_x - l * dilation_x
                            if down % stride_y == 0 and right % stride_x == 0 and not (
                                    0 <= down < height * stride_y and 0 <= right < width * stride_x):
                                image[row, column] += w * zero


@block_kernel(writes="grad_weight", typed_by="x")
def _weight_gradient(o: int, x: Array, grad_output: Array, numbers: Array, grad_weight: Array) -> None:
    filter_gradient(o, x, grad_output, numbers, grad_weight)


@sums_helper
def filter_gradient(o: int, image: Array, result: Array, numbers: Array, grad_weight: Array) -> None:
    """The gradient by one filter, summed in float64."""
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, groups = numbers
    filters, channels, kernel_y, kernel_x = grad_weight.shape
    height, width = result.shape[2:]
    first_channel = o // (filters // groups) * channels
    nothing = 0.0                                       # but for NaN, if any result is not finite
    for n in range(result.shape[0]):
        for value in result[n, o].reshape(-1):
            nothing += value * 0.0
    for c in range(channels):
        for k in range(kernel_y):
            down, top, bottom = reach(k, stride_y, padding_y, dilation_y, image.shape[2], height)
            for l in range(kernel_x):                                               # noqa: E741
                right, begin, end = reach(l, stride_x, padding_x, dilation_x, image.shape[3], width)
                total = 0.0
                for n in range(result.shape[0]):
                    x, y = image[n, first_channel + c], result[n, o]
                    for i in range(top, bottom):
                        row, first = max(0, i * stride_y + down), max(0, begin * stride_x + right)
                        if stride_x == 1:
                            for j in range(end - begin):
                                total += np.float64(y[i, begin + j]) * x[row, first + j]
                        else:
                            for j in range(end - begin):
                                total += np.float64(y[i, begin + j]) * x[row, first + j * stride_x]
                    if nothing != 0:
                        for i in range(height):
                            for j in range(width):
                                if not (top <= i < bottom and begin <= j < end):
                                    total += y[i, j] * 0.0
                grad_weight[o, c, k, l] = total
