"""Activations and softmax."""

from __future__ import annotations

from fastnn import kernels
from fastnn._checks import Array, as_float, as_int
from fastnn.kernels.activation import as_beta_and_threshold
from fastnn.nn.module import Backward, Module, once


class ReLU(Module):
    """max(x, 0) of each element.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = kernels.relu(x)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.relu_backward(grad_y, y) if input_grad else None

        return y, backward


class LeakyReLU(Module):
    """x where x > 0, and negative_slope x elsewhere.

    Parameters
    ----------
    negative_slope : float
        The slope left of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.LeakyReLU(0.5)(np.array([-1.0, 2.0]))
    array([-0.5,  2. ])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = as_float("negative_slope", negative_slope)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        slope = self.negative_slope

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.leaky_relu_backward(grad_y, x, slope) if input_grad else None

        return kernels.leaky_relu(x, slope), backward


class Sigmoid(Module):
    """1 / (1 + exp(-x)) of each element.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.Sigmoid()(np.array([-1000.0, 0.0]))
    array([0. , 0.5])
    """

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = kernels.sigmoid(x)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.sigmoid_backward(grad_y, y) if input_grad else None

        return y, backward


class Tanh(Module):
    """The hyperbolic tangent of each element.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.Tanh()(np.array([-1000.0, 0.0]))
    array([-1.,  0.])
    """

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = kernels.tanh(x)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.tanh_backward(grad_y, y) if input_grad else None

        return y, backward


class GELU(Module):
    """x times the probability that a standard normal number is below x; see `fastnn.kernels.gelu`.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        The formula.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.GELU()(np.array([-1.0, 1.0])).round(4)
    array([-0.1587,  0.8413])
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        approximate = self.approximate

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.gelu_backward(grad_y, x, approximate) if input_grad else None

        return kernels.gelu(x, approximate), backward


class SiLU(Module):
    """x times its sigmoid, also called swish.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.SiLU()(np.array([-1.0, 1.0])).round(4)
    array([-0.2689,  0.7311])
    """

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.silu_backward(grad_y, x) if input_grad else None

        return kernels.silu(x), backward


class Softplus(Module):
    """log(1 + exp(beta x)) / beta of each element: a smooth ReLU.

    Parameters
    ----------
    beta : float
        What x is multiplied by; not 0.
    threshold : float
        The largest beta x for which the logarithm is formed; beyond, the result is x.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.Softplus()(np.array([-1000.0, 0.0, 10.0])).round(4)
    array([ 0.    ,  0.6931, 10.    ])
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = as_beta_and_threshold(beta, threshold)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        options = self.beta, self.threshold

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.softplus_backward(grad_y, x, *options) if input_grad else None

        return kernels.softplus(x, *options), backward


class Softmax(Module):
    """exp(x) over the sum of exp(x) along one axis.

    Parameters
    ----------
    dim : int
        The axis along which the results sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.Softmax()(np.array([[1000.0, 1000.0]]))
    array([[0.5, 0.5]])
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = as_int("dim", dim)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        dim, y = self.dim, kernels.softmax(x, self.dim)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.softmax_backward(grad_y, y, dim) if input_grad else None

        return y, backward


class LogSoftmax(Module):
    """The logarithm of softmax along one axis.

    Parameters
    ----------
    dim : int
        The axis along which the probabilities sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> nn.LogSoftmax()(np.array([[1000.0, 1000.0]])).round(4)
    array([[-0.6931, -0.6931]])
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = as_int("dim", dim)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        dim, y = self.dim, kernels.log_softmax(x, self.dim)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            return kernels.log_softmax_backward(grad_y, y, dim) if input_grad else None

        return y, backward
