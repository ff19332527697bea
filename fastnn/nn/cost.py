"""What a model costs, layer by layer: parameters, multiply-adds, and memory that waits for the backward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from types import CellType, FunctionType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _device, random
from fastnn._checks import Array, as_int, is_sequence
from fastnn.nn.attention import MultiheadAttention
from fastnn.nn.linear import Conv2d, ConvTranspose2d, Linear
from fastnn.nn.module import Backward, Forward, Module, Parameter, beside, once

_HEADS = ("layer", "type", "output", "parameters", "multiply-adds", "kept for backward")
_EMPTY = CellType()                        # of a variable that has no value yet; no cell with one is equal to it


@dataclass(frozen=True)
class LayerSummary:
    """One call of a layer; sizes are those of one sample.

    Attributes
    ----------
    name : str
        As in `named_modules`.
    type : str
        The name of its class.
    output_shape : tuple of ints
        Without the axis of the batch; empty where the result is no array.
    parameters : int
        Elements of the layer's own parameters that no line above has.
    multiply_adds : int
        Products that are summed, where it is a convolution or linear.
    kept : int
        Bytes that the layer, and none above, keeps from the forward to the backward pass.

    Examples
    --------
    >>> import fastnn
    >>> fastnn.summary(fastnn.nn.Linear(3, 2), (3,)).layers
    [LayerSummary(name='', type='Linear', output_shape=(2,), parameters=8, multiply_adds=6, kept=12)]
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    kept: int


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` returns; printed, it is a table with a line a layer.

    Attributes
    ----------
    layers : list of LayerSummary
        In the order in which they end.
    parameters, trainable_parameters : int
        Elements of all parameters, and of those that are not frozen.
    parameter_bytes : int
        The memory of the parameters.
    multiply_adds, kept : int
        Sums over the layers.

    Examples
    --------
    >>> import fastnn
    >>> costs = fastnn.summary(fastnn.models.ResNet18(), (3, 224, 224))
    >>> costs.parameters, costs.multiply_adds
    (11689512, 1814073344)
    """

    layers: list[LayerSummary]
    parameters: int
    trainable_parameters: int
    parameter_bytes: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a forward pass, a sample."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def kept(self) -> int:
        """Bytes that are kept for the backward pass, a sample."""
        return sum(layer.kept for layer in self.layers)

    def __repr__(self) -> str:
        rows = [_HEADS, *((layer.name, layer.type, " x ".join(map(str, layer.output_shape)), f"{layer.parameters:,}",
                           f"{layer.multiply_adds:,}", in_bytes(layer.kept)) for layer in self.layers)]
        rows.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", in_bytes(self.kept)))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(f"{cell:<{width}}" if place < 3 else f"{cell:>{width}}"
                           for place, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
        return "\n".join([*lines, "", f"{self.trainable_parameters:,} parameters are trainable; all take "
                          f"{in_bytes(self.parameter_bytes)}. The other columns are for one sample."])


def summary(model: Module, input_shape: Sequence[int], dtype: DTypeLike | None = None) -> Summary:
    """Return what each layer of a model puts out, holds, computes and keeps for backward.

    Nothing is guessed: two small batches run through a copy of the model, in training. "Kept for backward" is by how
    much the arrays that wait for the backward pass grow with each sample of a batch; one that several layers keep
    counts at the first. A ReLU that is done in the same pass as the layer before it has a line of its own.

    Parameters
    ----------
    model : Module
        The model, which is not changed.
    input_shape : sequence of ints
        The shape of one sample, such as (3, 32, 32), without the axis of the batch.
    dtype : dtype, optional
        Of the samples; the model's unless it is given. Models of tokens take integers: samples are zeros then.

    Returns
    -------
    Summary
        A module made of others has a line after theirs where it holds or keeps something itself.

    Raises
    ------
    TypeError
        If the model is no Module, or the shape none of integers.
    ValueError
        If the model takes no samples of that shape.

    Notes
    -----
    Counted are the multiply-adds of convolutions, linear layers and attention, taps on padding and what a mask hides
    among them; a backward pass needs about twice as many. Arrays are found in what the backward functions close over:
    in lists, tuples and dicts, too.

    Examples
    --------
    >>> import fastnn
    >>> from fastnn import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    >>> fastnn.summary(model, (3, 8, 8))
    layer  type     output     parameters  multiply-adds  kept for backward
    0      Conv2d   8 x 8 x 8         224         13,824             2.8 kB
    1      ReLU     8 x 8 x 8           0              0                0 B
    2      Flatten  512                 0              0                0 B
    3      Linear   10              5,130          5,120                0 B
    total                           5,354         18,944             2.8 kB
    <BLANKLINE>
    5,354 parameters are trainable; all take 21.4 kB. The other columns are for one sample.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got {type(model).__name__}")
    if not is_sequence(input_shape):
        raise TypeError(f"input_shape: expected a sequence of integers, such as (3, 32, 32), got {input_shape!r:.100}")
    shape = tuple(as_int("input_shape", size, 1) for size in input_shape)
    # Batch normalization takes no single sample.
    less, more = _calls(model, 2, shape, dtype), _calls(model, 3, shape, dtype)
    layers = [LayerSummary(call.name, type(call.module).__name__, _of_one(call.output_shape, other.output_shape),
                           call.parameters, call.multiply_adds - other.multiply_adds, call.kept - other.kept)
              for call, other in zip(more, less, strict=True)]
    parameters = list(model.parameters())
    return Summary(
        [layer for layer, call in zip(layers, more)
         if layer.parameters or layer.kept or not any(True for _ in call.module.children())],
        sum(parameter.data.size for parameter in parameters),
        sum(parameter.data.size for parameter in parameters if parameter.requires_grad),
        sum(parameter.data.nbytes for parameter in parameters))


@dataclass
class _Call:
    name: str
    module: Module
    output_shape: tuple[int, ...]           # this and what follows, but for parameters, is of the whole batch
    parameters: int
    multiply_adds: int
    kept: int                               # bytes


def _of_one(more: tuple[int, ...], less: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one sample's result, from those of two batches, whose axis need not be the first."""
    batch = next((axis for axis, (size, other) in enumerate(zip(more, less)) if size != other), 0)
    return more[:batch] + more[batch + 1 :]


def _calls(model: Module, samples: int, shape: tuple[int, ...], dtype: DTypeLike | None) -> list[_Call]:
    """Run a copy of a model in training, and return the calls of all modules in it in the order in which they end."""
    model = copy.deepcopy(model)
    arrays = [array for _, array in model._arrays()]
    like = next((array for array in arrays if array.dtype.kind == "f"), np.zeros(0, np.float32))
    x = np.zeros((samples, *shape), dtype or like.dtype)
    if x.dtype.kind == "f":
        x[...] = random.generator(0, "summary").standard_normal(x.shape)
    names = {id(module): name for name, module in model.named_modules()}
    known = {id(owner): owner for owner in map(_owner, arrays)}     # and so are those that were found: ids stay theirs
    counted: set[int] = set()
    calls = []

    def note(module: Module, x: Any, y: Any, backward: Backward | None) -> None:
        own = [parameter for _, parameter in module._members(Parameter) if id(parameter) not in counted]
        counted.update(map(id, own))
        new = {id(owner): owner for owner in map(_owner, _kept_by(backward, set())) if id(owner) not in known}
        known.update(new)
        calls.append(_Call(names.get(id(module), ""), module, getattr(y, "shape", ()),
                           sum(parameter.data.size for parameter in own), _multiply_adds(module, x, y),
                           sum(owner.nbytes for owner in new.values())))

    for module in [module for _, module in model.named_modules()]:
        vars(module)["forward"] = _noted(module, module.forward, note)
        if hasattr(module, "fuse"):
            vars(module)["fuse"] = partial(_fused, module, module.fuse, note)
    try:
        with random.at_step(0):
            model.forward(beside(like, x), training=True)
    except ValueError as error:
        raise ValueError(f"input_shape: samples of shape {shape} do not fit this {type(model).__name__}: "
                         f"{error}") from error
    return calls


_Note = Callable[[Module, Any, Any, Backward | None], None]


def _noted(module: Module, forward: Forward, note: _Note) -> Forward:
    def noted(x: Any, *args: Any, **options: Any) -> tuple[Any, Backward]:
        y, backward = forward(x, *args, **options)
        note(module, x, y, backward)
        return y, backward

    return noted


def _fused(module: Module, fuse: Callable[[Module], Forward | None], note: _Note, following: Module) -> Forward | None:
    """Return the forward of two layers in one, noted as the calls of both."""
    forward = fuse(following)
    if forward is None:
        return None
    both = _noted(module, forward, note)

    def noted(x: Any, **options: Any) -> tuple[Any, Backward]:
        y, backward = both(x, **options)
        note(following, y, y, None)
        return y, backward

    return noted


def _multiply_adds(module: Module, x: Any, y: Any) -> int:
    match module:
        case Linear() | Conv2d():
            return prod(y.shape) * prod(module.weight.data.shape[1:])
        case MultiheadAttention():          # of a sequence to itself; out_proj is a layer of its own
            samples, length, inner = len(x), x.shape[1], module.num_heads * module.head_dim
            return samples * length * inner * (3 * module.embed_dim + 2 * length)
        case ConvTranspose2d():
            return prod(x.shape) * prod(module.weight.data.shape[1:])
        case _:
            return 0


def _kept_by(value: Any, seen: set[int]) -> Iterator[Array]:
    """Iterate over the arrays that a backward function holds, and all backward functions that it calls."""
    if id(value) in seen:
        return
    seen.add(id(value))
    inside: Sequence[Any] = ()
    match value:
        case once():
            inside = (value._function,)
        case FunctionType(__closure__=cells):
            inside = [cell.cell_contents for cell in cells or () if cell != _EMPTY]
        case partial():
            inside = value.func, value.args, value.keywords
        case list() | tuple():
            inside = value
        case dict():
            inside = list(value.values())
        case _ if isinstance(value, np.ndarray) or _device.is_device(value):
            yield value
    for part in inside:
        yield from _kept_by(part, seen)


def _owner(array: Array) -> Array:
    """Return the array whose memory this one is a view of."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array


def in_bytes(count: int) -> str:
    """Return a number of bytes in the unit in which it has few digits."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
