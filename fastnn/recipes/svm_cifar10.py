"""A linear support vector machine on CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastnn import models
from fastnn.recipes.linear_classifier import LinearClassifier


@dataclass
class SVMCifar10(LinearClassifier):
    """A linear classifier with the hinge loss, on CIFAR-10.

    Trained over a grid of learning rates and weight decays. Pictures show the template of each class, and what the
    first steps do to the loss if the inputs are not scaled.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.SVMCifar10().model().criterion
    HingeLoss(margin=1.0)
    """

    name: ClassVar[str] = "svm-cifar10"
    takes: ClassVar[str] = "1 min"
    reported: ClassVar[str] = "val 36.20 %, test 33.66 %"

    lr: float = 0.0005
    weight_decay: float = 0.3

    def model(self) -> models.LinearSVM:
        return models.LinearSVM(3072, self.num_classes, seed=self.seed)

    @property
    def initial_loss(self) -> float:
        return self.num_classes - 1
