"""Every bound on an error that a docstring states, and results that are in the range though what leads to them is not.

A search for the worst case draws numbers of all magnitudes, of one or of many, that cancel and that do not, and holds
each kernel to its bound against the truth, computed in numbers far wider than its dtype.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numba import config

import fastnn
from fastnn import _device, kernels
from fastnn.testing import KERNELS, Call, Kernel

Array = np.ndarray
Wide = np.longdouble
pytestmark = [pytest.mark.skipif(np.finfo(Wide).maxexp < 4096, reason="no numbers wider than float64"),
              pytest.mark.filterwarnings("ignore::RuntimeWarning")]
DTYPES = [np.float32, np.float64]
DRAWS = 8 if config.DISABLE_JIT else 40
U = Wide(2) ** -53


# --- draws ---------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, shape: Any, dtype: Any, reach: float = 1.0) -> Array:
    """Numbers up to a power `reach` of the largest of a dtype, and down to that of the smallest."""
    most = reach * (37 if dtype == np.float32 else 300)
    ordinary, scale = rng.standard_normal(shape), 10 ** rng.uniform(-most, most)
    x = [ordinary, ordinary * scale, ordinary * 10 ** rng.uniform(-most, most, shape),
         scale * (1 + ordinary * 10 ** rng.uniform(-16, 0)), scale * rng.choice([-1, 0, 1, 3], shape),
         scale + 0 * ordinary][rng.integers(6)]
    return np.clip(x, -10**most, 10**most).astype(dtype)


def scores(rng: np.random.Generator, dtype: Any) -> Array:
    """A few rows, often long ones, mostly of scores that are near enough to matter."""
    shape = (2, int(rng.choice([1, 2, 3, 10, 100, 5000])))
    x = draw(rng, shape, dtype)
    if rng.random() < 0.7:
        x = (x[:, :1] * 10 ** rng.uniform(-30, 0) + 10 ** rng.uniform(-3, 3) * rng.standard_normal(shape)).astype(dtype)
    return x


# --- the truth and the bound of each kernel ------------------------------------------------------------------------

Case = tuple[tuple, dict[str, Any], list[tuple[Any, Any]]]      # arguments, options, (truth, bound) of each result
CASES: dict[str, Callable[[np.random.Generator, Any, Wide], Iterator[Case] | Case]] = {}


def case(function: Callable) -> Callable:
    CASES[function.__name__] = function
    return function


def pair(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array]:
    x = draw(rng, 50, dtype)
    y = draw(rng, 50, dtype) if rng.random() < 0.6 else x * dtype(1 + 10 ** rng.uniform(-8, 0))
    return x, np.clip(y, -np.finfo(dtype).max / 2, np.finfo(dtype).max / 2)


@case
def leaky_relu(rng, dtype, e):
    x, slope = draw(rng, 50, dtype), float(rng.choice([0.01, 0.3, -2.5]))
    truth = np.where(x > 0, x.astype(Wide), Wide(slope) * x)
    return (x, slope), {}, [(truth, 1.01 * e * abs(truth))]


@case
def leaky_relu_backward(rng, dtype, e):
    (x, y), slope = pair(rng, dtype), float(rng.choice([0.01, 0.3, -2.5]))
    truth = np.where(y > 0, x.astype(Wide), Wide(slope) * x)
    return (x, y, slope), {}, [(truth, 1.01 * e * abs(truth))]


@case
def sigmoid(rng, dtype, e):
    x = draw(rng, 50, dtype)
    small = np.exp(-abs(x.astype(Wide)))
    truth = np.where(x < 0, small, 1) / (1 + small)
    return (x,), {}, [(truth, 3 * e * truth)]


@case
def sigmoid_backward(rng, dtype, e):
    g, y = draw(rng, 50, dtype), kernels.sigmoid(draw(rng, 50, dtype, 0.05))
    truth = g.astype(Wide) * y * (1 - y.astype(Wide))
    return (g, y), {}, [(truth, 2 * e * abs(truth))]


@case
def tanh(rng, dtype, e):
    x = draw(rng, 50, dtype)
    truth = np.tanh(x.astype(Wide))
    return (x,), {}, [(truth, 3 * e * abs(truth))]


@case
def tanh_backward(rng, dtype, e):
    g, y = draw(rng, 50, dtype), kernels.tanh(draw(rng, 50, dtype))
    return (g, y), {}, [(g.astype(Wide) * (1 - y.astype(Wide) ** 2), 2 * e * abs(g.astype(Wide)))]


def normal(x: Array) -> tuple[Array, Array]:
    """The normal distribution by a series of terms of one sign, and its density."""
    v = np.clip(x.astype(Wide), -14, 14)
    density = np.exp(-v * v / 2) / np.sqrt(2 * Wide("3.14159265358979323846264338327950288"))
    term, total = abs(v), abs(v)
    for n in range(3, 701, 2):
        term = term * v * v / n
        total = total + term
    above = Wide(0.5) - density * total
    return np.where(x < 0, above, 1 - above), density


ROOT = np.sqrt(2 / Wide("3.14159265358979323846264338327950288"))


@case
def gelu(rng, dtype, e):
    x = draw(rng, 50, dtype, rng.choice([0.04, 1]))
    v = x.astype(Wide)
    yield (x,), {}, [(v * normal(x)[0], 3 * e * abs(v))]
    truth = v * (1 + np.tanh(ROOT * (v + Wide(0.044715) * v**3))) / 2
    yield (x, "tanh"), {}, [(truth, 3 * e * abs(v))]


@case
def gelu_backward(rng, dtype, e):
    g, x = draw(rng, 50, dtype), draw(rng, 50, dtype, rng.choice([0.04, 1]))
    probability, density = normal(x)
    v = x.astype(Wide)
    bounded = np.clip(v, -14, 14)
    yield (g, x), {}, [(g * (probability + bounded * density), 5 * e * abs(g.astype(Wide)))]
    t = np.tanh(ROOT * (v + Wide(0.044715) * v**3))
    truth = g * ((1 + t) / 2 + v * (1 - t * t) / 2 * ROOT * (1 + 3 * Wide(0.044715) * v * v))
    yield (g, x, "tanh"), {}, [(truth, 5 * e * abs(g.astype(Wide)))]


@case
def add(rng, dtype, e):
    x, y = pair(rng, dtype)
    truth = x.astype(Wide) + y
    return (x, y), {}, [(truth, e / 2 * abs(truth))]


@case
def add_relu(rng, dtype, e):
    x, y = pair(rng, dtype)
    truth = np.maximum(x.astype(Wide) + y, 0)
    return (x, y), {}, [(truth, e / 2 * truth)]


@case
def dropout(rng, dtype, e):
    x, p = draw(rng, 50, dtype), float(rng.choice([0.1, 0.5, 0.9, 1 - 1e-9]))
    mask = rng.random(50) < 0.5
    truth = np.where(mask, x / (1 - Wide(p)), 0)
    return (x, mask, p), {}, [(truth, 1.5 * e * abs(truth))]


CASES["dropout_backward"] = dropout


def log_probabilities(x: Array) -> Array:
    shifted = x.astype(Wide) - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@case
def softmax(rng, dtype, e):
    x = scores(rng, dtype)
    truth, below = np.exp(log_probabilities(x)), x.max(-1, keepdims=True) - x.astype(Wide)
    return (x,), {}, [(truth, (e * (4 + below) + U * x.shape[1]) * truth)]


@case
def log_softmax(rng, dtype, e):
    x = scores(rng, dtype)
    truth = log_probabilities(x)
    return (x,), {}, [(truth, e * (abs(truth) + 2 + np.log(x.shape[1])) + U * x.shape[1])]


@case
def softmax_backward(rng, dtype, e):
    y = kernels.softmax(scores(rng, dtype))
    g = draw(rng, y.shape, dtype)
    products = g.astype(Wide) * y
    total, size = products.sum(-1, keepdims=True), abs(products).sum(-1, keepdims=True)
    return (g, y), {}, [(y * (g - total), 2 * e * y * (abs(g) + abs(total)) + U * y.shape[1] * y * size)]


@case
def log_softmax_backward(rng, dtype, e):
    y = kernels.log_softmax(scores(rng, dtype))
    g = draw(rng, y.shape, dtype)
    p, v = np.exp(y.astype(Wide)), g.astype(Wide)
    total, size = v.sum(-1, keepdims=True), abs(v).sum(-1, keepdims=True)
    truth = v - p * total
    lost = np.where(p < 1.01 * np.finfo(dtype).tiny, p, 0) * abs(total)     # which counts as 0
    return (g, y), {}, [(truth, e * (abs(truth) + 2 * p * abs(total)) + U * y.shape[1] * p * size + lost)]


def reduced(rng: np.random.Generator, losses: Array, bounds: Array, share: Any) -> tuple[str, Array, Array]:
    """A reduction, and of its result the truth and the bound, where a sum adds a share of itself."""
    reduction = str(rng.choice(["none", "mean", "sum"]))
    if reduction == "none":
        return reduction, losses, bounds
    count = losses.size if reduction == "mean" else 1
    return reduction, losses.sum() / count, (bounds.sum() + share * losses.sum()) / count


def labelled(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array]:
    x = scores(rng, dtype)
    return x, rng.integers(0, x.shape[1], len(x))


def weighted(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array, Array, Wide]:
    """Scores, labels, the weights of classes and the largest of these."""
    x, labels = labelled(rng, dtype)
    weight = (10 ** rng.uniform(-3, 3, x.shape[1])).astype(dtype)
    return x, labels, weight, weight.max().astype(Wide)


@case
def cross_entropy(rng, dtype, e):
    """Of rows; with weights, and as two places of one row, too."""
    (x, labels, weight, most), smoothing = weighted(rng, dtype), float(rng.choice([0, 0.1, 1]))
    logarithms, classes = log_probabilities(x), x.shape[1]
    losses = (Wide(smoothing) - 1) * logarithms[np.arange(2), labels] - smoothing * logarithms.mean(-1)
    bounds = e * (losses + 2 + np.log(classes)) + U * classes * (losses + 1)
    reduction, truth, bound = reduced(rng, losses, bounds, 2 * U + e / 2)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    yield (x, labels), options, [(truth, bound)]
    places = np.ascontiguousarray(x.T)[None], labels[None]
    yield places, options, [(truth[None] if reduction == "none" else truth, bound)]
    losses = (Wide(smoothing) - 1) * weight[labels] * logarithms[np.arange(2), labels] - smoothing * (
        weight * logarithms).mean(-1)
    for arrays, truths in (((x, labels), losses), (places, losses[None])):
        yield (*arrays, weight), {"label_smoothing": smoothing, "reduction": "none"}, [(truths, most * bounds)]
    yield ((x, labels, weight), {"label_smoothing": smoothing}, [
        (losses.sum() / weight[labels].astype(Wide).sum(),
         (most * bounds.sum() + (2 * U + e / 2) * losses.sum()) / weight[labels].astype(Wide).sum())])


@case
def cross_entropy_backward(rng, dtype, e):
    (x, labels, weight, most), smoothing = weighted(rng, dtype), float(rng.choice([0, 0.1, 1]))
    g = draw(rng, 2, dtype, 0.9)
    probabilities, hot = np.exp(log_probabilities(x)), np.arange(x.shape[1]) == labels[:, None]
    options = {"label_smoothing": smoothing, "reduction": "none"}
    bound = (4 * e + U * x.shape[1]) * abs(g.astype(Wide))[:, None]
    for w in (np.ones(x.shape[1], Wide), weight.astype(Wide)):
        truth = g[:, None] * ((1 - Wide(smoothing)) * w[labels][:, None] * (probabilities - hot)
                              + Wide(smoothing) / x.shape[1] * (probabilities * w.sum() - w))
        given = () if w[0] == 1 else (weight,)
        size = bound * (most if given else 1)
        yield (g, x, labels, *given), options, [(truth, size)]
        places = g[None], np.ascontiguousarray(x.T)[None], labels[None]
        yield (*places, *given), options, [(truth.T[None], size.T[None] + 0 * truth.T[None])]


def decisions(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array, Array, Array]:
    """Scores, truths, and weights of both kinds."""
    x, truth = draw(rng, (5, 10), dtype, rng.choice([0.04, 0.5])), rng.random((5, 10)).astype(dtype)
    truth[rng.random(truth.shape) < 0.3] = rng.integers(0, 2)
    return x, truth, *((10 ** rng.uniform(-3, 3, shape)).astype(dtype) for shape in ((5, 1), (10,)))


@case
def binary_cross_entropy_with_logits(rng, dtype, e):
    x, t, weight, pos_weight = decisions(rng, dtype)
    v = x.astype(Wide)
    rest = np.log1p(np.exp(-abs(v)))
    losses = t * (np.maximum(-v, 0) + rest) + (1 - t.astype(Wide)) * (np.maximum(v, 0) + rest)
    reduction, truth, bound = reduced(rng, losses, 4 * e * losses, (losses.size + 2) * U + e / 2)
    yield (x, t), {"reduction": reduction}, [(truth, bound)]
    losses = weight * (t * pos_weight.astype(Wide) * (np.maximum(-v, 0) + rest)
                       + (1 - t.astype(Wide)) * (np.maximum(v, 0) + rest))
    yield ((x, t, weight), {"pos_weight": pos_weight, "reduction": "none"}, [(losses, 4 * e * losses)])


@case
def binary_cross_entropy_with_logits_backward(rng, dtype, e):
    (x, t, weight, pos_weight), g = decisions(rng, dtype), draw(rng, (5, 10), dtype, 0.9)
    small = np.exp(-abs(x.astype(Wide)))
    yes, no = np.where(x < 0, small, 1) / (1 + small), np.where(x > 0, small, 1) / (1 + small)
    factor, tiny = g.astype(Wide) * weight, np.finfo(dtype).tiny.astype(Wide)
    parts = (1 - t.astype(Wide)) * yes, t * pos_weight.astype(Wide) * no
    bound = 4 * e * (parts[0] + parts[1]) + tiny * (1 - t + t * pos_weight.astype(Wide))
    return ((g, x, t, weight), {"pos_weight": pos_weight, "reduction": "none"},
            [(factor * (parts[0] - parts[1]), abs(factor) * bound)])


def excesses(x: Array, labels: Array, margin: float) -> list[list[Fraction]]:
    """How far scores come within the margin, exactly."""
    exact = [[Fraction(float(v)) for v in row] for row in x]
    return [[max(Fraction(0), Fraction(margin) + v - row[t]) if c != t else Fraction(0) for c, v in enumerate(row)]
            for row, t in zip(exact, labels)]


def wide(number: Fraction) -> Wide:
    """A fraction as a wide number, by the powers of two that it takes to bring it into the range of a float."""
    shift = 0
    while number and not 2.0**-900 < abs(number) < 2.0**900:
        step = 1 if abs(number) > 1 else -1
        number, shift = number / Fraction(2) ** (800 * step), shift + 800 * step
    high = float(number)
    return (Wide(high) + Wide(float(number - Fraction(high)))) * Wide(2) ** shift


def few_scores(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array, float]:
    x = draw(rng, (2, int(rng.choice([1, 2, 6]))), dtype)
    margin = float(rng.choice([1.0, 0.0, 1e-3, float(abs(x[0, 0])), -0.5]))
    return x, rng.integers(0, x.shape[1], 2), margin


@case
def hinge_loss(rng, dtype, e):
    x, labels, margin = few_scores(rng, dtype)
    losses = np.array([wide(sum(row, Fraction(0))) for row in excesses(x, labels, margin)])
    reduction, truth, bound = reduced(rng, losses, (e + U * x.shape[1]) * losses, 2 * U + e / 2)
    return (x, labels), {"margin": margin, "reduction": reduction}, [(truth, bound)]


@case
def hinge_loss_backward(rng, dtype, e):
    (x, labels, margin), g = few_scores(rng, dtype), draw(rng, 2, dtype)
    inside = np.array([[excess > 0 for excess in row] for row in excesses(x, labels, margin)]).astype(Wide)
    inside[np.arange(2), labels] = -inside.sum(-1)
    truth = g[:, None] * inside
    return (g, x, labels), {"margin": margin, "reduction": "none"}, [(truth, 2 * e * abs(truth))]


@case
def mse_loss(rng, dtype, e):
    x, y = pair(rng, dtype)
    losses = (x.astype(Wide) - y) ** 2
    reduction, truth, bound = reduced(rng, losses, 1.5 * e * losses, U * losses.size)
    return (x, y), {"reduction": reduction}, [(truth, bound)]


@case
def mse_loss_backward(rng, dtype, e):
    (x, y), g = pair(rng, dtype), draw(rng, 50, dtype)
    truth = 2 * g.astype(Wide) * (x.astype(Wide) - y)
    yield (g, x, y), {"reduction": "none"}, [(truth, 2 * e * abs(truth))]
    truth = 2 * Wide(float(g[0])) * (x.astype(Wide) - y) / x.size
    yield (float(g[0]), x, y), {}, [(truth, 2 * e * abs(truth))]


def shares(count: int, size: int, mode: str, align_corners: bool) -> Array:
    """The share of each of `size` pixels in each of `count` ones."""
    i = np.arange(count).astype(Wide)
    step = Wide(size) / count
    if mode == "nearest":
        return (np.arange(count)[:, None] * size // count == np.arange(size)).astype(Wide)
    place = i * (Wide(size - 1) / max(1, count - 1)) if align_corners else np.maximum(0, (i + Wide(0.5)) * step - 0.5)
    return np.maximum(0, 1 - abs(np.minimum(place, size - 1)[:, None] - np.arange(size)))


def resampled(rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int], dict[str, Any], Array, Array]:
    """Sizes before and after, options, and shares of rows and columns."""
    sizes, counts = ((int(rng.integers(1, 12)), int(rng.integers(1, 30))) for _ in range(2))
    options = [{}, {"mode": "bilinear"}, {"mode": "bilinear", "align_corners": True}][rng.integers(3)]
    of_rows, of_columns = (shares(count, size, options.get("mode", "nearest"), "align_corners" in options)
                           for count, size in zip(counts, sizes))
    return sizes, counts, options, of_rows, of_columns


@case
def interpolate(rng, dtype, e):
    sizes, counts, options, of_rows, of_columns = resampled(rng)
    x = draw(rng, (1, 2, *sizes), dtype, 0.9)
    near = [np.maximum(part, np.roll(part, 1, -1)) + np.roll(part, -1, -1) > 0 for part in (of_rows, of_columns)]
    largest = np.where(near[0][:, None, :, None] & near[1][:, None], abs(x)[:, :, None, None], 0).max((-1, -2))
    bound = (4 * e + Wide(7e-16) * sum(sizes)) * largest if options else 0 * largest
    return (x, counts), options, [(of_rows @ x.astype(Wide) @ of_columns.T, bound)]


@case
def interpolate_backward(rng, dtype, e):
    sizes, counts, options, of_rows, of_columns = resampled(rng)
    g = draw(rng, (1, 2, *counts), dtype, 0.9)
    near = [(np.maximum(part, np.roll(part, 1, -1)) + np.roll(part, -1, -1) > 0).astype(Wide)
            for part in (of_rows, of_columns)]
    number = (of_rows > 0).sum(0)[:, None] * (of_columns > 0).sum(0)
    bound = (number + 4) * e * (of_rows.T @ abs(g.astype(Wide)) @ of_columns)
    bound += Wide(7e-16) * sum(sizes) * (near[0].T @ abs(g.astype(Wide)) @ near[1]) if options else 0
    return (g, (1, 2, *sizes)), options, [(of_rows.T @ g.astype(Wide) @ of_columns, bound)]


def channels(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array, Array, Array]:
    """x in one of the shapes that go different ways, weight, bias and a gradient, of magnitudes that channels share."""
    samples, count, length = [(3, 2, 1), (300, 40, 1), (4, 20, 80), (2, 3, 30), (600, 3, 9)][rng.integers(5)]
    x = np.stack([draw(rng, (samples, length), dtype) for _ in range(count)], axis=1)
    grad = np.stack([draw(rng, (samples, length), dtype, 0.9) for _ in range(count)], axis=1)
    weight, bias = (np.array([draw(rng, (), dtype, 0.9) for _ in range(count)]) for _ in range(2))
    return x, weight, bias, grad


def eps_of(rng: np.random.Generator) -> float:
    return float(rng.choice([1e-5, 1e-45, 10 ** rng.uniform(-300, 2)]))


def spread(values: Array) -> Array:
    return values[:, None]


@case
def batch_norm(rng, dtype, e):
    (x, weight, bias, _), eps = channels(rng, dtype), eps_of(rng)
    v, n = x.astype(Wide), x.shape[0] * x.shape[2]
    mean = v.mean((0, 2))
    var = ((v - spread(mean)) ** 2).mean((0, 2))
    running = (None, None)
    training = bool(rng.random() < 0.6)
    if not training:
        mean = np.array([draw(rng, (), dtype) for _ in weight]) if rng.random() < 0.5 else mean.astype(dtype)
        var = abs(np.array([draw(rng, (), dtype) for _ in weight])) + np.finfo(dtype).tiny
        running = mean, var
    s = np.sqrt(var.astype(Wide) + eps)
    z, w = (v - spread(mean)) / spread(s), weight.astype(Wide)
    size = (e * e + (n + 3) * U) * (1 + abs(mean) / s)
    bound = 4 * e * (abs(z * spread(w)) + spread(abs(bias))) + spread(size) * (1 + abs(z)) * spread(abs(w))
    return (x, *running, weight, bias), {"training": training, "eps": eps}, [(z * spread(w) + spread(bias), bound)]


@case
def batch_norm_backward(rng, dtype, e):
    (x, weight, _, grad), eps = channels(rng, dtype), eps_of(rng)
    _, mean, invstd = kernels.batch_norm(x, None, None, training=True, eps=eps, return_stats=True)
    training, n = bool(rng.random() < 0.6), x.shape[0] * x.shape[2]
    g, w = grad.astype(Wide), weight.astype(Wide)
    z = (x.astype(Wide) - spread(mean)) * spread(invstd)
    of_g, of_gz = g.mean((0, 2)), (g * z).mean((0, 2))
    sizes = abs(g).mean((0, 2)), abs(g * z).mean((0, 2))
    truth, bound = g, abs(g)
    if training:
        truth = g - spread(of_g) - z * spread(of_gz)
        bound = abs(g) + abs(spread(of_g)) + abs(z * spread(of_gz))
    bound = 6 * e * bound + 1.2e-16 * (n + 3) * (spread(sizes[0]) + abs(z) * spread(sizes[1])) + spread(
        e * e * abs(mean * invstd * of_gz))
    factor = spread(w * invstd)
    return (grad, x, weight, mean, invstd), {"training": training}, [
        (factor * truth, abs(factor) * bound),
        (n * of_gz, e * abs(n * of_gz) + (n + 3) * 1.2e-16 * n * sizes[1]),
        (n * of_g, e * abs(n * of_g) + (n + 3) * 1.2e-16 * n * sizes[0])]


def rows_of(name: str, rng: np.random.Generator, dtype: Any) -> tuple[Array, Any, Array, Array, Array, tuple[int, ...]]:
    """x, what is normalized together, weight, bias, a gradient of magnitudes that rows share; x's shape (R, C, P)."""
    samples, groups, channels, places = ([(5, 1, 3, 1), (300, 1, 40, 1)] if name == "layer_norm" else
                                         [(3, 2, 3, 80), (4, 3, 2, 5)])[rng.integers(2)]
    shape = samples * groups, channels, places
    x, grad = (np.stack([draw(rng, shape[1:], dtype, reach) for _ in range(shape[0])]) for reach in (1, 0.9))
    weight, bias = (np.array([draw(rng, (), dtype, 0.9) for _ in range(groups * channels)]) for _ in range(2))
    if groups == 1:
        return x[..., 0], channels, weight, bias, grad[..., 0], shape
    x, grad = (a.reshape(samples, groups * channels, places) for a in (x, grad))
    return x, groups, weight, bias, grad, shape


