"""Kernels of the CPU: block functions, compiled on first use, whose blocks run in parallel.

A kernel is written as a serial *block function* `(block, *arrays)` that owns its part of the output:

    @block_kernel(writes="y")
    def scale_block(block, x, factor, y):
        for i in range(x.shape[1]):
            y[block, i] = factor * x[block, i]

    scale_block(len(x), x, 2.0, y, work=x.size)

The call runs `scale_block(0, ...)` to `scale_block(len(x) - 1, ...)`, in parallel where the work is worth it. A plan
keeps `scale_block.launch(len(x), work=x.size)`, which takes the arrays alone.

How blocks are cut never depends on the number of threads, so neither do the bits of the result.

A function `(block, worker, *arrays)`, called with `workers=`, learns which of so many workers it runs on, from 0: no
two blocks run on one worker at once, so the worker's part of a scratch is the block's own while it runs. Code that
makes such a scratch reads the number of threads once, since another thread may change it.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn.kernels._cpu import cache
from fastnn.kernels._cpu.compiler import SUMS, Code, call, config, renamed
from fastnn.kernels._cpu.threads import finish_stores, get_num_threads, run_parallel, state, watch_forks
from fastnn.kernels._cpu.tuning import PARALLEL_WORK

logger = logging.getLogger("fastnn")
_ndarray = np.ndarray                       # found faster so
Launch: TypeAlias = Callable[..., None]
# What sees each launch of a context: its kernel, blocks, threads and arguments; where it returns True, nothing runs.
Watcher: TypeAlias = Callable[["BlockKernel", int, int, tuple[Any, ...]], bool | None]
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
watchers: list[Watcher] = []                # of all contexts: whether there are any is found faster


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Have launches seen, those of threads too that know this one's context."""
    watchers.append(watcher)
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
        watchers.remove(watcher)


