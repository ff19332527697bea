"""What a call of a kernel would run, and why."""

from __future__ import annotations

import copy
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastnn.kernels import peak
from fastnn.kernels._cpu import launch as cpu_launch
from fastnn.kernels._gpu import launch as gpu_launch
from fastnn.kernels._plans import watched

FAMILIES = ("activation", "attention", "conv", "distance", "embedding", "linear", "loss", "normalization", "pooling",
            "quantized", "resampling", "softmax", "update")


@dataclass(frozen=True)
class Launch:
    """One launch of compiled code: its name, blocks, threads, and what a block does."""

    name: str
    blocks: Any
    threads: int
    does: str
    numbers: dict[str, Any]                 # what the compiled code takes of the plan


@dataclass(frozen=True, repr=False)
class Explanation:
    """What a call runs; printed, a few lines.

    Attributes
    ----------
    call : str
        The kernel with shapes and dtypes of its arrays.
    target : {"naive", "cpu", "cuda"}
        Which implementation runs.
    why : str
        Why this algorithm, where there are several.
    launches : list of Launch
        What runs, in its order.
    operations : float
        Arithmetic ones of the formula.
    bytes : int
        Of all arrays and results, each counted once.
    seconds_at_peak : float or None
        What these take at the peaks that ``fastnn bench`` measured here, of products in registers and of a copy far
        beyond the caches: an algorithm that needs fewer products, and arrays that lie in a cache, may take less. None
        before, and on other targets than "cpu".
    shares : dict
        The share of the peak that ``fastnn bench`` found for this kernel, by its calls.
    """

    call: str
    target: str
    why: str
    launches: list[Launch]
    operations: float
    bytes: int
    seconds_at_peak: float | None
    shares: dict[str, float]

    def __repr__(self) -> str:
        lines = [f'{self.call} on "{self.target}"']
        lines += [f"  why       {self.why}"] if self.why else []
        for number, one in enumerate(self.launches):
            blocks = f"{one.blocks} blocks of {one.threads} threads" if self.target == "cuda" else (
                f"{one.blocks} block{'s' * (one.blocks != 1)} on {one.threads} thread{'s' * (one.threads != 1)}")
            lines.append(f"  {'' if number else 'runs':<9} {one.name}, {blocks}" + f": {one.does}" * bool(one.does))
            if one.numbers:
                lines.append(f"            by {', '.join(f'{name} {value}' for name, value in one.numbers.items())}")
        lines.append(f"  counts    {_amount(self.operations, '')}operations, {_amount(self.bytes, 'B')}in and out")
        if self.seconds_at_peak is not None:
            lines.append(f"  at peak   {1e6 * self.seconds_at_peak:,.1f} us by what `fastnn bench` measured here; less "
                         "with fewer products, or with arrays in a cache")
        elif self.target == "cpu":
            lines.append("  at peak   unknown until `fastnn bench` has measured this machine")
        lines += [f"  share     {100 * share:.0f} % of the peak by `fastnn bench`, {call}"
                  for call, share in self.shares.items()]
        return "\n".join(lines)


def explain(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Say what a call of a kernel would run, and why.

    Nothing is written: what the call decides runs once, on copies of its arrays.

    Parameters
    ----------
    kernel : function
        One of `fastnn.kernels`.
    *args, **kwargs
        Its arguments.

    Returns
    -------
    Explanation
        Its `repr` are a few lines: the algorithm, blocks and threads of each launch, operations and bytes, and, once
        ``fastnn bench`` has measured this machine, the time that these take at its peaks and the share of these that
        the kernel was found to reach.

    Raises
    ------
    TypeError
        If `kernel` is no kernel; else what the call itself raises.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn
    >>> x, weight = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
    >>> print(fastnn.explain(fastnn.conv2d, x, weight, padding=1))  # doctest: +ELLIPSIS
    conv2d(x float32 (1, 1, 8, 8), weight float32 (1, 1, 3, 3), padding=1) on "cpu"
      why       plain loops: ...
    """
    name = getattr(kernel, "__name__", "")
    if name not in _kernels() or kernel is not getattr(sys.modules["fastnn.kernels"], name):
        raise TypeError(f"kernel: expected one of fastnn.kernels, such as conv2d, got {kernel!r:.100}")
    with watched(runs=False) as seen:
        kernel(*args, **kwargs)
    plan = seen.plan
    assert plan is not None
    launches: list[Launch] = []
    given = [copy.copy(value) for value in (*seen.arrays, *seen.numbers)]
    y = () if plan.result is None else (plan.result.new(),)
    with _launches_to(launches):
        rest = plan.run(*given, *y)
    all_values = *given, *y, *(rest if isinstance(rest, tuple) else (rest,))
    arrays = [value for value in all_values if hasattr(value, "nbytes")]
    size, on_cpu = sum(array.nbytes for array in arrays), seen.target == "cpu"
    return Explanation(_call(kernel, args, kwargs), seen.target, plan.why, launches, plan.operations, size,
                       peak.seconds(plan.operations, size, arrays[0].dtype) if on_cpu else None,
                       peak.shares(name) if on_cpu else {})


def _kernels() -> set[str]:
    """Names of the functions that go by plans."""
    return {name for family in FAMILIES for name in sys.modules[f"fastnn.kernels.{family}"].__all__}


@contextmanager
def _launches_to(launches: list[Launch]) -> Iterator[None]:
    """Note the launches of this thread."""
    thread = threading.get_ident()

    def on_cpu(kernel: Any, blocks: int, threads: int, args: tuple[Any, ...]) -> None:
        launches.append(Launch(kernel.name.removeprefix("fastnn.kernels."), blocks, threads, _summary(kernel),
                               {name: value for arg in args if hasattr(arg, "_asdict")
                                for name, value in arg._asdict().items()}))

    def on_gpu(kernel: Any, blocks: Any, threads: Any) -> None:
        function = getattr(kernel, "py_func", kernel)
        launches.append(Launch(f"{function.__module__.removeprefix('fastnn.kernels.')}.{function.__qualname__}",
                               blocks, threads, _summary(function), {}))

    gpu_launch.watchers[thread] = on_gpu
    try:
        with cpu_launch.watched_by(on_cpu):
            yield
    finally:
        del gpu_launch.watchers[thread]


def _summary(function: Any) -> str:
    """The first sentence of a docstring."""
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def _call(kernel: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The call as it is written, arrays by dtype and shape."""
    names = list(inspect.signature(kernel).parameters)
    shown = [f"{name} {_shown(value)}" if hasattr(value, "shape") else _shown(value)
             for name, value in zip(names, args)]
    return f"{kernel.__name__}({', '.join(shown + [f'{name}={_shown(value)}' for name, value in kwargs.items()])})"


def _shown(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if hasattr(value, "shape") else repr(value)


def _amount(value: float, unit: str) -> str:
    prefixes = ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}".rstrip() + " "
