"""Two-dimensional convolution and its transpose: signatures, checks, plans."""

from __future__ import annotations

import math
from typing import Any

from fastnn._checks import Array, IntPair, check_choice, check_floats, check_needs, check_present, check_shape, is_relu
from fastnn.kernels._outputs import result_of, shaped
from fastnn.kernels._plans import Plan, bound, planned, why
from fastnn.kernels._targets import implementation
from fastnn.kernels.conv.geometry import Geometry, fit, fit_transposed, is_for_winograd
from fastnn.kernels.kept import KeptWeight, check_kept

__all__ = ["conv2d", "conv2d_backward", "conv_transpose2d", "conv_transpose2d_backward"]

ALGORITHMS = ("auto", "direct", "winograd")


def conv2d(x: Array, weight: Array, bias: Array | None = None, *, stride: IntPair = 1, padding: IntPair | str = 0,
           dilation: IntPair = 1, groups: int = 1, activation: str | None = None, algorithm: str = "auto",
           kept: KeptWeight | None = None, out: Array | None = None, target: str | None = None) -> Array:
    """Convolve images with filters (cross-correlation, as in torch.nn.functional.conv2d), or the ReLU of that.

    y[n, o, i, j] = bias[o] + sum over c, k, l of x[n, c, i s - p + k d, j s - p + l d] weight[o, c, k, l],
    c running over the input channels of o's group, and x being 0 outside of the image.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images, float32 or float64.
    weight : array of shape (O, C / groups, KH, KW)
        Filters, of x's dtype.
    bias : array of shape (O,), optional
        Added to every pixel of a channel.
    stride, dilation : int or pair
        Steps between output pixels, and between taps, in input pixels; at least 1.
    padding : int, pair, "valid" or "same"
        Zeros around the image. "valid" is 0; "same" gives ceil(H / stride) x ceil(W / stride) pixels, and where
        the padding cannot be even puts the larger part after the image (torch allows it for stride 1 alone).
    groups : int
        Channels are cut into this many groups, each convolved by itself; it divides C and O.
    activation : {"relu"}, optional
        What is applied to the result, in the same pass. Its gradient is `relu_backward`'s, of the result.
    algorithm : {"auto", "direct", "winograd"}
        "direct" sums the products of the formula. "winograd", for filters of 3 x 3 or 5 x 5 with stride 1, dilation 1,
        one group and a padding less than they are, needs a quarter or a third of the products, and its float32 results
        err more. "auto" takes it for float32 where it is faster, which only the shapes of one image and of the filters
        decide, and plain loops where products are so few that a call's overhead counts. On "cuda" there is "direct",
        which is what "auto" takes, and no other.
    kept : KeptWeight, optional
        Where "winograd" keeps the filters that it transformed, for the next call with the same ones. It compares them,
        so they may change between the calls; with `KeptWeight(constant=True)` nothing is compared, and "direct" keeps
        the filters that it packed. No result depends on it. On "cuda" it stays empty.
    out : array of shape (N, O, OH, OW), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (N, O, OH, OW)
        Of x's dtype; OH = floor((H + padding - dilation (KH - 1) - 1) / stride) + 1, padding counted on both sides.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit together, `out` overlaps with an input, or "cuda" should do "winograd".

    Notes
    -----
    With K = C / groups KH KW: 2 N O OH OW K operations. The cpu version is a matrix product without a matrix of image
    patches (as in Zhang, Franchetti and Low, "High performance zero-memory overhead direct convolutions", ICML 2018):
    each tap of a filter is one shift of the padded image. The cuda version is one too, whose tiles are read out of the
    images as they are needed (as in Chetlur et al., "cuDNN: efficient primitives for deep learning", arXiv:1410.0759),
    and plain loops where filters see one channel. Where zeros around an image would be far more than it and its result,
    the cpu version loops over the taps that meet pixels. In float32, |error| <= (min(K, 512) + K / 512 + 1) eps
    sum |x weight| + eps |bias| for each element, on both. Products and sums of them that leave the dtype's range on the
    way do so for good.

    "winograd" is F(4 x 4, 3 x 3) or F(2 x 2, 5 x 5) of Lavin and Gray ("Fast Algorithms for Convolutional Neural
    Networks", CVPR 2016, equation 12), y = A^T [sum over c of (G w G^T) * (B^T d B)] A for tiles y of 4 x 4 or 2 x 2
    results and d of 6 x 6 pixels, at the points 0, +-3/4, +-3/2 and infinity. In float32,
    |error| <= (min(C, 128) + C / 128 + 40) eps |A|^T [sum over c of (|G| |w| |G|^T) * (|B|^T |d| |B|)] |A| + eps |bias|
    for each element, which on normal data is found to be some 1e-6 of the largest one, ten times the error of "direct".
    Images of which a result is not finite are done again by "direct": NaN and inf reach the results that the formula
    says, no others.

    An image's bits do not depend on the rest of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> kernels.conv2d(x, np.ones((1, 1, 2, 2)), np.array([0.5]), padding="same")[0, 0]
    array([[ 8.5, 12.5,  7.5],
           [20.5, 24.5, 13.5],
           [13.5, 15.5,  8.5]])
    """
    check_kept(kept)
    return _conv2d((x, weight, bias), (stride, padding, dilation, groups, activation, algorithm), target, out, (kept,))


