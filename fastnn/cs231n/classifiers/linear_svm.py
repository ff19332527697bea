"""The multiclass SVM loss of a linear classifier."""

from __future__ import annotations

from typing import Any

from fastnn import kernels
from fastnn._checks import Array
from fastnn.cs231n.classifiers._linear import linear_loss

__all__ = ["svm_loss_naive", "svm_loss_vectorized"]


def svm_loss_naive(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """Return the mean hinge loss of X W, by loops over examples and classes, plus reg sum(W^2), and its gradient.

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
        `fastnn.kernels.hinge_loss` with margin 1 on target "naive", and the penalty.
    dW : array of shape (D, C)
        Gradient by W.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import svm_loss_naive
    >>> loss, dW = svm_loss_naive(np.array([[3.0, 2.5, 0.0]]), np.array([[1.0]]), np.array([0]), 0.0)
    >>> float(loss), dW
    (0.5, array([[-1.,  1.,  0.]]))
    """
    return linear_loss(kernels.hinge_loss, kernels.hinge_loss_backward, W, X, y, reg, "naive")


def svm_loss_vectorized(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """Return what `svm_loss_naive` does, by the compiled kernel.

    Parameters
    ----------
    W, X, y, reg
        As for `svm_loss_naive`.

    Returns
    -------
    loss, dW : NumPy scalar, array of shape (D, C)
        Loss, and gradient by W.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import svm_loss_vectorized
    >>> loss, dW = svm_loss_vectorized(np.array([[3.0, 2.5, 0.0]]), np.array([[1.0]]), np.array([0]), 0.0)
    >>> float(loss), dW
    (0.5, array([[-1.,  1.,  0.]]))
    """
    return linear_loss(kernels.hinge_loss, kernels.hinge_loss_backward, W, X, y, reg, None)
