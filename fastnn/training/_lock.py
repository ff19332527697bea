"""Locks on open files; they end with the process that holds them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(1 << 30)                  # who does not hold a locked byte cannot read it: one behind all contents
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

# What a lock that another process holds is reported as; anything else says that this file system has no locks.
_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def grasp(file: IO[bytes]) -> bool | None:
    """Lock a file until it is closed; return whether it is ours, or None where the file system has no locks."""
    try:
        _lock(file)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def locked(path: Path) -> tuple[IO[bytes], bool | None]:
    """Open a file, made where it is not there, and lock it; return it and what `grasp` says."""
    while True:
        file = open(path, "a+b")            # noqa: SIM115 (it is returned)
        try:
            grasped = grasp(file)
            # Whoever held it removes it at the end: then it has gone, or is another file.
            if not grasped or os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, grasped
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()
