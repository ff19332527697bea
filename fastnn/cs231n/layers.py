"""The course's layers and losses: a forward returns its result and a cache, from which a backward makes gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_array, as_float, as_int, as_labels, check_not_empty, check_rank, check_shape
from fastnn.cs231n import _images
from fastnn.cs231n._common import Cache, course_names, entry, in_training, promoted

__all__ = [
    "affine_backward",
    "affine_forward",
    "batchnorm_backward",
    "batchnorm_backward_alt",
    "batchnorm_forward",
    "conv_backward_naive",
    "conv_forward_naive",
    "dropout_backward",
    "dropout_forward",
    "layernorm_backward",
    "layernorm_forward",
    "max_pool_backward_naive",
    "max_pool_forward_naive",
    "relu_backward",
    "relu_forward",
    "softmax_loss",
    "spatial_batchnorm_backward",
    "spatial_batchnorm_forward",
    "spatial_groupnorm_backward",
    "spatial_groupnorm_forward",
    "svm_loss",
]

_NORM = {"weight": "gamma", "bias": "beta", "grad_output": "dout", "eps": "bn_param['eps']"}


def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, Cache]:
    """Multiply each example, as one row, by a matrix and add a bias: `fastnn.linear`.

    Parameters
    ----------
    x : array of shape (N, d_1, ..., d_k)
        Examples; D is the product of d_1 to d_k.
    w : array of shape (D, M)
        The matrix: one column an output, where torch's has one row.
    b : array of shape (M,)
        Added to every row.

    Returns
    -------
    out : array of shape (N, M)
        The result.
    cache : tuple
        (x, w, b).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import affine_forward
    >>> out, cache = affine_forward(np.array([[1.0, 2.0]]), np.array([[3.0, 5.0], [4.0, 6.0]]), np.array([0.5, 0.0]))
    >>> out
    array([[11.5, 17. ]])
    """
    rows, matrix, bias = promoted(x=_rows(x), w=w, b=b)
    _check_matrix(rows, matrix)
    check_shape("b", bias, matrix.shape[1:])
    return kernels.linear(rows, matrix.T, bias), (x, w, b)


def affine_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients by the arguments of `affine_forward`: `fastnn.linear_backward`.

    Parameters
    ----------
    dout : array of shape (N, M)
        Gradient by the result.
    cache : tuple
        What the forward pass returned.

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and b
        The gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import affine_backward
    >>> affine_backward(np.array([[1.0]]), (np.array([[2.0, 3.0]]), np.array([[4.0], [5.0]]), np.zeros(1)))
    (array([[4., 5.]]), array([[2.],
           [3.]]), array([1.]))
    """
    x, w, _ = cache
    dout, rows, matrix = promoted(dout=dout, x=_rows(x), w=w)
    _check_matrix(rows, matrix)
    with course_names(grad_output="dout"):
        grads: tuple[Any, ...] = kernels.linear_backward(dout, rows, matrix.T)
    dx, dw, db = grads
    return dx.reshape(np.shape(x)), dw.T, db


def _rows(x: Array) -> Array:
    """Return each example as one row."""
    x = as_array("x", x)
    return x.reshape(*x.shape[:1], math.prod(x.shape[1:]))


def _check_matrix(rows: Array, matrix: Array) -> None:
    check_rank("x", rows, 2, layout="(N, D)")
    check_rank("w", matrix, 2, layout="(D, M)")
    if len(matrix) != rows.shape[1]:
        raise ValueError(f"w: expected {rows.shape[1]} rows for examples x of {rows.shape[1]} numbers, "
                         f"got shape {matrix.shape}")


def relu_forward(x: Array) -> tuple[Array, Array]:
    """Return max(x, 0) of each element: `fastnn.relu`.

    Parameters
    ----------
    x : array of any shape
        The argument.

    Returns
    -------
    out : array of x's shape
        The result.
    cache : array
        x.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import relu_forward
    >>> relu_forward(np.array([-1.0, 2.0]))
    (array([0., 2.]), array([-1.,  2.]))
    """
    values, = promoted(x=x)
    return kernels.relu(values), x


