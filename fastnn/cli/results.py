"""The command that makes one table of many runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from fastnn._files import read_json
from fastnn.recipes import RECIPES
from fastnn.recipes.base import CONFIG, RESULTS, RUNS, read_config
from fastnn.training.checkpoint import replace_file

_HEAD = """\
# Results

What the recipes reach, on the whole test sets where the cell says nothing else. `fastnn results --write FILE` writes
this page from what the runs left in their folders; nobody edits it. "Reported" is what others got with the same system.

"""


def results(runs: Path = RUNS, /, write: Path | None = None) -> None:
    """Make a table of the newest finished run of each recipe: reported, ours, minutes, command, machine.

    Parameters
    ----------
    runs : Path
        Folder that holds the runs' folders.
    write : Path
        Write the table to this Markdown file too.
    """
    if write and not write.parent.is_dir():
        raise FileNotFoundError(f"write: expected a file in a folder, but there is no folder {write.parent}")
    newest: dict[str, tuple[float, tuple[str, ...]]] = {}
    for path in runs.glob(f"*/{RESULTS}"):
        if not (path.parent / CONFIG).exists():             # that of a sweep
            continue
        try:
            name, row = read(path)
        except (ValueError, OSError) as error:
            print(f"passed over: {error}", file=sys.stderr)
            continue
        newest[name] = max(newest.get(name, (0.0, row)), (path.stat().st_mtime, row))
    rows = [newest[name][1] for name in RECIPES if name in newest]
    if not rows:
        raise FileNotFoundError(f"{runs}: expected finished runs in it, folders with a {RESULTS}, but there is none; "
                                "\"fastnn train\" makes one")
    page = _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _table(rows))
    if write:
        replace_file(write, page.encode())
    print(page.removeprefix(_HEAD), end="")


def read(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the recipe of the run that left these results, and its row."""
    try:
        config, found = read_config(path.parent), read_json(path, "the results of a run")
        name, figures, minutes = config["recipe"], found["figures"], found["minutes"]
        if not all(isinstance(text, str) and text.isprintable() for text in
                   (found["command"], found["machine"], *figures.values())):
            raise TypeError
        headline = RECIPES[name].headline
        ours = "; ".join(f"{figure}: {figures[figure]}".removeprefix("test accuracy: ")
                         for figure in headline if figure in figures)
        return name, (name, RECIPES[name].reported, ours or "-", "-" if minutes is None else f"{minutes:.1f}",
                      f"`{found['command']}`", found["machine"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path.parent}: expected a finished run of this version, with its configuration, figures, "
                         "command and machine, got something else") from error


def _table(rows: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    heads = "recipe", "reported", "ours", "minutes", "command", "machine"
    yield heads
    yield tuple("---:" if head == "minutes" else "---" for head in heads)
    yield from rows
