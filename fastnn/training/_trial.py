"""What is tried before the first step, so that a run does not fail later for what can be known before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from fastnn import kernels, random
from fastnn.data import DataLoader
from fastnn.training._loader import Loader, in_order, placed
from fastnn.training._parts import Parts
from fastnn.training._sums import is_classification
from fastnn.training.callback import Callback
from fastnn.training.callbacks import EarlyStopping
from fastnn.training.metrics import FIGURES


def check_monitored(callbacks: Sequence[Callback], *, validated: bool) -> None:
    """Raise ValueError where a callback waits for a figure that nobody measures."""
    figures = [name for name in FIGURES if validated or not name.startswith("val_")]
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            callback.check_measured(figures)
        elif not type(callback).__module__.startswith("fastnn."):
            return                          # it may measure anything for those after it


class Trial:
    """Batches given to a model and its loss, which are afterwards as they were."""

    def __init__(self, parts: Parts, device: str, seed: int) -> None:
        self.parts, self.model, self.loss, self.device, self.seed = parts, parts.model, parts.loss, device, seed

    def run(self, train_loader: Loader, validation_loader: Loader | None) -> None:
        """Raise an error that says what is wrong, where training or validation would fail.

        Training is tried on the last batch, the smallest.
        """
        if not any(parameter.requires_grad for parameter in self.parts.held()):
            raise ValueError("optimizer: expected a parameter that is learned, but all that it holds are frozen "
                             "(requires_grad=False)")
        if broken := self.parts.not_finite():
            raise ValueError(f"model: expected finite weights to begin with, but {broken} is not finite")
        with self._batch("train_loader", train_loader, len(train_loader) - 1) as (inputs, targets):
            try:
                scores = self.model.forward(*inputs, training=True)[0]
            except ValueError as error:
                if len(targets) > 1:
                    raise
                self.model.forward(*(np.concatenate([x, x]) for x in inputs), training=True)    # else it is not that
                count = len(train_loader)
                what = f"last batch, {count} of {count}, has"
                cure = "leave it out (drop_last=True), or give another batch_size"
                if getattr(train_loader, "batch_size", None) == 1:
                    what, cure = "batches have", "give another batch_size"
                elif count == 1:
                    what, cure = "only batch has", "give more samples"
                raise ValueError(f"train_loader: its {what} a single sample, on which the model cannot be trained, as "
                                 f"with batch normalization ({error}); {cure}") from error
            self.loss.forward(scores, targets)
            self._check_labels(train_loader, scores, targets)
        if validation_loader is not None:
            with self._batch("validation_loader", in_order(validation_loader), 0) as (inputs, targets):
                scores = self.model(*inputs)
                self.loss.forward(scores, targets, training=False)
                self._check_labels(validation_loader, scores, targets)

    @contextmanager
    def _batch(self, name: str, loader: Loader, step: int) -> Iterator[tuple[Sequence[Any], Any]]:
        """Give a batch to be tried; errors say which it was."""
        buffers = [(module, name, array.copy()) for owner in (self.model, self.loss)
                   for _, module in owner.named_modules() for name, array in module._own_buffers()]
        try:
            with closing(loader.epoch(0, step)) as batches:
                *inputs, targets = placed(next(batches, ()), self.device)
            with random.at_step(self.seed, 0, step):
                yield inputs, targets
        except (TypeError, ValueError) as error:
            error.add_note(f"in batch {step + 1} of {name}, tried before the first step")
            raise
        finally:
            for module, buffer, array in buffers:
                setattr(module, buffer, array)

    def _check_labels(self, loader: Loader, scores: Any, targets: Any) -> None:
        """Ask the loss about the least and the largest label of all, since only it knows which it takes."""
        if is_classification(scores, targets) and isinstance(loader, DataLoader):
            low, high = int(loader.arrays[-1].min()), int(loader.arrays[-1].max())
            losses = [self.loss.forward(scores, targets * 0 + label, training=False)[0] for label in (low, high)]
            # A GPU's answer to a label that is out of range; scores that are not finite are another matter.
            if math.isnan(float(losses[0] + losses[1])) and np.isfinite(kernels.to_host(scores)).all():
                raise ValueError(f"labels: expected those that the loss takes for {scores.shape[1]} scores, got {low} "
                                 f"to {high}, for which it is nan")
