"""The pictures of a run: each function returns a matplotlib figure, and `png` its bytes.

Figures are made without pyplot, so no window opens, and a figure that is dropped is freed. Names are drawn as they are,
in one line, and cut off where they are long; characters that matplotlib's font lacks are drawn as their numbers
(``rcParams["font.family"]`` may name further fonts).
"""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn._extras import require
from fastnn.training.metrics import History, class_names

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _RED, _INK, _FAINT = "#2563a8", "#e07b1a", "#c62f2f", "#26303a", "#d9dee3"
_CYCLE = (_BLUE, _ORANGE, "#2e8b57", "#8a4fa3", _RED, "#7a6a53")
_STYLES = ("-", "--", ":")                   # once all colours are taken
_LITERAL: Any = {"parse_math": False, "usetex": False}      # of texts with names in them, in which $ is a dollar
_MOST_KEYS = len(_CYCLE) * len(_STYLES)      # of a legend: further lines look like those


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
        factor, keys = 100 if name == "accuracy" else 1, {}
        for part, prefix, color in (("training", "train", _BLUE), ("validation", "val", _ORANGE)):
            key = f"{prefix}_{name}"
            if any(record.get(key) is not None for record in history.records):
                keys[part] = _line(axes, history["epoch"], factor * history[key], color)
        _epochs(axes, name + (" (%)" if name == "accuracy" else ""), keys)
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
    keys = {name: _line(axes, history["epoch"], history[measure], color, style)
            for (name, history), (style, color) in zip(histories.items(), _looks())}
    if log:
        axes.set_yscale("log")
    _epochs(axes, measure.replace("train_", "training ").replace("val_", "validation ").replace("_", " "), keys)
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
    keys: dict[str, Any] = {"best so far": axes.step(x, best, where="post", color=_BLUE, linewidth=1.2)[0],
                            "complete": axes.scatter(x[whole], y[whole], s=26, color=_BLUE)}
    if not whole.all():
        keys["given up early"] = axes.scatter(x[~whole], y[~whole], s=26, color=_ORANGE, marker="x")
    _style(axes, "trial", label, keys)
    _whole_numbers(axes.xaxis)
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
    bars = axes.barh(range(len(names)), [shares[name] for name in names], color=_BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=4, color=_INK)
    _ticks(axes.yaxis, names)
    _style(axes, "importance", "")
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
        places: Sequence[Any] = range(len(marks)) if row else marks
        axes.set_xscale("log" if name in log and not row else "linear")
        axes.scatter([places[marks.index(mark)] for mark in x], values, s=26, color=_BLUE, alpha=0.75, linewidths=0)
        if row or len(marks) < min(6, len(x)):
            _ticks(axes.xaxis, map(str, marks), places, turned=sum(len(str(mark)) for mark in marks) > 28)
        elif name in log:
            decades = np.log10(marks[-1] / marks[0])
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1,) if decades > 2 else (1, 3)))
            axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.margins(x=0.1)
        _style(axes, name, "" if i % columns else label)
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
        _ticks(axes.xaxis, names, turned=max(map(len, names)) > 2)
        _ticks(axes.yaxis, names)
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
    called = [str(i) if names is None else _name(names[i], 15)
              for i in range(1 + max(labels.max(), predictions.max()))]
    gap = " " if max(map(len, called)) <= 3 else "\n"
    figure, all_axes = _figure(1.15 * columns, (1.4 if gap == " " else 1.55) * rows, columns, rows)
    for axes in all_axes:
        axes.set_axis_off()
    for axes, i in zip(all_axes, chosen):
        picture = images[i, 0] if images.shape[1] == 1 else images[i].transpose(1, 2, 0)
        axes.imshow(picture, cmap="gray_r", interpolation="nearest")
        if labels[i] == predictions[i]:
            axes.set_title(called[predictions[i]], fontsize=8, color=_INK, **_LITERAL)
        else:
            axes.set_title(f"{called[predictions[i]]},{gap}not {called[labels[i]]}", fontsize=8, color=_RED, **_LITERAL)
    return figure


