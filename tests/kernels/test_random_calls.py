"""Random calls of every kernel, held to its bound beside PyTorch, or beside the naive version where that judges.

    pytest tests/kernels/test_random_calls.py --random-calls 100000 --seed 1

runs more of them than the suite does. Call number i of a seed is always the same. What fails is printed as lines to be
pasted into Python, and the run goes on to the end. Both sides must refuse the same calls, but for DIFFERENCES.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.testing import KERNELS, Call, Kernel
from fastnn.testing.compare import TOLERANCES
from fastnn.testing.table import as_tuple

Array = np.ndarray
Judge = Callable[[Call, Any], list[tuple[Any, Any]]]
Truth = tuple[Any, Any]                                 # a result in float64, and how far from it is allowed
SUMS = {"conv2d", "conv_transpose2d", "linear", "interpolate"}
HAS_TORCH = importlib.util.find_spec("torch") is not None


# --- what both sides refuse, but for these

def images_of(given: dict[str, Any]) -> tuple[int, ...]:
    return given["input_shape"] if "input_shape" in given else given["x"].shape


def both(value: Any) -> tuple[int, int]:
    return (value[0], value[-1]) if isinstance(value, tuple) else (value, value)


def misses_the_image(given: dict[str, Any]) -> bool:
    """Whether a window of max pooling steps over the image by its dilation."""
    kernel, dilation = both(given.get("kernel_size", 1)), both(given.get("dilation", 1))
    padding, stride = both(given.get("padding", 0)), both(given.get("stride", kernel))
    return any((start % dilation[i]) >= size for i, size in enumerate(images_of(given)[2:])
               for start in range(-padding[i], 0, stride[i]))


# Kernels, which calls of them by the names of arguments, and why PyTorch refuses what is taken here, or the reverse.
DIFFERENCES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("conv2d", lambda a: a.get("padding") == "same", "torch allows 'same' for stride 1 alone (docstring)"),
    ("pool2d", lambda a: 0 in images_of(a)[1:2], "no channels give an empty result, which torch refuses"),
    ("adaptive", lambda a: 0 in images_of(a)[2:], "no pixels have no mean; for 1 x 1 alone torch gives NaN"),
    ("interpolate", lambda a: 0 in images_of(a)[1:2], "no channels give an empty result, which torch refuses"),
    ("avg_pool2d", lambda a: (a.get("divisor_override") or 1) < 0, "a divisor is at least 1 (docstring)"),
    ("max_pool2d", misses_the_image, "a window without a cell has no maximum (docstring); torch takes -inf"),
    ("batch_norm", lambda a: 0 in a["x"].shape, "no samples are refused in training, no channels taken (design)"),
    ("conv_transpose2d", lambda a: len(a["x"]) == 0, "torch does not look at output_padding where there are no images"),
]


# --- arguments as text -----------------------------------------------------------------------------------------------


@dataclass
class Draw:
    """One random call: arguments are drawn as text, so that it can be printed."""

    random: Random
    dtype: str                                          # of the floats: "f4" or "f8"
    large: bool                                         # whether shapes are large enough for threads, tiles and filters
    wild: bool                                          # whether magnitudes are
    planted: bool                                       # whether NaN and inf may be among the values
    args: list[str] = field(default_factory=list)
    kwargs: dict[str, str] = field(default_factory=dict)

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def size(self, low: int, small: int, large: int) -> int:
        """A number, from a third of `large` on if shapes are large."""
        return self.random.randint(max(low, large // 3), large) if self.large else self.random.randint(low, small)

    def pair(self, low: int, high: int) -> Any:
        """An integer, alone or in a tuple, or one for rows and one for columns."""
        one, two = self.random.randint(low, high), self.random.randint(low, high)
        return (one, two) if self.chance(0.5) else (one,) if self.chance(0.1) else one

    def option(self, name: str, values: Any, p: float = 0.5) -> Any:
        """Give an option with some probability; return what was given, or None."""
        if not self.chance(p):
            return None
        value = values() if callable(values) else self.random.choice(values)
        self.kwargs[name] = repr(value)
        return value

    def rng(self) -> str:
        return f"np.random.default_rng({self.random.randrange(1 << 20)})"

    def floats(self, *shape: int, reach: int | None = None) -> str:
        """An array of floats in any layout; `reach` bounds the exponents of ten of magnitudes."""
        dtype = self.dtype
        kind = self.random.randrange(12)
        wide = (*shape[:-1], 2 * shape[-1]) if shape and kind == 1 else shape[::-1] if kind == 2 else shape
        if kind == 7 and shape:
            wide = *shape[:-1], shape[-1] + 3
        if kind == 8 and len(shape) > 2:
            wide = *shape[:-3], shape[-2], shape[-3], shape[-1]
        text = f"{self.rng()}.standard_normal({wide}, {dtype!r})"
        if self.chance(0.15):                           # ties and zeros
            text = f"{self.rng()}.integers(-2, 3, {wide}).astype({dtype!r})"
        if self.wild and reach != 0:
            most = min(reach or 300, 36 if dtype == "f4" else 300)
            scale = self.random.randint(-most, most)
            text = f"{text} * np.{'float32' if dtype == 'f4' else 'float64'}(1e{scale})"
        elif self.chance(0.1):
            text = f"{text} + np.{'float32' if dtype == 'f4' else 'float64'}({self.random.choice((3, 100, -1000))})"
        if self.planted and self.chance(0.5) and shape:
            value = self.random.choice(("np.nan", "np.inf", "-np.inf"))
            text = f"np.where({self.rng()}.random({wide}) < 0.1, {value}, {text})"
        if not shape:
            return f"np.array({text})"
        if kind == 1:
            return f"({text})[..., ::2]"
        if kind == 2:
            return f"({text}).T"
        if kind == 3:
            return f"({text})[{', '.join(['::-1'] * len(shape))}]"
        if kind == 4:
            return f"np.broadcast_to({text}, {shape})"          # read-only
        if kind == 5 and len(shape) > 1:
            return f"np.broadcast_to({text.replace(repr(wide), repr((1, *shape[1:])))}, {shape})"
        if kind == 6:
            return f"np.asfortranarray({text})"
        if kind == 7:
            return f"({text})[..., 3:]"
        if kind == 8 and len(shape) > 2:
            return f"({text}).swapaxes(-2, -3)"
        return text

    def integers(self, low: int, high: int, *shape: int) -> str:
        dtype = self.random.choice(("i8", "i4", "u1") if low >= 0 else ("i8", "i4"))
        return f"{self.rng()}.integers({low}, {high}, {shape}).astype({dtype!r})"

    def out(self, *shape: int, dtype: str = "") -> None:
        """Give an array for the result now and then."""
        if self.chance(0.08):
            dtype = dtype or self.dtype
            self.kwargs["out"] = self.random.choice((
                f"np.empty({shape}, {dtype!r})", f"np.empty({(*shape, 2)}, {dtype!r})[..., 0]",
                f"np.empty({shape and (*shape[:-1], shape[-1] + 3)}, {dtype!r})[{'..., 3:' if shape else '...'}]",
                f"np.empty({shape[::-1]}, {dtype!r}).T"))

    def text(self, name: str) -> str:
        return f"kernels.{name}({', '.join([*self.args, *(f'{k}={v}' for k, v in self.kwargs.items())])})"

    def call(self) -> Call:
        held = SimpleNamespace(call=lambda *args, **kwargs: Call(args, kwargs))
        with np.errstate(all="ignore"):
            return eval(self.text("call"), {"np": np, "kernels": held})


# --- references ------------------------------------------------------------------------------------------------------


def reference(name: str, call: Call) -> Any:
    """What PyTorch says in float64; the naive version where there is no PyTorch, and for NaN and inf in sums."""
    if not HAS_TORCH or (name in SUMS and not finite(call)):
        return KERNELS[name](call, target="naive")
    import torch

    with torch.no_grad():
        result = KERNELS[name].torch(*call.map(tensor).args, **call.map(tensor).kwargs)
    return tuple(part.numpy() for part in result) if isinstance(result, tuple) else result.numpy()


def gradients(name: str, forward: Call, grad: Any, at: tuple[int, ...]) -> tuple[Any, ...]:
    """Gradients by arguments of a call as PyTorch says in float64."""
    import torch

    same = forward.map(tensor)
    wanted = [same.args[i].requires_grad_() for i in at]
    y = KERNELS[name].torch(*same.args, **same.kwargs)
    grads = torch.autograd.grad(y, wanted, torch.as_tensor(grad, dtype=torch.float64), allow_unused=True)
    return tuple(torch.zeros_like(a).numpy() if g is None else g.numpy() for a, g in zip(wanted, grads))


def finite(call: Call) -> bool:
    return all(np.isfinite(array).all() for array in call.arrays())


def tensor(array: Array) -> Any:
    import torch

    return torch.from_numpy(np.array(array, np.float64 if array.dtype.kind == "f" else
                                     np.int64 if array.dtype.kind in "iu" else array.dtype, order="C"))


def sums(terms: float, block: int = 512) -> float:
    """The factor of eps in the bounds of sums that are cut into blocks."""
    return min(terms, block) + terms / block + 1


def absolute(call: Call) -> Call:
    return call.map(lambda array: np.abs(array) if array.dtype.kind == "f" else array)


def within(truth: Any, magnitude: Any, factor: float, eps: SimpleNamespace) -> Truth:
    """A truth, and `factor` eps times the magnitude of what is summed; anything where that is out of range."""
    magnitude = np.asarray(magnitude, np.float64)
    with np.errstate(all="ignore"):
        bound = factor * (eps.eps * magnitude + 2 * eps.smallest_subnormal)
        # Where inputs are not finite, nor are truth and magnitude, and the kind of the truth counts.
        return truth, np.where((magnitude > 0.99 * eps.max) & np.isfinite(truth), np.inf, bound)


@dataclass(frozen=True)
class Family:
    """How calls of one kernel are drawn, and what their results must be."""

    draw: Callable[[Draw], None]
    judge: Judge                                        # of the call in float64, by the finfo of its dtype
    dtypes: tuple[str, ...] = ("f4", "f8")


FAMILIES: dict[str, Family] = {}


# --- convolution -----------------------------------------------------------------------------------------------------


def span(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    return max(0, (size + before + after - dilation * (kernel - 1) - 1) // (stride or 1) + 1)


def draw_images(draw: Draw) -> tuple[list[int], list[int], int]:
    """Shapes of images and filters, and the groups."""
    groups = draw.random.choice((1, 1, 1, 2, 3))
    inputs, outputs = draw.size(1, 3, 24), draw.size(1, 4, 24)
    if draw.chance(0.15) and not draw.large:            # depthwise
        groups, inputs = draw.random.choice(((3, 1), (5, 1), (18, 1)))
    image = [draw.random.choice((1, 1, 2, 3, 0) if draw.chance(0.3) else (1, 2)), inputs * groups,
             draw.size(1, 8, 36), draw.size(1, 9, 36)]
    if draw.chance(0.03):
        image[draw.random.randrange(1, 4)] = draw.random.randint(0, 3)
    taps = [draw.random.choice((1, 2, 3, 3, 3, 4, 5)) for _ in range(2)]
    if draw.chance(0.6):
        taps[1] = taps[0]
    if draw.planted:                                    # the naive version judges it
        inputs, outputs, image[1], image[2:] = 1, 1, groups, [min(size, 5) for size in image[2:]]
    filters = [outputs * groups, inputs + draw.chance(0.02), *taps]
    if draw.chance(0.02):
        groups = draw.random.randint(-1, 4)
    return image, filters, groups


def draw_window(draw: Draw, strides: int = 4, paddings: int = 4, dilations: int = 3) -> tuple[Any, Any, Any]:
    low = -1 if draw.chance(0.02) else 1
    stride = draw.option("stride", lambda: draw.pair(low, strides), 0.4) or 1
    padding = draw.option("padding", lambda: draw.pair(min(low, 0), paddings), 0.5) or 0
    dilation = draw.option("dilation", lambda: draw.pair(low, dilations), 0.25) or 1
    return stride, padding, dilation


def draw_conv2d(draw: Draw, backward: bool = False) -> None:
    image, filters, groups = draw_images(draw)
    stride, padding, dilation = draw_window(draw)
    if draw.chance(0.08):
        padding = draw.random.choice(("same", "valid"))
        draw.kwargs["padding"] = repr(padding)
    if draw.chance(0.03):
        padding = draw.pair(0, 30)
        draw.kwargs["padding"] = repr(padding)
    if groups != 1:
        draw.kwargs["groups"] = repr(groups)
    if draw.chance(0.3):
        plain = draw.kwargs.keys() <= {"padding"} and filters[2:] in ([3, 3], [5, 5]) and image[1] == filters[1]
        fits = plain and not isinstance(padding, str) and min(both(padding)) >= 0 and max(both(padding)) < filters[2]
        algorithms = ("auto", "direct", "winograd") if fits else ("auto", "direct")
        draw.kwargs["algorithm"] = repr(draw.random.choice(algorithms))
    shape = []
    for axis in (0, 1):
        step, pad, gap = (v if isinstance(v, str) else both(v)[axis] for v in (stride, padding, dilation))
        size = image[2 + axis]
        shape.append(-(-size // step) if pad == "same" and step > 0 else
                     span(size, filters[2 + axis], step, *(2 * [0 if isinstance(pad, str) else pad]), gap))
    result = (image[0], filters[0], *shape)
    if backward:
        if draw.chance(0.02):
            result = (*result[:3], result[3] + 1)
        draw.args = [draw.floats(*result, reach=18), draw.floats(*image, reach=18), draw.floats(*filters, reach=18)]
        draw.option("needs", lambda: tuple(draw.chance(0.5) for _ in range(3)), 0.3)
        return
    draw.args = [draw.floats(*image, reach=18), draw.floats(*filters, reach=18)]
    if draw.chance(0.6):
        draw.args.append(draw.floats(filters[0] + draw.chance(0.02), reach=18))
    draw.option("activation", ("relu", None), 0.15)
    draw.out(*result)


def winograd_may_run(call: Call, weight: Array) -> bool:
    return weight.shape[2:] in ((3, 3), (5, 5)) and call.kwargs.get("algorithm") != "direct"


def judge_conv2d(call: Call, eps: Any) -> list[Truth]:
    weight = call.args[1]
    options = {name: value for name, value in call.kwargs.items() if name not in ("algorithm", "out")}
    truth = reference("conv2d", Call(call.args, options))
    options.pop("activation", None)
    magnitude = reference("conv2d", Call(absolute(call).args, options))
    return [of_sums(truth, magnitude, math.prod(weight.shape[1:]) + 1, eps, winograd_may_run(call, weight))]


def of_sums(truth: Array, magnitude: Array, terms: int, eps: Any, winograd: bool = False) -> Truth:
    truth, bound = within(truth, magnitude, 2 * sums(terms), eps)
    if winograd and truth.size and np.isfinite(magnitude).all():
        bound = bound + 10 * TOLERANCES[eps.dtype] * magnitude.max()
    return truth, bound


def judge_conv2d_backward(call: Call, eps: Any, name: str = "conv2d") -> list[Truth]:
    grad, x, weight = call.args
    options = {name: value for name, value in call.kwargs.items() if name not in ("algorithm", "needs")}
    fast = name == "conv2d" and winograd_may_run(call, weight)
    outputs = grad.shape[1]
    if HAS_TORCH and finite(call):
        forward = Call((x, weight, np.zeros(outputs)), options)
        truths = gradients(name, forward, grad, (0, 1, 2))
        magnitudes = gradients(name, absolute(forward), np.abs(grad), (0, 1, 2))
    else:
        truths, magnitudes = (KERNELS[f"{name}_backward"](Call(c.args, options), target="naive")
                              for c in (call, absolute(call)))
    taps = math.prod(weight.shape[2:])
    pixels = grad.size // max(1, outputs)
    terms = [taps * weight.shape[0 if name == "conv2d" else 1], pixels, pixels]
    return [of_sums(t, m, n + 1, eps, fast) for t, m, n in zip(truths, magnitudes, terms)]


def draw_conv_transpose2d(draw: Draw, backward: bool = False) -> None:
    image, filters, groups = draw_images(draw)
    filters = [image[1] + draw.chance(0.02), max(1, filters[0] // max(1, abs(groups))), *filters[2:]]
    stride, padding, dilation = draw_window(draw, paddings=2)
    extra = draw.option("output_padding", lambda: draw.pair(-draw.chance(0.02), 2), 0.3) or 0
    if groups != 1:
        draw.kwargs["groups"] = repr(groups)
    shape = [(image[2 + i] - 1) * both(stride)[i] - 2 * both(padding)[i] + both(dilation)[i] * (filters[2 + i] - 1)
             + both(extra)[i] + 1 for i in (0, 1)]
    result = (image[0], filters[1] * groups, *shape)
    result = tuple(max(0, size) for size in result)
    if backward:
        draw.args = [draw.floats(*result, reach=18), draw.floats(*image, reach=18), draw.floats(*filters, reach=18)]
        draw.option("needs", lambda: tuple(draw.chance(0.5) for _ in range(3)), 0.3)
        return
    draw.args = [draw.floats(*image, reach=18), draw.floats(*filters, reach=18)]
    if draw.chance(0.5):
        draw.args.append(draw.floats(result[1] + draw.chance(0.02), reach=18))
    draw.out(*result)


def judge_conv_transpose2d(call: Call, eps: Any) -> list[Truth]:
    options = {name: value for name, value in call.kwargs.items() if name != "out"}
    weight = call.args[1]
    truth, magnitude = (reference("conv_transpose2d", Call(c.args, options)) for c in (call, absolute(call)))
    return [of_sums(truth, magnitude, weight.shape[0] * math.prod(weight.shape[2:]) + 1, eps)]


FAMILIES["conv2d"] = Family(draw_conv2d, judge_conv2d)
FAMILIES["conv2d_backward"] = Family(lambda draw: draw_conv2d(draw, True), judge_conv2d_backward)
FAMILIES["conv_transpose2d"] = Family(draw_conv_transpose2d, judge_conv_transpose2d)
FAMILIES["conv_transpose2d_backward"] = Family(
    lambda draw: draw_conv_transpose2d(draw, True),
    lambda call, eps: judge_conv2d_backward(call, eps, "conv_transpose2d"))


# --- linear maps -----------------------------------------------------------------------------------------------------


def draw_linear(draw: Draw, backward: bool = False) -> None:
    n, i, o = draw.size(0, 5, 200), draw.size(1, 9, 700), draw.size(1, 9, 200)
    arrays = [(n, i), (o, i + draw.chance(0.03))]
    if backward:
        arrays.insert(0, (n, o + draw.chance(0.03)))
        draw.args = [draw.floats(*shape, reach=18) for shape in arrays]
        draw.option("needs", lambda: tuple(draw.chance(0.5) for _ in range(3)), 0.3)
        return
    draw.args = [draw.floats(*shape, reach=18) for shape in arrays]
    if draw.chance(0.5):
        draw.args.append(draw.floats(o + draw.chance(0.03), reach=18))
    draw.option("activation", ("relu", None), 0.15)
    draw.out(n, o)


def judge_linear(call: Call, eps: Any) -> list[Truth]:
    truth = reference("linear", Call(call.args, {"activation": call.kwargs.get("activation")}))
    magnitude = reference("linear", Call(absolute(call).args))
    return [of_sums(truth, magnitude, call.args[1].shape[1] + 1, eps)]


def judge_linear_backward(call: Call, eps: Any) -> list[Truth]:
    def products(grad: Array, x: Array, weight: Array) -> tuple[Array, ...]:
        if grad.shape != (len(x), len(weight)) or x.shape[1] != weight.shape[1]:
            raise ValueError("shapes")
        return grad @ weight, grad.T @ x, grad.sum(0)

    terms = (len(call.args[2]), len(call.args[1]), len(call.args[1]))
    return [of_sums(t, m, n + 1, eps) for t, m, n in zip(products(*call.args), products(*absolute(call).args), terms)]


FAMILIES["linear"] = Family(draw_linear, judge_linear)
FAMILIES["linear_backward"] = Family(lambda draw: draw_linear(draw, True), judge_linear_backward)


def draw_bmm(draw: Draw, backward: bool = False) -> None:
    b, n, m, p = draw.size(0, 3, 12), draw.size(0, 5, 90), draw.size(0, 9, 600), draw.size(0, 9, 90)
    arrays = [(b, n, m), (b + draw.chance(0.03), m + draw.chance(0.03), p)]
    if backward:
        arrays.insert(0, (b, n, p + draw.chance(0.03)))
        draw.option("needs", lambda: (draw.chance(0.5), draw.chance(0.5)), 0.3)
    draw.args = [draw.floats(*shape, reach=18) for shape in arrays]
    if not backward:
        draw.out(b, n, p)


def judge_bmm(call: Call, eps: Any) -> list[Truth]:
    (a, b), (a_size, b_size) = call.args, absolute(call).args
    if len(a) != len(b):
        raise ValueError("a batch is not broadcast")
    return [of_sums(a @ b, a_size @ b_size, a.shape[2] + 1, eps)]


def judge_bmm_backward(call: Call, eps: Any) -> list[Truth]:
    def products(grad: Array, a: Array, b: Array) -> tuple[Array, ...]:
        if grad.shape != (*a.shape[:2], b.shape[2]) or b.shape[:2] != (len(a), a.shape[2]):
            raise ValueError("shapes")
        return grad @ b.swapaxes(1, 2), a.swapaxes(1, 2) @ grad

    grad = call.args[0]
    return [of_sums(t, m, n + 1, eps) for t, m, n in zip(products(*call.args), products(*absolute(call).args),
                                                         grad.shape[:0:-1])]


FAMILIES["bmm"] = Family(draw_bmm, judge_bmm)
FAMILIES["bmm_backward"] = Family(lambda draw: draw_bmm(draw, True), judge_bmm_backward)


# --- attention -------------------------------------------------------------------------------------------------------


def draw_attention(draw: Draw, backward: bool = False) -> None:
    """NaN and inf are left to tests of their own, and logarithms of the gradient are near those of the scores."""
    draw.wild = draw.planted = False

    def near(*shape: int) -> str:
        return f"{draw.rng()}.standard_normal({shape}, {draw.dtype!r})" if backward else draw.floats(*shape)

    leading = [draw.random.randint(0 if draw.chance(0.1) else 1, 3) for _ in range(draw.random.randint(0, 2))]
    queries, keys = draw.size(0, 9, 150), draw.size(0, 9, 300)
    features, outputs = draw.size(1, 6, 40), draw.size(1, 6, 40)
    arrays = [(*leading, queries, features), (*leading, keys + draw.chance(0.02), features + draw.chance(0.02)),
              (*leading, keys, outputs)]
    if backward:
        arrays = [(*leading, queries, outputs), *arrays, (*leading, queries, outputs), (*leading, queries)]
    draw.args = [(near if i in (1, 2, 5) else draw.floats)(*shape) for i, shape in enumerate(arrays)]
    if draw.chance(0.5):
        shape = tuple(1 if draw.chance(0.3) else size for size in (*leading, queries, keys))[draw.random.randint(
            0, len(leading)) :]
        draw.args.append(f"{draw.rng()}.random({shape}) < 0.7" if draw.chance(0.5) else near(*shape))
    draw.option("is_causal", (True, False))
    draw.option("scale", (0.3, -0.1, 0.0), 0.2)
    if backward:
        draw.option("needs", lambda: tuple(draw.chance(0.5) for _ in range(3)), 0.3)
    else:
        draw.option("return_lse", (True, False))
        draw.out(*leading, queries, outputs)


def scores_of(query: Array, key: Array, mask: Any, is_causal: bool, scale: Any) -> tuple[Array, Array, Array]:
    """Scores, -inf where a key is hidden, whether it is not, and for each query the A of the docstring."""
    if query.ndim != key.ndim or query.shape[:-2] != key.shape[:-2]:
        raise ValueError("leading dimensions")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores, size = scale * (query @ key.swapaxes(-1, -2)), abs(scale) * (abs(query) @ abs(key).swapaxes(-1, -2))
    seen = np.tri(*scores.shape[-2:], dtype=bool) if is_causal else np.ones(scores.shape[-2:], bool)
    seen = np.broadcast_to(seen, scores.shape)
    if mask is not None and mask.dtype == bool:
        seen = seen & np.broadcast_to(mask, scores.shape)
    elif mask is not None:
        scores, size = scores + np.broadcast_to(mask, scores.shape), size + abs(mask)
    return np.where(seen, scores, -np.inf), seen, np.where(seen, size, 0).max(-1, initial=0.0)[..., None]


def terms(size: int) -> float:
    return min(size, 256) + size / 16


def judge_attention(call: Call, eps: Any) -> list[Truth]:
    query, key, value, *mask = call.args
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError("values")
    scores, seen, largest = scores_of(query, key, mask[0] if mask else None, call.kwargs.get("is_causal", False),
                                      call.kwargs.get("scale"))
    top = np.where(seen.any(-1), scores.max(-1, initial=-np.inf), 0)[..., None]
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    weights, log = weights / np.where(total == 0, 1, total), (top + np.log(total))[..., 0]
    one = 2 * (query.shape[-1] + 6) * largest + 2 * terms(key.shape[-2]) + 16
    bound = np.exp(one * eps.eps) * one * (weights @ abs(value)) + eps.smallest_normal
    found = [within(weights @ value, bound, 1, eps), (log, np.nan_to_num(eps.eps * one[..., 0]))]
    return found if call.kwargs.get("return_lse") else found[:1]


def judge_attention_backward(call: Call, eps: Any) -> list[Truth]:
    grad, query, key, value, y, log, *mask = call.args
    if value.shape[:-1] != key.shape[:-1] or y.shape != grad.shape or log.shape != query.shape[:-1]:
        raise ValueError("shapes")
    scale = call.kwargs.get("scale")
    scores, _, largest = scores_of(query, key, mask[0] if mask else None, call.kwargs.get("is_causal", False), scale)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = np.exp(scores - log[..., None])
    products, means = grad @ value.swapaxes(-1, -2), (grad * y).sum(-1, keepdims=True)
    inner, size = weights * (products - means), weights * (abs(grad) @ abs(value).swapaxes(-1, -2) + abs(grad * y).sum(
        -1, keepdims=True))
    one = 2 * (query.shape[-1] + 6) * (largest + abs(log[..., None])) + 16
    one = np.exp(one * eps.eps) * one
    more, queries, keys = value.shape[-1] + 8, terms(query.shape[-2]), terms(key.shape[-2])
    turned = weights.swapaxes(-1, -2)
    return [within(scale * (inner @ key), abs(scale) * (size * (one + more + keys)) @ abs(key), 1, eps),
            within(scale * (inner.swapaxes(-1, -2) @ query),
                   abs(scale) * (size * (one + more + queries)).swapaxes(-1, -2) @ abs(query), 1, eps),
            within(turned @ grad, (weights * (one + queries)).swapaxes(-1, -2) @ abs(grad), 1, eps)]


FAMILIES["scaled_dot_product_attention"] = Family(draw_attention, judge_attention)
FAMILIES["scaled_dot_product_attention_backward"] = Family(
    lambda draw: draw_attention(draw, True), judge_attention_backward)


# --- pooling ---------------------------------------------------------------------------------------------------------


def pooled(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    free = size + 2 * padding - dilation * (kernel - 1) - 1
    windows = (free + (stride - 1 if ceil_mode else 0)) // (stride or 1) + 1
    return max(0, windows - (ceil_mode and (windows - 1) * stride >= size + padding))


def draw_pool(draw: Draw, of_max: bool, backward: bool = False) -> None:
    image = [draw.random.choice((1, 2, 2, 0)), draw.size(1, 3, 20), draw.size(1, 9, 60), draw.size(1, 11, 60)]
    if draw.chance(0.03):
        image[draw.random.randrange(1, 4)] = 0
    kernel = draw.pair(1, 4)
    stride = draw.option("stride", lambda: draw.pair(-draw.chance(0.02) or 1, 5), 0.6) or kernel
    most = max(both(kernel)) // 2 + draw.chance(0.05)
    padding = draw.option("padding", lambda: draw.pair(-draw.chance(0.02), most), 0.5) or 0
    if not draw.chance(0.1):                            # mostly at most half the kernel
        padding = tuple(min(p, k // 2) for p, k in zip(both(padding), both(kernel)))
        if "padding" in draw.kwargs:
            draw.kwargs["padding"] = repr(padding)
    dilation = (draw.option("dilation", lambda: draw.pair(1, 3), 0.25) or 1) if of_max and not backward else 1
    ceil_mode = draw.option("ceil_mode", (True, False), 0.4) or False
    shape = tuple(pooled(image[2 + i], *(both(v)[i] for v in (kernel, stride, padding, dilation)), ceil_mode)
                  for i in (0, 1))
    result = (*image[:2], *shape)
    if not of_max:
        draw.option("count_include_pad", (True, False), 0.4)
        draw.option("divisor_override", lambda: draw.random.randint(-draw.chance(0.02) or 1, 9), 0.2)
    if backward:
        draw.args = [draw.floats(*result), repr(tuple(image)), repr(kernel)]
        return
    draw.args = [draw.floats(*image), repr(kernel)]
    if of_max:
        draw.option("return_indices", (True, False), 0.6)
    draw.out(*result)


def judge_max_pool2d(call: Call, eps: Any, name: str = "max_pool2d") -> list[Truth]:
    options = {name: value for name, value in call.kwargs.items() if name != "out"}
    result = reference(name, Call(call.args, options))
    parts = as_tuple(result)
    if len(parts) == 2 and np.isnan(parts[0]).any():    # torch takes the last NaN, the contract says the first
        parts = KERNELS[name](Call(call.args, options), target="naive")
    return [(part, 0.0) for part in parts]


def draw_max_pool2d_backward(draw: Draw) -> None:
    n, c = draw.random.choice((1, 2, 0)), draw.size(1, 3, 20)
    height, width, rows, columns = (draw.size(1, 7, 40) for _ in range(4))
    result = (n, c, rows, columns)
    high = height * width + draw.chance(0.02)
    draw.args = [draw.floats(*result), f"{draw.rng()}.integers({-draw.chance(0.02)}, {high}, {result})",
                 repr((n, c, height, width))]


def judge_max_pool2d_backward(call: Call, eps: Any) -> list[Truth]:
    grad, indices, shape = call.args
    flat = indices.reshape(math.prod(indices.shape[:2]), math.prod(indices.shape[2:]))
    if flat.size and not (flat.min() >= 0 and flat.max() < shape[2] * shape[3]):
        raise ValueError("indices")
    parts = []
    for values in (grad, np.abs(grad)):
        total = np.zeros((len(flat), shape[2] * shape[3]))
        np.add.at(total, (np.arange(len(flat))[:, None], flat), values.reshape(flat.shape))
        parts.append(total.reshape(shape))
    return [within(*parts, 2 * flat.shape[1], eps)]


def judge_avg_pool2d(call: Call, eps: Any, name: str = "avg_pool2d") -> list[Truth]:
    options = {name: value for name, value in call.kwargs.items() if name != "out"}
    truth, magnitude = (reference(name, Call(c.args, options)) for c in (call, absolute(call)))
    cells = (math.prod(both(call.args[1])) if name == "avg_pool2d" else
             math.prod(-(-size // max(1, out)) + 1 for size, out in zip(call.args[0].shape[2:], truth.shape[2:])))
    return [within(truth, magnitude, 2 * cells + 1, eps)]


def judge_avg_pool2d_backward(call: Call, eps: Any, name: str = "avg_pool2d") -> list[Truth]:
    grad, shape, *kernel = call.args
    if HAS_TORCH:
        forward = Call((np.zeros(shape), *(kernel or [grad.shape[2:]])), call.kwargs)
        (truth,), (magnitude,) = (gradients(name, forward, g, (0,)) for g in (grad, np.abs(grad)))
    else:
        truth, magnitude = (KERNELS[f"{name}_backward"](Call((g, *call.args[1:]), call.kwargs), target="naive")
                            for g in (grad, np.abs(grad)))
    cells = (math.prod(both(kernel[0])) if kernel else
             math.prod(-(-out // max(1, size)) + 1 for size, out in zip(shape[2:], grad.shape[2:])))
    return [within(truth, magnitude, 2 * (cells + 1), eps)]


def draw_adaptive_avg_pool2d(draw: Draw, backward: bool = False) -> None:
    image = [draw.random.choice((1, 2, 0)), draw.size(1, 3, 20), draw.size(1, 9, 60), draw.size(1, 11, 60)]
    if draw.chance(0.03):
        image[draw.random.randrange(1, 4)] = 0
    size: Any = [draw.random.randint(1, 9) for _ in range(2)]
    if backward:
        draw.args = [draw.floats(*image[:2], *size), repr(tuple(image))]
        return
    result = tuple(size)
    if draw.chance(0.2):
        result, size = (size[0], image[3]), (size[0], None)
    elif draw.chance(0.3):
        result, size = (size[0], size[0]), size[0]
    elif draw.chance(0.05):
        result = size = (0, size[1])
    draw.args = [draw.floats(*image), repr(size if isinstance(size, int) else tuple(size))]
    draw.out(*image[:2], *result)


FAMILIES["max_pool2d"] = Family(lambda draw: draw_pool(draw, True), judge_max_pool2d)
FAMILIES["max_pool2d_backward"] = Family(draw_max_pool2d_backward, judge_max_pool2d_backward)
FAMILIES["avg_pool2d"] = Family(lambda draw: draw_pool(draw, False), judge_avg_pool2d)
FAMILIES["avg_pool2d_backward"] = Family(lambda draw: draw_pool(draw, False, True), judge_avg_pool2d_backward)
FAMILIES["adaptive_avg_pool2d"] = Family(
    draw_adaptive_avg_pool2d, lambda call, eps: judge_avg_pool2d(call, eps, "adaptive_avg_pool2d"))
FAMILIES["adaptive_avg_pool2d_backward"] = Family(
    lambda draw: draw_adaptive_avg_pool2d(draw, True),
    lambda call, eps: judge_avg_pool2d_backward(call, eps, "adaptive_avg_pool2d"))


def judge_adaptive_max_pool2d(call: Call, eps: Any) -> list[Truth]:
    return judge_max_pool2d(call, eps, "adaptive_max_pool2d")


def draw_adaptive_max_pool2d(draw: Draw) -> None:
    draw_adaptive_avg_pool2d(draw)
    draw.option("return_indices", (True, False), 0.6)


FAMILIES["adaptive_max_pool2d"] = Family(draw_adaptive_max_pool2d, judge_adaptive_max_pool2d)
FAMILIES["adaptive_max_pool2d_backward"] = Family(draw_max_pool2d_backward, judge_max_pool2d_backward)


# --- resampling ------------------------------------------------------------------------------------------------------


def draw_interpolate(draw: Draw, backward: bool = False) -> None:
    image = [draw.random.choice((1, 2, 0)), draw.size(1, 3, 9), draw.size(1, 9, 60), draw.size(1, 11, 60)]
    if draw.chance(0.03):
        image[draw.random.randrange(1, 4)] = 0
    size = draw.size(1, 15, 70), draw.size(1, 20, 70)
    factors = None
    if draw.chance(0.5):
        factors = tuple(draw.random.choice((0.5, 1.0, 1.5, 2, 2, 3, 0.7, round(draw.random.uniform(0.1, 3), 2)))
                        for _ in range(2))
        factors = factors[:1] * 2 if draw.chance(0.5) else factors
        size = tuple(math.floor(n * factor) for n, factor in zip(image[2:], factors))
        draw.kwargs["scale_factor"] = repr(factors[0] if factors[0] == factors[1] and draw.chance(0.5) else factors)
    if draw.option("mode", ("nearest", "bilinear", "bilinear")) == "bilinear":
        draw.option("align_corners", (True, False))
    if backward:
        draw.args = [draw.floats(*image[:2], *size), repr(tuple(image))]
        return
    draw.args = [draw.floats(*image)] + ([] if factors else [repr(size[0] if size[0] == size[1] else size)])
    draw.out(*image[:2], *size)


def shares_of(count: int, size: int, factor: float | None, mode: str, align_corners: bool) -> Array:
    """The share of each of `size` pixels in each of `count` ones."""
    step = 1.0 if count == size else 1 / factor if factor and not align_corners else size / count
    i, pixels = np.arange(count), np.arange(size)
    if mode == "nearest":
        first = np.minimum(np.floor((i * step).astype(np.float32)), size - 1)
        return (first[:, None] == pixels).astype(float)
    place = i * ((size - 1) / max(1, count - 1)) if align_corners else np.maximum(0, (i + 0.5) * step - 0.5)
    first = np.minimum(np.floor(place), size - 1)
    share = (place - first)[:, None]
    return ((first[:, None] == pixels) * (1 - share)
            + (np.minimum(first + 1, size - 1)[:, None] == pixels) * share)


def judge_interpolate(call: Call, eps: Any) -> list[Truth]:
    options = {name: value for name, value in call.kwargs.items() if name != "out"}
    truth = reference("interpolate", Call(call.args, options))
    if options.get("mode", "nearest") == "nearest":
        return [(truth, 0.0)]
    largest = np.abs(call.args[0]).max(initial=0)
    return [within(truth, np.full(truth.shape, largest), 8 + 20 * sum(call.args[0].shape[2:]) * (eps.eps < 1e-10), eps)]


def judge_interpolate_backward(call: Call, eps: Any) -> list[Truth]:
    grad, shape = call.args
    mode, corners = call.kwargs.get("mode", "nearest"), call.kwargs.get("align_corners", False)
    factors = call.kwargs.get("scale_factor")
    expected = grad.shape[2:] if factors is None else tuple(
        math.floor(size * factor) for size, factor in zip(shape[2:], both(factors)))
    if 0 in (*shape[2:], *grad.shape[2:]) or grad.shape != (*shape[:2], *expected):
        raise ValueError("shape")
    of_rows, of_columns = (shares_of(count, size, factor, mode, corners) for count, size, factor in zip(
        grad.shape[2:], shape[2:], both(factors) if factors else (None, None)))
    if not finite(call):
        return [(KERNELS["interpolate_backward"](call, target="naive"), np.inf)]
    parts = [of_rows.T @ g @ of_columns for g in (grad, np.abs(grad))]
    return [within(*parts, 2 * (grad.shape[2] * grad.shape[3] + 4), eps)]


FAMILIES["interpolate"] = Family(draw_interpolate, judge_interpolate)
FAMILIES["interpolate_backward"] = Family(lambda draw: draw_interpolate(draw, True), judge_interpolate_backward)


# --- batch normalization ---------------------------------------------------------------------------------------------


def draw_values(draw: Draw) -> list[int]:
    shape = [draw.size(1, 6, 40), draw.size(1, 5, 40), draw.size(1, 5, 20), draw.size(1, 5, 20)]
    shape = shape[: draw.random.choice((2, 3, 4))]
    if draw.chance(0.03):
        shape[draw.random.randrange(len(shape))] = 0
    return shape


def draw_batch_norm(draw: Draw) -> None:
    shape = draw_values(draw)
    channels = shape[1] + draw.chance(0.02)
    draw.args = [draw.floats(*shape, reach=15)]
    draw.args += [f"{draw.rng()}.standard_normal({channels}, {draw.dtype!r})",
                  f"{draw.rng()}.random({channels}, {draw.dtype!r})"] if draw.chance(0.7) else ["None", "None"]
    if draw.chance(0.6):
        draw.args += [draw.floats(channels, reach=10), draw.floats(channels, reach=10)]
    draw.option("training", (True, False), 0.8)
    draw.option("momentum", lambda: draw.random.choice((0.0, 1.0, 0.3, round(draw.random.random(), 3))), 0.4)
    draw.option("eps", (1e-3, 1e-5, 1e-12), 0.3)
    draw.option("activation", ("relu", None), 0.2)
    draw.out(*shape)


def over_channels(x: Array) -> tuple[tuple[int, ...], Callable[[Any], Any]]:
    """All axes but the channels', and what brings values of channels to the shape of x."""
    return tuple(i for i in range(x.ndim) if i != 1), lambda v: np.reshape(v, (1, -1) + (1,) * (x.ndim - 2))


