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
    as_int,
    as_labels,
    check_choice,
    check_floats,
    check_not_empty,
    check_present,
    check_rank,
    check_shape,
    check_side,
    int64_of,
)
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, Planned, bound, planned
from fastnn.kernels._targets import implementation

__all__ = [
    "binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits_backward", "cross_entropy",
    "cross_entropy_backward", "hinge_loss", "hinge_loss_backward", "mse_loss", "mse_loss_backward",
]

_REDUCTIONS = ("mean", "sum", "none")
_FITS = 1e38                                # into float32


def cross_entropy(x: Array, labels: Array, weight: Array | None = None, *, ignore_index: int = -100,
                  label_smoothing: float = 0.0, reduction: str = "mean", target: str | None = None) -> Any:
    """Return the negative log-likelihood of labels under the softmax of scores.

    Parameters
    ----------
    x : array of shape (N, C) or (N, C, ...)
        Scores, float32 or float64, at least one row and one class. Further axes are places, such as pixels or tokens,
        each of which has a label of its own; all of them, N R in number, are called rows here.
    labels : array of shape (N,) or (N, ...)
        Classes from 0 to C - 1, or ignore_index, of any integer dtype. (torch calls them `target`.)
    weight : array of shape (C,), optional
        What the losses of each class count, of x's dtype; else all count 1.
    ignore_index : int
        The label of rows that do not count. Their loss is 0, whatever their scores are.
    label_smoothing : float
        The share s, from 0 to 1, of the truth that is spread evenly over the classes.
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of the rows. A mean is over the sum of the weights of the labels that are not
        ignored; where there are none it is NaN, as in torch.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    NumPy scalar, or array of the labels' shape for "none"
        Of x's dtype; for arrays on a GPU an array of no dimensions there.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, a label is out of range, or there are no rows.

    Notes
    -----
    With w = weight and p = softmax(x[n]), a row's loss is
    -(1 - s) w[label] log(p[label]) - s / C (sum over c of w[c] log(p[c])).
    Some 25 operations a score, each read twice, the second time from the cache. All is formed of differences from the
    largest score, in float64, so that nothing cancels or overflows, over the rows in a fixed order. For each row
    |error| <= eps (|loss| + 2 + log(C)) + 1.1e-16 C (|loss| + 1) without weights, and with them the largest |w| times
    that, for the loss without them; a sum or a mean of N rows adds 1.1e-16 N of itself, where no weight is negative.
    Products of weights and losses, and sums of these, that leave float64's range do so for good.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> float(kernels.cross_entropy(np.array([[1000.0, 0.0], [-1000.0, 0.0]]), np.array([1, 1])))
    500.0
    """
    return _cross_entropy((x, labels, weight), (ignore_index, reduction), target, None,
                          (as_float("label_smoothing", label_smoothing, 0, 1),))


def cross_entropy_backward(grad_output: Any, x: Array, labels: Array, weight: Array | None = None, *,
                           ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean",
                           target: str | None = None) -> Array:
    """Return the gradient by the scores of `cross_entropy`.

    Parameters
    ----------
    grad_output : float, or array of the labels' shape for "none"
        Gradient by the loss.
    x, labels, weight, ignore_index, label_smoothing, reduction
        The arguments of `cross_entropy`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        For a row with p = softmax(x[n]) and w = weight, all 1 where there is none,
        g ((1 - s) w[label] (p[c] - [c = label]) + s / C (p[c] sum(w) - w[c])); g is grad_output, for "mean" over the
        sum of the weights of the labels that are not ignored. 0 in all rows that are ignored.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, or if grad_output does not fit.

    Notes
    -----
    Some 45 operations a score, each read twice, the second time from the cache, and written once.
    |error| <= (4 eps + 1.1e-16 C) |g|, with weights that times the largest |w|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.cross_entropy_backward(1.0, np.array([[0.0, 0.0]]), np.array([1]))
    array([[ 0.5, -0.5]])
    """
    smoothing = as_float("label_smoothing", label_smoothing, 0, 1)
    return _run_backward(_cross_entropy_backward, grad_output, (x, labels, weight), smoothing, reduction, target,
                         ignore_index)


