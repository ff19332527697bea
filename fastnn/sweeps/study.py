"""The study of a sweep: Optuna's, in a file of SQLite that several processes share."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastnn._extras import require
from fastnn._files import one_line, open_file
from fastnn.recipes.space import Space
from fastnn.sweeps import options
from fastnn.training.metrics import is_number

STUDY, TRIALS = "study.db", "trials"

_NAME = "fastnn"                            # of the study in its file
_HEARTBEAT, _GRACE = 2, 10                  # seconds between heartbeats, and after which a trial's worker is dead
_PATIENCE = 60                              # seconds to wait for the file while others write
_RETRIES = 3                                # of a trial whose workers die
_ENDS = "diverged", "error"                 # what a trial's attributes say of how it ended


def open_study(file: Path, epochs: int) -> Any:
    """Return the study in a file, which is made where it is not there."""
    optuna = require("optuna", "a sweep", "sweep")
    lock = Lock(file)
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
        raise _other_version(file, error) from error
    finally:
        lock.release()


class Lock:
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


@contextmanager
def quiet() -> Iterator[None]:
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


# --- its trials ---


def results_of(trials: Sequence[Any]) -> list[Any]:
    """Those that came to an end, be it an early one."""
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]


def running_of(trials: Sequence[Any]) -> list[Any]:
    return [trial for trial in trials if trial.state.name == "RUNNING"]


def complete_of(trials: Sequence[Any]) -> list[Any]:
    return [trial for trial in trials if trial.state.name == "COMPLETE"]


def best_accuracy(trial: Any) -> float:
    """The best accuracy that the trial reached, NaN where it diverged before the end of an epoch."""
    return max(trial.intermediate_values.values(), default=float("nan"))


def stillborn(study: Any, file: Path) -> list[int]:
    """Return the running trials whose workers died before the first heartbeat, which Optuna would wait for forever.

    Its API tells of no heartbeats.
    """
    with closing(sqlite3.connect(file, timeout=_PATIENCE)) as connection:
        query = "SELECT number FROM trials JOIN trial_heartbeats USING (trial_id)"
        beating = {number for number, in connection.execute(query)}
    latest = datetime.now() - timedelta(seconds=_GRACE)
    return [trial.number for trial in running_of(study.get_trials(deepcopy=False))
            if trial.number not in beating and trial.datetime_start < latest]


# --- a file that is there ---


def read(file: Path, space: Space) -> dict[str, str] | None:
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
        with closing(_read_only(file)) as connection:
            (state,), = connection.execute("PRAGMA integrity_check(1)")
            if state != "ok":
                raise ValueError(f"{what} damaged ({one_line(state):.200})")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table'").fetchone():
                return None
    except sqlite3.Error as error:
        raise ValueError(f"{what} none ({one_line(error)})") from error
    optuna = require("optuna", "a sweep", "sweep")
    found, known = None, []
    try:
        with quiet(), closing(_read_only(file)) as connection:
            storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: connection},
                                                 skip_table_creation=True)
            names = optuna.get_all_study_names(storage)
            if names == [_NAME]:
                study = optuna.load_study(study_name=_NAME, storage=storage)
                found, known = study.user_attrs.get("sweep"), study.get_trials()
            storage.engine.dispose()
        _check_trials(known, found, space)
    except RuntimeError as error:
        raise _other_version(file, error) from error
    except Exception as error:              # a database with other values in it raises nearly anything
        if isinstance(cause := _cause(error), sqlite3.OperationalError):        # a table is missing
            raise ValueError(f"{what} none ({cause})") from error
        why = " ".join(str(error).split())
        raise ValueError(f"{what} damaged ({why:.200}); take a copy of it, or give another file") from error
    if names not in ([], [_NAME]):
        raise ValueError(f"{what} Optuna's study {', '.join(map(str, names)):.80}")
    return found


def _check_trials(trials: Sequence[Any], found: Any, space: Space) -> None:
    """Raise a ValueError unless trials of these options have the values that a sweep gives them."""
    if found is None and not results_of(trials):
        return
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in (found.get("recipe"),
                                                                                *found.values())):
        raise ValueError(f"expected the options of its trials as text, got {found!r:.100}")
    for trial in results_of(trials):
        accuracies = [*trial.intermediate_values.values(), *([trial.value] if trial.state.name == "COMPLETE" else [])]
        if not all(is_number(value) and 0 <= value <= 1 for value in accuracies):
            raise ValueError(f"expected accuracies from 0 to 1 of trial {trial.number}, got {accuracies!r:.100}")
        if trial.duration is None or not all(isinstance(trial.user_attrs.get(name, ""), str) for name in _ENDS):
            raise ValueError(f"expected to know how trial {trial.number} ended")
        if all(found.get(name) == f"searched: {options.text(choice)}" for name, choice in space.items()):
            for name, choice in space.items():      # else it is another sweep's, which is said by itself
                if (trial.distributions[name] != options.distribution(choice)
                        or not options.holds(choice, trial.params[name])):
                    raise ValueError(f"expected {name} of trial {trial.number} to be {options.text(choice)}, got "
                                     f"{trial.params[name]!r:.40} of {trial.distributions[name]}")


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)


def _cause(error: BaseException) -> BaseException:
    """The error that an error, and those between, came of."""
    return error if error.__cause__ is None else _cause(error.__cause__)


def _other_version(file: Path, error: RuntimeError) -> ValueError:
    return ValueError(f"study: {file} was written by another version of Optuna: {one_line(error)}")
