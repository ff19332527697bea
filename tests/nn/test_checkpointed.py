"""Checkpointed: the bits of the module that it is around, and less memory."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import models, nn, random

IMAGES = (4, 3, 8, 8)
Wrap = Callable[[nn.Module], nn.Module]


class Block(nn.Composed):
    def __init__(self) -> None:
        self.conv, self.bn, self.drop = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3, momentum=None), nn.Dropout(0.5)

    def composed(self) -> nn.Module:
        return nn.Residual(nn.Sequential(self.conv, self.bn, nn.ReLU(), self.drop))


class Pair(nn.Module):
    """Two inputs, two results."""

    def __init__(self) -> None:
        self.one, self.other = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x: Any, y: Any, *, training: bool = True) -> tuple[Any, nn.Backward]:
        x, x_backward = self.one.forward(x, training=training)
        y, y_backward = self.other.forward(y, training=training)

        @nn.once
        def backward(grad_x: Any, grad_y: Any, *, input_grad: bool = True) -> Any:
            return x_backward(grad_x, input_grad=input_grad), y_backward(grad_y, input_grad=input_grad)

        return (x, y), backward


def plain(module: nn.Module) -> nn.Module:
    return module


def blocks(wrap: Wrap) -> nn.Module:
    return nn.Sequential(wrap(Block()), wrap(Block()), nn.Dropout(0.3), wrap(nn.Sequential(Block(), Block())))


def nested(wrap: Wrap) -> nn.Module:
    return wrap(nn.Sequential(nn.Dropout(0.3), wrap(nn.Sequential(Block(), wrap(Block()))), wrap(Block())))


def shared(wrap: Wrap) -> nn.Module:
    block = wrap(Block())
    return nn.Sequential(block, nn.Tanh(), block)


def frozen_parts(wrap: Wrap) -> nn.Module:
    model = blocks(wrap)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith("0.") and "bn" not in name
    return model


def other_layers(wrap: Wrap) -> nn.Module:
    return wrap(nn.Sequential(nn.MaxPool2d(2), nn.GELU(), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(),
                              nn.Linear(48, 5), nn.BatchNorm1d(5), nn.ReLU()))


MODELS = {make.__name__: make for make in (blocks, nested, shared, frozen_parts, other_layers)}


def built(name: str, wrap: Wrap) -> nn.Module:
    with random.seeded(3):
        return MODELS[name](wrap)


def steps(model: nn.Module, in_steps: bool, training: bool, input_grad: bool) -> list[Any]:
    """All that two training steps give, the second beginning before the first one's backward."""
    rng, found, backwards = random.generator(0, "test"), [], []
    for step in range(2):
        x = rng.standard_normal(IMAGES).astype(np.float32)
        if in_steps:
            with random.at_step(0, step):
                y, backward = model.forward(x, training=training)
        else:
            y, backward = model.forward(x, training=training)
        found.append(y)
        backwards.append(backward)
    for y, backward in zip(found[:], backwards):
        found.append(backward(np.cos(y), input_grad=input_grad))
    return [*found, *(parameter.grad for parameter in model.parameters()), *model.state_dict().values()]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("in_steps", "training", "input_grad"), [
    (True, True, False), (False, True, True), (True, False, True)])
def test_same_bits(name: str, in_steps: bool, training: bool, input_grad: bool) -> None:
    """Results, gradients and running statistics, and masks outside of steps."""
    expected, found = (steps(built(name, wrap), in_steps, training, input_grad) for wrap in (plain, nn.Checkpointed))
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and one.tobytes() == other.tobytes())


def test_names_are_those_without_it() -> None:
    model, checkpointed = built("nested", plain), built("nested", nn.Checkpointed)
    assert list(checkpointed.state_dict()) == list(model.state_dict())
    assert [name for name, _ in checkpointed.named_parameters()] == [name for name, _ in model.named_parameters()]
    for parameter in model.parameters():
        parameter.data += 1
    checkpointed.load_state_dict(model.state_dict())
    model.load_state_dict(checkpointed.state_dict())
    x = np.ones(IMAGES, np.float32)
    np.testing.assert_array_equal(checkpointed(x), model(x))
    np.testing.assert_array_equal(copy.deepcopy(checkpointed)(x), model(x))


