"""The cross-entropy of a linear classifier."""

from __future__ import annotations

from typing import Any

from fastnn import kernels
from fastnn._checks import Array
from fastnn.cs231n.classifiers._linear import linear_loss

__all__ = ["softmax_loss_naive", "softmax_loss_vectorized"]


def softmax_loss_naive(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """Return the mean cross-entropy of the softmax of X W, by loops, plus reg sum(W^2), and its gradient.

    Parameters
    ----------
    W : array of shape (D, C)
        Weights.
    X : array of shape (N, D)
        Examples.
    y : integer array of shape (N,)
        Classes from 0 to C - 1.
    reg : float
        Strength of the L2 penalty.

    Returns
    -------
    loss : NumPy scalar
        `fastnn.kernels.cross_entropy` on target "naive", and the penalty.
    dW : array of shape (D, C)
        Gradient by W.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import softmax_loss_naive
    >>> loss, dW = softmax_loss_naive(np.zeros((1, 2)), np.array([[1.0]]), np.array([1]), 0.0)
    >>> float(loss.round(4)), dW
    (0.6931, array([[ 0.5, -0.5]]))
    """
    return linear_loss(kernels.cross_entropy, kernels.cross_entropy_backward, W, X, y, reg, "naive")


def softmax_loss_vectorized(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """Return what `softmax_loss_naive` does, by the compiled kernel.

    Parameters
    ----------
    W, X, y, reg
        As for `softmax_loss_naive`.

    Returns
    -------
    loss, dW : NumPy scalar, array of shape (D, C)
        Loss, and gradient by W.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import softmax_loss_vectorized
    >>> loss, dW = softmax_loss_vectorized(np.zeros((1, 2)), np.array([[1.0]]), np.array([1]), 0.0)
    >>> float(loss.round(4)), dW
    (0.6931, array([[ 0.5, -0.5]]))
    """
    return linear_loss(kernels.cross_entropy, kernels.cross_entropy_backward, W, X, y, reg, None)
