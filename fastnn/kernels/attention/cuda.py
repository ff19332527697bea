"""Attention on a GPU: a block of threads takes a square of queries and keys after the other, and a thread one score.

What a block owns, it sums up in registers: some features of some queries, or of some keys in the gradient. The squares
that it needs come out of shared memory, into which each row is read once for all threads of the square. Features beyond
those of one block are another block's, which computes the scores anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.blocks import THREADS, blocks_for
from fastnn.kernels._gpu.launch import launch
from fastnn.kernels._gpu.tuning import ATTENTION_COLUMNS, ATTENTION_SIDE

_SIDE, _COLUMNS = ATTENTION_SIDE, ATTENTION_COLUMNS
_SQUARE, _FEATURES = _SIDE * _SIDE, _SIDE * _COLUMNS        # threads of a block; features that it owns
_ROWS = _SIDE * _FEATURES                                   # elements of such rows, constant: numba-cuda asks for that
_LOWEST = -math.inf


@cuda.jit(device=True)
def _square(a: Array, a_first: int, a_end: int, b: Array, b_first: int, b_end: int, features: int, a_tile: Array,
            b_tile: Array, down: int, across: int, zero: Any) -> Any:
    """Return the product of row a_first + down of a and row b_first + across of b, which are flat.

    All threads of the block come here, and are synchronised at the end.
    """
    total = zero
    for first in range(0, features, _SIDE):
        e = first + across
        a_tile[down * _SIDE + across] = zero
        b_tile[down * _SIDE + across] = zero
        if e < features and a_first + down < a_end:
            a_tile[down * _SIDE + across] = a[(a_first + down) * features + e]
        if e < features and b_first + down < b_end:
            b_tile[down * _SIDE + across] = b[(b_first + down) * features + e]
        cuda.syncthreads()
        part = zero
        for k in range(_SIDE):
            part += a_tile[down * _SIDE + k] * b_tile[across * _SIDE + k]
        total += part
        cuda.syncthreads()
    return total


@cuda.jit(device=True)
def _read_rows(a: Array, first: int, end: int, features: int, left: int, tile: Array, down: int, across: int,
               zero: Any) -> None:
    """Read _SIDE rows of a flat array into a tile, _FEATURES of each from `left` on; what is not there is 0."""
    for m in range(_COLUMNS):
        e = left + across + m * _SIDE
        tile[down * _FEATURES + across + m * _SIDE] = zero
        if e < features and first + down < end:
            tile[down * _FEATURES + across + m * _SIDE] = a[(first + down) * features + e]


@functools.cache
def _masked(real: Any, kind: str) -> Any:
    """Make the function that returns a score with its mask, -inf where the key is hidden."""
    by_bool, by_float, lowest = kind == "bool", kind == "float", real(_LOWEST)

    @cuda.jit(device=True)
    def masked(score: Any, mask: Array, first: int, query_step: int, key_step: int, i: int, j: int, queries: int,
               keys: int, is_causal: bool) -> Any:
        """`first` is where the head's mask begins, and steps lead from query to query and from key to key."""
        if i >= queries or j >= keys or (is_causal and j > i):
            return lowest
        if by_bool and mask[first + i * query_step + j * key_step] == 0:
            return lowest
        if by_float:
            value = mask[first + i * query_step + j * key_step]
            return lowest if value == lowest else score + value
        return score

    return masked


