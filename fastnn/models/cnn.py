"""A small convolutional network with batch normalisation, for images of 8x8 pixels and more."""

from __future__ import annotations

from fastnn import random
from fastnn.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential


class CNN(Sequential):
    """Three 3x3 convolutions, the last at half the resolution, averaged to 2x2 places, and a linear layer.

    Each convolution is followed by batch normalisation (S. Ioffe, C. Szegedy, 2015), which makes its own
    bias needless, and ReLU.

    Parameters
    ----------
    in_channels : int, default 1
        Channels of an image.
    num_classes : int, default 10
        Scores for each image.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, in_channels, H, W), H and W at least 4, float32 unless `to` says otherwise, and
    returns scores of shape (N, num_classes).

    Examples
    --------
    >>> from fastnn import models
    >>> sum(parameter.data.size for parameter in models.CNN().parameters())
    30762
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, *, seed: int = 0) -> None:
        with random.seeded(seed):
            super().__init__(
                *_convolution(in_channels, 32),
                *_convolution(32, 32),
                MaxPool2d(2),
                *_convolution(32, 64),
                AdaptiveAvgPool2d(2),
                Flatten(),
                Linear(64 * 2 * 2, num_classes),
            )


def _convolution(in_channels: int, out_channels: int) -> tuple[Module, ...]:
    return Conv2d(in_channels, out_channels, 3, padding=1, bias=False), BatchNorm2d(out_channels), ReLU()
