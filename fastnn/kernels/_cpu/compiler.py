"""Numba's options, and compiled code: what is compiled for which types, kept on the disk, and found by its address."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numba
from llvmlite import binding, ir
from llvmlite.binding import Linkage
from numba import _dynfunc, types  # type: ignore[attr-defined] # compiled code
from numba.core import cgutils, registry
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.lowering import Environment
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _launch_threads

from fastnn.kernels._cpu.cache import Entry

config: Any = numba.config                  # its settings are made when it is imported, unseen by type checkers

# Never nnan or ninf: NaN and inf must travel. For sums of products alone, where the order is free.
SUMS: set[str] = {"nsz", "arcp", "contract", "afn", "reassoc"}

_helper: Any = functools.partial(numba.njit, nogil=True, error_model="numpy", no_cpython_wrapper=True,
                                 no_cfunc_wrapper=True)

helper = _helper()
helper.__doc__ = "Compile a function that block functions call; compiled, Python cannot call it."
sums_helper = _helper(fastmath=SUMS)

# For functions of numbers: a loop vectorizes only if what it calls is inlined, and LLVM spares what it finds long.
inlined_helper = _helper(forceinline=True)
inlined_sums_helper = _helper(fastmath=SUMS, forceinline=True)


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
    """A compiled function, whether it came from the disk, and the seconds that it took."""

    function: Any
    """What Python calls, with arguments of the types it was compiled for, at which nothing looks; or an address."""

    from_disk: bool
    seconds: float
    name: str


made: dict[str, Compiled] = {}              # what this process has compiled or loaded, by the names of files
_libraries: list[Any] = []                  # an address keeps nothing alive


class Code:
    """A function to be compiled for one signature, or loaded from the disk; for Python, or to be called by its address.

    Numba's own cache misses changes of helpers in other files and of settings, keeps pickles, which can run anything,
    and lets processes that compile different signatures at once overwrite each other's files.

    Parameters
    ----------
    function : callable
        One that is called by its address takes and returns plain integers.
    name : str
        By which it is kept, beside what follows.
    signature : tuple
        The types of its arguments.
    key : optional
        What the signature does not show.
    from_python : bool
        Whether Python calls it.
    body : str, optional
        The name of the function of which this is a shell.
    **options
        Numba's.
    """

    def __init__(self, function: Callable, name: str, signature: tuple, key: Any = (), *, from_python: bool,
                 body: str = "", **options: Any) -> None:
        self.function, self.signature, self.from_python, self.options = function, signature, from_python, options
        self.once = function.__qualname__, body
        context = registry.cpu_target.target_context
        context.refresh()                   # makes Numba's runtime, which is nobody's part
        self.codegen = context.codegen()
        self.entry = Entry(name, function.__module__, [repr((key, signature)), *map(str, self.codegen.magic_tuple())])
        self.name = name

    def is_there(self) -> bool:
        """Whether it need not be compiled."""
        return self.entry.file in made or self.entry.is_there()

    def make(self) -> Compiled:
        """Compile it, or load it."""
        if self.entry.file not in made:
            begin = time.perf_counter()
            found = self.entry.read()
            about, library = self._loaded(*found) if found else self._compiled()
            _libraries.append(library)
            # At once: code that another process compiled may have the same name, and the last one loaded is found by it
            function = address = self.codegen._engine.get_function_address(about["symbol"])
            if self.from_python:
                environment = Environment(self.function.__globals__)
                self.codegen.set_env(about["environment"], environment)
                function = _dynfunc.make_function(sys.modules[self.function.__module__], self.function.__name__, "",
                                                  address, environment, (library,))
            made[self.entry.file] = Compiled(function, bool(found), time.perf_counter() - begin, self.name)
        return made[self.entry.file]

    def _loaded(self, about: dict[str, Any], code: bytes) -> tuple[dict[str, Any], Any]:
        if about["parallel"]:
            _launch_threads()               # gives the functions that divide the work
        library = self.codegen.create_library(self.name)
        library.enable_object_caching()
        library._set_compiled_object(code)
        library._finalize_final_module()
        return about, library

    @global_compiler_lock
    def _compiled(self) -> tuple[dict[str, Any], Any]:
        parallel = bool(self.options.get("parallel"))
        wrappers = {"no_cpython_wrapper": not self.from_python, "no_cfunc_wrapper": self.from_python}
        dispatcher = numba.njit(**{**self.options, **wrappers})(self.function)
        # Numba calls parts of parallel code by their addresses.
        with nullcontext() if parallel else _in_parts(self.codegen, self.once):
            dispatcher.compile(self.signature)
        (result,) = dispatcher.overloads.values()
        names = result.fndesc
        symbol = names.llvm_cpython_wrapper_name if self.from_python else names.llvm_cfunc_wrapper_name
        library = result.library if parallel else _whole(self.codegen, result.library, symbol)
        about = {"symbol": symbol, "environment": names.env_name, "parallel": parallel}
        self.entry.write(about, library._get_compiled_object())
        return about, library


class _Part(JITCodeLibrary):
    """Code that is part of other code: it is optimised, and made machine code, where that is.

    Numba does both with each function for itself too, and with each of its own functions that are used.
    """

    once: tuple[str, ...] = ()
    """Names of functions that are not optimised but there."""

    def add_llvm_module(self, module: Any) -> None:
        # Cheap passes, without which some functions are a third slower when they are inlined. The function around them
        # must not have them before: some are a quarter slower then, as loops change before it is known what is in them.
        if self.name not in self.once:
            self._optimize_functions(module)
        self._final_module.link_in(module)

    def finalize(self) -> None:
        self._finalize_dynamic_globals()
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.external:
                function.linkage = Linkage.weak_odr         # it may be part of several parts, and none is left out
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0                            # there is no machine code, and nobody to call it

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Part of Numba's code generator: there is no machine code that it could be set in."""

    def _get_module_for_linking(self) -> Any:
        """For code of others that use a function of Numba's which was compiled as a part."""
        return _linked_module(self)


