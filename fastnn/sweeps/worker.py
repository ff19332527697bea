"""A worker of a sweep: a process that tries options until the study has its results."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastnn import kernels, random, training
from fastnn._extras import require
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Space
from fastnn.sweeps.options import suggest
from fastnn.sweeps.study import TRIALS, Lock, open_study, quiet, results_of, running_of, stillborn
from fastnn.training._interrupts import SIGNALS
from fastnn.training.metrics import Record


def start(recipe: ImageClassifier, space: Space, file: Path, trials: int, threads: int) -> Any:
    """Begin a process that tries until the study in a file has as many results as it shall."""
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(recipe, space, file, trials, threads), daemon=True)
    with _signals_blocked():        # in the worker too, until it ignores them: it is ended by this process
        process.start()
    return process


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep signals that end this process waiting; a process that is begun inside has them blocked, too."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()       # which would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the process ---


def _work(recipe: ImageClassifier, space: Space, file: Path, trials: int, threads: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    kernels.set_num_threads(threads)
    optuna = require("optuna", "a sweep", "sweep")
    retried = optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number
    lock, tried = Lock(file), -1

    def objective(trial: Any) -> float:
        nonlocal tried
        tried = trial.number
        lock.release()                      # the study counts this trial now
        try:
            return _try(trial, recipe, space, file.parent / TRIALS / f"{trial.number:03d}")
        except training.DivergedError as error:
            trial.set_user_attr("diverged", str(error))
            raise optuna.TrialPruned from error
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise

    with quiet():
        study = open_study(file, recipe.epochs)
        while True:
            lock.acquire()
            optuna.storages.fail_stale_trials(study)
            for number in stillborn(study, file):
                study.tell(number, state=optuna.trial.TrialState.FAIL)
            known = study.get_trials(deepcopy=False)
            running = len(running_of(known))
            results = len(results_of(known))
            if results + running < trials:
                # Keyed by how many trials were drawn, so that it does not matter which of them were tried again.
                drawn = sum(retried(trial) is None for trial in known)
                seed = random.generator(recipe.seed, "sweep", drawn).integers(2**32)
                study.sampler = optuna.samplers.TPESampler(seed=int(seed))
                try:
                    study.optimize(objective, n_trials=1, catch=Exception)
                except ValueError:
                    # Its heartbeat had stopped, as that of a suspended process does: it was given to another worker.
                    if study.get_trials(deepcopy=False)[tried].state != optuna.trial.TrialState.FAIL:
                        raise
            else:
                lock.release()
                if results >= trials:
                    return
                time.sleep(1)               # others are at the last trials; one of them may die


def _try(trial: Any, recipe: ImageClassifier, space: Space, folder: Path) -> float:
    """Train with the options of a trial, and return the best validation accuracy."""
    optuna = require("optuna", "a sweep", "sweep")
    report = _Report(trial, recipe.epochs)
    try:
        recipe = replace(recipe, **suggest(trial, space), run_dir=folder)
        trainer, *_ = recipe.fit(callbacks=[report], progress=False)
    finally:
        for checkpoint in folder.glob("*.safetensors"):     # many, and "fastnn train" makes the same again
            checkpoint.unlink()
    if report.hopeless:
        raise optuna.TrialPruned
    return float(trainer.history["val_accuracy"].max())


class _Report(training.Callback):
    """Tells the study the accuracy after each epoch, and ends the run where the study sees no hope for it."""

    def __init__(self, trial: Any, epochs: int) -> None:
        self.trial, self.epochs, self.hopeless = trial, epochs, False

    def on_epoch_end(self, trainer: training.Trainer, record: Record) -> None:
        self.trial.report(record["val_accuracy"], record["epoch"])
        if record["epoch"] < self.epochs and self.trial.should_prune():
            self.hopeless = True
            trainer.stop("other trials are better")


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
