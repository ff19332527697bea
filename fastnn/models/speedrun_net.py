"""A network that learns CIFAR-10 in ten epochs: filters that whiten patches, and three pairs of convolutions."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from fastnn import kernels, random
from fastnn._checks import Array, as_float, check_not_empty, check_rank
from fastnn.nn import GELU, AvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Sequential
from fastnn.nn.module import beside

_PATCH = 2                                  # rows and columns
_AT_ONCE = 500                              # images whose patches are held


class SpeedrunNet(Sequential):
    """2x2 filters that whiten patches, three pairs of 3x3 convolutions, each of which halves the image, a linear layer.

    Keller Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv:2404.00498), section 3; its training
    reaches that accuracy in 9.9 epochs of 0.036 PFLOP each. `whiten` makes the first filters. The convolutions begin
    as the identity, in as many of their channels as they have inputs; scales of batch normalisation stay 1.

    Parameters
    ----------
    num_classes : int, default 10
        Scores for each image.
    in_channels : int, default 3
        Channels of an image.
    width : int, default 64
        Channels of the first pair of convolutions; the others have four times as many.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, in_channels, H, W), H and W from 25 to 48, float32 unless `to` says otherwise, and
    returns scores of shape (N, num_classes).

    Examples
    --------
    >>> from fastnn import models
    >>> sum(parameter.data.size for parameter in models.SpeedrunNet().parameters())
    1972792
    """

    conv1: Conv2d

    def __init__(self, num_classes: int = 10, *, in_channels: int = 3, width: int = 64, seed: int = 0) -> None:
        filters, wide = 2 * in_channels * _PATCH**2, 4 * width
        with random.seeded(seed):
            super().__init__({
                "conv1": Conv2d(in_channels, filters, _PATCH, init=_uniform),
                "gelu": GELU(),
                "layer1": _pair(filters, width),
                "layer2": _pair(width, wide),
                "layer3": _pair(wide, wide),
                "maxpool": MaxPool2d(3),
                # Smaller scores at first, and smaller steps of what makes them: a division of each value by 9.
                "scale": AvgPool2d(1, divisor_override=9),
                "flatten": Flatten(),
                "fc": Linear(wide, num_classes, bias=False, init=_uniform),
            })

    def whiten(self, images: Array, eps: float = 5e-4) -> Self:
        """Make the first filters those that whiten the patches of some images, and their negatives; freeze them.

        The filters are the eigenvectors of the patches' second moments, each over the root of its eigenvalue, so that
        what comes out of them is uncorrelated and of one scale.

        Parameters
        ----------
        images : array of floats, shape (N, in_channels, H, W)
            Training images, normalised as those are that the network is trained on. 5,000 are enough.
        eps : float
            Added to the eigenvalues, so that patterns that hardly occur are not blown up.

        Returns
        -------
        SpeedrunNet
            This one.

        Raises
        ------
        TypeError, ValueError
            If the images are no such array, or hold no patch or a number that is not finite.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import models
        >>> images = np.random.default_rng(0).standard_normal((50, 3, 32, 32))
        >>> model = models.SpeedrunNet().whiten(images)
        >>> model.conv1.weight
        Parameter(shape=(24, 3, 2, 2), dtype=float32, requires_grad=False)
        """
        weight, channels = self.conv1.weight, self.conv1.in_channels
        eps = as_float("eps", eps, float(np.finfo(np.float32).tiny))
        images = kernels.to_host(images)
        check_rank("images", images, 4, layout="(N, C, H, W)")
        check_not_empty("images", images)
        if images.shape[1] != channels or min(images.shape[2:]) < _PATCH:
            raise ValueError(f"images: expected {channels} channels of at least {_PATCH} x {_PATCH} pixels, got shape "
                             f"{images.shape}")
        if images.dtype.kind != "f":
            raise TypeError(f"images: expected floats, normalised as for training, got {images.dtype}")
        size, count = channels * _PATCH**2, 0
        moments = np.zeros((size, size))
        for start in range(0, len(images), _AT_ONCE):
            windows = sliding_window_view(images[start : start + _AT_ONCE], (_PATCH, _PATCH), (2, 3))
            # (N, C, H, W, 2, 2) to one row an entry of a patch. The kernel's sums do not depend on threads, as BLAS's.
            patches = np.ascontiguousarray(windows.transpose(1, 4, 5, 0, 2, 3), np.float64).reshape(size, -1)
            moments += kernels.linear(patches, patches)
            count += patches.shape[1]
        if not np.isfinite(moments).all():
            raise ValueError("images: expected finite numbers, got NaN or infinity")
        values, vectors = np.linalg.eigh(moments / count)
        filters = (vectors / np.sqrt(np.maximum(values, 0) + eps)).T[::-1].reshape(size, channels, _PATCH, _PATCH)
        weight.data[...] = beside(weight.data, np.concatenate([filters, -filters]).astype(weight.data.dtype))
        weight.requires_grad = False
        return self


def _pair(in_channels: int, out_channels: int) -> Sequential:
    return Sequential(
        Conv2d(in_channels, out_channels, 3, padding=1, bias=False, init=_partly_identity), MaxPool2d(2),
        _normalization(out_channels), GELU(),
        Conv2d(out_channels, out_channels, 3, padding=1, bias=False, init=_partly_identity),
        _normalization(out_channels), GELU())


def _normalization(channels: int) -> BatchNorm2d:
    """Batch normalisation whose scale stays 1, and whose statistics follow a short training quickly."""
    layer = BatchNorm2d(channels, momentum=0.4)
    if layer.weight is not None:
        layer.weight.requires_grad = False
    return layer


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
    """Draw from U(-b, b) with b = 1 / sqrt(fan_in), as torch does for layers that nothing else is said of."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return rng.uniform(-bound, bound, shape).astype(dtype)


def _partly_identity(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
    """Let the first filters pass on one input channel each, as far as there are inputs; draw the others."""
    weight = _uniform(shape, rng, dtype)
    passing = np.arange(min(shape[:2]))
    weight[passing] = 0
    weight[passing, passing, shape[2] // 2, shape[3] // 2] = 1
    return weight
