"""Resampling of images (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence

from fastnn import kernels
from fastnn._checks import Array, IntPair, as_pair
from fastnn.kernels.resampling import as_factors, check_mode, check_one_given
from fastnn.nn.module import Backward, Module, once


class Upsample(Module):
    """Images of another size, larger or smaller; see `fastnn.kernels.interpolate`.

    Parameters
    ----------
    size : int or pair of ints, optional
        Rows and columns of the result.
    scale_factor : float or pair of floats, optional
        Instead of size: by how much they grow.
    mode : {"nearest", "bilinear"}
        How pixels are made.
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
        check_one_given(size, scale_factor)
        check_mode(mode, align_corners)
        self.size = None if size is None else as_pair("size", size, 1)
        self.scale_factor = as_factors(scale_factor)
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        scale_factor, mode, align_corners = self.scale_factor, self.mode, self.align_corners
        y = kernels.interpolate(x, self.size, scale_factor=scale_factor, mode=mode, align_corners=align_corners)
        shape = x.shape

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.interpolate_backward(grad_y, shape, scale_factor=scale_factor, mode=mode,
                                                align_corners=align_corners) if input_grad else None

        return y, backward
