"""A transformer that tells each token of a text from those before it, and writes texts token by token."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn import _device, kernels, random
from fastnn._checks import Array, as_array, as_float, as_int, check_rank
from fastnn.nn import (
    Backward,
    Dropout,
    Embedding,
    KeyValueCache,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    SinusoidalPositions,
    TransformerBlock,
    once,
)
from fastnn.nn.freezing import freeze
from fastnn.nn.init import normal
from fastnn.nn.module import beside


@dataclass(frozen=True)
class DecoderTransformerConfig:
    """The sizes of a `DecoderTransformer`.

    Attributes
    ----------
    vocab_size : int
        Tokens that there are, from 0 to vocab_size - 1.
    context : int
        The most tokens that are seen at once.
    embed_dim : int
        Elements of a token's row, even.
    num_heads, head_dim : int
        Heads of the attention, and elements of a query, a key and a value in each; together they need not have
        embed_dim elements.
    num_layers : int
        Blocks.
    hidden : int
        Elements between the two linear layers of a block.
    dropout : float
        The share of the embeddings, and of what each branch adds, that is dropped in training.
    tied : bool
        Whether the scores come from the table of the embeddings, instead of a weight of their own.
    padding : int or None
        The token that fills up short sequences, to which no other attends.

    Examples
    --------
    >>> from fastnn import models
    >>> models.DecoderTransformerConfig(num_layers=2).num_heads
    2
    """

    vocab_size: int = 2048
    context: int = 128
    embed_dim: int = 256
    num_heads: int = 2
    head_dim: int = 32
    num_layers: int = 4
    hidden: int = 512
    dropout: float = 0.0
    tied: bool = False
    padding: int | None = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "embed_dim", "num_heads", "head_dim", "num_layers", "hidden"):
            as_int(name, getattr(self, name), 1)
        if self.embed_dim % 2:
            raise ValueError("embed_dim: expected an even number, a sine and a cosine of a position a frequency, got "
                             f"{self.embed_dim}")
        as_float("dropout", self.dropout, 0, 1)
        if self.padding is not None and as_int("padding", self.padding, 0) >= self.vocab_size:
            raise ValueError(f"padding: expected a token from 0 to {self.vocab_size - 1}, got {self.padding}")


class DecoderTransformer(Module):
    """Embeddings and positions, blocks of causal attention and two linear layers, and scores of the next token.

    Vaswani and others, "Attention is all you need" (arXiv:1706.03762), the decoder without an encoder, with sines and
    cosines of positions (section 3.5) and embeddings times sqrt(embed_dim) (section 3.4), normalized before each branch
    and at the end (Xiong and others, arXiv:2002.04745). Parameters of the blocks have the names that those of torch's
    TransformerEncoder have with norm_first=True.

    Parameters
    ----------
    config : DecoderTransformerConfig, optional
        The sizes.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes integers of shape (N, T), T at most the context, and returns scores of shape (N, T, vocab_size): those at t
    say what follows the tokens up to t. `generate` draws what follows, token by token.

    Initial weights are as in GPT-2: N(0, 0.02^2), those that add to the rows divided by sqrt(2 num_layers), so that
    the rows do not grow with the depth. The embeddings are N(0, 1 / embed_dim), so that tokens count as positions do.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> model = models.DecoderTransformer()
    >>> sum(parameter.data.size for parameter in model.parameters())
    2368768
    >>> model(np.array([[2, 40, 41]])).shape
    (1, 3, 2048)
    """

    def __init__(self, config: DecoderTransformerConfig | None = None, *, seed: int = 0) -> None:
        self.config = config = config or DecoderTransformerConfig()
        dim, inner = config.embed_dim, config.num_heads * config.head_dim
        with random.seeded(seed):
            self.embedding = Embedding(config.vocab_size, dim, config.padding, init=normal(dim**-0.5))
            self.positions = SinusoidalPositions(dim)
            self.dropout = Dropout(config.dropout)
            blocks = [TransformerBlock(dim, config.num_heads, config.hidden, head_dim=config.head_dim,
                                       dropout=config.dropout) for _ in range(config.num_layers)]
            self.layers = ModuleList(blocks)
            self.norm = LayerNorm(dim)
            self.head = Linear(dim, config.vocab_size, bias=False, init=normal(0.02))
            narrow = 0.02 / math.sqrt(2 * config.num_layers)
            for i, block in enumerate(blocks):
                for j, (parameter, shape, std) in enumerate((
                        (block.self_attn.in_proj_weight, (3 * inner, dim), 0.02),
                        (block.self_attn.out_proj.weight, (dim, inner), narrow),
                        (block.linear1.weight, (config.hidden, dim), 0.02),
                        (block.linear2.weight, (dim, config.hidden), narrow))):
                    parameter.data[...] = normal(std)(shape, random.generator(seed, "block", i, j), np.float32)
        if config.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Array, caches: Sequence[KeyValueCache] | None = None, *,
                training: bool = True) -> tuple[Array, Backward]:
        """Return the scores and the function that carries a gradient back; see the class.

        With `caches`, one for each block, the tokens follow those that the caches have seen; then there is no way back.
        """
        tokens = as_array("tokens", tokens)
        check_rank("tokens", tokens, 2, layout="(N, T)")
        if caches is not None and len(caches) != len(self.layers):
            raise ValueError(f"caches: expected one for each of the {len(self.layers)} blocks, got {len(caches)}")
        start = caches[0].length if caches else 0
        if start + tokens.shape[1] > self.config.context:
            raise ValueError(f"tokens: expected at most {self.config.context - start} of a sequence, the context of "
                             f"{self.config.context}{f' without the {start} before' * bool(start)}, "
                             f"got shape {tokens.shape}")
        # (N, T) -> (N, T, E)
        rows, embedding_backward = self.embedding.forward(tokens, training=training)
        scale = rows.dtype.type(math.sqrt(self.config.embed_dim))
        rows *= scale                           # in place, as is their gradient below: nobody else has these
        x, _ = self.positions.forward(rows, start=start, training=training)
        x, dropout_backward = self.dropout.forward(x, training=training)
        backwards = []
        for i, block in enumerate(self.layers):
            options: dict[str, Any] = ({"is_causal": True, "key_padding_mask": self._padding(tokens)}
                                       if caches is None else {"cache": caches[i]})
            x, block_backward = block.forward(x, training=training, **options)
            backwards.append(block_backward)
        x, norm_backward = self.norm.forward(x, training=training)
        # (N, T, E) -> (N, T, V)
        scores, head_backward = self.head.forward(x, training=training)

        @once
        def backward(grad_scores: Array, *, input_grad: bool = True) -> None:
            grad = norm_backward(head_backward(grad_scores))
            while backwards:
                grad = backwards.pop()(grad)
            grad = dropout_backward(grad)
            grad *= scale
            embedding_backward(grad)

        return scores, backward

    def _padding(self, tokens: Array) -> Array | None:
        """Return where there is padding; None where there is none, as far as the host knows."""
        if self.config.padding is None:
            return None
        padding = tokens == self.config.padding
        return padding if _device.is_device(padding) or padding.any() else None

    def generate(self, tokens: Sequence[int] | NDArray[Any], length: int, *, temperature: float = 1.0,
                 top_k: int | None = None, top_p: float | None = None, seed: int = 0,
                 never: Collection[int] = ()) -> Iterator[int]:
        """Draw the tokens that follow some others, one by one.

        Parameters
        ----------
        tokens : sequence of int, or ndarray of integers, shape (T,)
            What is gone on from, at least one token. Of more than the context, the last ones count.
        length : int
            How many tokens are drawn.
        temperature, top_k, top_p
            How they are drawn; see `sampling_probabilities`.
        seed : int, default 0
            What they are drawn from. The same seed gives the same tokens, whatever the length.
        never : collection of int
            Tokens that are not drawn, such as that of padding.

        Returns
        -------
        iterator of int
            Each token as soon as it is drawn.

        Raises
        ------
        TypeError, ValueError
            If an argument is none of these, before anything is drawn.

        Notes
        -----
        The weights are those of the model when this is called. The keys and values of earlier tokens are kept, so that
        a token costs as much whatever its place. When the context is full, the older half of it is forgotten, and the
        other half read anew, from position 0 on.

        Examples
        --------
        >>> from fastnn import models
        >>> model = models.DecoderTransformer(models.DecoderTransformerConfig(vocab_size=9, context=8))
        >>> tokens = list(model.generate([2], 20, seed=1, never=[0]))
        >>> len(tokens), 0 in tokens
        (20, False)
        >>> tokens[:5] == list(model.generate([2], 5, seed=1, never=[0]))
        True
        """
        size, context = self.config.vocab_size, self.config.context
        given = as_array("tokens", np.array(tokens) if isinstance(tokens, list | tuple) else tokens)
        check_rank("tokens", given, 1, layout="(T,)")
        if not given.size or given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= size:
            raise ValueError(f"tokens: expected integers from 0 to {size - 1}, at least one, got {tokens!r:.100}")
        hidden = sorted({as_int("never", token, 0) for token in never})
        if hidden[-1:] > [size - 1] or len(hidden) == size:
            raise ValueError(f"never: expected some of the tokens from 0 to {size - 1}, got {never!r:.100}")
        length, seed = as_int("length", length, 0), as_int("seed", seed, 0)
        sampling_probabilities(np.zeros(size), temperature=temperature, top_k=top_k, top_p=top_p)      # checks them

        model: Any = freeze(self).model     # which does not pack its weights again for each token

        def drawn() -> Iterator[int]:
            seen, fresh, caches = given[-context:].tolist(), given[-context:].tolist(), self._caches()
            for place in range(length):
                if len(seen) > context:
                    seen = fresh = seen[-max(1, context // 2) :]
                    caches = self._caches()
                # (1, T) -> (1, T, V), of which the last row counts
                scores = kernels.to_host(model(self._beside(np.array([fresh])), caches)[0, -1]).astype(np.float64)
                scores[hidden] = -np.inf
                shares = sampling_probabilities(scores, temperature=temperature, top_k=top_k, top_p=top_p)
                until = shares.cumsum()
                point = until[-1] * random.generator(seed, "generate", place).random()
                token = int(until.searchsorted(point, side="right"))
                seen, fresh = [*seen, token], [token]
                yield token

        return drawn()

    def attention_weights(self, tokens: Array) -> list[NDArray[Any]]:
        """Return how each token attends to those before it: of each block, shares of shape (N, num_heads, T, T).

        Row t of a head says what share of the values at 0 to t goes into its result at t; the shares sum to 1. This is
        to look at: `forward` does not form them. Tokens are integers of shape (N, T), without padding.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import models
        >>> weights = models.DecoderTransformer().attention_weights(np.array([[2, 40, 41]]))
        >>> len(weights), weights[0].shape, weights[0][0, 0, 0].tolist()
        (4, (1, 2, 3, 3), [1.0, 0.0, 0.0])
        """
        tokens = self._beside(as_array("tokens", tokens))
        check_rank("tokens", tokens, 2, layout="(N, T)")
        n, t = tokens.shape
        heads, size = self.config.num_heads, self.config.head_dim
        x = self.positions(self.embedding(tokens) * math.sqrt(self.config.embed_dim))
        found = []
        blocks: list[Any] = list(self.layers)
        for block in blocks:
            attention = block.self_attn
            rows = block.norm1(x).reshape(n * t, -1)
            projected = kernels.linear(rows, attention.in_proj_weight.data, attention.in_proj_bias.data)
            # (N T, 3 H D) -> (3, N, H, T, D)
            query, key, _ = kernels.to_host(projected).reshape(n, t, 3, heads, size).transpose(2, 0, 3, 1, 4)
            # (N, H, T, D) x (N, H, D, T) -> (N, H, T, T)
            products = np.einsum("nhqd,nhkd->nhqk", query, key) / math.sqrt(size)
            products[..., ~np.tri(t, dtype=bool)] = -np.inf
            found.append(kernels.softmax(products))
            x = block.forward(x, is_causal=True, training=False)[0]
        return found

    def _caches(self) -> list[KeyValueCache]:
        return [KeyValueCache(self.config.context) for _ in self.layers]

    def _beside(self, tokens: NDArray[Any]) -> Array:
        """Return tokens where the model is."""
        return beside(self.embedding.weight.data, tokens)


def sampling_probabilities(scores: NDArray[Any], *, temperature: float = 1.0, top_k: int | None = None,
                           top_p: float | None = None) -> NDArray[np.float64]:
    """Return the probabilities with which the next token is drawn: the softmax of the scores, changed as is usual.

    Parameters
    ----------
    scores : ndarray of floats, shape (V,)
        Those of a model; -inf for what is not to be drawn.
    temperature : float, default 1
        What scores are divided by: below 1 likely tokens become likelier, above 1 the others do. With 0 the likeliest
        is certain, of equal ones the first.
    top_k : int, optional
        Only so many likeliest tokens are left, of equal ones the first.
    top_p : float, optional
        Only as many of the likeliest tokens are left as have a probability of `top_p`, from above 0 to 1, together:
        Holtzman and others, "The curious case of neural text degeneration" (arXiv:1904.09751), section 3.1. It counts
        after the other two.

    Returns
    -------
    ndarray of float64, shape (V,)

    Raises
    ------
    TypeError, ValueError
        If an option is out of range, or the scores have another shape, are nan or inf, or all are -inf.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> scores = np.log([0.5, 0.3, 0.15, 0.05])
    >>> models.sampling_probabilities(scores, top_p=0.7).round(3)
    array([0.625, 0.375, 0.   , 0.   ])
    >>> models.sampling_probabilities(scores, temperature=0)
    array([1., 0., 0., 0.])
    """
    scores = as_array("scores", scores)
    check_rank("scores", scores, 1, layout="(V,)")
    temperature = as_float("temperature", temperature, 0)
    if temperature == math.inf:
        raise ValueError("temperature: expected a finite number, got inf")
    top_k = None if top_k is None else as_int("top_k", top_k, 1)
    if top_p is not None and not 0 < as_float("top_p", top_p) <= 1:
        raise ValueError(f"top_p: expected a number above 0 and at most 1, got {top_p}")
    scores = scores.astype(np.float64)
    if not scores.size or not -math.inf < scores.max() < math.inf:      # which is nan where one is
        raise ValueError("scores: expected numbers, or -inf for some, got "
                         + (f"a largest one of {scores.max()}" if scores.size else "none"))
    if temperature == 0:
        top_k, temperature = 1, 1.0
    kept = np.arange(len(scores)) if top_k is None and top_p is None else np.argsort(-scores, kind="stable")[:top_k]
    with np.errstate(over="ignore"):
        shares = np.exp((scores[kept] - scores.max()) / temperature)
    shares /= shares.sum()
    if top_p is not None:
        enough = 1 + int(shares.cumsum().searchsorted(top_p))
        kept, shares = kept[:enough], shares[:enough] / shares[:enough].sum()
    probabilities = np.zeros(len(scores))
    probabilities[kept] = shares
    return probabilities