def judge_batch_norm(call: Call, eps: Any) -> list[Truth]:
    """The formula of the docstring, in float64, beside which PyTorch is held; it says which calls are refused."""
    options = {"momentum": 0.1, "eps": 1e-5, "training": False, "activation": None, **call.kwargs,
               "return_stats": False}
    options.pop("out", None)
    x, running_mean, running_var, weight, bias = (*call.args, None, None)[:5]
    args = tuple(None if a is None else a.copy() for a in (x, running_mean, running_var, weight, bias))
    peer = reference("batch_norm", Call(args, options)) if HAS_TORCH and x.size else None
    axes, spread = over_channels(x)
    n, u = len(x) * math.prod(x.shape[2:]), 2.0**-53
    of_batch = options["training"] or running_mean is None
    if of_batch and (not len(x) or x.size < 2 * x.shape[1]):
        raise ValueError("x")
    mean, var = (x.mean(axes), x.var(axes)) if of_batch else (running_mean, running_var)
    scale = 1 / np.sqrt(var + options["eps"])
    w = np.ones_like(mean) if weight is None else weight
    b = np.zeros_like(mean) if bias is None else bias
    z = (x - spread(mean)) * spread(scale)
    truth = z * spread(w) + spread(b)
    # What mean and var may err by, of sums of n terms, in the reference as well as in the kernel.
    level = spread(np.abs(x).mean(axes) * scale) if of_batch else spread(np.abs(mean) * scale)
    terms = n + 8 if of_batch else 8
    bound = 2 * u * terms * (np.abs(z) + level) * spread(np.abs(w)) * (1 + u * n * level)
    bound = bound + (4 * eps.eps * (np.abs(z * spread(w)) + spread(np.abs(b))) + eps.eps**2 * level * spread(np.abs(w))
                     + 4 * eps.smallest_subnormal)
    if options["activation"]:
        truth = np.where(truth < 0, 0, truth)
    if peer is not None and np.isfinite(truth).all() and np.isfinite(peer).all() and level.max() < 1e3:
        assert (np.abs(peer - truth) <= 2 * bound).all(), "PyTorch differs from the formula"
    bound = np.where(np.abs(truth) + spread(np.abs(b)) > 0.99 * eps.max, np.inf, bound)
    results = [(truth, bound)]
    if running_mean is not None:
        new = (running_mean, running_var)
        if options["training"]:
            share = options["momentum"]
            batch = mean, var * (n / max(1, n - 1))
            new = tuple((1 - share) * old + share * one for old, one in zip(new, batch))
            size = tuple(abs((1 - share) * old) + abs(share * one) for old, one in
                         zip((running_mean, running_var), (np.abs(x).mean(axes), batch[1] + u * n * mean**2)))
            factor = 3 * eps.eps + 4 * (n + 3) * u
            results += [(value, factor * s + 4 * eps.smallest_subnormal) for value, s in zip(new, size)]
        else:
            results += [(value, 0.0) for value in new]
    return results


