"""The device: arrays on a GPU, and the one file that imports a CUDA package.

`cuda` is the compiler's module, and `compiler` its name; where there is none, importing `cuda` from here is an
ImportError, and `compiler` says why:

- with NUMBA_ENABLE_CUDASIM=1 Numba's simulator, which runs kernels as Python threads on the CPU;
- else numba-cuda-mlir;
- else numba-cuda, in whose environment `numba.cuda` is its own; never the target built into Numba, which is deprecated.

`xp` is the library of device arrays: CuPy, or in the simulator `_simulator`, arrays that keep CuPy's rules.
They are imported when they are first asked for, since that takes as long as importing all of fastnn; with NumPy arrays
alone it never happens. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastnn._extras import install

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


@functools.cache
def _compiler() -> tuple[Any, str]:
    """Return the module and its package's name, or None and why there is none."""
    if SIMULATED:
        return importlib.import_module("fastnn._simulator").cuda, "simulator"
    for package, module, name in (("numba_cuda_mlir", "numba_cuda_mlir.cuda", "numba-cuda-mlir"),
                                  ("numba_cuda", "numba.cuda", "numba-cuda")):
        if importlib.util.find_spec(package) is None:
            continue
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            return None, f"{name} could not be imported: {error}"
        if module == "numba.cuda" and getattr(found, "implementation", None) != "NVIDIA":
            return None, "numba-cuda is installed, but numba.cuda is not its own"
        return found, name
    return None, "no CUDA compiler is installed"


launcher: Callable[..., None] | None = None     # instead of a GPU


@functools.cache
def _cupy() -> Any:
    return None if importlib.util.find_spec("cupy") is None else importlib.import_module("cupy")


def cuda_module() -> Any:
    """Return the compiler's module, or None."""
    return _compiler()[0]


def in_host_memory() -> bool:
    """Whether arrays of `xp` only count as lying on a GPU."""
    return SIMULATED or launcher is not None


def library() -> Any:
    """Return the library of device arrays, or None."""
    return importlib.import_module("fastnn._simulator") if in_host_memory() else _cupy()


@functools.cache
def _found() -> str | None:
    if _compiler()[0] is None:
        return _compiler()[1]
    try:
        if _cupy() is None:
            return "CuPy is not installed"
    except ImportError as error:
        return f"CuPy could not be imported: {error}"
    try:
        count = _cupy().cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"CuPy finds no GPU: {error}"
    return None if count else "CuPy finds no GPU"


def why_not() -> str | None:
    """Say why no kernel can run on a GPU here; None where one can."""
    return None if in_host_memory() else _found()


class CudaUnavailableError(RuntimeError):
    """CUDA was asked for where there is none.

    Examples
    --------
    >>> from fastnn import _device
    >>> raise _device.CudaUnavailableError("no GPU")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fastnn._device.CudaUnavailableError: CUDA cannot be used here (no GPU); it needs an NVIDIA GPU with ...
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"CUDA cannot be used here ({why}); it needs an NVIDIA GPU with its driver and "
                         f"{install('cuda13')}, or [cuda12] instead, as the driver says")


def require() -> None:
    """Raise CudaUnavailableError unless kernels can run on a GPU here."""
    if (why := why_not()) is not None:
        raise CudaUnavailableError(why)


def __getattr__(name: str) -> Any:
    if name == "compiler":
        return _compiler()[1]
    if name == "cuda" and _compiler()[0] is not None:
        return _compiler()[0]
    if name == "xp":
        require()
        return library()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ForeignArray(TypeError):
    """A kernel was given an array on a GPU that is not of `xp`; the call of a kernel catches this, and converts it."""


def is_device(value: Any) -> bool:
    """Whether this is an array of `xp`."""
    if type(value) is np.ndarray or not (in_host_memory() or "cupy" in sys.modules):
        return False                            # nobody has an array of a library that is not imported
    return why_not() is None and isinstance(value, library().ndarray)


def is_foreign(value: Any) -> bool:
    """Whether this is another library's array on a GPU."""
    try:
        return hasattr(value, "__cuda_array_interface__") or hasattr(value, "__cuda_ndarray__")
    except RuntimeError as error:               # torch's answer for a tensor that records gradients
        raise TypeError(f"expected an array without a recorded gradient, got {type(value).__name__}: {error}; "
                        f"give .detach()") from error


