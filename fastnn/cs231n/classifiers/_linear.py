"""Loss and gradient of a linear classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_float, as_labels, check_not_empty, check_rank
from fastnn.cs231n._common import promoted


def scores(W: Array, X: Array) -> tuple[Array, Array, Array]:
    """Return the scores X W of examples, and X and W in the scores' dtype."""
    W, X = promoted(W=W, X=X)
    check_rank("X", X, 2, layout="(N, D)")
    check_rank("W", W, 2, layout="(D, C)")
    if len(W) != X.shape[1]:
        raise ValueError(f"W: expected {X.shape[1]} rows for X of shape {X.shape}, got shape {W.shape}")
    check_not_empty("X", X)
    return kernels.linear(X, W.T), X, W


def linear_loss(loss: Callable[..., Any], loss_backward: Callable[..., Array], W: Array, X: Array, y: Array,
                reg: float, target: str | None) -> tuple[Any, Array]:
    """Return the mean loss of the scores X W plus reg sum(W^2), and its gradient by W.

    `target` runs the loss: as in the course, products of matrices are no part of what is naive.
    """
    x, X, W = scores(W, X)
    y, reg = as_labels("y", y, x.shape[:1], x.shape[1]), as_float("reg", reg)
    dx = loss_backward(1.0, x, y, target=target)
    dW: Any = kernels.linear_backward(dx, X, W.T, needs=(False, True, False))[1]
    return loss(x, y, target=target) + reg * np.sum(W * W), dW.T + 2 * reg * W
