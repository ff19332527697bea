"""The one place for Numba: its options, the compile cache on disk, and threads.

A CPU kernel is written as a serial *block function* `(block, *arrays)` that owns its part of the output:

    @block_kernel(writes="y")
    def scale_block(block, x, factor, y):
        for i in range(x.shape[1]):
            y[block, i] = factor * x[block, i]

    scale_block(len(x), x, 2.0, y, work=x.size)

The call runs `scale_block(0, ...)` to `scale_block(len(x) - 1, ...)`, in parallel where the work is worth it.
How blocks are cut never depends on the number of threads, so neither do the bits of the result.

A function `(block, worker, *arrays)`, called with `workers=`, learns which of so many workers it runs on, from 0: no
two blocks run on one worker at once, so the worker's part of a scratch is the block's own while it runs. Who makes that
scratch asks for the number of threads once, as another thread may change it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import logging
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import caching, cgutils
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.extending import intrinsic

from fastnn.kernels import _pool

logger = logging.getLogger("fastnn")
config: Any = numba.config                  # its settings are made when it is imported, unseen by type checkers
_ndarray = np.ndarray                       # found faster so

# Never nnan or ninf: NaN and inf must travel. For sums of products alone, where the order is free.
SUMS: set[str] = {"nsz", "arcp", "contract", "afn", "reassoc"}

_intp: Any = types.intp

_LINE = 16                                  # counters are as far apart as processors fetch memory: they are not shared
_TURNS = 64                                 # in which a thread takes its blocks: a few of many at a time

# Elementary operations below which handing blocks to threads costs more than it saves.
PARALLEL_WORK = 40_000

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


class BlockKernel:
    """A block function, compiled on first use for the types it is called with; see the module's text."""

    def __init__(self, function: Callable[..., None], writes: str, fastmath: bool, typed_by: str | None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.parameters = list(inspect.signature(function).parameters)[1:]
        self.place = "block"                # what the function wants to know beside its arguments
        if self.parameters[:1] == ["worker"]:
            self.place = "block, worker"
            del self.parameters[0]
        self.writes = set(writes.split())
        self.typed_by = None if typed_by is None else self.parameters.index(typed_by)
        self.options: dict[str, Any] = {
            "nogil": True, "error_model": "numpy", "fastmath": SUMS if fastmath else False,
        }
        self.compiled: dict[Any, _Compiled] = {}
        self.seconds = 0.0
        unknown = self.writes - set(self.parameters)
        if unknown:
            raise ValueError(f"{self.name}: writes names {sorted(unknown)}, its parameters are {self.parameters}")
        kernels[self.name] = self

    def __call__(self, blocks: int, *args: Any, work: int, workers: int | None = None) -> None:
        # A parameter has one number of dimensions in all calls, which is not worth the time of looking.
        key = (tuple([a.dtype if type(a) is _ndarray else type(a) for a in args]) if self.typed_by is None else
               args[self.typed_by].dtype)
        compiled = self.compiled.get(key)
        if compiled is None:
            if config.DISABLE_JIT:
                with np.errstate(all="ignore"):         # as compiled code: NaN and inf travel without a warning
                    self.run(self.function, blocks, args)
                return
            _watch_forks()
            with _state.lock:
                compiled = self.compiled[key] = self.compiled.get(key) or _Compiled(self, args)
        if config.BOUNDSCHECK:              # one by one, so that an error says what it found
            assert compiled.types == compiled.types_of(args), f"{self.name}: other types than before"
            self.run(compiled.block_function, blocks, args)
            return
        threads = workers or get_num_threads()
        if work < PARALLEL_WORK or blocks < 2 or threads == 1:
            compiled.run(0, blocks, 0, 0, compiled.call_block, *args)
        else:
            _launch(compiled, min(threads, blocks), blocks, args)

    def run(self, function: Callable[..., None], blocks: int, args: tuple) -> None:
        """Run a Python function, or one of Numba's, over all blocks."""
        worker = (0,) if "worker" in self.place else ()
        for block in range(blocks):
            function(block, *worker, *args)

    def type_of(self, name: str, arg: Any) -> types.Type:
        """Inputs are typed read-only, which accepts writable arrays too: one signature a dtype."""
        if isinstance(arg, np.ndarray):
            return types.Array(numba.from_dtype(arg.dtype), arg.ndim, "C", readonly=name not in self.writes)
        return numba.typeof(arg)


class _Compiled:
    """A kernel's machine code for arguments of one tuple of types.

    `run` puts its arguments where `call_block` finds them, and calls that by its address: in a loop of its own, or in
    the parallel one, which is compiled once for all kernels, and takes a number of threads for `begin`. So a block is
    the same code on any number of threads.
    """

    def __init__(self, kernel: BlockKernel, args: tuple) -> None:
        self.kernel = kernel
        self.types = self.types_of(args)
        self.block_function = numba.njit(**kernel.options)(kernel.function)
        names = ", ".join(kernel.parameters)
        self.run = self.compile(
            f"def run(begin, end, worker, loop, call_block, {names}):\n"
            f"    _failed = zeros(1, intp)\n"
            f"    arguments = address_of((_failed, {names}))\n"
            f"    if loop == 0:\n"
            f"        for block in range(begin, end):\n"
            f"            call(call_block, (block, worker, arguments))\n"
            f"        finish_stores()\n"
            f"    else:\n"
            f"        call(loop, (begin, end, call_block, arguments))\n"
            f"    if _failed[0]:\n"
            f"        raise MemoryError('no memory left for the scratch of {kernel.name}')\n",
            (types.intp,) * 5 + self.types).entry_point     # without Numba's search for a signature

    def types_of(self, args: tuple) -> tuple[types.Type, ...]:
        return tuple(self.kernel.type_of(name, arg) for name, arg in zip(self.kernel.parameters, args))

    @functools.cached_property
    def call_block(self) -> int:
        """The address of the function that runs one block."""
        names = ", ".join(self.kernel.parameters)
        return _c_address(self.compile(
            f"def call_block(block, worker, arguments):\n"
            f"    _failed, {names} = load(arguments)\n"
            f"    try:\n"
            f"        block_function({self.kernel.place}, {names})\n"
            f"    except Exception:\n"          # it cannot leave a thread; a block raises for want of memory alone
            f"        _failed[0] = 1\n", (types.intp,) * 3))

    def compile(self, source: str, signature: tuple) -> Any:
        begin = time.perf_counter()
        scope = {"__name__": self.kernel.function.__module__, "block_function": self.block_function, "call": _call,
                 "finish_stores": _finish_stores, "address_of": _address_of, "zeros": np.zeros, "intp": np.intp,
                 "load": _loader(types.Tuple((types.Array(types.intp, 1, "C"), *self.types)))}
        exec(source, scope)
        name = source.split("(")[0].split()[1]
        compiled, self.from_disk = _compile(scope[name], f"{self.kernel.name}.{name}", signature, self.types,
                                            **self.kernel.options)
        seconds = time.perf_counter() - begin
        self.kernel.seconds += seconds
        if seconds > 1 and not _state.said_slow:
            _state.said_slow = True
            where = _DiskCache.folder()
            kept = where and os.access(where, os.W_OK)
            logger.warning("compiling kernels on their first use (%s took %.1f s); %s", self.kernel.name, seconds,
                           f"they are kept in {where}" if kept else "they cannot be kept: no writable cache folder, "
                           "set FASTNN_CACHE_DIR")
        return compiled


_libraries: list[Any] = []


def _compile(function: Callable, name: str, signature: tuple, key: tuple,
             **options: Any) -> tuple[Any, bool]:
    """Compile a function for one signature, or load it from the disk; whether that was so comes second."""
    dispatcher = numba.njit(**options)(function)
    dispatcher._cache = _DiskCache(name, key)
    dispatcher.compile(signature)
    (result,) = dispatcher.overloads.values()
    return result, bool(dispatcher.stats.cache_hits)


def _c_address(result: Any) -> int:
    """The address of a compiled function that takes and returns plain integers."""
    _libraries.append(result.library)       # an address keeps nothing alive
    return result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)