@functools.cache
def _attend(real: Any, kind: str) -> Any:
    masked, zero, one, lowest = _masked(real, kind), real(0), real(1), real(_LOWEST)

    @cuda.jit
    def attend(query: Array, key: Array, value: Array, mask: Array, which: Array, mask_size: int, query_step: int,
               key_step: int, is_causal: bool, scale: Any, queries: int, keys: int, features: int, outputs: int,
               y: Array, logsumexp: Array) -> None:
        """Some features of some queries of one head, which go along the keys."""
        a_tile = cuda.shared.array(_SQUARE, real)
        b_tile = cuda.shared.array(_SQUARE, real)
        scores = cuda.shared.array(_SQUARE, real)
        rows = cuda.shared.array(_ROWS, real)
        totals = cuda.local.array(_COLUMNS, real)
        chunks, tiles = (outputs + _FEATURES - 1) // _FEATURES, (queries + _SIDE - 1) // _SIDE
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        left, block = block % chunks * _FEATURES, block // chunks
        first, n = block % tiles * _SIDE, block // tiles
        down, across = thread // _SIDE, thread % _SIDE
        i, place = first + down, which[n] * mask_size
        largest, total = lowest, zero
        for m in range(_COLUMNS):
            totals[m] = zero
        for begin in range(0, min(keys, first + _SIDE) if is_causal else keys, _SIDE):
            score = scale * _square(query, n * queries + first, (n + 1) * queries, key, n * keys + begin,
                                    (n + 1) * keys, features, a_tile, b_tile, down, across, zero)
            score = masked(score, mask, place, query_step, key_step, i, begin + across, queries, keys, is_causal)
            scores[thread] = score
            _read_rows(value, n * keys + begin, (n + 1) * keys, outputs, left, rows, down, across, zero)
            cuda.syncthreads()
            top = largest
            for k in range(_SIDE):
                if scores[down * _SIDE + k] > top:
                    top = scores[down * _SIDE + k]
            cuda.syncthreads()
            shift = top if top > lowest else zero
            scores[thread] = real(math.exp(score - shift))
            cuda.syncthreads()
            factor = real(math.exp(largest - shift)) if largest > lowest else one
            largest = top
            part = zero
            for k in range(_SIDE):
                part += scores[down * _SIDE + k]
            total = total * factor + part
            for m in range(_COLUMNS):
                part = zero
                for k in range(_SIDE):
                    weight = scores[down * _SIDE + k]
                    term = weight * rows[k * _FEATURES + across + m * _SIDE]
                    part += zero if weight == zero else term        # which may be hidden, and hold anything
                totals[m] = totals[m] * factor + part
            cuda.syncthreads()
        if i < queries:
            for m in range(_COLUMNS):
                e = left + across + m * _SIDE
                if e < outputs:
                    y[(n * queries + i) * outputs + e] = zero if total == zero else totals[m] / total
            if left == 0 and across == 0:
                logarithm = _LOWEST if total == zero else np.float64(largest) + math.log(np.float64(total))
                logsumexp[n * queries + i] = real(logarithm)

    return attend


@cuda.jit
def _row_products(a: Array, b: Array, sums: Array) -> None:
    """The sum of products of each two rows, in float64."""
    for n in range(cuda.grid(1), a.shape[0], cuda.gridsize(1)):
        total = 0.0
        for e in range(a.shape[1]):
            total += np.float64(a[n, e]) * np.float64(b[n, e])
        sums[n] = total


@functools.cache
def _gradient(real: Any, kind: str, of: str) -> Any:
    """The kernel of the gradient by "query", "key" or "value"."""
    masked, zero, lowest = _masked(real, kind), real(0), real(_LOWEST)
    of_query, of_value = of == "query", of == "value"

    @cuda.jit
    def gradient(grad_output: Array, query: Array, key: Array, value: Array, means: Array, logsumexp: Array,
                 mask: Array, which: Array, mask_size: int, query_step: int, key_step: int, is_causal: bool,
                 scale: Any, queries: int, keys: int, features: int, outputs: int, grad: Array) -> None:
        """Some features of some rows of one head, which go along its keys, or queries."""
        a_tile = cuda.shared.array(_SQUARE, real)
        b_tile = cuda.shared.array(_SQUARE, real)
        weights = cuda.shared.array(_SQUARE, real)
        rows = cuda.shared.array(_ROWS, real)
        totals = cuda.local.array(_COLUMNS, real)
        own, other = (queries, keys) if of_query else (keys, queries)
        wide = outputs if of_value else features
        chunks, tiles = (wide + _FEATURES - 1) // _FEATURES, (own + _SIDE - 1) // _SIDE
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        left, block = block % chunks * _FEATURES, block // chunks
        first, n = block % tiles * _SIDE, block // tiles
        down, across = thread // _SIDE, thread % _SIDE
        place = which[n] * mask_size
        for m in range(_COLUMNS):
            totals[m] = zero
        start, end = 0, other
        if is_causal and of_query:
            end = min(other, first + _SIDE)
        if is_causal and not of_query:
            start = first
        for begin in range(start, end, _SIDE):
            query_first, key_first = (first, begin) if of_query else (begin, first)
            i, j = query_first + down, key_first + across
            score = scale * _square(query, n * queries + query_first, (n + 1) * queries, key, n * keys + key_first,
                                    (n + 1) * keys, features, a_tile, b_tile, down, across, zero)
            score = masked(score, mask, place, query_step, key_step, i, j, queries, keys, is_causal)
            logarithm = logsumexp[n * queries + min(i, queries - 1)]
            weight = real(math.exp(score - logarithm)) if logarithm > lowest or math.isnan(logarithm) else zero
            weight = zero if score == lowest else weight
            if not of_value:
                inner = _square(grad_output, n * queries + query_first, (n + 1) * queries, value, n * keys + key_first,
                                (n + 1) * keys, outputs, a_tile, b_tile, down, across, zero)
                difference = real(np.float64(inner) - means[n * queries + min(i, queries - 1)])
                weight = zero if weight == zero else weight * difference
            weights[thread] = weight
            if of_query:
                _read_rows(key, n * keys + begin, (n + 1) * keys, features, left, rows, down, across, zero)
            elif of_value:
                _read_rows(grad_output, n * queries + begin, (n + 1) * queries, outputs, left, rows, down, across, zero)
            else:
                _read_rows(query, n * queries + begin, (n + 1) * queries, features, left, rows, down, across, zero)
            cuda.syncthreads()
            for m in range(_COLUMNS):
                part = zero
                for k in range(_SIDE):
                    weight = weights[down * _SIDE + k if of_query else k * _SIDE + down]
                    term = weight * rows[k * _FEATURES + across + m * _SIDE]
                    part += zero if weight == zero else term
                totals[m] += part
            cuda.syncthreads()
        if first + down < own:
            for m in range(_COLUMNS):
                e = left + across + m * _SIDE
                if e < wide:
                    grad[(n * own + first + down) * wide + e] = totals[m] if of_value else totals[m] * scale

    return gradient


