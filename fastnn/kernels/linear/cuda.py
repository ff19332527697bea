"""Linear maps and products of matrices on a GPU: products of three forms, and sums of rows."""

from __future__ import annotations

from fastnn import _device
from fastnn._checks import Array
from fastnn._device import cuda
from fastnn.kernels._gpu.gemm import Form, Layout, product
from fastnn.kernels._gpu.sums import sum_rows
from fastnn.kernels.kept import KeptWeight

Numbers = tuple[int, ...]


def _form(a_along_k: bool, b_along_k: bool) -> Form:
    """A product of matrices as they lie; `numbers` are n, k and the steps of a along k, of b along k and along n."""

    @cuda.jit(device=True)
    def prepare(phase: int, numbers: Numbers) -> Numbers:
        return numbers

    @cuda.jit(device=True)
    def depth(k: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int, int]:
        return k * state[2], k * state[3], 0, 0

    @cuda.jit(device=True)
    def column(n: int, state: Numbers, numbers: Numbers) -> tuple[int, int, int]:
        return n * state[4], 0, 0

    @cuda.jit(device=True)
    def result(n: int, state: Numbers, numbers: Numbers) -> int:
        return n

    return Form(prepare, depth, column, result, checked=False, a_along_k=a_along_k, b_along_k=b_along_k,
                bias_of_rows=False)


# For a and b whether neighbours in memory are those along k.
_ALONG_BOTH, _ALONG_A, _ALONG_NONE = _form(True, True), _form(True, False), _form(False, False)


def linear(x: Array, weight: Array, bias: Array | None, kept: KeptWeight | None, y: Array, relu: bool) -> None:
    count, inputs = x.shape
    outputs = len(weight)
    product(_ALONG_BOTH, x, weight, bias, y, (outputs, inputs, 1, 1, inputs), (count, outputs, inputs),
            Layout(inputs, 0, 0, outputs, 0), relu=relu)


def linear_backward(grad_output: Array, x: Array, weight: Array, needs: tuple[bool, bool, bool],
                    ) -> tuple[Array | None, Array | None, Array | None]:
    (count, inputs), outputs = x.shape, len(weight)
    grad_x = grad_weight = grad_bias = None
    if needs[0]:
        grad_x = _device.xp.empty(x.shape, x.dtype)
        product(_ALONG_A, grad_output, weight, None, grad_x, (inputs, outputs, 1, inputs, 1), (count, inputs, outputs),
                Layout(outputs, 0, 0, inputs, 0))
    if needs[1]:
        grad_weight = _device.xp.empty(weight.shape, x.dtype)
        product(_ALONG_NONE, grad_output, x, None, grad_weight, (inputs, count, outputs, inputs, 1),
                (outputs, inputs, count), Layout(1, 0, 0, inputs, 0), free=True)
    if needs[2]:
        grad_bias = sum_rows(grad_output, x.dtype)
    return grad_x, grad_weight, grad_bias


def bmm(input: Array, mat2: Array, y: Array) -> None:
    batch, rows, depth = input.shape
    columns = mat2.shape[2]
    if not depth:
        y[...] = 0
        return
    product(_ALONG_A, input, mat2, None, y, (columns, depth, 1, columns, 1), (rows, columns, depth),
            Layout(depth, rows * depth, depth * columns, columns, rows * columns), groups=batch)


def bmm_backward(grad_output: Array, input: Array, mat2: Array,
                 needs: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    batch, rows, depth = input.shape
    columns = mat2.shape[2]
    grad_input = grad_mat2 = None
    if needs[0]:
        grad_input = _device.xp.empty(input.shape, input.dtype)
        if columns:
            product(_ALONG_BOTH, grad_output, mat2, None, grad_input, (depth, columns, 1, 1, columns),
                    (rows, depth, columns),
                    Layout(columns, rows * columns, depth * columns, depth, rows * depth), groups=batch)
        else:
            grad_input[...] = 0
    if needs[1]:
        grad_mat2 = _device.xp.empty(mat2.shape, mat2.dtype)
        if rows:
            product(_ALONG_NONE, input, grad_output, None, grad_mat2, (columns, rows, depth, columns, 1),
                    (depth, columns, rows),
                    Layout(1, rows * depth, rows * columns, columns, depth * columns), groups=batch)
        else:
            grad_mat2[...] = 0
    return grad_input, grad_mat2
