"""The networks: their layers, their seeds, their gradients, and the same network in PyTorch."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import models, nn, testing

SHAPES = {"CNN": (1, 8, 8), "CNNMnist": (1, 28, 28), "ThreeLayerConvNet": (3, 32, 32),
          "ResNet18": (3, 16, 16), "ResNet34": (3, 16, 16), "ResNet50": (3, 16, 16), "LinearSVM": (3, 4, 4),
          "SoftmaxClassifier": (3, 4, 4), "TwoLayerNet": (3, 4, 4), "FullyConnectedNet": (3, 4, 4),
          "EmbeddingNet": (1, 28, 28), "AllCNN": (3, 16, 16), "MobileNet": (3, 32, 32), "SpeedrunNet": (3, 25, 25)}
# No networks, or around one, or of images or texts and not of classes: test_features.py, test_multi_crop.py,
# test_vae.py, test_diffusion.py, test_decoder_transformer.py.
OTHERS = {"DDPM", "DecoderTransformer", "DecoderTransformerConfig", "GaborBank", "KNearestNeighbors", "MultiCrop",
          "UNet", "VAE", "sampling_probabilities"}
RESNETS = [name for name in SHAPES if name.startswith("ResNet")]      # test_resnet.py has more on them
TINY: dict[str, Any] = {**{name: {"small_images": True, "width": 4} for name in RESNETS},
                        "AllCNN": {"width": 4, "dropout": 0.0}, "SpeedrunNet": {"width": 4},
                        "MobileNet": {"small_images": True, "width": 4},
                        **{name: {"in_features": 48} for name in SHAPES if SHAPES[name] == (3, 4, 4)}}


def images(name: str, n: int = 2, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, *SHAPES[name])).astype(dtype)


def test_all_models_are_tested() -> None:
    assert SHAPES.keys() | OTHERS == set(models.__all__)


@pytest.mark.parametrize("name", SHAPES)
def test_scores_have_a_column_a_class(name: str) -> None:
    scores = getattr(models, name)(num_classes=7, **TINY.get(name, {}))(images(name, 3))
    assert scores.shape == (3, 7)
    assert scores.dtype == np.float32


@pytest.mark.parametrize("name", SHAPES)
def test_initial_weights_follow_from_the_seed_alone(name: str) -> None:
    make = partial(getattr(models, name), **TINY.get(name, {}))
    first = make(seed=3).state_dict()
    nn.Linear(2, 2)
    again, other = make(seed=3).state_dict(), make(seed=4).state_dict()
    assert all(np.array_equal(first[key], again[key]) for key in first)
    weight = next(iter(first))
    assert not np.array_equal(first[weight], other[weight])


@pytest.mark.parametrize("name", SHAPES)
def test_gradients(name: str) -> None:
    smaller = {"ThreeLayerConvNet": {"num_filters": 4, "filter_size": 3, "hidden": 5, "image_size": 8}, **TINY}
    x = images(name, 4 if name in [*RESNETS, "MobileNet", "SpeedrunNet"] else 2, np.float64)
    x = x[:, :, :8, :8] if name == "ThreeLayerConvNet" else x
    checks = testing.check_gradients(getattr(models, name)(**smaller.get(name, {})).to(np.float64), x)
    assert max(check.error for check in checks) <= 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*SHAPES, "FullyConnectedNet: batch norm"])
def test_a_frozen_model_gives_the_same_logits(name: str, dtype: Any) -> None:
    kind, _, more = name.partition(":")
    options = {**TINY.get(kind, {}), **({"batch_norm": True, "dropout": 0.5} if more else {})}
    model = getattr(models, kind)(**options).to(dtype)
    randomize(model)
    frozen = fastnn.freeze(model)
    for n in (1, 3):
        x = images(kind, n, dtype)
        expected = model(x)
        assert np.isfinite(expected).all()
        atol = (1e-4 if dtype == np.float32 else 1e-11) * max(1, np.abs(expected).max())
        for _ in range(2):                                            # the second time by what it knows then
            scores = frozen(x)
            assert scores.dtype == dtype
            np.testing.assert_allclose(scores, expected, rtol=0, atol=atol)


def randomize(model: nn.Module) -> None:
    """Draw all that batch normalization has."""
    rng = np.random.default_rng(1)
    for _, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            count = layer.num_features
            layer.running_mean[:], layer.running_var[:] = rng.standard_normal(count), rng.uniform(0.1, 2, count)
            layer.weight.data[:], layer.bias.data[:] = rng.standard_normal(count), rng.standard_normal(count)


def test_the_cnn_takes_larger_images() -> None:
    assert models.CNN(3)(np.zeros((2, 3, 28, 21), np.float32)).shape == (2, 10)


def test_cnn_mnist_has_the_layers_of_the_classic_network() -> None:
    layers = list(models.CNNMnist())
    assert [type(layer).__name__ for layer in layers] == [
        "Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    assert [tuple(parameter.data.shape) for parameter in models.CNNMnist().parameters()] == [
        (32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (128, 3136), (128,), (10, 128), (10,)]


@pytest.mark.parametrize(("name", "options", "count"), [
    ("AllCNN", {}, 1_370_986),              # 1.37 M, as its paper says of All-CNN-C
    ("MobileNet", {}, 4_231_976),           # 4.2 M, as its paper says
    ("MobileNet", {"num_classes": 10, "small_images": True}, 3_217_226),
    ("SpeedrunNet", {}, 1_972_792)])        # 1.97 M, as its paper says
def test_parameters_are_as_many_as_published(name: str, options: dict[str, int], count: int) -> None:
    assert sum(parameter.data.size for parameter in getattr(models, name)(**options).parameters()) == count


@pytest.mark.parametrize("name", ["AllCNN", "MobileNet"])
def test_convolutional_networks_take_other_sizes(name: str) -> None:
    model = getattr(models, name)(num_classes=3, in_channels=1, width=4)
    assert model(np.zeros((2, 1, 45, 40), np.float32)).shape == (2, 3)


def test_all_cnn_drops_values_in_training() -> None:
    x, model = images("AllCNN"), models.AllCNN(width=4)
    assert (model.forward(x, training=True)[0] != model.forward(x, training=True)[0]).any()
    np.testing.assert_array_equal(model(x), model(x))


def test_three_layer_convnet_has_three_layers() -> None:
    assert [type(layer).__name__ for layer in models.ThreeLayerConvNet()] == [
        "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.peers
@pytest.mark.parametrize("name", [name for name in SHAPES if name not in RESNETS])
def test_scores_and_gradients_are_those_of_the_same_network_in_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    model = getattr(models, name)(**TINY.get(name, {}), seed=1).to(np.float64)
    twin = torch_layer(torch, model).double()
    twin.load_state_dict({key: torch.from_numpy(array) for key, array in model.state_dict().items()})
    x, labels = images(name, 3, np.float64), np.array([1, 7, 4])

    scores, backward = model.forward(x, training=True)
    _, loss_backward = nn.CrossEntropyLoss().forward(scores, labels)
    grad_x = backward(loss_backward())

    torch_x = torch.from_numpy(x).requires_grad_()
    torch_scores = twin(torch_x)
    torch.nn.functional.cross_entropy(torch_scores, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(scores, torch_scores.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grad_x, torch_x.grad.numpy(), rtol=1e-8, atol=1e-12)
    for (key, parameter), torch_parameter in zip(model.named_parameters(), twin.parameters(), strict=True):
        if not parameter.requires_grad:
            assert parameter.grad is None
            continue
        np.testing.assert_allclose(parameter.grad, torch_parameter.grad.numpy(), rtol=1e-8, atol=1e-12, err_msg=key)


def torch_layer(torch: Any, layer: Any) -> Any:
    match layer:
        case nn.Sequential():
            return torch.nn.Sequential(OrderedDict(
                (name, torch_layer(torch, child)) for name, child in layer.named_children()))
        case nn.Conv2d():
            return torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
                                   layer.padding, groups=layer.groups, bias=layer.bias is not None)
        case nn.Linear():
            return torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        case nn.BatchNorm2d():
            return torch.nn.BatchNorm2d(layer.num_features)
        case nn.MaxPool2d():
            return torch.nn.MaxPool2d(layer.kernel_size)
        case nn.AvgPool2d():
            return torch.nn.AvgPool2d(layer.kernel_size, divisor_override=layer.divisor_override)
        case nn.AdaptiveAvgPool2d():
            return torch.nn.AdaptiveAvgPool2d(layer.output_size)
        case nn.Dropout():
            return torch.nn.Dropout(layer.p)
        case _:
            return getattr(torch.nn, type(layer).__name__)()
