"""Models for inference in bytes: weights and activations of 8 bits, sums in exact integers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _device, kernels
from fastnn._checks import FLOATS, Array, check_not_empty
from fastnn.nn.activation import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Tanh
from fastnn.nn.container import Residual, Sequential
from fastnn.nn.freezing import FoldedLinear, Frozen, freeze, is_plain, no_backward
from fastnn.nn.linear import Conv2d, Linear
from fastnn.nn.module import Backward, LoadResult, Module, data_of
from fastnn.nn.pooling import AvgPool2d, MaxPool2d
from fastnn.nn.shape import Flatten

_AT_ONCE = 100                              # images that calibration runs together
_ACTIVATIONS = ReLU, LeakyReLU, Sigmoid, Tanh, GELU, SiLU, Softplus


def quantize(model: Module, images: Array) -> Quantized:
    """Return a model for inference alone whose weights and activations are bytes.

    - The model is frozen first (`fastnn.freeze`), which makes batch normalization a part of the layers before it.
    - The images run through it, and the smallest and largest value of each activation decide what its bytes stand for:
      (byte - zero_point) scale. Where a ReLU follows, zero_point is 0, and all bytes are for what is left.
    - Each filter has a scale of its own: its largest weight becomes 127 or -127.
    - Convolutions and linear layers multiply bytes, sum them up in exact integers, and turn the sums into bytes again,
      with the bias, a ReLU and the sum of a `Residual` in the same pass. Max pooling compares bytes; any other
      activation is a table of 256 entries. What is none of these runs in floats, as do the scores at the end.

    Parameters
    ----------
    model : Module
        It stays as it is.
    images : array of floats, shape (N, ...)
        What the model is calibrated on, as it takes it: some hundred images of the kind that it will see, which may as
        well be rows or anything else of floats. A value beyond those of the calibration counts as the nearest of them.

    Returns
    -------
    Quantized
        A Module, on the device where the images lie: call it as the model is called. It returns float32.
        `forward(x, training=True)` and backward are errors.

    Raises
    ------
    TypeError, ValueError
        If `model` is no Module, or `images` no such array, or an activation is not finite.

    Notes
    -----
    Its `state_dict` is a quarter of the model's size. `load_state_dict` of another one, made of the same model and of
    any images, loads it again; see `Quantized`.

    Benoit Jacob and others, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference" (arXiv:1712.05877), section 2; scales by filter as in Raghuraman Krishnamoorthi, "Quantizing deep
    convolutional networks for efficient inference" (arXiv:1806.08342), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn
    >>> model = fastnn.models.CNN()
    >>> images = np.random.default_rng(0).standard_normal((20, 1, 8, 8)).astype(np.float32)
    >>> quantized = fastnn.quantize(model, images)
    >>> bool(abs(quantized(images) - model(images)).max() < 0.05 * abs(model(images)).max())
    True
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got {type(model).__name__}")
    if not _is_floats(images):
        raise TypeError("images: expected an array of float32 or float64, as the model takes it, got "
                        f"{getattr(images, 'dtype', type(images).__name__)}")
    check_not_empty("images", images)

    @functools.cache                        # what is used in two places stays one
    def observed(frozen: Frozen) -> _Observed:
        return _Observed(frozen, observed)

    found = observed(freeze(model))
    for first in range(0, len(images), _AT_ONCE):
        found(images[first : first + _AT_ONCE])
    quantized = Quantized(found.quantized)
    return quantized.to("cuda") if _device.is_device(images) else quantized


class Quantized(Module):
    """What `fastnn.quantize` returns: a model for inference alone, in bytes.

    To save one and have it again::

        training.save("bytes.safetensors", quantized.state_dict())
        quantized = fastnn.quantize(model, images)          # the model with its weights, any images of that shape
        training.load_model("bytes.safetensors", quantized)

    Attributes
    ----------
    model : Module
        The layers.
    """

    def __init__(self, model: Module) -> None:
        self.model = model
        for parameter in self.parameters():     # of layers in floats, which were frozen
            if not _device.is_device(parameter.data):
                parameter.data.flags.writeable = True
        super().to(np.float32)

    def forward(self, *inputs: Any, training: bool = True) -> tuple[Any, Backward]:
        if training:
            raise RuntimeError("training: expected False, as a quantized model is for inference alone, got True; train "
                               "the model that it was made of, and quantize that again")
        return self.model(*inputs), no_backward

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadResult:
        result = super().load_state_dict(state, strict)
        for _, module in self.named_modules():
            if hasattr(module, "_kept"):
                module._kept = kernels.KeptWeight(constant=True)
        return result

    def to(self, device: DTypeLike) -> Self:
        """Move all arrays to a device, "cpu" or "cuda"; see `Module.to`. Bytes have no other dtype."""
        if not isinstance(device, str) or device not in _device.DEVICES:
            raise TypeError(f"device: expected 'cpu' or 'cuda', as a quantized model has one dtype, got {device!r}")
        super().to(device)
        for _, module in self.named_modules():
            if isinstance(module, ByteLayer):
                for name, array in module._own_buffers():       # numbers stay on the host, where calls read them
                    setattr(module, name, _device.DEVICES[device if array.ndim else "cpu"](array))
        return self