def conv2d_backward(grad_output: Array, x: Array, weight: Array, *, stride: IntPair = 1, padding: IntPair | str = 0,
                    dilation: IntPair = 1, groups: int = 1, needs: tuple[bool, bool, bool] = (True, True, True),
                    algorithm: str = "auto", target: str | None = None,
                    ) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of a loss by the arguments of `conv2d`.

    Parameters
    ----------
    grad_output : array of shape (N, O, OH, OW)
        Gradient by the result.
    x, weight, stride, padding, dilation, groups, algorithm, target
        As given to `conv2d`.
    needs : tuple of three bools
        Which of the gradients by x, weight and bias to compute.

    Returns
    -------
    grad_x, grad_weight, grad_bias : arrays or None
        With q an output pixel that tap t reads input pixel p for: grad_x[p] = sum over t, o of grad_output[q]
        weight[t], grad_weight[t] = sum over n, q of grad_output[q] x[p], grad_bias = sum over n, q of grad_output;
        None for what is not needed.

    Notes
    -----
    Each of the first two costs as many operations as `conv2d`. Sums over the pixels of finite images run in blocks of
    at most 512, whose sums are added in a fixed order; the bias gradient is summed in float64.

    By "winograd" the gradient by x is a convolution as in `conv2d`, with the same bound. The one by the weights is
    G^T [sum over tiles of (A dy A^T) * (B^T d B)] G, and keeps |error| <= (min(T, 512) + T / 24 + 50) eps
    |G|^T [sum over tiles of (|A| |dy| |A|^T) * (|B|^T |d| |B|)] |G|, T being the number of tiles.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.ones((1, 1, 3, 3)), np.full((1, 1, 2, 2), 2.0)
    >>> grad_x, grad_weight, grad_bias = kernels.conv2d_backward(np.ones((1, 1, 2, 2)), x, weight)
    >>> grad_x[0, 0]
    array([[2., 4., 2.],
           [4., 8., 4.],
           [2., 4., 2.]])
    >>> grad_weight[0, 0], grad_bias
    (array([[4., 4.],
           [4., 4.]]), array([4.]))
    """
    return _conv2d_backward((grad_output, x, weight), (stride, padding, dilation, groups, needs, algorithm), target)


def conv_transpose2d(x: Array, weight: Array, bias: Array | None = None, *, stride: IntPair = 1, padding: IntPair = 0,
                     output_padding: IntPair = 0, groups: int = 1, dilation: IntPair = 1, out: Array | None = None,
                     target: str | None = None) -> Array:
    """Spread images through filters: the gradient of `conv2d` by its input, as in torch's conv_transpose2d.

    y[n, o, i s - p + k d, j s - p + l d] += x[n, c, i, j] weight[c, o, k, l] over all c of o's group, i, j, k and l,
    starting from bias[o].

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images, float32 or float64.
    weight : array of shape (C, O / groups, KH, KW)
        Filters, of x's dtype.
    bias : array of shape (O,), optional
        Added to every pixel of a channel.
    stride, dilation : int or pair
        Steps between input pixels, and between taps, in output pixels; at least 1.
    padding : int or pair
        Rows and columns cut off on each side of the result.
    output_padding : int or pair
        Rows and columns added after the result; less than the stride or the dilation.
    groups : int
        Channels are cut into this many groups, each by itself; it divides C.
    out : array of shape (N, O, OH, OW), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    array of shape (N, O, OH, OW)
        Of x's dtype; OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit together, or `out` overlaps with an input.

    Notes
    -----
    2 N C H W O / groups KH KW operations (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
    arXiv:1603.07285, chapter 4).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.conv_transpose2d(np.array([[[[1.0, 2.0]]]]), np.array([[[[1.0, 10.0]]]]), stride=2)
    array([[[[ 1., 10.,  2., 20.]]]])
    """
    return _conv_transpose2d((x, weight, bias), (stride, padding, output_padding, groups, dilation), target, out)


def conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, *, stride: IntPair = 1, padding: IntPair = 0,
                              output_padding: IntPair = 0, groups: int = 1, dilation: IntPair = 1,
                              needs: tuple[bool, bool, bool] = (True, True, True), target: str | None = None,
                              ) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of a loss by the arguments of `conv_transpose2d`.

    Parameters
    ----------
    grad_output : array of shape (N, O, OH, OW)
        Gradient by the result.
    x, weight, stride, padding, output_padding, groups, dilation, target
        As given to `conv_transpose2d`.
    needs : tuple of three bools
        Which of the gradients by x, weight and bias to compute.

    Returns
    -------
    grad_x, grad_weight, grad_bias : arrays or None
        grad_x is the convolution of grad_output with the filters; None for what is not needed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.array([[[[1.0, 2.0]]]]), np.array([[[[1.0, 10.0]]]])
    >>> kernels.conv_transpose2d_backward(np.ones((1, 1, 1, 4)), x, weight, stride=2)
    (array([[[[11., 11.]]]]), array([[[[3., 3.]]]]), array([4.]))
    """
    return _conv_transpose2d_backward((grad_output, x, weight),
                                      (stride, padding, output_padding, groups, dilation, needs), target)


