"""What every recipe is, and how its runs lie in folders."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

import llvmlite.binding

from fastnn import _device, kernels
from fastnn._checks import as_int
from fastnn._files import as_path, read_json
from fastnn.nn import Module
from fastnn.recipes.space import Space
from fastnn.training._interrupts import Interrupts
from fastnn.training.checkpoint import CheckpointError, read_metadata, replace_file
from fastnn.training.run_folder import CONFIG, LAST, check_free, hold
from fastnn.training.tracking import tracker

RUNS = Path("runs")
RESULTS = "results.json"

Device: TypeAlias = Literal["cpu", "cuda"]


@dataclass
class Recipe(ABC):
    """An experiment that one command runs; its fields are the options of ``fastnn train NAME``.

    A subclass gives its name, the data it needs and about how long it takes, adds the options that it obeys
    (`resume` among them where a run can be taken up again), and does the `experiment`. Folders may be given as text.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipe = recipes.RECIPES["cnn"](epochs=3, seed=1)
    >>> recipe.name, recipe.epochs
    ('cnn', 3)
    """

    name: ClassVar[str]
    needs: ClassVar[str]
    takes: ClassVar[str]
    headline: ClassVar[tuple[str, ...]] = ("test accuracy",)
    """Those of the final figures that say how good the result is, where no option decides what they are called."""
    reported: ClassVar[str] = "-"
    """What others got with the same system."""
    least_epochs: ClassVar[int] = 1
    """The fewest epochs that the option of that name may say, where there is one."""
    changeable: ClassVar[tuple[str, ...]] = ("run_dir", "data_dir", "resume", "epochs", "track", "device")
    """Options that do not decide the results of the steps that were made: a resumed run may change them."""
    varying: ClassVar[tuple[str, ...]] = ()
    """Options in which the best checkpoint may differ from the run's."""
    space: ClassVar[Space] = {}
    """What ``fastnn sweep NAME`` searches, by the names of fields: a `Range`, or a tuple of choices."""

    _held = cast(ExitStack | None, None)    # what is let go at the end of `run`: the lock of the run's folder

    seed: int = 0
    """What everything random is drawn from: initial weights, the order of the images, augmentation."""

    run_dir: Path | None = None
    """Folder of the run; by default runs/NAME-N with the first number N that is free."""

    data_dir: Path | None = None
    """Folder in which the data sets lie (mnist/, fashion-mnist/, cifar-10/, cifar-100/); by default the one that the
    environment variable FASTNN_DATA names. Without either, what is needed is downloaded."""

    device: Device = "cpu"
    """Where arrays lie and are computed on: the processor, or an NVIDIA GPU, which needs the extra [cuda12] or
    [cuda13]."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_path = name in ("run_dir", "data_dir", "init_from") and value is not None
        super().__setattr__(name, as_path(name, value) if is_path else value)

    def run(self) -> None:
        """Do the experiment, and note in the run folder how long it took on which machine.

        SIGTERM and SIGHUP end it as Ctrl-C does, with a checkpoint where there are steps.
        """
        begin = time.perf_counter()
        resumed = self.resumes
        with Interrupts(at_once=True), ExitStack() as self._held:
            self._held.callback(setattr, self, "_held", None)   # what opens the folder later lets go of it by itself
            self.experiment()
            if self.run_dir is None or not (self.run_dir / RESULTS).is_file():
                raise FileNotFoundError(f"experiment: expected that of {self.name} to leave a {RESULTS} in its run "
                                        "folder, as write_report does, but there is none")
            results = read_json(self.run_dir / RESULTS, "the results of a run")
            # Of a run in several parts, this one has seen the last alone.
            results |= {"command": self.command(), "machine": machine(self.device), "headline": self.headlines(),
                        "minutes": None if resumed else (time.perf_counter() - begin) / 60}
            replace_file(self.run_dir / RESULTS, (json.dumps(results, indent=2) + "\n").encode())

    @abstractmethod
    def experiment(self) -> None:
        """Do the experiment, print what it finds, and leave it in the run folder."""

    def headlines(self) -> tuple[str, ...]:
        """Return those of the final figures that say how good the result is, with these options."""
        return self.headline

    def command(self) -> str:
        """Return the command line that does the experiment again."""
        options = {name: value for name, value in self.changed().items() if name != "data_dir"}
        options = {name: from_here(value) for name, value in options.items()}
        return shlex.join(["fastnn", "train", called(type(self)), *arguments(options)])

    def changed(self) -> dict[str, Any]:
        """Return the options that are not the default, but for those of a single run."""
        return {option.name: getattr(self, option.name) for option in fields(self)
                if option.name not in ("run_dir", "resume", "track") and getattr(self, option.name) != option.default}

    def check_saved(self, path: Path) -> Any:
        """Raise a ValueError where a checkpoint was written with other options than config.json says; return its own.

        That is seen before the model is made, which has no other size than its weights.
        """
        saved = read_metadata(path).get("config")
        if not isinstance(saved, dict):
            raise CheckpointError(f"{path}: expected a checkpoint of a run, with its configuration, got one without")
        for name, value in json.loads(json.dumps(self.config())).items():
            if name in saved and name not in (*self.changeable, *self.varying) and value != saved[name]:
                raise ValueError(f"{path.with_name(CONFIG)}: expected {name} {saved[name]!r:.100}, with which "
                                 f"{path.name} was written, got {value!r:.100}; mend it, or take the run from its copy")
        return saved

    @property
    def resumes(self) -> bool:
        """Whether the run goes on from what lies in its folder."""
        return getattr(self, "resume", False)

    def config(self) -> dict[str, Any]:
        """Return what config.json holds of the recipe, and `load` reads."""
        options = {name: _as_text(value) for name, value in asdict(self).items() if name not in ("run_dir", "resume")}
        own = {"class": called(type(self))} if called(type(self)) != self.name else {}
        return {"recipe": self.name, **own, **options}

    def check(self) -> None:
        """Raise an error where an option cannot be obeyed, before anything is written; find the run to resume."""
        if Path(self.name).name != self.name:
            raise ValueError(f"name: expected one that a folder can have, got {self.name!r}")
        for name, least in (("seed", 0), ("epochs", self.least_epochs), ("batch_size", 1)):
            if hasattr(self, name):
                setattr(self, name, as_int(name, getattr(self, name), least))
        self.check_device()
        self.check_data_dir()
        if (init_from := getattr(self, "init_from", None)) is not None:
            self.init_from = init_from.absolute()       # the run may be resumed from elsewhere
        if self.resumes:
            saved = self.resumed()
            self.run_dir = saved.run_dir
            for field in fields(self):
                ours, theirs = getattr(self, field.name), getattr(saved, field.name)
                if ours != theirs and field.name not in self.changeable:
                    raise ValueError(f"{field.name}: expected {_shown(theirs)}, with which the run in {saved.run_dir} "
                                     f"was begun, got {_shown(ours)}; leave it out, or begin a new run")
        if self.run_dir is not None:
            check_free(self.run_dir)
            self._check_new(self.run_dir)
            if self.resumes and (self.run_dir / LAST).exists():
                self.check_saved(self.run_dir / LAST)
        if track := getattr(self, "track", None):
            tracker(track)                              # says what is not installed
        _check_can_be_made(self.run_dir or RUNS)

    def _check_new(self, folder: Path) -> None:
        if not self.resumes and (folder / CONFIG).exists():
            raise FileExistsError(f"run_dir: {folder} holds a run already; give another folder, or resume that run")

    def placed(self, array: Any) -> Any:
        """Return an array where the recipe computes."""
        return _device.DEVICES[self.device](array)

    def check_device(self) -> None:
        """Raise an error where there is no such device."""
        if self.device not in get_args(Device):
            raise ValueError(f"device: expected one of {', '.join(get_args(Device))}, got {self.device!r}")
        if self.device == "cuda":
            _device.require()

    def check_data_dir(self) -> None:
        """Raise an error where data_dir is no folder; make it absolute, since the run may be resumed from elsewhere."""
        if self.data_dir is not None:
            if not self.data_dir.expanduser().is_dir():
                raise FileNotFoundError(f"data_dir: expected a folder, but there is none at {self.data_dir}; give the "
                                        "folder in which the data sets lie, or leave it out")
            self.data_dir = self.data_dir.expanduser().absolute()

    def resumed(self) -> Recipe:
        """Return the recipe as the run that it resumes was begun: that in run_dir, else the newest under runs/."""
        run_dir = self.run_dir
        if run_dir is None:
            taken = [number for number in numbers(self.name) if (RUNS / f"{self.name}-{number}" / CONFIG).exists()]
            if not taken:                   # others were stopped before they trained
                raise FileNotFoundError(f"resume: expected a run of {self.name} under {RUNS.absolute()}, but there is "
                                        "none; give its folder as run_dir, or begin one without resume")
            run_dir = RUNS / f"{self.name}-{max(taken)}"
        if run_dir.is_dir() and not (run_dir / CONFIG).exists():
            raise FileNotFoundError(f"resume: expected a run in {run_dir}, but nothing was trained there yet; begin "
                                    "one there without resume")
        return cast(Recipe, load(run_dir, type(self)))

    def open_run_dir(self) -> Path:
        """Make the run's folder where it is not there yet, keep others out until the end of `run`, and return it."""
        folder = self.run_dir or RUNS / f"{self.name}-{max(numbers(self.name), default=0) + 1}"
        try:
            folder.mkdir(parents=True, exist_ok=self.run_dir is not None)
        except OSError as error:
            if self.run_dir is None and folder.is_dir():               # another process was faster
                return self.open_run_dir()
            raise OSError(f"run_dir: the folder {folder} cannot be made ({error.strerror}); give another") from error
        if self._held is not None:
            self._held.enter_context(hold(folder))
            self._check_new(folder)         # another process may have begun and ended one since the first look
        self.run_dir = folder
        return folder

    def announce(self, model: Module, data: str) -> None:
        """Print which model is trained on what, and where."""
        parameters = sum(parameter.data.size for parameter in model.parameters())
        print(f"{self.name}: {type(model).__name__} with {parameters:,} parameters, on {data}")
        print(f"run folder: {self.run_dir}", flush=True)

    def write_config(self, **more: Any) -> None:
        """Write config.json to the run's folder, unless it says the same already."""
        assert self.run_dir is not None
        path, contents = self.run_dir / CONFIG, (json.dumps({**self.config(), **more}, indent=2) + "\n").encode()
        if not path.exists() or path.read_bytes() != contents:        # a resumed run may have another number of epochs
            replace_file(path, contents)


