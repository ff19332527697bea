"""What the recipes of linear classifiers have in common: a grid of runs, the best of which counts."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

import numpy as np

from fastnn import data, nn, optim, training
from fastnn.models import FullyConnectedNet
from fastnn.recipes.base import read_config
from fastnn.recipes.cifar import CIFAR
from fastnn.recipes.classification import Change, ImageClassifier
from fastnn.training.checkpoint import replace_file
from fastnn.training.metrics import percent
from fastnn.training.run_folder import BEST, CONFIG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Fitted: TypeAlias = tuple[training.Trainer, data.Dataset, data.Normalize]
_ONE = (1.0,)
_LR, _STEPS = 0.001, 10             # of the first steps, drawn for inputs that are scaled and such that are not


@dataclass
class LinearClassifier(CIFAR, ImageClassifier):
    """A recipe that trains a linear classifier of photographs by gradient descent, over a grid of rates and decays.

    Each pair is a run in a folder of its own; the one with the best validation accuracy is measured on the test
    images. A subclass gives the model with its loss.

    Examples
    --------
    >>> from fastnn import recipes
    >>> [(cell.lr, cell.weight_decay) for cell in recipes.SVMCifar10(lr=1e-3, factors=(1, 10)).cells()]
    [(0.001, 0.3), (0.001, 3.0), (0.01, 0.3), (0.01, 3.0)]
    """

    epochs: int = 7
    batch_size: int = 200
    lr: float = 0.001
    weight_decay: float = 0.01

    factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    """The grid: learning rate and decay are multiplied by each of these. 1 alone trains once."""

    varying: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "factors")

    @property
    @abstractmethod
    def initial_loss(self) -> float:
        """The loss of equal scores."""

    @abstractmethod
    def model(self) -> FullyConnectedNet:
        """Return the linear model, with its loss."""

    def augmentation(self) -> Sequence[data.Transform]:
        return [data.RandomHorizontalFlip()]

    def make_loss(self) -> nn.Module:
        return self.model().criterion

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        return optim.SGD(optim.parameter_groups(model, self.weight_decay), self.lr, momentum=0.9, nesterov=True)

    def check(self) -> None:
        super().check()
        if not self.factors or len(set(self.factors)) < len(self.factors) or not all(
                0 < factor < math.inf for factor in self.factors):
            raise ValueError(f"factors: expected numbers above 0, each once, got {self.factors}")

    def cells(self) -> list[LinearClassifier]:
        """Return the recipes of the grid: one a rate and decay."""
        return [replace(self, lr=lr, weight_decay=decay, factors=_ONE) for lr, decay in product(*self.axes())]

    def axes(self) -> list[list[float]]:
        """Return the learning rates and the weight decays of the grid."""
        return [list(dict.fromkeys(_rounded(option * factor) for factor in self.factors))
                for option in (self.lr, self.weight_decay)]

    def fit(self, *, callbacks: Sequence[training.Callback] = (), progress: bool = True,
            dataset: data.Dataset | None = None, change: Change | None = None) -> _Fitted:
        if self.factors == _ONE:
            return super().fit(callbacks=callbacks, progress=progress, dataset=dataset, change=change)
        self.check()
        dataset = self.load_dataset() if dataset is None else dataset
        self.check_dataset(dataset, self.model())
        self.begin(self.model(), dataset.classes)
        run_dir = self.open_run_dir()
        before = read_config(run_dir) if (run_dir / CONFIG).exists() else {}
        self.write_config(**{name: value for name, value in before.items() if name == "inputs"})
        rates, decays = self.axes()
        print(f"{self.name}: a grid of {len(rates)} learning rates x {len(decays)} weight decays")
        print(f"run folder: {run_dir}", flush=True)
        cells = self.cells()
        fitted: dict[int, _Fitted] = {}
        self.grid = np.full(len(cells), np.nan)
        for place, cell in enumerate(cells):
            cell.run_dir = run_dir / f"lr-{cell.lr:g}-decay-{cell.weight_decay:g}"
            cell.resume = self.resume and (cell.run_dir / "last.safetensors").exists()
            try:
                fitted[place] = cell.fit(callbacks=callbacks, progress=False, dataset=dataset, change=change)
            except training.DivergedError:
                if not fitted and cell is cells[-1]:
                    raise
                outcome = "diverged"
            else:
                self.grid[place] = fitted[place][0].history["val_accuracy"].max()
                outcome = f"validation {percent(self.grid[place])}"
            print(f"learning rate {cell.lr:<8g} weight decay {cell.weight_decay:<8g} {outcome}", flush=True)
        best = int(np.nanargmax(self.grid))
        # The best run of the grid becomes the whole one's, so that it can be evaluated and used.
        for name in (BEST, "last.safetensors", "metrics.jsonl"):
            replace_file(run_dir / name, (cast(Path, cells[best].run_dir) / name).read_bytes())
        self.write_config(inputs=read_config(cast(Path, cells[best].run_dir))["inputs"])
        return fitted[best]

    def figures(self) -> dict[str, str]:
        if self.factors == _ONE:
            return {}
        best = self.cells()[int(np.nanargmax(self.grid))]
        return {"learning rate": f"{best.lr:g}", "weight decay": f"{best.weight_decay:g}"}

    def pictures(self, model: nn.Module, dataset: data.Dataset) -> dict[str, Figure]:
        weight = model.state_dict()["1.weight"].reshape(-1, *dataset.train.images.shape[1:])
        pictures = {"Templates": training.plots.filters(weight, dataset.classes)}
        if self.factors != _ONE:
            rates, decays = ([f"{option:g}" for option in axis] for axis in self.axes())
            pictures["Validation accuracy over the grid (%)"] = training.plots.table(
                rates, decays, self.grid.reshape(len(rates), len(decays)), "learning rate", "weight decay")
        return pictures | self.first_steps(dataset)

    def first_steps(self, dataset: data.Dataset) -> dict[str, Figure]:
        """Print and draw the loss before training and in some steps, on pixels as they are and on normalised ones."""
        count = _STEPS * self.batch_size
        part = data.Split(dataset.train.images[:count], dataset.train.labels[:count])
        scaled = data.Normalize(*data.channel_statistics(part.images))
        series = {}
        for name, transform in (("pixels from 0 to 255", data.Normalize(0, 1, 1)), ("mean 0, deviation 1", scaled)):
            model = self.model()
            model.to(self.device)
            optimizer, losses = optim.SGD(model.parameters(), _LR), []
            for batch in data.DataLoader(part, self.batch_size, seed=self.seed, transform=transform):
                images, labels = map(self.placed, batch)
                scores, backward = model.forward(images)
                loss, loss_backward = model.criterion.forward(scores, labels)
                losses.append(float(loss))
                backward(loss_backward(), input_grad=False)
                optimizer.step()
                optimizer.zero_grad()
            print(f"loss of the first {_STEPS} steps, {name}: {losses[0]:.2f} to {losses[-1]:.2f}")
            series[name] = (np.arange(len(losses)), losses)
        print(f"(equal scores have a loss of {self.initial_loss:.2f})")
        return {f"The first steps: at a learning rate of {_LR}": training.plots.lines(
            series, "step", "loss", log_y=True)}


def _rounded(value: float) -> float:
    """Without the last digits, which products of decimal numbers leave behind."""
    return float(f"{value:.6g}")
