"""Normalization: values brought to mean 0 and variance 1, then scaled and shifted.

The values are those of a channel (batch), of a sample or a token (layer), of a group of a sample's channels (group).
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np

from fastnn._checks import (
    Array,
    as_float,
    as_int,
    channels_last,
    check_floats,
    check_needs,
    check_present,
    check_rank,
    check_shape,
    check_side,
    is_relu,
    is_sequence,
)
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Gradients as Gradients
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation

__all__ = ["batch_norm", "batch_norm_backward", "group_norm", "group_norm_backward", "layer_norm",
           "layer_norm_backward"]

Statistics: TypeAlias = tuple[Array, Array] | None                              # mean and 1 / sqrt(var + eps)
_F64 = np.dtype(np.float64)


class Rows(NamedTuple):
    """How layer and group normalization see x: rows of channels of places, each row with statistics of its own."""

    rows: int
    groups: int                             # of parameters: row r has those of group r % groups
    channels: int                           # of a row, each with a weight and a bias
    places: int                             # of a channel


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


def layer_norm(x: Array, normalized_shape: int | tuple[int, ...], weight: Array | None = None,
               bias: Array | None = None, *, eps: float = 1e-5, return_stats: bool = False, out: Array | None = None,
               target: str | None = None) -> Array | tuple[Array, Array, Array]:
    """Normalize the last dimensions of x: y = (x - mean) / sqrt(var + eps) * weight + bias.

    mean and var are those of the n values that share all indices but the last ones, var divided by n: of a token's
    features, for example. (Ba, Kiros and Hinton 2016, arXiv:1607.06450, equations 3 and 4.)

    Parameters
    ----------
    x : array of shape (..., *normalized_shape)
        The values, float32 or float64.
    normalized_shape : int or tuple of ints
        The shape of what is normalized, x's last dimensions.
    weight, bias : arrays of shape normalized_shape, optional
        Scale and shift of each place, 1 and 0 if they are not given.
    eps : float
        Added to the variance; positive.
    return_stats : bool
        Whether to return the statistics, as `layer_norm_backward` needs.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    y : array of x's shape and dtype
        The result.
    mean, invstd : float64 arrays of x's shape without normalized_shape
        With `return_stats`: mean and 1 / sqrt(var + eps).

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, normalized_shape has no values, eps is not positive, or `out` overlaps with an
        input.

    Notes
    -----
    Statistics take two passes, mean first. They and the result are formed in float64 and rounded once: with
    s = sqrt(var + eps), z = (x - mean) / s and e = 1.2e-7 in float32, 2.2e-16 in float64,
    |error| <= e / 2 |y| + 1.1e-16 ((n + 8) (1 + |mean| / s) (1 + |z|) |weight| + 2 |bias|). float64 values whose sums
    or squares leave the range, or whose mean is 2^32 times their deviation, have their statistics taken again, scaled;
    only where z weight alone is beyond the range, so may the result be, whatever the bias.
    About 8 operations a value; each is read three times, once from memory if a row fits into a core's cache, and
    written once (4 bytes a value in float32).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.layer_norm(np.array([[1.0, 3.0], [-5.0, 5.0]]), 2).round(3)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    return _layer_norm((x, weight, bias), (normalized_shape, return_stats), target, out, (_positive(eps),))


def layer_norm_backward(grad_output: Array, x: Array, normalized_shape: int | tuple[int, ...], weight: Array | None,
                        mean: Array, invstd: Array, *, needs: tuple[bool, bool, bool] = (True, True, True),
                        target: str | None = None) -> Gradients:
    """Return the gradients of a loss by the arguments x, weight and bias of `layer_norm`.

    With G = grad_output, z = (x - mean) invstd, and means over a row, what is normalized together:
    grad_x = invstd (G weight - mean(G weight) - z mean(G weight z)); with sums over all rows, grad_weight = sum G z,
    grad_bias = sum G.

    Parameters
    ----------
    grad_output : array of x's shape
        Gradient by the result.
    x : array of shape (..., *normalized_shape)
        The argument of `layer_norm`, float32 or float64.
    normalized_shape : int or tuple of ints
        The argument of `layer_norm`.
    weight : array of shape normalized_shape, or None
        The argument of `layer_norm`.
    mean, invstd : float64 arrays of x's shape without normalized_shape
        What `layer_norm(..., return_stats=True)` returned.
    needs : tuple of three bools
        Which of the gradients by x, weight and bias are computed.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    grad_x : array of x's shape and dtype
        Gradient by x.
    grad_weight, grad_bias : arrays of shape normalized_shape, or None
        Gradients by weight and bias, of x's dtype; None if weight is None. What is not needed is None, too.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Notes
    -----
    All is formed in float64 and rounded once: with rows of n values, N of them, u = 1.1e-16 and e = 1.2e-7 in float32,
    2.2e-16 in float64, and H = G weight, grad_x is off by at most
    e / 2 |grad_x| + u invstd (8 (|H| + |mean(H)| + |z mean(H z)|) + (n + 6) (mean(|H|) + |z| mean(|H z|))),
    grad_weight and grad_bias by e / 2 of themselves and u (N + 6) times the sums of |G z| and of |G|. What leaves the
    range of float64 on the way is scaled.
    About 14 operations a value; grad_output and x are read once from memory if a row of each fits into a core's cache,
    grad_x is written once (4 bytes a value in float32).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.array([[1.0, 3.0], [-5.0, 5.0]]), np.array([2.0, 1.0])
    >>> y, mean, invstd = kernels.layer_norm(x, 2, weight, return_stats=True)
    >>> grad_x, grad_weight, grad_bias = kernels.layer_norm_backward(np.ones((2, 2)), x, 2, weight, mean, invstd)
    >>> grad_weight.round(3), grad_bias
    (array([-2.,  2.]), array([2., 2.]))
    """
    return _layer_norm_backward((grad_output, x, weight, mean, invstd), (normalized_shape, needs), target)