def to_device(x: Any) -> Any:
    """Return a copy of a host array on the current GPU; an array that is on a GPU comes back as it is.

    Parameters
    ----------
    x : array
        Anything that NumPy sees as an array, or one on a GPU.

    Returns
    -------
    CuPy array
        In Numba's simulator, an array that keeps CuPy's rules; or what came in, where that is on a GPU.

    Raises
    ------
    CudaUnavailableError
        If there is no GPU, no compiler for it or no CuPy.

    Notes
    -----
    The copy is queued on the current stream; nothing waits for it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn
    >>> y = fastnn.relu(fastnn.to_device(np.array([-1.0, 2.0])))     # doctest: +SKIP
    >>> fastnn.to_host(y)                                            # doctest: +SKIP
    array([0., 2.])
    """
    require()
    return x if is_device(x) or is_foreign(x) else library().asarray(np.asarray(x))


def to_host(x: Any) -> np.ndarray:
    """Return a NumPy copy of an array on a GPU; a host array comes back as it is.

    Parameters
    ----------
    x : array
        Of CuPy, Numba, PyTorch, or another with `__cuda_array_interface__`; or a host array.

    Returns
    -------
    NumPy array

    Notes
    -----
    It waits for the work on the current stream that x comes from.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn
    >>> fastnn.to_host(np.array([1.0]))
    array([1.])
    """
    if not is_device(x):
        if not is_foreign(x):
            return np.asarray(x)
        x = adopted(x)
    return np.asarray(library().asnumpy(x))


DEVICES: dict[str, Callable[[Any], Any]] = {"cpu": to_host, "cuda": to_device}


def gpu() -> str:
    """Return the name of the current GPU."""
    require()
    if in_host_memory():
        return "Numba's simulator"
    runtime = library().cuda.runtime
    return str(runtime.getDeviceProperties(runtime.getDevice())["name"].decode())


def contiguous(name: str, array: Any) -> Any:
    """Return an array of `xp` as C-contiguous, once it is known to lie on the current device."""
    if not in_host_memory() and array.device.id != library().cuda.runtime.getDevice():
        raise ValueError(f"{name}: expected an array on the current device {library().cuda.runtime.getDevice()}, got "
                         f"one on device {array.device.id}; call under `with cupy.cuda.Device({array.device.id}):`")
    return array if array.flags.c_contiguous else library().ascontiguousarray(array)


def place(array: Any) -> np.ndarray:
    """Return a NumPy array where one of `xp` lies, whose addresses can be compared; nobody may read or write it."""
    pointer = array.ctypes.data if in_host_memory() else array.data.ptr
    where = {"version": 3, "data": (pointer, False), "shape": array.shape, "strides": array.strides,
             "typestr": array.dtype.str}
    return np.asarray(SimpleNamespace(__array_interface__=where))


def adopted(value: Any) -> Any:
    """View a foreign array as one of `xp`, without a copy and without waiting."""
    require()
    xp = library()
    if in_host_memory():
        return xp.adopt(value)
    interface = value.__cuda_array_interface__
    pointer, shape, dtype = interface["data"][0], interface["shape"], np.dtype(interface["typestr"])
    strides = interface.get("strides")
    span = (dtype.itemsize * int(np.prod(shape)) if strides is None or 0 in shape else
            dtype.itemsize + sum((size - 1) * abs(step) for size, step in zip(shape, strides)))
    memory = xp.cuda.UnownedMemory(pointer, span, value, -1 if pointer else xp.cuda.runtime.getDevice())
    return xp.ndarray(shape, dtype, xp.cuda.MemoryPointer(memory, 0), strides=strides)


def synchronize() -> None:
    """Wait for the work on the current stream: for clocks, which would read too early."""
    if not in_host_memory():
        library().cuda.get_current_stream().synchronize()


def redirect(other: Callable[..., None] | None) -> None:
    """Let launches go to another function, which may compile them only; None brings them back.

    Arrays of `xp` lie in host memory meanwhile.
    """
    global launcher
    launcher = other
