"""A trained classifier of images made small: pruned and fine-tuned, quantised to int8, and both."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastnn import data, nn, optim, training
from fastnn._files import as_path
from fastnn.nn.cost import in_bytes
from fastnn.nn.freezing import freeze
from fastnn.nn.quantization import quantize
from fastnn.recipes.base import Device, Recipe, arguments, called, check_above_0, from_here, load, read_config
from fastnn.recipes.classification import ImageClassifier, in_order
from fastnn.training import pruning
from fastnn.training.metrics import percent
from fastnn.training.run_folder import LAST

_CALIBRATION = 512                          # training images by which the scales of int8 are chosen
_BATCH, _ROUNDS = 32, 20                    # images that are timed at once, and how often
_PRUNINGS = 20                              # times at which weights go, in the first half of each fine-tuning


@dataclass
class Compression(Recipe):
    """Prune and quantise the best model of a run, and put size, accuracy and speed in one table.

    The smallest weights of all layers together become 0, more and more of them, while the others are fine-tuned with
    the run's loss, augmentation and optimizer: at each sparsity from the model of the one before. Accuracy on the test
    images is drawn against sparsity, with fine-tuning and without.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.Compression(source="runs/allcnn-cifar10-1", sparsities=(0.5, 0.9)).levels
    (0.5, 0.8, 0.9)
    """

    name: ClassVar[str] = "compress"
    headline: ClassVar[tuple[str, ...]] = ("float32", "pruned", "int8", "pruned and int8")
    changeable: ClassVar[tuple[str, ...]] = ("run_dir", "data_dir", "resume", "device")     # epochs are for each level

    seed: int = 0
    """What everything random in fine-tuning is drawn from: the order of the images, augmentation, dropout."""

    source: Path = field(kw_only=True)
    """Folder of the run whose model is compressed, such as runs/allcnn-cifar10-1."""

    epochs: int = 2
    """How often fine-tuning goes through all training images, at each sparsity."""

    resume: bool = False
    """Go on with the compression in run_dir, by default the newest one, to the same end as if it had never stopped. Its
    options are those that it was begun with, --epochs too; --device may be another device."""

    sparsity: float = 0.8
    """The share of the weights that are 0 in the pruned models of the table."""

    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    """The shares at which accuracy is drawn; the one above is added where it is not among them."""

    lr_factor: float = 0.1
    """The share of the run's highest learning rate at which each fine-tuning begins; it falls to 0 along a cosine."""

    device: Device = "cpu"
    """Where to fine-tune; what the table says is measured on the processor."""

    @property
    def levels(self) -> tuple[float, ...]:
        """All sparsities, the lowest first."""
        return tuple(sorted({*self.sparsities, self.sparsity}))

    def check(self) -> None:
        self.source = as_path("source", self.source).absolute()         # it may be resumed and used from elsewhere
        self.sparsity = pruning.as_sparsity("sparsity", self.sparsity)
        self.sparsities = tuple(pruning.as_sparsity("sparsities", level) for level in self.sparsities)
        check_above_0("lr_factor", self.lr_factor)
        super().check()
        self.classifier()

    def classifier(self) -> ImageClassifier:
        """Return the recipe of the run whose model is compressed."""
        found = load(self.source)
        if not isinstance(found, ImageClassifier):
            raise ValueError(f"{self.source}: expected the run of a recipe that trains a classifier, got one of "
                             f"{found.name}")
        found.data_dir, found.device = self.data_dir or found.data_dir, "cpu"
        return found

    def compressed(self) -> ImageClassifier:
        """Return the recipe of that run, which evaluates and predicts by the pruned model in int8."""
        assert self.run_dir is not None
        pruned, weights = (self.run_dir / _file(kind) for kind in ("pruned", "pruned and int8"))
        if not weights.exists():
            raise FileNotFoundError(f"{self.run_dir}: expected the folder of a compression that has ended, but there "
                                    f"is no {weights.name} in it; go on with the compression by --resume, and give its "
                                    "folder, not that of one sparsity")
        source = self.classifier()
        whole, shape = source.measured, read_config(self.source)["inputs"]["shape"]

        def measured(model: nn.Module) -> nn.Module:
            model = source.model()          # which layers freezing folds depends on the weights: on those of this run
            training.load_model(pruned, model)
            network = quantize(model, np.zeros((1, *shape), np.float32)).to(source.device)  # its scales are loaded
            training.load_model(weights, network)
            return whole(network)

        source.measured = measured          # type: ignore[method-assign]
        return source

    def command(self) -> str:
        options = {name: value for name, value in self.changed().items() if name not in ("source", "data_dir")}
        recipe = called(type(self.classifier()))
        return shlex.join(["fastnn", "compress", str(from_here(self.source)), *arguments(options),
                           *(["--recipe", recipe] if ":" in recipe else [])])

    def experiment(self) -> None:
        self.check()
        source = self.classifier()
        model, dataset, normalize = source.reopened()
        judge = source.trainer(model)       # it trains nothing

        def accuracy(network: nn.Module) -> float:
            judge.model = source.measured(network)
            return judge.evaluate(in_order(dataset.test, normalize)).accuracy or 0.0

        folder = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: {type(model).__name__} of {self.source}, on {dataset.name}; sparsities: "
              f"{len(self.levels)}, epochs at each: {self.epochs}")
        print(f"run folder: {folder}", flush=True)
        dense = folder / _file("float32")
        if not dense.exists():              # by the time this is resumed, the run may have another best model
            training.save(dense, model.state_dict())
        source.prepare(model, dataset.train.images, normalize)          # what the run kept as it is, stays
        training.freeze_layers(model, source.freeze)

        at_once, fine_tuned = [], []
        for level in self.levels:
            training.load_model(dense, model)
            pruning.apply_masks(model, pruning.magnitude_masks(model, level))
            at_once.append(accuracy(freeze(model)))
        training.load_model(dense, model)
        histories = {}
        for level, history in self._fine_tune(source, model, dataset, normalize):
            histories[_percent(level)] = history
            fine_tuned.append(accuracy(freeze(model)))
            if level == self.sparsity:
                training.save(folder / _file("pruned"), model.state_dict(), sparse=True)

        rows = self._compare(model, accuracy, *(
            data.to_float(images, normalize.mean, normalize.std, scale=normalize.scale)
            for images in (dataset.train.images[:_CALIBRATION], dataset.test.images[:_BATCH])))

        percents = [100 * level for level in (0, *self.levels)]
        curves = {name: (percents, [100 * share for share in (rows[0].accuracy, *shares)])
                  for name, shares in (("fine-tuned", fine_tuned), ("pruned at once", at_once))}
        table = [["model", "size", "smaller", "test accuracy", "points", "images/s", "faster"],
                 *(row.beside(rows[0]) for row in rows)]
        weights = {name: parameter.data for name, parameter in pruning.prunable(model).items()}
        report = training.write_report(
            folder, title=f"{source.name} on {dataset.name}, pruned and quantised",
            figures={row.kind: row.figure for row in rows},
            pictures={"Accuracy against sparsity": training.plots.lines(curves, "weights that are 0 (%)",
                                                                        "test accuracy (%)"),
                      "Loss of the fine-tuning": training.plots.comparison(histories, "train_loss")},
            tables={"Size, accuracy and speed": table,
                    "Test accuracy by sparsity": [["weights that are 0", "fine-tuned", "pruned at once"], *(
                        [_percent(level), percent(tuned), percent(share)]
                        for level, tuned, share in zip(self.levels, fine_tuned, at_once))],
                    f"What is left of each layer at {_percent(self.sparsity)}": [["weights", "before", "left"], *(
                        [name, f"{array.size:,}", percent(np.count_nonzero(array) / array.size)]
                        for name, array in weights.items())]})
        print()
        for line in table:
            print(f"{line[0]:<16}" + "".join(f"{cell:>15}" for cell in line[1:]))
        print(f"report: {report}")

    def _compare(self, model: nn.Module, accuracy: Callable[[nn.Module], float], few: NDArray[Any],
                 batch: NDArray[Any]) -> list[_Row]:
        """Calibrate on a few images, time on a batch, and return the table's rows; the model ends as the pruned one."""
        assert self.run_dir is not None
        networks: dict[str, nn.Module] = {}
        for kind, quantised in (("float32", "int8"), ("pruned", "pruned and int8")):
            training.load_model(self.run_dir / _file(kind), model)
            networks |= {kind: freeze(model), quantised: quantize(model, few)}
            training.save(self.run_dir / _file(quantised), networks[quantised].state_dict(), sparse=kind == "pruned")
        speeds = _speeds(networks, batch)
        return [_Row(kind, (self.run_dir / _file(kind)).stat().st_size, accuracy(networks[kind]), speeds[kind])
                for kind in self.headline]

    def _fine_tune(self, source: ImageClassifier, model: nn.Module, dataset: data.Dataset,
                   normalize: data.Normalize) -> Iterator[tuple[float, training.History]]:
        """Prune the model to each sparsity in turn, and say what the epochs of that were."""
        assert self.run_dir is not None
        train, validation = source.split(dataset)       # which the run's seed decides
        source.seed, source.device = self.seed, self.device
        tensors, saved = training.load(source.checkpoint)
        for name in source.varying:
            setattr(source, name, saved["config"][name])
        loss = training.checkpoint.part(tensors, "loss")
        loader = source.train_loader(train, normalize)
        steps, cosine = self.epochs * len(loader), optim.CosineLR(self.epochs)
        for level, before in zip(self.levels, (0.0, *self.levels)):
            print(f"{_percent(level)} of the weights", flush=True)
            folder = self.run_dir / f"sparsity-{level}"
            callback = training.Pruning(level, end_step=steps // 2, frequency=max(1, steps // (2 * _PRUNINGS)),
                                        initial_sparsity=before)
            trainer = source.trainer(model, run_dir=folder, config={**self.config(), "sparsity": level},
                                     callbacks=[callback])
            trainer.schedule = lambda t: self.lr_factor * cosine(t)
            trainer.loss.load_state_dict(loss)
            history = trainer.fit(loader, None if validation is None else in_order(validation, normalize),
                                  epochs=self.epochs, resume=self.resume and (folder / LAST).exists())
            loss = trainer.loss.state_dict()
            model.to("cpu")
            yield level, history


