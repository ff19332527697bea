"""Attention of several heads: against torch, against differences, and row by row with a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnn import freeze, nn, random
from fastnn.testing import assert_close, check_gradients

N, L, S, E, H = 2, 5, 4, 6, 2


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return random.generator(seed, "x").standard_normal(shape)


PADDING = np.array([[False, False, False, True, True], [False] * 5])
HIDDEN = draw(L, L, seed=3) > 0.5
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"is_causal": True},
    "padding": {"key_padding_mask": PADDING},
    "hidden": {"attn_mask": HIDDEN},
    "added": {"attn_mask": draw(L, L, seed=4)},
    "padding and hidden": {"key_padding_mask": PADDING, "attn_mask": HIDDEN & ~np.eye(L, dtype=bool)},
    "padding and added": {"key_padding_mask": PADDING, "attn_mask": draw(L, L, seed=4)},
    "padding and causal": {"key_padding_mask": PADDING, "is_causal": True},
}


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with random.seeded(0):
        return make().to(np.float64)


class With(nn.Module):
    """A module with some options of its forward."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        self.module = module
        self._options = options

    def forward(self, *inputs: np.ndarray, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
        return self.module.forward(*inputs, training=training, **self._options)


@pytest.mark.peers
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("bias", [True, False])
def test_as_torch(name: str, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    layer, x, grad = built(lambda: nn.MultiheadAttention(E, H, bias=bias)), draw(N, L, E), draw(N, L, E, seed=1)
    theirs = torch.nn.MultiheadAttention(E, H, bias=bias, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict({key: torch.tensor(array) for key, array in layer.state_dict().items()})
    tensor = torch.tensor(x, requires_grad=True)
    options = {key: torch.tensor(value) for key, value in MASKS[name].items()}
    if options.pop("is_causal", None) is not None:
        options["attn_mask"] = torch.ones(L, L, dtype=torch.bool).triu(1)
    if options.get("attn_mask") is not None and options["attn_mask"].dtype != torch.bool and len(options) == 2:
        options["key_padding_mask"] = torch.zeros(N, L, dtype=torch.float64).masked_fill(
            options["key_padding_mask"], -torch.inf)
    expected = theirs(tensor, tensor, tensor, need_weights=False, **options)[0]
    expected.backward(torch.tensor(grad))
    y, backward = layer.forward(x, **MASKS[name])
    assert_close(y, expected.detach().numpy())
    assert_close(backward(grad), tensor.grad.numpy(), gradient=True)
    for (key, ours), other in zip(layer.named_parameters(), theirs.parameters(), strict=True):
        assert_close(ours.grad, other.grad.numpy(), gradient=True, what=key)


@pytest.mark.parametrize("name", MASKS)
def test_gradients(name: str) -> None:
    layer = built(lambda: nn.MultiheadAttention(E, H, head_dim=2))
    for check in check_gradients(With(layer, **MASKS[name]), draw(N, L, E)):
        assert check.error <= 1e-7, check


def test_gradients_between_sequences() -> None:
    layer = built(lambda: nn.MultiheadAttention(E, H))
    checks = check_gradients(layer, draw(N, L, E), draw(N, S, E, seed=1), draw(N, S, E, seed=2))
    assert len(checks) == 4 + 3
    assert max(check.error for check in checks) <= 1e-7


def test_one_sequence_is_all_three() -> None:
    layer, x = built(lambda: nn.MultiheadAttention(E, H)), draw(N, L, E)
    y, backward = layer.forward(x)
    grad = backward(np.ones_like(y))
    thrice, thrice_backward = layer.forward(x, x, x)
    assert_close(thrice, y)
    assert_close(sum(thrice_backward(np.ones_like(y))), grad, gradient=True)


def test_padding_changes_nothing_for_others() -> None:
    layer, x = built(lambda: nn.MultiheadAttention(E, H)), draw(N, L, E)
    y = layer.forward(x, key_padding_mask=PADDING)[0]
    x[0, 3:] = np.nan
    assert_close(layer.forward(x, key_padding_mask=PADDING)[0][0, :3], y[0, :3])
    alone = layer.forward(x[:1, :3])[0]
    assert_close(alone[0], y[0, :3])


def test_a_row_that_attends_to_nothing_gets_the_bias() -> None:
    layer = built(lambda: nn.MultiheadAttention(E, H))
    layer.out_proj.bias.data[:] = draw(E)
    y, backward = layer.forward(draw(N, L, E), key_padding_mask=np.ones((N, L), bool))
    np.testing.assert_array_equal(y, np.broadcast_to(layer.out_proj.bias.data, y.shape))
    assert not backward(np.ones_like(y)).any()


@pytest.mark.parametrize("steps", [[1] * 7, [3, 1, 2, 1], [7]])
def test_row_by_row_with_a_cache(steps: list[int]) -> None:
    layer, x = built(lambda: nn.MultiheadAttention(E, H)), draw(N, 7, E)
    expected = layer.forward(x, is_causal=True)[0]
    cache, start = nn.KeyValueCache(capacity=2), 0
    for step in steps:
        y, backward = layer.forward(x[:, start : start + step], cache=cache, training=False)
        assert_close(y, expected[:, start : start + step])
        start += step
        assert cache.length == start
    with pytest.raises(RuntimeError, match="gradients do not flow through a cache"):
        backward(y)


def test_no_sequences_give_no_results() -> None:
    layer = built(lambda: nn.MultiheadAttention(E, H))
    y, backward = layer.forward(draw(0, L, E))
    assert y.shape == backward(y).shape == (0, L, E)
    assert not layer.in_proj_weight.grad.any()


def test_a_frozen_layer_packs_its_weights_once() -> None:
    layer, x = built(lambda: nn.MultiheadAttention(16, 2)), draw(N, 1, 16)
    frozen = freeze(layer)
    assert frozen(x).tobytes() == frozen(x).tobytes() == layer(x).tobytes()
    attention: Any = frozen.model
    assert attention._kept.last[0] is attention.in_proj_weight.data


def test_gradients_of_a_block() -> None:
    block = built(lambda: nn.TransformerBlock(E, H, 7, head_dim=2))
    for check in check_gradients(With(block, is_causal=True), draw(N, L, E)):
        assert check.error <= 1e-7, check


@pytest.mark.peers
def test_a_block_as_torch() -> None:
    torch = pytest.importorskip("torch")
    block = built(lambda: nn.TransformerBlock(E, H, 7))
    theirs = torch.nn.TransformerEncoderLayer(E, H, 7, 0.0, "gelu", batch_first=True, norm_first=True,
                                              dtype=torch.float64)
    theirs.load_state_dict({key: torch.tensor(array) for key, array in block.state_dict().items()})
    x = draw(N, L, E)
    expected = theirs(torch.tensor(x), src_mask=torch.ones(L, L, dtype=torch.bool).triu(1))
    assert_close(block.forward(x, is_causal=True)[0], expected.detach().numpy())


def test_dropout_is_for_training() -> None:
    block, x = built(lambda: nn.TransformerBlock(E, H, 7, dropout=0.5)), draw(N, L, E)
    with random.at_step(0, 0, 0):
        y = block.forward(x)[0]
    assert not np.allclose(y, block(x))
    np.testing.assert_array_equal(block(x), block(x))


@pytest.mark.parametrize(("error", "call", "match"), [
    (ValueError, lambda: nn.MultiheadAttention(5, 2), "num_heads: expected a divisor of embed_dim = 5"),
    (ValueError, lambda: layer().forward(draw(L, E)), r"query: expected 3 dimensions \(N, T, embed_dim\)"),
    (ValueError, lambda: layer().forward(draw(N, L, E + 1)), r"query: expected shape \(2, T, 6\), got \(2, 5, 7\)"),
    (ValueError, lambda: layer().forward(draw(N, L, E), draw(1, S, E), draw(1, S, E)), "key: expected shape"),
    (TypeError, lambda: layer().forward(draw(N, L, E), draw(N, L, E)), "key, value: expected both or none"),
    (TypeError, lambda: layer().forward(draw(N, L, E), key_padding_mask=np.ones((N, L))), "mask: expected bool"),
    (ValueError, lambda: layer().forward(draw(N, L, E), key_padding_mask=PADDING[:1]), "padding_mask: expected shape"),
    (ValueError, lambda: layer().forward(draw(N, L, E), attn_mask=HIDDEN[:2]), "attn_mask: expected shape"),
    (TypeError, lambda: layer().forward(draw(N, L, E), attn_mask=HIDDEN, cache=full(N)), "cache: expected no"),
    (ValueError, lambda: full(N).append(draw(1, H, 1, 3), draw(1, H, 1, 3)), "cache: it holds rows of 2 sequences"),
])
def test_what_is_refused(error: type[Exception], call: Callable[[], Any], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def layer() -> nn.MultiheadAttention:
    return built(lambda: nn.MultiheadAttention(E, H))  # type: ignore[return-value]


def full(sequences: int) -> nn.KeyValueCache:
    cache = nn.KeyValueCache()
    cache.append(draw(sequences, H, 1, 3), draw(sequences, H, 1, 3))
    return cache


def test_a_mask_of_integers_is_refused_with_padding_too() -> None:
    layer, x = nn.MultiheadAttention(8, 2), np.zeros((2, 3, 8), np.float32)
    for padding in (None, np.zeros((2, 3), bool)):
        with pytest.raises(TypeError, match="attn_mask: expected bool or float32 as the query has, got int64"):
            layer.forward(x, attn_mask=np.zeros((3, 3), np.int64), key_padding_mask=padding)
