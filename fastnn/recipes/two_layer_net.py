"""One hidden layer of 50 units on CIFAR-10."""

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
class TwoLayerNet(CIFAR, ImageClassifier):
    """One hidden layer of 50 units, on CIFAR-10.

    The augmentation mirrors the images. A picture shows what each hidden unit looks for: its row of the first weight.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.TwoLayerNet(hidden=20).model()[1]
    Linear(in_features=3072, out_features=20)
    """

    name: ClassVar[str] = "two-layer-net"
    takes: ClassVar[str] = "30 s"
    space: ClassVar[Space] = {"lr": Range(3e-4, 3e-2, log=True), "weight_decay": Range(1e-3, 1.0, log=True),
                              "hidden": Range(20, 200)}

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.004
    weight_decay: float = 0.05

    hidden: int = 50
    """Units of the hidden layer."""

    label_smoothing: ClassVar[float] = 0.0

    def check(self) -> None:
        super().check()
        if self.hidden < 1:
            raise ValueError(f"hidden: expected at least 1, got {self.hidden}")

    def model(self) -> models.TwoLayerNet:
        return models.TwoLayerNet(hidden=self.hidden, num_classes=self.num_classes, seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip()]

    def pictures(self, model: nn.Module, dataset: data.Dataset) -> dict[str, Figure]:
        weight = model.state_dict()["1.weight"].reshape(-1, *dataset.train.images.shape[1:])
        return {"What the hidden units look for": training.plots.filters(weight)}
