"""The all-convolutional network on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastnn import data, models, nn, optim
from fastnn._checks import as_float, as_int
from fastnn.recipes.convolutional import Schedule, ShortOrFull
from fastnn.recipes.space import Range, Space


@dataclass
class AllCNNCifar10(ShortOrFull):
    """Convolutions alone, strided ones in the place of pooling, on CIFAR-10.

    Gradient descent with Nesterov's momentum of 0.9, and decay of the weights alone; the augmentation mirrors and moves
    the photographs, and changes their brightness and contrast. The short schedule is one cycle of 22 epochs; the full
    one divides the learning rate by 10 after 40 and after 80 of 100 epochs.

    Examples
    --------
    >>> from fastnn import recipes
    >>> sum(parameter.data.size for parameter in recipes.AllCNNCifar10().model().parameters())
    1370986
    """

    name: ClassVar[str] = "allcnn-cifar10"
    takes: ClassVar[str] = "48 min"
    reported: ClassVar[str] = "about 90 % validation"
    space: ClassVar[Space] = {"lr": Range(1e-2, 1.0, log=True), "weight_decay": Range(1e-4, 1e-2, log=True),
                              "dropout": Range(0.0, 0.6), "batch_size": (64, 128, 256)}
    label_smoothing: ClassVar[float] = 0.0
    of_schedule: ClassVar[dict[Schedule, dict[str, Any]]] = {"short": {"epochs": 22}, "full": {"epochs": 100}}
    milestones: ClassVar[tuple[float, float]] = (0.4, 0.8)

    batch_size: int = 128

    lr: float = 0.1
    """Highest learning rate."""

    weight_decay: float = 1e-3

    width: int = 96
    """Channels of the first three convolutions; the others have twice as many."""

    dropout: float = 0.2
    """The share of the values after each strided convolution that are dropped in training."""

    def check(self) -> None:
        self.width = as_int("width", self.width, 1)
        if not 0 <= as_float("dropout", self.dropout) < 1:
            raise ValueError(f"dropout: expected from 0 to below 1, got {self.dropout}")
        super().check()

    def model(self) -> models.AllCNN:
        return models.AllCNN(self.num_classes, width=self.width, dropout=self.dropout, seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip(), data.RandomCrop(4), data.ColorJitter(0.2, 0.2)]

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        return optim.SGD(optim.parameter_groups(model, self.weight_decay), self.lr, momentum=0.9, nesterov=True)
