"""Normalization: of a batch, of a layer, of groups of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import kernels
from fastnn._checks import Array, as_float, as_floats, as_int, channels_last, check_rank, check_size, is_sequence
from fastnn.nn.activation import ReLU
from fastnn.nn.module import (
    Backward,
    Forward,
    Module,
    Parameter,
    accumulate,
    data_of,
    learns,
    once,
    repeats,
    state_lock,
)


class _BatchNorm(Module):
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    running_mean: Any        # an array or None, as are the other two
    running_var: Any
    num_batches_tracked: Any
    frozen = False
    _ranks: tuple[int, ...]
    _layout: str

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, *, dtype: DTypeLike = np.float32) -> None:
        self.num_features = as_int("num_features", num_features, 1)
        self.eps = as_float("eps", eps, 0)
        self.momentum = None if momentum is None else as_float("momentum", momentum, 0, 1)
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None
        self.running_mean = np.zeros(num_features, dtype) if track_running_stats else None
        self.running_var = np.ones(num_features, dtype) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        return self._forward(x, training, None)

    def fuse(self, following: Module) -> Forward | None:
        """Return a forward that does the work of the following layer too, if that is a ReLU."""
        if type(following) is not ReLU or type(self).forward is not _BatchNorm.forward:
            return None
        return lambda x, *, training: self._forward(x, training, "relu")

    def _forward(self, x: Array, training: bool, activation: str | None) -> tuple[Array, Backward]:
        (x,) = as_floats(x=x)
        check_rank("x", x, *self._ranks, layout=self._layout)
        if x.shape[1] != self.num_features:
            raise ValueError(f"x: expected {self.num_features} channels, got shape {x.shape}"
                             + channels_last(x.shape, self.num_features))
        running, weight, bias = (self.running_mean, self.running_var), data_of(self.weight), data_of(self.bias)
        training = training and not self.frozen
        of_batch = training or self.running_mean is None
        if tracked := training and self.running_mean is not None:
            # The kernel leaves the batch's statistics here, so that several threads may run it at once.
            running = np.zeros_like(self.running_mean), np.zeros_like(self.running_var)
        y, mean, invstd = kernels.batch_norm(x, *running, weight, bias, training=training, momentum=1.0, eps=self.eps,
                                             activation=activation, return_stats=True)
        if tracked and not repeats():
            self._track(*running)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            grad_x, grad_weight, grad_bias = kernels.batch_norm_backward(
                grad_y, x, weight, mean, invstd, training=of_batch, bias=bias, activation=activation,
                needs=(input_grad, learns(self.weight), learns(self.bias)))
            accumulate(self.weight, grad_weight)
            accumulate(self.bias, grad_bias)
            return grad_x

        return y, backward

    def _track(self, mean: Array, var: Array) -> None:
        with state_lock:
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean = (1 - share) * self.running_mean + share * mean
            self.running_var = (1 - share) * self.running_var + share * var


class BatchNorm1d(_BatchNorm):
    """Bring each feature or channel to mean 0 and variance 1, then scale and shift it.

    Ioffe and Szegedy, "Batch normalization" (arXiv:1502.03167), algorithms 1 and 2; see `fastnn.kernels.batch_norm`.
    In training the statistics are those of the batch, in inference the running ones.

    Parameters
    ----------
    num_features : int
        Features of x (N, C), or channels of x (N, C, L).
    eps : float
        Added to the variance.
    momentum : float or None
        Share of a batch in the running statistics; None gives all batches equal weight.
    affine : bool
        Whether there are a scale, which starts at 1, and a shift, which starts at 0.
    track_running_stats : bool
        Whether there are running statistics; without them the batch's are used in inference too.
    dtype : float32 or float64
        Of the parameters and running statistics; inputs must have it too.

    Attributes
    ----------
    weight, bias : Parameters of shape (num_features,), or None
    running_mean, running_var : arrays of shape (num_features,), or None
        The variance is the unbiased one, as in torch.
    num_batches_tracked : int64 array of shape (), or None
    frozen : bool
        False at first. Set to True, it is in training as in inference: the running statistics are used and stay.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.BatchNorm1d(1, dtype=np.float64)
    >>> y, backward = layer.forward(np.array([[1.0], [3.0]]), training=True)
    >>> y.round(4)
    array([[-1.],
           [ 1.]])
    >>> layer.running_mean, layer.running_var
    (array([0.2]), array([1.1]))
    """

    _ranks, _layout = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Bring each channel of images (N, C, H, W) to mean 0 and variance 1, then scale and shift it.

    Parameters and attributes are those of `BatchNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.BatchNorm2d(3)
    >>> layer(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    _ranks, _layout = (4,), "(N, C, H, W)"


class LayerNorm(Module):
    """Bring each sample's elements to mean 0 and variance 1 along the last axes, then scale and shift them.

    Ba, Kiros and Hinton, "Layer normalization" (arXiv:1607.06450), equations 3 and 4; see `fastnn.kernels.layer_norm`.
    It does the same in training and in inference.

    Parameters
    ----------
    normalized_shape : int or sequence of ints
        Sizes of the last axes of x, over which statistics are taken.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are a scale, which starts at 1, and a shift.
    bias : bool
        Whether there is a shift, which starts at 0.
    dtype : float32 or float64
        Of the parameters; inputs must have it too.

    Attributes
    ----------
    weight, bias : Parameters of shape normalized_shape, or None

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.LayerNorm(2, dtype=np.float64)(np.array([[1.0, 3.0], [10.0, 30.0]])).round(4)
    array([[-1.,  1.],
           [-1.,  1.]])
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, *, dtype: DTypeLike = np.float32) -> None:
        sizes: Any = normalized_shape if is_sequence(normalized_shape) else (normalized_shape,)
        self.normalized_shape = tuple([as_int("normalized_shape", size, 1) for size in sizes])
        check_size(self.normalized_shape, normalized_shape=max(self.normalized_shape, default=1))
        self.eps = as_float("eps", eps, 0)
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        (x,) = as_floats(x=x)
        shape, weight = self.normalized_shape, data_of(self.weight)
        y, mean, invstd = kernels.layer_norm(x, shape, weight, data_of(self.bias), eps=self.eps, return_stats=True)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            grad_x, grad_weight, grad_bias = kernels.layer_norm_backward(
                grad_y, x, shape, weight, mean, invstd, needs=(input_grad, learns(self.weight), learns(self.bias)))
            accumulate(self.weight, grad_weight)
            accumulate(self.bias, grad_bias)
            return grad_x

        return y, backward


