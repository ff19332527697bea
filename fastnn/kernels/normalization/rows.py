"""Layer and group normalization of rows (R, C, P), see `Rows`: all in float64, and rounded when it is written.

A block takes some rows, whose values are in the core's cache when a pass over all of them is followed by the next one.
Between two passes a row waits for the sum across its vectors and for a root; the other rows fill that time.

Where a channel has few places, its weight and bias are repeated for each, and loops run over whole rows (R, C P, 1).
Values of x are halved before their mean is taken off, and twice the result used, so that no difference overflows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.rows import part_of_rows, row_blocks, rows_of_block
from fastnn.kernels._cpu.tuning import (
    DRAFTED,
    NORM_COLUMNS,
    NORM_ROW_SLABS,
    NORM_RUN,
    NORM_SLAB_ROWS,
    NORM_STRIP,
)
from fastnn.kernels._cpu.vectors import (
    draft,
    exceeds_caches,
    finish,
    row_map,
    row_range,
    row_squares,
    row_standardized_sums,
    row_sum,
    row_sums,
    use_widest_vectors,
)
from fastnn.kernels._outputs import result_of, shaped
from fastnn.kernels.normalization import Gradients, Rows, odd

_F64 = np.dtype(np.float64)

_ODD = odd.functions(helper)
_good_statistics, _is_odd_row = _ODD.statistics, _ODD.is_odd_row
_row_gradient, _channel_gradients = _ODD.row_gradient, _ODD.channel_gradients


def plan_normalize_rows(x: Array, rows: Rows) -> Callable[..., tuple[Array, Array]]:
    """Return a function (x, weight, bias, eps, y) that returns the mean and 1 / sqrt(var + eps) of each row."""
    seen, repeat = _seen(rows)
    shape, new_stats = (seen.rows, seen.channels, seen.places), result_of((2, rows.rows), _F64, x).new
    weights, biases = (_plan_parameters(seen, repeat, x.dtype, absent) for absent in (1, 0))
    matrix = shaped((seen.rows, seen.channels * seen.places), x.dtype)
    run = _normalize.launch(row_blocks(matrix), work=x.size)
    streamed = exceeds_caches(x)

    def normalize_rows(x: Array, weight: Array | None, bias: Array | None, eps: float, y: Array) -> tuple[Array, Array]:
        stats = new_stats()
        run(eps, streamed, x.reshape(shape), weights(weight), biases(bias), stats, y.reshape(shape))
        return stats[0], stats[1]

    return normalize_rows


def plan_normalize_rows_backward(x: Array, rows: Rows, needs: tuple[bool, bool, bool]) -> Callable[..., Gradients]:
    """Return a function (grad_output, x, weight, mean, invstd) that returns the gradients."""
    seen, repeat = _seen(rows)
    dtype, weights = x.dtype, _plan_parameters(seen, repeat, x.dtype, 1)
    by_column, width = seen.places == 1, seen.groups * seen.channels
    shape: tuple[int, ...] = (seen.rows, seen.channels) if by_column else (seen.rows, seen.channels, seen.places)
    nothing, no_sums = np.empty((0,) * len(shape), dtype), np.empty((0, 2, 0, 0))
    # Sums for each column are as long as a sample, and worth some rows, of which a few still make four slabs, for
    # threads; those for each run of one are few.
    least = min(NORM_SLAB_ROWS, max(seen.groups, -(-seen.rows // 4))) if by_column else 1
    count = max(least, -(-seen.rows // NORM_ROW_SLABS))
    slabs = -(-seen.rows // count)
    run = functools.partial((_gradients_by_column if by_column else _gradients_by_run).launch(slabs, work=2 * x.size),
                            count, exceeds_caches(x))
    new_x = result_of(x.shape, dtype, x).new
    new_sums = result_of((slabs, 2, seen.groups, seen.channels), _F64, x).new
    add = _add_slabs.launch(-(-2 * width // NORM_COLUMNS), work=2 * width * slabs)
    sum_again = _sum_again.launch(rows.groups * rows.channels, work=x.size)

    @np.errstate(all="ignore")              # NaN and inf travel without a warning
    def normalize_rows_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array,
                                invstd: Array) -> Gradients:
        grad_x, sums = new_x() if needs[0] else None, new_sums() if needs[1] or needs[2] else no_sums
        mean, invstd = mean.reshape(-1), invstd.reshape(-1)
        run(grad_output.reshape(shape), x.reshape(shape), weights(weight), mean, invstd, sums,
            nothing if grad_x is None else grad_x.reshape(shape))
        if weight is None or sums is no_sums:
            return grad_x, None, None
        totals: Array = np.empty(2 * width)
        add(sums.reshape(slabs, 2 * width), totals)
        totals = totals.reshape(2, -1, repeat).sum(axis=-1) if repeat > 1 else totals.reshape(2, width)
        if dtype == _F64 and not np.isfinite(totals).all():
            sum_again(grad_output.reshape(-1), x.reshape(-1), mean, invstd, *rows[1:], totals)
        grad_weight, grad_bias = (np.empty(weight.shape, dtype) if need else None for need in needs[1:])
        for grad, total in zip((grad_weight, grad_bias), totals):
            if grad is not None:
                grad.reshape(-1)[:] = total
        return grad_x, grad_weight, grad_bias

    return normalize_rows_backward


def _seen(rows: Rows) -> tuple[Rows, int]:
    """Return how loops see rows, and for how many places each weight is repeated then."""
    if rows.places >= NORM_RUN:
        return rows, 1
    return rows._replace(channels=rows.channels * rows.places, places=1), rows.places


def _plan_parameters(seen: Rows, repeat: int, dtype: np.dtype, absent: float) -> Callable[[Array | None], Array]:
    """Return a function that makes a matrix (groups, channels) of weights or biases, which may be absent."""
    shape = seen.groups, seen.channels
    instead = np.full(shape, absent, dtype)

    def parameters(given: Array | None) -> Array:
        if given is None:
            return instead
        return (np.repeat(given, repeat) if repeat > 1 else given).reshape(shape)

    return parameters


@helper
def _group(r: int, groups: int) -> int:
    """Return the group of a row's parameters; in layer normalization without the division, long beside a short row."""
    return 0 if groups == 1 else r % groups


