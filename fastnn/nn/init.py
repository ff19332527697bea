"""Initial weights: functions `(shape, rng, dtype) -> array`, what the layers take as `init`.

Weights are drawn in float64 and rounded, so that models of both dtypes start from the same values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from fastnn._checks import Array, as_float

Init: TypeAlias = Callable[[tuple[int, ...], np.random.Generator, DTypeLike], Array]


def he_normal(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
    """Draw from N(0, 2 / fan_in), which keeps the variance through layers with ReLU.

    He and others, "Delving deep into rectifiers" (arXiv:1502.01852), equation 10; torch's kaiming_normal_ for ReLU.

    Parameters
    ----------
    shape : tuple of ints
        (outputs, inputs, ...), at least two dimensions; fan_in is all but the first multiplied.
    rng : numpy.random.Generator
        Where the numbers come from.
    dtype : float32 or float64
        Of the result.

    Examples
    --------
    >>> from fastnn import random
    >>> from fastnn.nn import init
    >>> weight = init.he_normal((100, 50), random.generator(0, "init"))
    >>> abs(weight.std() - 0.2) < 0.01
    np.True_
    """
    return normal(math.sqrt(2 / _fans(shape)[0]))(shape, rng, dtype)


def he_uniform(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
    """Draw from U(-b, b) with b = sqrt(6 / fan_in), the uniform law of `he_normal`'s variance.

    He and others, arXiv:1502.01852; torch's kaiming_uniform_ for ReLU. Parameters as for `he_normal`.

    Examples
    --------
    >>> from fastnn import random
    >>> from fastnn.nn import init
    >>> weight = init.he_uniform((100, 6), random.generator(0, "init"))
    >>> 0.9 < abs(weight).max() <= 1
    np.True_
    """
    return _uniform(math.sqrt(6 / _fans(shape)[0]), shape, rng, dtype)


def xavier_normal(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
    """Draw from N(0, 2 / (fan_in + fan_out)), for layers with tanh or sigmoid.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010),
    equation 12; torch's xavier_normal_. Parameters as for `he_normal`.

    Examples
    --------
    >>> from fastnn import random
    >>> from fastnn.nn import init
    >>> weight = init.xavier_normal((100, 100), random.generator(0, "init"))
    >>> abs(weight.std() - 0.1) < 0.01
    np.True_
    """
    return normal(math.sqrt(2 / sum(_fans(shape))))(shape, rng, dtype)


def xavier_uniform(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
    """Draw from U(-b, b) with b = sqrt(6 / (fan_in + fan_out)), the uniform law of `xavier_normal`'s variance.

    Glorot and Bengio (AISTATS 2010), equation 16; torch's xavier_uniform_. Parameters as for `he_normal`.

    Examples
    --------
    >>> from fastnn import random
    >>> from fastnn.nn import init
    >>> weight = init.xavier_uniform((3, 3, 1, 1), random.generator(0, "init"))
    >>> weight.shape, abs(weight).max() <= 1
    ((3, 3, 1, 1), np.True_)
    """
    return _uniform(math.sqrt(6 / sum(_fans(shape))), shape, rng, dtype)


def normal(std: float) -> Init:
    """Return an initializer that draws from N(0, std^2).

    Examples
    --------
    >>> from fastnn import nn
    >>> layer = nn.Linear(50, 100, init=nn.init.normal(0.01))
    >>> abs(layer.weight.data.std() - 0.01) < 0.001
    np.True_
    """
    std = as_float("std", std, 0)

    def draw(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
        return (std * rng.standard_normal(shape)).astype(dtype)

    return draw


def zeros(shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> Array:
    """Return zeros, for a last layer that starts with equal scores; nothing is drawn.

    Examples
    --------
    >>> from fastnn import nn
    >>> nn.Linear(2, 1, init=nn.init.zeros).weight.data
    array([[0., 0.]], dtype=float32)
    """
    return np.zeros(shape, dtype)


def _uniform(bound: float, shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike) -> Array:
    return rng.uniform(-bound, bound, shape).astype(dtype)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many inputs a result depends on, and how many results an input reaches, counted as torch does."""
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"shape: expected at least two dimensions (outputs, inputs, ...), none of them 0, got {shape}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps
