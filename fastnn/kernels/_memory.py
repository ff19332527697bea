"""Memory of dead arrays for new ones: a fresh page costs more than most kernels' work on it.

An array from `empty` stands over a block of a slab. All its views, and whatever else shares its memory, keep it alive;
when it dies, a callback hands the block back, which joins its idle neighbours. A request takes the smallest idle block
that holds it and leaves the rest; where there is none, a new slab is made. Idle slabs are given up so that all together
stay within an eighth above the most that was ever in use at once.

An array may die on any thread and in the middle of any line, this file's too, so nobody waits here for anyone: what
comes back is put down in a deque, and whoever finds another call inside takes memory from NumPy.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from bisect import bisect_left
from collections import deque
from typing import Any

import numpy as np

from fastnn._checks import Array

SMALLEST = 1 << 17                         # bytes from which on the pool is used: below, malloc keeps pages too
_ALIGNMENT = 64                             # a line of the cache, and the widest vector
_MOST = 16                                  # an array keeps a slab of at most so many times its size from the system


def _default_limit() -> int:
    """An eighth of the machine's memory, or 1 GiB where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
    except (AttributeError, ValueError, OSError):
        return 1 << 30


class _Block:
    """A part of a slab, in use or idle, between its neighbours."""

    __slots__ = ("begin", "idle", "left", "right", "size", "slab", "used")

    def __init__(self, slab: memoryview, begin: int, size: int, left: _Block | None, right: _Block | None) -> None:
        self.slab, self.begin, self.size = slab, begin, size
        self.left, self.right = left, right
        self.idle = False
        self.used = 0                       # when it came back last


class _Pool:
    def __init__(self) -> None:
        self.limit = _default_limit()
        self.lock = threading.Lock()        # of the six below
        self.idle: list[_Block] = []        # by size, of equal ones the last that came back first
        self.sizes: list[int] = []          # theirs
        self.idle_bytes = 0
        self.live_bytes = 0
        self.most_live = 0                  # bytes that were ever in use at once
        self.clock = 0
        self.returned: deque[_Block] = deque()
        self.leases: dict[int, tuple[Any, _Block]] = {}

    def take(self, size: int) -> _Block | None:
        """Return a block of this size; None while another call is inside."""
        if not self.lock.acquire(False):
            return None
        try:
            if self.returned:
                self._collect()
            live = self.live_bytes + size
            self.most_live = max(self.most_live, live)
            for at in range(bisect_left(self.sizes, size), len(self.sizes)):
                block = self.idle[at]
                if block.slab.nbytes <= _MOST * size:
                    self._remove(at)
                    if block.size > size:
                        self._split(block, size)
                    break
            else:
                self._drop(self.most_live + self.most_live // 8 - live)
                raw = np.empty(size + _ALIGNMENT, np.uint8)
                first = -raw.ctypes.data % _ALIGNMENT
                block = _Block(raw[first : first + size].data, 0, size, None, None)
            self.live_bytes = live
            return block
        finally:
            self.lock.release()

    def give(self, block: _Block) -> None:
        self.returned.append(block)
        if self.lock.acquire(False):
            try:
                self._collect()
                self._drop(self.limit)
            finally:
                self.lock.release()

    def shrink(self, limit: int) -> None:
        """Drop idle slabs until `limit` bytes are left, those first that were not used lately."""
        if self.lock.acquire(timeout=1):    # what dies in here might call this
            try:
                self._collect()
                self._drop(limit)
            finally:
                self.lock.release()

    def _collect(self) -> None:
        """Make idle what has come back."""
        while self.returned:
            block = self.returned.popleft()
            self.live_bytes -= block.size
            left, right = block.left, block.right
            if left is not None and left.idle:
                self._remove(self._place(left))
                block.begin, block.size, block.left = left.begin, block.size + left.size, left.left
                if block.left is not None:
                    block.left.right = block
            if right is not None and right.idle:
                self._remove(self._place(right))
                block.size, block.right = block.size + right.size, right.right
                if block.right is not None:
                    block.right.left = block
            self.clock += 1
            block.used = self.clock
            self._insert(block)

    def _split(self, block: _Block, size: int) -> None:
        """Cut a block to a size, and make idle what is left."""
        rest = _Block(block.slab, block.begin + size, block.size - size, block, block.right)
        if rest.right is not None:
            rest.right.left = rest
        block.size, block.right = size, rest
        self._insert(rest)

    def _place(self, block: _Block) -> int:
        return self.idle.index(block, bisect_left(self.sizes, block.size))

    def _insert(self, block: _Block) -> None:
        at = bisect_left(self.sizes, block.size)
        self.sizes.insert(at, block.size)
        self.idle.insert(at, block)
        self.idle_bytes += block.size
        block.idle = True

    def _remove(self, at: int) -> None:
        block = self.idle.pop(at)
        self.idle_bytes -= self.sizes.pop(at)
        block.idle = False

    def _drop(self, limit: int) -> None:
        if self.idle_bytes > limit:
            whole = [block for block in self.idle if block.size == block.slab.nbytes]
            for block in sorted(whole, key=lambda block: block.used):
                self._remove(self._place(block))
                if self.idle_bytes <= limit:
                    break


_pool = _Pool()


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a new array, as numpy.empty does, over memory from the pool where it is large."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    block = None if size < SMALLEST else _pool.take(-(-size // _ALIGNMENT) * _ALIGNMENT)
    if block is None:
        return np.empty(shape, dtype)
    # Views refer to the array that owns their memory, past all between: over a memoryview, `base` is that one.
    base = np.frombuffer(block.slab, dtype, size // dtype.itemsize, block.begin)
    key = id(base)

    def give_back(_: Any, key: int = key, pool: _Pool = _pool) -> None:
        pool.give(pool.leases.pop(key)[1])

    _pool.leases[key] = weakref.ref(base, give_back), block
    return base.reshape(shape)


def start_anew() -> None:
    """Forget all that is idle: in a forked child, another thread may have been inside when it was forked."""
    global _pool
    limit, _pool = _pool.limit, _Pool()
    _pool.limit = limit


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

    Results of 128 kB and more reuse the memory of earlier results that no longer exist, because fresh memory from the
    system costs more time than most kernels take. Memory that a live array, view or buffer refers to is never handed
    out.

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
