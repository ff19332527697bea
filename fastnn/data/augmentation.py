"""Random changes of training images, as transforms of whole batches; see `fastnn.data.transforms`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from fastnn._checks import as_float, as_int, as_labels, is_sequence
from fastnn.data.transforms import Transform, broadcast, check_finite, check_images
from fastnn.random import generator


@dataclass(frozen=True)
class RandomCrop:
    """Each image padded on all sides and cut back to its size at a random place.

    Parameters
    ----------
    padding : int
        Pixels added on each side: the farthest that an image may move.
    mode : {"reflect", "constant"}, default "reflect"
        Pad with the image's reflection, without repeating its edge, or with zeros.

    Raises
    ------
    ValueError
        Where `padding` is negative or `mode` another; when called, where the images have not four
        axes or are too small to be reflected that far.

    Examples
    --------
    >>> from fastnn import data, random
    >>> images = data.digits().train.images[:64]
    >>> data.RandomCrop(2)(images, random.generator(0, "augment")).shape
    (64, 1, 8, 8)
    """

    padding: int
    mode: Literal["reflect", "constant"] = "reflect"

    def __post_init__(self) -> None:
        as_int("padding", self.padding, 0)
        if self.mode not in ("reflect", "constant"):
            raise ValueError(f"mode: expected 'reflect' or 'constant', got {self.mode!r}")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        check_images(images)
        n, _, height, width = images.shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"padding: expected below {min(height, width)} to reflect images of {height}x{width}, "
                f"got {self.padding}"
            )
        around = (self.padding, self.padding)
        windows = sliding_window_view(
            np.pad(images, ((0, 0), (0, 0), around, around), self.mode), (height, width), axis=(2, 3)
        )
        top, left = rng.integers(0, 2 * self.padding, (2, n), endpoint=True)
        return windows[np.arange(n), :, top, left]


@dataclass(frozen=True)
class RandomApply:
    """A transform done to each image with probability `p`, and not to the others.

    Parameters
    ----------
    transform : transform
        One that keeps the shape and dtype of the images.
    p : float, default 0.5

    Raises
    ------
    ValueError
        Where `p` is not from 0 to 1; when called, where the images have not four axes.

    Examples
    --------
    >>> from fastnn import data, random
    >>> images = data.digits().train.images[:64]
    >>> moved = data.RandomApply(data.RandomCrop(2), p=0.1)(images, random.generator(0, "augment"))
    >>> bool((moved == images).all((1, 2, 3)).sum() > 50)
    True
    """

    transform: Transform
    p: float = 0.5

    def __post_init__(self) -> None:
        as_float("p", self.p, 0, 1)

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        check_images(images)
        chosen = rng.random(len(images)) < self.p
        changed = images.copy()
        changed[chosen] = self.transform(images[chosen], rng)
        return changed


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Each image mirrored left to right with probability `p`.

    Parameters
    ----------
    p : float, default 0.5

    Raises
    ------
    ValueError
        Where `p` is not from 0 to 1; when called, where the images have not four axes.

    Examples
    --------
    >>> from fastnn import data, random
    >>> images = data.digits().train.images[:64]
    >>> flipped = data.RandomHorizontalFlip(p=1)(images, random.generator(0, "augment"))
    >>> (flipped == images[..., ::-1]).all()
    np.True_
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        as_float("p", self.p, 0, 1)

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        return _flipped(images, rng.random(len(images)) < self.p)


@dataclass(frozen=True)
class AlternatingHorizontalFlip:
    """Each image mirrored left to right in every other epoch: those that chance chooses in even ones, else the others.

    Two epochs show each image once in both ways, where `RandomHorizontalFlip` shows half of them twice in the same.

    Parameters
    ----------
    seed : int, default 0
        What the choice is drawn from.

    Raises
    ------
    TypeError
        When called without a loader, which alone knows the epoch and which images these are.

    Notes
    -----
    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv:2404.00498).

    Examples
    --------
    >>> from fastnn import data
    >>> loader = data.DataLoader(data.digits().train, 64, shuffle=False, transform=data.AlternatingHorizontalFlip())
    >>> (first, _), (second, _) = next(loader.epoch(0)), next(loader.epoch(1))
    >>> (first == second[..., ::-1]).all()
    np.True_
    """

    seed: int = 0

    def __post_init__(self) -> None:
        as_int("seed", self.seed, 0)

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        raise TypeError("AlternatingHorizontalFlip: expected to be the transform of a DataLoader, or one of a Compose "
                        "there, which says which images these are and in which epoch; elsewhere, take "
                        "RandomHorizontalFlip")

    def at(self, epoch: int, rows: NDArray[np.intp]) -> Transform:
        """Return the transform of the images at these places; see `fastnn.data.transforms`."""
        # A draw's beginning is the same however many are drawn, so that the choice is a matter of the place alone.
        drawn = generator(self.seed, "alternating flip").random(rows.max(initial=-1) + 1)
        chosen = (drawn[rows] < 0.5) ^ bool(epoch % 2)
        return lambda images, rng: _flipped(images, chosen)


@dataclass(frozen=True)
class RandomAffine:
    """Each image rotated about its centre and moved, interpolated linearly, zeros around it.

    Parameters
    ----------
    degrees : float
        The largest rotation, in either direction.
    translate : tuple of float, default (0, 0)
        The largest move, horizontally and vertically, as a fraction of the width and height.

    Raises
    ------
    ValueError
        Where `degrees` or `translate` is negative; when called, where the images have not four axes.

    Examples
    --------
    >>> from fastnn import data, random
    >>> images = data.digits().train.images[:64]
    >>> data.RandomAffine(10, translate=(0.1, 0.1))(images, random.generator(0, "augment")).dtype
    dtype('uint8')
    """

    degrees: float
    translate: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        as_float("degrees", self.degrees, 0)
        if not is_sequence(self.translate) or len(self.translate) != 2 or not all(
                as_float("translate", part) >= 0 for part in self.translate):
            raise ValueError(f"translate: expected two fractions of at least 0, got {self.translate}")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        from scipy import ndimage

        check_images(images)
        n, channels, height, width = images.shape
        angle, x_move, y_move = rng.uniform(-1, 1, (3, n, 1, 1))
        angle = np.radians(self.degrees) * angle
        y, x = np.ogrid[:height, :width]
        y = y - (height - 1) / 2 - self.translate[1] * height * y_move
        x = x - (width - 1) / 2 - self.translate[0] * width * x_move
        rows = np.cos(angle) * y - np.sin(angle) * x + (height - 1) / 2
        columns = np.sin(angle) * y + np.cos(angle) * x + (width - 1) / 2

        # One call serves the batch: the images stand in one column, each in a frame of zeros, and
        # what falls outside an image is read from its own frame.
        framed = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
        rows = np.clip(rows, -1, height) + 1 + np.arange(n)[:, None, None] * (height + 2)
        columns = np.clip(columns, -1, width) + 1
        moved = np.empty_like(images, order="C")
        for channel in range(channels):
            column = framed[:, channel].reshape(-1, width + 2)
            moved[:, channel] = ndimage.map_coordinates(column, (rows, columns), images.dtype, order=1)
        return moved


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation of each image changed by factors drawn from [1 - value, 1 + value].

    Parameters
    ----------
    brightness, contrast, saturation : float, default 0
        How far from 1 the factors may lie; none is below 0.
    scale : float, default 255
        The largest value that a pixel may have: ``dataset.scale``, or 1 for floats from 0 to 1. Results are clipped to
        it.

    Raises
    ------
    TypeError, ValueError
        If an argument is negative or no number; when called, if the images have not four axes, or not 1 or 3 channels.

    Notes
    -----
    With the gray image g = 0.299 R + 0.587 G + 0.114 B, brightness multiplies x, saturation mixes x with g, and
    contrast mixes x with the mean of g over the image, each as s x + (1 - s) g. That is torchvision's; but clipping,
    and for integers rounding, comes once, at the end, so that the order of the three changes nothing. Saturation does
    nothing to images of one channel.

    Examples
    --------
    >>> from fastnn import data, random
    >>> digits = data.digits()
    >>> jitter = data.ColorJitter(0.2, 0.2, scale=digits.scale)
    >>> jitter(digits.train.images[:64], random.generator(0, "augment")).max()
    np.uint8(16)
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    scale: float = 255

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            as_float(name, getattr(self, name), 0)
        if not as_float("scale", self.scale) > 0:
            raise ValueError(f"scale: expected a number above 0, got {self.scale}")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        check_images(images)
        n, channels = images.shape[:2]
        if channels not in (1, 3):
            raise ValueError(f"images: expected 1 or 3 channels, gray or red, green and blue, got {channels}")
        integers = images.dtype.kind in "iu"
        pixels = images.astype(np.float32 if integers else images.dtype, order="C")
        brightness, contrast, saturation = (
            rng.uniform(max(0, 1 - value), 1 + value, (n, 1, 1, 1)).astype(pixels.dtype)
            for value in (self.brightness, self.contrast, self.saturation))
        gray = pixels
        if channels == 3:
            gray = 0.299 * pixels[:, 0:1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:3]
        mean = gray.mean((2, 3), keepdims=True)
        if channels == 3 and self.saturation:
            pixels *= saturation
            pixels += (1 - saturation) * gray
        # A mean of gray changes with brightness, and not with saturation.
        pixels *= brightness * contrast
        pixels += (1 - contrast) * brightness * mean
        np.clip(pixels, 0, self.scale, out=pixels)
        return np.rint(pixels, out=pixels).astype(images.dtype) if integers else pixels


@dataclass(frozen=True, eq=False)
class Cutout:
    """A square of each image filled with one colour, its centre anywhere in the image and its rest cut off at the edge.

    Parameters
    ----------
    size : int
        The side of the square in pixels.
    fill : float or array-like of shape (C,), default 0
        The colour, in the units of the images: after `Normalize`, 0 is the mean.

    Raises
    ------
    TypeError, ValueError
        If `size` is below 1 or `fill` not finite; when called, if the images have not four axes, or their dtype cannot
        hold the colour.

    Notes
    -----
    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout" (arXiv:1708.04552).

    Examples
    --------
    >>> from fastnn import data, random
    >>> images = data.digits().train.images[:64]
    >>> (data.Cutout(3, fill=7)(images, random.generator(0, "augment")) == 7).sum((1, 2, 3)).max() >= 9
    np.True_
    """

    size: int
    fill: ArrayLike = 0

    def __post_init__(self) -> None:
        as_int("size", self.size, 1)
        check_finite("fill", self.fill)

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        check_images(images)
        n, _, *lengths = images.shape
        exact = broadcast("fill", self.fill, images)
        with np.errstate(invalid="ignore"):
            fill = exact.astype(images.dtype)
        if images.dtype.kind in "iu" and (fill != exact).any():
            raise ValueError(f"fill: expected values of {images.dtype} as the images have, got {self.fill!r}")
        starts = [rng.integers(0, length, (n, 1)) - self.size // 2 for length in lengths]
        rows, columns = ((start <= np.arange(length)) & (np.arange(length) < start + self.size)
                         for start, length in zip(starts, lengths))
        return np.where(rows[:, None, :, None] & columns[:, None, None, :], fill, images)


@dataclass(frozen=True)
class MixUp:
    """Each image of a batch mixed with another one of it, and their labels in the same shares.

    For the `batch_transform` of a `DataLoader`. With l drawn from Beta(alpha, alpha) for each image x, and x' another
    one: x is replaced by l x + (1 - l) x', and its label by a row of probabilities, l for its class plus 1 - l for that
    of x'. `nn.CrossEntropyLoss` takes those.

    Parameters
    ----------
    num_classes : int
        Probabilities in a row.
    alpha : float, default 1
        The larger, the more evenly images are mixed; at 0.2 most of them are nearly pure.

    Raises
    ------
    TypeError, ValueError
        If `num_classes` is below 1 or `alpha` is not above 0; when called, if a batch is not one of images in floats,
        which come after `Normalize`, and of labels from 0 to num_classes - 1.

    Notes
    -----
    Zhang and others, "mixup: Beyond empirical risk minimization" (arXiv:1710.09412), equation 1.

    Examples
    --------
    >>> from fastnn import data
    >>> digits = data.digits()
    >>> loader = data.DataLoader(digits.train, 64, transform=data.Normalize(0.3, 0.4, digits.scale),
    ...                          batch_transform=data.MixUp(num_classes=10, alpha=0.2))
    >>> images, probabilities = next(loader.epoch(0))
    >>> probabilities.shape, probabilities.sum(1).max().round(3)
    ((64, 10), np.float32(1.0))
    """

    num_classes: int
    alpha: float = 1.0

    def __post_init__(self) -> None:
        as_int("num_classes", self.num_classes, 1)
        if not as_float("alpha", self.alpha, 0) > 0:
            raise ValueError(f"alpha: expected a number above 0, got {self.alpha}")

    def __call__(self, batch: Sequence[NDArray[Any]], rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        if len(batch) != 2:
            raise ValueError(f"batch: expected images and labels, got {len(batch)} arrays")
        images, given = batch
        check_images(images)
        if images.dtype.kind != "f":
            raise TypeError(f"images: expected floats, got {images.dtype}; give the loader a Normalize as transform")
        n = len(images)
        labels = as_labels("labels", given, (n,), self.num_classes)
        shares, partners = rng.beta(self.alpha, self.alpha, n).astype(images.dtype), rng.permutation(n)
        share = shares[:, None, None, None]
        probabilities = np.zeros((n, self.num_classes), images.dtype)
        probabilities[np.arange(n), labels] = shares
        probabilities[np.arange(n), labels[partners]] += 1 - shares
        return share * images + (1 - share) * images[partners], probabilities


def _flipped(images: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[Any]:
    check_images(images)
    flipped = images.copy()
    flipped[chosen] = images[chosen, ..., ::-1]
    return flipped
