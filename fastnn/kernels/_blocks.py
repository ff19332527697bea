"""What CUDA kernels share: the sizes of blocks and grids, and sums over the threads of a block.

A simulated thread is a thread of Python, a tenth of a millisecond each: in the simulator blocks are small.
"""

from __future__ import annotations

from typing import Any

from fastnn.kernels._cuda import SIMULATED, compiler, cuda

THREADS = 4 if SIMULATED else 256               # of a block, a power of two
_MOST_BLOCKS = 3 if SIMULATED else 132 * 16     # of a loop over a grid: some waves of the largest GPUs


def blocks_for(items: int, per_block: int = THREADS) -> int:
    """Return the number of blocks of a kernel that walks `items` in steps of the whole grid (`cuda.grid(1)`)."""
    return min(-(-items // per_block), _MOST_BLOCKS)


@cuda.jit(device=True)
def block_sum(parts: Any, thread: int) -> Any:
    """Return the sum of THREADS numbers in shared memory, to every thread; they are combined in one order.

    Threads are synchronised before and after: `parts` may be written again at once.
    """
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if thread < step:
            parts[thread] += parts[thread + step]
        step //= 2
    cuda.syncthreads()
    total = parts[0]
    cuda.syncthreads()
    return total


def _ravel(x: Any) -> Any:
    return x.ravel()


def _same(x: Any) -> Any:
    return x


# numba-cuda-mlir multiplies each index of an array by its stride, unless the array was made by ravel; numba-cuda, which
# does not, has no ravel.
dense = cuda.jit(device=True)(_ravel if compiler == "numba-cuda-mlir" else _same)