def draw_batch_norm_backward(draw: Draw) -> None:
    shape = draw_values(draw)
    channels = shape[1]
    axes = tuple(i for i in range(len(shape)) if i != 1)
    x = draw.floats(*shape, reach=10)
    own = draw.chance(0.6) and 0 not in shape
    mean, invstd = ((f"x.mean({axes}, 'f8')", f"1 / np.sqrt(x.var({axes}, 'f8') + 1e-5)") if own else
                    (f"{draw.rng()}.standard_normal({channels})", f"{draw.rng()}.random({channels})"))
    draw.args = [draw.floats(*shape, reach=10), f"(x := {x})",
                 draw.floats(channels, reach=10) if draw.chance(0.7) else "None", mean, invstd]
    draw.option("training", (True, False), 0.5)
    draw.option("needs", lambda: tuple(draw.chance(0.5) for _ in range(3)), 0.3)


def judge_batch_norm_backward(call: Call, eps: Any) -> list[Truth]:
    grad, x, weight, mean, invstd = call.args
    axes, spread = over_channels(x)
    n, u = len(x) * math.prod(x.shape[2:]), 2.0**-53
    training = call.kwargs.get("training", True)
    if training and (not len(x) or x.size < 2 * x.shape[1]):
        raise ValueError("x")
    z = (x - spread(mean)) * spread(invstd)
    w = np.ones_like(mean) if weight is None else weight
    if not n:
        return [(np.zeros(x.shape), 0.0), *(2 * [(None if weight is None else np.zeros_like(mean), 0.0)])]
    means = spread(grad.mean(axes)), z * spread((grad * z).mean(axes))
    sizes = spread(np.abs(grad).mean(axes)), np.abs(z) * spread(np.abs(grad * z).mean(axes))
    scale = spread(w * invstd)
    if not training:                                    # the statistics are constants
        means = sizes = (np.zeros_like(x), np.zeros_like(x))
    truth = scale * (grad - means[0] - means[1])
    level = spread((np.abs(x).mean(axes) + np.abs(mean)) * np.abs(invstd))
    bound = np.abs(scale) * 6 * eps.eps * (np.abs(grad) + np.abs(means[0]) + np.abs(means[1]))
    if training:
        bound = bound + np.abs(scale) * 4 * (n + 4) * u * (sizes[0] + sizes[1] * (1 + level))
    total = np.abs(grad).sum(axes), (np.abs(grad) * (np.abs(z) + u / eps.eps * 4 * level)).sum(axes)
    results = [(truth, np.where(np.abs(scale) * (np.abs(grad) + sizes[0] + sizes[1]) > 0.99 * eps.max, np.inf,
                                bound + 8 * eps.smallest_subnormal * (1 + np.abs(scale))))]
    for value, size in (((grad * z).sum(axes), total[1]), (grad.sum(axes), total[0])):
        results.append((None, 0.0) if weight is None else
                       (value, np.where(np.abs(value) > 0.99 * eps.max, np.inf,
                                        eps.eps * np.abs(value) + 4 * (n + 4) * u * size + 2 * eps.smallest_subnormal)))
    return results


