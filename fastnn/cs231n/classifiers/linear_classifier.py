"""Linear classifiers trained by stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_array, as_int, as_labels, check_not_empty, check_rank, check_shape
from fastnn.cs231n._common import course_names, promoted
from fastnn.cs231n.classifiers._linear import scores
from fastnn.cs231n.classifiers.linear_svm import svm_loss_vectorized
from fastnn.cs231n.classifiers.softmax import softmax_loss_vectorized

__all__ = ["LinearClassifier", "LinearSVM", "Softmax"]


class LinearClassifier:
    """What `LinearSVM` and `Softmax` share; a subclass says what its loss is.

    Attributes
    ----------
    W : array of shape (D, C), or None before training
        The weights. There is no bias: the course adds a column of ones to X.
    """

    def __init__(self) -> None:
        self.W: Any = None

    def train(self, X: Array, y: Array, learning_rate: float = 1e-3, reg: float = 1e-5, num_iters: int = 100,
              batch_size: int = 200, verbose: bool = False) -> list[float]:
        """Go on from W, or from small random weights, and return the loss of each batch.

        Parameters
        ----------
        X : array of shape (N, D)
            Examples.
        y : integer array of shape (N,)
            Classes from 0 to C - 1.
        learning_rate : float
            Size of a step.
        reg : float
            Strength of the L2 penalty.
        num_iters : int
            How many steps.
        batch_size : int
            Examples a step, drawn with replacement from NumPy's global generator, as the course's notebooks seed it.
        verbose : bool
            Whether to print the loss of every hundredth step.

        Returns
        -------
        list of floats
            The losses.
        """
        X, = promoted(X=X)
        check_rank("X", X, 2, layout="(N, D)")
        check_not_empty("X", X)
        check_shape("y", as_array("y", y), (len(X),))
        num_iters, batch_size = as_int("num_iters", num_iters, 0), as_int("batch_size", batch_size, 1)
        classes = int(np.max(y)) + 1 if self.W is None else self.W.shape[1]
        y = as_labels("y", y, X.shape[:1], classes)
        # From NumPy's global generator, which is what the notebooks seed.
        if self.W is None:
            self.W = (0.001 * np.random.randn(X.shape[1], classes)).astype(X.dtype)           # noqa: NPY002
        losses = []
        for step in range(num_iters):
            batch = np.random.choice(len(X), batch_size)                                      # noqa: NPY002
            loss, dW = self.loss(X[batch], y[batch], reg)
            with course_names(lr="learning_rate"):
                kernels.sgd_update(self.W, dW.astype(self.W.dtype, copy=False), lr=learning_rate)
            losses.append(float(loss))
            if verbose and step % 100 == 0:
                print(f"iteration {step} / {num_iters}: loss {loss:f}")
        return losses

    def predict(self, X: Array) -> Array:
        """Return the class with the largest score for each example of X, an array of shape (N, D)."""
        if self.W is None:
            raise RuntimeError(f"{type(self).__name__}: expected a call of train before predict")
        return np.asarray(np.argmax(scores(self.W, X)[0], axis=1))

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        """Return loss and gradient by W of a batch: what a subclass defines."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss(self, X_batch, y_batch, reg)")


class LinearSVM(LinearClassifier):
    """The linear classifier with the multiclass SVM loss, `svm_loss_vectorized`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import LinearSVM
    >>> X, y = np.array([[1.0, 1.0], [-1.0, 1.0]]), np.array([0, 1])
    >>> svm = LinearSVM()
    >>> losses = svm.train(X, y, learning_rate=0.1, num_iters=50, batch_size=2)
    >>> svm.predict(X)
    array([0, 1])
    """

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        return svm_loss_vectorized(self.W, X_batch, y_batch, reg)


class Softmax(LinearClassifier):
    """The linear classifier with softmax and cross-entropy, `softmax_loss_vectorized`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import Softmax
    >>> X, y = np.array([[1.0, 1.0], [-1.0, 1.0]]), np.array([0, 1])
    >>> softmax = Softmax()
    >>> losses = softmax.train(X, y, learning_rate=0.1, num_iters=50, batch_size=2)
    >>> softmax.predict(X)
    array([0, 1])
    """

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        return softmax_loss_vectorized(self.W, X_batch, y_batch, reg)
