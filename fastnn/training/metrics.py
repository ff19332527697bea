"""How good a classifier is: accuracy, confusion matrix, a table of its classes; and the history of a run."""

from __future__ import annotations

import math
import numbers
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastnn._files import parse_json, read_file

Record: TypeAlias = dict[str, Any]

METRICS = "metrics.jsonl"
# What the trainer measures itself, in the record of each epoch.
FIGURES = ("epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
           "images_per_second")

_LIMIT = 1 << 26            # bytes of metrics.jsonl: some 250,000 epochs


def accuracy(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the share of predictions that are right.

    Parameters
    ----------
    predictions : ndarray, shape (N,) or (N, C)
        Classes, or the scores of C classes, of which the highest is taken.
    labels : ndarray of integers, shape (N,)
        The true classes.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the lengths differ or are 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> training.accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    if predictions.ndim == 2:
        predictions = predictions.argmax(1)
    _check_pairs(labels, predictions)
    return float((predictions == labels).mean())


def confusion_matrix(labels: NDArray[Any], predictions: NDArray[Any], classes: int | None = None) -> NDArray[np.int64]:
    """Count how often each true class was predicted as each class.

    Parameters
    ----------
    labels, predictions : ndarray of integers, shape (N,)
        The true and the predicted classes.
    classes : int, optional
        The number of classes; one more than the largest there is where not given.

    Returns
    -------
    ndarray of int64, shape (C, C)
        A row a true class, a column a predicted one.

    Raises
    ------
    ValueError
        If the lengths differ or are 0, or a class is not from 0 to `classes` - 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> training.confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]))
    array([[1, 1],
           [0, 1]])
    """
    _check_pairs(labels, predictions)
    low, high = min(labels.min(), predictions.min()), max(labels.max(), predictions.max())
    if classes is None:
        classes = int(high) + 1
    if low < 0 or high >= classes:
        raise ValueError(f"labels and predictions: expected classes from 0 to {classes - 1}, got {low} to {high}")
    pairs = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True)
class ClassResult:
    """What became of the images of one class.

    Attributes
    ----------
    name : str
        The class.
    count, correct : int
        How many images it has, and how many of them were recognised.
    confusions : tuple of (str, int)
        What the others were taken for and how often, the commonest first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> training.per_class(np.array([[3, 1], [0, 2]]), ["cat", "dog"])[0]
    ClassResult(name='cat', count=4, correct=3, confusions=(('dog', 1),))
    """

    name: str
    count: int
    correct: int
    confusions: tuple[tuple[str, int], ...]

    @property
    def accuracy(self) -> float | None:
        """The share of its images that were recognised, None for a class without any."""
        return self.correct / self.count if self.count else None


def per_class(confusion: NDArray[np.int64], names: Sequence[str] | None = None) -> list[ClassResult]:
    """Return a row for each class of a confusion matrix.

    Parameters
    ----------
    confusion : ndarray of int64, shape (C, C)
        As from `confusion_matrix`.
    names : sequence of str, optional
        The names of the classes, their numbers where not given.

    Returns
    -------
    list of ClassResult

    Raises
    ------
    ValueError
        If there are not C names.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> [row.accuracy for row in training.per_class(np.array([[3, 1], [0, 2]]))]
    [0.75, 1.0]
    """
    names = class_names(confusion, names)
    rows = []
    for true, counts in enumerate(confusion):
        others = [int(i) for i in np.argsort(-counts, kind="stable") if i != true and counts[i]]
        rows.append(ClassResult(names[true], int(counts.sum()), int(counts[true]),
                                tuple((names[i], int(counts[i])) for i in others)))
    return rows


def commonest_confusions(confusion: NDArray[np.int64], names: Sequence[str] | None = None, most: int = 5) -> list[str]:
    """Return the commonest confusions in words, the commonest first.

    Parameters
    ----------
    confusion : ndarray of int64, shape (C, C)
        As from `confusion_matrix`.
    names : sequence of str, optional
        The names of the classes, their numbers where not given.
    most : int, default 5
        The length of the list, at most.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> training.commonest_confusions(np.array([[3, 1, 0], [0, 2, 0], [0, 2, 9]]))
    ['2 read as 1: 2 times', '0 read as 1: once']
    """
    pairs = [(count, row.name, other) for row in per_class(confusion, names) for other, count in row.confusions]
    pairs.sort(key=lambda pair: -pair[0])
    return [f"{true} read as {other}: {'once' if count == 1 else f'{count} times'}"
            for count, true, other in pairs[:most]]


def per_class_table(confusion: NDArray[np.int64], names: Sequence[str] | None = None) -> str:
    """Return `per_class` as a text table.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> print(training.per_class_table(np.array([[3, 1], [0, 2]]), ["cat", "dog"]))
    class  images  right  accuracy  read as
    cat         4      3   75.00 %  dog (1)
    dog         2      2  100.00 %
    """
    rows = [("class", "images", "right", "accuracy", "read as")]
    for row in per_class(confusion, names):
        others = ", ".join(f"{name} ({count})" for name, count in row.confusions[:3])
        rows.append((row.name, str(row.count), str(row.correct), percent(row.accuracy), others))
    return _aligned(rows, "<>>><")


