"""Compiling ahead: what some code is going to launch, on all cores, before it runs."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import numpy as np

from fastnn.kernels._cpu import cache
from fastnn.kernels._cpu.compiler import Code, config, global_compiler_lock
from fastnn.kernels._cpu.launch import BlockKernel, Watcher, watched_by
from fastnn.kernels._cpu.threads import get_num_threads, loop

_MOST_LAUNCHES = 100_000                    # code that waits for other results than 0 does not wait for ever
_ahead: ContextVar[bool] = ContextVar("ahead", default=False)


@contextmanager
def launching_nothing(see: Watcher = lambda *launch: None) -> Iterator[None]:
    """Have compiled kernels give the number 1 instead of running, where shapes alone matter; `see` is told of each.

    Integers are 0, which are classes and indices. Means of losses are divided by numbers of samples, which are floats.
    """
    def fill(kernel: BlockKernel, blocks: int, threads: int, args: tuple[Any, ...]) -> bool:
        see(kernel, blocks, threads, args)
        for name, array in zip(kernel.parameters, args):
            if name in kernel.writes and array.flags.writeable:     # else it is a constant that stands for none
                array.fill(array.dtype.kind == "f")
        return True

    with watched_by(fill), np.errstate(all="ignore"):
        yield


class EnoughError(Exception):
    """Ends code that was called for its launches, when there are no others to come."""


def is_ahead() -> bool:
    """Whether this code is called for its launches alone."""
    return _ahead.get()


def compile_ahead(code: Callable[[], object], *, shown: bool, strict: bool = False) -> tuple[int, int]:
    """Compile what some code launches; return how many functions there are, and how many had to be compiled.

    The code is called, and does everything but run compiled kernels: their results are 1 instead. So it must work on
    copies of what it changes. Where it fails, what it launched until then is compiled: the reason is seen when it runs,
    or with `strict` at once. Code that itself compiles other code ahead becomes one with that.
    """
    if config.DISABLE_JIT or config.BOUNDSCHECK:
        return 0, 0
    if is_ahead():
        code()
        return 0, 0
    codes = {each.entry.file: each for each in ([loop()] if get_num_threads() > 1 else [])}
    left = itertools.repeat(None, _MOST_LAUNCHES)

    def see(kernel: BlockKernel, blocks: int, threads: int, args: tuple[Any, ...]) -> None:
        next(left)
        for each in kernel.compiled_for(args).codes:
            codes.setdefault(each.entry.file, each)

    token = _ahead.set(True)
    try:
        with launching_nothing(see), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code()
    except EnoughError:
        pass
    except Exception:
        if strict:
            raise
    finally:
        _ahead.reset(token)
    if missing := [each for each in codes.values() if not each.is_there()]:
        missing.sort(key=lambda each: each.from_python)     # what Python calls is short, and fills up the end
        # Where a process can be copied with all that it imported. (macOS can, but its own libraries fail then.)
        at_once = sys.platform == "linux" and cache.why_not() == ""
        done = _made_by_processes(missing, min(get_num_threads(), len(missing))) if at_once else _made(missing)
        for _ in _bar(done, len(missing), shown):
            pass
    return len(codes), len(missing)


def _bar(done: Iterator[object], count: int, shown: bool) -> Iterator[object]:
    if shown:
        with suppress(ModuleNotFoundError):
            from tqdm.auto import tqdm

            return tqdm(done, "compiling kernels", count, unit="kernel", mininterval=0.1 if sys.stderr.isatty() else 10,
                        dynamic_ncols=True)
    return done


def _made(codes: list[Code]) -> Iterator[object]:
    for code in codes:
        yield code.make()


def _made_by_processes(codes: list[Code], count: int) -> Iterator[object]:
    """Have the code compiled by processes that keep it on the disk; yield something for each.

    They take numbers out of one pipe and say through another what is done. A pipe that all have let go of is at its
    end, so nobody waits for a process that is no more: what that should have compiled, is compiled when it is needed.
    """
    numbers, done = os.pipe(), os.pipe()
    os.write(numbers[1], b"".join(number.to_bytes(2, "little") for number in range(len(codes))))
    os.close(numbers[1])
    processes = []
    try:
        for _ in range(count):
            with global_compiler_lock, warnings.catch_warnings():       # else another thread might hold it for ever
                warnings.simplefilter("ignore", DeprecationWarning)     # that other threads are not copied
                process = os.fork()
            if process == 0:
                try:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    while taken := os.read(numbers[0], 2):
                        codes[int.from_bytes(taken, "little")].make()
                        os.write(done[1], b".")
                finally:
                    os._exit(0)
            processes.append(process)
        os.close(done[1])
        while finished := os.read(done[0], 1):
            yield finished
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)                # it is at its end, or we were interrupted
            os.waitpid(process, 0)
        for end in (numbers[0], done[0]):
            os.close(end)
