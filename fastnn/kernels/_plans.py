"""Check, plan, run: what follows from shapes, dtypes and options alone is decided once, and kept.

A kernel's planner checks the arguments, decides, and returns the plan:

    @planned
    def _relu(x, target):
        check_floats(x=x)
        run = implementation(__name__, target, x).relu
        return Plan(run, result_of(x.shape, x.dtype, x))

    def relu(x, *, out=None, target=None):
        return _relu((x,), (), target, out)

A warm call makes a key of shapes, dtypes and options, finds the plan, looks whether what is written shares memory with
anything, makes the array of the result, and runs. Numbers that enter the formula, such as a slope, are no part of the
key: they are checked in each call and handed on.

Arrays of other libraries come in here too. Where the first one on a GPU is of PyTorch or Numba, the results are; else
they are of `xp`. The work goes to the stream that the array belongs to.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastnn import _device
from fastnn._checks import Array, as_array, as_rows, check_written, own_memory
from fastnn.kernels._foreign import current, returned, stream_of
from fastnn.kernels._outputs import Result, deliver, output
from fastnn.kernels._targets import current_target

Needs: TypeAlias = tuple[bool, bool, bool]                                      # which gradients: x, weight, bias
Gradients: TypeAlias = tuple[Array | None, Array | None, Array | None]          # by these

_MOST = 256                                 # plans that a kernel keeps
_ndarray = np.ndarray                       # found faster so


class Plan(NamedTuple):
    """What a kernel does for arguments of certain shapes, dtypes and options."""

    # (*arrays, *numbers, y): it writes y, and returns a tuple of what the kernel returns besides, or None. Where
    # `result` is None, (*arrays, *numbers): it returns what the kernel returns.
    run: Callable[..., Any]
    result: Result | None = None            # what y is
    operations: float = 0                   # arithmetic ones of the formula
    why: str = ""                           # why this algorithm


_every: list[Planned] = []


class Planned:
    """A kernel's planner with the plans that it made; see the module's text."""

    def __init__(self, planner: Callable[..., Plan], names: Sequence[str] = (), rows: Sequence[str] = ()) -> None:
        functools.update_wrapper(self, planner)
        self.planner = planner
        self.rows = frozenset(rows)         # arrays of which rows alone need be contiguous; see `as_rows`
        self.names = tuple(names) or planner.__code__.co_varnames       # of the arrays, which come first
        self.plans: dict[tuple[Any, ...], Plan] = {}
        _every.append(self)

    def __call__(self, arrays: tuple[Any, ...], options: tuple[Any, ...] = (), target: str | None = None,
                 out: Any = None, numbers: tuple[Any, ...] = (), updated: tuple[str, ...] = ()) -> Any:
        """Run the kernel.

        Parameters
        ----------
        arrays : tuple
            Arrays, or None, in the order of the planner's first parameters.
        options : tuple
            What follows these in the planner, none of it a float: 0.0 and -0.0 would be one key.
        target, out
            As given to the kernel.
        numbers : tuple
            What `Plan.run` takes after the arrays.
        updated : tuple of str
            The names of arrays that the kernel writes, besides `out`.
        """
        try:
            if (updated or out is not None) and not own_memory((*arrays, out)):
                check_written((*updated, "out"), {**dict(zip(self.names, arrays)), "out": out})
            given, key = arrays, [options, current_target() if target is None else target]
            for array in arrays:
                if type(array) is _ndarray and array.flags.carray:
                    key += array.shape, array.dtype
                elif array is None:
                    key.append(None)
                else:
                    arrays, key = self._normalized(arrays, key[:2], updated)
                    break
            if options:                     # 1, 1.0 and True would be one key
                kinds = (*map(type, options),)
                key.append(kinds)
                if tuple in kinds:
                    key += [tuple(map(type, option)) for option in options if type(option) is tuple]
            try:
                plan = self.plans.get(found := tuple(key))
            except TypeError:               # what has no hash
                if list in map(type, options):
                    hashable = tuple([tuple(option) if type(option) is list else option for option in options])
                    return self(given, hashable, target, out, numbers, updated)
                plan = self.planner(*arrays, *options, target=target)
            if plan is None:
                plan = self._new_plan(found, arrays, options, target)
        except _device.ForeignArray:
            return self._run_foreign(arrays, options, target, out, numbers, updated)
        if _watchers and (watcher := _watchers.get(threading.get_ident())):
            watcher.calls += 1
            watcher.plan, watcher.arrays, watcher.numbers = plan, arrays, numbers
            watcher.target = target or current_target() or ("cuda" if any(map(_device.is_device, arrays)) else "cpu")
            if not watcher.runs:
                return None
        result = plan.result
        if result is None:
            made = plan.run(*arrays, *numbers)
        else:
            y = result.new() if out is None else output(out, *result[:2], arrays[0], result.rows)
            rest = plan.run(*arrays, *numbers, y)
            if out is not None:
                y = deliver(y, out)
            made = y if rest is None else (y, *rest)
        if given is not arrays:             # the kernel updated copies
            for name, array, old in zip(self.names, arrays, given):
                if name in updated and array is not old:
                    old[...] = array
        return made

    def _new_plan(self, key: tuple[Any, ...], arrays: tuple[Any, ...], options: tuple[Any, ...],
                  target: str | None) -> Plan:
        plan = self.planner(*arrays, *options, target=target)
        if len(self.plans) >= _MOST:
            self.plans.clear()
        self.plans[key] = plan
        return plan

    def _normalized(self, given: tuple[Any, ...], key: list[Any], updated: tuple[str, ...],
                    ) -> tuple[tuple[Any, ...], list[Any]]:
        """Return the arrays as planners and implementations take them, C-contiguous or by rows, and their key."""
        arrays = tuple([None if array is None else (as_rows if name in self.rows else as_array)(name, array)
                        for name, array in zip(self.names, given)])
        for name, old, array in zip(self.names, given, arrays):
            if name in updated and array is not old and _device.is_device(array):
                raise ValueError(f"{name}: expected a C-contiguous array, which is updated")
            if array is None:
                key.append(None)
            else:
                key += (array.shape, array.dtype) if type(array) is _ndarray else (array.shape, array.dtype, "device")
        return arrays, key

    def _run_foreign(self, arrays: tuple[Any, ...], options: tuple[Any, ...], target: str | None, out: Any,
                     numbers: tuple[Any, ...], updated: tuple[str, ...]) -> Any:
        """Run the kernel on arrays of which some are another library's, on a GPU."""
        def placed(value: Any) -> Any:
            return _device.adopted(value) if any(value is one for one in foreign) else value

        foreign = [value for value in (*arrays, *numbers, out) if not _device.is_device(value)
                   and _device.is_foreign(value)]
        with current(stream_of(foreign[0])):          # of which Numba's arrays keep a note
            result = self(tuple(map(placed, arrays)), options, target, placed(out), tuple(map(placed, numbers)),
                          updated)
            kind = type(foreign[0])
            if out is None:
                return returned(result, kind)
            return (out, *[returned(item, kind) for item in result[1:]]) if isinstance(result, tuple) else out


