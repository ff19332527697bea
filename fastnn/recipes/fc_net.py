"""Fully connected networks of any depth on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastnn import data
from fastnn.recipes.cifar import CIFAR
from fastnn.recipes.fully_connected import FullyConnected


@dataclass
class FCNet(CIFAR, FullyConnected):
    """Linear layers of any number and width, on CIFAR-10.

    By default two hidden layers of 100 units with batch normalization; the augmentation mirrors the images.

    Examples
    --------
    >>> from fastnn import recipes
    >>> len(list(recipes.FCNet(hidden=(64, 64, 64), batch_norm=False).model().parameters()))
    8
    """

    name: ClassVar[str] = "fc-net"
    takes: ClassVar[str] = "30 s"
    shape: ClassVar[tuple[int, ...]] = (3, 32, 32)

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.004
    batch_norm: bool = True

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip()]
