"""The command `fastnn`: what its command line says, and how it ends.

A mistake of the user ends in a sentence on stderr and status 2. With ``python -X dev -m fastnn``, Python's development
mode, it ends in a traceback.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, suppress
from typing import Any

import fastnn

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
            setattr(sys, name, open(os.devnull, "w"))       # noqa: SIM115
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
        if sys.flags.dev_mode or not _is_users_mistake(error):
            raise
        notes = getattr(error, "__notes__", ())     # where it was: the layer of the model, say
        print("; ".join([f"fastnn: {error}", *notes]), file=sys.stderr)
        status = 2
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:                     # what is left in the buffer would be an error again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def stopped(error: KeyboardInterrupt, command: str | None = None) -> int:
    """Say that a signal ended the command, and with which one it goes on; return the process's status."""
    from fastnn.training import _interrupts

    with suppress(OSError):                 # the terminal may be gone
        print("\nfastnn: stopped" + (f"; to go on, run\n    {command}" if command else ""), file=sys.stderr)
    return _interrupts.status(error)


def _is_users_mistake(error: Exception) -> bool:
    """Whether the error is one that says what was wrong with the input, a file or the disk."""
    if (isinstance(error, ValueError | OSError | MemoryError | OverflowError)
            or (isinstance(error, ModuleNotFoundError) and error.name is None)):
        return True
    from fastnn import training
    from fastnn._device import CudaUnavailableError

    return isinstance(error, training.CheckpointError | training.DivergedError | CudaUnavailableError)


def _run(arguments: Sequence[str]) -> int:
    if arguments == ["--version"]:
        print(f"fastnn {fastnn.__version__}")
        return 0
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"the commands need {', '.join(missing)}: run pip install \"fastnn-kernels[train]\"")
    import tyro

    from fastnn.cli.doctor import doctor
    from fastnn.cli.gradients import gradcheck
    from fastnn.cli.kernels import bench, warmup
    from fastnn.cli.results import results
    from fastnn.cli.runs import evaluate, list_recipes, predict, train_with
    from fastnn.cli.sweep import sweep_with

    app = tyro.extras.SubcommandApp()
    app.command(name="list")(_deferred(list_recipes))
    for command in (train_with(arguments[1:]), sweep_with(arguments[1:]), evaluate, predict, results, bench, gradcheck,
                    warmup, doctor):
        app.command(_deferred(command))
    call = parsed(functools.partial(app.cli, prog="fastnn", description=_DESCRIPTION), arguments or ["--help"])
    return call() or 0


def _deferred(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the same arguments that returns the call instead of making it."""
    @functools.wraps(command)
    def defer(*args: Any, **options: Any) -> Any:
        return functools.partial(command, *args, **options)

    return defer


def parsed(cli: Callable[..., Any], arguments: Sequence[str]) -> Any:
    """Return what tyro makes of the arguments; its page about what is wrong with them becomes a sentence."""
    import tyro

    page = io.StringIO()
    try:
        with redirect_stderr(page):
            return cli(args=arguments, config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff,
                                               tyro.conf.DisallowNone))
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_sentence(page.getvalue())) from None


def _sentence(page: str) -> str:
    """The paragraphs of a framed page, without what is indented twice or explains an option."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯").rstrip() for line in page.splitlines()[1:-1]]
    kept = (line.strip() for line in lines if not line.startswith(" " * 9) and line.strip() != "[...]")
    paragraphs = (text.strip() for text in re.split("─+|-{9,}", " ".join(kept)))
    sentence = "; ".join(text for text in paragraphs if text and
                         not text.startswith(("Argument helptext", "For full helptext")))
    # Of a word that is not known, what follows it and options like those are no mistakes.
    sentence = re.sub(r"(Unrecognized) or misplaced (options: \S+) \(applied.*?(; |$)", r"\1 \2\3", sentence)
    if match := re.match(r"Unrecognized options: ([^-\s]\S*?)(?:,.*?)?; Available subcommands: ([^;]*)", sentence):
        return match[0] + meant(match[1], match[2].split(", "))
    if match := re.search(r"invalid choice '(.*?)' .*Expected one of \((.*?)\)", sentence):
        return sentence.removesuffix(".") + meant(match[1], re.findall("'(.*?)'", match[2]))
    return sentence


def meant(word: str, names: Iterable[str]) -> str:
    """What an error adds that says that a word is none of these names: the one that is most like it."""
    close = difflib.get_close_matches(word.lower(), names, 1)
    return f"; did you mean {close[0]}?" if close else ""