def binary_cross_entropy_with_logits(x: Array, targets: Array, weight: Array | None = None, *,
                                     pos_weight: Array | None = None, reduction: str = "mean",
                                     target: str | None = None) -> Any:
    """Return the negative log-likelihood of truths from 0 to 1 under the sigmoid of scores, element by element.

    Parameters
    ----------
    x : array of any shape
        Scores, float32 or float64, at least one element.
    targets : array of x's shape
        The probability of a yes, of x's dtype; nothing looks whether it is from 0 to 1. (torch calls it `target`.)
    weight : array, optional
        What each element's loss is multiplied by, of x's dtype and a shape that broadcasts to x's.
    pos_weight : array, optional
        What the part of a yes is multiplied by, likewise; with one number a class, of shape (C,), for x (N, C).
    reduction : {"mean", "sum", "none"}
        What is returned of the losses of the elements; a mean is over their number, whatever the weights are.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

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
    loss = weight (targets pos_weight log(1 + exp(-x)) + (1 - targets) log(1 + exp(x))), the logarithms as in
    `softplus`, without its threshold; the rest is formed in float64. Some 55 operations an element; two are read, and
    weights of x's last dimensions come from the cache; others are spread to x's shape first.
    For each element |error| <= 4 eps |weight| (|targets pos_weight| log(1 + exp(-x)) + |1 - targets| log(1 + exp(x))),
    which is 4 eps of a loss whose targets are from 0 to 1 and whose weights are not negative. Elements are summed in a
    fixed order; a sum or a mean of n such losses adds 1.1e-16 n of itself. An infinite score whose part has the factor
    0 gives NaN. A loss that overflows before it is weighted does so for good.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> float(kernels.binary_cross_entropy_with_logits(np.array([1000.0, -1000.0]), np.array([1.0, 1.0])))
    500.0
    """
    return _binary_cross_entropy((x, targets, weight, pos_weight), (reduction,), target)


def binary_cross_entropy_with_logits_backward(grad_output: Any, x: Array, targets: Array, weight: Array | None = None,
                                              *, pos_weight: Array | None = None, reduction: str = "mean",
                                              target: str | None = None) -> Array:
    """Return the gradient by the scores of `binary_cross_entropy_with_logits`.

    Parameters
    ----------
    grad_output : float, or array of x's shape for "none"
        Gradient by the loss.
    x, targets, weight, pos_weight, reduction
        The arguments of `binary_cross_entropy_with_logits`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        g weight ((1 - targets) sigmoid(x) - targets pos_weight sigmoid(-x)), where g is grad_output, over the number of
        elements for "mean". Without pos_weight that is g weight (sigmoid(x) - targets).

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy_with_logits`, or if grad_output does not fit.

    Notes
    -----
    Some 40 operations an element; two are read and one is written.
    |error| <= 4 eps |g weight| (|1 - targets| sigmoid(x) + |targets pos_weight| sigmoid(-x)) + 1.2e-38 |g weight|
    (|1 - targets| + |targets pos_weight|), in float64 2.2e-308, as a sigmoid that would be denormal counts as 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.binary_cross_entropy_with_logits_backward(1.0, np.array([0.0, 0.0]), np.array([0.0, 1.0]))
    array([ 0.25, -0.25])
    """
    return _run_backward(_binary_cross_entropy_backward, grad_output, (x, targets, weight, pos_weight), None, reduction,
                         target)


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


def _run_backward(planned: Planned, grad_output: Any, arrays: tuple[Array | None, ...], option: float | None,
                  reduction: str, target: str | None, *options: Any) -> Array:
    """Run a gradient; grad_output is an array where the losses were returned, else a number."""
    each = isinstance(reduction, str) and reduction == "none"
    return planned((grad_output if each else None, *arrays), (*options, reduction), target, None,
                   (None if each else grad_output, option))


# --- cross entropy -----------------------------------------------------------------------------------------


