"""Convolutions as their formulas say; the other implementations are compared with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._plans import Gradients
from fastnn.kernels.conv.geometry import Geometry
from fastnn.kernels.kept import KeptWeight

Index = tuple[int, int, int, int]


def products(image: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...], geometry: Geometry,
             ) -> Iterator[tuple[Index | None, Index, Index]]:
    """Yield the indices (pixel, weight, pixel of the result) of each product; None for a pixel outside of the image."""
    (sy, sx), (py, px), (dy, dx) = geometry.stride, geometry.padding, geometry.dilation
    channels, filters = weight[1], weight[0] // geometry.groups
    for n, o, i, j in np.ndindex(result):
        for c, k, l in np.ndindex(weight[1:]):                       # noqa: E741
            row, column = i * sy - py + k * dy, j * sx - px + l * dx
            inside = 0 <= row < image[2] and 0 <= column < image[3]
            yield (n, o // filters * channels + c, row, column) if inside else None, (o, c, k, l), (n, o, i, j)


def pixel_of(image: Array, pixel: Index | None) -> float:
    """Return a pixel; what is not in the image is 0."""
    return image.dtype.type(0) if pixel is None else image[pixel]


def input_gradient(grad_output: Array, weight: Array, image: tuple[int, ...], geometry: Geometry) -> Array:
    """Return the input gradient: a pixel sums over the results that taps reach it from, 0 outside of them."""
    (sy, sx), (py, px), (dy, dx) = geometry.stride, geometry.padding, geometry.dilation
    channels, filters = weight.shape[1], weight.shape[0] // geometry.groups
    height, width = grad_output.shape[2:]
    grad = np.zeros(image, grad_output.dtype)
    for n, c, row, column in np.ndindex(image):
        for k, l in np.ndindex(weight.shape[2:]):                    # noqa: E741
            i, no_row = divmod(row + py - k * dy, sy)
            j, no_column = divmod(column + px - l * dx, sx)
            if not (no_row or no_column):
                inside = 0 <= i < height and 0 <= j < width
                for o in range(c // channels * filters, (c // channels + 1) * filters):
                    result = pixel_of(grad_output, (n, o, i, j) if inside else None)
                    grad[n, c, row, column] += result * weight[o, c % channels, k, l]
    return grad


def weight_gradient(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Array:
    """Return the weight gradient."""
    grad = np.zeros_like(weight)
    for pixel, tap, result in products(x.shape, weight.shape, grad_output.shape, geometry):
        grad[tap] += grad_output[result] * pixel_of(x, pixel)
    return grad


def bias_gradient(grad_output: Array) -> Array:
    """The bias gradient."""
    total = np.zeros(grad_output.shape[1], grad_output.dtype)
    for n, o, i, j in np.ndindex(grad_output.shape):
        total[o] += grad_output[n, o, i, j]
    return total


def conv2d(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array, relu: bool,
           geometry: Geometry, algorithm: str) -> None:
    y[:] = 0 if bias is None else bias[:, None, None]
    for pixel, tap, result in products(x.shape, weight.shape, y.shape, geometry):
        y[result] += pixel_of(x, pixel) * weight[tap]
    if relu:
        y[y < 0] = 0


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    algorithm: str) -> Gradients:
    return (input_gradient(grad_output, weight, x.shape, geometry) if needs[0] else None,
            weight_gradient(x, grad_output, weight, geometry) if needs[1] else None,
            bias_gradient(grad_output) if needs[2] else None)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, y: Array, geometry: Geometry) -> None:
    y[:] = input_gradient(x, weight, y.shape, geometry)
    if bias is not None:
        y += bias[:, None, None]


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> Gradients:
    grad_x = None
    if needs[0]:
        grad_x = np.empty_like(x)
        conv2d(grad_output, weight, None, None, grad_x, False, geometry, "direct")
    return (grad_x, weight_gradient(grad_output, x, weight, geometry) if needs[1] else None,
            bias_gradient(grad_output) if needs[2] else None)
