"""Learning-rate schedules: pure functions of time in epochs, `schedule(t) -> factor` of the learning rate.

Time is a float, epoch + step / steps_per_epoch, so a schedule has no state and a resumed run needs none of it. Any
function of that kind is a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastnn._checks import Array, as_float, as_int, is_sequence


@dataclass(frozen=True)
class StepLR:
    """gamma to the power of n, the number of times that step_size epochs have passed.

    Parameters
    ----------
    step_size : float
        Epochs between two steps.
    gamma : float
        Factor at each step.

    Examples
    --------
    >>> from fastnn import optim
    >>> schedule = optim.StepLR(10, gamma=0.5)
    >>> [schedule(t) for t in (0, 9.99, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """

    step_size: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_length("step_size", self.step_size)
        as_float("gamma", self.gamma, 0)

    def __call__(self, t: float) -> float:
        return float(self.gamma ** (t // self.step_size))


@dataclass(frozen=True)
class MultiStepLR:
    """gamma to the power of n, the number of milestones that have passed.

    Parameters
    ----------
    milestones : sequence of floats
        The epochs of the steps.
    gamma : float
        Factor at each step.

    Examples
    --------
    >>> from fastnn import optim
    >>> schedule = optim.MultiStepLR((40, 80), gamma=0.5)
    >>> [schedule(t) for t in (0, 40, 99)]
    [1.0, 0.5, 0.25]
    """

    milestones: Sequence[float]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not is_sequence(self.milestones):
            raise TypeError(f"milestones: expected a sequence of numbers, got {self.milestones!r:.100}")
        for milestone in self.milestones:
            as_float("milestones", milestone, 0)
        as_float("gamma", self.gamma, 0)

    def __call__(self, t: float) -> float:
        return float(self.gamma ** sum(t >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class CosineLR:
    """Half a cosine wave from 1 down to `final`, which it keeps from then on.

    Loshchilov and Hutter, "SGDR" (arXiv:1608.03983), equation 5, without restarts.

    Parameters
    ----------
    total : float
        Epochs until the end.
    final : float
        The last factor.

    Examples
    --------
    >>> from fastnn import optim
    >>> schedule = optim.CosineLR(20, final=0.2)
    >>> [round(schedule(t), 4) for t in (0, 10, 20, 30)]
    [1.0, 0.6, 0.2, 0.2]
    """

    total: float
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_length("total", self.total)
        as_float("final", self.final, 0)

    def __call__(self, t: float) -> float:
        return _cosine(1.0, self.final, t / self.total)


@dataclass(frozen=True)
class Warmup:
    """A straight line from `start` up to 1, then another schedule, whose time starts at 0 there.

    Goyal and others, "Accurate, large minibatch SGD" (arXiv:1706.02677), section 2.2.

    Parameters
    ----------
    length : float
        Epochs until 1.
    then : schedule, optional
        What follows; 1 if it is not given.
    start : float
        The first factor.

    Examples
    --------
    >>> from fastnn import optim
    >>> schedule = optim.Warmup(5, then=optim.CosineLR(20))
    >>> [round(schedule(t), 4) for t in (0, 2.5, 5, 15, 25)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    length: float
    then: Callable[[float], float] | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        _check_length("length", self.length)
        as_float("start", self.start, 0)

    def __call__(self, t: float) -> float:
        if t < self.length:
            return self.start + (1 - self.start) * t / self.length
        return 1.0 if self.then is None else self.then(t - self.length)


@dataclass(frozen=True)
class OneCycleLR:
    """Half a cosine wave from `start` up to 1, and one down to `final`, which it keeps from then on.

    Smith and Topin, "Super-convergence" (arXiv:1708.07120), with cosines for straight lines as in torch. The learning
    rate of the optimizer is that of the peak.

    Parameters
    ----------
    total : float
        Epochs until the end.
    peak_at : float
        Where the peak is, as a share of the total.
    start, final : float
        The first and the last factor.

    Examples
    --------
    >>> from fastnn import optim
    >>> schedule = optim.OneCycleLR(10)
    >>> [round(schedule(t), 4) for t in (0, 3, 10)]
    [0.04, 1.0, 0.0001]
    """

    total: float
    peak_at: float = 0.3
    start: float = 1 / 25
    final: float = 1e-4

    def __post_init__(self) -> None:
        _check_length("total", self.total)
        as_float("peak_at", self.peak_at, 0, 1)
        as_float("start", self.start, 0)
        as_float("final", self.final, 0)

    def __call__(self, t: float) -> float:
        peak = self.peak_at * self.total
        if t < peak:
            return _cosine(self.start, 1.0, t / peak)
        return _cosine(1.0, self.final, (t - peak) / (self.total - peak)) if t < self.total else self.final


def simulate(schedule: Callable[[float], float], epochs: int, steps_per_epoch: int) -> Array:
    """Return the factor of every step of a run, to look at or plot before it.

    Parameters
    ----------
    schedule : schedule
        A function of time in epochs.
    epochs, steps_per_epoch : int
        The length of the run.

    Returns
    -------
    float64 array of shape (epochs * steps_per_epoch,)
        The factors.

    Examples
    --------
    >>> from fastnn import optim
    >>> optim.simulate(optim.Warmup(1), epochs=2, steps_per_epoch=2)
    array([0. , 0.5, 1. , 1. ])
    """
    steps = range(as_int("epochs", epochs, 0) * as_int("steps_per_epoch", steps_per_epoch, 1))
    return np.array([schedule(step // steps_per_epoch + step % steps_per_epoch / steps_per_epoch) for step in steps],
                    np.float64)


def _cosine(begin: float, end: float, share: float) -> float:
    """Half a cosine wave from `begin` to `end` at this share of the way."""
    return end + (begin - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def _check_length(name: str, value: float) -> None:
    if as_float(name, value) <= 0:
        raise ValueError(f"{name}: expected a positive number of epochs, got {value}")
