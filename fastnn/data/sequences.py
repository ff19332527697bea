"""Sequences of tokens: cut and put together from paragraphs, and given in batches of one length each."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastnn._checks import as_int
from fastnn.random import generator


def passages(paragraphs: Iterable[NDArray[Any]], length: int, *, begin: int, end: int) -> list[NDArray[np.int64]]:
    """Make sequences of paragraphs: short ones are put together, long ones are cut.

    A sequence that begins with a paragraph has the token `begin` before it; each paragraph has `end` behind it. One
    that does not fit is cut, and each part begins with the token that the last one ended with: so each token but
    `begin` is once that which follows others, which is what a language model learns to tell.

    Parameters
    ----------
    paragraphs : iterable of ndarray of integers, shape (T,)
        The tokens of each paragraph, in the order of the text.
    length : int
        The most tokens of a sequence, at least 2.
    begin, end : int
        The tokens at the beginning of a sequence, and after a paragraph.

    Returns
    -------
    list of ndarray of int64, shape (2 to length,)

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import data
    >>> paragraphs = [np.arange(10, 12), np.arange(20, 21), np.arange(30, 39)]
    >>> for passage in data.passages(paragraphs, 6, begin=2, end=3):
    ...     print(passage.tolist())
    [2, 10, 11, 3, 20, 3]
    [2, 30, 31, 32, 33, 34]
    [34, 35, 36, 37, 38, 3]
    """
    length = as_int("length", length, 2)
    done: list[NDArray[np.int64]] = []
    current: list[int] = []
    for paragraph in paragraphs:
        tokens = [*paragraph.tolist(), end]
        if current and len(current) + len(tokens) > length:
            done.append(np.array(current, np.int64))
            current = []
        current = [*(current or [begin]), *tokens]
        while len(current) > length:
            done.append(np.array(current[:length], np.int64))
            current = current[length - 1 :]
    if current:
        done.append(np.array(current, np.int64))
    return done


class SequenceLoader:
    """Batches of sequences of about one length, for a model that tells each token from those before it.

    Sequences are sorted by length, cut into batches, and padded to the longest of their batch; the order of the batches
    is drawn anew for each epoch, and which sequences of one length come together, too. The seed and the epoch alone
    decide it. A batch is a pair of arrays of int64 of shape (N, T): all tokens of the sequences but the last, and all
    but the first.

    Parameters
    ----------
    sequences : sequence of ndarray of integers, shape (2 or more,)
        The tokens of each.
    batch_size : int
        Sequences in a batch; one of an epoch may have fewer.
    padding : int, default 0
        The token that fills up the first array.
    ignore_index : int, default -100
        What fills up the second one: what `nn.CrossEntropyLoss` passes over.
    shuffle : bool, default True
        Draw an order for each epoch, or give the shortest first.
    seed : int, default 0
        What the orders are drawn from.

    Raises
    ------
    ValueError
        If there are no sequences, or one has fewer than 2 tokens, or `batch_size` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import data
    >>> sequences = [np.array([2, 8, 9, 3]), np.array([2, 3]), np.array([2, 7, 3])]
    >>> for tokens, targets in data.SequenceLoader(sequences, 2, shuffle=False):
    ...     print(tokens.tolist(), targets.tolist())
    [[2, 0], [2, 7]] [[3, -100], [7, 3]]
    [[2, 8, 9]] [[8, 9, 3]]
    """

    def __init__(self, sequences: Sequence[NDArray[Any]], batch_size: int, *, padding: int = 0,
                 ignore_index: int = -100, shuffle: bool = True, seed: int = 0) -> None:
        self.sequences = [np.asarray(sequence) for sequence in sequences]
        if not self.sequences:
            raise ValueError("sequences: expected at least one, got none")
        for sequence in self.sequences:
            if sequence.ndim != 1 or sequence.dtype.kind not in "iu" or len(sequence) < 2:
                raise ValueError("sequences: expected integers of shape (T,), two or more, got "
                                 f"{sequence.dtype} of shape {sequence.shape}")
        self.batch_size, self.seed = as_int("batch_size", batch_size, 1), as_int("seed", seed, 0)
        self.padding, self.ignore_index = as_int("padding", padding, 0), as_int("ignore_index", ignore_index)
        self.shuffle = shuffle
        self._lengths = np.array([len(sequence) for sequence in self.sequences])
        self._epochs = itertools.count()

    @property
    def tokens(self) -> int:
        """How many tokens of an epoch are to be told, padding left out."""
        return int((self._lengths - 1).sum())

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.sequences) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        return self.epoch(next(self._epochs))

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[tuple[NDArray[np.int64], NDArray[np.int64]],
                                                                  None, None]:
        """Return an iterator over the batches of an epoch, from 0; the first `start_step` of them are left out."""
        epoch, start_step = as_int("epoch", epoch, 0), as_int("start_step", start_step)
        if not 0 <= start_step <= len(self):
            raise ValueError(f"start_step: expected 0 to {len(self)}, the batches of an epoch, got {start_step}")
        return (self._batch(rows) for rows in self.order(epoch)[start_step:])

    def order(self, epoch: int) -> list[NDArray[np.intp]]:
        """Return the indices of the sequences of each batch of an epoch."""
        rng = generator(self.seed, "shuffle", epoch)
        drawn = rng.permutation(len(self.sequences)) if self.shuffle else np.arange(len(self.sequences))
        drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")]
        batches = [drawn[start : start + self.batch_size] for start in range(0, len(drawn), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))] if self.shuffle else batches

    def in_order(self) -> Self:
        """Return a loader of the same sequences that gives the shortest first."""
        loader = copy.copy(self)
        loader.shuffle = False
        loader._epochs = itertools.count()
        return loader

    def _batch(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shape = len(rows), int(self._lengths[rows].max()) - 1
        tokens, targets = np.full(shape, self.padding, np.int64), np.full(shape, self.ignore_index, np.int64)
        for i, row in enumerate(rows):
            sequence = self.sequences[row]
            tokens[i, : len(sequence) - 1], targets[i, : len(sequence) - 1] = sequence[:-1], sequence[1:]
        return tokens, targets
