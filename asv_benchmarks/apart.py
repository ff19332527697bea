"""A candidate's call in a process of its own, with its library's own defaults: threads, and how they wait for work.

Threads of some libraries spin for a while after a call, in the way of whoever is timed next in the same process.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

PAUSE = 0.1                                 # seconds: until the threads of the one before sleep, too
SAMPLE = 0.02                               # seconds that a sample takes at least, after a call that wakes its threads


class Apart:
    """One of a case's calls, by its name; `make`, which makes the case, and its arguments are pickled."""

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        with _own_defaults():
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            self._pool.submit(_make, make, name).result()

    def __call__(self) -> Any:
        """Return the call's result, or the first of several, as an array."""
        return self._pool.submit(_result).result()

    def timed(self, number: int) -> float:
        """Return the seconds of a call, over `number` calls or more."""
        time.sleep(PAUSE)
        return self._pool.submit(_timed, number).result()

    def close(self) -> None:
        self._pool.shutdown()


@contextmanager
def _own_defaults() -> Iterator[None]:
    policy = os.environ.pop("OMP_WAIT_POLICY", None)
    try:
        yield
    finally:
        if policy is not None:
            os.environ["OMP_WAIT_POLICY"] = policy


# --- in the process ---

_call: Callable[[], Any]


def _make(make: Callable[[], Any], name: str) -> None:
    global _call
    import rows

    rows.load_peers()
    if rows.torch is not None:
        rows.torch.set_grad_enabled(False)
    case = make()
    _call = case.ours if name == "fastnn" else case.peers[name]


def _result() -> Any:
    import numpy as np

    found = _call()
    return np.asarray(found[0] if isinstance(found, tuple) else found)


def _timed(number: int) -> float:
    begin = time.perf_counter()
    _call()
    once = time.perf_counter() - begin
    number = max(number, math.ceil(SAMPLE / once))
    begin = time.perf_counter()
    for _ in range(number):
        _call()
    return (time.perf_counter() - begin) / number