@functools.lru_cache(64)
def _on_device(which: bytes, device: int) -> Any:
    """Return the numbers of masks on a GPU, where they stay for further calls."""
    del device
    return _device.xp.asarray(np.frombuffer(which, np.int64))


def _mask_arguments(query: Array, mask: Array | None, which: Array) -> tuple[str, tuple[Any, ...]]:
    """Return the kind of a mask, and what kernels take of it."""
    device = 0 if _device.in_host_memory() else _device.xp.cuda.runtime.getDevice()
    on_device = _on_device(which.tobytes(), device)
    if mask is None:
        return "none", (query.reshape(-1), on_device, 0, 0, 0)
    size, of_queries, of_keys = mask.shape[1] * mask.shape[2], mask.shape[1] > 1, mask.shape[2] > 1
    numbers = size, mask.shape[2] if of_queries else 0, 1 if of_keys else 0
    if mask.dtype == bool:
        return "bool", (mask.view(np.uint8).reshape(-1), on_device, *numbers)
    return "float", (mask.reshape(-1), on_device, *numbers)


def _blocks(heads: int, rows: int, features: int) -> int:
    return heads * -(-rows // _SIDE) * -(-features // _FEATURES)


def scaled_dot_product_attention(query: Array, key: Array, value: Array, mask: Array | None, scale: float, y: Array,
                                 logsumexp: Array, which: Array, is_causal: bool) -> None:
    (heads, queries, features), keys, outputs = query.shape, key.shape[1], value.shape[2]
    real: Any = query.dtype.type
    kind, of_mask = _mask_arguments(query, mask, which)
    launch(_attend(real, kind), _blocks(heads, queries, outputs), _SQUARE, query.reshape(-1), key.reshape(-1),
           value.reshape(-1), *of_mask, is_causal, real(scale), queries, keys, features, outputs, y.reshape(-1),
           logsumexp.reshape(-1))


def scaled_dot_product_attention_backward(
        grad_output: Array, query: Array, key: Array, value: Array, y: Array, logsumexp: Array, mask: Array | None,
        scale: float, grads: Sequence[Array | None], which: Array, is_causal: bool) -> None:
    (heads, queries, features), keys, outputs = query.shape, key.shape[1], value.shape[2]
    real: Any = query.dtype.type
    kind, of_mask = _mask_arguments(query, mask, which)
    means = _device.xp.empty(heads * queries, np.dtype(np.float64))
    if grads[0] is not None or grads[1] is not None:
        launch(_row_products, blocks_for(len(means)), THREADS, grad_output.reshape(-1, outputs),
               y.reshape(-1, outputs), means)
    for of, grad in zip(("query", "key", "value"), grads):
        if grad is not None:
            launch(_gradient(real, kind, of), _blocks(*grad.shape), _SQUARE, grad_output.reshape(-1),
                   query.reshape(-1), key.reshape(-1), value.reshape(-1), means, logsumexp.reshape(-1), *of_mask,
                   is_causal, real(scale), queries, keys, features, outputs, grad.reshape(-1))