def relu_backward(dout: Array, cache: Array) -> Array:
    """Return the gradient by the argument of `relu_forward`: `fastnn.relu_backward`.

    Parameters
    ----------
    dout : array of any shape
        Gradient by the result.
    cache : array of the same shape
        What the forward pass returned: x.

    Returns
    -------
    array of the same shape
        The gradient: dout where x > 0, 0 elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import relu_backward
    >>> relu_backward(np.array([3.0, 4.0]), np.array([-1.0, 2.0]))
    array([0., 4.])
    """
    dout, x = promoted(dout=dout, x=cache)
    check_shape("dout", dout, x.shape)
    return kernels.relu_backward(dout, x)


def batchnorm_forward(x: Array, gamma: Array, beta: Array, bn_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Bring each column to mean 0 and variance 1, then scale and shift it: `fastnn.batch_norm`.

    Parameters
    ----------
    x : array of shape (N, D)
        Examples, at least two in mode "train".
    gamma, beta : arrays of shape (D,)
        Scale and shift of each column.
    bn_param : dict
        "mode": "train" takes the statistics of x, "test" the running ones. "eps", by default 1e-5, is added to the
        variance. "running_mean" and "running_var", at first 0, are put there; each call in "train" makes them
        momentum running + (1 - momentum) batch, "momentum" being 0.9 by default. That momentum is 1 minus torch's, and
        the variance is divided by N, where torch's running one is divided by N - 1.

    Returns
    -------
    out : array of shape (N, D)
        The result.
    cache : tuple
        For `batchnorm_backward` and `batchnorm_backward_alt`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import batchnorm_forward
    >>> bn_param = {"mode": "train"}
    >>> out, cache = batchnorm_forward(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1), bn_param)
    >>> out.round(4)
    array([[-1.],
           [ 1.]])
    >>> bn_param["running_mean"].round(4), bn_param["running_var"].round(4)
    (array([0.2]), array([0.1]))
    """
    return _batchnorm_forward(x, gamma, beta, bn_param, 2, "(N, D)")


def batchnorm_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients by the arguments of `batchnorm_forward`: `fastnn.batch_norm_backward`.

    It is the simplified gradient that the course asks for as `batchnorm_backward_alt`, which is another name of it.

    Parameters
    ----------
    dout : array of x's shape
        Gradient by the result.
    cache : tuple
        What the forward pass returned, in either mode.

    Returns
    -------
    dx, dgamma, dbeta : arrays of the shapes of x, gamma and beta
        The gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import batchnorm_backward, batchnorm_forward
    >>> out, cache = batchnorm_forward(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1), {"mode": "train"})
    >>> dx, dgamma, dbeta = batchnorm_backward(np.array([[0.0], [1.0]]), cache)
    >>> dgamma.round(4), dbeta
    (array([1.]), array([1.]))
    """
    x, gamma, mean, invstd, training = cache
    dout, x, gamma = promoted(dout=dout, x=x, gamma=gamma)
    with course_names(**_NORM):
        return kernels.batch_norm_backward(dout, x, gamma, mean, invstd, training=training)


batchnorm_backward_alt = batchnorm_backward


