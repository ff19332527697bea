"""Losses: how far scores or predictions are from the truth, and the gradient of that."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import (
    Array,
    as_float,
    as_labels,
    check_choice,
    check_floats,
    check_not_empty,
    check_present,
    check_rank,
    check_shape,
    check_side,
)
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, Planned, bound, planned
from fastnn.kernels._targets import implementation

__all__ = [
    "cross_entropy", "cross_entropy_backward", "hinge_loss", "hinge_loss_backward", "mse_loss", "mse_loss_backward",
]

_REDUCTIONS = ("mean", "sum", "none")
_FITS = 1e38                                # into float32


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
    return _cross_entropy((x, labels), (reduction,), target, None,
                          (as_float("label_smoothing", label_smoothing, 0, 1),))


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
    smoothing = as_float("label_smoothing", label_smoothing, 0, 1)
    return _run_backward(_cross_entropy_backward, grad_output, (x, labels), smoothing, reduction, target)


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
    return _hinge_loss((x, labels), (reduction,), target, None, (as_float("margin", margin),))


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
    margin = as_float("margin", margin)
    return _run_backward(_hinge_loss_backward, grad_output, (x, labels), margin, reduction, target)


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
    return _mse_loss((x, y), (reduction,), target)


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
    return _run_backward(_mse_loss_backward, grad_output, (x, y), None, reduction, target)


def _run_backward(planned: Planned, grad_output: Any, arrays: tuple[Array, Array], option: float | None, reduction: str,
                  target: str | None) -> Array:
    """Run a gradient; grad_output is an array where the losses were returned, else a number."""
    each = isinstance(reduction, str) and reduction == "none"
    return planned((grad_output if each else None, *arrays), (reduction,), target, None,
                   (None if each else grad_output, option))


def _plan_loss(name: str, cost: int, bounded: bool) -> Planned:
    """Make the planner of a loss of rows with labels; `bounded` says whether scores alone make it large."""
    def planner(x: Array, labels: Array, reduction: str, target: str | None) -> Plan:
        _check_scores(x, labels)
        check_choice("reduction", reduction, _REDUCTIONS)
        count, unit = len(x), _unit(len(x), reduction)
        run = bound(implementation(__name__, target, x), name, x)
        new, reduced = result_of((count,), np.float64, x).new, _plan_reduction(
            reduction, count * unit, x, bounded)

        def loss(x: Array, labels: Array, option: float) -> Any:
            losses = new()
            run(x, labels, option, unit, losses)
            return reduced(losses)

        return Plan(loss, operations=cost * x.size)

    return Planned(planner)


def _plan_loss_backward(name: str, cost: int) -> Planned:
    """Make the planner of a gradient of a loss of rows with labels."""
    def planner(grad_output: Array | None, x: Array, labels: Array, reduction: str, target: str | None) -> Plan:
        _check_scores(x, labels)
        grads = _plan_grads(grad_output, reduction, x.shape[:1], x, x.dtype)
        run = bound(implementation(__name__, target, x), name, x)

        def backward(grad_output: Array | None, x: Array, labels: Array, grad: Any, option: float,
                     grad_x: Array) -> None:
            run(grads(grad) if grad_output is None else grad_output, x, labels, option, grad_x)

        return Plan(backward, result_of(x.shape, x.dtype, x), operations=cost * x.size)

    return Planned(planner)


_cross_entropy = _plan_loss("cross_entropy", 25, bounded=True)
_cross_entropy_backward = _plan_loss_backward("cross_entropy_backward", 45)
_hinge_loss = _plan_loss("hinge_loss", 5, bounded=False)           # it grows with the margin
_hinge_loss_backward = _plan_loss_backward("hinge_loss_backward", 5)


@planned
def _mse_loss(x: Array, y: Array, reduction: str, target: str | None) -> Plan:
    _check_pair(x, y)
    check_choice("reduction", reduction, _REDUCTIONS)
    module, operations = implementation(__name__, target, x), 3 * x.size
    if reduction == "none":
        run = bound(module, "mse_loss", x)
        return Plan(lambda x, y, losses: run(x.reshape(-1), y.reshape(-1), losses.reshape(-1)),
                    result_of(x.shape, x.dtype, x), operations)
    unit = _unit(math.isqrt(x.size) + 1, reduction)     # of differences
    sums, reduced = bound(module, "mse_loss_sums", x), _plan_reduction(reduction, x.size * unit * unit, x, bounded=True)
    return Plan(lambda x, y: reduced(sums(x.reshape(-1), y.reshape(-1), unit)), operations=operations)


@planned
def _mse_loss_backward(grad_output: Array | None, x: Array, y: Array, reduction: str, target: str | None) -> Plan:
    _check_pair(x, y)
    grads = _plan_grads(grad_output, reduction, x.shape, x, np.dtype(np.float64))
    run = bound(implementation(__name__, target, x), "mse_loss_backward", x)

    def backward(grad_output: Array | None, x: Array, y: Array, grad: Any, _: None, grad_x: Array) -> None:
        run(grads(grad) if grad_output is None else grad_output.reshape(-1), x.reshape(-1), y.reshape(-1),
            grad_x.reshape(-1))

    return Plan(backward, result_of(x.shape, x.dtype, x), operations=3 * x.size)


def _check_scores(x: Array, labels: Array) -> None:
    check_floats(x=x)
    check_rank("x", x, 2, layout="(N, C)")
    check_not_empty("x", x)
    check_side("labels", as_labels("labels", labels, *x.shape), "x", x)


def _check_pair(x: Array, y: Array) -> None:
    check_floats(x=x, y=y)
    check_shape("y", y, x.shape)
    check_not_empty("x", x)


def _unit(count: int, reduction: str) -> float:
    """Return the power of two that losses are multiplied by, so that their sum overflows only where their mean does."""
    return 2.0 ** -count.bit_length() if reduction == "mean" else 1.0


def _plan_grads(grad_output: Any, reduction: str, shape: tuple[int, ...], x: Array, dtype: np.dtype,
                ) -> Callable[[Any], Array]:
    """Check the gradient by each loss; return a function that makes an array of this dtype of one number for all."""
    check_choice("reduction", reduction, _REDUCTIONS)
    if reduction == "none":
        check_present("grad_output", grad_output)
        check_side("grad_output", grad_output, "x", x)
        if grad_output.dtype != x.dtype:
            raise TypeError(f"grad_output: expected {x.dtype} as x has, got {grad_output.dtype}; "
                            f"give both one dtype with .astype")
        check_shape("grad_output", grad_output, shape)
    count = math.prod(shape) if reduction == "mean" else 1

    def on_host(grad: Any) -> Array:
        if type(grad) is not float and (np.ndim(grad) or not isinstance(grad, numbers.Real | np.ndarray)):
            raise TypeError(f"grad_output: expected a number for reduction {reduction!r}, got {grad!r}")
        return np.array([float(grad) / count], dtype)

    def on_device(grad: Any) -> Array:
        if _device.is_device(grad) and grad.ndim == 0:
            return (grad.astype(np.float64) / count).astype(dtype).reshape(1)
        if isinstance(grad, numbers.Real):
            return _device.xp.full(1, float(grad) / count, dtype)
        return on_host(grad)

    return on_device if _device.is_device(x) else on_host


def _plan_reduction(reduction: str, count: float, x: Array, bounded: bool) -> Callable[[Array], Any]:
    """Return a function of float64 losses: they, their sum, or that over `count`, in x's dtype.

    What is too large for the dtype becomes inf.
    """
    dtype, number = x.dtype, x.dtype.type
    divisor = count if reduction == "mean" else 1.0
    if _device.is_device(x):
        if reduction == "mean":
            return lambda losses: (losses.sum() / count).astype(dtype)
        return lambda losses: (losses if reduction == "none" else losses.sum()).astype(dtype)
    if reduction == "none":
        return np.errstate(over="ignore")(lambda losses: losses.astype(dtype, copy=False))
    # What is made of float32 numbers alone has room in float64.
    add = np.add.reduce if bounded and dtype == np.float32 else np.errstate(over="ignore")(np.add.reduce)

    def reduced(losses: Array) -> Any:
        # Python's numbers warn of no overflow. The sum of -0.0 alone is 0.0.
        total = (0.0 + losses.item() if losses.size == 1 else float(add(losses))) / divisor
        if abs(total) < _FITS:
            return number(total)
        with np.errstate(over="ignore"):
            return number(total)

    return reduced
