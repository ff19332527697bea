"""Linear maps, y = x weight^T + bias, and products of matrices in batches."""

from __future__ import annotations

from fastnn._checks import Array, check_floats, check_needs, check_rank, check_shape, is_relu
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation
from fastnn.kernels.kept import KeptWeight, check_kept

__all__ = ["bmm", "bmm_backward", "linear", "linear_backward"]


def linear(x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None,
           kept: KeptWeight | None = None, out: Array | None = None, target: str | None = None) -> Array:
    """Multiply rows by a matrix and add a bias, y[n, o] = sum_i x[n, i] weight[o, i] + bias[o]; or the ReLU of that.

    Parameters
    ----------
    x : array of shape (N, I)
        Rows, float32 or float64.
    weight : array of shape (O, I)
        The matrix, one row an output, of x's dtype.
    bias : array of shape (O,), optional
        Added to every row.
    activation : {"relu"}, optional
        What is applied to the result, in the same pass. Its gradient is `relu_backward`'s, of the result.
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
    return _linear((x, weight, bias), (activation,), target, out, (kept,))


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


def bmm(input: Array, mat2: Array, *, out: Array | None = None, target: str | None = None) -> Array:
    """Multiply matrices, a pair for each index of a batch: y[b] = input[b] mat2[b].

    Parameters
    ----------
    input : array of shape (B, N, M)
        The left matrices, float32 or float64.
    mat2 : array of shape (B, M, P)
        The right ones, of input's dtype.
    out : array of shape (B, N, P), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (B, N, P)
        The products, of input's dtype; 0 where M is 0.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or `out` overlaps with an input.

    Notes
    -----
    2 B N M P operations. On "cpu" and "cuda", |error| <= (min(M, 512) + M / 512 + 1) eps sum_m |input mat2| for each
    element: sums of 512 terms, each in order of m, are added up. Products and sums of them that leave the dtype's range
    on the way do so for good. The bits of a row of a product do not depend on the other rows, nor on other matrices.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.bmm(np.array([[[1.0, 2.0]], [[3.0, 4.0]]]), np.array([[[5.0], [6.0]], [[7.0], [8.0]]]))
    array([[[17.]],
    <BLANKLINE>
           [[53.]]])
    """
    return _bmm((input, mat2), (), target, out)


def bmm_backward(grad_output: Array, input: Array, mat2: Array, *, needs: tuple[bool, bool] = (True, True),
                 target: str | None = None) -> tuple[Array | None, Array | None]:
    """Return the gradients of a loss by the arguments of `bmm`.

    Parameters
    ----------
    grad_output : array of shape (B, N, P)
        Gradient by the result.
    input, mat2 : arrays
        The arguments of `bmm`.
    needs : tuple of two bools
        Which of the gradients by input and mat2 to compute.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    grad_input, grad_mat2 : arrays or None
        With G = grad_output: G[b] mat2[b]^T and input[b]^T G[b]; None for what is not needed.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.bmm_backward(np.array([[[1.0]]]), np.array([[[2.0, 3.0]]]), np.array([[[4.0], [5.0]]]))
    (array([[[4., 5.]]]), array([[[2.],
            [3.]]]))
    """
    return _bmm_backward((grad_output, input, mat2), (needs,), target)


@planned
def _linear(x: Array, weight: Array, bias: Array | None, activation: str | None, target: str | None) -> Plan:
    check_floats(x=x, weight=weight, bias=bias)
    _check(x, weight)
    if bias is not None:
        check_shape("bias", bias, weight.shape[:1])
    return Plan(bound(implementation(__name__, target, x), "linear", x, weight, relu=is_relu(activation)),
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


@planned
def _bmm(input: Array, mat2: Array, target: str | None) -> Plan:
    check_floats(input=input, mat2=mat2)
    batch, rows, depth, columns = _sizes(input, mat2)
    return Plan(bound(implementation(__name__, target, input), "bmm", input, mat2),
                result_of((batch, rows, columns), input.dtype, input), operations=2 * batch * rows * depth * columns)


@planned
def _bmm_backward(grad_output: Array, input: Array, mat2: Array, needs: tuple[bool, bool], target: str | None) -> Plan:
    check_floats(grad_output=grad_output, input=input, mat2=mat2)
    batch, rows, depth, columns = _sizes(input, mat2)
    check_shape("grad_output", grad_output, (batch, rows, columns))
    check_needs(needs, ("input", "mat2"))
    return Plan(bound(implementation(__name__, target, input), "bmm_backward", grad_output, input, mat2, needs=needs),
                operations=2 * batch * rows * depth * columns * sum(map(bool, needs)))


def _sizes(input: Array, mat2: Array) -> tuple[int, int, int, int]:
    """Check the matrices of `bmm`, and return B, N, M and P."""
    check_rank("input", input, 3, layout="(B, N, M)")
    check_rank("mat2", mat2, 3, layout="(B, M, P)")
    if input.shape[::2] != mat2.shape[:2]:
        batch, _, depth = input.shape
        raise ValueError(f"mat2: expected shape ({batch}, {depth}, P) for input of shape {input.shape}, got "
                         f"{mat2.shape}")
    return *input.shape, mat2.shape[2]
