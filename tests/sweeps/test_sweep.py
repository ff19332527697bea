"""Sweeps, as real processes that are killed and go on; and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fastnn import data, nn, recipes, sweeps
from fastnn._extras import install
from fastnn.data import Dataset, Split
from fastnn.recipes import RECIPES, Range
from fastnn.recipes.base import arguments
from fastnn.recipes.space import Space
from fastnn.sweeps import study as studies

optuna = pytest.importorskip("optuna")

PYTHON = (sys.executable, "-m", "fastnn")
QUICK = ("sweep", "cnn", "--epochs", "2")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))       # where workers find the recipes of this file


def fastnn_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTHON, *map(str, arguments)], capture_output=True, text=True, check=False)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*PYTHON, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)


def trials_of(file: Path) -> list[Any]:
    with studies.quiet():
        return list(studies.open_study(file, 1).get_trials())


def states(file: Path) -> list[str]:
    with closing(sqlite3.connect(file, timeout=60)) as connection:
        return [state for state, in connection.execute("SELECT state FROM trials ORDER BY number")]


def results(file: Path) -> int:
    return sum(state in ("COMPLETE", "PRUNED") for state in states(file))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of a sweep's workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_study_may_be_text_and_its_data_set_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweeps.Sweep(recipes.CNN(epochs=2), study="folder/study.db")     # type: ignore[arg-type]
    assert sweep.study == Path("folder/study.db")
    sweep.check()
    with pytest.raises(TypeError, match="study: expected a path, got int"):
        sweeps.Sweep(recipes.CNN(), study=3)                                  # type: ignore[arg-type]
    digits = data.digits()
    monkeypatch.setattr(recipes.CNN, "load_dataset", lambda self: replace(digits, classes=(*digits.classes, "10")))
    with pytest.raises(ValueError, match="dataset: expected as many classes as this CNN gives scores, 10, got 11"):
        sweep.run()
    assert list(tmp_path.iterdir()) == []


# --- real sweeps ---


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_sweep_with_a_worker_killed_ends_with_as_many_results_as_asked_for() -> None:
    process = start(*QUICK, "--trials", 6, "--workers", 2)
    folder = Path("runs/sweep-cnn-1")

    def two_train() -> bool:
        running = [number for number, state in enumerate(states(folder / "study.db")) if state == "RUNNING"]
        return len(running) == 2 and all((folder / f"trials/{number:03d}/config.json").exists() for number in running)

    wait_until((folder / "trials/002/config.json").exists, process)
    wait_until(two_train, process)          # a worker killed earlier has not yet drawn all options of its trial
    os.kill(workers(process)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "a worker died (SIGKILL); another takes its place, and its trial is tried again" in out
    assert results(folder / "study.db") == 6
    trials = trials_of(folder / "study.db")
    # The kill may have come between two trials; else the lost one was tried again with the same options.
    lost = [trial for trial in trials if trial.state.name == "FAIL"]
    assert len(trials) == 6 + len(lost)
    assert all(sum(trial.params == other.params for other in trials) == 2 for trial in lost)
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED", "FAIL"}

    assert "6 results: " in out
    assert {path.name for path in folder.iterdir()} == {
        "study.db", "study.db.lock", "trials", "report.html", "results.json", "optimization-history.png",
        "importance-of-the-options.png", "accuracy-against-each-option.png"}
    for trial in trials:
        if trial.state.name == "COMPLETE":
            kept = folder / "trials" / f"{trial.number:03d}"
            records = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
            assert trial.value == max(record["val_accuracy"] for record in records)
            assert json.loads((kept / "config.json").read_text())["lr"] == trial.params["lr"]
            assert not list(kept.glob("*.safetensors"))

    # The command for the best gives the trial again, to the bit.
    best = max((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    match = re.search("fastnn (train cnn .*)", out)
    assert match
    done = fastnn_command(*shlex.split(match[1]), "--run-dir", "best")
    assert done.returncode == 0
    history = [json.loads(line)["val_loss"] for line in Path("best/metrics.jsonl").read_text().splitlines()]
    metrics = (folder / f"trials/{best.number:03d}/metrics.jsonl").read_text()
    assert history == [json.loads(line)["val_loss"] for line in metrics.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_scheduler_ends_a_sweep_that_can_go_on(name: str) -> None:
    process = start("sweep", "cnn", "--epochs", 500, "--trials", 4, "--workers", 2)
    folder = Path("runs/sweep-cnn-1")
    wait_until(lambda: len(list(folder.glob("trials/*/metrics.jsonl"))) == 2, process)
    begun, number = workers(process), getattr(signal, name)
    if name == "SIGTERM":
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)      # the workers, too, as where a terminal is closed
    out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + number, err
    assert "\nfastnn: stopped; to go on, run\n    fastnn sweep cnn --epochs 500" in err
    assert "a worker died" not in out
    assert "Traceback" not in err
    assert len(begun) == 2
    assert not any(Path(f"/proc/{worker}").exists() for worker in begun)
    assert states(folder / "study.db") == ["RUNNING"] * 2       # whose heartbeat has ended: they are tried again


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
def test_a_killed_sweep_goes_on_and_ctrl_c_says_how() -> None:
    file = Path("a folder/100 % {mine}.db")
    command = [*QUICK, "--trials", "4", "--workers", "1", "--lr", "0.01", "--study", str(file)]
    process = start(*command)
    wait_until(lambda: file.exists() and (file.parent / "trials/001/metrics.jsonl").exists(), process)
    process.kill()
    process.communicate()
    before = results(file)
    assert 1 <= before < 4

    process = start(*command)
    wait_until(lambda: results(file) > before, process)
    os.killpg(process.pid, signal.SIGINT)                             # as a terminal does: to the workers, too
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, (out, err)
    assert f"with {before} result" in out
    assert "Traceback" not in err
    printed = err.splitlines()[-1].strip()
    assert printed == ("fastnn sweep cnn --epochs 2 --lr 0.01 --trials 4 --workers 1 --study "
                       "'a folder/100 % {mine}.db'")

    done = fastnn_command(*shlex.split(printed)[1:])
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert results(file) == 4
    assert set(states(file)) <= {"COMPLETE", "PRUNED", "FAIL"}
    assert all(trial.params.keys() == {"batch_size"} for trial in trials_of(file)
               if trial.state.name != "FAIL")                         # a kill may come before the options are drawn


@dataclass
class Small(recipes.ImageClassifier):
    """A linear classifier of few pixels, whose accuracy follows from its options."""

    name: ClassVar[str] = "small"
    space: ClassVar[Space] = {"lr": Range(1e-4, 1.0, log=True), "hidden": ((), (4,), (8, 4)),
                              "activation": ("relu", "tanh"), "width": Range(2, 5)}

    epochs: int = 3
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    width: int = 3

    def load_dataset(self) -> Dataset:
        labels = np.tile(np.arange(4), 60)
        images = np.random.default_rng(0).integers(0, 120, (240, 1, 2, 2), np.uint8)
        images[np.arange(240), 0, labels // 2, labels % 2] = 130
        return Dataset(Split(images[:200], labels[:200]), Split(images[200:], labels[200:]), tuple("abcd"), "small")

    def model(self) -> nn.Module:
        sizes = [4, *self.hidden, self.width]
        layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        return nn.Sequential(nn.Flatten(), *layers, {"relu": nn.ReLU, "tanh": nn.Tanh}[self.activation](),
                             nn.Linear(self.width, 4))


@dataclass
class Broken(Small):
    name: ClassVar[str] = "broken"

    def make_optimizer(self, model: nn.Module) -> Any:
        raise RuntimeError("no such layer")


@dataclass
class Deadly(Small):
    name: ClassVar[str] = "deadly"

    def make_optimizer(self, model: nn.Module) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().make_optimizer(model)


@pytest.mark.slow
def test_poor_trials_are_given_up_and_a_sweep_by_one_worker_is_always_the_same(
        capsys: pytest.CaptureFixture[str]) -> None:
    both = []
    for file in Path("a/study.db"), Path("b/study.db"):
        sweeps.Sweep(Small(seed=3), trials=11, study=file).run()
        both.append(trials_of(file))
    ours, theirs = ([(trial.state.name, trial.params, trial.intermediate_values) for trial in study]
                    for study in both)
    assert ours == theirs
    sweeps.Sweep(Small(seed=3), trials=11, study=file).run()         # nothing is left to do
    out, again = capsys.readouterr().out.rsplit("with 11 results so far\n", 1)
    assert again.startswith("\nThe best by validation accuracy\n")
    given_up = [trial for trial in both[0] if trial.state.name == "PRUNED"]
    assert given_up
    for trial in given_up:
        assert 1 <= trial.last_step < 3
        assert f"given up after epoch {trial.last_step}" in out
        assert len(Path(f"a/trials/{trial.number:03d}/metrics.jsonl").read_text().splitlines()) == trial.last_step
    assert {state for state, *_ in ours} == {"PRUNED", "COMPLETE"}
    hidden = {params["hidden"] for _, params, _ in ours}
    assert hidden <= {"()", "(4)", "(8, 4)"}
    assert len(hidden) > 1
    assert all(type(params["width"]) is int for _, params, _ in ours)
    first = json.loads(Path("a/trials/000/config.json").read_text())
    assert f"({', '.join(map(str, first['hidden']))})" == ours[0][1]["hidden"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_trials_that_fail_end_the_sweep_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="given up, since 3 trials failed and 0 gave a result; the first failure: "
                                         "RuntimeError: no such layer"):
        sweeps.Sweep(Broken(), trials=20, study=Path("broken/study.db")).run()
    assert "trial 0: RuntimeError: no such layer  (lr " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"the first failure: a worker died \(SIGKILL\)"):
        sweeps.Sweep(Deadly(), trials=20, study=Path("deadly/study.db")).run()
    with pytest.raises(ValueError, match="sweep: expected a trial that comes to its end, but none did; the first: "
                                         "trial 0: diverged"):
        sweeps.Sweep(recipes.CNN(lr=1e9), trials=1, fixed=["lr"], study=Path("diverged/study.db")).run()


@pytest.mark.slow
def test_a_trial_whose_worker_died_before_its_first_heartbeat_is_replaced() -> None:
    file = Path("study.db")
    with studies.quiet(), pytest.warns(UserWarning, match="Heartbeat of storage"):
        studies.open_study(file, 1).ask()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE trials SET datetime_start = '2020-01-01 00:00:00.000000'")
    connection.close()
    sweeps.Sweep(Small(epochs=1), trials=1, study=file).run()
    assert states(file) == ["FAIL", "COMPLETE"]


# --- spaces and options ---


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_what_is_searched_is_a_field_and_holds_its_default(recipe: type[recipes.Recipe]) -> None:
    assert recipe.space.keys() <= {field.name for field in fields(recipe)}
    schedules = ("short", "full") if issubclass(recipe, recipes.ShortOrFull) else (None,)
    for schedule in schedules:              # which may decide what an option is
        one = recipe() if schedule is None else recipe(schedule=schedule)       # type: ignore[call-arg]
        one.check()
        for name, choice in recipe.space.items():
            default = getattr(one, name)
            assert choice.low <= default <= choice.high if isinstance(choice, Range) else default in choice, name


def test_a_range_that_is_none() -> None:
    with pytest.raises(ValueError, match="low: expected a number below high, 1, got 2"):
        Range(2, 1)
    with pytest.raises(ValueError, match="low: expected a number above 0 on a logarithmic scale, got 0"):
        Range(0, 1, log=True)


def test_options_as_arguments() -> None:
    assert arguments(Small(lr=0.5, hidden=(8, 4), activation="tanh").changed()) == [
        "--lr", "0.5", "--hidden", "8", "4", "--activation", "tanh"]
    assert Small(run_dir=Path("a"), track="wandb").changed() == {}


@pytest.mark.parametrize(("sweep", "message"), [
    (sweeps.Sweep(Small(), trials=0), "trials: expected at least 1, got 0"),
    (sweeps.Sweep(Small(), workers=0), "workers: expected at least 1, got 0"),
    (sweeps.Sweep(Small(epochs=0)), "epochs: expected at least 1, got 0"),
    (sweeps.Sweep(Small(resume=True)), "resume: expected none in a sweep, whose trials are runs of their own; give"),
    (sweeps.Sweep(Small(run_dir=Path("here"))), "run_dir: expected none in a sweep"),
    (sweeps.Sweep(Small(), trials=2.5), "trials: expected an integer, got 2.5"),
    (sweeps.Sweep(Small(), fixed=["lrr"]), "fixed: expected a list of names from .*lr.*, got lrr"),
    (sweeps.Sweep(Small(), fixed="lr"), "fixed: expected a list of names from .*, got lr"),
    (sweeps.Sweep("cnn"), "recipe: expected a recipe, such as .*, got str"),
    (sweeps.Sweep(Small), "recipe: expected a recipe, such as .*, got the class Small itself"),
    (sweeps.Sweep(recipes.OverfitCheck()), "recipe: expected one with a search space, but overfit-check has none"),
])
def test_what_cannot_be_done_is_refused_before_anything_is_written(sweep: sweeps.Sweep, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        sweep.run()
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), [
    ("cnn --lr 0.1 --batch-size=64", "recipe: expected options that are searched, but all of lr, batch_size are fixed"),
    ("cnn-mnist --data-dir .", "mnist: expected its files in "),
    ("resnet", "Unrecognized options: resnet"),
])
def test_a_mistake_on_the_command_line_ends_in_a_sentence(arguments: str, message: str) -> None:
    done = fastnn_command("sweep", *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastnn: {message}")
    assert "Traceback" not in done.stderr
    assert list(Path().iterdir()) == []


def test_a_space_of_unknown_fields() -> None:
    @dataclass
    class Odd(Small):
        space: ClassVar[Space] = {"depth": (1, 2)}

    with pytest.raises(ValueError, match="space: expected fields of small, got depth"):
        sweeps.Sweep(Odd()).run()


# --- files ---


def test_a_file_that_holds_no_such_study() -> None:
    Path("text.db").write_text("no database, and long enough for SQLite to see that it is none " * 20)
    Path("short.db").write_text("notes")
    Path("folder.db").mkdir()
    with sqlite3.connect("other.db") as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    optuna.create_study(storage="sqlite:///optuna.db", study_name="mine")
    contents = {name: Path(name).read_bytes() for name in ("text.db", "short.db", "other.db", "optuna.db")}
    for name, message in [("short.db", r"short.db is none \(file is not a database\)"),
                          ("text.db", r"text.db is none \(file is not a database\)"), ("folder.db", "is no file"),
                          ("other.db", "other.db is none .no such table: version_info."),
                          ("optuna.db", "optuna.db is Optuna's study mine")]:
        with pytest.raises(ValueError, match=f"study: expected the file of a study that fastnn sweep .*{message}"):
            sweeps.Sweep(Small(), study=Path(name)).run()
    assert contents == {name: Path(name).read_bytes() for name in contents}


def test_a_lock_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "_PATIENCE", 0.1)
    lock = studies.Lock(Path("study.db"))
    lock.acquire()
    with pytest.raises(OSError, match=r"study: another process holds study.db.lock for longer than 0.1 s, .*; end it"):
        sweeps.Sweep(Small(), study=Path("study.db")).run()
    lock.release()
    lock._connection.close()


def test_a_study_whose_worker_was_killed_while_it_wrote() -> None:
    sweep = sweeps.Sweep(Small(), study=Path("study.db"))
    with studies.quiet():
        studies.open_study(Path("study.db"), 3).set_user_attr("sweep", sweep._options())
    code = """