def of_rows(parameters: Array, shape: tuple[int, ...]) -> Array:
    """A weight for each channel of each row."""
    groups = parameters.size // shape[1]
    return np.tile(parameters.astype(Wide).reshape(groups, shape[1], 1), (shape[0] // groups, 1, 1))


def row_norm(name, rng, dtype, e):
    (x, option, weight, bias, _, shape), eps = rows_of(name, rng, dtype), eps_of(rng)
    v, n, w, b = x.astype(Wide).reshape(shape), shape[1] * shape[2], of_rows(weight, shape), of_rows(bias, shape)
    mean = v.mean((1, 2), keepdims=True)
    s = np.sqrt(((v - mean) ** 2).mean((1, 2), keepdims=True) + Wide(eps))
    z = (v - mean) / s
    truth = z * w + b
    bound = e / 2 * abs(truth) + U * ((n + 8) * (1 + abs(mean) / s) * (1 + abs(z)) * abs(w) + 2 * abs(b))
    return (x, option, weight, bias), {"eps": eps}, [(truth.reshape(x.shape), bound.reshape(x.shape))]


def row_norm_backward(name, rng, dtype, e):
    (x, option, weight, _, grad, shape), eps = rows_of(name, rng, dtype), eps_of(rng)
    _, mean, invstd = getattr(kernels, name)(x, option, eps=eps, return_stats=True)
    v, g, w = x.astype(Wide).reshape(shape), grad.astype(Wide).reshape(shape), of_rows(weight, shape)
    scale, n = invstd.astype(Wide).reshape(-1, 1, 1), shape[1] * shape[2]
    z, h = (v - mean.reshape(-1, 1, 1)) * scale, g * w

    def of_row(a: Array) -> Array:
        return a.mean((1, 2), keepdims=True)

    truth = scale * (h - of_row(h) - z * of_row(h * z))
    bound = e / 2 * abs(truth) + U * scale * (8 * (abs(h) + abs(of_row(h)) + abs(z * of_row(h * z))) + (n + 6) * (
        of_row(abs(h)) + abs(z) * of_row(abs(h * z))))
    results = [(truth.reshape(x.shape), bound.reshape(x.shape))]
    for terms in (g * z, g):
        total, size = (a.reshape(-1, weight.size, shape[2]).sum((0, 2)) for a in (terms, abs(terms)))
        results.append((total, e / 2 * abs(total) + U * (shape[0] * shape[1] * shape[2] / weight.size + 6) * size))
    return (grad, x, option, weight, mean, invstd), {}, results


for _name in ("layer_norm", "group_norm"):
    CASES[_name] = functools.partial(row_norm, _name)
    CASES[f"{_name}_backward"] = functools.partial(row_norm_backward, _name)


@case
def embedding(rng, dtype, e):
    weight, input = draw(rng, (7, 20), dtype), rng.integers(0, 7, 50)
    return (input, weight), {}, [(weight.astype(Wide)[input], np.zeros((50, 20), Wide))]


@case
def embedding_backward(rng, dtype, e):
    grad, input = draw(rng, (50, 20), dtype, 0.9), rng.integers(0, 7, 50)
    total, size = np.zeros((2, 7, 20), Wide)
    np.add.at(total, input, grad.astype(Wide))
    np.add.at(size, input, abs(grad.astype(Wide)))
    return (grad, input, 7), {}, [(total, e / 2 * abs(total) + U * 50 * size)]


@case
def pairwise_l2(rng, dtype, e):
    dimensions = int(rng.choice([1, 3, 60, 700]))
    x, y = draw(rng, (5, dimensions), dtype), draw(rng, (20, dimensions), dtype)
    if rng.random() < 0.5:
        y[:5] = x * dtype(1 + rng.choice([0, 10 ** rng.uniform(-8, 0)]))
    if rng.random() < 0.3:                                              # norms that differ
        y *= dtype(10 ** rng.uniform(-8, 0))
    squares = ((x[:, None].astype(Wide) - y) ** 2).sum(-1)
    lengths = [np.sqrt((points.astype(Wide) ** 2).sum(-1)) for points in (x, y)]
    depth, both, product = min(dimensions, 256) + dimensions / 256, np.add.outer(
        lengths[0] ** 2, lengths[1] ** 2), np.multiply.outer(*lengths)
    bounds = {"direct": e / 2 * (depth + 3) * squares,
              "gemm": e * (depth + 2) * product + e * squares + U * (depth + 3) * both}
    for algorithm, bound in bounds.items():
        yield (x, y), {"algorithm": algorithm, "squared": True}, [(squares, bound)]
        roots = np.sqrt(squares)
        off = np.sqrt(squares + bound) - np.sqrt(np.maximum(squares - bound, 0))
        yield (x, y), {"algorithm": algorithm}, [(roots, off + e * roots)]


@case
def knn(rng, dtype, e):
    """Distances alone: those of `pairwise_l2` are held against it to the bit elsewhere."""
    dimensions = int(rng.choice([1, 3, 60]))
    x, y = draw(rng, (3, dimensions), dtype), draw(rng, (40, dimensions), dtype)
    distances = np.sort(np.sqrt(((x[:, None].astype(Wide) - y) ** 2).sum(-1)), axis=-1)[:, :7]
    return (x, y, 7), {}, [(distances, e / 2 * (dimensions + 5) * distances), None]


@case
def linear(rng, dtype, e):
    inputs = int(rng.choice([1, 5, 130, 1500]))
    x, weight, bias = (draw(rng, shape, dtype, 0.45) for shape in ((3, inputs), (9, inputs), (9,)))
    products = x[:, None].astype(Wide) * weight
    bound = (min(inputs, 512) + inputs / 512 + 1) * e * abs(products).sum(-1) + e * abs(bias)
    return (x, weight, bias), {}, [(products.sum(-1) + bias, bound)]


@case
def bmm(rng, dtype, e):
    depth = int(rng.choice([1, 5, 130, 1500]))
    a, b = draw(rng, (2, 3, depth), dtype, 0.45), draw(rng, (2, depth, 9), dtype, 0.45)
    products = a[..., None].astype(Wide) * b[:, None]
    return (a, b), {}, [(products.sum(2), (min(depth, 512) + depth / 512 + 1) * e * abs(products).sum(2))]


@case
def scaled_dot_product_attention(rng, dtype, e):
    queries, keys, features = (int(rng.choice(sizes)) for sizes in ([2, 9], [1, 10, 300], [1, 5, 20]))
    query, key = draw(rng, (queries, features), dtype, 0.05), draw(rng, (keys, features), dtype, 0.05)
    value = draw(rng, (keys, 3), dtype, 0.8)
    mask = (rng.random((queries, keys)) < rng.choice([0.5, 2])) if rng.random() < 0.7 else draw(
        rng, (queries, keys), dtype, 0.05)
    products = query[:, None].astype(Wide) * key / np.sqrt(Wide(features))
    seen, added = (mask, 0) if mask.dtype == bool else (np.ones_like(mask, bool), mask.astype(Wide))
    scores = np.where(seen, products.sum(2) + added, -np.inf)
    top = np.where(seen.any(1), scores.max(1), 0)[:, None]
    weights = np.exp(scores - top)
    total = weights.sum(1, keepdims=True)
    weights, log = weights / np.where(total, total, 1), (top + np.log(total))[:, 0]
    largest = np.where(seen, abs(products).sum(2) + abs(added), 0).max(1, keepdims=True)
    terms = min(keys, 256) + keys / 16
    bound = (2 * (features + 6) * largest + 2 * terms + 16) * e * (weights @ abs(value.astype(Wide)))
    bound += keys * np.finfo(dtype).tiny * abs(value.astype(Wide)).max()        # denormal weights count as 0
    # The bound is of first order: where it is near 1, it says nothing.
    small = (2 * (features + 6) * largest + 2 * terms + 16) * e < 0.05
    return (query, key, value, mask), {"return_lse": True}, [
        (weights @ value.astype(Wide), np.where(small, 1.05 * bound, np.inf)),
        (log, np.where(np.isinf(log), 0, ((features + 6) * largest[:, 0] + terms + 8) * e))]


def by_table(row: Kernel) -> Callable[..., Case]:
    """The case of an activation that needs none of its own: its truth is the formula in float64."""
    def found(rng: np.random.Generator, dtype: Any, e: Wide) -> Case:
        args = tuple([draw(rng, 50, dtype) for _ in range(1 + row.name.endswith("_backward"))])
        calls = list(row.samples(np.random.default_rng(0), np.dtype(dtype)))
        options = calls[rng.integers(len(calls))].kwargs
        wide = tuple([array.astype(np.float64) for array in args])
        truth = row(Call(wide, options), target="naive")
        assert row.error is not None
        rounded = 1 if dtype == np.float32 else 2               # where the formula errs as much
        return args, options, [(truth.astype(Wide), rounded * e * row.error(truth, *wide, **options))]

    return found


for _row in KERNELS.values():
    if _row.error is not None:
        CASES.setdefault(_row.name, by_table(_row))


# --- the search ------------------------------------------------------------------------------------------------------


def bounded() -> set[str]:
    """Names of the kernels of one number for one, of rows, channels and points whose docstrings bound an error."""
    says = re.compile(r"\|error\||error of a squared distance|errors are at most|its error bound|Exact\.|Rounded once"
                      r"|One rounding|is off by at most|Errors and cost are those of")
    return {name for name in KERNELS if says.search(inspect.getdoc(getattr(kernels, name)) or "")}


def test_every_bound_has_a_search() -> None:
    """Those of convolution and pooling, which are sums of products alone, are held in their own tests."""
    assert set(CASES) == {name for name in bounded() if not re.match("conv|.*pool", name)}


def search(name: str, dtype: Any, draws: int, run: Callable[..., Any]) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    info, worst = np.finfo(dtype), 0.0
    for _ in range(draws):
        found = CASES[name](rng, dtype, Wide(info.eps))
        for args, options, results in found if inspect.isgenerator(found) else [found]:
            result = run(*args, **options)
            for actual, expected in zip(result if isinstance(result, tuple) else (result,), results):
                if expected is None:
                    continue
                truth, bound = (np.broadcast_to(value, np.shape(actual)) for value in expected)
                inside = abs(truth) + bound < info.max                  # else it may be inf
                error = np.abs(np.where(inside, actual, 0) - np.where(inside, truth, 0))
                allowed = np.where(inside, bound, 0) * Wide(1.0001) + 2 * Wide(info.tiny)
                ratio = np.max(error / allowed, initial=0)
                place = np.unravel_index(np.argmax(error / allowed), error.shape) if error.size else ()
                assert ratio <= 1, (f"{name}{options}: {ratio:.3g} of the bound at {place}: "
                                    f"{np.asarray(actual)[place]} for {truth[place]}")
                worst = max(worst, float(ratio))
    print(f"{name}: {worst:.2f} of the bound at worst")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_no_error_is_above_the_documented_bound(name: str, dtype: Any) -> None:
    search(name, dtype, DRAWS, getattr(kernels, name))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in CASES if name != "knn"])     # whose squares are not looked at there