def _loop(threads: int, blocks: int, call_block: int, arguments: int) -> None:
    """Run all blocks on Numba's threads: each takes those of a part of its own, then what is left of the others'.

    A thread that slept takes up to half a millisecond to wake, and the others shall not wait for its share.
    """
    taken = np.empty(_LINE * threads, np.intp)          # zeros would be a launch of its own
    some = 1 + blocks // (_TURNS * threads)
    for part in range(threads):
        taken[_LINE * part] = 0
    for thread in numba.prange(threads):
        for turn in range(threads):
            # prange counts in unsigned integers
            part = (_intp(thread) + turn) % threads
            begin, end = blocks * part // threads, blocks * (part + 1) // threads
            first = begin + _take(taken, _LINE * part, some)  # type: ignore[call-arg]
            while first < end:
                for block in range(first, min(end, first + some)):
                    _call(call_block, (block, _intp(thread), arguments))
                first = begin + _take(taken, _LINE * part, some)
        _finish_stores()  # type: ignore[call-arg]


@functools.cache
def _loop_address() -> int:
    return _c_address(_compile(_loop, f"{__name__}.loop", (types.intp,) * 4, (), parallel=True, nogil=True)[0])


@intrinsic
def _call(typingctx: Any, function: Any, integers: Any) -> Any:
    """Call the function at an address with a tuple of integers."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word = context.get_value_type(types.intp)
        function = ir.FunctionType(ir.VoidType(), [word] * len(integers)).as_pointer()
        builder.call(builder.inttoptr(args[0], function), cgutils.unpack_tuple(builder, args[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, len(integers))), codegen


@intrinsic
def _take(typingctx: Any, counts: Any, index: Any, number: Any) -> Any:
    """Add to an element that all threads share, and return what it was."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        counts = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", builder.gep(counts.data, [args[1]]), args[2], "monotonic")

    return types.intp(counts, types.intp, types.intp), codegen


