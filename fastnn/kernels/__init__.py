"""Stateless functions, arrays in, arrays out: the public door to every kernel.

Docstrings bound errors. In them eps is 1.2e-7 for float32 and 2.2e-16 for float64, and 1.1e-16 is the rounding of the
float64 numbers that sums are formed in. Results smaller than the smallest normal number, 1.2e-38 or 2.2e-308, may be
off by as much as that. Where numbers on the way to a result leave the range and the result does not, a kernel takes
another way, or its docstring says that it does not.
"""

from __future__ import annotations

from fastnn._device import to_device, to_host
from fastnn.kernels._cpu.threads import get_num_threads, set_num_threads
from fastnn.kernels._memory import clear_pool, set_pool_limit
from fastnn.kernels._targets import use_target
from fastnn.kernels.activation import (
    add,
    add_relu,
    dropout,
    dropout_backward,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from fastnn.kernels.conv import KeptFilters, conv2d, conv2d_backward, conv_transpose2d, conv_transpose2d_backward
from fastnn.kernels.distance import knn, pairwise_l2
from fastnn.kernels.linear import linear, linear_backward
from fastnn.kernels.loss import (
    cross_entropy,
    cross_entropy_backward,
    hinge_loss,
    hinge_loss_backward,
    mse_loss,
    mse_loss_backward,
)
from fastnn.kernels.normalization import batch_norm, batch_norm_backward
from fastnn.kernels.pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from fastnn.kernels.update import adam_update, rmsprop_update, sgd_update

__all__ = [
    "KeptFilters",
    "adam_update",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "add",
    "add_relu",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "clear_pool",
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "gelu",
    "gelu_backward",
    "get_num_threads",
    "hinge_loss",
    "hinge_loss_backward",
    "knn",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "mse_loss",
    "mse_loss_backward",
    "pairwise_l2",
    "relu",
    "relu_backward",
    "rmsprop_update",
    "set_num_threads",
    "set_pool_limit",
    "sgd_update",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
    "to_device",
    "to_host",
    "use_target",
]