def test_no_error_is_above_the_documented_bound_on_a_gpu(name: str, dtype: Any) -> None:
    def placed(value: Any) -> Any:
        return fastnn.to_device(value) if isinstance(value, Array) else value

    def run(*args: Any, **options: Any) -> Any:
        result = getattr(kernels, name)(*map(placed, args),
                                        **{option: placed(value) for option, value in options.items()})
        return tuple(map(fastnn.to_host, result)) if isinstance(result, tuple) else fastnn.to_host(result)

    search(name, dtype, 4 if _device.SIMULATED else DRAWS, run)


# --- in the range, though what leads there is not --------------------------------------------------------------------


def norm(x: Any, weight: float = 1.0, bias: float = 0.0, **options: Any) -> Callable[..., Any]:
    """The batch normalization of one channel; the values of the batch are those of x, in any of the shapes."""
    def call(dtype: Any, target: str) -> Array:
        values = np.asarray(x, dtype)
        shape = options.pop("shape", (len(values), 1))
        return run("batch_norm", target, values.reshape(shape), None, None, np.array([weight], dtype),
                   np.array([bias], dtype), **options).reshape(-1)

    return call


def run(name: str, target: str, *args: Any, **options: Any) -> Any:
    if target == "cuda":
        args = tuple(fastnn.to_device(arg) if isinstance(arg, Array) else arg for arg in args)
        result = getattr(kernels, name)(*args, **options)
        return tuple(map(fastnn.to_host, result)) if isinstance(result, tuple) else fastnn.to_host(result)
    return getattr(kernels, name)(*args, target=target, **options)


