"""Checks of arguments, arrays and numbers, made before anything is computed."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from fastnn import _device

Array: TypeAlias = np.ndarray
IntPair: TypeAlias = int | Sequence[int]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_ndarray = np.ndarray
_INT64 = np.dtype(np.int64)
_NO_ARRAYS = {type(None), bool, int, float, str, tuple}
_LARGEST = 1 << 40                          # sums of a few such numbers are still machine integers
_MOST = (1 << 60) - 1                       # elements of 8 bytes that can have addresses


def as_array(name: str, value: Any) -> Array:
    """Return `value` as a C-contiguous array; anything that NumPy sees as an array is taken, lists are not.

    An array on a GPU stays there.
    """
    if type(value) is not np.ndarray:
        value = as_view(name, value)
        if _device.is_device(value):
            return _device.contiguous(name, value)
    flags = value.flags
    return value if flags.c_contiguous and flags.aligned else np.array(value, order="C")


def as_rows(name: str, value: Any) -> Array:
    """Return `value` as `as_array` does, but in its layout if that is one of `rows_in_place`."""
    if type(value) is not _ndarray:
        value = as_view(name, value)
    return value if type(value) is _ndarray and rows_in_place(value) else as_array(name, value)


def rows_in_place(array: Array) -> bool:
    """Whether elements along the last dimension are neighbours in memory, and no other dimension goes backwards."""
    size = array.itemsize
    return array.flags.aligned and array.strides[-1:] == (size,) and all(
        step >= 0 and step % size == 0 for step in array.strides)


def as_view(name: str, value: Any) -> Array:
    """Return `value` as NumPy sees it, in any layout; an array on a GPU comes back as it is."""
    if _device.is_device(value):
        return value
    if _device.is_foreign(value):
        raise _device.ForeignArray(f"{name}: expected a NumPy or CuPy array, got {type(value).__name__}; "
                                 f"give cupy.asarray({name}), which copies nothing")
    if not _is_array(value):
        raise TypeError(f"{name}: expected an array, "
                        + ("got None" if value is None else
                           f"got {type(value).__name__}; convert it with numpy.asarray"))
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked one; fill it with .filled(value)")
    try:
        seen = hasattr(value, "__array__") or hasattr(value, "__array_interface__")
        return np.asarray(value) if seen else np.from_dlpack(value)
    except Exception as error:
        raise TypeError(f"{name}: {type(value).__name__} could not be read as a NumPy array: {error}") from error


def _is_array(value: Any) -> bool:
    """Whether NumPy, or a library of arrays on a GPU, can see this as an array."""
    return (hasattr(value, "__array__") or hasattr(value, "__array_interface__") or hasattr(value, "__dlpack__")
            or _device.is_device(value) or _device.is_foreign(value))


def as_floats(**values: Any) -> list[Any]:
    """Return the named arguments as arrays of one floating dtype; None stays None in all but the first."""
    arrays = {name: None if value is None else as_array(name, value) for name, value in values.items()}
    check_floats(**arrays)
    return list(arrays.values())


def check_floats(**arrays: Any) -> None:
    """Raise TypeError unless the arrays have one floating dtype and lie on one side; all but the first may be None.

    They are as `as_array` returns them.
    """
    (first, x), *others = arrays.items()
    check_present(first, x)
    if x.dtype not in FLOATS:
        raise TypeError(f"{first}: expected float32 or float64, got {x.dtype}; convert it with "
                        f"{first}.astype(numpy.float32)")
    for name, array in others:
        if array is None:
            continue
        if array.dtype not in FLOATS:
            raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}; convert it with "
                            f"{name}.astype(numpy.float32)")
        if array.dtype != x.dtype:
            raise TypeError(f"{name}: expected {x.dtype} as {first} has, got {array.dtype}; give both one dtype with "
                            f".astype")
        check_side(name, array, first, x)


def check_side(name: str, array: Any, first: str, other: Any) -> None:
    """Raise TypeError where one of two arrays is on a GPU and the other is not."""
    device = _device.is_device(array)
    if device != _device.is_device(other):
        here, there = ("a GPU", "the host") if device else ("the host", "a GPU")
        raise TypeError(f"{name}: expected an array on {there} as {first} is, got one on {here}; "
                        f"move one of them with fastnn.to_device or fastnn.to_host")


def as_labels(name: str, value: Any, shape: tuple[int, ...], classes: int, ignored: int | None = None) -> Array:
    """Return class labels as int64 of this shape, each in [0, classes) or `ignored`.

    On a GPU, where a look at them would wait for it, kernels answer one out of range with NaN.
    """
    given = as_array(name, value)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integer class labels, got {given.dtype}")
    check_shape(name, given, shape)
    labels = int64_of(given)
    if _device.is_device(labels):
        return labels
    if labels.size and labels.view(np.uint64).max() >= classes:             # where negative ones are large
        bad = given[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if bad.size:
            raise ValueError(f"{name}: expected labels from 0 to {classes - 1} for {classes} classes, got {bad[0]}")
    return labels


def int64_of(labels: Array) -> Array:
    """Return integers as int64, and those beyond it as its largest."""
    if labels.dtype is _INT64:
        return labels
    return (labels.clip(0, (1 << 63) - 1) if labels.dtype == np.uint64 else labels).astype(np.int64, copy=False)


def check_rank(name: str, array: Array, *ranks: int, layout: str) -> None:
    """Raise ValueError unless `array` has one of `ranks` dimensions; `layout` says what they mean."""
    if array is None or array.ndim not in ranks:
        check_present(name, array)
        check_rank_of(name, array.shape, *ranks, layout=layout)


def check_rank_of(name: str, shape: tuple[int, ...], *ranks: int, layout: str) -> None:
    """Raise ValueError unless an array of this shape has one of `ranks` dimensions; `layout` says what they mean."""
    if len(shape) not in ranks:
        raise ValueError(f"{name}: expected {' or '.join(map(str, ranks))} dimensions {layout}, got shape {shape}")


def check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `array` has this shape."""
    if array is None or array.shape != shape:
        check_present(name, array)
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")