def test_several_inputs_and_results() -> None:
    x, y = np.ones((2, 4, 8), np.float32)
    found = []
    for wrap in (plain, nn.Checkpointed):
        with random.seeded(0):
            model = wrap(Pair())
        results, backward = model.forward(x, y)
        found.append([*results, *backward(x, y), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


def test_backward_runs_once_and_not_after_inference() -> None:
    model, x = nn.Checkpointed(nn.Linear(2, 2)), np.ones((1, 2), np.float32)
    y, backward = model.forward(x)
    backward(y)
    with pytest.raises(RuntimeError, match="backward was called before"):
        backward(y)


def test_an_error_leaves_nothing_behind() -> None:
    """The next forward pass keeps what it needs, and draws on."""
    model, x = nn.Checkpointed(nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))), np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="x: expected 3 features") as error:
        model.forward(x)
    assert "in layer 1 of Sequential" in error.value.__notes__[0]
    y, backward = nn.Linear(2, 2).forward(x)
    assert backward(y).shape == x.shape


def test_it_is_summarized_by_its_input() -> None:
    block = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Tanh())
    costs = fastnn.summary(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Checkpointed(block)), (3, 8, 8))
    assert [(line.name, line.type, line.parameters, line.kept) for line in costs.layers] == [
        ("0", "Conv2d", 12, 4 * 192), ("1.0", "Conv2d", 140, 0), ("1.1", "BatchNorm2d", 10, 0), ("1.2", "Tanh", 0, 0),
        ("1", "Checkpointed", 0, 4 * 192)]


def test_freeze_sees_through_it() -> None:
    frozen = fastnn.freeze(nn.Sequential(nn.Checkpointed(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4),
                                         nn.Checkpointed(nn.Sequential(nn.ReLU(), nn.Dropout()))))
    assert [type(layer).__name__ for layer in frozen.model] == ["Conv2d", "ReLU"]


@pytest.mark.parametrize("module", [nn.Linear, [nn.ReLU()], None])
def test_wrong_module(module: Any) -> None:
    with pytest.raises(TypeError, match=r"module: expected a Module, got (type|list|NoneType)"):
        nn.Checkpointed(module)


def test_a_step_of_a_resnet_needs_less_memory() -> None:
    """About as much less as its summary says."""
    code = """
import tracemalloc
import numpy as np
import fastnn
from fastnn import models
x = np.zeros((32, 3, 16, 16), np.float32)
for checkpointed in (False, True):
    model = models.ResNet50(10, small_images=True, width=8, checkpointed=checkpointed)
    for step in (1, 2):
        if step == 2:                                                       # all is compiled
            fastnn.clear_pool()
            tracemalloc.start()
        scores, backward = model.forward(x, training=True)
        if step == 2:
            fastnn.clear_pool()
            kept = tracemalloc.get_traced_memory()[0] + x.nbytes
        backward(scores, input_grad=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(kept / len(x), fastnn.summary(model, (3, 16, 16)).kept, peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (all_kept, all_said, all_peak), (kept, said, peak) = (map(float, line.split()) for line in done.stdout.splitlines())
    assert kept == pytest.approx(said, rel=0.1)
    assert all_kept == pytest.approx(all_said, rel=0.1)
    assert kept < 0.4 * all_kept
    assert peak < 0.6 * all_peak


def test_blocks_of_resnets_are_checkpointed_on_request() -> None:
    for checkpointed in (False, True):
        model = models.ResNet34(10, small_images=True, width=4, checkpointed=checkpointed)
        assert sum(isinstance(module, nn.Checkpointed) for _, module in model.named_modules()) == 16 * checkpointed
        assert list(model.state_dict()) == list(models.ResNet34(10, small_images=True, width=4).state_dict())
