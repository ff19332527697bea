"""Pooling: the largest or the mean value of each window of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastnn._checks import (
    Array,
    IntPair,
    as_int,
    as_pair,
    channels_last,
    check_floats,
    check_present,
    check_rank,
    check_shape,
    check_side,
    check_size,
    is_sequence,
)
from fastnn.kernels._outputs import Result, result_of
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation

__all__ = [
    "adaptive_avg_pool2d", "adaptive_avg_pool2d_backward", "adaptive_max_pool2d", "adaptive_max_pool2d_backward",
    "avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward",
]


def max_pool2d(x: Array, kernel_size: IntPair, *, stride: IntPair | None = None, padding: IntPair = 0,
               dilation: IntPair = 1, ceil_mode: bool = False, return_indices: bool = False,
               out: Array | None = None, target: str | None = None) -> Array | tuple[Array, Array]:
    """Take the largest value of each window.

    y[n, c, i, j] = max over a, b of x[n, c, h, w] with h = i stride - padding + a dilation and
    w = j stride - padding + b dilation, where these lie inside the image.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images, float32 or float64.
    kernel_size : int or pair of ints
        Rows and columns of a window.
    stride : int or pair of ints, optional
        Distance between windows; kernel_size if it is not given, or empty.
    padding : int or pair of ints
        How far windows reach over each edge, at most half of kernel_size. What lies there is never the maximum.
    dilation : int or pair of ints
        Distance between the cells of a window.
    ceil_mode : bool
        Whether windows that reach over the end of the padded image count. One that starts there does not.
    return_indices : bool
        Whether to return where the maxima lie, as `max_pool2d_backward` needs.
    out : array of shape (N, C, OH, OW), optional
        Where the maxima are written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    y : array of shape (N, C, OH, OW)
        The maxima, of x's dtype. OH = (H + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1, rounded down
        (up in ceil_mode), and so for OW.
    indices : int64 array of shape (N, C, OH, OW)
        With `return_indices`: the place h W + w of each maximum in its image.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, there is no window, or a window has no cell inside the image.

    Notes
    -----
    The result is exact. NaN is larger than any number. Of several equal maxima the first in row-major order is taken,
    and so is the first of several NaN (torch: the last one). A window of -inf alone has its first cell as maximum.
    OH OW kernel_size^2 comparisons an image; x is read and y written once (4 bytes a value in float32, indices 8).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> y, indices = kernels.max_pool2d(x, 2, return_indices=True)
    >>> y
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    >>> indices
    array([[[[ 5,  7],
             [13, 15]]]])
    """
    return _max_pool2d((x,), (kernel_size, stride, padding, dilation, ceil_mode, return_indices), target, out)


def max_pool2d_backward(grad_output: Array, indices: Array, input_shape: Sequence[int], *,
                        target: str | None = None) -> Array:
    """Return the gradient of a loss by the input of `max_pool2d`: each window's gradient goes to its maximum.

    Parameters
    ----------
    grad_output : array of shape (N, C, OH, OW)
        Gradient by the result, float32 or float64.
    indices : int64 array of shape (N, C, OH, OW)
        Where the maxima lie: what `max_pool2d(..., return_indices=True)` returned.
    input_shape : (N, C, H, W)
        The shape of the input.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, C, H, W)
        The gradient, of grad_output's dtype: grad_x[n, c, h, w] is the sum of the grad_output[n, c, i, j] whose
        index is h W + w.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or an index lies outside of the image. On a GPU, where a look at indices would
        wait for it, the gradient of such a window goes nowhere.

    Notes
    -----
    One addition a window, in row-major order of the windows; in float32 the error is at most m eps times the sum of
    the |grad_output| that meet in a cell, m their number. A sum that leaves the dtype's range on the way does so for
    good.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.max_pool2d_backward(np.array([[[[2.0]]]]), np.array([[[[3]]]]), (1, 1, 2, 2))
    array([[[[0., 0.],
             [0., 2.]]]])
    """
    return _max_pool2d_backward((grad_output, indices), (input_shape,), target)


def avg_pool2d(x: Array, kernel_size: IntPair, *, stride: IntPair | None = None, padding: IntPair = 0,
               ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
               out: Array | None = None, target: str | None = None) -> Array:
    """Take the mean of each window.

    y[n, c, i, j] = sum over a, b of x[n, c, h, w] / divisor with h = i stride - padding + a and
    w = j stride - padding + b; what lies outside of the image is 0.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images, float32 or float64.
    kernel_size : int or pair of ints
        Rows and columns of a window.
    stride : int or pair of ints, optional
        Distance between windows; kernel_size if it is not given, or empty.
    padding : int or pair of ints
        How many zeros stand before each edge, at most half of kernel_size.
    ceil_mode : bool
        Whether windows that reach over the end of the padded image count. One that starts there does not.
    count_include_pad : bool
        Whether the divisor counts the padding's zeros; cells beyond the padding never count.
    divisor_override : int, optional
        The divisor of all windows, at least 1.
    out : array of shape (N, C, OH, OW), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (N, C, OH, OW)
        The means, of x's dtype; OH and OW as for `max_pool2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit or there is no window.

    Notes
    -----
    The order of a window's sum is free. In float32 the error of a mean is at most kernel_size^2 eps sum |x| / divisor.
    A sum that leaves the range of numbers is formed again of smaller terms, so that a mean in the range is reached.
    OH OW kernel_size^2 additions an image at most; x is read and y written once (4 bytes a value in float32).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """
    options = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _avg_pool2d((x,), options, target, out)


def avg_pool2d_backward(grad_output: Array, input_shape: Sequence[int], kernel_size: IntPair, *,
                        stride: IntPair | None = None, padding: IntPair = 0, ceil_mode: bool = False,
                        count_include_pad: bool = True, divisor_override: int | None = None,
                        target: str | None = None) -> Array:
    """Return the gradient of a loss by the input of `avg_pool2d`: each window's gradient spread over its cells.

    Parameters
    ----------
    grad_output : array of shape (N, C, OH, OW)
        Gradient by the result, float32 or float64.
    input_shape : (N, C, H, W)
        The shape of the input.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        The arguments of `avg_pool2d`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, C, H, W)
        The gradient, of grad_output's dtype: grad_x[n, c, h, w] is the sum of grad_output[n, c, i, j] / divisor over
        the windows that hold the cell.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    The order of a cell's sum is free; in float32 its error is at most (m + 1) eps times the sum of the
    |grad_output / divisor| that meet in a cell, m their number.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.avg_pool2d_backward(np.array([[[[2.0, 4.0]]]]), (1, 1, 2, 4), 2)
    array([[[[0.5, 0.5, 1. , 1. ],
             [0.5, 0.5, 1. , 1. ]]]])
    """
    options = input_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _avg_pool2d_backward((grad_output,), options, target)


def adaptive_avg_pool2d(x: Array, output_size: int | Sequence[int | None], *, out: Array | None = None,
                        target: str | None = None) -> Array:
    """Take the means of OH x OW windows that cover the image.

    y[n, c, i, j] is the mean of x[n, c, h, w] over floor(i H / OH) <= h < ceil((i + 1) H / OH) and
    floor(j W / OW) <= w < ceil((j + 1) W / OW).

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images, float32 or float64.
    output_size : int or pair of ints
        (OH, OW), or one number for both; None in a pair keeps the image's size. 1 gives the mean of each image.
    out : array of shape (N, C, OH, OW), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (N, C, OH, OW)
        The means, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit or the images have no cells.

    Notes
    -----
    The order of a window's sum is free. In float32 the error of a mean is at most m eps times the mean of |x|,
    m the number of cells. One addition a cell; x is read and y written once (4 bytes a value in float32).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.adaptive_avg_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), (1, None))
    array([[[[4., 5., 6., 7.]]]])
    """
    return _adaptive_avg_pool2d((x,), (output_size,), target, out)


def adaptive_avg_pool2d_backward(grad_output: Array, input_shape: Sequence[int], *,
                                 target: str | None = None) -> Array:
    """Return the gradient of a loss by the input of `adaptive_avg_pool2d`.

    Parameters
    ----------
    grad_output : array of shape (N, C, OH, OW)
        Gradient by the result, float32 or float64.
    input_shape : (N, C, H, W)
        The shape of the input.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, C, H, W)
        The gradient, of grad_output's dtype: grad_x[n, c, h, w] is the sum of grad_output[n, c, i, j] / (cells of the
        window) over the windows that hold the cell. Its error in float32 is that of `avg_pool2d_backward`.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.adaptive_avg_pool2d_backward(np.array([[[[6.0]]]]), (1, 1, 1, 3))
    array([[[[2., 2., 2.]]]])
    """
    return _adaptive_avg_pool2d_backward((grad_output,), (input_shape,), target)


def adaptive_max_pool2d(x: Array, output_size: int | Sequence[int | None], *, return_indices: bool = False,
                        out: Array | None = None, target: str | None = None) -> Array | tuple[Array, Array]:
    """Take the largest values of OH x OW windows that cover the image.

    y[n, c, i, j] = max of x[n, c, h, w] over floor(i H / OH) <= h < ceil((i + 1) H / OH) and
    floor(j W / OW) <= w < ceil((j + 1) W / OW).

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images, float32 or float64.
    output_size : int or pair of ints
        (OH, OW), or one number for both; None in a pair keeps the image's size. 1 gives the maximum of each image.
    return_indices : bool
        Whether to return where the maxima lie, as `adaptive_max_pool2d_backward` needs.
    out : array of shape (N, C, OH, OW), optional
        Where the maxima are written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    y : array of shape (N, C, OH, OW)
        The maxima, of x's dtype.
    indices : int64 array of shape (N, C, OH, OW)
        With `return_indices`: the place h W + w of each maximum in its image.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit or the images have no cells.

    Notes
    -----
    The result is exact. NaN and equal maxima are as in `max_pool2d`, which does the work where OH divides H and OW
    divides W. On "cpu" at most (H + OH) W + OH (W + OW) comparisons an image, on the others one for each cell of each
    window; x is read and y written once (4 bytes a value in float32, indices 8).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.adaptive_max_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), (2, None))
    array([[[[ 4.,  5.,  6.,  7.],
             [ 8.,  9., 10., 11.]]]])
    """
    return _adaptive_max_pool2d((x,), (output_size, return_indices), target, out)


def adaptive_max_pool2d_backward(grad_output: Array, indices: Array, input_shape: Sequence[int], *,
                                 target: str | None = None) -> Array:
    """Return the gradient of a loss by the input of `adaptive_max_pool2d`; it is `max_pool2d_backward`.

    Parameters
    ----------
    grad_output : array of shape (N, C, OH, OW)
        Gradient by the result, float32 or float64.
    indices : int64 array of shape (N, C, OH, OW)
        Where the maxima lie: what `adaptive_max_pool2d(..., return_indices=True)` returned.
    input_shape : (N, C, H, W)
        The shape of the input.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, C, H, W)
        The gradient, of grad_output's dtype; its error is that of `max_pool2d_backward`.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or an index lies outside of the image; on a GPU such a window's gradient goes
        nowhere.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.adaptive_max_pool2d_backward(np.array([[[[2.0]]]]), np.array([[[[3]]]]), (1, 1, 2, 2))
    array([[[[0., 0.],
             [0., 2.]]]])
    """
    return _max_pool2d_backward((grad_output, indices), (input_shape,), target)


@planned
def _max_pool2d(x: Array, kernel_size: IntPair, stride: IntPair | None, padding: IntPair, dilation: IntPair,
                ceil_mode: bool, return_indices: bool, target: str | None) -> Plan:
    check_floats(x=x)
    check_rank("x", x, 4, layout="(N, C, H, W)")
    window, shape = fit_window(x.shape, ceil_mode, kernel_size, stride, padding, dilation)
    module, y = implementation(__name__, target, x), result_of(shape, x.dtype, x)
    indices = result_of(shape, np.int64, x) if return_indices else None
    return _plan_maxima(bound(module, "max_pool2d", x, y, indices, **window), y, indices,
                        math.prod(shape + window["kernel"]))


def _plan_maxima(run: Callable[..., None], y: Result, indices: Result | None, operations: int) -> Plan:
    """Return the plan of a function (x, y), or (x, y, indices)."""
    if indices is None:
        return Plan(run, y, operations)

    def with_indices(x: Array, y: Array) -> tuple[Array]:
        places = indices.new()
        run(x, y, places)
        return (places,)

    return Plan(with_indices, y, operations)


@planned
def _max_pool2d_backward(grad_output: Array, indices: Array, input_shape: Sequence[int], target: str | None) -> Plan:
    check_floats(grad_output=grad_output)
    shape = _as_image_shape(input_shape)
    _check_gradient(grad_output, shape)
    _check_cells("input_shape", shape)
    check_present("indices", indices)
    if indices.dtype != np.int64:
        raise TypeError(f"indices: expected int64 as max_pool2d returns, got {indices.dtype}")
    check_side("indices", indices, "grad_output", grad_output)
    check_shape("indices", indices, grad_output.shape)
    grad_x, cells = result_of(shape, grad_output.dtype, grad_output), shape[2] * shape[3]
    route = bound(implementation(__name__, target, grad_output), "max_pool2d_backward", grad_output, indices, grad_x)

    def run(grad_output: Array, indices: Array, grad_x: Array) -> None:
        if not route(grad_output, indices, grad_x):
            bad = indices[(indices < 0) | (indices >= cells)][0]
            raise ValueError(f"indices: expected values from 0 to {cells - 1} for input_shape {shape}, got {bad}")

    return Plan(run, grad_x, operations=grad_output.size)


@planned
def _avg_pool2d(x: Array, kernel_size: IntPair, stride: IntPair | None, padding: IntPair, ceil_mode: bool,
                count_include_pad: bool, divisor_override: int | None, target: str | None) -> Plan:
    check_floats(x=x)
    check_rank("x", x, 4, layout="(N, C, H, W)")
    window, shape = _mean_window(x.shape, ceil_mode, kernel_size, stride, padding, count_include_pad, divisor_override)
    y = result_of(shape, x.dtype, x)
    return Plan(bound(implementation(__name__, target, x), "avg_pool2d", x, y, **window), y,
                operations=math.prod(shape + window["kernel"]))


@planned
def _avg_pool2d_backward(grad_output: Array, input_shape: Sequence[int], kernel_size: IntPair, stride: IntPair | None,
                         padding: IntPair, ceil_mode: bool, count_include_pad: bool, divisor_override: int | None,
                         target: str | None) -> Plan:
    check_floats(grad_output=grad_output)
    shape = _as_image_shape(input_shape)
    window, pooled = _mean_window(shape, ceil_mode, kernel_size, stride, padding, count_include_pad, divisor_override)
    check_shape("grad_output", grad_output, pooled)
    grad_x = result_of(shape, grad_output.dtype, grad_output)
    run = bound(implementation(__name__, target, grad_output), "avg_pool2d_backward", grad_output, grad_x, **window)
    return Plan(run, grad_x, operations=math.prod(pooled + window["kernel"]))


@planned
def _adaptive_avg_pool2d(x: Array, output_size: int | Sequence[int | None], target: str | None) -> Plan:
    y = _result_of_shares(x, output_size)
    return Plan(bound(implementation(__name__, target, x), "adaptive_avg_pool2d", x, y), y, operations=x.size)


@planned
def _adaptive_max_pool2d(x: Array, output_size: int | Sequence[int | None], return_indices: bool,
                         target: str | None) -> Plan:
    y = _result_of_shares(x, output_size)
    indices = result_of(y.shape, np.int64, x) if return_indices else None
    return _plan_maxima(bound(implementation(__name__, target, x), "adaptive_max_pool2d", x, y, indices), y, indices,
                        operations=x.size)


def _result_of_shares(x: Array, output_size: int | Sequence[int | None]) -> Result:
    check_floats(x=x)
    check_rank("x", x, 4, layout="(N, C, H, W)")
    _check_cells("x", x.shape)
    sizes = [kept if size is None else size for size, kept in zip(as_output_size(output_size), x.shape[2:])]
    shape = *x.shape[:2], *sizes
    check_size(shape, output_size=1)
    return result_of(shape, x.dtype, x)


@planned
def _adaptive_avg_pool2d_backward(grad_output: Array, input_shape: Sequence[int], target: str | None) -> Plan:
    check_floats(grad_output=grad_output)
    shape = _as_image_shape(input_shape)
    _check_gradient(grad_output, shape)
    _check_cells("input_shape", shape)
    grad_x = result_of(shape, grad_output.dtype, grad_output)
    run = bound(implementation(__name__, target, grad_output), "adaptive_avg_pool2d_backward", grad_output, grad_x)
    return Plan(run, grad_x, operations=math.prod(shape))


def as_output_size(value: int | Sequence[int | None]) -> tuple[int | None, ...]:
    """Return (rows, columns) of a size that is one number for both, or a pair in which None keeps a size."""
    sizes: Any = value if is_sequence(value) else (value,) * 2
    if len(sizes) != 2 or value is None:
        raise ValueError(f"output_size: expected an integer or a pair, in which None keeps a size, got {value!r}")
    return tuple([None if size is None else as_int("output_size", size, 0) for size in sizes])


def as_stride(value: IntPair | None, kernel: tuple[int, int]) -> tuple[int, int]:
    """Return (for rows, for columns) of a distance between windows, the kernel's size if it is None or empty."""
    return kernel if value is None or (is_sequence(value) and not len(value)) else as_pair("stride", value, 1)


