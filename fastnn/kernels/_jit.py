"""The one place for Numba: its options, the compile cache on disk, and threads.

A CPU kernel is written as a serial *block function* `(block, *arrays)` that owns its part of the output:

    @block_kernel(writes="y")
    def scale_block(block, x, factor, y):
        for i in range(x.shape[1]):
            y[block, i] = factor * x[block, i]

    scale_block(len(x), x, 2.0, y, work=x.size)

The call runs `scale_block(0, ...)` to `scale_block(len(x) - 1, ...)`, in parallel where the work is worth it.
How blocks are cut never depends on the number of threads, so neither do the bits of the result.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
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

import numba
import numpy as np
from numba import types
from numba.core import caching, config
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

logger = logging.getLogger("fastnn")

# Never nnan or ninf: NaN and inf must travel. For sums of products alone, where the order is free.
SUMS: set[str] = {"nsz", "arcp", "contract", "afn", "reassoc"}

# Elementary operations below which handing blocks to threads costs more than it saves.
PARALLEL_WORK = 40_000

helper = numba.njit(nogil=True, error_model="numpy")
helper.__doc__ = "Compile a function that block functions call."
sums_helper = numba.njit(nogil=True, error_model="numpy", fastmath=SUMS)


class BlockKernel:
    """A block function, compiled on first use for the types it is called with; see the module's text."""

    def __init__(self, function: Callable[..., None], writes: str, fastmath: bool) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.parameters = list(inspect.signature(function).parameters)[1:]
        self.writes = set(writes.split())
        self.options: dict[str, Any] = {
            "nogil": True, "error_model": "numpy", "fastmath": SUMS if fastmath else False,
        }
        self.compiled: dict[tuple, Callable[..., None]] = {}
        self.seconds = 0.0
        unknown = self.writes - set(self.parameters)
        if unknown:
            raise ValueError(f"{self.name}: writes names {sorted(unknown)}, its parameters are {self.parameters}")
        kernels[self.name] = self

    def __call__(self, blocks: int, *args: Any, work: int) -> None:
        if config.DISABLE_JIT:
            for block in range(blocks):
                self.function(block, *args)
            return
        threads = get_num_threads() if work >= PARALLEL_WORK and blocks > 1 else 1
        if threads == 1:
            self.loop("serial", args)(0, blocks, *args)
        else:
            _launch(self, threads, blocks, args)

    def loop(self, kind: str, args: tuple) -> Callable[..., None]:
        """Return the "serial" or the "parallel" loop over blocks for arguments of these types."""
        key = (kind, *[(a.dtype, a.ndim) if isinstance(a, np.ndarray) else type(a) for a in args])
        loop = self.compiled.get(key)
        if loop is None:
            with _state.lock:
                loop = self.compiled[key] = self.compiled.get(key) or self.compile(kind, args)
        return loop

    def compile(self, kind: str, args: tuple) -> Callable[..., None]:
        """Compile one of the loops, or load it from the disk."""
        begin = time.perf_counter()
        scope = {"__name__": self.function.__module__, "block_function": numba.njit(**self.options)(self.function),
                 "prange": numba.prange, "intp": types.intp}   # prange counts in unsigned integers
        names = ", ".join(self.parameters)
        bounds, over, options = (("begin, end", "range(begin, end)", {}) if kind == "serial" else
                                 ("blocks", "prange(blocks)", {"parallel": True}))
        exec(f"def {kind}({bounds}, {names}):\n"
             f"    for block in {over}:\n"
             f"        block_function(intp(block), {names})\n", scope)
        loop = numba.njit(**self.options, **options)(scope[kind])
        loop._cache = _DiskCache(f"{self.name}.{kind}")
        loop.compile((*[types.intp] * len(bounds.split()),
                      *[self.type_of(name, arg) for name, arg in zip(self.parameters, args)]))
        loop.disable_compile()
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        if seconds > 1 and not _state.said_slow:
            _state.said_slow = True
            where = _DiskCache.folder()
            logger.warning("compiling kernels on their first use (%s took %.1f s); %s", self.name, seconds,
                           f"they are kept in {where}" if where else "they cannot be kept: no writable cache folder, "
                           "set FASTNN_CACHE_DIR")
        return loop

    def type_of(self, name: str, arg: Any) -> types.Type:
        """Inputs are typed read-only, which accepts writable arrays too: one signature a dtype."""
        if isinstance(arg, np.ndarray):
            return types.Array(numba.from_dtype(arg.dtype), arg.ndim, "C", readonly=name not in self.writes)
        return numba.typeof(arg)