def of(name: str, *args: Any, **options: Any) -> Callable[..., Any]:
    """A call of a kernel; lists stand for arrays of the dtype, tuples for labels."""
    def call(dtype: Any, target: str) -> Any:
        arrays = (np.array(arg, dtype if isinstance(arg, list) else np.int64) if isinstance(arg, list | tuple) else arg
                  for arg in args)
        return run(name, target, *arrays, **options)

    return call


def row(x: Any, weight: float = 1.0, bias: float = 0.0, **options: Any) -> Callable[..., Any]:
    """The layer normalization of one row, with one weight and one bias for all of it."""
    return of("layer_norm", [x], len(x), [weight] * len(x), [bias] * len(x), **options)


def inference(x: float, mean: float, var: float, weight: float, bias: float) -> Callable[..., Any]:
    return of("batch_norm", [[x]], [mean], [var], [weight], [bias], eps=0.0)


def update(name: str, grad: float, states: int, state: float = 0, **options: Any) -> Callable[..., Any]:
    """The step from 0 of a parameter, in units of the learning rate."""
    def call(dtype: Any, target: str) -> Array:
        arrays = [np.full(1, value, dtype) for value in (0, grad, *[state] * states)]
        if target == "cuda":
            arrays = [fastnn.to_device(array) for array in arrays]
        getattr(kernels, name)(*arrays, *([None] if name == "rmsprop_update" else []), lr=1.0, **options,
                               **({} if target == "cuda" else {"target": target}))
        return fastnn.to_host(arrays[0]) if target == "cuda" else arrays[0]

    return call


