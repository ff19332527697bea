"""Quantised networks, whose results are the same to the bit in all versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.testing.table.base import F32, U8, Array, Benchmark, Call, Kernel, Options, Refused, Shaped, draw, normal


def bytes_of(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 256, shape, np.uint8)


def signed(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-128, 128, shape, np.int8)


def _quantize_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for shape in [(2, 3, 4, 5), (3, 7), (1, 1, 1, 1), (1, 9000)]:
        yield Call((draw(rng, dtype, *shape), 0.02, 117))
    yield Call((np.array([[-0.5, 0.5, 1.5, 2.5, np.nan, np.inf, -np.inf, 254.5]], dtype), 1.0, 0))


def _quantize_refused() -> Iterator[Refused]:
    x = normal(2, 3)
    yield Refused(Call((x, 0.0, 0)), ValueError, r"scale: expected a number from 1.17549e-38 to")
    yield Refused(Call((x, 1.0, 256)), ValueError, r"zero_point: expected from 0 to 255, got 256")
    yield Refused(Call((x[0], 1.0, 0)), ValueError, r"x: expected 2 or 4 dimensions")
    yield Refused(Call((x.astype(int), 1.0, 0)), TypeError, r"x: expected float32 or float64")


def _lookup_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for shape in [(3, 5), (1,), (2, 3, 4, 5), (1, 8209)]:
        for table in (bytes_of(rng, 256), draw(rng, F32, 256)):
            yield Call((bytes_of(rng, *shape), table))


def _lookup_refused() -> Iterator[Refused]:
    x, table = np.zeros(3, np.uint8), np.zeros(256, np.uint8)
    yield Refused(Call((x.astype(int), table)), TypeError, r"x: expected uint8, got int64")
    yield Refused(Call((x, table.astype(int))), TypeError, r"table: expected uint8, float32 or float64, got int64")
    yield Refused(Call((x, table[1:])), ValueError, r"table: expected shape \(256,\), got \(255,\)")


def scaled(rng: np.random.Generator, x: tuple[int, ...], weight: tuple[int, ...], bias: bool = True) -> tuple:
    """x, a weight, and the scales and biases that bring about half of the results into the range of bytes."""
    terms = float(np.prod(weight[1:]))
    scale = (rng.random(weight[0]) / (100 * np.sqrt(terms))).astype(np.float32)
    return (bytes_of(rng, *x), signed(rng, *weight), scale,
            128 + 40 * draw(rng, np.float32, weight[0]) if bias else None)


def _conv_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
            ((2, 5, 6, 3), (4, 3, 3, 3), {"padding": 1, "zero_point": 7}),
            ((1, 5, 5, 2), (70, 2, 3, 3), {"padding": 1, "stride": 2, "zero_point": 255}),
            ((2, 5, 5, 6), (4, 3, 3, 2), {"padding": (1, 2), "dilation": 2, "groups": 2, "zero_point": 3}),
            ((3, 4, 4, 5), (33, 5, 1, 1), {}),
            ((2, 5, 4, 4), (4, 1, 3, 3), {"padding": "same", "groups": 4, "zero_point": 128}),
            ((5, 2, 3, 4), (64, 4, 1, 2), {"padding": 1, "zero_point": 1}),
            ((1, 40, 9, 1), (1, 1, 2, 2), {"stride": (1, 2)})]
    for x, weight, options in cases:
        call = Call(scaled(rng, x, weight), options)
        yield call
        if weight[0] <= 8:                  # fewer kinds of tiles to compile
            yield Call(call.args[:3], {**options, "dtype": np.float32})
        shape = _convolved(call)
        yield Call((*call.args, bytes_of(rng, *shape)), {**options, "residual_scale": 0.3})


def _convolved(call: Call) -> tuple[int, ...]:
    """The shape of a convolution's result."""
    from fastnn.kernels.conv.geometry import fit

    (n, h, w, c), options = call.args[0].shape, call.kwargs
    _, (n, c, h, w) = fit((n, c, h, w), call.args[1].shape, options.get("stride", 1), options.get("padding", 0),
                          options.get("dilation", 1), options.get("groups", 1))
    return n, h, w, c


