"""What the recipes of deep convolutional networks on photographs have in common: pictures, and two schedules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from fastnn import data, nn, optim, training
from fastnn._checks import check_choice
from fastnn.recipes.cifar import CIFAR
from fastnn.recipes.classification import ImageClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Schedule: TypeAlias = Literal["short", "full"]


@dataclass
class Convolutional(CIFAR, ImageClassifier):
    """A recipe that trains a convolutional network on photographs; a subclass gives the model.

    Training images as the network sees them and the filters of its first layer are drawn.

    Examples
    --------
    >>> from fastnn import models, recipes
    >>> class Tiny(recipes.Convolutional):
    ...     name = "tiny"
    ...
    ...     def model(self):
    ...         return models.AllCNN(self.num_classes, width=8, seed=self.seed)
    >>> Tiny(dataset="cifar100").model()[0].out_channels
    8
    """

    validation: ClassVar[float] = 0.05

    def pictures(self, model: nn.Module, dataset: data.Dataset) -> dict[str, Figure]:
        weights = next(array for array in model.state_dict().values() if array.ndim == 4)
        return {"Augmented images": self.augmented(dataset),
                "Filters of the first layer": training.plots.filters(weights)}

    def augmented(self, dataset: data.Dataset, images: int = 10, epochs: int = 5) -> Figure:
        """Draw training images: a row as they are, and one for each of the first epochs."""
        part = data.Split(dataset.train.images[:images], dataset.train.labels[:images])
        loader = data.DataLoader(part, images, shuffle=False, seed=self.seed, transform=data.Compose(
            self.augmentation()), prefetch=False)
        rows = [part.images]
        for epoch in range(epochs):
            with closing(loader.epoch(epoch)) as batches:
                rows.append(next(batches)[0])
        return training.plots.images(np.concatenate(rows), columns=len(part),
                                     row_names=["image", *(f"epoch {epoch + 1}" for epoch in range(epochs))])


@dataclass
class ShortOrFull(Convolutional):
    """A recipe with a short schedule, for a processor, and a full one, for a GPU; a subclass gives the model.

    The short one is one cycle of the learning rate, the full one ends in steps that divide it by 10.

    Examples
    --------
    >>> from fastnn import models, recipes
    >>> class Tiny(recipes.ShortOrFull):
    ...     name = "tiny"
    ...     of_schedule = {"short": {"epochs": 2}, "full": {"epochs": 20}}
    ...     milestones = 0.6, 0.8
    ...
    ...     def model(self):
    ...         return models.AllCNN(self.num_classes, width=8, seed=self.seed)
    >>> recipe = Tiny(schedule="full")
    >>> recipe.check()
    >>> recipe.make_schedule()
    MultiStepLR(milestones=(12.0, 16.0), gamma=0.1)
    """

    schedule: Schedule = "short"
    """The course of the learning rate: "short", for a processor, goes through one cycle, and "full", for a GPU, falls
    to a tenth twice."""

    epochs: int = -1
    """How often training goes through all images; -1 stands for the number of the schedule, and another number
    stretches the schedule to it."""

    of_schedule: ClassVar[dict[Schedule, dict[str, Any]]]
    """What each schedule takes for options that are -1: `epochs`, and others whose default a subclass sets to -1."""
    milestones: ClassVar[tuple[float, float]] = (0.5, 0.75)
    """Where the full schedule divides the learning rate by 10, as shares of the epochs."""

    def check(self) -> None:
        self.settle()
        super().check()

    def settle(self) -> None:
        """Give options that are -1 what the schedule takes for them."""
        check_choice("schedule", self.schedule, get_args(Schedule))
        for name, value in self.of_schedule[self.schedule].items():
            if getattr(self, name) == -1:
                setattr(self, name, value)

    def changed(self) -> dict[str, Any]:
        usual = self.of_schedule.get(self.schedule, {})
        return {name: option for name, option in super().changed().items()
                if name not in usual or option != usual[name]}

    def make_schedule(self) -> Callable[[float], float]:
        if self.schedule == "short":
            return optim.OneCycleLR(self.epochs)
        return optim.MultiStepLR(tuple(share * self.epochs for share in self.milestones))
