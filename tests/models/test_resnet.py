"""ResNets against twins in PyTorch, written down as torchvision defines them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import models, nn, training

COUNTS = {"ResNet18": 11_689_512, "ResNet34": 21_797_672, "ResNet50": 25_557_032}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_torchvisions(name: str) -> None:
    assert sum(parameter.data.size for parameter in getattr(models, name)().parameters()) == COUNTS[name]


def test_names_are_torchvisions() -> None:
    names = list(models.ResNet18(10).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    block = ["conv1.weight", *(f"bn1.{part}" for part in norm), "conv2.weight", *(f"bn2.{part}" for part in norm)]
    down = ["downsample.0.weight", *(f"downsample.1.{part}" for part in norm)]
    assert names == [
        "conv1.weight", *(f"bn1.{part}" for part in norm),
        *(f"layer{stage}.{i}.{part}" for stage in (1, 2, 3, 4) for i in (0, 1)
          for part in block + (down if stage > 1 and i == 0 else [])),
        "fc.weight", "fc.bias"]


def test_small_images_keep_their_pixels_at_first() -> None:
    model = models.ResNet18(10, small_images=True, width=4)
    assert not hasattr(model, "maxpool")
    assert model.conv1(np.zeros((1, 3, 9, 8), np.float32)).shape == (1, 4, 9, 8)
    assert models.ResNet18(width=4).conv1(np.zeros((1, 3, 9, 8), np.float32)).shape == (1, 4, 5, 4)


@pytest.mark.peers
@pytest.mark.parametrize(("name", "options"), [("ResNet18", {}), ("ResNet18", {"small_images": True}),
                                               ("ResNet34", {"width": 16}), ("ResNet50", {"width": 16})])
def test_logits_are_those_of_a_twin_in_torch(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    model = getattr(models, name)(10, seed=1, **options)
    twin = torch_resnet(torch, name, 10, **options)
    rng = np.random.default_rng(0)
    for module_name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):                     # as after training
            assert module.weight is not None, module_name
            module.running_mean[:] = 0.1 * rng.standard_normal(module.num_features)
            module.running_var[:] = 1 + rng.random(module.num_features)
            module.weight.data[:] = 0.5 + rng.random(module.num_features)
    twin.load_state_dict({key: torch.from_numpy(array) for key, array in model.state_dict().items()})
    x = rng.standard_normal((2, 3, 40, 33), dtype=np.float32)
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.peers
@pytest.mark.parametrize("name", COUNTS)
def test_weights_of_torchvision_give_the_same_logits(name: str, tmp_path: Path) -> None:
    """A file with the names, shapes and dtypes of torchvision's, at its size of images; torchvision is not needed."""
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    torch.manual_seed(0)
    twin = torch_resnet(torch, name, 1000)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
        twin.train()(torch.randn(4, 3, 64, 64))                     # running statistics, and their counts
        images = torch.randn(1, 3, 224, 224)
        expected = twin.eval()(images).numpy()
    theirs = twin.state_dict()
    assert theirs["layer4.1.bn2.num_batches_tracked"] == 1
    save_file(theirs, tmp_path / "weights.safetensors")

    model = getattr(models, name)()
    ours = model.state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[key].shape == tuple(tensor.shape) and str(tensor.dtype) == f"torch.{ours[key].dtype}"
               for key, tensor in theirs.items())
    training.load_model(tmp_path / "weights.safetensors", model)
    assert all(np.array_equal(array, theirs[key].numpy()) for key, array in model.state_dict().items())
    assert 0.1 < np.abs(expected).max() < 100
    for runs in (model, fastnn.freeze(model)):
        np.testing.assert_allclose(runs(images.numpy()), expected, rtol=0, atol=1e-4)


@pytest.mark.peers
@pytest.mark.parametrize("name", COUNTS)
def test_gradients_are_those_of_a_twin_in_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    model = getattr(models, name)(7, small_images=True, width=4).to(np.float64)
    twin = torch_resnet(torch, name, 7, small_images=True, width=4).double()
    twin.load_state_dict({key: torch.from_numpy(array) for key, array in model.state_dict().items()})
    x, labels = np.random.default_rng(0).standard_normal((4, 3, 16, 16)), np.array([1, 6, 4, 0])

    scores, backward = model.forward(x, training=True)
    _, loss_backward = nn.CrossEntropyLoss().forward(scores, labels)
    grad_x = backward(loss_backward())

    torch_x = torch.from_numpy(x).requires_grad_()
    torch.nn.functional.cross_entropy(twin.train()(torch_x), torch.from_numpy(labels)).backward()
    twins = dict(twin.named_parameters())
    gradients = {"x": (grad_x, torch_x), **{
        key: (parameter.grad, twins[key]) for key, parameter in model.named_parameters()}}
    for key, (ours, theirs) in gradients.items():
        scale = theirs.grad.abs().max().item()
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-8, atol=1e-9 * scale, err_msg=key)


def torch_resnet(torch: Any, name: str, num_classes: int, small_images: bool = False, width: int = 64) -> Any:
    """The network as torchvision.models.resnet has it."""
    layers = torch.nn
    repeats = (2, 2, 2, 2) if name == "ResNet18" else (3, 4, 6, 3)

    class Block(layers.Module):
        def __init__(self, inputs: int, channels: int, stride: int) -> None:
            super().__init__()
            if name == "ResNet50":
                shapes, outputs = [(inputs, channels, 1, 1), (channels, channels, 3, stride),
                                   (channels, 4 * channels, 1, 1)], 4 * channels
            else:
                shapes, outputs = [(inputs, channels, 3, stride), (channels, channels, 3, 1)], channels
            self.count = len(shapes)
            for i, (c, f, k, s) in enumerate(shapes, 1):
                setattr(self, f"conv{i}", layers.Conv2d(c, f, k, s, k // 2, bias=False))
                setattr(self, f"bn{i}", layers.BatchNorm2d(f))
            self.downsample = None
            if stride > 1 or inputs != outputs:
                self.downsample = layers.Sequential(layers.Conv2d(inputs, outputs, 1, stride, bias=False),
                                                    layers.BatchNorm2d(outputs))
            self.outputs = outputs

        def forward(self, x: Any) -> Any:
            y = x
            for i in range(1, self.count + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = y.relu() if i < self.count else y
            return (y + (x if self.downsample is None else self.downsample(x))).relu()

    class ResNet(layers.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = layers.Conv2d(3, width, *((3, 1, 1) if small_images else (7, 2, 3)), bias=False)
            self.bn1 = layers.BatchNorm2d(width)
            self.maxpool = layers.Identity() if small_images else layers.MaxPool2d(3, 2, 1)
            inputs = width
            for stage, count in enumerate(repeats):
                blocks = []
                for i in range(count):
                    blocks.append(Block(inputs, width * 2**stage, 2 if stage > 0 and i == 0 else 1))
                    inputs = blocks[-1].outputs
                setattr(self, f"layer{stage + 1}", layers.Sequential(*blocks))
            self.fc = layers.Linear(inputs, num_classes)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.bn1(self.conv1(x)).relu())
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

    return ResNet()
