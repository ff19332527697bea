"""Commands that train, and that use what was trained."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Union, cast

import tyro

from fastnn import recipes
from fastnn.cli.ending import stopped
from fastnn.cli.parsing import given, meant
from fastnn.recipes import RECIPES, Compression, ImageClassifier, ImageGenerator, Recipe, TransformerLM
from fastnn.recipes.base import Device, called, read_config

_DEFAULT = recipes.CNN()


def named_recipes(words: Sequence[str]) -> dict[str, type[Recipe]]:
    """Return the recipes by name, and those of somebody's own that a word names which is no option or its value."""
    return RECIPES | {word: recipe_called(word) for option, word in zip(("", *words), words)
                      if ":" in word and not word.startswith("-") and not option.startswith("-")}


def any_of(named: Mapping[str, type[Recipe]]) -> Any:
    """Return the type of which tyro makes a subcommand a recipe."""
    return Union[tuple(Annotated[recipe, tyro.conf.subcommand(name, prefix_name=False)]     # noqa: UP007 (of a tuple)
                       for name, recipe in named.items())]


def recipe_called(word: str) -> type[Recipe]:
    """Return a recipe by its name, or import one of somebody's own: MODULE:CLASS or FILE.py:CLASS."""
    if word in RECIPES:
        return RECIPES[word]
    place, colon, name = word.rpartition(":")
    if not colon:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, or for one of your own MODULE:CLASS or "
                         f"FILE.py:CLASS, got {word!r}{meant(word, RECIPES)}")
    folder, file = os.path.split(place) if place.endswith(".py") else ("", place)
    sys.path.insert(0, os.path.abspath(folder))         # which the processes of a sweep inherit
    try:
        module = importlib.import_module(file.removesuffix(".py"))
        if file.endswith(".py") and not os.path.samefile(str(module.__file__), place):
            raise ImportError(f"{module.__name__} is another module's name, that of {module.__file__}")
        found: Any = functools.reduce(getattr, name.split("."), module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"recipe: {word} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Recipe) and not inspect.isabstract(found)
            and isinstance(getattr(found, "name", None), str)):
        raise ValueError("recipe: expected a class that derives from fastnn.recipes.Recipe, has a name and all methods "
                         f"that are asked for, got {word}")
    return found


def list_recipes() -> None:
    """List the recipes: what "fastnn train" can run."""
    rows = [("recipe", "what it does", "data", "takes about")]
    for name, recipe in RECIPES.items():
        summary = (recipe.__doc__ or "").partition("\n")[0]
        rows.append((name, summary, recipe.needs, recipe.takes))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


def train_with(words: Sequence[str], named: Mapping[str, type[Recipe]]) -> Callable[..., int]:
    """Return the command "train" of these recipes; `words` is what follows it on the command line."""
    def train(recipe: Any = _DEFAULT) -> int:
        """Run a recipe: train a model, measure it, and keep the run in a folder.

        One of your own is called MODULE:CLASS or FILE.py:CLASS. Ctrl-C, SIGTERM or SIGHUP save the run before it stops;
        the command that is printed then goes on with it.
        """
        return _run(recipe, words, ["train", called(type(recipe))])

    train.__annotations__["recipe"] = any_of(named)
    return train


def compress_with(words: Sequence[str]) -> Callable[..., int]:
    """Return the command "compress"; `words` is what follows it on the command line."""
    def compress(compression: Annotated[Compression, tyro.conf.PositionalRequiredArgs],
                 recipe: str | None = None) -> int:
        """Prune and quantise the best model of a run, and put size, accuracy and speed in one table.

        The smallest weights become 0, more and more of them, while the others are fine-tuned as the run was trained;
        then weights and activations are quantised to int8. The compression is a run in a folder of its own, with a
        report and the weights of each model. Ctrl-C, SIGTERM or SIGHUP save it before it stops; the command that is
        printed then goes on with it.

        Parameters
        ----------
        recipe : str
            MODULE:CLASS or FILE.py:CLASS of a run of a recipe of your own; its code is imported.
        """
        own = []
        if recipe is not None:
            recipes.load(compression.source, recipe_called(recipe))     # says where the run is one of another recipe
            own = ["--recipe", recipe]
        return _run(compression, words, ["compress", str(compression.source), *own])

    return compress


