"""Layers that are linear in their input: dense, convolutional and transposed convolutional."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import kernels, random
from fastnn._checks import Array, IntPair, as_floats, as_int, as_pair, check_shape, check_size
from fastnn.nn.activation import ReLU
from fastnn.nn.init import Init, he_normal
from fastnn.nn.module import Backward, Forward, Module, Parameter, accumulate, data_of, learns, once


class _Weighted(Module):
    """A layer with a weight, and a bias or none."""

    weight: Parameter
    bias: Parameter | None

    def _start(self, shape: tuple[int, ...], outputs: int, bias: bool, init: Init, dtype: DTypeLike) -> None:
        seed, layer = random.next_layer()
        self.weight = Parameter(init(shape, random.generator(seed, "init", layer), dtype))
        self.bias = Parameter(np.zeros(outputs, dtype)) if bias else None

    def _apply(self, kernel: Callable[..., Array], kernel_backward: Callable[..., tuple[Array | None, ...]], x: Array,
               *, relu: bool = False, **options: Any) -> tuple[Array, Backward]:
        weight, bias = self.weight.data, data_of(self.bias)
        y = kernel(x, weight, bias, **options)
        positive = y if relu else None          # kept for that alone

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            if positive is not None:
                grad_y = kernels.relu_backward(grad_y, positive)
            needs = input_grad, learns(self.weight), learns(self.bias)
            grad_x, grad_weight, grad_bias = kernel_backward(grad_y, x, weight, needs=needs, **options)
            self.weight.accumulate(grad_weight)
            accumulate(self.bias, grad_bias)
            return grad_x

        return y, backward


class _Fusing(_Weighted):
    """A layer that can do the work of a ReLU after it, too."""

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        return self._forward(x, None, training)

    def fuse(self, following: Module) -> Forward | None:
        """Return a forward that does the work of the following layer too, if that is a ReLU."""
        if type(following) is not ReLU or type(self).forward is not _Fusing.forward:
            return None
        return lambda x, *, training: self._forward(x, "relu", training)

    def _forward(self, x: Array, activation: str | None, training: bool) -> tuple[Array, Backward]:
        """Do what `forward` does, with an activation in the same pass."""
        raise NotImplementedError           # each layer has its own


class Linear(_Fusing):
    """y = x weight^T + bias, along the last axis of x.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of x and y.
    bias : bool
        Whether a bias is added; it starts at 0.
    init : callable
        Initial weight, one of `fastnn.nn.init`.
    dtype : float32 or float64
        Of the parameters; inputs must have it too.

    Attributes
    ----------
    weight : Parameter of shape (out_features, in_features)
    bias : Parameter of shape (out_features,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.Linear(3, 2)
    >>> layer(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    _kept: kernels.KeptWeight | None = None     # a frozen layer's, whose weight is constant

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, init: Init = he_normal,
                 dtype: DTypeLike = np.float32) -> None:
        self.in_features = as_int("in_features", in_features, 1)
        self.out_features = as_int("out_features", out_features, 1)
        check_size((self.out_features, self.in_features), in_features=in_features, out_features=out_features)
        self._start((out_features, in_features), out_features, bias, init, dtype)

    def _forward(self, x: Array, activation: str | None, training: bool) -> tuple[Array, Backward]:
        (x,) = as_floats(x=x)
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"x: expected {self.in_features} features along the last axis, got shape {x.shape}")
        shape = x.shape
        y, rows_backward = self._apply(
            partial(kernels.linear, activation=activation, kept=self._kept), kernels.linear_backward,
            x if len(shape) == 2 else x.reshape(-1, self.in_features), relu=activation is not None)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            check_shape("grad_y", grad_y, (*shape[:-1], self.out_features))
            grad_x = rows_backward(grad_y.reshape(-1, self.out_features), input_grad=input_grad)
            return None if grad_x is None else grad_x.reshape(shape)

        return y.reshape(*shape[:-1], self.out_features), backward