def planned(planner: Callable[..., Plan]) -> Planned:
    """Make a planner, a function (*arrays, *options, target), what kernels call."""
    return Planned(planner)


def bound(implementation: ModuleType, name: str, *examples: Any, **options: Any) -> Callable[..., Any]:
    """Return a function of an implementation with its options given.

    It is the one that the implementation's `plan_...` makes of the examples, where there is such a planner.
    """
    plan = getattr(implementation, f"plan_{name}", None)
    return functools.partial(getattr(implementation, name), **options) if plan is None else plan(*examples, **options)


def because(why: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Note on what a planner returns why it is that."""
    run.why = why  # type: ignore[attr-defined]
    return run


def why(run: Callable[..., Any] | None) -> str:
    """Return what `because` noted."""
    return str(getattr(run, "why", ""))


def forget_plans() -> None:
    """Decide everything anew: what plans follow from beside arguments, such as a tuned number, is another one now."""
    for each in _every:
        each.plans.clear()


class Watcher:
    """Sees the plan of the last kernel called on this thread, and what it was given; without `runs` it is not run."""

    def __init__(self, runs: bool) -> None:
        self.runs = runs
        self.calls = 0
        self.plan: Plan | None = None
        self.arrays: tuple[Any, ...] = ()
        self.numbers: tuple[Any, ...] = ()
        self.target = ""


_watchers: dict[int, Watcher] = {}          # by thread


@contextmanager
def watched(runs: bool = True) -> Iterator[Watcher]:
    thread = threading.get_ident()
    before = _watchers.get(thread)
    _watchers[thread] = watcher = Watcher(runs)
    try:
        yield watcher
    finally:
        del _watchers[thread]
        if before is not None:
            _watchers[thread] = before