def check_one_shape(names: Iterable[str], arrays: Sequence[Array]) -> tuple[int, ...]:
    """Return the shape that all of these arrays have; raise ValueError where one has another."""
    shape = arrays[0].shape
    for name, array in zip(names, arrays):
        if array is None or array.shape != shape:
            check_shape(name, array, shape)
    return shape


def check_size(shape: tuple[int, ...], **parts: int) -> None:
    """Raise ValueError where no memory could hold an array of this shape: about that argument with the largest part."""
    elements = math.prod(shape)
    if elements > _MOST or (not elements and math.prod([size or 1 for size in shape]) > _MOST):
        name = max(parts, key=lambda name: parts[name])
        raise ValueError(f"{name}: expected a result of at most {_MOST} elements, got one of shape {shape}")


def channels_last(shape: tuple[int, ...], channels: int) -> str:
    """What a message about the channels of x adds where they are the last axis."""
    if len(shape) < 3 or shape[1] == channels or shape[-1] != channels:
        return ""
    layout = " x ".join("NCHW" if len(shape) == 4 else "NCL")
    given = " x ".join("NHWC" if len(shape) == 4 else "NLC")
    return f"; the layout is {layout}, and x of shape {shape} looks like {given}: give numpy.moveaxis(x, -1, 1)"


def check_present(name: str, array: Array | None) -> None:
    """Raise TypeError for an array that is absent."""
    if array is None:
        raise TypeError(f"{name}: expected an array, got None")


def check_not_empty(name: str, array: Array) -> None:
    """Raise ValueError for an array with no elements, where a mean over it is asked for."""
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one element, got shape {array.shape}")


def as_int(name: str, value: Any, minimum: int = -_LARGEST) -> int:
    """Return an integer of at least `minimum`."""
    if type(value) is int and minimum <= value <= _LARGEST:
        return value
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    if number > _LARGEST:
        raise ValueError(f"{name}: expected at most {_LARGEST}, got {value}")
    return number


