"""Models for inference alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, NoReturn, Self, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _device, kernels
from fastnn._checks import Array, as_floats
from fastnn.kernels.binding import bind, signature
from fastnn.nn.activation import GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from fastnn.nn.attention import MultiheadAttention
from fastnn.nn.container import Checkpointed, Composed, Residual, Sequential
from fastnn.nn.dropout import Dropout
from fastnn.nn.linear import Conv2d, ConvTranspose2d, Linear
from fastnn.nn.module import Backward, LoadResult, Module, Parameter, beside, data_of
from fastnn.nn.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from fastnn.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from fastnn.nn.resampling import Upsample
from fastnn.nn.shape import Flatten, Identity

Run: TypeAlias = Callable[[Array], Array]

_MOST = 64                                  # shapes of inputs that a model knows at once


def freeze(model: Module) -> Frozen:
    """Return a model for inference alone that gives the same results faster.

    - Batch normalization becomes part of the convolution or linear layer before it, through max pooling too where no
      scale is negative.
    - A ReLU after a convolution or batch normalization, and the sum of a `Residual`, are done in one pass with it.
      Dropout and Identity are left out.
    - Weights are kept as the kernels read them: packed, or transformed for Winograd's algorithm.
    - Once it has seen an input, it knows what runs for others of that shape, and checks and decides nothing again.

    Parameters
    ----------
    model : Module
        It stays as it is, and may be trained further: nothing is shared with it.

    Returns
    -------
    Frozen
        A Module: call it as the model is called, in the model's dtype. `forward(x, training=True)` and backward are
        errors.

    Raises
    ------
    TypeError
        If it is no Module.

    Notes
    -----
    It sees through `Sequential`, `Residual`, `Composed` and `Checkpointed`, however they are nested. A Module with a
    forward of its own is copied as it is, with its Sequentials and other such containers frozen: it must call these,
    not look into them. Weights of a frozen model are constants, and read-only; `to` moves them or changes their dtype.

    Folding rounds the weights once more, so that results differ by rounding: in float32 by some 1e-6 of the largest one
    in each layer. Where the folded weights would not be finite, nothing is folded. (Jacob and others, "Quantization and
    training of neural networks for efficient integer-arithmetic-only inference", arXiv:1712.05877, section 3.2.)

    Packed weights take as much memory as the weights, transformed ones up to four times that.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn
    >>> model = fastnn.models.CNN()
    >>> frozen = fastnn.freeze(model)
    >>> [type(layer).__name__ for layer in frozen.model]
    ['Conv2d', 'ReLU', 'Conv2d', 'ReLU', 'MaxPool2d', 'Conv2d', 'ReLU', 'AdaptiveAvgPool2d', 'Flatten', 'Linear']
    >>> images = np.ones((2, 1, 8, 8), np.float32)
    >>> np.allclose(frozen(images), model(images), atol=1e-5)
    True
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got {type(model).__name__}")
    memo: dict[int, Any] = {}
    return Frozen(_chain(model, memo) if is_plain(model, *_CONTAINERS) else _copied(model, memo))


class Frozen(Module):
    """What `fastnn.freeze` returns: a model for inference alone.

    Attributes
    ----------
    model : Module
        The layers that are left.
    """

    def __init__(self, model: Module) -> None:
        self.model = model
        self._settle()

    def _settle(self) -> None:
        """Begin anew with the weights as they are."""
        self._programs: dict[Hashable, Run] = {}                # by signatures of inputs
        self._plannable = _is_plannable(self.model)
        module: Any
        for _, module in self.named_modules():
            if isinstance(module, Frozen):
                module._programs = {}
            elif is_plain(module, *_WEIGHTED, MultiheadAttention):
                if hasattr(module, "_kept"):
                    module._kept = kernels.KeptWeight(constant=True)
                for parameter in module.parameters():
                    if not _device.is_device(parameter.data):
                        parameter.data.flags.writeable = False

    def __call__(self, *inputs: Any) -> Any:
        key = signature(inputs[0]) if len(inputs) == 1 else None
        program = self._programs.get(key)
        if program is not None:
            return program(inputs[0])
        if key is None or not self._plannable:
            return self.model(*inputs)
        try:
            y, program = _plan(self.model, inputs[0])
        except (TypeError, ValueError):
            return self.model(*inputs)      # which also says in what layer it is
        if len(self._programs) >= _MOST:
            self._programs.clear()
        self._programs[key] = program
        return y

    def forward(self, *inputs: Any, training: bool = True) -> tuple[Any, Backward]:
        if training:
            raise RuntimeError("training: expected False, as a frozen model is for inference alone, got True; train "
                               "the model that it was made of, and freeze that again")
        return self(*inputs), no_backward

    def load_state_dict(self, state: Any, strict: bool = True) -> LoadResult:
        raise RuntimeError("a frozen model takes no other weights; load them into the model that it was made of, and "
                           "freeze that again")

    def to(self, device_or_dtype: DTypeLike) -> Self:
        super().to(device_or_dtype)
        self._settle()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.model = state["model"]
        self._settle()


def no_backward(*grads: Any, input_grad: bool = True) -> NoReturn:
    raise RuntimeError("backward was called on a frozen model, which keeps nothing for it; use the model that it was "
                       "made of")


class FoldedLinear(Linear):
    """A linear layer that does the work of a batch normalization, whose channels are the last axis of rows alone."""

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        (x,) = as_floats(x=x)
        if x.ndim != 2:
            raise ValueError(f"x: expected shape (N, {self.in_features}), as batch normalization became part of this "
                             f"layer, got {x.shape}")
        return super().forward(x, training=training)


# --- other layers that do the same -----------------------------------------------------------------------------------

_WEIGHTED = Conv2d, ConvTranspose2d, Linear, FoldedLinear
_LEAVES = (*_WEIGHTED, BatchNorm1d, BatchNorm2d, LayerNorm, GroupNorm, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d,
           AdaptiveMaxPool2d, Upsample, Flatten, ReLU, LeakyReLU, Sigmoid, Tanh, GELU, SiLU, Softplus, Softmax,
           LogSoftmax)
_CONTAINERS = Sequential, Residual, Composed, Checkpointed, Frozen


def is_plain(module: Module, *kinds: type[Module]) -> bool:
    """Whether it does what one of these does, without a forward of its own."""
    return "forward" not in vars(module) and any(
        isinstance(module, kind) and type(module).forward is kind.forward and type(module).__call__ is kind.__call__
        for kind in kinds)


def _chain(module: Module, memo: dict[int, Any]) -> Module:
    return Sequential(*_layers(module, memo))


def _layers(module: Any, memo: dict[int, Any]) -> list[Module]:
    """Return copies of the layers that do a module's work one after the other.

    In memo are copies by the identity of what lives as long as the model, as deepcopy takes them.
    """
    if is_plain(module, Frozen):
        return _layers(module.model, memo)
    if is_plain(module, Checkpointed):
        return _layers(module.module, memo)
    if is_plain(module, Composed):
        return _layers(module.composed(), memo)
    if is_plain(module, Sequential):
        return _folded([layer for child in module.children() for layer in _layers(child, memo)])
    if is_plain(module, Residual):
        body, shortcut = module.body, module.shortcut
        return [Residual(_chain(body, memo), _chain(shortcut, memo))]
    return [] if is_plain(module, Dropout, Identity) else [_copied(module, memo)]


def _copied(module: Module, memo: dict[int, Any]) -> Module:
    """Return a copy of a layer, or of a module with a forward of its own, whose containers are frozen."""
    _freeze_inside(module, memo)
    for parameter in module.parameters():
        if id(parameter) not in memo:
            memo[id(parameter)] = Parameter(parameter.data.copy(), requires_grad=False)
    return copy.deepcopy(module, memo)


def _freeze_inside(module: Module, memo: dict[int, Any]) -> None:
    for child in module.children():
        if id(child) not in memo:
            if is_plain(child, *_CONTAINERS):
                memo[id(child)] = Frozen(_chain(child, memo))
            else:
                _freeze_inside(child, memo)


def _folded(layers: list[Module]) -> list[Module]:
    """Return the layers with each batch normalization in the one before it, where that can be."""
    done: list[Module] = []
    for layer in layers:
        # The largest of numbers that are scaled alike, but not turned round, is the largest scaled.
        place = -2 if len(done) > 1 and is_plain(done[-1], MaxPool2d) and _keeps_order(layer) else -1
        both = _fold(done[place], layer) if done else None
        if both is None:
            done.append(layer)
        else:
            done[place] = both
    return done


def _keeps_order(norm: Any) -> bool:
    """Whether no channel's scale is negative."""
    return is_plain(norm, BatchNorm2d) and (norm.weight is None or bool((norm.weight.data >= 0).all()))


def _fold(layer: Any, norm: Any) -> Module | None:
    """Return a layer that does a batch normalization's work too; None where none can."""
    if is_plain(layer, Linear) and is_plain(norm, BatchNorm1d):
        outputs = layer.out_features
    elif is_plain(layer, Conv2d, ConvTranspose2d) and is_plain(norm, BatchNorm2d):
        outputs = layer.out_channels
    else:
        return None
    if outputs != norm.num_features or norm.running_mean is None:
        return None

    def double(array: Array | None, absent: float) -> Any:
        return absent if array is None else kernels.to_host(array).astype(np.float64)

    like = layer.weight.data
    if norm.running_mean.dtype != like.dtype or _device.is_device(norm.running_mean) != _device.is_device(like):
        return None                         # an error, which the layers themselves report
    weight, bias = double(like, 0), double(data_of(layer.bias), 0)
    gamma, beta = double(data_of(norm.weight), 1), double(data_of(norm.bias), 0)
    mean, var = double(norm.running_mean, 0), double(norm.running_var, 1)
    with np.errstate(all="ignore"):         # what is not finite is not used
        scale = gamma / np.sqrt(var + norm.eps)
        bias = beta + (bias - mean) * scale
        if isinstance(layer, ConvTranspose2d):                  # its weight is (C, O / groups, KH, KW)
            by_group = weight.reshape(layer.groups, -1, *weight.shape[1:])
            weight = (by_group * scale.reshape(layer.groups, 1, -1, 1, 1)).reshape(weight.shape)
        else:
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        weight, bias = weight.astype(like.dtype), bias.astype(like.dtype)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return None
    both = copy.copy(layer)
    if isinstance(layer, Linear):
        both.__class__ = FoldedLinear
    both.weight = Parameter(beside(like, weight), requires_grad=False)
    both.bias = Parameter(beside(like, bias), requires_grad=False)
    return both


# --- what runs for inputs of one shape -------------------------------------------------------------------------------


def _is_plannable(module: Module) -> bool:
    """Whether the shape of x decides all that runs."""
    return is_plain(module, *_LEAVES) or (is_plain(module, Sequential, Residual)
                                          and all(map(_is_plannable, module.children())))


def _plan(module: Any, x: Array) -> tuple[Array, Run]:
    """Return the result, and a function that does the same with other inputs of that shape."""
    if is_plain(module, Residual):
        body, run_body = _plan(module.body, x)
        shortcut, run_shortcut = _plan(module.shortcut, x)
        y, add_relu = bind(kernels.add_relu, body, shortcut)
        return y, lambda x: add_relu(run_body(x), run_shortcut(x))
    if is_plain(module, Sequential):
        return _plan_chain(list(module.children()), x)
    if is_plain(module, Flatten):
        shape = (y := module(x)).shape
        return y, lambda x: x.reshape(shape)
    if isinstance(module, Linear) and x.ndim == 2 and x.shape[1] == module.in_features:
        weight, bias, kept = module.weight.data, data_of(module.bias), module._kept
        return bind(lambda x: kernels.linear(x, weight, bias, kept=kept), x)
    return bind(module, x)


def _plan_chain(layers: list[Any], x: Array) -> tuple[Array, Run]:
    runs: list[Run] = []
    while layers:
        chain = Sequential(*layers[:2])     # of two layers that are one kernel, where they are
        fuses = len(chain) == 2 and hasattr(layers[0], "fuse") and layers[0].fuse(layers[1]) is not None
        x, run = bind(chain, x) if fuses else _plan(layers[0], x)
        runs.append(run)
        layers = layers[2 if fuses else 1:]

    def run_all(x: Array) -> Array:
        for run in runs:
            x = run(x)
        return x

    return x, run_all
