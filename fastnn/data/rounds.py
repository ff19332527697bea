"""Epochs of another length."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from fastnn._checks import as_int


class Rounds:
    """A loader whose epochs are rounds of so many batches: it goes through the epochs of another one, one by one.

    For experiments that count updates rather than passes through the data, with a validation every so many.

    Parameters
    ----------
    loader : DataLoader, SequenceLoader or another loader
        Where the batches come from, in its order.
    batches : int
        How many batches a round has.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import data
    >>> rounds = data.Rounds(data.DataLoader((np.arange(6),), 2, shuffle=False), 2)
    >>> [[x.tolist() for x, in rounds.epoch(i)] for i in range(2)]
    [[[0, 1], [2, 3]], [[4, 5], [0, 1]]]
    """

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.batches = loader, as_int("batches", batches, 1)

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Any, None, None]:
        """Return an iterator over the batches of a round, from 0; the first `start_step` of them are left out."""
        step, end = epoch * self.batches + start_step, (epoch + 1) * self.batches
        while step < end:
            whole, place = divmod(step, len(self.loader))
            with closing(self.loader.epoch(whole, place)) as batches:
                for batch in batches:
                    yield batch
                    step += 1
                    if step == end:
                        break
