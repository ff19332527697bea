"""The folder of a run, in which one process writes at a time."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastnn.training._lock import locked
from fastnn.training.checkpoint import CheckpointError, unwritable

LOCK = ".lock"

_held: dict[Path, RunLock] = {}
_guard = threading.Lock()
_fork_handler = False


class RunLock:
    """The lock of a folder: a file in it, which says who holds it and is gone afterwards.

    The system lifts it when this process ends, however that happens. A child has no part in it, be it forked or begun.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.thread, self.depth = folder, threading.get_ident(), 0
        self._process, self._identity = os.getpid(), os.stat(folder)
        self._take()

    def _take(self) -> None:
        path = self.folder / LOCK
        try:
            self._file, grasped = locked(path)
        except OSError as error:
            raise unwritable(path, error) from error
        if grasped is False:
            with self._file:
                self._file.seek(0)
                raise _in_use(self.folder, self._file.read(1000).decode(errors="replace").strip() or "another process")
        if grasped is None:
            warnings.warn(f"{self.folder}: its file system has no locks, so that nothing keeps a second process from "
                          "writing to the same run", stacklevel=2)
        command = " ".join(shlex.join(sys.orig_argv).split())
        with suppress(OSError):             # a full disk is no reason not to hold it
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}: "
                             f"{command:.300}\n".encode())
            self._file.flush()

    def check(self) -> None:
        """Raise CheckpointError unless the folder is the one that was locked, and nobody else has taken it."""
        try:
            there = os.path.samestat(os.stat(self.folder), self._identity)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError:                     # what is wrong with the disk is said by who writes
            return
        if not there:
            raise CheckpointError(f"{self.folder}: the folder in which this run writes is no longer there: it was "
                                  "moved, removed or replaced. Where it was moved, resume the run in its new place; "
                                  "what was removed is lost: begin a new run")
        if not self._is_ours():             # the file alone was removed
            self._file.close()
            self._take()

    def release(self) -> None:
        if os.getpid() != self._process:
            return
        with suppress(OSError):
            if self._is_ours():
                (self.folder / LOCK).unlink()
        self.close()
        if sys.platform == "win32":         # which removes no open file
            with suppress(OSError):
                (self.folder / LOCK).unlink()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()

    def _is_ours(self) -> bool:
        try:
            return not self._file.closed and os.path.samestat(os.stat(self.folder / LOCK),
                                                              os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False


@contextmanager
def hold(folder: Path) -> Iterator[RunLock]:
    """Keep everybody else from writing in a folder that is there; a thread may hold it several times over.

    Raises
    ------
    CheckpointError
        If another process or thread holds it; the message says who.
    """
    global _fork_handler
    if not _fork_handler and hasattr(os, "register_at_fork"):
        _fork_handler = True
        os.register_at_fork(after_in_child=_after_fork)
    key = folder.resolve()
    with _guard:
        lock = _held.get(key)
        if lock is None:
            lock = _held[key] = RunLock(folder)
        elif lock.thread != threading.get_ident():
            raise _in_use(folder, "another thread of this process")
        lock.depth += 1
    try:
        yield lock
    finally:
        with _guard:
            lock.depth -= 1
            if not lock.depth:
                _held.pop(key, None)
                lock.release()


def check_free(folder: Path) -> None:
    """Raise CheckpointError where another process or thread writes in a folder; see `hold`."""
    if (folder / LOCK).exists():            # else nobody does
        with hold(folder):
            pass


def _in_use(folder: Path, who: str) -> CheckpointError:
    return CheckpointError(f"{folder}: another run writes in this folder: {who}. Wait for its end or stop it, or give "
                           "another run_dir")


def _after_fork() -> None:
    """Let go of what the parent holds: its locks live as long as any process has the files open."""
    global _guard
    _guard = threading.Lock()
    for lock in _held.values():
        lock.close()
    _held.clear()
