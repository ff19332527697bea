"""Convolutions whose results are narrower than a vector, as matrix products whose columns are the filters.

In `direct` a vector holds results side by side, of which there are too few here. So vectors hold filters, and a tile's
rows are pixels: runs of them as they lie in the scratch. A job takes several images, so that each weight that comes
from memory meets many pixels. Sums have the order that they have in `direct`, so the bits are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.launch import BlockKernel, Launch, block_kernel
from fastnn.kernels._cpu.llvm import REGISTERS, lanes
from fastnn.kernels._cpu.tiles import transpose_tile, walk_tile
from fastnn.kernels._cpu.tuning import DIRECT_BLOCKS, DIRECT_FILLS, DIRECT_SCRATCH, LEAST_BLOCKS, NARROW_PIXELS
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels.conv._scratch import Axis, Scratch, fill_part, fill_parts, plan_scratch
from fastnn.kernels.kept import KeptWeight


class Walk(NamedTuple):
    """How blocks walk over images and results: what compiled code takes of a plan."""

    scratch: Scratch
    shared: int                             # whether scratches are filled before, as many blocks read the same
    images: int                             # of a job, at most
    cuts: int                               # parts of the filters, each for a job of the same images
    jobs: int
    first_y: int                            # the results that are written: [first_y::step_y, first_x::step_x]
    first_x: int
    step_y: int
    step_x: int
    height: int                             # how many these are
    width: int
    run: int                                # products of one running sum
    positive: int                           # whether negative results become 0


class Convolution(NamedTuple):
    """A product of a scratch of pixels and packed filters: calling it writes the results plus a bias."""

    pack: Callable[[Array, int], Array]     # makes panels of so many filters
    columns: int                            # of a tile
    layout: tuple[Array, Array, Array]      # of the scratch; see there
    begins: Array                           # where runs of pixels lie in a job's scratches
    scratches: tuple[int, int]              # how many of them, and elements of each
    walk: Walk
    fill: Launch | None                     # fills the scratches that blocks share
    launch: Launch

    def __call__(self, source: Array, weight: Array, bias: Array | None, y: Array,
                 kept: KeptWeight | None = None) -> None:
        packed = (self.pack(weight, self.columns) if kept is None else
                  kept.made(weight, ("narrow", self.columns), lambda own: self.pack(own, self.columns)))
        scratches = empty(self.scratches, y.dtype)
        if self.fill is not None:
            self.fill(self.walk.scratch, *self.layout[1:], source, scratches)
        self.launch(self.walk, source, packed, *self.layout, self.begins, EMPTY[y.dtype] if bias is None else bias,
                    scratches, scratches.reshape(-1), y, y.reshape(-1))


def fits(filters: int, width: int, scratch: int, vector: int) -> bool:
    """Whether to convolve here; scratch has so many elements for a group of an image."""
    return width < vector <= filters and scratch <= DIRECT_SCRATCH


def plan(source: Array, y: Array, groups: int, filters: int, taps: tuple[Axis, Axis], stride: tuple[int, int],
         line: int, results: tuple[int, int], first: tuple[int, int], step: tuple[int, int], run: int, relu: bool,
         pack: Callable[[Array, int], Array]) -> Convolution:
    """Return how to write y[:, :, first::step], of so many results; see `direct._plan`."""
    height, width = results
    vector, samples, channels = lanes(y), len(y), source.shape[1] // groups
    size = plan_scratch(channels, groups, taps, stride, vector, height, height, line)[1]
    images = min(samples, max(1, min(NARROW_PIXELS // (height * width), DIRECT_SCRATCH // size)))
    parts, count, vectors = _tile(images * height * width, width, panels(filters, vector))
    filter_panels = panels(filters, vectors * vector)
    together = panels(samples, images) * groups
    cuts = min(filter_panels, panels(LEAST_BLOCKS, together))
    shared, blocks = cuts > DIRECT_FILLS, min(together * cuts, DIRECT_BLOCKS)
    scratch, size, layout = plan_scratch(channels, groups, taps, stride, vector, height, height, line,
                                         samples if shared else 0)
    between = groups * size if shared else size             # a scratch and the one of the next image
    pixel = (np.arange(height)[:, None] * line + np.arange(0, width, count)).ravel()
    begins = (np.arange(images)[:, None] * between + pixel).ravel()
    begins = np.append(begins, np.repeat(begins[-1:], -len(begins) % parts))
    walk = Walk(scratch, int(shared), images, cuts, together * cuts, *first, *step, height, width, run, int(relu))
    return Convolution(
        pack, vectors * vector, layout, begins,
        # The last job's last tile reads of images that it does not have.
        (panels(samples, images) * images * groups if shared else blocks * images, size), walk,
        fill_parts.launch(samples * groups * scratch.parts, work=samples * groups * size) if shared else None,
        _convolve(parts, count, vectors).launch(blocks, work=y.size * len(layout[0])))


def _tile(pixels: int, width: int, vectors: int) -> tuple[int, int, int]:
    """Return parts, the run of pixels in each, and vectors of filters of the tile that wastes least."""
    run = next(run for run in (4, 7, 1) if width % run == 0)
    tiles = [(rows // run, run, wide) for wide in (3, 2, 1) if (rows := (REGISTERS - 1) // wide - 1) >= run]

    def cost(tile: tuple[int, int, int]) -> int:
        """Steps of all tiles: two products a cycle, or two loads, of which one of a vector touches two lines."""
        tall, wide = tile[0] * run, tile[2]
        return panels(pixels, tall) * panels(vectors, wide) * (max(tall * wide, tall + 2 * wide) + 1)

    return min(tiles, key=cost)


@functools.cache
def _convolve(parts: int, count: int, vectors: int) -> BlockKernel:
    """The kernel of all convolutions whose tile has this shape."""
    multiply, tall = walk_tile(parts, count, vectors), parts * count

    @block_kernel(writes="scratches pixels y result", sums=True)
    @named("convolve", f"{parts}x{count}x{vectors}")
    def convolve(block: int, walk: Walk, source: Array, packed: Array, offsets: Array, phases_y: Array,
                 phases_x: Array, begins: Array, bias: Array, scratches: Array, pixels: Array, y: Array,
                 result: Array) -> None:
        """Jobs, each some images of one group, by a cut of its filters.

        packed: (groups, panels, taps, columns), pixels is scratches, result is y.
        """
        groups, filter_panels, depth, columns = packed.shape
        samples, images, cuts, positions = source.shape[0], walk.images, walk.cuts, walk.height * walk.width
        filters, size, blocks = y.shape[1] // groups, scratches.shape[1], min(walk.jobs, DIRECT_BLOCKS)
        totals = np.empty(((filter_panels + cuts - 1) // cuts, len(begins) * count, columns), y.dtype)
        for job in range(block * walk.jobs // blocks, (block + 1) * walk.jobs // blocks):
            cut, group, first = job % cuts, job // cuts % groups, job // cuts // groups * images
            first_panel, last_panel = cut * filter_panels // cuts, (cut + 1) * filter_panels // cuts
            inside = min(images, samples - first)
            scratch = pixels[(first * groups + group if walk.shared else block * images) * size :]
            if not walk.shared:
                for i in range(inside):
                    fill_part(walk.scratch, phases_y, phases_x, source, (first + i) * groups + group, 0,
                              scratches[block * images + i])
            tiles = (inside * positions + tall - 1) // tall
            for panel in range(first_panel, last_panel):
                total = totals[panel - first_panel]
                total[:] = 0
                if bias.size:
                    for j in range(min(columns, filters - panel * columns)):
                        total[:, j] = bias[group * filters + panel * columns + j]
            for k in range(0, depth, walk.run):             # what a run reads stays in the first cache for all panels
                end = min(k + walk.run, depth)
                for panel in range(first_panel, last_panel):
                    for t in range(tiles):
                        multiply(scratch, begins[t * parts :], offsets[k:end], packed[group, panel, k:end], 0,
                                 totals[panel - first_panel, t * tall : t * tall + tall])
            for panel in range(first_panel, last_panel):
                for i in range(inside):
                    f = group * filters + panel * columns
                    _put(totals[panel - first_panel].reshape(-1), i * positions, columns,
                         min(columns, (group + 1) * filters - f), walk, result,
                         ((first + i) * y.shape[1] + f) * y.shape[2] * y.shape[3], y.shape[2] * y.shape[3], y.shape[3])

    return convolve


@helper
def _put(total: Array, pixel: int, columns: int, filters: int, walk: Walk, result: Array, corner: int, plane: int,
         line: int) -> None:
    """Put an image's results (pixels, columns) of some filters where they belong."""
    vector, positions = lanes(total), walk.height * walk.width
    if walk.positive:
        for at in range(pixel * columns, (pixel + positions) * columns):
            total[at] = 0 if total[at] < 0 else total[at]
    whole = filters // vector * vector if positions == plane >= vector else 0
    for f in range(0, whole, vector):
        for q in range(0, positions, vector):
            at = min(q, positions - vector)
            transpose_tile(total, (pixel + at) * columns + f, columns, result, corner + f * plane + at, plane)
    for f in range(whole, filters):
        for row in range(walk.height):
            at = max(0, corner + f * plane + (walk.first_y + row * walk.step_y) * line + walk.first_x)
            for column in range(walk.width):
                result[at + column * walk.step_x] = total[(pixel + row * walk.width + column) * columns + f]
