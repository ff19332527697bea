"""Losses: modules whose forward takes scores and the truth, and whose backward starts at 1.

`forward(scores, labels)` returns the loss, a NumPy scalar, and `backward(grad=1.0)`, which returns the gradient by the
scores; `loss(scores, labels)` is the value alone. All are means over the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import _device, kernels
from fastnn._checks import (
    FLOATS,
    Array,
    as_array,
    as_float,
    as_floats,
    as_int,
    check_not_empty,
    check_rank,
    check_shape,
)
from fastnn.nn.module import Backward, Module, once


class CrossEntropyLoss(Module):
    """Mean negative log-likelihood of labels, or of probabilities, under the softmax of scores.

    Scores are (N, C) with labels (N,) or probabilities (N, C), or (N, C, ...) with labels (N, ...). See
    `fastnn.kernels.cross_entropy`. Probabilities, which `fastnn.data.MixUp` makes of labels, are floats of the scores'
    dtype, none negative; those of a row sum to 1. (On a GPU nothing looks at that.)

    Parameters
    ----------
    label_smoothing : float
        The share of the truth, from 0 to 1, that is spread evenly over the classes.
    weight : array of shape (C,), optional
        What each class counts.
    ignore_index : int
        The label of rows that do not count, such as padding. The mean over none that count is NaN, its gradient 0.

    Notes
    -----
    The mean over labels is over their weights. With probabilities q the loss of a row is -sum of w_c q_c
    log softmax(x)_c, and the mean is over the rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> loss, backward = nn.CrossEntropyLoss().forward(np.zeros((2, 2)), np.array([0, 1]))
    >>> loss.round(4)
    np.float64(0.6931)
    >>> backward()
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """

    buffers = ("weight",)

    def __init__(self, label_smoothing: float = 0.0, *, weight: Array | None = None, ignore_index: int = -100) -> None:
        self.label_smoothing = as_float("label_smoothing", label_smoothing, 0, 1)
        self.weight = _as_constant("weight", weight)
        self.ignore_index = as_int("ignore_index", ignore_index)

    def forward(self, scores: Array, labels: Array, *, training: bool = True) -> tuple[Any, Backward]:
        if np.ndim(labels) == 2 and "float" in str(getattr(labels, "dtype", "")):
            return self._forward_probabilities(scores, labels)
        weight = _in_dtype_of(scores, self.weight)
        options: dict[str, Any] = {"label_smoothing": self.label_smoothing, "ignore_index": self.ignore_index}

        @once
        def backward(grad: float = 1.0) -> Array:
            return kernels.cross_entropy_backward(grad, scores, labels, weight, **options)

        return kernels.cross_entropy(scores, labels, weight, **options), backward

    def _forward_probabilities(self, scores: Array, probabilities: Array) -> tuple[Any, Backward]:
        scores, probabilities = as_floats(scores=scores, labels=probabilities)
        check_rank("scores", scores, 2, layout="(N, C)")
        check_shape("labels", probabilities, scores.shape)
        check_not_empty("scores", scores)
        if not _device.is_device(probabilities):
            least, sums = probabilities.min(), probabilities.sum(1)
            if not (least >= 0 and abs(sums - 1).max() < 1e-3):
                raise ValueError("labels: expected probabilities, none negative and rows of sum 1, got values from "
                                 f"{least:g} and sums from {sums.min():g} to {sums.max():g}")
        n, classes = scores.shape
        truth = (1 - self.label_smoothing) * probabilities + self.label_smoothing / classes
        if (weight := _in_dtype_of(scores, self.weight)) is not None:
            check_shape("weight", weight, (classes,))
            truth = truth * weight
        logarithms = kernels.log_softmax(scores)

        @once
        def backward(grad: float = 1.0) -> Array:
            return kernels.log_softmax_backward((truth * (grad / -n)).astype(scores.dtype, copy=False), logarithms)

        with np.errstate(over="ignore", invalid="ignore"):      # what is not finite is an answer, as from kernels
            return (-(truth * logarithms).sum(dtype=np.float64) / n).astype(scores.dtype), backward


class BCEWithLogitsLoss(Module):
    """Mean negative log-likelihood of truths from 0 to 1 under the sigmoid of scores, arrays of one shape.

    See `fastnn.kernels.binary_cross_entropy_with_logits`; backward returns the gradient by the scores.

    Parameters
    ----------
    weight : array, optional
        What each element's loss is multiplied by, of a shape that broadcasts to that of the scores.
    pos_weight : array, optional
        What the part of a yes is multiplied by, such as one number a class.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> loss, backward = nn.BCEWithLogitsLoss().forward(np.array([0.0, 0.0]), np.array([0.0, 1.0]))
    >>> loss.round(4), backward()
    (np.float64(0.6931), array([ 0.25, -0.25]))
    """

    buffers = ("weight", "pos_weight")

    def __init__(self, weight: Array | None = None, *, pos_weight: Array | None = None) -> None:
        self.weight, self.pos_weight = _as_constant("weight", weight), _as_constant("pos_weight", pos_weight)

    def forward(self, scores: Array, truth: Array, *, training: bool = True) -> tuple[Any, Backward]:
        weight, pos_weight = (_in_dtype_of(scores, array) for array in (self.weight, self.pos_weight))

        @once
        def backward(grad: float = 1.0) -> Array:
            return kernels.binary_cross_entropy_with_logits_backward(grad, scores, truth, weight, pos_weight=pos_weight)

        return kernels.binary_cross_entropy_with_logits(scores, truth, weight, pos_weight=pos_weight), backward


def _as_constant(name: str, value: Any) -> Array | None:
    """Return an array of floats that a loss keeps."""
    if value is None:
        return None
    array = value.copy() if _device.is_device(value) else np.array(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    return array if array.dtype in FLOATS else array.astype(np.float32)


def _in_dtype_of(scores: Array, constant: Array | None) -> Array | None:
    dtype = getattr(scores, "dtype", None)
    return constant.astype(dtype, copy=False) if constant is not None and dtype in FLOATS else constant


class HingeLoss(Module):
    """Hinge loss of scores (N, C): the sum over wrong classes of max(0, margin + score - score of the label).

    The loss of the multiclass support vector machine, as the mean over rows; labels are (N,). See
    `fastnn.kernels.hinge_loss`.

    Parameters
    ----------
    margin : float
        By how much the right class should lead.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> loss, backward = nn.HingeLoss().forward(np.array([[3.0, 2.5, 0.0]]), np.array([0]))
    >>> loss, backward()
    (np.float64(0.5), array([[-1.,  1.,  0.]]))
    """

    def __init__(self, margin: float = 1.0) -> None:
        self.margin = as_float("margin", margin)

    def forward(self, scores: Array, labels: Array, *, training: bool = True) -> tuple[Any, Backward]:
        margin = self.margin

        @once
        def backward(grad: float = 1.0) -> Array:
            return kernels.hinge_loss_backward(grad, scores, labels, margin=margin)

        return kernels.hinge_loss(scores, labels, margin=margin), backward


class MSELoss(Module):
    """Mean of the squared differences of predictions and truth, arrays of one shape.

    See `fastnn.kernels.mse_loss`; backward returns the gradient by the predictions.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> loss, backward = nn.MSELoss().forward(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    >>> loss, backward()
    (np.float64(2.0), array([ 0., -2.]))
    """

    def forward(self, predictions: Array, truth: Array, *, training: bool = True) -> tuple[Any, Backward]:
        @once
        def backward(grad: float = 1.0) -> Array:
            return kernels.mse_loss_backward(grad, predictions, truth)

        return kernels.mse_loss(predictions, truth), backward


class TokenCrossEntropyLoss(CrossEntropyLoss):
    """Mean negative log-likelihood of tokens (N, T) under the softmax of scores (N, T, V), as a language model has it.

    The mean is over all tokens of the batch that count, whichever sequence they are in; the trainer weights batches by
    their number. Parameters are those of `CrossEntropyLoss`: `ignore_index` is what fills up short sequences.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> loss, backward = nn.TokenCrossEntropyLoss().forward(np.zeros((1, 2, 2)), np.array([[1, -100]]))
    >>> loss.round(4)
    np.float64(0.6931)
    >>> backward()
    array([[[ 0.5, -0.5],
            [ 0. ,  0. ]]])
    """

    def forward(self, scores: Array, tokens: Array, *, training: bool = True) -> tuple[Any, Backward]:
        scores, tokens = as_array("scores", scores), as_array("tokens", tokens)
        check_rank("scores", scores, 3, layout="(N, T, V)")
        check_shape("tokens", tokens, scores.shape[:2])
        shape = scores.shape
        # (N, T, V) -> (N T, V), and (N, T) -> (N T,)
        loss, rows_backward = super().forward(scores.reshape(-1, shape[2]), tokens.reshape(-1), training=training)

        @once
        def backward(grad: float = 1.0) -> Array:
            return rows_backward(grad).reshape(shape)

        return loss, backward

    def tokens(self, tokens: Array) -> Any:
        """Return how many tokens count; an array of no dimensions on a GPU, for which nothing waits."""
        count = (tokens != self.ignore_index).sum()
        return count if _device.is_device(count) else int(count)
