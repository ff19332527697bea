"""Numba's options, and compiled code: what is compiled for which types, kept on the disk, and found by its address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn.kernels._cpu.cache import DiskCache

config: Any = numba.config                  # its settings are made when it is imported, unseen by type checkers

# Never nnan or ninf: NaN and inf must travel. For sums of products alone, where the order is free.
SUMS: set[str] = {"nsz", "arcp", "contract", "afn", "reassoc"}

helper = numba.njit(nogil=True, error_model="numpy")
helper.__doc__ = "Compile a function that block functions call."
sums_helper = numba.njit(nogil=True, error_model="numpy", fastmath=SUMS)

# For functions of numbers: a loop vectorizes only if what it calls is inlined, and LLVM spares what it finds long.
inlined_helper = numba.njit(nogil=True, error_model="numpy", forceinline=True)
inlined_sums_helper = numba.njit(nogil=True, error_model="numpy", fastmath=SUMS, forceinline=True)


def named(name: str, *parameters: object) -> Callable[[Callable], Callable]:
    """Give a function that is made for some parameters a name of its own: compiled code is kept by name."""
    def rename(function: Callable) -> Callable:
        function.__qualname__ = "_".join(map(str, (name, *parameters)))
        return function

    return rename


def named_after(function: Callable) -> Callable[[Callable], Callable]:
    """Give functions within others names of their own: compiled code of one name is taken for the same code."""
    return lambda inner: renamed(inner, function.__module__, f"{function.__qualname__}.{inner.__name__}")


def renamed(function: Callable, module: str, name: str) -> Callable:
    function.__module__, function.__qualname__ = module, name
    return function


_libraries: list[Any] = []


def compiled(function: Callable, name: str, signature: tuple, key: tuple, **options: Any) -> tuple[Any, bool]:
    """Compile a function for one signature, or load it from the disk; whether that was so comes second."""
    dispatcher = numba.njit(**options)(function)
    dispatcher._cache = DiskCache(name, key)
    dispatcher.compile(signature)
    (result,) = dispatcher.overloads.values()
    return result, bool(dispatcher.stats.cache_hits)


def address_of_code(result: Any) -> int:
    """The address of a compiled function that takes and returns plain integers."""
    _libraries.append(result.library)       # an address keeps nothing alive
    return result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)


@intrinsic
def call(typingctx: Any, function: Any, integers: Any) -> Any:
    """Call the function at an address with a tuple of integers."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word = context.get_value_type(types.intp)
        function = ir.FunctionType(ir.VoidType(), [word] * len(integers)).as_pointer()
        builder.call(builder.inttoptr(args[0], function), cgutils.unpack_tuple(builder, args[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, len(integers))), codegen
