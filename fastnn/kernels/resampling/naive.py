"""Resampling as its formulas say; the other implementations are compared with them."""

from __future__ import annotations

import numpy as np

from fastnn._checks import Array

Steps = tuple[float, float]                     # of rows and columns, from one of a result to the next


def nearest(x: Array, y: Array, steps: Steps) -> None:
    for n, c, i, j in np.ndindex(y.shape):
        y[n, c, i, j] = x[n, c, pixel(i, steps[0], x.shape[2]), pixel(j, steps[1], x.shape[3])]


def nearest_backward(grad_output: Array, grad_x: Array, steps: Steps) -> None:
    grad_x[...] = 0
    for n, c, i, j in np.ndindex(grad_output.shape):
        h, w = pixel(i, steps[0], grad_x.shape[2]), pixel(j, steps[1], grad_x.shape[3])
        grad_x[n, c, h, w] += grad_output[n, c, i, j]


def bilinear(x: Array, y: Array, steps: Steps, align_corners: bool) -> None:
    for n, c, i, j in np.ndindex(y.shape):
        top, bottom, a = pixels(i, steps[0], x.shape[2], align_corners)
        left, right, b = pixels(j, steps[1], x.shape[3], align_corners)
        upper, lower = ((1 - b) * x[n, c, h, left] + b * x[n, c, h, right] for h in (top, bottom))
        y[n, c, i, j] = (1 - a) * upper + a * lower


def bilinear_backward(grad_output: Array, grad_x: Array, steps: Steps, align_corners: bool) -> None:
    grad_x[...] = 0
    for n, c, i, j in np.ndindex(grad_output.shape):
        top, bottom, a = pixels(i, steps[0], grad_x.shape[2], align_corners)
        left, right, b = pixels(j, steps[1], grad_x.shape[3], align_corners)
        for h, down in shares(top, bottom, a):
            for w, across in shares(left, right, b):
                grad_x[n, c, h, w] += down * across * grad_output[n, c, i, j]


def pixel(i: int, step: float, size: int) -> int:
    """Where row i of a result lies among `size` rows."""
    return min(int(np.float32(i * step)), size - 1)


def pixels(i: int, step: float, size: int, align_corners: bool) -> tuple[int, int, float]:
    """The two rows, of `size`, between which row i of a result lies, and the share of the second one."""
    place = i * step if align_corners else max(0.0, (i + 0.5) * step - 0.5)
    first = min(int(place), size - 1)
    return first, min(first + 1, size - 1), place - first


def shares(first: int, second: int, share: float) -> tuple[tuple[int, float], ...]:
    """Two rows, and what each gives to the one between them; at the border they are one row, which gives all."""
    return ((first, 1.0),) if first == second else ((first, 1 - share), (second, share))