def group_norm(x: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5,
               return_stats: bool = False, out: Array | None = None, target: str | None = None,
               ) -> Array | tuple[Array, Array, Array]:
    """Normalize groups of each sample's channels: y = (x - mean) / sqrt(var + eps) * weight + bias.

    mean and var are those of the n values that C / num_groups channels in a row have in a sample, at all places, var
    divided by n. (Wu and He 2018, arXiv:1803.08494, equations 1, 2, 6 and 7.) One group is layer normalization of a
    sample with a weight a channel, C groups are instance normalization.

    Parameters
    ----------
    x : array of shape (N, C, ...)
        The values, float32 or float64.
    num_groups : int
        How many groups the channels make; it divides C.
    weight, bias : arrays of shape (C,), optional
        Scale and shift of each channel, 1 and 0 if they are not given.
    eps : float
        Added to the variance; positive.
    return_stats : bool
        Whether to return the statistics, as `group_norm_backward` needs.
    out : array of x's shape, optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    y : array of x's shape and dtype
        The result.
    mean, invstd : float64 arrays of shape (N, num_groups)
        With `return_stats`: mean and 1 / sqrt(var + eps).

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, num_groups does not divide C, a group has no values, eps is not positive, or
        `out` overlaps with an input.

    Notes
    -----
    Errors and cost are those of `layer_norm`, with n values a group.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x = np.array([[[1.0], [3.0], [-5.0], [5.0]]])
    >>> kernels.group_norm(x, 2).round(3).ravel()
    array([-1.,  1., -1.,  1.])
    """
    return _group_norm((x, weight, bias), (num_groups, return_stats), target, out, (_positive(eps),))


def group_norm_backward(grad_output: Array, x: Array, num_groups: int, weight: Array | None, mean: Array,
                        invstd: Array, *, needs: tuple[bool, bool, bool] = (True, True, True),
                        target: str | None = None) -> Gradients:
    """Return the gradients of a loss by the arguments x, weight and bias of `group_norm`.

    With G = grad_output, z = (x - mean) invstd, and means over a sample's group:
    grad_x = invstd (G weight - mean(G weight) - z mean(G weight z)); with sums over a channel's places in all samples,
    grad_weight = sum G z, grad_bias = sum G.

    Parameters
    ----------
    grad_output : array of x's shape
        Gradient by the result.
    x : array of shape (N, C, ...)
        The argument of `group_norm`, float32 or float64.
    num_groups : int
        The argument of `group_norm`.
    weight : array of shape (C,) or None
        The argument of `group_norm`.
    mean, invstd : float64 arrays of shape (N, num_groups)
        What `group_norm(..., return_stats=True)` returned.
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
        If dtypes or shapes do not fit.

    Notes
    -----
    Errors and cost are those of `layer_norm_backward`, with n values a group, and N samples times places.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.array([[[1.0], [3.0], [-5.0], [5.0]]]), np.array([2.0, 1.0, 1.0, 1.0])
    >>> y, mean, invstd = kernels.group_norm(x, 2, weight, return_stats=True)
    >>> grad_x, grad_weight, grad_bias = kernels.group_norm_backward(np.ones((1, 4, 1)), x, 2, weight, mean, invstd)
    >>> grad_weight.round(3), grad_bias
    (array([-1.,  1., -1.,  1.]), array([1., 1., 1., 1.]))
    """
    return _group_norm_backward((grad_output, x, weight, mean, invstd), (num_groups, needs), target)


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