def class_accuracies(matrix: NDArray[np.int64], names: Sequence[str] | None = None) -> Figure:
    """Draw the share of each class that is recognised as a bar, and the share of all as a line.

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
    >>> axes = training.plots.class_accuracies(np.array([[3, 1], [0, 2]]), ["cat", "dog"]).axes[0]
    >>> [float(bar.get_height()) for bar in axes.patches]
    [75.0, 100.0]
    """
    names, classes = class_names(matrix, names), len(matrix)
    shares = 100 * matrix.diagonal() / np.maximum(matrix.sum(1), 1)
    figure, (axes,) = _figure(max(3.6, 0.8 + 0.56 * min(classes, 24)), 3.2, 1)
    whole = 100 * matrix.trace() / max(1, matrix.sum())
    axes.bar(range(classes), shares, color=_BLUE, width=0.7)
    line = axes.axhline(whole, color=_ORANGE, linewidth=1.2)
    if classes <= 24:
        for place, share in enumerate(shares):          # in a row above all bars, where the line does not come
            axes.text(place, 103, f"{share:.1f}", ha="center", va="bottom", fontsize=8, color=_INK)
        _ticks(axes.xaxis, names, turned=max(map(len, names)) > 2)
    axes.set_yticks(range(0, 101, 20))
    _style(axes, "", "accuracy (%)", {f"all classes: {whole:.1f}": line})
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 112)
    return figure


def filters(weight: NDArray[Any], names: Sequence[str] | None = None, *, columns: int | None = None) -> Figure:
    """Draw filters, or rows of weights in the shape of an image, each stretched to its own range.

    Parameters
    ----------
    weight : ndarray, shape (O, 1 or 3, H, W)
    names : sequence of str, optional
        What stands above each.
    columns : int, optional
        How many stand in a row.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> len(training.plots.filters(np.random.default_rng(0).normal(size=(10, 3, 5, 5))).axes)
    10
    """
    low, high = weight.min((1, 2, 3), keepdims=True), weight.max((1, 2, 3), keepdims=True)
    stretched = (weight - low) / np.where(high > low, high - low, 1)
    return images(stretched, names, columns=columns or (min(len(weight), 5) if names else None))


