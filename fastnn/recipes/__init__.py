"""Whole experiments, one a file: a configuration and how it runs.

A recipe is a dataclass; its fields are the options of ``fastnn train NAME``, and `run` does it.

Examples
--------
>>> from fastnn import recipes
>>> list(recipes.RECIPES)
['cnn', 'cnn-mnist', 'three-layer-convnet', 'overfit-check']
"""

from fastnn.recipes.base import Recipe, load
from fastnn.recipes.classification import ImageClassifier
from fastnn.recipes.cnn import CNN
from fastnn.recipes.cnn_mnist import CNNMnist
from fastnn.recipes.image_file import read_image
from fastnn.recipes.overfit_check import OverfitCheck
from fastnn.recipes.space import Range
from fastnn.recipes.sweeps import Sweep
from fastnn.recipes.three_layer_convnet import ThreeLayerConvNet

RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (CNN, CNNMnist, ThreeLayerConvNet, OverfitCheck)}

__all__ = [
           "CNN",
           "RECIPES",
           "CNNMnist",
           "ImageClassifier",
           "OverfitCheck",
           "Range",
           "Recipe",
           "Sweep",
           "ThreeLayerConvNet",
           "load",
           "read_image",
]
