"""Convolutions on the CPU: which algorithm runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastnn.kernels._arrays import Array
from fastnn.kernels.conv import direct, small

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

Gradients = tuple[Array | None, Array | None, Array | None]


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, algorithm: str,
           y: Array) -> None:
    if algorithm == "auto" and small.fits(weight, x, y):
        small.conv2d(x, weight, bias, relu, geometry, y)
    else:
        direct.conv2d(x, weight, bias, relu, geometry, y)


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    algorithm: str) -> Gradients:
    if algorithm == "auto" and small.fits(weight, x, grad_output):
        return small.conv2d_backward(grad_output, x, weight, geometry, needs)
    return direct.conv2d_backward(grad_output, x, weight, geometry, needs)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    (small if small.fits(weight, y, x) else direct).conv_transpose2d(x, weight, bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> Gradients:
    if small.fits(weight, grad_output, x):
        return small.conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
    return direct.conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
