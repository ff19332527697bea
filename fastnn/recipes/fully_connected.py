"""What the recipes of fully connected networks have in common: their options."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal, TypeAlias

from fastnn import models, nn, optim
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Range, Space

Activation: TypeAlias = Literal["relu", "leaky_relu", "gelu", "tanh", "sigmoid"]
Init: TypeAlias = Literal["he_normal", "he_uniform", "xavier_normal", "xavier_uniform", "normal"]
OptimizerName: TypeAlias = Literal["adamw", "adam", "rmsprop", "sgd"]


@dataclass
class FullyConnected(ImageClassifier):
    """A recipe that trains a fully connected network on images; a subclass gives the data set.

    Examples
    --------
    >>> from fastnn import data, recipes
    >>> class Tiny(recipes.FullyConnected):
    ...     name = "tiny"
    ...     shape = (1, 8, 8)
    ...
    ...     def load_dataset(self):
    ...         return data.digits()
    >>> Tiny(hidden=(20, 10), batch_norm=True).model()[-1]
    Linear(in_features=10, out_features=10)
    """

    shape: ClassVar[tuple[int, ...]]
    """Of an image."""

    space: ClassVar[Space] = {
        "lr": Range(3e-4, 3e-2, log=True), "batch_size": (64, 128, 256), "weight_decay": Range(1e-3, 1.0, log=True),
        "dropout": Range(0.0, 0.5), "init": ("he_normal", "xavier_normal", "normal"),
        "optimizer": ("adamw", "adam", "rmsprop", "sgd"),
        "hidden": tuple((width,) * depth for width in (50, 100, 200) for depth in (1, 2, 3))}

    hidden: tuple[int, ...] = (100, 100)
    """Units of each hidden layer."""

    activation: Activation = "relu"
    """What follows each hidden layer."""

    batch_norm: bool = False
    """Normalize batches before each activation."""

    dropout: float = 0.0
    """The share of each hidden layer's outputs that are dropped in training."""

    init: Init = "he_normal"
    """How initial weights are drawn; "normal" draws from N(0, 0.01^2)."""

    optimizer: OptimizerName = "adamw"
    """What makes the updates: Adam with decoupled decay of the weights, or Adam, RMSProp or gradient descent (with
    Nesterov's momentum of 0.9) with the decay in the gradient, as the L2 term of the loss."""

    loss: Literal["cross_entropy", "hinge"] = "cross_entropy"
    """What is minimized: the cross-entropy of the softmax, or the support vector machine's loss."""

    label_smoothing: ClassVar[float] = 0.0

    def check(self) -> None:
        super().check()
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: expected at least 1 unit a layer, got {self.hidden}")
        for name, off in (("activation", FullyConnected.activation), ("batch_norm", False), ("dropout", 0.0)):
            if not self.hidden and getattr(self, name) != off:
                raise ValueError(f"{name}: expected {off} where there is no hidden layer that it could change, got "
                                 f"{getattr(self, name)}; give layers as hidden")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected from 0 to below 1, got {self.dropout}")

    @property
    def num_classes(self) -> int:
        """The number of classes in the images."""
        return 10

    def model(self) -> models.FullyConnectedNet:
        return models.FullyConnectedNet(prod(self.shape), self.hidden, self.num_classes, activation=self.activation,
                                        batch_norm=self.batch_norm, dropout=self.dropout, init=self.init,
                                        seed=self.seed)

    def make_loss(self) -> nn.Module:
        return nn.HingeLoss() if self.loss == "hinge" else super().make_loss()

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        return optimizer(self.optimizer, model, self.lr, self.weight_decay)


def optimizer(name: OptimizerName, model: nn.Module, lr: float, weight_decay: float) -> optim.Optimizer:
    """Return the optimizer of that name for a model; biases and scales do not decay."""
    groups = optim.parameter_groups(model, weight_decay)
    if name == "sgd":
        return optim.SGD(groups, lr, momentum=0.9, nesterov=True)
    return {"adamw": optim.AdamW, "adam": optim.Adam, "rmsprop": optim.RMSProp}[name](groups, lr)
