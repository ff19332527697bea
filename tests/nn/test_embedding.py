"""Embeddings, learned and sinusoidal."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import nn, random
from fastnn.testing import assert_close, check_gradients

TOKENS = np.array([[0, 3, 3], [2, 1, 0]])


@pytest.mark.peers
@pytest.mark.parametrize("padding", [None, 0, -1])
def test_as_torch(padding: int | None) -> None:
    torch = pytest.importorskip("torch")
    layer, theirs = nn.Embedding(5, 4, padding), torch.nn.Embedding(5, 4, padding)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in layer.state_dict().items()})
    y, backward = layer.forward(TOKENS)
    expected = theirs(torch.tensor(TOKENS))
    assert_close(y, expected.detach().numpy())
    grad = random.generator(0, "grad").standard_normal(y.shape).astype(y.dtype)
    expected.backward(torch.tensor(grad))
    assert backward(grad) is None
    assert_close(layer.weight.grad, theirs.weight.grad.numpy(), gradient=True)


def test_the_row_of_padding_is_zero_and_never_learns() -> None:
    layer = nn.Embedding(5, 4, -5).to(np.float64)
    assert layer.padding_idx == 0
    assert not layer.weight.data[0].any()
    y, backward = layer.forward(TOKENS)
    backward(np.ones_like(y))
    assert layer.weight.grad is not None
    assert not layer.weight.grad[0].any()
    assert layer.weight.grad[1:4].all()


class Tied(nn.Module):
    """Scores of the tokens by the table that they come from."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
        y, embedding_backward = self.embedding.forward(x, training=training)
        scores, head_backward = self.head.forward(y, training=training)
        return scores, lambda grad, input_grad=True: embedding_backward(head_backward(grad))


def test_gradients_of_a_weight_that_is_used_twice() -> None:
    model = Tied().to(np.float64)
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight"]
    checks = check_gradients(model, TOKENS)
    assert [check.name for check in checks] == ["embedding.weight"]
    assert checks[0].error <= 1e-7


def test_waves() -> None:
    layer = nn.SinusoidalEmbedding(6, 100.0, dtype=np.float64)
    t = np.array([[0, 7], [100, 3]])
    y, backward = layer.forward(t)
    assert y.shape == (2, 2, 6)
    for i in range(3):
        np.testing.assert_allclose(y[..., 2 * i], np.sin(t / 100 ** (i / 3)), atol=1e-15)
        np.testing.assert_allclose(y[..., 2 * i + 1], np.cos(t / 100 ** (i / 3)), atol=1e-15)
    assert backward(y) is None


def test_positions() -> None:
    layer, x = nn.SinusoidalPositions(4), random.generator(0, "x").standard_normal((2, 5, 4))
    y, backward = layer.forward(x)
    waves = nn.SinusoidalEmbedding(4, dtype=np.float64)(np.arange(5))
    np.testing.assert_allclose(y, x + waves, atol=1e-12)
    np.testing.assert_array_equal(layer.forward(x[:, 2:], start=2)[0], y[:, 2:])
    assert backward(y) is y
    assert layer(x.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(("make", "match"), [
    (lambda: nn.Embedding(0, 4), "num_embeddings"),
    (lambda: nn.Embedding(3, 4, 3), "padding_idx: expected from -3 to 2, got 3"),
    (lambda: nn.SinusoidalPositions(3), "embedding_dim: expected an even number"),
    (lambda: nn.SinusoidalEmbedding(4, 0), "period: expected a positive number, got 0"),
    (lambda: nn.SinusoidalPositions(4)(np.ones((2, 4))), r"x: expected 3 dimensions \(N, T, embedding_dim\)"),
    (lambda: nn.Embedding(3, 4)(np.array([0, 3])), "got 3"),
])
def test_what_is_refused(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
