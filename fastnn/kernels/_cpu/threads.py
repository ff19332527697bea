"""How many threads a kernel runs on, and how its blocks come to them: on Numba's threads, or on a pool of our own."""

from __future__ import annotations

import functools
import itertools
import os
import threading
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
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn.kernels import _memory
from fastnn.kernels._cpu.compiler import Code, call, config
from fastnn.kernels._cpu.tuning import TURNS

_intp: Any = types.intp

_MOST_THREADS = 1024                        # each has scratch of its own, which no result pays for beyond
_LINE = 16                                  # counters are as far apart as processors fetch memory: they are not shared


class State:
    """What this process knows of its threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.num_threads: int | None = None
        self.layer: str | None = None        # Numba's threading layer, known after the first parallel launch
        self.forked = False
        self.fork_handler = False
        self.pool: ThreadPoolExecutor | None = None
        self.pool_threads = 0


state = State()


def watch_forks() -> None:
    """Have a forked child told that it is one, before there is a lock or a pool that it could inherit."""
    if not state.fork_handler and hasattr(os, "register_at_fork"):
        state.fork_handler = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    _memory.start_anew()                    # a thread that is no more may have been inside
    state.lock = threading.RLock()
    state.pool = None
    state.forked = True


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
    return state.num_threads or _available_threads()


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
    if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 < n <= _MOST_THREADS):
        raise ValueError(f"n: expected an integer from 1 to {_MOST_THREADS}, or None, got {n!r}")
    state.num_threads = None if n is None else int(n)


def run_parallel(run: Callable[..., None], call_block: int, threads: int, blocks: int, args: tuple) -> None:
    """Run the blocks on Numba's threads where they are safe here, else on a pool of our own.

    GNU OpenMP kills a forked child that uses it again; workqueue aborts the process when two threads launch
    at once. The layer is read after a launch, never predicted.
    """
    if (state.forked or threads > config.NUMBA_NUM_THREADS
            or (state.layer == "workqueue" and threading.current_thread() is not threading.main_thread())):
        _launch_on_pool(run, call_block, threads, blocks, args)
    elif state.layer is None:
        with state.lock:
            first = state.layer is None
            if first:
                _launch_on_numba(run, call_block, threads, blocks, args)
                state.layer = numba.threading_layer()
        if not first:                       # another thread was, and the layer may not be for this one
            run_parallel(run, call_block, threads, blocks, args)
    else:
        _launch_on_numba(run, call_block, threads, blocks, args)


def _launch_on_numba(run: Callable[..., None], call_block: int, threads: int, blocks: int, args: tuple) -> None:
    before = numba.get_num_threads()
    if before != threads:
        numba.set_num_threads(threads)
    try:
        run(threads, blocks, 0, loop_address(), call_block, args)
    finally:
        if before != threads:
            numba.set_num_threads(before)


def _launch_on_pool(run: Callable[..., None], call_block: int, threads: int, blocks: int, args: tuple) -> None:
    with state.lock:
        if state.pool is None or state.pool_threads < threads - 1:
            state.pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="fastnn")
            state.pool_threads = threads - 1
        cuts = [blocks * i // threads for i in range(threads + 1)]
        futures = [state.pool.submit(run, begin, end, worker, 0, call_block, args)
                   for worker, (begin, end) in enumerate(itertools.pairwise(cuts)) if worker]
    try:
        run(0, cuts[1], 0, 0, call_block, args)
    finally:
        for future in futures:
            future.result()


def _loop(threads: int, blocks: int, call_block: int, arguments: int) -> None:
    """Run all blocks on Numba's threads: each takes those of a part of its own, then what is left of the others'.

    A thread that slept takes up to half a millisecond to wake, and the others shall not wait for its share.
    """
    taken = np.empty(_LINE * threads, np.intp)          # zeros would be a launch of its own
    some = 1 + blocks // (TURNS * threads)
    for part in range(threads):
        taken[_LINE * part] = 0
    for thread in numba.prange(threads):
        for turn in range(threads):
            # prange counts in unsigned integers
            part = (_intp(thread) + turn) % threads
            begin, end = blocks * part // threads, blocks * (part + 1) // threads
            first = begin + _take(taken, _LINE * part, some)  # type: ignore[call-arg] # Numba gives the context
            while first < end:
                for block in range(first, min(end, first + some)):
                    call(call_block, (block, _intp(thread), arguments))
                first = begin + _take(taken, _LINE * part, some)
        finish_stores()  # type: ignore[call-arg] # the same


def loop() -> Code:
    """Return the code of the parallel loop, the same for all kernels."""
    return Code(_loop, f"{__name__}.loop", (types.intp,) * 4, from_python=False, parallel=True, nogil=True)


@functools.cache
def loop_address() -> int:
    address: int = loop().make().function
    return address


@intrinsic
def _take(typingctx: Any, counts: Any, index: Any, number: Any) -> Any:
    """Add to an element that all threads share, and return what it was."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        counts = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", builder.gep(counts.data, [args[1]]), args[2], "monotonic")

    return types.intp(counts, types.intp, types.intp), codegen


@intrinsic
def finish_stores(typingctx: Any) -> Any:
    """Have what a thread wrote past the caches be seen by others before what it writes next."""
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if llvmlite.binding.get_process_triple().startswith("x86_64"):     # a full fence would hold up loads too
            name, nothing = "llvm.x86.sse.sfence", ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, name), [])
        else:
            builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