class _Row(NamedTuple):
    """What a kind of the model is worth."""

    kind: str
    size: int
    """Bytes of its file."""
    accuracy: float
    speed: float
    """Images a second."""

    @property
    def figure(self) -> str:
        return f"{percent(self.accuracy)}, {in_bytes(self.size)}, {self.speed:,.0f} images/s"

    def beside(self, dense: _Row) -> list[str]:
        """Return the cells of the table."""
        return [self.kind, in_bytes(self.size), f"{dense.size / self.size:.1f} x", percent(self.accuracy),
                f"{100 * (self.accuracy - dense.accuracy):+.2f}", f"{self.speed:,.0f}",
                f"{self.speed / dense.speed:.2f} x"]


def _speeds(networks: Mapping[str, nn.Module], images: NDArray[Any]) -> dict[str, float]:
    """Return how many images a second each network takes, as the median of several times in turn."""
    seconds: dict[str, list[float]] = {kind: [] for kind in networks}
    for _ in range(1 + _ROUNDS):
        for kind, network in networks.items():
            begin = time.perf_counter()
            network(images)
            seconds[kind].append(time.perf_counter() - begin)
    return {kind: len(images) / median(times[1:]) for kind, times in seconds.items()}     # the first one compiles


def _file(kind: str) -> str:
    return f"{kind.replace(' ', '-')}.safetensors"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
