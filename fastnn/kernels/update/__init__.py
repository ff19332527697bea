"""The updates of optimizers, each in one pass and in place.

These are the kernels that write to what they are given: the parameter and the optimizer's state. It is the one
exception to the rule that inputs are never written, for which their names end in `_update`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastnn._checks import Array, as_float, as_int, check_floats, check_shape, is_sequence
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation

__all__ = ["adam_update", "rmsprop_update", "sgd_update"]


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
    _sgd_update((parameter, grad, momentum_buffer), (nesterov,), target, None, (rate, keep, decay),
                ("parameter", "momentum_buffer"))


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
    _rmsprop_update((parameter, grad, square_avg, momentum_buffer), (), target, None,
                    (rate, keep, eps, decay, momentum), ("parameter", "square_avg", "momentum_buffer"))


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
    if not is_sequence(betas) or len(betas) != 2 or not (
            0 <= as_float("betas", betas[0]) < 1 and 0 <= as_float("betas", betas[1]) < 1):
        raise ValueError(f"betas: expected two numbers from 0 to below 1, got {betas!r:.100}")
    options = (as_int("step", step, 1), as_float("lr", lr, 0), float(betas[0]), float(betas[1]),
               as_float("eps", eps, 0), as_float("weight_decay", weight_decay, 0))
    _adam_update((parameter, grad, exp_avg, exp_avg_sq), (decoupled,), target, None, options,
                 ("parameter", "exp_avg", "exp_avg_sq"))


@planned
def _sgd_update(parameter: Array, grad: Array, momentum_buffer: Array | None, nesterov: bool,
                target: str | None) -> Plan:
    arrays = {"parameter": parameter, "grad": grad, "momentum_buffer": momentum_buffer}
    return _plan("sgd_update", 8, target, arrays, nesterov=bool(nesterov))


@planned
def _rmsprop_update(parameter: Array, grad: Array, square_avg: Array, momentum_buffer: Array | None,
                    target: str | None) -> Plan:
    arrays = {"parameter": parameter, "grad": grad, "square_avg": square_avg, "momentum_buffer": momentum_buffer}
    return _plan("rmsprop_update", 13, target, arrays)


@planned
def _adam_update(parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, decoupled: bool,
                 target: str | None) -> Plan:
    arrays = {"parameter": parameter, "grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    return _plan("adam_update", 14, target, arrays, decoupled=bool(decoupled))


def _plan(name: str, cost: int, target: str | None, arrays: dict[str, Any], **options: bool) -> Plan:
    """Return the plan of an update; implementations see the arrays flat."""
    check_floats(**arrays)
    parameter, count = arrays["parameter"], len(arrays)
    for key, array in arrays.items():
        if array is not None or key != "momentum_buffer":
            check_shape(key, array, parameter.shape)
    module = implementation(__name__, target, parameter)
    if not parameter.size:
        return Plan(_nothing)
    run = bound(module, name, parameter, **options)

    def update(*args: Any) -> None:
        run(*[None if array is None else array.reshape(-1) for array in args[:count]], *args[count:])

    return Plan(run if parameter.ndim == 1 else update, operations=cost * parameter.size)


def _nothing(*args: Any) -> None:
    """The update of no elements."""


def _check_buffer(momentum_buffer: Array | None, momentum: float) -> None:
    if (momentum_buffer is None) != (momentum == 0):
        expected, got = ("no array", "one") if momentum == 0 else ("an array", "None")
        raise ValueError(f"momentum_buffer: expected {expected} with momentum {momentum:g}, got {got}")