def _shown(value: Any) -> Any:
    """Return an option as it is written in a message."""
    return (" ".join(map(str, value)) or "none") if isinstance(value, tuple) else value


def _check_can_be_made(folder: Path) -> None:
    """Raise OSError where a folder is none, or cannot be made where it would lie."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        why = "is no folder" if not os.path.isdir(place) else "may not be written to"
        raise OSError(f"run_dir: the folder {folder} cannot be made ({place} {why}); give another")


def check_above_0(name: str, *values: float) -> None:
    """Raise ValueError unless the values are finite numbers above 0."""
    for value in values:
        if not (isinstance(value, Real) and 0 < value < math.inf):
            raise ValueError(f"{name}: expected a number above 0, got {value!r}")


def check_at_least_0(name: str, value: float) -> None:
    """Raise ValueError unless the value is a finite number, 0 or above."""
    if not (isinstance(value, Real) and 0 <= value < math.inf):
        raise ValueError(f"{name}: expected at least 0, got {value!r}")


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as they are written on the command line."""
    words: list[str] = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def from_here(value: Any) -> Any:
    """Return a path, or several, as a command line says it: from the current folder, where it lies in that."""
    if isinstance(value, tuple):
        return tuple(map(from_here, value))
    return value.relative_to(Path.cwd()) if isinstance(value, Path) and value.is_relative_to(Path.cwd()) else value


