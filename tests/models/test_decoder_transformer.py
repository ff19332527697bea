"""The decoder transformer: what each token sees, the cache, generation, and the same network in PyTorch."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import models, nn, recipes, testing

LANGUAGE = Path(__file__).parents[2] / "asv_benchmarks" / "language.py"
CONFIG = models.DecoderTransformerConfig(30, 8, embed_dim=12, num_heads=2, head_dim=4, num_layers=2, hidden=10)
TOKENS = np.array([[2, 5, 9, 4, 7, 3, 8, 6], [2, 6, 6, 11, 3, 0, 0, 0]])


def model(dtype: Any = np.float32, **options: Any) -> models.DecoderTransformer:
    """A model whose weights are large enough that every token counts."""
    decoder = models.DecoderTransformer(models.DecoderTransformerConfig(**{**vars(CONFIG), **options})).to(dtype)
    rng = np.random.default_rng(0)
    for parameter in decoder.parameters():
        parameter.data += 0.2 * rng.standard_normal(parameter.data.shape)
    return decoder


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"dropout": 0.2, "padding": None}])
def test_gradients(options: dict[str, Any]) -> None:
    tokens = np.random.default_rng(1).integers(1, 30, (2, 6))
    checks = testing.check_gradients(model(np.float64, **options), tokens, whole=True)
    assert max(check.error for check in checks) <= 1e-7


def test_a_tied_weight_gets_the_sum_of_both_gradients() -> None:
    tied, apart = model(np.float64, tied=True), model(np.float64)
    apart.load_state_dict(tied.state_dict())
    assert len(list(tied.parameters())) == len(list(apart.parameters())) - 1
    for decoder in (tied, apart):
        scores, backward = decoder.forward(TOKENS)
        backward(grad := np.cos(np.arange(scores.size)).reshape(scores.shape), input_grad=False)
        np.testing.assert_array_equal(grad.reshape(-1), np.cos(np.arange(scores.size)))
    np.testing.assert_allclose(tied.head.weight.grad, apart.head.weight.grad + apart.embedding.weight.grad, rtol=1e-12)


def test_a_token_sees_those_before_it_and_no_padding() -> None:
    decoder = model()
    scores, later = decoder(TOKENS), TOKENS.copy()
    later[0, 5] = 13
    changed = (decoder(later) != scores).any(2)
    np.testing.assert_array_equal(changed, [[False] * 5 + [True] * 3, [False] * 8])
    np.testing.assert_allclose(decoder(TOKENS[1:, :5]), scores[1:, :5], rtol=1e-4, atol=1e-5)
    assert np.isfinite(decoder(np.array([[0, 0, 2, 6]]))).all()         # where the first rows attend to nothing


def test_with_a_cache_the_scores_are_the_same() -> None:
    decoder = model()
    for cuts in ((1,) * 8, (5, 1, 2), (8,)):
        caches, start, parts = [nn.KeyValueCache() for _ in decoder.layers], 0, []
        for cut in cuts:
            parts.append(decoder(TOKENS[:1, start : start + cut], caches))
            start += cut
        np.testing.assert_allclose(np.concatenate(parts, 1), decoder(TOKENS[:1]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="caches: expected one for each of the 2 blocks, got 1"):
        decoder(TOKENS[:1], caches[:1])
    with pytest.raises(ValueError, match="tokens: expected at most 0 of a sequence, the context of 8 without the 8"):
        decoder(TOKENS[:1, :1], caches)


def test_attention_to_look_at_is_that_of_the_forward_pass() -> None:
    decoder: Any = model(np.float64)
    found = decoder.attention_weights(TOKENS[:1])
    x = decoder.positions(decoder.embedding(TOKENS[:1]) * np.sqrt(12))
    for block, weights in zip(decoder.layers, found, strict=True):
        assert weights.shape == (1, 2, 8, 8)
        np.testing.assert_allclose(weights.sum(3), 1)
        assert not np.triu(weights, 1).any()
        rows, attention = block.norm1(x), block.self_attn
        values = rows @ attention.in_proj_weight.data[-8:].T + attention.in_proj_bias.data[-8:]
        means = weights @ values.reshape(1, 8, 2, 4).swapaxes(1, 2)                     # (1, H, T, D)
        np.testing.assert_allclose(attention.out_proj(means.swapaxes(1, 2).reshape(1, 8, 8)),
                                   attention.forward(rows, is_causal=True)[0], rtol=1e-9)
        x = block.forward(x, is_causal=True)[0]


def test_with_temperature_0_the_likeliest_token_is_next() -> None:
    decoder, tokens = model(), [2]
    for _ in range(7):
        tokens.append(int(decoder(np.array([tokens]))[0, -1].argmax()))
    assert list(decoder.generate([2], 7, temperature=0, seed=5)) == tokens[1:]


def test_generation_follows_from_the_seed_and_forgets_what_leaves_the_context() -> None:
    decoder = model()
    drawn = list(decoder.generate([2, 5], 30, seed=1, never=[0, 1]))
    assert drawn == list(decoder.generate([2, 5], 30, seed=1, never=[0, 1]))
    assert drawn[:4] == list(decoder.generate((2, 5), 4, seed=1, never=[0, 1]))
    assert drawn != list(decoder.generate([2, 5], 30, seed=2, never=[0, 1]))
    assert not {0, 1} & set(drawn)
    # Of a prompt that is longer than the context, the end counts; a full context leaves its younger half.
    long = np.random.default_rng(0).integers(2, 30, 20)
    assert list(decoder.generate(long, 9, seed=3)) == list(decoder.generate(long[-8:], 9, seed=3))
    first, second = itertools.islice(decoder.generate(long, 2, temperature=0), 2)
    assert second == int(decoder(np.array([[*long[-3:], first]]))[0, -1].argmax())


@pytest.mark.parametrize(("arguments", "options", "message"), [
    (([], 3), {}, "tokens: expected integers from 0 to 29, at least one, got"),
    (([30], 3), {}, "tokens: expected integers from 0 to 29"),
    (([1.5], 3), {}, "tokens: expected integers from 0 to 29"),
    (([[2]], 3), {}, r"tokens: expected 1 dimensions \(T,\), got shape \(1, 1\)"),
    (([2], -1), {}, "length: expected at least 0, got -1"),
    (([2], 3), {"temperature": -0.5}, "temperature: expected a number from 0 to inf, got -0.5"),
    (([2], 3), {"temperature": np.inf}, "temperature: expected a finite number, got inf"),
    (([2], 3), {"top_k": 0}, "top_k: expected at least 1, got 0"),
    (([2], 3), {"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
    (([2], 3), {"top_p": 1.5}, "top_p: expected a number above 0 and at most 1, got 1.5"),
    (([2], 3), {"never": range(30)}, "never: expected some of the tokens from 0 to 29"),
    (([2], 3), {"never": [30]}, "never: expected some of the tokens from 0 to 29"),
])
def test_what_cannot_be_generated_is_said_before_anything_is_drawn(arguments: Any, options: dict[str, Any],
                                                                   message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().generate(*arguments, **options)


def test_sampling_probabilities() -> None:
    scores = np.array([1.0, 3.0, 2.0, 3.0, -np.inf])
    shares = models.sampling_probabilities
    exact = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(shares(scores), exact)
    np.testing.assert_allclose(shares(scores, temperature=0.5), exact**2 / (exact**2).sum())
    np.testing.assert_allclose(shares(scores, top_k=3), [0, *exact[1:4] / exact[1:4].sum(), 0])
    np.testing.assert_allclose(shares(scores, top_p=1.0), exact)
    assert shares(scores, top_p=1e-9).tolist() == [0, 1, 0, 0, 0]           # of equal ones the first
    assert shares(scores, temperature=0).tolist() == [0, 1, 0, 0, 0]
    assert shares(scores, temperature=1e-300).tolist() == [0, 0.5, 0, 0.5, 0]
    assert shares(np.array([0.0, 1e6]), top_k=2).tolist() == [0, 1]
    for bad in ([], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]):
        with pytest.raises(ValueError, match="scores: expected numbers, or -inf for some, got"):
            shares(np.array(bad))


def test_sequences_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"tokens: expected at most 8 of a sequence, the context of 8, got shape"):
        model()(np.ones((1, 9), int))
    with pytest.raises(ValueError, match=r"tokens: expected 2 dimensions \(N, T\), got shape \(3,\)"):
        model()(np.ones(3, int))
    with pytest.raises(ValueError, match="context: expected at least 1, got 0"):
        models.DecoderTransformerConfig(context=0)
    with pytest.raises(ValueError, match=r"embed_dim: expected an even number, .* got 5"):
        models.DecoderTransformerConfig(embed_dim=5)
    with pytest.raises(ValueError, match="padding: expected a token from 0 to 8, got 9"):
        models.DecoderTransformerConfig(9, padding=9)
    assert model()(TOKENS[:0]).shape == (0, 8, 30)


@pytest.mark.peers
@pytest.mark.parametrize("tied", [False, True])
def test_it_learns_as_its_twin_in_torch_does(tied: bool) -> None:
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("language", LANGUAGE)
    assert spec is not None
    assert spec.loader is not None
    language = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(language)
    decoder, recipe = model(tied=tied), recipes.TransformerLM(lr=0.01)
    twin = language.torch_twin(torch, decoder)
    targets = np.where(TOKENS == 0, -100, (3 * TOKENS + 1) % 30)
    ours, theirs = language.our_step(decoder, recipe), language.torch_step(torch, twin, recipe)
    losses = np.array([(ours(TOKENS, targets), theirs(TOKENS, targets)) for _ in range(5)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-4)
    assert losses[-1, 0] < losses[0, 0]
    drawn = list(itertools.islice(language.torch_generate(torch, twin, 2, 20, CONFIG.context), 20))
    assert all(0 <= token < 30 for token in drawn)
