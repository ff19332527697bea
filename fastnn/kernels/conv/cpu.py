"""Convolutions on the CPU: which algorithm runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.tuning import (
    SMALL_PRODUCTS,
    WINOGRAD_PRODUCTS,
    WINOGRAD_WEIGHT_PRODUCTS,
    WINOGRAD_WEIGHT_TILES,
)
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import because
from fastnn.kernels.conv import direct, small, winograd, winograd_weights
from fastnn.kernels.conv._tiles import results_of
from fastnn.kernels.conv.geometry import Geometry, is_for_winograd
from fastnn.kernels.kept import KeptWeight

Needs: TypeAlias = tuple[bool, bool, bool]
Gradients: TypeAlias = tuple[Array | None, Array | None, Array | None]

_FEW = f"plain loops, as an image has so few products (up to {SMALL_PRODUCTS}) that a launch takes longer than they do"


def plan_conv2d(x: Array, weight: Array, y: Array, relu: bool, geometry: Geometry,
                algorithm: str) -> Callable[..., None]:
    """Return a function (x, weight, bias, kept, y)."""
    if algorithm == "auto" and small.fits(weight, x, y):
        return because(_FEW, small.plan_conv2d(x, weight, y, relu, geometry))
    reason = _reason(algorithm, weight, y, geometry)
    if algorithm == "winograd" or (algorithm == "auto" and _saved(weight, y, geometry) >= WINOGRAD_PRODUCTS):
        by_tiles = winograd.plan_conv2d(x, weight, y, relu, geometry)

        def winograd_conv2d(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
            packed = None if kept is None else kept.made(weight, "winograd", winograd.pack)
            again = ~by_tiles(x, weight, bias, y, packed)
            if again.any():
                images, part = x[again], y[again]
                direct.plan_conv2d(images, weight, part, relu, geometry)(images, weight, bias, part)
                y[again] = part

        return because(f"winograd, {reason}", winograd_conv2d)
    by_taps = direct.plan_conv2d(x, weight, y, relu, geometry)
    packs = isinstance(by_taps, direct.Convolution)

    def direct_conv2d(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
        if packs and kept is not None and kept.constant:
            by_taps(x, weight, bias, y, kept)
        else:
            by_taps(x, weight, bias, y)

    return because(f"direct, {reason}", direct_conv2d)


def plan_conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: Needs,
                         algorithm: str) -> Callable[..., Gradients]:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    if algorithm == "auto" and small.fits(weight, x, grad_output):
        return because(_FEW, small.plan_conv2d_backward(grad_output, x, weight, geometry, needs))
    by_x = by_weight = algorithm == "winograd"
    if algorithm == "auto":
        saved = _saved(weight, grad_output, geometry)
        by_x = saved >= WINOGRAD_PRODUCTS
        by_weight = (saved >= WINOGRAD_WEIGHT_PRODUCTS
                     and len(x) * _tiles(weight, grad_output) >= WINOGRAD_WEIGHT_TILES[weight.shape[2]])
    by_x, by_weight = by_x and needs[0] and x.size > 0, by_weight and needs[1] and x.size > 0
    rest = direct.plan_conv2d_backward(grad_output, x, weight, geometry,
                                       (needs[0] and not by_x, needs[1] and not by_weight, needs[2]))
    reason = _reason(algorithm, weight, grad_output, geometry)
    if not (by_x or by_weight):
        return because(f"direct, {reason}", rest)
    x_by_tiles = winograd.plan_input_gradient(grad_output, weight, geometry, x) if by_x else None
    weight_by_tiles = winograd_weights.plan_weight_gradient(x, grad_output, weight, geometry) if by_weight else None
    new_x, new_weight = result_of(x.shape, x.dtype, x).new, result_of(weight.shape, x.dtype, x).new

    def winograd_backward(grad_output: Array, x: Array, weight: Array) -> Gradients:
        """What is not finite is done once more, directly."""
        grad_x, grad_weight, grad_bias = rest(grad_output, x, weight)
        if x_by_tiles is not None:
            grad_x = new_x()
            again = ~x_by_tiles(grad_output, weight, None, grad_x)
            if again.any():
                grads, part = grad_output[again], grad_x[again]
                direct.plan_input_gradient(grads, weight, None, geometry, part)(grads, weight, None, part)
                grad_x[again] = part
        if weight_by_tiles is not None:
            grad_weight = new_weight()
            if not weight_by_tiles(x, grad_output, grad_weight):
                only = (False, True, False)
                grad_weight = direct.plan_conv2d_backward(grad_output, x, weight, geometry, only)(
                    grad_output, x, weight)[1]
        return grad_x, grad_weight, grad_bias

    by_tiles = " and ".join(["x"] * by_x + ["weight"] * by_weight)
    return because(f"winograd for the gradient by {by_tiles}, {reason}", winograd_backward)


def _reason(algorithm: str, weight: Array, y: Array, geometry: Geometry) -> str:
    if algorithm != "auto":
        return "as asked for"
    if not is_for_winograd(weight, geometry):
        return "as winograd needs filters of 3 x 3 or 5 x 5, stride 1, dilation 1, one group and less padding"
    if y.dtype != np.float32:
        return "as winograd's results in float64 must be asked for"
    return (f"as winograd saves {_saved(weight, y, geometry):.1f} products for each value that it transforms, and from "
            f"{WINOGRAD_PRODUCTS:g} on is faster")


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


def plan_conv_transpose2d(x: Array, weight: Array, bias: Array | None, y: Array,
                          geometry: Geometry) -> direct.Convolve:
    """Return a function (x, weight, bias, y)."""
    if small.fits(weight, y, x):
        return because(_FEW, small.plan_conv_transpose2d(x, weight, y, geometry))
    return direct.plan_input_gradient(x, weight, bias, geometry, y)


def plan_conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                                   needs: Needs) -> Callable[..., Gradients]:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    if small.fits(weight, grad_output, x):
        return because(_FEW, small.plan_conv_transpose2d_backward(grad_output, x, weight, geometry, needs))
    return direct.plan_conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