@planned
def _cross_entropy(x: Array, labels: Array, weight: Array | None, ignore_index: int, reduction: str,
                   target: str | None) -> Plan:
    rows = _check_places(x, labels, weight, ignore_index)
    check_choice("reduction", reduction, _REDUCTIONS)
    unit = _unit(labels.size, reduction)
    run = bound(implementation(__name__, target, x), "cross_entropy", x.reshape(rows), ignore_index=ignore_index)
    # Losses of rows, and the weights of their labels.
    new, reduced = result_of((2, labels.size), np.float64, x).new, _plan_reduction(reduction, unit, x, bounded=True)

    def loss(x: Array, labels: Array, weight: Array | None, label_smoothing: float) -> Any:
        found = new()
        run(x.reshape(rows), labels.reshape(-1), weight, label_smoothing, unit, found)
        if reduction == "none":
            return reduced(found[0]).reshape(labels.shape)
        return reduced(found[0], found[1].sum() if reduction == "mean" else 1.0)

    return Plan(loss, operations=25 * x.size)


@planned
def _cross_entropy_backward(grad_output: Array | None, x: Array, labels: Array, weight: Array | None, ignore_index: int,
                            reduction: str, target: str | None) -> Plan:
    rows = _check_places(x, labels, weight, ignore_index)
    grads = _plan_grads(grad_output, reduction, labels.shape, 1, x, x.dtype)
    run = bound(implementation(__name__, target, x), "cross_entropy_backward", x.reshape(rows),
                ignore_index=ignore_index)

    def backward(grad_output: Array | None, x: Array, labels: Array, weight: Array | None, grad: Any,
                 label_smoothing: float, grad_x: Array) -> None:
        total = _total_weight(labels, weight, ignore_index) if reduction == "mean" else 1.0
        run(grads(grad, total) if grad_output is None else grad_output.reshape(-1), x.reshape(rows), labels.reshape(-1),
            weight, label_smoothing, grad_x.reshape(rows))

    return Plan(backward, result_of(x.shape, x.dtype, x), operations=45 * x.size)


def _check_places(x: Array, labels: Array, weight: Array | None, ignore_index: int) -> tuple[int, int, int]:
    """Return the shape (N, C, places) that implementations see x in."""
    check_floats(x=x, weight=weight)
    if x.ndim < 2:
        check_rank("x", x, 2, layout="(N, C), or more (N, C, ...)")
    check_not_empty("x", x)
    shape = x.shape[0], *x.shape[2:]
    check_side("labels", as_labels("labels", labels, shape, x.shape[1], as_int("ignore_index", ignore_index)), "x", x)
    if weight is not None:
        check_shape("weight", weight, x.shape[1:2])
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _total_weight(labels: Array, weight: Array | None, ignore_index: int) -> Any:
    """Return the sum of the weights of labels, in an array of no dimensions on a GPU; wrong labels have any weight."""
    labels = int64_of(labels)
    counts = labels != ignore_index
    if weight is None:                      # on the host, sum() takes longer than all else of a small call
        return counts.sum(dtype=np.float64) if _device.is_device(counts) else float(np.count_nonzero(counts))
    return np.where(counts, weight[labels.clip(0, len(weight) - 1)], 0).sum(dtype=np.float64)


# --- hinge -------------------------------------------------------------------------------------------------


@planned
def _hinge_loss(x: Array, labels: Array, reduction: str, target: str | None) -> Plan:
    _check_scores(x, labels)
    check_choice("reduction", reduction, _REDUCTIONS)
    count, unit = len(x), _unit(len(x), reduction)
    run = bound(implementation(__name__, target, x), "hinge_loss", x)
    # It grows with the margin, whatever the scores are.
    new, reduced = result_of((count,), np.float64, x).new, _plan_reduction(reduction, count * unit, x, bounded=False)

    def loss(x: Array, labels: Array, margin: float) -> Any:
        losses = new()
        run(x, labels, margin, unit, losses)
        return reduced(losses)

    return Plan(loss, operations=5 * x.size)


