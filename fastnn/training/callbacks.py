"""Callbacks: early stopping, and a look at the weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fastnn import kernels
from fastnn._checks import as_float, as_int
from fastnn.nn import Module
from fastnn.training.callback import Callback
from fastnn.training.checkpoint import Tensors, part
from fastnn.training.metrics import History, Record

# Words in the names of figures that say whether these shall fall or rise.
_FALLS = {"loss", "error", "perplexity", "mse", "rmse", "mae", "nll"}
_RISES = {"accuracy", "acc", "f1", "auc", "recall", "precision", "iou", "dice", "r2"}

_OWNERS = "model", "loss"               # whose weights are those of an epoch


class _Trainer(Protocol):
    """What these callbacks use of the `Trainer`, whose module imports this one."""

    model: Module
    loss: Module
    history: History

    def stop(self, reason: str) -> None: ...


class EarlyStopping(Callback):
    """Ends a run whose figures no longer improve.

    Parameters
    ----------
    patience : int
        How many epochs in a row may pass without improvement.
    min_delta : float, default 0
        By how much a figure must be better than the best one to count as improvement.
    monitor : str, default "val_loss"
        The figure of the epoch's record.
    restore_best : bool, default False
        Leave the model, and a loss that has parameters, with the weights of the best epoch instead of the last.
    mode : {"auto", "min", "max"}, default "auto"
        Whether the figure should fall or rise. With "auto" its name decides: it should fall if one of the words between
        its underscores is loss, error, perplexity, mse, rmse, mae or nll, and rise if one is accuracy, acc, f1, auc,
        recall, precision, iou, dice or r2.

    Raises
    ------
    TypeError, ValueError
        If `patience` is no number from 1 or `min_delta` none from 0, there is no such mode, or the name does not
        decide; in `fit`, if the figure is not measured: before the first step where no other callback could measure it,
        after the first epoch otherwise.

    Examples
    --------
    >>> from fastnn import training
    >>> training.EarlyStopping(patience=5, monitor="val_accuracy").patience
    5
    """

    def __init__(self, patience: int, min_delta: float = 0.0, monitor: str = "val_loss",
                 restore_best: bool = False, mode: Literal["auto", "min", "max"] = "auto") -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: expected the name of a figure, got {monitor!r:.100}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode: expected one of auto, min, max, got {mode!r}")
        words = set(re.split("[^a-z0-9]+", monitor.lower()))
        if mode == "auto" and bool(words & _FALLS) == bool(words & _RISES):
            raise ValueError(f"mode: expected min or max, since the name {monitor} does not say whether the figure "
                             "shall fall or rise, got auto")
        self.mode = mode
        self._sign = 1 if mode == "max" or (mode == "auto" and words & _RISES) else -1
        self.patience = as_int("patience", patience, 1)
        self.min_delta = as_float("min_delta", min_delta, 0)
        self.monitor = monitor
        self.restore_best = restore_best
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.waited = 0
        self._weights: Tensors = {}

    def on_fit_begin(self, trainer: _Trainer) -> None:
        if not trainer.history:
            self._forget()
        self._stop_if_due(trainer)

    def on_epoch_end(self, trainer: _Trainer, record: Record) -> None:
        value = record.get(self.monitor)
        if self.best is None:
            self.check_measured([name for name, value in record.items() if value is not None])
        if value is not None and (self.best is None or self._sign * (value - self.best) > self.min_delta):
            self.best, self.waited = value, 0
            if self.restore_best:
                self._weights = {f"{owner}.{name}": tensor for owner in _OWNERS
                                 for name, tensor in getattr(trainer, owner).state_dict().items()}
        else:
            self.waited += 1
        self._stop_if_due(trainer)

    def check_measured(self, figures: Sequence[str]) -> None:
        """Raise ValueError where what is monitored is not among the figures that are measured."""
        if self.monitor not in figures:
            raise ValueError(f"monitor: {self.monitor} is not measured in this run; give fit a validation loader, put "
                             f"the callback that measures it before this one, or monitor one of {', '.join(figures)}")

    def _stop_if_due(self, trainer: _Trainer) -> None:
        if self.waited >= self.patience:
            trainer.stop(f"{self.monitor} has not improved for {self.waited} epochs")

    def on_fit_end(self, trainer: _Trainer) -> None:
        if self._weights:
            for owner in _OWNERS:
                getattr(trainer, owner).load_state_dict(part(self._weights, owner))

    def state_dict(self) -> Tensors:
        if self.best is None:
            return {}
        return {"best": np.array(self.best, np.float64), "waited": np.array(self.waited, np.int64), **self._weights}

    def load_state_dict(self, state: Tensors) -> None:
        self.best, self.waited = float(state["best"]), int(state["waited"])
        self._weights = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in _OWNERS}


class WeightHistograms(Callback):
    """Counts how the weights of each layer are spread, before the first epoch and after each.

    Parameters
    ----------
    bins : int, default 40
        Intervals between a layer's least and largest weight.

    Attributes
    ----------
    names : list of str
        The parameters of two or more dimensions: weights, not biases or scales.
    ranges : list of ndarray, shape (layers, 2)
        The least and the largest weight of each layer, for each time that was counted.
    counts : list of ndarray, shape (layers, bins)
        How many weights lie in each interval between them.

    Examples
    --------
    >>> from fastnn import data, nn, optim, training
    >>> model, histograms = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), training.WeightHistograms()
    >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01),
    ...                            callbacks=[histograms], progress=False)
    >>> loader = data.DataLoader(data.digits().train, 64, transform=data.Normalize(0.3, 0.4, 16))
    >>> _ = trainer.fit(loader, epochs=2)
    >>> histograms.names, [int(counts.sum()) for counts in histograms.counts]
    (['1.weight'], [640, 640, 640])
    """

    def __init__(self, bins: int = 40) -> None:
        self.bins = as_int("bins", bins, 1)
        self._forget()

    def _forget(self) -> None:
        self.names: list[str] = []
        self.ranges: list[NDArray[np.float64]] = []
        self.counts: list[NDArray[np.int64]] = []

    def on_fit_begin(self, trainer: _Trainer) -> None:
        if not trainer.history:
            self._forget()
        self.names = [name for name, parameter in trainer.model.named_parameters() if parameter.data.ndim > 1]
        if not self.counts:
            self._count(trainer)

    def on_epoch_end(self, trainer: _Trainer, record: Record) -> None:
        self._count(trainer)

    def _count(self, trainer: _Trainer) -> None:
        weights = [kernels.to_host(parameter.data) for parameter in trainer.model.parameters()
                   if parameter.data.ndim > 1]
        self.ranges.append(np.array([(weight.min(), weight.max()) for weight in weights], np.float64).reshape(-1, 2))
        self.counts.append(np.array([np.histogram(weight, self.bins)[0] for weight in weights],
                                    np.int64).reshape(-1, self.bins))

    def state_dict(self) -> Tensors:
        return {"ranges": np.stack(self.ranges), "counts": np.stack(self.counts)} if self.counts else {}

    def load_state_dict(self, state: Tensors) -> None:
        ranges, counts = state["ranges"], state["counts"]
        times_and_layers = counts.shape[:2]
        if counts.shape != (*times_and_layers, self.bins) or ranges.shape != (*times_and_layers, 2):
            raise ValueError(f"expected ranges of shape (times, layers, 2) and counts of (times, layers, {self.bins}), "
                             f"got {ranges.shape} and {counts.shape}")
        self.ranges, self.counts = list(ranges), list(counts)
