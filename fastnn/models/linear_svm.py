"""A linear classifier with the support vector machine's loss."""

from __future__ import annotations

from fastnn.models.fully_connected_net import FullyConnectedNet


class LinearSVM(FullyConnectedNet):
    """scores = x weight^T + bias, trained with the multiclass hinge loss.

    Weston and Watkins, "Multi-class support vector machines" (Royal Holloway technical report CSD-TR-98-04, 1998): the
    sum over the wrong classes. The regularization is the optimizer's weight decay.

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
    >>> model = models.LinearSVM(3072)
    >>> images, labels = np.zeros((4, 3, 32, 32), np.float32), np.arange(4)
    >>> model.criterion(model(images), labels)              # nine wrong classes, each by the whole margin
    np.float32(9.0)
    """

    def __init__(self, in_features: int, num_classes: int = 10, *, seed: int = 0) -> None:
        super().__init__(in_features, (), num_classes, init="normal", loss="hinge", seed=seed)
