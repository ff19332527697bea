"""Which implementation of a kernel runs: the naive one, or the one compiled for the CPU or for CUDA."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

from fastnn import _device

TARGETS = ("naive", "cpu", "cuda")

_target: ContextVar[str | None] = ContextVar("target", default=None)
current_target = _target.get                # found faster so
_modules: dict[tuple[str, str], ModuleType] = {}


def _checked(target: str) -> str:
    if not isinstance(target, str) or target not in TARGETS:
        raise ValueError(f"target: expected one of {TARGETS}, got {target!r}")
    if target == "cuda":
        _device.require()
    return target


@contextmanager
def use_target(target: str) -> Iterator[None]:
    """Run every kernel inside on `target`, "naive", "cpu" or "cuda", unless its call names another.

    Without it, and without the argument, arrays on the host run on "cpu" and arrays on a GPU on "cuda". A target moves
    no data: one that does not fit the arrays is an error. It holds for the current thread and for what fastnn hands on
    to its own threads, so it switches whole models.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn
    >>> with fastnn.use_target("naive"):
    ...     fastnn.relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    token = _target.set(_checked(target))
    try:
        yield
    finally:
        _target.reset(token)


def implementation(family: str, target: str | None, x: Any) -> ModuleType:
    """Return the module that implements the kernels of `family` (a package's name) on `target`, for arrays like x."""
    target = _target.get() if target is None else _checked(target)
    if type(x) is np.ndarray or not _device.is_device(x):
        if target == "cuda":
            raise TypeError("target 'cuda': expected arrays on a GPU, got NumPy arrays; move them with "
                            "fastnn.to_device")
        target = target or "cpu"
    elif target in ("naive", "cpu"):
        raise TypeError(f"target {target!r}: expected NumPy arrays, got arrays on a GPU; move them with "
                        "fastnn.to_host")
    else:
        target = "cuda"
    module = _modules.get((family, target))
    if module is None:
        module = _modules[family, target] = importlib.import_module(f"{family}.{target}")
    return module
