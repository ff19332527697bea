"""Patches of a digit, each brought to a few numbers, and linear layers on all of them."""

from __future__ import annotations

from fastnn import random
from fastnn.nn import Conv2d, Flatten, Linear, Module, ReLU, Sequential
from fastnn.nn.init import he_normal


class EmbeddingNet(Sequential):
    """Patches of 4x4 pixels to 8 numbers each, [linear, ReLU], linear, ReLU.

    The last ReLU stands on the scores; without a hidden layer the network is linear up to it.

    Parameters
    ----------
    hidden : int, default 0
        Units of a hidden layer between patches and scores; 0 leaves it out.
    num_classes : int, default 10
        Scores for each image.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, 1, 28, 28); the embedding, a convolution of 4x4 with stride 4, makes 7 x 7 x 8 numbers of
    each. Returns scores of shape (N, num_classes).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> model = models.EmbeddingNet()
    >>> [parameter.data.shape for parameter in model.parameters()]
    [(8, 1, 4, 4), (8,), (10, 392), (10,)]
    >>> model(np.zeros((2, 1, 28, 28), np.float32)).shape
    (2, 10)
    """

    def __init__(self, hidden: int = 0, num_classes: int = 10, *, seed: int = 0) -> None:
        with random.seeded(seed):
            layers: list[Module] = [Conv2d(1, 8, 4, stride=4, init=he_normal), Flatten()]
            if hidden:
                layers += [Linear(392, hidden), ReLU()]
            super().__init__(*layers, Linear(hidden or 392, num_classes), ReLU())
