"""Sums over steps, on the host or on a GPU, and whether all is finite; no step on a GPU is waited for before a look."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn import _device, kernels

_LOOK = 50              # steps on a GPU after which their sums are waited for


@dataclass
class Sums:
    """Loss and right predictions, summed over the samples of an epoch or of an evaluation.

    On the host it is known at once whether a loss or a gradient is finite. On a GPU both are summed, and the sums are
    finite as long as all losses and gradients are, which shows at the next look.
    """

    samples: int = 0
    loss_sum: Any = 0.0     # a number; on a GPU an array there, between two looks at it
    correct: Any = 0        # the same, or None: the task is no classification
    tokens: Any = 0         # the same: what the losses are means over, the samples unless a loss is one of tokens

    def __post_init__(self) -> None:
        self.unseen = 0     # steps since the last look
        self._gradients: Any = 0.0

    def add(self, loss: Any, samples: int, tokens: Any = None) -> bool:
        """Add the loss of a step, a `double`; return False where it is known not to be finite."""
        tokens = samples if tokens is None else tokens
        self.unseen += 1
        self.samples += samples
        self.tokens += tokens
        self.loss_sum += loss * tokens
        return _device.is_device(loss) or math.isfinite(loss)

    def add_gradient(self, gradient: Any) -> bool:
        """Watch over a gradient; return False where it is known not to be finite."""
        if not _device.is_device(gradient):
            return bool(np.isfinite(gradient).all())
        self._gradients += gradient.sum(dtype=np.float64)
        return True

    def count(self, scores: Any, targets: Any) -> None:
        """Count the right predictions of a step."""
        if self.correct is None or not is_classification(scores, targets):
            self.correct = None
            return
        correct = (scores.argmax(1) == targets).sum()
        self.correct += correct if _device.is_device(correct) else int(correct)

    @property
    def mean(self) -> float:
        """The mean loss."""
        return float(self.loss_sum) / int(self.tokens)

    @property
    def due(self) -> bool:
        """Whether it is time for a look: on the host always."""
        return self.unseen >= _LOOK or not _device.is_device(self.loss_sum)

    def look(self) -> bool:
        """Wait for the steps so far, and return whether all losses and gradients were finite."""
        self.unseen, self.loss_sum, gradients, self._gradients = 0, float(self.loss_sum), float(self._gradients), 0.0
        self.correct = None if self.correct is None else int(self.correct)
        self.tokens = int(self.tokens)
        return math.isfinite(self.loss_sum) and math.isfinite(gradients)


def double(loss: Any) -> Any:
    """Return a loss as float64, which sums of many need: a float, or an array on the GPU."""
    return loss.astype(np.float64) if _device.is_device(loss) else float(loss)


def is_classification(scores: Any, targets: NDArray[Any]) -> bool:
    """Whether targets are classes, one a sample, and scores are theirs."""
    return getattr(scores, "ndim", None) == 2 and targets.ndim == 1 and targets.dtype.kind in "iu"


def first_not_finite(arrays: Iterable[tuple[str, Any]]) -> str | None:
    """Return the name of the first array that is not finite, if there is one."""
    floats = [(name, array) for name, array in arrays if array.dtype.kind == "f"]
    # On a GPU sums, finite as long as all of an array is, are waited for once.
    sums = sum(array.sum(dtype=np.float64) for _, array in floats if _device.is_device(array))
    if math.isfinite(float(sums)):
        floats = [(name, array) for name, array in floats if not _device.is_device(array)]
    return next((name for name, array in floats if not np.isfinite(kernels.to_host(array)).all()), None)
