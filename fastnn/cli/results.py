"""The command that makes one table of many runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastnn.recipes import RECIPES
from fastnn.recipes.base import CONFIG, RESULTS, RUNS, read_config
from fastnn.training.checkpoint import replace_file

_HEAD = """\
# Results

What the recipes reach, on the whole test sets. `fastnn results --write FILE` writes this page from what the runs left
in their folders; nobody edits it. "Reported" is what others got with the same system.

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
    newest: dict[str, tuple[float, Path]] = {}
    for path in runs.glob(f"*/{RESULTS}"):
        if not (path.parent / CONFIG).exists():             # that of a sweep
            continue
        name = read_config(path.parent).get("recipe")
        newest[name] = max(newest.get(name, (0.0, path)), (path.stat().st_mtime, path))
    rows = [_row(name, newest[name][1]) for name in RECIPES if name in newest]
    if not rows:
        raise FileNotFoundError(f"{runs}: expected finished runs in it, folders with a {RESULTS}, but there is none; "
                                "\"fastnn train\" makes one")
    page = _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _table(rows))
    if write:
        replace_file(write, page.encode())
    print(page.removeprefix(_HEAD), end="")


def _row(name: str, path: Path) -> tuple[str, ...]:
    recipe, found = RECIPES[name], read(path)
    figures = found["figures"]
    known = [figure for figure in recipe.headline if figure in figures]
    ours = "; ".join(f"{figure} {figures[figure]}".removeprefix("test accuracy ") for figure in known)
    minutes = found.get("minutes")
    return (name, recipe.reported, ours or "-", "-" if minutes is None else f"{minutes:.1f}",
            f"`{found['command']}`", found["machine"])


def read(path: Path) -> Any:
    """Return what results.json of a run says, once it has what the table needs."""
    try:
        found = json.loads(path.read_bytes())
        if all(isinstance(found[name], kind) for name, kind in (("figures", dict), ("command", str), ("machine", str))):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path}: expected the results of a finished run, with its figures, command and machine, got "
                     "something else; run it again")


def _table(rows: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    heads = "recipe", "reported", "ours", "minutes", "command", "machine"
    yield heads
    yield tuple("---:" if head == "minutes" else "---" for head in heads)
    yield from rows
