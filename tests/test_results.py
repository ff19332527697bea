"""The table of many runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastnn import recipes
from fastnn.cli.results import results


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    recipes.CNN(epochs=1, run_dir=folder / "cnn-1").run()
    recipes.CNN(epochs=2, seed=3, run_dir=folder / "cnn-2").run()
    recipes.Regression(points=2, repeats=1, updates=20, run_dir=folder / "regression-1").run()
    (folder / "mine-1").mkdir()
    (folder / "mine-1/config.json").write_text('{"recipe": "mine", "class": "mine.py:Mine"}')
    (folder / "mine-1/results.json").write_text(json.dumps({
        "figures": {"score": "7", "time": "1 s"}, "headline": ["score"], "minutes": 1.0, "machine": "m",
        "command": "fastnn train mine.py:Mine --name 'a | b'"}))
    (folder / "sweep-cnn-1").mkdir()
    (folder / "sweep-cnn-1/results.json").write_text("{}")
    return folder


def test_a_row_a_run(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(str(runs), write=str(tmp_path / "results.md"))       # type: ignore[arg-type]
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head == "| recipe | reported | ours | minutes | command | machine | run |"
    assert [row.split(" | ")[0] for row in rows] == ["| cnn", "| cnn", "| regression", "| mine"]
    assert [row.split(" | ")[-1] for row in rows] == [
        f"{runs / name} |" for name in ("cnn-1", "cnn-2", "regression-1", "mine-1")]
    assert (tmp_path / "results.md").read_text().endswith("\n".join([head, rule, *rows]) + "\n")


def test_with_latest_there_is_no_folder(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(runs, latest=True, write=tmp_path / "results.md")
    head, rule, first, cnn, regression, mine = capsys.readouterr().out.splitlines()
    assert head == "| recipe | reported | ours | minutes | command | machine |"
    found = json.loads((runs / "cnn-2/results.json").read_text())
    assert cnn == (f"| cnn | - | {found['figures']['test accuracy']} | {found['minutes']:.1f} | "
                   f"`fastnn train cnn --seed 3 --epochs 2` | {found['machine']} |")
    assert regression.startswith("| regression | n = 32: 1.32 / 1.49; ")
    assert "cured, n = 1000: " in regression
    page = (tmp_path / "results.md").read_text()
    assert page.startswith("# Results\n")
    assert page.endswith("\n".join([head, rule, first, cnn, regression, mine]) + "\n")
    assert mine.startswith("| mine | - | score: 7 | 1.0 | `fastnn train mine.py:Mine --name 'a \\| b'` |")


def test_with_latest_a_row_is_the_newest_run_of_a_command(
        runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"recipe": "svm-cifar10", "dataset": "cifar10"}
    for name, dataset in (("a", "cifar10"), ("b", "cifar100"), ("c", "cifar100")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "dataset": dataset}))
        (tmp_path / name / "results.json").write_text(json.dumps({
            "figures": {"test accuracy": name}, "minutes": 1.0, "machine": "m", "command": f"train {dataset}"}))
        os.utime(tmp_path / name / "results.json", (0, "abc".index(name)))
    results(tmp_path, latest=True)
    assert [row.split(" | ")[:5] for row in capsys.readouterr().out.splitlines()[2:]] == [
        ["| svm-cifar10", "val 36.20 %, test 33.66 %", "a", "1.0", "`train cifar10`"],
        ["| svm-cifar10", "-", "c", "1.0", "`train cifar100`"]]


def test_the_command_of_a_row_gives_the_run_again(runs: Path, tmp_path: Path) -> None:
    from fastnn.recipes import load

    again = load(runs / "cnn-2")
    again.run_dir = tmp_path / "again"
    again.run()
    ours, theirs = (json.loads(Path(folder, "results.json").read_text()) for folder in (again.run_dir, runs / "cnn-2"))
    assert ours["confusion"] == theirs["confusion"]
    assert ours["command"] == theirs["command"]


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected finished runs in it, folders with a results\.json"):
        results(tmp_path, write=tmp_path / "results.md")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"figures": {}}'])
def test_results_that_are_damaged(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cnn-1").mkdir()
    (tmp_path / "cnn-1/config.json").write_text('{"recipe": "cnn"}')
    (tmp_path / "cnn-1/results.json").write_text(text)
    with pytest.raises(FileNotFoundError, match="expected finished runs in it"):
        results(tmp_path)
    assert "cnn-1: expected a finished run of this version, with its configuration, " in capsys.readouterr().err


def test_a_file_in_no_folder(runs: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"write: expected a file in a folder, but .* is one"):
        results(runs, write=runs)
    with pytest.raises(FileNotFoundError, match="write: expected a file in a folder, but there is no folder nowhere"):
        results(runs, write=Path("nowhere/results.md"))
