"""The folder of a run: what lies in it, and who may write there, which is one process at a time."""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastnn._extras import require
from fastnn.training import plots
from fastnn.training._lock import locked
from fastnn.training._parts import Parts
from fastnn.training._state import State
from fastnn.training.checkpoint import CheckpointError, load, replace_file, save, unwritable
from fastnn.training.metrics import METRICS, History, Record

LAST, BEST, CONFIG, LOCK = "last.safetensors", "best.safetensors", "config.json", ".lock"


class RunFolder:
    """What a trainer writes to the folder of its run, held meanwhile; nothing where there is to be none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock: RunLock | None = None

    @contextmanager
    def held(self, resume: bool) -> Iterator[None]:
        """Keep everybody else from writing in the folder, which is made for a new run."""
        if self.path is None:
            yield
            return
        for module in ("safetensors", "matplotlib"):
            require(module, "saving a run")
        if not resume:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(self.path, error) from error
        elif not self.path.is_dir():
            load(self.path / LAST)          # says that there is none
        try:
            with hold(self.path) as self._lock:
                yield
        finally:
            self._lock = None

    def goes_on(self, resume: bool) -> bool:
        """Whether there is a checkpoint to go on from; raise FileExistsError where one is not to be gone on from.

        A run that could not save its first checkpoint, for a full disk say, has nothing to go on from but its start.
        """
        if self.path is None:
            return False
        saved = (self.path / LAST).exists()
        if saved and not resume:
            raise FileExistsError(f"{self.path}: holds a run already; go on with it (resume=True), or give another "
                                  "run_dir")
        return resume and (saved or bool(History.read(self.path)) or not (self.path / CONFIG).exists())

    def load(self, parts: Parts, identity: Mapping[str, Any]) -> State:
        """Take up the last checkpoint of a run that is known by the same, and return where it stands."""
        assert self.path is not None
        path = self.path / LAST
        tensors, metadata = load(path)
        if "state" not in metadata:
            raise CheckpointError(f"{path}: expected a checkpoint of a run, got a file that holds only tensors")
        for name, ours in identity.items():
            if metadata.get(name) != ours:
                raise CheckpointError(f"{path}: expected a run with {name} {ours!r}, as this one has, got one with "
                                      f"{metadata.get(name)!r}; resume it with what it was started with")
        try:
            state = State.read(metadata["state"], identity["steps_per_epoch"])
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged: of where the run stands, {error}") from error
        parts.load(path, tensors, metadata)
        return state

    def begin(self, config: Mapping[str, Any], records: Sequence[Record]) -> None:
        """Write what the run is, and its epochs so far; further lines belong to epochs that will be run again."""
        if self.path is not None:
            replace_file(self.path / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
            self._write_metrics(self.path, records)

    def append(self, record: Record, before: Sequence[Record]) -> None:
        """Write the record of an epoch behind those before it."""
        if self.path is None:
            return
        self._check()
        path, line = self.path / METRICS, _line(record).encode()
        if not path.exists():               # someone removed it
            self._write_metrics(self.path, before)
        try:
            with open(path, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    if file.write(line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise unwritable(path, error) from error

    def save(self, name: str, parts: Parts, metadata: Mapping[str, Any]) -> Path:
        """Write a checkpoint, for the best epoch of the weights alone, and return where."""
        assert self.path is not None
        self._check()
        save(self.path / name, parts.tensors(weights_alone=name == BEST), {**metadata, "options": parts.options()})
        return self.path / name

    def draw(self, history: History) -> None:
        """Draw the curves of a run with an epoch in it."""
        if self.path is not None and history:
            replace_file(self.path / "curves.png", plots.png(plots.curves(history)))

    def _check(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def _write_metrics(self, path: Path, records: Sequence[Record]) -> None:
        replace_file(path / METRICS, "".join(map(_line, records)).encode())


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


# --- who may write ---

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
