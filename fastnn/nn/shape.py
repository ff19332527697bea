"""Layers that compute nothing: they change the shape, or return their input."""

from __future__ import annotations

from math import prod

import numpy as np

from fastnn._checks import Array, as_array, as_int, check_shape
from fastnn.nn.module import Backward, Module, once


class Flatten(Module):
    """Make one axis of several.

    Parameters
    ----------
    start_dim, end_dim : int
        The first and the last of these axes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.Flatten()(np.ones((2, 3, 4, 5))).shape
    (2, 60)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = as_int("start_dim", start_dim), as_int("end_dim", end_dim)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        x = as_array("x", x)
        shape, axes = x.shape, range(x.ndim)
        try:
            first, last = axes[self.start_dim], axes[self.end_dim]
        except IndexError:
            first, last = 1, 0
        if first > last:
            raise ValueError(f"x: expected axes from {self.start_dim} to {self.end_dim}, got shape {shape}")

        flat = *shape[:first], prod(shape[first:last + 1]), *shape[last + 1:]

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            check_shape("grad_y", grad_y, flat)
            return grad_y.reshape(shape) if input_grad else None

        return x.reshape(flat), backward


class Identity(Module):
    """y = x: a placeholder for a layer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.Identity()(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        shape = np.shape(x)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            check_shape("grad_y", grad_y, shape)
            return grad_y if input_grad else None

        return x, backward
