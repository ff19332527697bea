"""Batch normalization: each channel brought to mean 0 and variance 1, then scaled and shifted."""

from __future__ import annotations

from math import prod
from typing import TypeAlias

import numpy as np

from fastnn._checks import (
    Array,
    as_float,
    channels_last,
    check_floats,
    check_needs,
    check_present,
    check_rank,
    check_shape,
    check_side,
    is_relu,
)
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Gradients as Gradients
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation

__all__ = ["batch_norm", "batch_norm_backward"]

Statistics: TypeAlias = tuple[Array, Array] | None                              # mean and 1 / sqrt(var + eps)
_F64 = np.dtype(np.float64)


def batch_norm(x: Array, running_mean: Array | None, running_var: Array | None, weight: Array | None = None,
               bias: Array | None = None, *, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
               activation: str | None = None, return_stats: bool = False, out: Array | None = None,
               target: str | None = None) -> Array | tuple[Array, Array, Array]:
    """Normalize each channel: y = (x - mean) / sqrt(var + eps) * weight + bias, or the ReLU of that.

    In training, and where there are no running statistics, mean and var are those of x over all but the channel
    axis, var divided by the number n of values; else they are running_mean and running_var. (Ioffe and Szegedy 2015,
    arXiv:1502.03167, algorithms 1 and 2.)

    Parameters
    ----------
    x : array of shape (N, C), (N, C, L) or (N, C, H, W)
        The values, float32 or float64.
    running_mean, running_var : arrays of shape (C,), or both None
        Running statistics, of x's dtype. In training they are updated in place:
        running = (1 - momentum) running + momentum batch, where the batch's variance is the unbiased one, divided by
        n - 1.
    weight, bias : arrays of shape (C,), optional
        Scale and shift of each channel, 1 and 0 if they are not given.
    training : bool
        Whether the statistics are those of x.
    momentum : float
        Share of this batch in the running statistics, from 0 to 1; 1 / i for the i-th batch gives plain averages.
    eps : float
        Added to the variance; positive, or 0 where running statistics are used.
    activation : {"relu"}, optional
        What is applied to the result, in the same pass.
    return_stats : bool
        Whether to return what was used for mean and var, as `batch_norm_backward` needs.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    y : array of x's shape and dtype
        The result.
    mean, invstd : float64 arrays of shape (C,)
        With `return_stats`: mean and 1 / sqrt(var + eps). They are float64 for every dtype of x: a float32 mean would
        be wrong by more than a small standard deviation.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, a number is out of range, `out` overlaps with an input, or statistics of x are
        needed and it has less than two values a channel. Nothing has been written then.

    Notes
    -----
    Statistics take two passes, mean first, and all their sums are float64: with u = 2^-53, K = |mean| / std and n
    values a channel the relative error of var is at most (n + 3) u + (n u K)^2. Where K exceeds 2^32, the mean is
    corrected once. Values are normalized in x's dtype, the mean taken off in two parts, which keeps its float64
    accuracy: with s = sqrt(var + eps), z = (x - mean) / s and e = 1.2e-7 in float32, 2.2e-16 in float64,
    |error| <= 4 e (|z weight| + |bias|) + (e^2 + (n + 3) u) (1 + |mean| / s) (1 + |z|) |weight|. Channels where x's
    dtype has no room for that (weight / s, squares, sums or x - mean out of its range) are done in scaled float64.
    On a GPU one pass takes both statistics, of parts of 2048 values whose means and squares are then combined, mean
    first, all of it in float64 about the channel's first value f: with F = |f - mean| / std the error of var stays
    below (n + 3) u (1 + F) + (n u F)^2.
    About 8 operations a value in training, 3 in inference; x is read once if a channel's values fit into a core's
    cache (else up to three times in training), y written once (4 bytes a value in float32).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> running_mean, running_var = np.zeros(1), np.ones(1)
    >>> y = kernels.batch_norm(np.array([[1.0], [3.0]]), running_mean, running_var, training=True)
    >>> y.round(4)
    array([[-1.],
           [ 1.]])
    >>> running_mean, running_var
    (array([0.2]), array([1.1]))
    """
    momentum, eps = as_float("momentum", momentum, 0, 1), as_float("eps", eps, 0)
    if eps == 0 and (training or running_mean is None):
        raise ValueError("eps: expected a positive number where the statistics are those of x, got 0")
    return _batch_norm((x, running_mean, running_var, weight, bias), (training, activation, return_stats), target, out,
                       (momentum, eps), ("running_mean", "running_var") if training else ())


def batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array, *,
                        training: bool = True, bias: Array | None = None, activation: str | None = None,
                        needs: tuple[bool, bool, bool] = (True, True, True), target: str | None = None,
                        ) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of a loss by the arguments x, weight and bias of `batch_norm`.

    With G = grad_output, z = (x - mean) invstd, and sums and means over all but the channel axis:
    grad_bias = sum G, grad_weight = sum G z, grad_x = weight invstd (G - mean(G) - z mean(G z)). With
    `activation="relu"` G = grad_output where the result was positive, 0 elsewhere.

    Parameters
    ----------
    grad_output : array of x's shape
        Gradient by the result.
    x : array of shape (N, C), (N, C, L) or (N, C, H, W)
        The argument of `batch_norm`, float32 or float64.
    weight : array of shape (C,) or None
        The argument of `batch_norm`.
    mean, invstd : float64 arrays of shape (C,)
        What `batch_norm(..., return_stats=True)` returned.
    training : bool
        Whether mean and invstd are x's own; False where running statistics were used, which are constants:
        grad_x = weight invstd G.
    bias : array of shape (C,), optional
        The argument of `batch_norm`, which is used to find the signs of its results again, and for nothing else.
    activation : {"relu"}, optional
        The argument of `batch_norm`.
    needs : tuple of three bools
        Which of the gradients by x, weight and bias are computed.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    grad_x : array of x's shape and dtype
        Gradient by x.
    grad_weight, grad_bias : arrays of shape (C,), or None
        Gradients by weight and bias, of x's dtype; None if weight is None. What is not needed is None, too.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or `training` and there are less than two values a channel.

    Notes
    -----
    All sums are float64, and grad_weight and grad_bias are rounded once: their errors are at most e of them and
    1.1e-16 (n + 3) times the sums of |G z| and of |G|, with n values a channel and e = 1.2e-7 in float32, 2.2e-16 in
    float64. Values are formed in x's dtype, for grad_x
    |error| <= |weight| invstd (6 e (|G| + |mean(G)| + |z mean(G z)|) + 1.1e-16 (n + 3) (mean(|G|) + |z| mean(|G z|))
    + e^2 |mean invstd mean(G z)|). Channels where x's dtype has no room for that are done in scaled float64, but for
    sums of G that cancel exactly where G (x - mean) is below 1e-290.
    About 10 operations a value; grad_output and x are read once if a channel's values fit into a core's cache (else
    twice), grad_x written once (4 bytes a value in float32).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.array([[1.0], [3.0]]), np.array([2.0])
    >>> y, mean, invstd = kernels.batch_norm(x, None, None, weight, training=True, return_stats=True)
    >>> grad_x, grad_weight, grad_bias = kernels.batch_norm_backward(np.array([[0.0], [1.0]]), x, weight, mean, invstd)
    >>> grad_weight.round(4), grad_bias
    (array([1.]), array([1.]))
    """
    return _batch_norm_backward((grad_output, x, weight, mean, invstd, bias), (training, activation, needs), target)


@planned
def _batch_norm(x: Array, running_mean: Array | None, running_var: Array | None, weight: Array | None,
                bias: Array | None, training: bool, activation: str | None, return_stats: bool,
                target: str | None) -> Plan:
    check_floats(x=x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    check_rank("x", x, 2, 3, 4, layout="(N, C), (N, C, L) or (N, C, H, W)")
    if (running_mean is None) is not (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{missing}: expected running_mean and running_var both or neither, got None")
    _check_channels(x.shape, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    of_batch = bool(training) or running_mean is None
    if of_batch:
        _check_several(x)
    run = bound(implementation(__name__, target, x), "batch_norm", x, of_batch=of_batch, relu=is_relu(activation),
                return_stats=bool(return_stats))
    return Plan(run, result_of(x.shape, x.dtype, x), operations=(8 if of_batch else 3) * x.size)


@planned
def _batch_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array,
                         bias: Array | None, training: bool, activation: str | None, needs: tuple[bool, bool, bool],
                         target: str | None) -> Plan:
    check_floats(grad_output=grad_output, x=x, weight=weight, bias=bias)
    check_rank("x", x, 2, 3, 4, layout="(N, C), (N, C, L) or (N, C, H, W)")
    check_shape("grad_output", grad_output, x.shape)
    check_floats(mean=mean, invstd=invstd)
    check_present("invstd", invstd)
    check_side("mean", mean, "x", x)
    if mean.dtype != _F64:
        raise TypeError("mean: expected float64 as batch_norm(..., return_stats=True) returns for every dtype, "
                        f"got {mean.dtype}")
    _check_channels(x.shape, mean=mean, invstd=invstd, weight=weight, bias=bias)
    relu = is_relu(activation)
    check_needs(needs)
    if training:
        _check_several(x)
    affine = weight is not None
    run = bound(implementation(__name__, target, x), "batch_norm_backward", x, training=bool(training), relu=relu,
                needs=(bool(needs[0]), affine and bool(needs[1]), affine and bool(needs[2])))
    return Plan(run, operations=10 * x.size)


def as_channels(x: Array) -> Array:
    """View x as (N, C, L), L the number of values that a sample has in a channel."""
    return x.reshape(x.shape[0], x.shape[1], -1 if x.size else prod(x.shape[2:]))


def _check_channels(x: tuple[int, ...], **arrays: Array | None) -> None:
    for name, array in arrays.items():
        if array is not None and array.shape != x[1:2]:
            raise ValueError(f"{name}: expected shape {x[1:2]}, got {array.shape}" + channels_last(x, array.size))


def _check_several(x: Array) -> None:
    if x.size < 2 * x.shape[1] or len(x) == 0:
        raise ValueError(f"x: expected more than one value a channel to take statistics of, got shape {x.shape}")
