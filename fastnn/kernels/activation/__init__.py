"""Activations, dropout and the sums of residual networks: one result an element.

A new one is a formula in each of `naive.py`, `cpu.py` and `cuda.py`, and its name here: what docstrings of such kernels
have in common, `documented` adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import (
    Array,
    as_float,
    check_choice,
    check_floats,
    check_one_shape,
    check_present,
    check_shape,
    check_side,
)
from fastnn.kernels._docstrings import documented
from fastnn.kernels._outputs import empty_beside, result_of
from fastnn.kernels._plans import Plan, Planned
from fastnn.kernels._targets import implementation

__all__ = [
    "add", "add_relu", "dropout", "dropout_backward", "gelu", "gelu_backward", "leaky_relu", "leaky_relu_backward",
    "relu", "relu_backward", "sigmoid", "sigmoid_backward", "silu", "silu_backward", "softplus", "softplus_backward",
    "tanh", "tanh_backward",
]

_NO_OPTION = (0.0,)


def _plan(formula: str, *names: str, operations: int = 1) -> Planned:
    """Make the planner of a formula of such arrays, which all have one shape; implementations see them flat.

    `operations` are those an element.
    """
    def planner(*arrays: Any, target: str | None) -> Plan:
        values = dict(zip(names, arrays))
        mask = values.pop("mask", None)
        check_floats(**values)
        x, shape = arrays[0], check_one_shape(values, list(values.values()))
        if "mask" in names:
            _check_mask(mask, x)
        run = implementation(__name__, target, x).elementwise(formula, x.size, x.dtype)

        def of_one(x: Array, option: Any, y: Array) -> None:
            run(x.ravel(), option, y.ravel())

        def of_two(x: Array, other: Array, option: Any, y: Array) -> None:
            run(x.ravel(), other.ravel(), option, y.ravel())

        def of_mask(x: Array, mask: Array, option: float, y: Array) -> None:
            run(x.ravel(), mask.ravel().view(np.uint8), option, y.ravel())

        return Plan(of_one if len(arrays) == 1 else of_two if mask is None else of_mask,
                    result_of(shape, x.dtype, x), operations * x.size)

    return Planned(planner, names)


def _checked(forms: dict[str, Planned], approximate: str) -> Planned:
    check_choice("approximate", approximate, list(forms))
    return forms[approximate]


_relu = _plan("relu", "x")
_relu_backward = _plan("relu_backward", "grad_output", "y")
_leaky_relu = _plan("leaky_relu", "x", operations=2)
_leaky_relu_backward = _plan("leaky_relu_backward", "grad_output", "x", operations=2)
_sigmoid = _plan("sigmoid", "x", operations=30)
_sigmoid_backward = _plan("sigmoid_backward", "grad_output", "y", operations=3)
_tanh = _plan("tanh", "x", operations=30)
_tanh_backward = _plan("tanh_backward", "grad_output", "y", operations=3)
_add = _plan("add", "x", "y")
_add_relu = _plan("add_relu", "x", "y", operations=2)
_dropout = _plan("dropout", "x", "mask", operations=2)
_dropout_backward = _plan("dropout", "grad_output", "mask", operations=2)
_gelu = {"none": _plan("gelu", "x", operations=20), "tanh": _plan("gelu_tanh", "x", operations=40)}
_gelu_backward = {"none": _plan("gelu_backward", "grad_output", "x", operations=25),
                  "tanh": _plan("gelu_tanh_backward", "grad_output", "x", operations=50)}
_silu = _plan("silu", "x", operations=30)
_silu_backward = _plan("silu_backward", "grad_output", "x", operations=35)
_softplus = _plan("softplus", "x", operations=45)
_softplus_backward = _plan("softplus_backward", "grad_output", "x", operations=30)


@documented()
def relu(x: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return max(x, 0) of each element; NaN stays NaN, as in torch.

    One operation an element; each is read once and written once. Exact.

    >>> kernels.relu(np.array([-1.0, 2.0, np.nan]))
    array([ 0.,  2., nan])
    """
    return _relu((x,), (), target, out, _NO_OPTION)


@documented(y="The result of `relu`; its argument gives the same.")
def relu_backward(grad_output: Array, y: Array, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `relu`: 0 where y <= 0, else grad_output.

    One operation an element; two are read and one is written. Exact. It is 0 at the kink, and passes where y is
    NaN, as in torch.

    >>> kernels.relu_backward(np.array([3.0, 4.0]), np.array([0.0, 2.0]))
    array([0., 4.])
    """
    return _relu_backward((grad_output, y), (), target, None, _NO_OPTION)


@documented()
def leaky_relu(x: Array, negative_slope: float = 0.01, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x where x > 0 and negative_slope x elsewhere.

    Two operations an element; each is read once and written once. One rounding of the slope, to x's dtype, and one
    of the product.

    >>> kernels.leaky_relu(np.array([-1.0, 2.0]), 0.5)
    array([-0.5,  2. ])
    """
    return _leaky_relu((x,), (), target, out, (as_float("negative_slope", negative_slope),))


@documented()
def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float = 0.01, *,
                        target: str | None = None) -> Array:
    """Return the gradient of a loss by x: grad_output where x > 0 and negative_slope grad_output elsewhere.

    Two operations an element; two are read and one is written. One rounding of the slope, to the dtype, and one of
    the product.

    >>> kernels.leaky_relu_backward(np.array([3.0, 4.0]), np.array([-1.0, 2.0]), 0.5)
    array([1.5, 4. ])
    """
    slope = as_float("negative_slope", negative_slope)
    return _leaky_relu_backward((grad_output, x), (), target, None, (slope,))


