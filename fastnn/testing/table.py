"""The table of kernels: what each computes, on which inputs, against what, and which inputs it must refuse.

Tests, benchmarks, `fastnn bench` and `fastnn warmup` walk this table; a kernel that joins it joins all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnn import kernels
from fastnn.kernels.conv import WINOGRAD_SIZES

Array = np.ndarray
Options = dict[str, Any]
Shaped = list[tuple[tuple[int, ...], Any, Options]]
NOT_ON_CUDA = {"winograd", "filter"}
F32, F64, U8 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8)


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a kernel."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Call:
        """Return the same call with arrays of its own."""
        return self.map(lambda array: array.copy())

    def map(self, function: Callable[[Array], Any]) -> Call:
        """Return the call with each array replaced."""
        def change(value: Any) -> Any:
            return function(value) if isinstance(value, np.ndarray) else value

        return Call(tuple(change(a) for a in self.args), {k: change(v) for k, v in self.kwargs.items()})

    def arrays(self) -> list[Array]:
        """Return the NumPy arrays among the arguments."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, np.ndarray)]

    def astype(self, dtype: Any) -> Call:
        """Return the call with its floating arrays in another dtype."""
        return self.map(lambda array: array.astype(dtype) if array.dtype.kind == "f" else array)


@dataclass(frozen=True)
class Refused:
    """A call that must raise `error` with a message that matches the regular expression `match`."""

    call: Call
    error: type[Exception]
    match: str


@dataclass(frozen=True)
class Benchmark:
    """A call to time: `call(n)` costs in proportion to n, so that the naive version is timed at n = 1 and scaled.

    `work` is its arithmetic operations at n, or the bytes that it must move, whichever bounds it; `unit` says which.
    """

    label: str
    call: Callable[[int], Call]
    n: int
    work: float
    unit: str                                          # "flop" or "byte"


@dataclass(frozen=True)
class Kernel:
    """One row: a public kernel and how it is judged."""

    name: str
    samples: Callable[[np.random.Generator, np.dtype], Iterator[Call]]
    torch: Callable[..., Any] | None = None            # the same on tensors; None where torch has no such thing
    backward: Callable[[Call, Any, Array], Call] | None = None   # (call, result, grad_output) -> call of NAME_backward
    inputs: tuple[int, ...] = ()                       # positions that the gradients of NAME_backward belong to
    refused: Callable[[], Iterator[Refused]] = lambda: iter(())
    dtypes: tuple[np.dtype, ...] = (F32, F64)
    algorithms: tuple[str, ...] = ()
    takes: Callable[[Call, str], bool] = lambda call, algorithm: True      # whether an algorithm can do a call
    given: tuple[int, ...] | None = None               # positions of arguments that may hold anything; None: all
    given_to_backward: tuple[int, ...] | None = None   # the same of NAME_backward
    writes: tuple[int, ...] = ()                       # positions of arguments that the kernel updates in place
    factor: float = 1.0                                # of the tolerances
    has_out: bool = True
    benchmarks: tuple[Benchmark, ...] = ()

    def calls(self, dtype: np.dtype, target: str = "cpu") -> Iterator[Call]:
        """Iterate over the sample calls, by the name of each algorithm that can do them on a target."""
        algorithms = [name for name in self.algorithms if target != "cuda" or name not in NOT_ON_CUDA]
        for call in self.samples(np.random.default_rng(0), dtype):
            for algorithm in algorithms:
                if self.takes(call, algorithm):
                    yield Call(call.args, {**call.kwargs, "algorithm": algorithm})
            if not self.algorithms:
                yield call

    def results(self, call: Call, **options: Any) -> tuple[Any, ...]:
        """Return what a call returns and the arguments that it updates, which are the call's own, as one tuple."""
        result = self(call, **options)
        return (*(result if isinstance(result, tuple) else (result,)), *(call.args[i] for i in self.writes))

    def __call__(self, call: Call, **options: Any) -> Any:
        """Run the kernel."""
        return getattr(kernels, self.name)(*call.args, **call.kwargs, **options)


KERNELS: dict[str, Kernel] = {}


def _add(row: Kernel) -> None:
    KERNELS[row.name] = row
    if row.backward is None:
        return
    make_call = row.backward

    def backward_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
        for call in row.samples(rng, dtype):
            result = row(call, target="naive")
            output = result[0] if isinstance(result, tuple) else result
            yield make_call(call, result, np.asarray(rng.standard_normal(np.shape(output))).astype(dtype))

    def backward_benchmark(benchmark: Benchmark) -> Benchmark:
        def call(n: int) -> Call:
            forward = benchmark.call(n)
            result = row(forward)
            output = result[0] if isinstance(result, tuple) else result
            return make_call(forward, result, np.ones_like(output))

        factor = 2 if benchmark.unit == "flop" else 1
        return Benchmark(benchmark.label, call, benchmark.n, factor * benchmark.work, benchmark.unit)

    name = f"{row.name}_backward"
    KERNELS[name] = Kernel(
        name, backward_samples, factor=row.factor, dtypes=row.dtypes, has_out=False, algorithms=row.algorithms,
        takes=row.takes, given=row.given_to_backward,
        refused=_REFUSED_BACKWARD.get(name, lambda: iter(())),
        benchmarks=tuple(backward_benchmark(b) for b in row.benchmarks))