def confusion_table(confusion: NDArray[np.int64], names: Sequence[str] | None = None) -> str:
    """Return a confusion matrix as a text table: a row a true class, a column a predicted one.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> print(training.confusion_table(np.array([[3, 1], [0, 2]]), ["cat", "dog"]))
         cat  dog
    cat    3    1
    dog    .    2
    """
    names = class_names(confusion, names)
    rows = [("", *names), *((name, *(str(n or ".") for n in row)) for name, row in zip(names, confusion.tolist()))]
    return _aligned(rows, "<" + ">" * len(names))


def as_figure(giver: str, name: Any, value: Any) -> int | float | None:
    """Return a figure as a number of Python, which JSON holds; None stays, and what is no finite number is an error."""
    if not isinstance(name, str):
        raise TypeError(f"{giver} a figure named {name!r}: expected a string")
    number = value
    if getattr(value, "ndim", None) == 0:       # NumPy's, or on a GPU
        number = value.item() if getattr(value.dtype, "kind", "f") in "biuf" else None
    if value is None:
        return None
    if not isinstance(number, numbers.Real):
        raise TypeError(f"{giver} the figure {name} = {value!r:.200}: expected a number, or None where there is none")
    number = int(number) if isinstance(number, numbers.Integral) else float(number)
    if not abs(number) <= sys.float_info.max:
        raise ValueError(f"{giver} the figure {name} = {number}: expected a finite number, or None where it has no "
                         "value")
    return number


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 as in "98.72 %", and "-" for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def class_names(confusion: NDArray[np.int64], names: Sequence[str] | None) -> list[str]:
    """Return the names of the classes, their numbers where none are given."""
    if names is None:
        return [str(i) for i in range(len(confusion))]
    if len(names) != len(confusion):
        raise ValueError(f"names: expected {len(confusion)}, one a class, got {len(names)}")
    return [str(name) for name in names]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `Trainer.evaluate` found.

    Attributes
    ----------
    loss : float
        The mean loss of a sample, or of a token where the loss is one of tokens; NaN where there is none, as for
        nearest neighbours.
    accuracy : float or None
        The share of right predictions, from 0 to 1; None, as all that follows, where the task is no classification.
    confusion : ndarray of int64, shape (C, C), or None
        A row a true class, a column a predicted one.
    labels, predictions : ndarray of int64, shape (N,), or None
        The true and predicted classes, in the order of the arrays that the loader was made of.

    Examples
    --------
    >>> from fastnn import training
    >>> training.Evaluation(loss=0.1).accuracy is None
    True
    """

    loss: float
    accuracy: float | None = None
    confusion: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None
    predictions: NDArray[np.int64] | None = None


@dataclass
class History:
    """What was measured in each epoch of a run; ``history["val_loss"]`` is an array, an element an epoch.

    Attributes
    ----------
    records : list of dict
        As in metrics.jsonl: epoch (from 1), step (updates so far), lr, train_loss, train_accuracy, val_loss,
        val_accuracy, seconds, images_per_second, or tokens_per_second where the loss is one of tokens. None stands for
        what was not measured, NaN in arrays.

    Examples
    --------
    >>> from fastnn import training
    >>> history = training.History([{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": None}])
    >>> history["val_loss"]
    array([0.5, nan])
    """

    records: list[Record] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if self.records and not any(name in record for record in self.records):
            raise KeyError(f"{name}: expected one of {', '.join(self.records[0])}")
        values = (record.get(name) for record in self.records)
        return np.array([np.nan if value is None else value for value in values], np.float64)

    @classmethod
    def read(cls, run_dir: str | os.PathLike[str]) -> History:
        """Return the history of a run folder, empty where it has none.

        Raises
        ------
        ValueError
            If its metrics.jsonl is damaged.
        """
        path = os.path.join(run_dir, METRICS)
        contents = read_file(path, "the figures of a run", _LIMIT) if os.path.lexists(path) else b""
        whole_lines = contents.split(b"\n")[:-1]    # what follows the last line feed, a killed run may have left
        what = "lines that a run wrote"
        records = [parse_json(line, f"{path}, line {number}", what) for number, line in enumerate(whole_lines, 1)]
        return cls([checked_record(record, f"{path}, line {number}") for number, record in enumerate(records, 1)])


def checked_record(record: Any, where: str) -> Record:
    """Return the figures of an epoch that came from a file, or raise a ValueError that says what is wrong with them."""
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected the figures of an epoch, got {record!r:.100}")
    for name in FIGURES:
        value = record.get(name)
        if value is not None and not is_number(value):
            raise ValueError(f"{where}: expected a number or null as {name}, got {value!r:.100}")
    return record


def is_number(value: Any, kind: type = float) -> bool:
    """Whether a value that came from JSON is a finite number; with `kind` int, a whole one from 0 on."""
    if kind is int:
        return type(value) is int and value >= 0
    return type(value) in (int, float) and math.isfinite(value)


def _check_pairs(labels: NDArray[Any], predictions: NDArray[Any]) -> None:
    if labels.ndim != 1 or labels.shape != predictions.shape or not labels.size:
        raise ValueError(f"labels and predictions: expected one of each for every sample, at least one, got shapes "
                         f"{labels.shape} and {predictions.shape}")


def _aligned(rows: Sequence[Sequence[str]], alignments: str) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(f"{cell:{alignment}{width}}" for cell, alignment, width in zip(row, alignments, widths))
                     .rstrip() for row in rows)
