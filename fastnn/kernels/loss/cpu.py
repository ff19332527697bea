"""Losses by blocks of rows or elements, formed in float64 and summed in a fixed order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array, as_labels, int64_of
from fastnn.kernels._cpu.compiler import helper, inlined_helper
from fastnn.kernels._cpu.elementwise import binary, chunk, chunks, mapping
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.math import exp, log, log1p_exp, sigmoids
from fastnn.kernels._cpu.rows import exp_rows, log_sum_exp, part_of_rows, row_blocks, rows_of_block
from fastnn.kernels._cpu.tuning import CHUNK, DRAFTED
from fastnn.kernels._cpu.vectors import (
    STREAMED,
    draft,
    exceeds_caches,
    finish,
    row_gaps,
    row_sum,
    stream,
    use_widest_vectors,
)
from fastnn.kernels._outputs import EMPTY

_ROOM = 2.0**-66                            # less than 1 over twice the elements that a row may have


@helper
def _grad(grad_losses: Array, n: int) -> float:
    return np.float64(grad_losses[n if grad_losses.size > 1 else 0])


# --- cross entropy -----------------------------------------------------------------------------------------

# Rows are of scores that lie side by side; places lie side by side themselves, with the scores of a class.
_TILE, _LEAST_PLACES = DRAFTED, 32          # scores of a block of places, and places of it at least: whole vectors


@helper
def _counted(labels: Array, n: int, classes: int, ignored: int, wrong: Array) -> int:
    """Return the label of a row, -1 for one that does not count. One out of range `wrong` tells of."""
    label = labels[n]
    if 0 <= label < classes and label != ignored:
        return label
    if label != ignored:
        wrong[0] = True
    return -1


@block_kernel(writes="wrong losses", typed_by="x")
def _cross_entropy(block: int, ignored: int, wrong: Array, x: Array, labels: Array, weight: Array,
                   label_smoothing: float, unit: float, losses: Array) -> None:
    """Write losses, and the weights of labels.

    Differences are taken of scores times unit * _ROOM, so that no sum of them overflows.
    """
    use_widest_vectors()
    rows, classes, small = rows_of_block(block, x), x.shape[1], unit * _ROOM
    largest, logs = np.empty(len(rows), x.dtype), np.empty(len(rows))
    log_sum_exp(x, rows, largest, logs)
    weighted = np.empty(classes if weight.size > 0 and label_smoothing > 0 else 0)
    for n in rows:
        scores, label = x[n], _counted(labels, n, classes, ignored, wrong)
        if label < 0:
            losses[0, n] = losses[1, n] = 0
            continue
        m, logarithm = small * np.float64(largest[n - rows.start]), small * logs[n - rows.start]
        counts = np.float64(weight[label]) if weight.size > 0 else 1.0
        loss = counts * (logarithm + (m - small * np.float64(scores[label])))
        if label_smoothing > 0:
            for c in range(weighted.size):
                weighted[c] = weight[c] * (logarithm + (m - small * np.float64(scores[c])))
            even = row_sum(weighted) if weighted.size > 0 else row_gaps(scores, m, small) + classes * logarithm
            loss = (1 - label_smoothing) * loss + label_smoothing * (even / classes)
        losses[0, n], losses[1, n] = loss / _ROOM, counts


@block_kernel(writes="wrong grad_x", typed_by="x")
def _cross_entropy_backward(block: int, ignored: int, streamed: bool, wrong: Array, grad_losses: Array, x: Array,
                            labels: Array, weight: Array, label_smoothing: float, grad_x: Array) -> None:
    use_widest_vectors()
    rows, classes, part = rows_of_block(block, x), x.shape[1], draft(part_of_rows(block, grad_x), streamed)
    exp_rows(x, rows, np.empty(len(rows), x.dtype), part)
    even, rest = label_smoothing / classes, 1 - label_smoothing
    total_weight = row_sum(weight)
    for n in rows:
        result, grad = part[n - rows.start], _grad(grad_losses, n)
        label = _counted(labels, n, classes, ignored, wrong)
        if label < 0:
            for c in range(classes):
                result[c] = 0
            continue
        scale = 1 / row_sum(result)
        of_label, counts = result[label] * scale, np.float64(weight[label]) if weight.size > 0 else 1.0
        if weight.size > 0 and label_smoothing > 0:
            counts *= rest
            for c in range(classes):
                p = result[c] * scale
                result[c] = grad * (counts * p + even * (p * total_weight - weight[c]))
            result[label] = grad * (counts * (of_label - 1) + even * (of_label * total_weight - weight[label]))
        else:
            grad *= counts
            for c in range(classes):
                result[c] = grad * (result[c] * scale - even)
            result[label] = grad * (of_label - even - rest)
    finish(part, part_of_rows(block, grad_x))


def _cut(x: Array) -> tuple[int, int, int]:
    """Return how many places and images a block takes, and the number of blocks; shapes alone decide."""
    images, classes, places = x.shape
    width = min(places, max(_LEAST_PLACES, _TILE // classes // _LEAST_PLACES * _LEAST_PLACES))
    group = max(1, _TILE // (classes * width)) if width == places else 1
    return width, group, -(-images // group) * -(-places // width)


@helper
def _part_of_places(block: int, width: int, group: int, x: Array) -> tuple[int, int, int, int]:
    """Return a block's images and places, from and to."""
    parts = -(-x.shape[2] // width)
    n, p = block // parts * group, block % parts * width
    return n, min(len(x), n + group), p, min(x.shape[2], p + width)


@helper
def _largest(x: Array, n: int, begin: int, end: int, largest: Array) -> None:
    """Write the largest score of each place; NaN are passed over."""
    largest[:] = -np.inf
    for c in range(x.shape[1]):
        scores = x[n, c, begin:end]
        for p in range(scores.size):
            largest[p] = scores[p] if scores[p] > largest[p] else largest[p]


@block_kernel(writes="wrong losses", typed_by="x")
def _cross_entropy_of_places(block: int, width: int, group: int, ignored: int, wrong: Array, x: Array, labels: Array,
                             weight: Array, label_smoothing: float, unit: float, losses: Array) -> None:
    """The same as `_cross_entropy`, vectors being of places."""
    use_widest_vectors()
    first, last, begin, end = _part_of_places(block, width, group, x)
    classes, places, small = x.shape[1], x.shape[2], unit * _ROOM
    largest, terms = np.empty(end - begin, x.dtype), np.empty(end - begin, x.dtype)
    totals, even = np.empty(end - begin), np.empty(end - begin)
    for n in range(first, last):
        _largest(x, n, begin, end, largest)
        totals[:] = 0
        even[:] = 0
        for c in range(classes):
            scores = x[n, c, begin:end]
            for p in range(scores.size):    # by itself: vectors of float32 are longer than those of float64
                terms[p] = exp(scores[p] - largest[p])
            for p in range(scores.size):
                totals[p] += terms[p]
        for p in range(totals.size):
            totals[p] = small * log(totals[p])
        if label_smoothing > 0:
            for c in range(classes):
                scores, counts = x[n, c, begin:end], np.float64(weight[c]) if weight.size > 0 else 1.0
                for p in range(scores.size):
                    even[p] += counts * (totals[p] + (small * np.float64(largest[p]) - small * np.float64(scores[p])))
        for p in range(totals.size):
            row = n * places + begin + p
            label = _counted(labels, row, classes, ignored, wrong)
            if label < 0:
                losses[0, row] = losses[1, row] = 0
                continue
            counts = np.float64(weight[label]) if weight.size > 0 else 1.0
            score = small * np.float64(x[n, label, begin + p])
            loss = counts * (totals[p] + (small * np.float64(largest[p]) - score))
            if label_smoothing > 0:
                loss = (1 - label_smoothing) * loss + label_smoothing * (even[p] / classes)
            losses[0, row], losses[1, row] = loss / _ROOM, counts


@block_kernel(writes="wrong grad_x", typed_by="x")
def _cross_entropy_of_places_backward(block: int, width: int, group: int, ignored: int, streamed: bool, wrong: Array,
                                      grad_losses: Array, x: Array, labels: Array, weight: Array,
                                      label_smoothing: float, grad_x: Array) -> None:
    """The same as `_cross_entropy_backward`, vectors being of places."""
    use_widest_vectors()
    first, last, begin, end = _part_of_places(block, width, group, x)
    classes, places, size = x.shape[1], x.shape[2], end - begin
    largest, tile = np.empty(size, x.dtype), np.empty((classes, size), x.dtype)
    totals, grads, truths, counts = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    even, rest, total_weight = label_smoothing / classes, 1 - label_smoothing, row_sum(weight)
    for n in range(first, last):
        _largest(x, n, begin, end, largest)
        totals[:] = 0
        for c in range(classes):
            scores, terms = x[n, c, begin:end], tile[c]
            for p in range(size):
                terms[p] = exp(scores[p] - largest[p])
            for p in range(size):
                totals[p] += terms[p]
        for p in range(size):
            row = n * places + begin + p
            label = _counted(labels, row, classes, ignored, wrong)
            truths[p], grads[p], totals[p] = label, _grad(grad_losses, row), 1 / totals[p]
            counts[p] = weight[label] if weight.size > 0 and label >= 0 else 1.0
        for c in range(classes):
            part, terms = grad_x[n, c, begin:end], tile[c]
            result = terms if streamed else part
            if weight.size > 0 and label_smoothing > 0:
                share = np.float64(weight[c])
                for p in range(size):
                    q = terms[p] * totals[p]
                    of_label = q - 1 if truths[p] == c else q
                    value = grads[p] * (rest * counts[p] * of_label + even * (q * total_weight - share))
                    result[p] = 0 if truths[p] < 0 else value
            else:
                for p in range(size):
                    truth = even + rest if truths[p] == c else even
                    value = grads[p] * counts[p] * (terms[p] * totals[p] - truth)
                    result[p] = 0 if truths[p] < 0 else value
            if streamed:
                stream(terms, part)


def plan_cross_entropy(x: Array, ignore_index: int) -> Callable[..., None]:
    """Return a function (x, labels, weight, label_smoothing, unit, losses)."""
    run = _plan_rows_or_places(_cross_entropy, _cross_entropy_of_places, x, ignore_index)

    def cross_entropy(x: Array, labels: Array, weight: Array | None, label_smoothing: float, unit: float,
                      losses: Array) -> None:
        wrong = np.zeros(1, np.bool_)
        run(wrong, x.reshape(seen), int64_of(labels), EMPTY[x.dtype] if weight is None else weight, label_smoothing,
            unit, losses)
        if wrong[0]:
            as_labels("labels", labels, labels.shape, x.shape[1], ignore_index)          # says which

    seen = _seen(x)
    return cross_entropy


def plan_cross_entropy_backward(x: Array, ignore_index: int) -> Callable[..., None]:
    """Return a function (grad_losses, x, labels, weight, label_smoothing, grad_x)."""
    run = _plan_rows_or_places(_cross_entropy_backward, _cross_entropy_of_places_backward, x, ignore_index,
                               exceeds_caches(x))

    def cross_entropy_backward(grad_losses: Array, x: Array, labels: Array, weight: Array | None,
                               label_smoothing: float, grad_x: Array) -> None:
        wrong = np.zeros(1, np.bool_)
        run(wrong, grad_losses, x.reshape(seen), int64_of(labels), EMPTY[x.dtype] if weight is None else weight,
            label_smoothing, grad_x.reshape(seen))
        if wrong[0]:
            as_labels("labels", labels, labels.shape, x.shape[1], ignore_index)

    seen = _seen(x)
    return cross_entropy_backward


def _seen(x: Array) -> tuple[int, ...]:
    return x.shape if x.shape[2] > 1 else x.shape[:2]


def _plan_rows_or_places(of_rows: BlockKernel, of_places: BlockKernel, x: Array, *numbers: int) -> Callable[..., None]:
    if x.shape[2] == 1:
        return functools.partial(of_rows.launch(row_blocks(x), work=x.size), *numbers)
    width, group, blocks = _cut(x)
    return functools.partial(of_places.launch(blocks, work=x.size), width, group, *numbers)


# --- hinge -------------------------------------------------------------------------------------------------


@helper
def _label(labels: Array, n: int, x: Array, wrong: Array) -> int:
    """Return the label of a row of x. One out of range `wrong` tells of, and the row gets another."""
    label = labels[n]
    if 0 <= label < x.shape[1]:
        return label
    wrong[0] = True
    return 0


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


def plan_hinge_loss(x: Array) -> Callable[..., None]:
    """Return a function (x, labels, margin, unit, losses)."""
    run = _hinge_loss.launch(row_blocks(x), work=x.size)

    def hinge_loss(x: Array, labels: Array, margin: float, unit: float, losses: Array) -> None:
        wrong = np.zeros(1, np.bool_)
        run(wrong, x, int64_of(labels), margin, unit, losses)
        if wrong[0]:
            as_labels("labels", labels, labels.shape, x.shape[1])

    return hinge_loss


def plan_hinge_loss_backward(x: Array) -> Callable[..., None]:
    """Return a function (grad_losses, x, labels, margin, grad_x)."""
    run = functools.partial(_hinge_loss_backward.launch(row_blocks(x), work=x.size), exceeds_caches(x))

    def hinge_loss_backward(grad_losses: Array, x: Array, labels: Array, margin: float, grad_x: Array) -> None:
        wrong = np.zeros(1, np.bool_)
        run(wrong, grad_losses, x, int64_of(labels), margin, grad_x)
        if wrong[0]:
            as_labels("labels", labels, labels.shape, x.shape[1])

    return hinge_loss_backward


# --- binary cross entropy ----------------------------------------------------------------------------------

# Factors are repeated until their parts for any chunk can be cut out of them: from its begin modulo their `period`.


@helper
def _part_of_factor(block: int, factor: Array, period: int, size: int) -> Array:
    begin = block * CHUNK % period
    return factor[begin:begin + size]


@inlined_helper
def _binary_loss(x: float, rest: float, truth: float, weight: float, pos_weight: float) -> float:
    """A loss by a score and log(1 + exp(-|x|))."""
    yes, no = (-x if x < 0 else 0.0) + rest, (x if x > 0 else 0.0) + rest
    return weight * (truth * pos_weight * yes + (1.0 - truth) * no)


@helper
def _binary_losses(block: int, x: Array, targets: Array, weight: Array, period: int, pos_weight: Array,
                   pos_period: int, unit: float, losses: Array) -> None:
    use_widest_vectors()
    x, targets = chunk(block, x), chunk(block, targets)
    rest = np.empty(x.size, x.dtype)
    for i in range(x.size):                 # by itself: vectors of float32 are longer than those of float64
        rest[i] = log1p_exp(x[i])
    if weight.size == 0:
        for i in range(x.size):
            losses[i] = _binary_loss(np.float64(x[i]), np.float64(rest[i]), np.float64(targets[i]), unit, 1.0)
    else:
        weights = _part_of_factor(block, weight, period, x.size)
        pos_weights = _part_of_factor(block, pos_weight, pos_period, x.size)
        for i in range(x.size):
            losses[i] = _binary_loss(np.float64(x[i]), np.float64(rest[i]), np.float64(targets[i]),
                                     unit * np.float64(weights[i]), np.float64(pos_weights[i]))


@block_kernel(writes="losses", typed_by="x")
def _binary_cross_entropy(block: int, x: Array, targets: Array, weight: Array, period: int, pos_weight: Array,
                          pos_period: int, losses: Array) -> None:
    _binary_losses(block, x, targets, weight, period, pos_weight, pos_period, 1.0, chunk(block, losses))


@block_kernel(writes="sums", typed_by="x")
def _binary_cross_entropy_sums(block: int, x: Array, targets: Array, weight: Array, period: int, pos_weight: Array,
                               pos_period: int, unit: float, sums: Array) -> None:
    terms = np.empty(chunk(block, x).size)
    _binary_losses(block, x, targets, weight, period, pos_weight, pos_period, unit, terms)
    sums[block] = row_sum(terms)


@block_kernel(writes="grad_x", typed_by="x")
def _binary_cross_entropy_backward(block: int, streamed: bool, grad_losses: Array, grad_period: int, x: Array,
                                   targets: Array, weight: Array, period: int, pos_weight: Array, pos_period: int,
                                   grad_x: Array) -> None:
    use_widest_vectors()
    x, targets, part = chunk(block, x), chunk(block, targets), chunk(block, grad_x)
    yes, no, result = np.empty(x.size, x.dtype), np.empty(x.size, x.dtype), draft(part, streamed)
    grads = _part_of_factor(block, grad_losses, grad_period, x.size)
    for i in range(x.size):
        yes[i], no[i] = sigmoids(x[i])
    if weight.size == 0:
        for i in range(x.size):
            truth = np.float64(targets[i])
            result[i] = grads[i] * ((1.0 - truth) * yes[i] - truth * no[i])
    else:
        weights = _part_of_factor(block, weight, period, x.size)
        pos_weights = _part_of_factor(block, pos_weight, pos_period, x.size)
        for i in range(x.size):
            truth = np.float64(targets[i])
            result[i] = np.float64(grads[i]) * weights[i] * ((1.0 - truth) * yes[i] - truth * pos_weights[i] * no[i])
    finish(result, part)


def _repeated(factor: Array | None, x: Array) -> tuple[Array, int]:
    """Return a factor as kernels take it, and its period."""
    if factor is None:
        factor = np.ones(1, x.dtype)
    if factor.size == x.size:
        return factor, x.size
    return np.resize(factor, min(x.size, CHUNK + factor.size)), factor.size


def _factors(weight: Array | None, pos_weight: Array | None, x: Array) -> tuple[Any, ...]:
    if weight is None and pos_weight is None:
        return EMPTY[x.dtype], 1, EMPTY[x.dtype], 1
    return *_repeated(weight, x), *_repeated(pos_weight, x)


def plan_binary_cross_entropy(x: Array) -> Callable[..., None]:
    """Return a function (x, targets, weight, pos_weight, losses)."""
    launch = _binary_cross_entropy.launch(chunks(x.size), work=x.size)
    return lambda x, targets, weight, pos_weight, losses: launch(x, targets, *_factors(weight, pos_weight, x), losses)


def plan_binary_cross_entropy_sums(x: Array) -> Callable[..., Array]:
    """Return a function (x, targets, weight, pos_weight, unit)."""
    blocks = chunks(x.size)
    launch = _binary_cross_entropy_sums.launch(blocks, work=x.size)

    def sums(x: Array, targets: Array, weight: Array | None, pos_weight: Array | None, unit: float) -> Array:
        sums = np.empty(blocks)
        launch(x, targets, *_factors(weight, pos_weight, x), unit, sums)
        return sums

    return sums


def plan_binary_cross_entropy_backward(x: Array) -> Callable[..., None]:
    """Return a function (grad_losses, x, targets, weight, pos_weight, grad_x)."""
    launch = _binary_cross_entropy_backward.launch(chunks(x.size), work=x.size)
    streamed = exceeds_caches(x)

    def backward(grad_losses: Array, x: Array, targets: Array, weight: Array | None, pos_weight: Array | None,
                 grad_x: Array) -> None:
        launch(streamed, *_repeated(grad_losses, x), x, targets, *_factors(weight, pos_weight, x), grad_x)

    return backward


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