LN3 = float(np.log(3))
REACHED: list[tuple[str, Any, Callable[..., Any], Any]] = [
    ("equal scores", 64, of("cross_entropy", [[1e308] * 3], (0,), label_smoothing=0.5), LN3),
    ("equal scores", 32, of("cross_entropy", [[3e38] * 3], (0,), label_smoothing=0.5), LN3),
    ("a range beyond the largest", 64, of("cross_entropy", [[-1e308, 1e308]], (1,), label_smoothing=0.5), 5e307),
    ("a range beyond the largest", 32, of("cross_entropy", [[-3e38, 3e38]], (1,), label_smoothing=0.5), 1.5e38),
    ("one loss beyond the largest", 64, of("cross_entropy", [[-1e308, 1e308], [0, 0]], (0, 0)), 1e308),
    ("one loss beyond the largest", 32, of("cross_entropy", [[-3e38, 3e38], [0, 0]], (0, 0)), 3e38),
    ("losses whose sum is", 64, of("cross_entropy", [[-9e307, 0]] * 4, (0,) * 4), 9e307),
    ("equal scores of places", 64, of("cross_entropy", [[[1e308]] * 3], ((0,),), label_smoothing=0.5), LN3),
    ("a range beyond the largest of places", 32, of("cross_entropy", [[[-3e38, 1], [3e38, 1]]], ((1, 0),),
                                                    label_smoothing=0.5, reduction="none"), [[1.5e38, np.log(2)]]),
    ("losses of places whose sum is", 64, of("cross_entropy", [[[-9e307] * 2, [0] * 2]] * 2, ((0, 0),) * 2), 9e307),
    ("decisions whose sum is", 64, of("binary_cross_entropy_with_logits", [-9e307] * 4, [1.0] * 4), 9e307),
    ("decisions whose sum is", 32, of("binary_cross_entropy_with_logits", [-3e38] * 4, [1.0] * 4), 3e38),
    ("softplus", 32, of("softplus", [3e38, 1e30], 1e10), [3e38, 1e30]),
    ("softplus", 64, of("softplus", [1e308, -1e308], 10.0, np.inf), [1e308, 0]),
    ("the slope of silu", 32, of("silu_backward", [1.0, 1], [3e38, -3e38]), [1, 0]),
    ("hinges whose sum is", 64, of("hinge_loss", [[-9e307, 0]] * 4, (0,) * 4), 9e307),
    ("a hinge beyond the largest", 64, of("hinge_loss", [[-1e308, 1e308], [2, 0]], (0, 0)), 1e308),
    ("a hinge beside large scores", 64, of("hinge_loss", [[1e17, 1e17]], (0,), margin=0.5), 0.5),
    ("a hinge of what a score leaves", 32, of("hinge_loss", [[1, 1e-12]], (0,), margin=1.0), 1e-12),
    ("its gradient", 32, of("hinge_loss_backward", 1.0, [[1, 1e-17]], (0,), margin=1.0), [[-1, 1]]),
    ("probabilities", 64, of("softmax", [[-1e308, 1e308]]), [[0, 1]]),
    ("logarithms", 64, of("log_softmax", [[1e308, 1e308]]), [[-np.log(2)] * 2]),
    ("gradients beyond the largest", 64, of("softmax_backward", [[1.7e308] * 2 + [-1.7e308]], [[0.5, 0.5, 1e-40]]),
     [[0, 0, -3.4e268]]),
    ("a sum of gradients", 64, of("log_softmax_backward", [[1e308, 1e308, 0.4e308]], [[-LN3] * 3]),
     [[0.2e308, 0.2e308, -0.4e308]]),
    ("squares whose sum is", 64, of("mse_loss", [1e154] * 4, [0.0] * 4), 1e308),
    ("one square beyond the largest", 64, of("mse_loss", [2e154, 0, 0, 0, 0, 0, 0, 0], [0.0] * 8), 5e307),
    ("a difference beyond the largest", 64, of("mse_loss_backward", 1e-3, [1e308], [-1e308]), [4e305]),
    ("a difference beyond the largest", 32, of("mse_loss_backward", 1e-3, [3e38], [-3e38]), [1.2e36]),
    ("twice a gradient", 64, of("mse_loss_backward", 1e308, [0.25], [0.0]), [5e307]),
    ("a gradient below the smallest", 32, of("mse_loss_backward", 1e-44, [1e30], [0.0]), [2e-14]),
    ("the slope of gelu", 32, of("gelu_backward", [1.0, 1, 1], [3e38, -3e38, 1e20], "tanh"), [1, 0, 1]),
    ("the slope of gelu", 64, of("gelu_backward", [1.0, 1, 1], [1e308, -1e308, 1e160], "tanh"), [1, 0, 1]),
    ("gelu", 32, of("gelu", [3e38, -3e38, 1e20], "tanh"), [3e38, 0, 1e20]),
    ("gelu", 64, of("gelu", [1.7e308, -1e308, 1e160], "tanh"), [1.7e308, 0, 1e160]),
    ("gelu", 64, of("gelu", [1.7e308, -1e308, 1e160]), [1.7e308, 0, 1e160]),
    ("a constant channel", 32, norm([2, 2, 2], 1e20, 3.0, eps=1e-45), [3] * 3),
    ("a constant channel", 64, norm([0.1, 0.1, 0.1], 1e20, 3.0, eps=1e-45), [3] * 3),
    ("a constant channel", 64, norm([1e308] * 4, 1e20, 3.0), [3] * 4),
    ("a constant channel of two runs", 32, norm([2] * 400, 1e20, 3.0, eps=1e-45, shape=(2, 1, 200)), [3] * 400),
    ("a constant channel of a matrix", 32, norm([2] * 9000, 1e20, 3.0, eps=1e-45), [3] * 9000),
    ("a deviation beyond the largest", 32, norm([-3e38, 3e38]), [-1, 1]),
    ("a deviation beyond the largest", 64, norm([-1.7e308, 1.7e308]), [-1, 1]),
    ("a variance beyond the largest", 64, norm([-1e200, 1e200], 2.0, 1.0), [-1, 3]),
    ("a variance below the smallest", 64, norm([-1e-200, 1e-200], 2.0, 1.0, eps=5e-324), [1, 1]),
    ("a sum beyond the largest", 64, norm([1e308, 1e308, 1.2e308, 1.2e308]), [-1, -1, 1, 1]),
    ("a factor below the smallest", 32, norm([-1e30, 1e30], 1e-10), [-1e-10, 1e-10]),
    ("a constant row", 64, row([0.1, 0.1, 0.1], 1e20, 3.0, eps=1e-45), [[3] * 3]),
    ("a constant row", 32, row([2, 2, 2], 1e20, 3.0, eps=1e-45), [[3] * 3]),
    ("a deviation of a row", 32, row([-3e38, 3e38]), [[-1, 1]]),
    ("a deviation of a row", 64, row([-1.7e308, 1.7e308]), [[-1, 1]]),
    ("a variance of a row", 64, row([-1e200, 1e200], 2.0, 1.0), [[-1, 3]]),
    ("a variance of a row", 64, row([-1e-200, 1e-200], 2.0, 1.0, eps=5e-324), [[1, 1]]),
    ("a sum of a row", 64, row([1e308, 1e308, 1.2e308, 1.2e308]), [[-1, -1, 1, 1]]),
    ("a scale of a row", 32, row([-1e30, 1e30], 1e-10), [[-1e-10, 1e-10]]),
    ("a scale beyond the largest", 32, row([-1, 1], 3e38, -2e38, eps=1e-30), [[-np.inf, 1e38]]),
    ("sums of gradients", 32, of("embedding_backward", [[3e38], [3e38], [-3e38]], (0, 0, 0), 1), [[3e38]]),
    ("a running variance", 32, inference(1e-18, 0.0, 1e-36, 1e30, 1.0), [[1e30]]),
    ("a running variance", 32, inference(1e30, 0.0, 1e38, 1e-30, 1.0), [[1.0]]),
    ("a running variance", 64, inference(1e-150, 0.0, 1e-300, 1e300, 0.0), [[1e300]]),
    ("a running mean", 64, inference(1.7e308, -1.7e308, 1e306, 1e-3, 0.0), [[3.4e152]]),
    ("distances", 64, of("pairwise_l2", [[3e200, 0]], [[0, 4e200], [3e200, 1e-200]]), [[5e200, 1e-200]]),
    ("distances", 32, of("pairwise_l2", [[3e30, 0]], [[0, 4e30], [3e30, 1e-30]]), [[5e30, 1e-30]]),
    ("expanded distances", 64, of("pairwise_l2", [[3e200, 0]], [[0, 4e200]], algorithm="gemm"), [[5e200]]),
    ("expanded distances", 32, of("pairwise_l2", [[3e30, 0]], [[0, 4e30]], algorithm="gemm"), [[5e30]]),
    ("expanded distances", 32, of("pairwise_l2", [[3e-30, 0]], [[0, 4e-30], [3e-30, 0]], algorithm="gemm"),
     [[5e-30, 0]]),
    ("a large gradient", 32, update("adam_update", 1e30, 2, step=1), [-1]),
    ("a large gradient", 64, update("adam_update", 1e200, 2, step=1), [-1]),
    ("a small gradient", 32, update("adam_update", 1e-30, 2, step=1, eps=0.0), [-1]),
    ("a small gradient", 64, update("adam_update", 1e-200, 2, step=1, eps=0.0), [-1]),
    ("a large mean of gradients", 32, update("adam_update", 0, 2, 1e38, step=1), [-9e38 / 9.99e40**0.5]),
    ("a large gradient", 32, update("rmsprop_update", 1e30, 1, alpha=0.75), [-2]),
    ("a large gradient", 64, update("rmsprop_update", -1e200, 1, alpha=0.75), [2]),
    ("a small gradient", 32, update("rmsprop_update", 1e-30, 1, alpha=0.75, eps=0.0), [-2]),
]
TARGETS = ["naive", "cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("bits", "call", "expected"), [row[1:] for row in REACHED],
                         ids=[f"{row[0]}-{i}" for i, row in enumerate(REACHED)])
