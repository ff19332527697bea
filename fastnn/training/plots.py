"""The pictures of a run: each function returns a matplotlib figure, and `png` its bytes.

Figures are made without pyplot, so no window opens and nothing is kept once they are dropped.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnn.training._extra import require
from fastnn.training.metrics import History, class_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _RED, _INK, _FAINT = "#2563a8", "#e07b1a", "#c62f2f", "#26303a", "#d9dee3"
_CYCLE = (_BLUE, _ORANGE, "#2e8b57", "#8a4fa3", _RED, "#7a6a53")


def png(figure: Figure) -> bytes:
    """Return a figure as the contents of a PNG file.

    Parameters
    ----------
    figure : matplotlib.figure.Figure

    Returns
    -------
    bytes

    Examples
    --------
    >>> from fastnn import training
    >>> history = training.History([{"epoch": 1, "train_loss": 0.5, "val_loss": 0.6}])
    >>> training.plots.png(training.plots.curves(history))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, the same figure is the same file.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def curves(history: History) -> Figure:
    """Draw loss and accuracy of training and validation against the epoch.

    Parameters
    ----------
    history : History
        Of at least one epoch.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for the loss and, in classification, one for the accuracy.

    Examples
    --------
    >>> from fastnn import training
    >>> history = training.History([{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.4}])
    >>> len(training.plots.curves(history).axes)
    1
    """
    panels = [name for name in ("loss", "accuracy") if any(record.get(f"train_{name}") is not None
                                                           for record in history.records)]
    figure, all_axes = _figure(4.6 * len(panels), 3.4, len(panels))
    for axes, name in zip(all_axes, panels):
        factor = 100 if name == "accuracy" else 1
        for part, prefix, color in (("training", "train", _BLUE), ("validation", "val", _ORANGE)):
            key = f"{prefix}_{name}"
            if any(record.get(key) is not None for record in history.records):
                _line(axes, history["epoch"], factor * history[key], color, part)
        _epochs(axes, name + (" (%)" if name == "accuracy" else ""))
    return figure


def comparison(histories: Mapping[str, History], measure: str = "train_loss", *, log: bool = False) -> Figure:
    """Draw one figure of several runs against the epoch.

    Parameters
    ----------
    histories : mapping of str to History
        The runs, by what they are called in the legend.
    measure : str, default "train_loss"
        A column of the histories.
    log : bool, default False
        Draw it on a logarithmic axis.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import training
    >>> runs = {f"lr {lr}": training.History([{"epoch": 1, "train_loss": lr}]) for lr in (0.01, 0.1)}
    >>> len(training.plots.comparison(runs).axes[0].lines)
    2
    """
    figure, (axes,) = _figure(6.4, 3.8, 1)
    for i, (name, history) in enumerate(histories.items()):
        _line(axes, history["epoch"], history[measure], _CYCLE[i % len(_CYCLE)], name)
    if log:
        axes.set_yscale("log")
    _epochs(axes, measure.replace("train_", "training ").replace("val_", "validation ").replace("_", " "))
    return figure


def confusion(matrix: NDArray[np.int64], names: Sequence[str] | None = None) -> Figure:
    """Draw a confusion matrix: right predictions in blue, confusions in red, each by its share of the true class.

    Parameters
    ----------
    matrix : ndarray of int64, shape (C, C)
        As from `confusion_matrix`: a row a true class, a column a predicted one.
    names : sequence of str, optional
        The names of the classes, their numbers where not given.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> axes = training.plots.confusion(np.array([[3, 1], [0, 2]]), ["cat", "dog"]).axes[0]
    >>> axes.get_xlabel()
    'predicted'
    """
    names, classes = class_names(matrix, names), len(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    right = np.eye(classes, dtype=bool)
    # Most confusions are a few per cent of their class: the root makes them visible.
    strength = np.where(right, 0.9 * shares, np.sqrt(shares))[..., None]
    ink = np.where(right[..., None], _rgb(_BLUE), _rgb(_RED))
    size = max(3.6, 1.6 + 0.42 * min(classes, 24))
    figure, (axes,) = _figure(size, size, 1)
    axes.imshow(1 - strength * (1 - ink))
    if classes <= 24:
        for row, column in zip(*np.nonzero(matrix)):
            color = "white" if strength[row, column, 0] > 0.6 else _INK
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(classes), names, rotation=0 if max(map(len, names)) < 3 else 45,
                        ha="center" if max(map(len, names)) < 3 else "right", rotation_mode="anchor")
        axes.set_yticks(range(classes), names)
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def samples(images: NDArray[Any], labels: NDArray[Any], predictions: NDArray[Any],
            names: Sequence[str] | None = None, most: int = 24) -> Figure:
    """Draw images with their predictions: the wrong ones first, in red and with the true class, then right ones.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W)
        Of 1 or 3 channels.
    labels, predictions : ndarray of integers, shape (N,)
        The true and predicted classes.
    names : sequence of str, optional
        The names of the classes, their numbers where not given.
    most : int, default 24
        How many images are drawn at most; a third of them or more are right ones, if there are as many.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import data, training
    >>> test = data.digits().test
    >>> figure = training.plots.samples(test.images, test.labels, test.labels, most=8)
    >>> figure.axes[0].get_title() == str(test.labels[0])
    True
    """
    wrong, right = np.flatnonzero(labels != predictions), np.flatnonzero(labels == predictions)
    chosen = np.concatenate([wrong[: max(most - len(right), most - most // 3)], right])[:most]
    columns = min(8, len(chosen))
    rows = -(-len(chosen) // columns)
    called = [str(i) if names is None else names[i] for i in range(1 + max(labels.max(), predictions.max()))]
    gap = " " if max(map(len, called)) <= 3 else "\n"
    figure, all_axes = _figure(1.15 * columns, (1.4 if gap == " " else 1.55) * rows, columns, rows)
    for axes in all_axes:
        axes.set_axis_off()
    for axes, i in zip(all_axes, chosen):
        picture = images[i, 0] if images.shape[1] == 1 else images[i].transpose(1, 2, 0)
        axes.imshow(picture, cmap="gray_r", interpolation="nearest")
        if labels[i] == predictions[i]:
            axes.set_title(called[predictions[i]], fontsize=8, color=_INK)
        else:
            axes.set_title(f"{called[predictions[i]]},{gap}not {called[labels[i]]}", fontsize=8, color=_RED)
    return figure


def _figure(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = require("matplotlib.figure", "drawing").Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _line(axes: Axes, x: NDArray[Any], y: NDArray[Any], color: str, label: str) -> None:
    axes.plot(x, y, color=color, label=label, linewidth=1.8, marker="o" if len(x) < 30 else None, markersize=3)


def _epochs(axes: Axes, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "drawing").MaxNLocator(integer=True))
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=0)
    axes.legend(frameon=False)


def _rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
