"""The command that makes one table of many runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from fastnn._files import as_path, one_line, read_json
from fastnn.recipes import RECIPES, Recipe
from fastnn.recipes.base import RESULTS, RUNS, read_config
from fastnn.training.checkpoint import replace_file
from fastnn.training.run_folder import CONFIG

_HEAD = """\
# Results

What the recipes reach, on the whole test sets where the cell says nothing else. `fastnn results --latest --write
FILE` writes this page from what the runs left in their folders; nobody edits it. "Reported" is what others got with the
same system.

"""


def results(runs: Path = RUNS, /, latest: bool = False, write: Path | None = None) -> None:
    """Make a table of all finished runs: recipe, reported, ours, minutes, command, machine, folder.

    Parameters
    ----------
    runs : Path
        Folder that holds the runs' folders.
    latest : bool
        Only the newest run of each command, without its folder.
    write : Path
        Write the table to this Markdown file too.
    """
    runs, write = as_path("runs", runs), None if write is None else as_path("write", write)
    if write and (write.is_dir() or not write.parent.is_dir()):
        raise FileNotFoundError("write: expected a file in a folder, but "
                                + (f"{write} is one" if write.is_dir() else f"there is no folder {write.parent}"))
    found = []
    for path in runs.glob(f"*/{RESULTS}"):
        if not (path.parent / CONFIG).exists():             # that of a sweep
            continue
        try:
            found.append((path.stat().st_mtime, read(path)))
        except (ValueError, OSError) as error:
            print(f"passed over: {one_line(error)}", file=sys.stderr)
    if not found:
        raise FileNotFoundError(f"{runs}: expected finished runs in it, folders with a {RESULTS}, but there is none; "
                                "\"fastnn train\" makes one")
    found.sort(key=lambda run: run[0])
    heads: tuple[str, ...] = ("recipe", "reported", "ours", "minutes", "command", "machine", "run")
    if latest:
        heads, found = heads[:-1], list({run[1][heads.index("command")]: run for run in found}.values())
    places = {name: place for place, name in enumerate(RECIPES)}
    found.sort(key=lambda run: places.get(run[1][0], len(places)))
    rows = [row[: len(heads)] for _, row in found]
    page = _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _table(heads, rows))
    if write:
        replace_file(write, page.encode())
    print(page.removeprefix(_HEAD), end="")


def read(path: Path) -> tuple[str, ...]:
    """Return the row of the run that left these results."""
    try:
        config, found = read_config(path.parent), read_json(path, "the results of a run")
        name, figures, minutes = config["recipe"], found["figures"], found["minutes"]
        recipe = Recipe if "class" in config else RECIPES[name]
        headline = found.get("headline", recipe.headline)
        if not all(isinstance(text, str) and text.isprintable() for text in
                   (found["command"], found["machine"], *figures.values())):
            raise TypeError
        dataset, usual = config.get("dataset"), getattr(recipe, "dataset", None)
        reported = recipe.reported if dataset in (None, usual) else Recipe.reported
        ours = "; ".join(f"{figure}: {figures[figure]}".removeprefix("test accuracy: ")
                         for figure in headline if figure in figures)
        return (name, reported, ours or "-", "-" if minutes is None else f"{minutes:.1f}", f"`{found['command']}`",
                found["machine"], os.fspath(path.parent))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path.parent}: expected a finished run of this version, with its configuration, figures, "
                         "command and machine, got something else") from error


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    yield heads
    yield tuple("---:" if head == "minutes" else "---" for head in heads)
    for row in rows:
        yield tuple(" ".join(cell.replace("|", r"\|").split()) for cell in row)