def _conv_refused() -> Iterator[Refused]:
    rng = np.random.default_rng(0)
    x, weight, scale, bias = scaled(rng, (1, 4, 4, 3), (2, 3, 3, 3))
    yield Refused(Call((x[0], weight, scale)), ValueError, r"x: expected 4 dimensions \(N, H, W, C\)")
    yield Refused(Call((x.astype(F32), weight, scale)), TypeError, r"x: expected uint8, got float32")
    yield Refused(Call((x, weight.view(np.uint8), scale)), TypeError, r"weight: expected int8, got uint8")
    yield Refused(Call((x, weight[:, :2].copy(), scale)), ValueError, r"weight: expected 3 channels in each filter")
    yield Refused(Call((x, weight, scale[:1])), ValueError, r"scale: expected shape \(2,\), got \(1,\)")
    yield Refused(Call((x, weight, None)), TypeError, r"scale: expected an array, got None")
    yield Refused(Call((x, weight, scale, bias.astype(int))), TypeError, r"bias: expected float32 or float64, got")
    yield Refused(Call((x, weight, scale, bias, x)), ValueError, r"residual: expected shape \(1, 2, 2, 2\)")
    yield Refused(Call((x, weight, scale), {"zero_point": -1}), ValueError, r"zero_point: expected at least 0, got -1")
    yield Refused(Call((x, weight, scale), {"dtype": np.int32}), TypeError, r"dtype: expected uint8 or float32, got i")
    yield Refused(Call((x, weight, scale), {"residual_scale": np.nan}), ValueError, r"residual_scale: expected a num")
    many = np.zeros((1, 1, 1, 65_794), np.uint8)
    yield Refused(Call((many, many.view(np.int8).transpose(0, 3, 1, 2), scale[:1])), ValueError,
                  r"weight: expected at most 65793 products in a sum, which fits 32 bits then, got 65794")


def _linear_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for n, i, o in [(3, 5, 2), (1, 1, 1), (15, 7, 33), (2, 601, 100)]:
        call = Call(scaled(rng, (n, i), (o, i)), {"zero_point": n})
        yield call
        if o <= 8:
            yield Call(call.args[:3], {**call.kwargs, "dtype": np.float32})
    # The largest sums, which fit 32 bits.
    yield Call((np.full((1, 65_793), 255, np.uint8), np.full((1, 65_793), -128, np.int8), np.ones(1, F32)),
               {"dtype": np.float32})


def _linear_refused() -> Iterator[Refused]:
    x, weight, scale, bias = scaled(np.random.default_rng(0), (3, 4), (2, 4))
    yield Refused(Call((x[0], weight, scale)), ValueError, r"x: expected 2 dimensions \(N, I\)")
    yield Refused(Call((x, weight[:, :3].copy(), scale)), ValueError, r"weight: expected shape \(O, 4\)")
    yield Refused(Call((x, weight, scale, bias[:1])), ValueError, r"bias: expected shape \(2,\), got \(1,\)")


def _pool_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[Any, Options]] = [
        (2, {}), ((3, 2), {"stride": (2, 1), "padding": 1}), (2, {"dilation": 2, "stride": 1}),
        (3, {"stride": 2, "ceil_mode": True})]
    for size, options in cases:
        yield Call((bytes_of(rng, 2, 7, 6, 5), size), options)


def _pool_refused() -> Iterator[Refused]:
    x = np.zeros((1, 4, 4, 3), np.uint8)
    yield Refused(Call((x.astype(F32), 2)), TypeError, r"x: expected uint8, got float32")
    yield Refused(Call((x, 5)), ValueError, r"kernel_size: expected windows of at most the padded image's size")
    yield Refused(Call((x, 2), {"padding": 2}), ValueError, r"padding: expected at most half of kernel_size")


def _conv_benchmark(n: int) -> Call:
    return Call(scaled(np.random.default_rng(0), (n, 28, 28, 64), (64, 64, 3, 3)), {"padding": 1})


def _linear_benchmark(n: int) -> Call:
    return Call(scaled(np.random.default_rng(0), (n, 3136), (128, 3136)))


ROWS = (
    Kernel("quantize_per_tensor", _quantize_samples, refused=_quantize_refused, given=(),
           benchmarks=(Benchmark("64 x 3 x 64 x 64", lambda n: Call((normal(n, 3, 64, 64, dtype=F32), 0.02, 117)), 64,
                                 5.0 * 64 * 3 * 64 * 64, "byte"),)),
    Kernel("lookup_int8", _lookup_samples, refused=_lookup_refused, given=(), dtypes=(U8,),
           benchmarks=(Benchmark("64 x 28 x 28 x 32", lambda n: Call((
               bytes_of(np.random.default_rng(0), n, 28, 28, 32), bytes_of(np.random.default_rng(1), 256))), 64,
               2.0 * 64 * 28 * 28 * 32, "byte"),)),
    Kernel("conv2d_int8", _conv_samples, refused=_conv_refused, given=(), dtypes=(U8,),
           benchmarks=(Benchmark("32 x 64 x 28 x 28, 64 filters of 3 x 3", _conv_benchmark, 32,
                                 2.0 * 32 * 784 * 64 * 576, "flop"),)),
    Kernel("linear_int8", _linear_samples, refused=_linear_refused, given=(), dtypes=(U8,),
           benchmarks=(Benchmark("64 x 3136 by 128 x 3136", _linear_benchmark, 64, 2.0 * 64 * 3136 * 128, "flop"),)),
    Kernel("max_pool2d_int8", _pool_samples, refused=_pool_refused, given=(), dtypes=(U8,),
           benchmarks=(Benchmark("64 x 28 x 28 x 32, 2 x 2", lambda n: Call((
               bytes_of(np.random.default_rng(0), n, 28, 28, 32), 2)), 64, 1.25 * 64 * 28 * 28 * 32, "byte"),)),
)