def fit_window(shape: tuple[int, ...], ceil_mode: bool, kernel_size: IntPair, stride: IntPair | None, padding: IntPair,
            dilation: IntPair) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return the window's kernel, stride, padding and dilation as pairs, and the shape of the result."""
    kernel = as_pair("kernel_size", kernel_size, 1)
    pads = as_pair("padding", padding, 0)
    if pads[0] > kernel[0] // 2 or pads[1] > kernel[1] // 2:
        raise ValueError(f"padding: expected at most half of kernel_size {kernel}, got {pads}")
    strides = as_stride(stride, kernel)
    dilations = as_pair("dilation", dilation, 1)
    pooled = _pooled_shape(shape, kernel, strides, pads, dilations, ceil_mode)
    check_size(pooled, padding=1)
    return {"kernel": kernel, "stride": strides, "padding": pads, "dilation": dilations}, pooled


def _mean_window(shape: tuple[int, ...], ceil_mode: bool, kernel_size: IntPair, stride: IntPair | None,
                 padding: IntPair, count_include_pad: bool, divisor: int | None,
                 ) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return the same of a window of which the mean is taken, with what its divisor follows from."""
    window, pooled = fit_window(shape, ceil_mode, kernel_size, stride, padding, 1)
    del window["dilation"]
    divisor = None if divisor is None else as_int("divisor_override", divisor, 1)
    return {**window, "count_include_pad": bool(count_include_pad), "divisor": divisor}, pooled


def _pooled_shape(shape: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
                  dilation: tuple[int, int], ceil_mode: bool) -> tuple[int, ...]:
    """The shape of the result; that all windows have a cell inside the image is checked on the way."""
    pooled = []
    for size, k, s, p, d in zip(shape[2:], kernel, stride, padding, dilation):
        free = size + 2 * p - d * (k - 1) - 1           # places of the last window's start, but one
        windows = (free + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (windows - 1) * s >= size + p:
            windows -= 1
        if windows < 1 or size == 0:
            few = shape[3] in (1, 3) and shape[1] >= kernel[0] and shape[2] >= kernel[1]
            raise ValueError(f"kernel_size: expected windows of at most the padded image's size, got kernel_size "
                             f"{kernel} with padding {padding} and dilation {dilation} for images of {shape[2:]}"
                             + (channels_last(shape, shape[3]) if few else ""))
        # A window that starts before the image has its first cell inside at its start modulo dilation.
        if d > size and any((start % d) >= size for start in range(-p, min(0, windows * s - p), s)):
            raise ValueError(f"dilation: expected windows with a cell inside the image, got dilation {dilation} with "
                             f"padding {padding} for images of {shape[2:]}")
        pooled.append(windows)
    return (*shape[:2], *pooled)


def _as_image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, Sequence | np.ndarray) or len(shape) != 4:
        raise ValueError(f"input_shape: expected (N, C, H, W), got {shape!r}")
    sizes = tuple([as_int("input_shape", size, 0) for size in shape])
    check_size(sizes, input_shape=1)
    return sizes


def _check_gradient(grad_output: Array, shape: tuple[int, ...]) -> None:
    check_rank("grad_output", grad_output, 4, layout="(N, C, OH, OW)")
    if grad_output.shape[:2] != shape[:2]:
        raise ValueError(f"grad_output: expected {shape[0]} x {shape[1]} images as input_shape says, "
                         f"got shape {grad_output.shape}")


def _check_cells(name: str, shape: tuple[int, ...]) -> None:
    if 0 in shape[2:]:
        raise ValueError(f"{name}: expected images with at least one cell, got shape {shape}")