@planned
def _layer_norm(x: Array, weight: Array | None, bias: Array | None, normalized_shape: int | tuple[int, ...],
                return_stats: bool, target: str | None) -> Plan:
    check_floats(x=x, weight=weight, bias=bias)
    rows, shape, before = _layer_rows(x, normalized_shape)
    _check_parameters(shape, weight=weight, bias=bias)
    return _plan_rows(x, rows, before, return_stats, target)


@planned
def _layer_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array,
                         normalized_shape: int | tuple[int, ...], needs: tuple[bool, bool, bool],
                         target: str | None) -> Plan:
    check_floats(grad_output=grad_output, x=x, weight=weight)
    check_present("x", x)
    rows, shape, before = _layer_rows(x, normalized_shape)
    _check_parameters(shape, weight=weight)
    return _plan_rows_backward(grad_output, x, weight, mean, invstd, rows, before, needs, target)


@planned
def _group_norm(x: Array, weight: Array | None, bias: Array | None, num_groups: int, return_stats: bool,
                target: str | None) -> Plan:
    check_floats(x=x, weight=weight, bias=bias)
    rows = _group_rows(x, num_groups)
    _check_parameters(x.shape[1:2], weight=weight, bias=bias)
    return _plan_rows(x, rows, (len(x), rows.groups), return_stats, target)


@planned
def _group_norm_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array,
                         num_groups: int, needs: tuple[bool, bool, bool], target: str | None) -> Plan:
    check_floats(grad_output=grad_output, x=x, weight=weight)
    check_present("x", x)
    rows = _group_rows(x, num_groups)
    _check_parameters(x.shape[1:2], weight=weight)
    return _plan_rows_backward(grad_output, x, weight, mean, invstd, rows, (len(x), rows.groups), needs, target)


def _layer_rows(x: Array, normalized_shape: int | tuple[int, ...]) -> tuple[Rows, tuple[int, ...], tuple[int, ...]]:
    """Return x's rows, the shape of one, and that of their statistics."""
    sizes = normalized_shape if is_sequence(normalized_shape) else (normalized_shape,)
    shape = tuple([as_int("normalized_shape", size, 1) for size in sizes])
    if not shape:
        raise ValueError("normalized_shape: expected at least one dimension, got ()")
    before = x.shape[:-len(shape)]
    if x.shape[len(before):] != shape:
        raise ValueError(f"x: expected a shape that ends with normalized_shape, {shape}, got {x.shape}")
    return Rows(prod(before), 1, prod(shape), 1), shape, before


def _group_rows(x: Array, num_groups: int) -> Rows:
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 dimensions (N, C, ...), got shape {x.shape}")
    groups, channels, places = as_int("num_groups", num_groups, 1), x.shape[1], prod(x.shape[2:])
    if channels % groups:
        raise ValueError(f"num_groups: expected a divisor of the {channels} channels that x of shape {x.shape} has, "
                         f"got {groups}")
    if channels * places == 0:
        raise ValueError(f"x: expected at least one value a group to take statistics of, got shape {x.shape}")
    return Rows(len(x) * groups, groups, channels // groups, places)


def _check_parameters(shape: tuple[int, ...], **arrays: Array | None) -> None:
    for name, array in arrays.items():
        if array is not None:
            check_shape(name, array, shape)


def _plan_rows(x: Array, rows: Rows, shape: tuple[int, ...], return_stats: bool, target: str | None) -> Plan:
    """Plan the normalization of rows, whose statistics are returned in a shape."""
    run = bound(implementation(__name__, target, x), "normalize_rows", x, rows=rows)

    def normalize(x: Array, weight: Array | None, bias: Array | None, eps: float, y: Array) -> Statistics:
        mean, invstd = run(x, weight, bias, eps, y)
        return (mean.reshape(shape), invstd.reshape(shape)) if return_stats else None

    return Plan(normalize, result_of(x.shape, x.dtype, x), operations=8 * x.size)


def _plan_rows_backward(grad_output: Array, x: Array, weight: Array | None, mean: Array, invstd: Array, rows: Rows,
                        shape: tuple[int, ...], needs: tuple[bool, bool, bool], target: str | None) -> Plan:
    check_shape("grad_output", grad_output, x.shape)
    for name, array in (("mean", mean), ("invstd", invstd)):
        check_present(name, array)
        check_side(name, array, "x", x)
        if array.dtype != _F64:
            raise TypeError(f"{name}: expected float64 as return_stats=True returns for every dtype, got {array.dtype}")
        check_shape(name, array, shape)
    check_needs(needs)
    affine = weight is not None
    run = bound(implementation(__name__, target, x), "normalize_rows_backward", x, rows=rows,
                needs=(bool(needs[0]), affine and bool(needs[1]), affine and bool(needs[2])))
    return Plan(run, operations=14 * x.size)


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


def _positive(eps: float) -> float:
    eps = as_float("eps", eps, 0)
    if eps == 0:
        raise ValueError("eps: expected a positive number, got 0")
    return eps
