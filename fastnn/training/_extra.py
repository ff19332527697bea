"""Packages of the extras, imported where they are first needed."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, purpose: str, extra: str = "train") -> Any:
    """Return an optional module, or raise a ModuleNotFoundError that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{purpose} needs {module.partition('.')[0]}: run pip install \"fastnn-kernels[{extra}]\""
        ) from error
