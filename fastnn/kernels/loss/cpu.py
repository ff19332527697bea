"""Losses by blocks of rows or elements, formed in float64 and summed in a fixed order."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn.kernels._arrays import Array
from fastnn.kernels._elementwise import binary, chunk, chunks
from fastnn.kernels._jit import block_kernel, helper
from fastnn.kernels._math import exp_rows, log_sum_exp, part_of_rows, row_blocks, rows_of_block
from fastnn.kernels._vectors import draft, exceeds_caches, finish, row_sum, use_widest_vectors


@helper
def _grad(grad_losses: Array, n: int) -> float:
    return np.float64(grad_losses[n if grad_losses.size > 1 else 0])


# --- cross entropy -----------------------------------------------------------------------------------------


@block_kernel(writes="losses", typed_by="x")
def _cross_entropy(block: int, x: Array, labels: Array, label_smoothing: float, losses: Array) -> None:
    use_widest_vectors()
    rows = rows_of_block(block, x)
    largest, logs = np.empty(len(rows), x.dtype), np.empty(len(rows))
    log_sum_exp(x, rows, largest, logs)
    for n in rows:
        m, logarithm = np.float64(largest[n - rows.start]), logs[n - rows.start]
        losses[n] = logarithm - (x[n, max(0, labels[n])] - m)
        if label_smoothing > 0:
            even = logarithm - (row_sum(x[n]) / x.shape[1] - m)
            losses[n] = (1 - label_smoothing) * losses[n] + label_smoothing * even


@block_kernel(writes="grad_x", typed_by="x")
def _cross_entropy_backward(block: int, grad_losses: Array, x: Array, labels: Array, label_smoothing: float,
                            streamed: bool, grad_x: Array) -> None:
    use_widest_vectors()
    rows, part = rows_of_block(block, x), draft(part_of_rows(block, grad_x), streamed)
    exp_rows(x, rows, np.empty(len(rows), x.dtype), part)
    for n in rows:
        result, label, grad = part[n - rows.start], max(0, labels[n]), _grad(grad_losses, n)
        right, scale, even = result[label], 1 / row_sum(result), label_smoothing / result.size
        for c in range(result.size):
            result[c] = grad * (result[c] * scale - even)
        result[label] = grad * (right * scale - even - (1 - label_smoothing))
    finish(part, part_of_rows(block, grad_x))


def cross_entropy(x: Array, labels: Array, label_smoothing: float, losses: Array) -> None:
    _cross_entropy(row_blocks(x), x, labels, label_smoothing, losses, work=x.size)


def cross_entropy_backward(grad_losses: Array, x: Array, labels: Array, label_smoothing: float,
                           grad_x: Array) -> None:
    _cross_entropy_backward(row_blocks(x), grad_losses, x, labels, label_smoothing, exceeds_caches(grad_x), grad_x,
                            work=x.size)


# --- hinge -------------------------------------------------------------------------------------------------


@block_kernel(writes="losses", typed_by="x")
def _hinge_loss(block: int, x: Array, labels: Array, margin: float, losses: Array) -> None:
    terms = np.empty(x.shape[1])
    for n in rows_of_block(block, x):
        scores, right = x[n], x[n, labels[n]]
        for c in range(scores.size):
            excess = margin + np.float64(scores[c]) - right
            terms[c] = 0.0 if excess <= 0 else excess
        terms[labels[n]] = 0
        losses[n] = row_sum(terms)


@block_kernel(writes="grad_x", typed_by="x")
def _hinge_loss_backward(block: int, grad_losses: Array, x: Array, labels: Array, margin: float,
                         streamed: bool, grad_x: Array) -> None:
    rows, part = rows_of_block(block, x), draft(part_of_rows(block, grad_x), streamed)
    for n in rows:
        scores, result, label, grad = x[n], part[n - rows.start], max(0, labels[n]), _grad(grad_losses, n)
        right, inside = scores[label], 0
        for c in range(scores.size):
            counts = (c != label) & (not margin + np.float64(scores[c]) - right <= 0)
            result[c] = grad if counts else 0.0
            inside += counts
        result[label] = -inside * grad if inside else 0.0
    finish(part, part_of_rows(block, grad_x))


def hinge_loss(x: Array, labels: Array, margin: float, losses: Array) -> None:
    _hinge_loss(row_blocks(x), x, labels, margin, losses, work=x.size)


def hinge_loss_backward(grad_losses: Array, x: Array, labels: Array, margin: float, grad_x: Array) -> None:
    _hinge_loss_backward(row_blocks(x), grad_losses, x, labels, margin, exceeds_caches(grad_x), grad_x,
                         work=x.size)


# --- squared error -----------------------------------------------------------------------------------------


@binary
def _mse_loss(x: Any, y: Any, option: Any) -> Any:
    return (x - y) * (x - y)


@binary
def _mse_loss_backward(x: Any, y: Any, scale: Any) -> Any:
    return scale * (x - y)


@block_kernel(writes="grad_x", typed_by="x")
def _mse_losses_backward(block: int, grad_losses: Array, x: Array, y: Array, grad_x: Array) -> None:
    grads, x, y, grad_x = chunk(block, grad_losses), chunk(block, x), chunk(block, y), chunk(block, grad_x)
    for i in range(x.size):
        grad_x[i] = 2 * grads[i] * (x[i] - y[i])


@block_kernel(writes="sums", typed_by="x")
def _mse_loss_sums(block: int, x: Array, y: Array, sums: Array) -> None:
    x, y = chunk(block, x), chunk(block, y)
    terms = np.empty(x.size)
    for i in range(x.size):
        difference = np.float64(x[i]) - y[i]
        terms[i] = difference * difference
    sums[block] = row_sum(terms)


def mse_loss(x: Array, y: Array, losses: Array) -> None:
    _mse_loss(chunks(x), x, y, 0.0, losses, work=x.size // 5)


def mse_loss_sums(x: Array, y: Array) -> Array:
    sums = np.empty(chunks(x), np.float64)
    _mse_loss_sums(len(sums), x, y, sums, work=x.size // 2)
    return sums


def mse_loss_backward(grad_losses: Array, x: Array, y: Array, grad_x: Array) -> None:
    if grad_losses.size > 1:
        _mse_losses_backward(chunks(x), grad_losses, x, y, grad_x, work=x.size // 5)
    else:
        _mse_loss_backward(chunks(x), x, y, 2 * float(grad_losses[0]), grad_x, work=x.size // 5)
