"""Commands that train, and that use what was trained."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, Union

import tyro

from fastnn import recipes
from fastnn.cli import parsed
from fastnn.recipes import RECIPES, ImageClassifier
from fastnn.recipes.base import Device

AnyRecipe: TypeAlias = Union[tuple(         # type: ignore[valid-type] # noqa: UP007
    Annotated[recipe, tyro.conf.subcommand(name, prefix_name=False)] for name, recipe in RECIPES.items())]

_DEFAULT = recipes.CNN()


def list_recipes() -> None:
    """List the recipes: what "fastnn train" can run."""
    rows = [("recipe", "what it does", "data", "takes about")]
    for name, recipe in RECIPES.items():
        summary = (recipe.__doc__ or "").partition("\n")[0]
        rows.append((name, summary, recipe.needs, recipe.takes))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


def train_with(arguments: Sequence[str]) -> Callable[..., int]:
    """Return the command "train"; `arguments` is what follows the recipe's name on the command line."""
    def train(recipe: AnyRecipe = _DEFAULT) -> int:
        """Run a recipe: train a model, measure it, and keep the run in a folder.

        Ctrl-C saves the run before it stops; the command that is printed then goes on with it.
        """
        chosen: Any = recipe
        if chosen.resumes:
            # The options that the run was begun with are the defaults of this command line.
            cli = functools.partial(tyro.cli, type(chosen), default=chosen.resumed(),
                                    prog=f"fastnn train {chosen.name}")
            chosen = replace(parsed(cli, arguments), resume=True)
        try:
            chosen.run()
        except KeyboardInterrupt:
            folder = chosen.run_dir if hasattr(chosen, "resume") else None
            if folder is None or not any(folder.rglob("last.safetensors")):
                raise
            command = shlex.join(["fastnn", "train", chosen.name, "--run-dir", str(folder), "--resume"])
            print(f"\nfastnn: stopped; to go on, run\n    {command}", file=sys.stderr)
            return 130
        return 0

    return train


def evaluate(run: Path, /, data_dir: Path | None = None, device: Device = "cpu") -> None:
    """Measure the best model of a run on the test images: confusion matrix, accuracy of each class, confusions.

    Parameters
    ----------
    run : Path
        Folder of the run, such as runs/cnn-1.
    data_dir : Path
        Folder in which the data sets lie, if it is not the one that the run was begun with.
    device : {"cpu", "cuda"}
        Where to compute, whatever the model was trained on.
    """
    recipe = _classifier(run)
    recipe.data_dir, recipe.device = data_dir or recipe.data_dir, device
    recipe.evaluate()


def predict(run: Path, files: tuple[Path, ...], /, top: int = 3) -> None:
    """Name what image files show, by the best model of a run.

    A file may be a PNG, JPEG, GIF, BMP, TIFF or WebP, among others, of any size. It is brought to the size that the
    model was trained on; for a model of gray images it is made gray, and inverted where its background is light.

    Parameters
    ----------
    run : Path
        Folder of the run, such as runs/cnn-1.
    files : tuple of Path
        Image files.
    top : int
        How many classes to print, the likeliest first.
    """
    recipe = _classifier(run)
    if not files:
        raise ValueError("files: expected at least one image file after the run's folder, got none")
    if top < 1:
        raise ValueError(f"top: expected at least 1, got {top}")
    recipe.predict(files, top)


def _classifier(run: Path) -> ImageClassifier:
    recipe = recipes.load(run)
    if not isinstance(recipe, ImageClassifier):
        raise ValueError(f"{run}: expected the run of a recipe that keeps a trained classifier, got one of "
                         f"{recipe.name}, which keeps its figures alone")
    return recipe
