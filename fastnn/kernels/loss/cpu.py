"""Losses by blocks of rows or elements, formed in float64 and summed in a fixed order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array, as_labels
from fastnn.kernels._cpu.compiler import helper, inlined_helper
from fastnn.kernels._cpu.elementwise import binary, chunk, chunks, mapping
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.rows import exp_rows, log_sum_exp, part_of_rows, row_blocks, rows_of_block
from fastnn.kernels._cpu.vectors import STREAMED, draft, exceeds_caches, finish, row_gaps, row_sum, use_widest_vectors

_INT64 = np.dtype(np.int64)
_ROOM = 2.0**-66                            # less than 1 over twice the elements that a row may have


@helper
def _grad(grad_losses: Array, n: int) -> float:
    return np.float64(grad_losses[n if grad_losses.size > 1 else 0])


@helper
def _label(labels: Array, n: int, x: Array, wrong: Array) -> int:
    """Return the label of a row of x. One out of range `wrong` tells of, and the row gets another."""
    label = labels[n]
    if 0 <= label < x.shape[1]:
        return label
    wrong[0] = True
    return 0


def _plan_loss(kernel: BlockKernel, x: Array) -> Callable[..., None]:
    """Return a function (x, labels, option, unit, losses)."""
    run = kernel.launch(row_blocks(x), work=x.size)

    def loss(x: Array, labels: Array, option: float, unit: float, losses: Array) -> None:
        wrong = np.zeros(1, np.bool_)
        run(wrong, x, labels if labels.dtype is _INT64 else labels.astype(np.int64), option, unit, losses)
        if wrong[0]:
            as_labels("labels", labels, *x.shape)       # says which

    return loss


def _plan_loss_backward(kernel: BlockKernel, x: Array) -> Callable[..., None]:
    """Return a function (grad_losses, x, labels, option, grad_x)."""
    run = functools.partial(kernel.launch(row_blocks(x), work=x.size), exceeds_caches(x))

    def loss_backward(grad_losses: Array, x: Array, labels: Array, option: float, grad_x: Array) -> None:
        wrong = np.zeros(1, np.bool_)
        run(wrong, grad_losses, x, labels if labels.dtype is _INT64 else labels.astype(np.int64), option, grad_x)
        if wrong[0]:
            as_labels("labels", labels, *x.shape)

    return loss_backward


# --- cross entropy -----------------------------------------------------------------------------------------


@block_kernel(writes="wrong losses", typed_by="x")
def _cross_entropy(block: int, wrong: Array, x: Array, labels: Array, label_smoothing: float, unit: float,
                   losses: Array) -> None:
    """Differences are taken of scores times unit * _ROOM, so that no sum of them overflows."""
    use_widest_vectors()
    rows, small = rows_of_block(block, x), unit * _ROOM
    largest, logs = np.empty(len(rows), x.dtype), np.empty(len(rows))
    log_sum_exp(x, rows, largest, logs)
    for n in rows:
        m, logarithm = small * np.float64(largest[n - rows.start]), small * logs[n - rows.start]
        loss = logarithm + (m - small * np.float64(x[n, _label(labels, n, x, wrong)]))
        if label_smoothing > 0:
            even = logarithm + row_gaps(x[n], m, small) / x.shape[1]
            loss = (1 - label_smoothing) * loss + label_smoothing * even
        losses[n] = loss / _ROOM


@block_kernel(writes="wrong grad_x", typed_by="x")
def _cross_entropy_backward(block: int, streamed: bool, wrong: Array, grad_losses: Array, x: Array, labels: Array,
                            label_smoothing: float, grad_x: Array) -> None:
    use_widest_vectors()
    rows, part = rows_of_block(block, x), draft(part_of_rows(block, grad_x), streamed)
    exp_rows(x, rows, np.empty(len(rows), x.dtype), part)
    for n in rows:
        result, label, grad = part[n - rows.start], _label(labels, n, x, wrong), _grad(grad_losses, n)
        right, scale, even = result[label], 1 / row_sum(result), label_smoothing / result.size
        for c in range(result.size):
            result[c] = grad * (result[c] * scale - even)
        result[label] = grad * (right * scale - even - (1 - label_smoothing))
    finish(part, part_of_rows(block, grad_x))


plan_cross_entropy = functools.partial(_plan_loss, _cross_entropy)
plan_cross_entropy_backward = functools.partial(_plan_loss_backward, _cross_entropy_backward)


# --- hinge -------------------------------------------------------------------------------------------------


@helper
def _bound(right: float, margin: float) -> tuple[float, float]:
    """Return right - margin and what rounding took from it, by Knuth's sum of two.

    Taken from a score one after the other, they leave margin + score - right: its sign, and almost all of its digits.
    """
    bound = right - margin
    share = bound - right
    lost = (right - (bound - share)) - (margin + share)
    return bound, lost if lost == lost else 0.0         # NaN for an infinite bound


@block_kernel(writes="wrong losses", typed_by="x")
def _hinge_loss(block: int, wrong: Array, x: Array, labels: Array, margin: float, unit: float, losses: Array) -> None:
    use_widest_vectors()
    terms = np.empty(x.shape[1])
    for n in rows_of_block(block, x):
        scores, label = x[n], _label(labels, n, x, wrong)
        bound, lost = _bound(unit * np.float64(scores[label]), unit * margin)
        for c in range(scores.size):
            excess = (unit * np.float64(scores[c]) - bound) - lost
            terms[c] = 0.0 if excess <= 0 else excess
        terms[label] = 0
        losses[n] = row_sum(terms)


@block_kernel(writes="wrong grad_x", typed_by="x")
def _hinge_loss_backward(block: int, streamed: bool, wrong: Array, grad_losses: Array, x: Array, labels: Array,
                         margin: float, grad_x: Array) -> None:
    rows, part = rows_of_block(block, x), draft(part_of_rows(block, grad_x), streamed)
    for n in rows:
        scores, result, grad = x[n], part[n - rows.start], _grad(grad_losses, n)
        label = _label(labels, n, x, wrong)
        bound, lost = _bound(np.float64(scores[label]), margin)
        inside = 0
        for c in range(scores.size):
            counts = (c != label) & (not (np.float64(scores[c]) - bound) - lost <= 0)
            result[c] = grad if counts else 0.0
            inside += counts
        result[label] = -inside * grad if inside else 0.0
    finish(part, part_of_rows(block, grad_x))


plan_hinge_loss = functools.partial(_plan_loss, _hinge_loss)
plan_hinge_loss_backward = functools.partial(_plan_loss_backward, _hinge_loss_backward)


# --- squared error -----------------------------------------------------------------------------------------


@binary
def _mse_loss(x: Any, y: Any, option: Any) -> Any:
    difference = np.float64(x) - np.float64(y)
    return type(x)(difference * difference)


@inlined_helper
def _slope(grad: float, x: float, y: float) -> float:
    """2 grad (x - y), formed of halves where the difference overflows."""
    difference = x - y
    return 2.0 * (grad * difference) if abs(difference) < np.inf else 4.0 * (grad * (0.5 * x - 0.5 * y))


@mapping
def _slopes(x: Any, y: Any, grad: float) -> Any:
    return type(x)(_slope(grad, np.float64(x), np.float64(y)))


@block_kernel(writes="grad_x", typed_by="x")
def _mse_loss_backward(block: int, grad: float, x: Array, y: Array, grad_x: Array) -> None:
    _slopes(chunk(block, x), chunk(block, y), grad, chunk(block, grad_x), grad_x.nbytes >= STREAMED)


@block_kernel(writes="grad_x", typed_by="x")
def _mse_losses_backward(block: int, grad_losses: Array, x: Array, y: Array, grad_x: Array) -> None:
    use_widest_vectors()
    grads, x, y, grad_x = chunk(block, grad_losses), chunk(block, x), chunk(block, y), chunk(block, grad_x)
    for i in range(x.size):
        grad_x[i] = _slope(np.float64(grads[i]), np.float64(x[i]), np.float64(y[i]))


@block_kernel(writes="sums", typed_by="x")
def _mse_loss_sums(block: int, x: Array, y: Array, unit: float, sums: Array) -> None:
    x, y = chunk(block, x), chunk(block, y)
    terms = np.empty(x.size)
    for i in range(x.size):
        difference = (np.float64(x[i]) - np.float64(y[i])) * unit
        terms[i] = difference * difference
    sums[block] = row_sum(terms)


def plan_mse_loss(x: Array) -> Callable[..., None]:
    """Return a function (x, y, losses)."""
    launch = _mse_loss.launch(chunks(x.size), work=x.size // 5)
    return lambda x, y, losses: launch(x, y, 0.0, losses)


def plan_mse_loss_sums(x: Array) -> Callable[..., Array]:
    """Return a function (x, y, unit)."""
    blocks = chunks(x.size)
    launch = _mse_loss_sums.launch(blocks, work=x.size // 2)

    def mse_loss_sums(x: Array, y: Array, unit: float) -> Array:
        sums = np.empty(blocks)
        launch(x, y, unit, sums)
        return sums

    return mse_loss_sums


def plan_mse_loss_backward(x: Array) -> Callable[..., None]:
    """Return a function (grad_losses, x, y, grad_x)."""
    blocks, work = chunks(x.size), x.size // 5
    of_one, of_each = _mse_loss_backward.launch(blocks, work=work), _mse_losses_backward.launch(blocks, work=work)

    def mse_loss_backward(grad_losses: Array, x: Array, y: Array, grad_x: Array) -> None:
        if grad_losses.size > 1:
            of_each(grad_losses, x, y, grad_x)
        else:
            of_one(grad_losses.item(), x, y, grad_x)

    return mse_loss_backward
