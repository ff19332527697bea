"""One convolution and two linear layers, for images of 32x32 pixels."""

from __future__ import annotations

from fastnn import random
from fastnn.nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from fastnn.nn.init import Init, he_normal


class ThreeLayerConvNet(Sequential):
    """Convolution, ReLU, 2x2 maximum, linear, ReLU, linear.

    Parameters
    ----------
    in_channels : int, default 3
        Channels of an image.
    image_size : int, default 32
        Its height and width, even.
    num_filters : int, default 64
        Channels after the convolution.
    filter_size : int, default 5
        Height and width of its filters, odd: the image keeps its size.
    hidden : int, default 256
        Units between the two linear layers.
    num_classes : int, default 10
        Scores for each image.
    init : function, default he_normal
        How initial weights are drawn; see `fastnn.nn.init`.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, in_channels, image_size, image_size), float32 unless `to` says otherwise, and
    returns scores of shape (N, num_classes). `model[0].weight` holds the filters of the first layer.

    Examples
    --------
    >>> from fastnn import models
    >>> model = models.ThreeLayerConvNet(num_filters=8, filter_size=3, hidden=16)
    >>> [parameter.data.shape for parameter in model.parameters()]
    [(8, 3, 3, 3), (8,), (16, 2048), (16,), (10, 16), (10,)]
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        num_filters: int = 64,
        filter_size: int = 5,
        hidden: int = 256,
        num_classes: int = 10,
        init: Init = he_normal,
        seed: int = 0,
    ) -> None:
        with random.seeded(seed):
            super().__init__(
                Conv2d(in_channels, num_filters, filter_size, padding=filter_size // 2, init=init),
                ReLU(),
                MaxPool2d(2),
                Flatten(),
                Linear(num_filters * (image_size // 2) ** 2, hidden, init=init),
                ReLU(),
                Linear(hidden, num_classes, init=init),
            )
