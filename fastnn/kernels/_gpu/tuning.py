"""What the GPU's kernels know by measurement: each number with its unit, and why it is what it is.

`python asv_benchmarks/tune.py --device cuda` times each beside smaller and larger ones, and prints where the stored one
loses. They were measured on an H200, which has 132 processors. A simulated thread is a thread of Python, a tenth of a
millisecond each: in the simulator blocks and sums are small, and every loop still ends and begins inside of a sample.
"""

from __future__ import annotations

from fastnn._device import SIMULATED

# --- launches ----------------------------------------------------------------------------------------------

# Threads of a block, a power of two: enough for a processor to hide latency, few enough for registers.
THREADS = 4 if SIMULATED else 256

# Blocks at most of a loop over a grid: 16 for each processor, some waves of the largest GPUs.
MOST_BLOCKS = 3 if SIMULATED else 132 * 16

# Numbers of a group that are left after one step of a sum over threads: the root of THREADS, so that steps are even.
REDUCED = 2 if SIMULATED else 16

# --- elementwise, rows, sums -------------------------------------------------------------------------------

# Results that a thread has under way, so that many loads hide each other's latency.
ELEMENTWISE_AT_ONCE = 4
UPDATE_AT_ONCE = 4

# Threads at least and at most that share a row, and columns of each, as a rule.
ROW_THREADS = (2, THREADS) if SIMULATED else (4, 512)
ROW_COLUMNS = 2 if SIMULATED else 8

# Rows that a thread adds up: more leave processors idle, fewer take another launch.
SUM_ROWS = 2 if SIMULATED else 64

# Blocks that read channels at the speed of memory: 8 for each processor.
SUM_BLOCKS = 2 if SIMULATED else 132 * 8

# --- matrix products ---------------------------------------------------------------------------------------

# Tiles of a block by bytes of a number, the best ones first: rows, columns, rows and columns of a thread, depth of a
# step. Large ones read less for each product, small ones leave no processor idle.
GEMM_TILES = {
    4: ((16, 16, 4, 4, 4), (8, 8, 2, 4, 4)),
    8: ((16, 16, 4, 4, 4), (8, 8, 2, 4, 4)),
} if SIMULATED else {
    4: ((128, 128, 8, 8, 8), (64, 128, 8, 4, 16), (64, 64, 4, 4, 16), (32, 128, 4, 4, 16), (32, 64, 2, 4, 16)),
    8: ((64, 64, 4, 4, 8), (32, 64, 2, 4, 16)),
}

# Blocks that keep a GPU busy: one for each processor.
GEMM_BLOCKS = 2 if SIMULATED else 132

# What else than products takes time, in products of a segment: reading a row or column of a tile, another launch, and
# the elements of scratch, so many to one product.
GEMM_READ, GEMM_LAUNCH, GEMM_SCRATCH = 24, 1000, 900

# --- attention ---------------------------------------------------------------------------------------------

# Queries, and keys, of a square of scores, one a thread; features of a row that a thread sums up, a side apart.
ATTENTION_SIDE, ATTENTION_COLUMNS = (4, 2) if SIMULATED else (16, 4)

# --- convolutions ------------------------------------------------------------------------------------------

# Results below each other that a thread of a depthwise convolution sums, for which it reads a weight once.
DEPTHWISE_BAND = 4

# Taps, and filters for a channel, up to which it is loops over pixels; with more, products are enough for tiles.
DEPTHWISE_TAPS, DEPTHWISE_MULTIPLE = 128, 4

# Terms of its weight gradient that a thread adds up at most, and blocks: 8 for each processor.
DEPTHWISE_TERMS = 4 if SIMULATED else 256
DEPTHWISE_BLOCKS = 2 if SIMULATED else 132 * 8

# --- distances ---------------------------------------------------------------------------------------------

# Threads of a block: along points and along queries.
PAIR_WIDE, PAIR_HIGH = (2, 2) if SIMULATED else (16, 8)

# Dimensions in shared memory at once.
PAIR_STEP = 4 if SIMULATED else 16

# Blocks at least, where the points can be cut so: 4 for each processor.
PAIR_BLOCKS = 4 if SIMULATED else 132 * 4

# Candidates of a query that wait for its heap, so that threads seldom wait for each other.
KNN_WAITING = 4 if SIMULATED else 32

# Points worth heaps of their own.
KNN_LEAST_SLICE = 16 if SIMULATED else 128

# --- pooling, batch norm -----------------------------------------------------------------------------------

# Cells of a window, or windows of a cell, of the largest that are compiled in: all are read at once.
POOL_UNROLLED = 64

# Cells of the largest window whose sum is one thread's.
POOL_NARROW = 16

# Cells that a thread of a group reads at once.
POOL_AT_ONCE = 4

# Windows that a thread hands out at once.
POOL_WINDOWS = 16 if SIMULATED else 4

# Blocks that run at once with all of the shared memory for cells: 4 for each processor.
POOL_BLOCKS = 2 if SIMULATED else 132 * 4

# Values of a part that a thread holds in registers.
NORM_HELD = 8

# Elements that a thread reads before it writes the first.
NORM_AT_ONCE = 8

# Values of a run below which runs are columns of a matrix.
NORM_RUN = 32

# Parts of a channel that one thread combines; more are combined by a block.
NORM_FEW_PARTS = 16
