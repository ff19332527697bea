"""Where the products of convolutions on a GPU find their numbers.

In `convolve` columns are the pixels of the results, rows filters, and k runs over a filter's weights. In
`weight_gradient` columns are the weights of a filter, and k runs over the pixels of all results.

In `input_gradient` columns are the images' pixels, rows channels, and k runs over filters and
taps. With a stride only some of the taps reach a pixel. Pixels whose rows and columns leave the same remainders modulo
the strides are reached by the same taps: each such class is a product of its own.
"""

from __future__ import annotations

import functools

from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.gemm import Form
from fastnn.kernels.conv.geometry import Geometry

Numbers = tuple[int, ...]

(_IMAGES, _CHANNELS, _HEIGHT, _WIDTH, _FILTERS, _OUT_Y, _OUT_X, _DEPTH, _TAPS_Y, _TAPS_X, _STRIDE_Y, _STRIDE_X,
 _BEFORE_Y, _BEFORE_X, _SPACING_Y, _SPACING_X, _GROUPS) = range(17)


def numbers_of(x: Array, weight: Array, y: Array, geometry: Geometry) -> Numbers:
    """A convolution, as the functions below know it."""
    return (*x.shape, *y.shape[1:], *weight.shape[1:], *geometry.stride, *geometry.padding, *geometry.dilation,
            geometry.groups)


@cuda.jit(device=True)
def _weight(k: int, numbers: Numbers) -> tuple[int, int, int]:
    """Where the k-th weight of a filter reads, seen from the first one: the way there, rows and columns."""
    taps_x = numbers[_TAPS_X]
    taps = numbers[_TAPS_Y] * taps_x
    channel, tap = k // taps, k % taps
    row, column = tap // taps_x * numbers[_SPACING_Y], tap % taps_x * numbers[_SPACING_X]
    return (channel * numbers[_HEIGHT] + row) * numbers[_WIDTH] + column, row, column


@cuda.jit(device=True)
def _pixel(n: int, numbers: Numbers) -> tuple[int, int, int]:
    """Where the first weight reads for the n-th pixel of the results."""
    out_x = numbers[_OUT_X]
    pixels = numbers[_OUT_Y] * out_x
    image, pixel = n // pixels, n % pixels
    row = pixel // out_x * numbers[_STRIDE_Y] - numbers[_BEFORE_Y]
    column = pixel % out_x * numbers[_STRIDE_X] - numbers[_BEFORE_X]
    return (image * numbers[_CHANNELS] * numbers[_HEIGHT] + row) * numbers[_WIDTH] + column, row, column


@cuda.jit(device=True)
def _result(n: int, numbers: Numbers) -> int:
    """Where the n-th pixel of the results is, in the first channel."""
    pixels = numbers[_OUT_Y] * numbers[_OUT_X]
    return n // pixels * numbers[_FILTERS] * pixels + n % pixels


@functools.cache
def convolve(checked: bool) -> Form:
    """The convolution; `checked` where taps lie outside of the image."""

    @cuda.jit(device=True)
    def prepare(phase: int, numbers: Numbers) -> Numbers:
        return (numbers[_IMAGES] * numbers[_OUT_Y] * numbers[_OUT_X],
                numbers[_DEPTH] * numbers[_TAPS_Y] * numbers[_TAPS_X])

    @cuda.jit(device=True)
    def depth(k: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int, int]:
        place, row, column = _weight(k, numbers)
        return k, place, row, column

    @cuda.jit(device=True)
    def column(n: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int]:
        return _pixel(n, numbers)

    @cuda.jit(device=True)
    def result(n: int, state: Numbers, numbers: Numbers) -> int:
        return _result(n, numbers)

    return Form(prepare, depth, column, result, checked, a_along_k=True, b_along_k=False, bias_of_rows=True)


