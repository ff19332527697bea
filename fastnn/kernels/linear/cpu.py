"""Linear maps, and products of matrices in batches, as products of packed panels: see `fastnn.kernels._cpu.gemm`.

Linear maps of few weights are loops as in the formula.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastnn._checks import Array
from fastnn.kernels._cpu.gemm import Products, panels, product_of, suit_one_tile
from fastnn.kernels._cpu.launch import block_kernel
from fastnn.kernels._cpu.tuning import LINEAR_FEW_WEIGHTS, LINEAR_ROWS
from fastnn.kernels._memory import empty
from fastnn.kernels._outputs import EMPTY
from fastnn.kernels._plans import Gradients, Needs
from fastnn.kernels.kept import KeptWeight


def plan_linear(x: Array, weight: Array, relu: bool) -> Callable[..., None]:
    """Return a function (x, weight, bias, kept, y)."""
    none = EMPTY[x.dtype]
    if weight.size <= LINEAR_FEW_WEIGHTS:
        few, below = _multiply_rows.launch(panels(len(x), LINEAR_ROWS), work=weight.size * len(x)), int(relu)

        def of_few(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
            few(x, weight, none if bias is None else bias, below, y)

        return of_few
    if len(x) == 0:
        return _nothing
    product = Products(product_of(x, True, weight, True, relu))

    def linear(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
        packed = (kept.made(weight, product.width, product.pack_b) if kept is not None and kept.constant else None)
        product(x, weight, none if bias is None else bias, y, packed)

    return linear


def _nothing(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array) -> None:
    """The product of no rows."""


def plan_linear_backward(grad_output: Array, x: Array, weight: Array, needs: Needs) -> Callable[..., Gradients]:
    """Return a function (grad_output, x, weight) that returns the gradients."""
    none, no_matrix = EMPTY[x.dtype], np.empty((0, 0), x.dtype)
    few = weight.size <= LINEAR_FEW_WEIGHTS
    if few and len(x) <= LINEAR_ROWS:
        launch = _gradients.launch(1, work=0)

        def of_few(grad_output: Array, x: Array, weight: Array) -> Gradients:
            grad_x = np.empty(x.shape, x.dtype) if needs[0] else None
            grad_weight = np.empty(weight.shape, x.dtype) if needs[1] else None
            grad_bias = np.empty(len(weight), x.dtype) if needs[2] else None
            launch(grad_output, x, weight, no_matrix if grad_x is None else grad_x,
                   no_matrix if grad_weight is None else grad_weight, none if grad_bias is None else grad_bias)
            return grad_x, grad_weight, grad_bias

        return of_few
    if len(x) == 0:
        return lambda grad_output, x, weight: (
            np.empty(x.shape, x.dtype) if needs[0] else None, np.zeros_like(weight) if needs[1] else None,
            np.zeros(len(weight), x.dtype) if needs[2] else None)
    by_x, by_weight = product_of(grad_output, True, weight, False), product_of(grad_output, False, x, False)
    sums = len(weight) if needs[2] else 0
    # As for few rows where weights are few: the number of rows decides no bits.
    by_few = _gradients.launch(panels(len(x), LINEAR_ROWS), work=weight.size * len(x)) if few and needs[0] else None
    both = first = second = None
    if needs[0] and needs[1] and not few and suit_one_tile(by_x, by_weight):
        both = Products(by_x, by_weight, sums=sums)
    else:
        first = Products(by_x) if needs[0] and not few else None
        second = Products(*[by_weight] * needs[1], dtype=x.dtype, sums=sums) if needs[1] or needs[2] else None

    def linear_backward(grad_output: Array, x: Array, weight: Array) -> Gradients:
        grad_x = empty(x.shape, x.dtype) if needs[0] else None
        grad_weight = empty(weight.shape, x.dtype) if needs[1] else None
        grad_bias = np.empty(len(weight), x.dtype) if needs[2] else None
        if by_few is not None:
            by_few(grad_output, x, weight, grad_x, no_matrix, none)
        if both is not None:
            both(grad_output, weight, none, grad_x, None, grad_output, x, grad_weight, grad_output, grad_bias)
        if first is not None:
            first(grad_output, weight, none, grad_x)
        if second is not None:
            second(grad_output, x, none, grad_weight, None, None, None, None, grad_output, grad_bias)
        return grad_x, grad_weight, grad_bias

    return linear_backward


# --- batches ---------------------------------------------------------------------------------------------------------


def plan_bmm(input: Array, mat2: Array) -> Callable[..., None]:
    """Return a function (input, mat2, y)."""
    multiply = _plan_batch(input, True, mat2, False)
    return lambda input, mat2, y: multiply(input, mat2, EMPTY[y.dtype], y)


def plan_bmm_backward(grad_output: Array, input: Array, mat2: Array, needs: tuple[bool, bool],
                      ) -> Callable[..., tuple[Array | None, Array | None]]:
    """Return a function (grad_output, input, mat2) that returns the gradients."""
    none, dtype = EMPTY[input.dtype], input.dtype
    by_input, by_mat2 = _plan_batch(grad_output, True, mat2, True), _plan_batch(input, False, grad_output, False)

    def bmm_backward(grad_output: Array, input: Array, mat2: Array) -> tuple[Array | None, Array | None]:
        grad_input = grad_mat2 = None
        if needs[0]:
            grad_input = empty(input.shape, dtype)
            by_input(grad_output, mat2, none, grad_input)
        if needs[1]:
            grad_mat2 = empty(mat2.shape, dtype)
            by_mat2(input, grad_output, none, grad_mat2)
        return grad_input, grad_mat2

    return bmm_backward


def _plan_batch(a: Array, a_by_rows: bool, b: Array, b_by_rows: bool) -> Callable[..., None]:
    """Return a function (a, b, bias, y); see `product_of`. Where there is nothing to sum up, results are 0."""
    if a.size and b.size:
        return Products(product_of(a, a_by_rows, b, b_by_rows)).__call__
    return lambda a, b, bias, y: y.fill(0)


# --- few weights -----------------------------------------------------------------------------------------------------


@block_kernel(writes="y", sums=True, typed_by="x")
def _multiply_rows(block: int, x: Array, weight: Array, bias: Array, relu: int, y: Array) -> None:
    for n in range(block * LINEAR_ROWS, min(len(x), block * LINEAR_ROWS + LINEAR_ROWS)):
        for o in range(len(weight)):
            total = x.dtype.type(0)
            for i in range(x.shape[1]):
                total += x[n, i] * weight[o, i]
            if bias.size:
                total += bias[o]
            y[n, o] = 0 if relu and total < 0 else total


@block_kernel(writes="grad_x grad_weight grad_bias", sums=True, typed_by="x")
def _gradients(block: int, grad_output: Array, x: Array, weight: Array, grad_x: Array, grad_weight: Array,
               grad_bias: Array) -> None:
    """The gradient by one block of rows, and those by the weights and the bias where there is no other block."""
    for n in range(block * LINEAR_ROWS, min(len(grad_x), block * LINEAR_ROWS + LINEAR_ROWS)):
        for i in range(grad_x.shape[1]):
            grad_x[n, i] = 0
        for o in range(len(weight)):
            for i in range(grad_x.shape[1]):
                grad_x[n, i] += grad_output[n, o] * weight[o, i]
    for o in range(len(grad_weight)):
        for i in range(x.shape[1]):
            total = 0.0
            for n in range(len(x)):
                total += np.float64(grad_output[n, o]) * x[n, i]
            grad_weight[o, i] = total
    for o in range(grad_bias.size):
        total = 0.0
        for n in range(len(x)):
            total += np.float64(grad_output[n, o])
        grad_bias[o] = total
