"""What every public kernel passes: what it writes has memory of its own, and arrays of any library on a GPU come in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from fastnn.kernels import _cuda
from fastnn.kernels._arrays import check_written, own_memory

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def updates(*names: str, when: str = "") -> Callable[[_Kernel], _Kernel]:
    """Say which arguments, beside `out`, a kernel writes: always, or where the option `when`, else False, is true."""
    def mark(function: Any) -> Any:
        function.updates = names, when
        return function

    return mark


def door(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a kernel run once what it writes shares memory with nothing else that was given, on any array on a GPU.

    Where the first array on a GPU that came in is of PyTorch or Numba, the results are too; else they are of `xp`. The
    work goes to the stream that the array belongs to.
    """
    positional = function.__code__.co_varnames[: function.__code__.co_argcount]
    updated, when = getattr(function, "updates", ((), ""))
    always = bool(updated) and not when

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if ((always or (kwargs and ("out" in kwargs or (when and kwargs.get(when)))))
                    and not own_memory((*args, *kwargs.values()))):
                check(args, kwargs)
            return function(*args, **kwargs)
        except _cuda.ForeignArray:
            pass
        foreign = [value for value in (*args, *kwargs.values()) if not _cuda.is_device(value)
                   and _cuda.is_foreign(value)]
        named = {name: _cuda.adopted(value) if any(value is one for one in foreign) else value
                 for name, value in kwargs.items()}
        placed = [_cuda.adopted(value) if any(value is one for one in foreign) else value for value in args]
        out = kwargs.get("out")
        with _cuda.current(_cuda.stream_of(foreign[0])):        # of which Numba's arrays keep a note
            check(placed, named)
            result = function(*placed, **named)
            return out if out is not None else _cuda.returned(result, type(foreign[0]))

    def check(args: Any, kwargs: dict[str, Any]) -> None:
        check_written((*updated, "out") if kwargs.get(when, always) else ("out",),
                      {**dict(zip(positional, args)), **kwargs})

    return call
