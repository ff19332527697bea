"""A linear softmax classifier on CIFAR-10."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastnn import models
from fastnn.recipes.linear_classifier import LinearClassifier


@dataclass
class SoftmaxCifar10(LinearClassifier):
    """A linear classifier with the cross-entropy of the softmax, on CIFAR-10.

    Trained over a grid of learning rates and weight decays. Pictures show the template of each class, and what the
    first steps do to the loss if the inputs are not scaled.

    Examples
    --------
    >>> from fastnn import recipes
    >>> round(recipes.SoftmaxCifar10().initial_loss, 4)
    2.3026
    """

    name: ClassVar[str] = "softmax-cifar10"
    takes: ClassVar[str] = "1 min"

    lr: float = 0.005
    weight_decay: float = 0.03

    def model(self) -> models.SoftmaxClassifier:
        return models.SoftmaxClassifier(3072, self.num_classes, seed=self.seed)

    @property
    def initial_loss(self) -> float:
        return math.log(self.num_classes)
