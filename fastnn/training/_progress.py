"""What a run prints: a bar over its steps, and a line an epoch."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from fastnn.training.metrics import Record, percent

# Seconds between two states of the bar in a log file, where each is a line of its own.
_LOG_INTERVAL = 10.0


class Progress:
    """A bar on stderr, where tqdm is installed, and lines on stdout; nothing where it is not shown."""

    def __init__(self, steps: int, done: int, epochs: int, shown: bool) -> None:
        self.epochs, self.shown = epochs, shown
        self._bar: Any = None
        if shown and done < steps:
            try:
                from tqdm.auto import tqdm
            except ModuleNotFoundError:
                return
            interval = 0.1 if sys.stderr.isatty() else _LOG_INTERVAL
            self._bar = tqdm(total=steps, initial=done, unit="step", mininterval=interval, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._print(self._bar.close)

    def epoch_begins(self, epoch: int) -> None:
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)

    def step_ends(self, loss: float | None) -> None:
        """Move the bar on; the loss is the last one that is known."""
        if self._bar is not None:
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._print(self._bar.update)

    def epoch_ends(self, record: Record, is_best: bool) -> None:
        width = len(str(self.epochs))
        parts = [f"epoch {record['epoch']:{width}}/{self.epochs}"]
        for name, prefix in (("train", "train"), ("validation", "val")):
            if record[f"{prefix}_loss"] is not None:
                share = record[f"{prefix}_accuracy"]
                parts.append(f"{name} loss {record[f'{prefix}_loss']:.4f}"
                             + (f", accuracy {percent(share)}" if share is not None else ""))
        parts.append(f"{record['seconds']:.1f} s")
        self.say("  ".join(parts) + ("  (best)" if is_best else ""))

    def say(self, line: str) -> None:
        if self._bar is not None:
            self._print(self._bar.write, line, file=sys.stdout)
        elif self.shown:
            self._print(print, line, flush=True)

    def _print(self, write: Callable[..., object], *args: Any, **options: Any) -> None:
        try:
            write(*args, **options)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # The terminal is gone. Where that shall end the run, a signal says so, which may come a moment later.
            if self._bar is not None:
                self._bar.disable = True
            self._bar, self.shown = None, False
