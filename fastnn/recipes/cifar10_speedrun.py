"""A speed run: CIFAR-10 in ten epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from fastnn import data, models, nn, optim, training
from fastnn._checks import as_int
from fastnn.recipes.convolutional import Convolutional

_MOMENTUM = 0.85
# What learning rates are divided by: with Nesterov's momentum, each of 1,024 gradients moves a weight so often.
_KILOSTEP = 1024 * (1 + 1 / (1 - _MOMENTUM))
_BIASES = 64                                # how many times faster the biases of batch normalisation learn
_WHITENED = 5000                            # training images whose patches make the first filters
_WHITENING_EPOCHS = 3                       # in which the biases of the first filters learn
_SLOW = 0.95                                # what slow weights keep of themselves at the end, for each step


@dataclass
class CIFAR10Speedrun(Convolutional):
    """The network and the schedule by which a speed run reached 94 % of CIFAR-10 in ten epochs.

    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv:2404.00498): filters that whiten patches, flips
    that alternate, Lookahead, and six views of each test image. All training images are trained on, none validates, and
    the last model is measured. Learning rate and weight decay are in the paper's units, so that other batch sizes need
    no others: the optimizer's are lr batch_size / 7,851 and weight_decay / lr.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipe = recipes.CIFAR10Speedrun()
    >>> weights, biases = recipe.make_optimizer(recipe.model()).param_groups
    >>> round(weights["lr"], 3), round(biases["lr"] / weights["lr"])
    (1.465, 64)
    """

    name: ClassVar[str] = "cifar10-speedrun"
    takes: ClassVar[str] = "12 min"
    reported: ClassVar[str] = "94.01 % in 3.29 s on an A100"
    validation: ClassVar[float] = 0.0
    label_smoothing: ClassVar[float] = 0.2

    epochs: int = 10
    batch_size: int = 1000

    lr: float = 11.5
    """Highest learning rate, in the paper's units, reached after 23 % of the run."""

    weight_decay: float = 0.0153
    """How strongly weights are drawn to 0, in the paper's units."""

    width: int = 64
    """Channels of the first two convolutions after the whitening one; the others have four times as many."""

    def check(self) -> None:
        self.width = as_int("width", self.width, 1)
        super().check()

    def model(self) -> models.SpeedrunNet:
        return models.SpeedrunNet(self.num_classes, width=self.width, seed=self.seed)

    def prepare(self, model: nn.Module, images: NDArray[np.uint8], normalize: data.Normalize) -> None:
        floats = data.to_float(images[:_WHITENED], normalize.mean, normalize.std, scale=normalize.scale)
        cast(models.SpeedrunNet, model).whiten(floats)

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.AlternatingHorizontalFlip(self.seed), data.RandomCrop(2)]

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        biases = [parameter for name, parameter in model.named_parameters()
                  if name.startswith("layer") and parameter.data.ndim == 1]
        others = [parameter for name, parameter in model.named_parameters()
                  if not (name.startswith("layer") and parameter.data.ndim == 1)]
        lr, decay = self.lr * self.batch_size / _KILOSTEP, self.weight_decay / self.lr
        return optim.SGD([{"params": others, "lr": lr, "weight_decay": decay},
                          {"params": biases, "lr": _BIASES * lr, "weight_decay": decay / _BIASES}],
                         lr, momentum=_MOMENTUM, nesterov=True)

    def make_schedule(self) -> Callable[[float], float]:
        return lambda t: float(np.interp(t / self.epochs, (0, 0.23, 1), (0.2, 1.0, 0.07)))

    def callbacks(self, steps: int) -> Sequence[training.Callback]:
        k, total = 5, steps * self.epochs
        return [training.Lookahead(k, alpha=lambda step: 1 - _SLOW**k * min(1.0, step / total) ** 3), _WhiteningBias()]

    def measured(self, model: nn.Module) -> nn.Module:
        return models.MultiCrop(model)


class _WhiteningBias(training.Callback):
    """Lets the biases of the first filters learn in the first epochs alone."""

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        trainer.model.conv1.bias.requires_grad &= epoch < _WHITENING_EPOCHS
