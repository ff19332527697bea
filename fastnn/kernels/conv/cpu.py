"""Convolutions on the CPU: which algorithm runs."""

from __future__ import annotations

from collections.abc import Callable

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
from fastnn.kernels._plans import Gradients, Needs, because
from fastnn.kernels.conv import direct, narrow, small, winograd, winograd_weights
from fastnn.kernels.conv._tiles import results_of
from fastnn.kernels.conv.geometry import Geometry, is_for_winograd
from fastnn.kernels.kept import KeptWeight

_FEW = f"plain loops: weights times pixels, in and out, are at most {SMALL_PRODUCTS}, less work than a launch"


def plan_conv2d(x: Array, weight: Array, y: Array, relu: bool, geometry: Geometry,
                algorithm: str) -> Callable[..., None]:
    """Return a function (x, weight, bias, kept, y)."""
    if algorithm == "auto" and small.fits(weight, x, y):
        return because(_FEW, small.plan_conv2d(x, weight, y, relu, geometry))
    by_winograd, reason = _choice(algorithm, weight, y, geometry, WINOGRAD_PRODUCTS)
    if by_winograd:
        by_tiles = winograd.plan_conv2d(x, weight, y, relu, geometry)

        def winograd_conv2d(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
            again = ~by_tiles(x, weight, bias, y, kept)
            if again.any():
                images, part = x[again], y[again]
                direct.plan_conv2d(images, weight, part, relu, geometry)(images, weight, bias, part)
                y[again] = part

        return because(reason, winograd_conv2d)
    by_taps = direct.plan_conv2d(x, weight, y, relu, geometry)
    packs = isinstance(by_taps, direct.Convolution | narrow.Convolution)

    def direct_conv2d(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
        if packs and kept is not None and kept.constant:
            by_taps(x, weight, bias, y, kept)
        else:
            by_taps(x, weight, bias, y)

    return because(reason, direct_conv2d)


def plan_conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: Needs,
                         algorithm: str) -> Callable[..., Gradients]:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    if algorithm == "auto" and small.fits(weight, x, grad_output):
        return because(_FEW, small.plan_conv2d_backward(grad_output, x, weight, geometry, needs))
    by_x, why_x = _choice(algorithm, weight, grad_output, geometry, WINOGRAD_PRODUCTS)
    by_weight, why_weight = _choice(algorithm, weight, grad_output, geometry, WINOGRAD_WEIGHT_PRODUCTS)
    if by_weight and algorithm == "auto" and len(x) * _tiles(weight, grad_output) < (
            least := WINOGRAD_WEIGHT_TILES[weight.shape[2]]):
        by_weight, why_weight = False, f"direct, as winograd needs {least} tiles in a batch to be faster"
    by_x, by_weight = by_x and needs[0] and x.size > 0, by_weight and needs[1] and x.size > 0
    reason = "; ".join([f"by x {why_x}"] * bool(needs[0]) + [f"by weight {why_weight}"] * bool(needs[1]))
    rest = direct.plan_conv2d_backward(grad_output, x, weight, geometry,
                                       (needs[0] and not by_x, needs[1] and not by_weight, needs[2]))
    if not (by_x or by_weight):
        return because(reason, rest)
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

    return because(reason, winograd_backward)


def _choice(algorithm: str, weight: Array, y: Array, geometry: Geometry, least: float) -> tuple[bool, str]:
    """Return whether to go by Winograd's algorithm, which pays from so many saved products on, and why."""
    if algorithm == "winograd":
        return True, "winograd, as asked for"
    form = direct.form_of(weight, geometry)
    if algorithm == "direct":
        return False, f"{form}, as asked for"
    if not is_for_winograd(weight, geometry):
        return False, f"{form}; winograd needs filters of 3 x 3 or 5 x 5, stride 1, dilation 1, one group, less padding"
    if y.dtype != np.float32:
        return False, f"{form}; winograd's results in float64 must be asked for"
    saved = _saved(weight, y, geometry)
    chosen = saved >= least
    return chosen, (f"{'winograd' if chosen else form}; winograd saves {saved:.1f} products for each value that it "
                    f"transforms, and is the faster one from {least:g} on")


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
