"""Losses as their formulas say; the other implementations are compared with them.

All is computed in the widest numbers there are, which on most machines reach far beyond float64. Losses of rows are
float64, times `unit`: a power of two, 1 but for a mean.
"""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array, as_labels


def cross_entropy(x: Array, labels: Array, weight: Array | None, label_smoothing: float, unit: float, losses: Array, *,
                  ignore_index: int) -> None:
    labels, weight, rows = _labelled(x, labels, weight, ignore_index)
    for r, (scores, label) in enumerate(zip(rows, labels)):
        if label == ignore_index:
            losses[:, r] = 0
            continue
        shifted = scores - scores.max()
        log_probabilities = shifted - np.log(np.exp(shifted).sum())
        loss = -weight[label] * log_probabilities[label]
        if label_smoothing > 0:
            loss = (1 - label_smoothing) * loss - label_smoothing * (weight * log_probabilities).mean()
        losses[:, r] = unit * loss, weight[label]


def cross_entropy_backward(grad_losses: Array, x: Array, labels: Array, weight: Array | None, label_smoothing: float,
                           grad_x: Array, *, ignore_index: int) -> None:
    labels, weight, rows = _labelled(x, labels, weight, ignore_index)
    grads = np.zeros_like(rows)
    for r, grad in enumerate(np.broadcast_to(grad_losses, len(rows))):
        label = labels[r]
        if label == ignore_index:
            continue
        e = np.exp(rows[r] - rows[r].max())
        p = e / e.sum()
        of_label = p - (np.arange(len(p)) == label)
        grads[r] = grad * (1 - np.longdouble(label_smoothing)) * weight[label] * of_label
        if label_smoothing > 0:
            grads[r] += grad * label_smoothing / len(p) * (p * weight.sum() - weight)
    grad_x[...] = grads.reshape(len(x), grad_x.shape[2], -1).transpose(0, 2, 1)


def _labelled(x: Array, labels: Array, weight: Array | None, ignore_index: int) -> tuple[Array, Array, Array]:
    """Return labels, the weight of each class, and the scores of each row."""
    n, classes, places = x.shape
    labels = as_labels("labels", labels, (n * places,), classes, ignore_index)
    weight = np.ones(classes, np.longdouble) if weight is None else weight.astype(np.longdouble)
    return labels, weight, x.transpose(0, 2, 1).reshape(n * places, classes).astype(np.longdouble)


def hinge_loss(x: Array, labels: Array, margin: float, unit: float, losses: Array) -> None:
    labels, x = as_labels("labels", labels, x.shape[:1], x.shape[1]), x.astype(np.longdouble)
    for n, label in enumerate(labels):
        loss = np.longdouble(0)
        for c in range(x.shape[1]):
            if c != label:
                loss += np.maximum(0, margin + (x[n, c] - x[n, label]))
        losses[n] = unit * loss


def hinge_loss_backward(grad_losses: Array, x: Array, labels: Array, margin: float, grad_x: Array) -> None:
    labels, x = as_labels("labels", labels, x.shape[:1], x.shape[1]), x.astype(np.longdouble)
    grad_x[:] = 0
    for n, (label, grad) in enumerate(zip(labels, np.broadcast_to(grad_losses, len(x)))):
        for c in range(x.shape[1]):
            if c != label and not margin + (x[n, c] - x[n, label]) <= 0:
                grad_x[n, c] += grad
                grad_x[n, label] -= grad


def binary_cross_entropy(x: Array, targets: Array, weight: Array | None, pos_weight: Array | None, losses: Array,
                         unit: float = 1.0) -> None:
    x, targets, weight, pos_weight = _wide(x, targets, weight, pos_weight)
    for i in range(x.size):
        rest = np.log1p(np.exp(-abs(x[i])))
        yes, no = np.maximum(-x[i], 0) + rest, np.maximum(x[i], 0) + rest       # -log(sigmoid(x)), -log(sigmoid(-x))
        losses[i] = unit * weight[i] * (targets[i] * pos_weight[i] * yes + (1 - targets[i]) * no)


def binary_cross_entropy_sums(x: Array, targets: Array, weight: Array | None, pos_weight: Array | None,
                              unit: float) -> Array:
    losses = np.empty(x.size, np.longdouble)
    binary_cross_entropy(x, targets, weight, pos_weight, losses, unit)
    return losses.sum(keepdims=True).astype(np.float64)


def binary_cross_entropy_backward(grad_losses: Array, x: Array, targets: Array, weight: Array | None,
                                  pos_weight: Array | None, grad_x: Array) -> None:
    x, targets, weight, pos_weight = _wide(x, targets, weight, pos_weight)
    for i, grad in enumerate(np.broadcast_to(grad_losses, x.size)):
        e = np.exp(-abs(x[i]))
        yes, no = np.array((1, e) if x[i] > 0 else (e, 1)) / (1 + e)            # sigmoid(x), sigmoid(-x)
        grad_x[i] = grad * weight[i] * ((1 - targets[i]) * yes - targets[i] * pos_weight[i] * no)


def _wide(x: Array, *others: Array | None) -> list[Array]:
    """Return arrays of x's size, those that end before begun anew, and 1 where there is none."""
    return [np.resize(np.ones(1) if a is None else a, x.size).astype(np.longdouble) for a in (x, *others)]


def mse_loss(x: Array, y: Array, losses: Array) -> None:
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    for i in range(x.size):
        losses[i] = (x[i] - y[i]) ** 2


def mse_loss_sums(x: Array, y: Array, unit: float) -> Array:
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    total = np.longdouble(0)
    for i in range(x.size):
        total += (x[i] - y[i]) ** 2
    return np.array([total * unit * unit], np.float64)


def mse_loss_backward(grad_losses: Array, x: Array, y: Array, grad_x: Array) -> None:
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    for i, grad in enumerate(np.broadcast_to(grad_losses, x.size)):
        grad_x[i] = 2 * (x[i] - y[i]) * grad