def test_what_is_representable_is_reached(bits: int, call: Callable[..., Any], expected: Any, target: str) -> None:
    dtype: Any = {32: np.float32, 64: np.float64}[bits]
    tolerance = {32: 2e-6, 64: 1e-14}[bits]
    np.testing.assert_allclose(np.asarray(call(dtype, target)), np.asarray(expected, float), rtol=tolerance,
                               atol=float(np.finfo(dtype).tiny))


@pytest.mark.parametrize("target", TARGETS[:2])
@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e30), (np.float32, 1e-30), (np.float64, 1e200),
                                              (np.float64, 1e-200)])
def test_neighbours_are_ranked_beyond_the_range_of_squares(dtype: Any, scale: float, target: str) -> None:
    rng = np.random.default_rng(0)
    points, queries = rng.standard_normal((300, 5)), rng.standard_normal((4, 5))
    distances, indices = kernels.knn(queries, points, 7, target="naive")
    found, places = kernels.knn((queries * scale).astype(dtype), (points * scale).astype(dtype), 7, target=target)
    np.testing.assert_allclose(found, distances * scale, rtol=1e-6 if dtype == np.float32 else 1e-14)
    np.testing.assert_array_equal(places, indices)
    x = (points[:5] * scale).astype(dtype)
    near, which = kernels.knn(x, x, 1, target=target)                   # a point is its own neighbour
    np.testing.assert_array_equal(near, np.zeros((5, 1)))
    np.testing.assert_array_equal(which.ravel(), np.arange(5))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "x", "grad", "weight"), [
    (np.float64, 1e200, 1e200, 3.0), (np.float64, 1e-200, 1e-200, 1e-100), (np.float64, 1e300, 1e300, 1e250),
    (np.float32, 1e30, 1e30, 1e5), (np.float32, 1e-30, 1e-10, 1e-20), (np.float32, 1e36, 1e-30, 1e36)])