@planned
def _hinge_loss_backward(grad_output: Array | None, x: Array, labels: Array, reduction: str,
                         target: str | None) -> Plan:
    _check_scores(x, labels)
    grads = _plan_grads(grad_output, reduction, x.shape[:1], len(x), x, x.dtype)
    run = bound(implementation(__name__, target, x), "hinge_loss_backward", x)

    def backward(grad_output: Array | None, x: Array, labels: Array, grad: Any, margin: float, grad_x: Array) -> None:
        run(grads(grad) if grad_output is None else grad_output, x, labels, margin, grad_x)

    return Plan(backward, result_of(x.shape, x.dtype, x), operations=5 * x.size)


def _check_scores(x: Array, labels: Array) -> None:
    check_floats(x=x)
    check_rank("x", x, 2, layout="(N, C)")
    check_not_empty("x", x)
    check_side("labels", as_labels("labels", labels, x.shape[:1], x.shape[1]), "x", x)


# --- binary cross entropy ----------------------------------------------------------------------------------


@planned
def _binary_cross_entropy(x: Array, targets: Array, weight: Array | None, pos_weight: Array | None, reduction: str,
                          target: str | None) -> Plan:
    _check_pair(x, "targets", targets)
    factors = _plan_factors(x, weight=weight, pos_weight=pos_weight)
    check_choice("reduction", reduction, _REDUCTIONS)
    module, operations = implementation(__name__, target, x), 55 * x.size
    if reduction == "none":
        run = bound(module, "binary_cross_entropy", x)
        return Plan(lambda x, targets, weight, pos_weight, losses: run(
            x.reshape(-1), targets.reshape(-1), *factors(weight, pos_weight), losses.reshape(-1)),
            result_of(x.shape, x.dtype, x), operations)
    unit = _unit(x.size, reduction)
    sums, reduced = bound(module, "binary_cross_entropy_sums", x), _plan_reduction(
        reduction, x.size * unit, x, bounded=True)
    return Plan(lambda x, targets, weight, pos_weight: reduced(sums(
        x.reshape(-1), targets.reshape(-1), *factors(weight, pos_weight), unit)), operations=operations)


@planned
def _binary_cross_entropy_backward(grad_output: Array | None, x: Array, targets: Array, weight: Array | None,
                                   pos_weight: Array | None, reduction: str, target: str | None) -> Plan:
    _check_pair(x, "targets", targets)
    factors = _plan_factors(x, weight=weight, pos_weight=pos_weight)
    grads = _plan_grads(grad_output, reduction, x.shape, x.size, x, x.dtype)
    run = bound(implementation(__name__, target, x), "binary_cross_entropy_backward", x)

    def backward(grad_output: Array | None, x: Array, targets: Array, weight: Array | None, pos_weight: Array | None,
                 grad: Any, _: None, grad_x: Array) -> None:
        run(grads(grad) if grad_output is None else grad_output.reshape(-1), x.reshape(-1), targets.reshape(-1),
            *factors(weight, pos_weight), grad_x.reshape(-1))

    return Plan(backward, result_of(x.shape, x.dtype, x), operations=40 * x.size)


def _plan_factors(x: Array, **factors: Array | None) -> Callable[..., list[Array | None]]:
    """Check factors that broadcast to x; return a function that makes flat arrays of them.

    The flat x has such an array's size a whole number of times: it begins anew where it ends.
    """
    check_floats(x=x, **factors)
    for name, factor in factors.items():
        if factor is not None and not _broadcasts(factor.shape, x.shape):
            raise ValueError(f"{name}: expected a shape that broadcasts to that of x, {x.shape}, got {factor.shape}")

    def flat(factor: Array | None) -> Array | None:
        if factor is None:
            return None
        while factor.ndim and factor.shape[0] == 1:
            factor = factor[0]
        shape = x_shape[len(x_shape) - factor.ndim:]
        return (factor if factor.size == math.prod(shape) else np.broadcast_to(factor, shape)).reshape(-1)

    x_shape = x.shape
    return lambda *factors: [*map(flat, factors)]


