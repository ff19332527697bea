"""Memory of dead arrays for new ones: a fresh page costs more than most kernels' work on it.

An array from `empty` stands over a raw buffer. All its views, and whatever else shares its memory, keep it alive; when
it dies, a callback hands the buffer back. That may happen on any thread and in the middle of any line, so nothing here
takes a lock: deques are safe alone, and the count of idle bytes, which is not, is made exact now and then.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections import deque
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray

_SMALLEST = 1 << 16                         # bytes from which on the pool is used
_ALIGNMENT = 64                             # a line of the cache, and the widest vector


def _default_limit() -> int:
    """An eighth of the machine's memory, or 1 GiB where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
    except (AttributeError, ValueError, OSError):
        return 1 << 30


class _Pool:
    """Idle buffers by size class, the class used last at the end of the order."""

    def __init__(self) -> None:
        self.limit = _default_limit()
        self.idle: dict[int, deque[Array]] = {}
        self.used: dict[int, int] = {}      # when each class was asked for last
        self.clock = itertools.count()
        self.bytes = 0                      # idle; about right
        self.leases: dict[int, tuple[Any, Array]] = {}

    def take(self, size: int) -> Array:
        self.used[size] = next(self.clock)
        try:
            raw = self.idle[size].pop()
        except (KeyError, IndexError):
            self.idle.setdefault(size, deque())
            self.bytes = sum(size * len(buffers) for size, buffers in list(self.idle.items()))
            raw = np.empty(size + _ALIGNMENT, np.uint8)
            first = -raw.ctypes.data % _ALIGNMENT
            return raw[first:first + size]
        self.bytes -= size
        return raw

    def give(self, raw: Array) -> None:
        size = raw.size
        if self.bytes + size > self.limit:
            self.shrink(self.limit - size)
        if self.bytes + size <= self.limit:
            self.bytes += size
            self.idle[size].append(raw)

    def shrink(self, limit: int) -> None:
        """Drop idle buffers until `limit` bytes are left, those first whose size was not asked for lately."""
        for size in sorted(list(self.used), key=self.used.__getitem__):
            buffers = self.idle.get(size, ())
            while self.bytes > limit and buffers:
                try:
                    buffers.pop()
                except IndexError:          # another thread took it
                    break
                self.bytes -= size


_pool = _Pool()


def _size_class(size: int) -> int:
    """The least of the classes 8, 9, ... 15 times a power of two that holds `size` bytes: at most 1/8 is wasted."""
    step = 1 << (size - 1).bit_length() - 4
    return -(-size // step) * step


def with_waste(size: int) -> int:
    """Return how many bytes an array of `size` takes at most."""
    return -(-size * 9 // 8)


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a new array, as numpy.empty does, over memory from the pool where it is large."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALLEST:
        return np.empty(shape, dtype)
    raw = _pool.take(_size_class(size))
    # Views refer to the array that owns their memory, past all between: over a memoryview, `base` is that one.
    base = np.frombuffer(raw.data, np.uint8)
    key = id(base)

    def give_back(_: Any, key: int = key, pool: _Pool = _pool) -> None:
        pool.give(pool.leases.pop(key)[1])

    _pool.leases[key] = weakref.ref(base, give_back), raw
    return base[:size].view(dtype).reshape(shape)


def clear_pool() -> None:
    """Give the memory that kernels keep for their next results back to the system; live arrays keep theirs.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.clear_pool()
    """
    _pool.shrink(0)


def set_pool_limit(size: int | None) -> None:
    """Bound the bytes that kernels keep idle for their next results; 0 keeps none, None is an eighth of the memory.

    Results of 64 kB and more are made over memory of earlier ones that are gone: what the system hands out afresh costs
    more time than most kernels take. Memory that a live array, view or buffer refers to is never handed out.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.set_pool_limit(100 << 20)
    >>> fastnn.set_pool_limit(None)
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0):
        raise ValueError(f"size: expected a number of bytes or None, got {size!r}")
    _pool.limit = _default_limit() if size is None else int(size)
    _pool.shrink(_pool.limit)
