"""What the course's functions share: NumPy's promotion of dtypes, entries of dicts, the course's names in errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastnn._checks import FLOATS, Array, as_array

Cache = tuple[Any, ...]


def promoted(**values: Any) -> list[Array]:
    """Return the named arrays in one dtype, the one that NumPy gives an expression of them; integers become float64."""
    arrays = [as_array(name, value) for name, value in values.items()]
    for name, array in zip(values, arrays):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    dtype = np.result_type(*[array.dtype for array in arrays])
    if dtype not in FLOATS:
        dtype = np.dtype(np.float32 if dtype == np.float16 else np.float64)
    return [array.astype(dtype, copy=False) for array in arrays]


def entry(name: str, params: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return an entry of the dict called `name`; without a default it must be there."""
    if not isinstance(params, Mapping):
        raise TypeError(f"{name}: expected a dict, got {type(params).__name__}")
    if default is not None:
        return params.get(key, default)
    if key not in params:
        raise ValueError(f"{name}: expected the key {key!r}, got {list(params)}")
    return params[key]


def in_training(name: str, params: Mapping[str, Any]) -> bool:
    """Return whether the mode of a layer is 'train', and not 'test'."""
    mode = entry(name, params, "mode")
    if mode not in ("train", "test"):
        raise ValueError(f"{name}['mode']: expected 'train' or 'test', got {mode!r}")
    return bool(mode == "train")


@contextmanager
def course_names(**names: str) -> Iterator[None]:
    """Let the errors of kernels inside call an argument what the course calls it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        argument, colon, sentence = str(error).partition(":")
        if argument not in names:
            raise
        raise type(error)(names[argument] + colon + sentence) from None
