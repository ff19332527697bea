"""What the recipes on CIFAR's photographs have in common: which of the two sets they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from fastnn import data
from fastnn._checks import check_choice
from fastnn.recipes.base import Recipe

CIFARName: TypeAlias = Literal["cifar10", "cifar100"]


@dataclass
class CIFAR(Recipe):
    """A recipe on CIFAR-10 or CIFAR-100; put it before the other classes that a recipe derives from.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from fastnn import models, recipes
    >>> @dataclass
    ... class Tiny(recipes.CIFAR, recipes.ImageClassifier):
    ...     name = "tiny"
    ...
    ...     def model(self):
    ...         return models.AllCNN(self.num_classes, width=8, seed=self.seed)
    >>> Tiny(dataset="cifar100").num_classes
    100
    """

    needs: ClassVar[str] = "CIFAR-10 (170 MB)"

    dataset: CIFARName = "cifar10"
    """Which photographs: CIFAR-10's, which show 10 classes, or CIFAR-100's, which show 100."""

    def check(self) -> None:
        check_choice("dataset", self.dataset, get_args(CIFARName))
        super().check()

    def load_dataset(self) -> data.Dataset:
        """Return the photographs."""
        found: data.Dataset = getattr(data, self.dataset)(self.data_dir)
        return found

    @property
    def num_classes(self) -> int:
        """The number of classes in them."""
        return 100 if self.dataset == "cifar100" else 10