FAMILIES["batch_norm"] = Family(draw_batch_norm, judge_batch_norm)
FAMILIES["batch_norm_backward"] = Family(draw_batch_norm_backward, judge_batch_norm_backward)


def draw_rows(draw: Draw, name: str) -> tuple[list[int], str, tuple[int, ...]]:
    """A shape, the option that says what is normalized together, and the shape of the parameters."""
    if name == "group_norm":
        shape = draw_values(draw)
        if draw.chance(0.3):
            shape[-1] *= 20                             # from where a channel is a loop of its own
        groups = draw.random.choice([g for g in range(1, 8) if shape[1] % g == 0 or draw.chance(0.02)])
        return shape, repr(groups), (shape[1],)
    shape = [draw.size(1, 5, 60) for _ in range(draw.random.randint(1, 4))]
    shape[-1] = draw.random.choice((shape[-1], draw.size(1, 90, 700)))
    if draw.chance(0.03):
        shape[draw.random.randrange(len(shape))] = 0
    last = tuple(shape[-draw.random.randint(1, min(3, len(shape))):])
    return shape, repr(draw.random.choice((last, list(last), last[0] if len(last) == 1 else last))), last


def draw_row_norm(draw: Draw, name: str) -> None:
    shape, option, last = draw_rows(draw, name)
    last = (*last[:-1], last[-1] + draw.chance(0.02))
    draw.args = [draw.floats(*shape, reach=15), option]
    if draw.chance(0.6):
        draw.args += [draw.floats(*last, reach=10), draw.random.choice(("None", draw.floats(*last, reach=10)))]
    draw.option("eps", (1e-3, 1e-5, 1e-12), 0.3)
    draw.out(*shape)


