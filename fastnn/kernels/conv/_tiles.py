"""Tiles of images, cut out and transformed as Winograd's convolutions multiply them.

Filters have 3 x 3 or 5 x 5 taps, tiles always 6 x 6 pixels and so 36 products: the tiles of results, and the distance
of tiles, are 4 or 2 pixels. The matrices belong to the points 0, +-3/4, +-3/2 and infinity, whose rounding error is a
quarter of that of 0, +-1, +-2 and infinity, which are the usual ones.

Lanes of a vector are channels: pixels come in by transposing vectors of them.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.compiler import helper, named
from fastnn.kernels._cpu.gemm import panels
from fastnn.kernels._cpu.llvm import lanes
from fastnn.kernels._cpu.tiles import put_zeros
from fastnn.kernels.conv._transforms import Matrix, take_pixels, toom_cook, transform_tile, transposed

SIDE = 6                                    # pixels of a tile's side
PRODUCTS = SIDE * SIDE
PAIRS = (0, 5), (1, 2), (3, 4)              # rows of the products; those of opposite points share their work


@functools.cache
def matrices(taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T, G and B^T for filters of taps x taps."""
    points = Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)
    return toom_cook(points, results_of(taps), taps)


def results_of(taps: int) -> int:
    """Return the results of a tile's side, and the distance of tiles."""
    return SIDE + 1 - taps


@functools.lru_cache(maxsize=256)
def places(width: int, line: int, vector: int) -> Array:
    """Where the pixels of a row, and of a vector from any of them on, lie in rows that are `line` long."""
    pixels = np.arange(width + vector)
    places = pixels // width * line + pixels % width
    places.flags.writeable = False
    return places


def staged_pixels(tiles: int, across: int, size: int, distance: int) -> int:
    """Pixels, size x size a tile, that so many tiles in the order of rows of `across` cover at most."""
    return (distance * panels(tiles - 1, across) + size) * (distance * (across - 1) + size)


@helper
def _stage(pixels: Array, begin: int, plane: int, channels: int, first: int, end: int, places: Array, corner: int,
           staged: Array) -> None:
    """Put pixels first to end of some channels where they belong, channels side by side."""
    vector = lanes(staged)
    width, line = places.size - vector, places[places.size - vector]
    if channels == vector and end - first >= vector:
        for q in range(first, end, vector):
            row, column = min(q, end - vector) // width, min(q, end - vector) % width
            take_pixels(pixels, begin + row * width, plane, places, column, corner + row * line, staged)
        return
    for q in range(first, end):
        place = (corner + q // width * line + q % width) * vector
        for c in range(channels):
            staged[place + c] = pixels[begin + c * plane + q]
        for c in range(channels, vector):
            staged[place + c] = 0


@functools.cache
def tile_loader(taps: int, of_results: bool = False, by_pairs: bool = False) -> Any:
    """Return the function that cuts out tiles and transforms them: those of 6 x 6 pixels, or those of results.

    It does so to all products, or only to two rows of them, those of PAIRS[pair].
    """
    a, _, b = matrices(taps)
    matrix, distance = transposed(a) if of_results else b, results_of(taps)
    overlap = 0 if of_results else taps - 1
    name = taps, *("results",) * of_results, *("pairs",) * by_pairs
    transform = _transform(matrix, name, by_pairs)

    @helper
    @named("load", *name)
    def load(pair: int, images: Array, pixels: Array, first_channel: int, end_channel: int, first: int, end: int,
             down: int, across: int, pad_y: int, pad_x: int, places: Array, staged: Array, tiles: Array,
             tile_step: int, product_step: int, chunk_step: int, group_step: int, in_group: int) -> None:
        """Tiles first to end of all images, in the order of images, rows, columns, zeros around each image.

        The vector of a product, tile and chunk of `lanes` channels comes to product_step, tile_step and chunk_step
        times its index, where each group of in_group chunks begins group_step after the last.
        """
        _, channels, height, width = images.shape
        vector, plane, line = lanes(tiles), height * width, distance * across + overlap
        for chunk in range((end_channel - first_channel + vector - 1) // vector):
            channel = first_channel + chunk * vector
            inside = min(vector, end_channel - channel)
            target = chunk // in_group * group_step + chunk % in_group * chunk_step
            t = first
            while t < end:
                n, begin = t // (down * across), t % (down * across)
                count = min(end - t, down * across - begin)
                top, lowest = begin // across * distance, (begin + count - 1) // across * distance
                from_column, to_column = 0, line        # of the padded image, all that these tiles read
                if top == lowest:
                    from_column = begin % across * distance
                    to_column = from_column + count * distance + overlap
                first_column, end_column = max(0, from_column - pad_x), min(width, to_column - pad_x)
                source, corner = (n * channels + channel) * plane, (pad_y - top) * line + pad_x
                first_row, end_row = max(0, top - pad_y), min(height, lowest + distance + overlap - pad_y)
                for row in range(top - pad_y, lowest + distance + overlap - pad_y):
                    at = (row + pad_y - top) * line
                    if not first_row <= row < end_row:
                        for column in range(at + from_column, at + to_column):
                            put_zeros(pixels, 0, staged, column * vector)
                        continue
                    for column in range(at + from_column, at + first_column + pad_x):
                        put_zeros(pixels, 0, staged, column * vector)
                    for column in range(at + max(first_column, end_column) + pad_x, at + to_column):
                        put_zeros(pixels, 0, staged, column * vector)
                    if top == lowest:
                        _stage(pixels, source, plane, inside, row * width + first_column, row * width + end_column,
                               places, corner, staged)
                if top < lowest and first_row < end_row:
                    _stage(pixels, source, plane, inside, first_row * width, end_row * width, places, corner, staged)
                for i in range(begin, begin + count):
                    at = (i // across * distance - top) * line + i % across * distance
                    transform(pair, staged, at * vector, line * vector, tiles,
                              target + (t + i - begin - first) * tile_step, product_step)
                t += count

    return load


def _transform(matrix: Matrix, name: tuple[object, ...], by_pairs: bool) -> Any:
    """Return the function that transforms a tile by a matrix from both sides."""
    if not by_pairs:
        tile = transform_tile(matrix, matrix)

        @helper
        @named("transform", *name)
        def whole(pair: int, a: Array, begin: int, line: int, b: Array, at: int, step: int) -> None:
            tile(a, begin, line, lanes(b), b, at, SIDE * step, step)

        return whole

    first, second, third = (transform_tile(tuple(matrix[i] for i in pair), matrix) for pair in PAIRS)

    @helper
    @named("transform", *name)
    def two_rows(pair: int, a: Array, begin: int, line: int, b: Array, at: int, step: int) -> None:
        if pair == 0:
            first(a, begin, line, lanes(b), b, at, SIDE * step, step)
        elif pair == 1:
            second(a, begin, line, lanes(b), b, at, SIDE * step, step)
        else:
            third(a, begin, line, lanes(b), b, at, SIDE * step, step)

    return two_rows
