"""How pixels of an image, taps of filters and results lie to each other: shapes, and checks that they fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from fastnn._checks import Array, IntPair, as_int, as_pair, channels_last, check_rank_of, check_size
from fastnn.kernels._cpu.tuning import PADDED_ELEMENTS, PADDED_MULTIPLE

Shape: TypeAlias = tuple[int, ...]

WINOGRAD_SIZES = (3, 3), (5, 5)             # of filters


@dataclass(frozen=True)
class Geometry:
    """How output pixels and taps map to input pixels: row = i stride - padding + tap dilation.

    `padding` is what lies before the first row and column; what lies after follows from the shapes.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    sparse: bool = field(repr=False)        # whether zeros around the image would be far more than it and the result

    @functools.cached_property
    def numbers(self) -> Array:
        """All of these, for kernels."""
        numbers = np.array([*self.stride, *self.padding, *self.dilation, self.groups], np.int64)
        numbers.flags.writeable = False
        return numbers


def is_for_winograd(weight: Array, geometry: Geometry) -> bool:
    """Whether Winograd's algorithm can do this convolution."""
    return (weight.shape[2:] in WINOGRAD_SIZES and geometry.stride == geometry.dilation == (1, 1)
            and geometry.groups == 1 and max(geometry.padding) < weight.shape[2])


def phases_of(weight: Array, geometry: Geometry, axis: int, pixels: int) -> dict[int, dict[int, int]]:
    """By the first of the pixels first, first + stride, ... the taps that reach them: from where tap k reaches it."""
    stride = geometry.stride[axis]
    phases: dict[int, dict[int, int]] = {}
    for k in range(weight.shape[2 + axis]):
        shift = k * geometry.dilation[axis] - geometry.padding[axis]
        if shift % stride < pixels:
            phases.setdefault(shift % stride, {})[k] = -(shift // stride)
    return dict(sorted(phases.items()))


def fit(x: Shape, weight: Shape, stride: IntPair, padding: IntPair | str, dilation: IntPair,
        groups: int) -> tuple[Geometry, Shape]:
    """Return the geometry of a convolution and the shape of its result, once everything fits."""
    steps, spacing = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
    padding, groups = (padding if isinstance(padding, str) else as_pair("padding", padding, 0),
                       as_int("groups", groups, 1))
    _check_filters(x, weight, "(O, C / groups, KH, KW)")
    channels, filters = x[1], weight[0]
    if channels % groups or filters % groups:
        raise ValueError(f"groups: expected a divisor of the {channels} input and {filters} output channels, "
                         f"got {groups}" + channels_last(x, weight[1] * groups))
    if weight[1] != channels // groups:
        raise ValueError(f"weight: expected {channels // groups} channels in each filter for x with {channels} "
                         f"channels in {groups} groups, got shape {weight}" + channels_last(x, weight[1] * groups))
    before, size = [], []
    for axis, name in enumerate(("height", "width")):
        pixels, reach = x[2 + axis], spacing[axis] * (weight[2 + axis] - 1) + 1
        first, total = _padding(padding, axis, pixels, reach, steps[axis])
        if reach > pixels + total:
            raise ValueError(f"weight: expected a kernel no larger than the padded input, got {name} {reach} "
                             f"(dilation counted) for {pixels + total}; make the padding larger")
        before.append(first)
        size.append((pixels + total - reach) // steps[axis] + 1)
    result = x[0], filters, size[0], size[1]
    check_size(result, padding=1)
    sparse = _is_sparse(x, weight, result, steps, spacing)
    return Geometry(steps, (before[0], before[1]), spacing, groups, sparse), result


def _is_sparse(image: Shape, weight: Shape, result: Shape, stride: tuple[int, int], dilation: tuple[int, int]) -> bool:
    """Whether what taps reach of the padded image is far larger than the image and its result."""
    reached = max(image[1], result[1])
    for axis in (2, 3):
        reached *= (result[axis] - 1) * stride[axis - 2] + (weight[axis] - 1) * dilation[axis - 2] + 1
    return reached > max(PADDED_ELEMENTS, PADDED_MULTIPLE * (math.prod(image[1:]) + math.prod(result[1:])))


def _check_filters(x: Shape, weight: Shape, layout: str) -> None:
    check_rank_of("x", x, 4, layout="(N, C, H, W)")
    check_rank_of("weight", weight, 4, layout=layout)
    if 0 in weight or 0 in x[1:]:
        raise ValueError(f"x and weight: expected channels and pixels, got shapes {x} and {weight}")


def _padding(padding: tuple[int, int] | str, axis: int, pixels: int, reach: int, stride: int) -> tuple[int, int]:
    """Return the padding before, and before and after together, along one axis."""
    if padding == "same":
        total = max((-(-pixels // stride) - 1) * stride + reach - pixels, 0)
        return total // 2, total
    if isinstance(padding, str):
        if padding != "valid":
            raise ValueError(f"padding: expected an integer, a pair, 'valid' or 'same', got {padding!r}")
        return 0, 0
    return padding[axis], 2 * padding[axis]


def fit_transposed(x: Shape, weight: Shape, stride: IntPair, padding: IntPair, output_padding: IntPair, groups: int,
                   dilation: IntPair) -> tuple[Geometry, Shape]:
    """Return the geometry of the convolution that is transposed, and the shape of the result."""
    if isinstance(padding, str):
        raise ValueError(f"padding: expected an integer or a pair, got {padding!r}")
    steps, spacing = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
    before, after = as_pair("padding", padding, 0), as_pair("output_padding", output_padding, 0)
    groups = as_int("groups", groups, 1)
    _check_filters(x, weight, "(C, O / groups, KH, KW)")
    channels = x[1]
    if weight[0] != channels:
        raise ValueError(f"weight: expected {channels} filters for x with {channels} channels, got shape {weight}"
                         + channels_last(x, weight[0]))
    if channels % groups:
        raise ValueError(f"groups: expected a divisor of the {channels} input channels, got {groups}")
    size: Sequence[int] = [(x[2 + axis] - 1) * steps[axis] - 2 * before[axis]
                           + spacing[axis] * (weight[2 + axis] - 1) + after[axis] + 1 for axis in (0, 1)]
    for axis in (0, 1):
        if after[axis] >= max(steps[axis], spacing[axis]):
            raise ValueError(f"output_padding: expected less than the stride or the dilation, got {output_padding}")
        if size[axis] < 1:
            raise ValueError(f"padding: expected an output of at least 1 x 1, got {size[0]} x {size[1]}; "
                             f"make it smaller")
    result = x[0], groups * weight[1], size[0], size[1]
    check_size(result, stride=max((x[2 + axis] - 1) * steps[axis] for axis in (0, 1)),
               dilation=max((weight[2 + axis] - 1) * spacing[axis] for axis in (0, 1)), output_padding=max(after))
    return Geometry(steps, before, spacing, groups, _is_sparse(result, weight, x, steps, spacing)), result
