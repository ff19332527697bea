"""A network with one hidden layer."""

from __future__ import annotations

from fastnn.models.fully_connected_net import FullyConnectedNet


class TwoLayerNet(FullyConnectedNet):
    """Linear, ReLU, linear, trained with the cross-entropy of the softmax.

    Parameters
    ----------
    in_features : int, default 3072
        Numbers in a sample: the pixels of an image in all its channels.
    hidden : int, default 50
        Units of the hidden layer.
    num_classes : int, default 10
        Scores for each sample.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    `criterion` is the loss. A row of the first weight, in the shape of an image, is what its unit looks for.

    Examples
    --------
    >>> from fastnn import models
    >>> [parameter.data.shape for parameter in models.TwoLayerNet().parameters()]
    [(50, 3072), (50,), (10, 50), (10,)]
    """

    def __init__(self, in_features: int = 3072, hidden: int = 50, num_classes: int = 10, *, seed: int = 0) -> None:
        super().__init__(in_features, (hidden,), num_classes, seed=seed)
