"""Attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import (
    F32,
    Array,
    Benchmark,
    Call,
    Kernel,
    Options,
    Refused,
    TorchFunction,
    draw,
    normal,
)


def _attention_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    none: Options = {}
    for shape, keys, features, mask, options in [
            ((2, 3, 5, 4), 7, 3, None, none),
            ((3, 6, 5), 6, 2, None, {"is_causal": True}),
            ((1, 1), 2, 1, None, {"scale": -0.3}),
            ((2, 2, 4, 3), 5, 18, rng.random((2, 1, 1, 5)) < 0.6, none),                     # padded keys
            ((2, 9, 3), 4, 2, np.where(rng.random((9, 4)) < 0.4, -np.inf, rng.standard_normal((9, 4))), none),
            ((1, 2, 20, 5), 37, 20, rng.random((1, 2, 20, 37)) < 0.7, {"is_causal": True}),
            ((3, 33, 2), 70, 3, None, {"is_causal": True, "scale": 1.5}),
            ((1, 1, 6), 300, 4, None, none),
            ((2, 5, 4), 3, 3, rng.random((5, 1)) < 0.5, none)]:                              # whole queries
        *leading, _, inputs = shape
        if mask is not None and mask.dtype != bool:
            mask = mask.astype(dtype)
        yield Call((draw(rng, dtype, *shape), draw(rng, dtype, *leading, keys, inputs),
                    draw(rng, dtype, *leading, keys, features), *(() if mask is None else (mask,))),
                   {"return_lse": True, **options})


def _attention_refused() -> Iterator[Refused]:
    q, k = normal(2, 3, 4), normal(2, 5, 4)
    yield Refused(Call((q[0, 0], k, k)), ValueError, r"query: expected shape \(..., L, E\), E not 0, got \(4,\)")
    yield Refused(Call((q, k[0], k)), ValueError, r"key: expected shape \(2, S, 4\), .* got \(5, 4\)")
    yield Refused(Call((q, k[..., :3], k)), ValueError, r"key: expected shape \(2, S, 4\)")
    yield Refused(Call((q, k, k[:1])), ValueError, r"value: expected shape \(2, S, Ev\)")
    yield Refused(Call((q, k, k[:, :4])), ValueError, r"value: expected shape \(2, 5, 4\), got \(2, 4, 4\)")
    yield Refused(Call((q, k.astype(F32), k)), TypeError, r"key: expected float64 as query has, got float32")
    yield Refused(Call((q, k, k, np.ones((3, 4), bool))), ValueError, r"attn_mask: .* broadcasts to \(2, 3, 5\)")
    yield Refused(Call((q, k, k, np.ones((1, 2, 3, 5), bool))), ValueError, r"attn_mask: .* broadcasts to \(2, 3, 5\)")
    yield Refused(Call((q, k, k, np.ones((3, 5), np.int64))), TypeError, r"attn_mask: expected bool, or float64 as")
    yield Refused(Call((q, k, k), {"scale": np.inf}), ValueError, r"scale: expected a number .*, got inf")


def _attention_backward_refused() -> Iterator[Refused]:
    q, k = normal(2, 3, 4), normal(2, 5, 4)
    yield Refused(Call((q[:1], q, k, k, q, q[..., 0])), ValueError, r"grad_output: expected shape \(2, 3, 4\)")
    yield Refused(Call((q, q, k, k, q, q)), ValueError, r"logsumexp: expected shape \(2, 3\), got \(2, 3, 4\)")
    yield Refused(Call((q, q, k, k, q, q[..., 0]), {"needs": (True,)}), ValueError,
                  r"needs: expected three bools, for query, key and value")


def _torch_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *, is_causal: bool = False,
                     return_lse: bool = True, **options: Any) -> Any:
    if is_causal and attn_mask is not None:
        below = query.new_ones(query.shape[-2], key.shape[-2]).tril().bool()
        attn_mask, is_causal = attn_mask & below, False
    return TorchFunction("scaled_dot_product_attention")(query, key, value, attn_mask, is_causal=is_causal, **options)


def _attention_gradient(call: Call, result: Any, grad: Array) -> Call:
    query, key, value, *mask = call.args
    options = {name: option for name, option in call.kwargs.items() if name != "return_lse"}
    return Call((grad, query, key, value, *result, *mask), options)


def _benchmark(label: str, shape: tuple[int, ...], **options: Any) -> Benchmark:
    heads, length, features = shape
    pairs = length * (length + 1) // 2 if options else length**2
    return Benchmark(label, lambda n: Call(tuple([normal(n, *shape, dtype=F32, seed=i) for i in range(3)]),
                                           {"return_lse": True, **options}), 1, 4.0 * heads * pairs * features, "flop")


ROWS = (
    Kernel("scaled_dot_product_attention", _attention_samples, torch=_torch_attention, inputs=(0, 1, 2), factor=4,
           given=(0, 1, 2), refused=_attention_refused, backward=_attention_gradient,
           given_to_backward=(0, 3),                   # logsumexp follows from queries and keys
           refused_by_backward=_attention_backward_refused,
           benchmarks=(_benchmark("8 heads, 1024 x 64", (8, 1024, 64)),
                       _benchmark("8 heads, 1024 x 64, causal", (8, 1024, 64), is_causal=True))),
)
