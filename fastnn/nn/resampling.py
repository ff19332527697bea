"""Images of another size."""

from __future__ import annotations

from collections.abc import Sequence

from fastnn import kernels
from fastnn._checks import Array, IntPair
from fastnn.nn.module import Backward, Module, once


class Upsample(Module):
    """Make images (N, C, H, W) larger, or smaller; see `fastnn.kernels.interpolate`.

    Parameters
    ----------
    size : int or pair of ints, optional
        Rows and columns of the result.
    scale_factor : float or pair of floats, optional
        Instead of size: how many times as many.
    mode : {"nearest", "bilinear"}
        Whether a pixel is the nearest one, or lies between its four neighbours.
    align_corners : bool
        Whether the pixels in the corners stay what they are; for "bilinear" alone.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.Upsample(scale_factor=2)(np.array([[[[1.0, 2.0]]]]))
    array([[[[1., 1., 2., 2.],
             [1., 1., 2., 2.]]]])
    """

    def __init__(self, size: IntPair | None = None, scale_factor: float | Sequence[float] | None = None,
                 mode: str = "nearest", align_corners: bool = False) -> None:
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        options = {"scale_factor": self.scale_factor, "mode": self.mode, "align_corners": self.align_corners}
        y, shape = kernels.interpolate(x, self.size, **options), x.shape

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.interpolate_backward(grad_y, shape, **options) if input_grad else None

        return y, backward