def _run(chosen: Any, words: Sequence[str], command: Sequence[str]) -> int:
    """Run a recipe, or go on with its run; where it is stopped, say with which command it goes on."""
    if chosen.resumes:
        # What is not given is as the run was begun.
        names = (given(words) | chosen.changed().keys()) & {field.name for field in fields(chosen)}
        chosen = replace(chosen.resumed(), **{name: getattr(chosen, name) for name in names | {"resume"}})
    try:
        chosen.run()
    except KeyboardInterrupt as error:
        folder = chosen.run_dir if hasattr(chosen, "resume") else None
        if folder is None or not any(folder.rglob("last.safetensors")):
            raise
        return stopped(error, shlex.join(["fastnn", *command, "--run-dir", str(folder), "--resume"]))
    return 0


def evaluate(run: Path, /, data_dir: Path | None = None, device: Device = "cpu", recipe: str | None = None) -> None:
    """Measure the best model of a run on the test images: confusion matrix, accuracy of each class, confusions.

    A language model is measured on the texts that were held out, by loss and perplexity.

    Parameters
    ----------
    run : Path
        Folder of the run, such as runs/cnn-1.
    data_dir : Path
        Folder in which the data sets lie, if it is not the one that the run was begun with.
    device : {"cpu", "cuda"}
        Where to compute, whatever the model was trained on.
    recipe : str
        MODULE:CLASS or FILE.py:CLASS of a run of a recipe of your own; its code is imported.
    """
    measured = trained_of(run, recipe, ImageClassifier | TransformerLM, "a trained classifier or language model")
    measured.data_dir, measured.device = data_dir or measured.data_dir, device
    measured.evaluate()


def predict(run: Path, files: tuple[Path, ...], /, top: int = 3, recipe: str | None = None) -> None:
    """Name what image files show, by the best model of a run.

    A file may be a PNG, JPEG, GIF, BMP, TIFF or WebP, among others, of any size. It is brought to the size that the
    model was trained on; for a model of gray images it is made gray, and inverted where its background is light and
    those of the training images are dark. Files that cannot be read are passed over, and end the command with status 2.

    Parameters
    ----------
    run : Path
        Folder of the run, such as runs/cnn-1.
    files : tuple of Path
        Image files.
    top : int
        How many classes to print, the likeliest first.
    recipe : str
        MODULE:CLASS or FILE.py:CLASS of a run of a recipe of your own; its code is imported.
    """
    classifier_of(run, recipe).predict(files, top)


def generate(run: Path, /, prompt: str = "", length: int = 200, temperature: float = 0.9, top_k: int = 40,
             top_p: float = 1.0, seed: int = 0, device: Device = "cpu", recipe: str | None = None) -> None:
    """Go on with a text, by the best language model of a run; words are printed as they come.

    A prompt may be longer than the context of the model, which then sees the end of it.

    Parameters
    ----------
    run : Path
        Folder of the run, such as runs/transformer-lm-1.
    prompt : str
        The text that is gone on with; without one the model begins.
    length : int
        How many tokens are drawn, of which a word has one or some; the last word is finished.
    temperature : float
        Below 1 likely tokens become likelier, above 1 the others do; with 0 the likeliest is always taken.
    top_k : int
        Draw from so many likeliest tokens; 0 stands for all.
    top_p : float
        Draw from the fewest likeliest tokens that have this probability together, above 0 and up to 1.
    seed : int
        What is drawn from; the same one gives the same text.
    device : {"cpu", "cuda"}
        Where to compute, whatever the model was trained on.
    recipe : str
        MODULE:CLASS or FILE.py:CLASS of a run of a recipe of your own; its code is imported.
    """
    writer = trained_of(run, recipe, TransformerLM, "a language model")
    writer.device = device
    words = writer.generate(prompt, length, temperature=temperature, top_k=None if top_k == 0 else top_k, top_p=top_p,
                            seed=seed)
    print(prompt.rstrip() if prompt.strip() else "", end="", flush=True)
    for word in words:
        print(word, end="", flush=True)
    print()


