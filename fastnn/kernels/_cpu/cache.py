"""Compiled code on the disk: a file for each function and combination of types, in a folder of the user's own.

A file holds its whole key, a checksum and machine code. What does not fit is as if it were not there: it is compiled
again and replaced. Whoever can write such a file can run code as the user, so a folder or file of another user, or one
that others may write to, is not read.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import logging
import os
import re
import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np

logger = logging.getLogger("fastnn")

SUFFIX = ".kernel"
_MOST = 1 << 30                             # bytes of all files; more only until the next process writes
_DAY = 24 * 3600
_UNUSED = 90 * _DAY                         # seconds after which a file that nobody reads goes
# Settings of Numba by which code does not change. One that is not known here does: that costs a compilation, no more.
_WITHOUT_EFFECT = re.compile(
    r"(ANNOTATE|CACHE|CHROME|COLOR|CUDA|DEBUG|DISABLE_CUDA|DISABLE_PERFORMANCE|DUMP|ENABLE_CUDASIM|FORCE_CUDA|"
    r"FULL_TRACEBACKS|FUNCTION_CACHE|GDB|HIGHLIGHT|HTML|NUMBA|PARALLEL_DIAGNOSTICS|SHOW_HELP|THREADING|TRACE)(_.*|$)")
_PACKAGE = "fastnn.kernels"


def cache_dir() -> Path | None:
    """Return the folder of compiled kernels: FASTNN_CACHE_DIR, else the user's cache folder, if it is known."""
    if folder := os.environ.get("FASTNN_CACHE_DIR"):
        return _absolute(folder)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    found = _absolute(base) if base else None
    return found and found / "fastnn" / "kernels"


def _absolute(folder: str) -> Path | None:
    if folder.startswith("~/") and os.environ.get("HOME") == "":     # which would make / of ~
        import pwd

        with suppress(KeyError):
            folder = pwd.getpwuid(os.getuid()).pw_dir + folder[1:]
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError:                    # no home folder
        return None


def folder() -> Path | None:
    """Return the folder, made for the user alone if it was missing, maybe read-only; None where none can be used."""
    return _place()[0]


def why_not() -> str:
    """Say why nothing can be kept; empty where something can."""
    place, why = _place()
    return why if place is None or os.access(place, os.W_OK) else f"{place} is not writable"


@functools.cache
def _place() -> tuple[Path | None, str]:
    found = cache_dir()
    if found is None:
        return None, "there is no home folder"
    with suppress(OSError):
        missing = [path for path in (found, *found.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
    try:
        status = found.stat()
    except OSError as error:
        return None, f"{found}: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return None, f"{found} is no folder"
    if why := _distrusted(status):
        logger.warning("%s: %s, so compiled kernels are neither read from it nor kept; set FASTNN_CACHE_DIR to a "
                       "folder of your own, which only you can write to", found, why)
        return None, f"{found}: {why}"
    return found, ""


def _distrusted(status: os.stat_result) -> str | None:
    """Say why what has this status may hold what others wrote."""
    if not hasattr(os, "getuid"):
        return None
    if status.st_uid != os.getuid():
        return "it belongs to another user"
    return "others may write to it" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


@functools.cache
def _environment() -> list[Any]:
    """Everything that code depends on beside its sources, its types and the processor."""
    settings = {name: repr(value) for name, value in vars(numba.config).items()
                if name.isupper() and not _WITHOUT_EFFECT.match(name)}
    return [sys.version, np.__version__, numba.__version__, llvmlite.__version__,
            llvmlite.binding.llvm_version_info, settings]


@functools.cache
def _imported(module: str) -> frozenset[str]:
    """Return the modules of kernels, and of what they are made of, that a module's source names."""
    source = getattr(sys.modules.get(module), "__file__", None)
    if source is None:
        return frozenset()
    names = set()
    for node in ast.walk(ast.parse(Path(source).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.startswith(f"{_PACKAGE}.") and name in sys.modules)


def used(module: str) -> set[str]:
    """Return a module and the modules of kernels that its source imports, near and far."""
    found, new = {module}, {module}
    while new:
        new = set().union(*map(_imported, new)) - found
        found |= new
    return found


@functools.cache
def _sources(module: str) -> str:
    """Return a digest of all that the code in a module may be made of."""
    digest = hashlib.sha256()
    for name in sorted(used(module)):
        if source := getattr(sys.modules.get(name), "__file__", None):
            digest.update(f"{name}\n".encode() + Path(source).read_bytes())
    return digest.hexdigest()


class Entry:
    """A file of the cache: where the code of a function is kept, or will be.

    Parameters
    ----------
    name : str
        Of the function; says which file it is to those who look into the folder.
    module : str
        Where the function stands.
    key : list
        What else its code depends on: types and the processor.
    """

    def __init__(self, name: str, module: str, key: list[Any]) -> None:
        self.key = json.dumps([name, _sources(module), key, _environment()])
        self.file = f"{name}-{hashlib.sha256(self.key.encode()).hexdigest()[:24]}{SUFFIX}"

    def is_there(self) -> bool:
        """Whether there is such a file, whatever is in it."""
        return (place := folder()) is not None and (place / self.file).is_file()

    def read(self) -> tuple[dict[str, Any], bytes] | None:
        """Return what was written, a description and code; None where there is nothing that fits."""
        if (place := folder()) is None:
            return None
        path = place / self.file
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if why := _distrusted(status):
                    logger.warning("%s: %s, so it is not read, and the kernel is compiled", path, why)
                    return None
                content = file.read()
            if time.time() - status.st_mtime > _DAY:
                with suppress(OSError):     # of a folder that is read-only
                    os.utime(path)          # it is in use
        except OSError:
            return None
        checksum, rest = content[:32], content[32:]
        if hashlib.sha256(rest).digest() != checksum:
            return None
        head, _, code = rest.partition(b"\n")
        description = json.loads(head)
        return (description, code) if description.pop("key") == self.key else None

    def write(self, description: dict[str, Any], code: bytes) -> None:
        """Keep code, if there is a place for it."""
        if (place := folder()) is None:
            return
        rest = json.dumps({**description, "key": self.key}).encode() + b"\n" + code
        with suppress(OSError):             # a full disk costs the next process a compilation, no more
            descriptor, part = tempfile.mkstemp(dir=place, suffix=".part")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(hashlib.sha256(rest).digest() + rest)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(part, place / self.file)
            except OSError:
                os.unlink(part)
        _clear_old()


def files() -> list[Path]:
    """Return the files of the cache, also those of other versions."""
    place = folder()
    return [] if place is None else [*place.glob(f"*{SUFFIX}"), *place.glob("*.part")]


@functools.cache
def _clear_old() -> None:
    """Delete what was not used for long, and what exceeds the cache's size; once in a process."""
    now, total = time.time(), 0
    found = []
    for path in files():
        with suppress(OSError):             # another process may have been faster
            status = path.stat()
            found.append((now - status.st_mtime, status.st_size, path))
    for age, size, path in sorted(found):
        total += size
        if age > (_DAY if path.suffix == ".part" else _UNUSED) or total > _MOST:
            with suppress(OSError):
                path.unlink()


def clear() -> tuple[int, int]:
    """Delete the files of the cache; return how many there were, and their bytes."""
    count = size = 0
    for path in files():
        with suppress(OSError):
            bytes_ = path.stat().st_size
            path.unlink()
            count, size = count + 1, size + bytes_
    return count, size
