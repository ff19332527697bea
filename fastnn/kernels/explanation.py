"""What a call of a kernel would run, and why."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import _device
from fastnn.kernels import peak
from fastnn.kernels._cpu import launch as cpu_launch
from fastnn.kernels._cpu.threads import get_num_threads
from fastnn.kernels._cpu.tuning import PARALLEL_WORK
from fastnn.kernels._gpu import launch as gpu_launch
from fastnn.kernels._plans import watched


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
    floor : float or None
        The seconds that these take at least at the peaks that ``fastnn bench`` measured here; None before.
    shares : dict
        The share of the peak that ``fastnn bench`` found for this kernel, by its calls.
    """

    call: str
    target: str
    why: str
    launches: list[Launch]
    operations: float
    bytes: int
    floor: float | None
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
        lines.append("  at least  " + (
            "unknown until `fastnn bench` has measured this machine" if self.floor is None else
            f"{1e6 * self.floor:,.1f} us at the peaks that `fastnn bench` measured here"))
        lines += [f"  share     {100 * share:.0f} % of the peak by `fastnn bench`, {call}"
                  for call, share in self.shares.items()]
        return "\n".join(lines)


def explain(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Say what a call of a kernel would run, and why.

    It runs the call once, on copies of its arrays.

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
        ``fastnn bench`` has measured this machine, the time that these take at least and the share of the machine's
        peak that the kernel was found to reach.

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
      why       plain loops, as an image has so few products ...
    """
    if not inspect.isfunction(kernel) or not kernel.__module__.startswith("fastnn.kernels."):
        raise TypeError(f"kernel: expected a function of fastnn.kernels, got {kernel!r:.100}")
    copies, named = [_copied(value) for value in args], {name: _copied(value) for name, value in kwargs.items()}
    launches: list[Launch] = []
    with watched() as seen, _launches_to(launches):
        result = kernel(*copies, **named)
    plan = seen.plan
    if plan is None:
        raise TypeError(f"kernel: expected a kernel, got {kernel.__name__}, which computes nothing")
    results = result if isinstance(result, tuple) else (result,)
    arrays = [value for value in (*seen.arrays, *results) if hasattr(value, "nbytes")]
    size = sum({id(array): array.nbytes for array in arrays}.values())
    dtype = next(array.dtype for array in arrays)
    return Explanation(_call(kernel, args, kwargs), seen.target, plan.why, launches, plan.operations, size,
                       peak.floor(plan.operations, size, dtype) if seen.target == "cpu" else None,
                       peak.shares(kernel.__name__) if seen.target == "cpu" else {})


@contextmanager
def _launches_to(launches: list[Launch]) -> Iterator[None]:
    """Note the launches of this thread."""
    thread = threading.get_ident()

    def on_cpu(kernel: Any, blocks: int, work: int, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread:
            threads = 1 if work < PARALLEL_WORK else min(blocks, get_num_threads())
            launches.append(Launch(kernel.name.removeprefix("fastnn.kernels."), blocks, threads, _summary(kernel),
                                   {name: value for arg in args if hasattr(arg, "_asdict")
                                    for name, value in arg._asdict().items()}))

    def on_gpu(kernel: Any, blocks: Any, threads: Any) -> None:
        if threading.get_ident() == thread:
            function = getattr(kernel, "py_func", kernel)
            launches.append(Launch(f"{function.__module__.removeprefix('fastnn.kernels.')}.{function.__qualname__}",
                                   blocks, threads, _summary(function), {}))

    before = cpu_launch.watcher, gpu_launch.watcher
    cpu_launch.watcher, gpu_launch.watcher = on_cpu, on_gpu
    try:
        yield
    finally:
        cpu_launch.watcher, gpu_launch.watcher = before


def _summary(function: Any) -> str:
    """The first sentence of a docstring."""
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split()).rstrip(".")


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) or _device.is_device(value) else value


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
    while value >= 1000 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}".rstrip() + " "