class BlockKernel:
    """A block function, compiled on first use for the types it is called with; see the module's text."""

    def __init__(self, function: Callable[..., None], writes: str, fastmath: bool, typed_by: str | None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.parameters = list(inspect.signature(function).parameters)[1:]
        self.takes_worker = self.parameters[:1] == ["worker"]
        if self.takes_worker:
            del self.parameters[0]
        self.writes = set(writes.split())
        self.typed_by = None if typed_by is None else self.parameters.index(typed_by)
        self.options: dict[str, Any] = {
            "nogil": True, "error_model": "numpy", "fastmath": SUMS if fastmath else False,
        }
        self.compiled: dict[Any, _Compiled] = {}
        unknown = self.writes - set(self.parameters)
        if unknown:
            raise ValueError(f"{self.name}: writes names {sorted(unknown)}, its parameters are {self.parameters}")
        kernels[self.name] = self

    def launch(self, blocks: int, *, work: int, workers: int | None = None) -> Launch:
        """Return a function (*args) that launches so many blocks, for arguments of one tuple of types."""
        run: Any = None                     # the machine code, since the first call
        call_block = 0

        def launch(*args: Any) -> None:
            nonlocal run, call_block
            if run is None or watchers:
                compiled = self(blocks, *args, work=work, workers=workers)
                if compiled is not None:
                    call_block, run = compiled.call_block, compiled.run         # in this order: another thread may call
            elif work < PARALLEL_WORK or (threads := threads_for(blocks, work, workers)) == 1:
                run(0, blocks, 0, 0, call_block, args)
            else:
                run_parallel(run, call_block, threads, blocks, args)

        return launch

    def __call__(self, blocks: int, *args: Any, work: int, workers: int | None = None) -> _Compiled | None:
        """Run the blocks; return the machine code, if it was that which ran."""
        if watchers and (watcher := _watcher.get()) and watcher(self, blocks, threads_for(blocks, work, workers), args):
            return None
        # A parameter has one number of dimensions in all calls, which is not worth the time of looking.
        if config.DISABLE_JIT:
            with np.errstate(all="ignore"):             # as compiled code: NaN and inf travel without a warning
                self.run(self.function, blocks, args)
            return None
        compiled = self.compiled_for(args)
        if config.BOUNDSCHECK:              # one by one, so that an error says what it found
            assert compiled.types == self.types_of(args), f"{self.name}: other types than before"
            # Numba looks at them here: a constant that stands for what else is written would have a type of its own.
            self.run(compiled.block_function, blocks, tuple([
                arg.copy() if name in self.writes and isinstance(arg, np.ndarray) and not arg.flags.writeable else arg
                for name, arg in zip(self.parameters, args)]))
            return None
        threads = threads_for(blocks, work, workers)
        if threads == 1:
            compiled.run(0, blocks, 0, 0, compiled.call_block, args)
        else:
            run_parallel(compiled.run, compiled.call_block, threads, blocks, args)
        return compiled

    def compiled_for(self, args: tuple) -> _Compiled:
        """Return the machine code for arguments of these types."""
        key = (tuple([a.dtype if type(a) is _ndarray else type(a) for a in args]) if self.typed_by is None else
               args[self.typed_by].dtype)
        compiled = self.compiled.get(key)
        if compiled is None:
            watch_forks()
            with state.lock:
                compiled = self.compiled[key] = self.compiled.get(key) or _Compiled(self, self.types_of(args))
        return compiled

    def types_of(self, args: tuple) -> tuple[types.Type, ...]:
        return tuple(self.type_of(name, arg) for name, arg in zip(self.parameters, args))

    def run(self, function: Callable[..., None], blocks: int, args: tuple) -> None:
        """Run a Python function, or one of Numba's, over all blocks."""
        worker = (0,) if self.takes_worker else ()
        for block in range(blocks):
            function(block, *worker, *args)

    def type_of(self, name: str, arg: Any) -> types.Type:
        """Inputs are typed read-only, which accepts writable arrays too: one signature a dtype."""
        if isinstance(arg, np.ndarray):
            return types.Array(numba.from_dtype(arg.dtype), arg.ndim, "C", readonly=name not in self.writes)
        kind = numba.typeof(arg)
        if _holds_arrays(kind):             # blocks would give up references to it that they were not given
            raise TypeError(f"{self.name}: {name}: expected arrays as arguments of their own, got one in a tuple")
        return kind


def _holds_arrays(kind: types.Type) -> bool:
    parts = getattr(kind, "types", ()) if isinstance(kind, types.BaseTuple) else ()
    return any(isinstance(part, types.Array) or _holds_arrays(part) for part in parts)


def threads_for(blocks: int, work: int, workers: int | None = None) -> int:
    """Return on how many threads so many blocks of so much work run."""
    if work < PARALLEL_WORK or blocks < 2 or config.DISABLE_JIT or config.BOUNDSCHECK:
        return 1
    return min(blocks, workers or get_num_threads())


def _run(begin: int, end: int, worker: int, loop: int, call_block: int, arguments: tuple) -> None:
    """Call a kernel's `call_block` for each block, in a loop here or in the parallel one, where that is given.

    It is compiled once for all kernels that take arguments of the same types, and the parallel loop, for which `begin`
    is a number of threads, once for all. So a block is the same code on any number of threads.
    """
    failed: Any = _address_of(0)  # type: ignore[call-arg] # Numba gives the context
    place: Any = _address_of((failed, arguments))
    if loop == 0:
        for block in range(begin, end):
            call(call_block, (block, worker, place))
        finish_stores()
    else:
        call(loop, (begin, end, call_block, place))
    if _is_set(failed):
        raise MemoryError("no memory left for the scratch of a kernel")


def _call_block(block_function: Callable[..., None], load: Any, takes_worker: bool) -> Callable[[int, int, int], None]:
    """Make the function that runs one block, and finds its arguments at an address."""
    def call_block(block: int, worker: int, place: int) -> None:
        failed, arguments = load(place)
        all_arguments = (block, worker) + arguments if takes_worker else (block,) + arguments  # noqa: RUF005 (Numba)
        try:
            block_function(*all_arguments)
        except Exception:                   # it cannot leave a thread; a block raises for want of memory alone
            _set(failed)  # type: ignore[call-arg]

    return call_block


class _Compiled:
    """A kernel's machine code for arguments of one tuple of types."""

    said_slow = False                       # in this process

    def __init__(self, kernel: BlockKernel, kinds: tuple[types.Type, ...]) -> None:
        self.kernel, self.types = kernel, kinds
        arguments, word = types.BaseTuple.from_types(kinds), types.intp
        wrappers = {"no_cpython_wrapper": not config.BOUNDSCHECK, "no_cfunc_wrapper": True}
        self.block_function = numba.njit(**{**kernel.options, **wrappers})(kernel.function)
        call_block = _call_block(self.block_function, _loader(types.Tuple((word, arguments))), kernel.takes_worker)
        module = kernel.function.__module__
        self.codes = [
            Code(_run, f"{__name__}.run", (*(word,) * 5, arguments), from_python=True, nogil=True),
            Code(renamed(call_block, module, f"{kernel.name}.call_block"), f"{kernel.name}.call_block", (word,) * 3,
                 kinds, from_python=False, body=kernel.function.__qualname__, **kernel.options)]

    @functools.cached_property
    def run(self) -> Callable[..., None]:
        """What runs blocks, given the other's address."""
        function: Callable[..., None] = self._made(self.codes[0])
        return function

    @functools.cached_property
    def call_block(self) -> int:
        """The address of the function that runs one block."""
        address: int = self._made(self.codes[1])
        return address

    def _made(self, code: Code) -> Any:
        result = code.make()
        if result.seconds > 1 and not result.from_disk and not _Compiled.said_slow:
            _Compiled.said_slow = True
            why_not = cache.why_not()
            logger.warning("compiling kernels on their first use (%s took %.1f s); %s", self.kernel.name,
                           result.seconds, f"they cannot be kept: {why_not}, set FASTNN_CACHE_DIR" if why_not else
                           f"they are kept in {cache.folder()}")
        return result.function


@intrinsic
def _address_of(typingctx: Any, arguments: Any) -> Any:
    """Put a tuple on the stack of the caller, which stays until that returns."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        slot = cgutils.alloca_once_value(builder, args[0])
        return builder.ptrtoint(slot, context.get_value_type(types.intp))

    return types.intp(arguments), codegen


@intrinsic
def _set(typingctx: Any, flag: Any) -> Any:
    """Write 1 to the integer at an address."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        number = context.get_value_type(types.intp)
        builder.store(number(1), builder.inttoptr(args[0], number.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def _is_set(typingctx: Any, flag: Any) -> Any:
    """Read whether the integer at an address is not 0."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        number = context.get_value_type(types.intp)
        return builder.icmp_signed("!=", builder.load(builder.inttoptr(args[0], number.as_pointer())), number(0))

    return types.boolean(types.intp), codegen


def _loader(kind: Any) -> Any:
    """Make the function that reads an integer and a tuple of arguments from an address."""
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], context.get_value_type(kind).as_pointer())
            value = builder.load(pointer)
            for index, item_type in enumerate(kind[1]):
                if isinstance(item_type, types.Array):
                    # Borrowed: the caller keeps the memory alive, and no thread counts references to it.
                    array = context.make_array(item_type)(context, builder, builder.extract_value(value, [1, index]))
                    array.meminfo = cgutils.get_null_value(array.meminfo.type)
                    value = builder.insert_value(value, array._getvalue(), [1, index])
            return value

        return kind(types.intp), codegen

    return load


kernels: dict[str, BlockKernel] = {}


def block_kernel(*, writes: str, sums: bool = False, typed_by: str | None = None,
                 ) -> Callable[[Callable[..., None]], BlockKernel]:
    """Make a kernel of a block function.

    Parameters
    ----------
    writes : str
        The parameters that the function writes, separated by blanks; all other arrays are read-only.
    sums : bool
        Whether it forms sums of products whose order is free, which allows the compiler to vectorize them.
    typed_by : str, optional
        The array whose dtype all types of arguments follow from. To look at the others costs half as much as a launch.
    """
    return lambda function: BlockKernel(function, writes, sums, typed_by)
