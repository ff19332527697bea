"""What a row of the table is, and what rows of several families share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnn import kernels
from fastnn.testing import compare

Array = np.ndarray
Options = dict[str, Any]
Shaped = list[tuple[tuple[int, ...], Any, Options]]
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


def nothing_refused() -> Iterator[Refused]:
    """Iterate over no calls."""
    return iter(())


@dataclass(frozen=True)
class Benchmark:
    """A call to time: `call(n)` costs in proportion to n, so that the naive version is timed at n = 1 and scaled.

    `work` is its arithmetic operations at n, or the bytes that it must move, whichever bounds it; `unit` says which.
    """

    label: str
    call: Callable[[int], Call]
    n: int
    work: float
    unit: str                                          # "flop", "op" of integers, or "byte"


@dataclass(frozen=True)
class Kernel:
    """One row: a public kernel and how it is judged."""

    name: str
    samples: Callable[[np.random.Generator, np.dtype], Iterator[Call]]
    torch: Callable[..., Any] | None = None            # the same on tensors; None where torch has no such thing
    backward: Callable[[Call, Any, Array], Call] | None = None   # (call, result, grad_output) -> call of NAME_backward
    inputs: tuple[int, ...] = ()                       # positions that the gradients of NAME_backward belong to
    refused: Callable[[], Iterator[Refused]] = nothing_refused
    dtypes: tuple[np.dtype, ...] = (F32, F64)
    algorithms: tuple[str, ...] = ()
    takes: Callable[[Call, str], bool] = lambda call, algorithm: True      # whether an algorithm can do a call
    given: tuple[int, ...] | None = None               # positions of arguments that may hold anything; None: all
    given_to_backward: tuple[int, ...] | None = None   # the same of NAME_backward
    writes: tuple[int, ...] = ()                       # positions of arguments that the kernel updates in place
    factor: float = 1.0                                # of the tolerances
    has_out: bool = True
    benchmarks: tuple[Benchmark, ...] = ()
    only_on_cpu: tuple[str, ...] = ()                  # algorithms that a GPU has not
    refused_by_backward: Callable[[], Iterator[Refused]] = nothing_refused       # what NAME_backward must refuse
    error: Callable[..., Array] | None = None          # (result, *args, **options) -> what it may be off by, in eps
    error_of_backward: Callable[..., Array] | None = None               # the same of NAME_backward

    def calls(self, dtype: np.dtype, target: str = "cpu") -> Iterator[Call]:
        """Iterate over the sample calls, by the name of each algorithm that can do them on a target."""
        algorithms = [name for name in self.algorithms if target != "cuda" or name not in self.only_on_cpu]
        for call in self.samples(np.random.default_rng(0), dtype):
            for algorithm in algorithms:
                if self.takes(call, algorithm):
                    yield Call(call.args, {**call.kwargs, "algorithm": algorithm})
            if not self.algorithms:
                yield call

    def results(self, call: Call, **options: Any) -> tuple[Any, ...]:
        """Return what a call returns and the arguments that it updates, which are the call's own, as one tuple."""
        return (*as_tuple(self(call, **options)), *(call.args[i] for i in self.writes if i < len(call.args)))

    def run(self, call: Call, target: str = "cpu", **options: Any) -> tuple[Any, ...]:
        """Return the same of a call that stays as it is, on a target; from a GPU all comes back to the host."""
        call = call.copy()
        if target != "cuda":
            return self.results(call, target=target, **options)
        found = self.results(call.map(kernels.to_device), target=target, **options)
        return tuple([None if array is None else kernels.to_host(array) for array in found])

    def planted(self, call: Call, value: float) -> Iterator[tuple[int, Call]]:
        """Iterate over the call with a value in the middle of one of the arrays that may hold anything."""
        for position, array in enumerate(call.args):
            if (isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size and position not in self.writes
                    and (self.given is None or position in self.given)):
                planted = call.copy()
                planted.args[position].flat[array.size // 2] = value
                yield position, planted

    def assert_close(self, actual: Any, expected: Any, *, dtype: np.dtype, what: object, factor: float = 1.0) -> None:
        """Raise AssertionError unless results for arrays of a dtype agree to `factor` times the kernel's tolerance."""
        compare.assert_close(actual, expected, dtype=dtype if dtype.kind == "f" else None, factor=factor * self.factor,
                             gradient=self.name.endswith("_backward"), what=f"{self.name}{what}")

    def __call__(self, call: Call, **options: Any) -> Any:
        """Run the kernel."""
        return getattr(kernels, self.name)(*call.args, **call.kwargs, **options)

    def __str__(self) -> str:
        return self.name

    def with_gradient(self) -> Iterator[Kernel]:
        """Iterate over this row and, if the kernel has a gradient, the row of that."""
        yield self
        if self.backward is not None:
            yield Kernel(
                f"{self.name}_backward", self._gradient_samples, factor=self.factor, dtypes=self.dtypes, has_out=False,
                algorithms=self.algorithms, only_on_cpu=self.only_on_cpu, takes=self.takes,
                given=self.given_to_backward, refused=self.refused_by_backward,
                error=self.error_of_backward, benchmarks=tuple(map(self._gradient_benchmark, self.benchmarks)))

    def _gradient_samples(self, rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
        assert self.backward is not None
        for call in self.samples(rng, dtype):
            result = self(call, target="naive")
            grad_output = np.asarray(rng.standard_normal(np.shape(as_tuple(result)[0]))).astype(dtype)
            yield self.backward(call, result, grad_output)

    def _gradient_benchmark(self, benchmark: Benchmark) -> Benchmark:
        def call(n: int) -> Call:
            assert self.backward is not None
            forward = benchmark.call(n)
            result = self(forward)
            return self.backward(forward, result, np.ones_like(as_tuple(result)[0]))

        factor = 2 if benchmark.unit == "flop" else 1
        return Benchmark(benchmark.label, call, benchmark.n, factor * benchmark.work, benchmark.unit)


def as_tuple(result: Any) -> tuple[Any, ...]:
    """Return what a kernel returned as a tuple, if it is none."""
    return result if isinstance(result, tuple) else (result,)


# --- samples, and their arrays -----------------------------------------------------------------------------------


def normal(*shape: int, dtype: Any = F64, seed: int = 0) -> Array:
    return draw(np.random.default_rng(seed), dtype, *shape)


def draw(rng: np.random.Generator, dtype: Any, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def distinct(rng: np.random.Generator, dtype: np.dtype, *shape: int) -> Array:
    """Values that differ by far more than a difference's step, so that maxima and kinks stay where they are."""
    size = int(np.prod(shape))
    return ((rng.permutation(size) + 0.25 - size // 2) / 8).reshape(shape).astype(dtype)


def any_shape_samples(*options: Options) -> Callable[[np.random.Generator, np.dtype], Iterator[Call]]:
    """Samples of a kernel of one array of any shape."""
    def samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
        for shape in [(3, 5), (1,), (2, 3, 4, 5), (1, 8209)]:
            for option in options or ({},):
                yield Call((distinct(rng, dtype, *shape) / (shape[-1] / 8 + 1),), option)

    return samples


def two_arrays_samples(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Call]:
    for call in any_shape_samples()(rng, dtype):
        yield Call((call.args[0], draw(rng, dtype, *call.args[0].shape)))


two_arrays_benchmark = Benchmark(
    "64 x 32 x 28 x 28", lambda n: Call((normal(n, 32, 28, 28, dtype=F32), normal(n, 32, 28, 28, dtype=F32))), 64,
    64 * 32 * 784 * 12.0, "byte")


# --- peers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchFunction:
    """A function of `torch.nn.functional` by its name: torch is imported when it is needed."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.found()(*args, **kwargs)

    def found(self) -> Callable[..., Any]:
        """Return the function itself, for those who time it."""
        import torch

        return getattr(torch.nn.functional, self.name)


class WithRelu(TorchFunction):
    """The same, and its ReLU where "relu" is the activation."""

    def __call__(self, *args: Any, activation: str | None = None, **options: Any) -> Any:
        y = super().__call__(*args, **options)
        return y if activation is None else y.relu()


def by_weighted_sums(call: Call, y: Array, grad: Array) -> Call:
    """Return the call of the gradient of a kernel of inputs and weights, before the activation that it applied."""
    options = {name: value for name, value in call.kwargs.items() if name != "activation"}
    return Call((grad if options == call.kwargs else kernels.relu_backward(grad, y), *call.args[:2]), options)


def float_refused() -> Iterator[Refused]:
    yield Refused(Call((np.arange(3),)), TypeError, r"x: expected float32 or float64, got int64")
    yield Refused(Call(([1.0, 2.0],)), TypeError, r"x: expected an array, got list")
    yield Refused(Call((np.ones(3),), {"out": np.ones(4)}), ValueError, r"out: expected shape \(3,\), got \(4,\)")


def from_output(call: Call, y: Any, grad: Array) -> Call:
    return Call((grad, y), call.kwargs)
