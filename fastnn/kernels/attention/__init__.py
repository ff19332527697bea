"""Attention: each query gets a mean of values, weighted by how well their keys fit it."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastnn._checks import Array, as_float, check_floats, check_needs, check_shape, check_side
from fastnn.kernels._outputs import deliver, empty_beside, output, result_of, shaped
from fastnn.kernels._plans import Gradients, Needs, Plan, Planned, bound, why
from fastnn.kernels._targets import implementation

__all__ = ["scaled_dot_product_attention", "scaled_dot_product_attention_backward"]


def scaled_dot_product_attention(
        query: Array, key: Array, value: Array, attn_mask: Array | None = None, *, is_causal: bool = False,
        scale: float | None = None, return_lse: bool = False, out: Array | None = None,
        target: str | None = None) -> Array | tuple[Array, Array]:
    """Return means of values, weighted by the softmax of the products of queries and keys: softmax(scale Q K^T) V.

    Parameters
    ----------
    query : array of shape (..., L, E)
        A row a query, float32 or float64. The leading dimensions, such as batch and head, are those of all arrays.
    key : array of shape (..., S, E)
        A row a key, of query's dtype.
    value : array of shape (..., S, Ev)
        What is averaged, a row a key, of query's dtype.
    attn_mask : array that broadcasts to (..., L, S), optional
        bool: False hides a key from a query. Or of query's dtype: added to the products; -inf hides. It is read where
        it lies, however it is broadcast, unless its last two dimensions have other strides than those of an array.
    is_causal : bool
        Whether key j is hidden from all queries i < j. Both are counted from 0, as in torch, whatever L and S are. It
        may come with a mask, which torch refuses; then a key takes part if both let it.
    scale : float, optional
        The factor of the products, 1 / sqrt(E) by default.
    return_lse : bool
        Whether to return the logarithms of the sums too, which the gradient needs.
    out : array of shape (..., L, Ev), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    y : array of shape (..., L, Ev)
        y_i = sum_j p_ij v_j with p_ij = exp(s_ij - lse_i) and s_ij = scale (q_i . k_j) + mask_ij. It is 0 where all
        keys are hidden from a query.
    logsumexp : array of shape (..., L)
        With `return_lse`: lse_i = log(sum_j exp(s_ij)), or -inf where all keys are hidden.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, or `out` overlaps with an input.

    Notes
    -----
    2 L S (E + Ev) operations for each of the leading dimensions, about half of them for the keys that are not hidden
    with `is_causal`. The L x S matrix of weights is never in memory: a few queries at a time go along the keys with
    the largest product so far and the sums that it leaves [2]_, [3]_, so that memory grows with L + S.

    On "cpu" arrays, and `out`, are not copied if their last dimension is contiguous: heads may lie side by side, as
    linear maps write and read them.

    What is hidden, and what has a product of -inf, takes no part, whatever it holds: a NaN or inf in a key or value
    reaches only the queries that see it. A product of NaN or inf makes all of the query's results NaN. Products that
    leave the dtype's range do so for good; their size alone does no harm, as the largest one is subtracted. Weights
    that would be denormal count as 0.

    Let A_i be the largest |scale| sum_e |q_ie k_je| + |mask_ij| of the keys that query i sees, and T(n) = min(n, 256) +
    n / 16. On "cpu" and "cuda" scores are off by at most (E + 4) eps A_i, logarithms by ((E + 6) A_i + T(S) + 8) eps,
    and for y |error| <= (2 (E + 6) A_i + 2 T(S) + 16) eps sum_j p_ij |v_j|. On "cpu" and "cuda" sums of S values must
    not leave the range, nor on "cpu" such sums times 55. A query's bits depend neither on other heads nor on other
    queries, but for whether there are more than a few.

    References
    ----------
    .. [1] A. Vaswani et al., Attention is all you need, 2017, equation 1.
    .. [2] M. Rabe and C. Staats, Self-attention does not need O(n^2) memory, 2021.
    .. [3] T. Dao et al., FlashAttention: fast and memory-efficient exact attention with IO-awareness, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> query, key = np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> kernels.scaled_dot_product_attention(query, key, np.array([[1.0], [3.0]]), is_causal=True)
    array([[1.        ],
           [1.39114063]])
    """
    numbers = (_checked_scale(scale),)
    return _attention((query, key, value, _unexpanded(attn_mask, query, key)), (is_causal, return_lse), target, out,
                      numbers)


def scaled_dot_product_attention_backward(
        grad_output: Array, query: Array, key: Array, value: Array, y: Array, logsumexp: Array,
        attn_mask: Array | None = None, *, is_causal: bool = False, scale: float | None = None,
        needs: Needs = (True, True, True), target: str | None = None) -> Gradients:
    """Return the gradients of a loss by query, key and value of `scaled_dot_product_attention`.

    Parameters
    ----------
    grad_output : array of shape (..., L, Ev)
        Gradient by the result.
    query, key, value, attn_mask, is_causal, scale
        The arguments of `scaled_dot_product_attention`.
    y : array of shape (..., L, Ev)
        Its result.
    logsumexp : array of shape (..., L)
        What it returns with `return_lse`.
    needs : tuple of three bools
        Which of the gradients by query, key and value to compute.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    grad_query, grad_key, grad_value : arrays or None
        Of the shapes of query, key and value; None for what is not needed. There is none by the mask.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit.

    Notes
    -----
    With G = grad_output, the weights P of the forward pass and d_i = sum_e G_ie y_ie:

        grad_value = P^T G,  R_ij = p_ij ((G V^T)_ij - d_i),  grad_query = scale R K,  grad_key = scale R^T Q

    A query whose keys are all hidden gets gradient 0 and gives none. P is computed again from logsumexp, some queries
    and keys at a time: no L x S matrix is in memory here either. 2 L S (3 E + 2 Ev) operations for each of the leading
    dimensions, about half of them with `is_causal`; on "cuda" more, as each gradient computes P for itself.

    For the given y and logsumexp, and with A_i and T as in the forward pass, weights are off by
    (2 (E + 6) (A_i + |lse_i|) + 8) eps, relative to them. So is each term in the sums over i or j above, whose own
    errors add T(L) or T(S) eps; where it has a factor R_ij, they are relative to p_ij (sum_e |G_ie v_je| + |d_i|), and
    Ev + 8 more.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> query, key, value = np.ones((1, 2)), np.zeros((2, 2)), np.array([[1.0], [3.0]])
    >>> y, logsumexp = kernels.scaled_dot_product_attention(query, key, value, scale=1.0, return_lse=True)
    >>> kernels.scaled_dot_product_attention_backward(np.ones((1, 1)), query, key, value, y, logsumexp, scale=1.0)[1]
    array([[-0.5, -0.5],
           [ 0.5,  0.5]])
    """
    arrays = grad_output, query, key, value, y, logsumexp, _unexpanded(attn_mask, query, key)
    return _attention_backward(arrays, (is_causal, needs), target, numbers=(_checked_scale(scale), (None,) * 3))


# --- for layers ------------------------------------------------------------------------------------------------------
# Linear maps write the parts of all heads side by side, (N, T, parts, H, D), and read them so. Attention on the CPU
# does the same, without copies.


def heads_beside(x: Array, length: int, parts: int) -> tuple[Array, list[Array]]:
    """Return new memory (N, length, parts H D) beside x of shape (N, H, T, D), and its parts (N, H, length, D)."""
    n, heads, _, size = x.shape
    rows = empty_beside(x, (n, length, parts * heads * size), x.dtype)
    return rows, heads_in(rows, parts, heads)


def heads_in(rows: Array, parts: int, heads: int) -> list[Array]:
    """Return the parts of rows (N, T, parts H D) as arrays (N, H, T, D) in the same memory."""
    n, t, size = rows.shape
    return [*rows.reshape(n, t, parts, heads, size // (parts * heads)).transpose(2, 0, 3, 1, 4)]


def write_gradients(grads: Sequence[Array], grad_output: Array, query: Array, key: Array, value: Array, y: Array,
                    logsumexp: Array, attn_mask: Array | None, is_causal: bool) -> None:
    """Write what `scaled_dot_product_attention_backward` returns; `grads` share no memory with each other or inputs."""
    _attention_backward((grad_output, query, key, value, y, logsumexp, attn_mask), (is_causal, (True,) * 3),
                        numbers=(None, tuple(grads)))


# --- plans -----------------------------------------------------------------------------------------------------------


@functools.partial(Planned, rows=("query", "key", "value"))
def _attention(query: Array, key: Array, value: Array, attn_mask: Array | None, is_causal: bool, return_lse: bool,
               target: str | None) -> Plan:
    module, shapes = implementation(__name__, target, query), _shapes(query, key, value, attn_mask)
    default, rows = query.shape[-1] ** -0.5, query.shape[:-1]
    see = getattr(module, "by_heads", _reshaped)
    attend = None if 0 in shapes.scores else bound(
        module, "scaled_dot_product_attention", *_examples(query.dtype, shapes.query, shapes.key, shapes.value), None,
        which=shapes.which, is_causal=bool(is_causal))

    def run(query: Array, key: Array, value: Array, attn_mask: Array | None, scale: float | None, y: Array) -> Any:
        logsumexp = empty_beside(query, rows, query.dtype)
        if attend is None:                  # there are no queries or no keys
            y[...] = 0
            logsumexp[...] = -math.inf
        else:
            attend(see(query, shapes.query), see(key, shapes.key), see(value, shapes.value),
                   _reshaped(attn_mask, shapes.mask), default if scale is None else scale, see(y, shapes.y),
                   logsumexp.reshape(shapes.y[:2]))
        return (logsumexp,) if return_lse else None

    return Plan(run, result_of((*rows, value.shape[-1]), query.dtype, query)._replace(rows=see is not _reshaped),
                operations=2 * shapes.visible(is_causal) * (query.shape[-1] + value.shape[-1]), why=why(attend))


@functools.partial(Planned, rows=("grad_output", "query", "key", "value", "y"))
def _attention_backward(grad_output: Array, query: Array, key: Array, value: Array, y: Array, logsumexp: Array,
                        attn_mask: Array | None, is_causal: bool, needs: Needs, target: str | None) -> Plan:
    check_floats(grad_output=grad_output, query=query, key=key, value=value, y=y, logsumexp=logsumexp)
    module, shapes = implementation(__name__, target, query), _shapes(query, key, value, attn_mask)
    given = shapes.y, shapes.query, shapes.key, shapes.value, shapes.y
    check_shape("grad_output", grad_output, (*query.shape[:-1], value.shape[-1]))
    check_shape("y", y, grad_output.shape)
    check_shape("logsumexp", logsumexp, query.shape[:-1])
    check_needs(needs, ("query", "key", "value"))
    default, results = query.shape[-1] ** -0.5, (query.shape, key.shape, value.shape)
    kept = tuple(map(bool, needs))
    see = getattr(module, "by_heads", _reshaped)
    differentiate = None if 0 in shapes.scores or not any(kept) else bound(
        module, "scaled_dot_product_attention_backward", *_examples(query.dtype, *given, shapes.y[:2]), None,
        which=shapes.which, is_causal=bool(is_causal))

    def run(*arguments: Any) -> Gradients:
        *arrays, logsumexp, attn_mask, scale, outs = arguments
        grads = [output(out, shape, logsumexp.dtype, logsumexp, see is not _reshaped) if need else None
                 for out, shape, need in zip(outs, results, kept)]
        if differentiate is None:           # there are no queries or no keys
            for grad in grads:
                if grad is not None:
                    grad[...] = 0
        else:
            differentiate(*map(see, arrays, given), logsumexp.reshape(shapes.y[:2]), _reshaped(attn_mask, shapes.mask),
                          default if scale is None else scale,
                          [None if grad is None else see(grad, shape) for grad, shape in zip(grads, given[1:4])])
        query, key, value = (None if grad is None else deliver(grad, out) for grad, out in zip(grads, outs))
        return query, key, value

    return Plan(run, operations=2 * shapes.visible(is_causal) * (3 * query.shape[-1] + 2 * value.shape[-1]),
                why=why(differentiate))


class _Shapes(NamedTuple):
    """What implementations see: arrays of heads, as all leading dimensions together are called here, and of masks."""

    query: tuple[int, ...]                  # (heads, L, E)
    key: tuple[int, ...]                    # (heads, S, E)
    value: tuple[int, ...]                  # (heads, S, Ev)
    y: tuple[int, ...]                      # (heads, L, Ev)
    mask: tuple[int, ...] | None            # (masks, L or 1, S or 1)
    which: Array                            # the mask of each head
    scores: tuple[int, ...]                 # (heads, L, S)

    def visible(self, is_causal: bool) -> int:
        """The products of queries and keys but for those that `is_causal` hides."""
        heads, queries, keys = self.scores
        square = min(queries, keys)
        return heads * (queries * keys if not is_causal else square * (square + 1) // 2 + (queries - square) * keys)


def _shapes(query: Array, key: Array, value: Array, attn_mask: Array | None) -> _Shapes:
    """Check the arguments of attention, and return how they are seen."""
    check_floats(query=query, key=key, value=value)
    if query.ndim < 2 or query.shape[-1] == 0:
        raise ValueError(f"query: expected shape (..., L, E), E not 0, got {query.shape}")
    *leading, queries, features = query.shape
    for name, array, wanted in (("key", key, features), ("value", value, None)):
        if array.ndim != query.ndim or [*array.shape[:-2]] != leading or array.shape[-1] == 0 or (
                array.shape[-1] != (wanted or array.shape[-1])):
            shape = ", ".join(map(str, (*leading, "S", wanted or "Ev")))
            raise ValueError(f"{name}: expected shape ({shape}), its features not 0, for query of shape {query.shape}, "
                             f"got {array.shape}")
    keys, heads = key.shape[-2], math.prod(leading)
    check_shape("value", value, (*leading, keys, value.shape[-1]))
    which, mask = np.zeros(heads, np.int64), None
    if attn_mask is not None:
        check_side("attn_mask", attn_mask, "query", query)
        if attn_mask.dtype not in (np.dtype(bool), query.dtype):
            raise TypeError(f"attn_mask: expected bool, or {query.dtype} as query has, got {attn_mask.dtype}")
        scores = (*leading, queries, keys)
        whole = (*(1,) * (len(scores) - attn_mask.ndim), *attn_mask.shape)
        if len(whole) > len(scores) or any(size not in (1, of_all) for size, of_all in zip(whole, scores)):
            raise ValueError(f"attn_mask: expected a shape that broadcasts to {scores}, got {attn_mask.shape}")
        masks = math.prod(whole[:-2])
        mask = masks, *whole[-2:]
        which = np.ascontiguousarray(np.broadcast_to(np.arange(masks).reshape(whole[:-2]), leading)).reshape(-1)
    return _Shapes((heads, queries, features), (heads, keys, features), (heads, *value.shape[-2:]),
                   (heads, queries, value.shape[-1]), mask, which, (heads, queries, keys))


def _examples(dtype: np.dtype, *shapes: tuple[int, ...]) -> list[Array]:
    return [shaped(shape, dtype) for shape in shapes]


def _reshaped(array: Array | None, shape: tuple[int, ...] | None) -> Array | None:
    return None if array is None else array.reshape(shape)


def _checked_scale(scale: float | None) -> float | None:
    return None if scale is None else as_float("scale", scale, -sys.float_info.max, sys.float_info.max)


def _unexpanded(attn_mask: Any, query: Any, key: Any) -> Any:
    """Return a mask that NumPy has broadcast as it was before, so that nobody copies it to make it contiguous."""
    strides = getattr(attn_mask, "strides", None) or ()
    if 0 not in strides or attn_mask.shape != (*np.shape(query)[:-1], *np.shape(key)[-2:-1])[-len(strides):]:
        return attn_mask
    return attn_mask[tuple([slice(None if step else 1) for step in strides])]
