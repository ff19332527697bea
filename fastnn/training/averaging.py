"""Callbacks that average the weights over the steps: exponential moving average, and Lookahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from fastnn import kernels
from fastnn._checks import FLOATS, Array, as_float, as_int
from fastnn.nn import Module
from fastnn.nn.module import beside, checked_state
from fastnn.training.callback import Callback
from fastnn.training.checkpoint import Tensors, part

_OWNERS = "model", "loss"               # whose weights are averaged
_KEPT = "kept"


class _Trainer(Protocol):
    """What these callbacks use of the `Trainer`, whose module imports this one."""

    model: Module
    loss: Module


class Averaging(Callback):
    """What both share: averages beside the weights, which change places with them at the end of an epoch's steps.

    So the averages are what is validated, what checkpoints of an epoch hold as the model, and what the run ends with.
    The next epoch begins by changing back.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.updates = 0                # steps so far
        self._kept: dict[str, Array] = {}
        self._changed_places = self._resumes = False

    def on_fit_begin(self, trainer: _Trainer) -> None:
        if not self._resumes:
            self._forget()
        self._resumes = False
        live = _arrays(trainer)
        kept = checked_state(type(self).__name__, live, self._kept)[0] if self._kept else live
        self._kept = {name: beside(live[name], array.copy()) for name, array in kept.items()}

    def on_epoch_begin(self, trainer: _Trainer, epoch: int) -> None:
        if self._changed_places:
            self._change_places(trainer)

    def on_steps_end(self, trainer: _Trainer) -> None:
        self._change_places(trainer)

    def _change_places(self, trainer: _Trainer) -> None:
        for name, array in _arrays(trainer).items():
            before = array.copy()
            array[...] = self._kept[name]
            self._kept[name] = before
        self._changed_places = not self._changed_places

    def _average(self, trainer: _Trainer, share: float) -> dict[str, Array]:
        """Move the averages towards the weights by a share of the way, and return the weights."""
        live = _arrays(trainer)
        for name, array in live.items():
            self._kept[name] += share * (array - self._kept[name])
        return live

    def state_dict(self) -> Tensors:
        return {"updates": np.array(self.updates, np.int64), "changed_places": np.array(self._changed_places),
                **{f"{_KEPT}.{name}": kernels.to_host(array).copy() for name, array in self._kept.items()}}

    def load_state_dict(self, state: Tensors) -> None:
        self.updates, self._changed_places = int(state["updates"]), bool(state["changed_places"])
        self._kept, self._resumes = {**part(state, _KEPT)}, True


class ExponentialMovingAverage(Averaging):
    """Validates and keeps a moving average of the weights over the steps, which training itself does not see.

    The model has the average while an epoch is validated and saved, and when the run has ended. Running statistics of
    batch normalization are averaged too, and so are the parameters of a loss. A checkpoint holds the weights twice.

    Parameters
    ----------
    decay : float, default 0.999
        How much of the average each step keeps, from 0 to below 1: it reaches back over some 1 / (1 - decay) steps.

    Raises
    ------
    TypeError, ValueError
        If `decay` is no such number; in `fit`, before the first step, if another callback averages weights too.

    Notes
    -----
    average += (1 - d) (weight - average), with d the smaller of `decay` and (1 + t) / (10 + t) after t steps, so that
    the initial weights are soon forgotten. Some four passes over the weights a step. Polyak and Juditsky, "Acceleration
    of stochastic approximation by averaging" (SIAM J. Control Optim. 1992).

    Examples
    --------
    >>> from fastnn import data, nn, optim, training
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.5), progress=False,
    ...                            callbacks=[training.ExponentialMovingAverage(0.95)])
    >>> loader = data.DataLoader(data.digits().train, 64, transform=data.Normalize(0.3, 0.4, 16))
    >>> history = trainer.fit(loader, epochs=2)
    >>> trainer.evaluate(loader).accuracy > 0.9
    True
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = as_float("decay", decay, 0)
        if self.decay >= 1:
            raise ValueError(f"decay: expected a number below 1, got {decay}")
        super().__init__()

    def on_step_end(self, trainer: _Trainer, loss: Any) -> None:
        self.updates += 1
        self._average(trainer, 1 - min(self.decay, (1 + self.updates) / (10 + self.updates)))


class Lookahead(Averaging):
    """Sets the weights, every k steps, to slow weights that follow them by a share of the way.

    The model has the slow weights while an epoch is validated and saved, and when the run has ended. Running statistics
    of batch normalization are slow too, and so are the parameters of a loss; the optimizer's state stays as it is. A
    checkpoint holds the weights twice.

    Parameters
    ----------
    k : int, default 5
        Steps between two moves of the slow weights.
    alpha : float or callable, default 0.5
        The share of the way, from 0 to 1; or ``alpha(t)`` is the share after t steps.

    Raises
    ------
    TypeError, ValueError
        If `k` is below 1 or `alpha` no such number; in `fit`, before the first step, if another callback averages
        weights too.

    Notes
    -----
    slow += alpha (weight - slow), then weight = slow. Zhang and others, "Lookahead optimizer: k steps forward, 1 step
    back" (arXiv:1907.08610), algorithm 1.

    Examples
    --------
    >>> from fastnn import data, nn, optim, training
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.5), progress=False,
    ...                            callbacks=[training.Lookahead(k=5, alpha=0.8)])
    >>> loader = data.DataLoader(data.digits().train, 64, transform=data.Normalize(0.3, 0.4, 16))
    >>> history = trainer.fit(loader, epochs=2)
    >>> trainer.evaluate(loader).accuracy > 0.9
    True
    """

    def __init__(self, k: int = 5, alpha: float | Callable[[int], float] = 0.5) -> None:
        self.k = as_int("k", k, 1)
        self.alpha = alpha if callable(alpha) else as_float("alpha", alpha, 0, 1)
        super().__init__()

    def on_step_end(self, trainer: _Trainer, loss: Any) -> None:
        self.updates += 1
        if self.updates % self.k == 0:
            share = as_float("alpha", self.alpha(self.updates), 0, 1) if callable(self.alpha) else self.alpha
            for name, array in self._average(trainer, share).items():
                array[...] = self._kept[name]


def check_averaging(callbacks: Sequence[Callback]) -> None:
    """Raise ValueError where several callbacks would change the weights for theirs at once."""
    if len(names := [type(callback).__name__ for callback in callbacks if isinstance(callback, Averaging)]) > 1:
        raise ValueError(f"callbacks: expected at most one that averages weights, got {', '.join(names)}")


def _arrays(trainer: _Trainer) -> dict[str, Array]:
    """Return the floating arrays of the model and the loss, those with two names once."""
    named = {f"{owner}.{name}": array for owner in _OWNERS for name, array in getattr(trainer, owner)._arrays()
             if array.dtype in FLOATS}
    first = {id(array): name for name, array in reversed(named.items())}
    return {name: named[name] for name in reversed(first.values())}