# --- forward ---------------------------------------------------------------------------------------------------------

_scale = row_map(lambda x, weight, bias, half, twice: (0.5 * x - half) * twice * weight + bias)
_scale_run = row_map(lambda x, _, __, half, twice, weight, bias: (0.5 * x - half) * twice * weight + bias)


@block_kernel(writes="stats y", typed_by="x")
def _normalize(block: int, eps: float, streamed: bool, x: Array, weight: Array, bias: Array, stats: Array,
               y: Array) -> None:
    """Some rows."""
    use_widest_vectors()
    count, channels, places = x.shape
    length = channels * places
    flat, values, results = x.reshape(x.size), x.reshape(count, length), y.reshape(count, length)
    rows, mean, invstd = rows_of_block(block, values), stats[0], stats[1]
    for r in rows:
        mean[r] = row_sum(values[r]) / length
    for r in rows:
        invstd[r] = row_squares(values[r], mean[r]) / length
    for r in rows:
        mean[r], _, invstd[r] = _good_statistics(flat, 1, count, length, r, eps, mean[r], invstd[r])
    part = draft(part_of_rows(block, results), streamed)
    by_piece = streamed and part.size > DRAFTED         # of one row, which is long
    runs, size = (channels, places) if places > 1 else (1, length)
    for r in rows:
        group, half, twice = _group(r, len(weight)), 0.5 * mean[r], 2 * invstd[r]
        for c in range(runs):
            for begin in range(c * size, c * size + size, DRAFTED):
                end = min(c * size + size, begin + DRAFTED)
                run, place = values[r, begin:end], part[r - rows.start, begin:end]
                result = draft(place, True) if by_piece else place
                if places == 1:
                    _scale(run, weight[group, begin:end], bias[group, begin:end], (half, twice), result)
                else:
                    _scale_run(run, run, run, (half, twice, np.float64(weight[group, c]), np.float64(bias[group, c])),
                               result)
                if by_piece:
                    finish(result, place)
    finish(part, part_of_rows(block, results))


# --- backward --------------------------------------------------------------------------------------------------------

_standardize = row_map(lambda x, _, __, half, twice: (0.5 * x - half) * twice)
_multiply = row_map(lambda a, b, _: a * b)
_add = row_map(lambda total, a, _: total + a)
_add_product = row_map(lambda total, a, b: total + a * b)
_gradient = row_map(lambda terms, z, _, mean, slope, scale: (terms - mean - z * slope) * scale)
_gradient_of_run = row_map(lambda grads, x, _, half, twice, weight, mean, slope, scale: (
    grads * weight - mean - (0.5 * x - half) * twice * slope) * scale)


@helper
def _largest(row: Array) -> float:
    low, high = row_range(row)
    return max(-low, high)


