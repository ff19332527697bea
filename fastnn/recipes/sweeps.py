"""Sweeps: trials of a recipe with other options, in a study in a file that several processes share.

The study is Optuna's, in SQLite. Whatever dies, it stays whole: a worker writes a heartbeat beside its trial, and a
trial whose heartbeat is old is tried again. Workers ask for trials one at a time, under a lock, so that a study ends
with exactly as many results as were asked for.

References
----------
Akiba, Sano, Yanase, Ohta and Koyama, "Optuna: a next-generation hyperparameter optimization framework", KDD 2019.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastnn import kernels, random, training
from fastnn._checks import as_int
from fastnn._files import as_path, open_file
from fastnn.recipes.base import RUNS, Recipe, called, numbers
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Range, Space
from fastnn.training._extra import require
from fastnn.training._interrupts import SIGNALS, Interrupts
from fastnn.training.metrics import Record, is_number, percent

STUDY, TRIALS = "study.db", "trials"

_NAME = "fastnn"                            # of the study in its file
_HEARTBEAT, _GRACE = 2, 10                  # seconds between heartbeats, and after which a trial's worker is dead
_PATIENCE = 60                              # seconds to wait for the file while others write
_RETRIES = 3                                # of a trial whose workers die
_GIVE_UP = 3                                # by how many failures may exceed results
_ELSEWHERE = ("class", "data_dir", "track", "device")   # do not decide what a trial gives, but for rounding
_ENDS = "diverged", "error"                 # what a trial's attributes say of how it ended
_SHOWN = 10                                 # trials in the table of the best


@dataclass
class Sweep:
    """A search for the options with which a recipe reaches its best validation accuracy.

    Each trial trains the recipe with options drawn from its `space` by a tree of Parzen estimators (TPE; the first 10
    at random). It is given up as soon as its best accuracy so far is below the median of what the complete trials had
    at that epoch; that of 5 of them and of a quarter of the epochs, in which the learning rate rises, is waited for.
    The test images are not looked at. Beside the study's file lie trials/NNN with the configuration and the metrics of
    each trial, pictures and a report.

    A trial with given options has the same bits each time, on any number of threads. With one worker that is not
    killed, so has the sweep; with several, it depends on their pace which results are known when options are drawn, so
    that only those of the first 10 trials are always the same.

    Parameters
    ----------
    recipe : ImageClassifier
        What is trained; its options are those of all trials, but for what is searched.
    trials : int, default 30
        How many results the study has at the end, those included that it had before. A trial that was given up early
        is a result; one that failed is not, and is replaced.
    workers : int, default 1
        How many processes try at once. Each gets its share of the cores.
    study : str or path-like, optional
        The study's file; by default study.db in runs/sweep-NAME-N with the first number N that is free. A study that
        is there already goes on.
    fixed : sequence of str, optional
        Options of the recipe's space that are not searched.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.Sweep(recipes.CNN(epochs=5), trials=20, fixed=["batch_size"]).space
    {'lr': Range(low=0.001, high=0.1, log=True)}
    """

    recipe: Any
    trials: int = 30
    workers: int = 1
    study: Path | None = None
    fixed: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.study = None if self.study is None else as_path("study", self.study)

    @property
    def space(self) -> Space:
        """What is searched, by the names of the recipe's fields."""
        return {name: choice for name, choice in self.recipe.space.items() if name not in self.fixed}

    def check(self) -> None:
        """Raise an error where the sweep cannot be done, before anything is written."""
        require("optuna", "a sweep", "sweep")
        recipe = self.recipe
        for name in ("trials", "workers"):
            setattr(self, name, as_int(name, getattr(self, name), 1))
        if not isinstance(recipe, Recipe):
            got = f"the class {recipe.__name__} itself" if isinstance(recipe, type) else type(recipe).__name__
            raise TypeError(f"recipe: expected a recipe, such as recipes.CNN(), got {got}")
        if not recipe.space or not isinstance(recipe, ImageClassifier):
            raise ValueError(f"recipe: expected one with a search space, but {recipe.name} has none")
        if isinstance(self.fixed, str) or (strange := [name for name in self.fixed if name not in recipe.space]):
            raise ValueError(f"fixed: expected a list of names from {', '.join(recipe.space)}, got "
                             f"{self.fixed if isinstance(self.fixed, str) else ', '.join(map(str, strange))}")
        if unknown := recipe.space.keys() - {field.name for field in fields(recipe)}:
            raise ValueError(f"space: expected fields of {recipe.name}, got {', '.join(sorted(unknown))}")
        if "<locals>" in called(type(recipe)) or called(type(recipe)).startswith("__main__:"):
            raise ValueError(f"recipe: expected a class at the top of a module or script, which workers can import, "
                             f"got {called(type(recipe))}")
        if not self.space:
            raise ValueError(f"recipe: expected options that are searched, but all of {', '.join(recipe.space)} are "
                             "fixed; leave one out")
        if recipe.resumes or recipe.run_dir is not None:
            name = "resume" if recipe.resumes else "run_dir"
            raise ValueError(f"{name}: expected none in a sweep, whose trials are runs of their own; give the study's "
                             "file as study, and it goes on")
        recipe.check()
        if self.study is not None:
            if self.study.exists():
                self._check_study(_read(self.study, self.space))
            elif (self.study.parent / TRIALS).exists():
                raise FileExistsError(f"study: the trials of another study lie in {self.study.parent}; give a file in "
                                      "another folder")
        # Where the data set has to be downloaded, one process does.
        recipe.check_dataset(recipe.dataset(), recipe.model())

    def run(self) -> None:
        """Do the trials that the study lacks, print the best, and leave pictures and a report in its folder."""
        self.check()
        with Interrupts(at_once=True), _quiet():
            file = self._open_folder()
            study = _open(file, self.recipe.epochs)
            if "sweep" not in study.user_attrs:
                study.set_user_attr("sweep", self._options())
            known = study.get_trials(deepcopy=False)
            print(f"{self.recipe.name}: a sweep for the best validation accuracy, {self.trials} trials by "
                  f"{self.workers} worker{'s' if self.workers > 1 else ''}")
            print(f"searched: {'; '.join(f'{name} {_text(choice)}' for name, choice in self.space.items())}")
            done = len(_results(known))
            print(f"study: {file}" + (f", with {done} result{'s' if done != 1 else ''} so far" if known else ""),
                  flush=True)
            self._work(study, file)
            self._conclude(study, file.parent)

    # --- the study ---

    def _open_folder(self) -> Path:
        if self.study is None:
            name = f"sweep-{self.recipe.name}"
            self.study = RUNS / f"{name}-{max(numbers(name), default=0) + 1}" / STUDY
        try:
            self.study.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"study: the folder {self.study.parent} cannot be made ({error.strerror}); give a file in "
                          "another") from error
        return self.study

    def _check_study(self, theirs: dict[str, str] | None) -> None:
        """Raise an error unless a study was begun with this recipe, these options and this space."""
        ours = self._options()
        if theirs is None:
            return
        if theirs["recipe"] != ours["recipe"]:
            raise ValueError(f"study: expected a study of {ours['recipe']}, but {self.study} is one of "
                             f"{theirs['recipe']}; give another file")
        for name in {**theirs, **ours}:
            before, now = theirs.get(name), ours.get(name)
            if before != now:
                raise ValueError(f"{name}: expected {before}, with which the study {self.study} was begun, got {now}; "
                                 "give the same options, or another file")

    def _options(self) -> dict[str, str]:
        """The options of the trials as text, those that decide their results."""
        options = {name: str(value) for name, value in self.recipe.config().items() if name not in _ELSEWHERE}
        return {**options, **{name: f"searched: {_text(choice)}" for name, choice in self.space.items()}}

    # --- the parent ---

    def _work(self, study: Any, file: Path) -> None:
        """Keep workers at it until the study has its results."""
        known = study.get_trials(deepcopy=False)
        seen = {trial.number for trial in known if trial.state.is_finished()}
        missing = self.trials - len(_results(known))
        context = multiprocessing.get_context("spawn")
        threads = max(1, kernels.get_num_threads() // self.workers)

        def begin() -> Any:
            process = context.Process(target=_worker, args=(self.recipe, self.space, file, self.trials, threads),
                                      daemon=True)
            with _signals_blocked():        # in the worker too, until it ignores them: it is ended by this process
                process.start()
            return process

        processes = [begin() for _ in range(min(self.workers, missing))]
        results, failures = 0, []

        def failed(error: str) -> None:
            failures.append(error)
            if len(failures) >= results + _GIVE_UP:
                raise ValueError(f"sweep: given up, since {len(failures)} trials failed and {results} gave a result; "
                                 f"the first failure: {failures[0]}")

        try:
            while processes:
                wait([process.sentinel for process in processes], timeout=0.5)
                ended = [process for process in processes if process.exitcode is not None]
                known = study.get_trials(deepcopy=False)
                for trial in known:
                    if trial.state.is_finished() and trial.number not in seen:
                        seen.add(trial.number)
                        results += len(_results([trial]))
                        print(_line(trial, self.space), flush=True)
                        if "error" in trial.user_attrs:
                            failed(trial.user_attrs["error"])
                if len(_results(known)) >= self.trials:
                    return
                for process in ended:
                    processes.remove(process)
                    if process.exitcode:
                        death = f"a worker died ({_how(process.exitcode)})"
                        print(f"{death}; another takes its place, and its trial is tried again", flush=True)
                        failed(death)
                        processes.append(begin())
        finally:
            for process in processes:
                process.kill()              # a suspended one hears no other signal
                process.join()

    def _conclude(self, study: Any, folder: Path) -> None:
        """Print the best trials, and draw and report all."""
        trials = study.get_trials(deepcopy=False)
        results, complete = _results(trials), sorted(_complete(trials), key=lambda trial: (-trial.value, trial.number))
        if not complete:
            raise ValueError("sweep: expected a trial that comes to its end, but none did; the first: "
                             f"{_line(results[0], self.space)}")
        rows = [["trial", "accuracy", *self.space, "seconds"]]
        rows += [[str(trial.number), percent(trial.value), *_shown(trial.params, self.space), _seconds(trial)]
                 for trial in complete]
        widths = [max(map(len, column)) for column in zip(*rows[: _SHOWN + 1])]
        print("\nThe best by validation accuracy")
        for row in rows[: _SHOWN + 1]:
            print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths)))

        diverged = sum("diverged" in trial.user_attrs for trial in results)
        counts = f"{len(complete)} complete, {len(results) - len(complete)} given up early"
        counts += f" ({diverged} diverged)" * (diverged > 0)
        if lost := len(trials) - len(results):
            counts += f"; {lost} failed or lost with a worker, and replaced"
        print(f"\n{len(results)} results: {counts}")
        best = replace(self.recipe, **_values(complete[0].params, self.space))
        command = best.command()
        print(f"to train with the best options and measure the result on the test images, run\n    {command}")

        optuna = require("optuna", "a sweep", "sweep")
        pictures = {"Optimization history": training.plots.optimization_history(
                        [trial.number for trial in results], [100 * _accuracy(trial) for trial in results],
                        [trial in complete for trial in results], "validation accuracy (%)"),
                    "Accuracy against each option": training.plots.slices(
                        {name: [trial.params[name] for trial in complete] for name in self.space},
                        [100 * trial.value for trial in complete], "validation accuracy (%)",
                        log=[name for name, choice in self.space.items() if _is_log(choice)])}
        if len(complete) > 1 and len(self.space) > 1:
            # What sets the better half apart; the best tenth, Optuna's default, would be a trial or two.
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
            pictures["Importance of the options"] = training.plots.importances(
                optuna.importance.get_param_importances(study, evaluator=evaluator))
        report = training.write_report(
            folder, title=f"Sweep of {best.name}", pictures=pictures,
            tables={"Training with the best options": [["command"], [command]], "Complete trials": rows,
                    "Options of all trials": [["option", "value"], *map(list, self._options().items())]},
            figures={"best validation accuracy": percent(complete[0].value), "results": str(len(results)),
                     "given up early": str(len(results) - len(complete))})
        print(f"report: {report}")


