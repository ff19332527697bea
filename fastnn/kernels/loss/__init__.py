"""Losses: how far scores or predictions are from the truth, and the gradient of that."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import (
    Array,
    as_array,
    as_float,
    as_floats,
    as_labels,
    check_choice,
    check_not_empty,
    check_rank,
    check_shape,
    check_side,
)
from fastnn.kernels._door import door
from fastnn.kernels._outputs import empty_beside
from fastnn.kernels._targets import implementation

_REDUCTIONS = ("mean", "sum", "none")


@door
def cross_entropy(x: Array, labels: Array, *, label_smoothing: float = 0.0, reduction: str = "mean",
                  target: str | None = None) -> Any:
    """Return the negative log-likelihood of labels under the softmax of scores.

    Parameters
    ----------
    x : array of shape (N, C)
        Scores, float32 or float64, at least one row and one class.
    labels : array of shape (N,)
        Classes from 0 to C - 1, of any integer dtype. (torch calls them `target`.)
    label_smoothing : float
        The share s, from 0 to 1, of the truth that is spread evenly over the classes.
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of the rows.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    NumPy scalar, or array of shape (N,) for "none"
        Of x's dtype; for arrays on a GPU an array of no dimensions there.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, a label is out of range, or there are no rows.

    Notes
    -----
    loss[n] = (1 - s) (L - x[n, label]) + s (L - mean of x[n]), with L = log(sum of exp(x[n])).
    Some 25 operations a score, each read twice, the second time from the cache. All is formed of differences from the
    largest score, in float64, so that nothing cancels or overflows, over the rows in a fixed order. For each row
    |error| <= eps (|loss| + 2 + log(C)) + 1.1e-16 C (|loss| + 1); a sum or a mean of N rows adds 1.1e-16 N of itself.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> float(kernels.cross_entropy(np.array([[1000.0, 0.0], [-1000.0, 0.0]]), np.array([1, 1])))
    500.0
    """
    x, labels = _scores(x, labels)
    smoothing = as_float("label_smoothing", label_smoothing, 0, 1)
    _check_reduction(reduction)
    losses, unit = empty_beside(x, (len(x),), np.float64), _unit(len(x), reduction)
    implementation(__name__, target, x).cross_entropy(x, labels, smoothing, unit, losses)
    return _reduced(losses, len(x) * unit, reduction, x.dtype)


@door
def cross_entropy_backward(grad_output: Any, x: Array, labels: Array, *, label_smoothing: float = 0.0,
                           reduction: str = "mean", target: str | None = None) -> Array:
    """Return the gradient by the scores of `cross_entropy`.

    Parameters
    ----------
    grad_output : float, or array of shape (N,) for "none"
        Gradient by the loss.
    x, labels, label_smoothing, reduction
        The arguments of `cross_entropy`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, C)
        g (softmax(x[n]) - (1 - s) [c = label] - s / C), where g is grad_output, over N for "mean".

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, or if grad_output does not fit.

    Notes
    -----
    Some 45 operations a score, each read twice, the second time from the cache, and written once.
    |error| <= (4 eps + 1.1e-16 C) |g|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.cross_entropy_backward(1.0, np.array([[0.0, 0.0]]), np.array([1]))
    array([[ 0.5, -0.5]])
    """
    x, labels = _scores(x, labels)
    smoothing = as_float("label_smoothing", label_smoothing, 0, 1)
    grad_losses = _grad_losses(grad_output, reduction, (len(x),), x)
    grad_x = empty_beside(x, x.shape, x.dtype)
    implementation(__name__, target, x).cross_entropy_backward(grad_losses, x, labels, smoothing, grad_x)
    return grad_x


@door
def hinge_loss(x: Array, labels: Array, *, margin: float = 1.0, reduction: str = "mean",
               target: str | None = None) -> Any:
    """Return how far scores of wrong classes come within a margin of the right one's: the multiclass SVM loss.

    Parameters
    ----------
    x : array of shape (N, C)
        Scores, float32 or float64, at least one row and one class.
    labels : array of shape (N,)
        Classes from 0 to C - 1, of any integer dtype.
    margin : float
        By how much the right class shall lead.
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of the rows.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    NumPy scalar, or array of shape (N,) for "none"
        Of x's dtype; for arrays on a GPU an array of no dimensions there.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, a label is out of range, or there are no rows.

    Notes
    -----
    loss[n] = sum over c != label of max(0, margin + x[n, c] - x[n, label]): C times torch's `multi_margin_loss`, but
    NaN stays NaN, where torch turns it into 0. Five operations a score, each read once. Weston and Watkins, "Support
    vector machines for multi-class pattern recognition" (ESANN 1999). Formed in float64, each term without cancellation
    however large the scores are: |error| <= (eps + 1.1e-16 C) |loss|; a sum or a mean of N rows adds 1.1e-16 N of
    itself.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> float(kernels.hinge_loss(np.array([[3.0, 2.5, 0.0]]), np.array([0])))
    0.5
    """
    x, labels = _scores(x, labels)
    margin = as_float("margin", margin)
    _check_reduction(reduction)
    losses, unit = empty_beside(x, (len(x),), np.float64), _unit(len(x), reduction)
    implementation(__name__, target, x).hinge_loss(x, labels, margin, unit, losses)
    return _reduced(losses, len(x) * unit, reduction, x.dtype)


@door
def hinge_loss_backward(grad_output: Any, x: Array, labels: Array, *, margin: float = 1.0, reduction: str = "mean",
                        target: str | None = None) -> Array:
    """Return the gradient by the scores of `hinge_loss`.

    Parameters
    ----------
    grad_output : float, or array of shape (N,) for "none"
        Gradient by the loss.
    x, labels, margin, reduction
        The arguments of `hinge_loss`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, C)
        g for each wrong class within the margin, 0 for the others (also at the kink), and minus the row's sum for the
        right class, where g is grad_output, over N for "mean".

    Raises
    ------
    TypeError, ValueError
        As `hinge_loss`, or if grad_output does not fit.

    Notes
    -----
    Five operations a score, each read and written once. Who comes within the margin is found exactly.
    |error| <= 2 eps |result|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.hinge_loss_backward(1.0, np.array([[3.0, 2.5, 0.0]]), np.array([0]))
    array([[-1.,  1.,  0.]])
    """
    x, labels = _scores(x, labels)
    margin = as_float("margin", margin)
    grad_losses = _grad_losses(grad_output, reduction, (len(x),), x)
    grad_x = empty_beside(x, x.shape, x.dtype)
    implementation(__name__, target, x).hinge_loss_backward(grad_losses, x, labels, margin, grad_x)
    return grad_x


@door
def mse_loss(x: Array, y: Array, *, reduction: str = "mean", target: str | None = None) -> Any:
    """Return the squares of the differences of two arrays, their mean or their sum.

    Parameters
    ----------
    x, y : arrays of one shape
        Predictions and truth, float32 or float64, at least one element; nothing is broadcast.
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of the elements.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    NumPy scalar, or array of x's shape for "none"
        Of x's dtype; for arrays on a GPU an array of no dimensions there.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or the option do not fit, or there are no elements.

    Notes
    -----
    Three operations an element; two are read. Formed in float64 and rounded once: |error| <= 1.5 eps |loss| for each
    element, eps in float32. Elements are summed in a fixed order; a sum or a mean of n adds 1.1e-16 n of itself. In
    float64 a mean below 1e-307 n loses digits.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> float(kernels.mse_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0])))
    2.0
    """
    x, y = as_floats(x=x, y=y)
    check_shape("y", y, x.shape)
    check_not_empty("x", x)
    _check_reduction(reduction)
    run = implementation(__name__, target, x)
    if reduction == "none":
        losses = empty_beside(x, x.shape, x.dtype)
        run.mse_loss(x.reshape(-1), y.reshape(-1), losses.reshape(-1))
        return losses
    unit = _unit(math.isqrt(x.size) + 1, reduction)     # of differences
    sums = run.mse_loss_sums(x.reshape(-1), y.reshape(-1), unit)
    return _reduced(sums, x.size * unit * unit, reduction, x.dtype)


@door
def mse_loss_backward(grad_output: Any, x: Array, y: Array, *, reduction: str = "mean",
                      target: str | None = None) -> Array:
    """Return the gradient by x of `mse_loss`; the gradient by y is its negative.

    Parameters
    ----------
    grad_output : float, or array of x's shape for "none"
        Gradient by the loss.
    x, y, reduction
        The arguments of `mse_loss`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        2 g (x - y), where g is grad_output, over the number of elements for "mean".

    Raises
    ------
    TypeError, ValueError
        As `mse_loss`, or if grad_output does not fit.

    Notes
    -----
    Three operations an element, in float64; two are read and one is written. |error| <= 2 eps |result|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.mse_loss_backward(1.0, np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    array([ 0., -2.])
    """
    x, y = as_floats(x=x, y=y)
    check_shape("y", y, x.shape)
    check_not_empty("x", x)
    grad_losses = _grad_losses(grad_output, reduction, x.shape, x, np.float64)
    grad_x = empty_beside(x, x.shape, x.dtype)
    implementation(__name__, target, x).mse_loss_backward(grad_losses, x.reshape(-1), y.reshape(-1), grad_x.reshape(-1))
    return grad_x


def _scores(x: Array, labels: Array) -> tuple[Array, Array]:
    x, = as_floats(x=x)
    check_rank("x", x, 2, layout="(N, C)")
    check_not_empty("x", x)
    labels = as_labels("labels", labels, *x.shape)
    check_side("labels", labels, "x", x)
    return x, labels


def _check_reduction(reduction: str) -> None:
    check_choice("reduction", reduction, _REDUCTIONS)


def _unit(count: int, reduction: str) -> float:
    """Return the power of two that losses are multiplied by, so that their sum overflows only where their mean does."""
    return 2.0 ** -count.bit_length() if reduction == "mean" else 1.0


def _grad_losses(grad_output: Any, reduction: str, shape: tuple[int, ...], x: Array, dtype: Any = None) -> Array:
    """Return the gradient by each loss, flat: one number for all of them, unless the losses were returned.

    One number has x's dtype, or another one that is given.
    """
    dtype = x.dtype if dtype is None else dtype
    _check_reduction(reduction)
    if reduction == "none":
        grads = as_array("grad_output", grad_output)
        check_side("grad_output", grads, "x", x)
        if grads.dtype != x.dtype:
            raise TypeError(f"grad_output: expected {x.dtype} as x has, got {grads.dtype}; "
                            f"give both one dtype with .astype")
        check_shape("grad_output", grads, shape)
        return grads.reshape(-1)
    count = math.prod(shape) if reduction == "mean" else 1
    if _device.is_device(x):
        if _device.is_device(grad_output) and grad_output.ndim == 0:
            return (grad_output.astype(np.float64) / count).astype(dtype).reshape(1)
        if isinstance(grad_output, numbers.Real):
            return _device.xp.full(1, float(grad_output) / count, dtype)
    if type(grad_output) is not float and (
            np.ndim(grad_output) or not isinstance(grad_output, numbers.Real | np.ndarray)):
        raise TypeError(f"grad_output: expected a number for reduction {reduction!r}, got {grad_output!r}")
    return np.array([float(grad_output) / count], dtype)


def _reduced(losses: Array, count: float, reduction: str, dtype: Any) -> Any:
    """Return float64 losses, their sum, or that over `count`, in this dtype; what is too large for it becomes inf."""
    if _device.is_device(losses):
        total = losses if reduction == "none" else losses.sum()
        return (total / count if reduction == "mean" else total).astype(dtype)
    with np.errstate(over="ignore"):
        if reduction == "none":
            return losses.astype(dtype)
        total = np.add.reduce(losses)                   # half the time of its method
        return dtype.type(total / count if reduction == "mean" else total)