def check_needs(needs: Sequence[bool], names: Sequence[str] = ("x", "weight", "bias")) -> None:
    """Raise ValueError unless `needs` says of the gradients by some arguments whether they are needed."""
    if not isinstance(needs, tuple | list) or len(needs) != len(names) or not all(
            [isinstance(need, bool | int | np.bool_) for need in needs]):
        count = {2: "two", 3: "three"}[len(names)]
        raise ValueError(f"needs: expected {count} bools, for {', '.join(names[:-1])} and {names[-1]}, got "
                         f"{needs!r:.100}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError unless a text is one of some."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r:.100}")


def is_relu(activation: str | None) -> bool:
    """Return whether the activation that is applied in the same pass is a ReLU; there is no other."""
    if activation is None:
        return False
    if not isinstance(activation, str) or activation != "relu":
        raise ValueError(f"activation: expected None or 'relu', got {activation!r:.100}")
    return True


def as_float(name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return a real number from `minimum` to `maximum` as a float."""
    if type(value) is float and minimum <= value <= maximum:
        return value
    if isinstance(value, bool | str) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:                   # an integer beyond all floats
        number = math.nan
    if not minimum <= number <= maximum:
        raise ValueError(f"{name}: expected a number from {minimum:g} to {maximum:g}, got {value}")
    return number


def as_pair(name: str, value: IntPair, minimum: int) -> tuple[int, int]:
    """Return (for rows, for columns) of an integer, a sequence of one, or a pair, each at least `minimum`."""
    sizes: Any = value if is_sequence(value) else (value,)
    if len(sizes) not in (1, 2):
        raise ValueError(f"{name}: expected an integer or a pair of them, got {value!r}")
    return as_int(name, sizes[0], minimum), as_int(name, sizes[-1], minimum)


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether an option is given as a sequence of numbers, not as one."""
    return value.ndim > 0 if isinstance(value, np.ndarray) else (
        isinstance(value, Sequence) and not isinstance(value, str | bytes))


def own_memory(values: Iterable[Any]) -> bool:
    """Whether all arrays among these are NumPy's, writable and contiguous, and own their memory: then none share any.

    This is what `check_written` need not look at.
    """
    arrays = []
    for value in values:
        if type(value) is _ndarray:
            flags = value.flags
            if not (flags.owndata and flags.carray):
                return False
            arrays.append(id(value))
        elif type(value) not in _NO_ARRAYS:
            return False
    return len(set(arrays)) == len(arrays)


def check_written(written: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raise unless the arrays that a kernel writes, by name, may be written and share memory with nothing else.

    `given` are all arguments as the caller gave them: a copy of an input in another layout would hide what it shares.
    An array is not written where two of its own elements share memory either. Absent ones are None.
    """
    places: dict[str, Array] = {}
    for name, value in given.items():
        if type(value) is not _ndarray:
            if type(value) in _NO_ARRAYS or not _is_array(value):
                continue
            value = _device.place(value) if _device.is_device(view := as_view(name, value)) else view
        places[name] = value
    for name in reversed(written):
        value = given.get(name)
        if value is None:
            continue
        if not (isinstance(value, _ndarray) or _device.is_device(value)):
            raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
        place = places.pop(name)            # each pair is compared once
        if not place.flags.writeable:
            raise ValueError(f"{name}: expected a writable array, got a read-only one")
        if not place.flags.c_contiguous and (how := _folds(place)):
            raise ValueError(f"{name}: expected memory of its own for each element, but one element {how} another: "
                             f"shape {place.shape} with strides {place.strides}")
        for other, array in places.items():
            if how := _overlap(place, array):
                raise ValueError(f"{name}: expected memory of its own, but it {how} {other}")


def _overlap(a: Array, b: Array) -> str:
    """Say how two arrays share memory; nothing where they do not."""
    try:
        return "overlaps with" if np.shares_memory(a, b, 10_000) else ""  # type: ignore[arg-type] # any int
    except np.exceptions.TooHardError:      # no slices of arrays are so hard, but windows by as_strided may be
        return "may overlap, which takes too long to find out, with"


def _folds(array: Array) -> str:
    """Say how two elements of one array share memory; nothing where none do."""
    if array.size == 0:
        return ""
    for _ in range(array.ndim):             # lines i and j of an axis lie to each other as lines 0 and j - i do
        if how := _overlap(array[:1], array[1:]):
            return how
        array = array[0]
    return ""
