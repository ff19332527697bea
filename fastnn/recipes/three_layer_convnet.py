"""One convolution and two linear layers on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fastnn import data, models, nn, training
from fastnn.recipes.cifar import CIFAR
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Range, Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class ThreeLayerConvNet(CIFAR, ImageClassifier):
    """One convolution and two linear layers, on CIFAR-10.

    CIFAR-10 has 50,000 colour photographs of 32x32 pixels, and 10,000 for the test; the augmentation mirrors and moves
    them. The filters of the first layer are drawn.

    Examples
    --------
    >>> from fastnn import recipes
    >>> type(recipes.ThreeLayerConvNet(seed=1).model()).__name__
    'ThreeLayerConvNet'
    """

    name: ClassVar[str] = "three-layer-convnet"
    takes: ClassVar[str] = "7 min"
    space: ClassVar[Space] = {"lr": Range(3e-4, 3e-2, log=True), "batch_size": (64, 128, 256)}

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.002

    def model(self) -> models.ThreeLayerConvNet:
        return models.ThreeLayerConvNet(num_classes=self.num_classes, seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomCrop(4), data.RandomHorizontalFlip()]

    def pictures(self, model: nn.Module, dataset: data.Dataset) -> dict[str, Figure]:
        return {"Filters of the first layer": training.plots.filters(model.state_dict()["0.weight"])}