def sample(run: Path, /, n: int = 64, seed: int = 0, output: Path | None = None, steps: int | None = None,
           classifier: Path | None = None, interpolate: bool = False, latent_map: bool = False,
           data_dir: Path | None = None, device: Device = "cpu", recipe: str | None = None) -> None:
    """Draw images by the best model of a run, and write them side by side to a PNG file.

    Parameters
    ----------
    run : Path
        Folder of the run, such as runs/ddpm-mnist-1.
    n : int
        How many.
    seed : int
        What they are drawn from: the i-th image depends on the seed and on i alone.
    output : Path
        The file; by default one in the run's folder that is named after what it shows.
    steps : int
        Of a diffusion model, the time steps that are visited; by default all. Some 50 are enough for images nearly as
        good.
    classifier : Path
        Of a diffusion model, the folder of a trained classifier, such as runs/cnn-mnist-1: a table says what it reads.
    interpolate : bool
        Of an autoencoder, instead of samples, what lies between pairs of test images: lines of eight.
    latent_map : bool
        Of an autoencoder with two latent variables, instead of samples, a map of them; n is a square number.
    data_dir : Path
        With --interpolate, the folder in which the data sets lie, if it is not the one that the run was begun with.
    device : {"cpu", "cuda"}
        Where to compute, whatever the model was trained on.
    recipe : str
        MODULE:CLASS or FILE.py:CLASS of a run of a recipe of your own; its code is imported.
    """
    found = recipes.load(run, None if recipe is None else recipe_called(recipe))
    if not isinstance(found, ImageGenerator):
        raise ValueError(f"{run}: expected the run of a recipe that trains a model which draws images, got one of "
                         f"{found.name}")
    options = {"steps": steps, "classifier": classifier, "interpolate": interpolate, "latent_map": latent_map}
    wanted: dict[str, Any] = {name: value for name, value in options.items()
                              if value is not None and value is not False}
    for name in wanted.keys() - inspect.signature(found.sample).parameters.keys():
        raise ValueError(f"{name}: expected none for a run of {found.name}, which has no such option; leave it out")
    if data_dir is not None and not interpolate:
        raise ValueError(f"data_dir: expected none without interpolate, which alone reads images, got {data_dir}")
    found.data_dir, found.device = data_dir or found.data_dir, device
    found.sample(n, seed=seed, output=output, **wanted)


def classifier_of(run: Path, recipe: str | None) -> ImageClassifier:
    """Return the recipe of a run that keeps a classifier; see `trained_of`."""
    return cast(ImageClassifier, trained_of(run, recipe, ImageClassifier, "a trained classifier"))


def trained_of(run: Path, recipe: str | None, kind: Any, what: str) -> Any:
    """Return the recipe of a run, of some kind that keeps a trained model; `recipe` names one of somebody's own.

    For a compression it is that of the run that was compressed, with the compressed model.
    """
    own = None if recipe is None else recipe_called(recipe)
    if read_config(run).get("recipe") == Compression.name:
        compression = recipes.load(run, Compression)
        recipes.load(compression.source, own)
        found = compression.compressed()
    else:
        found = recipes.load(run, own)
    if not isinstance(found, kind):
        raise ValueError(f"{run}: expected the run of a recipe that keeps {what}, got one of {found.name}"
                         + ("" if hasattr(found, "trained") else ", which keeps its figures alone"))
    return found
