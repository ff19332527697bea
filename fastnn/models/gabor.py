"""Gabor filters: how strongly an image has edges of each direction and width at each place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_int
from fastnn.nn import Backward, Module, once


def gabor_filters(orientations: int, frequencies: Sequence[float], size: int) -> Array:
    """Return pairs of Gabor filters, an even and an odd one for each frequency and orientation.

    exp(-(u^2 + v^2) / (2 sigma^2)) times the cosine, or sine, of 2 pi f u, u being the coordinate across the edge:
    x cos a + y sin a. Daugman, "Uncertainty relation for resolution in space, spatial frequency, and orientation"
    (Journal of the Optical Society of America A 2, 1985), with a round envelope of sigma = 0.4 / f, which has about an
    octave of bandwidth. Each filter has mean 0 and norm 1.

    Parameters
    ----------
    orientations : int
        How many, evenly over half a turn.
    frequencies : sequence of float
        In cycles a pixel, above 0 and below 0.5.
    size : int
        Height and width of a filter, odd.

    Returns
    -------
    ndarray of float64, shape (2 * len(frequencies) * orientations, 1, size, size)
        Even filters first, then odd; by frequency, then orientation.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> from fastnn.models.gabor import gabor_filters
    >>> gabor_filters(4, [0.1, 0.25], 7).shape
    (16, 1, 7, 7)
    """
    as_int("orientations", orientations, 1)
    if np.ndim(frequencies) != 1 or not len(frequencies) or not all(0 < frequency < 0.5 for frequency in frequencies):
        raise ValueError("frequencies: expected numbers above 0 and below 0.5 cycles a pixel, where an odd filter is 0 "
                         f"everywhere, got {frequencies}")
    if as_int("size", size, 3) % 2 == 0:
        raise ValueError(f"size: expected an odd number from 3, got {size}")
    y, x = np.mgrid[:size, :size] - size // 2
    angle = (np.pi / orientations * np.arange(orientations))[:, None, None]
    frequency = np.array(frequencies)[:, None, None, None]
    phase = 2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle))
    envelope = np.exp(-(x**2 + y**2) / (2 * (0.4 / frequency) ** 2))
    filters = np.stack([envelope * np.cos(phase), envelope * np.sin(phase)]).reshape(-1, 1, size, size)
    filters -= filters.mean((2, 3), keepdims=True)
    return filters / np.linalg.norm(filters, axis=(2, 3), keepdims=True)


class GaborBank(Module):
    """The energy of each Gabor filter's answer, averaged over squares of the image.

    The energy, the root of the sum of the squares of the even and the odd filter's answers, says how strong an edge is,
    whatever its phase. Nothing is learned.

    Parameters
    ----------
    orientations : int, default 8
    frequencies : sequence of float, default (0.1, 0.2, 0.35)
        In cycles a pixel.
    size : int, default 7
        Height and width of the filters, odd; the image is padded to keep its size.
    pool : int, default 2
        Side of the squares.

    Attributes
    ----------
    weight : array of float32
        The filters, see `gabor_filters`.

    Notes
    -----
    Takes images of shape (N, 1, H, W) and returns (N, len(frequencies) * orientations, H / pool, W / pool), rounded
    down.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> stripes = np.tile(np.cos(2 * np.pi * 0.2 * np.arange(20, dtype=np.float32)), (1, 1, 20, 1))
    >>> energy = models.GaborBank(4, [0.2], pool=20)(stripes)
    >>> energy.ravel().argmax()                            # the orientation whose wave runs along x
    np.int64(0)
    """

    buffers = ("weight",)

    def __init__(self, orientations: int = 8, frequencies: Sequence[float] = (0.1, 0.2, 0.35), size: int = 7,
                 pool: int = 2) -> None:
        self.weight = gabor_filters(orientations, frequencies, size).astype(np.float32)
        self.orientations, self.frequencies, self.size = orientations, tuple(frequencies), size
        self.pool = as_int("pool", pool, 1)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        weight, pool, padding = self.weight, self.pool, self.size // 2
        even, odd = np.split(answers := kernels.conv2d(x, weight, padding=padding), 2, axis=1)
        energy = np.sqrt(even * even + odd * odd)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            if not input_grad:
                return None
            grad = kernels.avg_pool2d_backward(grad_y, energy.shape, pool)
            share = grad / (energy + (energy == 0))
            grad_answers = answers * np.concatenate([share, share], axis=1)
            return kernels.conv2d_backward(grad_answers, x, weight, padding=padding, needs=(True, False, False))[0]

        return kernels.avg_pool2d(energy, pool), backward
