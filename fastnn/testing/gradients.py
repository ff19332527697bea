"""Gradients held against central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import random
from fastnn.nn import Module, Parameter

Array = np.ndarray

STEP = 1e-6
DIRECTIONS = 5
REDRAWS = 20


@dataclass(frozen=True)
class GradientCheck:
    """One array's gradient, held against differences.

    `error` is ||a - n|| / max(||a|| + ||n||, 1e-3 sqrt(size)) of the analytic gradient a and the numeric one n;
    `kinks` counts the steps that crossed a kink: their elements are in neither gradient, nor in size.
    """

    name: str
    shape: tuple[int, ...]
    error: float
    kinks: int = 0


def relative_error(analytic: Array, numeric: Array) -> float:
    """Return ||a - n|| / max(||a|| + ||n||, 1e-3 sqrt(size)).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.testing import relative_error
    >>> round(relative_error(np.array([1.0, 0.0]), np.array([1.1, 0.0])), 4)
    0.0476
    """
    scale = np.linalg.norm(analytic) + np.linalg.norm(numeric)
    return float(np.linalg.norm(analytic - numeric) / max(scale, 1e-3 * np.sqrt(np.size(analytic))))


def check_gradients(module: Module, *inputs: Array, seed: int = 0, whole: bool | None = None) -> list[GradientCheck]:
    """Hold a module's gradients, by its parameters and its inputs, against central differences in float64.

    The module's output, an array or a tuple of them, is reduced to one number by random weights. Dropout draws one mask
    throughout, running statistics are put back. A step that crosses a kink (of a ReLU or a maximum) shows by slopes
    that change with its length: such an element is left out, such a direction drawn again, and both are counted. Where
    more than 2 elements and a tenth of an array, or all of it, are left out, or 20 directions, the check says nothing
    and is an error.

    Parameters
    ----------
    module : Module
        A layer or a model, in float64 (`module.to(numpy.float64)`), or a loss. Its parameters are put back.
    *inputs : arrays
        What its forward takes; floating inputs are checked too.
    seed : int
        Draws the weights of the outputs, the directions and the points.
    whole : bool, optional
        Whether to check along 5 random directions of all parameters together, which costs 10 forward passes,
        instead of each element of each array, which costs two per element. By default, from 2,000 elements on.

    Returns
    -------
    list of GradientCheck
        One for each array, or one for all parameters and one for each input.

    Raises
    ------
    TypeError
        If a parameter or an input is of float32.
    AssertionError
        If too many steps cross a kink.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, testing
    >>> layer = nn.Linear(3, 2).to(np.float64)
    >>> checks = testing.check_gradients(layer, np.ones((4, 3)))
    >>> [check.name for check in checks], max(check.error for check in checks) < 1e-7
    (['weight', 'bias', 'x'], True)
    """
    problem = _Problem(module, inputs, seed)
    size = sum(array.size for _, array, _ in problem.arrays)
    if whole is None:
        whole = size >= 2000
    try:
        return problem.directions() if whole else problem.elements()
    finally:
        problem.restore()


class _Problem:
    """The scalar function f(arrays) = sum(weights * module(inputs)) and its analytic gradients."""

    def __init__(self, module: Module, inputs: tuple[Array, ...], seed: int) -> None:
        self.module = module
        self.rng = random.generator(seed, "check_gradients")
        self.inputs = [np.array(x) for x in inputs]
        self.parameters: dict[str, Parameter] = {
            name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.kept = {name: parameter.data.copy() for name, parameter in self.parameters.items()}
        self.grads = {name: parameter.grad for name, parameter in self.parameters.items()}
        self.state = module.state_dict()
        self.seed = seed
        for name, array in (*self.kept.items(), *((f"input {i}", x) for i, x in enumerate(self.inputs))):
            if array.dtype.kind == "f" and array.dtype != np.float64:
                raise TypeError(f"{name}: expected float64, which differences need, got {array.dtype}; "
                                f"convert the module with .to(numpy.float64)")
        for parameter in self.parameters.values():
            parameter.grad = None
        output, backward = self.forward()
        several = isinstance(output, tuple)
        self.weights = [self.rng.standard_normal(np.shape(part)) for part in _parts(output)]
        # Whose rounding f has, though they may cancel.
        self.terms = sum(float(np.sum(np.abs(terms))) for terms in self.products(output))
        weights = [weight if np.ndim(weight) else float(weight) for weight in self.weights]
        grads = backward(getattr(output, "_make", tuple)(weights) if several else weights[0])
        grads = grads if isinstance(grads, tuple) else (grads,)
        self.arrays: list[tuple[str, Array, Array]] = []
        for name, parameter in self.parameters.items():
            grad = np.zeros_like(parameter.data) if parameter.grad is None else np.array(parameter.grad)
            self.arrays.append((name, parameter.data, grad))
        names = ["x"] if len(self.inputs) == 1 else [f"x{i}" for i in range(len(self.inputs))]
        for name, x, grad in zip(names, self.inputs, grads):
            if x.dtype.kind == "f" and grad is not None:
                self.arrays.append((name, x, np.array(grad)))

    def forward(self) -> tuple[Any, Callable[..., Any]]:
        with random.at_step(self.seed, 0, 0):
            return self.module.forward(*self.inputs, training=True)

    def value(self) -> float:
        return sum(float(np.sum(terms)) for terms in self.products(self.forward()[0]))

    def products(self, output: Any) -> list[Array]:
        """The terms of f, for each array of an output."""
        return [weight * part for weight, part in zip(self.weights, _parts(output))]

    def slopes(self, move: Callable[[float], None], size: float) -> tuple[float, bool]:
        """The central difference along `move`, and whether it is smooth there: halving the step changes nothing."""
        h = STEP * max(1.0, size)
        values = {}
        for step in (h, -h, h / 2, -h / 2):
            move(step)
            values[step] = self.value()
            move(-step)
        wide = (values[h] - values[-h]) / (2 * h)
        narrow = (values[h / 2] - values[-h / 2]) / h
        middle = 0.5 * (values[h / 2] + values[-h / 2])
        outer = 0.5 * (values[h] + values[-h])
        # Rounding in the terms of f reaches a slope divided by h; a kink as the jump of the slope itself.
        noise = 256 * np.finfo(np.float64).eps * (self.terms + 1) / h
        curved = abs(outer - middle) / h
        return wide, bool(abs(wide - narrow) <= noise and curved <= noise + 1e-4 * (abs(wide) + 1) * h / STEP)

    def elements(self) -> list[GradientCheck]:
        checks = []
        for name, array, analytic in self.arrays:
            flat = array.reshape(-1)
            numeric, smooth = np.zeros(flat.size), np.zeros(flat.size, bool)
            for index in range(flat.size):
                def move(step: float, flat: Array = flat, index: int = index) -> None:
                    flat[index] += step

                numeric[index], smooth[index] = self.slopes(move, abs(float(flat[index])))
            kinks = flat.size - int(smooth.sum())
            # Few may be left out, or a wrong gradient would hide among them.
            if kinks and (kinks == flat.size or kinks > max(2, flat.size / 10)):
                raise AssertionError(f"{name}: {kinks} of {flat.size} steps cross a kink; give other inputs")
            error = relative_error(analytic.reshape(-1)[smooth], numeric[smooth])
            checks.append(GradientCheck(name, array.shape, error, kinks))
        return checks

    def directions(self) -> list[GradientCheck]:
        groups = [("parameters", [a for a in self.arrays if a[0] in self.parameters])]
        groups += [(a[0], [a]) for a in self.arrays if a[0] not in self.parameters]
        return [self.along(name, arrays) for name, arrays in groups if arrays]

    def along(self, name: str, arrays: list[tuple[str, Array, Array]]) -> GradientCheck:
        """Check all `arrays` together along random directions of unit length."""
        analytic: list[float] = []
        numeric: list[float] = []
        kinks = 0
        while len(analytic) < DIRECTIONS:
            direction = [self.rng.standard_normal(array.shape) for _, array, _ in arrays]
            length = np.sqrt(sum(np.sum(d * d) for d in direction))
            direction = [d / length for d in direction]

            def move(step: float, direction: list[Array] = direction) -> None:
                for (_, array, _), d in zip(arrays, direction):
                    array += step * d

            slope, smooth = self.slopes(move, 1.0)
            if not smooth:
                kinks += 1
                if kinks > REDRAWS:
                    raise AssertionError(f"{name}: {kinks} directions cross a kink; give other inputs")
                continue
            numeric.append(slope)
            analytic.append(sum(float(np.sum(grad * d)) for (_, _, grad), d in zip(arrays, direction)))
        size = sum(array.size for _, array, _ in arrays)
        return GradientCheck(name, (size,), relative_error(np.array(analytic), np.array(numeric)), kinks)

    def restore(self) -> None:
        self.module.load_state_dict(self.state)
        for name, parameter in self.parameters.items():
            parameter.data[...] = self.kept[name]
            parameter.grad = self.grads[name]


def _parts(output: Any) -> tuple[Any, ...]:
    return output if isinstance(output, tuple) else (output,)


def numeric_gradient(function: Callable[[], float], array: Array) -> Array:
    """Return the gradient of `function()` by the elements of `array`, which it reads, by central differences.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.testing import numeric_gradient
    >>> x = np.array([1.0, 2.0])
    >>> numeric_gradient(lambda: float(np.sum(x ** 3)), x).round(6)
    array([ 3., 12.])
    """
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = float(array[index])
        h = STEP * max(1.0, abs(kept))
        array[index] = kept + h
        above = function()
        array[index] = kept - h
        gradient[index] = (above - function()) / (2 * h)
        array[index] = kept
    return gradient
