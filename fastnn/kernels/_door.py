"""What every public kernel passes: a check of the memory that it writes, and the way in for arrays on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from fastnn import _device
from fastnn._checks import check_written, own_memory

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def updates(*names: str, when: str = "") -> Callable[[_Kernel], _Kernel]:
    """Say which arguments, beside `out`, a kernel writes: always, or where the option `when`, else False, is true."""
    def mark(function: Any) -> Any:
        function.updates = names, when
        return function

    return mark


def door(function: _Kernel) -> _Kernel:
    """Make a kernel refuse to write memory that another argument shares, and take any library's arrays on a GPU.

    Where the first array on a GPU that came in is of PyTorch or Numba, the results are too; else they are of `xp`. The
    work goes to the stream that the array belongs to.
    """
    positional = function.__code__.co_varnames[: function.__code__.co_argcount]
    updated, when = getattr(function, "updates", ((), ""))
    always = bool(updated) and not when

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if ((always or (kwargs and ("out" in kwargs or (when and kwargs.get(when)))))
                    and not own_memory((*args, *kwargs.values()))):
                check(args, kwargs)
            return function(*args, **kwargs)
        except _device.ForeignArray:
            pass
        foreign = [value for value in (*args, *kwargs.values()) if not _device.is_device(value)
                   and _device.is_foreign(value)]
        named = {name: _device.adopted(value) if any(value is one for one in foreign) else value
                 for name, value in kwargs.items()}
        placed = [_device.adopted(value) if any(value is one for one in foreign) else value for value in args]
        out = kwargs.get("out")
        with _current(_stream_of(foreign[0])):        # of which Numba's arrays keep a note
            check(placed, named)
            result = function(*placed, **named)
            return out if out is not None else _returned(result, type(foreign[0]))

    def check(args: Any, kwargs: dict[str, Any]) -> None:
        check_written((*updated, "out") if kwargs.get(when, always) else ("out",),
                      {**dict(zip(positional, args)), **kwargs})

    return cast(_Kernel, call)


class _Stream:
    """A stream by its address, in the protocol that CuPy takes."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def _stream_of(value: Any) -> Any:
    """Return the stream that a foreign array belongs to, or None if it names none."""
    if _device.in_host_memory():
        return None
    if type(value).__module__.partition(".")[0] == "torch":
        import torch

        pointer = torch.cuda.current_stream(value.device).cuda_stream
    else:
        pointer = value.__cuda_array_interface__.get("stream")
        if pointer is None:
            return None
    streams = _device.library().cuda
    return (streams.Stream.from_external(_Stream(pointer)) if hasattr(streams.Stream, "from_external") else
            streams.ExternalStream(pointer))                   # CuPy before 14


@contextmanager
def _current(stream: Any) -> Iterator[None]:
    """Make a stream the current one. It waits for the one before, which then waits for it: arrays of both may meet."""
    before: Any = None if stream is None else _device.library().cuda.get_current_stream()
    if stream == before:
        yield
        return
    stream.wait_event(before.record())
    with stream:
        yield
    before.wait_event(stream.record())


def _returned(result: Any, kind: Any) -> Any:
    """Return the arrays of a result as a foreign array's library has them, or as they are."""
    if isinstance(result, tuple):
        return tuple([_returned(item, kind) for item in result])
    if not _device.is_device(result):
        return result
    if kind.__module__.partition(".")[0] == "torch":
        import torch

        return torch.from_dlpack(result)
    if hasattr(kind, "__cuda_ndarray__"):
        return (_device.library().release(result) if _device.in_host_memory() else
                _device.cuda_module().as_cuda_array(result, sync=False))
    return result
