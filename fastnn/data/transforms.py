"""From uint8 images to what a network takes: scaling, normalisation and augmentation.

A transform is called as ``transform(images, rng)`` on a batch of images of shape (N, C, H, W) and
returns a new batch; it never writes its input. Every draw comes from `rng`, one for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastnn._checks import as_float, as_int, is_sequence

Transform: TypeAlias = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]


def to_float(
    images: NDArray[Any],
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    *,
    scale: float = 255,
    dtype: DTypeLike = np.float32,
) -> NDArray[Any]:
    """Return (images / scale - mean) / std.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W)
        Values from 0 to `scale`, of any real dtype, usually uint8.
    mean, std : float or array-like of shape (C,) or (C, H, W), optional
        As from `channel_statistics` or `pixel_statistics`; 0 and 1 where not given.
    scale : float, default 255
        The largest value that a pixel may have: ``dataset.scale``, 16 for the digits.
    dtype : dtype, default float32
        The floating dtype of the result.

    Returns
    -------
    ndarray of `dtype`, shape (N, C, H, W)

    Raises
    ------
    TypeError
        Where `dtype` is no floating dtype.
    ValueError
        Where `images` has not four axes, `mean` or `std` not one value a channel or pixel, or `std` or
        `scale` is not above 0.

    Examples
    --------
    >>> from fastnn import data
    >>> digits = data.digits()
    >>> data.to_float(digits.test.images, scale=digits.scale).max()
    np.float32(1.0)
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise TypeError(f"dtype: expected a floating dtype, such as float32, got {dtype.name}")
    if not scale > 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    _check_images(images)
    # In the images' own units, two passes do, and x / scale alone is rounded but once.
    offset = scale * _broadcast("mean", mean, 0.0, images)
    divisor = scale * _broadcast("std", std, 1.0, images)
    if not (divisor > 0).all():
        raise ValueError(f"std: expected values above 0, got {std!r}; a constant channel needs std 1")
    floats: NDArray[Any] = np.subtract(images, offset.astype(dtype), dtype=dtype, casting="unsafe")
    floats /= divisor.astype(dtype)
    return floats


def channel_statistics(images: NDArray[np.uint8], scale: float = 255) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the mean and standard deviation of each channel of images / scale.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, C, H, W)
    scale : float, default 255
        The largest value that a pixel may have: ``dataset.scale``.

    Returns
    -------
    mean, std : ndarray of float64, shape (C,)

    Raises
    ------
    TypeError
        Where `images` is not uint8.
    ValueError
        Where `images` has not four axes or is empty, or `scale` is not above 0.

    Examples
    --------
    >>> from fastnn import data
    >>> digits = data.digits()
    >>> mean, std = data.channel_statistics(digits.train.images, digits.scale)
    >>> mean.round(3), std.round(3)
    (array([0.305]), array([0.376]))
    """
    _check_counts(images, scale)
    # Counting values keeps the sums exact, and the memory at that of a block.
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), 1024):
        for channel, pixels in enumerate(images[start : start + 1024].swapaxes(0, 1)):
            counts[channel] += np.bincount(pixels.ravel(), minlength=256)
    values = np.arange(256)
    pixels_per_channel = images.size // images.shape[1]
    mean = counts @ values / pixels_per_channel
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / pixels_per_channel
    return mean / scale, np.sqrt(variance) / scale


def pixel_statistics(images: NDArray[np.uint8], scale: float = 255, *,
                     floor: float = 0.05) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the mean and standard deviation of each pixel of images / scale.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, C, H, W)
    scale : float, default 255
        The largest value that a pixel may have: ``dataset.scale``.
    floor : float, default 0.05
        Added to the deviations, so that a pixel that is nearly always dark is not blown up.

    Returns
    -------
    mean, std : ndarray of float64, shape (C, H, W)

    Raises
    ------
    TypeError
        Where `images` is not uint8.
    ValueError
        Where `images` has not four axes or is empty, `scale` is not above 0, or `floor` is negative.

    Examples
    --------
    >>> from fastnn import data
    >>> digits = data.digits()
    >>> mean, std = data.pixel_statistics(digits.train.images, digits.scale)
    >>> mean.shape, std.min()
    ((1, 8, 8), np.float64(0.05))
    """
    if not floor >= 0:
        raise ValueError(f"floor: expected at least 0, got {floor}")
    _check_counts(images, scale)
    mean = images.mean(0, dtype=np.float64)
    variance = np.zeros_like(mean)
    for start in range(0, len(images), 1024):
        variance += ((images[start : start + 1024] - mean) ** 2).sum(0)
    return mean / scale, np.sqrt(variance / len(images)) / scale + floor


@dataclass(frozen=True)
class Compose:
    """Several transforms, one after the other.

    Parameters
    ----------
    transforms : sequence of transforms

    Examples
    --------
    >>> from fastnn import data, random
    >>> images = data.digits().train.images[:64]
    >>> augment = data.Compose([data.RandomCrop(1), data.Normalize(0.3, 0.4, scale=16)])
    >>> augment(images, random.generator(0, "augment")).dtype
    dtype('float32')
    """

    transforms: Sequence[Transform]

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        for transform in self.transforms:
            images = transform(images, rng)
        return images


@dataclass(frozen=True, eq=False)
class Normalize:
    """(images / scale - mean) / std in float32; see `to_float`.

    Parameters
    ----------
    mean, std : float or array-like of shape (C,) or (C, H, W)
        As from `channel_statistics` or `pixel_statistics`.
    scale : float, default 255
        The largest value that a pixel may have: ``dataset.scale``.

    Examples
    --------
    >>> from fastnn import data, random
    >>> digits = data.digits()
    >>> normalize = data.Normalize(*data.channel_statistics(digits.train.images, digits.scale), digits.scale)
    >>> abs(normalize(digits.train.images, random.generator(0, "augment")).mean()) < 1e-6
    np.True_
    """

    mean: ArrayLike
    std: ArrayLike
    scale: float = 255

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            try:
                finite = bool(np.isfinite(np.asarray(getattr(self, name), np.float64)).all())
            except (TypeError, ValueError):
                finite = False
            if not finite:
                raise ValueError(f"{name}: expected finite numbers, got {getattr(self, name)!r:.100}")

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        return to_float(images, self.mean, self.std, scale=self.scale)


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
        _check_images(images)
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
        _check_images(images)
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
        _check_images(images)
        chosen = rng.random(len(images)) < self.p
        flipped = images.copy()
        flipped[chosen] = images[chosen, ..., ::-1]
        return flipped


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

        _check_images(images)
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


def _check_images(images: NDArray[Any]) -> None:
    if images.ndim != 4:
        raise ValueError(f"images: expected shape (N, C, H, W), got {images.shape}")


def _check_counts(images: NDArray[Any], scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    _check_images(images)
    if images.dtype != np.uint8:
        raise TypeError(f"images: expected uint8, got {images.dtype}")
    if not images.size:
        raise ValueError(f"images: expected at least one image, got shape {images.shape}")


def _broadcast(name: str, values: ArrayLike | None, default: float, images: NDArray[Any]) -> NDArray[np.float64]:
    """Return `values` in float64, shaped to broadcast over the images: one for all, one a channel, or one a pixel."""
    array = np.asarray(default if values is None else values, np.float64)
    if array.shape == images.shape[1:]:
        return array
    if array.shape not in ((), (1,), images.shape[1:2]):
        raise ValueError(f"{name}: expected a number, {images.shape[1]} (one a channel), or one a pixel of shape "
                         f"{images.shape[1:]}, got shape {array.shape}")
    return array.reshape(-1, 1, 1)
