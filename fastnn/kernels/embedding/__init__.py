"""Embedding: rows of a table by their indices, and the sum of gradients for each row."""

from __future__ import annotations

import numpy as np

from fastnn import _device
from fastnn._checks import Array, as_int, check_floats, check_present, check_rank, check_side, check_size
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation

__all__ = ["embedding", "embedding_backward"]


def embedding(input: Array, weight: Array, *, padding_idx: int | None = None, out: Array | None = None,
              target: str | None = None) -> Array:
    """Return rows of a table: y[...] = weight[input[...]].

    Parameters
    ----------
    input : array of any shape
        Indices from 0 to V - 1, of any integer dtype.
    weight : array of shape (V, D)
        The table, float32 or float64.
    padding_idx : int, optional
        An index, from -V to V - 1, whose row gets no gradient. The result does not depend on it.
    out : array of shape (*input.shape, D), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (*input.shape, D)
        Of weight's dtype.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, an index is out of range, or `out` does not fit or overlaps with an input. On a
        GPU, where a look at the indices would wait for it, one that is out of range gives a row of NaN.

    Notes
    -----
    Exact. Each row of the result is read and written once, whatever the size of the table.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.embedding(np.array([2, 0]), np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    array([[4., 5.],
           [0., 1.]])
    """
    return _embedding((input, weight), (padding_idx,), target, out)


def embedding_backward(grad_output: Array, input: Array, num_embeddings: int, *, padding_idx: int | None = None,
                       target: str | None = None) -> Array:
    """Return the gradient of a loss by the table of `embedding`: for each row, the sum over the places that it went to.

    Parameters
    ----------
    grad_output : array of shape (*input.shape, D)
        Gradient by the result, float32 or float64.
    input : array of any shape
        The argument of `embedding`.
    num_embeddings : int
        V, the rows of the table.
    padding_idx : int, optional
        The argument of `embedding`: the gradient of this row is 0.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (V, D)
        Of grad_output's dtype.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or an index is out of range. On a GPU the gradient of such a one is left out.

    Notes
    -----
    Gradients of a row are summed in float64, in the order of `input`, and rounded once: with n of them and
    e = 1.2e-7 in float32, 2.2e-16 in float64, |error| <= e / 2 |sum| + 1.1e-16 n (sum of |gradients|). A sum that
    leaves float64's range on the way does so for good. Indices are sorted first, by counting; then each gradient is
    read once and each element of the result written once, so the cost is that of the gradients plus that of the table.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.embedding_backward(np.array([[1.0, 2.0], [10.0, 20.0], [3.0, 4.0]]), np.array([2, 0, 2]), 3)
    array([[10., 20.],
           [ 0.,  0.],
           [ 4.,  6.]])
    """
    return _embedding_backward((grad_output, input), (num_embeddings, padding_idx), target)


@planned
def _embedding(input: Array, weight: Array, padding_idx: int | None, target: str | None) -> Plan:
    check_floats(weight=weight)
    check_rank("weight", weight, 2, layout="(V, D)")
    _check_integers(input, "weight", weight)
    (size, columns), count = weight.shape, input.size
    if count and not size:
        raise ValueError(f"weight: expected at least one row for the indices of input, got shape {weight.shape}")
    _skipped(padding_idx, size)
    shape = *input.shape, columns
    check_size(shape, input=count, weight=columns)
    run = bound(implementation(__name__, target, weight), "embedding", weight, count=count)

    def of_any_shape(input: Array, weight: Array, y: Array) -> None:
        run(_indices(input, size), weight, y.reshape(count, columns))

    return Plan(of_any_shape, result_of(shape, weight.dtype, weight))


@planned
def _embedding_backward(grad_output: Array, input: Array, num_embeddings: int, padding_idx: int | None,
                        target: str | None) -> Plan:
    check_floats(grad_output=grad_output)
    _check_integers(input, "grad_output", grad_output)
    size = as_int("num_embeddings", num_embeddings, 0)
    if grad_output.ndim == 0 or grad_output.shape[:-1] != input.shape:
        raise ValueError(f"grad_output: expected shape (*input.shape, D) for input of shape {input.shape}, got "
                         f"{grad_output.shape}")
    columns, count = grad_output.shape[-1], input.size
    if count and not size:
        raise ValueError(f"num_embeddings: expected at least 1 for {count} indices, got 0")
    check_size((size, columns), num_embeddings=size, grad_output=columns)
    run = bound(implementation(__name__, target, grad_output), "embedding_backward", grad_output.reshape(
        count, columns), size=size, skipped=_skipped(padding_idx, size))

    def of_any_shape(grad_output: Array, input: Array, grad_weight: Array) -> None:
        run(grad_output.reshape(count, columns), _indices(input, size), grad_weight)

    return Plan(of_any_shape, result_of((size, columns), grad_output.dtype, grad_output), operations=grad_output.size)


def _check_integers(input: Array, other_name: str, other: Array) -> None:
    check_present("input", input)
    if input.dtype.kind not in "iu":
        raise TypeError(f"input: expected integer indices, got {input.dtype}")
    check_side("input", input, other_name, other)


def _skipped(padding_idx: int | None, size: int) -> int:
    """Return the index whose gradient is left out, -1 if there is none."""
    if padding_idx is None:
        return -1
    index = as_int("padding_idx", padding_idx)
    if not -size <= index < size:
        raise ValueError(f"padding_idx: expected None or an index of {size} rows, from {-size} to {size - 1}, got "
                         f"{index}")
    return index % size


def _indices(input: Array, size: int) -> Array:
    """Return indices flat, as int64, each of which names one of so many rows; on a GPU they may be any."""
    indices = input.reshape(-1).astype(np.int64, copy=False)
    if not _device.is_device(indices) and indices.size and np.maximum.reduce(indices.view(np.uint64)) >= size:
        bad = input[(input < 0) | (input >= size)][0]                           # negative ones are large above
        raise ValueError(f"input: expected indices of {size} rows, from 0 to {size - 1}, got {bad}")
    return indices
