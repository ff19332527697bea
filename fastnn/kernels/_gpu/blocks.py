"""What CUDA kernels share: the sizes of grids, and sums over the threads of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastnn._checks import Array
from fastnn._device import compiler, cuda
from fastnn.kernels._gpu.tuning import MOST_BLOCKS, REDUCED, THREADS


def blocks_for(items: int, per_block: int = THREADS) -> int:
    """Return the number of blocks of a kernel that walks `items` in steps of the whole grid (`cuda.grid(1)`)."""
    return min(-(-items // per_block), MOST_BLOCKS)


def real_of(x: Array) -> Any:
    """Return the type of x's numbers."""
    return x.dtype.type


def either(array: Array | None, unused: Array) -> Array:
    """Return an array for a kernel: where there is none, another that it leaves alone."""
    return unused if array is None else array


def _reduction(combine: Callable[[Any, Any], Any]) -> Any:
    combine = cuda.jit(device=True)(combine)

    @cuda.jit(device=True)
    def reduced(parts: Any, place: int, group: int) -> Any:
        if group == 1:
            return parts[place]
        member = place % group
        first = place - member
        cuda.syncthreads()
        if group > REDUCED:
            if member < REDUCED:
                result = parts[place]
                for k in range(member + REDUCED, group, REDUCED):
                    result = combine(result, parts[first + k])
                parts[place] = result
            cuda.syncthreads()
        result = parts[first]
        for k in range(1, min(group, REDUCED)):
            result = combine(result, parts[first + k])
        cuda.syncthreads()
        return result

    return reduced


def _plus(a: Any, b: Any) -> Any:
    return a + b


def _larger(a: Any, b: Any) -> Any:
    return b if b > a else a


# Functions of an array in shared memory, a thread's place in it, and the size of groups, powers of two: they return the
# sum, and the largest but for NaN, of the group that the place lies in, combined in one order. Each thread of the block
# has a place of its own, and all come here. They are synchronised before and after, unless a group has one number: the
# array may be written again at once.
group_sum = _reduction(_plus)
group_max = _reduction(_larger)


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
