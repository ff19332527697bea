"""Gradient clipping, between backward and the optimizer's step."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import as_float
from fastnn.nn.module import Parameter


def clip_grad_norm_(parameters: Iterable[Parameter], max_norm: float) -> Any:
    """Scale all gradients by one factor so that their norm, taken together, is at most `max_norm`.

    Pascanu and others, "On the difficulty of training recurrent neural networks" (arXiv:1211.5063), algorithm 1. The
    factor is min(1, max_norm / (norm + 1e-6)), as in torch; a gradient that is not finite leaves no finite one.

    Parameters
    ----------
    parameters : iterable of Parameters
        Those without a gradient do not count.
    max_norm : float
        The largest norm that is left as it is.

    Returns
    -------
    float
        The norm before, of squares summed in float64. Of gradients on a GPU it is an array of no dimensions there, for
        which nothing has waited.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, optim
    >>> parameter = nn.Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    >>> optim.clip_grad_norm_([parameter], 1.0)
    5.0
    >>> parameter.grad.round(4)
    array([0.6, 0.8])
    """
    max_norm = as_float("max_norm", max_norm, 0)
    grads = [(parameter, parameter.grad) for parameter in _checked(parameters) if parameter.grad is not None]
    on_device = any(_device.is_device(grad) for _, grad in grads)
    with np.errstate(over="ignore", invalid="ignore"):
        unit, root = _norm([grad for _, grad in grads], _device.xp if on_device else np)
        factor = max_norm / unit / (root + 1e-6 / unit)
        if on_device:
            factor = _device.xp.minimum(factor, 1.0)
        if on_device or not factor >= 1:
            for parameter, grad in grads:
                scaled = grad * factor.astype(grad.dtype)
                parameter.grad = scaled if on_device else np.asarray(scaled)
        return unit * root if on_device else float(unit * root)


def _checked(parameters: Iterable[Parameter]) -> list[Parameter]:
    given = list(parameters) if isinstance(parameters, Iterable) else [parameters]
    for parameter in given:
        if not isinstance(parameter, Parameter):
            raise TypeError(f"parameters: expected a list of Parameters, got {type(parameter).__name__}; give "
                            "model.parameters()")
    return given


def _norm(grads: Sequence[Any], xp: Any) -> tuple[Any, Any]:
    """Return the norm as a power of two and what is to be multiplied by it: their product may leave float64's range."""
    unit = np.float64(1)
    if any(grad.dtype == np.float64 for grad in grads):         # squares of others stay within the range
        largest = functools.reduce(xp.maximum, [xp.abs(grad).max() for grad in grads if grad.size], unit * 0)
        exponent = xp.where(xp.isfinite(largest), xp.frexp(largest)[1] - 1, 0)
        unit = xp.ldexp(1.0, xp.maximum(exponent, -500))
        grads = [xp.divide(grad, unit, dtype=np.float64) for grad in grads]
    return unit, xp.sqrt(sum((xp.square(grad, dtype=np.float64).sum() for grad in grads), np.float64(0)))


def clip_grad_value_(parameters: Iterable[Parameter], value: float) -> None:
    """Move each element of each gradient into [-value, value].

    Parameters
    ----------
    parameters : iterable of Parameters
        Those without a gradient do not count.
    value : float
        The largest absolute value that is left as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, optim
    >>> parameter = nn.Parameter(np.zeros(2), grad=np.array([3.0, -0.5]))
    >>> optim.clip_grad_value_([parameter], 1.0)
    >>> parameter.grad
    array([ 1. , -0.5])
    """
    value = as_float("value", value, 0)
    for parameter in _checked(parameters):
        if parameter.grad is not None:
            clipped = np.clip(parameter.grad, -value, value)
            parameter.grad = clipped if _device.is_device(clipped) else np.asarray(clipped)
