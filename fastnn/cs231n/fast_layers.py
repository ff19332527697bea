"""Convolution and max pooling by fastnn's compiled kernels, under all names that the course has for fast versions.

The course's versions differ in how they lay out memory, and its `reshape` pooling in what it does with ties. Here all
of them are one kernel: the first of several equal maxima gets the gradient, as in the naive version.
"""

from __future__ import annotations

from typing import Any

from fastnn._checks import Array
from fastnn.cs231n import _images
from fastnn.cs231n._common import Cache

__all__ = [
    "conv_backward_fast",
    "conv_backward_im2col",
    "conv_backward_strides",
    "conv_forward_fast",
    "conv_forward_im2col",
    "conv_forward_strides",
    "max_pool_backward_fast",
    "max_pool_backward_im2col",
    "max_pool_backward_reshape",
    "max_pool_forward_fast",
    "max_pool_forward_im2col",
    "max_pool_forward_reshape",
]


def conv_forward_fast(x: Array, w: Array, b: Array, conv_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Convolve images with filters: `fastnn.conv2d`.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images.
    w : array of shape (F, C, HH, WW)
        Filters.
    b : array of shape (F,)
        Added to every pixel of a channel.
    conv_param : dict
        "stride", the steps between output pixels, and "pad", the zeros on each side of an image.

    Returns
    -------
    out : array of shape (N, F, 1 + (H + 2 pad - HH) // stride, 1 + (W + 2 pad - WW) // stride)
        The result.
    cache : tuple
        (x, w, b, conv_param), the same as that of `conv_forward_naive`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_forward_fast
    >>> out, cache = conv_forward_fast(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.zeros(1),
    ...                                {"stride": 1, "pad": 0})
    >>> out[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    return _images.conv_forward(x, w, b, conv_param, None)


def conv_backward_fast(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients by the arguments of `conv_forward_fast`: `fastnn.conv2d_backward`.

    Parameters
    ----------
    dout : array of shape (N, F, H', W')
        Gradient by the result.
    cache : tuple
        What the forward pass returned, this one's or the naive one's.

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and b
        The gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_backward_fast, conv_forward_fast
    >>> out, cache = conv_forward_fast(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.zeros(1),
    ...                                {"stride": 1, "pad": 0})
    >>> dx, dw, db = conv_backward_fast(np.ones((1, 1, 2, 2)), cache)
    >>> dw[0, 0], db
    (array([[4., 4.],
           [4., 4.]]), array([4.]))
    """
    return _images.conv_backward(dout, cache, None)


def max_pool_forward_fast(x: Array, pool_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Take the largest value of each window: `fastnn.max_pool2d`.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images.
    pool_param : dict
        "pool_height" and "pool_width", the size of a window, and "stride", the distance between windows.

    Returns
    -------
    out : array of shape (N, C, 1 + (H - pool_height) // stride, 1 + (W - pool_width) // stride)
        The maxima.
    cache : tuple
        For `max_pool_backward_fast`: where the maxima lie, and x's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import max_pool_forward_fast
    >>> out, cache = max_pool_forward_fast(np.arange(16.0).reshape(1, 1, 4, 4),
    ...                                    {"pool_height": 2, "pool_width": 2, "stride": 2})
    >>> out[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    out, indices = _images.max_pool(x, pool_param, None)
    return out, (indices, x.shape)


def max_pool_backward_fast(dout: Array, cache: Cache) -> Array:
    """Return the gradient by the argument of `max_pool_forward_fast`: `fastnn.max_pool2d_backward`.

    Parameters
    ----------
    dout : array of shape (N, C, H', W')
        Gradient by the result.
    cache : tuple
        What the forward pass returned.

    Returns
    -------
    array of x's shape
        The gradient: each window's goes to its first maximum.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import max_pool_backward_fast, max_pool_forward_fast
    >>> out, cache = max_pool_forward_fast(np.array([[[[1.0, 3.0, 2.0, 0.0]]]]),
    ...                                    {"pool_height": 1, "pool_width": 2, "stride": 2})
    >>> max_pool_backward_fast(np.array([[[[5.0, 6.0]]]]), cache)
    array([[[[0., 5., 6., 0.]]]])
    """
    indices, shape = cache
    return _images.max_pool_backward(dout, indices, shape, None)


conv_forward_im2col = conv_forward_strides = conv_forward_fast
conv_backward_im2col = conv_backward_strides = conv_backward_fast
max_pool_forward_im2col = max_pool_forward_reshape = max_pool_forward_fast
max_pool_backward_im2col = max_pool_backward_reshape = max_pool_backward_fast
