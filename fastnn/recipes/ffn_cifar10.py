"""Two hidden layers of 512 and 256 units on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fastnn import data, nn, training
from fastnn.recipes.cifar import CIFAR
from fastnn.recipes.fully_connected import FullyConnected
from fastnn.recipes.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class FFNCifar10(CIFAR, FullyConnected):
    """Hidden layers of 512 and 256 units, on CIFAR-10.

    The augmentation mirrors and moves the images. A picture shows what the units of the first layer look for.

    Examples
    --------
    >>> from fastnn import recipes
    >>> sum(parameter.data.size for parameter in recipes.FFNCifar10().model().parameters())
    1707274
    """

    name: ClassVar[str] = "ffn-cifar10"
    takes: ClassVar[str] = "4 min"
    reported: ClassVar[str] = "test 52.15 %"
    space: ClassVar[Space] = {
        **FullyConnected.space, "hidden": ((256,), (512,), (256, 128), (512, 256), (512, 256, 128), (1024, 512))}
    shape: ClassVar[tuple[int, ...]] = (3, 32, 32)

    epochs: int = 50
    batch_size: int = 128
    lr: float = 0.001
    weight_decay: float = 0.1
    hidden: tuple[int, ...] = (512, 256)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomCrop(2), data.RandomHorizontalFlip()]

    def pictures(self, model: nn.Module, dataset: data.Dataset) -> dict[str, Figure]:
        weight = model.state_dict()["1.weight"].reshape(-1, *dataset.train.images.shape[1:])
        return {"What units of the first layer look for": training.plots.filters(weight[:100])}
