"""Residual networks of 18, 34 or 50 layers on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from fastnn import data, models, nn
from fastnn._checks import as_int, check_choice
from fastnn.recipes.convolutional import Schedule, ShortOrFull
from fastnn.recipes.space import Range, Space

Depth: TypeAlias = Literal[18, 34, 50]


@dataclass
class ResNetCifar10(ShortOrFull):
    """A residual network of 18, 34 or 50 layers, on CIFAR-10.

    Adam with decoupled decay of the weights; the augmentation mirrors and moves the photographs. The first convolution
    keeps all of their pixels. The full schedule divides the learning rate by 10 after 50 and after 75 of 100 epochs.

    Examples
    --------
    >>> from fastnn import recipes
    >>> type(recipes.ResNetCifar10(depth=34, width=8).model()).__name__
    'ResNet34'
    """

    name: ClassVar[str] = "resnet-cifar10"
    takes: ClassVar[str] = "1 h"
    space: ClassVar[Space] = {"lr": Range(3e-4, 3e-2, log=True), "weight_decay": Range(1e-2, 1.0, log=True),
                              "batch_size": (64, 128, 256)}
    lengths: ClassVar[dict[Schedule, int]] = {"short": 10, "full": 100}

    batch_size: int = 128

    lr: float = 0.002
    """Highest learning rate."""

    weight_decay: float = 0.1

    depth: Depth = 18
    """Layers of the network."""

    width: int = 64
    """Channels of the first stage; each later one has twice as many, and four times those with 50 layers."""

    def check(self) -> None:
        check_choice("depth", self.depth, get_args(Depth))
        self.width = as_int("width", self.width, 1)
        super().check()

    def model(self) -> nn.Module:
        network = {18: models.ResNet18, 34: models.ResNet34, 50: models.ResNet50}[self.depth]
        return network(self.num_classes, small_images=True, width=self.width, seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip(), data.RandomCrop(4)]