def seen_as_rows(name: str, x: Array, option: Any, weight: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """What brings an array of x's shape, and parameters, to (rows, groups, channels, places)."""
    if name == "group_norm":
        if option < 1 or x.shape[1] % option or 0 in x.shape[1:]:
            raise ValueError("num_groups")
        shape, of_one = (len(x), option, x.shape[1] // option, math.prod(x.shape[2:])), x.shape[1:2]
    else:
        of_one = tuple(option) if isinstance(option, tuple | list) else (option,)
        if 0 in of_one or x.shape[x.ndim - len(of_one):] != of_one:
            raise ValueError("normalized_shape")
        shape = (math.prod(x.shape[:x.ndim - len(of_one)]), 1, math.prod(of_one), 1)
    if weight is not None and weight.shape != of_one:
        raise ValueError("weight")
    return lambda a: a.reshape(shape), lambda a: np.ones((1, 1, 1, 1)) if a is None else a.reshape(1, *shape[1:3], 1)


def judge_row_norm(call: Call, eps: Any, name: str) -> list[Truth]:
    """The formula of the docstring, in float64, beside which PyTorch is held."""
    x, option, weight, bias = (*call.args, None, None)[:4]
    seen, spread = seen_as_rows(name, x, option, weight)
    v, w, b = seen(x), spread(weight), 0 if bias is None else spread(bias)
    n, u = v.shape[2] * v.shape[3], 2.0**-53
    mean = v.mean((2, 3), keepdims=True)
    scale = 1 / np.sqrt(v.var((2, 3), keepdims=True) + call.kwargs.get("eps", 1e-5))
    z, level = (v - mean) * scale, np.abs(v).mean((2, 3), keepdims=True) * scale
    truth = z * w + b
    bound = (2 * u * (n + 8) * (1 + level) * (1 + np.abs(z)) * np.abs(w) * (1 + u * n * level) + 4 * u * np.abs(b)
             + eps.eps * np.abs(truth) + 4 * eps.smallest_subnormal)
    if HAS_TORCH and x.size and n > 1 and np.isfinite(truth).all() and level.max() < 1e3:
        options = {"eps": call.kwargs.get("eps", 1e-5), "return_stats": False}
        peer = seen(reference(name, Call((x, option, weight, bias), options)))
        assert not np.isfinite(peer).all() or (np.abs(peer - truth) <= 2 * bound).all(), "PyTorch differs"
    bound = np.where(np.abs(z * w) + np.abs(b) > 0.99 * eps.max, np.inf, bound)
    return [(truth.reshape(x.shape), bound.reshape(x.shape))]


def draw_row_norm_backward(draw: Draw, name: str) -> None:
    shape, option, last = draw_rows(draw, name)
    of_rows = tuple(shape[:len(shape) - len(last)]) if name == "layer_norm" else (shape[0], eval(option))
    draw.args = [draw.floats(*shape, reach=10), draw.floats(*shape, reach=10), option,
                 draw.floats(*last, reach=10) if draw.chance(0.7) else "None",
                 f"np.array({draw.rng()}.standard_normal({of_rows}))", f"np.array({draw.rng()}.random({of_rows}))"]
    draw.option("needs", lambda: tuple(draw.chance(0.5) for _ in range(3)), 0.3)


def judge_row_norm_backward(call: Call, eps: Any, name: str) -> list[Truth]:
    grad, x, option, weight, mean, invstd = call.args
    seen, spread = seen_as_rows(name, x, option, weight)
    g, v, w, u = seen(grad), seen(x), spread(weight), 2.0**-53
    n, count = v.shape[2] * v.shape[3], v.shape[0] * v.shape[3]
    mean, scale = (a.reshape(*v.shape[:2], 1, 1) for a in (mean, invstd))
    z, h = (v - mean) * scale, g * w
    means = h.mean((2, 3), keepdims=True), z * (h * z).mean((2, 3), keepdims=True)
    sizes = np.abs(h).mean((2, 3), keepdims=True), np.abs(z) * np.abs(h * z).mean((2, 3), keepdims=True)
    level = 1 + (np.abs(v) + np.abs(mean)) * scale      # by how much the difference from the mean may cancel
    truth = scale * (h - means[0] - means[1])
    bound = eps.eps * np.abs(truth) + 2 * u * scale * (n + 14) * (np.abs(h) + sizes[0] + sizes[1]) * level.max(
        initial=1)
    results = [(truth.reshape(x.shape), np.where(scale * (np.abs(h) + sizes[0] + sizes[1]) > 0.99 * eps.max, np.inf,
                                                 bound + 4 * eps.smallest_subnormal).reshape(x.shape))]
    for terms, size in ((g * z, np.abs(g) * (np.abs(z) + level)), (g, np.abs(g))):
        total, most = (a.sum((0, 3)).reshape(-1) for a in (terms, size))
        bound = eps.eps * np.abs(total) + 4 * u * (count + 8) * most + 2 * eps.smallest_subnormal
        bound = np.where(np.abs(total) > 0.99 * eps.max, np.inf, bound)
        results.append((None, 0.0) if weight is None else tuple(a.reshape(weight.shape) for a in (total, bound)))
    return results


for _name in ("layer_norm", "group_norm"):
    FAMILIES[_name] = Family(functools.partial(draw_row_norm, name=_name),
                             functools.partial(judge_row_norm, name=_name))
    FAMILIES[f"{_name}_backward"] = Family(functools.partial(draw_row_norm_backward, name=_name),
                                           functools.partial(judge_row_norm_backward, name=_name))


# --- embedding -------------------------------------------------------------------------------------------------------


def draw_embedding(draw: Draw, backward: bool = False) -> None:
    shape = tuple(draw.size(0, 6, 60) for _ in range(draw.random.randint(1, 3)))
    rows, columns = draw.size(1, 9, 120), draw.size(0, 40, 300)
    input = draw.integers(-draw.chance(0.02), min(rows, 120) + draw.chance(0.02), *shape)
    draw.args = ([draw.floats(*shape, columns, reach=15), input, repr(rows)] if backward else
                 [input, draw.floats(rows, columns)])
    draw.option("padding_idx", lambda: draw.random.randint(-rows, rows - 1 + draw.chance(0.05)), 0.3)
    if not backward:
        draw.out(*shape, columns)


def check_indices(input: Array, rows: int, padding_idx: int | None = None) -> None:
    if input.size and (input.min() < 0 or input.max() >= rows):
        raise ValueError("input")
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise ValueError("padding_idx")


def judge_embedding(call: Call, eps: Any) -> list[Truth]:
    input, weight = call.args
    check_indices(input, len(weight), call.kwargs.get("padding_idx"))
    return [(weight[input], 0.0)]


def judge_embedding_backward(call: Call, eps: Any) -> list[Truth]:
    grad, input, rows = call.args
    check_indices(input, rows, call.kwargs.get("padding_idx"))
    truth, size = np.zeros((2, rows, grad.shape[-1]))
    np.add.at(truth, input, grad)
    np.add.at(size, input, np.abs(grad))
    if call.kwargs.get("padding_idx") is not None:
        truth[call.kwargs["padding_idx"]] = size[call.kwargs["padding_idx"]] = 0
    bound = eps.eps * np.abs(truth) + 2.0**-52 * input.size * size
    return [(truth, np.where((size > 0.99 * eps.max) & np.isfinite(truth), np.inf, bound))]


FAMILIES["embedding"] = Family(draw_embedding, judge_embedding)
FAMILIES["embedding_backward"] = Family(functools.partial(draw_embedding, backward=True), judge_embedding_backward)


# --- activations -----------------------------------------------------------------------------------------------------


def draw_shape(draw: Draw) -> tuple[int, ...]:
    if draw.large:
        return (draw.random.randint(30, 90), draw.random.randint(300, 3000))
    shape = [draw.random.randint(1, 6) for _ in range(draw.random.choice((0, 1, 1, 2, 2, 3, 4)))]
    if shape and draw.chance(0.2):
        shape[-1] = draw.random.choice((1, 15, 16, 17, 33, 64, 70))
    if shape and draw.chance(0.04):
        shape[draw.random.randrange(len(shape))] = 0
    return tuple(shape)


def elementwise(arrays: int, out: bool, reach: int | None, **options: Any) -> Callable[[Draw], None]:
    def draw_call(draw: Draw) -> None:
        shape = draw_shape(draw)
        draw.args = [draw.floats(*shape), *(draw.floats(*shape, reach=reach) for _ in range(1, arrays))]
        if arrays > 1 and draw.chance(0.02):
            draw.args[-1] = draw.floats(*shape, 2)
        for name, values in options.items():
            draw.option(name, values)
        if out:
            draw.out(*shape)

    return draw_call


def of(formula: Callable[..., Array], bound: Callable[..., Array], flush: bool = False) -> Judge:
    """A judge by a formula of float64 arrays; its bound counts in eps. `flush`: denormal results may be 0."""
    def judge(call: Call, eps: Any) -> list[Truth]:
        if any(a.shape != call.args[0].shape for a in call.arrays() if a is not call.kwargs.get("out")):
            raise ValueError("shapes")
        options = {name: value for name, value in call.kwargs.items() if name != "out"}
        truth = np.asarray(formula(*call.args, **options), np.float64)
        allowed = np.asarray(bound(truth, *call.args, **options), np.float64)
        double = 2 if eps.eps < 1e-10 else 1            # where the formula errs as much
        tiny = eps.smallest_normal if flush else eps.smallest_subnormal
        return [(truth, np.where(np.abs(truth) > 0.99 * eps.max, np.inf, double * (eps.eps * allowed) + tiny))]

    return judge


def torch_function(name: str) -> Callable[..., Array]:
    def formula(*args: Array, **options: Any) -> Array:
        return np.asarray(reference(name, Call(args, options)))

    return formula


def slope_of(x: Array, negative_slope: float = 0.01) -> Array:
    return np.where(x > 0, 1.0, negative_slope)


def gelu_slope(x: Array, approximate: str = "none") -> Array:
    if HAS_TORCH:
        x = np.where(np.isfinite(x), np.clip(x, -1e60, 1e60), x)        # beyond, it is 0 or 1, but torch cubes x
        return gradients("gelu", Call((x,), {"approximate": approximate}), np.ones(x.shape), (0,))[0]
    return KERNELS["gelu_backward"](Call((np.ones(x.shape), x, approximate)), target="naive")


TRUTHS: dict[str, Callable[..., Array]] = {            # where it is not the naive version's
    **{name: torch_function(name) for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "softplus")},
    "relu_backward": lambda g, y: np.where(y <= 0, 0, g),
    "leaky_relu_backward": lambda g, x, **o: g * slope_of(x, **o),
    "sigmoid_backward": lambda g, y: g * y * (1 - y),
    "tanh_backward": lambda g, y: g * (1 - y * y),
    "gelu_backward": lambda g, x, **o: g * gelu_slope(x, **o),
    "silu_backward": lambda g, x: g * (1 / (1 + np.exp(-x)) * (1 + x / (1 + np.exp(x)))),
    "softplus_backward": lambda g, x, beta=1.0, threshold=20.0: g * np.where(
        beta * x > threshold, 1, 1 / (1 + np.exp(-beta * x))),
}
EXACT = {"relu", "relu_backward", "leaky_relu", "leaky_relu_backward", "sigmoid_backward", "tanh_backward"}
OPTIONS = {"negative_slope": (0.2, 0.0, 1.5, -0.5), "approximate": ("none", "tanh"), "beta": (0.5, 3.0, -2.0),
           "threshold": (4.7, 30.0, 1e9)}


def naive_truth(name: str) -> Callable[..., Array]:
    return lambda *args, **options: KERNELS[name](Call(args, options), target="naive")


for _name, _row in KERNELS.items():
    if _row.error is not None:
        _forward, _is_gradient = _name.removesuffix("_backward"), _name.endswith("_backward")
        _options = {option: OPTIONS[option] for option in inspect.signature(getattr(kernels, _name)).parameters
                    if option in OPTIONS}
        _reach = 2 if _name in ("sigmoid_backward", "tanh_backward") else None     # their y lies from -1 to 1
        FAMILIES[_name] = Family(elementwise(1 + _is_gradient, not _is_gradient, _reach, **_options), of(
            TRUTHS.get(_name, naive_truth(_name)), _row.error, flush=_name not in EXACT))
FAMILIES["add"] = Family(elementwise(2, True, None), of(lambda x, y: x + y, lambda r, x, y: 0.5 * np.abs(r)))
FAMILIES["add_relu"] = Family(elementwise(2, True, None), of(
    lambda x, y: np.where(x + y < 0, 0, x + y), lambda r, x, y: 0.5 * np.abs(r)))


def along_axis(arrays: int, logs: bool = False) -> Callable[[Draw], None]:
    def draw_call(draw: Draw) -> None:
        shape = draw_shape(draw)
        draw.args = [draw.floats(*shape, reach=None if arrays == 1 else 2) for _ in range(arrays)]
        if logs:                                        # of probabilities
            draw.args[1] = f"-np.abs({draw.args[1]})"
        draw.option("axis", lambda: draw.random.randint(-max(1, len(shape)) - draw.chance(0.05),
                                                        max(1, len(shape)) - 1 + draw.chance(0.05)), 0.5)
        if arrays == 1:
            draw.out(*shape)

    return draw_call


def judge_softmax(call: Call, eps: Any, log: bool = False) -> list[Truth]:
    x, axis = call.args[0], call.kwargs.get("axis", -1)
    truth = reference("log_softmax" if log else "softmax", Call((x,), {"axis": axis}))
    if not x.size:
        return [(truth, 0.0)]
    if log:
        return [(truth, 2 * eps.eps * (np.abs(truth) + 2 + math.log(x.shape[axis] if x.ndim else 1)))]
    behind = x.max(axis, keepdims=True) - x if x.ndim else 0
    return [(truth, 2 * eps.eps * (4 + behind) * truth + eps.smallest_normal)]


def judge_softmax_backward(call: Call, eps: Any, log: bool = False) -> list[Truth]:
    (grad, y), axis = call.args, call.kwargs.get("axis", -1)
    rank = max(1, grad.ndim)
    if grad.shape != y.shape or not -rank <= axis < rank:
        raise ValueError("axis")
    shape = grad.shape
    grad, y = np.atleast_1d(grad), np.atleast_1d(y)
    factor = np.exp(y) if log else y
    products = grad if log else grad * y
    total, size = products.sum(axis, keepdims=True), np.abs(products).sum(axis, keepdims=True)
    rounding = 2.0**-53 * (4 + grad.shape[axis]) * np.abs(factor) * size
    if log:
        truth = grad - factor * total
        bound = eps.eps * (np.abs(truth) + 2 * factor * np.abs(total)) + 2 * rounding
    else:
        truth = y * (grad - total)
        bound = 2 * eps.eps * np.abs(y) * (np.abs(grad) + np.abs(total)) + 2 * rounding
    reach = np.abs(factor) * (np.abs(grad) + size) + np.abs(grad)
    bound = np.where(reach > 0.99 * eps.max, np.inf, 2 * bound + eps.smallest_normal)
    # Where exp(y) is 0 in float32 alone, its product with inf is NaN there.
    bound = np.where((np.abs(factor) < eps.smallest_normal) & ~np.isfinite(total), -1, bound)
    return [(truth.reshape(shape), bound.reshape(shape))]


FAMILIES["softmax"] = Family(along_axis(1), judge_softmax)
FAMILIES["log_softmax"] = Family(along_axis(1), lambda call, eps: judge_softmax(call, eps, True))
FAMILIES["softmax_backward"] = Family(along_axis(2), judge_softmax_backward)
FAMILIES["log_softmax_backward"] = Family(
    along_axis(2, logs=True), lambda call, eps: judge_softmax_backward(call, eps, True))


def draw_dropout(draw: Draw) -> None:
    shape = draw_shape(draw)
    p = draw.random.choice((0.0, 0.5, 0.25, 1.0, 1.5 if draw.chance(0.1) else round(draw.random.random(), 3)))
    mask = f"({draw.rng()}.random({shape}) < 0.5)"
    draw.args = [draw.floats(*shape), mask if draw.chance(0.6) else f"np.array({mask}, 'u1')", repr(p)]
    if draw.chance(0.02):
        draw.args[1] = f"np.ones({(*shape, 2)}, bool)"


def judge_dropout(call: Call, eps: Any) -> list[Truth]:
    x, mask, p = call.args
    if mask.shape != x.shape or not 0 <= p <= 1:
        raise ValueError("p")
    truth = x * (mask != 0) * (1 / (1 - p) if p < 1 else 0.0)
    return [within(truth, np.abs(truth), 2, eps)]


for _name in ("dropout", "dropout_backward"):
    FAMILIES[_name] = Family(draw_dropout, judge_dropout)


# --- losses ----------------------------------------------------------------------------------------------------------


def draw_scores(draw: Draw, backward: bool, **options: Any) -> None:
    n, classes = draw.size(1, 6, 300), draw.size(1, 9, 300)
    if draw.chance(0.03):
        n, classes = draw.random.choice(((0, classes), (n, 0)))
    rows = n + draw.chance(0.02)
    high = max(1, min(classes + draw.chance(0.02), 256))
    draw.args = [draw.floats(n, classes), draw.integers(-draw.chance(0.02), high, rows)]
    for name, values in options.items():
        draw.option(name, values)
    draw_reduction(draw, backward, n)


def draw_reduction(draw: Draw, backward: bool, *shape: int) -> None:
    reduction = draw.option("reduction", ("mean", "sum", "none"), 0.7) or "mean"
    if backward:
        draw.args.insert(0, draw.floats(*shape, reach=5) if reduction == "none" else
                         repr(round(draw.random.uniform(-2, 2), 3)))


def reduced(losses: Array, bound: Array, reduction: str, eps: Any, weight: Any = None) -> list[Truth]:
    """Losses of rows and how far each may be off, as they are returned; a mean is over `weight`, or their number."""
    if reduction == "none":
        return [(losses, np.where(np.abs(losses) > 0.99 * eps.max, np.inf, bound))]
    count = (losses.size if weight is None else weight) if reduction == "mean" else 1
    total = losses.sum() / count
    size = bound.sum() / count + eps.eps * abs(total) + 2.0**-50 * (losses.size + 4) * np.abs(losses).sum() / count
    return [(total, np.where(abs(total) > 0.99 * eps.max, np.inf, size))]


def draw_cross_entropy(draw: Draw, backward: bool) -> None:
    n, classes = draw.size(1, 6, 300), draw.size(1, 9, 300)
    places: tuple[int, ...] = ()
    if draw.chance(0.5):
        n, places = draw.size(1, 3, 6), tuple(draw.size(1, 4, 12) for _ in range(draw.random.choice((1, 2))))
    if draw.chance(0.03):
        n, classes = draw.random.choice(((0, classes), (n, 0)))
    high = max(1, min(classes + draw.chance(0.02), 256))
    labels = draw.integers(-draw.chance(0.02), high, n + draw.chance(0.02), *places)
    ignored = draw.option("ignore_index", (-100, -1, 0, 300), 0.4)
    if ignored is not None:
        labels = f"np.where({draw.rng()}.random({(n, *places)}) < 0.3, {ignored}, ({labels}).astype('i8'))"
    draw.args = [draw.floats(n, classes, *places), labels]
    if draw.chance(0.4):
        draw.args.append(f"np.abs({draw.floats(classes, reach=2)})")
    draw.option("label_smoothing", (0.1, 0.5, 1.0, 0.0))
    draw_reduction(draw, backward, n, *places)


def rows_of_scores(x: Array, labels: Array, weight: Array | None = None, ignore_index: int = -100, **options: Any,
                   ) -> tuple[Array, ...]:
    """Scores and labels by rows, whether each counts, the weights of classes, and those of the labels."""
    if not x.size or labels.shape != (len(x), *x.shape[2:]) or (weight is not None and weight.shape != x.shape[1:2]):
        raise ValueError("shapes")
    rows, labels = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]), labels.reshape(-1).astype(np.int64)
    counts = labels != ignore_index
    if ((labels < 0) | (labels >= x.shape[1]))[counts].any():
        raise ValueError("labels")
    weight = np.ones(x.shape[1]) if weight is None else weight
    labels = np.where(counts, labels, 0)
    return rows, labels, counts, weight, np.where(counts, weight[labels], 0)


