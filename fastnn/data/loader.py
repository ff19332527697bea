"""Batches of arrays, epoch by epoch."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastnn._checks import as_int
from fastnn.data.datasets import Split
from fastnn.data.transforms import Transform, at
from fastnn.random import generator

Batch: TypeAlias = tuple[NDArray[Any], ...]

_BATCHES_AHEAD = 2


class DataLoader:
    """Batches of arrays of equal length, in an order that only the seed and the epoch decide.

    Iterating goes through epoch 0 the first time, epoch 1 the next, and so on; `epoch` names the
    epoch and may start within it. Batches are copies: writing to one changes nothing else.

    Parameters
    ----------
    arrays : Split or sequence of ndarray
        What to cut into batches along the first axis: the images and labels of a split, or any
        arrays of equal length. A batch is a tuple of as many arrays.
    batch_size : int
        Samples in a batch; the last of an epoch may have fewer.
    shuffle : bool, default True
        Draw a new order for each epoch, or keep the order of the arrays.
    seed : int, default 0
        What the orders and the random transforms are drawn from.
    drop_last : bool, default False
        Leave out the last batch of an epoch where it has fewer than `batch_size` samples.
    transform : callable, optional
        Called as ``transform(batch_array, rng)`` on the first array of each batch, with a generator
        of that epoch and step; see `fastnn.data.transforms`.
    batch_transform : callable, optional
        Called afterwards as ``batch_transform(batch, rng)`` on the whole batch, a tuple of arrays, with
        another generator; it returns a tuple, such as `MixUp` does.
    prefetch : bool, default True
        Prepare the next two batches on a background thread. The batches are the same either way.

    Raises
    ------
    TypeError
        Where `arrays` holds anything but NumPy arrays.
    ValueError
        Where there are no samples, the arrays differ in length, `batch_size` is below 1, or
        `drop_last` would leave no batch.

    Examples
    --------
    >>> from fastnn import data
    >>> loader = data.DataLoader(data.digits().train, 500, seed=1)
    >>> len(loader)
    3
    >>> [len(labels) for images, labels in loader]
    [500, 500, 437]
    """

    def __init__(
        self,
        arrays: Split | Sequence[NDArray[Any]],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        transform: Transform | None = None,
        batch_transform: Callable[[Batch, np.random.Generator], Batch] | None = None,
        prefetch: bool = True,
    ) -> None:
        kind, expected = type(arrays).__name__, "arrays: expected a Split or a tuple of NumPy arrays, got"
        if isinstance(arrays, np.ndarray) or not isinstance(arrays, Split | Iterable):
            raise TypeError(f"{expected} {kind}")
        self.arrays: Batch = (arrays.images, arrays.labels) if isinstance(arrays, Split) else tuple(arrays)
        if not all(isinstance(array, np.ndarray) for array in self.arrays):
            raise TypeError(f"{expected} {kind} of {', '.join(type(array).__name__ for array in self.arrays[:3])}")
        shapes = [array.shape for array in self.arrays]
        if not shapes or not all(shape[:1] == shapes[0][:1] for shape in shapes) or not shapes[0] or not shapes[0][0]:
            raise ValueError(f"arrays: expected one length along the first axis, at least 1, got shapes {shapes}")
        batch_size = as_int("batch_size", batch_size, 1)
        if transform is not None and not callable(transform):
            raise TypeError("transform: expected a function of images and a random generator, or None, got "
                            f"{transform!r:.100}")
        if batch_transform is not None and not callable(batch_transform):
            raise TypeError("batch_transform: expected a function of a batch and a random generator, or None, got "
                            f"{batch_transform!r:.100}")
        if drop_last and batch_size > shapes[0][0]:
            raise ValueError(
                f"batch_size: expected at most the {shapes[0][0]} samples with drop_last, got {batch_size}: "
                "every batch would be dropped"
            )
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = as_int("seed", seed, 0)
        self.drop_last = drop_last
        self.transform = transform
        self.batch_transform = batch_transform
        self.prefetch = prefetch
        self._epochs = itertools.count()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        samples = len(self.arrays[0])
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(next(self._epochs))

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        """Return an iterator over the batches of an epoch.

        Closing or dropping it ends its background thread.

        Parameters
        ----------
        epoch : int
            Which epoch, from 0.
        start_step : int, default 0
            The number of batches to skip; the others are the same as in the whole epoch.

        Raises
        ------
        ValueError
            Where `epoch` is negative or `start_step` is not from 0 to the number of batches.

        Examples
        --------
        >>> from fastnn import data
        >>> loader = data.DataLoader(data.digits().train, 500, seed=1)
        >>> whole, resumed = list(loader.epoch(3)), list(loader.epoch(3, start_step=2))
        >>> (whole[2][0] == resumed[0][0]).all()
        np.True_
        """
        epoch, start_step = as_int("epoch", epoch, 0), as_int("start_step", start_step)
        if not 0 <= start_step <= len(self):
            raise ValueError(f"start_step: expected 0 to {len(self)}, the batches of an epoch, got {start_step}")
        order = self.order(epoch)
        tasks = (partial(self._batch, order, epoch, step) for step in range(start_step, len(self)))
        return _prefetched(tasks) if self.prefetch else (task() for task in tasks)

    def order(self, epoch: int) -> NDArray[np.intp]:
        """Return the indices of the samples of an epoch, in the order in which they come.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import data
        >>> x = np.arange(10)
        >>> loader = data.DataLoader((x,), 4)
        >>> all((x[loader.order(2)[:4]] == next(loader.epoch(2))[0]).tolist())
        True
        """
        samples = len(self.arrays[0])
        order = generator(self.seed, "shuffle", epoch).permutation(samples) if self.shuffle else np.arange(samples)
        return order[: len(self) * self.batch_size]

    def in_order(self) -> Self:
        """Return a loader of the same arrays that gives all samples in their order, as an evaluation needs.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import data
        >>> [x.tolist() for x, in data.DataLoader((np.arange(5),), 2, drop_last=True).in_order()]
        [[0, 1], [2, 3], [4]]
        """
        loader = copy.copy(self)
        loader.shuffle = loader.drop_last = False
        loader._epochs = itertools.count()
        return loader

    def _batch(self, order: NDArray[np.intp], epoch: int, step: int) -> Batch:
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        first, *rest = (np.take(array, rows, axis=0) for array in self.arrays)
        if self.transform is not None:
            first = at(self.transform, epoch, rows)(first, generator(self.seed, "augment", epoch, step))
        batch: Batch = (first, *rest)
        return batch if self.batch_transform is None else self.batch_transform(
            batch, generator(self.seed, "mix", epoch, step))


def _prefetched(tasks: Iterable[Callable[[], Batch]]) -> Generator[Batch, None, None]:
    """Yield the results of `tasks`, computed on one thread that runs at most two ahead."""
    # The thread sees the caller's context variables, so a transform runs on the caller's target.
    context = copy_context()
    pool = ThreadPoolExecutor(1, "fastnn-data")
    pending: deque[Future[Batch]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(context.run, task))
            if len(pending) > _BATCHES_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
