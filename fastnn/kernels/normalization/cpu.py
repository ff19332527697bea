"""Batch normalization of values (N, C, L) in two ways; the shape alone decides.

*By channel*: where the values of a channel stand in long runs, a block does all that a few channels need, while their
values are in the core's cache if they fit. Each pass goes back the way that the last one came, so that it finds what
that one read last. *By column*: else the values are a matrix (N, C L), each of whose columns has its own sums and
factors, and loops run along its rows, however short the runs of a channel are.

A ReLU is a floor under the results. Where there is none the floor is NaN, which nothing lies below.

Channels for which x's dtype has no room are done by the functions of `odd`, in the same launch or after it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, inlined_helper, named_after, renamed
from fastnn.kernels._cpu.elementwise import mapping
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.tuning import (
    NORM_CHANNELS,
    NORM_COLUMNS,
    NORM_FEW_RUNS,
    NORM_FEW_VALUES,
    NORM_RUN,
    NORM_SLABS,
    NORM_SMALL,
    NORM_VALUES,
    NORM_WALK,
)
from fastnn.kernels._cpu.vectors import (
    exceeds_caches,
    row_squares,
    row_sum,
    row_sums,
    row_sums_above,
    use_widest_vectors,
)
from fastnn.kernels._outputs import EMPTY, result_of
from fastnn.kernels.normalization import Gradients, Statistics, as_channels, odd
from fastnn.kernels.normalization.rows import plan_normalize_rows as plan_normalize_rows
from fastnn.kernels.normalization.rows import plan_normalize_rows_backward as plan_normalize_rows_backward

_NAN = float("nan")

_ODD = odd.functions(helper)
_factors, _odd_value, _is_odd, _has_odd_sums = _ODD.factors, _ODD.value, _ODD.is_odd, _ODD.has_odd_sums
_good_statistics, _odd_gradients = _ODD.statistics, _ODD.gradients


def plan_batch_norm(x: Array, of_batch: bool, relu: bool, return_stats: bool) -> Callable[..., Statistics]:
    """Return a function (x, running_mean, running_var, weight, bias, momentum, eps, y) that returns the statistics."""
    channels, none, floor = x.shape[1], EMPTY[x.dtype], 0.0 if relu else _NAN
    if _are_few(x) and not (of_batch or return_stats):
        return _plan_scale_few(x, floor)
    if _are_few(x) and of_batch:
        values = _as_images(x)
        run: Any = functools.partial(_normalize_few.launch(channels, work=x.size), floor)
    else:
        values = as_channels(x)
        run = _plan_channels(values, floor) if of_batch and _by_channel(values) else _plan_passes(
            values, of_batch, floor)
    shape, as_given = values.shape, values.shape == x.shape

    def batch_norm(x: Array, running_mean: Array | None, running_var: Array | None, weight: Array | None,
                   bias: Array | None, momentum: float, eps: float, y: Array) -> Statistics:
        stats = np.empty((2, channels))
        if not as_given:
            x, y = x.reshape(shape), y.reshape(shape)
        run(x, none if running_mean is None else running_mean, none if running_var is None else running_var,
            none if weight is None else weight, none if bias is None else bias, momentum, eps, stats, y)
        return (stats[0], stats[1]) if return_stats else None

    return batch_norm


def _plan_scale_few(x: Array, floor: float) -> Callable[..., None]:
    run, none = functools.partial(_scale_few.launch(x.shape[1], work=x.size), floor), EMPTY[x.dtype]
    shape, as_given = _as_images(x).shape, x.ndim == 4

    def batch_norm(x: Array, running_mean: Array, running_var: Array, weight: Array | None, bias: Array | None,
                   momentum: float, eps: float, y: Array) -> None:
        if not as_given:
            x, y = x.reshape(shape), y.reshape(shape)
        run(x, running_mean, running_var, none if weight is None else weight, none if bias is None else bias, eps, y)

    return batch_norm


def _plan_channels(x: Array, floor: float) -> Callable[..., None]:
    group = _group(x)
    return functools.partial(_normalize.launch(-(-x.shape[1] // group), work=x.size), floor, group, exceeds_caches(x))


def _plan_passes(x: Array, of_batch: bool, floor: float) -> Callable[..., None]:
    """Take the statistics of all channels, then scale."""
    channels, scale = x.shape[1], _plan_scale(x, floor)
    if of_batch:
        take = _plan_statistics(x)
        finish: Any = _finish_statistics.launch(1, work=channels)
    else:
        invert = _invert.launch(1, work=channels)

    def run(x: Array, running_mean: Array, running_var: Array, weight: Array, bias: Array, momentum: float, eps: float,
            stats: Array, y: Array) -> None:
        if of_batch:
            take(x, stats)
            finish(x, momentum, eps, running_mean, running_var, stats)
        else:
            stats[0], stats[1] = running_mean, running_var
            invert(eps, stats)
        scale(x, weight, bias, stats[0], stats[1], y)

    return run


def _plan_statistics(x: Array) -> Callable[[Array, Array], None]:
    """Return a function (x, stats) that writes the mean and the variance of each channel."""
    samples, channels, length = x.shape
    n, width = samples * length, channels * length
    values, squares = _plan_sums(_value, x), _plan_sums(_square, x)

    @np.errstate(all="ignore")              # NaN and inf travel without a warning
    def take(x: Array, stats: Array) -> None:
        matrix, no_lines = _matrix(x), np.empty((4, width), x.dtype)
        np.divide(values(matrix, matrix, np.zeros(width), no_lines, _NAN), n, out=stats[0])
        np.divide(squares(matrix, matrix, np.repeat(stats[0], length), no_lines, _NAN), n, out=stats[1])

    return take


def _plan_scale(x: Array, floor: float) -> Callable[..., None]:
    """Return a function (x, weight, bias, mean, invstd, y)."""
    samples, channels, length = x.shape
    if length >= NORM_RUN:
        runs, count = (samples * channels, length), max(1, NORM_VALUES // length)
        scale_runs = functools.partial(_scale_runs.launch(-(-runs[0] // count), work=x.size // 4), floor, count,
                                       exceeds_caches(x))
        return lambda x, weight, bias, mean, invstd, y: scale_runs(
            x.reshape(runs), weight, bias, mean, invstd, y.reshape(runs))
    columns, rows = _plan_columns(x), _rows(x)
    scale_columns = _scale_columns.launch(-(-samples // rows), work=x.size // 4)
    scale_odd = _scale_odd.launch(channels, work=x.size)

    def scale(x: Array, weight: Array, bias: Array, mean: Array, invstd: Array, y: Array) -> None:
        lines, odd_ones = columns(weight, bias, mean, invstd)
        scale_columns(_matrix(x), lines, floor, rows, _matrix(y))
        if odd_ones.any():
            scale_odd(x, weight, bias, mean, invstd, floor, odd_ones, y)

    return scale


def plan_batch_norm_backward(x: Array, training: bool, relu: bool, needs: tuple[bool, bool, bool],
                             ) -> Callable[..., Gradients]:
    """Return a function (grad_output, x, weight, mean, invstd, bias) that returns the gradients."""
    channels, none, floor, new = x.shape[1], EMPTY[x.dtype], 0.0 if relu else _NAN, result_of(x.shape, x.dtype, x).new
    values, no_images = as_channels(x), np.empty((0, 0, 0, 0), x.dtype)
    if _by_channel(values) or _are_few(x):
        group = _group(values)
        run: Any = functools.partial(_gradients.launch(-(-channels // group), work=x.size), floor, training, group,
                                     exceeds_caches(x))
    else:
        run = _plan_gradients_by_column(values, floor, training)
    images, as_given = _as_images(x).shape, x.ndim == 4

    def batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array,
                            bias: Array | None) -> Gradients:
        grad_x = new() if needs[0] else None
        grad_weight, grad_bias = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        result = no_images if grad_x is None else grad_x if as_given else grad_x.reshape(images)
        if not as_given:
            grad_output, x = grad_output.reshape(images), x.reshape(images)
        run(grad_output, x, none if weight is None else weight, none if bias is None else bias, mean, invstd,
            grad_weight, grad_bias, result)
        return grad_x, grad_weight if needs[1] else None, grad_bias if needs[2] else None

    return batch_norm_backward


def _plan_gradients_by_column(x: Array, floor: float, training: bool) -> Callable[..., None]:
    samples, channels, length = x.shape
    n, rows, columns = samples * length, _rows(x), _plan_columns(x)
    above, products_above = _plan_sums(_above, x), _plan_sums(_product_above, x)
    gradient_columns = _gradient_columns.launch(-(-samples // rows), work=x.size)
    gradients_odd = _gradients_odd.launch(channels, work=0)

    @np.errstate(all="ignore")
    def gradients(grad_output: Array, x: Array, weight: Array, bias: Array, mean: Array, invstd: Array,
                  grad_weight: Array, grad_bias: Array, grad_x: Array) -> None:
        grads, matrix, (lines, _) = _matrix(grad_output), _matrix(x), columns(weight, bias, mean, invstd)
        means = np.repeat(mean, length)
        grad_bias[:] = sums = above(grads, matrix, means, lines, floor)
        grad_weight[:] = products = products_above(grads, matrix, means, lines, floor) * invstd
        if grad_x.size:
            slopes = np.repeat(np.array([-products / n * invstd, -sums / n], x.dtype), length, axis=1)
            gradient_columns(grads, matrix, lines, slopes, floor, training, rows, _matrix(grad_x))
        gradients_odd(grad_output, x, weight, bias, mean, invstd, floor, training, sums, products, grad_weight,
                      grad_bias, grad_x)

    return gradients


def _are_few(x: Array) -> bool:
    return x.size <= NORM_FEW_VALUES and x.shape[0] * x.shape[1] <= NORM_FEW_RUNS


def _by_channel(x: Array) -> bool:
    return x.shape[2] >= NORM_RUN and (x.shape[1] >= NORM_CHANNELS or x.size < NORM_SMALL)


def _group(x: Array) -> int:
    """How many channels a block does."""
    return -(-NORM_WALK // x.shape[2]) if x.size >= NORM_SMALL else 1


def _as_images(x: Array) -> Array:
    return x if x.ndim == 4 else as_channels(x)[..., None]


def _matrix(x: Array) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _rows(x: Array) -> int:
    """How many samples a block writes."""
    return max(1, NORM_VALUES // max(1, x.shape[1] * x.shape[2]))


def _plan_columns(x: Array) -> Callable[..., tuple[Array, Array]]:
    """Return a function (weight, bias, mean, invstd): the line of each column, and whether each channel is odd."""
    dtype, channels, length = x.dtype, *x.shape[1:]
    make_lines = _make_lines.launch(1, work=4 * channels * length)

    def columns(weight: Array, bias: Array, mean: Array, invstd: Array) -> tuple[Array, Array]:
        lines, odd_ones = np.empty((4, channels * length), dtype), np.empty(channels, np.bool_)
        make_lines(weight, bias, mean, invstd, length, lines, odd_ones)
        return lines, odd_ones

    return columns


def _plan_sums(kernel: BlockKernel, x: Array) -> Callable[..., Array]:
    """Return a function (a, b, means, lines, floor) of matrices: the sums of a kernel's terms for each channel."""
    samples, channels, length = x.shape
    width = channels * length
    rows = max(-(-samples // NORM_SLABS), NORM_VALUES // max(1, min(NORM_COLUMNS, width)))
    slabs = -(-samples // rows)
    run = kernel.launch(slabs * -(-width // NORM_COLUMNS), work=x.size // 2)

    def sums(a: Array, b: Array, means: Array, lines: Array, floor: float) -> Array:
        parts = np.empty((slabs, width))
        run(a, b, means, lines, floor, rows, parts)
        return parts.sum(axis=0).reshape(channels, length).sum(axis=1)

    return sums


# --- elements ----------------------------------------------------------------------------------------------


@helper
def _line(real: Any, c: int, weight: Array, bias: Array, mean: Array, invstd: float) -> tuple[Any, Any, Any, Any]:
    """The mean of a channel in two parts, its factor and its offset, in x's dtype.

    A float32 mean may be wrong by more than a small standard deviation; that two parts of it are taken from x one
    after the other loses nothing.
    """
    high = real(mean[c])
    low = real(mean[c] - high) if np.isfinite(high) else real(0)
    return (high, low, real(invstd * weight[c]) if weight.size else real(invstd), bias[c] if bias.size else real(0))


@helper
def _factor(c: int, weight: Array) -> float:
    return np.float64(weight[c]) if weight.size else 1.0


@block_kernel(writes="lines odd_ones", typed_by="lines")
def _make_lines(block: int, weight: Array, bias: Array, mean: Array, invstd: Array, length: int, lines: Array,
                odd_ones: Array) -> None:
    for c in range(mean.size):
        high, low, scale, offset = _line(lines.dtype.type, c, weight, bias, mean, invstd[c])
        odd_ones[c] = _is_odd(high, scale, offset, _factor(c, weight), lines.itemsize)
        for t in range(c * length, c * length + length):
            lines[0, t], lines[1, t], lines[2, t], lines[3, t] = high, low, scale, offset


@inlined_helper
def _on_line(x: Any, high: Any, low: Any, scale: Any, offset: Any) -> Any:
    return ((x - high) - low) * scale + offset


@inlined_helper
def _floored(x: Any, high: Any, low: Any, scale: Any, offset: Any, floor: Any) -> Any:
    value = _on_line(x, high, low, scale, offset)
    return floor if value < floor else value


@inlined_helper
def _above_floor(g: Any, x: Any, high: Any, low: Any, scale: Any, offset: Any, floor: Any) -> Any:
    return type(g)(0) if _on_line(x, high, low, scale, offset) <= floor else g


@inlined_helper
def _gradient(g: Any, x: Any, high: Any, low: Any, scale: Any, slope: Any, constant: Any) -> Any:
    return (g + (((x - high) - low) * slope + constant)) * scale


@mapping
def _scale_run(x: Any, _: Any, line: tuple) -> Any:
    return _floored(x, *line)


@mapping
def _gradient_run(g: Any, x: Any, line: tuple) -> Any:
    return _gradient(g, x, line[0], line[1], line[2], line[5], line[6])


@mapping
def _gradient_above_run(g: Any, x: Any, line: tuple) -> Any:
    return _gradient(_above_floor(g, x, *line[:5]), x, line[0], line[1], line[2], line[5], line[6])


@mapping
def _above_run(g: Any, x: Any, line: tuple) -> Any:
    return _above_floor(g, x, *line[:5]) * line[2]


@helper
def _scale(x: Array, c: int, weight: Array, bias: Array, mean: Array, invstd: float, floor: float, streamed: bool,
           y: Array) -> None:
    """A run of a channel's values."""
    real, factor = x.dtype.type, _factor(c, weight)
    line = _line(real, c, weight, bias, mean, invstd)
    if not _is_odd(line[0], line[2], line[3], factor, x.itemsize):
        _scale_run(x, x, (*line, real(floor)), y, streamed)
        return
    left, right = _factors(invstd, factor)
    for i in range(x.size):
        value = _odd_value(x[i], mean[c], left, right, line[3])
        y[i] = floor if value < floor else value


# --- by channel --------------------------------------------------------------------------------------------


@block_kernel(writes="running_mean running_var stats y", typed_by="x")
def _normalize(block: int, floor: float, group: int, streamed: bool, x: Array, running_mean: Array,
               running_var: Array, weight: Array, bias: Array, momentum: float, eps: float, stats: Array,
               y: Array) -> None:
    samples, channels, length = x.shape
    first, last = block * group, min(channels, block * group + group)
    mean, var = stats[0], stats[1]
    for c in range(first, last):
        mean[c] = var[c] = 0
    for k in range(samples):
        for c in range(first, last):
            mean[c] += row_sum(x[k, c])
    for c in range(first, last):
        mean[c] /= samples * length
    for k in range(samples - 1, -1, -1):
        for c in range(first, last):
            var[c] += row_squares(x[k, c], mean[c])
    for c in range(first, last):
        var[c] /= samples * length
        _finish(c, x, momentum, eps, running_mean, running_var, stats)
    for k in range(samples):
        for c in range(first, last):
            _scale(x[k, c], c, weight, bias, mean, stats[1, c], floor, streamed, y[k, c])


@helper
def _replace_odd(grad_output: Array, x: Array, c: int, weight: Array, bias: Array, mean: Array, invstd: Array,
                 floor: float, training: bool, total: float, product: float, grad_weight: Array, grad_bias: Array,
                 grad_x: Array) -> bool:
    """Write the gradients of a channel if it is odd, and return whether it is."""
    samples, channels, length = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    factor = _factor(c, weight)
    high, _, scale, offset = _line(x.dtype.type, c, weight, bias, mean, invstd[c])
    if not (_is_odd(high, scale, offset, factor, x.itemsize)
            or _has_odd_sums(total, product, samples * length, invstd[c], x.itemsize)):
        return False
    grad_weight[c], grad_bias[c] = _odd_gradients(
        grad_output.reshape(x.size), x.reshape(x.size), samples, channels, length, c, factor, np.float64(offset),
        mean[c], invstd[c], floor + (2.0**-150 if x.itemsize == 4 else 0.0), training, grad_x.size > 0,
        grad_x.reshape(grad_x.size))                # a float32 result of up to 2^-150 was 0
    return True


@block_kernel(writes="y", typed_by="x")
def _scale_odd(c: int, x: Array, weight: Array, bias: Array, mean: Array, invstd: Array, floor: float,
               odd_ones: Array, y: Array) -> None:
    if odd_ones[c]:
        for k in range(x.shape[0]):
            _scale(x[k, c], c, weight, bias, mean, invstd[c], floor, False, y[k, c])


@block_kernel(writes="grad_weight grad_bias grad_x", typed_by="x")
def _gradients_odd(c: int, grad_output: Array, x: Array, weight: Array, bias: Array, mean: Array, invstd: Array,
                   floor: float, training: bool, sums: Array, products: Array, grad_weight: Array, grad_bias: Array,
                   grad_x: Array) -> None:
    _replace_odd(grad_output, x, c, weight, bias, mean, invstd, floor, training, sums[c], products[c], grad_weight,
                 grad_bias, grad_x)


@block_kernel(writes="grad_weight grad_bias grad_x", typed_by="x")
def _gradients(block: int, floor: float, training: bool, group: int, streamed: bool, grad_output: Array, x: Array,
               weight: Array, bias: Array, mean: Array, invstd: Array, grad_weight: Array, grad_bias: Array,
               grad_x: Array) -> None:
    """Some channels of (N, C, H, W)."""
    samples, channels, length = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    real = x.dtype.type
    first, last = block * group, min(channels, block * group + group)
    sums, products = np.zeros(last - first), np.zeros(last - first)
    for k in range(samples):
        for c in range(first, last):
            grads, values = grad_output[k, c].reshape(length), x[k, c].reshape(length)
            if floor == floor:
                line = _line(real, c, weight, bias, mean, invstd[c])
                g, gx = row_sums_above(grads, values, mean[c], (*line, real(floor)))
            else:
                g, gx = row_sums(grads, values, mean[c])
            sums[c - first] += g
            products[c - first] += gx
    n, odd_ones = samples * length, np.zeros(last - first, np.bool_)
    for c in range(first, last):
        products[c - first] *= invstd[c]
        grad_bias[c], grad_weight[c] = sums[c - first], products[c - first]
        odd_ones[c - first] = _replace_odd(grad_output, x, c, weight, bias, mean, invstd, floor, training,
                                           sums[c - first], products[c - first], grad_weight, grad_bias, grad_x)
    if grad_x.size == 0:
        return
    for k in range(samples - 1, -1, -1):
        for c in range(first, last):
            if odd_ones[c - first]:
                continue
            grads, values = grad_output[k, c].reshape(length), x[k, c].reshape(length)
            result = grad_x[k, c].reshape(length)
            line = _line(real, c, weight, bias, mean, invstd[c])
            slope, constant = real(-products[c - first] / n * invstd[c]), real(-sums[c - first] / n)
            option = (*line, real(floor), slope, constant)
            if not training:
                _above_run(grads, values, option, result, streamed)
            elif floor == floor:
                _gradient_above_run(grads, values, option, result, streamed)
            else:
                _gradient_run(grads, values, option, result, streamed)


@block_kernel(writes="y", typed_by="x")
def _scale_runs(block: int, floor: float, count: int, streamed: bool, x: Array, weight: Array, bias: Array, mean: Array,
                invstd: Array, y: Array) -> None:
    for r in range(block * count, min(block * count + count, len(x))):
        c = r % len(mean)
        _scale(x[r], c, weight, bias, mean, invstd[c], floor, streamed, y[r])


@helper
def _track(c: int, mean: float, var: float, n: int, momentum: float, running_mean: Array, running_var: Array) -> None:
    """Let the statistics of n values into the running ones."""
    running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean
    running_var[c] = (1 - momentum) * running_var[c] + momentum * (n / (n - 1)) * var


@helper
def _finish(c: int, x: Array, momentum: float, eps: float, running_mean: Array, running_var: Array,
            stats: Array) -> None:
    """Let a channel's mean and variance into the running ones, if there are any; put 1 / sqrt(var + eps) there."""
    samples, channels, length = x.shape
    stats[0, c], var, stats[1, c] = _good_statistics(x.reshape(x.size), samples, channels, length, c, eps, stats[0, c],
                                                     stats[1, c])
    if running_mean.size:
        _track(c, stats[0, c], var, samples * length, momentum, running_mean, running_var)


@block_kernel(writes="running_mean running_var stats", typed_by="x")
def _finish_statistics(block: int, x: Array, momentum: float, eps: float, running_mean: Array, running_var: Array,
                       stats: Array) -> None:
    for c in range(stats.shape[1]):
        _finish(c, x, momentum, eps, running_mean, running_var, stats)


@block_kernel(writes="stats", typed_by="stats")
def _invert(block: int, eps: float, stats: Array) -> None:
    for c in range(stats.shape[1]):
        stats[1, c] = 1 / np.sqrt(stats[1, c] + eps)


# --- small arrays: all in one launch ---------------------------------------------------------------------------------


@block_kernel(writes="running_mean running_var stats y", typed_by="x")
def _normalize_few(c: int, floor: float, x: Array, running_mean: Array, running_var: Array, weight: Array, bias: Array,
                   momentum: float, eps: float, stats: Array, y: Array) -> None:
    """One channel of (N, C, H, W)."""
    samples, channels, length = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    mean = var = 0.0
    for n in range(samples):
        mean += row_sum(x[n, c].reshape(-1))
    mean /= samples * length
    for n in range(samples):
        var += row_squares(x[n, c].reshape(-1), mean)
    var /= samples * length
    mean, var, invstd = _good_statistics(x.reshape(x.size), samples, channels, length, c, eps, mean, var)
    stats[0, c], stats[1, c] = mean, invstd
    for n in range(samples):
        _scale(x[n, c].reshape(-1), c, weight, bias, stats[0], invstd, floor, False, y[n, c].reshape(-1))
    if running_mean.size:
        _track(c, mean, var, samples * length, momentum, running_mean, running_var)


@block_kernel(writes="y", typed_by="x")
def _scale_few(c: int, floor: float, x: Array, mean: Array, var: Array, weight: Array, bias: Array, eps: float,
               y: Array) -> None:
    """One channel of (N, C, H, W)."""
    invstd = 1 / np.sqrt(np.float64(var[c]) + eps)
    for n in range(x.shape[0]):
        _scale(x[n, c].reshape(-1), c, weight, bias, mean, invstd, floor, False, y[n, c].reshape(-1))


# --- by column ---------------------------------------------------------------------------------------------


def _column_sums(term: Callable[..., Any]) -> BlockKernel:
    """Make a kernel: parts[s, t] = the sum of term(a, b, mean, *line, floor) in column t over a slab of rows."""
    function = inlined_helper(term)

    @inlined_helper
    @named_after(term)
    def at(a: Array, b: Array, n: int, t: int, means: Array, lines: Array, floor: Any) -> float:
        return function(a[n, t], b[n, t], means[t], lines[0, t], lines[1, t], lines[2, t], lines[3, t], floor)

    def kernel(block: int, a: Array, b: Array, means: Array, lines: Array, floor: float, rows: int,
               parts: Array) -> None:
        use_widest_vectors()
        bound, blocks = a.dtype.type(floor), -(-a.shape[1] // NORM_COLUMNS)
        slab, first = max(0, block // blocks), max(0, block % blocks * NORM_COLUMNS)
        count, begin, end = min(NORM_COLUMNS, a.shape[1] - first), slab * rows, min(len(a), slab * rows + rows)
        whole = end - (end - begin) % 4
        for j in range(count):
            parts[slab, first + j] = 0
        for n in range(begin, whole, 4):                # four rows for each time that the sums are read and written
            for j in range(count):
                t = first + j                           # not negative, as the compiler sees
                parts[slab, t] += (
                    (at(a, b, n, t, means, lines, bound) + at(a, b, n + 1, t, means, lines, bound))
                    + (at(a, b, n + 2, t, means, lines, bound) + at(a, b, n + 3, t, means, lines, bound)))
        for n in range(whole, end):
            for j in range(count):
                t = first + j
                parts[slab, t] += at(a, b, n, t, means, lines, bound)

    return block_kernel(writes="parts")(renamed(kernel, term.__module__, term.__qualname__))


@_column_sums
def _value(a: Any, b: Any, mean: float, high: Any, low: Any, scale: Any, offset: Any, floor: Any) -> float:
    return np.float64(a)


@_column_sums
def _square(a: Any, b: Any, mean: float, high: Any, low: Any, scale: Any, offset: Any, floor: Any) -> float:
    return (a - mean) * (a - mean)


@_column_sums
def _above(a: Any, b: Any, mean: float, high: Any, low: Any, scale: Any, offset: Any, floor: Any) -> float:
    return np.float64(_above_floor(a, b, high, low, scale, offset, floor))


@_column_sums
def _product_above(a: Any, b: Any, mean: float, high: Any, low: Any, scale: Any, offset: Any, floor: Any) -> float:
    return _above_floor(a, b, high, low, scale, offset, floor) * (b - mean)


@block_kernel(writes="y", typed_by="x")
def _scale_columns(block: int, x: Array, lines: Array, floor: float, rows: int, y: Array) -> None:
    use_widest_vectors()
    bound = x.dtype.type(floor)
    for n in range(block * rows, min(len(x), block * rows + rows)):
        for t in range(x.shape[1]):
            y[n, t] = _floored(x[n, t], lines[0, t], lines[1, t], lines[2, t], lines[3, t], bound)


@block_kernel(writes="grad_x", typed_by="x")
def _gradient_columns(block: int, grad_output: Array, x: Array, lines: Array, slopes: Array, floor: float,
                      training: bool, rows: int, grad_x: Array) -> None:
    use_widest_vectors()
    bound = x.dtype.type(floor)
    for n in range(block * rows, min(len(x), block * rows + rows)):
        for t in range(x.shape[1]):
            g = _above_floor(grad_output[n, t], x[n, t], lines[0, t], lines[1, t], lines[2, t], lines[3, t], bound)
            grad_x[n, t] = (_gradient(g, x[n, t], lines[0, t], lines[1, t], lines[2, t], slopes[0, t], slopes[1, t])
                            if training else g * lines[2, t])
