"""How the recipes that train a model which draws images run, and how what it draws is written."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastnn import data, nn, optim, training
from fastnn._checks import as_int
from fastnn._extras import require
from fastnn._files import as_path
from fastnn.recipes.base import Recipe, check_above_0
from fastnn.training.checkpoint import replace_file
from fastnn.training.run_folder import BEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST, _MOST = 56, 8192                    # rows of pixels that an image is written with, and a file
_MOST_IMAGES = 10_000                       # of a file


class Results(NamedTuple):
    """What a trained model is worth, for the report: final figures, pictures and tables by their headings."""

    figures: dict[str, str]
    pictures: dict[str, Figure]
    tables: dict[str, Sequence[Sequence[str]]]


@dataclass
class ImageGenerator(Recipe):
    """A recipe that trains a model which draws images, and draws some.

    The model that draws is that of the epoch with the lowest validation loss. A subclass gives the data, the model, its
    loss, and what becomes of them in the report.

    Examples
    --------
    >>> from fastnn import recipes
    >>> issubclass(recipes.VAEMnist, recipes.ImageGenerator)
    True
    """

    needs: ClassVar[str] = "MNIST (11 MB)"
    reported: ClassVar[str] = "curves and pictures"

    epochs: int = 10
    """How often training goes through all images."""

    resume: bool = False
    """Go on with the run in run_dir, by default the newest of this recipe, to the same end as if it had never
    stopped. Its options are those that it was begun with; --epochs may be another number, --device another device."""

    batch_size: int = 100
    """Images in an update."""

    lr: float = 0.001
    """Highest learning rate."""

    track: training.Track | None = None
    """Hand the configuration and each epoch's figures to Weights & Biases or TensorBoard too. Without a login to
    Weights & Biases, what would be sent is kept in the run's folder."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Return the model with its initial weights."""

    @abstractmethod
    def loaders(self, dataset: data.Dataset, model: Any) -> tuple[data.DataLoader, data.DataLoader]:
        """Return the batches that are trained on, and those that validate."""

    @abstractmethod
    def make_loss(self) -> nn.Module:
        """Return what is minimized."""

    @abstractmethod
    def results(self, trainer: training.Trainer, dataset: data.Dataset) -> Results:
        """Return what the report shows, once the trainer has the best model."""

    @abstractmethod
    def sample(self, n: int = 64, *, seed: int = 0, output: str | os.PathLike[str] | None = None) -> None:
        """Draw images by the best model of the run in run_dir, and write them side by side to a PNG file."""

    def load_dataset(self) -> data.Dataset:
        """Return the data set."""
        return data.mnist(self.data_dir)

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        """Return what makes the updates."""
        return optim.Adam(model.parameters(), self.lr)

    def make_schedule(self) -> Callable[[float], float]:
        """Return the factor of the learning rate after so many epochs; see `fastnn.optim`."""
        return optim.CosineLR(self.epochs)

    def callbacks(self, validation: data.DataLoader) -> Sequence[training.Callback]:
        """Return what the trainer calls."""
        return ()

    def check(self) -> None:
        super().check()
        check_above_0("lr", self.lr)
        self.model()                            # says what is wrong with its options

    def experiment(self) -> None:
        trainer, dataset = self.fit()
        assert self.run_dir is not None
        training.load_model(self.run_dir / BEST, trainer.model)
        results = self.results(trainer, dataset)
        report = training.write_report(self.run_dir, title=f"{self.name}: {type(trainer.model).__name__}",
                                       **results._asdict())
        print(f"report: {report}")
        print("; ".join(f"{name}: {figure}" for name, figure in results.figures.items()))

    def fit(self, *, callbacks: Sequence[training.Callback] = (),
            progress: bool = True) -> tuple[training.Trainer, data.Dataset]:
        """Train in the run folder; the trainer's model ends with the weights of the last epoch.

        Parameters
        ----------
        callbacks : sequence of Callback, optional
            What the trainer calls.
        progress : bool, default True
            Print what is trained, and how it goes.
        """
        self.check()
        trackers = [training.tracker(self.track)] if self.track else []
        dataset, model = self.load_dataset(), self.model()
        train, validation = self.loaders(dataset, model)
        run_dir = self.open_run_dir()
        trainer = training.Trainer(model, self.make_loss(), self.make_optimizer(model), schedule=self.make_schedule(),
                                   callbacks=[*self.callbacks(validation), *callbacks, *trackers], run_dir=run_dir,
                                   seed=self.seed, device=self.device, config=self.config(), progress=progress)
        if progress:
            images = train.arrays[0]
            shape = " x ".join(map(str, images.shape[1:]))
            self.announce(model, f"{len(images):,} images of {dataset.name} ({shape}); {len(validation.arrays[0]):,} "
                                 "for validation")
        trainer.fit(train, validation, epochs=self.epochs, resume=self.resume)
        return trainer, dataset

    def trained(self) -> Any:
        """Return the best model of the run in run_dir, on the recipe's device."""
        self.check_device()
        self.check_data_dir()
        assert self.run_dir is not None
        path = self.run_dir / BEST
        self.check_saved(path)
        model = self.model()
        training.load_model(path, model)
        return model.to(self.device)

    def write(self, images: NDArray[Any], columns: int | None, output: str | os.PathLike[str] | None,
              name: str) -> None:
        """Write images side by side to a PNG file, in the run's folder unless it is said where."""
        assert self.run_dir is not None
        path = self.run_dir / f"{name}.png" if output is None else as_path("output", output)
        pixels = training.plots.tile(images, columns)
        zoom = max(1, min(_LEAST // images.shape[2], _MOST // max(pixels.shape[:2])))
        contents = io.BytesIO()
        picture = require("PIL.Image", "writing images").fromarray(pixels)
        picture.resize((zoom * picture.width, zoom * picture.height), 0).save(contents, "png")
        replace_file(path, contents.getvalue())
        print(f"{len(images):,} images: {path}")

    def check_count(self, n: Any) -> int:
        """Return how many images a file shall hold, or raise an error."""
        n = as_int("n", n, 1)
        if n > _MOST_IMAGES:
            raise ValueError(f"n: expected at most {_MOST_IMAGES:,} images in a file, got {n:,}; draw others with "
                             "another seed")
        return n

    def check_output(self, output: str | os.PathLike[str] | None) -> None:
        """Raise an error where no file of images can be written, before they are drawn."""
        if output is None:
            return
        path: Path = as_path("output", output)
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise FileNotFoundError("output: expected a file in a folder, but "
                                    + (f"{path} is one" if path.is_dir() else f"there is no folder {path.parent}"))
        if path.suffix.lower() != ".png":
            raise ValueError(f"output: expected a file whose name ends in .png, got {path}")


def as_pixels(images: NDArray[Any], low: float = 0.0) -> NDArray[np.uint8]:
    """Return images with values from `low` to 1 as uint8, from black to white."""
    return np.rint((np.clip(images, low, 1) - low) * (255 / (1 - low))).astype(np.uint8)
