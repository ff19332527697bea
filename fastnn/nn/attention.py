"""Attention of several heads, what it remembers of earlier rows, and the block of a transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import kernels, random
from fastnn._checks import Array, as_array, as_float, as_floats, as_int, check_rank, check_shape
from fastnn.kernels.attention import heads_beside, heads_in, write_gradients
from fastnn.nn.activation import GELU
from fastnn.nn.dropout import Dropout
from fastnn.nn.init import Init, xavier_uniform
from fastnn.nn.linear import Linear
from fastnn.nn.module import Backward, Module, Parameter, beside, data_of, once
from fastnn.nn.normalization import LayerNorm


class KeyValueCache:
    """The keys and values of the rows that a layer of attention has seen, for those that come later.

    With it a language model computes each new token's row alone: `MultiheadAttention.forward(x, cache=cache)` adds the
    rows of x, and lets them attend to all before them. For inference: gradients do not flow through it.

    Parameters
    ----------
    capacity : int
        Rows for which memory is there from the start; it doubles when it is full.

    Attributes
    ----------
    length : int
        Rows seen so far.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer, x = nn.MultiheadAttention(4, 2), np.ones((1, 3, 4), np.float32)
    >>> cache = nn.KeyValueCache()
    >>> rows = [layer.forward(x[:, [i]], cache=cache, training=False)[0] for i in range(3)]
    >>> whole, _ = layer.forward(x, is_causal=True, training=False)
    >>> cache.length, np.allclose(np.concatenate(rows, 1), whole)
    (3, True)
    """

    def __init__(self, capacity: int = 128) -> None:
        self.capacity, self.length = as_int("capacity", capacity, 1), 0
        self._both: Array | None = None         # keys and values: (2, N, H, capacity, D)

    def append(self, key: Array, value: Array) -> tuple[Array, Array]:
        """Add rows (N, H, T, D), and return all so far."""
        end = self.length + key.shape[2]
        if self._both is None:
            self.capacity = max(self.capacity, end)
            self._both = np.empty_like(key, shape=(2, *key.shape[:2], self.capacity, key.shape[3]))
        elif self._both.shape[1:3] + self._both.shape[4:] != key.shape[:2] + key.shape[3:]:
            raise ValueError(f"cache: it holds rows of {self._both.shape[1]} sequences and {self._both.shape[2]} heads "
                             f"of {self._both.shape[4]}, got {key.shape[0]}, {key.shape[1]} and {key.shape[3]}")
        if end > self.capacity:
            self.capacity = max(end, 2 * self.capacity)
            more = np.empty_like(self._both, shape=(*self._both.shape[:3], self.capacity, self._both.shape[4]))
            more[:, :, :, : self.length] = self._both[:, :, :, : self.length]
            self._both = more
        self._both[0, :, :, self.length : end] = key
        self._both[1, :, :, self.length : end] = value
        self.length = end
        return self._both[0, :, :, :end], self._both[1, :, :, :end]


class MultiheadAttention(Module):
    """Each row of a sequence becomes a mean of all rows' values, by how well their keys fit its query, in each head.

    Vaswani and others, "Attention is all you need" (arXiv:1706.03762), section 3.2.2; see
    `fastnn.kernels.scaled_dot_product_attention`. Parameters and masks have torch's names and meaning, and sequences
    come as with its batch_first=True.

    Parameters
    ----------
    embed_dim : int
        Elements of a row.
    num_heads : int
        Heads.
    bias : bool
        Whether the linear maps have one, which starts at 0.
    head_dim : int, optional
        Elements of a query, a key and a value; embed_dim / num_heads unless it is given.
    init : callable
        Initial weights, one of `fastnn.nn.init`.
    dtype : float32 or float64
        Of the parameters; inputs must have it too.

    Attributes
    ----------
    in_proj_weight : Parameter of shape (3 num_heads head_dim, embed_dim)
        Queries' rows, then keys' and values'.
    in_proj_bias : Parameter of shape (3 num_heads head_dim,), or None
    out_proj : Linear
        From the heads' values, side by side, to the result.

    Notes
    -----
    `forward(x)` attends to x itself; `forward(query, key, value)`, of shapes (N, L, E), (N, S, E) and (N, S, E), to
    another sequence, and its backward returns three gradients. Options of forward:

    key_padding_mask : bool array of shape (N, S)
        True for keys that are padding, to which no query attends.
    attn_mask : array of shape (L, S), (N, L, S) or (N, H, L, S)
        True for keys that a query does not attend to; or numbers that are added to the scores. (In the kernel, as in
        torch's, True means that it does.)
    is_causal : bool
        Whether a row attends to itself and those before it alone.
    cache : KeyValueCache
        What earlier rows left: the rows of x follow them, and attend to them and each to those before it.

    A row that attends to nothing gets out_proj's bias.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.MultiheadAttention(8, 2)
    >>> x = np.ones((2, 5, 8), np.float32)
    >>> y, backward = layer.forward(x, is_causal=True)
    >>> y.shape, backward(y).shape
    ((2, 5, 8), (2, 5, 8))
    """

    _kept: kernels.KeptWeight | None = None     # a frozen layer's, whose in_proj_weight is constant

    def __init__(self, embed_dim: int, num_heads: int, *, bias: bool = True, head_dim: int | None = None,
                 init: Init = xavier_uniform, dtype: DTypeLike = np.float32) -> None:
        self.embed_dim, self.num_heads = as_int("embed_dim", embed_dim, 1), as_int("num_heads", num_heads, 1)
        if head_dim is None and embed_dim % num_heads:
            raise ValueError(f"num_heads: expected a divisor of embed_dim = {embed_dim}, or a head_dim, "
                             f"got {num_heads}")
        self.head_dim = embed_dim // num_heads if head_dim is None else as_int("head_dim", head_dim, 1)
        inner = num_heads * self.head_dim
        seed, layer = random.next_layer()
        self.in_proj_weight = Parameter(init((3 * inner, embed_dim), random.generator(seed, "init", layer), dtype))
        self.in_proj_bias = Parameter(np.zeros(3 * inner, dtype)) if bias else None
        self.out_proj = Linear(inner, embed_dim, bias, init=init, dtype=dtype)

    def forward(self, query: Array, key: Array | None = None, value: Array | None = None, *,
                key_padding_mask: Array | None = None, attn_mask: Array | None = None, is_causal: bool = False,
                cache: KeyValueCache | None = None, training: bool = True) -> tuple[Array, Backward]:
        if (key is None) != (value is None):
            raise TypeError("key, value: expected both or none of them")
        sequences = as_floats(query=query) if key is None else as_floats(query=query, key=key, value=value)
        for name, sequence in zip(("query", "key", "value"), sequences):
            check_rank(name, sequence, 3, layout="(N, T, embed_dim)")
            if sequence.shape[2] != self.embed_dim or len(sequence) != len(sequences[0]):
                raise ValueError(f"{name}: expected shape ({len(sequences[0])}, T, {self.embed_dim}), "
                                 f"got {sequence.shape}")
        if cache is not None and (key is not None or attn_mask is not None or key_padding_mask is not None):
            raise TypeError("cache: expected no key, value or mask beside it")
        projected = [self._project(sequence, part) for sequence, part in zip(sequences, self._parts(len(sequences)))]
        q, k, v = [part for parts, _ in projected for part in parts]
        mask = self._mask(q.shape[2], k.shape[2], key_padding_mask, attn_mask, q)
        if cache is not None:
            is_causal = cache.length == 0
            k, v = cache.append(k, v)
            mask = None if is_causal else _after(q, k)
        joined, (y,) = heads_beside(q, q.shape[2], 1)
        _, lse = kernels.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, return_lse=True, out=y)
        out, out_backward = self.out_proj.forward(joined, training=training)

        @once
        def backward(grad_out: Array, *, input_grad: bool = True) -> Any:
            if cache is not None:
                raise RuntimeError("backward: gradients do not flow through a cache; run forward without one")
            (grad_y,) = heads_in(out_backward(grad_out), 1, self.num_heads)
            grads = [heads_beside(q, parts[0].shape[2], len(parts)) for parts, _ in projected]
            write_gradients([part for _, parts in grads for part in parts], grad_y, q, k, v, y, lse, mask, is_causal)
            grads_x = [back(rows, input_grad) for (rows, _), (_, back) in zip(grads, projected)]
            return grads_x[0] if len(grads_x) == 1 else tuple(grads_x)

        return out, backward

    def _parts(self, sequences: int) -> list[slice]:
        """Return which rows of the weight project each sequence: all three parts project a single one."""
        size = self.num_heads * self.head_dim
        return [slice(0, 3 * size)] if sequences == 1 else [slice(i * size, (i + 1) * size) for i in range(3)]

    def _project(self, x: Array, part: slice) -> tuple[list[Array], Any]:
        """Return the heads of a sequence, one array a third of the weight, and what brings their gradients back."""
        rows = x.reshape(-1, self.embed_dim)
        weight, bias, kept = self.in_proj_weight.data, data_of(self.in_proj_bias), self._kept
        if part.stop - part.start < len(weight):
            weight, bias, kept = weight[part], None if bias is None else bias[part], None
        y = kernels.linear(rows, weight, bias, kept=kept)
        parts = heads_in(y.reshape(*x.shape[:2], len(weight)), len(weight) // (self.num_heads * self.head_dim),
                         self.num_heads)

        def backward(grad_y: Array, input_grad: bool) -> Array | None:
            needs = (input_grad, self.in_proj_weight.requires_grad,
                     self.in_proj_bias is not None and self.in_proj_bias.requires_grad)
            grad_x, grad_weight, grad_bias = kernels.linear_backward(grad_y.reshape(y.shape), rows, weight, needs=needs)
            self.in_proj_weight.accumulate(_placed(grad_weight, part, self.in_proj_weight))
            if self.in_proj_bias is not None:
                self.in_proj_bias.accumulate(_placed(grad_bias, part, self.in_proj_bias))
            return None if grad_x is None else grad_x.reshape(x.shape)

        return parts, backward

    def _mask(self, length: int, keys: int, key_padding_mask: Array | None, attn_mask: Array | None,
              q: Array) -> Array | None:
        """Return both masks as the kernel takes one: True where a query attends to a key, or numbers to be added."""
        mask = None
        if attn_mask is not None:
            mask = as_array("attn_mask", attn_mask)
            shapes = (length, keys), (len(q), length, keys), (len(q), self.num_heads, length, keys)
            if mask.shape not in shapes:
                raise ValueError(f"attn_mask: expected shape {', '.join(map(str, shapes[:-1]))} or {shapes[-1]}, "
                                 f"got {mask.shape}")
            if mask.dtype not in (np.bool_, q.dtype):
                raise TypeError(f"attn_mask: expected bool or {q.dtype} as the query has, got {mask.dtype}")
            mask = ~mask if mask.dtype == bool else mask
            mask = mask[:, None] if mask.ndim == 3 else mask
        if key_padding_mask is not None:
            padding = as_array("key_padding_mask", key_padding_mask)
            check_shape("key_padding_mask", padding, (len(q), keys))
            if padding.dtype != bool:
                raise TypeError(f"key_padding_mask: expected bool, got {padding.dtype}")
            seen = ~padding[:, None, None]
            if mask is None:
                return seen
            return mask & seen if mask.dtype == bool else np.where(seen, mask, mask.dtype.type(-np.inf))
        return mask


def _placed(grad: Array | None, part: slice, whole: Parameter) -> Array | None:
    """Return the gradient by some rows of a parameter as that by all."""
    if grad is None or len(grad) == len(whole.data):
        return grad
    placed = np.zeros_like(whole.data)
    placed[part] = grad
    return placed


def _after(q: Array, k: Array) -> Array | None:
    """Return the mask of the last rows of a sequence, each of which attends to itself and to all before it."""
    length, keys = q.shape[2], k.shape[2]
    return None if length == 1 else beside(q, np.tri(length, keys, keys - length, bool))


class TransformerBlock(Module):
    """x + attention(norm(x)), and to that the same of two linear layers: a transformer's block, normalized beforehand.

    Vaswani and others (arXiv:1706.03762), section 3.1, with the normalization inside of the branches: Xiong and others,
    "On layer normalization in the transformer architecture" (arXiv:2002.04745), figure 1 b. Parameters have the names
    of torch's TransformerEncoderLayer with norm_first=True.

    Parameters
    ----------
    embed_dim : int
        Elements of a row.
    num_heads : int
        Heads of the attention.
    hidden : int
        Elements between the two linear layers.
    head_dim : int, optional
        Elements of a query, a key and a value; embed_dim / num_heads unless it is given.
    dropout : float
        The share of each branch's results that is dropped in training.
    activation : Module, optional
        What is between the linear layers; GELU unless it is given.
    dtype : float32 or float64
        Of the parameters; inputs must have it too.

    Notes
    -----
    Takes x of shape (N, T, embed_dim), and the options of `MultiheadAttention.forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> block = nn.TransformerBlock(8, 2, 16)
    >>> block.forward(np.ones((2, 5, 8), np.float32), is_causal=True)[0].shape
    (2, 5, 8)
    """

    def __init__(self, embed_dim: int, num_heads: int, hidden: int, *, head_dim: int | None = None,
                 dropout: float = 0.0, activation: Module | None = None, dtype: DTypeLike = np.float32) -> None:
        self.self_attn = MultiheadAttention(embed_dim, num_heads, head_dim=head_dim, dtype=dtype)
        self.linear1 = Linear(embed_dim, hidden, dtype=dtype)
        self.activation = GELU() if activation is None else activation
        self.linear2 = Linear(hidden, embed_dim, init=xavier_uniform, dtype=dtype)
        self.norm1, self.norm2 = LayerNorm(embed_dim, dtype=dtype), LayerNorm(embed_dim, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(as_float("dropout", dropout, 0, 1)), Dropout(dropout)

    def forward(self, x: Array, *, training: bool = True, **attention: Any) -> tuple[Array, Backward]:
        def branch(x: Array, *steps: Any) -> tuple[Array, Backward]:
            """Return x plus what steps make of it."""
            y, backwards = x, []
            for step, options in steps:
                y, step_backward = step.forward(y, training=training, **options)
                backwards.append(step_backward)

            def backward(grad: Array) -> Array:
                grad_y = grad
                while backwards:
                    grad_y = backwards.pop()(grad_y)
                return kernels.add(grad, grad_y)

            return kernels.add(x, y), backward

        y, attention_backward = branch(x, (self.norm1, {}), (self.self_attn, attention), (self.dropout1, {}))
        y, mlp_backward = branch(y, (self.norm2, {}), (self.linear1, {}), (self.activation, {}), (self.linear2, {}),
                                 (self.dropout2, {}))

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            grad_x = attention_backward(mlp_backward(grad_y))
            return grad_x if input_grad else None

        return y, backward
