"""Arrays of other libraries on a GPU: the stream that they belong to, and the way back to their library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastnn import _device


class _Stream:
    """A stream by its address, in the protocol that CuPy takes."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def stream_of(value: Any) -> Any:
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
def current(stream: Any) -> Iterator[None]:
    """Make a stream the current one. It waits for the one before, which then waits for it: arrays of both may meet."""
    before: Any = None if stream is None else _device.library().cuda.get_current_stream()
    if stream == before:
        yield
        return
    stream.wait_event(before.record())
    with stream:
        yield
    before.wait_event(stream.record())


def returned(result: Any, kind: Any) -> Any:
    """Return the arrays of a result as a foreign array's library has them, or as they are."""
    if isinstance(result, tuple):
        return tuple([returned(item, kind) for item in result])
    if not _device.is_device(result):
        return result
    if kind.__module__.partition(".")[0] == "torch":
        import torch

        return torch.from_dlpack(result)
    if hasattr(kind, "__cuda_ndarray__"):
        return (_device.library().release(result) if _device.in_host_memory() else
                _device.cuda_module().as_cuda_array(result, sync=False))
    return result
