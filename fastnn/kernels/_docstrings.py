"""Docstrings of kernels whose arrays all have one shape: what they have in common is said here."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import TypeVar

from fastnn._checks import Array

_Kernel = TypeVar("_Kernel", bound=Callable[..., Array])

_PARAMETERS = {
    "grad_output": ("array of any shape", "Gradient by the result, float32 or float64."),
    "x": ("array of any shape", "float32 or float64."),
    "y": ("array of the same shape", "The result of `{forward}`."),
    "mask": ("array of the same shape", "bool or uint8; True, or anything but 0, keeps an element."),
    "negative_slope": ("float", "The slope left of 0."),
    "approximate": ('{"none", "tanh"}', '"none": x erfc(-x / sqrt(2)) / 2; "tanh": '
                    "x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."),
    "beta": ("float", "What x is multiplied by; not 0."),
    "threshold": ("float", "The largest beta x for which the logarithm is formed."),
    "axis": ("int", "The axis along which probabilities sum to 1; the last one needs no copies."),
    "p": ("float", "The probability, from 0 to 1, with which the mask drops an element. With 1 all results are 0."),
    "out": ("array of the same shape, optional", "Where the result is written."),
    "target": ('{"naive", "cpu", "cuda"}, optional', "Which implementation runs; see `fastnn.use_target`."),
}


def documented(**of_its_own: str) -> Callable[[_Kernel], _Kernel]:
    """Add what they have in common to a docstring of a summary, of notes and of an example, in this order.

    What is said of a parameter otherwise than of others of this name is given here.
    """
    def complete(function: _Kernel) -> _Kernel:
        if not function.__doc__:            # left out by python -OO
            return function
        summary, *notes, example = inspect.cleandoc(function.__doc__).split("\n\n")
        parameters = inspect.signature(function).parameters
        forward = function.__name__.removesuffix("_backward")
        lines = [summary, "", "Parameters", "----------"]
        for name in parameters:
            kind, text = _PARAMETERS[name]
            if name == "x" and "grad_output" in parameters:
                kind, text = "array of the same shape", "The argument of `{forward}`."
            text = of_its_own.get(name, text).format(forward=forward)
            lines += [f"{name} : {kind}", textwrap.indent(textwrap.fill(text, 110), "    ")]
        lines += ["", "Returns", "-------", "array of that shape", "    Of its dtype."]
        of_out = ", or `out` does not fit or overlaps with an input" if "out" in parameters else ""
        lines += ["", "Raises", "------", "TypeError, ValueError",
                  f"    If a dtype, shape or option does not fit{of_out}."]
        lines += ["", "Notes", "-----", "\n\n".join(notes)]
        lines += ["", "Examples", "--------", ">>> import numpy as np", ">>> from fastnn import kernels", example]
        function.__doc__ = "\n".join(lines) + "\n"
        return function

    return complete
