"""Attention as its formulas say; the other implementations are compared with it. Arrays come by heads.

All is computed in the widest numbers there are, which on most machines reach far beyond float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastnn._checks import Array


def _scores(query: Array, key: Array, mask: Array | None, scale: float, which: Array,
            is_causal: bool) -> Iterator[tuple[int, int, Array, Array]]:
    """Iterate over heads and queries: the keys that take part, and scores of these, none of them -inf."""
    for n in range(len(query)):
        for i in range(query.shape[1]):
            seen = np.ones(key.shape[1], bool)
            added = np.zeros(key.shape[1], np.longdouble)
            if mask is not None:
                row = np.broadcast_to(mask[which[n]], (query.shape[1], key.shape[1]))[i]
                seen = row.copy() if row.dtype == bool else row != -np.inf
                added = np.zeros(len(row), np.longdouble) if row.dtype == bool else row.astype(np.longdouble)
            if is_causal:
                seen[i + 1 :] = False
            keys = np.flatnonzero(seen)
            scores = scale * (key[n, keys] * query[n, i]).sum(1) + added[keys]
            yield n, i, keys[scores != -np.inf], scores[scores != -np.inf]


def scaled_dot_product_attention(query: Array, key: Array, value: Array, mask: Array | None, scale: float, y: Array,
                                 logsumexp: Array, which: Array, is_causal: bool) -> None:
    query, key, value = (array.astype(np.longdouble) for array in (query, key, value))
    for n, i, keys, scores in _scores(query, key, mask, scale, which, is_causal):
        y[n, i], logsumexp[n, i] = 0, -np.inf
        if len(keys):
            largest = scores.max()
            weights = np.exp(scores - largest)
            total = weights.sum()
            logsumexp[n, i] = largest + np.log(total)
            y[n, i] = (weights[:, None] / total * value[n, keys]).sum(0)


def scaled_dot_product_attention_backward(
        grad_output: Array, query: Array, key: Array, value: Array, y: Array, logsumexp: Array, mask: Array | None,
        scale: float, grads: Sequence[Array | None], which: Array, is_causal: bool) -> None:
    grad_output, query, key, value, y, logsumexp = (
        array.astype(np.longdouble) for array in (grad_output, query, key, value, y, logsumexp))
    grad_query, grad_key, grad_value = np.zeros_like(query), np.zeros_like(key), np.zeros_like(value)
    for n, i, keys, scores in _scores(query, key, mask, scale, which, is_causal):
        if logsumexp[n, i] == -np.inf:
            continue
        weights = np.exp(scores - logsumexp[n, i])
        grad_value[n, keys] += np.outer(weights, grad_output[n, i])
        grad_weights = (value[n, keys] * grad_output[n, i]).sum(1)
        grad_scores = weights * (grad_weights - (grad_output[n, i] * y[n, i]).sum())
        grad_query[n, i] = scale * (grad_scores[:, None] * key[n, keys]).sum(0)
        grad_key[n, keys] += scale * np.outer(grad_scores, query[n, i])
    for grad, computed in zip(grads, (grad_query, grad_key, grad_value)):
        if grad is not None:
            grad[...] = computed
