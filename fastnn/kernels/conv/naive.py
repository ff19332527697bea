"""Convolutions as their formulas say: the judge of the other implementations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fastnn.kernels._arrays import Array

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

Index = tuple[int, int, int, int]
Gradients = tuple[Array | None, Array | None, Array | None]


def products(weight: tuple[int, ...], result: tuple[int, ...], geometry: Geometry,
             ) -> Iterator[tuple[Index, Index, Index]]:
    """Yield the indices (pixel of the padded image, weight, pixel of the result) of each product of a convolution."""
    (sy, sx), (dy, dx) = geometry.stride, geometry.dilation
    channels, filters = weight[1], weight[0] // geometry.groups
    for n, o, i, j in np.ndindex(result):
        for c, k, l in np.ndindex(weight[1:]):                       # noqa: E741
            yield (n, o // filters * channels + c, i * sy + k * dy, j * sx + l * dx), (o, c, k, l), (n, o, i, j)


def pad(image: Array, weight: tuple[int, ...], result: tuple[int, ...], geometry: Geometry) -> Array:
    """Return the images with zeros around them, as far as taps reach."""
    widths = [(0, 0), (0, 0)]
    for axis in (0, 1):
        reach = ((result[2 + axis] - 1) * geometry.stride[axis] + (weight[2 + axis] - 1) * geometry.dilation[axis] + 1)
        before = geometry.padding[axis]
        widths.append((before, max(0, reach - before - image.shape[2 + axis])))
    return np.pad(image, widths)


def crop(padded: Array, image: Array, geometry: Geometry) -> Array:
    """Undo `pad`."""
    top, left = geometry.padding
    return padded[:, :, top : top + image.shape[2], left : left + image.shape[3]]


def sum_pixels(grad_output: Array) -> Array:
    """The gradient by the bias."""
    total = np.zeros(grad_output.shape[1], grad_output.dtype)
    for n, o, i, j in np.ndindex(grad_output.shape):
        total[o] += grad_output[n, o, i, j]
    return total


def conv2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    padded = pad(x, weight.shape, y.shape, geometry)
    y[:] = 0 if bias is None else bias[:, None, None]
    for pixel, tap, result in products(weight.shape, y.shape, geometry):
        y[result] += padded[pixel] * weight[tap]


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                    needs: tuple[bool, bool, bool]) -> Gradients:
    padded = pad(x, weight.shape, grad_output.shape, geometry)
    grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
    for pixel, tap, result in products(weight.shape, grad_output.shape, geometry):
        if needs[0]:
            grad_padded[pixel] += grad_output[result] * weight[tap]
        if needs[1]:
            grad_weight[tap] += grad_output[result] * padded[pixel]
    return (crop(grad_padded, x, geometry).copy() if needs[0] else None, grad_weight if needs[1] else None,
            sum_pixels(grad_output) if needs[2] else None)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    padded = np.zeros_like(pad(y, weight.shape, x.shape, geometry))
    for pixel, tap, result in products(weight.shape, x.shape, geometry):
        padded[pixel] += x[result] * weight[tap]
    y[:] = crop(padded, y, geometry)
    if bias is not None:
        y += bias[:, None, None]


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> Gradients:
    padded = pad(grad_output, weight.shape, x.shape, geometry)
    grad_x, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    for pixel, tap, result in products(weight.shape, x.shape, geometry):
        if needs[0]:
            grad_x[result] += padded[pixel] * weight[tap]
        if needs[1]:
            grad_weight[tap] += padded[pixel] * x[result]
    return (grad_x if needs[0] else None, grad_weight if needs[1] else None,
            sum_pixels(grad_output) if needs[2] else None)
