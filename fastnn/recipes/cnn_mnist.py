"""Two convolutions and two linear layers on MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastnn import data, models
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Range, Space


@dataclass
class CNNMnist(ImageClassifier):
    """Two convolutions and two linear layers, on MNIST.

    MNIST has 60,000 handwritten digits of 28x28 pixels, and 10,000 for the test; the augmentation turns and moves them
    a little.

    Examples
    --------
    >>> from fastnn import recipes
    >>> type(recipes.CNNMnist(seed=1).model()).__name__
    'CNNMnist'
    """

    name: ClassVar[str] = "cnn-mnist"
    needs: ClassVar[str] = "MNIST (11 MB)"
    takes: ClassVar[str] = "8 min"
    reported: ClassVar[str] = "test 98.33 %"
    space: ClassVar[Space] = {"lr": Range(3e-4, 3e-2, log=True), "batch_size": (64, 128, 256)}

    batch_size: int = 128
    lr: float = 0.002

    validation: ClassVar[float] = 1 / 12
    label_smoothing: ClassVar[float] = 0.0          # its probabilities say how sure it is, which ddpm-mnist goes by

    def load_dataset(self) -> data.Dataset:
        return data.mnist(self.data_dir)

    def model(self) -> models.CNNMnist:
        return models.CNNMnist(seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomAffine(10, translate=(0.08, 0.08))]