def _normal(*shape: int, dtype: Any = F64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _draw(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def _distinct(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Values that differ by far more than a difference's step, so that maxima and kinks stay where they are."""
    size = int(np.prod(shape))
    return ((rng.permutation(size) + 0.25 - size // 2) / 8).reshape(shape).astype(dtype)


def _torch(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        import torch

        return getattr(torch.nn.functional, name)(*args, **kwargs)

    return call


_REFUSED_BACKWARD: dict[str, Callable[[], Iterator[Refused]]] = {}


# --- convolution -------------------------------------------------------------------------------------------------


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
    ]
    for image, filters, options in cases:
        yield Call((_draw(rng, dtype, image), _draw(rng, dtype, filters),
                    _draw(rng, dtype, filters[:1])), options)


def _conv2d_takes(call: Call, algorithm: str) -> bool:
    weight = call.args[1 if call.args[2].ndim == 1 else 2]              # of the forward call, or of the backward's
    return algorithm != "winograd" or (
        weight.shape[2:] in WINOGRAD_SIZES and set(call.kwargs) <= {"padding", "activation"})


def _conv2d_refused() -> Iterator[Refused]:
    x, w, b = _normal(2, 4, 5, 5), _normal(6, 4, 3, 3), _normal(6)
    yield Refused(Call((x[0], w)), ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got shape \(4, 5, 5\)")
    yield Refused(Call((x, w[0])), ValueError, r"weight: expected 4 dimensions")
    yield Refused(Call((x, w[:, :3])), ValueError, r"weight: expected 4 channels .* got shape \(6, 3, 3, 3\)")
    yield Refused(Call((x, w), {"groups": 3}), ValueError, r"groups: expected a divisor of the 4 input and 6 output")
    yield Refused(Call((x, w), {"groups": 0}), ValueError, r"groups: expected at least 1, got 0")
    yield Refused(Call((x, w, b[:5])), ValueError, r"bias: expected shape \(6,\), got \(5,\)")
    yield Refused(Call((x, _normal(6, 4, 7, 3))), ValueError, r"no larger than the padded input, got height 7 .* for 5")
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
    yield Refused(Call((_normal(2, 5, 6, 4), w)), ValueError, rf"weight: expected 5 channels .*{last}")
    yield Refused(Call((_normal(2, 5, 6, 1), w[:, :1])), ValueError, rf"weight: expected 5 channels .*{last}")
    yield Refused(Call((_normal(2, 5, 7, 4), w[:, :2]), {"groups": 2}), ValueError, rf"groups: .*{last}")


def _conv2d_backward_refused() -> Iterator[Refused]:
    x, w = _normal(2, 4, 5, 5), _normal(6, 4, 3, 3)
    yield Refused(Call((_normal(2, 6, 3, 2), x, w)), ValueError, r"grad_output: expected shape \(2, 6, 3, 3\), got")


_REFUSED_BACKWARD["conv2d_backward"] = _conv2d_backward_refused


def _torch_conv2d(*args: Any, activation: str | None = None, **options: Any) -> Any:
    y = _torch("conv2d")(*args, **options)
    return y if activation is None else y.relu()


def _conv2d_gradient(call: Call, y: Array, grad: Array) -> Call:
    options = {name: value for name, value in call.kwargs.items() if name != "activation"}
    return Call((grad if options == call.kwargs else kernels.relu_backward(grad, y), *call.args[:2]), options)


def _conv2d_benchmark(label: str, channels: int, size: int, filters: int, kernel: int, padding: int) -> Benchmark:
    def call(n: int) -> Call:
        return Call((_normal(n, channels, size, size, dtype=F32), _normal(filters, channels, kernel, kernel, dtype=F32),
                     _normal(filters, dtype=F32)), {"padding": padding})

    return Benchmark(label, call, 64, 2.0 * 64 * filters * size * size * channels * kernel * kernel, "flop")


_add(Kernel(
    "conv2d", _conv2d_samples, torch=_torch_conv2d, inputs=(0, 1, 2), refused=_conv2d_refused,
    backward=_conv2d_gradient, algorithms=("auto", "direct", "winograd"), takes=_conv2d_takes,
    benchmarks=(_conv2d_benchmark("64 x 1 x 28 x 28, 32 filters 5 x 5", 1, 28, 32, 5, 2),
                _conv2d_benchmark("64 x 32 x 14 x 14, 64 filters 5 x 5", 32, 14, 64, 5, 2))))


def _conv_transpose2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
        ((2, 3, 4, 5), (3, 2, 3, 3), {}),
        ((2, 4, 5, 3), (4, 3, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
        ((1, 3, 4, 4), (3, 5, 3, 3), {"stride": (3, 2), "dilation": 2, "output_padding": (1, 0)}),
        ((1, 2, 3, 3), (2, 1, 2, 2), {"padding": 1, "groups": 2}),
    ]
    for image, filters, options in cases:
        outputs = (filters[1] * options.get("groups", 1),)
        yield Call((_draw(rng, dtype, image), _draw(rng, dtype, filters),
                    _draw(rng, dtype, outputs)), options)


def _conv_transpose2d_refused() -> Iterator[Refused]:
    x, w = _normal(2, 4, 5, 5), _normal(4, 6, 3, 3)
    yield Refused(Call((x, w[:3])), ValueError, r"weight: expected 4 filters for x with 4 channels")
    yield Refused(Call((x, w), {"groups": 3}), ValueError, r"groups: expected a divisor of the 4 input channels")
    yield Refused(Call((x, w), {"output_padding": 1}), ValueError, r"output_padding: expected less than the stride")
    yield Refused(Call((x, w), {"padding": 4}), ValueError, r"padding: expected an output of at least 1 x 1")
    yield Refused(Call((_normal(2, 5, 6, 4), w)), ValueError, r"weight: expected 5 filters .* like N x H x W x C")
    one = _normal(2, 4, 1, 1)
    for name, images, options in (("stride", x, {"stride": 1 << 30}), ("dilation", x, {"dilation": 1 << 30}),
                                  ("output_padding", one, {"stride": 1 << 30, "output_padding": (1 << 30) - 1})):
        yield Refused(Call((images, w), options), ValueError, rf"{name}: expected a result of at most .* elements")
    yield Refused(Call((x, w), {"padding": "same"}), ValueError, r"padding: expected an integer or a pair, got 'same'")
    yield Refused(Call((x, w, _normal(4))), ValueError, r"bias: expected shape \(6,\)")


_add(Kernel(
    "conv_transpose2d", _conv_transpose2d_samples, torch=_torch("conv_transpose2d"), inputs=(0, 1, 2),
    refused=_conv_transpose2d_refused, backward=lambda call, y, grad: Call((grad, *call.args[:2]), call.kwargs),
    benchmarks=(Benchmark(
        "64 x 64 x 7 x 7, 32 filters 4 x 4, stride 2",
        lambda n: Call((_normal(n, 64, 7, 7, dtype=F32), _normal(64, 32, 4, 4, dtype=F32)),
                       {"stride": 2, "padding": 1}), 64, 2.0 * 64 * 64 * 49 * 32 * 16, "flop"),)))


# --- linear maps -------------------------------------------------------------------------------------------------


def _linear_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for n, i, o in [(3, 5, 2), (1, 1, 1), (15, 7, 33), (2, 600, 3)]:
        yield Call((rng.standard_normal((n, i)).astype(dtype), rng.standard_normal((o, i)).astype(dtype),
                    rng.standard_normal(o).astype(dtype)))


def _linear_refused() -> Iterator[Refused]:
    x, w = _normal(3, 4), _normal(2, 4)
    yield Refused(Call((x[0], w)), ValueError, r"x: expected 2 dimensions")
    yield Refused(Call((x, w[:, :3])), ValueError, r"weight: expected shape \(O, 4\)")
    yield Refused(Call((x, w, _normal(3))), ValueError, r"bias: expected shape \(2,\), got \(3,\)")
    yield Refused(Call((x, w.astype(int))), TypeError, r"weight: expected float32 or float64, got int64")


_add(Kernel(
    "linear", _linear_samples, torch=_torch("linear"), inputs=(0, 1, 2), refused=_linear_refused,
    backward=lambda call, y, grad: Call((grad, *call.args[:2]), call.kwargs),
    benchmarks=(Benchmark(
        "64 x 3136 by 128 x 3136", lambda n: Call((_normal(n, 3136, dtype=F32), _normal(128, 3136, dtype=F32))),
        64, 2.0 * 64 * 3136 * 128, "flop"),)))


# --- pooling -----------------------------------------------------------------------------------------------------


def _max_pool2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
        ((2, 3, 4, 6), 2, {}),
        ((1, 2, 7, 5), 3, {"stride": 2, "padding": 1, "return_indices": True}),
        ((2, 1, 8, 9), (2, 3), {"stride": (3, 1), "dilation": (2, 3), "return_indices": True}),
        ((1, 3, 7, 8), 3, {"stride": 2, "ceil_mode": True, "return_indices": True}),
        ((1, 1, 3, 3), 2, {"stride": 2, "padding": 1, "ceil_mode": True}),
        ((1, 1, 1, 1), 1, {}),
        ((1, 2, 35, 40), 2, {"stride": 2}),
        ((2, 3, 9, 8), 5, {"stride": 1, "padding": 2, "return_indices": True}),
        ((70, 2, 3, 3), 2, {"stride": 1, "return_indices": True}),
        ((1, 1, 150, 70), 3, {"stride": 2, "padding": 1}),
        ((1, 1, 3, 4), 2, {"stride": 10**9}),
    ]
    for shape, kernel, options in cases:
        yield Call((_distinct(rng, shape, dtype), kernel), options)


def _max_pool2d_refused() -> Iterator[Refused]:
    x = _normal(2, 3, 6, 6)
    yield Refused(Call((x[0], 2)), ValueError, r"x: expected 4 dimensions")
    yield Refused(Call((x, 7)), ValueError, r"kernel_size: .* got kernel_size \(7, 7\)")
    yield Refused(Call((x, 0)), ValueError, r"kernel_size: expected at least 1, got 0")
    yield Refused(Call((x, 2), {"stride": 0}), ValueError, r"stride: expected at least 1, got 0")
    yield Refused(Call((x, 2), {"padding": 2}), ValueError, r"padding: expected at most half of kernel_size")
    yield Refused(Call((x, 2), {"padding": -1}), ValueError, r"padding: expected at least 0, got -1")
    yield Refused(Call((_normal(2, 6, 6, 3), 4)), ValueError, r"kernel_size: .* x of shape .* looks like N x H x W x C")
    yield Refused(Call((x, ())), ValueError, r"kernel_size: expected an integer or a pair of them, got \(\)")
    yield Refused(Call((x[:, :, :1], (2, 1)), {"padding": (1, 0), "dilation": (2, 1)}), ValueError,
                  r"dilation: expected windows with a cell inside the image")
    yield Refused(Call((x.astype(int), 2)), TypeError, r"x: expected float32 or float64, got int64")
    yield Refused(Call((x, 2), {"out": np.empty((2, 3, 2, 3))}), ValueError, r"out: expected shape \(2, 3, 3, 3\)")


def _max_pool2d_backward_refused() -> Iterator[Refused]:
    grad, indices = np.ones((1, 1, 2, 2)), np.array([[[[0, 1], [2, 16]]]])
    yield Refused(Call((grad, indices, (1, 1, 4, 4))), ValueError, r"indices: expected values from 0 to 15 .* got 16")
    yield Refused(Call((grad, indices - 1, (1, 1, 4, 4))), ValueError, r"indices: expected values .* got -1")
    yield Refused(Call((grad, indices.astype(np.int32), (1, 1, 4, 4))), TypeError, r"indices: expected int64")
    yield Refused(Call((grad, indices[..., :1], (1, 1, 4, 4))), ValueError, r"indices: expected shape \(1, 1, 2, 2\)")
    yield Refused(Call((grad, indices, (1, 4, 4))), ValueError, r"input_shape: expected \(N, C, H, W\)")
    yield Refused(Call((grad, indices, (1, 1, 4, 0))), ValueError, r"input_shape: expected images with at least one")
    yield Refused(Call((grad, indices, (1, 1, 1 << 30, 1 << 30))), ValueError, r"input_shape: expected a result of at")


_REFUSED_BACKWARD["max_pool2d_backward"] = _max_pool2d_backward_refused


def _max_pool2d_gradient(call: Call, result: Any, grad: Array) -> Call:
    if not isinstance(result, tuple):
        result = kernels.max_pool2d(*call.args, **{**call.kwargs, "return_indices": True})
    return Call((grad, result[1], call.args[0].shape))


def _pool_benchmark(channels: int, size: int, *args: Any, **options: Any) -> Benchmark:
    return Benchmark(f"64 x {channels} x {size} x {size}",
                     lambda n: Call((_normal(n, channels, size, size, dtype=F32), *args), options),
                     64, 64 * channels * size * size * 4 * 1.25, "byte")


_add(Kernel(
    "max_pool2d", _max_pool2d_samples, torch=_torch("max_pool2d"), inputs=(0,), refused=_max_pool2d_refused,
    backward=_max_pool2d_gradient, benchmarks=(_pool_benchmark(32, 28, 2), _pool_benchmark(64, 14, 2))))


def _avg_pool2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: Shaped = [
        ((2, 3, 4, 6), 2, {}),
        ((1, 2, 7, 5), 3, {"stride": 2, "padding": 1}),
        ((1, 2, 7, 6), 3, {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
        ((1, 2, 7, 6), (2, 3), {"stride": (2, 1), "padding": (1, 0), "ceil_mode": True}),
        ((2, 1, 5, 8), (3, 2), {"divisor_override": 4, "ceil_mode": True}),
        ((2, 3, 8, 8), 8, {}),
        ((3, 2, 9, 7), 3, {"stride": 1, "padding": 1}),
        ((1, 1, 50, 70), 3, {"stride": 2}),
        ((1, 1, 1, 1), 1, {}),
    ]
    for shape, kernel, options in cases:
        yield Call((rng.standard_normal(shape).astype(dtype), kernel), options)


def _avg_pool2d_refused() -> Iterator[Refused]:
    x = _normal(2, 3, 6, 6)
    yield Refused(Call((x, 2), {"divisor_override": 0}), ValueError, r"divisor_override: expected")
    yield Refused(Call((x, 7)), ValueError, r"kernel_size: .* got kernel_size \(7, 7\)")
    yield Refused(Call((x, 2), {"padding": 2}), ValueError, r"padding: expected at most half of kernel_size")


_add(Kernel(
    "avg_pool2d", _avg_pool2d_samples, torch=_torch("avg_pool2d"), inputs=(0,), refused=_avg_pool2d_refused,
    backward=lambda call, y, grad: Call((grad, call.args[0].shape, call.args[1]), call.kwargs),
    benchmarks=(_pool_benchmark(32, 28, 2),)))


def _adaptive_avg_pool2d_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[tuple[int, ...], Any]] = [
        ((2, 3, 5, 7), 1), ((1, 2, 7, 5), (3, 2)), ((1, 2, 4, 3), (None, 5)), ((1, 1, 1, 1), 3), ((2, 3, 8, 8), 4)]
    for shape, size in cases:
        yield Call((rng.standard_normal(shape).astype(dtype), size))


def _adaptive_avg_pool2d_refused() -> Iterator[Refused]:
    yield Refused(Call((_normal(2, 3, 6, 6), -1)), ValueError, r"output_size: expected at least 0, got -1")
    yield Refused(Call((_normal(2, 3, 6, 6), (1, 2, 3))), ValueError, r"output_size: expected an integer or a pair")
    yield Refused(Call((_normal(3, 6, 6), 1)), ValueError, r"x: expected 4 dimensions")
    yield Refused(Call((_normal(2, 3, 6, 6), 1 << 40)), ValueError, r"output_size: expected a result of at most")


_add(Kernel(
    "adaptive_avg_pool2d", _adaptive_avg_pool2d_samples, torch=_torch("adaptive_avg_pool2d"), inputs=(0,),
    refused=_adaptive_avg_pool2d_refused, backward=lambda call, y, grad: Call((grad, call.args[0].shape)),
    benchmarks=(_pool_benchmark(64, 14, 1),)))


# --- normalization -----------------------------------------------------------------------------------------------


def _batch_norm_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[tuple[int, ...], bool, bool, Options]] = [
        ((6, 3), True, True, {"training": True}),
        ((3, 4, 5), True, True, {"training": True, "momentum": 0.3, "eps": 1e-3}),
        ((2, 3, 4, 5), True, True, {"training": True}),
        ((2, 3, 4, 5), False, False, {"training": True}),
        ((2, 3, 4, 5), True, True, {"training": False}),
        ((3, 2), False, True, {"training": False}),
        ((4, 2, 3), True, False, {"training": False}),
        ((5, 17, 1, 1), True, True, {"training": True}),
        ((2, 17, 8, 9), True, True, {"training": True}),
        ((2, 17, 8, 9), False, True, {"training": False}),
        ((3, 300), True, False, {"training": True}),
        ((5, 2, 70), False, False, {"training": True}),
        ((5, 3), True, True, {"training": True, "activation": "relu"}),
        ((2, 17, 8, 9), True, False, {"training": True, "activation": "relu"}),
        ((2, 17, 8, 9), True, True, {"training": False, "activation": "relu"}),
        ((9, 3, 2, 2), False, True, {"training": False, "activation": "relu"}),
    ]
    for shape, affine, running, options in cases:
        channels = shape[1]
        x = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
        statistics = (rng.standard_normal(channels), rng.random(channels) + 0.5) if running else (None, None)
        parameters = (rng.random(channels) + 0.5, rng.standard_normal(channels)) if affine else (None, None)
        yield Call((x, *(a if a is None else a.astype(dtype) for a in (*statistics, *parameters))),
                   {**options, "return_stats": True})


def _batch_norm_refused() -> Iterator[Refused]:
    x, m, v = _normal(4, 3), np.zeros(3), np.ones(3)
    yield Refused(Call((_normal(4), m, v)), ValueError, r"x: expected 2 or 3 or 4 dimensions")
    yield Refused(Call((x, m[:2], v)), ValueError, r"running_mean: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((_normal(4, 5, 6, 3), m, v)), ValueError, r"running_mean: .*the layout is N x C x H x W, and x")
    yield Refused(Call((_normal(4, 5, 3), m, v)), ValueError, r"running_mean: .* the layout is N x C x L, and x of")
    yield Refused(Call((x, None, v)), ValueError, r"running_mean: expected .* both or neither")
    yield Refused(Call((x, m, v, np.ones(4))), ValueError, r"weight: expected shape \(3,\)")
    yield Refused(Call((x[:1], m, v), {"training": True}), ValueError, r"x: expected more than one value a channel")
    yield Refused(Call((x[:0], m, v), {"training": True}), ValueError, r"x: expected more than one value a channel")
    yield Refused(Call((x, m, v), {"eps": 0.0, "training": True}), ValueError, r"eps: expected a positive number")
    yield Refused(Call((x, m, v), {"momentum": None}), TypeError, r"momentum: expected a number, got None")
    yield Refused(Call((x, m, m), {"training": True}), ValueError, r"running_var: expected memory of its own")
    yield Refused(Call((x, m, v), {"eps": -1.0}), ValueError, r"eps: expected a number from 0")
    yield Refused(Call((x, m, v), {"momentum": 2.0}), ValueError, r"momentum: expected a number from 0 to 1, got 2.0")
    yield Refused(Call((x, m.astype(F32), v)), TypeError, r"running_mean: expected float64 as x has, got float32")
    yield Refused(Call((x, m, v), {"activation": "elu"}), ValueError, r"activation: expected None or 'relu', got 'elu'")


def _batch_norm_backward_refused() -> Iterator[Refused]:
    x, m, v = _normal(4, 3), np.zeros(3), np.ones(3)
    yield Refused(Call((x[:3], x, None, m, v)), ValueError, r"grad_output: expected shape \(4, 3\), got \(3, 3\)")
    yield Refused(Call((x, x, None, m, v), {"bias": m[:2]}), ValueError, r"bias: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((x, x, None, m, v), {"activation": "tanh"}), ValueError, r"activation: expected None or 'relu'")
    yield Refused(Call((x, x, None, m, v), {"needs": (True, True)}), ValueError, r"needs: expected three bools")


_REFUSED_BACKWARD["batch_norm_backward"] = _batch_norm_backward_refused


def _torch_batch_norm(*args: Any, return_stats: bool, training: bool, activation: str | None = None,
                      **options: Any) -> Any:
    y = _torch("batch_norm")(*args, training=training or args[1] is None, **options)
    return y if activation is None else y.relu()


def _batch_norm_gradient(call: Call, result: Any, grad: Array) -> Call:
    x, running_mean, _, weight, bias = call.args
    return Call((grad, x, weight, *result[1:]), {
        "training": bool(call.kwargs["training"] or running_mean is None), "bias": bias,
        "activation": call.kwargs.get("activation")})


_add(Kernel(
    "batch_norm", _batch_norm_samples, inputs=(0, 3, 4), refused=_batch_norm_refused, writes=(1, 2), factor=4,
    torch=_torch_batch_norm, given_to_backward=(0, 1, 2),  # what follows are statistics of its own
    backward=_batch_norm_gradient,
    benchmarks=(Benchmark(
        "64 x 32 x 28 x 28, training",
        lambda n: Call((_normal(n, 32, 28, 28, dtype=F32), None, None, np.ones(32, F32), np.zeros(32, F32)),
                       {"training": True, "return_stats": True}), 64, 64 * 32 * 784 * 4 * 4.0, "byte"),)))


# --- activations -------------------------------------------------------------------------------------------------


def _any_shape_samples(*options: dict[str, Any]) -> Callable[[np.random.Generator, np.dtype], Iterator[Call]]:
    def samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
        for shape in [(3, 5), (1,), (2, 3, 4, 5), (1, 8209)]:
            for option in options or ({},):
                yield Call((_distinct(rng, shape, dtype) / (shape[-1] / 8 + 1),), option)

    return samples


def _float_refused() -> Iterator[Refused]:
    yield Refused(Call((np.arange(3),)), TypeError, r"x: expected float32 or float64, got int64")
    yield Refused(Call(([1.0, 2.0],)), TypeError, r"x: expected an array, got list")
    yield Refused(Call((np.ones(3),), {"out": np.ones(4)}), ValueError, r"out: expected shape \(3,\), got \(4,\)")


def _flat_benchmark(*more: Any) -> Benchmark:
    return Benchmark("64 x 32 x 28 x 28", lambda n: Call((_normal(n, 32, 28, 28, dtype=F32), *more)), 64,
                     64 * 32 * 784 * 8.0, "byte")


def _from_output(call: Call, y: Any, grad: Array) -> Call:
    return Call((grad, y), call.kwargs)


def _from_input(call: Call, y: Any, grad: Array) -> Call:
    return Call((grad, call.args[0]), call.kwargs)


def _add_activation(name: str, backward: Callable[[Call, Any, Array], Call], *options: Options) -> None:
    _add(Kernel(name, _any_shape_samples(*options), torch=_torch(name), inputs=(0,), refused=_float_refused,
                backward=backward, benchmarks=(_flat_benchmark(),)))


_add_activation("relu", _from_output)
_add_activation("leaky_relu", _from_input, {}, {"negative_slope": 0.3})
_add_activation("sigmoid", _from_output)
_add_activation("tanh", _from_output)
_add_activation("gelu", _from_input, {}, {"approximate": "tanh"})


def _softmax_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    cases: list[tuple[tuple[int, ...], Options]] = [
        ((4, 10), {}), ((3, 4, 5), {"axis": 1}), ((2, 3), {"axis": 0}), ((1, 1), {}), ((2, 700), {})]
    for shape, options in cases:
        yield Call((3 * rng.standard_normal(shape).astype(dtype),), options)


def _softmax_refused() -> Iterator[Refused]:
    yield from _float_refused()
    yield Refused(Call((np.ones((2, 3)),), {"axis": 2}), ValueError, r"axis: expected from -2 to 1 .* got 2")


for _name in ("softmax", "log_softmax"):
    _add(Kernel(
        _name, _softmax_samples, inputs=(0,), refused=_softmax_refused, backward=_from_output,
        torch=lambda x, axis=-1, name=_name: _torch(name)(x, dim=axis),
        benchmarks=(Benchmark("6400 x 1000", lambda n: Call((_normal(100 * n, 1000, dtype=F32),)), 64, 6400 * 8000.0,
                              "byte"),)))


def _two_arrays_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call in _any_shape_samples()(rng, dtype):
        yield Call((call.args[0], rng.standard_normal(call.args[0].shape).astype(dtype)))


def _two_arrays_refused() -> Iterator[Refused]:
    yield Refused(Call((np.ones(3), np.ones(4))), ValueError, r"y: expected shape \(3,\), got \(4,\)")
    yield Refused(Call((np.ones(3), None)), TypeError, r"y: expected an array, got None")
    yield Refused(Call((np.ones(3), np.ones(3, F32))), TypeError, r"y: expected float64 as x has, got float32")


_two_benchmark = Benchmark(
    "64 x 32 x 28 x 28", lambda n: Call((_normal(n, 32, 28, 28, dtype=F32), _normal(n, 32, 28, 28, dtype=F32))), 64,
    64 * 32 * 784 * 12.0, "byte")
_add(Kernel("add", _two_arrays_samples, torch=lambda x, y: x + y, refused=_two_arrays_refused,
            benchmarks=(_two_benchmark,)))
_add(Kernel("add_relu", _two_arrays_samples, torch=lambda x, y: (x + y).relu(), refused=_two_arrays_refused,
            benchmarks=(_two_benchmark,)))


def _dropout_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call, p in zip(_any_shape_samples()(rng, dtype), (0.5, 0.0, 0.25, 0.9)):
        mask = rng.random(call.args[0].shape) >= p
        yield Call((call.args[0], mask if p else mask.astype(np.uint8), p))


def _dropout_refused() -> Iterator[Refused]:
    x = np.ones(3)
    yield Refused(Call((x, np.ones(3), 0.5)), TypeError, r"mask: expected bool or uint8, got float64")
    yield Refused(Call((x, np.ones(2, bool), 0.5)), ValueError, r"mask: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((x, np.ones(3, bool), 1.5)), ValueError, r"p: expected")


_add(Kernel(
    "dropout", _dropout_samples, inputs=(0,), refused=_dropout_refused,
    torch=lambda x, mask, p: x * mask / (1 - p),
    backward=lambda call, y, grad: Call((grad, *call.args[1:])),
    benchmarks=(Benchmark("64 x 128 x 28 x 28", lambda n: Call((
        _normal(n, 128, 28, 28, dtype=F32), np.random.default_rng(0).random((n, 128, 28, 28)) > 0.5, 0.5)), 64,
        64 * 128 * 784 * 9.0, "byte"),)))


# --- losses ------------------------------------------------------------------------------------------------------


def _scores_samples(*options: dict[str, Any]) -> Callable[[np.random.Generator, np.dtype], Iterator[Call]]:
    def samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
        for n, classes in [(5, 4), (1, 1), (3, 10), (130, 7)]:
            for option in options:
                yield Call((3 * rng.standard_normal((n, classes)).astype(dtype), rng.integers(0, classes, n)), option)

    return samples


def _scores_refused() -> Iterator[Refused]:
    x, labels = _normal(3, 4), np.array([0, 3, 1])
    yield Refused(Call((x, np.array([0, 4, 1]))), ValueError, r"labels: expected labels from 0 to 3 .* got 4")
    yield Refused(Call((x, np.array([0, -1, 1]))), ValueError, r"labels: expected labels from 0 to 3 .* got -1")
    yield Refused(Call((x, labels[:2])), ValueError, r"labels: expected shape \(3,\), got \(2,\)")
    yield Refused(Call((x, labels * 1.0)), TypeError, r"labels: expected integer class labels, got float64")
    yield Refused(Call((x[0], labels)), ValueError, r"x: expected 2 dimensions \(N, C\)")
    yield Refused(Call((x[:0], labels[:0])), ValueError, r"x: expected at least one element")
    yield Refused(Call((x, labels), {"reduction": "max"}), ValueError, r"reduction: expected one of .* got 'max'")


def _loss_gradient(call: Call, loss: Any, grad: Array) -> Call:
    return Call((float(grad) if np.ndim(grad) == 0 else grad, *call.args), call.kwargs)


def _scores_benchmark(n: int) -> Call:
    return Call((_normal(100 * n, 100, dtype=F32), np.random.default_rng(0).integers(0, 100, 100 * n)))


_add(Kernel(
    "cross_entropy", _scores_samples({}, {"label_smoothing": 0.1, "reduction": "sum"}, {"reduction": "none"}),
    torch=_torch("cross_entropy"), inputs=(0,), refused=_scores_refused, backward=_loss_gradient, has_out=False,
    benchmarks=(Benchmark("6400 x 100", _scores_benchmark, 64, 6400 * 400.0, "byte"),)))
_add(Kernel(
    "hinge_loss", _scores_samples({}, {"margin": 0.5, "reduction": "sum"}, {"reduction": "none"}),
    torch=lambda x, labels, margin=1.0, reduction="mean": x.shape[1] * _torch("multi_margin_loss")(
        x, labels, margin=margin, reduction=reduction),
    inputs=(0,), refused=_scores_refused, backward=_loss_gradient, has_out=False,
    benchmarks=(Benchmark("6400 x 100", _scores_benchmark, 64, 6400 * 400.0, "byte"),)))


def _mse_loss_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call in _two_arrays_samples(rng, dtype):
        for reduction in ("mean", "sum", "none"):
            yield Call(call.args, {"reduction": reduction})


def _mse_loss_refused() -> Iterator[Refused]:
    yield Refused(Call((np.ones(3), np.ones(4))), ValueError, r"y: expected shape \(3,\), got \(4,\)")
    yield Refused(Call((np.ones(0), np.ones(0))), ValueError, r"x: expected at least one element")
    yield Refused(Call((np.ones(3), np.ones(3)), {"reduction": 3}), ValueError, r"reduction: expected one of")


_add(Kernel(
    "mse_loss", _mse_loss_samples, torch=_torch("mse_loss"), inputs=(0,), refused=_mse_loss_refused,
    backward=_loss_gradient, has_out=False, benchmarks=(_two_benchmark,)))


# --- updates -----------------------------------------------------------------------------------------------------


def _state(rng: np.random.Generator, dtype: np.dtype, count: int) -> Iterator[tuple[Array, ...]]:
    for shape in [(3, 4), (1,), (8209,)]:
        parameter, grad = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        yield (parameter, grad, *(rng.random(shape).astype(dtype) for _ in range(count)))


def _sgd_update_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for arrays in _state(rng, dtype, 1):
        yield Call((*arrays[:2], None), {"lr": 0.1, "weight_decay": 0.01})
        yield Call(arrays, {"lr": 0.1, "momentum": 0.9})
        yield Call(arrays, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01})


def _rmsprop_update_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for arrays in _state(rng, dtype, 2):
        yield Call((*arrays[:3], None), {"lr": 0.01})
        yield Call(arrays, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01})


def _adam_update_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for arrays in _state(rng, dtype, 2):
        cases: tuple[Options, ...] = ({"step": 1}, {"step": 7, "betas": (0.8, 0.95), "weight_decay": 0.1},
                                      {"step": 3, "weight_decay": 0.1, "decoupled": True})
        for options in cases:
            yield Call(arrays, {"lr": 0.01, **options})


def _update_refused(count: int, **options: Any) -> Callable[[], Iterator[Refused]]:
    def refused() -> Iterator[Refused]:
        parameter, *states = (np.ones(3) for _ in range(count + 1))
        yield Refused(Call((parameter, np.ones(2), *states), options), ValueError, r"grad: expected shape \(3,\)")
        yield Refused(Call((parameter, np.ones(3, F32), *states), options), TypeError, r"expected float\d\d")
        yield Refused(Call((parameter, parameter, *states), options), ValueError, r"expected memory of its own")
        yield Refused(Call((parameter.tolist(), np.ones(3), *states), options), TypeError,
                      r"parameter: expected a NumPy array, got list")

    return refused


def _update_benchmark(count: int, **options: Any) -> Benchmark:
    def call(n: int) -> Call:
        return Call(tuple(_normal(64 * n, 3136, dtype=F32) ** 2 for _ in range(2 + count)), options)

    return Benchmark("401,408 parameters", call, 2, 401408 * 4 * (3.0 + 2 * count), "byte")


_add(Kernel("sgd_update", _sgd_update_samples, writes=(0, 2), has_out=False,
            refused=_update_refused(1, lr=0.1, momentum=0.9), benchmarks=(_update_benchmark(1, lr=0.1, momentum=0.9),)))
_add(Kernel("rmsprop_update", _rmsprop_update_samples, writes=(0, 2, 3), has_out=False,
            refused=_update_refused(1, lr=0.1), benchmarks=(_update_benchmark(1, lr=0.1),)))
_add(Kernel("adam_update", _adam_update_samples, writes=(0, 2, 3), has_out=False,
            refused=_update_refused(2, lr=0.1, step=1), benchmarks=(_update_benchmark(2, lr=0.1, step=1),)))


# --- distances ---------------------------------------------------------------------------------------------------


def _points(rng: np.random.Generator, dtype: np.dtype, *shape: int) -> Array:
    return rng.integers(0, 256, shape).astype(dtype) if dtype == U8 else rng.standard_normal(shape).astype(dtype)


def _pairwise_l2_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for m, n, d in [(3, 5, 4), (1, 1, 1), (17, 35, 3), (2, 3, 600), (2, 3, 0), (34, 33, 65)]:
        for squared in (False, True):
            yield Call((_points(rng, dtype, m, d), _points(rng, dtype, n, d)), {"squared": squared})


def _pairwise_l2_refused() -> Iterator[Refused]:
    x = _normal(3, 4)
    yield Refused(Call((x, x[:, :3])), ValueError, r"y: expected 4 dimensions as x of shape \(3, 4\) has")
    yield Refused(Call((x[0], x)), ValueError, r"x: expected 2 dimensions")
    yield Refused(Call((x, x.astype(F32))), TypeError, r"y: expected float64 as x has, got float32")
    yield Refused(Call((x.astype(int), x)), TypeError, r"x: expected float32, float64 or uint8, got int64")
    yield Refused(Call((x, x.copy()), {"algorithm": "fast"}), ValueError, r"algorithm: expected one of .* got 'fast'")
    yield Refused(Call((x, x.copy()), {"out": np.empty((3, 4))}), ValueError, r"out: expected shape \(3, 3\)")
    many = np.empty((1 << 31, 0))
    yield Refused(Call((many, many)), ValueError, r"y: expected a result of at most .* elements, got one of shape")


def _torch_distances(x: Any, y: Any, squared: bool = False) -> Any:
    import torch

    distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return distances**2 if squared else distances


_add(Kernel(
    "pairwise_l2", _pairwise_l2_samples, torch=_torch_distances, refused=_pairwise_l2_refused, dtypes=(F32, F64, U8),
    algorithms=("direct", "gemm"), factor=10,
    benchmarks=(Benchmark("640 x 1000 points of 64 dimensions", lambda n: Call((
        _normal(10 * n, 64, dtype=F32), _normal(1000, 64, dtype=F32))), 64, 3.0 * 640 * 1000 * 64, "flop"),)))


def _knn_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for m, n, d, k in [(3, 9, 4, 2), (1, 1, 1, 1), (17, 40, 3, 40), (2, 70, 600, 5), (0, 3, 2, 1), (1, 9000, 2, 5),
                       (33, 65, 37, 3)]:
        for squared in (False, True):
            yield Call((_points(rng, dtype, m, d), _points(rng, dtype, n, d), k), {"squared": squared})


def _knn_refused() -> Iterator[Refused]:
    x = _normal(3, 4)
    yield Refused(Call((x, x, 4)), ValueError, r"k: expected from 1 to the number of points, 3, got 4")
    many = np.empty((1 << 31, 0))
    yield Refused(Call((many, many, 1 << 31)), ValueError, r"k: expected a result of at most .* elements")
    yield Refused(Call((x, x, 0)), ValueError, r"k: expected at least 1, got 0")
    yield Refused(Call((x, x, 1.5)), TypeError, r"k: expected an integer, got 1.5")
    yield Refused(Call((x, x[:, :3], 1)), ValueError, r"points: expected 4 dimensions as queries")
    yield Refused(Call((x, x, 1), {"memory_budget": 0}), ValueError, r"memory_budget: expected at least 1, got 0")
    yield Refused(Call((x, x, 1), {"algorithm": "tree"}), ValueError, r"algorithm: expected one of .* got 'tree'")


_add(Kernel(
    "knn", _knn_samples, refused=_knn_refused, dtypes=(F32, F64, U8), algorithms=("auto", "direct", "filter"),
    has_out=False,
    benchmarks=(Benchmark("64 queries, 10,000 points of 784 dimensions, k = 10", lambda n: Call((
        _normal(n, 784, dtype=F32), _normal(10_000, 784, dtype=F32, seed=1), 10)), 64, 3.0 * 64 * 10_000 * 784,
        "flop"),)))
