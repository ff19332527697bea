"""Convolutions on a GPU: products of matrices that are read out of the images, or loops over the pixels where a filter
sees one channel."""

from __future__ import annotations

import math

from fastnn import _device
from fastnn._checks import Array
from fastnn.kernels._gpu.gemm import Layout, product
from fastnn.kernels._gpu.sums import sum_channels
from fastnn.kernels._plans import Gradients
from fastnn.kernels.conv import _forms, depthwise_cuda
from fastnn.kernels.conv.geometry import Geometry
from fastnn.kernels.kept import KeptWeight


def conv2d(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array, relu: bool,
           geometry: Geometry, algorithm: str) -> None:
    _check(algorithm)
    if depthwise_cuda.fits(weight, geometry):
        depthwise_cuda.conv2d(x, weight, bias, relu, geometry, y)
        return
    groups, pixels = geometry.groups, math.prod(y.shape[2:])
    filters, depth = len(weight) // groups, math.prod(weight.shape[1:])
    product(_forms.convolve(_leaves_image(x, weight, y, geometry)), weight, x, bias, y,
            _forms.numbers_of(x, weight, y, geometry), (filters, len(x) * pixels, depth),
            Layout(depth, filters * depth, math.prod(x.shape[1:]) // groups, pixels, filters * pixels),
            image=x.shape[2:], reach=_reach(x, weight, y, geometry), groups=groups, relu=relu)


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    algorithm: str) -> Gradients:
    _check(algorithm)
    grad_x = grad_weight = None
    if needs[0]:
        grad_x = _device.xp.empty(x.shape, x.dtype)
        _input_gradient(grad_output, weight, None, geometry, grad_x)
    if needs[1]:
        grad_weight = _weight_gradient(x, grad_output, weight, geometry)
    return grad_x, grad_weight, sum_channels(grad_output) if needs[2] else None


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, y: Array, geometry: Geometry) -> None:
    _input_gradient(x, weight, bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> Gradients:
    grad_x = grad_weight = None
    if needs[0]:
        grad_x = _device.xp.empty(x.shape, x.dtype)
        conv2d(grad_output, weight, None, None, grad_x, False, geometry, "direct")
    if needs[1]:
        grad_weight = _weight_gradient(grad_output, x, weight, geometry)
    return grad_x, grad_weight, sum_channels(grad_output) if needs[2] else None


def _check(algorithm: str) -> None:
    if algorithm == "winograd":
        raise ValueError("algorithm: target 'cuda' has 'auto' and 'direct', got 'winograd'; take 'auto'")


def _input_gradient(grad_output: Array, weight: Array, bias: Array | None, geometry: Geometry, grad_x: Array) -> None:
    """Write the input gradient, plus a bias."""
    if depthwise_cuda.fits(weight, geometry):
        depthwise_cuda.input_gradient(grad_output, weight, bias, geometry, grad_x)
        return
    (filters, depth, *taps), stride, pixels = weight.shape, geometry.stride, math.prod(grad_x.shape[2:])
    groups, results = geometry.groups, math.prod(grad_output.shape[2:])
    filters //= groups
    steps = [each // math.gcd(each, spacing) for each, spacing in zip(stride, geometry.dilation)]
    sizes = (depth, len(grad_x) * math.prod(-(-size // each) for size, each in zip(grad_x.shape[2:], stride)),
             filters * math.prod(-(-size // step) for size, step in zip(taps, steps)))
    inside = taps == [1, 1] and geometry.padding == (0, 0) and all(
        size * each >= of for size, each, of in zip(grad_output.shape[2:], stride, grad_x.shape[2:]))
    product(_forms.input_gradient(not inside), weight, grad_output, bias, grad_x,
            _forms.numbers_of(grad_x, weight, grad_output, geometry), sizes,
            Layout(math.prod(taps), filters * depth * math.prod(taps), filters * results, pixels, depth * pixels),
            image=grad_output.shape[2:], reach=_reach(grad_x, weight, grad_output, geometry), groups=groups,
            phases=math.prod(map(min, stride, grad_x.shape[2:])))


def _weight_gradient(x: Array, grad_output: Array, weight: Array, geometry: Geometry) -> Array:
    """Return the weight gradient."""
    if depthwise_cuda.fits(weight, geometry):
        return depthwise_cuda.weight_gradient(x, grad_output, weight, geometry)
    grad_weight = _device.xp.empty(weight.shape, weight.dtype)
    groups, pixels = geometry.groups, math.prod(grad_output.shape[2:])
    filters, depth = len(weight) // groups, math.prod(weight.shape[1:])
    product(_forms.weight_gradient(_leaves_image(x, weight, grad_output, geometry)), grad_output, x, None, grad_weight,
            _forms.numbers_of(x, weight, grad_output, geometry), (filters, depth, len(x) * pixels),
            Layout(pixels, filters * pixels, math.prod(x.shape[1:]) // groups, depth, filters * depth),
            image=x.shape[2:], reach=_reach(x, weight, grad_output, geometry), groups=groups, free=True)
    return grad_weight


def _ends(weight: Array, y: Array, geometry: Geometry) -> list[int]:
    """Return the last row and column that a tap reads, of the padded image."""
    return [(y.shape[2 + axis] - 1) * geometry.stride[axis] + (weight.shape[2 + axis] - 1) * geometry.dilation[axis]
            for axis in (0, 1)]


def _leaves_image(x: Array, weight: Array, y: Array, geometry: Geometry) -> bool:
    return geometry.padding != (0, 0) or any(
        end >= size for end, size in zip(_ends(weight, y, geometry), x.shape[2:]))


def _reach(x: Array, weight: Array, y: Array, geometry: Geometry) -> int:
    """Return what no coordinate of a pixel or tap exceeds."""
    return max(*_ends(weight, y, geometry), *x.shape[2:]) + max(geometry.padding)
