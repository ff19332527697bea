"""From uint8 images to what a network takes: scaling, normalisation, and transforms in a row.

A transform is called as ``transform(images, rng)`` on a batch of images of shape (N, C, H, W) and returns a new batch;
it never writes its input. Every draw comes from `rng`, one for each image. One that must know more has a method
``at(epoch, rows)``, which returns the transform of the images that lie at these places of a loader's arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

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
    check_images(images)
    # In the images' own units, two passes do, and x / scale alone is rounded but once.
    offset = scale * broadcast("mean", 0.0 if mean is None else mean, images)
    divisor = scale * broadcast("std", 1.0 if std is None else std, images)
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

    def at(self, epoch: int, rows: NDArray[np.intp]) -> Compose:
        """Return the same of the transforms at these places; see `fastnn.data.transforms`."""
        return Compose([at(transform, epoch, rows) for transform in self.transforms])


def at(transform: Transform, epoch: int, rows: NDArray[np.intp]) -> Transform:
    """Return a transform for the images at these places of the loader's arrays; most are the same for all."""
    own: Transform = transform.at(epoch, rows) if hasattr(transform, "at") else transform
    return own


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
        check_finite("mean", self.mean)
        check_finite("std", self.std)

    def __call__(self, images: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        return to_float(images, self.mean, self.std, scale=self.scale)

    def inverse(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images std + mean: from what a network takes back to pixels from 0 to 1.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import data
        >>> data.Normalize(0.5, 0.25).inverse(np.array([[[[-2.0, 0.0, 2.0]]]]))
        array([[[[0. , 0.5, 1. ]]]])
        """
        check_images(images)
        std, mean = (broadcast(name, getattr(self, name), images) for name in ("std", "mean"))
        return images * std.astype(images.dtype) + mean.astype(images.dtype)


def check_images(images: NDArray[Any]) -> None:
    """Raise ValueError unless this is a batch of images."""
    if images.ndim != 4:
        raise ValueError(f"images: expected shape (N, C, H, W), got {images.shape}")


def check_finite(name: str, values: ArrayLike) -> None:
    """Raise ValueError unless these are finite numbers."""
    try:
        finite = bool(np.isfinite(np.asarray(values, np.float64)).all())
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise ValueError(f"{name}: expected finite numbers, got {values!r:.100}")


def broadcast(name: str, values: ArrayLike, images: NDArray[Any]) -> NDArray[np.float64]:
    """Return `values` in float64, shaped to broadcast over the images: one for all, one a channel, or one a pixel."""
    array = np.asarray(values, np.float64)
    if array.shape == images.shape[1:]:
        return array
    if array.shape not in ((), (1,), images.shape[1:2]):
        raise ValueError(f"{name}: expected a number, {images.shape[1]} (one a channel), or one a pixel of shape "
                         f"{images.shape[1:]}, got shape {array.shape}")
    return array.reshape(-1, 1, 1)


def _check_counts(images: NDArray[Any], scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    check_images(images)
    if images.dtype != np.uint8:
        raise TypeError(f"images: expected uint8, got {images.dtype}")
    if not images.size:
        raise ValueError(f"images: expected at least one image, got shape {images.shape}")