# --- a worker ---


def _worker(recipe: ImageClassifier, space: Space, file: Path, trials: int, threads: int) -> None:
    """Try until the study has as many results as it shall."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    kernels.set_num_threads(threads)
    optuna = require("optuna", "a sweep", "sweep")
    retried = optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number
    lock, tried = _Lock(file), -1

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

    with _quiet():
        study = _open(file, recipe.epochs)
        while True:
            lock.acquire()
            optuna.storages.fail_stale_trials(study)
            for number in _stillborn(study, file):
                study.tell(number, state=optuna.trial.TrialState.FAIL)
            known = study.get_trials(deepcopy=False)
            running = len(_running(known))
            results = len(_results(known))
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
        trainer, *_ = replace(recipe, **_suggest(trial, space), run_dir=folder).fit(callbacks=[report], progress=False)
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


def _stillborn(study: Any, file: Path) -> list[int]:
    """Return the running trials whose workers died before the first heartbeat, which Optuna would wait for forever."""
    with closing(_connect(file)) as connection:
        query = "SELECT number FROM trials JOIN trial_heartbeats USING (trial_id)"
        beating = {number for number, in connection.execute(query)}
    latest = datetime.now() - timedelta(seconds=_GRACE)
    return [trial.number for trial in _running(study.get_trials(deepcopy=False))
            if trial.number not in beating and trial.datetime_start < latest]


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Lock:
    """A lock between processes, which the operating system lifts when its holder dies: SQLite's own, on a file."""

    def __init__(self, file: Path) -> None:
        self._path = path = file.with_name(f"{file.name}.lock")
        try:
            self._connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        except sqlite3.Error as error:
            raise OSError(f"study: {path} cannot be written ({error}); give a file in another folder") from error

    def acquire(self) -> None:
        try:
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise OSError(f"study: another process holds {self._path} for longer than {_PATIENCE} s, suspended perhaps "
                          f"({error}); end it, then do the same again") from error
        except sqlite3.Error as error:
            raise OSError(f"study: {self._path} cannot be locked ({error}); if it is damaged, delete it") from error

    def release(self) -> None:
        self._connection.execute("ROLLBACK")


