"""Convolutions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastnn.kernels.conv.geometry import WINOGRAD_SIZES
from fastnn.testing.table.base import (
    F32,
    Benchmark,
    Call,
    Kernel,
    Refused,
    Shaped,
    TorchFunction,
    WithRelu,
    by_weighted_sums,
    draw,
    normal,
)


def _conv2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
        ((2, 3, 5, 6), (4, 3, 3, 3), {}),
        ((1, 1, 1, 1), (1, 1, 1, 1), {}),
        ((2, 4, 7, 5), (6, 2, 3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}),
        ((1, 6, 5, 4), (6, 1, 3, 3), {"padding": 1, "groups": 6}),
        ((1, 2, 6, 5), (3, 2, 2, 3), {"padding": "same", "dilation": (2, 1)}),
        ((1, 2, 5, 7), (3, 2, 3, 3), {"padding": "valid", "stride": 3}),
        ((3, 5, 4, 4), (2, 5, 1, 1), {"stride": 2}),
        ((1, 1, 4, 3), (1, 1, 3, 3), {"padding": 6, "stride": 4, "dilation": 2}),
        ((2, 2, 9, 5), (17, 2, 2, 2), {}),
        ((2, 3, 6, 5), (4, 3, 3, 3), {"padding": 1, "activation": "relu"}),
        ((2, 4, 5, 19), (6, 2, 3, 3), {"stride": (1, 2), "groups": 2, "activation": "relu"}),
        ((2, 2, 6, 9), (17, 2, 3, 3), {"padding": (2, 1)}),
        ((2, 2, 5, 4), (3, 2, 5, 5), {"padding": 2}),
        ((2, 3, 7, 6), (3, 1, 3, 3), {"stride": 2, "padding": 1, "groups": 3}),
        ((1, 2, 6, 8), (2, 1, 2, 1), {"stride": (3, 2), "padding": (1, 0), "dilation": (2, 1), "groups": 2}),
    ]
    for image, filters, options in cases:
        yield Call((draw(rng, dtype, *image), draw(rng, dtype, *filters), draw(rng, dtype, *filters[:1])), options)


def _conv2d_takes(call: Call, algorithm: str) -> bool:
    weight = call.args[1 if call.args[2].ndim == 1 else 2]              # of the forward call, or of the backward's
    return algorithm != "winograd" or (
        weight.shape[2:] in WINOGRAD_SIZES and set(call.kwargs) <= {"padding", "activation"})


def _conv2d_refused() -> Iterator[Refused]:
    x, w, b = normal(2, 4, 5, 5), normal(6, 4, 3, 3), normal(6)
    yield Refused(Call((x[0], w)), ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got shape \(4, 5, 5\)")
    yield Refused(Call((x, w[0])), ValueError, r"weight: expected 4 dimensions")
    yield Refused(Call((x, w[:, :3])), ValueError, r"weight: expected 4 channels .* got shape \(6, 3, 3, 3\)")
    yield Refused(Call((x, w), {"groups": 3}), ValueError, r"groups: expected a divisor of the 4 input and 6 output")
    yield Refused(Call((x, w), {"groups": 0}), ValueError, r"groups: expected at least 1, got 0")
    yield Refused(Call((x, w, b[:5])), ValueError, r"bias: expected shape \(6,\), got \(5,\)")
    yield Refused(Call((x, normal(6, 4, 7, 3))), ValueError, r"no larger than the padded input, got height 7 .* for 5")
    yield Refused(Call((x, w), {"dilation": 3}), ValueError, r"no larger than the padded input, got height 7")
    yield Refused(Call((x, w), {"stride": 0}), ValueError, r"stride: expected at least 1, got 0")
    yield Refused(Call((x, w), {"stride": 1.5}), TypeError, r"stride: expected an integer, got 1.5")
    yield Refused(Call((x, w), {"stride": (1, 1, 1)}), ValueError, r"stride: expected an integer or a pair")
    yield Refused(Call((x, w), {"padding": -1}), ValueError, r"padding: expected at least 0, got -1")
    yield Refused(Call((x, w), {"padding": "full"}), ValueError, r"padding: .*'valid' or 'same', got 'full'")
    yield Refused(Call((x, w), {"algorithm": "magic"}), ValueError, r"algorithm: expected one of .* got 'magic'")
    yield Refused(Call((x, w), {"algorithm": "winograd", "stride": 2}), ValueError, r"'winograd' expects .* 'auto'")
    yield Refused(Call((x, w[..., :2]), {"algorithm": "winograd"}), ValueError,
                  r"'winograd' expects 3 x 3 or 5 x 5 filters")
    yield Refused(Call((x, w), {"activation": "elu"}), ValueError, r"activation: expected None or 'relu', got 'elu'")
    yield Refused(Call((x.astype(int), w)), TypeError, r"x: expected float32 or float64, got int64")
    yield Refused(Call((x + 1j, w)), TypeError, r"x: expected float32 or float64, got complex128")
    yield Refused(Call((x.astype(F32), w)), TypeError, r"weight: expected float32 as x has, got float64")
    yield Refused(Call((x.tolist(), w)), TypeError, r"x: expected an array, got list")
    yield Refused(Call((None, w)), TypeError, r"x: expected an array, got None")
    yield Refused(Call((x, None)), TypeError, r"weight: expected an array, got None")
    yield Refused(Call((x, w), {"out": np.empty((2, 6, 3, 2))}), ValueError, r"out: expected shape \(2, 6, 3, 3\)")
    yield Refused(Call((x, w), {"out": np.empty((2, 6, 3, 3), F32)}), TypeError, r"out: expected float64, got float32")
    yield Refused(Call((x, w[:4, :, :1, :1]), {"out": x}), ValueError, r"out: .* it overlaps with x")
    yield Refused(Call((x, w), {"target": "gpu"}), ValueError, r"target: expected one of .* got 'gpu'")
    yield Refused(Call((x, w), {"padding": ()}), ValueError, r"padding: expected an integer or a pair .* got \(\)")
    yield Refused(Call((x, w), {"padding": 1 << 30}), ValueError, r"padding: expected a result of at most .* elements")
    last = r"the layout is N x C x H x W, and x of shape .* looks like N x H x W x C: give numpy.moveaxis\(x, -1, 1\)"
    yield Refused(Call((normal(2, 5, 6, 4), w)), ValueError, rf"weight: expected 5 channels .*{last}")
    yield Refused(Call((normal(2, 5, 6, 1), w[:, :1])), ValueError, rf"weight: expected 5 channels .*{last}")
    yield Refused(Call((normal(2, 5, 7, 4), w[:, :2]), {"groups": 2}), ValueError, rf"groups: .*{last}")


def _conv2d_backward_refused() -> Iterator[Refused]:
    x, w = normal(2, 4, 5, 5), normal(6, 4, 3, 3)
    yield Refused(Call((normal(2, 6, 3, 2), x, w)), ValueError, r"grad_output: expected shape \(2, 6, 3, 3\), got")


def _conv2d_benchmark(label: str, channels: int, size: int, filters: int, kernel: int, padding: int) -> Benchmark:
    def call(n: int) -> Call:
        return Call((normal(n, channels, size, size, dtype=F32), normal(filters, channels, kernel, kernel, dtype=F32),
                     normal(filters, dtype=F32)), {"padding": padding})

    return Benchmark(label, call, 64, 2.0 * 64 * filters * size * size * channels * kernel * kernel, "flop")


def _conv_transpose2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
        ((2, 3, 4, 5), (3, 2, 3, 3), {}),
        ((2, 4, 5, 3), (4, 3, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
        ((1, 3, 4, 4), (3, 5, 3, 3), {"stride": (3, 2), "dilation": 2, "output_padding": (1, 0)}),
        ((1, 2, 3, 3), (2, 1, 2, 2), {"padding": 1, "groups": 2}),
    ]
    for image, filters, options in cases:
        outputs = filters[1] * options.get("groups", 1)
        yield Call((draw(rng, dtype, *image), draw(rng, dtype, *filters), draw(rng, dtype, outputs)), options)


def _conv_transpose2d_refused() -> Iterator[Refused]:
    x, w = normal(2, 4, 5, 5), normal(4, 6, 3, 3)
    yield Refused(Call((x, w[:3])), ValueError, r"weight: expected 4 filters for x with 4 channels")
    yield Refused(Call((x, w), {"groups": 3}), ValueError, r"groups: expected a divisor of the 4 input channels")
    yield Refused(Call((x, w), {"output_padding": 1}), ValueError, r"output_padding: expected less than the stride")
    yield Refused(Call((x, w), {"padding": 4}), ValueError, r"padding: expected an output of at least 1 x 1")
    yield Refused(Call((normal(2, 5, 6, 4), w)), ValueError, r"weight: expected 5 filters .* like N x H x W x C")
    one = normal(2, 4, 1, 1)
    for name, images, options in (("stride", x, {"stride": 1 << 30}), ("dilation", x, {"dilation": 1 << 30}),
                                  ("output_padding", one, {"stride": 1 << 30, "output_padding": (1 << 30) - 1})):
        yield Refused(Call((images, w), options), ValueError, rf"{name}: expected a result of at most .* elements")
    yield Refused(Call((x, w), {"padding": "same"}), ValueError, r"padding: expected an integer or a pair, got 'same'")
    yield Refused(Call((x, w, normal(4))), ValueError, r"bias: expected shape \(6,\)")


ROWS = (
    Kernel("conv2d", _conv2d_samples, torch=WithRelu("conv2d"), inputs=(0, 1, 2), refused=_conv2d_refused,
           backward=by_weighted_sums, refused_by_backward=_conv2d_backward_refused,
           algorithms=("auto", "direct", "winograd"), only_on_cpu=("winograd",), takes=_conv2d_takes,
           benchmarks=(_conv2d_benchmark("64 x 1 x 28 x 28, 32 filters 5 x 5", 1, 28, 32, 5, 2),
                       _conv2d_benchmark("64 x 32 x 14 x 14, 64 filters 5 x 5", 32, 14, 64, 5, 2))),
    Kernel("conv_transpose2d", _conv_transpose2d_samples, torch=TorchFunction("conv_transpose2d"), inputs=(0, 1, 2),
           refused=_conv_transpose2d_refused,
           backward=lambda call, y, grad: Call((grad, *call.args[:2]), call.kwargs),
           benchmarks=(Benchmark(
               "64 x 64 x 7 x 7, 32 filters 4 x 4, stride 2",
               lambda n: Call((normal(n, 64, 7, 7, dtype=F32), normal(64, 32, 4, 4, dtype=F32)),
                              {"stride": 2, "padding": 1}), 64, 2.0 * 64 * 64 * 49 * 32 * 16, "flop"),)),
)
