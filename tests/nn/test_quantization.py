"""Models in bytes: near to the models that they are made of, the same on all targets, and a quarter of their size."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import models, nn, random, training
from fastnn.nn import quantization

MODELS = {
    "cnn": lambda: models.CNN(3),
    "all-cnn": lambda: models.AllCNN(width=8),
    "resnet": lambda: models.ResNet18(10, small_images=True, width=8),
    "resnet50": lambda: models.ResNet50(10, small_images=True, width=4),
    "mobilenet": lambda: models.MobileNet(10, small_images=True, width=8),
    "speedrun": lambda: models.SpeedrunNet(width=8),
    "multi-crop": lambda: models.MultiCrop(models.CNN(3)),
    "rows": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 25 * 25, 20), nn.BatchNorm1d(20), nn.Tanh(),
                                  nn.Linear(20, 9), nn.Sigmoid(), nn.Linear(9, 4), nn.LogSoftmax()),
}


def images(n: int = 20, shape: tuple[int, ...] = (3, 25, 25)) -> np.ndarray:
    return random.generator(0, "quantization").standard_normal((n, *shape)).astype(np.float32)


def layers(model: nn.Module) -> list[nn.Module]:
    return [layer for _, layer in model.named_modules() if not list(layer.children())]


@pytest.mark.parametrize("name", MODELS)
def test_it_is_near_to_the_model_and_loads_what_another_saved(name: str, tmp_path: Any) -> None:
    model, x = MODELS[name](), images()
    before = {key: value.copy() for key, value in model.state_dict().items()}
    quantized = fastnn.quantize(model, x)
    found, truth = quantized(x), model(x)
    assert found.dtype == np.float32
    assert abs(found - truth).max() < 0.1 * abs(truth).max()
    assert not any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in layers(quantized))
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    training.save(tmp_path / "bytes.safetensors", quantized.state_dict())
    other = fastnn.quantize(MODELS[name](), 3 * x[:1] + 1)
    other(x)
    training.load_model(tmp_path / "bytes.safetensors", other)
    np.testing.assert_array_equal(other(x), found)
    np.testing.assert_array_equal(copy.deepcopy(quantized)(x), found)


def test_it_is_a_quarter_of_the_size() -> None:
    model = models.ResNet18(10, small_images=True, width=16)
    whole, quarter = (sum(array.nbytes for array in each.state_dict().values())
                      for each in (model, fastnn.quantize(model, images())))
    assert quarter < 0.26 * whole


def test_the_naive_version_gives_the_same_bits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.GELU(),
                          nn.Residual(nn.Conv2d(4, 4, 1)), nn.Flatten(), nn.Linear(36, 5))
    x = images(2, (3, 6, 6))
    quantized = fastnn.quantize(model, x)
    found = quantized(x)
    with fastnn.use_target("naive"):
        np.testing.assert_array_equal(quantized(x), found)


def test_a_relu_leaves_all_bytes_to_what_is_left() -> None:
    x = images(4)
    quantized = fastnn.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), x)
    quantize, conv, pool, dequantize = quantized.model
    y = pool(conv(quantize(x)))
    assert y.min() == 0
    assert y.max() >= 250                   # the largest of the calibration, but for the rounding of weights and images
    assert dequantize(y).min() == 0


def test_weights_of_zero_stay_zero_and_each_filter_has_its_scale() -> None:
    layer = nn.Linear(3, 3)
    layer.weight.data[...] = [[0, 0, 0], [1e-3, 0, -4e-4], [60, -200, 0]]
    quantized = fastnn.quantize(layer, images(5, (3,)))
    np.testing.assert_array_equal(quantized.model[1].weight, [[0, 0, 0], [127, 0, -51], [38, -127, 0]])


def test_a_table_is_the_function_of_what_bytes_stand_for() -> None:
    numbers = np.linspace(-3, 4, 256, dtype=np.float32).reshape(-1, 1)
    model = nn.Sequential(nn.Linear(1, 1), nn.GELU(), nn.Linear(1, 1))
    model[0].weight.data[...], model[0].bias.data[...] = 1, 0
    quantized = fastnn.quantize(model, numbers)
    quantize, first, lookup, _ = quantized.model
    scale = quantization.Scale.of(-3, 4)
    result = quantization.Scale.of(float(nn.GELU()(numbers).min()), float(nn.GELU()(numbers).max()))
    passed = first(quantize(numbers))
    np.testing.assert_array_equal(lookup(passed), result.bytes(nn.GELU()(scale.numbers()))[passed])


class Twice(nn.Module):
    """A forward of its own, which uses one chain twice, and a chain that it never uses."""

    def __init__(self) -> None:
        self.chain = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.parts = [self.chain, nn.Sequential(nn.Conv2d(3, 2, 3))]

    def forward(self, x: Any, *, training: bool = True) -> tuple[Any, nn.Backward]:
        x = self.chain.forward(self.parts[0].forward(x, training=training)[0], training=training)[0]
        return x, lambda grad, *, input_grad=True: None


def test_a_module_with_a_forward_of_its_own() -> None:
    model, x = Twice(), images()
    quantized = fastnn.quantize(model, x)
    twice = quantized.model[0]
    assert twice.chain is twice.parts[0]
    assert isinstance(twice.chain[1], quantization.Conv2dInt8)
    assert abs(quantized(x) - model(x)).max() < 0.1 * abs(model(x)).max()


def test_what_it_cannot_do_in_bytes_stays_in_floats() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.ConvTranspose2d(4, 2, 2), nn.BatchNorm2d(2),
                          nn.Residual(nn.AvgPool2d(3, 1, 1)), nn.Softmax(1)).to(np.float64)
    x = images().astype(np.float64)
    quantized = fastnn.quantize(model, x)
    assert [type(layer).__name__ for layer in quantized.model] == [
        "Quantize", "Conv2dInt8", "AvgPool2d", "ConvTranspose2d", "Residual", "Softmax"]
    assert abs(quantized(x) - model(x)).max() < 0.05


class Pair(nn.Module):
    """Two results."""

    def forward(self, x: Any, *, training: bool = True) -> tuple[Any, nn.Backward]:
        return (x, x), lambda grads, *, input_grad=True: None


def test_what_is_no_array_passes() -> None:
    x = images(5, (3,))
    first, second = fastnn.quantize(nn.Sequential(nn.Linear(3, 2), Pair()), x)(x)
    assert first is second


def test_wrong_input() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), images(5, (3,))
    with pytest.raises(TypeError, match="model: expected a Module, got function"):
        fastnn.quantize(images, x)
    with pytest.raises(TypeError, match="images: expected an array of float32 or float64, as the mod"):
        fastnn.quantize(model, x.astype(np.uint8))
    with pytest.raises(ValueError, match="images: expected at least one element"):
        fastnn.quantize(model, x[:0])
    with pytest.raises(ValueError, match="images: expected some for which all activations are finite"):
        fastnn.quantize(model, np.where(x > 0, np.nan, x))
    with pytest.raises(ValueError, match="expected") as refused:
        fastnn.quantize(model, x[:, :2])
    assert refused.value.__notes__ == ["in Linear(in_features=3, out_features=2)"]
    quantized = fastnn.quantize(model, x)
    with pytest.raises(RuntimeError, match="training: expected False"):
        quantized.forward(x)
    with pytest.raises(RuntimeError, match="backward was called on a"):
        quantized.forward(x, training=False)[1](x)
    with pytest.raises(TypeError, match="device: expected 'cpu' or 'cuda', as a quantized model has one dtype"):
        quantized.to(np.float64)
    with pytest.raises(ValueError, match="state does not fit Quantized"):
        quantized.load_state_dict(model.state_dict())


@pytest.mark.cuda
def test_on_a_gpu_it_gives_the_same_bits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.GELU(), nn.Residual(nn.Conv2d(4, 4, 1)), nn.Flatten(),
                          nn.Linear(16, 3))
    x = images(2, (3, 6, 6))
    quantized = fastnn.quantize(model, x)
    found = quantized(x)
    np.testing.assert_array_equal(fastnn.to_host(quantized.to("cuda")(fastnn.to_device(x))), found)
    np.testing.assert_array_equal(quantized.to("cpu")(x), found)
    there = fastnn.quantize(model.to("cuda"), fastnn.to_device(x))      # whose ranges are rounded otherwise
    np.testing.assert_allclose(fastnn.to_host(there(fastnn.to_device(x))), found, atol=0.05)


def test_a_batch_may_be_empty() -> None:
    x = images(4, (3, 8, 8))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 5))
    assert fastnn.quantize(model, x)(x[:0]).shape == model(x[:0]).shape