@intrinsic
def _finish_stores(typingctx: Any) -> Any:
    """Have what a thread wrote past the caches be seen by others before what it writes next."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if llvmlite.binding.get_process_triple().startswith("x86_64"):     # a full fence would hold up loads too
            name, nothing = "llvm.x86.sse.sfence", ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, name), [])
        else:
            builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _address_of(typingctx: Any, arguments: Any) -> Any:
    """Put a tuple on the stack of the caller, which stays until that returns."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        slot = cgutils.alloca_once_value(builder, args[0])
        return builder.ptrtoint(slot, context.get_value_type(types.intp))

    return types.intp(arguments), codegen


def _loader(arguments: Any) -> Any:
    """Make the function that reads a tuple of these types from an address."""
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], context.get_value_type(arguments).as_pointer())
            value = builder.load(pointer)
            for index, item_type in enumerate(arguments):
                if isinstance(item_type, types.Array):
                    # Borrowed: the caller keeps the memory alive, and no thread counts references to it.
                    array = context.make_array(item_type)(context, builder, builder.extract_value(value, index))
                    array.meminfo = cgutils.get_null_value(array.meminfo.type)
                    value = builder.insert_value(value, array._getvalue(), index)
            return value

        return arguments(types.intp), codegen

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


# --- threads -----------------------------------------------------------------------------------------------


