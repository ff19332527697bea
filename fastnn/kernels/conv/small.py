"""Convolutions of so few products that the launch takes longer than they do: plain loops, all in one launch.

Whether they run here follows from the shapes of one image, so that its bits do not depend on the rest of the batch.
A tap of a filter lies in the image for a rectangle of results. The others see a zero there, which matters only to
what is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import sums_helper
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.tuning import SMALL_BATCH_PRODUCTS, SMALL_PRODUCTS
from fastnn.kernels._outputs import EMPTY, result_of
from fastnn.kernels._plans import Gradients, Needs
from fastnn.kernels.conv import direct
from fastnn.kernels.conv.geometry import Geometry
from fastnn.kernels.conv.sparse import add_outside, filter_gradient, reach

Backward: TypeAlias = Callable[[Array, Array, Array], Gradients]


def fits(weight: Array, image: Array, result: Array) -> bool:
    """Whether a convolution from images to results of these shapes is done here."""
    return weight.size * (image.size + result.size) <= SMALL_PRODUCTS * len(image)


def plan_conv2d(x: Array, weight: Array, y: Array, relu: bool, geometry: Geometry) -> Callable[..., None]:
    """Return a function (x, weight, bias, kept, y)."""
    launch = _convolve_image.launch(len(x), work=weight.size * y.size)
    none, numbers, positive = EMPTY[x.dtype], geometry.numbers, int(relu)

    def small_conv2d(x: Array, weight: Array, bias: Array | None, kept: Any, y: Array) -> None:
        launch(x, weight, none if bias is None else bias, numbers, positive, y)

    return small_conv2d


def plan_conv_transpose2d(x: Array, weight: Array, y: Array, geometry: Geometry) -> Callable[..., None]:
    """Return a function (x, weight, bias, y)."""
    launch = _convolve_transposed_image.launch(len(x), work=weight.size * y.size)
    none, numbers = EMPTY[x.dtype], geometry.numbers

    def small_conv_transpose2d(x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        launch(x, weight, none if bias is None else bias, numbers, y)

    return small_conv_transpose2d


def plan_conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: Needs) -> Backward:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    return _plan_backward(_gradients, direct.plan_conv2d_backward, grad_output, x, weight, geometry, needs)


def plan_conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                                   needs: Needs) -> Backward:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    return _plan_backward(_transposed_gradients, direct.plan_conv_transpose2d_backward, grad_output, x, weight,
                          geometry, needs)


def _plan_backward(kernel: BlockKernel, otherwise: Callable[..., Backward], grad_output: Array, x: Array,
                   weight: Array, geometry: Geometry, needs: Needs) -> Backward:
    """The gradients by a kernel; the weight and bias gradients of a large batch are done otherwise."""
    work = weight.size * x.size
    if work > SMALL_BATCH_PRODUCTS and (needs[1] or needs[2]):
        by_x = _plan_backward(kernel, otherwise, grad_output, x, weight, geometry, (needs[0], False, False))
        by_others = otherwise(grad_output, x, weight, geometry, (False, *needs[1:]))

        def of_many(grad_output: Array, x: Array, weight: Array) -> Gradients:
            return by_x(grad_output, x, weight)[0], *by_others(grad_output, x, weight)[1:]

        return of_many
    new_x = result_of(x.shape, x.dtype, x).new if needs[0] else None
    shape, filters, dtype, numbers = weight.shape, grad_output.shape[1], x.dtype, geometry.numbers
    launch = kernel.launch(len(x) + 1, work=work)
    no_filters, no_bias = np.empty((0, 0, 0, 0), dtype), EMPTY[dtype]

    def small_backward(grad_output: Array, x: Array, weight: Array) -> Gradients:
        grad_x = new_x() if new_x else None
        grad_weight = np.empty(shape, dtype) if needs[1] else None
        grad_bias = np.empty(filters, dtype) if needs[2] else None
        launch(grad_output, x, weight, numbers, no_filters if grad_x is None else grad_x,
               no_filters if grad_weight is None else grad_weight, no_bias if grad_bias is None else grad_bias)
        return grad_x, grad_weight, grad_bias

    return small_backward


# --- blocks: images, and in a last one the weight and bias gradients ---------------------------------------


@block_kernel(writes="y", typed_by="x")
def _convolve_image(n: int, x: Array, weight: Array, bias: Array, numbers: Array, relu: int, y: Array) -> None:
    _convolve(n, x, weight, bias, numbers, y)
    if relu:
        values = y[n].reshape(-1)
        for i in range(values.size):
            if values[i] < 0:
                values[i] = 0


@block_kernel(writes="y", typed_by="x")
def _convolve_transposed_image(n: int, x: Array, weight: Array, bias: Array, numbers: Array, y: Array) -> None:
    _input_gradient(n, x, weight, bias, numbers, y)


@block_kernel(writes="grad_x grad_weight grad_bias", typed_by="x")
def _gradients(n: int, grad_output: Array, x: Array, weight: Array, numbers: Array, grad_x: Array, grad_weight: Array,
               grad_bias: Array) -> None:
    if n == len(x):
        for o in range(len(grad_weight)):
            filter_gradient(o, x, grad_output, numbers, grad_weight)
        _sum_channels(grad_output, grad_bias)
    elif grad_x.size:
        _input_gradient(n, grad_output, weight, weight[0, 0, 0, :0], numbers, grad_x)


@block_kernel(writes="grad_x grad_weight grad_bias", typed_by="x")
def _transposed_gradients(n: int, grad_output: Array, x: Array, weight: Array, numbers: Array, grad_x: Array,
                          grad_weight: Array, grad_bias: Array) -> None:
    if n == len(x):
        for o in range(len(grad_weight)):
            filter_gradient(o, grad_output, x, numbers, grad_weight)
        _sum_channels(grad_output, grad_bias)
    elif grad_x.size:
        _convolve(n, grad_output, weight, weight[0, 0, 0, :0], numbers, grad_x)


@sums_helper
def _sum_channels(grad_output: Array, total: Array) -> None:
    for c in range(total.size):
        channel = 0.0
        for n in range(len(grad_output)):
            for value in grad_output[n, c].reshape(-1):
                channel += np.float64(value)
        total[c] = channel


@sums_helper
def _convolve(n: int, image: Array, weight: Array, bias: Array, numbers: Array, result: Array) -> None:
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, groups = numbers
    filters, channels, kernel_y, kernel_x = weight.shape
    zero = result.dtype.type(0)
    for o in range(filters):
        x, y = image[n, o // (filters // groups) * channels:], result[n, o]
        y[:] = zero
        for c in range(channels):
            for k in range(kernel_y):
                down, top, bottom = reach(k, stride_y, padding_y, dilation_y, x.shape[1], y.shape[0])
                for l in range(kernel_x):                                       # noqa: E741
                    right, begin, end = reach(l, stride_x, padding_x, dilation_x, x.shape[2], y.shape[1])
                    w = weight[o, c, k, l]
                    for i in range(top, bottom):
                        row, first = max(0, i * stride_y + down), max(0, begin * stride_x + right)
                        if stride_x == 1:
                            for j in range(end - begin):
                                y[i, begin + j] += w * x[c, row, first + j]
                        else:
                            for j in range(end - begin):
                                y[i, begin + j] += w * x[c, row, first + j * stride_x]
                    if not np.isfinite(w):
                        add_outside(y, top, bottom, begin, end, w * zero)
        if bias.size:
            y += bias[o]


@sums_helper
def _input_gradient(n: int, result: Array, weight: Array, bias: Array, numbers: Array, image: Array) -> None:
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, groups = numbers
    filters, channels, kernel_y, kernel_x = weight.shape
    filters //= groups
    zero = image.dtype.type(0)
    for c in range(image.shape[1]):
        x, first_filter = image[n, c], c // channels * filters
        x[:] = zero
        for o in range(first_filter, first_filter + filters):
            y = result[n, o]
            for k in range(kernel_y):
                down, top, bottom = reach(k, stride_y, padding_y, dilation_y, x.shape[0], y.shape[0])
                for l in range(kernel_x):                                       # noqa: E741
                    right, begin, end = reach(l, stride_x, padding_x, dilation_x, x.shape[1], y.shape[1])
                    w = weight[o, c % channels, k, l]
                    for i in range(top, bottom):
                        row, first = max(0, i * stride_y + down), max(0, begin * stride_x + right)
                        if stride_x == 1:
                            for j in range(end - begin):
                                x[row, first + j] += w * y[i, begin + j]
                        else:
                            for j in range(end - begin):
                                x[row, first + j * stride_x] += w * y[i, begin + j]
                    if not np.isfinite(w):
                        for row in range(x.shape[0]):
                            for column in range(x.shape[1]):
                                i, j = (row - down) // stride_y, (column - right) // stride_x
                                if (row - down == i * stride_y and column - right == j * stride_x
                                        and not (top <= i < bottom and begin <= j < end)):
                                    x[row, column] += w * zero
        if bias.size:
            x += bias[c]
