"""A variational autoencoder of digits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastnn import data, kernels, models, nn, random, training
from fastnn._checks import as_int
from fastnn.recipes.generative import ImageGenerator, Results, as_pixels
from fastnn.training.checkpoint import Tensors, replace_file

_SIDE, _THRESHOLD = 14, 128
_HELD_OUT = 10                              # digits of each class that validate
_SHOWN = 8                                  # digits that are reconstructed, and images of a line between two
_MAP = 20                                   # images along each side of the map
_SAMPLES = 100                              # of each digit, for its likelihood


@dataclass
class VAEMnist(ImageGenerator):
    """A variational autoencoder of black and white digits at 14x14 pixels.

    Both terms of the evidence lower bound are kept for each update. After each epoch, which is 100 updates with the
    default options, the bound and the log-likelihood of 100 other digits are measured. The report shows these curves,
    reconstructions, samples from the prior, what lies between digits and, of two latent variables, a map.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.VAEMnist(latent=2).model().latent_map(2).shape
    (2, 2, 196)
    """

    name: ClassVar[str] = "vae-mnist"
    takes: ClassVar[str] = "1 min"
    headline: ClassVar[tuple[str, ...]] = ("test ELBO", "test log-likelihood")

    epochs: int = 100

    latent: int = 8
    """Latent variables."""

    samples: int = 2
    """Draws of the latent variables for each digit in an update."""

    per_class: int = 1000
    """Training images of each class."""

    def check(self) -> None:
        for name in ("latent", "samples", "per_class"):
            setattr(self, name, as_int(name, getattr(self, name), 1))
        super().check()

    def model(self) -> models.VAE:
        return models.VAE(_SIDE**2, latent=self.latent, samples=self.samples, seed=self.seed)

    def make_loss(self) -> nn.Module:
        return nn.ELBOLoss()

    def loaders(self, dataset: data.Dataset, model: Any) -> tuple[data.DataLoader, data.DataLoader]:
        labels, wanted = dataset.train.labels, self.per_class + _HELD_OUT
        least = int(np.bincount(labels, minlength=len(dataset.classes)).min())
        if least < wanted:
            raise ValueError(f"per_class: expected at most {least - _HELD_OUT}, since a class of {dataset.name} has "
                             f"{least} training images and {_HELD_OUT} are held out, got {self.per_class}")
        order = random.generator(self.seed, "digits").permutation(len(labels))
        classes = [order[labels[order] == label][:wanted] for label in range(len(dataset.classes))]
        train, validation = (
            binarized(dataset.train.images[np.concatenate([rows[part] for rows in classes])])
            for part in (slice(self.per_class), slice(self.per_class, None)))
        return (data.DataLoader((train, train), self.batch_size, seed=self.seed),
                data.DataLoader((validation, validation), len(validation), shuffle=False))

    def callbacks(self, validation: data.DataLoader) -> Sequence[training.Callback]:
        return [ELBOTerms(validation.arrays[0])]

    def results(self, trainer: training.Trainer, dataset: data.Dataset) -> Results:
        assert self.run_dir is not None
        model, history = trainer.model, trainer.history
        assert isinstance(model, models.VAE)
        terms = next(callback for callback in trainer.callbacks if isinstance(callback, ELBOTerms)).terms
        lines = "".join(f"{update},{error:.6g},{kl:.6g}\n" for update, (error, kl) in enumerate(terms.tolist(), 1))
        replace_file(self.run_dir / "terms.csv", f"update,reconstruction,kl\n{lines}".encode())

        digits = binarized(dataset.test.images)
        elbo = -trainer.evaluate(data.DataLoader((digits, digits), 1000, shuffle=False)).loss
        likelihood = float(model.log_likelihood(self.placed(digits), samples=_SAMPLES).mean())
        updates, validated = np.arange(1, len(terms) + 1), history["step"]
        shown = digits[:_SHOWN]
        restored = self._images(model.reconstruct(self.placed(shown)))
        plots = training.plots
        pictures = {
            "ELBO terms by update": plots.lines(
                {"reconstruction error": (updates, terms[:, 0]), "KL divergence": (updates, terms[:, 1])}, "update",
                "nats"),
            "Validation by update": plots.lines(
                {"log-likelihood": (validated, history["val_log_likelihood"]),
                 "ELBO": (validated, -history["val_loss"])}, "update", "nats"),
            "Reconstructions": plots.images(np.concatenate([as_pixels(shown), restored]), columns=_SHOWN,
                                            row_names=("digit", "reconstruction")),
            "Samples from the prior": plots.grid(self._images(model.sample(64, seed=self.seed))),
            "Between digits": plots.grid(self._between(model, digits, _SHOWN), _SHOWN)}
        if self.latent == 2:
            pictures["Map of the latent space"] = plots.grid(self._images(model.latent_map(_MAP)))
        figures = {"test ELBO": f"{elbo:.2f} nats", "test log-likelihood": f"{likelihood:.2f} nats"}
        return Results(figures, pictures, {})

    def sample(self, n: int = 64, *, seed: int = 0, output: str | os.PathLike[str] | None = None,
               interpolate: bool = False, latent_map: bool = False) -> None:
        """Draw images by the best model of the run in run_dir, and write them side by side to a PNG file.

        Parameters
        ----------
        n : int, default 64
            How many.
        seed : int, default 0
            What the latent variables, or the digits, are drawn from.
        output : str or path-like, optional
            The file; in the run's folder where it is not given.
        interpolate : bool, default False
            Instead of samples, what lies between pairs of test digits: lines of eight.
        latent_map : bool, default False
            Instead of samples, a map of two latent variables.
        """
        n, seed = self.check_count(n), as_int("seed", seed, 0)
        side = round(n**0.5)
        if interpolate and latent_map:
            raise ValueError("latent_map: expected one of interpolate and latent_map, got both")
        if interpolate and n % _SHOWN:
            raise ValueError(f"n: expected a multiple of {_SHOWN}, the images of a line, with interpolate, got {n}")
        if latent_map and (self.latent != 2 or side**2 != n):
            raise ValueError(f"n: expected a square number of images with latent_map, got {n}" if self.latent == 2 else
                             f"latent_map: expected a run with two latent variables (--latent 2), got one with "
                             f"{self.latent}")
        self.check_output(output)
        model = self.trained()
        if interpolate:
            digits = binarized(self.load_dataset().test.images)
            order = random.generator(seed, "pairs").permutation(len(digits))
            self.write(self._between(model, digits[order], n // _SHOWN), _SHOWN, output, f"interpolation-seed-{seed}")
        elif latent_map:
            self.write(self._images(model.latent_map(side)), side, output, "latent-map")
        else:
            self.write(self._images(model.sample(n, seed=seed)), None, output, f"samples-seed-{seed}")

    def _between(self, model: models.VAE, digits: NDArray[Any], lines: int) -> NDArray[np.uint8]:
        """Return images of lines between digits: from the first ones to those that follow."""
        if len(digits) < 2 * lines:
            raise ValueError(f"n: expected at most {_SHOWN * (len(digits) // 2)}, since there are {len(digits)} test "
                             f"digits to begin and end lines of {_SHOWN}, got {_SHOWN * lines}")
        begin, end = self.placed(digits[:lines]), self.placed(digits[lines : 2 * lines])
        return self._images(model.interpolate(begin, end, _SHOWN))

    def _images(self, probabilities: Any) -> NDArray[np.uint8]:
        return as_pixels(kernels.to_host(probabilities).reshape(-1, 1, _SIDE, _SIDE))


def binarized(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return digits (N, 1, 28, 28) at half their size: 1 where the mean of four pixels is at least 128, elsewhere 0."""
    n, c, height, width = images.shape
    means = images.reshape(n, c, height // 2, 2, width // 2, 2).mean((3, 5))
    return (means >= _THRESHOLD).astype(np.float32)


class ELBOTerms(training.Callback):
    """Keeps the two terms of the bound of each update, and adds to an epoch's record what they and the validation are.

    Attributes
    ----------
    terms : ndarray of float64, shape (updates, 2)
        Reconstruction error and divergence of each update, in nats.
    """

    def __init__(self, validation: NDArray[np.float32]) -> None:
        self.validation = validation
        self._forget()

    def _forget(self) -> None:
        self._kept: NDArray[np.float64] = np.zeros((0, 2))
        self._new: list[tuple[Any, Any]] = []
        self._resumes = False

    @property
    def terms(self) -> NDArray[np.float64]:
        if self._new:                           # on a GPU what waits for the steps
            new = [(float(error), float(divergence)) for error, divergence in self._new]
            self._kept, self._new = np.concatenate([self._kept, new]), []
        return self._kept

    def on_fit_begin(self, trainer: Any) -> None:
        if not self._resumes:
            self._forget()
        self._resumes = False

    def on_step_end(self, trainer: Any, loss: Any) -> None:
        self._new.append(trainer.loss.terms)

    def on_validation_end(self, trainer: Any, evaluation: training.Evaluation) -> None:
        self._validated = trainer.loss.terms    # of its one batch

    def on_epoch_end(self, trainer: Any, record: training.metrics.Record) -> None:
        before = trainer.history.records[-1]["step"] if len(trainer.history) else 0
        means = self.terms[before:].mean(0)
        digits = kernels.to_device(self.validation) if trainer.device == "cuda" else self.validation
        record |= {"train_reconstruction": means[0], "train_kl": means[1],
                   "val_reconstruction": float(self._validated[0]), "val_kl": float(self._validated[1]),
                   "val_log_likelihood": trainer.model.log_likelihood(digits, samples=_SAMPLES).mean()}

    def state_dict(self) -> Tensors:
        return {"terms": self.terms}

    def load_state_dict(self, state: Tensors) -> None:
        terms = state["terms"]
        if terms.ndim != 2 or terms.shape[1] != 2:
            raise ValueError(f"expected terms of shape (updates, 2), got {terms.shape}")
        self._kept, self._new, self._resumes = terms, [], True
