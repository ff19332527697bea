"""A linear classifier with the cross-entropy of its softmax: multinomial logistic regression."""

from __future__ import annotations

from fastnn.models.fully_connected_net import FullyConnectedNet


class SoftmaxClassifier(FullyConnectedNet):
    """scores = x weight^T + bias, trained with the cross-entropy of their softmax.

    The regularization is the optimizer's weight decay.

    Parameters
    ----------
    in_features : int
        Numbers in a sample: the pixels of an image in all its channels.
    num_classes : int, default 10
        Scores for each sample.
    seed : int, default 0
        What the initial weights are drawn from, N(0, 0.01^2).

    Notes
    -----
    `criterion` is the loss. A row of the weight, in the shape of an image, is the class's template.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> model = models.SoftmaxClassifier(3072)
    >>> images, labels = np.zeros((4, 3, 32, 32), np.float32), np.arange(4)
    >>> model.criterion(model(images), labels).round(4)     # log 10
    np.float32(2.3026)
    """

    def __init__(self, in_features: int, num_classes: int = 10, *, seed: int = 0) -> None:
        super().__init__(in_features, (), num_classes, init="normal", seed=seed)
