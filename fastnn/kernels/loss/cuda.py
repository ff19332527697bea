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
from fastnn._checks import Array, int64_of
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, block_sum, blocks_for, either, real_of
from fastnn.kernels._gpu.elementwise import run_map
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.rows import block_size, exp_sum, place, row_group, row_sum, run_rows

_NAN = math.nan
_ROOM = 2.0**-66                                # less than 1 over twice the elements that a row may have


def _step(grad_losses: Array) -> int:
    """Return what a row's number is multiplied by to find its gradient, of which there may be one for all."""
    return int(grad_losses.size > 1)


# --- cross entropy -----------------------------------------------------------------------------------------

# A row of scores is x[n, :, p]. Neighbours in a row, or of places where there are several, are read side by side.


@functools.cache
def _row_of_thread(group: int) -> Any:
    """Make the function that returns a thread's row, where its scores begin, its first class, and how many it has.

    Threads beyond the last row get an empty one, and so come to each barrier with the others.
    """
    size = block_size(group)

    @cuda.jit(device=True)
    def row_of_thread(rows: int, classes: int, places: int) -> tuple[int, int, int, int]:
        i = cuda.blockIdx.x * size + cuda.threadIdx.x
        known = i // group < rows
        row = i // group if known else 0
        return row, row // places * classes * places + row % places, i % group, classes if known else 0

    return row_of_thread