@contextmanager
def _in_parts(codegen: Any, once: tuple[str, ...]) -> Iterator[None]:
    """Compile functions as parts; within the compiler's lock, so that nobody else does."""
    usual, codegen._library_class, _Part.once = codegen._library_class, _Part, once
    try:
        yield
    finally:
        codegen._library_class = usual


def _whole(codegen: Any, part: _Part, symbol: str) -> Any:
    """Return a library with machine code of a function and of all that it calls."""
    library = codegen.create_library(part.name)
    library.enable_object_caching()
    library._final_module = _linked_module(part)
    for function in library._final_module.functions:
        if function.is_declaration:
            assert not function.name.startswith("_ZN"), f"{function.name} is called, but not part of {part.name}"
        else:
            function.linkage = Linkage.external if function.name == symbol else Linkage.internal
    library._optimize_final_module()
    library._final_module.verify()
    library._finalize_final_module()
    return library


def _linked_module(part: _Part) -> Any:
    """Return a module of a function and of what it calls, near and far.

    What is in it but not called would have been called by others that are not either: such callers keep functions from
    being inlined. So all is linked first, and then taken is what is called.
    """
    waiting, seen = [part], {part}
    others = []
    all_called = binding.parse_assembly("")
    while waiting:
        library = waiting.pop()
        if library is not part:
            all_called.link_in(library._final_module, preserve=True)
        new = [called for called in library._linking_libraries if called not in seen]
        seen.update(new)
        waiting += [called for called in new if isinstance(called, _Part)]
        others += [called for called in new if not isinstance(called, _Part)]
    for library in others:
        all_called.link_in(library._get_module_for_linking(), preserve=True)
    for function in all_called.functions:
        if not function.is_declaration and function.linkage == Linkage.weak_odr:
            function.linkage = Linkage.linkonce_odr         # taken where it is called
    module = part._final_module.clone()
    module.link_in(all_called)
    return module


@intrinsic
def call(typingctx: Any, function: Any, integers: Any) -> Any:
    """Call the function at an address with a tuple of integers."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word = context.get_value_type(types.intp)
        function = ir.FunctionType(ir.VoidType(), [word] * len(integers)).as_pointer()
        builder.call(builder.inttoptr(args[0], function), cgutils.unpack_tuple(builder, args[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, len(integers))), codegen