import os, sqlite3
connection = sqlite3.connect("study.db", isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE studies SET study_name = 'half'")
connection.execute("CREATE TABLE large (x)")
connection.executemany("INSERT INTO large VALUES (?)", [(bytes(3000),)] * 200)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path("study.db-journal").stat().st_size
    sweep.check()
    assert not Path("study.db-journal").exists()


def test_a_study_with_a_damaged_page_is_refused_as_it_is() -> None:
    sweep = sweeps.Sweep(Small(), study=Path("study.db"))
    with studies.quiet():
        studies.open_study(Path("study.db"), 3).set_user_attr("sweep", sweep._options())
    whole = Path("study.db").read_bytes()
    for place in range(4096, len(whole), 4096):
        damaged = whole[:place] + b"\xff" * 2000 + whole[place + 2000:]
        Path("study.db").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^study: expected the file of a study that fastnn sweep .*$"):
            sweep.run()
        assert Path("study.db").read_bytes() == damaged


def test_a_file_where_none_can_be() -> None:
    Path("trials").mkdir()
    with pytest.raises(FileExistsError, match="study: the trials of another study lie in"):
        sweeps.Sweep(Small(), study=Path("study.db")).run()
    Path("a file").touch()
    with pytest.raises(OSError, match="study: the folder a file cannot be made"):
        sweeps.Sweep(Small(), study=Path("a file/study.db")).run()
    if sys.platform == "linux":
        with pytest.raises(OSError, match=r"study: /proc/study\.db\.lock cannot be written"):
            sweeps.Sweep(Small(), study=Path("/proc/study.db")).run()


def test_a_study_of_another_recipe_other_options_or_another_optuna() -> None:
    file = Path("study.db")
    with studies.quiet():
        studies.open_study(file, 3).set_user_attr("sweep", sweeps.Sweep(Small(), study=file)._options())
    for sweep, message in [
        (sweeps.Sweep(recipes.CNN(), study=file), "study: expected a study of cnn, but study.db is one of small;"),
        (sweeps.Sweep(Small(epochs=9), study=file), "epochs: expected 3, with which the study study.db was begun"),
        (sweeps.Sweep(Small(), study=file, fixed=["lr"]), "lr: expected searched: 0.0001 to 1 .logarithmic., "),
    ]:
        with pytest.raises(ValueError, match=message):
            sweep.run()
    assert not Path("trials").exists()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    connection.close()
    with pytest.raises(ValueError, match=r"study: study.db was written by another version of Optuna: "):
        sweeps.Sweep(Small(), study=file).run()


def test_without_optuna_it_says_what_to_install() -> None:
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "optuna":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from fastnn.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "sweep", "cnn"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"fastnn: a sweep needs optuna: run {install('sweep')}\n"
    assert list(Path().iterdir()) == []
