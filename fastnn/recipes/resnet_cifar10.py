"""Residual networks of 18, 34 or 50 layers on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fastnn import data, models, nn, optim
from fastnn._checks import as_int
from fastnn.recipes.convolutional import Schedule, ShortOrFull
from fastnn.recipes.space import Range, Space

_NETWORKS = {18: models.ResNet18, 34: models.ResNet34, 50: models.ResNet50}     # by their layers


@dataclass
class ResNetCifar10(ShortOrFull):
    """A residual network of 18, 34 or 50 layers, on CIFAR-10.

    The augmentation mirrors and moves the photographs, and the first convolution keeps all of their pixels. The full
    schedule is Adam with decoupled weight decay, its learning rate divided by 10 after 50 and after 75 of 100 epochs.
    The short one is one cycle of 30 epochs of gradient descent with Nesterov's momentum of 0.9, with half of the
    channels: in the same time on two cores that reads more images right than 11 epochs with all of them.

    Examples
    --------
    >>> from fastnn import recipes
    >>> type(recipes.ResNetCifar10(depth=34, width=8).model()).__name__
    'ResNet34'
    """

    name: ClassVar[str] = "resnet-cifar10"
    takes: ClassVar[str] = "50 min"
    # The ranges hold what suits either schedule's optimizer.
    space: ClassVar[Space] = {"lr": Range(3e-4, 1.0, log=True), "weight_decay": Range(1e-4, 1.0, log=True),
                              "batch_size": (64, 128, 256)}
    of_schedule: ClassVar[dict[Schedule, dict[str, Any]]] = {
        "short": {"epochs": 30, "lr": 0.1, "weight_decay": 5e-4, "width": 32},
        "full": {"epochs": 100, "lr": 0.002, "weight_decay": 0.1, "width": 64}}

    batch_size: int = 128

    lr: float = -1
    """Highest learning rate; -1 stands for 0.1 in the short schedule and 0.002 in the full one."""

    weight_decay: float = -1
    """How strongly weights are drawn to 0; -1 stands for 0.0005 in the short schedule and 0.1 in the full one."""

    depth: Literal[18, 34, 50] = 18
    """Layers of the network."""

    width: int = -1
    """Channels of the first stage; each later one has twice as many, and four times those with 50 layers. -1 stands for
    32 in the short schedule and 64 in the full one."""

    checkpointed: bool = False
    """Keep each block's input alone for the backward pass, which runs the block again: less memory, more time."""

    def check(self) -> None:
        if as_int("depth", self.depth) not in _NETWORKS:
            raise ValueError(f"depth: expected one of {', '.join(map(str, _NETWORKS))}, got {self.depth}")
        super().check()
        self.width = as_int("width", self.width, 1)

    def model(self) -> nn.Module:
        self.settle()
        return _NETWORKS[self.depth](self.num_classes, small_images=True, width=self.width,
                                     checkpointed=self.checkpointed, seed=self.seed)

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        self.settle()
        if self.schedule == "full":
            return super().make_optimizer(model)
        return optim.SGD(optim.parameter_groups(model, self.weight_decay), self.lr, momentum=0.9, nesterov=True)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip(), data.RandomCrop(4)]
