"""Linear layers of any number and width, with an activation between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from fastnn import random
from fastnn._checks import as_int
from fastnn.nn import (
    GELU,
    BatchNorm1d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    HingeLoss,
    LeakyReLU,
    Linear,
    Module,
    MSELoss,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    init,
)
from fastnn.nn.init import Init

ACTIVATIONS: dict[str, type[Module]] = {
    "relu": ReLU, "leaky_relu": LeakyReLU, "gelu": GELU, "tanh": Tanh, "sigmoid": Sigmoid}
INITS: dict[str, Init] = {
    "he_normal": init.he_normal, "he_uniform": init.he_uniform, "xavier_normal": init.xavier_normal,
    "xavier_uniform": init.xavier_uniform, "normal": init.normal(0.01)}
LOSSES: dict[str, type[Module]] = {"cross_entropy": CrossEntropyLoss, "hinge": HingeLoss, "mse": MSELoss}

_T = TypeVar("_T")


class FullyConnectedNet(Sequential):
    """{linear, [batch normalization], activation, [dropout]} for each hidden layer, and a last linear one.

    Parameters
    ----------
    in_features : int
        Numbers in a sample: the pixels of an image in all its channels.
    hidden : sequence of int, default (100, 100)
        Units of each hidden layer; without any, the model is linear.
    num_classes : int, default 10
        Scores for each sample.
    activation : {"relu", "leaky_relu", "gelu", "tanh", "sigmoid"}
        What follows each hidden layer.
    batch_norm : bool, default False
        Normalize batches before each activation.
    dropout : float, default 0
        The share of each hidden layer's outputs that are dropped in training.
    init : {"he_normal", "he_uniform", "xavier_normal", "xavier_uniform", "normal"} or function
        How initial weights are drawn, see `fastnn.nn.init`; "normal" draws from N(0, 0.01^2).
    loss : {"cross_entropy", "hinge", "mse"}
        What it is trained with; `criterion` is that loss. "mse" is for regression: it compares the scores with an array
        of their shape.
    seed : int, default 0
        What the initial weights are drawn from.

    Attributes
    ----------
    criterion : Module
        The loss: its ``forward(scores, labels)`` gives the loss and its gradient.

    Raises
    ------
    ValueError
        If a name is none of those.

    Notes
    -----
    Takes arrays of shape (N, ...) with in_features numbers a sample, float32 unless `to` says otherwise, and returns
    scores of shape (N, num_classes).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> model = models.FullyConnectedNet(3072, (100, 50), batch_norm=True, dropout=0.2, loss="hinge")
    >>> images, labels = np.zeros((4, 3, 32, 32), np.float32), np.arange(4)
    >>> scores, backward = model.forward(images)
    >>> loss, loss_backward = model.criterion.forward(scores, labels)
    >>> backward(loss_backward(), input_grad=False)
    >>> [parameter.grad.shape for parameter in model.parameters()][:2]
    [(100, 3072), (100,)]
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (100, 100),
        num_classes: int = 10,
        *,
        activation: str = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        init: str | Init = "he_normal",
        loss: str = "cross_entropy",
        seed: int = 0,
    ) -> None:
        activate, draw = named("activation", activation, ACTIVATIONS), named("init", init, INITS)
        self._loss = named("loss", loss, LOSSES)
        if np.ndim(hidden) != 1 or not all(as_int("hidden", width, 1) for width in hidden):
            raise ValueError(f"hidden: expected a sequence of integers, units of each layer, got {hidden!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected from 0 to below 1, got {dropout}")
        layers: list[Module] = [Flatten()]
        with random.seeded(seed):
            for width in hidden:
                layers.append(Linear(in_features, width, bias=not batch_norm, init=draw))    # the norm has its own
                if batch_norm:
                    layers.append(BatchNorm1d(width))
                layers.append(activate())
                if dropout:
                    layers.append(Dropout(dropout))
                in_features = width
            super().__init__(*layers, Linear(in_features, num_classes, init=draw))

    @property
    def criterion(self) -> Module:
        # Not an attribute of its own: a Sequential runs all modules that are.
        return self._loss()


def named(argument: str, value: str | Callable[..., _T], choices: Mapping[str, Callable[..., _T]]) -> Callable[..., _T]:
    """Return the choice of that name, or what is no name as it is."""
    if callable(value) and not isinstance(value, Module):
        return value
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}, got {value!r}")
    return choices[value]
