"""The data sets.

`digits` lies in the package. `mnist`, `fashion_mnist`, `cifar10` and `cifar100` are looked for in the folder
`data_dir`, else in the one that the environment variable FASTNN_DATA names: in its subfolder ``mnist/``,
``fashion-mnist/``, ``cifar-10/cifar-10-batches-py/``, ``cifar-10-batches-py/``, ``cifar-100/cifar-100-python/`` or
``cifar-100-python/``, or directly in it. Files may be plain or gzipped. If neither folder is given, the originals are
downloaded to the user's cache folder and their SHA-256 is checked (extra ``[train]``). If one is given and lacks the
files, that is an error, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn._checks import as_int
from fastnn._files import open_file
from fastnn.data.download import BATCHES, SOURCES, check_sha256, fetch, fetch_batches
from fastnn.data.formats import read_bytes, read_cifar_batch, read_csv, read_idx
from fastnn.random import generator

_DIGITS = tuple("0123456789")
_DIGITS_SHA256 = "d27328d43981b0196cf0f7985c141a82e6e92e13fdcc3636b5bd21d691864885"
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
_CIFAR100_COARSE = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)

_FOLDERS = {
    "mnist": ("mnist", "."),
    "fashion_mnist": ("fashion-mnist", "."),
    "cifar10": ("cifar-10/cifar-10-batches-py", "cifar-10-batches-py", "."),
    "cifar100": ("cifar-100/cifar-100-python", "cifar-100-python", "."),
    "books": ("text", "."),
}
_IDX_FILES = [file.removesuffix(".gz") for file in SOURCES["mnist"].sha256]
_CSV_FILES = ["fashion-mnist_train.csv", "fashion-mnist_test.csv"]

# MNIST and Fashion-MNIST give their files the same names; the first test labels tell them apart.
_FIRST_LABELS = {"mnist": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], "fashion_mnist": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a data set, such as its training images.

    Attributes
    ----------
    images : ndarray of uint8, shape (N, C, H, W)
    labels : ndarray of int64, shape (N,)

    Raises
    ------
    ValueError
        Where the numbers of images and labels differ.

    Examples
    --------
    >>> from fastnn import data
    >>> train = data.digits().train
    >>> len(train), train.images.shape, train.labels[:5]
    (1437, (1437, 1, 8, 8), array([0, 1, 2, 3, 4]))
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: expected one for each image, shape {self.images.shape[:1]}, got {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its official division into training and test images.

    Attributes
    ----------
    train, test : Split
    classes : tuple of str
        The name of each label.
    name : str
        What `load` calls it.
    scale : int
        The largest value that a pixel may have: 255, or 16 for the digits.

    Examples
    --------
    >>> from fastnn import data
    >>> digits = data.digits()
    >>> digits.name, len(digits.test), digits.classes[3], digits.scale
    ('digits', 360, '3', 16)
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    name: str
    scale: int = 255


def digits() -> Dataset:
    """Return the 1,797 handwritten digits of 8x8 pixels that lie in the package.

    They are the test part of the Optical Recognition of Handwritten Digits data set of the UCI
    Machine Learning Repository (E. Alpaydin, C. Kaynak, 1998, CC BY 4.0), in scikit-learn's order
    (`sklearn.datasets.load_digits`). The test split is a stratified 20 % (360 images), drawn once.

    Returns
    -------
    Dataset
        Images uint8 of shape (1437, 1, 8, 8) and (360, 1, 8, 8), values 0 to 16.

    Examples
    --------
    >>> from fastnn import data
    >>> data.digits().train.images[0, 0, :3]
    array([[ 0,  0,  5, 13,  9,  1,  0,  0],
           [ 0,  0, 13, 15, 10, 15,  5,  0],
           [ 0,  3, 15,  2,  0, 11,  8,  0]], dtype=uint8)
    """
    path = Path(__file__).with_name("digits.npz")
    check_sha256(raw := path.read_bytes(), _DIGITS_SHA256, str(path))
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        images, labels, test = file["images"][:, None], file["labels"].astype(np.int64), file["test"]
    held_out = np.zeros(len(labels), bool)
    held_out[test] = True
    train = Split(images[~held_out], labels[~held_out])
    return Dataset(train, Split(images[held_out], labels[held_out]), _DIGITS, "digits", scale=16)


def mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return MNIST: handwritten digits of 28x28 pixels (LeCun, Bottou, Bengio, Haffner, 1998).

    Parameters
    ----------
    data_dir : str or path-like, optional
        The folder to look in; see `fastnn.data.datasets`.

    Returns
    -------
    Dataset
        Images uint8 of shape (60000, 1, 28, 28) and (10000, 1, 28, 28).

    Raises
    ------
    FileNotFoundError
        Where a folder is given that lacks the files.
    ValueError
        Where a file is damaged or holds something else.

    Examples
    --------
    >>> from fastnn import data
    >>> data.mnist().train.images.shape  # doctest: +SKIP
    (60000, 1, 28, 28)
    >>> data.mnist("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: mnist: expected its files in no-such-folder (given as data_dir), ...
    """
    return _mnist_like("mnist", data_dir, _DIGITS, [_IDX_FILES])