@planned
def _conv2d(x: Array, weight: Array, bias: Array | None, stride: IntPair, padding: IntPair | str, dilation: IntPair,
            groups: int, activation: str | None, algorithm: str, target: str | None) -> Plan:
    check_floats(x=x, weight=weight, bias=bias)
    check_present("weight", weight)
    relu = is_relu(activation)
    geometry, shape = fit(x.shape, weight.shape, stride, padding, dilation, groups)
    _check_algorithm(algorithm, weight, geometry)
    _check_bias(bias, shape)
    run = bound(implementation(__name__, target, x), "conv2d", x, weight, shaped(shape, x.dtype), relu=relu,
                geometry=geometry, algorithm=algorithm) if math.prod(shape) else _nothing
    return Plan(run, result_of(shape, x.dtype, x), _operations(shape, weight), why(run))


@planned
def _conv2d_backward(grad_output: Array, x: Array, weight: Array, stride: IntPair, padding: IntPair | str,
                     dilation: IntPair, groups: int, needs: tuple[bool, bool, bool], algorithm: str,
                     target: str | None) -> Plan:
    check_floats(grad_output=grad_output, x=x, weight=weight)
    check_present("x", x)
    check_present("weight", weight)
    geometry, shape = fit(x.shape, weight.shape, stride, padding, dilation, groups)
    _check_algorithm(algorithm, weight, geometry)
    check_shape("grad_output", grad_output, shape)
    check_needs(needs)
    run = bound(implementation(__name__, target, x), "conv2d_backward", grad_output, x, weight, geometry=geometry,
                needs=needs, algorithm=algorithm)
    return Plan(run, None, _operations(shape, weight) * sum(map(bool, needs[:2])), why(run))


@planned
def _conv_transpose2d(x: Array, weight: Array, bias: Array | None, stride: IntPair, padding: IntPair,
                      output_padding: IntPair, groups: int, dilation: IntPair, target: str | None) -> Plan:
    check_floats(x=x, weight=weight, bias=bias)
    check_present("weight", weight)
    geometry, shape = fit_transposed(x.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    _check_bias(bias, shape)
    run = bound(implementation(__name__, target, x), "conv_transpose2d", x, weight, bias, shaped(shape, x.dtype),
                geometry=geometry) if math.prod(shape) else _nothing
    return Plan(run, result_of(shape, x.dtype, x), _operations(x.shape, weight), why(run))


@planned
def _conv_transpose2d_backward(grad_output: Array, x: Array, weight: Array, stride: IntPair, padding: IntPair,
                               output_padding: IntPair, groups: int, dilation: IntPair,
                               needs: tuple[bool, bool, bool], target: str | None) -> Plan:
    check_floats(grad_output=grad_output, x=x, weight=weight)
    check_present("x", x)
    check_present("weight", weight)
    geometry, shape = fit_transposed(x.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    check_shape("grad_output", grad_output, shape)
    check_needs(needs)
    run = bound(implementation(__name__, target, x), "conv_transpose2d_backward", grad_output, x, weight,
                geometry=geometry, needs=needs)
    return Plan(run, None, _operations(x.shape, weight) * sum(map(bool, needs[:2])), why(run))


def _nothing(*arrays: Any) -> None:
    """The convolution of no images."""


def _operations(result: tuple[int, ...], weight: Array) -> int:
    """Of a convolution with a result of this shape."""
    return 2 * math.prod(result) * math.prod(weight.shape[1:])


def _check_bias(bias: Array | None, shape: tuple[int, ...]) -> None:
    if bias is not None:
        check_shape("bias", bias, shape[1:2])


def _check_algorithm(algorithm: str, weight: Array, geometry: Geometry) -> None:
    check_choice("algorithm", algorithm, ALGORITHMS)
    if algorithm == "winograd" and not is_for_winograd(weight, geometry):
        raise ValueError(f"algorithm: 'winograd' expects 3 x 3 or 5 x 5 filters, stride 1, dilation 1, one group and a "
                         f"padding less than they, got filters of shape {weight.shape} and {geometry}; take 'auto'")
