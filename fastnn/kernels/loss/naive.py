"""Losses as their formulas say; the other implementations are compared with them.

All is computed in the widest numbers there are, which on most machines reach far beyond float64. Losses of rows are
float64, times `unit`: a power of two, 1 but for a mean.
"""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array, as_labels


def cross_entropy(x: Array, labels: Array, label_smoothing: float, unit: float, losses: Array) -> None:
    labels, x = as_labels("labels", labels, *x.shape), x.astype(np.longdouble)
    for n in range(len(x)):
        shifted = x[n] - x[n].max()
        log_probabilities = shifted - np.log(np.exp(shifted).sum())
        loss = -log_probabilities[labels[n]]
        if label_smoothing > 0:
            loss = (1 - label_smoothing) * loss - label_smoothing * log_probabilities.mean()
        losses[n] = unit * loss


def cross_entropy_backward(grad_losses: Array, x: Array, labels: Array, label_smoothing: float,
                           grad_x: Array) -> None:
    labels, x = as_labels("labels", labels, *x.shape), x.astype(np.longdouble)
    for n, grad in enumerate(np.broadcast_to(grad_losses, len(x))):
        e = np.exp(x[n] - x[n].max())
        truth = np.full_like(x[n], label_smoothing / x.shape[1])
        truth[labels[n]] += 1 - np.longdouble(label_smoothing)
        grad_x[n] = grad * (e / e.sum() - truth)


def hinge_loss(x: Array, labels: Array, margin: float, unit: float, losses: Array) -> None:
    labels, x = as_labels("labels", labels, *x.shape), x.astype(np.longdouble)
    for n, label in enumerate(labels):
        loss = np.longdouble(0)
        for c in range(x.shape[1]):
            if c != label:
                loss += np.maximum(0, margin + (x[n, c] - x[n, label]))
        losses[n] = unit * loss


def hinge_loss_backward(grad_losses: Array, x: Array, labels: Array, margin: float, grad_x: Array) -> None:
    labels, x = as_labels("labels", labels, *x.shape), x.astype(np.longdouble)
    grad_x[:] = 0
    for n, (label, grad) in enumerate(zip(labels, np.broadcast_to(grad_losses, len(x)))):
        for c in range(x.shape[1]):
            if c != label and not margin + (x[n, c] - x[n, label]) <= 0:
                grad_x[n, c] += grad
                grad_x[n, label] -= grad


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
