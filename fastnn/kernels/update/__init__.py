"""The updates of optimizers, each in one pass and in place.

These are the kernels that write to what they are given: the parameter and the optimizer's state. It is the one
exception to the rule that inputs are never written, for which their names end in `_update`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastnn import _device
from fastnn._checks import Array, as_float, as_floats, as_int, check_shape, is_sequence
from fastnn.kernels._door import door, updates
from fastnn.kernels._outputs import deliver
from fastnn.kernels._targets import implementation


@door
@updates("parameter", "momentum_buffer")
def sgd_update(parameter: Array, grad: Array, momentum_buffer: Array | None = None, *, lr: float,
               momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
               target: str | None = None) -> None:
    """Update a parameter in place by gradient descent with momentum, as torch.optim.SGD does.

    With g = grad + weight_decay parameter: buffer = momentum buffer + g, then parameter -= lr buffer, or with
    `nesterov` parameter -= lr (g + momentum buffer); without momentum parameter -= lr g.

    Parameters
    ----------
    parameter : array of any shape
        What is learned, float32 or float64. It is written.
    grad : array of the same shape
        Gradient of the loss by the parameter.
    momentum_buffer : array of the same shape, optional
        Decaying sum of gradients, all 0 before the first update; needed if momentum is not 0. It is written.
    lr : float
        Learning rate, not negative.
    momentum : float
        How much of the buffer each update keeps, not negative.
    nesterov : bool
        Whether to look ahead along the buffer; needs momentum.
    weight_decay : float
        L2 penalty, added to the gradient.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or numbers do not fit, or an array that is written is read-only or overlaps with another.
        Nothing has been written then.

    Notes
    -----
    At most 8 operations an element; 3 arrays are read and 2 written. Sutskever and others, "On the importance of
    initialization and momentum in deep learning" (ICML 2013), section 2. Each operation rounds once to the dtype; on
    a GPU a product and the sum that takes it up round once together. A g, a buffer or lr times it
    beyond the dtype's range is inf, and so is the step, whatever the parameter is.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> parameter, buffer = np.array([1.0, 2.0]), np.zeros(2)
    >>> for _ in range(2):
    ...     kernels.sgd_update(parameter, np.array([1.0, -1.0]), buffer, lr=0.5, momentum=0.5)
    >>> parameter, buffer
    (array([-0.25,  3.25]), array([ 1.5, -1.5]))
    """
    rate, keep, decay = (as_float("lr", lr, 0), as_float("momentum", momentum, 0),
                         as_float("weight_decay", weight_decay, 0))
    if nesterov and keep == 0:
        raise ValueError("momentum: expected a positive number with nesterov=True, got 0")
    _check_buffer(momentum_buffer, keep)
    _run("sgd_update", target, (rate, keep, bool(nesterov), decay), grad,
         parameter=parameter, momentum_buffer=momentum_buffer)


@door
@updates("parameter", "square_avg", "momentum_buffer")
def rmsprop_update(parameter: Array, grad: Array, square_avg: Array, momentum_buffer: Array | None = None, *,
                   lr: float, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
                   momentum: float = 0.0, target: str | None = None) -> None:
    """Update a parameter in place by gradients over their root mean square, as torch.optim.RMSprop does.

    With g = grad + weight_decay parameter: square = alpha square + (1 - alpha) g^2, then
    buffer = momentum buffer + g / (sqrt(square) + eps) and parameter -= lr buffer.

    Parameters
    ----------
    parameter : array of any shape
        What is learned, float32 or float64. It is written.
    grad : array of the same shape
        Gradient of the loss by the parameter.
    square_avg : array of the same shape
        Decaying mean of squares of the gradient, all 0 before the first update. It is written.
    momentum_buffer : array of the same shape, optional
        Decaying sum of steps, all 0 before the first update; needed if momentum is not 0. It is written.
    lr : float
        Learning rate, not negative.
    alpha : float
        How much of the mean each update keeps, from 0 to 1.
    eps : float
        Added to the root, not negative.
    weight_decay : float
        L2 penalty, added to the gradient.
    momentum : float
        How much of the buffer each update keeps, not negative.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or numbers do not fit, or an array that is written is read-only or overlaps with another.
        Nothing has been written then.

    Notes
    -----
    At most 13 operations an element; 4 arrays are read and 3 written. Tieleman and Hinton, "Neural networks for
    machine learning" (Coursera, 2012), lecture 6.5. Each operation rounds once to the dtype; on a GPU a product and
    the sum that takes it up round once together. Where g^2 leaves the dtype's range the root is formed without it; a
    mean of squares that does not fit is kept as inf, or as 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> parameter, square_avg = np.array([1.0]), np.zeros(1)
    >>> kernels.rmsprop_update(parameter, np.array([4.0]), square_avg, lr=0.5, alpha=0.75, eps=0.0)
    >>> parameter, square_avg
    (array([0.]), array([4.]))
    """
    rate, keep, eps, decay, momentum = (as_float("lr", lr, 0), as_float("alpha", alpha, 0, 1), as_float("eps", eps, 0),
                                        as_float("weight_decay", weight_decay, 0), as_float("momentum", momentum, 0))
    _check_buffer(momentum_buffer, momentum)
    _run("rmsprop_update", target, (rate, keep, eps, decay, momentum), grad,
         parameter=parameter, square_avg=square_avg, momentum_buffer=momentum_buffer)


@door
@updates("parameter", "exp_avg", "exp_avg_sq")
def adam_update(parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, *, step: int, lr: float,
                betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
                decoupled: bool = False, target: str | None = None) -> None:
    """Update a parameter in place by Adam's rule, as torch.optim.Adam and AdamW do.

    With g = grad + weight_decay parameter: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, then
    parameter -= lr m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps). If `decoupled`, g = grad, and
    parameter -= lr weight_decay parameter comes first.

    Parameters
    ----------
    parameter : array of any shape
        What is learned, float32 or float64. It is written.
    grad : array of the same shape
        Gradient of the loss by the parameter.
    exp_avg, exp_avg_sq : arrays of the same shape
        m and v, all 0 before the first update. They are written.
    step : int
        The number of this update, 1 for the first.
    lr : float
        Learning rate, not negative.
    betas : pair of floats
        How much of m and of v each update keeps, from 0 to below 1.
    eps : float
        Added to the root, not negative.
    weight_decay : float
        L2 penalty, added to the gradient, or decay of the parameter if `decoupled`.
    decoupled : bool
        Whether weight decay bypasses the gradient (AdamW).
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or numbers do not fit, or an array that is written is read-only or overlaps with another.
        Nothing has been written then.

    Notes
    -----
    At most 14 operations an element; 4 arrays are read and 3 written. Kingma and Ba, "Adam" (arXiv:1412.6980),
    algorithm 1; Loshchilov and Hutter, "Decoupled weight decay regularization" (arXiv:1711.05101), algorithm 2. Each
    operation rounds once to the dtype; on a GPU a product and the sum that takes it up round once together. Where g^2
    leaves the dtype's range the root is formed without it; a v that does not fit is kept as inf, or as 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> parameter, m, v = np.array([1.0, 1.0]), np.zeros(2), np.zeros(2)
    >>> kernels.adam_update(parameter, np.array([3.0, -0.1]), m, v, step=1, lr=0.5)
    >>> parameter.round(4)
    array([0.5, 1.5])
    """
    if not is_sequence(betas) or len(betas) != 2 or not all(0 <= as_float("betas", beta) < 1 for beta in betas):
        raise ValueError(f"betas: expected two numbers from 0 to below 1, got {betas!r:.100}")
    options = (as_int("step", step, 1), as_float("lr", lr, 0), float(betas[0]), float(betas[1]),
               as_float("eps", eps, 0), as_float("weight_decay", weight_decay, 0), bool(decoupled))
    _run("adam_update", target, options, grad, parameter=parameter, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)


def _check_buffer(momentum_buffer: Array | None, momentum: float) -> None:
    if (momentum_buffer is None) != (momentum == 0):
        expected, got = ("no array", "one") if momentum == 0 else ("an array", "None")
        raise ValueError(f"momentum_buffer: expected {expected} with momentum {momentum:g}, got {got}")


def _run(name: str, target: str | None, options: tuple[Any, ...], grad: Array, **written: Array | None) -> None:
    """Run an update on the arrays, flat, once they all have one dtype and one shape."""
    parameter, *states, gradient = as_floats(**written, grad=grad)
    for key, array in written.items():
        if array is None:
            continue
        if _device.is_device(array) and not array.flags.c_contiguous:
            raise ValueError(f"{key}: expected a C-contiguous array, which the update writes")
        check_shape(key, array, parameter.shape)
    check_shape("grad", gradient, parameter.shape)
    if parameter.size:
        flat = [None if array is None else array.reshape(-1) for array in (parameter, gradient, *states)]
        getattr(implementation(__name__, target, parameter), name)(*flat, *options)
        for result, out in zip((parameter, *states), written.values()):
            deliver(result, out)