@pytest.mark.parametrize("shape", [(6, 1), (2, 1, 70), (9000, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_batch_norm_beyond_the_range(dtype: Any, x: float, grad: float, weight: float, shape: Any,
                                                  training: bool, target: str) -> None:
    """Those of numbers near 1, times powers of what these numbers, their gradients and the weight are multiplied by."""
    if target != "cpu" and shape[0] > 100:
        pytest.skip("takes long")
    rng = np.random.default_rng(0)
    values, grads, ones = rng.standard_normal(shape), rng.standard_normal(shape), np.ones(shape[1])
    _, mean, invstd = kernels.batch_norm(values, None, None, eps=1e-300, return_stats=True)
    truth = kernels.batch_norm_backward(grads, values, ones, mean, invstd, training=training)
    found = run("batch_norm_backward", target, (grads * grad).astype(dtype), (values * x).astype(dtype),
                (ones * weight).astype(dtype), mean * x, invstd / x, training=training)
    for actual, expected, factor in zip(found, truth, (grad / x * weight, grad, grad)):
        np.testing.assert_allclose(actual / dtype(factor), expected, rtol=0,
                                   atol={np.float32: 1e-5, np.float64: 1e-12}[dtype] * abs(expected).max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("x", "grad", "weight"), [
    (1e200, 1e200, 3.0), (1e-200, 1e-200, 1e-100), (1e300, 1e300, 1e250), (1e-150, 1e150, 1e-300), (1.0, 1e308, 1e-9)])
@pytest.mark.parametrize("shape", [(6, 5), (3, 2, 2, 70)])
def test_gradients_of_rows_beyond_the_range(x: float, grad: float, weight: float, shape: Any, target: str) -> None:
    """Those of numbers near 1, times powers of what these numbers, their gradients and the weight are multiplied by."""
    rng = np.random.default_rng(0)
    (name, option), ones = (("layer_norm", 5), np.ones(5)) if len(shape) == 2 else (("group_norm", 1), np.ones(2))
    values, grads = rng.standard_normal(shape), rng.uniform(-0.99, 0.99, shape)
    _, mean, invstd = getattr(kernels, name)(values, option, eps=1e-300, return_stats=True)
    truth = getattr(kernels, f"{name}_backward")(grads, values, option, ones, mean, invstd, target="naive")
    found = run(f"{name}_backward", target, grads * grad, values * x, option, ones * weight, mean * x, invstd / x)
    for actual, expected, power in zip(found, truth, (grad / x * weight, grad, grad)):
        inside = abs(expected) * (power / 1e308) < 1
        np.testing.assert_allclose((actual / power)[inside], expected[inside], rtol=0, atol=1e-12 * abs(expected).max())
