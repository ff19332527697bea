"""What the CPU's kernels know by measurement: each number with its unit, and why it is what it is.

`python asv_benchmarks/tune.py` times each beside smaller and larger ones, and prints where the stored one loses. The
numbers decide how fast a result comes and, where they cut a sum, its last bits; whether it is right, none. What follows
from the processor, such as the tile that fills its registers, is in `llvm`; what an error bound promises, such as the
products of one running sum, stands beside the sum.
"""

from __future__ import annotations

# --- launches ----------------------------------------------------------------------------------------------

# Elementary operations of a launch. Below, handing blocks to threads (some 10 us) costs more than it saves.
PARALLEL_WORK = 40_000

# Blocks at least, where the work can be cut so: several for each thread of a usual machine, so that threads that are
# late or slow leave theirs to others. It is one number for all machines, as sums may not depend on them.
LEAST_BLOCKS = 16

# Turns in which a thread takes the blocks of its part: with more, counting costs; with fewer, the last one waits.
TURNS = 64

# --- memory ------------------------------------------------------------------------------------------------

# Bytes of an array that is written past the caches where that is free: several times what a core has of its own.
STREAMED = 1 << 24

# Elements of a draft, which is written past the caches once it is complete: it fits the second cache.
DRAFTED = 1 << 14

# Elements computed between two bursts of stores past the caches, for processors overlap so many.
STRIP = 128

# Elements that a sum asks for before it needs them: the hardware's own guess stops at pages.
ELEMENTS_AHEAD = 1024

# Rows of a packed operand that a tile asks for before it needs them, as they may come from memory.
ROWS_AHEAD = 32

# Vectors of sums that do not wait for each other: latency times throughput of an addition.
ACCUMULATORS = 4

# --- elementwise, rows -------------------------------------------------------------------------------------

# Elements of a block of a flat array: little beside the start of a block, and its arrays fit the second cache.
CHUNK = 8192

# Elements of a block of rows, or of a strip of one row: its results fit the first cache.
BLOCK_OF_ROWS = 4096

# Elements of a row. Loops over shorter ones hardly fill vectors; one goes over all rows of a block instead.
SHORT_ROW = 64

# Elements after which an update looks whether a square overflowed: what it came of is still in the first cache.
UPDATE_PART = 1024

# --- matrix products, linear -------------------------------------------------------------------------------

# Panels of rows that are packed at a time: they lie in the second cache.
MOST_PANELS = 16

# Panels of columns of a block at most: packed, they lie in the last cache.
MOST_COLUMNS = 64

# Elements that are packed in the time of two vectors of multiply-adds: transposed, and as they lie.
TRANSPOSED_A_CYCLE, COPIED_A_CYCLE = 4, 8

# Cycles that a product may lose with the tile that most have before another one is compiled for it, which takes as long
# as 100,000 such losses: few, or if it takes no more than twice as long, more.
FEW_CYCLES, CYCLES_A_TILE = 25_000, 100_000

# How many times as many cycles products may take with the usual tile, or with one for two, as with the best.
MOST_FOR_ONE_TILE = 1.05

# Blocks at most for each thread, so that one that is late leaves some to others.
BLOCKS_A_THREAD = 8

# Weights at most of linear maps that are done without packing, where launches count more than work.
LINEAR_FEW_WEIGHTS = 128

# Rows of a block of theirs.
LINEAR_ROWS = 64

# --- attention ---------------------------------------------------------------------------------------------

# Tiles of keys whose scores are in the first cache together with the queries; of queries, in the gradient.
ATTENTION_KEYS, ATTENTION_QUERIES = 12, 8

# Groups of queries, or of keys in the gradient, as many as a tile has columns, that share the way of a panel from the
# last cache; there are fewer where that makes too few blocks.
ATTENTION_GROUPS = 4

# Queries at most that are done one by one, as most of a tile would be empty.
ATTENTION_FEW_QUERIES = 6

# How far the largest score may exceed the one that is subtracted, so that sums are seldom multiplied anew.
ATTENTION_SLACK = 4.0

# Keys worth a block of their own in the gradient, and such blocks of a head at most: each has sums for all queries.
ATTENTION_CHUNK, ATTENTION_CHUNKS = 512, 4

# --- convolutions ------------------------------------------------------------------------------------------

# Products of the filters with one image and its result, at most, of convolutions that are loops in one launch.
SMALL_PRODUCTS = 1 << 12

# The same of a whole batch, for the weight and bias gradients, which one block forms.
SMALL_BATCH_PRODUCTS = 1 << 14

# Elements that a padded image may always have, and as a multiple of image and result: beyond, most of it is zeros,
# which take memory and time, and taps go over rectangles of the image instead.
PADDED_ELEMENTS, PADDED_MULTIPLE = 1 << 17, 8

# Elements of a block's scratch at most, unless one row of the result needs more: it fits the second cache.
DIRECT_SCRATCH = 1 << 17

# Blocks at most, each with a scratch for its jobs one after the other: more would only take memory.
DIRECT_BLOCKS = 64

