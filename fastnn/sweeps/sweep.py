"""Sweeps: trials of a recipe with other options, in a study in a file that several processes share.

The study is Optuna's, in SQLite. Whatever dies, it stays whole: a worker writes a heartbeat beside its trial, and a
trial whose heartbeat is old is tried again. Workers ask for trials one at a time, under a lock, so that a study ends
with exactly as many results as were asked for.

References
----------
Akiba, Sano, Yanase, Ohta and Koyama, "Optuna: a next-generation hyperparameter optimization framework", KDD 2019.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fastnn import kernels, training
from fastnn._checks import as_int
from fastnn._extras import require
from fastnn._files import as_path
from fastnn.recipes.base import RUNS, Recipe, called, numbers
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.space import Space
from fastnn.sweeps import worker
from fastnn.sweeps.options import is_log, shown, text, values
from fastnn.sweeps.study import STUDY, TRIALS, best_accuracy, complete_of, open_study, quiet, read, results_of
from fastnn.training._interrupts import Interrupts
from fastnn.training.metrics import percent

_GIVE_UP = 3                                # by how many failures may exceed results
_ELSEWHERE = ("class", "data_dir", "track", "device")   # do not decide what a trial gives, but for rounding
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
    >>> from fastnn import recipes, sweeps
    >>> sweeps.Sweep(recipes.CNN(epochs=5), trials=20, fixed=["batch_size"]).space
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
                self._check_study(read(self.study, self.space))
            elif (self.study.parent / TRIALS).exists():
                raise FileExistsError(f"study: the trials of another study lie in {self.study.parent}; give a file in "
                                      "another folder")
        # Where the data set has to be downloaded, one process does.
        recipe.check_dataset(recipe.load_dataset(), recipe.model())

    def run(self) -> None:
        """Do the trials that the study lacks, print the best, and leave pictures and a report in its folder."""
        self.check()
        with Interrupts(at_once=True), quiet():
            file = self._open_folder()
            study = open_study(file, self.recipe.epochs)
            if "sweep" not in study.user_attrs:
                study.set_user_attr("sweep", self._options())
            known = study.get_trials(deepcopy=False)
            print(f"{self.recipe.name}: a sweep for the best validation accuracy, {self.trials} trials by "
                  f"{self.workers} worker{'s' if self.workers > 1 else ''}")
            print(f"searched: {'; '.join(f'{name} {text(choice)}' for name, choice in self.space.items())}")
            done = len(results_of(known))
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
        return {**options, **{name: f"searched: {text(choice)}" for name, choice in self.space.items()}}

    # --- the trials ---

    def _work(self, study: Any, file: Path) -> None:
        """Keep workers at it until the study has its results."""
        known = study.get_trials(deepcopy=False)
        seen = {trial.number for trial in known if trial.state.is_finished()}
        missing = self.trials - len(results_of(known))
        threads = max(1, kernels.get_num_threads() // self.workers)

        def begin() -> Any:
            return worker.start(self.recipe, self.space, file, self.trials, threads)

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
                        results += len(results_of([trial]))
                        print(_line(trial, self.space), flush=True)
                        if "error" in trial.user_attrs:
                            failed(trial.user_attrs["error"])
                if len(results_of(known)) >= self.trials:
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
        results = results_of(trials)
        complete = sorted(complete_of(trials), key=lambda trial: (-trial.value, trial.number))
        if not complete:
            raise ValueError("sweep: expected a trial that comes to its end, but none did; the first: "
                             f"{_line(results[0], self.space)}")
        rows = [["trial", "accuracy", *self.space, "seconds"]]
        rows += [[str(trial.number), percent(trial.value), *shown(trial.params, self.space), _seconds(trial)]
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
        best = replace(self.recipe, **values(complete[0].params, self.space))
        command = best.command()
        print(f"to train with the best options and measure the result on the test images, run\n    {command}")

        optuna = require("optuna", "a sweep", "sweep")
        pictures = {"Optimization history": training.plots.optimization_history(
                        [trial.number for trial in results], [100 * best_accuracy(trial) for trial in results],
                        [trial in complete for trial in results], "validation accuracy (%)"),
                    "Accuracy against each option": training.plots.slices(
                        {name: [trial.params[name] for trial in complete] for name in self.space},
                        [100 * trial.value for trial in complete], "validation accuracy (%)",
                        log=[name for name, choice in self.space.items() if is_log(choice)])}
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


def _seconds(trial: Any) -> str:
    return f"{trial.duration.total_seconds():.1f}"


def _line(trial: Any, space: Space) -> str:
    """What is printed of a trial when it ends."""
    if "diverged" in trial.user_attrs:
        outcome = "diverged"
    elif trial.state.name == "PRUNED":
        outcome = f"{percent(best_accuracy(trial))}, given up after epoch {trial.last_step}"
    elif trial.state.name == "COMPLETE":
        outcome = percent(trial.value)
    else:
        outcome = trial.user_attrs.get("error", "lost with its worker")
    options = ", ".join(f"{name} {value}" for name, value in zip(space, shown(trial.params, space)))
    return f"trial {trial.number}: {outcome}  ({options}; {_seconds(trial)} s)"


def _how(exitcode: int) -> str:
    return signal.Signals(-exitcode).name if exitcode < 0 else f"status {exitcode}"
