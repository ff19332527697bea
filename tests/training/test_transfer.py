"""Layers that stay as they are in training, and heads that are new."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from fastnn import data, models, nn, optim, training


def network(*, affine: bool = True) -> nn.Sequential:
    norm = functools.partial(nn.BatchNorm2d, 4, affine=affine)
    return nn.Sequential({"conv1": nn.Conv2d(1, 4, 3, padding=1), "bn1": norm(), "relu": nn.ReLU(),
                          "layer1": nn.Sequential(nn.Conv2d(4, 4, 3, stride=2), norm(), nn.ReLU()),
                          "flatten": nn.Flatten(), "fc": nn.Linear(36, 10)})


@pytest.mark.parametrize(("patterns", "frozen"), [
    ((), []),
    ("conv1", ["conv1.weight", "conv1.bias"]),
    (["conv?.weight", "layer1.0"], ["conv1.weight", "layer1.0.weight", "layer1.0.bias"]),
    (["layer[12]*", "bn1.bias"], ["bn1.bias", "layer1.0.weight", "layer1.0.bias", "layer1.1.weight", "layer1.1.bias"]),
])
def test_patterns_freeze_parameters_and_layers(patterns: Any, frozen: list[str]) -> None:
    model = network()
    assert training.freeze_layers(model, patterns) == frozen
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == frozen
    assert not model.bn1.frozen             # only one of its parameters is
    assert model.layer1[1].frozen == ("layer1.1.weight" in frozen)


@pytest.mark.parametrize(("patterns", "frozen"), [
    ("layer1", ["layer1.0.weight", "layer1.0.bias"]), ("layer1.1", []), (["conv1", "layer1.?"], [
        "conv1.weight", "conv1.bias", "layer1.0.weight", "layer1.0.bias"])])
def test_batch_normalization_without_parameters_is_frozen_by_its_name(patterns: Any, frozen: list[str]) -> None:
    model = network(affine=False)
    assert training.freeze_layers(model, patterns) == frozen
    assert (model.bn1.frozen, model.layer1[1].frozen) == (False, True)


def test_nothing_is_frozen_where_there_are_no_patterns() -> None:
    assert training.freeze_layers(nn.Sequential(nn.Flatten()), ()) == []


def test_what_is_frozen_keeps_its_bits_in_training() -> None:
    digits, model = data.digits(), network()
    training.freeze_layers(model, ["conv1", "bn1"])
    before = model.state_dict()
    trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.AdamW(model.parameters(), 0.01), progress=False)
    trainer.fit(data.DataLoader(digits.train, 500, transform=data.Normalize(0.3, 0.4, 16)), epochs=1)
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[name]) == name.startswith(("conv1", "bn1")), name


@pytest.mark.parametrize(("patterns", "error", "message"), [
    (["conv1", "cnov2*"], ValueError, "calls conv1.weight, .*; got 'cnov2\\*', which fits none"),
    (["*"], ValueError, "freeze: expected patterns that leave something to be learned, got \\*, which fit all"),
    ([3], TypeError, r"freeze: expected patterns of names, got \[3\]"),
    (None, TypeError, "freeze: expected patterns of names, got None"),
])
def test_patterns_that_are_refused_change_nothing(patterns: Any, error: type[Exception], message: str) -> None:
    model = network()
    with pytest.raises(error, match=message):
        training.freeze_layers(model, patterns)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("model", "names"), [
    (network(), ["fc.weight", "fc.bias"]),
    (models.AllCNN(width=2), ["26.weight", "26.bias"]),
    (models.SpeedrunNet(width=2), ["fc.weight"]),
    (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]),
    (nn.BatchNorm1d(2), []),
])
def test_the_head_is_the_last_layer_with_what_follows_it(model: nn.Module, names: list[str]) -> None:
    assert training.head(model) == names
