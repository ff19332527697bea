"""Arrays that kernels write: new ones, beside their inputs, and `out`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastnn import _device
from fastnn._checks import FLOATS, Array, check_shape, check_side, rows_in_place
from fastnn.kernels._memory import SMALLEST, empty

EMPTY = {dtype: np.empty(0, dtype) for dtype in (*FLOATS, np.dtype(np.int64))}   # stands for an absent array


def contiguous(array: Array) -> Array:
    """Return an array, of the host or a GPU, that is C-contiguous."""
    return np.ascontiguousarray(array) if type(array) is np.ndarray else _device.xp.ascontiguousarray(array)


class Result(NamedTuple):
    """An array that a kernel makes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    new: Callable[[], Array]                # makes one of no certain values
    rows: bool = False                      # whether `out` is written as it lies if it is one of `rows_in_place`


def result_of(shape: tuple[int, ...], dtype: Any, x: Array) -> Result:
    """Return how to make arrays of this shape where x lies: on the host or the GPU."""
    dtype = np.dtype(dtype)
    if type(x) is not np.ndarray:
        make = _device.xp.empty
    else:
        make = np.empty if math.prod(shape) * dtype.itemsize < SMALLEST else empty
    return Result(shape, dtype, functools.partial(make, shape, dtype))


def empty_beside(x: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a new array of no certain values where x lies: on the host or the GPU."""
    return empty(shape, dtype) if type(x) is np.ndarray else _device.xp.empty(shape, dtype)


def output(out: Array | None, shape: tuple[int, ...], dtype: Any, x: Array, rows: bool = False) -> Array:
    """Return the C-contiguous array that a kernel writes: a new one, `out`, or one that `deliver` copies to `out`.

    With `rows` it may be an `out` of another layout; see `rows_in_place`. It lies where x does. That `out` may be
    written was checked before (`check_written`).
    """
    if out is None:
        return empty_beside(x, shape, dtype)
    if not (isinstance(out, np.ndarray) or _device.is_device(out)):
        raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
    check_side("out", out, "x", x)
    if out.dtype != dtype:
        raise TypeError(f"out: expected {np.dtype(dtype)}, got {out.dtype}")
    check_shape("out", out, shape)
    if isinstance(out, np.ndarray) and not _device.is_device(out):
        out = np.asarray(out)               # a matrix, say, would stay two-dimensional where it is made flat
        in_place = (out.flags.c_contiguous and out.flags.aligned) or (rows and rows_in_place(out))
        return out if in_place else empty(shape, dtype)
    return out if out.flags.c_contiguous else empty_beside(x, shape, dtype)


def deliver(result: Array, out: Array | None) -> Array:
    """Return `result`, copied to `out` where that could not be written directly."""
    if out is None or out is result:
        return result
    out[...] = result
    return out


def shaped(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array without memory, which tells a planner the shape and dtype of one that will be."""
    return np.broadcast_to(np.empty((), dtype), shape)
