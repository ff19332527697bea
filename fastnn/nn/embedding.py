"""Vectors for numbers: of tokens, which are learned, and of positions and times, which are not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from fastnn import kernels, random
from fastnn._checks import FLOATS, Array, as_array, as_floats, as_int, check_rank, check_shape, check_size
from fastnn.nn.init import Init, normal
from fastnn.nn.module import Backward, Module, Parameter, beside, once

_STANDARD_NORMAL = normal(1.0)


class Embedding(Module):
    """A row of a table for each integer; see `fastnn.kernels.embedding`.

    Parameters
    ----------
    num_embeddings : int
        Rows of the table: integers from 0 to num_embeddings - 1 are taken.
    embedding_dim : int
        Elements of a row.
    padding_idx : int, optional
        A row that is 0 at first and never learns; negative ones count from the end.
    init : callable
        Initial weight, one of `fastnn.nn.init`.
    dtype : float32 or float64
        Of the table.

    Attributes
    ----------
    weight : Parameter of shape (num_embeddings, embedding_dim)

    Notes
    -----
    Takes integers of any shape, and returns rows of shape (*shape, embedding_dim). A model whose last layer scores
    tokens by the same table (Press and Wolf, arXiv:1608.05859) gives both layers one Parameter, whose gradient is the
    sum of both.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.Embedding(10, 4, padding_idx=0)
    >>> layer(np.array([[0, 3, 3]])).shape
    (1, 3, 4)
    >>> tied = nn.Linear(4, 10, bias=False)
    >>> tied.weight = layer.weight
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
                 init: Init = _STANDARD_NORMAL, dtype: DTypeLike = np.float32) -> None:
        self.num_embeddings = as_int("num_embeddings", num_embeddings, 1)
        self.embedding_dim = as_int("embedding_dim", embedding_dim, 1)
        check_size((num_embeddings, embedding_dim), num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None:
            padding_idx = as_int("padding_idx", padding_idx)
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx: expected from {-num_embeddings} to {num_embeddings - 1}, "
                                 f"got {padding_idx}")
            padding_idx %= num_embeddings
        self.padding_idx = padding_idx
        seed, layer = random.next_layer()
        self.weight = Parameter(init((num_embeddings, embedding_dim), random.generator(seed, "init", layer), dtype))
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        rows, padding = self.num_embeddings, self.padding_idx
        y = kernels.embedding(x, self.weight.data, padding_idx=padding)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> None:
            if self.weight.requires_grad:
                self.weight.accumulate(kernels.embedding_backward(grad_y, x, rows, padding_idx=padding))

        return y, backward


class SinusoidalEmbedding(Module):
    """Sines and cosines of numbers, such as the time steps of a diffusion, at frequencies from 1 down to 1 / period.

    Of a number t, element 2 i is sin(t w_i) and element 2 i + 1 is cos(t w_i), with w_i = period^(-2 i / dim): Vaswani
    and others, "Attention is all you need" (arXiv:1706.03762), section 3.5. Nothing is learned.

    Parameters
    ----------
    embedding_dim : int
        Elements of a result, even.
    period : float
        The longest wave is 2 pi period long.
    dtype : float32 or float64
        Of the results, which are computed in float64 and rounded.

    Notes
    -----
    Takes numbers of any shape, integers or floats, and returns (*shape, embedding_dim).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.SinusoidalEmbedding(4)(np.array([0, 100])).round(2)
    array([[ 0.  ,  1.  ,  0.  ,  1.  ],
           [-0.51,  0.86,  0.84,  0.54]], dtype=float32)
    """

    def __init__(self, embedding_dim: int, period: float = 10_000.0, *, dtype: DTypeLike = np.float32) -> None:
        self.embedding_dim, self.period = _checked_waves(embedding_dim, period)
        self.dtype = np.dtype(dtype)
        if self.dtype not in FLOATS:
            raise TypeError(f"dtype: expected float32 or float64, got {self.dtype}")

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = waves(as_array("x", x), self.embedding_dim, self.period).astype(self.dtype, copy=False)
        shape = y.shape

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> None:
            check_shape("grad_y", grad_y, shape)

        return y, backward


class SinusoidalPositions(Module):
    """Add to each row of a sequence the sines and cosines of its position; see `SinusoidalEmbedding`.

    Vaswani and others, "Attention is all you need" (arXiv:1706.03762), section 3.5. Nothing is learned, so that a
    sequence may be longer than those seen in training.

    Parameters
    ----------
    embedding_dim : int
        Elements of a row, even.
    period : float
        The longest wave is 2 pi period rows long.

    Notes
    -----
    Takes x of shape (N, T, embedding_dim). `forward(x, start=p)` is for rows that follow p others.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.SinusoidalPositions(2)(np.zeros((1, 3, 2))).round(2)
    array([[[ 0.  ,  1.  ],
            [ 0.84,  0.54],
            [ 0.91, -0.42]]])
    """

    def __init__(self, embedding_dim: int, period: float = 10_000.0) -> None:
        self.embedding_dim, self.period = _checked_waves(embedding_dim, period)

    def forward(self, x: Array, *, start: int = 0, training: bool = True) -> tuple[Array, Backward]:
        (x,) = as_floats(x=x)
        check_rank("x", x, 3, layout="(N, T, embedding_dim)")
        if x.shape[2] != self.embedding_dim:
            raise ValueError(f"x: expected {self.embedding_dim} features along the last axis, got shape {x.shape}")
        positions = np.arange(as_int("start", start, 0), start + x.shape[1])

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return grad_y if input_grad else None

        return x + beside(x, waves(positions, self.embedding_dim, self.period).astype(x.dtype)), backward


def waves(numbers: Array, dim: int, period: float) -> Array:
    """Return the sines and cosines of numbers at dim / 2 frequencies, one after the other: (*shape, dim), float64."""
    angles = numbers[..., None] * beside(numbers, period ** (np.arange(0, dim, 2) / -dim))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(*numbers.shape, dim)


def _checked_waves(embedding_dim: int, period: float) -> tuple[int, float]:
    if as_int("embedding_dim", embedding_dim, 2) % 2:
        raise ValueError("embedding_dim: expected an even number, a sine and a cosine a frequency, "
                         f"got {embedding_dim}")
    if not (isinstance(period, int | float) and 0 < period < math.inf):
        raise ValueError(f"period: expected a positive number, got {period!r}")
    return embedding_dim, float(period)
