"""Convolutions on the CPU: which algorithm runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastnn.kernels._arrays import Array
from fastnn.kernels.conv import direct

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

Gradients = tuple[Array | None, Array | None, Array | None]


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, y: Array) -> None:
    direct.conv2d(x, weight, bias, relu, geometry, y)


def conv2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry, needs: tuple[bool, bool, bool],
                    ) -> Gradients:
    return direct.conv2d_backward(grad_output, x, weight, geometry, needs)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None, geometry: Geometry, y: Array) -> None:
    direct.conv_transpose2d(x, weight, bias, geometry, y)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, geometry: Geometry,
                              needs: tuple[bool, bool, bool]) -> Gradients:
    return direct.conv_transpose2d_backward(grad_output, x, weight, geometry, needs)
