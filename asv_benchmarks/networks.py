"""Whole networks in fastnn and the same in PyTorch and ONNX Runtime, from the same weights."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import models, nn, optim, random


@dataclass(frozen=True)
class Network:
    """A network, how it is trained, and PyTorch's twin, if there is one; its makers take `torch`."""

    image: tuple[int, int, int]
    products: float                         # of one image, forwards
    ours: Callable[[], nn.Module]
    theirs: Callable[[Any], Any] | None
    our_optimizer: Callable[[Any], optim.Optimizer]
    their_optimizer: Callable[[Any, Any, bool], Any]
    label_smoothing: float = 0.0


def our_step(network: Network, model: nn.Module) -> Callable[[Any, Any], Any]:
    """Return a training step of fastnn, `(images, labels) -> loss`."""
    loss, optimizer = nn.CrossEntropyLoss(label_smoothing=network.label_smoothing), network.our_optimizer(model)

    def step(images: Any, labels: Any) -> Any:
        scores, backward = model.forward(images, training=True)
        value, loss_backward = loss.forward(scores, labels)
        backward(loss_backward(), input_grad=False)
        optimizer.step()
        optimizer.zero_grad()
        return value

    return step


def torch_step(torch: Any, network: Network, model: Any, fused: bool = False, compiled: bool = False,
               ) -> Callable[[Any, Any], Any]:
    """Return the same step of PyTorch; `compiled`: its model by torch.compile, and its optimizer fused."""
    loss = torch.nn.CrossEntropyLoss(label_smoothing=network.label_smoothing)
    optimizer = network.their_optimizer(torch, model, fused or compiled)
    if compiled:
        model = torch.compile(model)

    def step(images: Any, labels: Any) -> Any:
        with torch.enable_grad():
            value = loss(model(images), labels)
            value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return step


def torch_model(torch: Any, network: Network, model: nn.Module) -> Any:
    """Return PyTorch's twin of a model, with its weights."""
    assert network.theirs is not None
    twin = network.theirs(torch)
    twin.load_state_dict({key: torch.from_numpy(array) for key, array in model.state_dict().items()})
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters()):
        assert ours.data.shape == tuple(theirs.shape), name
        theirs.requires_grad = ours.requires_grad
    return twin


