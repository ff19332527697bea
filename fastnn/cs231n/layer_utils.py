"""The course's composite layers. Each backward takes the gradient by the result and the cache of its forward."""

from __future__ import annotations

from typing import Any

from fastnn._checks import Array
from fastnn.cs231n._common import Cache
from fastnn.cs231n.fast_layers import (
    conv_backward_fast,
    conv_forward_fast,
    max_pool_backward_fast,
    max_pool_forward_fast,
)
from fastnn.cs231n.layers import (
    affine_backward,
    affine_forward,
    relu_backward,
    relu_forward,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
)

__all__ = [
    "affine_relu_backward",
    "affine_relu_forward",
    "conv_bn_relu_backward",
    "conv_bn_relu_forward",
    "conv_relu_backward",
    "conv_relu_forward",
    "conv_relu_pool_backward",
    "conv_relu_pool_forward",
]


def affine_relu_forward(x: Array, w: Array, b: Array) -> tuple[Array, Cache]:
    """Return the ReLU of `affine_forward`.

    Parameters
    ----------
    x, w, b
        As for `affine_forward`.

    Returns
    -------
    out : array of shape (N, M)
        The result.
    cache : tuple
        For `affine_relu_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import affine_relu_forward
    >>> out, cache = affine_relu_forward(np.array([[1.0]]), np.array([[2.0, -3.0]]), np.zeros(2))
    >>> out
    array([[2., 0.]])
    """
    a, affine_cache = affine_forward(x, w, b)
    out, relu_cache = relu_forward(a)
    return out, (affine_cache, relu_cache)


def affine_relu_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients dx, dw and db by the arguments of `affine_relu_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import affine_relu_backward, affine_relu_forward
    >>> out, cache = affine_relu_forward(np.array([[1.0]]), np.array([[2.0, -3.0]]), np.zeros(2))
    >>> dx, dw, db = affine_relu_backward(np.ones((1, 2)), cache)
    >>> dx, db
    (array([[2.]]), array([1., 0.]))
    """
    affine_cache, relu_cache = cache
    return affine_backward(relu_backward(dout, relu_cache), affine_cache)


def conv_relu_forward(x: Array, w: Array, b: Array, conv_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Return the ReLU of `conv_forward_fast`.

    Parameters
    ----------
    x, w, b, conv_param
        As for `conv_forward_fast`.

    Returns
    -------
    out : array of shape (N, F, H', W')
        The result.
    cache : tuple
        For `conv_relu_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_relu_forward
    >>> out, cache = conv_relu_forward(np.array([[[[1.0, -2.0]]]]), np.ones((1, 1, 1, 1)), np.zeros(1),
    ...                                {"stride": 1, "pad": 0})
    >>> out
    array([[[[1., 0.]]]])
    """
    a, conv_cache = conv_forward_fast(x, w, b, conv_param)
    out, relu_cache = relu_forward(a)
    return out, (conv_cache, relu_cache)


def conv_relu_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients dx, dw and db by the arguments of `conv_relu_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_relu_backward, conv_relu_forward
    >>> out, cache = conv_relu_forward(np.array([[[[1.0, -2.0]]]]), np.ones((1, 1, 1, 1)), np.zeros(1),
    ...                                {"stride": 1, "pad": 0})
    >>> dx, dw, db = conv_relu_backward(np.ones((1, 1, 1, 2)), cache)
    >>> dx, db
    (array([[[[1., 0.]]]]), array([1.]))
    """
    conv_cache, relu_cache = cache
    return conv_backward_fast(relu_backward(dout, relu_cache), conv_cache)


def conv_bn_relu_forward(x: Array, w: Array, b: Array, gamma: Array, beta: Array, conv_param: dict[str, Any],
                         bn_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Return the ReLU of the batch norm of `conv_forward_fast`.

    Parameters
    ----------
    x, w, b, conv_param
        As for `conv_forward_fast`.
    gamma, beta, bn_param
        As for `spatial_batchnorm_forward`.

    Returns
    -------
    out : array of shape (N, F, H', W')
        The result.
    cache : tuple
        For `conv_bn_relu_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_bn_relu_forward
    >>> out, cache = conv_bn_relu_forward(np.array([[[[1.0, 3.0]]]]), np.ones((1, 1, 1, 1)), np.zeros(1), np.ones(1),
    ...                                   np.zeros(1), {"stride": 1, "pad": 0}, {"mode": "train"})
    >>> out.round(4)
    array([[[[0., 1.]]]])
    """
    a, conv_cache = conv_forward_fast(x, w, b, conv_param)
    normalized, bn_cache = spatial_batchnorm_forward(a, gamma, beta, bn_param)
    out, relu_cache = relu_forward(normalized)
    return out, (conv_cache, bn_cache, relu_cache)


def conv_bn_relu_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients dx, dw, db, dgamma and dbeta by the arguments of `conv_bn_relu_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_bn_relu_backward, conv_bn_relu_forward
    >>> out, cache = conv_bn_relu_forward(np.array([[[[1.0, 3.0]]]]), np.ones((1, 1, 1, 1)), np.zeros(1), np.ones(1),
    ...                                   np.zeros(1), {"stride": 1, "pad": 0}, {"mode": "train"})
    >>> dx, dw, db, dgamma, dbeta = conv_bn_relu_backward(np.ones((1, 1, 1, 2)), cache)
    >>> dgamma.round(4), dbeta
    (array([1.]), array([1.]))
    """
    conv_cache, bn_cache, relu_cache = cache
    da, dgamma, dbeta = spatial_batchnorm_backward(relu_backward(dout, relu_cache), bn_cache)
    return *conv_backward_fast(da, conv_cache), dgamma, dbeta


def conv_relu_pool_forward(x: Array, w: Array, b: Array, conv_param: dict[str, Any],
                           pool_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Return the max pooling of the ReLU of `conv_forward_fast`.

    Parameters
    ----------
    x, w, b, conv_param
        As for `conv_forward_fast`.
    pool_param
        As for `max_pool_forward_fast`.

    Returns
    -------
    out : array of shape (N, F, H'', W'')
        The result.
    cache : tuple
        For `conv_relu_pool_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_relu_pool_forward
    >>> out, cache = conv_relu_pool_forward(np.array([[[[1.0, 3.0]]]]), np.ones((1, 1, 1, 1)), np.zeros(1),
    ...                                     {"stride": 1, "pad": 0}, {"pool_height": 1, "pool_width": 2, "stride": 1})
    >>> out
    array([[[[3.]]]])
    """
    a, (conv_cache, relu_cache) = conv_relu_forward(x, w, b, conv_param)
    out, pool_cache = max_pool_forward_fast(a, pool_param)
    return out, (conv_cache, relu_cache, pool_cache)


def conv_relu_pool_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients dx, dw and db by the arguments of `conv_relu_pool_forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_relu_pool_backward, conv_relu_pool_forward
    >>> out, cache = conv_relu_pool_forward(np.array([[[[1.0, 3.0]]]]), np.ones((1, 1, 1, 1)), np.zeros(1),
    ...                                     {"stride": 1, "pad": 0}, {"pool_height": 1, "pool_width": 2, "stride": 1})
    >>> dx, dw, db = conv_relu_pool_backward(np.ones((1, 1, 1, 1)), cache)
    >>> dx, db
    (array([[[[0., 1.]]]]), array([1.]))
    """
    conv_cache, relu_cache, pool_cache = cache
    return conv_relu_backward(max_pool_backward_fast(dout, pool_cache), (conv_cache, relu_cache))
