"""Convolutions on the CPU: which algorithm runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastnn.kernels._arrays import Array, empty
from fastnn.kernels.conv import direct, is_for_winograd, small, winograd

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

_WORTH = 12.0                               # products for each value transformed from which on that pays

Gradients = tuple[Array | None, Array | None, Array | None]


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, algorithm: str,
           y: Array) -> None:
    if algorithm == "auto" and small.fits(weight, x, y):
        small.conv2d(x, weight, bias, relu, geometry, y)
    elif algorithm == "winograd" or (algorithm == "auto" and _is_faster_by_winograd(weight, y, geometry)):
        again = ~winograd.conv2d(x, weight, bias, relu, geometry, y)
        if again.any():
            part = np.empty_like(y[again])
            direct.conv2d(x[again], weight, bias, relu, geometry, part)
            y[again] = part
    else:
        direct.conv2d(x, weight, bias, relu, geometry, y)


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    algorithm: str) -> Gradients:
    if algorithm == "auto" and small.fits(weight, x, grad_output):
        return small.conv2d_backward(grad_output, x, weight, geometry, needs)
    if not (x.size and (algorithm == "winograd" or (
            algorithm == "auto" and _is_faster_by_winograd(weight, grad_output, geometry)))):
        return direct.conv2d_backward(grad_output, x, weight, geometry, needs)
    grad_x = empty(x.shape, x.dtype) if needs[0] else None
    grad_weight = np.empty_like(weight) if needs[1] else None
    if grad_x is not None:
        again = ~winograd.spread(grad_output, weight, geometry, grad_x)
        if again.any():
            grad_x[again] = direct.conv2d_backward(grad_output[again], x[again], weight, geometry,
                                                   (True, False, False))[0]
    if grad_weight is not None and not winograd.correlate(x, grad_output, geometry, grad_weight):
        grad_weight = direct.conv2d_backward(grad_output, x, weight, geometry, (False, True, False))[1]
    grad_bias = direct.conv2d_backward(grad_output, x, weight, geometry, (False, False, needs[2]))[2]
    return grad_x, grad_weight, grad_bias


def _is_faster_by_winograd(weight: Array, y: Array, geometry: Geometry) -> bool:
    """Measured; of one image's shape alone, so that its bits do not depend on the rest of the batch.

    Transforming costs in proportion to channels and filters, products to both multiplied; tiles that reach beyond the
    image do nothing for it.
    """
    filters, channels = weight.shape[:2]
    height, width = y.shape[2:]
    whole = height * width / (-(-height // 4) * -(-width // 4) * 16)
    return (y.dtype == np.float32 and is_for_winograd(weight, geometry)
            and whole * filters * channels / (filters + channels) >= _WORTH)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    (small if small.fits(weight, y, x) else direct).conv_transpose2d(x, weight, bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> Gradients:
    if small.fits(weight, grad_output, x):
        return small.conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
    return direct.conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
