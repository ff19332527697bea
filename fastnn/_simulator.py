"""Numba's simulator, and arrays that keep CuPy's rules in host memory: what `cuda` and `xp` are without a GPU.

The arrays refuse to meet NumPy arrays, reductions stay arrays, and each copy to the host is counted, so that a test
finds what would fail or wait on a GPU. What CuPy has and this module has not is NumPy's.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numba import cuda as _numba_cuda
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from numba.cuda.simulator.kernel import _get_kernel_context

copies_to_host = 0
_one_at_a_time = threading.Lock()               # the simulator runs one kernel


class _Module:
    """numba.cuda for modules of kernels: inside a kernel, what it is there.

    The simulator changes a function's module while a thread is inside, and puts it back under the feet of the others
    where a kernel calls functions of another module.
    """

    def jit(self, function: Any = None, device: bool = False, launch_bounds: Any = None) -> Any:
        """Without what is for compilers alone."""
        return _numba_cuda.jit(function, device=device)

    def __getattr__(self, name: str) -> Any:
        context = _get_kernel_context()
        if context is None:
            return getattr(_numba_cuda, name)
        found = getattr(context, name)
        return _Shared(found) if name in ("shared", "local") else found


class _Shared:
    """Arrays of a block or thread, which know no alignment here."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Any:
        made = getattr(self.arrays, "_allocations", None)
        if made is None:
            return self.arrays.array(shape, dtype)
        caller = sys._getframe(1)               # shared arrays are known by the line that asks, which is not this one
        return made.setdefault((caller.f_code.co_filename, caller.f_lineno), np.empty(shape, dtype))


cuda = _Module()


def launch(kernel: Any, blocks: Any, threads: Any, *args: Any) -> None:
    """Run a kernel."""
    with _one_at_a_time:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-3)             # threads that wait for each other busily get in each other's way less
        try:
            kernel[blocks, threads](*[release(arg) if isinstance(arg, ndarray) else arg for arg in args])
        finally:
            sys.setswitchinterval(interval)


class ndarray(np.ndarray):
    """A NumPy array that counts as lying on the device."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        for value in (*inputs, *(out or ())):
            if isinstance(value, np.ndarray) and not isinstance(value, ndarray) and value.ndim:
                raise TypeError("a device array met a NumPy array; CuPy takes none")
        if out is not None:
            kwargs["out"] = tuple(map(_host, out))
        with np.errstate(all="ignore"):         # as on a GPU
            results = getattr(ufunc, method)(*map(_host, inputs), **kwargs)
        if out is not None:
            return out[0]
        return tuple(map(_device, results)) if isinstance(results, tuple) else _device(results)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        results = super().__array_function__(func, types, args, kwargs)
        return type(results)(map(_device, results)) if type(results) in (tuple, list) else _device(results)

    def get(self) -> np.ndarray:
        """Copy to the host."""
        _count()
        return np.array(_host(self))

    def item(self, *args: Any) -> Any:
        _count()
        return _host(self).item(*args)

    def tolist(self) -> Any:
        _count()
        return _host(self).tolist()

    def __bool__(self) -> bool:
        _count()
        return bool(_host(self))

    def __int__(self) -> int:
        _count()
        return int(_host(self))

    def __float__(self) -> float:
        _count()
        return float(_host(self))

    def __index__(self) -> int:
        _count()
        return _host(self).__index__()

    def argmax(self, *args: Any, **kwargs: Any) -> Any:
        return _device(_host(self).argmax(*args, **kwargs))


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    return np.empty(shape, dtype).view(ndarray)


def zeros(shape: Any, dtype: Any = np.float64) -> ndarray:
    return np.zeros(shape, dtype).view(ndarray)


def zeros_like(array: ndarray) -> ndarray:
    return np.zeros(array.shape, array.dtype).view(ndarray)


def full(shape: Any, value: Any, dtype: Any = None) -> ndarray:
    return np.full(shape, _host(value), dtype).view(ndarray)


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """Copy a host array to the device."""
    return value if isinstance(value, ndarray) else np.array(value, dtype).view(ndarray)


def ascontiguousarray(array: ndarray) -> ndarray:
    return np.ascontiguousarray(array).view(ndarray)


def asnumpy(array: ndarray) -> np.ndarray:
    return array.get()


def adopt(value: Any) -> ndarray:
    """View one of the simulator's own arrays."""
    return value._ary.view(ndarray)


def release(array: ndarray) -> Any:
    """View an array as one of the simulator's own."""
    return FakeCUDAArray(_host(array))


def _host(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, ndarray) else value


def _device(value: Any) -> Any:
    return np.asarray(value).view(ndarray) if isinstance(value, np.ndarray | np.generic) else value


def _count() -> None:
    global copies_to_host
    copies_to_host += 1


def __getattr__(name: str) -> Any:
    return getattr(np, name)