class _State:
    """What this process knows of its threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.num_threads: int | None = None
        self.layer: str | None = None        # Numba's threading layer, known after the first parallel launch
        self.forked = False
        self.fork_handler = False
        self.said_slow = False
        self.pool: ThreadPoolExecutor | None = None
        self.pool_threads = 0


_state = _State()


def _watch_forks() -> None:
    """Have a forked child told that it is one, before there is a lock or a pool that it could inherit."""
    if not _state.fork_handler and hasattr(os, "register_at_fork"):
        _state.fork_handler = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    _pool.start_anew()                      # a thread that is no more may have been inside
    _state.lock = threading.RLock()
    _state.pool = None
    _state.forked = True


@functools.cache
def _available_threads() -> int:
    """Cores that this process may use: Numba's own limit, OMP_NUM_THREADS and the container's quota."""
    limits = [config.NUMBA_NUM_THREADS]
    with suppress(KeyError, ValueError):
        limits.append(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limits.append(-(-int(quota) // int(period)))
    return max(1, min(limits))


def get_num_threads() -> int:
    """Return the number of threads that a kernel may use.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.get_num_threads() >= 1
    True
    """
    return _state.num_threads or _available_threads()


def set_num_threads(n: int | None) -> None:
    """Set the number of threads that kernels use in this process; None goes back to the default.

    The default is the number of cores that the process may use: NUMBA_NUM_THREADS, OMP_NUM_THREADS, the
    CPU affinity and the container's quota are respected. No result depends on the number, to the bit.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.set_num_threads(1)
    >>> fastnn.get_num_threads()
    1
    >>> fastnn.set_num_threads(None)
    """
    if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1):
        raise ValueError(f"n: expected a positive integer or None, got {n!r}")
    _state.num_threads = None if n is None else int(n)


def _launch(compiled: _Compiled, threads: int, blocks: int, args: tuple) -> None:
    """Run the blocks on Numba's threads where they are safe here, else on a pool of our own.

    GNU OpenMP kills a forked child that uses it again; workqueue aborts the process when two threads launch
    at once. The layer is read after a launch, never predicted.
    """
    if (_state.forked or threads > config.NUMBA_NUM_THREADS
            or (_state.layer == "workqueue" and threading.current_thread() is not threading.main_thread())):
        _launch_on_pool(compiled, threads, blocks, args)
    elif _state.layer is None:
        with _state.lock:
            first = _state.layer is None
            if first:
                _launch_on_numba(compiled, threads, blocks, args)
                _state.layer = numba.threading_layer()
        if not first:                       # another thread was, and the layer may not be for this one
            _launch(compiled, threads, blocks, args)
    else:
        _launch_on_numba(compiled, threads, blocks, args)


def _launch_on_numba(compiled: _Compiled, threads: int, blocks: int, args: tuple) -> None:
    before = numba.get_num_threads()
    if before != threads:
        numba.set_num_threads(threads)
    try:
        compiled.run(threads, blocks, 0, _loop_address(), compiled.call_block, *args)
    finally:
        if before != threads:
            numba.set_num_threads(before)


def _launch_on_pool(compiled: _Compiled, threads: int, blocks: int, args: tuple) -> None:
    with _state.lock:
        if _state.pool is None or _state.pool_threads < threads - 1:
            _state.pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="fastnn")
            _state.pool_threads = threads - 1
        cuts = [blocks * i // threads for i in range(threads + 1)]
        futures = [_state.pool.submit(compiled.run, begin, end, worker, 0, compiled.call_block, *args)
                   for worker, (begin, end) in enumerate(itertools.pairwise(cuts)) if worker]
    try:
        compiled.run(0, cuts[1], 0, 0, compiled.call_block, *args)
    finally:
        for future in futures:
            future.result()


# --- compile cache -----------------------------------------------------------------------------------------


def cache_dir() -> Path | None:
    """Return the folder of compiled kernels: FASTNN_CACHE_DIR, else the user's cache folder, if it is known."""
    if folder := os.environ.get("FASTNN_CACHE_DIR"):
        return Path(folder)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "fastnn" / "kernels" if base else None
    except RuntimeError:                    # no home folder
        return None


@functools.cache
def _stamp() -> str:
    """Everything that compiled code depends on beside its own signature and the processor."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    for part in (numba.__version__, np.__version__, sys.version, os.environ.get("NUMBA_BOUNDSCHECK", "")):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


class _DiskCache(caching._Cache):
    """Numba's cache protocol over one file a function and signature.

    Numba's own cache misses changes of helpers in other files, ignores NUMBA_BOUNDSCHECK, and lets processes
    that compile different signatures at once overwrite each other's files.
    """

    def __init__(self, name: str, key: tuple) -> None:
        self.name = name
        self.key = key                      # types that the function's own signature does not show

    @staticmethod
    @functools.cache
    def folder() -> Path | None:
        """The folder of this version's files, made if need be; None where there can be none. It may be read-only."""
        base = cache_dir()
        if base is None:
            return None
        folder = base / _stamp()
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return folder if folder.is_dir() else None
        except OSError:                     # a folder above may not be entered
            return None

    def path(self, sig: Any, target_context: Any) -> Path | None:
        folder = self.folder()
        key = repr((self.key, sig, target_context.codegen().magic_tuple()))
        return folder and folder / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"

    @property
    def cache_path(self) -> str:
        return str(self.folder())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        path = self.path(sig, target_context)
        try:
            # Our own file in the user's own folder: the code in it is as trusted as the package itself.
            return path and CompileResult._rebuild(target_context, *pickle.loads(path.read_bytes()))  # noqa: S301
        except Exception:                   # missing, or damaged in any way: compile again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self.path(sig, data.target_context)
        if path is None:
            return
        with suppress(OSError):             # a full disk costs the next process a compilation, no more
            descriptor, temporary = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(dumps(data._reduce()))
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)

    def enable(self) -> None:
        """Part of Numba's protocol; this cache is always on."""

    def disable(self) -> None:
        """Part of Numba's protocol; this cache is always on."""

    def flush(self) -> None:
        """Part of Numba's protocol; files are written at once."""