@functools.cache
def _cross_entropy(real: Any, group: int) -> Any:
    row_of_thread, (largest_of, sum_of), row_total = _row_of_thread(group), exp_sum(real, group), row_sum(group)
    size = block_size(group)

    @cuda.jit
    def cross_entropy(x: Array, all_classes: int, places: int, labels: Array, ignored: int, weighted: bool,
                      weight: Array, label_smoothing: float, unit: float, losses: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        row, begin, lane, classes = row_of_thread(labels.size, all_classes, places)
        largest = largest_of(parts, x, begin, places, lane, classes)
        total = sum_of(parts, x, largest, begin, places, lane, classes)
        small = unit * _ROOM                            # of scores times this no sum overflows
        m, logarithm, even = small * np.float64(largest), small * math.log(total) if classes > 0 else 0.0, 0.0
        if label_smoothing > 0:
            for c in range(lane, classes, group):
                counts = np.float64(weight[c]) if weighted else 1.0
                even += counts * (logarithm + (m - small * np.float64(x[begin + c * places])))
            even = row_total(parts, even)
        if classes > 0 and lane == 0:
            label, loss, counts = labels[row], _NAN, 1.0
            if label == ignored:
                loss, counts = 0.0, 0.0
            elif label >= 0 and label < classes:
                counts = np.float64(weight[label]) if weighted else 1.0
                loss = counts * (logarithm + (m - small * np.float64(x[begin + label * places])))
                if label_smoothing > 0:
                    loss = (1.0 - label_smoothing) * loss + label_smoothing * (even / classes)
            losses[0, row] = loss / _ROOM
            losses[1, row] = counts

    return cross_entropy


@functools.cache
def _cross_entropy_backward(real: Any, group: int) -> Any:
    row_of_thread, (largest_of, sum_of), row_total = _row_of_thread(group), exp_sum(real, group), row_sum(group)
    size = block_size(group)

    @cuda.jit
    def cross_entropy_backward(grad_losses: Array, step: int, x: Array, all_classes: int, places: int, labels: Array,
                               ignored: int, weighted: bool, weight: Array, label_smoothing: float,
                               grad_x: Array) -> None:
        parts = cuda.shared.array(size, np.float64)
        row, begin, lane, classes = row_of_thread(labels.size, all_classes, places)
        largest = largest_of(parts, x, begin, places, lane, classes)
        total = sum_of(parts, x, largest, begin, places, lane, classes)
        weights = 1.0 * classes
        if weighted and label_smoothing > 0:
            weights = 0.0
            for c in range(lane, classes, group):
                weights += np.float64(weight[c])
            weights = row_total(parts, weights)
        if classes > 0:
            label, scale, even = labels[row], 1.0 / total, label_smoothing / classes
            known = label >= 0 and label < classes
            grad = np.float64(grad_losses[row * step]) if known else _NAN
            counts = (1.0 - label_smoothing) * (np.float64(weight[label]) if weighted and known else 1.0)
            for c in range(lane, classes, group):
                probability = np.float64(math.exp(x[begin + c * places] - largest)) * scale
                value = counts * (probability - 1.0 if c == label else probability)
                if label_smoothing > 0:
                    value += even * (probability * weights - (np.float64(weight[c]) if weighted else 1.0))
                grad_x[begin + c * places] = real(0) if label == ignored else real(grad * value)

    return cross_entropy_backward


def cross_entropy(x: Array, labels: Array, weight: Array | None, label_smoothing: float, unit: float, losses: Array, *,
                  ignore_index: int) -> None:
    _run_rows(_cross_entropy, x, x.reshape(-1), *x.shape[1:], int64_of(labels), ignore_index, weight is not None,
              either(weight, x.reshape(-1)), label_smoothing, unit, losses)


def cross_entropy_backward(grad_losses: Array, x: Array, labels: Array, weight: Array | None, label_smoothing: float,
                           grad_x: Array, *, ignore_index: int) -> None:
    _run_rows(_cross_entropy_backward, x, grad_losses, _step(grad_losses), x.reshape(-1), *x.shape[1:],
              int64_of(labels), ignore_index, weight is not None, either(weight, x.reshape(-1)), label_smoothing,
              grad_x.reshape(-1))


def _run_rows(make: Callable[[Any, int], Any], x: Array, *args: Any) -> None:
    """Launch the kernel `make(dtype, threads of a group)` on all rows x[n, :, p]."""
    group = row_group(x.shape[1]) if x.shape[2] == 1 else 1
    launch(make(x.dtype.type, group), -(-len(x) * x.shape[2] * group // block_size(group)), block_size(group), *args)


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
    run_rows(_hinge_loss, x, x, int64_of(labels), margin, unit, losses)


def hinge_loss_backward(grad_losses: Array, x: Array, labels: Array, margin: float, grad_x: Array) -> None:
    run_rows(_hinge_loss_backward, x, grad_losses, _step(grad_losses), x, int64_of(labels), margin, grad_x)


# --- binary cross entropy ----------------------------------------------------------------------------------

# Factors begin anew where they end.


@functools.cache
def _binary_loss(real: Any) -> Any:
    @cuda.jit(device=True)
    def binary_loss(x: Any, target: Any, weight: float, pos_weight: float) -> float:
        score, truth = np.float64(x), np.float64(target)
        rest = np.float64(math.log1p(real(math.exp(-abs(x)))))
        yes, no = (-score if score < 0 else 0.0) + rest, (score if score > 0 else 0.0) + rest
        return weight * (truth * pos_weight * yes + (1.0 - truth) * no)

    return binary_loss


@cuda.jit(device=True)
def _factor(given: bool, factor: Array, i: int) -> float:
    return np.float64(factor[i % factor.size]) if given else 1.0


@functools.cache
def _binary_cross_entropy(real: Any) -> Any:
    loss = _binary_loss(real)

    @cuda.jit
    def binary_cross_entropy(x: Array, targets: Array, weighted: bool, weight: Array, pos_weighted: bool,
                             pos_weight: Array, losses: Array) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            losses[i] = real(loss(x[i], targets[i], _factor(weighted, weight, i),
                                  _factor(pos_weighted, pos_weight, i)))

    return binary_cross_entropy


@functools.cache
def _binary_cross_entropy_sums(real: Any) -> Any:
    loss = _binary_loss(real)

    @cuda.jit
    def binary_cross_entropy_sums(x: Array, targets: Array, weighted: bool, weight: Array, pos_weighted: bool,
                                  pos_weight: Array, unit: float, sums: Array) -> None:
        parts = cuda.shared.array(THREADS, np.float64)
        total = 0.0
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            total += loss(x[i], targets[i], unit * _factor(weighted, weight, i), _factor(pos_weighted, pos_weight, i))
        parts[cuda.threadIdx.x] = total
        total = block_sum(parts, cuda.threadIdx.x)
        if cuda.threadIdx.x == 0:
            sums[cuda.blockIdx.x] = total

    return binary_cross_entropy_sums


@functools.cache
def _binary_cross_entropy_backward(real: Any) -> Any:
    @cuda.jit
    def binary_cross_entropy_backward(grad_losses: Array, step: int, x: Array, targets: Array, weighted: bool,
                                      weight: Array, pos_weighted: bool, pos_weight: Array, grad_x: Array) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            e = np.float64(math.exp(-abs(x[i])))
            yes, no = 1.0 / (1.0 + e), e / (1.0 + e)
            if x[i] < 0:
                yes, no = no, yes
            truth, factor = np.float64(targets[i]), np.float64(grad_losses[i * step]) * _factor(weighted, weight, i)
            grad_x[i] = real(factor * ((1.0 - truth) * yes - truth * _factor(pos_weighted, pos_weight, i) * no))

    return binary_cross_entropy_backward


def _factors(weight: Array | None, pos_weight: Array | None, x: Array) -> tuple[Any, ...]:
    return weight is not None, either(weight, x), pos_weight is not None, either(pos_weight, x)


def binary_cross_entropy(x: Array, targets: Array, weight: Array | None, pos_weight: Array | None,
                         losses: Array) -> None:
    launch(_binary_cross_entropy(real_of(x)), blocks_for(x.size), THREADS, x, targets,
           *_factors(weight, pos_weight, x), losses)


def binary_cross_entropy_sums(x: Array, targets: Array, weight: Array | None, pos_weight: Array | None,
                              unit: float) -> Array:
    sums = _device.xp.empty(blocks_for(x.size), np.float64)
    launch(_binary_cross_entropy_sums(real_of(x)), sums.size, THREADS, x, targets, *_factors(weight, pos_weight, x),
           unit, sums)
    return sums


def binary_cross_entropy_backward(grad_losses: Array, x: Array, targets: Array, weight: Array | None,
                                  pos_weight: Array | None, grad_x: Array) -> None:
    launch(_binary_cross_entropy_backward(real_of(x)), blocks_for(x.size), THREADS, grad_losses, _step(grad_losses), x,
           targets, *_factors(weight, pos_weight, x), grad_x)


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