class GroupNorm(Module):
    """Bring each group of channels of a sample to mean 0 and variance 1, then scale and shift each channel.

    Wu and He, "Group normalization" (arXiv:1803.08494), equations 1, 6 and 7; see `fastnn.kernels.group_norm`. It does
    the same in training and in inference, and no sample depends on the others.

    Parameters
    ----------
    num_groups : int
        Groups of neighbouring channels; it divides num_channels.
    num_channels : int
        Channels of x (N, C, ...).
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a scale, which starts at 1, and a shift, which starts at 0.
    dtype : float32 or float64
        Of the parameters; inputs must have it too.

    Attributes
    ----------
    weight, bias : Parameters of shape (num_channels,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.GroupNorm(1, 2, dtype=np.float64)(np.array([[[1.0], [3.0]]])).round(4)
    array([[[-1.],
            [ 1.]]])
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *,
                 dtype: DTypeLike = np.float32) -> None:
        self.num_groups = as_int("num_groups", num_groups, 1)
        self.num_channels = as_int("num_channels", num_channels, 1)
        if num_channels % num_groups:
            raise ValueError(f"num_groups: expected a divisor of the {num_channels} channels, got {num_groups}")
        self.eps, self.affine = as_float("eps", eps, 0), affine
        self.weight = Parameter(np.ones(num_channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, dtype)) if affine else None

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        (x,) = as_floats(x=x)
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"x: expected {self.num_channels} channels along the second axis, got shape {x.shape}"
                             + channels_last(x.shape, self.num_channels))
        groups, weight = self.num_groups, data_of(self.weight)
        y, mean, invstd = kernels.group_norm(x, groups, weight, data_of(self.bias), eps=self.eps, return_stats=True)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            grad_x, grad_weight, grad_bias = kernels.group_norm_backward(
                grad_y, x, groups, weight, mean, invstd, needs=(input_grad, learns(self.weight), learns(self.bias)))
            accumulate(self.weight, grad_weight)
            accumulate(self.bias, grad_bias)
            return grad_x

        return y, backward
