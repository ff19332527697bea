"""Every random draw of fastnn: a counter-based generator keyed by what the draw is for.

A checkpoint needs to store no state of it. The generator of a draw is built from numbers that are known at that time
(seed, purpose, epoch, step), so a run that resumes at step 1,000 draws what the uninterrupted run drew there, on any
number of threads.

The generator is Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
keyed through NumPy's SeedSequence.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return the random generator of one draw.

    Parameters
    ----------
    seed : int
        The seed of the run, not negative.
    purpose : str
        What the draw is for, such as "shuffle". Draws for different purposes are independent.
    *counters : int
        Which draw it is (epoch, step, number of the mask), none negative.

    Examples
    --------
    >>> from fastnn import random
    >>> a = random.generator(0, "shuffle", 3).permutation(5)
    >>> b = random.generator(0, "shuffle", 3).permutation(5)
    >>> (a == b).all()
    np.True_
    """
    key = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])
    return np.random.Generator(np.random.Philox(key))


class _Construction:
    """The seed of a model under construction, and how many layers have drawn from it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.layers = itertools.count()


class _Step:
    """The counters of a training step, and how many masks were drawn in it."""

    def __init__(self, counters: tuple[int, ...]) -> None:
        self.counters = counters
        self.draws = itertools.count()      # its next is atomic, so that threads that share a step draw different masks


_outside = _Construction(0)
_construction: ContextVar[_Construction | None] = ContextVar("construction", default=None)
_step: ContextVar[_Step | None] = ContextVar("step", default=None)
_noted: ContextVar[list[tuple[int, ...]] | None] = ContextVar("noted", default=None)
_repeated: ContextVar[Iterator[tuple[int, ...]] | None] = ContextVar("repeated", default=None)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let the layers that are built inside draw their initial weights from `seed`.

    Examples
    --------
    >>> from fastnn import nn, random
    >>> with random.seeded(1):
    ...     first = nn.Linear(3, 2)
    >>> with random.seeded(1):
    ...     second = nn.Linear(3, 2)
    >>> (first.weight.data == second.weight.data).all()
    np.True_
    """
    token = _construction.set(_Construction(seed))
    try:
        yield
    finally:
        _construction.reset(token)


def next_layer() -> tuple[int, int]:
    """Return (seed, number of this layer) for a layer that is being built."""
    construction = _construction.get() or _outside
    return construction.seed, next(construction.layers)


@contextmanager
def at_step(*counters: int) -> Iterator[None]:
    """Tell the layers which training step runs, as (seed, epoch, step): dropout draws its masks from it.

    Inside, masks are numbered from 0 in the order in which they are drawn. So the same forward pass in another
    `at_step` with the same numbers draws the same masks, for any model of that shape; a resumed run and a gradient
    check need this. A layer that is used twice inside one `at_step` draws two masks.
    """
    token = _step.set(_Step(counters))
    try:
        yield
    finally:
        _step.reset(token)


def next_draw(outside: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Return the counters of the enclosing `at_step` and the number of this draw in it, or what `outside` returns."""
    repeated, step = _repeated.get(), _step.get()
    if repeated is not None:
        draw = next(repeated)
    else:
        draw = outside() if step is None else (*step.counters, next(step.draws))
    if (noted := _noted.get()) is not None:
        noted.append(draw)
    return draw


@contextmanager
def noted() -> Iterator[list[tuple[int, ...]]]:
    """Note what `next_draw` returns inside, for `repeated`."""
    draws: list[tuple[int, ...]] = []
    token = _noted.set(draws)
    try:
        yield draws
    finally:
        _noted.reset(token)


@contextmanager
def repeated(draws: list[tuple[int, ...]]) -> Iterator[None]:
    """Let `next_draw` return once more, in their order, what it returned before."""
    token = _repeated.set(iter(draws))
    try:
        yield
    finally:
        _repeated.reset(token)
