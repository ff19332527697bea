"""Attention by tiles: scores of some keys and queries at a time, which never leave the caches.

In the forward pass a block owns some queries of a head. They are columns, and their vectors go through all of it: a
panel of keys gives rows of scores, in which a query's largest one and its exponentials are found without looking across
a vector, and which are then the right side of the product with the values, as they lie. What is subtracted from the
scores is one more feature of each query, and so it costs nothing; and a column of ones among the values gives the sums.

The gradient does the same with keys as columns: the products with keys and values that its rows, the queries, need are
summed up with these in registers. Only the gradient by the queries goes through memory, from one group of keys to the
next. So there are five products and no more. A query's sums are cut by its keys' number alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import named, sums_helper
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import BlockKernel, block_kernel
from fastnn.kernels._cpu.llvm import ROWS, VECTORS, lanes
from fastnn.kernels._cpu.math import exp, log
from fastnn.kernels._cpu.tiles import walk_tile
from fastnn.kernels._cpu.tuning import (
    ATTENTION_CHUNK,
    ATTENTION_CHUNKS,
    ATTENTION_FEW_QUERIES,
    ATTENTION_GROUPS,
    ATTENTION_KEYS,
    ATTENTION_QUERIES,
    ATTENTION_SLACK,
    LEAST_BLOCKS,
)
from fastnn.kernels._cpu.vectors import is_finite, row_max, row_products, row_sum, use_widest_vectors
from fastnn.kernels._memory import empty
from fastnn.kernels._plans import Gradients, Needs, because
from fastnn.kernels.attention._panels import (
    add_seen_rows,
    add_to_columns,
    column_max,
    mask_of_columns,
    mask_of_rows,
    masked,
    multiply_columns,
    pack_panel,
    rows_for,
    unpack_panel,
)

_KEYS, _QUERIES = ATTENTION_KEYS * ROWS, ATTENTION_QUERIES * ROWS
_FEW_KEYS = 256                             # of one running sum, for few queries


def plan_scaled_dot_product_attention(query: Array, key: Array, value: Array, mask: Array | None, which: Array,
                                      is_causal: bool) -> Callable[..., None]:
    """Return a function (query, key, value, mask, scale, y, logsumexp)."""
    (heads, queries, features), keys, outputs = query.shape, key.shape[1], value.shape[2]
    boolean, none = mask is not None and mask.dtype == bool, np.empty((0, 0, 0), query.dtype)
    work = heads * queries * keys * (features + outputs)
    if queries <= ATTENTION_FEW_QUERIES:
        of_few = _attend_few(boolean).launch(heads, work=work)

        def few(query: Array, key: Array, value: Array, mask: Array | None, scale: float, y: Array,
                logsumexp: Array) -> None:
            of_few(query, key, value, none if mask is None else mask, which, is_causal, scale, y, logsumexp)

        return because(f"one by one: {queries} quer{'y' if queries == 1 else 'ies'}", few)
    width, rows = VECTORS * lanes(query), rows_for(outputs + 1)
    all_groups, parts = panels(queries, width), panels(keys, _KEYS)
    groups = max(1, min(ATTENTION_GROUPS, heads * all_groups // LEAST_BLOCKS))
    of_keys = heads, panels(keys, ROWS), features + 1, ROWS
    of_values = heads, keys, panels(outputs + 1, rows) * rows
    pack = _pack_keys.launch(heads * parts, work=heads * keys * (features + outputs))
    attend = _attend(rows, boolean).launch(heads * panels(all_groups, groups), work=work)

    def attention(query: Array, key: Array, value: Array, mask: Array | None, scale: float, y: Array,
                  logsumexp: Array) -> None:
        packed, values = empty(of_keys, query.dtype), empty(of_values, query.dtype)
        odd = np.empty((heads, parts), bool)
        pack(key, value, packed, values, odd)
        attend(query, none if mask is None else mask, which, is_causal, groups, scale, packed, values, odd, y,
               logsumexp)

    return because(f"tiles of {ROWS} keys and {width} queries, {groups} of these in a block", attention)


@block_kernel(writes="packed values odd")
def _pack_keys(block: int, key: Array, value: Array, packed: Array, values: Array, odd: Array) -> None:
    """Keys as rows of tiles and values as rows, both with a column of ones; whether one of the values is not finite."""
    n, part = block // odd.shape[1], block % odd.shape[1]
    keys, features = key.shape[1:]
    flat_key, flat, outputs = key.reshape(key.size), packed.reshape(packed.size), value.shape[2]
    for t in range(part * ATTENTION_KEYS, min(packed.shape[1], (part + 1) * ATTENTION_KEYS)):
        inside, at = min(ROWS, keys - t * ROWS), (n * packed.shape[1] + t) * (features + 1) * ROWS
        pack_panel(flat_key, (n * keys + t * ROWS) * features, inside, features, flat, at, ROWS)
        for i in range(ROWS):
            packed[n, t, features, i] = 1
    infinite = False
    for j in range(part * _KEYS, min(keys, (part + 1) * _KEYS)):
        row = values[n, j]
        for e in range(outputs):
            row[e] = value[n, j, e]
        row[outputs] = 1
        for e in range(outputs + 1, row.size):
            row[e] = 0
        infinite |= not is_finite(row)
    odd[n, part] = infinite


@functools.cache
def _attend(rows: int, boolean: bool) -> BlockKernel:
    """The forward pass, for values in tiles of so many rows and masks of bools or of floats."""
    score_tile, value_tile, mask_columns = walk_tile(1, ROWS, VECTORS), walk_tile(1, rows, VECTORS), mask_of_columns(boolean)

    @block_kernel(writes="y logsumexp")
    @named("attend", rows, "bool" if boolean else "float")
    def attend(block: int, query: Array, mask: Array, which: Array, is_causal: bool, groups: int, scale: float,
               packed: Array, values: Array, odd: Array, y: Array, logsumexp: Array) -> None:
        """Some groups of queries of one head, which go along the keys together."""
        use_widest_vectors()
        queries, features = query.shape[1:]
        keys, padded, outputs, width = values.shape[1], values.shape[2], y.shape[2], VECTORS * lanes(y)
        blocks = panels(panels(queries, width), groups)
        n, first = block // blocks, block % blocks * groups * width
        here = min(groups, panels(queries - first, width))
        columns = np.empty((here, features + 1, width), y.dtype)        # the queries, and minus what is subtracted
        totals = np.zeros((here, padded, width), y.dtype)               # of weights times values, and of weights
        shifts = np.zeros((here, width), y.dtype)                       # what is subtracted from scores
        scores = np.empty((_KEYS, width), y.dtype)
        largest, steps, factors = np.empty(width, y.dtype), np.empty(width, y.dtype), np.empty(width, y.dtype)
        flat_columns, flat_totals = columns.reshape(columns.size), totals.reshape(totals.size)
        flat_query, flat_packed, flat_values = query.reshape(query.size), packed.reshape(packed.size), values.reshape(values.size)
        flat_scores, flat_y = scores.reshape(scores.size), y.reshape(y.size)
        zero, one, lowest = y.dtype.type(0), y.dtype.type(1), y.dtype.type(-np.inf)
        slack, factor = y.dtype.type(ATTENTION_SLACK), y.dtype.type(scale)
        along_features, along_keys = np.arange(features + 1) * ROWS, np.arange(_KEYS) * padded
        begins = np.zeros(1, np.int64)

        for g in range(here):
            at, inside = g * (features + 1) * width, min(width, queries - first - g * width)
            pack_panel(flat_query, (n * queries + first + g * width) * features, inside, features, flat_columns, at, width)
            for i in range(at, at + features * width):
                flat_columns[i] *= factor
            for i in range(width):
                columns[g, features, i] = 0

        for begin in range(0, min(keys, first + here * width) if is_causal else keys, _KEYS):
            for g in range(here):
                query_first = first + g * width
                count = min(_KEYS, (min(keys, query_first + width) if is_causal else keys) - begin)
                if count <= 0:
                    continue
                for t in range(panels(count, ROWS)):
                    begins[0] = (n * packed.shape[1] + begin // ROWS + t) * (features + 1) * ROWS
                    score_tile(flat_packed, begins, along_features, columns[g], 1, scores[t * ROWS : (t + 1) * ROWS])
                if mask.size:
                    mask_columns(mask[which[n]], scores, begin, count, query_first, min(width, queries - query_first))
                if is_causal:
                    for k in range(max(0, query_first + 1 - begin), count):
                        scores[k, : begin + k - query_first] = lowest

                column_max(scores, count, largest)
                moved = False
                for c in range(width):
                    top, seen = largest[c], totals[g, outputs, c] != zero
                    steps[c], factors[c] = -zero, one
                    if top > (slack if seen else lowest):
                        moved = True
                        shift = shifts[g, c] + top
                        step = shifts[g, c] - shift
                        shifts[g, c], columns[g, features, c], steps[c] = shift, -shift, step
                        if seen:
                            factors[c] = exp(step)
                if moved:
                    add_to_columns(scores, count, steps)
                    multiply_columns(totals[g], padded, factors)
                for i in range(count * width):
                    flat_scores[i] = exp(flat_scores[i])

                if odd[n, begin // _KEYS]:
                    add_seen_rows(values[n], begin, scores, 0, count, totals[g])
                else:
                    for e in range(0, padded, rows):
                        begins[0] = (n * keys + begin) * padded + e
                        value_tile(flat_values, begins, along_keys[:count], scores, 0, totals[g, e : e + rows])

        for g in range(here):
            query_first = first + g * width
            inside = min(width, queries - query_first)
            for c in range(width):
                total = totals[g, outputs, c]
                factors[c] = one if total == zero else one / total
                if c < inside:
                    logsumexp[n, query_first + c] = lowest if total == zero else np.float64(shifts[g, c]) + log(np.float64(total))
            multiply_columns(totals[g], outputs, factors)
            unpack_panel(flat_totals, g * padded * width, width, inside, outputs, flat_y,
                         (n * queries + query_first) * outputs)

    return attend


# --- few queries -----------------------------------------------------------------------------------------------------


@sums_helper
def _dot(a: Array, b: Array) -> float:
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@functools.cache
def _attend_few(boolean: bool) -> BlockKernel:
    """The forward pass of few queries, of which keys and values are read in place: they are what takes time."""
    mask_score = masked(boolean)

    @block_kernel(writes="y logsumexp")
    @named("attend_few", "bool" if boolean else "float")
    def attend_few(block: int, query: Array, key: Array, value: Array, mask: Array, which: Array, is_causal: bool,
                   scale: float, y: Array, logsumexp: Array) -> None:
        """One head."""
        use_widest_vectors()
        keys, outputs = value.shape[1:]
        scores, scaled, part = np.empty(keys, y.dtype), np.empty(query.shape[2], y.dtype), np.empty(outputs, y.dtype)
        for i in range(query.shape[1]):
            seen = min(keys, i + 1) if is_causal else keys
            for e in range(scaled.size):
                scaled[e] = query[block, i, e] * y.dtype.type(scale)
            for j in range(seen):
                scores[j] = _dot(scaled, key[block, j])
            if mask.size:
                masks = mask[which[block]]
                row = masks[i if masks.shape[0] > 1 else 0]
                for j in range(seen):
                    scores[j] = mask_score(scores[j], row[j if row.size > 1 else 0])
            largest = row_max(scores[:seen])
            shift = largest if largest > -np.inf else y.dtype.type(0)
            for j in range(seen):
                scores[j] = exp(scores[j] - shift)
            total, result = row_sum(scores[:seen]), y[block, i]
            inverse = y.dtype.type(1 if total == 0 else 1 / total)
            logsumexp[block, i] = -np.inf if total == 0 else shift + log(total)
            result[:] = 0
            for begin in range(0, seen, _FEW_KEYS):
                part[:] = 0
                for j in range(begin, min(seen, begin + _FEW_KEYS)):
                    if scores[j] != 0:      # else it may be hidden, and hold anything
                        weight, row_of_value = scores[j], value[block, j]
                        for e in range(outputs):
                            part[e] += weight * row_of_value[e]
                for e in range(outputs):
                    result[e] += part[e]
            for e in range(outputs):
                result[e] *= inverse

    return attend_few


# --- the gradient ----------------------------------------------------------------------------------------------------


def plan_scaled_dot_product_attention_backward(
        grad_output: Array, query: Array, key: Array, value: Array, y: Array, logsumexp: Array, mask: Array | None,
        which: Array, is_causal: bool, needs: Needs) -> Callable[..., Gradients]:
    """Return a function (grad_output, query, key, value, y, logsumexp, mask, scale)."""
    (heads, queries, features), keys, outputs, dtype = query.shape, key.shape[1], value.shape[2], query.dtype
    boolean, none = mask is not None and mask.dtype == bool, np.empty((0, 0, 0), dtype)
    width, rows = VECTORS * lanes(query), (rows_for(features), rows_for(outputs))
    parts, tiles = panels(queries, _QUERIES), panels(queries, ROWS)
    chunks = max(1, min(ATTENTION_CHUNKS, keys // ATTENTION_CHUNK))
    of_query_tiles, of_grad_tiles = (heads, tiles, features + 1, ROWS), (heads, tiles, outputs + 1, ROWS)
    of_queries = heads, queries, panels(features, rows[0]) * rows[0]
    of_grads = heads, queries, panels(outputs, rows[1]) * rows[1]
    of_sums = (chunks, heads, panels(features, width), tiles * ROWS, width) if needs[0] else (0,) * 5
    pairs = heads * queries * keys
    pack = _pack_queries.launch(heads * parts, work=heads * queries * (features + outputs))
    differentiate = _differentiate(*rows, boolean).launch(heads * chunks, work=pairs * (3 * features + 2 * outputs))
    add = _add_sums.launch(heads * panels(queries, _QUERIES), work=chunks * query.size)
    nothing = np.empty((0, 0, 0), dtype)

    def backward(grad_output: Array, query: Array, key: Array, value: Array, y: Array, logsumexp: Array,
                 mask: Array | None, scale: float) -> Gradients:
        query_tiles, grad_tiles = empty(of_query_tiles, dtype), empty(of_grad_tiles, dtype)
        query_rows, grad_rows, odd = empty(of_queries, dtype), empty(of_grads, dtype), np.empty((heads, parts), bool)
        pack(grad_output, query, y, logsumexp, scale, query_tiles, grad_tiles, query_rows, grad_rows, odd)
        grad_query, grad_key, grad_value = (empty(array.shape, dtype) if need else None
                                            for array, need in zip((query, key, value), needs))
        sums = empty(of_sums, dtype)
        if any(needs):
            differentiate(key, value, none if mask is None else mask, which, is_causal, chunks, query_tiles, grad_tiles,
                          query_rows, grad_rows, odd, sums, nothing if grad_key is None else grad_key,
                          nothing if grad_value is None else grad_value)
        if grad_query is not None:
            add(sums, scale, grad_query)
        return grad_query, grad_key, grad_value

    return because(f"tiles of {ROWS} queries and {width} keys, keys in {chunks} chunks", backward)


@block_kernel(writes="query_tiles grad_tiles query_rows grad_rows odd")
def _pack_queries(block: int, grad_output: Array, query: Array, y: Array, logsumexp: Array, scale: float,
                  query_tiles: Array, grad_tiles: Array, query_rows: Array, grad_rows: Array, odd: Array) -> None:
    """Queries times `scale`, and their gradients, as rows of tiles and as rows; the tiles with one more feature.

    That is minus the logarithm, and minus the sum of gradients times results; both are added to what tiles multiply.
    """
    n, part = block // odd.shape[1], block % odd.shape[1]
    (queries, features), outputs, tiles = query.shape[1:], y.shape[2], query_tiles.shape[1]
    factor, infinite = y.dtype.type(scale), False
    for i in range(part * _QUERIES, min(queries, (part + 1) * _QUERIES)):
        query_row, grad_row = query_rows[n, i], grad_rows[n, i]
        for e in range(features):
            query_row[e] = query[n, i, e] * factor
        for e in range(features, query_row.size):
            query_row[e] = 0
        for e in range(outputs):
            grad_row[e] = grad_output[n, i, e]
        for e in range(outputs, grad_row.size):
            grad_row[e] = 0
        infinite |= not (is_finite(query_row) and is_finite(grad_row))
    odd[n, part] = infinite
    flat_query, flat_grad = query.reshape(query.size), grad_output.reshape(grad_output.size)
    flat_query_tiles, flat_grad_tiles = query_tiles.reshape(query_tiles.size), grad_tiles.reshape(grad_tiles.size)
    for t in range(part * ATTENTION_QUERIES, min(tiles, (part + 1) * ATTENTION_QUERIES)):
        first = n * queries + t * ROWS
        inside = min(ROWS, queries - t * ROWS)
        at = (n * tiles + t) * (features + 1) * ROWS
        pack_panel(flat_query, first * features, inside, features, flat_query_tiles, at, ROWS)
        for i in range(at, at + features * ROWS):
            flat_query_tiles[i] *= factor
        at = (n * tiles + t) * (outputs + 1) * ROWS
        pack_panel(flat_grad, first * outputs, inside, outputs, flat_grad_tiles, at, ROWS)
        for i in range(ROWS):
            if i < inside:
                logarithm = logsumexp[n, t * ROWS + i]
                query_tiles[n, t, features, i] = logarithm if logarithm == -np.inf else -logarithm
                grad_tiles[n, t, outputs, i] = -row_products(grad_output[n, t * ROWS + i], y[n, t * ROWS + i], 0.0)
            else:
                query_tiles[n, t, features, i] = grad_tiles[n, t, outputs, i] = 0


@functools.cache
def _differentiate(query_rows_of_tile: int, grad_rows_of_tile: int, boolean: bool) -> BlockKernel:
    """The gradients, for queries and results in tiles of so many rows and masks of bools or of floats."""
    rows_q, rows_g = query_rows_of_tile, grad_rows_of_tile
    score_tile, mask_rows = walk_tile(1, ROWS, VECTORS), mask_of_rows(boolean)
    query_tile, grad_tile = walk_tile(1, rows_q, VECTORS), walk_tile(1, rows_g, VECTORS)
    sum_tile = walk_tile(1, ROWS, VECTORS, apart=VECTORS)

    @block_kernel(writes="sums grad_key grad_value")
    @named("differentiate", rows_q, rows_g, "bool" if boolean else "float")
    def differentiate(block: int, key: Array, value: Array, mask: Array, which: Array, is_causal: bool, chunks: int,
                      query_tiles: Array, grad_tiles: Array, query_rows: Array, grad_rows: Array, odd: Array,
                      sums: Array, grad_key: Array, grad_value: Array) -> None:
        """One chunk of the keys of one head, some groups at a time, which go along the queries together.

        The gradients by keys and values are its own; that by queries is added up in sums of its own.
        """
        use_widest_vectors()
        keys, features = key.shape[1:]
        queries, outputs, width = query_rows.shape[1], value.shape[2], VECTORS * lanes(key)
        n, chunk, all_groups = block // chunks, block % chunks, panels(keys, width)
        most, wide = ATTENTION_GROUPS, panels(features, width)
        key_columns = np.empty((most, features + 1, width), key.dtype)          # keys, and ones
        value_columns = np.empty((most, outputs + 1, width), key.dtype)         # values, and ones
        key_rows = np.empty((most, wide, width, width), key.dtype)              # keys by features
        infinite = np.empty(most, np.bool_)                                     # whether a key is not finite
        key_totals = np.empty((most, query_rows.shape[2], width), key.dtype)
        value_totals = np.empty((most, grad_rows.shape[2], width), key.dtype)
        scores, grads = np.empty((_QUERIES, width), key.dtype), np.empty((_QUERIES, width), key.dtype)
        flat_key_columns, flat_value_columns = key_columns.reshape(key_columns.size), value_columns.reshape(value_columns.size)
        flat_key_totals, flat_value_totals = key_totals.reshape(key_totals.size), value_totals.reshape(value_totals.size)
        flat_scores, flat_grads = scores.reshape(scores.size), grads.reshape(grads.size)
        flat_key, flat_value = key.reshape(key.size), value.reshape(value.size)
        flat_query_tiles, flat_grad_tiles = query_tiles.reshape(query_tiles.size), grad_tiles.reshape(grad_tiles.size)
        flat_query_rows, flat_grad_rows = query_rows.reshape(query_rows.size), grad_rows.reshape(grad_rows.size)
        flat_grad_key, flat_grad_value = grad_key.reshape(grad_key.size), grad_value.reshape(grad_value.size)
        along_features, along_outputs = np.arange(features + 1) * ROWS, np.arange(outputs + 1) * ROWS
        along_queries, along_grads = np.arange(_QUERIES) * query_rows.shape[2], np.arange(_QUERIES) * grad_rows.shape[2]
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
                inside, row = min(width, keys - first), n * keys + first
                pack_panel(flat_key, row * features, inside, features, flat_key_columns, g * (features + 1) * width, width)
                pack_panel(flat_value, row * outputs, inside, outputs, flat_value_columns, g * (outputs + 1) * width, width)
                key_columns[g, features] = 1
                value_columns[g, outputs] = 1
                infinite[g] = False
                for c in range(inside):
                    infinite[g] |= not is_finite(key[n, first + c])
                    for e in range(wide * width):
                        key_rows[g, e // width, c, e % width] = key[n, first + c, e] if e < features else zero

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
                    if mask.size:
                        mask_rows(mask[which[n]], scores, begin, top, count, first, inside)
                    if is_causal:
                        for r in range(top, min(count, first + width - 1 - begin)):
                            scores[r, max(0, begin + r - first + 1) :] = lowest
                    for i in range(top * width, count * width):
                        flat_scores[i] = exp(flat_scores[i])
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
                    for i in range(top * width, count * width):
                        flat_grads[i] = zero if flat_scores[i] == zero else flat_scores[i] * flat_grads[i]
                    if grad_key.size:
                        if odd[n, part]:
                            add_seen_rows(query_rows[n], begin, grads, top, count, key_totals[g])
                        else:
                            for e in range(0, key_totals.shape[1], rows_q):
                                begins[0] = (n * queries + begin + top) * query_rows.shape[2] + e
                                query_tile(flat_query_rows, begins, along_queries[: count - top], grads[top:], 0,
                                           key_totals[g, e : e + rows_q])
                    if sums.size and infinite[g]:
                        for r in range(top, count):
                            for c in range(inside):
                                if grads[r, c] != zero:
                                    for e in range(features):
                                        sums[chunk, n, e // width, begin + r, e % width] += grads[r, c] * key[n, first + c, e]
                    elif sums.size:
                        for r in range(top, count, ROWS):
                            begins[0] = r * width
                            for e in range(wide):
                                sum_tile(flat_grads, begins, along_keys[:inside], key_rows[g, e], 0, sums[chunk, n, e, begin + r : begin + r + ROWS])

            for g in range(here):
                first = (group + g) * width
                inside = min(width, keys - first)
                if grad_key.size:
                    unpack_panel(flat_key_totals, g * query_rows.shape[2] * width, width, inside, features, flat_grad_key,
                                 (n * keys + first) * features)
                if grad_value.size:
                    unpack_panel(flat_value_totals, g * grad_rows.shape[2] * width, width, inside, outputs, flat_grad_value,
                                 (n * keys + first) * outputs)

    return differentiate


@block_kernel(writes="grad_query")
def _add_sums(block: int, sums: Array, scale: float, grad_query: Array) -> None:
    """The gradient by some queries: sums over chunks of keys, in their order."""
    blocks = panels(grad_query.shape[1], _QUERIES)
    n, begin, width = block // blocks, block % blocks * _QUERIES, sums.shape[4]
    factor = grad_query.dtype.type(scale)
    for i in range(begin, min(grad_query.shape[1], begin + _QUERIES)):
        row = grad_query[n, i]
        for e in range(0, row.size, width):
            for c in range(min(width, row.size - e)):
                total = sums[0, n, e // width, i, c]
                for chunk in range(1, sums.shape[0]):
                    total += sums[chunk, n, e // width, i, c]
                row[e + c] = total * factor
