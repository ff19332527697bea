"""The gradient of attention by tiles, in five products: what the forward pass forgot is computed again, once.

A block owns some keys of a head. They are columns, as queries are in the forward pass: their gradients, and those of
the values, are summed up in registers while a block goes along the queries. Only the gradient by queries goes through
memory, from one group of keys to the next, and where a head has several blocks, their sums are added in order. How keys
are cut follows from their number alone, so a head's bits do not depend on the other heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.llvm import ROWS, VECTORS, lanes
from fastnn.kernels._cpu.math import exp
from fastnn.kernels._cpu.tiles import walk_tile
from fastnn.kernels._cpu.tuning import ATTENTION_CHUNK, ATTENTION_CHUNKS, ATTENTION_GROUPS, ATTENTION_QUERIES
from fastnn.kernels._cpu.vectors import is_finite, row_products, use_widest_vectors
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels._plans import because
from fastnn.kernels.attention._panels import (
    Heads,
    add_seen_rows,
    mask_rows,
    masks_of,
    pack_panel,
    place,
    rows_for,
    unpack_panel,
)

_QUERIES = ATTENTION_QUERIES * ROWS         # of a panel


def plan_scaled_dot_product_attention_backward(
        grad_output: Array, query: Array, key: Array, value: Array, y: Array, logsumexp: Array, mask: Array | None,
        which: Array, is_causal: bool) -> Callable[..., None]:
    """Return a function (grad_output, query, key, value, y, logsumexp, mask, scale, grads).

    It takes arrays as `by_heads` sees them, and writes grads, by query, key and value, but for those that are None.
    """
    (heads, queries, features), keys, outputs, dtype = query.shape, key.shape[1], value.shape[2], query.dtype
    width, rows = VECTORS * lanes(query), (rows_for(features), rows_for(outputs))
    parts, tiles = panels(queries, _QUERIES), panels(queries, ROWS)
    chunks = max(1, min(ATTENTION_CHUNKS, keys // ATTENTION_CHUNK))
    of_query_tiles, of_grad_tiles = (heads, tiles, features + 1, ROWS), (heads, tiles, outputs + 1, ROWS)
    of_queries = heads, queries, panels(features, rows[0]) * rows[0]
    of_grads = heads, queries, panels(outputs, rows[1]) * rows[1]
    of_sums = chunks, heads, panels(features, width), tiles * ROWS, width
    pairs = heads * queries * keys
    pack = _pack_queries.launch(heads * parts, work=heads * queries * (features + outputs))
    differentiate = _differentiate(*rows).launch(heads * chunks, work=pairs * (3 * features + 2 * outputs))
    add = _add_sums.launch(heads * parts, work=chunks * query.size)
    nothing = Heads(EMPTY[dtype], np.empty((0, 2), np.int64))

    def backward(grad_output: Heads, query: Heads, key: Heads, value: Heads, y: Heads, logsumexp: Array,
                 mask: Array | None, scale: float, grads: Sequence[Heads | None]) -> None:
        query_tiles, grad_tiles = empty(of_query_tiles, dtype), empty(of_grad_tiles, dtype)
        query_rows, grad_rows, odd = empty(of_queries, dtype), empty(of_grads, dtype), np.empty((heads, parts), bool)
        pack(*grad_output, *query, *y, logsumexp, scale, query_tiles, grad_tiles, query_rows, grad_rows, odd)
        grad_query, grad_key, grad_value = grads
        sums = empty((0,) * 5 if grad_query is None else of_sums, dtype)
        differentiate(*key, *value, keys, *masks_of(mask, dtype), which, is_causal, chunks, query_tiles, grad_tiles,
                      query_rows, grad_rows, odd, sums, *(grad_key or nothing), *(grad_value or nothing))
        if grad_query is not None:
            add(sums, queries, features, scale, *grad_query)

    return because(f"tiles of {ROWS} queries and {width} keys, keys in {chunks} chunks", backward)


@block_kernel(writes="query_tiles grad_tiles query_rows grad_rows odd")
def _pack_queries(block: int, grad_output: Array, grad_output_at: Array, query: Array, query_at: Array, y: Array,
                  y_at: Array, logsumexp: Array, scale: float, query_tiles: Array, grad_tiles: Array,
                  query_rows: Array, grad_rows: Array, odd: Array) -> None:
    """Queries times `scale`, and their gradients, as rows of tiles and as rows; the tiles with one more feature.

    That is minus the logarithm, and minus the sum of gradients times results; both are added to what tiles multiply.
    """
    n, part = block // odd.shape[1], block % odd.shape[1]
    queries, features, outputs = logsumexp.shape[1], query_tiles.shape[2] - 1, grad_tiles.shape[2] - 1
    tiles, factor, infinite = query_tiles.shape[1], y.dtype.type(scale), False
    for i in range(part * _QUERIES, min(queries, (part + 1) * _QUERIES)):
        query_row, grad_row = query_rows[n, i], grad_rows[n, i]
        given_query, given_grad = query[place(query_at, n, i) :], grad_output[place(grad_output_at, n, i) :]
        for e in range(features):
            query_row[e] = given_query[e] * factor
        for e in range(features, query_row.size):
            query_row[e] = 0
        for e in range(outputs):
            grad_row[e] = given_grad[e]
        for e in range(outputs, grad_row.size):
            grad_row[e] = 0
        if not (is_finite(query_row) and is_finite(grad_row)):
            infinite = True
    odd[n, part] = infinite
    flat_query_tiles, flat_grad_tiles = query_tiles.reshape(query_tiles.size), grad_tiles.reshape(grad_tiles.size)
    for t in range(part * ATTENTION_QUERIES, min(tiles, (part + 1) * ATTENTION_QUERIES)):
        first, inside = t * ROWS, min(ROWS, queries - t * ROWS)
        at = (n * tiles + t) * (features + 1) * ROWS
        pack_panel(query, place(query_at, n, first), query_at[n, 1], inside, features, flat_query_tiles, at, ROWS)
        for i in range(at, at + features * ROWS):
            flat_query_tiles[i] *= factor
        at = (n * tiles + t) * (outputs + 1) * ROWS
        pack_panel(grad_output, place(grad_output_at, n, first), grad_output_at[n, 1], inside, outputs,
                   flat_grad_tiles, at, ROWS)
        for i in range(ROWS):
            if i < inside:
                logarithm = logsumexp[n, first + i]
                query_tiles[n, t, features, i] = logarithm if logarithm == -np.inf else -logarithm
                grad_tiles[n, t, outputs, i] = -row_products(
                    grad_output[place(grad_output_at, n, first + i) :][:outputs],
                    y[place(y_at, n, first + i) :][:outputs], 0.0)
            else:
                query_tiles[n, t, features, i] = grad_tiles[n, t, outputs, i] = 0


@functools.cache
def _differentiate(rows_q: int, rows_g: int) -> BlockKernel:
    """The gradients, for queries and results in tiles of so many rows."""
    score_tile = walk_tile(1, ROWS, VECTORS)
    query_tile, grad_tile = walk_tile(1, rows_q, VECTORS), walk_tile(1, rows_g, VECTORS)
    sum_tile = walk_tile(1, ROWS, VECTORS, apart=VECTORS)

    @block_kernel(writes="sums grad_key grad_value")
    @named("differentiate", rows_q, rows_g)
    def differentiate(block: int, key: Array, key_at: Array, value: Array, value_at: Array, keys: int, bools: Array,
                      floats: Array, which: Array, is_causal: bool, chunks: int, query_tiles: Array,
                      grad_tiles: Array, query_rows: Array, grad_rows: Array, odd: Array, sums: Array,
                      grad_key: Array, grad_key_at: Array, grad_value: Array, grad_value_at: Array) -> None:
        """One chunk of the keys of one head, some groups at a time, which go along the queries together.

        The gradients by keys and values are its own; that by queries is added up in sums of its own.
        """
        use_widest_vectors()
        features, outputs = query_tiles.shape[2] - 1, grad_tiles.shape[2] - 1
        queries, width = query_rows.shape[1], VECTORS * lanes(key)
        n, chunk, all_groups = block // chunks, block % chunks, panels(keys, width)
        most, wide = ATTENTION_GROUPS, panels(features, width)
        key_columns = np.empty((most, features + 1, width), key.dtype)          # keys, and ones
        value_columns = np.empty((most, outputs + 1, width), key.dtype)         # values, and ones
        key_rows = np.empty((most, wide, width, width), key.dtype)              # keys by features
        infinite = np.empty(most, np.bool_)                                     # whether a key is not finite
        key_totals = np.empty((most, query_rows.shape[2], width), key.dtype)
        value_totals = np.empty((most, grad_rows.shape[2], width), key.dtype)
        scores, grads = np.empty((_QUERIES, width), key.dtype), np.empty((_QUERIES, width), key.dtype)
        flat_key_columns = key_columns.reshape(key_columns.size)
        flat_value_columns = value_columns.reshape(value_columns.size)
        flat_key_totals = key_totals.reshape(key_totals.size)
        flat_value_totals = value_totals.reshape(value_totals.size)
        flat_scores, flat_grads = scores.reshape(scores.size), grads.reshape(grads.size)
        flat_query_tiles, flat_grad_tiles = query_tiles.reshape(query_tiles.size), grad_tiles.reshape(grad_tiles.size)
        flat_query_rows, flat_grad_rows = query_rows.reshape(query_rows.size), grad_rows.reshape(grad_rows.size)
        along_features, along_outputs = np.arange(features + 1) * ROWS, np.arange(outputs + 1) * ROWS
        along_queries = np.arange(_QUERIES) * query_rows.shape[2]
        along_grads = np.arange(_QUERIES) * grad_rows.shape[2]
        along_keys, begins = np.arange(width), np.zeros(1, np.int64)
        zero, lowest = key.dtype.type(0), key.dtype.type(-np.inf)
        of_scores = sums.size > 0 or grad_key.size > 0
        if sums.size:
            sums[chunk, n] = 0

        group_last = (chunk + 1) * all_groups // chunks
        for group in range(chunk * all_groups // chunks, group_last, most):
            here = min(most, group_last - group)
            key_totals[:here] = 0
            value_totals[:here] = 0
            for g in range(here):
                first = (group + g) * width
                inside = min(width, keys - first)
                pack_panel(key, place(key_at, n, first), key_at[n, 1], inside, features, flat_key_columns,
                           g * (features + 1) * width, width)
                pack_panel(value, place(value_at, n, first), value_at[n, 1], inside, outputs, flat_value_columns,
                           g * (outputs + 1) * width, width)
                key_columns[g, features] = 1
                value_columns[g, outputs] = 1
                infinite[g] = False
                for c in range(inside):
                    row = key[place(key_at, n, first + c) :][:features]
                    if not is_finite(row):
                        infinite[g] = True
                    for e in range(wide * width):
                        key_rows[g, e // width, c, e % width] = row[e] if e < features else zero

            for part in range(group * width // _QUERIES if is_causal else 0, odd.shape[1]):
                begin = part * _QUERIES
                count = min(_QUERIES, queries - begin)
                for g in range(here):
                    first = (group + g) * width
                    inside = min(width, keys - first)
                    top = max(0, first - begin) // ROWS * ROWS if is_causal else 0
                    if top >= count:
                        continue
                    for r in range(top, count, ROWS):
                        begins[0] = (n * query_tiles.shape[1] + (begin + r) // ROWS) * (features + 1) * ROWS
                        score_tile(flat_query_tiles, begins, along_features, key_columns[g], 1, scores[r : r + ROWS])
                    mask_rows(bools, floats, which[n], scores, begin, top, count, first, inside)
                    if is_causal:
                        for r in range(top, min(count, first + width - 1 - begin)):
                            scores[r, max(0, begin + r - first + 1) :] = lowest
                    weights = flat_scores[top * width : count * width]      # LLVM vectorizes loops that begin with 0
                    for i in range(weights.size):
                        weights[i] = exp(weights[i])
                    if grad_value.size:
                        if odd[n, part]:
                            add_seen_rows(grad_rows[n], begin, scores, top, count, value_totals[g])
                        else:
                            for e in range(0, value_totals.shape[1], rows_g):
                                begins[0] = (n * queries + begin + top) * grad_rows.shape[2] + e
                                grad_tile(flat_grad_rows, begins, along_grads[: count - top], scores[top:], 0,
                                          value_totals[g, e : e + rows_g])
                    if not of_scores:
                        continue

                    for r in range(top, count, ROWS):
                        begins[0] = (n * grad_tiles.shape[1] + (begin + r) // ROWS) * (outputs + 1) * ROWS
                        score_tile(flat_grad_tiles, begins, along_outputs, value_columns[g], 1, grads[r : r + ROWS])
                    inner = flat_grads[top * width : count * width]
                    for i in range(inner.size):
                        inner[i] = zero if weights[i] == zero else weights[i] * inner[i]
                    if grad_key.size:
                        if odd[n, part]:
                            add_seen_rows(query_rows[n], begin, grads, top, count, key_totals[g])
                        else:
                            for e in range(0, key_totals.shape[1], rows_q):
                                begins[0] = (n * queries + begin + top) * query_rows.shape[2] + e
                                query_tile(flat_query_rows, begins, along_queries[: count - top], grads[top:], 0,
                                           key_totals[g, e : e + rows_q])
                    for e in range(wide if sums.size else 0):
                        totals = sums[chunk, n, e]
                        if infinite[g]:
                            _add_seen_keys(grads, top, count, inside, key_rows[g, e], totals, begin)
                        else:
                            for r in range(top, count, ROWS):
                                begins[0] = r * width
                                sum_tile(flat_grads, begins, along_keys[:inside], key_rows[g, e], 0,
                                         totals[begin + r : begin + r + ROWS])

            for g in range(here):
                first = (group + g) * width
                inside = min(width, keys - first)
                if grad_key.size:
                    unpack_panel(flat_key_totals, g * query_rows.shape[2] * width, width, inside, features, grad_key,
                                 place(grad_key_at, n, first), grad_key_at[n, 1])
                if grad_value.size:
                    unpack_panel(flat_value_totals, g * grad_rows.shape[2] * width, width, inside, outputs,
                                 grad_value, place(grad_value_at, n, first), grad_value_at[n, 1])

    return differentiate


@helper
def _add_seen_keys(weights: Array, first: int, last: int, inside: int, rows: Array, totals: Array, begin: int) -> None:
    """Compute totals[begin + r, e] += sum over c of weights[r, c] rows[c, e], but leave out what has weight 0."""
    for r in range(first, last):
        for c in range(inside):
            if weights[r, c] != 0:
                for e in range(rows.shape[1]):
                    totals[begin + r, e] += weights[r, c] * rows[c, e]


@block_kernel(writes="grad_query")
def _add_sums(block: int, sums: Array, queries: int, features: int, scale: float, grad_query: Array,
              grad_query_at: Array) -> None:
    """The gradient by some queries: sums over chunks of keys, in their order."""
    blocks = panels(queries, _QUERIES)
    n, begin, width = block // blocks, block % blocks * _QUERIES, sums.shape[4]
    factor = grad_query.dtype.type(scale)
    for i in range(begin, min(queries, begin + _QUERIES)):
        row = grad_query[place(grad_query_at, n, i) :][:features]
        for e in range(0, row.size, width):
            for c in range(min(width, row.size - e)):
                total = sums[0, n, e // width, i, c]
                for chunk in range(1, sums.shape[0]):
                    total += sums[chunk, n, e // width, i, c]
                row[e + c] = total * factor
