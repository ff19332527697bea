"""Optimizers and clipping on a GPU, or in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, nn, optim, random
from fastnn.testing import assert_close

pytestmark = pytest.mark.cuda

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda parameters: optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "RMSProp": lambda parameters: optim.RMSProp(parameters, momentum=0.5),
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
}


class Numbers(nn.Module):
    def __init__(self) -> None:
        rng = random.generator(0, "numbers")
        self.matrix = nn.Parameter(rng.standard_normal((2, 3)))
        self.number = nn.Parameter(np.asarray(rng.standard_normal()))


def set_gradients(model: nn.Module, step: int) -> None:
    rng = random.generator(0, "gradients", step)
    for parameter in model.parameters():
        grad = np.asarray(rng.standard_normal(parameter.data.shape))
        parameter.grad = fastnn.to_device(grad) if _device.is_device(parameter.data) else grad


def trained(make: Callable[[Any], optim.Optimizer], *devices: str) -> tuple[nn.Module, optim.Optimizer]:
    """A step on each of the devices, one after the other, between which only the model is moved."""
    model = Numbers()
    optimizer = make(model.parameters())
    for step, device in enumerate(devices):
        model.to(device)
        set_gradients(model, step)
        optimizer.step()
    return model, optimizer


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert type(array) is np.ndarray
        assert_close(array, theirs[name], dtype=np.float64, what=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_where_the_parameters_are(name: str) -> None:
    model, optimizer = trained(OPTIMIZERS[name], "cpu", "cpu", "cpu", "cpu")
    for devices in (("cuda", "cuda", "cuda", "cuda"), ("cpu", "cuda", "cuda", "cpu")):
        other, moved = trained(OPTIMIZERS[name], *devices)
        assert_same(other.state_dict(), model.state_dict())
        assert_same(moved.state_dict(), optimizer.state_dict())
        for state in moved._states.values():
            assert {key: _device.is_device(array) for key, array in state.items()} == {
                key: devices[-1] == "cuda" and key != "step" for key in state}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_crosses_devices(name: str) -> None:
    model, optimizer = trained(OPTIMIZERS[name], "cpu", "cpu", "cpu")
    for first, second in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")):
        before, saved = trained(OPTIMIZERS[name], first, first)
        after = Numbers().to(second)
        after.load_state_dict(before.state_dict())
        resumed = OPTIMIZERS[name](after.parameters())
        resumed.load_state_dict(saved.state_dict())
        set_gradients(after, 2)
        resumed.step()
        assert_same(after.state_dict(), model.state_dict())
        assert_same(resumed.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_does_not_wait(name: str, nothing_waits: Any) -> None:
    model, optimizer = trained(OPTIMIZERS[name], "cuda")
    set_gradients(model, 1)
    nothing_waits(optimizer.step)


@pytest.mark.parametrize("limit", [0.0, 0.5, 100.0])
def test_clipping_agrees_and_does_not_wait(limit: float, nothing_waits: Any) -> None:
    here, there = Numbers(), Numbers().to("cuda")
    for model in (here, there):
        set_gradients(model, 0)
    norms: list[Any] = []
    expected = optim.clip_grad_norm_(here.parameters(), limit)
    nothing_waits(lambda: norms.append(optim.clip_grad_norm_(there.parameters(), limit)))
    assert _device.is_device(norms[0])
    assert norms[0].shape == ()
    assert float(norms[0]) == pytest.approx(expected, rel=1e-12)
    assert_gradients(there, here)
    optim.clip_grad_value_(here.parameters(), 0.3 + limit)
    nothing_waits(lambda: optim.clip_grad_value_(there.parameters(), 0.3 + limit))
    assert_gradients(there, here)


def assert_gradients(there: nn.Module, here: nn.Module) -> None:
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        assert _device.is_device(ours.grad)
        assert ours.grad.dtype == theirs.grad.dtype
        np.testing.assert_allclose(fastnn.to_host(ours.grad), theirs.grad, rtol=1e-12)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_norm_that_is_not_finite(value: float) -> None:
    results = []
    for device in ("cpu", "cuda"):
        parameter = nn.Parameter(np.zeros(2, np.float32), np.array([value, 1], np.float32))
        if device == "cuda":
            parameter = nn.Parameter(fastnn.to_device(parameter.data), fastnn.to_device(parameter.grad))
        norm = optim.clip_grad_norm_([parameter], 1.0)
        results.append([float(norm), *fastnn.to_host(parameter.grad)])
    np.testing.assert_array_equal(*results)
