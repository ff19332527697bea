"""Layer and group normalization on a GPU: a group of threads takes a row, all in float64, rounded when it is written.

Gradients by weight and bias are sums of a matrix (samples, channels of all groups): of a channel's places first, where
there are several, else of some rows at a time; then of its rows. The order follows from shapes alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for, real_of
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.rows import block_size, place, row_max, row_sum, run_rows
from fastnn.kernels._gpu.sums import sum_rows
from fastnn.kernels._gpu.tuning import SUM_ROWS
from fastnn.kernels.normalization import Gradients, Rows, odd

_F64 = np.dtype(np.float64)

_ODD = odd.functions(cuda.jit(device=True))
_good_statistics, _is_odd_row = _ODD.statistics, _ODD.is_odd_row
_row_gradient, _channel_gradients = _ODD.row_gradient, _ODD.channel_gradients


def normalize_rows(x: Array, weight: Array | None, bias: Array | None, eps: float, y: Array,
                   rows: Rows) -> tuple[Array, Array]:
    count, groups, channels, places = rows
    shape, stats = (count, channels * places), _device.xp.empty((2, count), _F64)
    run_rows(_normalize, x.reshape(shape), x.reshape(-1), x.reshape(shape), groups, channels, places,
             _parameters(weight, rows, 1, x), _parameters(bias, rows, 0, x), eps, stats, y.reshape(shape))
    return stats[0], stats[1]


def normalize_rows_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array, rows: Rows,
                            needs: tuple[bool, bool, bool]) -> Gradients:
    count, groups, channels, places = rows
    shape, real = (count, channels * places), real_of(x)
    flat = grad_output.reshape(-1), x.reshape(-1)
    mean, invstd = mean.reshape(-1), invstd.reshape(-1)
    grad_x = None
    if needs[0]:
        grad_x = _device.xp.empty(x.shape, x.dtype)
        run_rows(_gradient, x.reshape(shape), grad_output.reshape(shape), x.reshape(shape), *flat, groups, channels,
                 places, _parameters(weight, rows, 1, x), mean, invstd, grad_x.reshape(shape), grad_x.reshape(-1))
    if weight is None or not (needs[1] or needs[2]):
        return grad_x, None, None
    grad_weight, grad_bias = (_device.xp.empty(weight.shape, x.dtype) for _ in range(2))
    if x.size == 0:
        grad_weight[...] = grad_bias[...] = 0
    else:
        samples, width = count // groups, groups * channels
        parts = samples if places > 1 else -(-samples // SUM_ROWS)
        sums = _device.xp.empty((2, parts, width), _F64)
        if places > 1:
            run_rows(_place_sums, x.reshape(samples * width, places), grad_output.reshape(samples * width, places),
                     x.reshape(samples * width, places), channels, mean, invstd, sums.reshape(2, -1))
        else:
            launch(_row_sums, blocks_for(parts * width), THREADS, *flat, samples, width, channels, mean, invstd,
                   sums.reshape(2, -1))
        launch(_finish(real), -(-width // THREADS), THREADS, *flat, mean, invstd, groups, channels, places,
               sum_rows(sums[0], _F64), sum_rows(sums[1], _F64), grad_weight.reshape(-1), grad_bias.reshape(-1))
    return grad_x, grad_weight if needs[1] else None, grad_bias if needs[2] else None


def _parameters(given: Array | None, rows: Rows, absent: float, x: Array) -> Array:
    return _device.xp.full(rows.groups * rows.channels, absent, x.dtype) if given is None else given.reshape(-1)


@cuda.jit(device=True)
def _begin(r: int, lane: int, group: int, groups: int, channels: int, places: int) -> Any:
    """Return the channel, of those of all groups, and the place of a thread's first value of row r, and its steps."""
    return r % groups * channels + lane // places, lane % places, group // places, group % places


@cuda.jit(device=True)
def _next(c: int, within: int, step: int, left: int, places: int) -> Any:
    """Return channel and place of the next value: no division, which takes as long as all the rest."""
    c, within = c + step, within + left
    if within >= places:
        c, within = c + 1, within - places
    return c, within


@functools.cache
def _normalize(real: Any, group: int) -> Any:
    row_of_thread, row_total, size = place(group), row_sum(group), block_size(group)

    @cuda.jit
    def normalize(flat: Array, x: Array, groups: int, channels: int, places: int, weight: Array, bias: Array,
                  eps: float, stats: Array, y: Array) -> None:
        shared = cuda.shared.array(size, np.float64)
        r, lane, length = row_of_thread(x)
        total = 0.0
        for i in range(lane, length, group):
            total += np.float64(x[r, i])
        mean = row_total(shared, total) / x.shape[1]
        squares = 0.0
        for i in range(lane, length, group):
            squares += (np.float64(x[r, i]) - mean) * (np.float64(x[r, i]) - mean)
        var = row_total(shared, squares) / x.shape[1]
        if length:
            mean, var, invstd = _good_statistics(flat, 1, x.shape[0], length, r, eps, mean, var)
            if lane == 0:
                stats[0, r], stats[1, r] = mean, invstd
            c, within, step, left = _begin(r, lane, group, groups, channels, places)
            for i in range(lane, length, group):
                z = (0.5 * np.float64(x[r, i]) - 0.5 * mean) * (2 * invstd)
                y[r, i] = real(z * np.float64(weight[c]) + np.float64(bias[c]))
                c, within = _next(c, within, step, left, places)

    return normalize


