"""Convolutions as their formulas say: the judge of the other implementations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fastnn.kernels._arrays import Array

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry


def taps(image: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...], geometry: Geometry,
         ) -> Iterator[tuple[tuple[int, int, int, int], tuple[int, int, int, int], tuple[int, int, int, int]]]:
    """Yield the indices (image pixel, weight, result pixel) of each product of a convolution.

    Products with the zeros around the image are left out.
    """
    (sy, sx), (py, px), (dy, dx) = geometry.stride, geometry.padding, geometry.dilation
    channels, filters = weight[1], weight[0] // geometry.groups
    for n, o, i, j in np.ndindex(result):
        for c, k, l in np.ndindex(weight[1:]):                       # noqa: E741
            row, column = i * sy - py + k * dy, j * sx - px + l * dx
            if 0 <= row < image[2] and 0 <= column < image[3]:
                yield (n, o // filters * channels + c, row, column), (o, c, k, l), (n, o, i, j)


def conv2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    y[:] = 0 if bias is None else bias[:, None, None]
    for pixel, tap, result in taps(x.shape, weight.shape, y.shape, geometry):
        y[result] += x[pixel] * weight[tap]


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    ) -> tuple[Array | None, Array | None, Array | None]:
    grad_x, grad_weight, grad_bias = np.zeros_like(x), np.zeros_like(weight), np.zeros(len(weight), x.dtype)
    for pixel, tap, result in taps(x.shape, weight.shape, grad_output.shape, geometry):
        grad_x[pixel] += grad_output[result] * weight[tap]
        grad_weight[tap] += grad_output[result] * x[pixel]
    for n, o, i, j in np.ndindex(grad_output.shape):
        grad_bias[o] += grad_output[n, o, i, j]
    return (grad_x if needs[0] else None, grad_weight if needs[1] else None, grad_bias if needs[2] else None)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    y[:] = 0 if bias is None else bias[:, None, None]
    for pixel, tap, result in taps(y.shape, weight.shape, x.shape, geometry):
        y[pixel] += x[result] * weight[tap]


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> tuple[Array | None, Array | None, Array | None]:
    grad_x, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    grad_bias = np.zeros(grad_output.shape[1], x.dtype)
    for pixel, tap, result in taps(grad_output.shape, weight.shape, x.shape, geometry):
        grad_x[result] += grad_output[pixel] * weight[tap]
        grad_weight[tap] += grad_output[pixel] * x[result]
    for n, o, i, j in np.ndindex(grad_output.shape):
        grad_bias[o] += grad_output[n, o, i, j]
    return (grad_x if needs[0] else None, grad_weight if needs[1] else None, grad_bias if needs[2] else None)
