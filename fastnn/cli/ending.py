"""How a command ends: its status, and what is said of an error."""

from __future__ import annotations

import sys
from contextlib import suppress


def stopped(error: KeyboardInterrupt, command: str | None = None) -> int:
    """Say that a signal ended the command, and with which one it goes on; return the process's status."""
    from fastnn.training import _interrupts

    with suppress(OSError):                 # the terminal may be gone
        print("\nfastnn: stopped" + (f"; to go on, run\n    {command}" if command else ""), file=sys.stderr)
    return _interrupts.status(error)


def is_users_mistake(error: Exception) -> bool:
    """Whether the error is one that says what was wrong with the input, a file or the disk."""
    if (isinstance(error, ValueError | OSError | MemoryError | OverflowError)
            or (isinstance(error, ModuleNotFoundError) and error.name is None)):
        return True
    from fastnn import training
    from fastnn._device import CudaUnavailableError

    return isinstance(error, training.CheckpointError | training.DivergedError | CudaUnavailableError)
