"""One convolution and two linear layers on CIFAR-10."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from fastnn import data, models, nn
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Range, Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class ThreeLayerConvNet(ImageClassifier):
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
    needs: ClassVar[str] = "CIFAR-10 (170 MB)"
    takes: ClassVar[str] = "6 min"
    space: ClassVar[Space] = {"lr": Range(3e-4, 3e-2, log=True), "batch_size": (64, 128, 256)}

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.002

    def dataset(self) -> data.Dataset:
        return data.cifar10(self.data_dir)

    def model(self) -> models.ThreeLayerConvNet:
        return models.ThreeLayerConvNet(seed=self.seed)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomCrop(4), data.RandomHorizontalFlip()]

    def pictures(self, model: nn.Module) -> dict[str, Figure]:
        return {"Filters of the first layer": filters(model.state_dict()["0.weight"])}


def filters(weight: NDArray[Any]) -> Figure:
    """Draw filters of 3 channels as images, each stretched to its own range.

    Parameters
    ----------
    weight : ndarray, shape (O, 3, H, W)

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.recipes.three_layer_convnet import filters
    >>> len(filters(np.random.default_rng(0).normal(size=(10, 3, 5, 5))).axes)
    10
    """
    from matplotlib.figure import Figure

    columns = math.ceil(math.sqrt(len(weight)))
    rows = -(-len(weight) // columns)
    figure = Figure(figsize=(0.6 * columns, 0.6 * rows), layout="constrained")
    low, high = weight.min((1, 2, 3), keepdims=True), weight.max((1, 2, 3), keepdims=True)
    for place, picture in enumerate(((weight - low) / (high - low)).transpose(0, 2, 3, 1), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(picture)
        axes.set_axis_off()
    return figure