def fashion_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return Fashion-MNIST: articles of clothing, 28x28 pixels (Xiao, Rasul, Vollgraf, 2017).

    Parameters
    ----------
    data_dir : str or path-like, optional
        The folder to look in (see `fastnn.data.datasets`), for the IDX files or, where those are
        not there, for ``fashion-mnist_train.csv`` and ``fashion-mnist_test.csv``.

    Returns
    -------
    Dataset
        Images uint8 of shape (60000, 1, 28, 28) and (10000, 1, 28, 28).

    Raises
    ------
    FileNotFoundError
        Where a folder is given that lacks the files.
    ValueError
        Where a file is damaged or holds something else.

    Examples
    --------
    >>> from fastnn import data
    >>> data.fashion_mnist().classes[9]  # doctest: +SKIP
    'Ankle boot'
    >>> data.fashion_mnist("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: fashion_mnist: expected its files in no-such-folder (given as data_dir), ...
    """
    return _mnist_like("fashion_mnist", data_dir, _FASHION, [_IDX_FILES, _CSV_FILES])


def cifar10(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return CIFAR-10: colour photographs of 32x32 pixels (Krizhevsky, 2009).

    The batches are pickles. Each is checked against its published SHA-256 and read opcode by opcode: nothing in it is
    run, and anything that the official batches do not hold is refused.

    Parameters
    ----------
    data_dir : str or path-like, optional
        The folder to look in; see `fastnn.data.datasets`.

    Returns
    -------
    Dataset
        Images uint8 of shape (50000, 3, 32, 32) and (10000, 3, 32, 32), planes red, green, blue.

    Raises
    ------
    FileNotFoundError
        Where a folder is given that lacks the files.
    ValueError
        Where a file is not the original.

    Examples
    --------
    >>> from fastnn import data
    >>> data.cifar10().test.images.shape  # doctest: +SKIP
    (10000, 3, 32, 32)
    >>> data.cifar10("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: cifar10: expected its files in no-such-folder (given as data_dir), ...
    """
    return _cifar("cifar10", data_dir, "labels", _CIFAR10)


def cifar100(data_dir: str | os.PathLike[str] | None = None, *, coarse: bool = False) -> Dataset:
    """Return CIFAR-100: colour photographs of 32x32 pixels, 600 of each of 100 classes (Krizhevsky, 2009).

    Its two files are checked and read as those of `cifar10` are.

    Parameters
    ----------
    data_dir : str or path-like, optional
        The folder to look in; see `fastnn.data.datasets`.
    coarse : bool
        Whether labels are those of the 20 superclasses, such as trees, each of five classes.

    Returns
    -------
    Dataset
        Images uint8 of shape (50000, 3, 32, 32) and (10000, 3, 32, 32), planes red, green, blue.

    Raises
    ------
    FileNotFoundError
        Where a folder is given that lacks the files.
    ValueError
        Where a file is not the original.

    Examples
    --------
    >>> from fastnn import data
    >>> data.cifar100().classes[:3]  # doctest: +SKIP
    ('apple', 'aquarium_fish', 'baby')
    >>> data.cifar100("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: cifar100: expected its files in no-such-folder (given as data_dir), ...
    """
    if coarse:
        return _cifar("cifar100", data_dir, "coarse_labels", _CIFAR100_COARSE)
    return _cifar("cifar100", data_dir, "fine_labels", _CIFAR100)


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return the data set of that name.

    Parameters
    ----------
    name : {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100"}
        The name of its function.
    data_dir : str or path-like, optional
        The folder to look in; the digits need none.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        Where there is no such data set, and whatever its function raises.

    Examples
    --------
    >>> from fastnn import data
    >>> data.load("digits").name
    'digits'
    """
    if name == "digits":
        return digits()
    loaders = {loader.__name__: loader for loader in (mnist, fashion_mnist, cifar10, cifar100)}
    if name not in loaders:
        raise ValueError(f"name: expected one of digits, {', '.join(loaders)}, got {name!r}")
    return loaders[name](data_dir)


def split(part: Split, size: int | float, seed: int = 0) -> tuple[Split, Split]:
    """Divide a split in two, stratified: each class has the same share of both, to a sample.

    Parameters
    ----------
    part : Split
        What to divide, usually ``dataset.train``.
    size : int or float
        How much goes into the second split: a number of samples, or a fraction between 0 and 1.
    seed : int, default 0
        Which samples those are; the same seed gives the same samples.

    Returns
    -------
    train, validation : Split
        Both in the order of `part`.

    Raises
    ------
    ValueError
        Where one of the two would be empty.

    Examples
    --------
    >>> from fastnn import data
    >>> train, validation = data.split(data.digits().train, 0.2, seed=0)
    >>> len(train), len(validation)
    (1150, 287)
    """
    if not isinstance(part, Split):
        raise TypeError(f"part: expected a Split, got {type(part).__name__}")
    if isinstance(size, (float, np.floating)):
        total = round(size * len(part)) if 0 <= size <= 1 else 0
    else:
        total = as_int("size", size)
    if not 0 < total < len(part):
        raise ValueError(
            f"size: expected a number of samples from 1 to {len(part) - 1}, or the fraction that gives one, got {size}"
        )
    _, classes, counts = np.unique(part.labels, return_inverse=True, return_counts=True)
    shares = counts * total
    quotas = shares // len(part)
    largest_remainders = np.argsort(-(shares % len(part)), kind="stable")
    quotas[largest_remainders[: total - quotas.sum()]] += 1

    order = generator(seed, "split").permutation(len(part))
    chosen = np.zeros(len(part), bool)
    for label, quota in enumerate(quotas):
        chosen[order[classes[order] == label][:quota]] = True
    return (
        Split(part.images[~chosen], part.labels[~chosen]),
        Split(part.images[chosen], part.labels[chosen]),
    )


def find(name: str, data_dir: str | os.PathLike[str] | None, layouts: Sequence[Sequence[str]]) -> list[Path] | None:
    """Return the files of the first layout that is there whole, or None where no folder is given."""
    origin = "FASTNN_DATA" if data_dir is None else "data_dir"
    given = (os.environ.get("FASTNN_DATA") or None) if data_dir is None else data_dir
    if given is None:
        return None
    looked = []
    for folder in (Path(given).expanduser() / sub for sub in _FOLDERS[name]):
        for layout in layouts:
            found = {file: path for file in layout for path in _variants(folder, file) if path.is_file()}
            if len(found) == len(layout):
                return list(found.values())
            lacking = ", ".join(file for file in layout if file not in found)
            looked.append(f"{folder}: " + (f"lacks {lacking}" if folder.is_dir() else "no such folder"))
    raise FileNotFoundError(
        f"{name}: expected its files in {given} (given as {origin}), plain or with .gz; looked in "
        + "; ".join(dict.fromkeys(looked))
        + ". Put them there, give another folder as data_dir or FASTNN_DATA, or give neither to download them."
    )


def _variants(folder: Path, file: str) -> tuple[Path, Path]:
    return folder / file, folder / f"{file}.gz"


def _mnist_like(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    classes: tuple[str, ...],
    layouts: Sequence[Sequence[str]],
) -> Dataset:
    paths = find(name, data_dir, layouts) or fetch(name)
    if len(paths) == len(_CSV_FILES):
        train, test = (Split(*read_csv(path)) for path in paths)
    else:
        train, test = _idx_split(name, *paths[:2]), _idx_split(name, *paths[2:])
    for other, first_labels in _FIRST_LABELS.items():
        if other != name and test.labels[: len(first_labels)].tolist() == first_labels:
            raise ValueError(f"{paths[0].parent}: expected {name}, got {other}, whose files have the same names")
    return Dataset(train, test, classes, name)


def _idx_split(name: str, image_path: Path, label_path: Path) -> Split:
    images, labels = _read_original(name, image_path), _read_original(name, label_path)
    for path, array, shape in ((label_path, labels, (labels.size,)), (image_path, images, (labels.size, 28, 28))):
        if array.dtype != np.uint8 or array.shape != shape or not labels.size:
            raise ValueError(
                f"{path}: expected uint8 of shape {shape} for the {labels.size} labels of {label_path.name}, "
                f"got {array.dtype} of shape {array.shape}; fetch both files again"
            )
    if labels.max() > 9:
        raise ValueError(f"{label_path}: expected labels from 0 to 9, got {labels.max()}; fetch the file again")
    return Split(images[:, None], labels.astype(np.int64))


def _cifar(name: str, data_dir: str | os.PathLike[str] | None, labels: str, classes: tuple[str, ...]) -> Dataset:
    batches = BATCHES[name]
    paths = find(name, data_dir, [list(batches.sha256)])
    contents: Iterable[tuple[str, bytes]]
    if paths is None:
        contents = fetch_batches(name).items()
    else:
        contents = ((str(path), read_bytes(path, batches.limit)) for path in paths)
    parts = []
    for (file, raw), digest in zip(contents, batches.sha256.values(), strict=True):
        check_sha256(raw, digest, file)
        parts.append(read_cifar_batch(raw, file, labels))
    images, numbers = zip(*parts[:-1], strict=True)
    return Dataset(Split(np.concatenate(images), np.concatenate(numbers)), Split(*parts[-1]), classes, name)


def _read_original(name: str, path: Path) -> NDArray[Any]:
    """Read an IDX file; where that fails and it should be the original, say how it differs from it."""
    try:
        return read_idx(path)
    except ValueError as error:
        if path.name not in SOURCES[name].sha256:
            raise
        with open_file(path, "an IDX file") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        raise ValueError(f"{error}. Expected SHA-256 {SOURCES[name].sha256[path.name]}, got {got}") from error