kernels: dict[str, BlockKernel] = {}


def block_kernel(*, writes: str, sums: bool = False) -> Callable[[Callable[..., None]], BlockKernel]:
    """Make a kernel of a block function.

    Parameters
    ----------
    writes : str
        The parameters that the function writes, separated by blanks; all other arrays are read-only.
    sums : bool
        Whether it forms sums of products whose order is free, which allows the compiler to vectorize them.
    """
    return lambda function: BlockKernel(function, writes, sums)


# --- threads -----------------------------------------------------------------------------------------------


class _State:
    """What this process knows of its threads; a forked child starts from a new one."""

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


def _after_fork() -> None:
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


def _launch(kernel: BlockKernel, threads: int, blocks: int, args: tuple) -> None:
    """Run the blocks on Numba's threads where they are safe here, else on a pool of our own.

    GNU OpenMP kills a forked child that uses it again; workqueue aborts the process when two threads launch
    at once. The layer is read after a launch, never predicted.
    """
    if (_state.forked or threads > config.NUMBA_NUM_THREADS
            or (_state.layer == "workqueue" and threading.current_thread() is not threading.main_thread())):
        _launch_on_pool(kernel.loop("serial", args), threads, blocks, args)
        return
    parallel = kernel.loop("parallel", args)
    if _state.layer is None:
        with _state.lock:
            if not _state.fork_handler and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_after_fork)
                _state.fork_handler = True
            _launch_on_numba(parallel, threads, blocks, args)
            _state.layer = numba.threading_layer()
    else:
        _launch_on_numba(parallel, threads, blocks, args)


def _launch_on_numba(parallel: Callable, threads: int, blocks: int, args: tuple) -> None:
    before = numba.get_num_threads()
    if before == threads:
        parallel(blocks, *args)
        return
    numba.set_num_threads(threads)
    try:
        parallel(blocks, *args)
    finally:
        numba.set_num_threads(before)


def _launch_on_pool(serial: Callable, threads: int, blocks: int, args: tuple) -> None:
    threads = min(threads, blocks)
    with _state.lock:
        if _state.pool is None or _state.pool_threads < threads - 1:
            _state.pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="fastnn")
            _state.pool_threads = threads - 1
        pool = _state.pool
        cuts = [blocks * i // threads for i in range(threads + 1)]
        futures = [pool.submit(serial, begin, end, *args) for begin, end in zip(cuts[1:-1], cuts[2:])]
    try:
        serial(0, cuts[1], *args)
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

    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    @functools.cache
    def folder() -> Path | None:
        """The folder of this version's files, made if need be; None where nothing can be written."""
        base = cache_dir()
        if base is None:
            return None
        try:
            folder = base / _stamp()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            return None

    def path(self, sig: Any, target_context: Any) -> Path | None:
        folder = self.folder()
        key = repr((sig, target_context.codegen().magic_tuple()))
        return folder and folder / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"

    @property
    def cache_path(self) -> str:
        return str(self.folder())

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        target_context.refresh()
        path = self.path(sig, target_context)
        try:
            # Our own file in the user's own folder: the code in it is as trusted as the package itself.
            return path and CompileResult._rebuild(target_context, *pickle.loads(path.read_bytes()))  # noqa: S301
        except Exception:                   # missing, or damaged in any way: compile again
            return None

    def save_overload(self, sig: Any, data: CompileResult) -> None:
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
