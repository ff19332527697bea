"""Three hidden layers of 128 units on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastnn import data
from fastnn.recipes.fully_connected import FullyConnected
from fastnn.recipes.space import Space


@dataclass
class FFNFashion(FullyConnected):
    """Three hidden layers of 128 units, on Fashion-MNIST.

    The data set's files may be IDX or CSV. Each pixel is normalised by its own mean and deviation; the
    augmentation moves some of the images by a pixel.

    Examples
    --------
    >>> from fastnn import recipes
    >>> sum(parameter.data.size for parameter in recipes.FFNFashion().model().parameters())
    134794
    """

    name: ClassVar[str] = "ffn-fashion"
    needs: ClassVar[str] = "Fashion-MNIST (30 MB)"
    takes: ClassVar[str] = "1 min"
    reported: ClassVar[str] = "test 89.3 %"
    space: ClassVar[Space] = {
        **FullyConnected.space, "hidden": tuple((width,) * depth for width in (64, 128, 256) for depth in (1, 2, 3))}
    shape: ClassVar[tuple[int, ...]] = (1, 28, 28)

    lr: float = 0.002
    weight_decay: float = 0.1
    hidden: tuple[int, ...] = (128, 128, 128)

    validation: ClassVar[float] = 1 / 12
    label_smoothing: ClassVar[float] = 0.1

    def load_dataset(self) -> data.Dataset:
        return data.fashion_mnist(self.data_dir)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomApply(data.RandomCrop(1), p=0.3)]

    def statistics(self, images: NDArray[np.uint8], scale: float) -> tuple[NDArray[Any], NDArray[Any]]:
        return data.pixel_statistics(images, scale)