# Products with each pixel of a scratch that are worth filling another one, so that filters can be cut.
DIRECT_CUT = 288

# Blocks that may as well fill the same scratch each for itself; for more, it is filled before.
DIRECT_FILLS = 2

# Pixels of narrow images that a block takes at once: enough for each weight that comes from memory.
NARROW_PIXELS = 64

# Elements of the weight gradient that a block sums up: it fits the second cache.
DIRECT_SUMS = 1 << 16

# Products for each value transformed, from which Winograd's convolution is the faster.
WINOGRAD_PRODUCTS = 12.0

# The same of its weight gradient, whose sums are transformed at the end; and tiles of a batch, by the filter's size.
WINOGRAD_WEIGHT_PRODUCTS = 16.0
WINOGRAD_WEIGHT_TILES = {3: 16, 5: 1024}

# Filters times channels that stay in the cache when they are transformed, so that blocks may be small.
WINOGRAD_CACHED_FILTERS = 1 << 13

# Tiles of all images, so few that to transform the filters for each is faster than to read them transformed.
WINOGRAD_FEW = 6

# Blocks that may as well transform the same tiles each for itself; for more, they are transformed before.
WINOGRAD_SHARERS = 4

# Tiles, and transformed elements, of a weight gradient that is done for all tiles at once, its operands in memory.
WINOGRAD_FEW_TILES, WINOGRAD_FEW_ELEMENTS = 64, 1 << 21

# Elements of sums that a block of the weight gradient keeps at most: they fit the second cache.
WINOGRAD_SUMS = 1 << 18

# Tiles that are summed up at once, at least: fewer do not pay for reading and writing the sums.
WINOGRAD_LEAST_GROUP = 24

# Taps of a depthwise filter at most, whose weights and sums stay in registers.
DEPTHWISE_TAPS = 25

# Elements of a depthwise block's scratch at most, and so few that it is not cut further: it fits the first cache.
DEPTHWISE_SCRATCH, DEPTHWISE_LEAST_SCRATCH = 1 << 12, 1 << 9

# --- distances ---------------------------------------------------------------------------------------------

# Query panels of a block, which share the packing of points: then it costs a few hundredths.
QUERY_GROUP = 16

# Queries, or queries times elements of the points, up to which tiles of one row are faster than full ones, which
# are packed, and padded with zeros.
ONE_ROW_QUERIES, ONE_ROW_ELEMENTS = 6, 1 << 14

# Panels of points of a block of `pairwise_l2`, packed once; twice as many where dimensions are few.
PAIR_SLAB = 8

# Query panels of a block of it, where blocks are few, and at most.
PAIR_GROUP, PAIR_LARGEST_GROUP = 16, 32

# Groups of queries that are blocks enough; fewer of them cut the points into slices, for so many blocks, of so many
# points at least, as each slice has heaps of its own, which are merged.
KNN_GROUPS, KNN_BLOCKS, KNN_LEAST_SLICE = 8, 32, 2048

# Queries and dimensions from which filtering candidates by a cheap product is faster than comparing all.
FILTER_QUERIES, FILTER_DIMENSIONS = 128, 64

# The filter ends where more than one candidate in so many is left: it costs more than it saves.
FILTER_USEFUL = 8

# Points whose mean is subtracted, so that bounds are tight; more would not make it a better one.
FILTER_SAMPLE = 64

# --- pooling, normalization -----------------------------------------------------------------------------------

# Cells of the input, about, that make a block of pooling: they stay in the first cache.
POOL_CELLS = 4096

# Values of a run, the least, and channels, for large arrays the fewest, to go channel by channel.
NORM_RUN, NORM_CHANNELS = 64, 16

# Values of an array that is done before threads have started.
NORM_SMALL = 1 << 16

# Values that stand together, of one channel or several, and are worth a walk over the samples.
NORM_WALK = 1024

# Columns of a block, and the most parts that rows are cut into, where columns are channels.
NORM_COLUMNS, NORM_SLABS = 512, 64

# Values of a block, at least.
NORM_VALUES = 8192

# Values of rows whose gradients are formed at once: they, and float64 scratch twice as large, fit the first cache.
NORM_STRIP = 1024

# Blocks of rows at most, and rows of one at least, that have sums of their own for weight and bias: adding up more of
# these takes longer.
NORM_ROW_SLABS, NORM_SLAB_ROWS = 32, 8

# Runs and values at most, where launches count more than work.
NORM_FEW_RUNS, NORM_FEW_VALUES = 128, 8192

# --- embedding ---------------------------------------------------------------------------------------------

# Columns of a slice of a row, whose sums stay in the first cache; a row that is met very often is done by slices.
EMBEDDING_SLICE = 128

# Elements, of gradients and of the table, of a block.
EMBEDDING_VALUES = 1 << 14

# --- quantised networks ------------------------------------------------------------------------------------

# Pixels of a block, about, that share a filter's way from memory; what they read stays in the second cache.
INT8_PIXELS = 256
