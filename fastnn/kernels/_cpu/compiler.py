"""Numba's options, and compiled code: what is compiled for which types, kept on the disk, and found by its address."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
from llvmlite import ir
from numba import _dynfunc, types
from numba.core import cgutils, registry
from numba.core.lowering import Environment
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _launch_threads

from fastnn.kernels._cpu.cache import Entry

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


class Compiled(NamedTuple):
    """A compiled function, by how it is called."""

    entry_point: Callable[..., Any]
    """From Python, with arguments of the types it was compiled for: nothing looks at them."""

    address: int
    """From compiled code, if it takes and returns plain integers."""

    from_disk: bool


_libraries: list[Any] = []                  # an address keeps nothing alive


def compiled(function: Callable, name: str, signature: tuple, key: Any = (), **options: Any) -> Compiled:
    """Compile a function for one signature, or load it from the disk; the key holds what its types do not show.

    Numba's own cache misses changes of helpers in other files and of settings, keeps pickles, which can run anything,
    and lets processes that compile different signatures at once overwrite each other's files.
    """
    codegen = registry.cpu_target.target_context.codegen()
    entry = Entry(name, function.__module__, [repr((key, signature, options)), *map(str, codegen.magic_tuple())])
    if found := entry.read():
        return _loaded(function, codegen, *found)
    dispatcher = numba.njit(**options)(function)
    dispatcher.compile(signature)
    (result,) = dispatcher.overloads.values()
    library, names = result.library, result.fndesc
    if not result.environment.consts:       # Python objects that it needs, which no kernel does
        parallel = bool(result.reload_init)
        entry.write({"python": names.llvm_cpython_wrapper_name, "plain": names.llvm_cfunc_wrapper_name,
                     "environment": names.env_name, "parallel": parallel}, library._get_compiled_object())
    _libraries.append(library)
    return Compiled(result.entry_point, library.get_pointer_to_function(names.llvm_cfunc_wrapper_name), False)


def _loaded(function: Callable, codegen: Any, symbols: dict[str, Any], code: bytes) -> Compiled:
    registry.cpu_target.target_context.refresh()
    if symbols["parallel"]:
        _launch_threads()
    library = codegen.create_library(function.__qualname__)
    library.enable_object_caching()
    library._set_compiled_object(code)
    library._finalize_final_module()
    _libraries.append(library)
    # At once: code that another process compiled may have the same name, and the last one loaded is found by it.
    address_of = codegen._engine.get_function_address
    environment = Environment(function.__globals__)
    codegen.set_env(symbols["environment"], environment)
    entry_point = _dynfunc.make_function(sys.modules[function.__module__], function.__name__, "",
                                         address_of(symbols["python"]), environment, (library,))
    return Compiled(entry_point, address_of(symbols["plain"]), True)


@intrinsic
def call(typingctx: Any, function: Any, integers: Any) -> Any:
    """Call the function at an address with a tuple of integers."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word = context.get_value_type(types.intp)
        function = ir.FunctionType(ir.VoidType(), [word] * len(integers)).as_pointer()
        builder.call(builder.inttoptr(args[0], function), cgutils.unpack_tuple(builder, args[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, len(integers))), codegen
