"""A network of convolutions alone: strided ones take the place of pooling, an average that of linear layers."""

from __future__ import annotations

from fastnn import random
from fastnn.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Module, ReLU, Sequential


class AllCNN(Sequential):
    """Nine convolutions, two of them strided, and the mean of each class's scores over all places.

    Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for simplicity: the all convolutional net"
    (arXiv:1412.6806), table 1, All-CNN-C, with batch normalisation before each ReLU, zeros around each 3x3
    convolution, and no dropout of pixels.

    Parameters
    ----------
    num_classes : int, default 10
        Scores for each image.
    in_channels : int, default 3
        Channels of an image.
    width : int, default 96
        Channels of the first three convolutions; the next five have twice as many.
    dropout : float, default 0.5
        The share of the values after each strided convolution that are dropped in training.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, in_channels, H, W), float32 unless `to` says otherwise, and returns scores of shape
    (N, num_classes).

    Examples
    --------
    >>> from fastnn import models
    >>> sum(parameter.data.size for parameter in models.AllCNN().parameters())
    1370986
    """

    def __init__(self, num_classes: int = 10, *, in_channels: int = 3, width: int = 96, dropout: float = 0.5,
                 seed: int = 0) -> None:
        with random.seeded(seed):
            super().__init__(
                *_convolution(in_channels, width, 3),
                *_convolution(width, width, 3),
                *_convolution(width, width, 3, stride=2),
                Dropout(dropout),
                *_convolution(width, 2 * width, 3),
                *_convolution(2 * width, 2 * width, 3),
                *_convolution(2 * width, 2 * width, 3, stride=2),
                Dropout(dropout),
                *_convolution(2 * width, 2 * width, 3),
                *_convolution(2 * width, 2 * width, 1),
                Conv2d(2 * width, num_classes, 1),
                AdaptiveAvgPool2d(1),
                Flatten(),
            )


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> tuple[Module, ...]:
    return (Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
            BatchNorm2d(out_channels), ReLU())