@functools.cache
def _gradient(real: Any, group: int) -> Any:
    row_of_thread, row_total, row_largest, size = place(group), row_sum(group), row_max(group), block_size(group)
    is_double = np.dtype(real) == _F64                  # whose terms may leave its range

    @cuda.jit
    def gradient(grad_output: Array, x: Array, flat_grads: Array, flat: Array, groups: int, channels: int, places: int,
                 weight: Array, mean: Array, invstd: Array, grad_x: Array, flat_grad_x: Array) -> None:
        shared = cuda.shared.array(size, np.float64)
        r, lane, length = row_of_thread(x)
        half = 0.5 * mean[r] if length else 0.0
        scale = invstd[r] if length else 0.0
        total, product, largest_grad, largest_term = 0.0, 0.0, 0.0, 0.0
        c, within, step, left = _begin(r, lane, group, groups, channels, places)
        for i in range(lane, length, group):
            factor, grad = np.float64(weight[c]), np.float64(grad_output[r, i])
            total += grad * factor
            product += grad * factor * ((0.5 * np.float64(x[r, i]) - half) * (2 * scale))
            if is_double:
                largest_grad, largest_term = max(largest_grad, abs(grad)), max(largest_term, abs(grad * factor))
            c, within = _next(c, within, step, left, places)
        total = row_total(shared, total) / x.shape[1]
        product = row_total(shared, product) / x.shape[1]
        is_odd = False
        if is_double:
            largest_grad = row_largest(shared, largest_grad)
            is_odd = _is_odd_row(largest_grad, row_largest(shared, largest_term), scale)
        if is_odd:
            if lane == 0 and length:
                _row_gradient(flat_grads, flat, weight, r, groups, channels, places, mean[r], scale, flat_grad_x,
                              r * length)
        else:
            c, within, step, left = _begin(r, lane, group, groups, channels, places)
            for i in range(lane, length, group):
                term = np.float64(grad_output[r, i]) * np.float64(weight[c])
                z = (0.5 * np.float64(x[r, i]) - half) * (2 * scale)
                grad_x[r, i] = real((term - total - z * product) * scale)
                c, within = _next(c, within, step, left, places)

    return gradient


@functools.cache
def _place_sums(real: Any, group: int) -> Any:
    row_of_thread, row_total, size = place(group), row_sum(group), block_size(group)

    @cuda.jit
    def place_sums(grad_output: Array, x: Array, channels: int, mean: Array, invstd: Array, sums: Array) -> None:
        """Write the sums of G z and of G over the places of each channel of each row."""
        shared = cuda.shared.array(size, np.float64)
        n, lane, places = row_of_thread(x)
        half = 0.5 * mean[n // channels] if places else 0.0
        twice = 2 * invstd[n // channels] if places else 0.0
        total, product = 0.0, 0.0
        for i in range(lane, places, group):
            grad = np.float64(grad_output[n, i])
            total += grad
            product += grad * ((0.5 * np.float64(x[n, i]) - half) * twice)
        product = row_total(shared, product)
        total = row_total(shared, total)
        if lane == 0 and places:
            sums[0, n], sums[1, n] = product, total

    return place_sums


@cuda.jit
def _row_sums(grad_output: Array, x: Array, samples: int, width: int, channels: int, mean: Array, invstd: Array,
              sums: Array) -> None:
    """Write the sums of G z and of G over some rows of a matrix (samples, width)."""
    groups = width // channels
    for i in range(cuda.grid(1), sums.shape[1], cuda.gridsize(1)):
        part, c = i // width, i % width
        total, product = 0.0, 0.0
        for n in range(part * SUM_ROWS, min(part * SUM_ROWS + SUM_ROWS, samples)):
            r, grad = n * groups + c // channels, np.float64(grad_output[n * width + c])
            total += grad
            product += grad * ((0.5 * np.float64(x[n * width + c]) - 0.5 * mean[r]) * (2 * invstd[r]))
        sums[0, i], sums[1, i] = product, total


@functools.cache
def _finish(real: Any) -> Any:
    is_double = np.dtype(real) == _F64

    @cuda.jit
    def finish(grad_output: Array, x: Array, mean: Array, invstd: Array, groups: int, channels: int, places: int,
               products: Array, totals: Array, grad_weight: Array, grad_bias: Array) -> None:
        """Round the sums of each channel; those that left the range are formed again."""
        c = cuda.grid(1)
        if c < grad_weight.size:
            product, total = products[c], totals[c]
            if is_double and not (abs(product) < math.inf and abs(total) < math.inf):
                product, total = _channel_gradients(grad_output, x, mean, invstd, groups, channels, places, c)
            grad_weight[c], grad_bias[c] = real(product), real(total)

    return finish
