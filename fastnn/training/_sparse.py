"""Arrays of which many elements are 0, as files hold them: a bit for each element, and those that are not 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PARTS = "bitmask", "compressed"
_HEADER = 200           # bytes of a file's header that two arrays take for one


def packed(tensors: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, list[int]]]:
    """Return what is stored for arrays, and the shapes of those that become smaller in this form.

    Of an array NAME these are NAME.bitmask (bytes, the first element in the lowest bit; a 1 is an element that is not
    0) and NAME.compressed (the elements that are not 0, in order). That takes 1 / (8 itemsize) + 1 - sparsity of the
    array.
    """
    stored: dict[str, NDArray[Any]] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        bits = tensor.ravel() != 0
        parts = [f"{name}.{part}" for part in _PARTS]
        saved = tensor.itemsize * np.count_nonzero(~bits) - bits.size // 8
        if saved <= _HEADER or not tensors.keys().isdisjoint(parts):
            stored[name] = tensor
        else:
            stored |= zip(parts, (np.packbits(bits, bitorder="little"), tensor.ravel()[bits]))
            shapes[name] = list(tensor.shape)
    return stored, shapes


def unpacked(tensors: Mapping[str, NDArray[Any]], shapes: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays again; raise ValueError where what is stored is not what `packed` returns."""
    arrays = dict(tensors)
    for name, shape in shapes.items():
        bitmask, values = (arrays.pop(f"{name}.{part}", None) for part in _PARTS)
        if (bitmask is None or values is None or not isinstance(shape, list)
                or not all(type(length) is int and length > 0 for length in shape)
                or bitmask.dtype != np.uint8 or bitmask.shape != (-(-math.prod(shape) // 8),)):
            raise ValueError(f"of {name}, which holds many zeros, expected a shape, the bits of a mask and values")
        bits = np.unpackbits(bitmask, count=math.prod(shape), bitorder="little").astype(bool)
        if values.shape != (np.count_nonzero(bits),):
            raise ValueError(f"of {name}, expected {np.count_nonzero(bits)} values, as its mask says, got shape "
                             f"{values.shape}")
        array = np.zeros(bits.size, values.dtype)
        array[bits] = values
        arrays[name] = array.reshape(shape)
    return arrays
