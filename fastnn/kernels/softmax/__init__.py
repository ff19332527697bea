"""Softmax and its logarithm: one row of results a row."""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array, as_floats, as_int, check_one_shape
from fastnn.kernels._docstrings import documented
from fastnn.kernels._door import door
from fastnn.kernels._outputs import contiguous, deliver, output
from fastnn.kernels._targets import implementation


@door
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
    return _along_axis("softmax", axis, out, target, x=x)


@door
@documented()
def softmax_backward(grad_output: Array, y: Array, axis: int = -1, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the scores of `softmax`: y (grad_output - sum of grad_output y).

    Four operations an element; two are read and one is written. The sum of C terms is formed in float64: for the given
    y, |error| <= 2 eps y (|grad_output| + |sum|) + 1.1e-16 C y (sum of |grad_output y|).

    >>> kernels.softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    return _along_axis("softmax_backward", axis, None, target, grad_output=grad_output, y=y)


@door
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
    return _along_axis("log_softmax", axis, out, target, x=x)


@door
@documented()
def log_softmax_backward(grad_output: Array, y: Array, axis: int = -1, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the scores of `log_softmax`: grad_output - exp(y) (sum of grad_output).

    Some 25 operations an element; two are read and one is written. The sum of C terms is formed in float64: for the
    given y, |error| <= eps (|result| + 2 exp(y) |sum|) + 1.1e-16 C exp(y) (sum of |grad_output|). On "cpu" an exp(y)
    that would be denormal counts as 0.

    >>> kernels.log_softmax_backward(np.array([1.0, 0.0]), np.log([0.5, 0.5]))
    array([ 0.5, -0.5])
    """
    return _along_axis("log_softmax_backward", axis, None, target, grad_output=grad_output, y=y)


def _along_axis(name: str, axis: int, out: Array | None, target: str | None, **values: Array) -> Array:
    """Run a kernel on the rows along one axis: the implementation sees them as contiguous rows of a matrix."""
    arrays = as_floats(**values)
    shape = check_one_shape(values, arrays)
    rank = max(1, len(shape))
    if not -rank <= (axis if type(axis) is int else as_int("axis", axis, -rank)) < rank:
        raise ValueError(f"axis: expected from {-rank} to {rank - 1} for shape {shape}, got {axis}")
    result = output(out, shape, arrays[0].dtype, arrays[0])
    if result.size:
        run, arrays = getattr(implementation(__name__, target, result), name), [*arrays, result]
        if axis in (-1, rank - 1):
            run(*[array.reshape(-1, shape[-1] if shape else 1) for array in arrays])
        else:
            moved = [np.moveaxis(array, axis, -1) for array in arrays]
            rows = [contiguous(array).reshape(-1, shape[axis]) for array in moved]
            run(*rows)
            moved[-1][...] = rows[-1].reshape(moved[-1].shape)
    return deliver(result, out)