# --- the file ---


def _read(file: Path, space: Space) -> dict[str, str] | None:
    """Return the options of a study's trials; raise an error where its file holds none or is damaged.

    Nothing is written: Optuna would make its tables in any database, and sees what is wrong with one late.
    """
    what = f"study: expected the file of a study that fastnn sweep wrote, but {file} is"
    try:
        with open_file(file, "the file of a study") as opened:
            head = opened.read(16)
    except OSError as error:
        raise ValueError(f"{what} no file, or cannot be opened ({error})") from error
    if head not in (b"", b"SQLite format 3\0"):            # SQLite takes a short text for an empty database
        raise ValueError(f"{what} none (file is not a database)")
    try:
        if file.with_name(f"{file.name}-journal").exists():     # what a killed process had half written is undone
            with closing(sqlite3.connect(file, timeout=_PATIENCE)) as connection:
                connection.execute("SELECT 1 FROM sqlite_master")
        with closing(_connect(file)) as connection:
            (state,), = connection.execute("PRAGMA integrity_check(1)")
            if state != "ok":
                raise ValueError(f"{what} damaged ({' '.join(str(state).split()):.200})")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table'").fetchone():
                return None
            names = [name for name, in connection.execute("SELECT study_name FROM studies")]
    except sqlite3.Error as error:
        raise ValueError(f"{what} none ({error})") from error
    if names and names != [_NAME]:
        raise ValueError(f"{what} Optuna's study {', '.join(map(str, names)):.80}")
    if not names:
        return None
    optuna = require("optuna", "a sweep", "sweep")
    try:
        with _quiet(), closing(_connect(file)) as connection:
            storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: connection})
            study = optuna.load_study(study_name=_NAME, storage=storage)
            options = study.user_attrs.get("sweep")
            known = study.get_trials()
            storage.engine.dispose()
        _check_trials(known, options, space)
        return options
    except RuntimeError as error:
        raise ValueError(f"study: {file} was written by another version of Optuna: {error}") from error
    except Exception as error:              # a database with other values in it raises nearly anything
        why = " ".join(str(error).split())
        raise ValueError(f"{what} damaged ({why:.200}); take a copy of it, or give another file") from error


