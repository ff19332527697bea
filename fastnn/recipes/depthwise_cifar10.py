"""A network of depthwise separable convolutions on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastnn import data, models, nn, optim
from fastnn._checks import as_int
from fastnn.recipes.convolutional import Schedule, ShortOrFull
from fastnn.recipes.space import Range, Space


@dataclass
class DepthwiseCifar10(ShortOrFull):
    """MobileNet, whose convolutions are depthwise separable, on CIFAR-10.

    Gradient descent with Nesterov's momentum of 0.9; the augmentation mirrors and moves the photographs. The first
    convolution keeps all of their pixels. The short schedule is one cycle of 6 epochs; the full one divides the
    learning rate by 10 after 50 and after 75 of 100 epochs.

    Examples
    --------
    >>> from fastnn import recipes
    >>> type(recipes.DepthwiseCifar10(width=8).model()).__name__
    'MobileNet'
    """

    name: ClassVar[str] = "depthwise-cifar10"
    takes: ClassVar[str] = "21 min"
    space: ClassVar[Space] = {"lr": Range(1e-2, 1.0, log=True), "weight_decay": Range(1e-4, 1e-2, log=True),
                              "batch_size": (64, 128, 256)}
    of_schedule: ClassVar[dict[Schedule, dict[str, Any]]] = {"short": {"epochs": 6}, "full": {"epochs": 100}}

    batch_size: int = 128

    lr: float = 0.1
    """Highest learning rate."""

    weight_decay: float = 5e-4

    width: int = 32
    """Channels after the first convolution; those of the blocks grow in proportion, to 32 times as many."""

    def check(self) -> None:
        self.width = as_int("width", self.width, 1)
        super().check()

    def model(self) -> models.MobileNet:
        return models.MobileNet(self.num_classes, small_images=True, width=self.width, seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip(), data.RandomCrop(4)]

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        return optim.SGD(optim.parameter_groups(model, self.weight_decay), self.lr, momentum=0.9, nesterov=True)