def _batchnorm_forward(x: Array, gamma: Array, beta: Array, bn_param: dict[str, Any], rank: int,
                       layout: str) -> tuple[Array, Cache]:
    training = in_training("bn_param", bn_param)
    eps, momentum = bn_param.get("eps", 1e-5), as_float("bn_param['momentum']", bn_param.get("momentum", 0.9), 0, 1)
    x, gamma, beta = promoted(x=x, gamma=gamma, beta=beta)
    check_rank("x", x, rank, layout=layout)
    zeros = np.zeros(x.shape[1], x.dtype)
    mean, var = (as_array(f"bn_param[{name!r}]", bn_param.get(name, zeros)).astype(x.dtype)
                 for name in ("running_mean", "running_var"))
    # With momentum 1 the kernel's running statistics become the batch's alone, which is what the course's are made of.
    batch_mean, batch_var = (zeros.copy(), zeros.copy()) if training else (mean, var)
    check_shape("bn_param['running_mean']", mean, zeros.shape)
    check_shape("bn_param['running_var']", var, zeros.shape)
    with course_names(**_NORM):
        normalized: Any = kernels.batch_norm(x, batch_mean, batch_var, gamma, beta, training=training, momentum=1.0,
                                             eps=eps, return_stats=True)
    if training:
        n = len(x) * math.prod(x.shape[2:])
        mean = momentum * mean + (1 - momentum) * batch_mean
        var = momentum * var + (1 - momentum) * batch_var * ((n - 1) / n)       # the kernel divides by n - 1
    bn_param["running_mean"], bn_param["running_var"] = mean, var
    out, *stats = normalized
    return out, (x, gamma, *stats, training)


