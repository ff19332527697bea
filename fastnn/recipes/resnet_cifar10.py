"""Residual networks of 18, 34 or 50 layers on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fastnn import data, models, nn
from fastnn._checks import as_int
from fastnn.recipes.convolutional import Schedule, ShortOrFull
from fastnn.recipes.space import Range, Space

_NETWORKS = {18: models.ResNet18, 34: models.ResNet34, 50: models.ResNet50}     # by their layers


@dataclass
class ResNetCifar10(ShortOrFull):
    """A residual network of 18, 34 or 50 layers, on CIFAR-10.

    Adam with decoupled decay of the weights; the augmentation mirrors and moves the photographs. The first convolution
    keeps all of their pixels. The short schedule is one cycle of 10 epochs; the full one divides the learning rate by
    10 after 50 and after 75 of 100 epochs.

    Examples
    --------
    >>> from fastnn import recipes
    >>> type(recipes.ResNetCifar10(depth=34, width=8).model()).__name__
    'ResNet34'
    """

    name: ClassVar[str] = "resnet-cifar10"
    takes: ClassVar[str] = "49 min"
    space: ClassVar[Space] = {"lr": Range(3e-4, 3e-2, log=True), "weight_decay": Range(1e-2, 1.0, log=True),
                              "batch_size": (64, 128, 256)}
    lengths: ClassVar[dict[Schedule, int]] = {"short": 10, "full": 100}

    batch_size: int = 128

    lr: float = 0.002
    """Highest learning rate."""

    weight_decay: float = 0.1

    depth: Literal[18, 34, 50] = 18
    """Layers of the network."""

    width: int = 64
    """Channels of the first stage; each later one has twice as many, and four times those with 50 layers."""

    checkpointed: bool = False
    """Keep each block's input alone for the backward pass, which runs the block again: less memory, more time."""

    def check(self) -> None:
        if as_int("depth", self.depth) not in _NETWORKS:
            raise ValueError(f"depth: expected one of {', '.join(map(str, _NETWORKS))}, got {self.depth}")
        self.width = as_int("width", self.width, 1)
        super().check()

    def model(self) -> nn.Module:
        return _NETWORKS[self.depth](self.num_classes, small_images=True, width=self.width,
                                     checkpointed=self.checkpointed, seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip(), data.RandomCrop(4)]
