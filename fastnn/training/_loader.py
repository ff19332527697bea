"""What a run takes batches from, and where in them a value lies that is not finite."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastnn import kernels
from fastnn.data import DataLoader, SequenceLoader


class Loader(Protocol):
    """What fit takes batches from: `fastnn.data.DataLoader`, or anything with these two methods.

    A batch is a tuple of arrays: the model's inputs, and last what the loss compares its output with.
    """

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start_step: int = 0, /) -> Generator[tuple[NDArray[Any], ...], None, None]: ...


def check_loader(name: str, loader: Any) -> None:
    """Raise an error unless this is a loader with a batch in it."""
    kind = type(loader)
    if hasattr(kind, "__len__") and not len(loader):
        raise ValueError(f"{name}: expected at least one batch, got an empty loader")
    if not callable(getattr(loader, "epoch", None)) or not hasattr(kind, "__len__"):
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        raise TypeError(f"{name}: expected a fastnn.data.DataLoader, or another object with len() and "
                        f"epoch(epoch, start_step), got {module}{kind.__qualname__}; data.DataLoader((images, labels), "
                        "batch_size) makes one of NumPy arrays")


def in_order(loader: Loader) -> Loader:
    """Return a loader that gives all samples in their order, where it is known how to make one of this."""
    return loader.in_order() if isinstance(loader, DataLoader | SequenceLoader) else loader


def first_and_last(loader: Loader) -> list[Sequence[Any]]:
    """Return the batches of epoch 0 whose sizes may differ."""
    batches = []
    for step in sorted({0, len(loader) - 1}):
        with closing(loader.epoch(0, step)) as rest:
            batches.append(placed(next(rest), "cpu"))
    return batches


def placed(batch: Any, device: str) -> Sequence[Any]:
    """Return a batch where the model is; a copy to a GPU is queued behind the steps before it."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        got = len(batch) if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(f"loader: expected batches that are tuples of the model's inputs and the targets, got {got}")
    return batch if device == "cpu" else [kernels.to_device(array) for array in batch]


def fault(loader: Loader, name: str, epoch: int, start: int, count: int | None) -> str | None:
    """Say where in some batches of a loader, which are loaded again, a value lies that is not finite."""
    with closing(loader.epoch(epoch, start)) as batches:
        for step, batch in enumerate(itertools.islice(batches, count), start):
            for place, array in enumerate(map(kernels.to_host, batch)):
                finite = np.isfinite(array)
                if finite.all():
                    continue
                sample = int(np.argwhere(~finite)[0, 0]) if array.ndim else 0
                where, cure = f"sample {sample} of it", "data"
                if isinstance(loader, DataLoader):
                    sample = int(loader.order(epoch)[step * loader.batch_size + sample])
                    where = f"sample {sample} of the loader's arrays"
                    if np.isfinite(loader.arrays[place][sample]).all():
                        cure = "transform"
                what = "targets" if place == len(batch) - 1 else "inputs"
                which = f"array {place}, " if len(batch) > 2 else ""
                return (f"the {what} of {name.format(step + 1)} are not finite themselves: mend the {cure} "
                        f"({which}{where})")
    return None
