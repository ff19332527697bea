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


def optimization_history(numbers: Sequence[int], values: Sequence[float], complete: Sequence[bool],
                         label: str) -> Figure:
    """Draw the values of a sweep's trials in their order, with the best so far.

    Parameters
    ----------
    numbers : sequence of int
        The trials.
    values : sequence of float
        What they reached; the higher, the better. NaN is not drawn.
    complete : sequence of bool
        False for those that were given up early.
    label : str
        What the values are.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import training
    >>> figure = training.plots.optimization_history([0, 1, 2], [90.0, 70.0, 95.0], [True, False, True], "accuracy (%)")
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [90.0, 90.0, 95.0]
    """
    figure, (axes,) = _figure(6.4, 3.8, 1)
    x, y, whole = np.array(numbers), np.array(values, float), np.array(complete, bool)
    best = np.fmax.accumulate(np.where(whole, y, np.nan))
    axes.step(x, best, where="post", color=_BLUE, linewidth=1.2, label="best so far")
    axes.scatter(x[whole], y[whole], s=26, color=_BLUE, label="complete")
    if not whole.all():
        axes.scatter(x[~whole], y[~whole], s=26, color=_ORANGE, marker="x", label="given up early")
    _frame(axes, "trial", label)
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "drawing").MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    """Draw how much each option of a sweep decides.

    Parameters
    ----------
    shares : mapping of str to float
        The options' shares, which sum to 1, or are all 0.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import training
    >>> figure = training.plots.importances({"lr": 0.8, "batch_size": 0.2})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['batch_size', 'lr']
    """
    figure, (axes,) = _figure(6.4, 0.9 + 0.42 * len(shares), 1)
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color=_BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=4, color=_INK)
    _frame(axes, "importance", "")
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.1)
    return figure


def slices(options: Mapping[str, Sequence[Any]], values: Sequence[float], label: str,
           log: Sequence[str] = ()) -> Figure:
    """Draw the values of a sweep's trials against each option.

    Parameters
    ----------
    options : mapping of str to sequence
        What each trial had for each option: numbers, or something else, which is set in a row.
    values : sequence of float
        What the trials reached, in the same order.
    label : str
        What the values are.
    log : sequence of str, optional
        The options whose axis is logarithmic.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import training
    >>> figure = training.plots.slices({"lr": [0.01, 0.1], "optimizer": ["sgd", "adam"]}, [90.0, 95.0], "accuracy (%)",
    ...                                log=["lr"])
    >>> [axes.get_xscale() for axes in figure.axes]
    ['log', 'linear']
    """
    columns = min(3, len(options))
    rows = -(-len(options) // columns)
    figure, all_axes = _figure(max(4.6, 3.2 * columns), 3.2 * rows, columns, rows)
    for axes in all_axes[len(options) :]:
        axes.set_axis_off()
    ticker = require("matplotlib.ticker", "drawing")
    for i, (axes, (name, x)) in enumerate(zip(all_axes, options.items())):
        row = any(not isinstance(mark, int | float) or isinstance(mark, bool) for mark in x)
        marks = sorted(set(x), key=str if row else None)
        places = range(len(marks)) if row else marks
        axes.set_xscale("log" if name in log and not row else "linear")
        axes.scatter([places[marks.index(mark)] for mark in x], values, s=26, color=_BLUE, alpha=0.75, linewidths=0)
        if row or len(marks) < min(6, len(x)):
            axes.set_xticks(places, [str(mark) for mark in marks])
        elif name in log:
            decades = np.log10(marks[-1] / marks[0])
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1,) if decades > 2 else (1, 3)))
            axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.margins(x=0.1)
        _frame(axes, name, "" if i % columns else label)
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
    _frame(axes, "epoch", label)
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "drawing").MaxNLocator(integer=True))
    axes.legend(frameon=False)


def _frame(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(which="both", colors=_INK, length=0)


def _rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