def _check_trials(trials: Sequence[Any], options: Any, space: Space) -> None:
    """Raise a ValueError unless trials of these options have the values that a sweep gives them."""
    if options is None and not _results(trials):
        return
    if not isinstance(options, dict) or not all(isinstance(text, str) for text in (options.get("recipe"),
                                                                                  *options.values())):
        raise ValueError(f"expected the options of its trials as text, got {options!r:.100}")
    for trial in _results(trials):
        accuracies = [*trial.intermediate_values.values(), *([trial.value] if trial.state.name == "COMPLETE" else [])]
        if not all(is_number(value) and 0 <= value <= 1 for value in accuracies):
            raise ValueError(f"expected accuracies from 0 to 1 of trial {trial.number}, got {accuracies!r:.100}")
        if trial.duration is None or not all(isinstance(trial.user_attrs.get(name, ""), str) for name in _ENDS):
            raise ValueError(f"expected to know how trial {trial.number} ended")
        if all(options.get(name) == f"searched: {_text(choice)}" for name, choice in space.items()):
            for name, choice in space.items():      # else it is another sweep's, which is said by itself
                if trial.distributions[name] != _distribution(choice) or not _holds(choice, trial.params[name]):
                    raise ValueError(f"expected {name} of trial {trial.number} to be {_text(choice)}, got "
                                     f"{trial.params[name]!r:.40} of {trial.distributions[name]}")


