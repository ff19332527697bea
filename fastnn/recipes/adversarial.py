"""Test images changed so that a trained network misreads them, and training against that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastnn import data, nn, training
from fastnn._checks import as_int
from fastnn.recipes.base import NotImportedError, Recipe, check_above_0, load, read_config
from fastnn.recipes.cifar10_speedrun import CIFAR10Speedrun
from fastnn.recipes.classification import ImageClassifier, as_part, trained_in
from fastnn.training import attacks, plots
from fastnn.training.metrics import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEFORE, _AFTER = "the network", "trained on attacked images"
_SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)      # of eps, at which accuracy is drawn
_NOISE = 2.0                                # of adversarial training, in eps
_DRAWN = 8                                  # images in a row of a picture


class _Found(NamedTuple):
    """What attacks on a network found, by what they are called; accuracies against `_SHARES` of eps, and after 0."""

    curves: dict[str, NDArray[np.float64]]
    losses: NDArray[np.float64]
    pictures: dict[str, Figure]

    def accuracies(self) -> dict[str, float]:
        """The accuracy on clean images and at eps itself."""
        at_eps = {name: float(curve[1 + _SHARES.index(1)]) for name, curve in self.curves.items()}
        return {"clean": float(next(iter(self.curves.values()))[0]), **at_eps}


@dataclass
class Adversarial(Recipe):
    """Attacks a trained network by its own gradients, and may train it against that.

    The network is that of a run of any recipe that keeps a classifier of images; without one, cifar10-speedrun is
    trained first. Test images are attacked by the fast gradient sign method, in one step and in several. Pictures show
    gradients, attacked images, the loss at each step, and accuracy against eps.

    With epochs, the network is trained further as its recipe does, but on images with noise of up to 2 eps that are
    attacked in one step, and both networks are compared. What its recipe validates on is attacked too.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.Adversarial(epochs=5).command()
    'fastnn train adversarial --epochs 5'
    """

    name: ClassVar[str] = "adversarial"
    needs: ClassVar[str] = "CIFAR-10 (170 MB)"
    takes: ClassVar[str] = "~20 min"
    reported: ClassVar[str] = "clean about 90 %, 1 step about 45 %"
    least_epochs: ClassVar[int] = 0
    changeable: ClassVar[tuple[str, ...]] = ("run_dir", "data_dir", "resume", "device")     # epochs are for each part

    init_from: Path | None = None
    """Folder of the run whose network is attacked, such as runs/allcnn-cifar10-1."""

    epochs: int = 0
    """How often adversarial training goes through all images; with 0 there is none."""

    resume: bool = False
    """Go on with the run in run_dir, by default the newest of this recipe. Its options are those that it was begun
    with."""

    eps: float = 8.0
    """How far an attack may move a pixel, of 255."""

    steps: int = 5
    """Steps of the attack in several steps, which go eps over this number each."""

    images: int = 10_000
    """The most test images that are attacked."""

    def check(self) -> None:
        super().check()
        check_above_0("eps", self.eps)
        self.steps, self.images = as_int("steps", self.steps, 2), as_int("images", self.images, 1)
        self.network()

    def headlines(self) -> tuple[str, ...]:
        return tuple(f"{name}{after}" for after in ("", f", {_AFTER}")
                     for name in ("clean", "1 step", f"{self.steps} steps"))

    def network(self) -> ImageClassifier:
        """Return the recipe of the network that is attacked; with the folder of its run, where that is given."""
        if self.init_from is None:
            return CIFAR10Speedrun(seed=self.seed, data_dir=self.data_dir, device=self.device)
        trained_in(self.init_from)
        try:
            found = load(self.init_from)
        except NotImportedError as error:
            raise ValueError(f"init_from: expected a run of one of fastnn's recipes, got one of "
                             f"{read_config(self.init_from)['class']} in {self.init_from}, whose code is not imported "
                             "unasked; if you trust it, import it in Python and run recipes.Adversarial there"
                             ) from error
        if not isinstance(found, ImageClassifier):
            raise ValueError(f"init_from: expected a run of a recipe that keeps a trained classifier of images, got "
                             f"one of {found.name} in {self.init_from}")
        return replace(found, data_dir=self.data_dir or found.data_dir, device=self.device)

    def experiment(self) -> None:
        self.check()
        network = self.network()
        dataset = network.load_dataset()
        test = data.Split(dataset.test.images[: self.images], dataset.test.labels[: self.images])
        if test.images.shape[1] not in (1, 3):
            raise ValueError("init_from: expected the run of a network of images of 1 or 3 channels, got "
                             f"{test.images.shape[1]}")
        run_dir = self.open_run_dir()
        self.write_config()
        print(f"{self.name}: {len(test):,} test images of {dataset.name}, attacked within {self.eps:g} of 255")
        print(f"run folder: {run_dir}", flush=True)

        pictures = {}
        if self.init_from is None:
            network = as_part(self, "network", network)
            network.fit(dataset=dataset)
        networks = {_BEFORE: network}
        if self.epochs:
            networks[_AFTER] = as_part(self, "robust", replace(
                network, init_from=network.run_dir, freeze=(), epochs=self.epochs, resume=False, track=None))
            trainer, *_ = networks[_AFTER].fit(dataset=dataset, change=self.attacked)
            pictures["Adversarial training"] = plots.curves(trainer.history)
        found = {}
        for title, recipe in networks.items():
            found[title] = self.attack(recipe, test, dataset.classes)
            print(f"{title}: " + ", ".join(f"{name} {percent(value)}" for name, value in
                                           found[title].accuracies().items()), flush=True)

        steps, eps = range(self.steps + 1), [0, *(share * self.eps for share in _SHARES)]
        pictures["Accuracy against eps"] = plots.lines(
            {f"{title}, {name}": (eps, 100 * curve) for title, one in found.items()
             for name, curve in one.curves.items()}, "eps (of 255)", "accuracy (%)")
        pictures["Loss at each step"] = plots.lines(
            {title: (steps, one.losses) for title, one in found.items()}, "step", "mean loss")
        for title, one in found.items():
            pictures |= {f"{heading}: {title}": picture for heading, picture in one.pictures.items()}
        figures = {name if title == _BEFORE else f"{name}, {title}": percent(value)
                   for title, one in found.items() for name, value in one.accuracies().items()}
        tables = {
            f"Accuracy at eps {self.eps:g}/255": [["", *found[_BEFORE].accuracies()], *(
                [title, *map(percent, one.accuracies().values())] for title, one in found.items())],
            f"Mean loss at each of {self.steps} steps": [["", *map(str, steps)], *(
                [title, *(f"{loss:.4f}" for loss in one.losses)] for title, one in found.items())]}
        report = training.write_report(run_dir, title=f"{self.name}: {network.name} on {dataset.name}",
                                       figures=figures, pictures=pictures, tables=tables)
        print(f"report: {report}")
        print(f"test accuracy: {'; '.join(f'{share} {name}' for name, share in figures.items())}")

    def attacked(self, loader: training.Loader, model: nn.Module, normalize: data.Normalize) -> training.Loader:
        """Return the batches of adversarial training."""
        return training.AdversarialLoader(loader, model, self.eps / 255, normalize=normalize, noise=_NOISE,
                                          seed=self.seed)

    def attack(self, recipe: ImageClassifier, test: data.Split, classes: Sequence[str]) -> _Found:
        """Attack the network of a run."""
        model, inputs = recipe.trained()
        normalize = data.Normalize(inputs["mean"], inputs["std"], inputs["scale"])
        loader = data.DataLoader(test, 500, shuffle=False, transform=normalize)
        clean = recipe.trainer(model, progress=False).evaluate(loader)
        images, labels = (np.concatenate(arrays) for arrays in zip(*loader))
        curves, at_eps = {}, {}
        for name, steps in (("1 step", 1), (f"{self.steps} steps", self.steps)):
            curves[name] = [clean.accuracy]
            for share in _SHARES:
                found = attacks.fgsm(model, images, labels, share * self.eps / 255, steps=steps, normalize=normalize)
                curves[name].append((found.scores.argmax(1) == labels).mean())
                if share == 1:
                    at_eps[name] = found

        answers = clean.predictions
        assert answers is not None
        right = answers == labels
        pictures = {}
        for kind, rows in (("right", np.flatnonzero(right)[:_DRAWN]), ("wrong", np.flatnonzero(~right)[:_DRAWN])):
            if len(rows):
                gradients = attacks.input_gradient(model, images[rows], labels[rows])
                pictures[f"Gradients for {kind} answers"] = _rows(
                    ("image", normalize.inverse(images[rows]), [classes[label] for label in labels[rows]]),
                    ("gradient", _around_gray(gradients), [f"→ {classes[label]}" for label in answers[rows]]))
        if len(rows := np.flatnonzero(right)[:_DRAWN]):
            plain = normalize.inverse(images[rows])
            drawn = [("image", plain, [classes[label] for label in labels[rows]])]
            for name, found in at_eps.items():
                attacked = normalize.inverse(found.images[rows])
                drawn += [(name, attacked, [f"→ {classes[label]}" for label in found.scores[rows].argmax(1)]),
                          ("change", _around_gray(attacked - plain), [""] * len(rows))]
            pictures["Attacked images and their changes"] = _rows(*drawn)
        return _Found({name: np.array(curve) for name, curve in curves.items()}, at_eps[name].losses, pictures)


def _around_gray(values: NDArray[Any]) -> NDArray[Any]:
    """Return images of values of both signs: gray where they are 0, each stretched to its own largest."""
    largest = abs(values).max((1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * values / np.where(largest > 0, largest, 1)


def _rows(*rows: tuple[str, NDArray[Any], Sequence[str]]) -> Figure:
    """Draw rows of images: what each row is called, its images, and their names."""
    return plots.images(np.concatenate([images for _, images, _ in rows]).clip(0, 1),
                        [name for *_, names in rows for name in names], columns=len(rows[0][1]),
                        row_names=[row for row, *_ in rows])
