"""The fully connected network: its layers by their options, and the losses by their names."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import models, nn, optim


def layers(**options: object) -> list[str]:
    return [type(layer).__name__ for layer in models.FullyConnectedNet(12, (7, 5), 3, **options)]  # type: ignore[arg-type]


def test_layers_follow_the_options() -> None:
    assert layers() == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert layers(activation="tanh", batch_norm=True, dropout=0.1) == [
        "Flatten", *["Linear", "BatchNorm1d", "Tanh", "Dropout"] * 2, "Linear"]
    assert [type(layer).__name__ for layer in models.FullyConnectedNet(12, (), 3)] == ["Flatten", "Linear"]


def test_a_norm_takes_the_place_of_the_bias_before_it() -> None:
    names = list(models.FullyConnectedNet(12, (7,), 3, batch_norm=True).state_dict())
    assert "1.bias" not in names
    assert {"2.bias", "4.bias"} <= set(names)


@pytest.mark.parametrize(("name", "kind"), [
    ("cross_entropy", nn.CrossEntropyLoss), ("hinge", nn.HingeLoss), ("mse", nn.MSELoss)])
def test_the_loss_by_its_name(name: str, kind: type[nn.Module]) -> None:
    assert isinstance(models.FullyConnectedNet(2, (), 1, loss=name).criterion, kind)


@pytest.mark.parametrize("name", ["he_normal", "he_uniform", "xavier_normal", "xavier_uniform", "normal"])
def test_initial_weights_by_their_name(name: str) -> None:
    weight = models.FullyConnectedNet(300, (200,), init=name).state_dict()["1.weight"]
    expected = {"he": np.sqrt(2 / 300), "xavier": np.sqrt(2 / 500), "normal": 0.01}[name.split("_")[0]]
    assert weight.std() == pytest.approx(expected, rel=0.02)


def test_a_function_may_draw_the_initial_weights() -> None:
    assert not models.FullyConnectedNet(3, (2,), init=nn.init.zeros).state_dict()["1.weight"].any()


@pytest.mark.parametrize(("options", "message"), [
    ({"hidden": 100}, "hidden: expected a sequence of integers, units of each layer, got 100"),
    ({"hidden": (3, 0)}, "hidden: expected at least 1, got 0"),
    ({"dropout": 1}, "dropout: expected from 0 to below 1, got 1"),
    ({"activation": None}, "activation: expected one of relu, .*, got None"),
    ({"activation": nn.ReLU()}, "activation: expected one of relu, .*, got ReLU"),
])
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.FullyConnectedNet(3, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"activation": "swish"}, {"init": "he"}, {"loss": "l1"}])
def test_names_that_are_none(options: dict[str, str]) -> None:
    (name, value), = options.items()
    with pytest.raises(ValueError, match=f"{name}: expected one of .*, got '{value}'"):
        models.FullyConnectedNet(3, **options)  # type: ignore[arg-type]


def test_a_linear_machine_separates_what_can_be_separated() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    points = (np.eye(3)[labels] * 4 + rng.standard_normal((60, 3))).astype(np.float32)
    model = models.LinearSVM(3, 3)
    optimizer = optim.SGD(model.parameters(), 0.1)
    for _ in range(100):
        scores, backward = model.forward(points)
        loss, loss_backward = model.criterion.forward(scores, labels)
        backward(loss_backward(), input_grad=False)
        optimizer.step()
        optimizer.zero_grad()
    assert (model(points).argmax(1) == labels).mean() > 0.95
    assert loss < 0.3
