"""Magnitude pruning: the smallest weights of a model become 0 and stay it, while the others learn on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_float, as_int
from fastnn.nn import Module, Parameter
from fastnn.nn.module import beside, checked_state
from fastnn.training.averaging import Averaging
from fastnn.training.callback import Callback
from fastnn.training.checkpoint import Tensors, part

_MASKS = "masks"


class _Trainer(Protocol):
    """What the callback uses of the `Trainer`, whose module imports this one."""

    model: Module


def prunable(model: Module) -> dict[str, Parameter]:
    """Return the parameters that can be pruned: weights, which have two or more dimensions, but for frozen ones.

    Biases, and the scales of batch normalization, are few, and no sum of many that could do without one.

    Examples
    --------
    >>> from fastnn import nn
    >>> from fastnn.training import pruning
    >>> list(pruning.prunable(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))))
    ['0.weight', '3.weight']
    """
    return {name: parameter for name, parameter in model.named_parameters()
            if parameter.data.ndim >= 2 and parameter.requires_grad}


def sparsity(model: Module) -> float:
    """Return the share of the weights of a model that are 0, of those that can be pruned; 0 where there are none.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> from fastnn.training import pruning
    >>> layer = nn.Linear(2, 2)
    >>> layer.weight.data[...] = [[0, 1], [2, 3]]
    >>> pruning.sparsity(layer)
    0.25
    """
    weights = [parameter.data for parameter in prunable(model).values()]
    return _zeros(weights) / max(1, sum(weight.size for weight in weights))


def magnitude_masks(model: Module, sparsity: float) -> dict[str, Array]:
    """Say which weights of a model stay when the smallest of all its layers together go.

    Parameters
    ----------
    model : Module
        Its weights are those of `prunable`.
    sparsity : float
        The share of the weights that go, from 0 to below 1: the nearest number of weights.

    Returns
    -------
    dict of str to ndarray of bool
        For each weight by its name, True where it stays. Of equal magnitudes the first ones go.

    Raises
    ------
    TypeError, ValueError
        If `sparsity` is no such number, or the model has no weights, or one that is not finite.

    Notes
    -----
    Time and memory grow linearly with the number of weights. Han, Pool, Tran and Dally, "Learning both weights and
    connections for efficient neural networks" (arXiv:1506.02626), with one threshold for all layers.

    Examples
    --------
    >>> from fastnn import nn
    >>> from fastnn.training import pruning
    >>> layer = nn.Linear(4, 1)
    >>> layer.weight.data[...] = [[0.5, -0.1, -2, 0.3]]
    >>> pruning.magnitude_masks(layer, 0.5)
    {'weight': array([[ True, False,  True, False]])}
    """
    share = as_sparsity("sparsity", sparsity)
    weights = {name: kernels.to_host(parameter.data) for name, parameter in prunable(model).items()}
    if not weights:
        raise ValueError("model: expected weights to prune, parameters of two or more dimensions that are not frozen, "
                         f"but this {type(model).__name__} has none")
    if broken := [name for name, weight in weights.items() if not np.isfinite(weight).all()]:
        raise ValueError(f"model: expected finite weights, but {broken[0]} is not finite")
    magnitudes = np.abs(np.concatenate([weight.ravel() for weight in weights.values()]))
    count = round(share * magnitudes.size)
    stay = np.ones(magnitudes.size, bool)
    if count:
        threshold = np.partition(magnitudes, count - 1)[count - 1]
        np.greater_equal(magnitudes, threshold, out=stay)
        equal = np.flatnonzero(magnitudes == threshold)
        stay[equal[: count - np.count_nonzero(~stay)]] = False
    parts = np.split(stay, np.cumsum([weight.size for weight in weights.values()])[:-1])
    return {name: mask.reshape(weight.shape) for (name, weight), mask in zip(weights.items(), parts)}


def apply_masks(model: Module, masks: Mapping[str, Array]) -> None:
    """Set weights of a model to 0, in place, where the mask of their name is False.

    Examples
    --------
    >>> from fastnn import nn
    >>> from fastnn.training import pruning
    >>> model = nn.Linear(100, 10)
    >>> pruning.apply_masks(model, pruning.magnitude_masks(model, 0.9))
    >>> pruning.sparsity(model)
    0.9
    """
    weights = {name: parameter.data for name, parameter in model.named_parameters()}
    for name, mask in _checked(masks, model).items():
        _keep(weights[name], mask)


def _checked(masks: Mapping[str, Array], model: Module) -> dict[str, Array]:
    """Return masks where the parameters of their names lie, whose shapes they have."""
    weights = {name: parameter.data for name, parameter in model.named_parameters() if name in masks}
    own = {name: np.empty(weight.shape, bool) for name, weight in weights.items()}
    given, _ = checked_state(type(model).__name__, own, masks)
    return {name: beside(weights[name], mask) for name, mask in given.items()}


def _zeros(arrays: Iterable[Array]) -> int:
    return sum(array.size - int(np.count_nonzero(kernels.to_host(array))) for array in arrays)


def _keep(array: Array, mask: Array) -> None:
    array[...] = np.where(mask, array, 0)


class Pruning(Callback):
    """Sets the smallest weights of the model to 0, more and more of them, while the others learn on.

    What is 0 stays it: after each step, and in what is validated and saved.

    Parameters
    ----------
    sparsity : float
        The share of the weights that are 0 in the end, from 0 to below 1; see `magnitude_masks`.
    begin_step : int, default 0
        After how many steps of the run the first weights go.
    end_step : int, optional
        After how many the last ones go; by default all go at `begin_step`.
    frequency : int, default 100
        Steps from one time to the next between the two.
    initial_sparsity : float, default 0
        The share that goes at `begin_step`: that of a model which was pruned before.

    Attributes
    ----------
    masks : dict of str to array of bool
        Which weights have stayed; empty before `begin_step`.
    steps : int
        Steps so far.

    Raises
    ------
    TypeError, ValueError
        If an option is no such number, `end_step` comes before `begin_step`, or `initial_sparsity` is above `sparsity`;
        in `fit`, before the first step, if a callback that averages weights follows: it would put back what has gone.

    Notes
    -----
    After t steps the share is

        s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3,

    which rises fast while many weights are of little use, and slowly at the end. Zhu and Gupta, "To prune, or not to
    prune" (arXiv:1710.01878), equation 1. A step costs some six passes over the weights more, one at which weights go
    some ten further ones; on a GPU it waits for a copy of them.

    A run that is resumed may have other options: what is missing by then goes before its next step, and what has gone
    does not come back.

    EarlyStopping with restore_best, and best.safetensors, may be of an epoch before the last weights went.

    Examples
    --------
    >>> from fastnn import data, nn, optim, training
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> loader = data.DataLoader(data.digits().train, 64, transform=data.Normalize(0.3, 0.4, 16))
    >>> pruned = training.Pruning(0.8, end_step=2 * len(loader), frequency=5)
    >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01),
    ...                            callbacks=[pruned], progress=False)
    >>> history = trainer.fit(loader, epochs=5)
    >>> round(training.pruning.sparsity(model), 2), history["train_accuracy"][-1] > 0.9
    (0.8, np.True_)
    """

    def __init__(self, sparsity: float, *, begin_step: int = 0, end_step: int | None = None,
                 frequency: int = 100, initial_sparsity: float = 0.0) -> None:
        self.sparsity = as_sparsity("sparsity", sparsity)
        self.initial_sparsity = as_sparsity("initial_sparsity", initial_sparsity)
        self.begin_step = as_int("begin_step", begin_step, 0)
        self.end_step = self.begin_step if end_step is None else as_int("end_step", end_step, self.begin_step)
        self.frequency = as_int("frequency", frequency, 1)
        if self.initial_sparsity > self.sparsity:
            raise ValueError(f"initial_sparsity: expected at most the sparsity, {sparsity}, got {initial_sparsity}")
        self._forget()

    def _forget(self) -> None:
        self.steps, self._resumes = 0, False
        self.masks: dict[str, Array] = {}

    def sparsity_at(self, step: int) -> float:
        """Return the share of the weights that have gone after so many steps, from `begin_step` on."""
        if step >= self.end_step:
            return self.sparsity
        left = 1 - (step - self.begin_step) / (self.end_step - self.begin_step)
        return self.sparsity + (self.initial_sparsity - self.sparsity) * left**3

    def on_fit_begin(self, trainer: _Trainer) -> None:
        if not self._resumes:
            self._forget()
        self._resumes = False
        if self.masks:
            self.masks = _checked(self.masks, trainer.model)
        since = self.steps - self.begin_step
        if since >= 0:
            self._prune(trainer.model, self.steps - (since % self.frequency if self.steps < self.end_step else 0))
        self._clear(trainer.model)

    def on_gradients(self, trainer: _Trainer) -> None:
        for parameter, mask in self._masked(trainer.model):
            if parameter.grad is not None:          # which would count in the norm by which gradients are clipped
                _keep(parameter.grad, mask)

    def on_step_end(self, trainer: _Trainer, loss: Any) -> None:
        self.steps += 1
        since = self.steps - self.begin_step
        if self.steps == self.end_step or (0 <= since < self.end_step - self.begin_step
                                           and since % self.frequency == 0):
            self._prune(trainer.model, self.steps)
        self._clear(trainer.model)                  # momentum and averages move what has no gradient

    def on_steps_end(self, trainer: _Trainer) -> None:
        self._clear(trainer.model)

    def _prune(self, model: Module, step: int) -> None:
        """Choose what has gone after so many steps, unless as much has gone already."""
        masks = magnitude_masks(model, self.sparsity_at(step))
        if not self.masks or _zeros(masks.values()) > _zeros(self.masks.values()):
            weights = prunable(model)
            self.masks = {name: beside(weights[name].data, mask) for name, mask in masks.items()}

    def _clear(self, model: Module) -> None:
        for parameter, mask in self._masked(model):
            _keep(parameter.data, mask)

    def _masked(self, model: Module) -> list[tuple[Parameter, Array]]:
        return [(parameter, self.masks[name]) for name, parameter in model.named_parameters() if name in self.masks]

    def state_dict(self) -> Tensors:
        return {"steps": np.array(self.steps, np.int64),
                **{f"{_MASKS}.{name}": kernels.to_host(mask) for name, mask in self.masks.items()}}

    def load_state_dict(self, state: Tensors) -> None:
        self.steps, self.masks, self._resumes = int(state["steps"]), part(state, _MASKS), True


def check_pruning(callbacks: Sequence[Callback]) -> None:
    """Raise ValueError where a callback would put back weights that another one has set to 0."""
    kinds = [isinstance(callback, Averaging) for callback in callbacks]
    for place, callback in enumerate(callbacks):
        if isinstance(callback, Pruning) and True in kinds[place:]:
            name = type(callbacks[kinds.index(True, place)]).__name__
            raise ValueError(f"callbacks: expected {name}, which averages weights, before {type(callback).__name__}, "
                             "got it behind, where it would put back weights that have gone")


def as_sparsity(name: str, value: float) -> float:
    """Return a share of weights that go as a float: from 0 to below 1."""
    number = as_float(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name}: expected a number from 0 to below 1, got {value}")
    return number