class Conv2d(_Fusing):
    """Convolution of images (N, C, H, W) with filters; see `fastnn.kernels.conv2d`.

    Where Winograd's algorithm runs, the layer keeps its transformed filters in inference; see `kernels.KeptWeight`.
    The next forward pass in training drops them.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of x and y.
    kernel_size : int or pair of ints
        Rows and columns of a filter.
    stride, dilation : int or pair of ints
        Steps between output pixels, and between taps.
    padding : int, pair of ints, "valid" or "same"
        Zeros on each side; "same" gives ceil(H / stride) rows.
    groups : int
        Channels are cut into this many groups, each by itself; it divides both numbers of channels.
    bias : bool
        Whether a bias is added; it starts at 0.
    init : callable
        Initial weight, one of `fastnn.nn.init`.
    dtype : float32 or float64
        Of the parameters; inputs must have it too.

    Attributes
    ----------
    weight : Parameter of shape (out_channels, in_channels / groups, KH, KW)
    bias : Parameter of shape (out_channels,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    >>> layer(np.ones((2, 3, 8, 8), np.float32)).shape
    (2, 8, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: IntPair, stride: IntPair = 1,
                 padding: IntPair | str = 0, dilation: IntPair = 1, groups: int = 1, bias: bool = True, *,
                 init: Init = he_normal, dtype: DTypeLike = np.float32) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        _check_channels(in_channels, out_channels, groups, self.kernel_size)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.dilation = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
        self.padding = padding if isinstance(padding, str) else as_pair("padding", padding, 0)
        self.groups = groups
        if isinstance(padding, str) and padding not in ("valid", "same"):
            raise ValueError(f"padding: expected an integer, a pair, 'valid' or 'same', got {padding!r}")
        self._kept = kernels.KeptWeight()
        self._start((out_channels, in_channels // groups, *self.kernel_size), out_channels, bias, init, dtype)

    def _forward(self, x: Array, activation: str | None, training: bool) -> tuple[Array, Backward]:
        if training:
            self._kept.last = None                  # they will change, and memory is needed
        kept = None if training else self._kept
        return self._apply(
            partial(kernels.conv2d, activation=activation, kept=kept), kernels.conv2d_backward, x,
            relu=activation is not None, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups)


class ConvTranspose2d(_Weighted):
    """Transposed convolution of images (N, C, H, W), which enlarges them; see `fastnn.kernels.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of x and y.
    kernel_size : int or pair of ints
        Rows and columns of a filter.
    stride, dilation : int or pair of ints
        Steps between input pixels, and between taps, in output pixels.
    padding : int or pair of ints
        Rows and columns cut off on each side of the result.
    output_padding : int or pair of ints
        Rows and columns added after the result.
    groups : int
        Channels are cut into this many groups, each by itself; it divides both numbers of channels.
    bias : bool
        Whether a bias is added; it starts at 0.
    init : callable
        Initial weight, one of `fastnn.nn.init`.
    dtype : float32 or float64
        Of the parameters; inputs must have it too.

    Attributes
    ----------
    weight : Parameter of shape (in_channels, out_channels / groups, KH, KW)
    bias : Parameter of shape (out_channels,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.ConvTranspose2d(8, 3, 2, stride=2)
    >>> layer(np.ones((2, 8, 4, 4), np.float32)).shape
    (2, 3, 8, 8)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: IntPair, stride: IntPair = 1,
                 padding: IntPair = 0, output_padding: IntPair = 0, groups: int = 1, bias: bool = True,
                 dilation: IntPair = 1, *, init: Init = he_normal, dtype: DTypeLike = np.float32) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        _check_channels(in_channels, out_channels, groups, self.kernel_size)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.dilation = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
        self.padding, self.output_padding = as_pair("padding", padding, 0), as_pair("output_padding", output_padding, 0)
        self.groups = groups
        self._start((in_channels, out_channels // groups, *self.kernel_size), out_channels, bias, init, dtype)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        return self._apply(kernels.conv_transpose2d, kernels.conv_transpose2d_backward, x, stride=self.stride,
                           padding=self.padding, output_padding=self.output_padding, groups=self.groups,
                           dilation=self.dilation)


def _check_channels(in_channels: int, out_channels: int, groups: int, kernel_size: tuple[int, int]) -> None:
    in_channels, out_channels = as_int("in_channels", in_channels, 1), as_int("out_channels", out_channels, 1)
    groups = as_int("groups", groups, 1)
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"groups: expected a divisor of the {in_channels} input and {out_channels} output channels, "
                         f"got {groups}")
    check_size((out_channels, in_channels // groups, *kernel_size), in_channels=in_channels, out_channels=out_channels,
               kernel_size=max(kernel_size))