def images(pixels: NDArray[Any], names: Sequence[str] | None = None, *, columns: int | None = None,
           row_names: Sequence[str] | None = None) -> Figure:
    """Draw images side by side.

    Parameters
    ----------
    pixels : ndarray, shape (N, 1 or 3, H, W)
        uint8, or floats from 0 to 1.
    names : sequence of str, optional
        What stands above each.
    columns : int, optional
        How many stand in a row; as many as rows where not given.
    row_names : sequence of str, optional
        What stands beside each row.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import data, training
    >>> len(training.plots.images(data.digits().test.images[:6] * 15, columns=3).axes)
    6
    """
    columns = columns or math.ceil(math.sqrt(len(pixels)))
    rows, side = -(-len(pixels) // columns), 1.1 if names else 0.6
    figure = require("matplotlib.figure", "drawing").Figure(
        figsize=(side * columns, (side + 0.25 * bool(names)) * rows), layout="constrained")
    for place, picture in enumerate(pixels.transpose(0, 2, 3, 1)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(picture.squeeze(2) if picture.shape[2] == 1 else picture, cmap="gray", interpolation="nearest",
                    vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
        axes.set_axis_off()
        if names:
            axes.set_title(_name(names[place], 15), fontsize=8, color=_INK, **_LITERAL)
        if row_names and place % columns == 0:
            axes.text(-0.1, 0.5, _name(row_names[place // columns], 15), transform=axes.transAxes, rotation=90,
                      ha="right", va="center", fontsize=8, color=_INK, **_LITERAL)
    return figure


def tile(pixels: NDArray[Any], columns: int | None = None) -> NDArray[np.uint8]:
    """Return images side by side as one, with gray lines between them.

    Parameters
    ----------
    pixels : ndarray, shape (N, 1 or 3, H, W)
        uint8, or floats from 0 to 1.
    columns : int, optional
        How many stand in a row; as many as rows where not given.

    Returns
    -------
    ndarray of uint8, shape (rows (H + 1) - 1, columns (W + 1) - 1), or that and 3 of images in colour

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> training.plots.tile(np.ones((3, 1, 1, 1)))
    array([[255, 128, 255],
           [128, 128, 128],
           [255, 128, 128]], dtype=uint8)
    """
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    n, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    cells = np.full((rows * columns, channels, height + 1, width + 1), 128, np.uint8)
    cells[:n, :, :height, :width] = pixels
    whole = cells.reshape(rows, columns, channels, height + 1, width + 1).transpose(0, 3, 1, 4, 2)
    whole = whole.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    return whole[..., 0] if channels == 1 else whole


def grid(pixels: NDArray[Any], columns: int | None = None) -> Figure:
    """Draw many images side by side, without a word; see `tile`, and `images` for few with names.

    Parameters
    ----------
    pixels : ndarray, shape (N, 1 or 3, H, W)
        uint8, or floats from 0 to 1.
    columns : int, optional
        How many stand in a row; as many as rows where not given.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import data, training
    >>> training.plots.grid(data.digits().test.images[:100] * 15).axes[0].images[0].get_size()
    (89, 89)
    """
    whole = tile(pixels, columns)
    height, width = (side / 60 for side in whole.shape[:2])
    scale = min(max(1.0, 4 / width), 8 / width)             # from 4 to 8 inches wide
    figure, (axes,) = _figure(scale * width, scale * height, 1)
    axes.imshow(whole, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    return figure


class _Histograms(Protocol):
    """The weights of layers in intervals, time after time, as the callback `WeightHistograms` counts them."""

    names: list[str]
    ranges: list[NDArray[np.float64]]
    counts: list[NDArray[np.int64]]


def weights(histograms: _Histograms, most: int = 6) -> Figure:
    """Draw how the weights of each layer are spread, from the first epoch, pale, to the last.

    Parameters
    ----------
    histograms : WeightHistograms
        The callback of a run.
    most : int, default 6
        How many epochs are drawn at most, and how many layers: the first ones and the last.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import data, nn, optim, training
    >>> model, histograms = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), training.WeightHistograms()
    >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01),
    ...                            callbacks=[histograms], progress=False)
    >>> loader = data.DataLoader(data.digits().train, 64, transform=data.Normalize(0.3, 0.4, 16))
    >>> _ = trainer.fit(loader, epochs=2)
    >>> [axes.get_title() for axes in training.plots.weights(histograms).axes]
    ['1.weight']
    """
    if not histograms.names:
        raise ValueError("histograms: expected those of a run whose model has weights, got none")
    names = histograms.names if len(histograms.names) <= most else (*histograms.names[: most - 1], histograms.names[-1])
    epochs = np.unique(np.linspace(0, len(histograms.counts) - 1, most).round().astype(int))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, all_axes = _figure(3.2 * columns, 2.5 * rows, columns, rows)
    for axes in all_axes[len(names):]:
        axes.set_axis_off()
    for axes, name in zip(all_axes, names):
        layer, keys = histograms.names.index(name), {}
        for place, epoch in enumerate(epochs):
            low, high = histograms.ranges[epoch][layer]
            counts = histograms.counts[epoch][layer]
            edges = np.linspace(low, high, len(counts) + 1)
            density = counts / (counts.sum() * max(edges[1] - edges[0], 1e-12))
            shade = 0.2 + 0.8 * (place + 1) / len(epochs)
            keys[f"epoch {epoch}"], = axes.plot((edges[1:] + edges[:-1]) / 2, density, linewidth=1.3,
                                                color=tuple(1 - shade * (1 - _rgb(_BLUE))))
        _style(axes, "weight", "density")
        axes.set_title(_name(name, 40), fontsize=9, color=_INK, **_LITERAL)
    figure.legend(keys.values(), keys, loc="outside upper center", ncols=most, frameon=False, fontsize=8)
    return figure


def lines(series: Mapping[str, Sequence[ArrayLike]], x_label: str, y_label: str, *, log_x: bool = False,
          log_y: bool = False) -> Figure:
    """Draw lines through points, with bands of their deviation where it is given.

    Parameters
    ----------
    series : mapping of str to (x, y) or (x, y, deviation)
        What each is called in the legend, and its numbers.
    x_label, y_label : str
        What the axes say.
    log_x, log_y : bool, default False
        Make an axis logarithmic.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from fastnn import training
    >>> figure = training.plots.lines({"mean": ([1, 10], [0.5, 0.4], [0.1, 0.1])}, "n", "error", log_x=True)
    >>> figure.axes[0].get_xscale()
    'log'
    """
    figure, (axes,) = _figure(6.4, 3.8, 1)
    keys = {}
    for (name, (x, y, *deviation)), (style, color) in zip(series.items(), _looks()):
        x, y = np.asarray(x), np.asarray(y)
        keys[name] = _line(axes, x, y, color, style)
        if deviation:
            low = y - np.asarray(deviation[0])
            axes.fill_between(x, np.maximum(low, y / 10) if log_y else low, y + np.asarray(deviation[0]), color=color,
                              alpha=0.15, linewidth=0)
    if log_x:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    elif all(np.asarray(x).dtype.kind == "i" for x, *_ in series.values()):
        _whole_numbers(axes.xaxis)
    if log_y and any(np.any(np.asarray(y) > 0) for _, y, *_ in series.values()):
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
    _style(axes, x_label, y_label, keys)
    return figure


def table(rows: Sequence[str], columns: Sequence[str], shares: NDArray[Any], row_label: str,
          column_label: str) -> Figure:
    """Draw a table of accuracies, the higher the darker.

    Parameters
    ----------
    rows, columns : sequences of str
        What they are called.
    shares : ndarray, shape (rows, columns)
        From 0 to 1; NaN where there is none.
    row_label, column_label : str
        What the axes say.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> figure = training.plots.table(["0.1", "1"], ["0", "0.01"], np.array([[0.3, 0.4], [0.1, 0.2]]), "rate", "decay")
    >>> figure.axes[0].texts[1].get_text()
    '40.0'
    """
    figure, (axes,) = _figure(1.8 + 0.75 * len(columns), 1.1 + 0.45 * len(rows), 1)
    least = np.nanmin(shares)
    spread = np.nan_to_num((shares - least) / max(float(np.nanmax(shares) - least), 1e-9))
    axes.imshow(1 - 0.85 * spread[..., None] * (1 - _rgb(_BLUE)), aspect="auto")
    for row, column in np.ndindex(shares.shape):
        text = "-" if np.isnan(shares[row, column]) else f"{100 * shares[row, column]:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9,
                  color="white" if spread[row, column] > 0.6 else _INK)
    _ticks(axes.xaxis, columns, turned=max(map(len, columns)) > 10)
    _ticks(axes.yaxis, rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(_name(column_label), **_LITERAL)
    axes.set_ylabel(_name(row_label), **_LITERAL)
    return figure


def attention(weights: Sequence[NDArray[Any]], tokens: Sequence[str]) -> Figure:
    """Draw how each token attends to others, the stronger the darker: a row of maps a layer, a map a head.

    Parameters
    ----------
    weights : sequence of ndarray, shape (heads, T, T)
        Of each layer, what share of each head's result for a token, a row, comes from each token, a column.
    tokens : sequence of str
        What the T tokens are.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import training
    >>> figure = training.plots.attention([np.eye(3)[None].repeat(2, 0)], ["the", " cat", " sat"])
    >>> [axes.get_title() for axes in figure.axes]
    ['layer 1, head 1', 'layer 1, head 2']
    """
    heads, size = len(weights[0]), max(2.4, 0.16 * len(tokens))
    figure, all_axes = _figure((size + 0.7) * heads, (size + 0.8) * len(weights), heads, len(weights))
    for place, axes in enumerate(all_axes):
        layer, head = divmod(place, heads)
        axes.imshow(1 - np.sqrt(weights[layer][head])[..., None] * (1 - _rgb(_BLUE)))   # most shares are a few per cent
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9, color=_INK)
        for axis in (axes.xaxis, axes.yaxis):
            _ticks(axis, tokens)
        axes.tick_params(length=0, labelsize=6)
        axes.tick_params(axis="x", rotation=90)
        axes.spines[:].set_color(_FAINT)
    return figure


def _figure(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = require("matplotlib.figure", "drawing").Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _looks() -> Iterator[tuple[str, str]]:
    """Styles and colours of lines, one after another."""
    return itertools.cycle(itertools.product(_STYLES, _CYCLE))


def _line(axes: Axes, x: NDArray[Any], y: NDArray[Any], color: str, style: str = "-") -> Artist:
    return axes.plot(x, y, style, color=color, linewidth=1.8, marker="o" if len(x) < 30 else None, markersize=3)[0]


def _epochs(axes: Axes, label: str, keys: Mapping[str, Artist]) -> None:
    _whole_numbers(axes.xaxis)
    _style(axes, "epoch", label, keys)


def _whole_numbers(axis: Axis) -> None:
    axis.set_major_locator(require("matplotlib.ticker", "drawing").MaxNLocator(integer=True, min_n_ticks=1))


def _plain_numbers(axis: Axis) -> None:
    """Let a logarithmic axis say 1, 2, 5, 10, ... instead of powers."""
    ticker = require("matplotlib.ticker", "drawing")
    low, high = axis.get_view_interval()
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _style(axes: Axes, x_label: str, y_label: str, keys: Mapping[str, Artist] | None = None) -> None:
    axes.set_xlabel(_name(x_label), **_LITERAL)
    axes.set_ylabel(_name(y_label), **_LITERAL)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=0)
    if keys:
        _legend(axes, dict(list(keys.items())[:_MOST_KEYS]))


def _legend(axes: Axes, keys: Mapping[str, Artist]) -> None:
    """Say outside of the axes, where nothing is drawn, what is what: above them in a row, else beside them."""
    names = [_name(name, 40) for name in keys]
    if sum(map(len, names)) <= 40:
        place: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(keys)}
    else:
        place = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        figure: Any = axes.figure
        figure.set_figwidth(figure.get_figwidth() + 0.6 + 0.07 * max(map(len, names)))      # the axes stay as wide
    # Legends leave out what has no label, or one that begins with an underscore.
    legend = axes.legend(keys.values(), ["-"] * len(keys), frameon=False, fontsize=9, borderaxespad=0.2, **place)
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, **_LITERAL)


def _ticks(axis: Axis, names: Iterable[str], places: Sequence[float] | None = None, *, turned: bool = False) -> None:
    """Write names along an axis, by default at 0, 1, ..."""
    called = [_name(name) for name in names]
    way: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axis.set_ticks(range(len(called)) if places is None else places, called, **way, **_LITERAL)


def _name(text: str, most: int = 24) -> str:
    """Return a text as a picture shows it: in one line of so many characters, all of which the font has."""
    manager = require("matplotlib.font_manager", "drawing")
    families = manager.FontProperties().get_family()
    known: set[int] = set().union(*(_characters(manager.findfont(manager.FontProperties(family=[name])))
                                    for name in families))
    line = "".join(char if ord(char) in known else char.encode("unicode_escape").decode()
                   for char in " ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


@functools.cache
def _characters(font: str) -> frozenset[int]:
    return frozenset(require("matplotlib.font_manager", "drawing").get_font(font).get_charmap())


def _rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
