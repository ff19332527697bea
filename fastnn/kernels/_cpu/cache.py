"""Compiled code on the disk, in a folder for each state of the sources and of what compiles them."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import caching
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps


def cache_dir() -> Path | None:
    """Return the folder of compiled kernels: FASTNN_CACHE_DIR, else the user's cache folder, if it is known."""
    if folder := os.environ.get("FASTNN_CACHE_DIR"):
        return Path(folder)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "fastnn" / "kernels" if base else None
    except RuntimeError:                    # no home folder
        return None


_KERNELS = Path(__file__).parents[1]


@functools.cache
def _stamp() -> str:
    """Everything that compiled code depends on beside its own signature and the processor."""
    digest = hashlib.sha256()
    for source in sorted(_KERNELS.rglob("*.py")):
        digest.update(source.read_bytes())
    for part in (numba.__version__, np.__version__, sys.version, os.environ.get("NUMBA_BOUNDSCHECK", "")):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


class DiskCache(caching._Cache):
    """Numba's cache protocol over one file a function and signature.

    Numba's own cache misses changes of helpers in other files, ignores NUMBA_BOUNDSCHECK, and lets processes
    that compile different signatures at once overwrite each other's files.
    """

    def __init__(self, name: str, key: tuple) -> None:
        self.name = name
        self.key = key                      # types that the function's own signature does not show

    @staticmethod
    @functools.cache
    def folder() -> Path | None:
        """The folder of this version's files, made if need be; None where there can be none. It may be read-only."""
        base = cache_dir()
        if base is None:
            return None
        folder = base / _stamp()
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return folder if folder.is_dir() else None
        except OSError:                     # a folder above may not be entered
            return None

    def path(self, sig: Any, target_context: Any) -> Path | None:
        folder = self.folder()
        key = repr((self.key, sig, target_context.codegen().magic_tuple()))
        return folder and folder / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"

    @property
    def cache_path(self) -> str:
        return str(self.folder())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        path = self.path(sig, target_context)
        try:
            # Our own file in the user's own folder: the code in it is as trusted as the package itself.
            return path and CompileResult._rebuild(target_context, *pickle.loads(path.read_bytes()))  # noqa: S301
        except Exception:                   # missing, or damaged in any way: compile again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self.path(sig, data.target_context)
        if path is None:
            return
        with suppress(OSError):             # a full disk costs the next process a compilation, no more
            descriptor, temporary = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(dumps(data._reduce()))
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)

    def enable(self) -> None:
        """Part of Numba's protocol; this cache is always on."""

    def disable(self) -> None:
        """Part of Numba's protocol; this cache is always on."""

    def flush(self) -> None:
        """Part of Numba's protocol; files are written at once."""
