"""Quantised networks: bytes that stand for numbers, their convolutions and linear maps in exact integers.

A byte q stands for (q - zero_point) scale. Images of bytes are (N, H, W, C), channels last, so that the bytes of a
pixel lie together, as products of bytes read them; images of floats are (N, C, H, W) as everywhere else.

Benoit Jacob and others, "Quantization and training of neural networks for efficient integer-arithmetic-only inference"
(arXiv:1712.05877), section 2, with a scale for each filter as in Raghuraman Krishnamoorthi, "Quantizing deep
convolutional networks for efficient inference" (arXiv:1806.08342), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn._checks import (
    FLOATS,
    Array,
    IntPair,
    as_float,
    as_int,
    check_floats,
    check_present,
    check_rank,
    check_shape,
    check_side,
)
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, bound, planned, why
from fastnn.kernels._targets import implementation
from fastnn.kernels.conv.geometry import fit
from fastnn.kernels.kept import KeptWeight, check_kept
from fastnn.kernels.pooling import fit_window

__all__ = ["conv2d_int8", "linear_int8", "lookup_int8", "max_pool2d_int8", "quantize_per_tensor"]

_BYTE, _SIGNED, _SINGLE = np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.float32)
MOST_PRODUCTS = (2**31 - 1) // (255 * 128)     # whose sum fits 32 bits, whatever they are


def quantize_per_tensor(x: Array, scale: float, zero_point: int, *, out: Array | None = None,
                        target: str | None = None) -> Array:
    """Turn numbers into the nearest bytes: x / scale + zero_point, within [0, 255] and rounded, halves to even.

    Parameters
    ----------
    x : array of shape (N, C, H, W) or (N, I)
        Images or rows, float32 or float64.
    scale : float
        What a step of 1 stands for, above 0.
    zero_point : int
        The byte that stands for 0, from 0 to 255.
    out : uint8 array of the result's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    uint8 array of shape (N, H, W, C) or (N, I)
        The bytes; channels of images come last.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or numbers do not fit, or `out` overlaps with an input.

    Notes
    -----
    All versions give the same bytes: the formula is computed in x's dtype, each operation rounded once. NaN becomes 0.
    x is read and the result written once, 5 bytes a value in float32. (Jacob and others, arXiv:1712.05877, equation 1.)

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.quantize_per_tensor(np.array([[-1.0, 0.0, 0.26, 99.0]]), 0.1, 10)
    array([[  0,  10,  13, 255]], dtype=uint8)
    """
    scale = as_float("scale", scale, float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))
    return _quantize_per_tensor((x,), (zero_point,), target, out, (scale,))


def lookup_int8(x: Array, table: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Replace each byte by its entry of a table: y[i] = table[x[i]], any function of quantised numbers.

    Parameters
    ----------
    x : uint8 array of any shape
        The bytes.
    table : array of shape (256,), uint8, float32 or float64
        What each byte becomes.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of x's shape
        The entries, of the table's dtype.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or `out` overlaps with an input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> numbers = (np.arange(256, dtype=np.float32) - 128) / 64             # what the bytes stand for
    >>> kernels.lookup_int8(np.array([0, 128, 192], np.uint8), numbers**2)
    array([4., 0., 1.], dtype=float32)
    """
    return _lookup_int8((x, table), (), target, out)


def conv2d_int8(x: Array, weight: Array, scale: Array, bias: Array | None = None, residual: Array | None = None, *,
                zero_point: int = 0, residual_scale: float = 1.0, stride: IntPair = 1, padding: IntPair | str = 0,
                dilation: IntPair = 1, groups: int = 1, dtype: DTypeLike = np.uint8, kept: KeptWeight | None = None,
                out: Array | None = None, target: str | None = None) -> Array:
    """Convolve images of bytes with filters of signed bytes, and scale the exact sums.

    y[n, i, j, o] = scale[o] * sum over c, a, b of (x[n, h, w, c] - zero_point) weight[o, c, a, b] + bias[o]
    + residual_scale residual[n, i, j, o], with h = i stride - padding + a dilation and w = j stride - padding
    + b dilation; within [0, 255] and rounded, halves to even, where the result is bytes.

    Parameters
    ----------
    x : uint8 array of shape (N, H, W, C)
        Images, channels last.
    weight : int8 array of shape (O, C / groups, KH, KW)
        Filters.
    scale, bias : arrays of floats, shape (O,)
        Of each filter, used in float32: the scale of x times that of the filter over that of the result, and what is
        added, in steps of the result, its zero point included.
    residual : uint8 array of the result's shape, optional
        Added, as a residual network does.
    zero_point : int
        The byte of x that stands for 0, and for what lies around the image.
    residual_scale : float
        What a step of the residual is in steps of the result; its zero point is a matter of the bias.
    stride, padding, dilation, groups
        As for `conv2d`.
    dtype : {uint8, float32}
        Of the result.
    kept : KeptWeight, optional
        Where the weight is kept as it was packed, for the next call, if it is a `KeptWeight(constant=True)`. No result
        depends on it. On "cuda" it stays empty.
    out : array of shape (N, OH, OW, O), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (N, OH, OW, O)
        The result, channels last.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, a sum has more than 65,793 terms, so that it might leave 32 bits, or
        `out` overlaps with an input.

    Notes
    -----
    All versions give the same bits: sums are exact, and then there are five operations in float32, in the formula's
    order, each rounded once. A ReLU costs nothing: where the result's zero point is 0, what is negative is byte 0. 2 N
    O OH OW C / groups KH KW operations, four of them for one of float32 where the processor multiplies bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.full((1, 3, 3, 2), 12, np.uint8), np.ones((1, 2, 3, 3), np.int8)
    >>> kernels.conv2d_int8(x, weight, np.array([0.5]), zero_point=10, padding=1)[0, :, :, 0]
    array([[ 8, 12,  8],
           [12, 18, 12],
           [ 8, 12,  8]], dtype=uint8)
    """
    check_kept(kept)
    residual_scale = as_float("residual_scale", residual_scale)
    return _conv2d_int8((x, weight, scale, bias, residual), (zero_point, stride, padding, dilation, groups, dtype),
                        target, out, (residual_scale, kept))