def _as_text(value: Any) -> Any:
    """Return a path, or several, as text, and what is none as it is."""
    if isinstance(value, tuple):
        return tuple(map(_as_text, value))
    return os.fspath(value) if isinstance(value, Path) else value


def numbers(name: str) -> list[int]:
    """Return the numbers of the folders NAME-N under runs/."""
    names = (re.fullmatch(rf"{re.escape(name)}-(\d+)", folder.name) for folder in RUNS.glob("*") if folder.is_dir())
    return [int(match[1]) for match in names if match]


RECIPES: dict[str, type[Recipe]] = {}          # by name; the package, which imports them all, fills it


def machine(device: Device = "cpu") -> str:
    """Return what runs are timed on."""
    host = f"{llvmlite.binding.get_host_cpu_name()}, {kernels.get_num_threads()} threads"
    return f"{_device.gpu()}; {host}" if device == "cuda" else host


def called(recipe: type[Recipe]) -> str:
    """Return what the command line calls a recipe: its name, or MODULE:CLASS or FILE.py:CLASS for a class of your own.

    FILE.py is for a class of a script, or of another module that is in no package.
    """
    if RECIPES.get(recipe.name) is recipe:
        return recipe.name
    module = sys.modules.get(recipe.__module__)
    return f"{_place(module) if module else recipe.__module__}:{recipe.__qualname__}"


