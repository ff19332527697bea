"""Activations, dropout and the sums of residual networks: one result an element."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import Array, as_array, as_float, as_floats, check_one_shape, check_shape, check_side
from fastnn.kernels._door import door
from fastnn.kernels._outputs import deliver, empty_beside, output
from fastnn.kernels._targets import implementation

_APPROXIMATIONS = ("none", "tanh")


@door
def relu(x: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return max(x, 0) of each element; NaN stays NaN, as in torch.

    Parameters
    ----------
    x : array of any shape
        float32 or float64.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of x's shape
        The result, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If the dtype does not fit, or `out` does not fit or overlaps with x.

    Notes
    -----
    One operation an element; each is read once and written once. Exact.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.relu(np.array([-1.0, 2.0, np.nan]))
    array([ 0.,  2., nan])
    """
    return _elementwise("relu", out, target, x=x)


@door
def relu_backward(grad_output: Array, y: Array, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `relu`: 0 where y <= 0, else grad_output.

    Parameters
    ----------
    grad_output : array of any shape
        Gradient by the result.
    y : array of the same shape
        The result of `relu`; its argument gives the same.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of the same shape
        The gradient, which is 0 at the kink, and passes where y is NaN, as in torch.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Notes
    -----
    One operation an element; two are read and one is written. Exact.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.relu_backward(np.array([3.0, 4.0]), np.array([0.0, 2.0]))
    array([0., 4.])
    """
    return _elementwise("relu_backward", None, target, grad_output=grad_output, y=y)


@door
def leaky_relu(x: Array, negative_slope: float = 0.01, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x where x > 0 and negative_slope x elsewhere.

    Parameters
    ----------
    x : array of any shape
        float32 or float64.
    negative_slope : float
        The slope left of 0.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        The result, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If a dtype or number does not fit, or `out` does not fit or overlaps with x.

    Notes
    -----
    Two operations an element; each is read once and written once. One rounding of the slope, to x's dtype, and one of
    the product.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.leaky_relu(np.array([-1.0, 2.0]), 0.5)
    array([-0.5,  2. ])
    """
    return _elementwise("leaky_relu", out, target, as_float("negative_slope", negative_slope), x=x)


@door
def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float = 0.01, *,
                        target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `leaky_relu`.

    Parameters
    ----------
    grad_output : array of any shape
        Gradient by the result.
    x, negative_slope : array of the same shape, float
        The arguments of `leaky_relu`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of the same shape
        grad_output where x > 0 and negative_slope grad_output elsewhere.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or the number do not fit.

    Notes
    -----
    Two operations an element; two are read and one is written. One rounding of the slope, to the dtype, and one of the
    product.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.leaky_relu_backward(np.array([3.0, 4.0]), np.array([-1.0, 2.0]), 0.5)
    array([1.5, 4. ])
    """
    slope = as_float("negative_slope", negative_slope)
    return _elementwise("leaky_relu_backward", None, target, slope, grad_output=grad_output, x=x)


@door
def sigmoid(x: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return 1 / (1 + exp(-x)) of each element, without overflow for any x.

    Parameters
    ----------
    x : array of any shape
        float32 or float64.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        The result, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If the dtype does not fit, or `out` does not fit or overlaps with x.

    Notes
    -----
    Some 30 operations an element; each is read once and written once. Formed as exp(x) / (1 + exp(x)) for x < 0.
    |error| <= 3 eps |result|; on "cpu" results that would be denormal are 0, on "cuda" they are denormal, with fewer
    digits.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    return _elementwise("sigmoid", out, target, x=x)


@door
def sigmoid_backward(grad_output: Array, y: Array, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `sigmoid`: grad_output y (1 - y).

    Parameters
    ----------
    grad_output : array of any shape
        Gradient by the result.
    y : array of the same shape
        The result of `sigmoid`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of the same shape
        The gradient.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Notes
    -----
    Three operations an element; two are read and one is written. |error| <= 2 eps |result| for the given y.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.sigmoid_backward(np.array([3.0, 4.0]), np.array([0.5, 1.0]))
    array([0.75, 0.  ])
    """
    return _elementwise("sigmoid_backward", None, target, grad_output=grad_output, y=y)


@door
def tanh(x: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return the hyperbolic tangent of each element.

    Parameters
    ----------
    x : array of any shape
        float32 or float64.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        The result, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If the dtype does not fit, or `out` does not fit or overlaps with x.

    Notes
    -----
    Some 30 operations an element; each is read once and written once. On "cpu" formed as -e / (2 + e) with
    e = exp(-2 |x|) - 1, which keeps small results: |error| <= 3 eps |result|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.tanh(np.array([-1000.0, 0.0, 1e-30]))
    array([-1.e+00,  0.e+00,  1.e-30])
    """
    return _elementwise("tanh", out, target, x=x)


@door
def tanh_backward(grad_output: Array, y: Array, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `tanh`: grad_output (1 - y^2).

    Parameters
    ----------
    grad_output : array of any shape
        Gradient by the result.
    y : array of the same shape
        The result of `tanh`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of the same shape
        The gradient.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Notes
    -----
    Three operations an element; two are read and one is written. |error| <= 2 eps |grad_output| for the given y.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.tanh_backward(np.array([3.0, 4.0]), np.array([0.5, 1.0]))
    array([2.25, 0.  ])
    """
    return _elementwise("tanh_backward", None, target, grad_output=grad_output, y=y)


@door
def gelu(x: Array, approximate: str = "none", *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x times the probability that a standard normal number is below x.

    Parameters
    ----------
    x : array of any shape
        float32 or float64.
    approximate : {"none", "tanh"}
        "none": x erfc(-x / sqrt(2)) / 2; "tanh": x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        The result, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If the dtype or `approximate` does not fit, or `out` does not fit or overlaps with x.

    Notes
    -----
    Some 20 operations an element ("tanh": 40); each is read once and written once. Hendrycks and Gimpel, "Gaussian
    error linear units" (arXiv:1606.08415), section 2. |error| <= 3 eps |x|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    _check_approximate(approximate)
    return _elementwise("gelu", out, target, approximate, x=x)


@door
def gelu_backward(grad_output: Array, x: Array, approximate: str = "none", *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `gelu`.

    Parameters
    ----------
    grad_output : array of any shape
        Gradient by the result.
    x, approximate : array of the same shape, {"none", "tanh"}
        The arguments of `gelu`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of the same shape
        "none": grad_output (P + x p) with the normal distribution P and its density p at x; "tanh": the derivative of
        that formula.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or `approximate` do not fit.

    Notes
    -----
    Some 25 operations an element ("tanh": 50); two are read and one is written. |error| <= 5 eps |grad_output|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.gelu_backward(np.array([1.0, 1.0]), np.array([0.0, 1.0])).round(4)
    array([0.5   , 1.0833])
    """
    _check_approximate(approximate)
    return _elementwise("gelu_backward", None, target, approximate, grad_output=grad_output, x=x)


@door
def add(x: Array, y: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x + y of two arrays of one shape, which joins the branches of a residual network.

    Parameters
    ----------
    x, y : arrays of one shape
        float32 or float64; nothing is broadcast.
    out : array of that shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of that shape
        The sum, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or `out` does not fit or overlaps with an input.

    Notes
    -----
    One operation an element; two are read and one is written. Rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.add(np.array([1.0, 2.0]), np.array([3.0, -4.0]))
    array([ 4., -2.])
    """
    return _elementwise("add", out, target, x=x, y=y)


@door
def add_relu(x: Array, y: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return relu(x + y) of two arrays of one shape in one pass; its gradient is `relu_backward` for both.

    Parameters
    ----------
    x, y : arrays of one shape
        float32 or float64; nothing is broadcast.
    out : array of that shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of that shape
        The result, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or `out` does not fit or overlaps with an input.

    Notes
    -----
    Two operations an element; two are read and one is written. Rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.add_relu(np.array([1.0, 2.0]), np.array([3.0, -4.0]))
    array([4., 0.])
    """
    return _elementwise("add_relu", out, target, x=x, y=y)


@door
def dropout(x: Array, mask: Array, p: float, *, out: Array | None = None, target: str | None = None) -> Array:
    """Return x mask / (1 - p): what the mask keeps, scaled so that its expectation is x.

    Parameters
    ----------
    x : array of any shape
        float32 or float64.
    mask : array of x's shape
        bool or uint8; True, or anything but 0, keeps an element.
    p : float
        The probability, from 0 to 1, with which the mask drops an element. With 1 all results are 0.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of x's shape
        The result, of x's dtype. A dropped element is x times 0, so NaN and inf give NaN, as in torch.

    Raises
    ------
    TypeError, ValueError
        If a dtype, shape or number does not fit, or `out` does not fit or overlaps with an input.

    Notes
    -----
    Two operations an element; one and a byte are read and one is written. |error| <= 1.5 eps |result|. Srivastava and
    others, "Dropout" (JMLR 15, 2014), in the inverted form.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.dropout(np.array([1.0, 2.0]), np.array([True, False]), 0.5)
    array([2., 0.])
    """
    x, = as_floats(x=x)
    mask, p = _as_mask(mask, x), as_float("p", p, 0, 1)
    y = output(out, x.shape, x.dtype, x)
    implementation(__name__, target, x).dropout(x.reshape(-1), mask.reshape(-1), p, y.reshape(-1))
    return deliver(y, out)


@door
def dropout_backward(grad_output: Array, mask: Array, p: float, *, target: str | None = None) -> Array:
    """Return the gradient of a loss by the argument of `dropout`: grad_output mask / (1 - p).

    Parameters
    ----------
    grad_output : array of any shape
        Gradient by the result.
    mask, p : array of the same shape, float
        The arguments of `dropout`.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of the same shape
        The gradient.

    Raises
    ------
    TypeError, ValueError
        If a dtype, shape or number does not fit.

    Notes
    -----
    Two operations an element; one and a byte are read and one is written. |error| <= 1.5 eps |result|.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.dropout_backward(np.array([1.0, 2.0]), np.array([True, False]), 0.5)
    array([2., 0.])
    """
    grad_output, = as_floats(grad_output=grad_output)
    mask, p = _as_mask(mask, grad_output), as_float("p", p, 0, 1)
    grad_x = empty_beside(grad_output, grad_output.shape, grad_output.dtype)
    implementation(__name__, target, grad_output).dropout_backward(
        grad_output.reshape(-1), mask.reshape(-1), p, grad_x.reshape(-1))
    return grad_x


def dropout_mask(x: Array, bits: np.random.BitGenerator, p: float) -> Array:
    """Return which elements of x, an array on a GPU, dropout keeps: what a `bits` of NumPy's Philox draws on the host.

    That is `np.random.Generator(bits).random(x.shape, np.float32) >= p` of one that has drawn nothing yet, to the bit.
    """
    state: Any = bits.state
    mask = empty_beside(x, x.shape, np.bool_)
    implementation(__name__, None, x).dropout_mask(tuple(map(int, state["state"]["key"])), p, mask.reshape(-1))
    return mask


def _elementwise(name: str, out: Array | None, target: str | None, *options: Any, **values: Array) -> Array:
    """Run a kernel whose arrays all have one shape: the implementation sees them flat."""
    arrays = as_floats(**values)
    check_one_shape(values, arrays)
    result = output(out, arrays[0].shape, arrays[0].dtype, arrays[0])
    run = getattr(implementation(__name__, target, result), name)
    run(*[array.reshape(-1) for array in arrays], *options, result.reshape(-1))
    return deliver(result, out)


def _check_approximate(approximate: str) -> None:
    if approximate not in _APPROXIMATIONS:
        raise ValueError(f"approximate: expected one of {_APPROXIMATIONS}, got {approximate!r}")


def _as_mask(value: Array, x: Array) -> Array:
    """Return a mask as uint8 of x's shape."""
    mask = as_array("mask", value)
    if mask.dtype not in (np.dtype(np.bool_), np.dtype(np.uint8)):
        raise TypeError(f"mask: expected bool or uint8, got {mask.dtype}")
    check_side("mask", mask, "x", x)
    check_shape("mask", mask, x.shape)
    return mask.view(np.uint8)
