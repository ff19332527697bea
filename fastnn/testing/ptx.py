"""CUDA kernels compiled to PTX without a GPU: the check between the simulator, which knows no types, and a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastnn import _device


class Compiled:
    """What was compiled: the PTX of each kernel for each kind of arguments."""

    def __init__(self) -> None:
        self.kernels: dict[tuple[Any, ...], str] = {}

    def names(self) -> set[str]:
        """The kernels, as module.function."""
        return {key[0] for key in self.kernels}


@contextmanager
def compiling(capability: tuple[int, int]) -> Iterator[Compiled]:
    """Compile the kernels of the calls inside for a compute capability, instead of running them.

    Inside, `fastnn.to_device` gives arrays in host memory that count as a GPU's, results hold nothing of worth, and
    each launch compiles its kernel for the types of its arguments, once.

    Parameters
    ----------
    capability : (major, minor)
        Such as (8, 0) for an A100 or (9, 0) for an H100.

    Raises
    ------
    CudaUnavailableError
        If no CUDA compiler is installed.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn
    >>> from fastnn.testing import ptx
    >>> with ptx.compiling((9, 0)) as compiled:                     # doctest: +SKIP
    ...     y = fastnn.relu(fastnn.to_device(np.ones(3)))
    >>> compiled.names()                                            # doctest: +SKIP
    {'fastnn.kernels.activation.cuda.unary'}
    """
    if _device.SIMULATED or not hasattr(_device, "cuda"):
        raise _device.CudaUnavailableError(_device.compiler)
    types = _types(capability)
    compiled = Compiled()

    def launch(kernel: Any, blocks: Any, threads: Any, *args: Any) -> None:
        signature = tuple([_type(types, arg) for arg in args])
        function = kernel.py_func
        key = f"{function.__module__}.{function.__qualname__}", signature, kernel
        if key not in compiled.kernels:
            compiled.kernels[key] = _device.cuda.compile_ptx(
                function, signature, cc=capability, launch_bounds=kernel.targetoptions.get("launch_bounds"))[0]

    _device.redirect(launch)
    try:
        yield compiled
    finally:
        _device.redirect(None)


def _types(capability: tuple[int, int]) -> Any:
    """Return the compiler's types, once it no longer asks the driver which capability is wanted.

    What a kernel calls stays compiled for the first one: a process is for one capability.
    """
    if _device.compiler == "numba-cuda-mlir":
        from numba_cuda_mlir import tools, types

        tools._cached_cc = capability
    else:
        from numba.cuda import dispatcher, types

        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    return types


def _type(types: Any, arg: Any) -> Any:
    if isinstance(arg, np.ndarray):
        return types.Array(getattr(types, arg.dtype.name), arg.ndim, "C")
    if isinstance(arg, tuple):
        return types.UniTuple(_type(types, arg[0]), len(arg))
    if isinstance(arg, bool | np.bool_):
        return types.boolean
    return types.float64 if type(arg) is float else types.int64 if type(arg) is int else getattr(types, arg.dtype.name)