@block_kernel(writes="sums grad_x", typed_by="x")
def _gradients_by_column(slab: int, count: int, streamed: bool, grad_output: Array, x: Array, weight: Array,
                         mean: Array, invstd: Array, sums: Array, grad_x: Array) -> None:
    """Gradients by the rows of a slab, (R, L), and their sums for weight and bias."""
    use_widest_vectors()
    length, groups = x.shape[1], len(weight)
    first, last = slab * count, min(len(x), slab * count + count)
    at_once = min(last - first, max(1, NORM_STRIP // length))
    z, terms = np.empty((at_once, length)), np.empty((at_once, length))
    totals, products = np.empty(at_once), np.empty(at_once)
    if sums.size:
        sums[slab] = 0
    for begin in range(first, last, at_once):
        rows = range(begin, min(last, begin + at_once))
        for r in rows:
            _standardize(x[r], x[r], x[r], (0.5 * mean[r], 2 * invstd[r]), z[r - begin])
        if sums.size:
            for r in rows:
                grads, group = grad_output[r], _group(r, groups)
                of_weight, of_bias = sums[slab, 0, group], sums[slab, 1, group]
                _add_product(of_weight, grads, z[r - begin], (), of_weight)
                _add(of_bias, grads, grads, (), of_bias)
        if grad_x.size == 0:
            continue
        for r in rows:
            factors = weight[_group(r, groups)]
            _multiply(grad_output[r], factors, factors, (), terms[r - begin])
        for r in rows:
            totals[r - begin], products[r - begin] = row_sums(terms[r - begin], z[r - begin], 0.0)
        part = draft(grad_x[begin:rows.stop], streamed)
        for r in rows:
            n = r - begin
            # What is made of float32 numbers has room in float64.
            if x.itemsize == 8 and _is_odd_row(_largest(grad_output[r]), _largest(terms[n]), invstd[r]):
                _row_gradient(grad_output.reshape(x.size), x.reshape(x.size), weight.reshape(weight.size), r, groups,
                              length, 1, mean[r], invstd[r], part.reshape(part.size), n * length)
            else:
                _gradient(terms[n], z[n], z[n], (totals[n] / length, products[n] / length, invstd[r]), part[n])
        finish(part, grad_x[begin:rows.stop])


@block_kernel(writes="sums grad_x", typed_by="x")
def _gradients_by_run(slab: int, count: int, streamed: bool, grad_output: Array, x: Array, weight: Array, mean: Array,
                      invstd: Array, sums: Array, grad_x: Array) -> None:
    """Gradients by the rows of a slab, (R, C, P), and their sums for weight and bias."""
    use_widest_vectors()
    groups, channels, places = len(weight), x.shape[1], x.shape[2]
    length = channels * places
    if sums.size:
        sums[slab] = 0
    for r in range(slab * count, min(len(x), slab * count + count)):
        group, half, twice, total, product = r % groups, 0.5 * mean[r], 2 * invstd[r], 0.0, 0.0
        largest_grad = largest_term = 0.0
        for c in range(channels):
            of_bias, of_weight = row_standardized_sums(grad_output[r, c], x[r, c], half, twice)
            if sums.size:
                sums[slab, 0, group, c] += of_weight
                sums[slab, 1, group, c] += of_bias
            total += np.float64(weight[group, c]) * of_bias
            product += np.float64(weight[group, c]) * of_weight
            if x.itemsize == 8:
                largest = _largest(grad_output[r, c])
                largest_grad = max(largest_grad, largest)
                largest_term = max(largest_term, largest * abs(np.float64(weight[group, c])))
        if grad_x.size == 0:
            continue
        whole = grad_x[r].reshape(length)
        # An infinite weight makes a sum over its run infinite, but NaN of terms of both signs.
        if not (abs(total) < np.inf and abs(product) < np.inf) or (
                x.itemsize == 8 and _is_odd_row(largest_grad, largest_term, invstd[r])):
            _row_gradient(grad_output.reshape(x.size), x.reshape(x.size), weight.reshape(weight.size), r, groups,
                          channels, places, mean[r], invstd[r], whole, 0)
            continue
        part = draft(whole, streamed)
        by_piece = streamed and part.size > DRAFTED
        for c in range(channels):
            for begin in range(0, places, DRAFTED):
                end = min(places, begin + DRAFTED)
                grads, place = grad_output[r, c, begin:end], part[c * places + begin:c * places + end]
                result = draft(place, True) if by_piece else place
                _gradient_of_run(grads, x[r, c, begin:end], grads, (
                    half, twice, np.float64(weight[group, c]), total / length, product / length, invstd[r]), result)
                if by_piece:
                    finish(result, place)
        finish(part, whole)


@block_kernel(writes="totals", typed_by="sums")
def _add_slabs(block: int, sums: Array, totals: Array) -> None:
    use_widest_vectors()
    first, last = max(0, block * NORM_COLUMNS), min(totals.size, block * NORM_COLUMNS + NORM_COLUMNS)
    for i in range(first, last):
        totals[i] = 0
    for slab in range(len(sums)):
        for i in range(first, last):
            totals[i] += sums[slab, i]


@block_kernel(writes="totals", typed_by="x")
def _sum_again(c: int, grad_output: Array, x: Array, mean: Array, invstd: Array, groups: int, channels: int,
               places: int, totals: Array) -> None:
    """The sums of one channel, if they left the range of float64 on the way."""
    if not (abs(totals[0, c]) < np.inf and abs(totals[1, c]) < np.inf):
        totals[0, c], totals[1, c] = _channel_gradients(grad_output, x, mean, invstd, groups, channels, places, c)