def _broadcasts(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(shape) <= len(whole) and all(
        size in (1, full) for size, full in zip(reversed(shape), reversed(whole)))


# --- squared error -----------------------------------------------------------------------------------------


@planned
def _mse_loss(x: Array, y: Array, reduction: str, target: str | None) -> Plan:
    _check_pair(x, "y", y)
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
    _check_pair(x, "y", y)
    grads = _plan_grads(grad_output, reduction, x.shape, x.size, x, np.dtype(np.float64))
    run = bound(implementation(__name__, target, x), "mse_loss_backward", x)

    def backward(grad_output: Array | None, x: Array, y: Array, grad: Any, _: None, grad_x: Array) -> None:
        run(grads(grad) if grad_output is None else grad_output.reshape(-1), x.reshape(-1), y.reshape(-1),
            grad_x.reshape(-1))

    return Plan(backward, result_of(x.shape, x.dtype, x), operations=3 * x.size)


def _check_pair(x: Array, name: str, y: Array) -> None:
    check_floats(x=x, **{name: y})
    check_shape(name, y, x.shape)
    check_not_empty("x", x)


def _unit(count: int, reduction: str) -> float:
    """Return the power of two that losses are multiplied by, so that their sum overflows only where their mean does."""
    return 2.0 ** -count.bit_length() if reduction == "mean" else 1.0


def _plan_grads(grad_output: Any, reduction: str, shape: tuple[int, ...], count: int, x: Array, dtype: np.dtype,
                ) -> Callable[..., Array]:
    """Check the gradient by each loss; return a function that makes an array of this dtype of one number for all.

    A mean's is over `count` times the function's second argument, which on a GPU may be an array of no dimensions.
    """
    check_choice("reduction", reduction, _REDUCTIONS)
    if reduction == "none":
        check_present("grad_output", grad_output)
        check_side("grad_output", grad_output, "x", x)
        if grad_output.dtype != x.dtype:
            raise TypeError(f"grad_output: expected {x.dtype} as x has, got {grad_output.dtype}; "
                            f"give both one dtype with .astype")
        check_shape("grad_output", grad_output, shape)
    count = count if reduction == "mean" else 1

    def on_host(grad: Any, weight: Any = 1.0) -> Array:
        if type(grad) is not float and (np.ndim(grad) or not isinstance(grad, numbers.Real | np.ndarray)):
            raise TypeError(f"grad_output: expected a number for reduction {reduction!r}, got {grad!r}")
        return np.array([_quotient(float(grad), count * float(weight))], dtype)

    def on_device(grad: Any, weight: Any = 1.0) -> Array:
        if isinstance(grad, numbers.Real):
            grad = _device.xp.full(1, float(grad), np.float64)
        if _device.is_device(grad) and grad.size == 1:
            return (grad.astype(np.float64) / (count * weight)).astype(dtype).reshape(1)
        return on_host(grad)

    return on_device if _device.is_device(x) else on_host


def _quotient(a: float, b: float) -> float:
    """Return a / b, where Python's numbers refuse a division by 0."""
    return a / b if b else a * math.copysign(math.inf, b)


def _plan_reduction(reduction: str, count: float, x: Array, bounded: bool) -> Callable[..., Any]:
    """Return a function of float64 losses: they, their sum, or that over `count`, in x's dtype.

    A mean is over `count` times the function's second argument. What is too large for the dtype becomes inf.
    """
    dtype, number = x.dtype, x.dtype.type
    if _device.is_device(x):
        if reduction == "mean":
            return lambda losses, weight=1.0: (losses.sum() / (count * weight)).astype(dtype)
        return lambda losses, weight=1.0: (losses if reduction == "none" else losses.sum()).astype(dtype)
    if reduction == "none":
        return np.errstate(over="ignore")(lambda losses: losses.astype(dtype, copy=False))
    # What is made of float32 numbers alone has room in float64.
    add = np.add.reduce if bounded and dtype == np.float32 else np.errstate(over="ignore")(np.add.reduce)

    def reduced(losses: Array, weight: Any = 1.0) -> Any:
        # Python's numbers warn of no overflow. The sum of -0.0 alone is 0.0.
        total = 0.0 + losses.item() if losses.size == 1 else float(add(losses))
        if reduction == "mean":
            total = _quotient(total, count * float(weight))
        if abs(total) < _FITS:
            return number(total)
        with np.errstate(over="ignore"):
            return number(total)

    return reduced
