"""fastnn: neural networks on NumPy arrays at the speed of the machine.

Importing this package loads no other, not even NumPy: each subpackage is loaded when it is first used.

Examples
--------
>>> import numpy as np
>>> import fastnn
>>> x = np.ones((1, 1, 3, 3), np.float32)
>>> weight = np.ones((1, 1, 2, 2), np.float32)
>>> fastnn.conv2d(x, weight)
array([[[[4., 4.],
         [4., 4.]]]], dtype=float32)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastnn import cs231n as cs231n
    from fastnn import data as data
    from fastnn import estimators as estimators
    from fastnn import kernels as kernels
    from fastnn import models as models
    from fastnn import nn as nn
    from fastnn import optim as optim
    from fastnn import random as random
    from fastnn import recipes as recipes
    from fastnn import sweeps as sweeps
    from fastnn import testing as testing
    from fastnn import training as training
    from fastnn.kernels import *  # noqa: F403
    from fastnn.nn.cost import summary as summary
    from fastnn.nn.freezing import freeze as freeze
    from fastnn.nn.quantization import quantize as quantize

_SUBPACKAGES = ("cs231n", "data", "estimators", "kernels", "models", "nn", "optim", "random", "recipes", "sweeps",
                "testing", "training")
# And those of `kernels`.
_FUNCTIONS = {"freeze": "nn.freezing", "quantize": "nn.quantization", "summary": "nn.cost"}


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"fastnn.{name}")
    if name in _FUNCTIONS:
        value = globals()[name] = getattr(importlib.import_module(f"fastnn.{_FUNCTIONS[name]}"), name)
        return value
    if not name.startswith("_"):
        kernels = importlib.import_module("fastnn.kernels")
        if name in kernels.__all__:
            value = globals()[name] = getattr(kernels, name)
            return value
    raise AttributeError(f"module 'fastnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    kernels = importlib.import_module("fastnn.kernels")
    return sorted({*globals(), *_SUBPACKAGES, *_FUNCTIONS, *kernels.__all__})