@functools.cache
def weight_gradient(checked: bool) -> Form:
    """The weight gradient; `checked` where taps lie outside of the image."""

    @cuda.jit(device=True)
    def prepare(phase: int, numbers: Numbers) -> Numbers:
        return (numbers[_DEPTH] * numbers[_TAPS_Y] * numbers[_TAPS_X],
                numbers[_IMAGES] * numbers[_OUT_Y] * numbers[_OUT_X])

    @cuda.jit(device=True)
    def depth(k: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int, int]:
        place, row, column = _pixel(k, numbers)
        return _result(k, numbers), place, row, column

    @cuda.jit(device=True)
    def column(n: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int]:
        return _weight(n, numbers)

    @cuda.jit(device=True)
    def result(n: int, state: Numbers, numbers: Numbers) -> int:
        return n

    return Form(prepare, depth, column, result, checked, a_along_k=True, b_along_k=False, bias_of_rows=True)


@cuda.jit(device=True)
def _class(pixel: int, size: int, taps: int, stride: int, before: int, spacing: int) -> Numbers:
    """How many pixels there are from the first one of a class on; and of the taps that reach them, those with
    tap spacing % stride = (pixel + before) % stride, the first, the step between them and how many."""
    tap, remainder = taps, (pixel + before) % stride
    for other in range(taps - 1, -1, -1):
        if other * spacing % stride == remainder:
            tap = other
    divisor, rest = stride, spacing % stride
    while rest:
        divisor, rest = rest, divisor % rest
    step = stride // divisor
    return (size - pixel + stride - 1) // stride, tap, step, (taps - tap + step - 1) // step


@functools.cache
def input_gradient(checked: bool) -> Form:
    """The input gradient; `checked` where taps reach pixels from outside of the results."""

    @cuda.jit(device=True)
    def prepare(phase: int, numbers: Numbers) -> Numbers:
        across = min(numbers[_STRIDE_X], numbers[_WIDTH])
        row, column = phase // across, phase % across
        rows, tap_y, step_y, taps_y = _class(row, numbers[_HEIGHT], numbers[_TAPS_Y], numbers[_STRIDE_Y],
                                             numbers[_BEFORE_Y], numbers[_SPACING_Y])
        columns, tap_x, step_x, taps_x = _class(column, numbers[_WIDTH], numbers[_TAPS_X], numbers[_STRIDE_X],
                                                numbers[_BEFORE_X], numbers[_SPACING_X])
        return (numbers[_IMAGES] * rows * columns, numbers[_FILTERS] // numbers[_GROUPS] * taps_y * taps_x,
                rows, columns, row, column, tap_y, tap_x, step_y, step_x, taps_y, taps_x)

    @cuda.jit(device=True)
    def depth(k: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int, int]:
        _, _, _, _, row, column, tap_y, tap_x, step_y, step_x, taps_y, taps_x = state
        o, tap = k // (taps_y * taps_x), k % (taps_y * taps_x)
        tap_y += tap // taps_x * step_y
        tap_x += tap % taps_x * step_x
        row = (row + numbers[_BEFORE_Y] - tap_y * numbers[_SPACING_Y]) // numbers[_STRIDE_Y]
        column = (column + numbers[_BEFORE_X] - tap_x * numbers[_SPACING_X]) // numbers[_STRIDE_X]
        return ((o * numbers[_DEPTH] * numbers[_TAPS_Y] + tap_y) * numbers[_TAPS_X] + tap_x,
                (o * numbers[_OUT_Y] + row) * numbers[_OUT_X] + column, row, column)

    @cuda.jit(device=True)
    def column(n: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int]:
        rows, columns = state[2], state[3]
        image, pixel = n // (rows * columns), n % (rows * columns)
        row, column = pixel // columns, pixel % columns
        return (image * numbers[_FILTERS] * numbers[_OUT_Y] + row) * numbers[_OUT_X] + column, row, column

    @cuda.jit(device=True)
    def result(n: int, state: Numbers, numbers: Numbers) -> int:
        _, _, rows, columns, row, column, _, _, _, _, _, _ = state
        image, pixel = n // (rows * columns), n % (rows * columns)
        row += pixel // columns * numbers[_STRIDE_Y]
        column += pixel % columns * numbers[_STRIDE_X]
        return (image * numbers[_CHANNELS] * numbers[_HEIGHT] + row) * numbers[_WIDTH] + column

    return Form(prepare, depth, column, result, checked, a_along_k=True, b_along_k=False, bias_of_rows=True)
