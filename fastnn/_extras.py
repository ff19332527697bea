"""The extras: the command that installs one, and the import of its packages where they are first needed."""

from __future__ import annotations

import importlib
from typing import Any


def install(extra: str) -> str:
    """Return what to run for an extra.

    Examples
    --------
    >>> from fastnn._extras import install
    >>> print(install("train"))
    pip install "fastnn-kernels[train]" (in a clone: pip install -e ".[train]")
    """
    return f'pip install "fastnn-kernels[{extra}]" (in a clone: pip install -e ".[{extra}]")'


def require(module: str, purpose: str, extra: str = "train") -> Any:
    """Return an optional module, or raise a ModuleNotFoundError that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{purpose} needs {module.partition('.')[0]}: run {install(extra)}") from error
