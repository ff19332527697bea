"""Two 5x5 convolutions and two linear layers, for images of 28x28 pixels."""

from __future__ import annotations

from fastnn import random
from fastnn.nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential


class CNNMnist(Sequential):
    """Convolution, ReLU, 2x2 maximum, twice, then 3136-128-10: the classic network for MNIST.

    Parameters
    ----------
    num_classes : int, default 10
        Scores for each image.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, 1, 28, 28), float32 unless `to` says otherwise, and returns scores of shape
    (N, num_classes).

    Examples
    --------
    >>> from fastnn import models
    >>> sum(parameter.data.size for parameter in models.CNNMnist().parameters())
    454922
    """

    def __init__(self, num_classes: int = 10, *, seed: int = 0) -> None:
        with random.seeded(seed):
            super().__init__(
                Conv2d(1, 32, 5, padding=2),
                ReLU(),
                MaxPool2d(2),
                Conv2d(32, 64, 5, padding=2),
                ReLU(),
                MaxPool2d(2),
                Flatten(),
                Linear(64 * 7 * 7, 128),
                ReLU(),
                Linear(128, num_classes),
            )