def judge_cross_entropy(call: Call, eps: Any) -> list[Truth]:
    """The formula, the largest score of a row taken off first; PyTorch's errs by more where scores are large."""
    rows, labels, counts, weight, weights = rows_of_scores(*call.args, **call.kwargs)
    smoothing, reduction = call.kwargs.get("label_smoothing", 0.0), call.kwargs.get("reduction", "mean")
    behind = rows.max(1, keepdims=True) - rows
    terms = np.log(np.exp(-behind).sum(1, keepdims=True)) + behind
    losses, sizes = ((1 - smoothing) * by[labels] * terms[np.arange(len(rows)), labels]
                     + smoothing * (by * terms).mean(1) for by in (weight, np.ones_like(weight)))
    peer = reference("cross_entropy", Call(call.args, {**call.kwargs, "reduction": "none"})).reshape(-1)
    most = weight.max()
    far = np.abs(peer - losses) > 1e-9 * most * (np.abs(sizes) + np.abs(rows).max(1) + 1)
    assert not (counts & far & np.isfinite(peer) & np.isfinite(losses)).any(), "PyTorch differs from the formula"
    losses = np.where(counts, np.where(np.isfinite(losses), losses, peer), 0)
    bound = np.where(counts, 2 * eps.eps * most * (np.abs(sizes) + 2 + math.log(rows.shape[1])), 0)
    if reduction == "none":
        losses, bound = losses.reshape(call.args[1].shape), bound.reshape(call.args[1].shape)
    return reduced(losses, bound, reduction, eps, weights.sum())


def judge_hinge_loss(call: Call, eps: Any) -> list[Truth]:
    x, labels = call.args
    margin, reduction = call.kwargs.get("margin", 1.0), call.kwargs.get("reduction", "mean")
    right = right_scores(x, labels)
    terms = np.maximum(0, margin + (x - right))          # equal scores keep the margin, however large
    terms[np.arange(len(x)), labels] = 0
    losses = terms.sum(1)
    size = (np.abs(x) + np.abs(right) + abs(margin)).sum(1)
    bound = eps.eps * losses + 2.0**-51 * (4 + x.shape[1]) * size + eps.smallest_subnormal
    return reduced(losses, bound, reduction, eps)


def right_scores(x: Array, labels: Array) -> Array:
    if not x.size or labels.shape != (len(x),) or labels.min() < 0 or labels.max() >= x.shape[1]:
        raise ValueError("labels")
    return x[np.arange(len(x)), labels][:, None]


def judge_mse_loss(call: Call, eps: Any) -> list[Truth]:
    x, y = call.args
    if x.shape != y.shape or not x.size:
        raise ValueError("y")
    losses = (x - y) ** 2
    return reduced(losses, 2 * eps.eps * losses + eps.smallest_subnormal, call.kwargs.get("reduction", "mean"), eps)


def by_rows(grad: Any, count: int, reduction: str, shape: tuple[int, ...]) -> Array:
    """The gradient by each loss."""
    if reduction == "none" and np.shape(grad) != shape:
        raise ValueError("grad_output")
    return np.broadcast_to(np.asarray(grad, np.float64) / (count if reduction == "mean" else 1), shape)


