"""Which implementation of a kernel runs: the naive one or the compiled one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

TARGETS = ("naive", "cpu")

_target: ContextVar[str] = ContextVar("target", default="cpu")
_modules: dict[tuple[str, str], ModuleType] = {}


def _checked(target: str) -> str:
    if target == "cuda":
        raise ValueError("target 'cuda': this version of fastnn has no CUDA kernels; use 'cpu' or 'naive'")
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {TARGETS}, got {target!r}")
    return target


@contextmanager
def use_target(target: str) -> Iterator[None]:
    """Run every kernel inside on `target`, "naive" or "cpu", unless its call names another.

    It holds for the current thread and for what fastnn hands on to its own threads, and so turns whole models.

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


def implementation(family: str, target: str | None) -> ModuleType:
    """Return the module that implements the kernels of `family` (a package's name) on `target`."""
    target = _target.get() if target is None else _checked(target)
    module = _modules.get((family, target))
    if module is None:
        module = _modules[family, target] = importlib.import_module(f"{family}.{target}")
    return module
