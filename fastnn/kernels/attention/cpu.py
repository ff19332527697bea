"""Attention by tiles: scores of some keys and queries at a time, which never leave the caches.

A block owns some queries of a head. They are columns, whose vectors go through all of it: a panel of keys gives rows of
scores, in which a query's largest one and its exponentials are found without looking across a vector, and which are
then the right side of the product with the values, as they lie. A column of ones among the values gives the sums.
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
    ATTENTION_FEW_QUERIES,
    ATTENTION_GROUPS,
    ATTENTION_KEYS,
    ATTENTION_SLACK,
    LEAST_BLOCKS,
)
from fastnn.kernels._cpu.vectors import is_finite, row_max, row_sum, use_widest_vectors
from fastnn.kernels._memory import empty
from fastnn.kernels._plans import because
from fastnn.kernels.attention._panels import (
    Heads,
    add_seen_rows,
    column_max,
    mask_columns,
    mask_line,
    masked,
    masks_of,
    multiply_columns,
    pack_panel,
    place,
    rows_for,
    subtract_from_columns,
    unpack_panel,
)
from fastnn.kernels.attention._panels import by_heads as by_heads
from fastnn.kernels.attention.gradient import (
    plan_scaled_dot_product_attention_backward as plan_scaled_dot_product_attention_backward,
)

_KEYS = ATTENTION_KEYS * ROWS               # of a panel
_FEW_KEYS = 256                             # of one running sum, for few queries


def plan_scaled_dot_product_attention(query: Array, key: Array, value: Array, mask: Array | None, which: Array,
                                      is_causal: bool) -> Callable[..., None]:
    """Return a function (query, key, value, mask, scale, y, logsumexp), which takes arrays as `by_heads` sees them."""
    (heads, queries, features), keys, outputs = query.shape, key.shape[1], value.shape[2]
    dtype, work = query.dtype, heads * queries * keys * (features + outputs)
    if queries <= ATTENTION_FEW_QUERIES:
        of_few = _attend_few.launch(heads, work=work)

        def few(query: Heads, key: Heads, value: Heads, mask: Array | None, scale: float, y: Heads,
                logsumexp: Array) -> None:
            of_few(*query, *key, *value, keys, features, outputs, *masks_of(mask, dtype), which, is_causal, scale, *y,
                   logsumexp)

        return because(f"one by one: {queries} quer{'y' if queries == 1 else 'ies'}", few)
    width, rows = VECTORS * lanes(query), rows_for(outputs + 1)
    all_groups, parts = panels(queries, width), panels(keys, _KEYS)
    groups = max(1, min(ATTENTION_GROUPS, heads * all_groups // LEAST_BLOCKS))
    of_keys = heads, panels(keys, ROWS), features + 1, ROWS             # of which the last row is room for vectors
    of_values = heads, keys, panels(outputs + 1, rows) * rows
    pack = _pack_keys.launch(heads * parts, work=heads * keys * (features + outputs))
    attend = _attend(rows).launch(heads * panels(all_groups, groups), work=work)

    def attention(query: Heads, key: Heads, value: Heads, mask: Array | None, scale: float, y: Heads,
                  logsumexp: Array) -> None:
        packed, values = empty(of_keys, dtype), empty(of_values, dtype)
        odd = np.empty((heads, parts), bool)
        pack(*key, *value, outputs, packed, values, odd)
        attend(*query, outputs, *masks_of(mask, dtype), which, is_causal, groups, scale, packed, values, odd, *y,
               logsumexp)

    return because(f"tiles of {ROWS} keys and {width} queries, {groups} of these in a block", attention)


@block_kernel(writes="packed values odd")
def _pack_keys(block: int, key: Array, key_at: Array, value: Array, value_at: Array, outputs: int, packed: Array,
               values: Array, odd: Array) -> None:
    """Keys as rows of tiles, and values as rows with a column of ones; whether one of the values is not finite."""
    n, part = block // odd.shape[1], block % odd.shape[1]
    keys, features, flat = values.shape[1], packed.shape[2] - 1, packed.reshape(packed.size)
    for t in range(part * ATTENTION_KEYS, min(packed.shape[1], (part + 1) * ATTENTION_KEYS)):
        inside, at = min(ROWS, keys - t * ROWS), (n * packed.shape[1] + t) * (features + 1) * ROWS
        pack_panel(key, place(key_at, n, t * ROWS), key_at[n, 1], inside, features, flat, at, ROWS)
    infinite = False
    for j in range(part * _KEYS, min(keys, (part + 1) * _KEYS)):
        row, given = values[n, j], value[place(value_at, n, j) :]
        for e in range(outputs):
            row[e] = given[e]
        row[outputs] = 1
        for e in range(outputs + 1, row.size):
            row[e] = 0
        if not is_finite(row):
            infinite = True
    odd[n, part] = infinite


@functools.cache
def _attend(rows: int) -> BlockKernel:
    """The forward pass, for values in tiles of so many rows."""
    score_tile, value_tile = walk_tile(1, ROWS, VECTORS), walk_tile(1, rows, VECTORS)

    @block_kernel(writes="y logsumexp")
    @named("attend", rows)
    def attend(block: int, query: Array, query_at: Array, outputs: int, bools: Array, floats: Array, which: Array,
               is_causal: bool, groups: int, scale: float, packed: Array, values: Array, odd: Array, y: Array,
               y_at: Array, logsumexp: Array) -> None:
        """Some groups of queries of one head, which go along the keys together."""
        use_widest_vectors()
        queries, features = logsumexp.shape[1], packed.shape[2] - 1
        keys, padded, width = values.shape[1], values.shape[2], VECTORS * lanes(y)
        blocks = panels(panels(queries, width), groups)
        n, first = block // blocks, block % blocks * groups * width
        here = min(groups, panels(queries - first, width))
        columns = np.empty((here, features, width), y.dtype)            # the queries
        totals = np.zeros((here, padded, width), y.dtype)               # of weights times values, and of weights
        shifts = np.zeros((here, width), y.dtype)                       # what is subtracted from scores
        scores = np.empty((_KEYS, width), y.dtype)
        largest, factors = np.empty(width, y.dtype), np.empty(width, y.dtype)
        flat_columns, flat_totals = columns.reshape(columns.size), totals.reshape(totals.size)
        flat_packed, flat_values = packed.reshape(packed.size), values.reshape(values.size)
        flat_scores = scores.reshape(scores.size)
        zero, one, lowest = y.dtype.type(0), y.dtype.type(1), y.dtype.type(-np.inf)
        slack, factor = y.dtype.type(ATTENTION_SLACK), y.dtype.type(scale)
        along_features, along_keys = np.arange(features) * ROWS, np.arange(_KEYS) * padded
        begins = np.zeros(1, np.int64)

        for g in range(here):
            query_first = first + g * width
            pack_panel(query, place(query_at, n, query_first), query_at[n, 1], min(width, queries - query_first),
                       features, flat_columns, g * features * width, width)
        for i in range(flat_columns.size):
            flat_columns[i] *= factor

        for begin in range(0, min(keys, first + here * width) if is_causal else keys, _KEYS):
            for g in range(here):
                query_first = first + g * width
                count = min(_KEYS, (min(keys, query_first + width) if is_causal else keys) - begin)
                if count <= 0:
                    continue
                for t in range(panels(count, ROWS)):
                    begins[0] = (n * packed.shape[1] + begin // ROWS + t) * (features + 1) * ROWS
                    score_tile(flat_packed, begins, along_features, columns[g], 1, scores[t * ROWS : (t + 1) * ROWS])
                mask_columns(bools, floats, which[n], scores, begin, count, query_first,
                             min(width, queries - query_first))
                if is_causal:
                    for k in range(max(0, query_first + 1 - begin), count):
                        scores[k, : begin + k - query_first] = lowest

                column_max(scores, count, largest)
                moved = False
                for c in range(width):
                    top, old, factors[c] = largest[c], shifts[g, c], one
                    if totals[g, outputs, c] == zero:
                        if top > lowest:
                            shifts[g, c] = top
                    elif top > old + slack:
                        shifts[g, c], factors[c], moved = top, exp(old - top), True
                if moved:
                    multiply_columns(totals[g], padded, factors)
                subtract_from_columns(scores, count, shifts[g])
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
                    logarithm = np.float64(shifts[g, c]) + log(np.float64(total))
                    logsumexp[n, query_first + c] = lowest if total == zero else logarithm
            multiply_columns(totals[g], outputs, factors)
            unpack_panel(flat_totals, g * padded * width, width, inside, outputs, y, place(y_at, n, query_first),
                         y_at[n, 1])

    return attend


# --- few queries -----------------------------------------------------------------------------------------------------


@sums_helper
def _dot(a: Array, b: Array) -> float:
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@block_kernel(writes="y logsumexp")
def _attend_few(block: int, query: Array, query_at: Array, key: Array, key_at: Array, value: Array, value_at: Array,
                keys: int, features: int, outputs: int, bools: Array, floats: Array, which: Array, is_causal: bool,
                scale: float, y: Array, y_at: Array, logsumexp: Array) -> None:
    """One head's few queries, for which keys and values are read in place: that is what takes time."""
    use_widest_vectors()
    scores, added = np.empty(keys, y.dtype), np.empty(keys, y.dtype)
    scaled, part = np.empty(features, y.dtype), np.empty(outputs, y.dtype)
    for i in range(logsumexp.shape[1]):
        seen, own = min(keys, i + 1) if is_causal else keys, query[place(query_at, block, i) :]
        for e in range(features):
            scaled[e] = own[e] * y.dtype.type(scale)
        for j in range(seen):
            begin = place(key_at, block, j)
            scores[j] = _dot(scaled, key[begin : begin + features])
        if bools.size or floats.size:
            mask_line(bools, floats, which[block], i, 0, added[:seen])
            for j in range(seen):
                scores[j] = masked(scores[j], added[j])
        largest = row_max(scores[:seen])
        shift = largest if largest > -np.inf else y.dtype.type(0)
        for j in range(seen):
            scores[j] = exp(scores[j] - shift)
        total, result = row_sum(scores[:seen]), y[place(y_at, block, i) :][:outputs]
        inverse = y.dtype.type(1 if total == 0 else 1 / total)
        logsumexp[block, i] = -np.inf if total == 0 else shift + log(total)
        result[:] = 0
        for begin in range(0, seen, _FEW_KEYS):
            part[:] = 0
            for j in range(begin, min(seen, begin + _FEW_KEYS)):
                if scores[j] != 0:      # else it may be hidden, and hold anything
                    weight, row_of_value = scores[j], value[place(value_at, block, j) :]
                    for e in range(outputs):
                        part[e] += weight * row_of_value[e]
            for e in range(outputs):
                result[e] += part[e]
        for e in range(outputs):
            result[e] *= inverse