def judge_cross_entropy_backward(call: Call, eps: Any) -> list[Truth]:
    grad, x, labels, *given = call.args
    rows, right, counts, weight, weights = rows_of_scores(x, labels, *given, **call.kwargs)
    smoothing, reduction = call.kwargs.get("label_smoothing", 0.0), call.kwargs.get("reduction", "mean")
    g = by_rows(grad, weights.sum(), reduction, labels.shape).reshape(-1, 1)
    shifted = np.exp(rows - rows.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    truth = g * (1 - smoothing) * weights[:, None] * (p - (np.arange(len(weight)) == right[:, None]))
    if smoothing > 0:
        truth = truth + g * smoothing / len(weight) * (p * weight.sum() - weight)
    size = 2 * (4 * eps.eps * np.abs(g) * weight.max() + eps.smallest_normal) + np.zeros(rows.shape)
    return [tuple(np.moveaxis(np.where(counts[:, None], part, 0).reshape(*labels.shape, -1), -1, 1)
                  for part in (truth, size))]


def draw_binary_cross_entropy(draw: Draw, backward: bool) -> None:
    shape = draw_shape(draw)
    targets = f"{draw.rng()}.random({(*shape, 2) if draw.chance(0.02) else shape}, {draw.dtype!r})"
    draw.args = [draw.floats(*shape, reach=30), f"np.array({targets})"]

    def factor() -> str:
        part = [draw.random.choice((1, size)) for size in shape][draw.random.randint(0, len(shape)):]
        return f"np.abs({draw.floats(*part, reach=2)})"

    if draw.chance(0.4):
        draw.args.append(factor())
    if draw.chance(0.4):
        draw.kwargs["pos_weight"] = factor()
    draw_reduction(draw, backward, *shape)


def parts_of_decisions(yes: Array, no: Array, x: Array, targets: Array, weight: Any = 1.0, pos_weight: Any = 1.0,
                       **options: Any) -> tuple[Array, Array]:
    if x.shape != targets.shape or not x.size:
        raise ValueError("targets")
    return weight * targets * pos_weight * yes, weight * (1 - targets) * no


def judge_binary_cross_entropy(call: Call, eps: Any) -> list[Truth]:
    x = call.args[0]
    yes, no = parts_of_decisions(np.logaddexp(0, -x), np.logaddexp(0, x), *call.args, **call.kwargs)
    return reduced(yes + no, 2 * 4 * eps.eps * (yes + no) + eps.smallest_subnormal,
                   call.kwargs.get("reduction", "mean"), eps)


def judge_binary_cross_entropy_backward(call: Call, eps: Any) -> list[Truth]:
    grad, x = call.args[:2]
    yes, no = parts_of_decisions(1 / (1 + np.exp(x)), 1 / (1 + np.exp(-x)), *call.args[1:], **call.kwargs)
    ones = parts_of_decisions(np.ones_like(x), np.ones_like(x), *call.args[1:], **call.kwargs)
    g = by_rows(grad, x.size, call.kwargs.get("reduction", "mean"), x.shape)
    return [(g * (no - yes), np.abs(g) * (2 * 4 * eps.eps * (yes + no) + eps.smallest_normal * sum(ones))
             + eps.smallest_normal)]


def judge_hinge_loss_backward(call: Call, eps: Any) -> list[Truth]:
    grad, x, labels = call.args
    margin, reduction = call.kwargs.get("margin", 1.0), call.kwargs.get("reduction", "mean")
    right = right_scores(x, labels)
    g = by_rows(grad, len(x), reduction, (len(x),))[:, None]
    lead = margin + (x - right)
    truth = np.where(lead <= 0, 0.0, g)
    truth[np.arange(len(x)), labels] = 0
    truth[np.arange(len(x)), labels] = -truth.sum(1)
    close = (np.abs(lead) <= 2.0**-51 * (np.abs(x) + np.abs(right) + abs(margin))) & (lead != 0)
    close = close & (np.arange(x.shape[1]) != labels[:, None])
    bound = 2 * eps.eps * np.abs(truth) * (1 + x.shape[1] * (eps.eps < 1e-10)) + eps.smallest_subnormal
    return [(truth, np.where(close | close.any(1, keepdims=True), np.inf, bound))]


def judge_mse_loss_backward(call: Call, eps: Any) -> list[Truth]:
    grad, x, y = call.args
    if x.shape != y.shape or not x.size:
        raise ValueError("y")
    g = by_rows(grad, x.size, call.kwargs.get("reduction", "mean"), x.shape)
    truth = 2 * g * (x - y)
    reach = np.maximum(np.abs(x - y), np.maximum(np.abs(truth), 2 * np.abs(g)))
    return [(truth, np.where(reach > 0.99 * eps.max, np.inf, 2 * 3 * eps.eps * np.abs(truth)
                             + eps.smallest_subnormal * (2 + 2 * np.abs(x - y) + 2 * np.abs(g))))]


def draw_mse_loss(draw: Draw, backward: bool = False) -> None:
    shape = draw_shape(draw)
    draw.args = [draw.floats(*shape, reach=140), draw.floats(*shape, *([2] if draw.chance(0.02) else []), reach=140)]
    draw_reduction(draw, backward, *shape)


MARGIN = {"margin": (0.5, 2.0, 0.0)}
FAMILIES["cross_entropy"] = Family(lambda draw: draw_cross_entropy(draw, False), judge_cross_entropy)
FAMILIES["cross_entropy_backward"] = Family(lambda draw: draw_cross_entropy(draw, True), judge_cross_entropy_backward)
FAMILIES["binary_cross_entropy_with_logits"] = Family(
    lambda draw: draw_binary_cross_entropy(draw, False), judge_binary_cross_entropy)
FAMILIES["binary_cross_entropy_with_logits_backward"] = Family(
    lambda draw: draw_binary_cross_entropy(draw, True), judge_binary_cross_entropy_backward)
FAMILIES["hinge_loss"] = Family(lambda draw: draw_scores(draw, False, **MARGIN), judge_hinge_loss)
FAMILIES["hinge_loss_backward"] = Family(
    lambda draw: draw_scores(draw, True, **MARGIN), judge_hinge_loss_backward)
FAMILIES["mse_loss"] = Family(draw_mse_loss, judge_mse_loss)
FAMILIES["mse_loss_backward"] = Family(lambda draw: draw_mse_loss(draw, True), judge_mse_loss_backward)


# --- distances -------------------------------------------------------------------------------------------------------


def draw_points(draw: Draw, dimensions: int, *counts: int) -> None:
    for count in counts:
        wrong = draw.chance(0.02)
        shape = count, dimensions + wrong
        draw.args.append(f"{draw.rng()}.integers(0, 256, {shape}, 'u1')" if draw.dtype == "u1" else
                         draw.floats(*shape, reach=12))
    draw.option("squared", (True, False))


def draw_pairwise_l2(draw: Draw) -> None:
    m, n, d = draw.size(0, 9, 300), draw.size(0, 9, 300), draw.size(0, 20, 300)
    draw_points(draw, d, m, n)
    squared = draw.kwargs.get("squared") == "True"
    draw.option("algorithm", ("direct", "gemm"))
    draw.out(m, n, dtype="" if draw.dtype != "u1" else "i8" if squared else "f8")


def judge_pairwise_l2(call: Call, eps: Any) -> list[Truth]:
    x, y = call.args
    if x.shape[1] != y.shape[1]:
        raise ValueError("y")
    d = x.shape[1]
    exact = x.dtype.kind == "u"
    if exact:
        x, y = x.astype(np.int64), y.astype(np.int64)
    square = np.stack([((row - y) ** 2).sum(1) for row in x]) if len(x) else np.zeros((0, len(y)), y.dtype)
    if exact:
        return [(square, 0) if call.kwargs.get("squared") else (np.sqrt(square), 0)]
    terms = min(d, 256) + d / 256
    bound = eps.eps / 2 * (terms + 3) * square
    if call.kwargs.get("algorithm") == "gemm":
        lengths = np.sqrt((x**2).sum(1)[:, None] * (y**2).sum(1))
        bound = eps.eps * (terms + 2) * lengths + eps.eps * square
    bound = 2 * bound + d * eps.smallest_subnormal
    if call.kwargs.get("algorithm") == "gemm":          # infinite coordinates give NaN or inf, as products do
        square, bound = np.where(np.isfinite(lengths), square, np.nan), np.where(np.isfinite(lengths), bound, -1)
    if call.kwargs.get("squared"):
        return [(square, bound)]
    root = np.sqrt(square)
    off = np.maximum(np.sqrt(square + bound) - root, root - np.sqrt(np.maximum(square - bound, 0)))
    return [(root, np.where(bound < 0, bound, off + eps.eps * root))]


def draw_knn(draw: Draw) -> None:
    m, n, d = draw.size(0, 9, 400), draw.size(0, 40, 2500), draw.size(0, 20, 150)
    k = draw.random.randint(0 if draw.chance(0.05) else 1, max(1, min(n, 20) + draw.chance(0.03)))
    draw_points(draw, d, m, n)
    draw.args.append(repr(k))
    draw.option("algorithm", ("auto", "direct", "filter"), 0.6)
    draw.option("memory_budget", (10**6, 10**7), 0.2)


def judge_knn(call: Call, eps: Any) -> list[Truth]:
    """The nearest by the distances of `pairwise_l2`, to the bit; those are judged by themselves."""
    queries, points, k = call.args
    if not 1 <= k <= len(points) or queries.shape[1] != points.shape[1]:
        raise ValueError("k")
    floats = queries.dtype.kind == "f"
    queries, points = (a.astype(eps.dtype) if floats else a for a in (queries, points))
    squares = kernels.pairwise_l2(queries, points, squared=True)
    indices = np.argsort(squares, 1, kind="stable")[:, :k]
    nearest = np.take_along_axis(squares, indices, 1)
    return [(nearest if call.kwargs.get("squared") else np.sqrt(nearest), 0), (indices, 0)]


FAMILIES["pairwise_l2"] = Family(draw_pairwise_l2, judge_pairwise_l2, ("f4", "f8", "u1"))
FAMILIES["knn"] = Family(draw_knn, judge_knn, ("f4", "f8", "u1"))


# --- updates ---------------------------------------------------------------------------------------------------------


def draw_update(draw: Draw, states: int, last: str, **options: Any) -> None:
    shape = draw_shape(draw) if not draw.large else (70_000,)
    arrays = [f"{draw.rng()}.standard_normal({shape}, {draw.dtype!r})", draw.floats(*shape, reach=6)]
    arrays += [f"{draw.rng()}.random({shape}, {draw.dtype!r})" for _ in range(states)]
    draw.args = arrays
    draw.kwargs["lr"] = repr(round(draw.random.random(), 4))
    momentum = draw.option("momentum", (0.9, 0.5), 0.5) if last else None
    if last and not momentum:
        draw.args[-1] = "None"
    for name, values in options.items():
        if name != "nesterov" or momentum:
            draw.option(name, values)


def judge_update(name: str) -> Judge:
    """The formula of the naive version for whole arrays, in float64."""
    def judge(call: Call, eps: Any) -> list[Truth]:
        o = SimpleNamespace(**{"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "alpha": 0.99, "eps": 1e-8,
                               "betas": (0.9, 0.999), "decoupled": False, **call.kwargs})
        parameter, grad, *states = (a if a is None else a.astype(np.float64) for a in call.args)
        size = np.abs(parameter) + 0 * grad
        if o.decoupled:
            parameter = parameter - o.lr * o.weight_decay * parameter
        g = grad if o.decoupled else grad + o.weight_decay * parameter
        g_size = np.abs(grad) + o.weight_decay * size
        if name == "sgd_update":
            new = []
            if states[0] is not None:
                buffer = o.momentum * states[0] + g
                new.append((buffer, 4 * eps.eps * (np.abs(o.momentum * states[0]) + g_size)))
                g, g_size = ((g + o.momentum * buffer) if o.nesterov else buffer,
                             2 * g_size + np.abs(o.momentum * states[0]))
            else:
                new.append((None, 0))
            step, step_size = o.lr * g, o.lr * g_size
        elif name == "rmsprop_update":
            square = o.alpha * states[0] + (1 - o.alpha) * g * g
            new = [(square, 8 * eps.eps * (o.alpha * states[0] + (1 - o.alpha) * g_size**2))]
            with np.errstate(all="ignore"):
                change = g / (np.sqrt(square) + o.eps)
                c_size = g_size / (np.sqrt(square) + o.eps)
                c_size = c_size * (1 + np.where(square > 0, new[0][1] / (eps.eps * square), 0))
            if states[1] is not None:
                change, c_size = o.momentum * states[1] + change, np.abs(o.momentum * states[1]) + c_size
                new.append((change, 8 * eps.eps * c_size))
            else:
                new.append((None, 0))
            step, step_size = o.lr * change, o.lr * c_size
        else:
            one, two = o.betas
            m = one * states[0] + (1 - one) * g
            v = two * states[1] + (1 - two) * g * g
            m_size, v_size = np.abs(one * states[0]) + (1 - one) * g_size, two * states[1] + (1 - two) * g_size**2
            new = [(m, 4 * eps.eps * m_size), (v, 8 * eps.eps * v_size)]
            root = np.sqrt(v / (1 - two**o.step)) + o.eps
            step = o.lr * m / (1 - one**o.step) / root
            step_size = o.lr * m_size / (1 - one**o.step) / root
            step_size = step_size * (1 + np.where(v > 0, v_size / np.where(v > 0, v, 1), 0))
        results = [(parameter - step, 8 * eps.eps * (size + 2 * step_size)), *new]
        return [(None, 0.0) if value is None else
                (value, np.where(np.abs(value) > 0.99 * eps.max, np.inf, bound + 4 * eps.smallest_normal))
                for value, bound in results]

    return judge


DECAY = {"weight_decay": (0.0, 0.01, 0.3)}
FAMILIES["sgd_update"] = Family(lambda draw: draw_update(draw, 1, "momentum_buffer", nesterov=(True, False), **DECAY),
                                judge_update("sgd_update"))
FAMILIES["rmsprop_update"] = Family(
    lambda draw: draw_update(draw, 2, "momentum_buffer", alpha=(0.9, 0.5), eps=(1e-6, 1e-3), **DECAY),
    judge_update("rmsprop_update"))


def draw_adam_update(draw: Draw) -> None:
    draw_update(draw, 2, "", betas=((0.8, 0.95), (0.5, 0.5)), eps=(1e-6, 1e-3), decoupled=(True, False), **DECAY)
    draw.kwargs["step"] = repr(draw.random.randint(1, 50))


FAMILIES["adam_update"] = Family(draw_adam_update, judge_update("adam_update"))


# --- quantised networks ----------------------------------------------------------------------------------------------


def draw_bytes(draw: Draw, dtype: str, *shape: int) -> str:
    low, high = (0, 256) if dtype == "u1" else (-128, 128)
    return f"{draw.rng()}.integers({low}, {high}, {shape}).astype({dtype!r})"


def draw_quantize_per_tensor(draw: Draw) -> None:
    shape = tuple(draw.size(0, 5, 40) for _ in range(draw.random.choice((2, 4))))
    draw.args = [draw.floats(*shape, reach=3), repr(draw.random.choice((0.02, 1.0, 1e-3))),
                 repr(draw.random.randint(0, 255 + draw.chance(0.03)))]


def judge_quantize_per_tensor(call: Call, eps: Any) -> list[Truth]:
    """In float32 a value may go to the other side of a half."""
    x, scale, zero_point = call.args
    value = np.moveaxis(x, 1, -1) / scale + zero_point
    if not 0 <= zero_point <= 255:
        raise ValueError("zero_point")
    value = np.clip(np.where(np.isnan(value), 0, value), 0, 255)
    return [(np.rint(value).astype(np.uint8), np.where(abs(value % 1 - 0.5) < 1e3 * eps.eps, 1.0, 0.0))]


def draw_lookup_int8(draw: Draw) -> None:
    shape = tuple(draw.size(0, 5, 40) for _ in range(draw.random.randint(1, 4)))
    draw.args = [draw_bytes(draw, "u1", *shape), draw.random.choice((
        draw_bytes(draw, "u1", 256), f"{draw.rng()}.standard_normal(256, 'f4')"))]


def judge_lookup_int8(call: Call, eps: Any) -> list[Truth]:
    return [(call.args[1][call.args[0]], 0.0)]


def draw_conv2d_int8(draw: Draw) -> None:
    groups = draw.random.choice((1, 1, 2, 3))
    n, c, o = draw.size(0, 3, 20), groups * draw.size(1, 4, 40), groups * draw.size(1, 5, 80)
    h, w, kh, kw = (draw.random.randint(1, most) for most in (8, 8, 3, 3))
    draw.args = [draw_bytes(draw, "u1", n, h, w, c), draw_bytes(draw, "i1", o, c // groups, kh, kw),
                 f"{draw.rng()}.random({o}, 'f4') * np.float32(0.01)"]
    if draw.chance(0.5):
        draw.args.append(f"128 + 40 * {draw.rng()}.standard_normal({o}, 'f4')")
    draw.kwargs["groups"] = repr(groups)
    draw.kwargs["zero_point"] = repr(draw.random.randint(0, 255))
    for name, low, high in (("stride", 1, 3), ("padding", 0, 2), ("dilation", 1, 2)):
        draw.option(name, lambda low=low, high=high: draw.pair(low, high), 0.4)
    draw.option("dtype", ("uint8", "float32"))


def draw_linear_int8(draw: Draw) -> None:
    n, i, o = draw.size(0, 5, 100), draw.size(1, 9, 700), draw.size(1, 9, 200)
    draw.args = [draw_bytes(draw, "u1", n, i), draw_bytes(draw, "i1", o, i),
                 f"{draw.rng()}.random({o}, 'f4') * np.float32(0.01)"]
    draw.option("zero_point", lambda: draw.random.randint(0, 255))
    draw.option("dtype", ("uint8", "float32"))


def draw_max_pool2d_int8(draw: Draw) -> None:
    n, h, w, c = draw.size(0, 3, 20), draw.size(1, 7, 30), draw.size(1, 7, 30), draw.size(1, 5, 40)
    draw.args = [draw_bytes(draw, "u1", n, h, w, c), repr(draw.pair(1, 3))]
    for name, low, high in (("stride", 1, 3), draw.random.choice((("padding", 0, 1), ("dilation", 1, 2)))):
        draw.option(name, lambda low=low, high=high: draw.pair(low, high), 0.4)
    draw.option("ceil_mode", (True, False))


def scaled(sums: Array, call: Call) -> list[Truth]:
    scale, *bias = (array.astype(np.float32) for array in call.args[2:])
    value = sums.astype(np.float32) * scale + (bias[0] if bias else np.float32(0))
    return [(value if call.kwargs.get("dtype") == "float32" else np.rint(np.clip(value, 0, 255)), 0.0)]


def judge_conv2d_int8(call: Call, eps: Any) -> list[Truth]:
    """Integers are exact in float64."""
    options = {name: value for name, value in call.kwargs.items() if name not in ("zero_point", "dtype")}
    x = call.args[0].transpose(0, 3, 1, 2).astype(np.float64) - call.kwargs["zero_point"]
    return scaled(reference("conv2d", Call((x, call.args[1].astype(np.float64)), options)).transpose(0, 2, 3, 1), call)


def judge_linear_int8(call: Call, eps: Any) -> list[Truth]:
    x = call.args[0].astype(np.int64) - call.kwargs.get("zero_point", 0)
    return scaled(x @ call.args[1].T.astype(np.int64), call)


def judge_max_pool2d_int8(call: Call, eps: Any) -> list[Truth]:
    x = call.args[0].transpose(0, 3, 1, 2).astype(np.float64)
    return [(reference("max_pool2d", Call((x, *call.args[1:]), call.kwargs)).transpose(0, 2, 3, 1), 0.0)]


FAMILIES["quantize_per_tensor"] = Family(draw_quantize_per_tensor, judge_quantize_per_tensor)
FAMILIES["lookup_int8"] = Family(draw_lookup_int8, judge_lookup_int8, dtypes=("u1",))
FAMILIES["conv2d_int8"] = Family(draw_conv2d_int8, judge_conv2d_int8, dtypes=("u1",))
FAMILIES["linear_int8"] = Family(draw_linear_int8, judge_linear_int8, dtypes=("u1",))
FAMILIES["max_pool2d_int8"] = Family(draw_max_pool2d_int8, judge_max_pool2d_int8, dtypes=("u1",))


# --- the run ---------------------------------------------------------------------------------------------------------


NAMES = list(FAMILIES)
LARGE = 8                                               # calls of each kernel
TORCH_WARNS = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
REFUSALS = (ValueError, TypeError)


def draw_call(seed: int, number: int) -> tuple[str, Draw]:
    """Return a kernel's name and a random call of it."""
    random = Random(f"{seed} {number}")
    name = random.choice(NAMES)
    draw = Draw(random, random.choice(FAMILIES[name].dtypes), large=HAS_TORCH and random.random() < 0.004,
                wild=random.random() < 0.15, planted=random.random() < 0.04)
    FAMILIES[name].draw(draw)
    return name, draw


def check_call(name: str, draw: Draw) -> str | None:
    """Run one call; return what is wrong with it, if anything is."""
    row, family = KERNELS[name], FAMILIES[name]
    call = draw.call()
    finfo = np.finfo(np.float64 if draw.dtype == "f8" else np.float32)
    exact = Call(tuple(wide(a) for a in call.args), {k: v if k == "out" else wide(v) for k, v in call.kwargs.items()})
    before = [array.tobytes() for array in call.arrays()]
    result: Any
    try:
        result = row(call)
        refused = None
    except REFUSALS as error:
        refused = error
    out = call.kwargs.get("out")
    for i, (array, bytes_before) in enumerate(zip(call.arrays(), before)):
        written = array is out or any(array is call.args[i] for i in row.writes if i < len(call.args))
        if (refused is not None or not written) and array.tobytes() != bytes_before:
            return f"array {i} of the call was written"
    try:
        with np.errstate(all="ignore"):
            truths = family.judge(exact, finfo)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if refused is not None:
            return None
        if not differs(name, exact):
            return f"accepted, but the reference refuses it: {error}"
        with np.errstate(all="ignore"):
            naive = row(Call(exact.args, {k: v for k, v in exact.kwargs.items() if k != "out"}), target="naive")
        truths = [(truth, 10 * TOLERANCES[finfo.dtype] * np.abs(truth).max(initial=0.0) if truth is not None else 0.0)
                  for truth in as_tuple(naive)]
    if refused is not None:
        return None if differs(name, exact) else f"refused ({refused}), but the reference accepts it"
    if out is not None and as_tuple(result)[0] is not out:
        return "the result is not out"
    results = [*(result if isinstance(result, tuple) else () if row.writes and name != "batch_norm" else (result,)),
               *(call.args[i] for i in row.writes if i < len(call.args) and
                 (name != "batch_norm" or call.args[1] is not None))]
    needs = call.kwargs.get("needs", (True,) * len(results))
    for i, (got, (truth, bound)) in enumerate(zip(results, truths, strict=True)):
        if i < len(needs) and not needs[i]:
            truth = None
        wrong = disagreement(got, truth, bound, draw.dtype if row.name != "knn" else None)
        if wrong:
            return f"result {i}: {wrong}"
    return None


def wide(value: Any) -> Any:
    return np.array(value, np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def differs(name: str, call: Call) -> bool:
    names = list(inspect.signature(getattr(kernels, name)).parameters)
    given = {**dict(zip(names, call.args)), **call.kwargs}
    return any(kernels_of in name and applies(given) for kernels_of, applies, _ in DIFFERENCES)


def disagreement(got: Any, truth: Any, bound: Any, dtype: str | None) -> str | None:
    if got is None or truth is None:
        return None if got is truth else f"expected {truth!r}, got {got!r}"
    got, truth = np.asarray(got), np.asarray(truth)
    if got.shape != truth.shape:
        return f"expected shape {truth.shape}, got {got.shape}"
    if dtype in ("f4", "f8") and truth.dtype.kind == "f" and got.dtype != dtype:
        return f"expected {dtype}, got {got.dtype}"
    with np.errstate(all="ignore"):
        off = np.abs(got.astype(np.float64) - truth.astype(np.float64))
        same = (got == truth) | (np.isnan(got) & np.isnan(truth)) if got.dtype.kind == "f" else got == truth
        same |= (np.asarray(bound) < 0) & ~np.isfinite(got)         # which of the values that are not finite is free
        wrong = ~(same | (off <= bound) | (np.isinf(bound) & np.isfinite(truth)))
    if not wrong.any():
        return None
    worst = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(off, nan=np.inf), -1)), wrong.shape)
    at = tuple(int(i) for i in worst)
    return (f"{wrong.sum()} of {wrong.size} differ, most at {at}: {got[at]!r} for {truth[at]!r}, "
            f"{off[at]:.3g} where {np.broadcast_to(bound, wrong.shape)[at]:.3g} is allowed")


