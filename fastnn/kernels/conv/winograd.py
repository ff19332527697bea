"""Winograd's convolution F(4 x 4, 3 x 3): 36 products a filter and channel for 16 results, instead of 144.

A result's tile of 4 x 4 pixels y reads 6 x 6 pixels d of each channel, and

    y = A^T [ sum over channels of (G w G^T) * (B^T d B) ] A,

products of 36 numbers one by one (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016,
equation 12): 36 matrix products over the channels. The matrices belong to the points 0, +-3/4, +-3/2 and infinity,
whose rounding error is a quarter of that of 0, +-1, +-2 and infinity, which are the usual ones.

The gradient by the input is such a convolution of the gradient by the filters turned round. The one by the weights is
the transpose of the formula above in w: G^T [ sum over tiles of (A dy A^T) * (B^T d B) ] G.

A block takes some tiles through all steps while they are in its cache. Lanes of a vector are channels: pixels come in
and go out by transposing vectors of them.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastnn.kernels._arrays import EMPTY, Array, empty
from fastnn.kernels._jit import BlockKernel, block_kernel, get_num_threads, helper
from fastnn.kernels._matrix import panels
from fastnn.kernels._simd import ROWS, VECTORS, copy_vector, lanes, tile_columns, transpose_tile, walk_tile
from fastnn.kernels.conv._transforms import Matrix, put_pixels, take_pixels, toom_cook, transform_tile, transposed

if TYPE_CHECKING:
    from fastnn.kernels.conv import Geometry

_OUT, _IN = 4, 6                            # pixels of a tile's side, of results and of what they read
_PRODUCTS = _IN * _IN
A, G, B = toom_cook((Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)), _OUT, 3)

_PAIRS = (0, 5), (1, 2), (3, 4)             # rows of the products; those of opposite points share their work
_CACHE = 1 << 18                            # elements of sums that a block keeps at most
_FEW_FILTERS = 1 << 13                      # filters times channels that stay in the cache when they are transformed
_CHUNK = 128                                # channels of one running sum, and of filters that a block transforms itself
_CUTS = 16                                  # so many jobs at least, where the work can be cut so
_LEAST_GROUP = 24                           # tiles that are summed up at once

_put_zeros = copy_vector(0)
_transform_weight, _transform_sums = transform_tile(G, G), transform_tile(A, A)


def conv2d(x: Array, weight: Array, bias: Array | None, relu: bool, geometry: Geometry, y: Array,
           packed: Array | None = None) -> Array:
    """Write the convolution plus a bias, and with relu 0 where that is negative.

    packed is what `pack` made of the weights. Returns for each image whether all of its sums are finite: where they are
    not, a tile's NaN or inf may have come to more of its results than the formula says.
    """
    return _convolve(x, weight, False, packed, bias, relu, geometry.padding, y)


def spread(grad_output: Array, weight: Array, geometry: Geometry, grad_x: Array) -> Array:
    """Write the gradient by the input; returns for each image whether it is finite."""
    padding = 2 - geometry.padding[0], 2 - geometry.padding[1]
    return _convolve(grad_output, weight, True, None, None, False, padding, grad_x)


def pack(weight: Array, backward: bool = False) -> Array:
    """Return the transformed filters, in the order in which tiles read them: (panels, products, channels, lanes)."""
    results, channels = (weight.shape[1], len(weight)) if backward else weight.shape[:2]
    columns = tile_columns(weight)
    packed = empty((panels(results, columns), _PRODUCTS, channels, columns), weight.dtype)
    cuts = min(channels, panels(_CUTS, len(packed)))
    _pack(len(packed) * cuts, weight.reshape(-1), int(backward), results, cuts, packed, packed.reshape(-1),
          work=packed.size)
    return packed


@block_kernel(writes="packed flat")
def _pack(block: int, weight: Array, backward: int, results: int, cuts: int, packed: Array, flat: Array) -> None:
    """A cut of the channels of one panel of filters."""
    channels, columns = packed.shape[2], packed.shape[3]
    panel, cut = block // cuts, block % cuts
    first, end = cut * channels // cuts, (cut + 1) * channels // cuts
    _pack_panel(weight, backward, results, channels, panel * columns, first, end, flat,
                (panel * _PRODUCTS * channels + first) * columns, channels, columns)


@helper
def _pack_panel(weight: Array, backward: int, results: int, channels: int, first_result: int, first: int, end: int,
                packed: Array, begin: int, height: int, columns: int) -> None:
    """Transform some channels of a panel of filters, or of the filters turned round; a product is height x columns."""
    vector = lanes(packed)
    result_step, channel_step = (9, results * 9) if backward else (channels * 9, 9)
    taps = np.zeros(16 * vector, packed.dtype)
    corner, step = (8 * vector, -vector) if backward else (0, vector)
    for c in range(first, end):
        for left in range(0, columns, vector):
            result = first_result + left
            source = result * result_step + c * channel_step
            if result + vector <= results and source + (vector - 1) * result_step + 16 <= weight.size:
                for t in range(0, 9, vector):
                    transpose_tile(weight, source + t, result_step, taps, t * vector, vector)
            else:
                for t in range(9):
                    for r in range(vector):
                        taps[t * vector + r] = weight[source + t + r * result_step] if result + r < results else 0
            _transform_weight(taps, corner, 3 * step, step, packed, begin + (c - first) * columns + left,
                              _IN * height * columns, height * columns)


class _Plan(NamedTuple):
    """What follows from the shapes of a convolution alone. A block is a cut of the filters over a group of tiles."""

    rows: int                               # of the register tile
    groups: int
    group: int                              # tiles in each
    cuts: int
    places: tuple[Array, Array]             # where pixels of a row of x and of y lie among their tiles, in vectors
    offsets: Array                          # from a tile's product for the first channel to that for any other
    staged: int                             # elements of a block's scratch for pixels


@functools.lru_cache(maxsize=256)
def _places(width: int, line: int, vector: int) -> Array:
    """Where the pixels of a row, and of a vector from any of them on, lie in rows that are `line` long."""
    pixels = np.arange(width + vector)
    places = pixels // width * line + pixels % width
    places.flags.writeable = False
    return places


def _staged(group: int, columns: int, size: int) -> int:
    """Vectors of pixels, size x size a tile in steps of 4, that tiles in this order cover at most."""
    return (_OUT * (panels(group - 1, columns) + 1) + size - _OUT) * (_OUT * columns + size - _OUT)


@functools.lru_cache(maxsize=256)
def _plan(x: tuple[int, ...], y: tuple[int, ...], vector: int, filter_panels: int) -> _Plan:
    across = panels(y[3], _OUT)
    tiles = y[0] * panels(y[2], _OUT) * across
    rows = min((ROWS, ROWS * 4 // 7), key=lambda rows: panels(tiles, rows) * (rows + 1))
    groups = panels(tiles, 3 * ROWS)
    if x[1] * y[1] < _FEW_FILTERS:                  # they stay in the cache, so blocks may as well be small
        groups = max(groups, min(_CUTS, panels(tiles, rows)))
    group = panels(panels(tiles, groups), rows) * rows
    groups = panels(tiles, group)
    cuts = max(1, min(filter_panels // 2, panels(_CUTS, groups)))
    channel = np.arange(x[1])
    return _Plan(rows, groups, group, cuts,
                 (_places(x[3], _OUT * across + 2, vector), _places(y[3], _OUT * across, vector)),
                 channel // vector * (_PRODUCTS * group * vector) + channel % vector,
                 _staged(group, across, _IN) * vector)


def _convolve(x: Array, weight: Array, backward: bool, packed: Array | None, bias: Array | None, relu: bool,
              padding: tuple[int, int], y: Array) -> Array:
    """Write y; returns for each image whether its sums are finite."""
    vector, workers = lanes(y), get_num_threads()
    columns = tile_columns(y)
    plan = _plan(x.shape, y.shape, vector, panels(y.shape[1], columns))
    fused = packed is None and plan.groups == 1     # each panel is used once: it need not go through memory
    if packed is None:
        packed = empty((workers, _PRODUCTS, _CHUNK, columns), y.dtype) if fused else pack(weight, backward)
    if bias is None:
        biases = EMPTY[y.dtype]
    else:
        biases = np.zeros(panels(len(bias), columns) * columns, y.dtype)
        biases[: len(bias)] = bias
    finite = np.ones(len(x), np.uint8)
    _convolve_tiles(plan.rows)(
        plan.groups * plan.cuts, x, x.reshape(-1), weight.reshape(-1), int(backward), int(fused), packed,
        packed.reshape(-1), plan.offsets, *plan.places, biases, int(relu), *padding, plan.group, plan.cuts,
        empty((workers, plan.staged), y.dtype),
        empty((workers, panels(x.shape[1], vector) * _PRODUCTS * plan.group * vector), y.dtype),
        empty((workers, _PRODUCTS * plan.group, columns), y.dtype), y, y.reshape(-1), finite,
        work=y.size * x.shape[1], workers=workers)
    return finite.view(bool)


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


@helper
def _unstage(staged: Array, places: Array, first: int, end: int, corner: int, bias: Array, bias_begin: int,
             positive: int, pixels: Array, begin: int, plane: int, channels: int) -> int:
    """Put pixels first to end back into their channels; returns 1 if all are finite, else 0."""
    vector, finite = lanes(staged), 1
    width, line = places.size - vector, places[places.size - vector]
    if end - first >= vector:
        for q in range(first, end, vector):
            row, column = min(q, end - vector) // width, min(q, end - vector) % width
            finite &= put_pixels(staged, places, column, corner + row * line, bias, bias_begin, positive, pixels,
                                 begin + row * width, plane, channels)
        return finite
    zero = pixels.dtype.type(0)
    for q in range(first, end):
        place = (corner + q // width * line + q % width) * vector
        for c in range(channels):
            value = staged[place + c]
            if value * zero != zero:
                finite = 0
            if bias_begin >= 0:
                value += bias[bias_begin + c]
            pixels[begin + c * plane + q] = zero if positive and value < zero else value
    return finite


def _whole(matrix: Matrix) -> Any:
    """Return the function that transforms tiles by a matrix from both sides."""
    tile = transform_tile(matrix, matrix)

    @helper
    def transform(pair: int, a: Array, begin: int, line: int, b: Array, at: int, step: int) -> None:
        tile(a, begin, line, lanes(b), b, at, _IN * step, step)

    return transform


def _by_pairs(matrix: Matrix) -> Any:
    """The same for two rows of the products, those of _PAIRS[pair]."""
    first, second, third = (transform_tile(tuple(matrix[i] for i in pair), matrix) for pair in _PAIRS)

    @helper
    def transform(pair: int, a: Array, begin: int, line: int, b: Array, at: int, step: int) -> None:
        if pair == 0:
            first(a, begin, line, lanes(b), b, at, _IN * step, step)
        elif pair == 1:
            second(a, begin, line, lanes(b), b, at, _IN * step, step)
        else:
            third(a, begin, line, lanes(b), b, at, _IN * step, step)

    return transform


def _loader(size: int, transform: Any) -> Any:
    """Return the function that transforms tiles of size x size pixels, whose corners are 4 pixels apart."""
    overlap = size - _OUT

    def load(pair: int, pixels: Array, flat: Array, first_channel: int, end_channel: int, first: int, end: int,
             down: int, across: int, pad_y: int, pad_x: int, places: Array, staged: Array, tiles: Array,
             tile_step: int, product_step: int, chunk_step: int, group_step: int, in_group: int) -> None:
        """Tiles first to end of all images, in the order of images, rows, columns, zeros around each image.

        The vector of a product, tile and chunk of `lanes` channels comes to product_step, tile_step and chunk_step
        times its index, where each group of in_group chunks begins group_step after the last.
        """
        _, channels, height, width = pixels.shape
        vector, plane, line = lanes(tiles), height * width, _OUT * across + overlap
        for chunk in range((end_channel - first_channel + vector - 1) // vector):
            channel = first_channel + chunk * vector
            inside = min(vector, end_channel - channel)
            target = chunk // in_group * group_step + chunk % in_group * chunk_step
            t = first
            while t < end:
                n, begin = t // (down * across), t % (down * across)
                count = min(end - t, down * across - begin)
                top, lowest = begin // across * _OUT, (begin + count - 1) // across * _OUT
                from_column, to_column = 0, line        # of the padded image, all that these tiles read
                if top == lowest:
                    from_column = begin % across * _OUT
                    to_column = from_column + count * _OUT + overlap
                first_column, end_column = max(0, from_column - pad_x), min(width, to_column - pad_x)
                source, corner = (n * channels + channel) * plane, (pad_y - top) * line + pad_x
                first_row, end_row = max(0, top - pad_y), min(height, lowest + _OUT + overlap - pad_y)
                for row in range(top - pad_y, lowest + _OUT + overlap - pad_y):
                    at = (row + pad_y - top) * line
                    if not first_row <= row < end_row:
                        for column in range(at + from_column, at + to_column):
                            _put_zeros(flat, 0, staged, column * vector)
                        continue
                    for column in range(at + from_column, at + first_column + pad_x):
                        _put_zeros(flat, 0, staged, column * vector)
                    for column in range(at + max(first_column, end_column) + pad_x, at + to_column):
                        _put_zeros(flat, 0, staged, column * vector)
                    if top == lowest:
                        _stage(flat, source, plane, inside, row * width + first_column, row * width + end_column,
                               places, corner, staged)
                if top < lowest and first_row < end_row:
                    _stage(flat, source, plane, inside, first_row * width, end_row * width, places, corner, staged)
                for i in range(begin, begin + count):
                    at = (i // across * _OUT - top) * line + i % across * _OUT
                    transform(pair, staged, at * vector, line * vector, tiles,
                              target + (t + i - begin - first) * tile_step, product_step)
                t += count

    return helper(load)


_load_input, _load_input_pair = _loader(_IN, _whole(B)), _loader(_IN, _by_pairs(B))
_load_gradient_pair = _loader(_OUT, _by_pairs(transposed(A)))


@functools.cache
def _convolve_tiles(tile_rows: int) -> BlockKernel:
    """The kernel of all convolutions whose register tile has so many rows."""
    multiply = walk_tile(1, tile_rows, VECTORS, spread=True)

    def convolve(block: int, worker: int, x: Array, pixels: Array, weight: Array, backward: int, fused: int,
                 packed: Array, packed_flat: Array, offsets: Array, places: Array, y_places: Array, bias: Array,
                 positive: int, pad_y: int, pad_x: int, group: int, cuts: int, staging: Array, transformed: Array,
                 totals: Array, y: Array, result: Array, finite: Array) -> None:
        """A cut of the filters over a group of tiles."""
        staged, tiles, total = staging[worker], transformed[worker], totals[worker]
        sums, channels, columns = total.reshape(-1), x.shape[1], packed.shape[3]
        images, filters, height, width = y.shape
        filter_panels = (filters + columns - 1) // columns
        down, across, vector = (height + _OUT - 1) // _OUT, (width + _OUT - 1) // _OUT, lanes(y)
        line, begins, cut = _OUT * across, np.zeros(1, np.int64), block % cuts
        first = block // cuts * group
        end = min(images * down * across, first + group)
        _load_input(0, x, pixels, 0, channels, first, end, down, across, pad_y, pad_x, places, staged, tiles, vector,
                    group * vector, _PRODUCTS * group * vector, 0, channels)
        for panel in range(cut * filter_panels // cuts, (cut + 1) * filter_panels // cuts):
            total[:] = 0
            for c in range(0, channels, _CHUNK):
                last = min(channels, c + _CHUNK)
                if fused:
                    _pack_panel(weight, backward, filters, channels, panel * columns, c, last, packed_flat,
                                worker * _PRODUCTS * _CHUNK * columns, _CHUNK, columns)
                for k in range(_PRODUCTS):
                    rows = packed[worker, k, : last - c] if fused else packed[panel, k, c:last]
                    for t in range(0, end - first, tile_rows):
                        begins[0] = (k * group + t) * vector
                        multiply(tiles, begins, offsets[c:last], rows,
                                 total[k * group + t : k * group + t + tile_rows])
            for left in range(0, min(columns, filters - panel * columns), vector):
                f = panel * columns + left
                inside = min(vector, filters - f)
                t = first
                while t < end:                              # a row of an image's tiles, or what is here of it
                    n, i, j = t // (down * across), t // across % down, t % across
                    count = min(end - t, across - j)
                    for s in range(count):
                        _transform_sums(sums, (t + s - first) * columns + left, _IN * group * columns,
                                        group * columns, staged, (j + s) * _OUT * vector, line * vector, vector)
                    step = 1 if count < across else _OUT
                    begin = (n * filters + f) * height * width
                    for row in range(i * _OUT, min(height, i * _OUT + _OUT), step):
                        last = min(height, row + step) * width
                        if count < across:
                            last = row * width + min(width, (j + count) * _OUT)
                        if not _unstage(staged, y_places, row * width + j * _OUT, last, -i * _OUT * line, bias,
                                        f if bias.size else -1, positive, result, begin, height * width, inside):
                            finite[n] = 0
                    t += count

    convolve.__qualname__ = f"convolve_{tile_rows}"
    return block_kernel(writes="packed packed_flat staging transformed totals y result finite")(convolve)


_transform_gradient = transform_tile(((1.0, 0.0), (0.0, 1.0)), transposed(G))
_FACTORS = np.array(G)[np.array(_PAIRS)]    # what each row of a pair counts in each row of the gradient


def correlate(x: Array, grad_output: Array, geometry: Geometry, grad_weight: Array) -> bool:
    """Write the gradient by the weights; returns whether it is finite."""
    vector, workers, (filters, channels) = lanes(x), get_num_threads(), grad_weight.shape[:2]
    rows = min((ROWS, ROWS - 1), key=lambda rows: panels(filters, rows) * (rows + 1))
    columns = tile_columns(x)
    x_panels, filter_panels = panels(channels, columns), panels(filters, rows)
    cuts = panels(filter_panels, max(1, _CACHE // (2 * _IN * rows * x_panels * columns)))
    share = panels(filter_panels, cuts)
    cuts = panels(filter_panels, share)
    across = panels(grad_output.shape[3], _OUT)
    tiles, width = len(x) * panels(grad_output.shape[2], _OUT) * across, panels(share * rows, vector) * vector
    slices = min(panels(_CUTS, len(_PAIRS) * cuts), panels(tiles, _LEAST_GROUP))
    group = min(panels(tiles, slices), max(_LEAST_GROUP, _CACHE // (2 * _IN * (x_panels * columns + width))))
    partial = empty((slices, len(_PAIRS), filters, 6, x_panels * columns), x.dtype)
    finite = np.ones(filters, np.uint8)
    _correlate_tiles(rows)(
        slices * len(_PAIRS) * cuts, x, x.reshape(-1), grad_output, grad_output.reshape(-1), np.arange(group) * width,
        _places(x.shape[3], _OUT * across + 2, vector), _places(grad_output.shape[3], _OUT * across, vector),
        *geometry.padding,
        empty((workers, _staged(group, across, _IN) * vector), x.dtype),
        empty((workers, _staged(group, across, _OUT) * vector), x.dtype),
        empty((workers, 2 * _IN * x_panels, group, columns), x.dtype),
        empty((workers, 2 * _IN * group * width), x.dtype),
        empty((workers, 2 * _IN, share, x_panels, rows, columns), x.dtype), partial, partial.reshape(-1),
        work=grad_output.size * channels, workers=workers)
    _sum_slices(filters, partial, _FACTORS.astype(x.dtype), grad_weight.reshape(filters, channels, 9), finite,
                work=partial.size)
    return bool(finite.all())


@functools.cache
def _correlate_tiles(tile_rows: int) -> BlockKernel:
    """The kernel of all gradients by the weights whose register tile has so many rows."""
    multiply = walk_tile(1, tile_rows, VECTORS)

    def correlate(block: int, worker: int, x: Array, x_flat: Array, grad_output: Array, grad_flat: Array,
                  offsets: Array, x_places: Array, grad_places: Array, pad_y: int, pad_x: int, x_staging: Array,
                  grad_staging: Array, x_tiles: Array, grad_tiles: Array, totals: Array, partial: Array,
                  result: Array) -> None:
        """Two rows of the products of a share of the filters' panels over one slice of all tiles."""
        slices, filters, channels = partial.shape[0], partial.shape[2], x.shape[1]
        group, columns, vector = x_tiles.shape[2], x_tiles.shape[3], lanes(x)
        height, width = grad_output.shape[2:]
        down, across = (height + _OUT - 1) // _OUT, (width + _OUT - 1) // _OUT
        tiles = x.shape[0] * down * across
        total, transformed, gradients = totals[worker], x_tiles[worker], grad_tiles[worker]
        sums, products, begins = total.reshape(-1), transformed.reshape(-1), np.zeros(1, np.int64)
        share, x_panels, grad_width = total.shape[1], total.shape[2], gradients.size // (2 * _IN * group)
        pair, cut, part = block % 3, block // 3 % slices, block // 3 // slices
        first_filter, end_filter = part * share * tile_rows, min(filters, (part + 1) * share * tile_rows)
        total[:] = 0
        end = (cut + 1) * tiles // slices
        for first in range(cut * tiles // slices, end, group):
            last = min(end, first + group)
            _load_input_pair(pair, x, x_flat, 0, channels, first, last, down, across, pad_y, pad_x, x_places,
                             x_staging[worker], products, columns, x_panels * group * columns, vector,
                             group * columns, VECTORS)
            _load_gradient_pair(pair, grad_output, grad_flat, first_filter, end_filter, first, last, down, across, 0,
                                0, grad_places, grad_staging[worker], gradients, grad_width, group * grad_width,
                                vector, 0, filters)
            for k in range(2 * _IN):
                for panel in range((end_filter - first_filter + tile_rows - 1) // tile_rows):
                    begins[0] = k * group * grad_width + panel * tile_rows
                    for c in range(x_panels):
                        multiply(gradients, begins, offsets[: last - first],
                                 transformed[k * x_panels + c, : last - first], total[k, panel, c])
        step, depth = share * x_panels * tile_rows * columns, x_panels * columns
        for f in range(first_filter, end_filter):
            panel, row = (f - first_filter) // tile_rows, (f - first_filter) % tile_rows
            for c in range(0, depth, vector):
                begin = ((panel * x_panels + c // columns) * tile_rows + row) * columns + c % columns
                _transform_gradient(sums, begin, _IN * step, step, result,
                                    ((cut * 3 + pair) * filters + f) * 6 * depth + c, 3 * depth, depth)

    correlate.__qualname__ = f"correlate_{tile_rows}"
    return block_kernel(writes="x_staging grad_staging x_tiles grad_tiles totals partial result")(correlate)


@block_kernel(writes="grad_weight finite")
def _sum_slices(f: int, partial: Array, factors: Array, grad_weight: Array, finite: Array) -> None:
    """The sum of a filter's slices and rows of products: (slices, pairs of rows, filters, 2 x 3, channels)."""
    depth = partial.shape[4]
    rows = np.empty((6, depth), partial.dtype)
    total = np.zeros((9, depth), partial.dtype)
    for pair in range(3):
        for t in range(6):
            for c in range(depth):
                rows[t, c] = partial[0, pair, f, t, c]
            for cut in range(1, partial.shape[0]):
                for c in range(depth):
                    rows[t, c] += partial[cut, pair, f, t, c]
        for t in range(9):
            for r in range(2):
                factor = factors[pair, r, t // 3]
                for c in range(depth):
                    total[t, c] += factor * rows[3 * r + t % 3, c]
    zero = partial.dtype.type(0)
    check = zero
    for c in range(grad_weight.shape[1]):
        for t in range(9):
            grad_weight[f, c, t] = total[t, c]
            check += total[t, c] * zero
    if check != zero:
        finite[f] = 0
