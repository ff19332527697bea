"""Launches of CUDA kernels on the current stream."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from fastnn import _device
from fastnn._device import SIMULATED, cuda_module, library

# By thread, what sees each launch: its kernel, blocks and threads.
watchers: dict[int, Callable[[Any, Any, Any], None]] = {}


@functools.lru_cache(4096)
def _view(pointer: int, shape: tuple[int, ...], dtype: np.dtype, device: int) -> Any:
    """Return the compiler's view of a C-contiguous array: made once for an address, since memory is used again."""
    del device                                  # a part of the key: addresses of two devices may be one
    return cuda_module().from_cuda_array_interface(
        {"shape": shape, "typestr": dtype.str, "data": (pointer, False), "version": 3}, sync=False)


def launch(kernel: Any, blocks: Any, threads: Any, *args: Any) -> None:
    """Run a kernel on the current stream. Arrays of `xp` among `args` are C-contiguous; without blocks nothing runs."""
    if 0 in (blocks if isinstance(blocks, tuple) else (blocks,)):
        return
    if watchers and (watcher := watchers.get(threading.get_ident())):
        watcher(kernel, blocks, threads)
    if _device.launcher is not None:
        _device.launcher(kernel, blocks, threads, *args)
        return
    xp = library()
    if SIMULATED:
        xp.launch(kernel, blocks, threads, *args)
        return
    device = xp.cuda.runtime.getDevice()
    with _on(device):
        _configured(kernel, blocks, threads, xp.cuda.get_current_stream().ptr, device)(*[
            _view(arg.data.ptr, arg.shape, arg.dtype, device) if isinstance(arg, xp.ndarray) else arg
            for arg in args])


@functools.lru_cache(4096)
def _configured(kernel: Any, blocks: Any, threads: Any, stream: int, device: int) -> Any:
    """Return a kernel with its grid and stream; that a grid is small is no reason for a warning."""
    del device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streams = cuda_module()
        return kernel[blocks, threads, streams.external_stream(stream) if stream else streams.default_stream()]


@contextmanager
def _entered(device: int) -> Iterator[None]:
    with cuda_module().gpus[device]:
        yield


def _on(device: int) -> Any:
    """Return a context in which the compiler uses CuPy's current device."""
    return nullcontext() if cuda_module().current_context().device.id == device else _entered(device)
