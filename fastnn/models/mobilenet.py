"""A network of depthwise separable convolutions, which needs an eighth of the work of ordinary ones."""

from __future__ import annotations

from fastnn import random
from fastnn.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, Module, ReLU, Sequential

# Of each block: channels of its result in units of the first convolution's, and the stride.
_BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))


class MobileNet(Sequential):
    """A convolution, thirteen depthwise separable ones, an average over all places, and a linear layer.

    A block filters each channel by itself (depthwise, 3x3) and then mixes the channels of each pixel (pointwise, 1x1),
    each with batch normalisation and ReLU. Howard and others, "MobileNets: efficient convolutional neural networks for
    mobile vision applications" (arXiv:1704.04861), table 1.

    Parameters
    ----------
    num_classes : int, default 1000
        Scores for each image.
    in_channels : int, default 3
        Channels of an image.
    small_images : bool, default False
        For images of CIFAR's size: keep all pixels in the first convolution, instead of every other row and column.
    width : int, default 32
        Channels after the first convolution; those of the blocks grow in proportion, to 32 times as many.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, in_channels, H, W), float32 unless `to` says otherwise, and returns scores of shape
    (N, num_classes).

    Examples
    --------
    >>> from fastnn import models
    >>> sum(parameter.data.size for parameter in models.MobileNet().parameters())
    4231976
    """

    def __init__(self, num_classes: int = 1000, *, in_channels: int = 3, small_images: bool = False, width: int = 32,
                 seed: int = 0) -> None:
        with random.seeded(seed):
            layers: list[Module] = list(_convolution(in_channels, width, 3, stride=1 if small_images else 2))
            channels = width
            for multiple, stride in _BLOCKS:
                layers.append(Sequential(*_convolution(channels, channels, 3, stride=stride, groups=channels),
                                         *_convolution(channels, multiple * width, 1)))
                channels = multiple * width
            super().__init__(*layers, AdaptiveAvgPool2d(1), Flatten(), Linear(channels, num_classes))


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 groups: int = 1) -> tuple[Module, ...]:
    return (Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False),
            BatchNorm2d(out_channels), ReLU())