def _connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)


def _open(file: Path, epochs: int) -> Any:
    """Return the study in a file, which is made where it is not there."""
    optuna = require("optuna", "a sweep", "sweep")
    lock = _Lock(file)
    lock.acquire()                          # two processes that make tables at once would be in each other's way
    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{quote(str(file.absolute()))}", engine_kwargs={"connect_args": {"timeout": _PATIENCE}},
            heartbeat_interval=_HEARTBEAT, grace_period=_GRACE,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES))
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 4)
        return optuna.create_study(study_name=_NAME, storage=storage, direction="maximize", load_if_exists=True,
                                   pruner=pruner)
    except RuntimeError as error:
        raise ValueError(f"study: {file} was written by another version of Optuna: {error}") from error
    finally:
        lock.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log, and its warnings that heartbeats are experimental and that trials are too few."""
    optuna = require("optuna", "a sweep", "sweep")
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "Target and region quantiles select the same set")    # equal trials
            yield
    finally:
        optuna.logging.set_verbosity(level)


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


# --- trials, options and their text ---


def _results(trials: Sequence[Any]) -> list[Any]:
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _running(trials: Sequence[Any]) -> list[Any]:
    return [trial for trial in trials if trial.state.name == "RUNNING"]


def _complete(trials: Sequence[Any]) -> list[Any]:
    return [trial for trial in trials if trial.state.name == "COMPLETE"]


def _suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Return values for the recipe's fields."""
    drawn: dict[str, Any] = {}
    for name, choice in space.items():
        if isinstance(choice, Range):
            suggest = trial.suggest_int if choice.draws_integers else trial.suggest_float
            drawn[name] = suggest(name, choice.low, choice.high, log=choice.log)
        else:
            drawn[name] = trial.suggest_categorical(name, [_label(value) for value in choice])
    return _values(drawn, space)


def _distribution(choice: Any) -> Any:
    """What Optuna holds of how `_suggest` draws an option."""
    distributions = require("optuna", "a sweep", "sweep").distributions
    if not isinstance(choice, Range):
        return distributions.CategoricalDistribution([_label(value) for value in choice])
    kind = distributions.IntDistribution if choice.draws_integers else distributions.FloatDistribution
    return kind(choice.low, choice.high, log=choice.log)


def _holds(choice: Any, value: Any) -> bool:
    return choice.low <= value <= choice.high if isinstance(choice, Range) else True     # Optuna counts choices


def _values(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return the values for the recipe's fields of what a study holds."""
    meant = {name: {_label(value): value for value in choice}
             for name, choice in space.items() if not isinstance(choice, Range)}
    return {name: meant[name][params[name]] if name in meant else params[name] for name in space}


def _label(value: Any) -> Any:
    """What a study holds of a choice: itself, but of a tuple its text."""
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else value


def _text(choice: Any) -> str:
    return str(choice) if isinstance(choice, Range) else ", ".join(str(_label(value)) for value in choice)


def _is_log(choice: Any) -> bool:
    """Whether the axis of an option is logarithmic: that of choices is where they are numbers above 0."""
    if isinstance(choice, Range):
        return choice.log
    return all(isinstance(value, int | float) and value > 0 for value in choice)


def _shown(params: Mapping[str, Any], space: Space) -> list[str]:
    return [f"{params[name]:.4g}" if isinstance(params[name], float) else str(params[name])
            for name in space if name in params]


def _seconds(trial: Any) -> str:
    return f"{trial.duration.total_seconds():.1f}"


def _line(trial: Any, space: Space) -> str:
    """What is printed of a trial when it ends."""
    if "diverged" in trial.user_attrs:
        outcome = "diverged"
    elif trial.state.name == "PRUNED":
        outcome = f"{percent(_accuracy(trial))}, given up after epoch {trial.last_step}"
    elif trial.state.name == "COMPLETE":
        outcome = percent(trial.value)
    else:
        outcome = trial.user_attrs.get("error", "lost with its worker")
    options = ", ".join(f"{name} {value}" for name, value in zip(space, _shown(trial.params, space)))
    return f"trial {trial.number}: {outcome}  ({options}; {_seconds(trial)} s)"


def _accuracy(trial: Any) -> float:
    """The best accuracy that a trial reached, NaN where it diverged before the end of an epoch."""
    return max(trial.intermediate_values.values(), default=float("nan"))


def _how(exitcode: int) -> str:
    return signal.Signals(-exitcode).name if exitcode < 0 else f"status {exitcode}"
