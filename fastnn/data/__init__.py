"""Data sets, loaders and augmentation.

Images are uint8 arrays of shape (N, C, H, W) and labels int64 arrays of shape (N,), as they lie in
the files; `to_float` and `transforms.Normalize` turn images into what a network takes. The digits
data set lies in the package; the others are found in a folder or downloaded (see `datasets`).

Examples
--------
>>> from fastnn import data
>>> digits = data.digits()
>>> train, validation = data.split(digits.train, 0.1, seed=0)
>>> mean, std = data.channel_statistics(train.images, digits.scale)
>>> loader = data.DataLoader(train, 64, transform=data.Normalize(mean, std, digits.scale))
>>> images, labels = next(loader.epoch(0))
>>> images.shape, images.dtype, labels.shape
((64, 1, 8, 8), dtype('float32'), (64,))
"""

from fastnn.data.augmentation import (
    AlternatingHorizontalFlip,
    ColorJitter,
    Cutout,
    MixUp,
    RandomAffine,
    RandomApply,
    RandomCrop,
    RandomHorizontalFlip,
)
from fastnn.data.datasets import Dataset, Split, cifar10, cifar100, digits, fashion_mnist, load, mnist, split
from fastnn.data.formats import read_csv, read_idx
from fastnn.data.loader import DataLoader
from fastnn.data.transforms import Compose, Normalize, Transform, channel_statistics, pixel_statistics, to_float

__all__ = [
    "AlternatingHorizontalFlip",
    "ColorJitter",
    "Compose",
    "Cutout",
    "DataLoader",
    "Dataset",
    "MixUp",
    "Normalize",
    "RandomAffine",
    "RandomApply",
    "RandomCrop",
    "RandomHorizontalFlip",
    "Split",
    "Transform",
    "channel_statistics",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "load",
    "mnist",
    "pixel_statistics",
    "read_csv",
    "read_idx",
    "split",
    "to_float",
]
