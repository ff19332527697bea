"""Stateless functions, arrays in, arrays out: every public kernel, a folder a family.

A call goes down this map::

    fastnn.conv2d(x, weight)
      |
    conv/__init__.py     the contract: the public function, and its planner
      |
    _plans.py            finds the plan of these shapes, dtypes and options; sees that what is written shares memory
      |                  with nothing; makes the result (_outputs.py, which has memory of dead arrays from _memory.py)
      |
      +-- no plan yet    the planner checks (fastnn/_checks.py) and asks the target's file (_targets.py) for what runs
      |
      +-- conv/naive.py  the formula in loops, which judges the others
      +-- conv/cpu.py    block functions, over _cpu/: algorithm, blocks and scratch are decided in `plan_...`
      +-- conv/cuda.py   CUDA kernels, over _gpu/ and fastnn/_device.py

`_cpu` and `_gpu` are the engine rooms, twins with one name where they do one thing::

    _cpu/                       _gpu/
    launch                      launch           runs the blocks of a kernel, once it is compiled
    threads, compiler, cache                     on which threads; with which options; code on the disk
    elementwise                 elementwise      kernels of one result an element
    rows                        rows             what kernels over the rows of a matrix share
    gemm, dot                   gemm             matrix products; those of bytes and bfloat16
    vectors                     sums, blocks     sums in a certain order; writing past the caches; groups of threads
    math                                         exp, tanh and others in a form that LLVM vectorizes
    tiles, llvm                                  tiles, spelt out in LLVM's vectors
    tuning                      tuning           numbers that were measured, with unit and reason

`kept` holds weights as algorithms read them, `binding` calls without checks.
`compilation` says what is compiled, `explanation` what a call runs and why, `peak` what the machine can do at most.

Words mean one thing here:

family
    A folder: kernels that share a formula, with `naive.py`, `cpu.py` and `cuda.py`, one for each *target*.
input gradient, weight gradient, bias gradient
    Of a loss, by that argument of a kernel; `grad_output` is what comes in, by its result.
plan
    What a kernel does for certain shapes, dtypes and options: decided once, kept, and run many times. A NamedTuple in
    it is what compiled code takes.
block
    What one thread of the CPU runs at a time: a call `(block, *arrays)` of a block function, which owns what it writes.
    On a GPU, threads that share memory.
worker
    One of the threads that run blocks, by its number: its part of a scratch is the block's own meanwhile.
work
    Elementary operations of a launch, from which follows whether more than one thread is worth it.
scratch
    Memory that a block needs beside its arrays.
vector, lane
    Numbers in one register, and one of them. On a GPU a lane is a thread by its place in a warp, or in the group that
    takes a row.
tile
    Sums of products that stay in registers, rows times columns, while a loop runs over the *depth*, what is summed
    over. Winograd's tiles are squares of pixels.
panel
    Rows or columns as many as a tile has, packed into the order in which it reads them.
chunk
    A block's part of an array that is seen flat.
head
    One matrix of queries, with its keys and values: all leading dimensions of attention's arrays count heads.
tap
    One place of a filter or window, which meets one pixel for each result.
phase
    The pixels of an image, or results, whose row and column leave the same remainders modulo the strides.
scale, zero point
    What a byte q stands for: (q - zero point) scale.
slab
    The rows of a matrix that a block forms sums of; of a convolution of bytes, the pixels that a block reads, as its
    tile reads them.
streamed
    Written past the caches, as what is far larger than they are is best.

Docstrings bound errors. In them eps is 1.2e-7 for float32 and 2.2e-16 for float64, and 1.1e-16 is the rounding of the
float64 numbers that sums are formed in. Results smaller than the smallest normal number, 1.2e-38 or 2.2e-308, may be
off by as much as that. If an intermediate number overflows but the result does not, the kernel computes it another
way, or its docstring says that it does not.
"""

from __future__ import annotations

import sys

from fastnn._device import to_device, to_host
from fastnn.kernels._cpu.threads import get_num_threads, set_num_threads
from fastnn.kernels._memory import clear_pool, set_pool_limit
from fastnn.kernels._targets import use_target
from fastnn.kernels.activation import *  # noqa: F403 # each family says which of its names are public
from fastnn.kernels.attention import *  # noqa: F403
from fastnn.kernels.conv import *  # noqa: F403
from fastnn.kernels.distance import *  # noqa: F403
from fastnn.kernels.embedding import *  # noqa: F403
from fastnn.kernels.explanation import FAMILIES, explain
from fastnn.kernels.kept import KeptWeight
from fastnn.kernels.linear import *  # noqa: F403
from fastnn.kernels.loss import *  # noqa: F403
from fastnn.kernels.normalization import *  # noqa: F403
from fastnn.kernels.pooling import *  # noqa: F403
from fastnn.kernels.quantized import *  # noqa: F403
from fastnn.kernels.resampling import *  # noqa: F403
from fastnn.kernels.softmax import *  # noqa: F403
from fastnn.kernels.update import *  # noqa: F403

__all__ = ["KeptWeight", "clear_pool", "explain", "get_num_threads", "set_num_threads", "set_pool_limit", "to_device",
           "to_host", "use_target"]
for _family in FAMILIES:
    __all__ += sys.modules[f"{__name__}.{_family}"].__all__
