"""What a model costs: against counts by formula, and against the memory that a forward pass really leaves."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import models, nn

IMAGE = 3 * 8 * 8


def lines(model: nn.Module, *shape: int) -> dict[str, tuple[Any, ...]]:
    return {layer.name: (layer.type, layer.output_shape, layer.parameters, layer.multiply_adds, layer.kept)
            for layer in fastnn.summary(model, shape).layers}


def test_a_line_a_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 10))
    convolved = 4 * 8 * 8
    assert lines(model, 3, 8, 8) == {
        "0": ("Conv2d", (4, 8, 8), 108, convolved * 27, 4 * IMAGE),
        "1": ("BatchNorm2d", (4, 8, 8), 8, 0, 4 * convolved),
        "2": ("ReLU", (4, 8, 8), 0, 0, 0),                                     # done by normalization
        "3": ("MaxPool2d", (4, 4, 4), 0, 0, 8 * 64),                           # indices
        "4": ("Dropout", (4, 4, 4), 0, 0, 64),                                 # a mask of bytes
        "5": ("Flatten", (64,), 0, 0, 0),
        "6": ("Linear", (10,), 650, 640, 4 * 64)}


@pytest.mark.parametrize(("layer", "shape", "output", "multiply_adds"), [
    (nn.Conv2d(4, 6, (3, 2), stride=2, padding=(2, 1), groups=2), (4, 6, 5), (6, 4, 3), 6 * 4 * 3 * 2 * 3 * 2),
    (nn.Conv2d(4, 8, 3, padding="same", groups=4), (4, 6, 5), (8, 6, 5), 8 * 6 * 5 * 9),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 3), (6, 11, 7), 4 * 5 * 3 * 3 * 9),
    (nn.Linear(6, 3), (5, 6), (5, 3), 5 * 6 * 3),
    (nn.ReLU(), (5,), (5,), 0)])
def test_multiply_adds(layer: nn.Module, shape: tuple[int, ...], output: tuple[int, ...], multiply_adds: int) -> None:
    costs = fastnn.summary(layer, shape)
    (line,) = costs.layers
    assert (line.name, line.output_shape, line.multiply_adds) == ("", output, multiply_adds)
    assert costs.multiply_adds == multiply_adds


def resnet18_multiply_adds(classes: int) -> int:
    first, total = 64 * 3 * 49 * 112**2, 512 * classes
    for stage, size in enumerate((56, 28, 14, 7)):
        channels = 64 << stage
        total += 4 * channels**2 * 9 * size**2
        if stage:
            total -= channels**2 // 2 * 9 * size**2             # the first has half the inputs,
            total += channels**2 // 2 * size**2                 # and the shortcut is one of 1x1
    return first + total


@pytest.mark.parametrize(("model", "shape", "parameters", "multiply_adds"), [
    (models.ResNet18(), (3, 224, 224), 11_689_512, resnet18_multiply_adds(1000)),
    (models.MobileNet(), (3, 224, 224), 4_231_976, 568_740_352),        # "569 million", says its paper
    (models.AllCNN(), (3, 32, 32), 1_370_986,
     96 * 27 * 32**2 + 96 * 96 * 9 * (32**2 + 16**2) + 96 * 192 * 9 * 16**2 + 192 * 192 * 9 * (16**2 + 8**2 + 8**2)
     + 192 * 192 * 8**2 + 192 * 10 * 8**2),
    (models.SpeedrunNet(), (3, 32, 32), 1_972_792,
     24 * 12 * 31**2 + 24 * 64 * 9 * 31**2 + 64 * 64 * 9 * 15**2 + 64 * 256 * 9 * 15**2 + 256 * 256 * 9 * (49 + 49 + 9)
     + 2560)])
def test_known_models(model: nn.Module, shape: tuple[int, ...], parameters: int, multiply_adds: int) -> None:
    costs = fastnn.summary(model, shape)
    assert (costs.parameters, costs.multiply_adds) == (parameters, multiply_adds)
    assert sum(layer.parameters for layer in costs.layers) == parameters
    assert costs.parameter_bytes == 4 * parameters
    assert costs.trainable_parameters == sum(p.data.size for p in model.parameters() if p.requires_grad)


def test_tokens_are_integers() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.MultiheadAttention(4, 2))
    costs = fastnn.summary(model, (5,), np.int64)
    assert [layer.multiply_adds for layer in costs.layers] == [0, 5 * 4 * 4, 5 * 3 * 4 * 4 + 2 * 5 * 5 * 4]
    assert costs.parameters == 7 * 4 + 4 * (4 * 4 + 4)
    with pytest.raises(TypeError, match="input: expected integer indices"):
        fastnn.summary(model, (5,))


def test_a_block_has_a_line_for_what_it_keeps_itself() -> None:
    costs = lines(models.ResNet18(10, small_images=True, width=4), 3, 8, 8)
    assert costs["layer1.0"] == ("BasicBlock", (4, 8, 8), 0, 0, 4 * 256)       # the sum after ReLU
    assert "layer1" not in costs
    assert "" not in costs
    assert list(costs)[-6:] == ["layer4.1.conv2", "layer4.1.bn2", "layer4.1", "avgpool", "flatten", "fc"]


def test_an_array_counts_once() -> None:
    relu = nn.ReLU()
    keeps = {name: line[-1] for name, line in lines(nn.Sequential(relu, nn.GELU(), nn.Tanh(), nn.Flatten()), 6).items()}
    assert keeps == {"0": 24, "1": 0, "2": 24, "3": 0}          # GELU keeps what ReLU keeps: its result


def test_a_layer_that_is_called_twice_has_two_lines_and_one_weight() -> None:
    layer = nn.Linear(4, 4)
    costs = fastnn.summary(nn.Sequential(layer, nn.Tanh(), layer), (4,))
    assert [(line.name, line.parameters, line.multiply_adds) for line in costs.layers] == [
        ("0", 20, 16), ("1", 0, 0), ("0", 0, 16)]
    assert costs.parameters == 20


class Own(nn.Module):
    """Keeps arrays in a dict, a list and an inner function; has a parameter, and a layer inside."""

    def __init__(self) -> None:
        self.inner = nn.Tanh()
        self.factor = nn.Parameter(np.ones(5, np.float32))

    def forward(self, x: Any, *, training: bool = True) -> tuple[Any, nn.Backward]:
        y, inner_backward = self.inner.forward(x, training=training)
        kept = {"twice": [2 * x, x[:, :2]]}
        constant, factor = np.ones(1000, np.float32), self.factor.data
        halves = x / 2

        def own() -> Any:
            return halves, constant

        @nn.once
        def backward(grad_y: Any, *, input_grad: bool = True) -> Any:
            return kept, own, factor, inner_backward, later

        later = backward
        return y, backward


def test_a_layer_of_your_own() -> None:
    assert lines(Own(), 5) == {"inner": ("Tanh", (5,), 0, 0, 20), "": ("Own", (5,), 5, 0, 60)}


def test_float64_takes_twice_the_memory() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    single, double = fastnn.summary(model, (1, 4, 4)), fastnn.summary(model.to(np.float64), (1, 4, 4))
    assert (double.kept, double.parameter_bytes) == (2 * single.kept, 2 * single.parameter_bytes)


def test_that_much_memory_is_left_by_a_forward_pass() -> None:
    code = """