def _sgd(momentum: float, weight_decay: float, nesterov: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    options = {"lr": 1e-3, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return (lambda model: optim.SGD(model.parameters(), **options),
            lambda torch, model, fused: torch.optim.SGD(model.parameters(), fused=fused, **options))


def _torch_cnn(torch: Any) -> Any:
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(1, 32, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2), layers.Conv2d(32, 64, 5, padding=2),
        layers.ReLU(), layers.MaxPool2d(2), layers.Flatten(), layers.Linear(3136, 128), layers.ReLU(),
        layers.Linear(128, 10))


def _torch_fully_connected(torch: Any) -> Any:
    layers, sizes = torch.nn, (784, 128, 128, 128, 10)
    made: list[Any] = [layers.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        made += [layers.Linear(inputs, outputs), layers.ReLU()]
    return layers.Sequential(*made[:-1])


def _torch_small_cnn(torch: Any) -> Any:
    layers = torch.nn

    def convolution(inputs: int, channels: int) -> tuple[Any, ...]:
        return (layers.Conv2d(inputs, channels, 3, padding=1, bias=False), layers.BatchNorm2d(channels), layers.ReLU())

    return layers.Sequential(
        *convolution(1, 32), *convolution(32, 32), layers.MaxPool2d(2), *convolution(32, 64),
        layers.AdaptiveAvgPool2d(2), layers.Flatten(), layers.Linear(256, 10))


def _torch_resnet18(torch: Any) -> Any:
    layers, functional = torch.nn, torch.nn.functional

    class Block(layers.Module):
        def __init__(self, inputs: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv1 = layers.Conv2d(inputs, channels, 3, stride, 1, bias=False)
            self.bn1 = layers.BatchNorm2d(channels)
            self.conv2 = layers.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.bn2 = layers.BatchNorm2d(channels)
            self.downsample = layers.Sequential() if stride == 1 else layers.Sequential(
                layers.Conv2d(inputs, channels, 1, stride, bias=False), layers.BatchNorm2d(channels))

        def forward(self, x: Any) -> Any:
            y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
            y = self.bn2(self.conv2(y))
            return functional.relu(y + self.downsample(x), inplace=True)

    modules = {"conv1": layers.Conv2d(3, 64, 3, 1, 1, bias=False), "bn1": layers.BatchNorm2d(64),
               "relu": layers.ReLU(inplace=True)}
    for stage, (inputs, channels) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        modules[f"layer{stage}"] = layers.Sequential(Block(inputs, channels, 1 if stage == 1 else 2),
                                                     Block(channels, channels, 1))
    modules |= {"avgpool": layers.AdaptiveAvgPool2d(1), "flatten": layers.Flatten(), "fc": layers.Linear(512, 10)}
    return layers.Sequential(OrderedDict(modules))


def _torch_speedrun(torch: Any) -> Any:
    layers = torch.nn

    def pair(inputs: int, channels: int) -> Any:
        return layers.Sequential(
            layers.Conv2d(inputs, channels, 3, padding=1, bias=False), layers.MaxPool2d(2),
            layers.BatchNorm2d(channels, momentum=0.4), layers.GELU(),
            layers.Conv2d(channels, channels, 3, padding=1, bias=False), layers.BatchNorm2d(channels, momentum=0.4),
            layers.GELU())

    return layers.Sequential(OrderedDict({
        "conv1": layers.Conv2d(3, 24, 2), "gelu": layers.GELU(), "layer1": pair(24, 64), "layer2": pair(64, 256),
        "layer3": pair(256, 256), "maxpool": layers.MaxPool2d(3), "scale": layers.AvgPool2d(1, divisor_override=9),
        "flatten": layers.Flatten(), "fc": layers.Linear(256, 10, bias=False)}))


def _fully_connected() -> nn.Module:
    sizes = (784, 128, 128, 128, 10)
    with random.seeded(0):
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def _whitened() -> models.SpeedrunNet:
    return models.SpeedrunNet().whiten(np.random.default_rng(0).standard_normal((50, 3, 32, 32), np.float32))


_ADAM = (lambda model: optim.Adam(model.parameters(), 1e-3),
         lambda torch, model, fused: torch.optim.Adam(model.parameters(), 1e-3, fused=fused))

NETWORKS = {
    "784-128-128-128-10": Network(
        (1, 28, 28), 784 * 128 + 2 * 128 * 128 + 1280, _fully_connected, _torch_fully_connected, *_ADAM),
    "cnn": Network(
        (1, 8, 8), 64 * 32 * 9 + 64 * 32 * 32 * 9 + 16 * 64 * 32 * 9 + 2560, models.CNN, _torch_small_cnn, *_ADAM),
    "cnn-mnist": Network(
        (1, 28, 28), 784 * 32 * 25 + 196 * 64 * 32 * 25 + 3136 * 128, models.CNNMnist, _torch_cnn, *_ADAM),
    "resnet18": Network(
        (3, 32, 32), 555.4e6, lambda: models.ResNet18(10, small_images=True), _torch_resnet18,
        *_sgd(momentum=0.9, weight_decay=5e-4, nesterov=False)),
    **{name: Network(
        (3, 32, 32), 1297.8e6, functools.partial(models.ResNet50, 10, small_images=True, checkpointed=checkpointed),
        None, *_sgd(momentum=0.9, weight_decay=5e-4, nesterov=False))
       for name, checkpointed in (("resnet50", False), ("resnet50, checkpointed", True))},
    "cifar10-speedrun": Network(
        (3, 32, 32), 118.1e6, _whitened, _torch_speedrun, *_sgd(momentum=0.85, weight_decay=1e-3, nesterov=True),
        label_smoothing=0.2),
}