def linear_int8(x: Array, weight: Array, scale: Array, bias: Array | None = None, *, zero_point: int = 0,
                dtype: DTypeLike = np.uint8, kept: KeptWeight | None = None, out: Array | None = None,
                target: str | None = None) -> Array:
    """Multiply rows of bytes by a matrix of signed bytes, and scale the exact sums.

    y[n, o] = scale[o] * sum over i of (x[n, i] - zero_point) weight[o, i] + bias[o]; within [0, 255] and rounded,
    halves to even, where the result is bytes. It is `conv2d_int8` of images of one pixel.

    Parameters
    ----------
    x : uint8 array of shape (N, I)
        Rows.
    weight : int8 array of shape (O, I)
        The matrix, one row an output.
    scale, bias : arrays of floats, shape (O,)
        As for `conv2d_int8`.
    zero_point : int
        The byte of x that stands for 0.
    dtype : {uint8, float32}
        Of the result.
    kept : KeptWeight, optional
        As for `conv2d_int8`.
    out : array of shape (N, O), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (N, O)
        The result.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, a sum has more than 65,793 terms, so that it might leave 32 bits, or
        `out` overlaps with an input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.array([[1, 2]], np.uint8), np.array([[3, -4], [5, 6]], np.int8)
    >>> kernels.linear_int8(x, weight, np.array([1.0, 0.5]), dtype=np.float32)
    array([[-5. ,  8.5]], dtype=float32)
    """
    check_kept(kept)
    return _linear_int8((x, weight, scale, bias), (zero_point, dtype), target, out, (kept,))


def max_pool2d_int8(x: Array, kernel_size: IntPair, *, stride: IntPair | None = None, padding: IntPair = 0,
                    dilation: IntPair = 1, ceil_mode: bool = False, out: Array | None = None,
                    target: str | None = None) -> Array:
    """Take the largest byte of each window of images of bytes, channels last.

    Parameters
    ----------
    x : uint8 array of shape (N, H, W, C)
        Images.
    kernel_size, stride, padding, dilation, ceil_mode
        As for `max_pool2d`.
    out : uint8 array of shape (N, OH, OW, C), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    uint8 array of shape (N, OH, OW, C)
        The maxima.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, or `out` overlaps with an input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.max_pool2d_int8(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
    array([[ 5,  7],
           [13, 15]], dtype=uint8)
    """
    return _max_pool2d_int8((x,), (kernel_size, stride, padding, dilation, ceil_mode), target, out)


# --- plans -----------------------------------------------------------------------------------------------------------


@planned
def _quantize_per_tensor(x: Array, zero_point: int, target: str | None) -> Plan:
    check_floats(x=x)
    check_rank("x", x, 2, 4, layout="(N, C, H, W) or (N, I)")
    zero_point = _as_byte("zero_point", zero_point)
    shape = x.shape if x.ndim == 2 else (len(x), *x.shape[2:], x.shape[1])
    run = bound(implementation(__name__, target, x), "quantize_per_tensor", x, zero_point=zero_point)
    return Plan(run, result_of(shape, _BYTE, x), operations=2 * x.size)


@planned
def _lookup_int8(x: Array, table: Array, target: str | None) -> Plan:
    _check_dtype("x", x, _BYTE)
    _check_dtype("table", table, _BYTE, *FLOATS)
    check_side("table", table, "x", x)
    check_shape("table", table, (256,))
    run = bound(implementation(__name__, target, x), "lookup_int8", x, table)
    return Plan(run, result_of(x.shape, table.dtype, x))