@documented()
def sigmoid(x: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return 1 / (1 + exp(-x)) of each element, without overflow for any x.

    Some 30 operations an element; each is read once and written once. Formed as exp(x) / (1 + exp(x)) for x < 0.
    |error| <= 3 eps |result|; results that would be denormal are 0 on "cpu", and have fewer digits on "cuda".

    >>> kernels.sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    return _sigmoid((x,), (), target, out, _NO_OPTION)


@documented()
def sigmoid_backward(grad_output: Array, y: Array, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `sigmoid`: grad_output y (1 - y).

    Three operations an element; two are read and one is written. |error| <= 2 eps |result| for the given y.

    >>> kernels.sigmoid_backward(np.array([3.0, 4.0]), np.array([0.5, 1.0]))
    array([0.75, 0.  ])
    """
    return _sigmoid_backward((grad_output, y), (), target, None, _NO_OPTION)


@documented()
def tanh(x: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return the hyperbolic tangent of each element.

    Some 30 operations an element; each is read once and written once. On "cpu" formed as -e / (2 + e) with e =
    exp(-2 |x|) - 1, which keeps small results: |error| <= 3 eps |result|.

    >>> kernels.tanh(np.array([-1000.0, 0.0, 1e-30]))
    array([-1.e+00,  0.e+00,  1.e-30])
    """
    return _tanh((x,), (), target, out, _NO_OPTION)


@documented()
def tanh_backward(grad_output: Array, y: Array, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `tanh`: grad_output (1 - y^2).

    Three operations an element; two are read and one is written. |error| <= 2 eps |grad_output| for the given y.

    >>> kernels.tanh_backward(np.array([3.0, 4.0]), np.array([0.5, 1.0]))
    array([2.25, 0.  ])
    """
    return _tanh_backward((grad_output, y), (), target, None, _NO_OPTION)


@documented()
def gelu(x: Array, approximate: str = "none", *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x times the probability that a standard normal number is below x.

    Some 20 operations an element ("tanh": 40); each is read once and written once. Hendrycks and Gimpel, "Gaussian
    error linear units" (arXiv:1606.08415), section 2. |error| <= 3 eps |x|.

    >>> kernels.gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    return _checked(_gelu, approximate)((x,), (), target, out, _NO_OPTION)


@documented(approximate='"none": grad_output (P + x p) with the normal distribution P and its density p at x; "tanh": '
                        "the derivative of that formula.")
def gelu_backward(grad_output: Array, x: Array, approximate: str = "none", *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `gelu`.

    Some 25 operations an element ("tanh": 50); two are read and one is written. |error| <= 5 eps |grad_output|.

    >>> kernels.gelu_backward(np.array([1.0, 1.0]), np.array([0.0, 1.0])).round(4)
    array([0.5   , 1.0833])
    """
    return _checked(_gelu_backward, approximate)((grad_output, x), (), target, None, _NO_OPTION)


@documented()
def silu(x: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x / (1 + exp(-x)) of each element, x times its sigmoid; also called swish.

    Some 30 operations an element; each is read once and written once. Elfwing and others, "Sigmoid-weighted linear
    units" (arXiv:1702.03118), equation 12. |error| <= 4 eps |result| + 1.2e-38 |x| (in float64 2.2e-308 |x|), as an
    exp(x) that would be denormal counts as 0. -inf gives NaN, as in torch.

    >>> kernels.silu(np.array([-1000.0, 0.0, 1000.0]))
    array([  -0.,    0., 1000.])
    """
    return _silu((x,), (), target, out, _NO_OPTION)


@documented()
def silu_backward(grad_output: Array, x: Array, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `silu`: grad_output s (1 + x (1 - s)) with s = sigmoid(x).

    Some 35 operations an element; two are read and one is written. |error| <= 5 eps |grad_output|. It is NaN where x is
    infinite, as in torch.

    >>> kernels.silu_backward(np.array([1.0, 1.0]), np.array([0.0, 1000.0]))
    array([0.5, 1. ])
    """
    return _silu_backward((grad_output, x), (), target, None, _NO_OPTION)


@documented()
def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0, *, out: Array | None = None,
             target: str | None = None) -> Array:
    """Return log(1 + exp(beta x)) / beta of each element, and x itself where beta x > threshold.

    |beta| is from 1e-30 to 1e30. Some 45 operations an element; each is read once and written once. Formed of
    max(beta x, 0) and log(1 + exp(-|beta x|)), which overflow nowhere. |error| <= eps (4 + |beta x|) |result| + 1.2e-38
    / |beta| (in float64 2.2e-308 / |beta|), as an exponential that would be denormal counts as 0. Where beta x is the
    threshold to rounding it may be either formula.

    >>> kernels.softplus(np.array([-1000.0, 0.0, 10.0])).round(4)
    array([ 0.    ,  0.6931, 10.    ])
    """
    return _softplus((x,), (), target, out, (as_beta_and_threshold(beta, threshold),))


@documented()
def softplus_backward(grad_output: Array, x: Array, beta: float = 1.0, threshold: float = 20.0, *,
                      target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `softplus`: grad_output sigmoid(beta x).

    Some 30 operations an element; two are read and one is written. It is grad_output itself where beta x > threshold.
    |error| <= eps (4 + |beta x|) |result| + 1.2e-38 |grad_output| (in float64 2.2e-308 |grad_output|).

    >>> kernels.softplus_backward(np.array([3.0, 4.0]), np.array([0.0, 1000.0]))
    array([1.5, 4. ])
    """
    return _softplus_backward((grad_output, x), (), target, None, (as_beta_and_threshold(beta, threshold),))


@documented(y="Another, of x's dtype; nothing is broadcast.")
def add(x: Array, y: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x + y of two arrays of one shape, which joins the branches of a residual network.

    One operation an element; two are read and one is written. Rounded once.

    >>> kernels.add(np.array([1.0, 2.0]), np.array([3.0, -4.0]))
    array([ 4., -2.])
    """
    return _add((x, y), (), target, out, _NO_OPTION)


@documented(y="Another, of x's dtype; nothing is broadcast.")
def add_relu(x: Array, y: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return relu(x + y) of two arrays of one shape in one pass; its gradient is `relu_backward` for both.

    Two operations an element; two are read and one is written. Rounded once.

    >>> kernels.add_relu(np.array([1.0, 2.0]), np.array([3.0, -4.0]))
    array([4., 0.])
    """
    return _add_relu((x, y), (), target, out, _NO_OPTION)


@documented()
def dropout(x: Array, mask: Array, p: float, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x mask / (1 - p): what the mask keeps, scaled so that its expectation is x.

    Two operations an element; one and a byte are read and one is written. |error| <= 1.5 eps |result|. A dropped
    element is x times 0, so NaN and inf give NaN, as in torch. Srivastava and others, "Dropout" (JMLR 15, 2014), in
    the inverted form.

    >>> kernels.dropout(np.array([1.0, 2.0]), np.array([True, False]), 0.5)
    array([2., 0.])
    """
    return _dropout((x, mask), (), target, out, (_scale(p),))


@documented()
def dropout_backward(grad_output: Array, mask: Array, p: float, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `dropout`: grad_output mask / (1 - p).

    Two operations an element; one and a byte are read and one is written. |error| <= 1.5 eps |result|.

    >>> kernels.dropout_backward(np.array([1.0, 2.0]), np.array([True, False]), 0.5)
    array([2., 0.])
    """
    return _dropout_backward((grad_output, mask), (), target, None, (_scale(p),))


def dropout_mask(x: Array, bits: np.random.BitGenerator, p: float) -> Array:
    """Return which elements of x, an array on a GPU, dropout keeps: what a `bits` of NumPy's Philox draws on the host.

    That is `np.random.Generator(bits).random(x.shape, np.float32) >= p` of one that has drawn nothing yet, to the bit.
    """
    state: Any = bits.state
    mask = empty_beside(x, x.shape, np.bool_)
    implementation(__name__, None, x).dropout_mask(tuple(map(int, state["state"]["key"])), p, mask.reshape(-1))
    return mask


def as_beta_and_threshold(beta: float, threshold: float) -> tuple[float, float]:
    """Return the options of softplus as floats, once they are known to fit."""
    beta = as_float("beta", beta)
    if not 1e-30 <= abs(beta) <= 1e30:          # beyond, float32 turns it into 0 or inf
        raise ValueError(f"beta: expected a number from 1e-30 to 1e30, or the negative of one, got {beta}")
    return beta, as_float("threshold", threshold)


def _scale(p: float) -> float:
    p = as_float("p", p, 0, 1)
    return 1 / (1 - p) if p < 1 else 0.0


def _check_mask(mask: Array, x: Array) -> None:
    check_present("mask", mask)
    if mask.dtype not in (np.dtype(np.bool_), np.dtype(np.uint8)):
        raise TypeError(f"mask: expected bool or uint8, got {mask.dtype}")
    check_side("mask", mask, "x", x)
    check_shape("mask", mask, x.shape)
