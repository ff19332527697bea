"""Convolutions on the CPU: which algorithm runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.elementwise import same_bits
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.tuning import WINOGRAD_PRODUCTS, WINOGRAD_WEIGHT_PRODUCTS, WINOGRAD_WEIGHT_TILES
from fastnn.kernels._memory import empty
from fastnn.kernels.conv import direct, is_for_winograd, small, winograd, winograd_weights
from fastnn.kernels.conv._tiles import results_of

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry, KeptFilters


Gradients = tuple[Array | None, Array | None, Array | None]


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, algorithm: str,
           kept: KeptFilters | None, y: Array) -> None:
    if algorithm == "auto" and small.fits(weight, x, y):
        small.conv2d(x, weight, bias, relu, geometry, y)
    elif algorithm == "winograd" or (algorithm == "auto" and _saved(weight, y, geometry) >= WINOGRAD_PRODUCTS):
        packed = None if kept is None else _transformed(weight, kept)
        again = ~winograd.conv2d(x, weight, bias, relu, geometry, y, packed)
        if again.any():
            part = y[again]
            direct.conv2d(x[again], weight, bias, relu, geometry, part)
            y[again] = part
    else:
        direct.conv2d(x, weight, bias, relu, geometry, y)


def _transformed(weight: Array, kept: KeptFilters) -> Array:
    """Return the filters as Winograd's convolution reads them: those that are kept, if they are of the same bits."""
    last = kept.last
    if last is None or last[0].shape != weight.shape or last[0].dtype != weight.dtype or not same_bits(last[0], weight):
        own = weight.copy()                 # the other one may change meanwhile
        packed = winograd.pack(own)
        own.flags.writeable = packed.flags.writeable = False        # no result may be written there
        last = kept.last = own, packed
    return last[1]


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    algorithm: str) -> Gradients:
    if algorithm == "auto" and small.fits(weight, x, grad_output):
        return small.conv2d_backward(grad_output, x, weight, geometry, needs)
    by_x = by_weight = algorithm == "winograd"
    if algorithm == "auto":
        saved = _saved(weight, grad_output, geometry)
        by_x = saved >= WINOGRAD_PRODUCTS
        by_weight = (saved >= WINOGRAD_WEIGHT_PRODUCTS
                     and len(x) * _tiles(weight, grad_output) >= WINOGRAD_WEIGHT_TILES[weight.shape[2]])
    by_x, by_weight = by_x and needs[0] and x.size > 0, by_weight and needs[1] and x.size > 0
    grad_x = grad_weight = None
    if by_x:
        grad_x = empty(x.shape, x.dtype)
        again = ~winograd.input_gradient(grad_output, weight, geometry, grad_x)
        if again.any():
            grad_x[again] = direct.conv2d_backward(grad_output[again], x[again], weight, geometry,
                                                   (True, False, False))[0]
    if by_weight:
        grad_weight = np.empty_like(weight)
        # What is not finite is done once more, directly.
        by_weight = winograd_weights.weight_gradient(x, grad_output, geometry, grad_weight)
    rest = direct.conv2d_backward(grad_output, x, weight, geometry, (
        needs[0] and not by_x, needs[1] and not by_weight, needs[2]))
    return grad_x if by_x else rest[0], grad_weight if by_weight else rest[1], rest[2]


def _saved(weight: Array, y: Array, geometry: Geometry) -> float:
    """Products for each value that Winograd's convolution transforms; 0 where it cannot or may not be done.

    Products go with channels times filters, transforms with their sum, and tiles that reach beyond the image do nothing
    for it. It counts one image, so that the image's bits do not depend on the rest of the batch.
    """
    if y.dtype != np.float32 or not is_for_winograd(weight, geometry):
        return 0.0
    filters, channels, taps, _ = weight.shape
    whole = y.shape[2] * y.shape[3] / (_tiles(weight, y) * results_of(taps) ** 2)
    return whole * filters * channels / (filters + channels)


def _tiles(weight: Array, y: Array) -> int:
    """Winograd's tiles in an image of results."""
    side = results_of(weight.shape[2])
    return panels(y.shape[2], side) * panels(y.shape[3], side)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    (small if small.fits(weight, y, x) else direct).conv_transpose2d(x, weight, bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> Gradients:
    if small.fits(weight, grad_output, x):
        return small.conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
    return direct.conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
