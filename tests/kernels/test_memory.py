"""What a kernel writes shares memory with nothing else in its call, however the arrays were made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import kernels
from fastnn._checks import check_written
from fastnn.testing import KERNELS, Call, Kernel

Layout = Callable[[Any, int, np.ndarray], Any]
WRITERS = [row for row in KERNELS.values() if row.has_out or row.writes]


def contiguous(memory: Any, at: int, like: np.ndarray) -> Any:
    """A view of bytes, from one on, of an array's dtype and shape."""
    return memory[at : at + like.nbytes].view(like.dtype).reshape(like.shape)


def reversed_(memory: Any, at: int, like: np.ndarray) -> Any:
    return contiguous(memory, at, like)[(slice(None, None, -1),) * like.ndim]


def strided(memory: Any, at: int, like: np.ndarray) -> Any:
    wide = memory[at : at + 2 * like.nbytes].view(like.dtype)
    return wide.reshape(*like.shape[:-1], 2 * like.shape[-1])[..., ::2]


def transposed(memory: Any, at: int, like: np.ndarray) -> Any:
    return contiguous(memory, at, like.T).T


def pairs() -> Iterator[tuple[str, Layout, Layout, Callable[[np.ndarray, np.ndarray], int]]]:
    """How an array that is written, and another one, lie in memory, and where the other one begins."""
    yield "exact", contiguous, contiguous, lambda written, other: 0
    yield "the last element", contiguous, contiguous, lambda written, other: written.nbytes - written.itemsize
    yield "half an element", contiguous, contiguous, lambda written, other: written.nbytes - max(
        1, written.itemsize // 2)
    yield "reversed input", contiguous, reversed_, lambda written, other: 0
    yield "strided input", contiguous, strided, lambda written, other: 0
    yield "transposed input", contiguous, transposed, lambda written, other: 0
    yield "reversed output", reversed_, contiguous, lambda written, other: 0
    yield "strided output", strided, contiguous, lambda written, other: 0
    yield "both reversed", reversed_, reversed_, lambda written, other: written.nbytes - written.itemsize


def arguments(row: Kernel) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Calls by the names of arguments, with `out`, and what each of them writes."""
    names = list(inspect.signature(getattr(kernels, row.name)).parameters)
    for call in row.calls(row.dtypes[0]):
        given = {**dict(zip(names, call.args)), **call.kwargs}
        written = [names[i] for i in row.writes if row.name != "batch_norm" or call.kwargs["training"]]
        if row.has_out:
            given["out"] = np.zeros_like(row.run(call, "naive")[0])
            written.append("out")
        yield given, [name for name in written if given[name] is not None and given[name].size]


def refuses(row: Kernel, given: dict[str, Any], match: str, *memories: Any) -> None:
    before = [fastnn.to_host(memory).copy() for memory in memories]
    with pytest.raises(ValueError, match=match):
        getattr(kernels, row.name)(**given)
    for memory, kept in zip(memories, before):
        np.testing.assert_array_equal(fastnn.to_host(memory), kept)


def walk_pairs(row: Kernel, device: Callable[[np.ndarray], Any]) -> None:
    met = set()
    for given, written in arguments(row):
        arrays = {name: array for name, array in given.items() if isinstance(array, np.ndarray) and array.size}
        for name in written:
            for other in arrays.keys() - {name}:
                for what, of_written, of_other, begin in pairs():
                    memory = device(np.zeros(2 * sum(array.nbytes for array in arrays.values()), np.uint8))
                    one = of_written(memory, 0, arrays[name])
                    another = of_other(memory, begin(arrays[name], arrays[other]), arrays[other])
                    another[...] = device(arrays[other])
                    rest = {key: device(array) for key, array in arrays.items()}
                    names = "|".join((f"{name}: .* overlaps with {other}", f"{other}: .* overlaps with {name}"))
                    refuses(row, {**given, **rest, name: one, other: another}, f"^({names})$", memory)
                    met.add((name, what))
    assert met or not any(written for _, written in arguments(row))


@pytest.mark.parametrize("row", WRITERS, ids=str)
def test_what_is_written_shares_memory_with_no_other_argument(row: Kernel) -> None:
    walk_pairs(row, lambda array: array)


@pytest.mark.cuda
@pytest.mark.parametrize("row", WRITERS, ids=str)
def test_what_is_written_on_a_gpu_shares_memory_with_no_other_argument(row: Kernel) -> None:
    walk_pairs(row, fastnn.to_device)


def folded(array: np.ndarray) -> Iterator[np.ndarray]:
    """Arrays of the same shape, two elements of which lie in one place."""
    as_strided = np.lib.stride_tricks.as_strided
    memory = np.zeros(array.size + 1, array.dtype)
    step = array.itemsize
    for axis, size in enumerate(array.shape):
        if size > 1:
            yield as_strided(memory, array.shape, tuple(0 if i == axis else s for i, s in enumerate(array.strides)))
            if array.ndim > 1 and max(array.shape[:axis] + array.shape[axis + 1 :]) > 1:
                yield as_strided(memory, array.shape, (step,) * array.ndim)              # windows
            if step > 1:
                yield as_strided(memory, array.shape, tuple(step // 2 if i == axis else s
                                                            for i, s in enumerate(array.strides)))


@pytest.mark.parametrize("row", WRITERS, ids=str)
def test_elements_of_what_is_written_share_no_memory(row: Kernel) -> None:
    for given, written in arguments(row):
        for name in written:
            for array in folded(given[name]):
                refuses(row, {**given, name: array}, f"^{name}: expected memory of its own for each element", array)


@pytest.mark.cuda
def test_elements_of_what_is_written_on_a_gpu_share_no_memory() -> None:
    x, out = fastnn.to_device(np.ones((3, 4))), fastnn.to_device(np.zeros((3, 1)))
    from fastnn import _device

    with pytest.raises(ValueError, match="out: expected memory of its own for each element"):
        kernels.relu(x, out=_device.xp.broadcast_to(out, (3, 4)))
    by_columns = fastnn.to_device(np.zeros((4, 3))).T
    assert kernels.relu(x, out=by_columns) is by_columns


@pytest.mark.parametrize("row", WRITERS, ids=str)
def test_neighbours_in_memory_are_apart(row: Kernel) -> None:
    """Arrays that interleave or touch share no element."""
    for given, written in arguments(row):
        arrays = {name: array for name, array in given.items() if isinstance(array, np.ndarray) and array.size}
        expected = {name: given[name].copy() for name in written}
        getattr(kernels, row.name)(**{**given, **expected}, target="naive")
        for name in written:
            for other in arrays.keys() - {name}:
                if arrays[other].dtype != arrays[name].dtype:
                    continue
                size = max(arrays[name].size, arrays[other].size)
                memory = np.zeros((size, 2), arrays[name].dtype)
                one, another = (memory[: array.size, i].reshape(array.shape) if array.ndim == 1 else
                                np.lib.stride_tricks.as_strided(memory[:, i], array.shape,
                                                                tuple(2 * step for step in array.strides))
                                for i, array in enumerate((arrays[name], arrays[other])))
                assert np.shares_memory(one, memory)
                one[...], another[...] = arrays[name], arrays[other]
                rest = {key: array.copy() for key, array in arrays.items()}
                getattr(kernels, row.name)(**{**given, **rest, name: one, other: another}, target="naive")
                np.testing.assert_array_equal(one, expected[name])
        break


class Sees:
    """What NumPy sees as an array, and nothing more."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._array


class Exports:
    """What is an array by DLPack alone."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def interface(array: np.ndarray) -> Any:
    class Interface:
        __array_interface__ = array.__array_interface__

    return Interface()


@pytest.mark.parametrize("seen", [Sees, Exports, interface, lambda array: array.view(np.matrix)])
def test_inputs_of_other_kinds_share_memory_too(seen: Callable[[np.ndarray], Any]) -> None:
    b = np.arange(-4.0, 4).reshape(2, 4)
    for x in (b, b[::-1], b[:, ::-1]):
        with pytest.raises(ValueError, match=r"^out: expected memory of its own, but it overlaps with x$"):
            kernels.relu(seen(x), out=b)
        with pytest.raises(ValueError, match=r"^out: expected memory of its own, but it overlaps with y$"):
            kernels.add(np.ones((2, 4)), seen(x), out=b)
    np.testing.assert_array_equal(b.reshape(-1), np.arange(-4.0, 4))


@pytest.mark.peers
def test_tensors_share_memory_too() -> None:
    torch = pytest.importorskip("torch")
    b = np.arange(-4.0, 4)
    with pytest.raises(ValueError, match=r"out: .* overlaps with x"):
        kernels.relu(torch.from_numpy(b), out=b)
    with pytest.raises(ValueError, match=r"grad: .* overlaps with parameter|parameter: .* overlaps with grad"):
        kernels.sgd_update(b, torch.from_numpy(b), lr=0.1)
    with pytest.raises(TypeError, match="out: expected a NumPy array, got Tensor"):
        kernels.relu(b, out=torch.zeros(8, dtype=torch.float64))


def test_a_file_in_memory_is_memory(tmp_path: Path) -> None:
    file = np.memmap(tmp_path / "file", np.float64, "w+", shape=(8,))
    with pytest.raises(ValueError, match=r"out: .* overlaps with x"):
        kernels.relu(file[::-1], out=file)
    assert kernels.relu(file[:4], out=file[4:]) is not None
    locked = np.memmap(tmp_path / "file", np.float64, "r", shape=(8,))
    with pytest.raises(ValueError, match="out: expected a writable array"):
        kernels.relu(np.ones(8), out=locked)


def test_batch_statistics_may_be_views_in_inference_alone() -> None:
    x = np.arange(1.0, 10.0).reshape(3, 3)
    kernels.batch_norm(x, x[0], x[1], x[2], x[0], target="naive")
    for name, arrays in {"running_mean": (x[0], np.ones(3)), "running_var": (np.ones(3), x[:, 0])}.items():
        with pytest.raises(ValueError, match=f"^{name}: expected memory of its own, but it overlaps with x$"):
            kernels.batch_norm(x, *arrays, training=True)


def test_kept_filters_are_not_written() -> None:
    x, weight = np.ones((1, 32, 8, 8), np.float32), np.ones((32, 32, 3, 3), np.float32)
    kept = kernels.KeptWeight()
    kernels.conv2d(x, weight, kept=kept, algorithm="winograd")
    own, made = kept.last
    for array in (own, *made.values()):
        with pytest.raises(ValueError, match="out: expected a writable array"):
            kernels.relu(np.zeros(array.shape, np.float32), out=array)


def test_what_takes_too_long_to_find_out_is_refused() -> None:
    """Windows in many dimensions, whose addresses may be sums in too many ways."""
    memory = np.zeros(1 << 22)
    steps = np.random.default_rng(0).integers(1 << 14, 1 << 15, 40)
    windows = np.lib.stride_tricks.as_strided(memory, (2,) * 40, tuple(8 * steps))
    middle = steps.sum() // 2
    with pytest.raises(ValueError, match=r"^out: .* but it may overlap, which takes too long to find out, with x$"):
        check_written(("out",), {"x": windows, "out": memory[middle : middle + 1]})


def test_arrays_that_are_read_may_share_memory() -> None:
    x = np.arange(4.0)
    np.testing.assert_array_equal(kernels.add(x, x[::-1], target="naive"), 3)
    assert Call((x, x)).arrays()[0] is x
