"""What the table cannot say of attention: many tiles and panels, bits, what is hidden, large scores, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numba import config

from fastnn import kernels, use_target
from fastnn.kernels.attention import heads_beside, heads_in, write_gradients
from fastnn.testing import assert_close, assert_same_bits

# Several tiles, panels of keys and of queries, and chunks.
SIZES = [(20, 180), (120, 20), (3, 20)] if config.DISABLE_JIT else [(75, 400), (40, 1100), (300, 70), (3, 600)]
attend, differentiate = kernels.scaled_dot_product_attention, kernels.scaled_dot_product_attention_backward


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(seed)
    heads, queries, keys, features, outputs = shape
    return [rng.standard_normal(size).astype(dtype) for size in (
        (heads, queries, features), (heads, keys, features), (heads, keys, outputs), (heads, queries, outputs))]


def by_matrices(query: Any, key: Any, value: Any, grad: Any, seen: Any, added: Any = 0) -> Any:
    """The result and gradients by the whole matrix of weights."""
    scores = np.where(seen, query @ key.swapaxes(1, 2) / np.sqrt(query.shape[2]) + added, -np.inf)
    top = scores.max(2, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    weights /= np.maximum(weights.sum(2, keepdims=True), 1e-300)
    y = weights @ value
    inner = weights * (grad @ value.swapaxes(1, 2) - (grad * y).sum(2, keepdims=True)) / np.sqrt(query.shape[2])
    return y, (inner @ key, inner.swapaxes(1, 2) @ query, weights.swapaxes(1, 2) @ grad)


@pytest.mark.parametrize(("queries", "keys"), SIZES)
@pytest.mark.parametrize("is_causal", [False, True])
def test_tiles_panels_and_chunks(queries: int, keys: int, is_causal: bool) -> None:
    for dtype in (np.float32, np.float64):
        query, key, value, grad = drawn(2, queries, keys, 10, 21, dtype=dtype)
        seen = np.tri(queries, keys, dtype=bool) if is_causal else np.ones((queries, keys), bool)
        truth, gradients = by_matrices(*[array.astype(np.float64) for array in (query, key, value, grad)], seen)
        y, logsumexp = attend(query, key, value, is_causal=is_causal, return_lse=True)
        assert_close(y, truth)
        found = differentiate(grad, query, key, value, y, logsumexp, is_causal=is_causal)
        assert_close(found, gradients, gradient=True)
        for i in range(0 if config.DISABLE_JIT else 3):
            alone = differentiate(grad, query, key, value, y, logsumexp, is_causal=is_causal,
                                  needs=tuple(j == i for j in range(3)))
            assert alone[i].tobytes() == found[i].tobytes()
            assert [array is None for array in alone] == [j != i for j in range(3)]


@pytest.mark.parametrize(("queries", "keys"), SIZES)
@pytest.mark.parametrize("of_queries", [False, True])
@pytest.mark.parametrize("of_keys", [False, True])
def test_masks_of_every_shape(queries: int, keys: int, of_queries: bool, of_keys: bool) -> None:
    query, key, value, grad = drawn(2, queries, keys, 10, 21, dtype=np.float32)
    rng = np.random.default_rng(2)
    shape = 2, queries if of_queries else 1, keys if of_keys else 1
    seen = rng.random(shape) < 0.7
    added = np.where(rng.random(shape) < 0.7, rng.standard_normal(shape), -np.inf).astype(np.float32)
    for mask in (seen, added):
        boolean = mask.dtype == bool
        truth, gradients = by_matrices(*[array.astype(np.float64) for array in (query, key, value, grad)],
                                       mask if boolean else mask > -np.inf, 0 if boolean else np.maximum(mask, -99))
        y, logsumexp = attend(query, key, value, mask, return_lse=True)
        assert_close(y, truth)
        assert_close(differentiate(grad, query, key, value, y, logsumexp, mask), gradients, gradient=True)


@pytest.mark.parametrize(("queries", "keys"), SIZES)
@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_heads_side_by_side_have_the_same_bits(queries: int, keys: int, target: str) -> None:
    """As linear maps write and read them; what lies between rows stays as it is."""
    if target == "naive":
        queries, keys = max(2, queries // 3), max(2, keys // 20)
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((2, length, 3 * parts * 4)).astype(np.float32) for length, parts in (
        (queries, 1), (keys, 2), (queries, 1))]
    (query,), (key, value), (grad,) = (heads_in(array, parts, 3) for array, parts in zip(rows, (1, 2, 1)))
    assert not any(array.flags.c_contiguous for array in (query, key, value, grad))
    copies = [np.ascontiguousarray(array) for array in (query, key, value, grad)]
    with use_target(target):
        expected, logsumexp = attend(*copies[:3], return_lse=True)
        room = np.full((2, queries, 3, 4 + 1), np.float32(7))
        out = room[..., :4].swapaxes(1, 2)
        y, found = attend(query, key, value, return_lse=True, out=out)
        assert y is out
        assert y.tobytes() + found.tobytes() == expected.tobytes() + logsumexp.tobytes()
        assert (room[..., 4] == 7).all()
        gradients = differentiate(copies[3], *copies[:3], expected, logsumexp)
        assert_same_bits(differentiate(grad, query, key, value, y, logsumexp), gradients)
        (_, by_query), (together, by_others) = heads_beside(query, queries, 1), heads_beside(query, keys, 2)
        write_gradients([*by_query, *by_others], grad, query, key, value, y, logsumexp, None, False)
        assert_same_bits([*by_query, *by_others], gradients)
        assert together.shape == (2, keys, 2 * 3 * 4)
        assert np.shares_memory(together, by_others[1])


@pytest.mark.skipif(config.DISABLE_JIT, reason="takes long")
def test_bits_depend_on_no_other_head_or_query() -> None:
    query, key, value, grad = drawn(40, 75, 400, 10, 21, dtype=np.float32)
    y, logsumexp = attend(query, key, value, return_lse=True)
    grads = differentiate(grad, query, key, value, y, logsumexp)
    for n in (0, 39):
        one = slice(n, n + 1)
        assert attend(query[one], key[one], value[one]).tobytes() == y[one].tobytes()
        alone = differentiate(grad[one], query[one], key[one], value[one], y[one], logsumexp[one])
        assert all(a.tobytes() == b[one].tobytes() for a, b in zip(alone, grads))
    assert attend(query[:, 30:40], key, value).tobytes() == y[:, 30:40].tobytes()
    assert attend(query[:, 30:31], key, value).tobytes() == attend(query[:, 29:33], key, value)[:, 1:2].tobytes()


@pytest.mark.parametrize("queries", [4, 40])
@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("target", ["naive", "cpu"])
def test_what_is_hidden_takes_no_part(queries: int, boolean: bool, target: str) -> None:
    """NaN and inf reach those who see them, and nobody else, forward and backward."""
    query, key, value, grad = drawn(1, queries, 30, 3, 4)
    seen = np.random.default_rng(1).random((queries, 30)) < 0.8
    seen[1] = False
    mask = seen if boolean else np.where(seen, 0.5, -np.inf)

    def run() -> Any:
        y, logsumexp = attend(query, key, value, mask, return_lse=True, target=target)
        return y, logsumexp, *differentiate(grad, query, key, value, y, logsumexp, mask, target=target)

    with np.errstate(all="ignore"):
        clean = run()
        assert not clean[0][0, 1].any()
        assert clean[1][0, 1] == -np.inf
        assert not clean[2][0, 1].any()
        key[0, 7], value[0, 8, 2], query[0, 1, 0], grad[0, 1] = np.nan, np.inf, np.inf, np.nan
        y, logsumexp, grad_query, grad_key, grad_value = run()
    by_key, by_value = seen[:, 7], seen[:, 8]
    np.testing.assert_array_equal(np.isnan(y[0]).all(1), by_key)
    np.testing.assert_array_equal(np.isinf(y[0, :, 2]), by_value & ~by_key)
    np.testing.assert_array_equal(np.isnan(logsumexp[0]), by_key)
    np.testing.assert_array_equal(np.isfinite(grad_query[0]).all(1), ~by_key & ~by_value)
    untouched = ~by_key & ~by_value
    assert_close((y[0, untouched], grad_query[0, untouched]), (clean[0][0, untouched], clean[2][0, untouched]))
    reached = seen[by_key].any(0)                                   # keys that a query sees that sees the NaN
    np.testing.assert_array_equal(np.isnan(grad_value[0]).any(1), reached)
    assert np.isfinite(grad_key[0, ~reached & ~seen[by_value].any(0)]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("queries", [2, 20])
def test_large_scores(dtype: Any, queries: int) -> None:
    """Scores near 10,000 that rise or fall along the keys: the largest so far changes in each panel, or never."""
    keys = 200
    for sign in (-1, 1):
        value = np.linspace(0, 1, keys, dtype=dtype).reshape(1, keys, 1)
        key = (1e4 + sign * 16 * np.arange(keys)).astype(dtype).reshape(1, keys, 1)
        for offset in (1.0, -1.0):
            query = np.full((1, queries, 1), offset, dtype)
            y, logsumexp = attend(query, key, value, scale=1.0, return_lse=True)
            last = value[0, -1 if sign * offset > 0 else 0, 0]
            np.testing.assert_allclose(y, np.full_like(y, last), atol=1e-5)
            np.testing.assert_allclose(logsumexp, np.full_like(logsumexp, (offset * key).max()), rtol=1e-6)


@pytest.mark.parametrize("low", [-1e4, -1e9, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("queries", [2, 20])
def test_masks_that_hide_by_large_numbers(low: float, queries: int) -> None:
    """What comes later is seen sharply, even if all that came before was hidden."""
    query, key, value, grad = drawn(1, queries, 400, 10, 21, dtype=np.float32)
    seen = np.zeros((1, 400), bool)
    seen[0, 250:] = True
    mask = np.where(seen, 0, low).astype(np.float32)
    (y, logsumexp), exact = attend(query, key, value, mask, return_lse=True), attend(query, key, value, seen)
    assert_close(y, exact)
    grads, expected = (differentiate(grad, query, key, value, y, logsumexp, which) for which in (mask, seen))
    assert_close(grads, expected, gradient=True)


def test_a_mask_that_was_broadcast_is_read_as_it_was() -> None:
    query, key, value, _ = drawn(6, 40, 50, 3, 4)
    query, key, value = (array.reshape(2, 3, *array.shape[1:]) for array in (query, key, value))
    mask = np.random.default_rng(0).random((2, 1, 1, 50)) < 0.5
    expected = attend(query, key, value, np.array(np.broadcast_to(mask, (2, 3, 40, 50))))
    for given in (mask, np.broadcast_to(mask, (2, 3, 40, 50)), np.broadcast_to(mask, (2, 1, 40, 50))):
        assert attend(query, key, value, given).tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match=r"attn_mask: expected a shape that broadcasts to \(2, 3, 40, 50\)"):
        attend(query, key, value, np.broadcast_to(mask, (2, 1, 39, 50)))


@pytest.mark.skipif(config.DISABLE_JIT, reason="takes long")
def test_memory_grows_with_the_length_alone() -> None:
    kernels.clear_pool()
    most = []
    for length in (1000, 4000):
        arrays = drawn(1, length, length, 10, 21, dtype=np.float32)
        tracemalloc.start()
        y, logsumexp = attend(*arrays[:3], is_causal=True, return_lse=True)
        differentiate(arrays[3], *arrays[:3], y, logsumexp, is_causal=True)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < 8 * most[0]
    assert most[1] < 4000**2                                        # a byte for each pair
