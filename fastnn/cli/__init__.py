"""The command `fastnn`: what its command line says, and how it ends.

A mistake of the user ends in a sentence on stderr and status 2. With ``python -X dev -m fastnn``, Python's development
mode, it ends in a traceback.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fastnn
from fastnn._extras import install
from fastnn._files import one_line
from fastnn.cli.ending import is_users_mistake, stopped

_DESCRIPTION = f"""\
Neural networks on NumPy arrays at the speed of the machine (version {fastnn.__version__}).

"fastnn train cnn" trains a small network, in seconds, on images that lie in the package. "fastnn COMMAND --help" says
more about a command, and "fastnn --version" prints the version."""

_NEEDED = {"tyro": "tyro", "tqdm": "tqdm", "matplotlib": "matplotlib", "PIL": "pillow", "safetensors": "safetensors",
           "pooch": "pooch"}


def main() -> None:
    """Run the command line that the process was started with, and end the process with the command's status."""
    # This process is ours. Where others use the cores too, OpenMP threads that spin while they wait make each kernel
    # wait for the scheduler, and training several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["COLUMNS"] = str(max(40, shutil.get_terminal_size().columns))    # tyro never ends where there are 5
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:          # closed: the first file that is opened would take its place
            setattr(sys, name, open(os.devnull, "w"))       # noqa: SIM115 (open to the end)
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")   # names that the terminal's encoding lacks
    try:
        status = _run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        status = stopped(error)
    except BrokenPipeError:                 # the reader has seen enough, as `head` does
        status = 1
    except Exception as error:
        if sys.flags.dev_mode or not is_users_mistake(error):
            raise
        notes = getattr(error, "__notes__", ())     # where it was: the layer of the model, say
        print(one_line("; ".join([f"fastnn: {error}", *notes])), file=sys.stderr)
        status = 2
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:                     # what is left in the buffer would be an error again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def _run(arguments: Sequence[str]) -> int:
    if arguments == ["--version"]:
        print(f"fastnn {fastnn.__version__}")
        return 0
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"the commands need {', '.join(missing)}: run {install('train')}")
    import tyro

    from fastnn.cli.doctor import doctor
    from fastnn.cli.gradients import gradcheck
    from fastnn.cli.kernels import bench, cache, warmup
    from fastnn.cli.parsing import parsed
    from fastnn.cli.results import results
    from fastnn.cli.runs import (
        compress_with,
        evaluate,
        generate,
        list_recipes,
        named_recipes,
        predict,
        sample,
        train_with,
    )
    from fastnn.cli.summary import summary
    from fastnn.cli.sweep import sweep_with
    from fastnn.recipes import Compression

    name, *words = arguments or ["--help"]
    recipes = named_recipes({"train": words[:1], "sweep": words}.get(name, []))
    commands: dict[str, Any] = {command.__name__: command for command in (
        train_with(words, recipes), sweep_with(words, recipes), evaluate, predict, generate, sample,
        compress_with(words), summary, results, bench, gradcheck, warmup, cache, doctor)}
    commands = {"list": list_recipes, **commands}
    app = tyro.extras.SubcommandApp()
    for called, command in commands.items():
        app.command(name=called)(_deferred(command))
    levels = [commands, recipes] if name in ("train", "sweep") else [{**commands, "compress": Compression}]
    call = parsed(functools.partial(app.cli, prog="fastnn", description=_DESCRIPTION), [name, *words], levels)
    return call() or 0


def _deferred(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the same arguments that returns the call instead of making it."""
    @functools.wraps(command)
    def defer(*args: Any, **options: Any) -> Any:
        return functools.partial(command, *args, **options)

    return defer
