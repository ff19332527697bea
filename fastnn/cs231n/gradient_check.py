"""The course's numeric gradients: central differences, (f(x + h) - f(x - h)) / 2h for each element of x.

`fastnn.testing.check_gradients` does it for layers, and knows of kinks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array, as_int, check_shape

__all__ = ["eval_numerical_gradient", "eval_numerical_gradient_array", "grad_check_sparse"]


def eval_numerical_gradient(f: Callable[[Array], Any], x: Array, verbose: bool = True, h: float = 1e-5) -> Array:
    """Return the numeric gradient of a function whose value is a number.

    Parameters
    ----------
    f : callable
        Takes x, returns a number.
    x : float array of any shape
        Where the gradient is wanted. Its elements are moved one at a time, and put back.
    verbose : bool
        Whether to print each element.
    h : float
        The step.

    Returns
    -------
    array of x's shape
        The gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import eval_numerical_gradient
    >>> eval_numerical_gradient(lambda x: np.sum(x**2), np.array([1.0, 2.0]), verbose=False).round(6)
    array([2., 4.])
    """
    _check_float(x)
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        grad[index] = _difference(f, x, index, h) / (2 * h)
        if verbose:
            print(index, grad[index])
    return grad


def eval_numerical_gradient_array(f: Callable[[Array], Array], x: Array, df: Array, h: float = 1e-5) -> Array:
    """Return the numeric gradient of sum(df f(x)) for a function whose value is an array.

    Parameters
    ----------
    f : callable
        Takes x, returns an array.
    x : float array of any shape
        Where the gradient is wanted. Its elements are moved one at a time, and put back.
    df : array of f(x)'s shape
        The gradient by f(x).
    h : float
        The step.

    Returns
    -------
    array of x's shape
        The gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import eval_numerical_gradient_array
    >>> eval_numerical_gradient_array(lambda x: x**2, np.array([1.0, 2.0]), np.array([1.0, 10.0])).round(6)
    array([ 2., 40.])
    """
    _check_float(x)
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        grad[index] = np.sum(_difference(f, x, index, h) * df) / (2 * h)
    return grad


def grad_check_sparse(f: Callable[[Array], Any], x: Array, analytic_grad: Array, num_checks: int = 10,
                      h: float = 1e-5) -> None:
    """Print the numeric gradient beside the analytic one for some elements of x, drawn by Python's `random`.

    Parameters
    ----------
    f : callable
        Takes x, returns a number.
    x : float array of any shape
        Where the gradient is wanted. Its elements are moved one at a time, and put back.
    analytic_grad : array of x's shape
        The gradient to check.
    num_checks : int
        How many elements are drawn.
    h : float
        The step.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import grad_check_sparse
    >>> grad_check_sparse(lambda x: 3 * x[0], np.zeros(1), np.array([3.0]), num_checks=1, h=0.5)
    numerical: 3.000000 analytic: 3.000000, relative error: 0.000000e+00
    """
    _check_float(x)
    check_shape("analytic_grad", analytic_grad, x.shape)
    for _ in range(as_int("num_checks", num_checks, 0)):
        index = tuple(random.randrange(size) for size in x.shape)
        numerical, analytic = float(_difference(f, x, index, h)) / (2 * h), float(analytic_grad[index])
        error = abs(numerical - analytic) / ((abs(numerical) + abs(analytic)) or 1)
        print(f"numerical: {numerical:f} analytic: {analytic:f}, relative error: {error:e}")


def _difference(f: Callable[[Array], Any], x: Array, index: tuple[int, ...], h: float) -> Any:
    """Return f(x + h) - f(x - h), h being added to one element."""
    kept = x[index]
    try:
        x[index] = kept + h
        above = np.array(f(x))              # a copy: f may return x itself
        x[index] = kept - h
        return above - np.asarray(f(x))
    finally:
        x[index] = kept


def _check_float(x: Array) -> None:
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        raise TypeError(f"x: expected an array of floats, to which a small step can be added, got "
                        f"{x.dtype if isinstance(x, np.ndarray) else type(x).__name__}")
