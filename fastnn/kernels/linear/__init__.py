"""Linear maps: y = x weight^T + bias."""

from __future__ import annotations

from fastnn._checks import Array, check_floats, check_needs, check_rank, check_shape
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation
from fastnn.kernels.kept import KeptWeight, check_kept

__all__ = ["linear", "linear_backward"]


def linear(x: Array, weight: Array, bias: Array | None = None, *, kept: KeptWeight | None = None,
           out: Array | None = None, target: str | None = None) -> Array:
    """Multiply rows by a matrix and add a bias: y[n, o] = sum_i x[n, i] weight[o, i] + bias[o].

    Parameters
    ----------
    x : array of shape (N, I)
        Rows, float32 or float64.
    weight : array of shape (O, I)
        The matrix, one row an output, of x's dtype.
    bias : array of shape (O,), optional
        Added to every row.
    kept : KeptWeight, optional
        Where the weight is kept as it was packed, for the next call, if it is a `KeptWeight(constant=True)`. No result
        depends on it. On "cuda" it stays empty.
    out : array of shape (N, O), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (N, O)
        The result, of x's dtype.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or `out` overlaps with an input.

    Notes
    -----
    2 N O I operations. On "cpu" and "cuda", |error| <= (min(I, 512) + I / 512 + 1) eps sum_i |x weight| + eps |bias|
    for each element: sums of 512 terms, each in order of i, are added up. Products and sums of them that leave the
    dtype's range on the way do so for good. A row's bits do not depend on the other rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([0.5, 0.0]))
    array([[11.5, 17. ]])
    """
    check_kept(kept)
    return _linear((x, weight, bias), (), target, out, (kept,))


def linear_backward(grad_output: Array, x: Array, weight: Array, *, needs: tuple[bool, bool, bool] = (True, True, True),
                    target: str | None = None) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of a loss by the arguments of `linear`.

    Parameters
    ----------
    grad_output : array of shape (N, O)
        Gradient by the result.
    x, weight : arrays
        The arguments of `linear`.
    needs : tuple of three bools
        Which of the gradients by x, weight and bias to compute.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    grad_x, grad_weight, grad_bias : arrays or None
        With G = grad_output: G weight, G^T x and the sum of G's rows; None for what is not needed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.linear_backward(np.array([[1.0]]), np.array([[2.0, 3.0]]), np.array([[4.0, 5.0]]))
    (array([[4., 5.]]), array([[2., 3.]]), array([1.]))
    """
    return _linear_backward((grad_output, x, weight), (needs,), target)


@planned
def _linear(x: Array, weight: Array, bias: Array | None, target: str | None) -> Plan:
    check_floats(x=x, weight=weight, bias=bias)
    _check(x, weight)
    if bias is not None:
        check_shape("bias", bias, weight.shape[:1])
    return Plan(bound(implementation(__name__, target, x), "linear", x, weight),
                result_of((len(x), len(weight)), x.dtype, x), operations=2 * len(x) * weight.size)


@planned
def _linear_backward(grad_output: Array, x: Array, weight: Array, needs: tuple[bool, bool, bool],
                     target: str | None) -> Plan:
    check_floats(grad_output=grad_output, x=x, weight=weight)
    _check(x, weight)
    check_shape("grad_output", grad_output, (len(x), len(weight)))
    check_needs(needs)
    return Plan(bound(implementation(__name__, target, x), "linear_backward", grad_output, x, weight, needs=needs),
                operations=2 * len(x) * weight.size * sum(map(bool, needs[:2])))


def _check(x: Array, weight: Array) -> None:
    check_rank("x", x, 2, layout="(N, I)")
    check_rank("weight", weight, 2, layout="(O, I)")
    if weight.shape[1] != x.shape[1] or x.shape[1] == 0 or len(weight) == 0:
        raise ValueError(f"weight: expected shape (O, {x.shape[1]}) for x of shape {x.shape}, none of them 0, "
                         f"got {weight.shape}")
