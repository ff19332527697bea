"""A small convolutional network on handwritten digits that lie in the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fastnn import models
from fastnn.data import Dataset, RandomAffine, Transform, load
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Range, Space


@dataclass
class CNN(ImageClassifier):
    """Three convolutions, on handwritten digits of 8x8 pixels.

    The 1,797 digits lie in the package. The network normalises its batches; the augmentation turns and moves the
    images a little.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.CNN(epochs=5).load_dataset().name
    'digits'
    """

    name: ClassVar[str] = "cnn"
    needs: ClassVar[str] = "in the package"
    takes: ClassVar[str] = "5 s"
    space: ClassVar[Space] = {"lr": Range(1e-3, 1e-1, log=True), "batch_size": (32, 64, 128, 256)}

    epochs: int = 15

    dataset: Literal["digits", "mnist", "fashion-mnist"] = "digits"
    """Which images. The digits lie in the package; the others are found as data_dir says."""

    def check_data_dir(self) -> None:
        super().check_data_dir()
        if self.dataset == "digits" and self.data_dir is not None:
            raise ValueError(f"data_dir: expected none with the digits, which lie in the package, got {self.data_dir}; "
                             "leave it out, or give dataset as mnist or fashion-mnist")

    def load_dataset(self) -> Dataset:
        return load(self.dataset.replace("-", "_"), self.data_dir)

    def model(self) -> models.CNN:
        return models.CNN(seed=self.seed)

    def augmentation(self) -> Sequence[Transform]:
        return [RandomAffine(10, translate=(0.1, 0.1))]
