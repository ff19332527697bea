"""What a run will launch, tried on copies, so that it is compiled before the first step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

from fastnn import random
from fastnn.kernels import compilation
from fastnn.training._loader import Loader, first_and_last, in_order
from fastnn.training._state import State


def compile_run(trainer: Any, train_loader: Loader, validation_loader: Loader | None) -> None:
    """Compile what steps on the first and the last batch launch, and validation."""
    if trainer.device != "cpu":
        return
    loaders = [train_loader, *([] if validation_loader is None else [in_order(validation_loader)])]
    # Other people's loaders may hold anything, so they are neither copied nor called while no kernel runs.
    given = [None if _is_own(loader) else first_and_last(loader) for loader in loaders]

    def launch() -> None:
        tried, copies = _copied(trainer, [loader for loader in loaders if _is_own(loader)])
        training, *validation = [batches or first_and_last(copies.pop(0)) for batches in given]
        for *inputs, targets in training:
            tried._step(inputs, targets)
        for *inputs, targets in itertools.chain(training, *validation):     # before a checkpoint, and in validation
            with random.at_step(trainer.seed, 0):
                tried.loss.forward(tried.model(*inputs), targets, training=False)

    compilation.compile_ahead(launch, shown=trainer.progress)
    if compilation.is_ahead():
        raise compilation.EnoughError("training was begun for what it launches")


def _copied(trainer: Any, loaders: Sequence[Loader]) -> tuple[Any, list[Any]]:
    """Return a trainer and loaders that may be used up. Arrays of loaders are shared, for they are large and stay."""
    tried = copy.copy(trainer)
    tried.model, tried.loss, tried.optimizer, copies = copy.deepcopy(
        (trainer.model, trainer.loss, trainer.optimizer, list(loaders)),
        {id(array): array for loader in loaders for array in getattr(loader, "arrays", ())})
    tried.callbacks, tried._state, tried._steps_per_epoch = [], State(), 1
    return tried, copies


def _is_own(part: object) -> bool:
    return type(part).__module__.startswith("fastnn.")
