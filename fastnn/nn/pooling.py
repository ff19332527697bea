"""Pooling of images (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastnn import kernels
from fastnn._checks import Array, IntPair, as_int, as_pair, check_shape
from fastnn.kernels.pooling import as_output_size, as_stride
from fastnn.nn.module import Backward, Module, keeps, once


class MaxPool2d(Module):
    """The largest value of each window; see `fastnn.kernels.max_pool2d`.

    Parameters
    ----------
    kernel_size : int or pair of ints
        Rows and columns of a window.
    stride : int or pair of ints, optional
        Distance between windows; kernel_size if it is not given.
    padding : int or pair of ints
        How far windows reach over each edge, at most half of kernel_size.
    dilation : int or pair of ints
        Distance between the cells of a window.
    ceil_mode : bool
        Whether windows that reach over the end of the padded image count.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.MaxPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """

    def __init__(self, kernel_size: IntPair, stride: IntPair | None = None, padding: IntPair = 0,
                 dilation: IntPair = 1, *, ceil_mode: bool = False) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_stride(stride, self.kernel_size)
        self.padding, self.dilation = as_pair("padding", padding, 0), as_pair("dilation", dilation, 1)
        self.ceil_mode = ceil_mode

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        # Indices take up to twice the memory of the maxima, and only backward reads them.
        wanted = keeps()
        indices: Any = None
        y: Any = kernels.max_pool2d(x, self.kernel_size, stride=self.stride, padding=self.padding,
                                    dilation=self.dilation, ceil_mode=self.ceil_mode, return_indices=wanted)
        if wanted:
            y, indices = y
        shape = x.shape

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.max_pool2d_backward(grad_y, indices, shape) if input_grad else None

        return y, backward


class AdaptiveMaxPool2d(Module):
    """The largest values of windows that cover the image, as many as wanted; see `fastnn.kernels.adaptive_max_pool2d`.

    Parameters
    ----------
    output_size : int or pair of ints
        Rows and columns of the result; None in a pair keeps the image's size. 1 gives the maximum of each image.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.AdaptiveMaxPool2d(1)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[15.]]]])
    """

    def __init__(self, output_size: int | Sequence[int | None]) -> None:
        self.output_size = as_output_size(output_size)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        wanted = keeps()
        indices: Any = None
        y: Any = kernels.adaptive_max_pool2d(x, self.output_size, return_indices=wanted)
        if wanted:
            y, indices = y
        shape = x.shape

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.adaptive_max_pool2d_backward(grad_y, indices, shape) if input_grad else None

        return y, backward


class AvgPool2d(Module):
    """The mean of each window; see `fastnn.kernels.avg_pool2d`.

    Parameters
    ----------
    kernel_size : int or pair of ints
        Rows and columns of a window.
    stride : int or pair of ints, optional
        Distance between windows; kernel_size if it is not given.
    padding : int or pair of ints
        How many zeros stand before each edge, at most half of kernel_size.
    ceil_mode : bool
        Whether windows that reach over the end of the padded image count.
    count_include_pad : bool
        Whether the divisor counts the padding's zeros.
    divisor_override : int, optional
        The divisor of all windows.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.AvgPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """

    def __init__(self, kernel_size: IntPair, stride: IntPair | None = None, padding: IntPair = 0,
                 ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_stride(stride, self.kernel_size)
        self.padding = as_pair("padding", padding, 0)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = None if divisor_override is None else as_int("divisor_override", divisor_override, 1)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        kernel_size = self.kernel_size
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode,
                                   "count_include_pad": self.count_include_pad,
                                   "divisor_override": self.divisor_override}
        y = kernels.avg_pool2d(x, kernel_size, **options)
        shape = x.shape

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.avg_pool2d_backward(grad_y, shape, kernel_size, **options) if input_grad else None

        return y, backward


class AdaptiveAvgPool2d(Module):
    """The means of windows that cover the image, as many as wanted; see `fastnn.kernels.adaptive_avg_pool2d`.

    Parameters
    ----------
    output_size : int or pair of ints
        Rows and columns of the result; None in a pair keeps the image's size. 1 gives the mean of each image.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.AdaptiveAvgPool2d(1)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[7.5]]]])
    """

    def __init__(self, output_size: int | Sequence[int | None]) -> None:
        self.output_size = as_output_size(output_size)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = kernels.adaptive_avg_pool2d(x, self.output_size)
        shape, pooled = x.shape, y.shape

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            check_shape("grad_y", grad_y, pooled)
            return kernels.adaptive_avg_pool2d_backward(grad_y, shape) if input_grad else None

        return y, backward
