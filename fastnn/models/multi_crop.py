"""Test-time augmentation: a model's scores averaged over flipped and shifted views of each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_floats, as_int, check_rank
from fastnn.nn import Module
from fastnn.nn.module import Backward, beside, once


class MultiCrop(Module):
    """A model's scores, averaged over views of each image: mirrored or not, and shifted by some pixels or not.

    Half of the weight lies on the image where it is, a quarter each on the image shifted up and left and on that
    shifted down and right, where pixels that come in at the edge are its reflection.

    Parameters
    ----------
    model : Module
        Gives scores (N, classes) for images (N, C, H, W).
    flip : bool, default True
        Whether each view counts in half as it is and in half mirrored left to right.
    shift : int, default 1
        Pixels; with 0 there is no shifted view.

    Raises
    ------
    TypeError, ValueError
        If `model` is none or `shift` negative; when called, if x is no batch of images, or not larger than the shift.

    Notes
    -----
    Six times the cost of the model; twice without shifts. The views of "94% on CIFAR-10 in 3.29 seconds on a single
    GPU" (Jordan, arXiv:2404.00498).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> model = models.MultiCrop(models.CNN(), shift=0)
    >>> images = np.eye(8, dtype=np.float32).reshape(1, 1, 8, 8)
    >>> np.allclose(model(images), model(images[..., ::-1]))
    True
    """

    def __init__(self, model: Module, *, flip: bool = True, shift: int = 1) -> None:
        if not isinstance(model, Module):
            raise TypeError(f"model: expected a Module, got {type(model).__name__}")
        self.model = model
        self.flip = flip
        self.shift = as_int("shift", shift, 0)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Any, Backward]:
        x, = as_floats(x=x)
        check_rank("x", x, 4, layout="(N, C, H, W)")
        if self.shift >= min(x.shape[2:]):
            raise ValueError(f"x: expected images larger than the shift of {self.shift}, got shape {x.shape}")
        scores, views = None, []
        for weight, rows, columns in self._views(*x.shape[2:]):
            view = x.take(beside(x, rows), 2).take(beside(x, columns), 3)
            of_view, view_backward = self.model.forward(view, training=training)
            of_view = weight * of_view
            scores = of_view if scores is None else kernels.add(scores, of_view)
            views.append((weight, rows, columns, view_backward))

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            grad_x = None
            while views:
                weight, rows, columns, view_backward = views.pop(0)
                grad = view_backward(weight * grad_y, input_grad=input_grad)
                if input_grad:
                    grad = _put_back(_put_back(grad, rows, 2), columns, 3)
                    grad_x = grad if grad_x is None else kernels.add(grad_x, grad)
            return grad_x

        return scores, backward

    def _views(self, height: int, width: int) -> Iterator[tuple[float, Array, Array]]:
        """Return the weight of each view, and which rows and columns of the image it shows."""
        shifts = {0: 0.5, -self.shift: 0.25, self.shift: 0.25} if self.shift else {0: 1.0}
        for shift, weight in shifts.items():
            rows, columns = (_reflected(np.arange(length) + shift, length) for length in (height, width))
            if self.flip:
                weight /= 2
                yield weight, rows, columns[::-1].copy()
            yield weight, rows, columns


def _reflected(places: Array, length: int) -> Array:
    """Return places on a line, those beyond its ends reflected there."""
    return (length - 1) - abs((length - 1) - abs(places))


def _put_back(grad: Array, places: Array, axis: int) -> Array:
    """Return the gradient by x of x.take(places, axis): where a line was taken twice, the sum of both."""
    total = np.zeros_like(grad)
    taken, lines = np.moveaxis(total, axis, 0), np.moveaxis(grad, axis, 0)
    for line, place in zip(lines, places.tolist()):
        taken[place] += line
    return total
