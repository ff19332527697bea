"""Softmax and its logarithm: one row of results a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastnn._checks import Array, as_int, check_floats, check_one_shape
from fastnn.kernels._docstrings import documented
from fastnn.kernels._outputs import contiguous, result_of
from fastnn.kernels._plans import Plan, Planned, bound
from fastnn.kernels._targets import implementation

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]


def _plan(name: str, cost: int, *names: str) -> Planned:
    """Make the planner of a kernel of such arrays; implementations see the rows along an axis as those of a matrix."""
    def planner(*arguments: Any, target: str | None) -> Plan:
        *arrays, axis = arguments
        values = dict(zip(names, arrays))
        check_floats(**values)
        x, shape = arrays[0], check_one_shape(values, arrays)
        rank = max(1, len(shape))
        if not -rank <= as_int("axis", axis, -rank) < rank:
            raise ValueError(f"axis: expected from {-rank} to {rank - 1} for shape {shape}, got {axis}")
        module = implementation(__name__, target, x)
        run = _along_axis(x, axis % rank, lambda rows: bound(module, name, rows)) if x.size else _nothing
        return Plan(run, result_of(shape, x.dtype, x), operations=cost * x.size)

    return Planned(planner, names)


def _nothing(*arrays: Array) -> None:
    """What there is to do for no elements."""


def _along_axis(x: Array, axis: int, plan: Callable[[Array], Callable[..., None]]) -> Callable[..., None]:
    """Return a function that runs what is planned for the matrix of rows along one axis."""
    shape = x.shape or (1,)
    matrix = x.size // shape[axis], shape[axis]
    if axis == len(shape) - 1:
        run = plan(x.reshape(matrix))
        return run if x.ndim == 2 else lambda *arrays: run(*[array.reshape(matrix) for array in arrays])
    order = [*range(axis), *range(axis + 1, len(shape)), axis]

    def rows(array: Array) -> Array:
        return contiguous(array.transpose(order)).reshape(matrix)

    run, new = plan(rows(x)), result_of(matrix, x.dtype, x).new

    def of_other_axis(*arrays: Array) -> None:
        *inputs, y = arrays
        result = new()
        run(*map(rows, inputs), result)
        y.transpose(order)[...] = result.reshape([shape[i] for i in order])

    return of_other_axis


_softmax = _plan("softmax", 25, "x")
_softmax_backward = _plan("softmax_backward", 4, "grad_output", "y")
_log_softmax = _plan("log_softmax", 25, "x")
_log_softmax_backward = _plan("log_softmax_backward", 25, "grad_output", "y")


@documented()
def softmax(x: Array, axis: int = -1, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return exp(x) over the sum of exp(x) along one axis.

    Some 25 operations an element; each is read once and written twice, the second time in the cache (on "cuda" read
    three times, twice from the cache, and written once). The largest score m is subtracted first, so that nothing
    overflows, and the sum of the C terms is formed in float64: |error| <= (eps (4 + m - x) + 1.1e-16 C) |result|.

    All of a row is NaN where it holds NaN or inf, or nothing but -inf, as in torch.

    >>> kernels.softmax(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    return _softmax((x,), (axis,), target, out)


@documented()
def softmax_backward(grad_output: Array, y: Array, axis: int = -1, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the scores of `softmax`: y (grad_output - sum of grad_output y).

    Four operations an element; two are read and one is written. The sum of C terms is formed in float64: for the given
    y, |error| <= 2 eps y (|grad_output| + |sum|) + 1.1e-16 C y (sum of |grad_output y|).

    >>> kernels.softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    return _softmax_backward((grad_output, y), (axis,), target)


@documented()
def log_softmax(x: Array, axis: int = -1, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return the logarithm of `softmax`: x - log(sum of exp(x)) along one axis.

    Some 25 operations an element; each is read twice (on "cuda" three times), once from memory, and written once. The
    largest score is subtracted first, and the sum is formed in float64: along an axis of length C,
    |error| <= eps (|result| + 2 + log(C)) + 1.1e-16 C.

    All of a row is NaN where it holds NaN or inf, or nothing but -inf, as in torch.

    >>> kernels.log_softmax(np.array([0.0, -1000.0]))
    array([    0., -1000.])
    """
    return _log_softmax((x,), (axis,), target, out)


@documented()
def log_softmax_backward(grad_output: Array, y: Array, axis: int = -1, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the scores of `log_softmax`: grad_output - exp(y) (sum of grad_output).

    Some 25 operations an element; two are read and one is written. The sum of C terms is formed in float64: for the
    given y, |error| <= eps (|result| + 2 exp(y) |sum|) + 1.1e-16 C exp(y) (sum of |grad_output|). On "cpu" an exp(y)
    that would be denormal counts as 0.

    >>> kernels.log_softmax_backward(np.array([1.0, 0.0]), np.log([0.5, 0.5]))
    array([ 0.5, -0.5])
    """
    return _log_softmax_backward((grad_output, y), (axis,), target)
