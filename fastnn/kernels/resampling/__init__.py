"""Resampling: images of another size, whose pixels are taken from, or between, the given ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastnn._checks import (
    Array,
    IntPair,
    as_float,
    as_int,
    as_pair,
    check_choice,
    check_floats,
    check_rank,
    check_size,
    is_sequence,
)
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation

__all__ = ["interpolate", "interpolate_backward"]

_MODES = ("nearest", "bilinear")


def interpolate(x: Array, size: IntPair | None = None, *, scale_factor: float | Sequence[float] | None = None,
                mode: str = "nearest", align_corners: bool = False, out: Array | None = None,
                target: str | None = None) -> Array:
    """Make images of another size, each pixel from the nearest one or between its four neighbours.

    With step = H / OH, or 1 / scale_factor where that is given, row i of the result lies at h = i step among the rows
    of x for "nearest", which takes row floor(h). For "bilinear" it is at h = (i + 1/2) step - 1/2, but not before 0, as
    if rows were as high as their distance; with `align_corners` at h = i (H - 1) / (OH - 1), from the first row to the
    last. The result is (1 - a) x[floor(h)] + a x[floor(h) + 1] with a = h - floor(h); the last row stands for the one
    behind it. So it is for columns. An axis that keeps its size stays as it is, whatever scale_factor is.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images, float32 or float64, at least one pixel each.
    size : int or pair of ints, optional
        (OH, OW), or one number for both.
    scale_factor : float or pair of floats, optional
        Instead of size: OH = floor(H scale_factor) and OW likewise.
    mode : {"nearest", "bilinear"}
        How pixels are made.
    align_corners : bool
        Whether the pixels in the corners stay what they are; for "bilinear" alone.
    out : array of shape (N, C, OH, OW), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (N, C, OH, OW)
        The images, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or both or neither of size and scale_factor are given.

    Notes
    -----
    "nearest" is exact, and i step is rounded to float32 before it is cut, as in torch for float64 images. For
    "bilinear" |error| <= 4 eps + 7e-16 (H + W) times the largest |x| of the four pixels. One that is not finite makes a
    result NaN that it has no share in. Some 6 operations a result; x is read and the result written once (4 bytes a
    value in float32).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.interpolate(np.array([[[[1.0, 2.0]]]]), scale_factor=2)
    array([[[[1., 1., 2., 2.],
             [1., 1., 2., 2.]]]])
    >>> kernels.interpolate(np.array([[[[1.0, 2.0]]]]), (1, 4), mode="bilinear")
    array([[[[1.  , 1.25, 1.75, 2.  ]]]])
    """
    return _interpolate((x,), (size, as_factors(scale_factor), mode, align_corners), target, out)


def interpolate_backward(grad_output: Array, input_shape: Sequence[int], *,
                         scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
                         align_corners: bool = False, target: str | None = None) -> Array:
    """Return the gradient of a loss by the input of `interpolate`.

    Parameters
    ----------
    grad_output : array of shape (N, C, OH, OW)
        Gradient by the result, float32 or float64.
    input_shape : (N, C, H, W)
        The shape of the input.
    scale_factor, mode, align_corners
        The arguments of `interpolate`; no scale_factor where size was given.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, C, H, W)
        The gradient, of grad_output's dtype: each grad_output[n, c, i, j] is added to the pixels that the result is
        made of, times their shares in it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    The order of a pixel's sum is free: |error| <= (m + 4) eps times the sum of the |share grad_output| that meet in it,
    m their number, and for "bilinear" 7e-16 (H + W) times that of the |grad_output|. A sum that leaves the dtype's
    range on the way does so for good. grad_output is read and the result written once.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.interpolate_backward(np.array([[[[1.0, 2.0, 3.0, 4.0]]]]), (1, 1, 1, 2))
    array([[[[3., 7.]]]])
    """
    return _interpolate_backward((grad_output,), (input_shape, as_factors(scale_factor), mode, align_corners), target)


@planned
def _interpolate(x: Array, size: IntPair | None, factors: tuple[float, ...] | None, mode: str, align_corners: bool,
                 target: str | None) -> Plan:
    check_floats(x=x)
    check_rank("x", x, 4, layout="(N, C, H, W)")
    _check_pixels("x", x.shape)
    check_one_given(size, factors)
    counts = _counts(x.shape, factors) if size is None else as_pair("size", size, 1)
    shape = *x.shape[:2], *counts
    check_size(shape, **{"scale_factor" if size is None else "size": 1})
    y, options = result_of(shape, x.dtype, x), _options(x.shape, counts, factors, mode, align_corners)
    return Plan(bound(implementation(__name__, target, x), mode, x, y, **options), y, operations=6 * math.prod(shape))


@planned
def _interpolate_backward(grad_output: Array, input_shape: Sequence[int], factors: tuple[float, ...] | None, mode: str,
                          align_corners: bool, target: str | None) -> Plan:
    check_floats(grad_output=grad_output)
    check_rank("grad_output", grad_output, 4, layout="(N, C, OH, OW)")
    if not is_sequence(input_shape) or len(input_shape) != 4:
        raise ValueError(f"input_shape: expected (N, C, H, W), got {input_shape!r}")
    shape = tuple([as_int("input_shape", size, 0) for size in input_shape])
    check_size(shape, input_shape=1)
    _check_pixels("input_shape", shape)
    _check_pixels("grad_output", grad_output.shape)
    counts = grad_output.shape[2:] if factors is None else _counts(shape, factors)
    expected = *shape[:2], *counts
    if grad_output.shape != expected:
        raise ValueError(f"grad_output: expected shape {expected} for images of shape {shape}, got {grad_output.shape}")
    grad_x, options = result_of(shape, grad_output.dtype, grad_output), _options(shape, counts, factors, mode,
                                                                                 align_corners)
    run = bound(implementation(__name__, target, grad_output), f"{mode}_backward", grad_output, grad_x, **options)
    return Plan(run, grad_x, operations=6 * grad_output.size)


def check_one_given(size: Any, scale_factor: Any) -> None:
    """Raise ValueError unless one of these says how large a result is."""
    if (size is None) == (scale_factor is None):
        raise ValueError(f"size: expected either size or scale_factor, got {'neither' if size is None else 'both'}")


def check_mode(mode: str, align_corners: bool) -> None:
    """Raise TypeError or ValueError unless these fit together."""
    check_choice("mode", mode, _MODES)
    if not isinstance(align_corners, bool):
        raise TypeError(f"align_corners: expected a bool, got {align_corners!r:.100}")
    if align_corners and mode == "nearest":
        raise ValueError("align_corners: expected False for mode 'nearest', got True")


def as_factors(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    """Return scale factors for rows and columns."""
    if value is None:
        return None
    given: Any = value if is_sequence(value) else (value,)
    if len(given) not in (1, 2):
        raise ValueError(f"scale_factor: expected a number or a pair of them, got {value!r:.100}")
    factors = [as_float("scale_factor", factor) for factor in given]
    if not all(0 < factor < math.inf for factor in factors):
        raise ValueError(f"scale_factor: expected finite numbers above 0, got {value!r:.100}")
    return factors[0], factors[-1]


def _counts(shape: tuple[int, ...], factors: tuple[float, ...] | None) -> tuple[int, int]:
    """Return the rows and columns of a result whose scale factors are given."""
    assert factors is not None
    rows, columns = (as_int("scale_factor", math.floor(min(size * factor, 1e18)))
                     for size, factor in zip(shape[2:], factors))
    if not (rows and columns):
        raise ValueError(f"scale_factor: expected a result of at least one pixel, got {factors} for images of "
                         f"{shape[2:]}")
    return rows, columns


def _options(shape: tuple[int, ...], counts: tuple[int, ...], factors: tuple[float, ...] | None, mode: str,
             align_corners: bool) -> dict[str, Any]:
    """Return what implementations need to know: the steps from a row, or column, of a result to the next."""
    check_mode(mode, align_corners)
    steps = []
    for axis, (size, count) in enumerate(zip(shape[2:], counts)):
        if size == count:
            steps.append(1.0)
        elif align_corners:
            steps.append((size - 1) / max(1, count - 1))
        else:
            steps.append(size / count if factors is None else 1 / factors[axis])
    return {"steps": tuple(steps), **({"align_corners": align_corners} if mode == "bilinear" else {})}


def _check_pixels(name: str, shape: tuple[int, ...]) -> None:
    if 0 in shape[2:]:
        raise ValueError(f"{name}: expected images with at least one pixel, got shape {shape}")
