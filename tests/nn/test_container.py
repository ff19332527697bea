"""Sequential and Residual: which gradients they ask their layers for, and how layers are named."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import nn
from fastnn.testing import check_gradients

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


class Spy(nn.Module):
    """Identity that notes what its backward was asked for."""

    def __init__(self, parameter: bool = False) -> None:
        self.asked: list[bool] = []
        self.weight = nn.Parameter(np.ones(1)) if parameter else None

    def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
        def backward(grad_y: np.ndarray, *, input_grad: bool = True) -> np.ndarray | None:
            assert grad_y is not None
            self.asked.append(input_grad)
            return grad_y if input_grad else None

        return x, backward


def asked(model: nn.Sequential, input_grad: bool) -> list[list[bool]]:
    spies = [module for _, module in model.named_modules() if isinstance(module, Spy)]
    for spy in spies:
        spy.asked.clear()
    y, backward = model.forward(X)
    assert (backward(np.ones_like(y), input_grad=input_grad) is not None) == input_grad
    return [spy.asked for spy in spies]


def test_asks_only_for_gradients_of_use() -> None:
    model = nn.Sequential(Spy(), nn.Sequential(Spy(), Spy(True)), Spy(), Spy(True))
    assert asked(model, True) == [[True]] * 5
    assert asked(model, False) == [[], [], [False], [True], [True]]
    for parameter in model[1].parameters():
        parameter.requires_grad = False
    assert asked(model, False) == [[], [], [], [], [False]]
    for parameter in model.parameters():
        parameter.requires_grad = False
    assert asked(model, False) == [[]] * 5
    assert asked(model, True) == [[True]] * 5


def test_is_a_sequence() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert len(model) == 4
    assert isinstance(model[-1], nn.Linear)
    part = model[1:3]
    assert list(part.state_dict()) == ["1.weight", "1.bias"]
    assert part[0] is model[1]
    np.testing.assert_array_equal(model[2:](part(X)), model(X))
    assert len(nn.Sequential()) == 0
    y, backward = nn.Sequential().forward(X)
    assert y is X
    assert backward(X) is X


def test_named_layers() -> None:
    model = nn.Sequential({"stem": nn.Linear(3, 4), "relu": nn.ReLU()})
    assert list(model.state_dict()) == ["stem.weight", "stem.bias"]
    assert model(X).shape == (2, 4)


@pytest.mark.parametrize("name", ["forward", "a.b", "buffers"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"layer '{name}': expected a name"):
        nn.Sequential({name: nn.ReLU()})


def test_wrong_layers() -> None:
    with pytest.raises(TypeError, match="layer 1: expected a Module, got function"):
        nn.Sequential(nn.ReLU(), np.tanh if isinstance(np.tanh, type(lambda: 0)) else lambda x: x)
    with pytest.raises(TypeError, match="layer 0: expected a Module, got list"):
        nn.Sequential([nn.ReLU()])


def test_errors_say_in_which_layer() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)))
    with pytest.raises(ValueError, match="x: expected 5 features") as error:
        model(X)
    assert error.value.__notes__ == [
        "in layer 1 of Sequential: Linear(in_features=5, out_features=2)",
        f"in layer 0 of Sequential: {model[0]!r}"]


def test_residual() -> None:
    body, shortcut = nn.Linear(3, 2), nn.Linear(3, 2, bias=False)
    block = nn.Residual(body, shortcut)
    assert list(block.state_dict()) == ["body.weight", "body.bias", "shortcut.weight"]
    np.testing.assert_allclose(block(X), np.maximum(body(X) + shortcut(X), 0), rtol=1e-6)
    with pytest.raises(ValueError, match="expected shape"):
        nn.Residual(nn.Linear(3, 2))(X)


@pytest.mark.peers
def test_residual_as_torch() -> None:
    torch = pytest.importorskip("torch")
    block = nn.Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))).to(np.float64)
    body = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3)).double()
    block.body.load_state_dict(body.state_dict())
    x = torch.tensor(X.astype(np.float64), requires_grad=True)
    expected = torch.relu(body(x) + x)
    expected.sum().backward()
    y, backward = block.forward(x.detach().numpy())
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(backward(np.ones_like(y)), x.grad.numpy(), rtol=1e-13)
    for parameter, other in zip(block.parameters(), body.parameters()):
        np.testing.assert_allclose(parameter.grad, other.grad.numpy(), rtol=1e-13)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "norm"), [((5, 3), nn.BatchNorm1d), ((4, 3, 8, 9), nn.BatchNorm2d)])
def test_a_relu_is_fused_with_the_normalization_before_it(shape: tuple[int, ...], norm: type, training: bool) -> None:
    """The same results, gradients and running statistics as one after the other; the ReLU itself never runs."""
    rng = np.random.default_rng(0)
    x, grad = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    models = [nn.Sequential(norm(3), nn.ReLU()), nn.Sequential(nn.Sequential(norm(3)), nn.ReLU())]
    results = []
    for model in models:
        layer = next(m for _, m in model.named_modules() if isinstance(m, norm))
        layer.weight.data[:], layer.bias.data[:] = [1, -2, 0.5], [0.1, -0.2, 0.3]
        y, backward = model.forward(x, training=training)
        results.append([y, backward(grad), layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var])
        assert (y == 0).any()
        assert (y > 0).any()
    for fused, apart in zip(*results):
        np.testing.assert_allclose(fused, apart, rtol=2e-6, atol=2e-6)
    assert list(models[0].state_dict()) == [f"0.{name}" for name in norm(3).state_dict()]


@pytest.mark.parametrize("training", [True, False])
def test_a_relu_is_fused_with_the_convolution_before_it(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, grad = rng.standard_normal((2, 3, 6, 5)).astype(np.float32), rng.standard_normal((2, 4, 6, 5)).astype(np.float32)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    conv.bias.data[:] = rng.standard_normal(4)
    results = []
    for model in [nn.Sequential(nn.Sequential(conv), nn.ReLU()), nn.Sequential(conv, nn.ReLU())]:
        model.zero_grad()
        y, backward = model.forward(x, training=training)
        results.append([y, model(x), backward(grad), conv.weight.grad, conv.bias.grad])
        monkeypatch.setattr(nn.ReLU, "forward", None)       # the fused pair needs none
    assert 0 < (results[0][0] == 0).mean() < 1
    for apart, fused in zip(*results):
        assert apart.tobytes() == fused.tobytes()


def test_only_a_relu_and_a_plain_normalization_are_fused() -> None:
    class Quiet(nn.ReLU):
        def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
            return super().forward(x / 2, training=training)

    class Loud(nn.BatchNorm1d):
        def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
            return super().forward(10 * x, training=training)

    class Double(nn.Conv2d):
        def forward(self, x: np.ndarray, *, training: bool = True) -> tuple[np.ndarray, nn.Backward]:
            return super().forward(2 * x, training=training)

    conv, images = Double(3, 2, 1), X[:, :, None, None]
    np.testing.assert_array_equal(nn.Sequential(conv, nn.ReLU())(images), np.maximum(conv(images), 0))
    np.testing.assert_allclose(nn.Sequential(conv, Quiet())(images), np.maximum(conv(images), 0) / 2, rtol=1e-6)
    plain = nn.BatchNorm1d(3)
    y = np.maximum(plain(X), 0)
    np.testing.assert_allclose(nn.Sequential(plain, Quiet())(X), y / 2, rtol=1e-6)
    np.testing.assert_allclose(nn.Sequential(Loud(3), nn.ReLU())(X), 10 * y, rtol=1e-6)
    np.testing.assert_allclose(nn.Sequential(plain, nn.ReLU(), nn.ReLU())(X), y, rtol=1e-6)
    assert nn.Sequential(nn.ReLU(), plain).forward(X, training=True)[0].min() < 0


def test_gradients_through_a_fused_pair() -> None:
    rng = np.random.default_rng(0)
    for check in check_gradients(nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 1, 1)).to(np.float64),
                                 rng.standard_normal((2, 2, 4, 5))):
        assert check.error < 1e-6, check
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).to(np.float64)
    for check in check_gradients(model, rng.standard_normal((6, 3))):
        assert check.error < 1e-6, check
    model[1].weight.requires_grad = model[1].bias.requires_grad = False
    for check in check_gradients(model, rng.standard_normal((6, 3))):
        assert check.error < 1e-6, check