import tracemalloc
import numpy as np
import fastnn
from fastnn import models
model, x = models.ResNet18(10, small_images=True, width=16), np.zeros((64, 3, 32, 32), np.float32)
model.forward(x)                                                # compiles
fastnn.clear_pool()
tracemalloc.start()
_, backward = model.forward(x, training=True)
fastnn.clear_pool()
print((tracemalloc.get_traced_memory()[0] + x.nbytes) / len(x), fastnn.summary(model, (3, 32, 32)).kept)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left, kept = map(float, done.stdout.split())
    assert left == pytest.approx(kept, rel=0.05)


def test_the_model_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5))
    before, attributes = model.state_dict(), [dict(vars(module)) for _, module in model.named_modules()]
    fastnn.summary(model, (1, 5, 5))
    assert [dict(vars(module)) for _, module in model.named_modules()] == attributes
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_masks_that_are_drawn_do_not_change_a_step() -> None:
    layer, x = nn.Dropout(0.5), np.ones((2, 50))
    with fastnn.random.at_step(0, 1):
        expected = layer.forward(x)[0]
    with fastnn.random.at_step(0, 1):
        fastnn.summary(layer, (50,))
        np.testing.assert_array_equal(layer.forward(x)[0], expected)


def test_it_prints_a_table() -> None:
    text = str(fastnn.summary(nn.Sequential(nn.Linear(300, 1000), nn.ReLU()), (300,))).splitlines()
    assert text[0].split() == ["layer", "type", "output", "parameters", "multiply-adds", "kept", "for", "backward"]
    assert text[1].split() == ["0", "Linear", "1000", "301,000", "300,000", "5.2", "kB"]         # the ReLU's result too
    assert text[3].split() == ["total", "301,000", "300,000", "5.2", "kB"]
    assert text[5].startswith("301,000 parameters are trainable; all take 1.2 MB")


@pytest.mark.parametrize(("model", "shape", "error", "message"), [
    (nn.Conv2d(3, 4, 3), (1, 8, 8), ValueError,
     r"input_shape: samples of shape \(1, 8, 8\) do not fit this Conv2d: weight: expected 1 chan"),
    (nn.Conv2d(3, 4, 3), (0, 8, 8), ValueError, "input_shape: expected at least 1, got 0"),
    (nn.Linear(3, 4), 3, TypeError, r"input_shape: expected a sequence of integers, such as \(3, 32, 32\), got 3"),
    (nn.Linear(3, 4), (3.0,), TypeError, "input_shape: expected an integer, got 3.0"),
    (np.ones(3), (3,), TypeError, "model: expected a Module, got ndarray"),
    (nn.Linear, (3,), TypeError, "model: expected a Module, got type")])
def test_wrong_arguments(model: Any, shape: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastnn.summary(model, shape)


@pytest.mark.cuda
def test_a_model_on_a_gpu() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    host = fastnn.summary(model, (6,))
    assert fastnn.summary(model.to("cuda"), (6,)) == host


def test_the_batch_may_be_any_axis_of_what_a_layer_returns() -> None:
    vae = models.VAE(latent=2, samples=4)
    layers = {layer.name: layer for layer in fastnn.summary(vae, (1, 14, 14)).layers}
    (drawn,) = [layer for layer in layers.values() if layer.type == "Reparameterization"]
    assert drawn.output_shape == (4, 2)
    first = next(layer for name, layer in layers.items() if name.startswith("decoder") and layer.type == "Linear")
    assert first.multiply_adds == 4 * 2 * first.output_shape[-1]