def run(count: int, seed: int) -> list[str]:
    failures = []
    for number in range(count):
        name, draw = draw_call(seed, number)
        try:
            wrong = check_call(name, draw)
        except Exception as error:                      # also of the judge
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            failures.append(f"# call {number} of seed {seed}: {wrong}\n{draw.text(name)}")
    return failures


@TORCH_WARNS
def test_random_calls(request: pytest.FixtureRequest) -> None:
    count, seed = request.config.getoption("--random-calls"), request.config.getoption("--seed")
    failures = run(count, seed)
    kinds = Counter(failure.partition("kernels.")[2].partition("(")[0] for failure in failures)
    assert not failures, f"{len(failures)} of {count} calls: {dict(kinds)}\n\n" + "\n".join(failures[:200])


@TORCH_WARNS
@pytest.mark.parametrize("name", NAMES)
def test_large_calls(name: str, check_orders: Callable[[Kernel, Call], int], request: pytest.FixtureRequest) -> None:
    """Shapes of many blocks, most of which end in a tail: their bits do not depend on the order of blocks.

    The first call is held to its bound too, where PyTorch can judge it: loops in Python would take too long.
    """
    for number in range(LARGE):
        random = Random(f"{request.config.getoption('--seed')} {name} {number}")
        draw = Draw(random, random.choice(FAMILIES[name].dtypes), large=True, wild=False, planted=False)
        FAMILIES[name].draw(draw)
        with contextlib.suppress(*REFUSALS), np.errstate(all="ignore"):
            check_orders(KERNELS[name], draw.call())
        if HAS_TORCH and number == 0:
            wrong = check_call(name, draw)
            assert wrong is None, f"{wrong}\n{draw.text(name)}"


def test_every_kernel_is_called() -> None:
    assert set(FAMILIES) == set(KERNELS)
