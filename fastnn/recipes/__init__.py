"""Whole experiments, one a file: a configuration and how it runs.

A recipe is a dataclass; its fields are the options of ``fastnn train NAME``, and `run` does it.

Examples
--------
>>> from fastnn import recipes
>>> list(recipes.RECIPES)[:4]
['cnn', 'cnn-mnist', 'three-layer-convnet', 'overfit-check']
"""

from fastnn.recipes.adversarial import Adversarial
from fastnn.recipes.allcnn_cifar10 import AllCNNCifar10
from fastnn.recipes.base import RECIPES, Recipe, load
from fastnn.recipes.cifar import CIFAR
from fastnn.recipes.cifar10_speedrun import CIFAR10Speedrun
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.cnn import CNN
from fastnn.recipes.cnn_mnist import CNNMnist
from fastnn.recipes.compression import Compression
from fastnn.recipes.convolutional import Convolutional, ShortOrFull
from fastnn.recipes.ddpm_mnist import DDPMMnist
from fastnn.recipes.depthwise_cifar10 import DepthwiseCifar10
from fastnn.recipes.embedding_net_mnist import EmbeddingNetMnist
from fastnn.recipes.fc_net import FCNet
from fastnn.recipes.ffn_cifar10 import FFNCifar10
from fastnn.recipes.ffn_comparison import FFNComparison
from fastnn.recipes.ffn_fashion import FFNFashion
from fastnn.recipes.fully_connected import FullyConnected
from fastnn.recipes.gabor_svm_mnist import GaborSVMMnist
from fastnn.recipes.generative import ImageGenerator
from fastnn.recipes.image_file import read_image
from fastnn.recipes.knn_cifar10 import KNNCifar10
from fastnn.recipes.linear_classifier import LinearClassifier
from fastnn.recipes.overfit_check import OverfitCheck
from fastnn.recipes.regression import Regression
from fastnn.recipes.resnet_cifar10 import ResNetCifar10
from fastnn.recipes.softmax_cifar10 import SoftmaxCifar10
from fastnn.recipes.space import Range
from fastnn.recipes.svm_cifar10 import SVMCifar10
from fastnn.recipes.three_layer_convnet import ThreeLayerConvNet
from fastnn.recipes.transfer import Transfer
from fastnn.recipes.transformer_lm import TransformerLM
from fastnn.recipes.two_layer_net import TwoLayerNet
from fastnn.recipes.vae_mnist import VAEMnist

RECIPES.update({recipe.name: recipe for recipe in (
    CNN, CNNMnist, ThreeLayerConvNet, OverfitCheck, KNNCifar10, SVMCifar10, SoftmaxCifar10, TwoLayerNet, FCNet,
    FFNCifar10, FFNFashion, FFNComparison, GaborSVMMnist, EmbeddingNetMnist, Regression, ResNetCifar10, AllCNNCifar10,
    DepthwiseCifar10, CIFAR10Speedrun, Adversarial, Transfer, TransformerLM, VAEMnist, DDPMMnist)})

__all__ = [
    "CIFAR",
    "CNN",
    "RECIPES",
    "Adversarial",
    "AllCNNCifar10",
    "CIFAR10Speedrun",
    "CNNMnist",
    "Compression",
    "Convolutional",
    "DDPMMnist",
    "DepthwiseCifar10",
    "EmbeddingNetMnist",
    "FCNet",
    "FFNCifar10",
    "FFNComparison",
    "FFNFashion",
    "FullyConnected",
    "GaborSVMMnist",
    "ImageClassifier",
    "ImageGenerator",
    "KNNCifar10",
    "LinearClassifier",
    "OverfitCheck",
    "Range",
    "Recipe",
    "Regression",
    "ResNetCifar10",
    "SVMCifar10",
    "ShortOrFull",
    "SoftmaxCifar10",
    "ThreeLayerConvNet",
    "Transfer",
    "TransformerLM",
    "TwoLayerNet",
    "VAEMnist",
    "load",
    "read_image",
]
