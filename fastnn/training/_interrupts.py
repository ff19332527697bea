"""Signals that ask a run to end: Ctrl-C, and those that schedulers and closing terminals send."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_ONCE = 0.1     # seconds in which signals count as one: `timeout` and shells send theirs to a process and to its group


class Signalled(KeyboardInterrupt):
    """A signal asked this process to end; one that `KeyboardInterrupt` is caught for.

    Attributes
    ----------
    signal : int
        Its number.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message or signal.Signals(number).name)
        self.signal = number


def status(error: KeyboardInterrupt) -> int:
    """Return the exit status of a process that a signal ended, as shells have it."""
    return 128 + int(getattr(error, "signal", signal.SIGINT))


class Interrupts:
    """Inside the `with`, the first signal is noted in `requested`, the second one does what it did before.

    With `at_once` the first one raises `Signalled`, and does so again where C code passed over that. Off the main
    thread, where Python handles no signals, nothing changes, and a signal that is ignored, as SIGHUP is under nohup,
    stays so.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.requested = 0
        self._at_once, self._process = at_once, os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.getsignal(number)
                if previous not in (signal.SIG_IGN, None):      # None: a handler that Python did not install
                    self._previous[number] = previous
                    signal.signal(number, self._handle)
            if self._at_once and self._previous:
                self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def _swallowed(self, unraisable: Any) -> None:
        """Raise the signal again where C code passes over exceptions: LLVM's callbacks, finalizers."""
        if isinstance(unraisable.exc_value, Signalled) and self._previous:
            threading.Timer(_ONCE, self._again).start()
        else:
            self._hook(unraisable)

    def _again(self) -> None:
        if self._previous:
            number, self.requested = self.requested, 0
            signal.raise_signal(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:                        # a forked child, which has nothing to save
            self._deliver(number)
        elif not self.requested:
            self.requested, self._since = number, time.monotonic()
            if self._at_once:
                raise Signalled(number)
        elif time.monotonic() - self._since > _ONCE:
            self._deliver(number)

    def _deliver(self, number: int) -> None:
        self._restore()
        signal.raise_signal(number)

    def _restore(self) -> None:
        if self._at_once and self._previous:
            sys.unraisablehook = self._hook
        while self._previous:
            signal.signal(*self._previous.popitem())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._restore()
        if self._at_once and self.requested and isinstance(error, Exception):      # it left something half done
            raise Signalled(self.requested) from error
        if self.requested and error is None:                    # it came after the last look
            signal.raise_signal(self.requested)
