"""Data sets, texts, loaders and augmentation.

Images are uint8 arrays of shape (N, C, H, W) and labels int64 arrays of shape (N,), as they lie in
the files; `to_float` and `transforms.Normalize` turn images into what a network takes. The digits
data set lies in the package; the others are found in a folder or downloaded (see `datasets`). Texts are what `books`
and `read_text` return; a `Tokenizer` turns them into integers, and a `SequenceLoader` those into batches.

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
from fastnn.data.rounds import Rounds
from fastnn.data.sequences import SequenceLoader, passages
from fastnn.data.texts import books, paragraphs, read_text
from fastnn.data.tokenizer import Tokenizer
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
    "Rounds",
    "SequenceLoader",
    "Split",
    "Tokenizer",
    "Transform",
    "books",
    "channel_statistics",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "load",
    "mnist",
    "paragraphs",
    "passages",
    "pixel_statistics",
    "read_csv",
    "read_idx",
    "read_text",
    "split",
    "to_float",
]
