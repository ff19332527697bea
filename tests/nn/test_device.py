"""Modules on a GPU, or in the simulator: what moves, and that layers do there what they do on the host."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, nn, random
from fastnn.testing import assert_close

pytestmark = pytest.mark.cuda

IMAGES = (2, 2, 4, 4)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(3, 2), (2, 3)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), IMAGES),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 1, 2, stride=2), (2, 2, 2, 2)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2, momentum=None), (2, 2, 2, 2)),
    "LayerNorm": (lambda: nn.LayerNorm(3), (2, 3)),
    "GroupNorm": (lambda: nn.GroupNorm(1, 2), (2, 2, 2)),
    "SinusoidalPositions": (lambda: nn.SinusoidalPositions(4), (2, 3, 4)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), (2, 3, 4)),
    "TransformerBlock": (lambda: nn.TransformerBlock(4, 1, 3), (1, 2, 4)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), IMAGES),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 1, padding=1), IMAGES),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(1), IMAGES),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(3), IMAGES),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), IMAGES),
    "Upsample, bilinear": (lambda: nn.Upsample(3, mode="bilinear"), IMAGES),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.1), (3, 2)),
    "Sigmoid": (nn.Sigmoid, (3, 2)),
    "Tanh": (nn.Tanh, (3, 2)),
    "GELU": (nn.GELU, (3, 2)),
    "SiLU": (nn.SiLU, (3, 2)),
    "Softplus": (lambda: nn.Softplus(2.0), (3, 2)),
    "Softmax": (lambda: nn.Softmax(0), (3, 2)),
    "LogSoftmax": (nn.LogSoftmax, (3, 2)),
    "Dropout": (lambda: nn.Dropout(0.4), (3, 5)),
    "Flatten": (nn.Flatten, (2, 1, 2, 2)),
    "Residual": (lambda: nn.Residual(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), (3, 2)),
    "fused": (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.BatchNorm2d(2), nn.ReLU()), (2, 1, 3, 3)),
}


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with random.seeded(0):
        return make().to(np.float64)


def passed(layer: nn.Module, x: Any) -> tuple[Any, ...]:
    """The result of a layer, its gradients and buffers, and the result in inference."""
    with random.at_step(0, 0, 0):
        y, backward = layer.forward(x, training=True)
    grad_x = backward(y)
    return y, grad_x, *(p.grad for p in layer.parameters()), *layer.state_dict().values(), layer(x)


@pytest.mark.parametrize("layer", [nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(2)], ids=str)
def test_arrays_of_other_libraries_are_for_kernels(layer: nn.Module) -> None:
    """A layer may do more with its input than hand it to kernels."""
    x = _device.cuda.to_device(np.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match=r"^x: expected a NumPy or CuPy array, got .*; give cupy.asarray\(x\)"):
        layer.to("cuda").forward(x)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_does_what_it_does_on_the_host(name: str, nothing_waits: Any) -> None:
    make, shape = LAYERS[name]
    x = random.generator(0, "x").standard_normal(shape)
    expected = passed(built(make), x)
    layer, placed = built(make).to("cuda"), fastnn.to_device(x)
    found = passed(layer, placed)
    assert all(_device.is_device(array) for array in (*found[:2], found[-1], *(p.grad for p in layer.parameters())))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(fastnn.to_host(ours), theirs, rtol=1e-9, atol=1e-12)

    def step() -> None:
        y, backward = layer.forward(placed, training=True)
        backward(y)

    nothing_waits(step)


def test_waves_are_made_where_the_numbers_lie(nothing_waits: Any) -> None:
    layer, numbers = nn.SinusoidalEmbedding(6), np.array([0, 7, 999])
    placed = fastnn.to_device(numbers)
    found = layer(placed)
    assert _device.is_device(found)
    np.testing.assert_allclose(fastnn.to_host(found), layer(numbers), rtol=1e-6, atol=1e-6)
    nothing_waits(lambda: layer(placed))


SCORES = random.generator(0, "scores").standard_normal((3, 4))


@pytest.mark.parametrize(("loss", "truth"), [
    (nn.CrossEntropyLoss(0.1), np.array([0, 3, 1])), (nn.CrossEntropyLoss(0.1), np.full((3, 4), 0.25)),
    (nn.CrossEntropyLoss(weight=np.arange(1.0, 5), ignore_index=3), np.array([0, 3, 1])),
    (nn.BCEWithLogitsLoss(pos_weight=np.arange(1.0, 5)), abs(SCORES) / 9),
    (nn.HingeLoss(), np.array([0, 3, 1])), (nn.MSELoss(), SCORES[::-1].copy())], ids=repr)
def test_a_loss_stays_on_the_gpu(loss: nn.Module, truth: Any, nothing_waits: Any) -> None:
    scores = SCORES
    expected, backward = loss.forward(scores, truth)
    loss = copy.deepcopy(loss).to("cuda")
    results: list[Any] = []

    def step() -> None:
        value, device_backward = loss.forward(*placed)
        results[:] = value, device_backward()

    placed = fastnn.to_device(scores), fastnn.to_device(truth)
    nothing_waits(step)
    assert all(map(_device.is_device, results))
    assert results[0].shape == ()
    assert_close([fastnn.to_host(result) for result in results], [np.asarray(expected), backward()], dtype=np.float64)


# --- what moves ---


def trained_once() -> nn.Module:
    with random.seeded(0):
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    y, backward = model.forward(np.arange(12, dtype=np.float32).reshape(4, 3))
    backward(y)
    return model


def arrays(model: nn.Module) -> list[Any]:
    return [array for p in model.parameters() for array in (p.data, p.grad)] + [model[1].running_mean,
                                                                                model[1].running_var]


def test_parameters_gradients_and_buffers_move() -> None:
    model = trained_once()
    before = [array.copy() for array in arrays(model)]
    state = model.state_dict()
    assert model.to("cuda") is model
    assert all(map(_device.is_device, arrays(model)))
    assert type(model[1].num_batches_tracked) is np.ndarray        # the host counts
    for name, array in model.state_dict().items():
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, state[name], strict=True)
    model.to("cpu")
    for moved, array in zip(arrays(model), before, strict=True):
        assert type(moved) is np.ndarray
        np.testing.assert_array_equal(moved, array, strict=True)


def test_dtypes_change_there_too() -> None:
    model = trained_once().to("cuda").to(np.float64)
    assert all(_device.is_device(array) and array.dtype == np.float64 for array in arrays(model))


def test_a_state_loads_wherever_the_module_lies() -> None:
    source = trained_once()
    state = source.state_dict()
    for given in (state, {name: fastnn.to_device(array) for name, array in state.items()}):
        for device in ("cpu", "cuda"):
            model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(device)
            model.load_state_dict(given)
            assert _device.is_device(model[0].weight.data) == (device == "cuda")
            for name, array in model.state_dict().items():
                np.testing.assert_array_equal(array, state[name], strict=True)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to("cuda")
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"nothing was loaded: mismatched: 1\.bias"):
        model.load_state_dict({**state, "1.bias": np.zeros(3, np.float32)})
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_parameters_of_device_arrays() -> None:
    data = fastnn.to_device(np.arange(6.0).reshape(2, 3))
    assert nn.Parameter(data).data is data
    parameter = nn.Parameter(data.T)
    assert parameter.data.flags.c_contiguous
    parameter.accumulate(data.T)
    parameter.accumulate(data.T)
    np.testing.assert_array_equal(fastnn.to_host(parameter.grad), 2 * np.arange(6.0).reshape(2, 3).T)
    with pytest.raises(TypeError, match="data: expected a NumPy or CuPy array of float32 or float64, got int64"):
        nn.Parameter(fastnn.to_device(np.arange(3)))


def test_inputs_on_the_other_side_are_an_error_that_names_the_layer() -> None:
    model = trained_once()
    with pytest.raises(TypeError, match=r"fastnn\.to_device or fastnn\.to_host") as caught:
        model.forward(fastnn.to_device(np.ones((2, 3), np.float32)))
    assert caught.value.__notes__ == ["in layer 0 of Sequential: Linear(in_features=3, out_features=2)"]


# --- dropout ---


def test_dropout_draws_the_bits_that_it_draws_on_the_host() -> None:
    x = np.ones((3, 7), np.float32)
    with random.seeded(0):
        layer = nn.Dropout(0.3)
    with random.seeded(0):
        other = nn.Dropout(0.3)
    for step in range(3):
        with random.at_step(5, 1, step):
            here = [layer.forward(x)[0] for _ in range(2)]
        with random.at_step(5, 1, step):
            there = [other.forward(fastnn.to_device(x))[0] for _ in range(2)]
        np.testing.assert_array_equal(here, list(map(fastnn.to_host, there)))
    for _ in range(2):                          # outside of steps
        np.testing.assert_array_equal(layer.forward(x)[0], fastnn.to_host(other.forward(fastnn.to_device(x))[0]))