def _place(module: Any) -> str:
    names = getattr(module, "__dict__", {})
    if names.get("__file__") and not names.get("__package__"):
        return os.path.abspath(names["__file__"])
    return str(names["__spec__"].name if names.get("__spec__") else names.get("__name__"))


def _imported(place: str, name: str) -> type[Recipe] | None:
    """Return the recipe's class, where its module is imported."""
    for module in [module for module in list(sys.modules.values()) if _place(module) == place]:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        if isinstance(found, type) and issubclass(found, Recipe):
            return found
    return None


class NotImportedError(ValueError):
    """A run is of a recipe of somebody's own, whose code is not imported."""


def load(run_dir: str | os.PathLike[str], recipe: type[Recipe] | None = None) -> Any:
    """Return the recipe of a run, with the options that it was begun with.

    Parameters
    ----------
    run_dir : str or path-like
        The run's folder.
    recipe : type, optional
        The recipe's class; needed for a class of your own whose module is not imported. That a run names some code is
        no reason to import it.

    Raises
    ------
    FileNotFoundError
        If there is no run in the folder.
    ValueError
        If its config.json is damaged, or of another recipe, or of one that is neither of this version of fastnn nor
        imported.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.load("no-such-folder")
    Traceback (most recent call last):
    FileNotFoundError: no-such-folder: expected the folder of a run, but there is no config.json in it
    """

    if recipe is not None and not (isinstance(recipe, type) and issubclass(recipe, Recipe)):
        raise TypeError(f"recipe: expected the class of a recipe, got {recipe!r:.100}")
    config, path = read_config(run_dir), Path(run_dir, CONFIG)
    try:
        name, own = config["recipe"], config.get("class")
        if recipe is None:
            recipe = _imported(*own.rpartition(":")[::2]) if own else RECIPES[name]
        elif name != recipe.name or (name in RECIPES and own is None) != (RECIPES.get(name) is recipe):
            raise ValueError(f"run_dir: expected a run of {called(recipe)}, but {run_dir} holds one of {own or name}")
        if recipe is None:
            raise NotImportedError(f"{run_dir}: expected a run of one of fastnn's recipes, got one of {own}, whose "
                                   f"code is not imported unasked; if you trust it, add --recipe "
                                   f"{shlex.quote(str(own))}, or in Python give load the class")
        options = {field.name: config[field.name] for field in fields(recipe) if field.name in config}
        check_types(recipe, options, path)
        hints = get_type_hints(recipe)
        return recipe(**{name: _restored(value, hints[name]) for name, value in options.items()},
                      run_dir=Path(run_dir))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected what a run of one of {', '.join(RECIPES)} wrote, got "
                         f"{config!r:.200}") from error


def check_types(recipe: type, options: Mapping[str, Any], path: Path) -> None:
    """Raise a ValueError where an option from a file is not of the type that the recipe's field has."""
    hints = get_type_hints(recipe)
    for name, value in options.items():
        if not _is(value, hints[name]):
            raise ValueError(f"{path}: expected {_said(hints[name])} as {name}, got {value!r:.100}")


def _is(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of the type that a field's annotation names."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if kind in (Union, UnionType):
        return any(_is(value, choice) for choice in inner)
    if kind is tuple:
        return isinstance(value, list) and all(_is(item, inner[0]) for item in value)
    return type(value) in {float: (float, int), Path: (str,)}.get(hint, (hint,))


def _restored(value: Any, hint: Any) -> Any:
    """A value from JSON as it was before."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return next(_restored(value, choice) for choice in inner if _is(value, choice))
    if kind is tuple:
        return tuple(_restored(item, inner[0]) for item in value)
    return Path(value) if hint is Path else value


def _said(hint: Any) -> str:
    """A type in words."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if kind in (Union, UnionType):
        return " or ".join(map(_said, inner))
    if kind is tuple:
        return f"a list of {_said(inner[0])}"
    return {type(None): "null", Path: "a path"}.get(hint, getattr(hint, "__name__", str(hint)))


def read_config(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what config.json says of a run."""
    path = as_path("run_dir", run_dir) / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{os.fspath(run_dir)}: expected the folder of a run, but there is no {CONFIG} in it")
    return read_json(path, "the configuration of a run")