# --- layers ----------------------------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """What bytes stand for: (byte - zero_point) scale."""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, low: float, high: float) -> Scale:
        """Return that of numbers in a range, which holds 0: zeros around an image must be exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255
        if not scale > np.finfo(np.float32).tiny:
            return cls(1.0, 0)
        return cls(float(np.float32(scale)), min(255, max(0, round(-low / scale))))

    def numbers(self) -> Array:
        """Return what each byte stands for, in float32."""
        return ((np.arange(256) - self.zero_point) * self.scale).astype(np.float32)

    def bytes(self, numbers: Array) -> Array:
        """Return the nearest bytes."""
        return np.rint(np.clip(numbers / self.scale + self.zero_point, 0, 255)).astype(np.uint8)


class ByteLayer(Module):
    """A layer that takes or gives bytes, images of them with channels last, and has no gradient."""

    def forward(self, *inputs: Array, training: bool = True) -> tuple[Array, Backward]:
        return self.result(*inputs), no_backward

    def result(self, x: Array) -> Array:
        """Return what the layer makes of x."""
        raise NotImplementedError


class Quantize(ByteLayer):
    """Numbers to bytes; images of floats have their channels first."""

    buffers = "scale", "zero_point"

    def __init__(self, scale: Scale) -> None:
        self.scale, self.zero_point = np.asarray(scale.scale, np.float32), np.asarray(scale.zero_point, np.uint8)

    def result(self, x: Array) -> Array:
        return kernels.quantize_per_tensor(x, float(self.scale), int(self.zero_point))


class Lookup(ByteLayer):
    """Any function of one number, as a table."""

    buffers = ("table",)

    def __init__(self, table: Array) -> None:
        self.table = table

    def result(self, x: Array) -> Array:
        return kernels.lookup_int8(x, self.table)


class Dequantize(Lookup):
    """Bytes to numbers; images of floats have their channels first."""

    def __init__(self, scale: Scale) -> None:
        super().__init__(scale.numbers())

    def result(self, x: Array) -> Array:
        return super().result(x if x.ndim == 2 else x.transpose(0, 3, 1, 2))


class FlattenBytes(ByteLayer):
    """Images to rows, channel by channel as those of floats."""

    def result(self, x: Array) -> Array:
        return x if x.ndim == 2 else x.transpose(0, 3, 1, 2).reshape(len(x), math.prod(x.shape[1:]))


class MaxPool2dInt8(ByteLayer):
    """The largest byte of each window."""

    def __init__(self, layer: MaxPool2d) -> None:
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.dilation, self.ceil_mode = layer.dilation, layer.ceil_mode

    def result(self, x: Array) -> Array:
        return kernels.max_pool2d_int8(x, self.kernel_size, stride=self.stride, padding=self.padding,
                                       dilation=self.dilation, ceil_mode=self.ceil_mode)


class _Product(ByteLayer):
    """What convolutions and linear layers share: weights of bytes, and what scales the sums.

    `source`, `result` and `residual` say what bytes stand for that come in, come out and are added; a result without is
    one of floats.
    """

    buffers = "weight", "scale", "bias", "zero_point", "residual_scale"

    def __init__(self, layer: Any, source: Scale, result: Scale | None, residual: Scale | None = None) -> None:
        weight = kernels.to_host(layer.weight.data).astype(np.float64)
        bias = 0.0 if layer.bias is None else kernels.to_host(layer.bias.data).astype(np.float64)
        step, zero_point = (1.0, 0) if result is None else result
        rows = weight.reshape(len(weight), -1)
        largest = abs(rows).max(1)
        steps = np.where(largest > 0, largest / 127, 1.0)
        added = 0.0 if residual is None else residual.scale / step
        self.weight = np.rint(rows / steps[:, None]).astype(np.int8).reshape(weight.shape)
        self.scale = (source.scale * steps / step).astype(np.float32)
        self.bias = (bias / step + zero_point - added * (residual.zero_point if residual else 0)
                     + np.zeros(len(weight))).astype(np.float32)
        self.zero_point = np.asarray(source.zero_point, np.uint8)
        self.residual_scale = None if residual is None else np.asarray(added, np.float32)
        self.floats = result is None
        self._kept = kernels.KeptWeight(constant=True)


class Conv2dInt8(_Product):
    """A convolution of bytes, to bytes or, channels first, to floats; a residual is added where it is given."""

    def __init__(self, layer: Conv2d, source: Scale, result: Scale | None, residual: Scale | None = None) -> None:
        super().__init__(layer, source, result, residual)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups = layer.groups

    def result(self, x: Array, residual: Array | None = None) -> Array:
        y = kernels.conv2d_int8(
            x, self.weight, self.scale, self.bias, residual, zero_point=int(self.zero_point),
            residual_scale=1.0 if self.residual_scale is None else float(self.residual_scale), stride=self.stride,
            padding=self.padding, dilation=self.dilation, groups=self.groups,
            dtype=np.float32 if self.floats else np.uint8, kept=self._kept)
        return y.transpose(0, 3, 1, 2).copy() if self.floats else y


class LinearInt8(_Product):
    """A linear map of bytes, to bytes or floats."""

    def result(self, x: Array) -> Array:
        return kernels.linear_int8(x, self.weight, self.scale, self.bias, zero_point=int(self.zero_point),
                                   dtype=np.float32 if self.floats else np.uint8, kept=self._kept)


class ResidualInt8(ByteLayer):
    """last(body(x)) + shortcut(x) and a ReLU; the last convolution adds what the shortcut gives."""

    def __init__(self, body: Module, last: Conv2dInt8, shortcut: Module) -> None:
        self.body, self.last, self.shortcut = body, last, shortcut

    def result(self, x: Array) -> Array:
        return self.last.result(self.body(x), self.shortcut(x))


# --- calibration, and what it leads to -------------------------------------------------------------------------------


def _inside(module: Any, kind: type[Module], change: Callable[[Any], Module]) -> Any:
    """Change the modules of a kind inside a module of our own, and return it."""
    def changed(value: Any) -> Any:
        if isinstance(value, kind):
            return change(value)
        return _inside(value, kind, change) if isinstance(value, Module) else value

    for name, value in vars(module).items():
        if isinstance(value, list | tuple) and any(isinstance(item, Module) for item in value):
            setattr(module, name, type(value)([changed(item) for item in value]))
        elif isinstance(value, Module):
            setattr(module, name, changed(value))
    return module


def _is_floats(x: Any) -> bool:
    return (isinstance(x, np.ndarray) or _device.is_device(x)) and x.dtype in FLOATS


class _Seen:
    """The range of an activation of floats, and its dimensions."""

    def __init__(self) -> None:
        self.low, self.high, self.dimensions = math.inf, -math.inf, 0

    def note(self, x: Any) -> None:
        if not _is_floats(x):
            return
        low, high = float(x.min()), float(x.max())
        if not math.isfinite(low + high):
            raise ValueError("images: expected some for which all activations are finite, got one with NaN or infinity")
        self.low, self.high, self.dimensions = min(self.low, low), max(self.high, high), x.ndim

    def scale(self) -> Scale:
        return Scale.of(self.low, self.high)


class _Step:
    """A layer of a chain, and what went into it and came out of it."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.into, self.out = _Seen(), _Seen()
        self.body, self.shortcut = ([_Step(inner) for inner in part] for part in (
            (layer.body, layer.shortcut) if is_plain(layer, Residual) else ((), ())))

    def __call__(self, x: Any) -> Any:
        self.into.note(x)
        if is_plain(self.layer, Residual):
            body, shortcut = x, x
            for step in self.body:
                body = step(body)
            for step in self.shortcut:
                shortcut = step(shortcut)
            x = kernels.add_relu(body, shortcut)
        else:
            try:
                x = self.layer(x)
            except (TypeError, ValueError) as error:
                error.add_note(f"in {self.layer!r}")
                raise
        self.out.note(x)
        return x


