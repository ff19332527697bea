"""Residual networks: deep stacks of convolutions, with a way around every two or three of them."""

from __future__ import annotations

from typing import ClassVar

from fastnn import random
from fastnn.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Checkpointed,
    Composed,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Residual,
    Sequential,
)


class BasicBlock(Composed):
    """y = relu(x + two 3x3 convolutions of x), each convolution with batch normalisation."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        self.conv1 = Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.relu = ReLU()
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.downsample = _downsample(in_channels, channels, stride)

    def composed(self) -> Module:
        body = Sequential(self.conv1, self.bn1, self.relu, self.conv2, self.bn2)
        return Residual(body, self.downsample)


class Bottleneck(Composed):
    """y = relu(x + 1x1, 3x3 and 1x1 convolutions of x), the 3x3 one on a quarter of the result's channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        outputs = self.expansion * channels
        self.conv1 = Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = BatchNorm2d(outputs)
        self.relu = ReLU()
        self.downsample = _downsample(in_channels, outputs, stride)

    def composed(self) -> Module:
        body = Sequential(self.conv1, self.bn1, self.relu, self.conv2, self.bn2, self.relu, self.conv3, self.bn3)
        return Residual(body, self.downsample)


def _downsample(in_channels: int, outputs: int, stride: int) -> Module | None:
    """What brings x to the shape of the block's result; None where it has it."""
    if stride == 1 and in_channels == outputs:
        return None
    return Sequential(Conv2d(in_channels, outputs, 1, stride=stride, bias=False), BatchNorm2d(outputs))


class _ResNet(Sequential):
    block: ClassVar[type[BasicBlock] | type[Bottleneck]]
    repeats: ClassVar[tuple[int, ...]]

    def __init__(self, num_classes: int = 1000, *, in_channels: int = 3, small_images: bool = False, width: int = 64,
                 checkpointed: bool = False, seed: int = 0) -> None:
        with random.seeded(seed):
            stem: dict[str, Module] = {
                "conv1": (Conv2d(in_channels, width, 3, padding=1, bias=False) if small_images else
                          Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)),
                "bn1": BatchNorm2d(width),
                "relu": ReLU(),
            }
            if not small_images:
                stem["maxpool"] = MaxPool2d(3, stride=2, padding=1)
            stages, inputs = {}, width
            for stage, repeats in enumerate(self.repeats):
                blocks: list[Module] = []
                for i in range(repeats):
                    block = self.block(inputs, width << stage, 2 if stage > 0 and i == 0 else 1)
                    blocks.append(Checkpointed(block) if checkpointed else block)
                    inputs = self.block.expansion * (width << stage)
                stages[f"layer{stage + 1}"] = Sequential(*blocks)
            super().__init__({**stem, **stages, "avgpool": AdaptiveAvgPool2d(1), "flatten": Flatten(),
                              "fc": Linear(inputs, num_classes)})


class ResNet18(_ResNet):
    """The residual network of 18 layers: four stages of two basic blocks.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (arXiv:1512.03385), table 1. Parameters have
    torchvision's names and shapes, so that weights saved from it load by `load_state_dict`.

    Parameters
    ----------
    num_classes : int, default 1000
        Scores for each image.
    in_channels : int, default 3
        Channels of an image.
    small_images : bool, default False
        For images of CIFAR's size: begin with a 3x3 convolution that keeps all pixels, instead of a strided 7x7 one
        and pooling.
    width : int, default 64
        Channels of the first stage; each later one has twice as many.
    checkpointed : bool, default False
        Keep each block's input alone for the backward pass, which runs the block again: less memory, more time. See
        `fastnn.nn.Checkpointed`.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes images of shape (N, in_channels, H, W), float32 unless `to` says otherwise, and returns scores of shape
    (N, num_classes).

    Examples
    --------
    >>> from fastnn import models
    >>> sum(parameter.data.size for parameter in models.ResNet18().parameters())
    11689512
    """

    block, repeats = BasicBlock, (2, 2, 2, 2)


class ResNet34(_ResNet):
    """The residual network of 34 layers: 3, 4, 6 and 3 basic blocks. Parameters are those of `ResNet18`.

    Examples
    --------
    >>> from fastnn import models
    >>> model = models.ResNet34(10, small_images=True, width=8)
    >>> [len(stage) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]
    [3, 4, 6, 3]
    """

    block, repeats = BasicBlock, (3, 4, 6, 3)


class ResNet50(_ResNet):
    """The residual network of 50 layers: 3, 4, 6 and 3 bottleneck blocks. Parameters are those of `ResNet18`.

    As in torchvision, the 3x3 convolution of a block is the strided one, not the first 1x1 one as in the paper.

    Examples
    --------
    >>> from fastnn import models
    >>> model = models.ResNet50(10, small_images=True, width=8)
    >>> model.fc.in_features
    256
    """

    block, repeats = Bottleneck, (3, 4, 6, 3)
