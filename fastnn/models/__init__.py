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

from fastnn.models.all_cnn import AllCNN
from fastnn.models.cnn import CNN
from fastnn.models.cnn_mnist import CNNMnist
from fastnn.models.ddpm import DDPM
from fastnn.models.decoder_transformer import DecoderTransformer, DecoderTransformerConfig, sampling_probabilities
from fastnn.models.embedding_net import EmbeddingNet
from fastnn.models.fully_connected_net import FullyConnectedNet
from fastnn.models.gabor import GaborBank
from fastnn.models.linear_svm import LinearSVM
from fastnn.models.mobilenet import MobileNet
from fastnn.models.multi_crop import MultiCrop
from fastnn.models.nearest_neighbors import KNearestNeighbors
from fastnn.models.resnet import ResNet18, ResNet34, ResNet50
from fastnn.models.softmax_classifier import SoftmaxClassifier
from fastnn.models.speedrun_net import SpeedrunNet
from fastnn.models.three_layer_convnet import ThreeLayerConvNet
from fastnn.models.two_layer_net import TwoLayerNet
from fastnn.models.unet import UNet
from fastnn.models.vae import VAE

__all__ = [
    "CNN",
    "DDPM",
    "VAE",
    "AllCNN",
    "CNNMnist",
    "DecoderTransformer",
    "DecoderTransformerConfig",
    "EmbeddingNet",
    "FullyConnectedNet",
    "GaborBank",
    "KNearestNeighbors",
    "LinearSVM",
    "MobileNet",
    "MultiCrop",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "SoftmaxClassifier",
    "SpeedrunNet",
    "ThreeLayerConvNet",
    "TwoLayerNet",
    "UNet",
    "sampling_probabilities",
]