class _Observed(Module):
    """A frozen chain of layers that notes what runs through it."""

    def __init__(self, frozen: Frozen, observed: Callable[[Frozen], _Observed]) -> None:
        self.frozen = frozen
        chain = frozen.model if is_plain(frozen.model, Sequential) else Sequential(frozen.model)
        self.chain = _inside(chain, Frozen, observed)
        self._steps = [_Step(layer) for layer in self.chain]

    def forward(self, x: Any, *, training: bool = True) -> tuple[Any, Backward]:
        for step in self._steps:
            x = step(x)
        return x, no_backward

    @functools.cached_property
    def quantized(self) -> Module:
        """The chain in bytes; what never ran stays as it is."""
        if self._steps and self._steps[0].into.dimensions == 0:
            return self.frozen
        return Sequential(*_in_bytes(self._steps, None, None)[0])


def _in_bytes(steps: list[_Step], source: Scale | None, last: _Seen | None) -> tuple[list[Module], Scale | None]:
    """Return layers for those of a chain, and what the bytes of the result stand for; None stands for floats.

    `source` is what comes in. The chain ends with bytes if `last` is what was seen there, else with floats.
    """
    layers: list[Module] = []
    steps = list(steps)

    def as_bytes(seen: _Seen) -> Scale:
        if source is None:
            layers.append(Quantize(seen.scale()))
            return seen.scale()
        return source

    while steps:
        step, layer = steps[0], steps[0].layer
        taken = 1
        if _multiplies(step):
            taken += len(steps) > 1 and is_plain(steps[1].layer, ReLU)
            following = steps[taken:]
            source = as_bytes(step.into)
            result = None
            if (_takes_bytes(following[0]) if following else last is not None):
                # A max pool that follows may as well see what is below all of its results as the least of them.
                pooled = following and is_plain(following[0].layer, MaxPool2d)
                result = (following[0] if pooled else steps[taken - 1]).out.scale()
            kind: Any = Conv2dInt8 if isinstance(layer, Conv2d) else LinearInt8
            layers.append(kind(layer, source, result))
            if result is None and taken > 1:
                layers.append(steps[1].layer)
            source = result
        elif _adds(step):
            source = as_bytes(step.into)
            shortcut, added = _in_bytes(step.shortcut, source, step.shortcut[-1].out if step.shortcut else step.into)
            body, inner = _in_bytes(step.body[:-1], source, step.body[-1].into)
            assert inner is not None
            result = step.out.scale()
            conv = Conv2dInt8(step.body[-1].layer, inner, result, added)
            layers.append(ResidualInt8(Sequential(*body), conv, Sequential(*shortcut)))
            source = result
        elif source is not None and _takes_bytes(step):
            if is_plain(layer, MaxPool2d):
                layers.append(MaxPool2dInt8(layer))
            elif is_plain(layer, Flatten):
                layers.append(FlattenBytes())
            elif is_plain(layer, AvgPool2d):                    # of one pixel
                source = Scale(source.scale / (layer.divisor_override or 1), source.zero_point)
            else:
                result = step.out.scale()
                numbers = kernels.to_host(layer(source.numbers()))
                layers.append(Lookup(result.bytes(numbers)))
                source = result
        else:
            if source is not None:
                layers.append(Dequantize(source))
            layers.append(_inside(layer, _Observed, lambda part: part.quantized))
            source = None
        del steps[:taken]
    if last is not None:
        source = as_bytes(last)
    elif source is not None:
        layers.append(Dequantize(source))
        source = None
    return layers, source


def _multiplies(step: _Step) -> bool:
    """Whether a layer's products are of bytes."""
    layer = step.layer
    if is_plain(layer, Linear, FoldedLinear):
        fits = step.into.dimensions == 2
    else:
        fits = is_plain(layer, Conv2d) and step.into.dimensions == 4
    if not fits or math.prod(layer.weight.data.shape[1:]) > kernels.quantized.MOST_PRODUCTS:
        return False
    return all(array is None or bool(np.isfinite(kernels.to_host(array)).all())
               for array in (layer.weight.data, data_of(layer.bias)))


def _adds(step: _Step) -> bool:
    """Whether a residual block ends with a convolution that can add the shortcut."""
    return bool(step.body) and step.into.dimensions == 4 and _multiplies(step.body[-1]) and isinstance(
        step.body[-1].layer, Conv2d)


def _takes_bytes(step: _Step) -> bool:
    """Whether a layer can do with bytes."""
    layer = step.layer
    if is_plain(layer, AvgPool2d):
        return layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
    if is_plain(layer, Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return is_plain(layer, MaxPool2d, *_ACTIVATIONS) or _multiplies(step) or _adds(step)