def spatial_batchnorm_forward(x: Array, gamma: Array, beta: Array, bn_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Bring each channel of images to mean 0 and variance 1, then scale and shift it: `fastnn.batch_norm`.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images.
    gamma, beta : arrays of shape (C,)
        Scale and shift of each channel.
    bn_param : dict
        As for `batchnorm_forward`.

    Returns
    -------
    out : array of shape (N, C, H, W)
        The result.
    cache : tuple
        For `spatial_batchnorm_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import spatial_batchnorm_forward
    >>> out, cache = spatial_batchnorm_forward(np.array([[[[1.0, 3.0]]]]), np.ones(1), np.zeros(1), {"mode": "train"})
    >>> out.round(4)
    array([[[[-1.,  1.]]]])
    """
    return _batchnorm_forward(x, gamma, beta, bn_param, 4, "(N, C, H, W)")


def spatial_batchnorm_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients by the arguments of `spatial_batchnorm_forward`: `fastnn.batch_norm_backward`.

    Parameters
    ----------
    dout : array of shape (N, C, H, W)
        Gradient by the result.
    cache : tuple
        What the forward pass returned.

    Returns
    -------
    dx, dgamma, dbeta : arrays of the shapes of x, gamma and beta
        The gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import spatial_batchnorm_backward, spatial_batchnorm_forward
    >>> out, cache = spatial_batchnorm_forward(np.array([[[[1.0, 3.0]]]]), np.ones(1), np.zeros(1), {"mode": "train"})
    >>> dx, dgamma, dbeta = spatial_batchnorm_backward(np.array([[[[0.0, 1.0]]]]), cache)
    >>> dgamma.round(4), dbeta
    (array([1.]), array([1.]))
    """
    return batchnorm_backward(dout, cache)


def layernorm_forward(x: Array, gamma: Array, beta: Array, ln_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Bring each row to mean 0 and variance 1, then scale and shift its columns.

    Ba, Kiros and Hinton, "Layer normalization" (arXiv:1607.06450), by `fastnn.group_norm` with one group.

    Parameters
    ----------
    x : array of shape (N, D)
        Examples; D is at least 2.
    gamma, beta : arrays of shape (D,)
        Scale and shift of each column.
    ln_param : dict
        "eps", by default 1e-5, is added to the variance. There is no mode: nothing depends on other rows.

    Returns
    -------
    out : array of shape (N, D)
        The result.
    cache : tuple
        For `layernorm_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import layernorm_forward
    >>> out, cache = layernorm_forward(np.array([[1.0, 3.0], [20.0, 10.0]]), np.ones(2), np.zeros(2), {})
    >>> out.round(4)
    array([[-1.,  1.],
           [ 1., -1.]])
    """
    x, gamma, beta = promoted(x=x, gamma=gamma, beta=beta)
    check_rank("x", x, 2, layout="(N, D)")
    return _groupnorm_forward(x, gamma, beta, 1, entry("ln_param", ln_param, "eps", 1e-5))


def layernorm_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients by the arguments of `layernorm_forward`.

    Parameters
    ----------
    dout : array of shape (N, D)
        Gradient by the result.
    cache : tuple
        What the forward pass returned.

    Returns
    -------
    dx, dgamma, dbeta : arrays of the shapes of x, gamma and beta
        The gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import layernorm_backward, layernorm_forward
    >>> out, cache = layernorm_forward(np.array([[1.0, 3.0]]), np.ones(2), np.zeros(2), {})
    >>> dx, dgamma, dbeta = layernorm_backward(np.array([[2.0, 5.0]]), cache)
    >>> dgamma.round(4), dbeta
    (array([-2.,  5.]), array([2., 5.]))
    """
    return _groupnorm_backward(dout, cache)


def spatial_groupnorm_forward(x: Array, gamma: Array, beta: Array, G: int,
                              gn_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Bring each group of channels of each image to mean 0 and variance 1, then scale and shift each channel.

    Wu and He, "Group normalization" (arXiv:1803.08494), by `fastnn.group_norm`.

    Parameters
    ----------
    x : array of shape (N, C, H, W)
        Images.
    gamma, beta : arrays of shape (C,) or (1, C, 1, 1)
        Scale and shift of each channel; the course's notebook gives the longer shape.
    G : int
        The number of groups, a divisor of C.
    gn_param : dict
        "eps", by default 1e-5, is added to the variance.

    Returns
    -------
    out : array of shape (N, C, H, W)
        The result.
    cache : tuple
        For `spatial_groupnorm_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import spatial_groupnorm_forward
    >>> x = np.array([1.0, 3.0, 20.0, 10.0]).reshape(1, 4, 1, 1)
    >>> out, cache = spatial_groupnorm_forward(x, np.ones(4), np.zeros(4), 2, {})
    >>> out.ravel().round(4)
    array([-1.,  1.,  1., -1.])
    """
    x, gamma, beta = promoted(x=x, gamma=gamma, beta=beta)
    check_rank("x", x, 4, layout="(N, C, H, W)")
    if x.shape[1] % as_int("G", G, 1):
        raise ValueError(f"G: expected a divisor of the {x.shape[1]} channels, got {G}")
    return _groupnorm_forward(x, gamma, beta, G, entry("gn_param", gn_param, "eps", 1e-5))


def spatial_groupnorm_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients by the arguments of `spatial_groupnorm_forward`.

    Parameters
    ----------
    dout : array of shape (N, C, H, W)
        Gradient by the result.
    cache : tuple
        What the forward pass returned.

    Returns
    -------
    dx, dgamma, dbeta : arrays of the shapes of x, gamma and beta
        The gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import spatial_groupnorm_backward, spatial_groupnorm_forward
    >>> x = np.array([1.0, 3.0, 20.0, 10.0]).reshape(1, 4, 1, 1)
    >>> out, cache = spatial_groupnorm_forward(x, np.ones(4), np.zeros(4), 2, {})
    >>> dx, dgamma, dbeta = spatial_groupnorm_backward(np.ones((1, 4, 1, 1)), cache)
    >>> dgamma.round(4), dbeta
    (array([-1.,  1.,  1., -1.]), array([1., 1., 1., 1.]))
    """
    return _groupnorm_backward(dout, cache)


def _groupnorm_forward(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> tuple[Array, Cache]:
    channels = x.shape[1]
    for name, array in (("gamma", gamma), ("beta", beta)):
        if x.ndim == 2 or array.shape != (1, channels, 1, 1):
            check_shape(name, array, (channels,))
    check_not_empty("x", x)
    if x[0].size == groups:
        raise ValueError(f"x: expected more than one value to take statistics of, got shape {x.shape}")
    normalized: Any = kernels.group_norm(x, groups, gamma.reshape(-1), beta.reshape(-1), eps=eps, return_stats=True)
    out, mean, invstd = normalized
    return out, (x, groups, gamma, mean, invstd)


def _groupnorm_backward(dout: Array, cache: Cache) -> tuple[Any, ...]:
    x, groups, gamma, mean, invstd = cache
    dout, x, gamma = promoted(dout=dout, x=x, gamma=gamma)
    check_shape("dout", dout, x.shape)
    grads: tuple[Any, ...] = kernels.group_norm_backward(dout, x, groups, gamma.reshape(-1), mean, invstd)
    dx, dgamma, dbeta = grads
    return dx, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


def dropout_forward(x: Array, dropout_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Keep each element with probability p, divided by p, and set the others to 0: `fastnn.kernels.dropout`.

    Parameters
    ----------
    x : array of any shape
        The argument.
    dropout_param : dict
        "p", the probability of keeping an element (torch's p drops it, and so did the course's before 2018); "mode",
        "train" or "test", in which nothing changes; and "seed", if every call shall draw the same mask. As in the
        course masks come from NumPy's global generator, which "seed" seeds.

    Returns
    -------
    out : array of x's shape
        The result.
    cache : tuple
        (dropout_param, mask); the mask is True where an element was kept, and None in mode "test".

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import dropout_forward
    >>> out, cache = dropout_forward(np.ones(5), {"mode": "train", "p": 0.5, "seed": 123})
    >>> out
    array([0., 2., 2., 0., 0.])
    """
    keep = as_float("dropout_param['p']", entry("dropout_param", dropout_param, "p"), 0, 1)
    training = in_training("dropout_param", dropout_param)
    values, = promoted(x=x)
    # NumPy's global generator gives the masks that the notebooks expect, to the bit.
    if "seed" in dropout_param:
        np.random.seed(dropout_param["seed"])      # noqa: NPY002
    if not training:
        return values, (dropout_param, None)
    mask = np.random.rand(*values.shape) < keep    # noqa: NPY002
    return kernels.dropout(values, mask, 1 - keep), (dropout_param, mask)


def dropout_backward(dout: Array, cache: Cache) -> Array:
    """Return the gradient by the argument of `dropout_forward`: `fastnn.kernels.dropout_backward`.

    Parameters
    ----------
    dout : array of x's shape
        Gradient by the result.
    cache : tuple
        What the forward pass returned.

    Returns
    -------
    array of x's shape
        The gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import dropout_backward, dropout_forward
    >>> out, cache = dropout_forward(np.ones(5), {"mode": "train", "p": 0.5, "seed": 123})
    >>> dropout_backward(np.arange(5.0), cache)
    array([0., 2., 4., 0., 0.])
    """
    dropout_param, mask = cache
    dout, = promoted(dout=dout)
    if mask is None:
        return dout
    check_shape("dout", dout, mask.shape)
    return kernels.dropout_backward(dout, mask, 1 - float(dropout_param["p"]))


def conv_forward_naive(x: Array, w: Array, b: Array, conv_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Convolve images with filters by plain loops: `fastnn.conv2d` on target "naive".

    Parameters
    ----------
    x, w, b, conv_param
        As for `conv_forward_fast`.

    Returns
    -------
    out : array of shape (N, F, 1 + (H + 2 pad - HH) // stride, 1 + (W + 2 pad - WW) // stride)
        The result.
    cache : tuple
        (x, w, b, conv_param).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_forward_naive
    >>> out, cache = conv_forward_naive(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.zeros(1),
    ...                                 {"stride": 1, "pad": 0})
    >>> out[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    return _images.conv_forward(x, w, b, conv_param, "naive")


def conv_backward_naive(dout: Array, cache: Cache) -> tuple[Any, ...]:
    """Return the gradients by the arguments of `conv_forward_naive`, by loops.

    Parameters
    ----------
    dout : array of shape (N, F, H', W')
        Gradient by the result.
    cache : tuple
        What the forward pass returned.

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and b
        The gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import conv_backward_naive
    >>> x, w, b = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.zeros(1)
    >>> dx, dw, db = conv_backward_naive(np.ones((1, 1, 2, 2)), (x, w, b, {"stride": 1, "pad": 0}))
    >>> dw[0, 0], db
    (array([[4., 4.],
           [4., 4.]]), array([4.]))
    """
    return _images.conv_backward(dout, cache, "naive")


def max_pool_forward_naive(x: Array, pool_param: dict[str, Any]) -> tuple[Array, Cache]:
    """Take the largest value of each window, by loops: `fastnn.max_pool2d` on target "naive".

    Parameters
    ----------
    x, pool_param
        As for `max_pool_forward_fast`.

    Returns
    -------
    out : array of shape (N, C, 1 + (H - pool_height) // stride, 1 + (W - pool_width) // stride)
        The maxima.
    cache : tuple
        (x, pool_param).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import max_pool_forward_naive
    >>> out, cache = max_pool_forward_naive(np.arange(16.0).reshape(1, 1, 4, 4),
    ...                                     {"pool_height": 2, "pool_width": 2, "stride": 2})
    >>> out[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    return _images.max_pool(x, pool_param, "naive")[0], (x, pool_param)


def max_pool_backward_naive(dout: Array, cache: Cache) -> Array:
    """Return the gradient by the argument of `max_pool_forward_naive`, by loops.

    Parameters
    ----------
    dout : array of shape (N, C, H', W')
        Gradient by the result.
    cache : tuple
        What the forward pass returned. As the course says, it holds no places of maxima: they are looked for again.

    Returns
    -------
    array of x's shape
        The gradient: each window's goes to its first maximum.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import max_pool_backward_naive
    >>> cache = np.array([[[[1.0, 3.0, 2.0, 0.0]]]]), {"pool_height": 1, "pool_width": 2, "stride": 2}
    >>> max_pool_backward_naive(np.array([[[[5.0, 6.0]]]]), cache)
    array([[[[0., 5., 6., 0.]]]])
    """
    x, pool_param = cache
    return _images.max_pool_backward(dout, _images.max_pool(x, pool_param, "naive")[1], x.shape, "naive")


def svm_loss(x: Array, y: Array) -> tuple[Any, Array]:
    """Return the mean hinge loss of scores, with margin 1, and its gradient: `fastnn.kernels.hinge_loss`.

    Parameters
    ----------
    x : array of shape (N, C)
        Scores.
    y : integer array of shape (N,)
        Classes from 0 to C - 1.

    Returns
    -------
    loss : NumPy scalar
        Mean over the rows.
    dx : array of shape (N, C)
        Gradient by the scores.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import svm_loss
    >>> loss, dx = svm_loss(np.array([[3.0, 2.5, 0.0]]), np.array([0]))
    >>> float(loss), dx
    (0.5, array([[-1.,  1.,  0.]]))
    """
    x, y = _scores(x, y)
    return kernels.hinge_loss(x, y), kernels.hinge_loss_backward(1.0, x, y)


def softmax_loss(x: Array, y: Array) -> tuple[Any, Array]:
    """Return the mean cross-entropy of the softmax of scores, and its gradient: `fastnn.kernels.cross_entropy`.

    Parameters
    ----------
    x : array of shape (N, C)
        Scores.
    y : integer array of shape (N,)
        Classes from 0 to C - 1.

    Returns
    -------
    loss : NumPy scalar
        Mean over the rows.
    dx : array of shape (N, C)
        Gradient by the scores.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import softmax_loss
    >>> loss, dx = softmax_loss(np.array([[0.0, 0.0]]), np.array([1]))
    >>> float(loss.round(4)), dx
    (0.6931, array([[ 0.5, -0.5]]))
    """
    x, y = _scores(x, y)
    return kernels.cross_entropy(x, y), kernels.cross_entropy_backward(1.0, x, y)


def _scores(x: Array, y: Array) -> tuple[Array, Array]:
    x, = promoted(x=x)
    check_rank("x", x, 2, layout="(N, C)")
    check_not_empty("x", x)
    return x, as_labels("y", y, x.shape[:1], x.shape[1])
