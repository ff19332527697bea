"""Losses on a GPU: a group of threads takes a row; sums are formed in float64, in one order.

Nobody has looked at the labels: one out of range gives NaN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, block_sum, blocks_for
from fastnn.kernels._gpu.elementwise import run_map
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.rows import block_size, exp_sum, place, row_sum, run_rows

_NAN = math.nan
_ROOM = 2.0**-66                                # less than 1 over twice the elements that a row may have


def _step(grad_losses: Array) -> int:
    """Return what a row's number is multiplied by to find its gradient, of which there may be one for all."""
    return int(grad_losses.size > 1)


def _int64(labels: Array) -> Array:
    return labels if labels.dtype == np.int64 else labels.astype(np.int64)


# --- cross entropy -----------------------------------------------------------------------------------------


@functools.cache
def _cross_entropy(real: Any, group: int) -> Any:
    row_of_thread, largest_and_sum, row_total = place(group), exp_sum(real, group), row_sum(group)
    size = block_size(group)

    @cuda.jit
    def cross_entropy(x: Array, labels: Array, label_smoothing: float, unit: float, losses: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(x)
        largest, total = largest_and_sum(parts, x, n, lane, columns)
        small = unit * _ROOM                            # of scores times this no sum overflows
        m, gaps = small * np.float64(largest), 0.0
        if label_smoothing > 0:
            for c in range(lane, columns, group):
                gaps += m - small * np.float64(x[n, c])
            gaps = row_total(parts, gaps)
        if columns > 0 and lane == 0:
            label, loss = labels[n], _NAN
            if label >= 0 and label < columns:
                logarithm = small * math.log(total)
                loss = logarithm + (m - small * np.float64(x[n, label]))
                if label_smoothing > 0:
                    loss = (1.0 - label_smoothing) * loss + label_smoothing * (logarithm + gaps / columns)
            losses[n] = loss / _ROOM

    return cross_entropy


@functools.cache
def _cross_entropy_backward(real: Any, group: int) -> Any:
    row_of_thread, largest_and_sum, size = place(group), exp_sum(real, group), block_size(group)

    @cuda.jit
    def cross_entropy_backward(grad_losses: Array, step: int, x: Array, labels: Array, label_smoothing: float,
                               grad_x: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(x)
        largest, total = largest_and_sum(parts, x, n, lane, columns)
        if columns > 0:
            label, scale, even = labels[n], 1.0 / total, label_smoothing / columns
            grad = np.float64(grad_losses[n * step]) if label >= 0 and label < columns else _NAN
            for c in range(lane, columns, group):
                truth = even + 1.0 - label_smoothing if c == label else even
                grad_x[n, c] = real(grad * (np.float64(math.exp(x[n, c] - largest)) * scale - truth))

    return cross_entropy_backward


def cross_entropy(x: Array, labels: Array, label_smoothing: float, unit: float, losses: Array) -> None:
    run_rows(_cross_entropy, x, x, _int64(labels), label_smoothing, unit, losses)


def cross_entropy_backward(grad_losses: Array, x: Array, labels: Array, label_smoothing: float,
                           grad_x: Array) -> None:
    run_rows(_cross_entropy_backward, x, grad_losses, _step(grad_losses), x, _int64(labels),
             label_smoothing, grad_x)


# --- hinge -------------------------------------------------------------------------------------------------


@cuda.jit(device=True)
def _right_score(x: Array, labels: Array, n: int, columns: int) -> tuple[int, float]:
    """Return the label and its score: NaN for a label out of range, -1 and 0 for no row."""
    if columns == 0:
        return -1, 0.0
    label = labels[n]
    if label < 0 or label >= columns:
        return label, _NAN
    return label, np.float64(x[n, label])


@cuda.jit(device=True)
def _bound(right: float, margin: float) -> tuple[float, float]:
    """Return right - margin and what rounding took from it, by Knuth's sum of two.

    Taken from a score one after the other, they leave margin + score - right: its sign, and almost all of its digits.
    """
    bound = right - margin
    share = bound - right
    lost = (right - (bound - share)) - (margin + share)
    return bound, 0.0 if math.isnan(lost) else lost     # NaN for an infinite bound


@functools.cache
def _hinge_loss(real: Any, group: int) -> Any:
    row_of_thread, row_total, size = place(group), row_sum(group), block_size(group)

    @cuda.jit
    def hinge_loss(x: Array, labels: Array, margin: float, unit: float, losses: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(x)
        label, right = _right_score(x, labels, n, columns)
        bound, lost = _bound(unit * right, unit * margin)
        total = 0.0
        for c in range(lane, columns, group):
            excess = (unit * np.float64(x[n, c]) - bound) - lost
            if c != label and not excess <= 0:
                total += excess
        total = row_total(parts, total)
        if columns > 0 and lane == 0:
            losses[n] = total if label >= 0 and label < columns else _NAN

    return hinge_loss


@functools.cache
def _hinge_loss_backward(real: Any, group: int) -> Any:
    row_of_thread, row_total, size = place(group), row_sum(group), block_size(group)
    zero = real(0)

    @cuda.jit
    def hinge_loss_backward(grad_losses: Array, step: int, x: Array, labels: Array, margin: float,
                            grad_x: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        n, lane, columns = row_of_thread(x)
        label, right = _right_score(x, labels, n, columns)
        valid = label >= 0 and label < columns
        grad = grad_losses[n * step] if valid else real(_NAN)
        bound, lost = _bound(right, margin)
        inside = 0.0
        for c in range(lane, columns, group):
            if c != label:
                counts = not (np.float64(x[n, c]) - bound) - lost <= 0
                grad_x[n, c] = grad if counts else zero
                if counts:
                    inside += 1.0
        inside = row_total(parts, inside)
        if valid and lane == 0:
            grad_x[n, label] = -real(inside) * grad if inside > 0 else zero

    return hinge_loss_backward


def hinge_loss(x: Array, labels: Array, margin: float, unit: float, losses: Array) -> None:
    run_rows(_hinge_loss, x, x, _int64(labels), margin, unit, losses)


def hinge_loss_backward(grad_losses: Array, x: Array, labels: Array, margin: float, grad_x: Array) -> None:
    run_rows(_hinge_loss_backward, x, grad_losses, _step(grad_losses), x, _int64(labels), margin, grad_x)


# --- squared error -----------------------------------------------------------------------------------------


@functools.cache
def _mse_loss(real: Any) -> Callable[[Any, Any, Any], Any]:
    def mse_loss(x: Any, y: Any, option: Any) -> Any:
        difference = np.float64(x) - np.float64(y)
        return real(difference * difference)

    return mse_loss


@cuda.jit
def _mse_loss_sums(x: Array, y: Array, unit: float, sums: Array) -> None:
    parts = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        difference = (np.float64(x[i]) - np.float64(y[i])) * unit
        total += difference * difference
    parts[cuda.threadIdx.x] = total
    total = block_sum(parts, cuda.threadIdx.x)
    if cuda.threadIdx.x == 0:
        sums[cuda.blockIdx.x] = total


@functools.cache
def _mse_loss_backward(real: Any) -> Any:
    @cuda.jit
    def mse_loss_backward(grad_losses: Array, step: int, x: Array, y: Array, grad_x: Array) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            grad, a, b = np.float64(grad_losses[i * step]), np.float64(x[i]), np.float64(y[i])
            if abs(a - b) < math.inf:
                grad_x[i] = real(2.0 * (grad * (a - b)))
            else:                                       # halves do not overflow
                grad_x[i] = real(4.0 * (grad * (0.5 * a - 0.5 * b)))

    return mse_loss_backward


def mse_loss(x: Array, y: Array, losses: Array) -> None:
    real: Any = x.dtype.type
    run_map(_mse_loss(real), x, y, 0.0, losses)


def mse_loss_sums(x: Array, y: Array, unit: float) -> Array:
    sums = _device.xp.empty(blocks_for(x.size), np.float64)
    launch(_mse_loss_sums, sums.size, THREADS, x, y, unit, sums)
    return sums


def mse_loss_backward(grad_losses: Array, x: Array, y: Array, grad_x: Array) -> None:
    real: Any = x.dtype.type
    launch(_mse_loss_backward(real), blocks_for(x.size), THREADS, grad_losses, _step(grad_losses), x, y, grad_x)
