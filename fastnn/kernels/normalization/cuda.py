"""Batch normalization on a GPU: sums of parts of the channels, their combination, then a pass over the elements.

A part is what a block's threads hold in registers. x is read once for both statistics: the mean of a part comes first,
then the squares about it, and the means and squares of parts are combined as Chan, Golub and LeVeque (1983, "Algorithms
for computing the sample variance") do, mean first again. Two passes over x would be as exact, and read it twice. All of
it takes place about the channel's first value, which takes the share of a large mean out of the rounding errors. The
sizes of parts depend on shapes alone, and sums are combined in one order.

Where the runs of a channel's values are short, x is seen as a matrix (N, C L), whose columns are lines of their own:
neighbouring threads then read neighbouring columns. A channel's parts are those of its L columns.

A ReLU is a floor under the results. Where there is none the floor is NaN, which nothing lies below.

Channels for which x's dtype has no room are done by the functions of `odd`; NaN as their factor marks them.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, either, group_sum, real_of
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.tuning import NORM_AT_ONCE, NORM_FEW_PARTS, NORM_HELD, NORM_RUN
from fastnn.kernels.normalization import Gradients, Statistics, as_channels, odd
from fastnn.kernels.normalization.rows_cuda import normalize_rows as normalize_rows
from fastnn.kernels.normalization.rows_cuda import normalize_rows_backward as normalize_rows_backward

_CHUNK = NORM_AT_ONCE * THREADS

_ODD = odd.functions(cuda.jit(device=True))
_factors, _odd_value, _is_odd, _has_odd_sums = _ODD.factors, _ODD.value, _ODD.is_odd, _ODD.has_odd_sums
_good_statistics, _odd_gradients = _ODD.statistics, _ODD.gradients


class _Cut(NamedTuple):
    """How values are cut into parts: lines of values in runs of `length`, of which `repeat` make a channel."""

    lines: int
    values: int                                 # of a line
    length: int
    repeat: int
    columns: int                                # lines whose parts a block takes
    parts: int                                  # of a line


def batch_norm(x: Array, running_mean: Any, running_var: Any, weight: Array | None, bias: Array | None,
               momentum: float, eps: float, y: Array, of_batch: bool, relu: bool, return_stats: bool) -> Statistics:
    channels, real = x.shape[1], real_of(x)
    x, y = as_channels(x), as_channels(y)
    lines, stats = _device.xp.empty((4, channels), x.dtype), _device.xp.empty((2, channels), np.float64)
    affine = _affine(weight, bias, lines)
    running = either(running_mean, lines[0]), either(running_var, lines[0])
    if of_batch:
        cut = _cut(x.shape)
        sums = _device.xp.empty((2, cut.parts, cut.lines), np.float64)
        launch(_part_statistics(cut.columns, real), cut.parts * -(-cut.lines // cut.columns), THREADS, x.reshape(-1),
               cut.lines, cut.values, cut.length, cut.repeat, sums)
        columns = _columns_to_combine(cut)
        launch(_statistics(columns, cut.columns, real), -(-channels // columns), THREADS, x.reshape(-1), sums,
               cut.values, cut.repeat, x.shape[2], *affine, *running, running_mean is not None, momentum, eps, stats,
               lines)
    else:
        launch(_inference(real), -(-channels // THREADS), THREADS, *running, *affine, eps, stats, lines)
    if x.size:
        launch(_scaled(real), -(-x.size // _CHUNK), THREADS, x.reshape(-1), x.shape[2], channels, lines, stats,
               *affine[:2], real(0 if relu else math.nan), y.reshape(-1))
    return (stats[0], stats[1]) if return_stats else None


def batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array,
                        bias: Array | None, training: bool, relu: bool, needs: tuple[bool, bool, bool]) -> Gradients:
    channels, real = x.shape[1], real_of(x)
    grad_x = _device.xp.empty(x.shape, x.dtype) if needs[0] else None
    grad_weight, grad_bias = (_device.xp.empty(channels, x.dtype) for _ in range(2))
    if x.size:
        grad_output, x = as_channels(grad_output).reshape(-1), as_channels(x)
        cut, floor = _cut(x.shape), real(0 if relu else math.nan)
        lines = _device.xp.empty((6, channels), x.dtype)
        sums = _device.xp.empty((2, cut.parts, cut.lines), np.float64)
        affine = _affine(weight, bias, lines)
        launch(_part_products(cut.columns, real), cut.parts * -(-cut.lines // cut.columns), THREADS, grad_output,
               x.reshape(-1), cut.lines, cut.values, cut.length, cut.repeat, mean, invstd, *affine, floor, sums)
        columns = _columns_to_combine(cut)
        launch(_products(columns, real), -(-channels // columns), THREADS, grad_output, x.reshape(-1), x.shape[2],
               sums, cut.values, cut.repeat, mean, invstd, *affine, floor, training, needs[0],
               either(None if grad_x is None else grad_x.reshape(-1), grad_output), grad_weight, grad_bias, lines)
        if grad_x is not None:
            launch(_gradients(real), -(-x.size // _CHUNK), THREADS, grad_output, x.reshape(-1), x.shape[2], channels,
                   lines, floor, training, grad_x.reshape(-1))
    else:
        grad_weight[...] = grad_bias[...] = 0
    return grad_x, grad_weight if needs[1] else None, grad_bias if needs[2] else None


def _affine(weight: Array | None, bias: Array | None, lines: Array) -> tuple[Array, bool, Array, bool]:
    """Return weight and bias for a kernel, and whether there are any."""
    return either(weight, lines[0]), weight is not None, either(bias, lines[0]), bias is not None


def _cut(shape: tuple[int, ...]) -> _Cut:
    samples, channels, length = shape
    lines, count, repeat = ((channels, samples * length, 1) if length >= NORM_RUN else
                            (channels * length, samples, length))
    columns = 1 if repeat == 1 and length > 1 else min(32, THREADS, 1 << (lines - 1).bit_length())
    return _Cut(lines, count, length // repeat, repeat, columns, -(-count // (NORM_HELD * (THREADS // columns))))


def _columns_to_combine(cut: _Cut) -> int:
    """Return how many channels a block combines the parts of: a thread each, or all of them one."""
    return THREADS if cut.parts * cut.repeat <= NORM_FEW_PARTS else 1


# --- lines: what becomes of a channel's values -----------------------------------------------------------------------


@functools.cache
def _line(real: Any) -> Any:
    """Return the function that gives the mean of a channel in two parts, its factor and its offset, in x's dtype.

    A float32 mean may be wrong by more than a small standard deviation; that two parts of it are taken from x one
    after the other loses nothing.
    """
    itemsize = np.dtype(real).itemsize

    @cuda.jit(device=True)
    def line(c: int, mean: Any, invstd: Any, weight: Array, weighted: bool, bias: Array, biased: bool) -> Any:
        high = real(mean)
        low = real(mean - high) if -math.inf < high < math.inf else real(0)
        factor = np.float64(weight[c]) if weighted else 1.0
        scale, offset = real(invstd * factor), bias[c] if biased else real(0)
        if _is_odd(high, scale, offset, factor, itemsize):
            scale = real(math.nan)
        return high, low, scale, offset

    return line


@cuda.jit(device=True)
def _on_line(x: Any, high: Any, low: Any, scale: Any, offset: Any) -> Any:
    return cuda.fma((x - high) - low, scale, offset)    # forwards and backwards with the same bits, and so signs


@cuda.jit(device=True)
def _inverse_root(square: Any) -> Any:
    return 1 / math.sqrt(square) if square > 0 else math.inf if square == 0 else math.nan


@functools.cache
def _inference(real: Any) -> Any:
    line = _line(real)

    @cuda.jit
    def inference(running_mean: Array, running_var: Array, weight: Array, weighted: bool, bias: Array, biased: bool,
                  eps: float, stats: Array, lines: Array) -> None:
        c = cuda.grid(1)
        if c < lines.shape[1]:
            mean, invstd = np.float64(running_mean[c]), _inverse_root(np.float64(running_var[c]) + eps)
            stats[0, c], stats[1, c] = mean, invstd
            lines[0, c], lines[1, c], lines[2, c], lines[3, c] = line(c, mean, invstd, weight, weighted, bias, biased)

    return inference


@functools.cache
def _scaled(real: Any) -> Any:
    @cuda.jit
    def scaled(x: Array, length: int, channels: int, lines: Array, stats: Array, weight: Array, weighted: bool,
               floor: Any, y: Array) -> None:
        values = cuda.local.array(NORM_AT_ONCE, real)
        # Backwards, as the cache still has what the last kernel read last.
        first = (cuda.gridDim.x - 1 - cuda.blockIdx.x) * _CHUNK + cuda.threadIdx.x
        for j in range(NORM_AT_ONCE):
            values[j] = x[min(first + j * THREADS, x.size - 1)]
        c, within = first // length % channels, first % length
        step, left = THREADS // length % channels, THREADS % length
        for j in range(NORM_AT_ONCE):
            i = first + j * THREADS
            if i < x.size:
                value = _on_line(values[j], lines[0, c], lines[1, c], lines[2, c], lines[3, c])
                if math.isnan(lines[2, c]):
                    a, b = _factors(stats[1, c], np.float64(weight[c]) if weighted else 1.0)
                    value = real(_odd_value(np.float64(values[j]), stats[0, c], a, b, np.float64(lines[3, c])))
                y[i] = floor if value < floor else value
            c, within = _next(c + step, within + left, length, channels)

    return scaled


@functools.cache
def _gradients(real: Any) -> Any:
    @cuda.jit
    def gradients(grad_output: Array, x: Array, length: int, channels: int, lines: Array, floor: Any, training: bool,
                  grad_x: Array) -> None:
        values = cuda.local.array(NORM_AT_ONCE, real)
        grads = cuda.local.array(NORM_AT_ONCE, real)
        first = (cuda.gridDim.x - 1 - cuda.blockIdx.x) * _CHUNK + cuda.threadIdx.x
        for j in range(NORM_AT_ONCE):
            i = min(first + j * THREADS, x.size - 1)
            values[j], grads[j] = x[i], grad_output[i]
        c, within = first // length % channels, first % length
        step, left = THREADS // length % channels, THREADS % length
        for j in range(NORM_AT_ONCE):
            i = first + j * THREADS
            if i < x.size and not math.isnan(lines[2, c]):      # else it is there
                value, high, low, scale = values[j], lines[0, c], lines[1, c], lines[2, c]
                g = real(0) if _on_line(value, high, low, scale, lines[3, c]) <= floor else grads[j]
                if training:
                    g += ((value - high) - low) * lines[4, c] + lines[5, c]
                grad_x[i] = g * scale
            c, within = _next(c + step, within + left, length, channels)

    return gradients


@cuda.jit(device=True)
def _next(c: int, within: int, length: int, channels: int) -> Any:
    """Return a channel and a place in its run, each less than twice its bound, with what is too much carried."""
    if within >= length:
        c, within = c + 1, within - length
    return c - channels if c >= channels else c, within


# --- sums ------------------------------------------------------------------------------------------------------------


@functools.cache
def _part_statistics(columns: int, real: Any) -> Any:
    members = THREADS // columns

    @cuda.jit
    def part_statistics(x: Array, lines: int, count: int, length: int, repeat: int, sums: Array) -> None:
        """Write the sum of each part, less the channel's first value, and the sum of squares about its mean."""
        shared = cuda.shared.array(THREADS, np.float64)
        values = cuda.local.array(NORM_HELD, real)
        column, member = cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        tiles = -(-lines // columns)
        part, line = cuda.blockIdx.x // tiles, cuda.blockIdx.x % tiles * columns + column
        first, end = part * NORM_HELD * members + member, count if line < lines else 0
        within = first % length
        place = (first // length * lines + line) * length + within
        step, left, skipped = members // length * lines * length, members % length, (lines - 1) * length
        for j in range(NORM_HELD):
            values[j] = x[place if first + j * members < end else 0]
            place, within = place + step + left, within + left
            if within >= length:
                place, within = place + skipped, within - length
        origin = _origin(x[line // repeat * repeat * length if line < lines else 0])
        total = 0.0
        for j in range(NORM_HELD):
            if first + j * members < end:
                total += np.float64(values[j]) - origin
        mine = column * members + member
        shared[mine] = total
        total = group_sum(shared, mine, members)
        mean = total / min(NORM_HELD * members, count - part * NORM_HELD * members)
        squares = 0.0
        for j in range(NORM_HELD):
            if first + j * members < end:
                value = np.float64(values[j]) - origin - mean
                squares += value * value
        shared[mine] = squares
        squares = group_sum(shared, mine, members)
        if member == 0 and line < lines:
            sums[0, part, line], sums[1, part, line] = total, squares

    return part_statistics


@cuda.jit(device=True)
def _origin(first: Any) -> Any:
    """Return the value that a channel's sums are taken about: its first one, if that is finite."""
    return np.float64(first) if -math.inf < first < math.inf else 0.0


@functools.cache
def _statistics(columns: int, part_columns: int, real: Any) -> Any:
    members, held = THREADS // columns, NORM_HELD * (THREADS // part_columns)
    line = _line(real)

    @cuda.jit
    def statistics(x: Array, sums: Array, count: int, repeat: int, length: int, weight: Array, weighted: bool,
                   bias: Array, biased: bool, running_mean: Array, running_var: Array, tracked: bool, momentum: float,
                   eps: float, stats: Array, lines: Array) -> None:
        """Combine the parts of each channel."""
        shared = cuda.shared.array(THREADS, np.float64)
        member = cuda.threadIdx.x // columns
        c = cuda.blockIdx.x * columns + cuda.threadIdx.x % columns
        mine = cuda.threadIdx.x % columns * members + member
        pieces, n = sums.shape[1] * repeat if c < lines.shape[1] else 0, count * repeat
        total = 0.0
        for k in range(member, pieces, members):
            total += sums[0, k // repeat, c * repeat + k % repeat]
        shared[mine] = total
        mean = group_sum(shared, mine, members) / n
        squares = 0.0
        for k in range(member, pieces, members):
            part, place = k // repeat, c * repeat + k % repeat
            size = min(held, count - part * held)
            off = sums[0, part, place] / size - mean
            squares += sums[1, part, place] + size * off * off
        shared[mine] = squares
        var = group_sum(shared, mine, members) / n
        if member == 0 and c < lines.shape[1]:
            mean += _origin(x[c * length])
            mean, var, invstd = _good_statistics(x, n // length, lines.shape[1], length, c, eps, mean, var)
            stats[0, c], stats[1, c] = mean, invstd
            lines[0, c], lines[1, c], lines[2, c], lines[3, c] = line(c, mean, invstd, weight, weighted, bias, biased)
            if tracked:                         # last: who gives weight or bias for them too has used it
                running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean
                running_var[c] = (1 - momentum) * running_var[c] + momentum * (n / (n - 1)) * var

    return statistics


@functools.cache
def _part_products(columns: int, real: Any) -> Any:
    members, line_of = THREADS // columns, _line(real)

    @cuda.jit
    def part_products(grad_output: Array, x: Array, lines: int, count: int, length: int, repeat: int, mean: Array,
                      invstd: Array, weight: Array, weighted: bool, bias: Array, biased: bool, floor: Any,
                      sums: Array) -> None:
        """Write the sums of G and of G (x - mean) over each part."""
        shared = cuda.shared.array(THREADS, np.float64)
        values = cuda.local.array(NORM_HELD, real)
        grads = cuda.local.array(NORM_HELD, real)
        column, member = cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        tiles = -(-lines // columns)
        part, line = cuda.blockIdx.x // tiles, cuda.blockIdx.x % tiles * columns + column
        first, end = part * NORM_HELD * members + member, count if line < lines else 0
        within = first % length
        place = (first // length * lines + line) * length + within
        step, left, skipped = members // length * lines * length, members % length, (lines - 1) * length
        c = line // repeat if line < lines else 0
        centre = mean[c]
        high, low, scale, offset = line_of(c, centre, invstd[c], weight, weighted, bias, biased)
        for j in range(NORM_HELD):
            inside = first + j * members < end
            values[j], grads[j] = x[place if inside else 0], grad_output[place if inside else 0]
            place, within = place + step + left, within + left
            if within >= length:
                place, within = place + skipped, within - length
        total, product = 0.0, 0.0
        for j in range(NORM_HELD):
            inside = first + j * members < end
            below = _on_line(values[j], high, low, scale, offset) <= floor
            g = np.float64(real(0) if below | (not inside) else grads[j])
            total += g
            product += g * (values[j] - centre if inside else 0.0)
        mine = column * members + member
        shared[mine] = total
        total = group_sum(shared, mine, members)
        shared[mine] = product
        product = group_sum(shared, mine, members)
        if member == 0 and line < lines:
            sums[0, part, line], sums[1, part, line] = total, product

    return part_products


@functools.cache
def _products(columns: int, real: Any) -> Any:
    members, line, itemsize = THREADS // columns, _line(real), np.dtype(real).itemsize
    rounded_to_0 = 2.0**-150 if itemsize == 4 else 0.0      # the largest result

    @cuda.jit
    def products(grad_output: Array, x: Array, length: int, sums: Array, count: int, repeat: int, mean: Array,
                 invstd: Array, weight: Array, weighted: bool, bias: Array, biased: bool, floor: Any, training: bool,
                 needs_x: bool, grad_x: Array, grad_weight: Array, grad_bias: Array, lines: Array) -> None:
        """Combine the parts of each channel."""
        shared = cuda.shared.array(THREADS, np.float64)
        member = cuda.threadIdx.x // columns
        c = cuda.blockIdx.x * columns + cuda.threadIdx.x % columns
        mine = cuda.threadIdx.x % columns * members + member
        pieces, n = sums.shape[1] * repeat if c < lines.shape[1] else 0, count * repeat
        total, product = 0.0, 0.0
        for k in range(member, pieces, members):
            total += sums[0, k // repeat, c * repeat + k % repeat]
            product += sums[1, k // repeat, c * repeat + k % repeat]
        shared[mine] = total
        total = group_sum(shared, mine, members)
        shared[mine] = product
        product = group_sum(shared, mine, members)
        if member == 0 and c < lines.shape[1]:
            product *= invstd[c]
            grad_bias[c], grad_weight[c] = total, product
            lines[0, c], lines[1, c], lines[2, c], lines[3, c] = line(c, mean[c], invstd[c], weight, weighted, bias,
                                                                      biased)
            lines[4, c], lines[5, c] = -product / n * invstd[c], -total / n
            if math.isnan(lines[2, c]) or _has_odd_sums(total, product, n, invstd[c], itemsize):
                lines[2, c] = real(math.nan)
                grad_weight[c], grad_bias[c] = _odd_gradients(
                    grad_output, x, n // length, lines.shape[1], length, c, np.float64(weight[c]) if weighted else 1.0,
                    np.float64(lines[3, c]), mean[c], invstd[c], np.float64(floor) + rounded_to_0, training, needs_x,
                    grad_x)

    return products
