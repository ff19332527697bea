"""What CUDA kernels share: the sizes of blocks and grids, and sums over the threads of a block.

A simulated thread is a thread of Python, a tenth of a millisecond each: in the simulator blocks are small.
"""

from __future__ import annotations

from typing import Any

from fastnn.kernels._arrays import Array
from fastnn.kernels._cuda import SIMULATED, compiler, cuda

THREADS = 4 if SIMULATED else 256               # of a block, a power of two
_WIDTH = 2 if SIMULATED else 16                 # sums that stay of a group's numbers after one step: a root of THREADS
_MOST_BLOCKS = 3 if SIMULATED else 132 * 16     # of a loop over a grid: some waves of the largest GPUs


def blocks_for(items: int, per_block: int = THREADS) -> int:
    """Return the number of blocks of a kernel that walks `items` in steps of the whole grid (`cuda.grid(1)`)."""
    return min(-(-items // per_block), _MOST_BLOCKS)


def real_of(x: Array) -> Any:
    """Return the type of x's numbers."""
    return x.dtype.type


def either(array: Array | None, unused: Array) -> Array:
    """Return an array for a kernel: where there is none, another that it leaves alone."""
    return unused if array is None else array


@cuda.jit(device=True)
def group_sum(parts: Any, place: int, group: int) -> Any:
    """Return the sum of the `group` numbers in shared memory that `place` lies among; they are combined in one order.

    Groups are powers of two, each thread of the block has a place of its own, and all come here. They are synchronised
    before and after, unless a group has one number: `parts` may be written again at once.
    """
    if group == 1:
        return parts[place]
    member = place % group
    first = place - member
    cuda.syncthreads()
    if member < _WIDTH:
        total = parts[place]
        for k in range(member + _WIDTH, group, _WIDTH):
            total += parts[first + k]
        parts[place] = total
    cuda.syncthreads()
    total = parts[first]
    for k in range(1, min(group, _WIDTH)):
        total += parts[first + k]
    cuda.syncthreads()
    return total


@cuda.jit(device=True)
def block_sum(parts: Any, thread: int) -> Any:
    """Return the sum of THREADS numbers in shared memory, to every thread; they are combined in one order.

    Threads are synchronised before and after: `parts` may be written again at once.
    """
    return group_sum(parts, thread, THREADS)


def _ravel(x: Any) -> Any:
    return x.ravel()


def _same(x: Any) -> Any:
    return x


# numba-cuda-mlir multiplies each index of an array by its stride, unless the array was made by ravel; numba-cuda, which
# does not, has no ravel.
dense = cuda.jit(device=True)(_ravel if compiler == "numba-cuda-mlir" else _same)
