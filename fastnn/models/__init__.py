"""Whole networks, one a file, read top to bottom.

Each draws its initial weights from its own `seed`, whatever was built before it.

Examples
--------
>>> import numpy as np
>>> from fastnn import models
>>> model = models.CNN(seed=1)
>>> model(np.zeros((2, 1, 8, 8), np.float32)).shape
(2, 10)
"""

from fastnn.models.cnn import CNN
from fastnn.models.cnn_mnist import CNNMnist
from fastnn.models.resnet import ResNet18, ResNet34, ResNet50
from fastnn.models.three_layer_convnet import ThreeLayerConvNet

__all__ = ["CNN", "CNNMnist", "ResNet18", "ResNet34", "ResNet50", "ThreeLayerConvNet"]
