"""A diffusion model of digits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastnn import data, kernels, models, nn, optim, random, training
from fastnn._checks import as_float, as_int
from fastnn._files import as_path
from fastnn.nn.freezing import freeze
from fastnn.recipes.base import check_at_least_0, load
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.generative import ImageGenerator, Results, as_pixels
from fastnn.training._progress import Progress
from fastnn.training.metrics import percent

_SHAPE = (1, 28, 28)
_HELD_OUT = 2000                            # images that validate
_BATCH = 500                                # of them, and of images that are read, at once
_AT_ONCE = 100                              # images that are drawn at once
_FEW = 50                                   # steps of the fast way to draw
_SURE = 0.9                                 # the probability from which on a digit counts as read
_SHOWN, _MOMENTS = 4, 8                     # images of a picture of noise, and its columns


@dataclass
class DDPMMnist(ImageGenerator):
    """A diffusion model of digits: a UNet finds the noise in images, and draws images from noise.

    AdamW, one cycle of the learning rate; what draws is the moving average of the weights. The report shows how images
    become noise and noise images, and samples by all steps and by 50. With --classifier it says how many of them a
    classifier of digits reads with a probability of 0.9 or more.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipe = recipes.DDPMMnist(timesteps=200, schedule="cosine", epochs=2)
    >>> recipe.model().times(5)
    [199, 149, 100, 50, 0]
    """

    name: ClassVar[str] = "ddpm-mnist"
    takes: ClassVar[str] = "~35 min"
    headline: ClassVar[tuple[str, ...]] = ("validation noise error", "read, all steps", f"read, {_FEW} steps")
    changeable: ClassVar[tuple[str, ...]] = (*ImageGenerator.changeable, "samples", "classifier")

    epochs: int = 12
    batch_size: int = 64

    timesteps: int = 500
    """Steps from an image to noise."""

    schedule: models.ddpm.Schedule = "linear"
    """How the noise grows: its share in a step along a line, or so that the image fades along a cosine."""

    width: int = 32
    """Channels of the network at full size, a multiple of 8; there are twice as many at 14x14 and 7x7."""

    weight_decay: float = 0.01
    """How strongly weights are drawn to 0."""

    ema: float = 0.999
    """How much of the average of the weights each update keeps."""

    samples: int = 64
    """Images that are drawn for the report, by all steps and by 50 each."""

    classifier: Path | None = None
    """Folder of a trained run of cnn-mnist, or another classifier of MNIST, that reads the samples."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, as_path(name, value) if name == "classifier" and value is not None else value)

    def check(self) -> None:
        self.timesteps, self.samples = as_int("timesteps", self.timesteps, _FEW), as_int("samples", self.samples, 1)
        check_at_least_0("weight_decay", self.weight_decay)
        if not 0 <= as_float("ema", self.ema) < 1:
            raise ValueError(f"ema: expected from 0 to below 1, got {self.ema}")
        if self.classifier is not None:
            self.classifier = self.classifier.absolute()    # the run may be resumed from elsewhere
            _reader(self.classifier)
        super().check()

    def model(self) -> models.DDPM:
        return models.DDPM(models.UNet(width=self.width, seed=self.seed), self.timesteps, self.schedule)

    def make_loss(self) -> nn.Module:
        return nn.MSELoss()

    def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
        return optim.AdamW(optim.parameter_groups(model, self.weight_decay), self.lr)

    def make_schedule(self) -> Callable[[float], float]:
        return optim.OneCycleLR(self.epochs, peak_at=0.1)

    def callbacks(self, validation: data.DataLoader) -> Sequence[training.Callback]:
        return [training.ExponentialMovingAverage(self.ema)]

    def loaders(self, dataset: data.Dataset, model: Any) -> tuple[data.DataLoader, data.DataLoader]:
        train, validation = data.split(dataset.train, min(_HELD_OUT, len(dataset.train) // 10), self.seed)
        options: dict[str, Any] = {"seed": self.seed, "transform": data.Normalize(0.5, 0.5, dataset.scale),
                                   "batch_transform": model.noised}
        return (data.DataLoader((train.images,), self.batch_size, **options),
                data.DataLoader((validation.images,), _BATCH, shuffle=False, **options))

    def results(self, trainer: training.Trainer, dataset: data.Dataset) -> Results:
        model = trainer.model
        assert isinstance(model, models.DDPM)
        figures = {"validation noise error": f"{trainer.history['val_loss'].min():.4f}"}
        shown = data.to_float(dataset.test.images[:_SHOWN], 0.5, 0.5, scale=dataset.scale)
        pictures = {"Images become noise": self._noising(model, shown), "Noise becomes images": self._walk(model)}
        tables: dict[str, Sequence[Sequence[str]]] = {}
        reader = None if self.classifier is None else _reader(self.classifier)
        for name, steps in (("all steps", None), (f"{_FEW} steps", _FEW)):
            images = _drawn(model, self.samples, steps, self.seed)
            pictures[f"Samples by {name}"] = training.plots.grid(images[:100])
            if reader is not None:
                rows, share = _read(reader, images)
                tables[f"Samples by {name} as they are read"] = rows
                figures[f"read, {name}"] = percent(share)
        return Results(figures, pictures, tables)

    def sample(self, n: int = 64, *, seed: int = 0, output: str | os.PathLike[str] | None = None,
               steps: int | None = None, classifier: str | os.PathLike[str] | None = None) -> None:
        """Draw images by the best model of the run in run_dir, and write them side by side to a PNG file.

        Parameters
        ----------
        n : int, default 64
            How many.
        seed : int, default 0
            What the noise is drawn from: the i-th image depends on the seed and on i alone.
        output : str or path-like, optional
            The file; in the run's folder where it is not given.
        steps : int, optional
            Time steps that are visited, by DDIM, where the first noise alone decides about the image. Without it all
            are, with new noise at each (DDPM).
        classifier : str or path-like, optional
            Folder of a trained run of cnn-mnist, or another classifier of MNIST: a table says what it reads.
        """
        n, seed = self.check_count(n), as_int("seed", seed, 0)
        self.check_output(output)
        reader = None if classifier is None else _reader(as_path("classifier", classifier))
        images = _drawn(self.trained(), n, steps, seed)
        self.write(images, None, output, f"samples-seed-{seed}" + (f"-steps-{steps}" if steps else ""))
        if reader is not None:
            rows, share = _read(reader, images)
            for row in rows:
                print(f"{row[0]:>5} {row[1]:>8} {row[2]:>10} {row[3]:>10}")
            print(f"read with a probability of {_SURE} or more: {percent(share)}")

    def _noising(self, model: models.DDPM, images: NDArray[np.float32]) -> Any:
        times = np.linspace(0, model.timesteps - 1, _MOMENTS).round().astype(int)
        noise = random.generator(self.seed, "picture").standard_normal(images.shape).astype(np.float32)
        rows = np.stack([model.add_noise(images, np.full(len(images), t), noise) for t in times], axis=1)
        names = [f"t = {time}" for time in times] * len(images)
        return training.plots.images(as_pixels(rows.reshape(-1, *_SHAPE), -1), names, columns=_MOMENTS)

    def _walk(self, model: models.DDPM) -> Any:
        moments = np.linspace(model.timesteps - 1, 0, _MOMENTS).round().astype(int) - 1
        walks = {walk.time: kernels.to_host(walk.images)
                 for walk in model.denoise(range(_SHOWN), _SHAPE, seed=self.seed) if walk.time in moments}
        rows = np.stack(list(walks.values()), axis=1)
        names = ["image" if time < 0 else f"t = {time}" for time in walks]
        return training.plots.images(as_pixels(rows.reshape(-1, *_SHAPE), -1), names * _SHOWN, columns=len(walks))


def _drawn(model: models.DDPM, n: int, steps: int | None, seed: int) -> NDArray[np.uint8]:
    """Draw the images that the model's `sample` draws, under a bar: some hundred take minutes."""
    numbers, drawn = range(n), []
    parts = [numbers[start : start + _AT_ONCE] for start in range(0, n, _AT_ONCE)]
    with Progress(len(parts) * len(model.times(steps)), 0, 1, shown=True) as progress:
        for part in parts:
            for walk in model.denoise(part, _SHAPE, steps=steps, seed=seed):
                images = walk.images
                progress.step_ends(None)
            drawn.append(as_pixels(kernels.to_host(images), -1))
    return np.concatenate(drawn)


class _Reader(NamedTuple):
    """A trained classifier, and what config.json says of its inputs."""

    model: nn.Module
    inputs: Any


def _reader(folder: Path) -> _Reader:
    """Return the classifier of a run, or raise an error that says what there is."""
    if not folder.is_dir():
        raise FileNotFoundError("classifier: expected the folder of a run, such as runs/cnn-mnist-1, but there is "
                                f"none at {folder}")
    found = load(folder)
    if not isinstance(found, ImageClassifier):
        raise ValueError("classifier: expected the run of a classifier of digits, such as runs/cnn-mnist-1, got one of "
                         f"{found.name} in {folder}")
    model, inputs = found.trained()
    if tuple(inputs["shape"]) != _SHAPE:
        raise ValueError(f"classifier: expected one of images of shape {_SHAPE}, such as runs/cnn-mnist-1, got one of "
                         f"{tuple(inputs['shape'])} in {folder}")
    if list(inputs["classes"]) != [str(digit) for digit in range(10)]:
        raise ValueError("classifier: expected one of digits, such as runs/cnn-mnist-1, got one whose classes are "
                         f"{', '.join(inputs['classes'])} in {folder}")
    return _Reader(found.measured(freeze(model)), inputs)


def _read(reader: _Reader, images: NDArray[np.uint8]) -> tuple[list[list[str]], float]:
    """Return a table of what a classifier reads in images, and the share of those that it reads surely."""
    inputs = reader.inputs
    parts = [reader.model(data.to_float(images[i : i + _BATCH], inputs["mean"], inputs["std"], scale=inputs["scale"]))
             for i in range(0, len(images), _BATCH)]
    likeliest = kernels.softmax(np.concatenate(parts))
    labels, sure = likeliest.argmax(1), likeliest.max(1) >= _SURE
    rows = [["digit", "images", "share", "surely"]]
    for label, name in enumerate(inputs["classes"]):
        count = int((labels == label).sum())
        rows.append([name, f"{count:,}", percent(count / len(images)),
                     percent(float(sure[labels == label].mean()) if count else None)])
    return rows, float(sure.mean())