@planned
def _conv2d_int8(x: Array, weight: Array, scale: Array, bias: Array | None, residual: Array | None, zero_point: int,
                 stride: IntPair, padding: IntPair | str, dilation: IntPair, groups: int, dtype: DTypeLike,
                 target: str | None) -> Plan:
    _check_dtype("x", x, _BYTE)
    check_rank("x", x, 4, layout="(N, H, W, C)")
    _check_filters(x, weight, scale, bias)
    n, h, w, c = x.shape
    geometry, (n, o, h, w) = fit((n, c, h, w), weight.shape, stride, padding, dilation, groups)
    _check_products(weight)
    if residual is not None:
        _check_dtype("residual", residual, _BYTE)
        check_side("residual", residual, "x", x)
        check_shape("residual", residual, (n, h, w, o))
    run = bound(implementation(__name__, target, x), "conv2d_int8", x, weight, residual, (n, h, w, o),
                geometry=geometry, zero_point=_as_byte("zero_point", zero_point), dtype=_as_result(dtype))
    return Plan(_in_single(run, scale, bias), result_of((n, h, w, o), _as_result(dtype), x),
                operations=2 * n * h * w * weight.size, why=why(run))


@planned
def _linear_int8(x: Array, weight: Array, scale: Array, bias: Array | None, zero_point: int, dtype: DTypeLike,
                 target: str | None) -> Plan:
    _check_dtype("x", x, _BYTE)
    check_rank("x", x, 2, layout="(N, I)")
    _check_filters(x, weight, scale, bias)
    check_rank("weight", weight, 2, layout="(O, I)")
    if weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(f"weight: expected shape (O, {x.shape[1]}) for x of shape {x.shape}, none of them 0, "
                         f"got {weight.shape}")
    _check_products(weight)
    shape = len(x), 1, 1, len(weight)
    geometry, _ = fit((*x.shape, 1, 1), (*weight.shape, 1, 1), 1, 0, 1, 1)
    run = bound(implementation(__name__, target, x), "conv2d_int8", x[:, None, None], weight[:, :, None, None], None,
                shape, geometry=geometry, zero_point=_as_byte("zero_point", zero_point), dtype=_as_result(dtype))

    def linear(x: Array, weight: Array, scale: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
        run(x[:, None, None], weight, scale, bias, None, 1.0, kept, y.reshape(shape))

    return Plan(_in_single(linear, scale, bias), result_of((len(x), len(weight)), _as_result(dtype), x),
                operations=2 * len(x) * weight.size)


@planned
def _max_pool2d_int8(x: Array, kernel_size: IntPair, stride: IntPair | None, padding: IntPair, dilation: IntPair,
                     ceil_mode: bool, target: str | None) -> Plan:
    _check_dtype("x", x, _BYTE)
    check_rank("x", x, 4, layout="(N, H, W, C)")
    n, h, w, c = x.shape
    window, (n, c, h, w) = fit_window((n, c, h, w), ceil_mode, kernel_size, stride, padding, dilation)
    run = bound(implementation(__name__, target, x), "max_pool2d_int8", x, (n, h, w, c), **window)
    return Plan(run, result_of((n, h, w, c), _BYTE, x), operations=n * h * w * c * math.prod(window["kernel"]))


def _in_single(run: Callable[..., Any], scale: Array, bias: Array | None) -> Callable[..., Any]:
    """Return the same for scales and biases of any dtype of floats."""
    if scale.dtype == _SINGLE and (bias is None or bias.dtype == _SINGLE):
        return run

    def in_single(x: Array, weight: Array, scale: Array, bias: Array | None, *rest: Any) -> Any:
        return run(x, weight, scale.astype(_SINGLE), None if bias is None else bias.astype(_SINGLE), *rest)

    return in_single


def _check_dtype(name: str, array: Array, *dtypes: np.dtype) -> None:
    check_present(name, array)
    if array.dtype not in dtypes:
        *others, last = map(str, dtypes)
        raise TypeError(f"{name}: expected {', '.join(others)}{' or ' * bool(others)}{last}, got {array.dtype}")


def _check_filters(x: Array, weight: Array, scale: Array, bias: Array | None) -> None:
    _check_dtype("weight", weight, _SIGNED)
    check_side("weight", weight, "x", x)
    _check_dtype("scale", scale, *FLOATS)
    for name, array in (("scale", scale), ("bias", bias)):
        if array is not None:
            _check_dtype(name, array, *FLOATS)
            check_side(name, array, "x", x)
            check_shape(name, array, weight.shape[:1])


def _check_products(weight: Array) -> None:
    products = math.prod(weight.shape[1:])
    if products > MOST_PRODUCTS:
        raise ValueError(f"weight: expected at most {MOST_PRODUCTS} products in a sum, which fits 32 bits then, got "
                         f"{products} by shape {weight.shape}")


def _as_byte(name: str, value: int) -> int:
    value = as_int(name, value, 0)
    if value > 255:
        raise ValueError(f"{name}: expected from 0 to 255, got {value}")
    return value


def _as_result(dtype: DTypeLike) -> np.dtype:
    found = np.dtype(repr(None) if dtype is None else dtype)
    if found not in (_BYTE, _SINGLE):
        raise TypeError(f"dtype: expected uint8 or float32, got {found}")
    return found
