"""The course's update rules: next_w, config = rule(w, dw, config).

A config is a dict of options and of the rule's state. Missing entries are added to it, and None stands for a new one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_float, as_floats, as_int, check_shape, check_written
from fastnn.cs231n._common import course_names, promoted

__all__ = ["adam", "rmsprop", "sgd", "sgd_momentum"]

Config = dict[str, Any]

_OPTIONS = {"parameter": "w", "grad": "dw", "lr": "config['learning_rate']", "alpha": "config['decay_rate']",
            "eps": "config['epsilon']", "betas": "config['beta1'] and config['beta2']"}


def sgd(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Take a step against the gradient, in place as in the course: `fastnn.kernels.sgd_update`.

    Parameters
    ----------
    w : float32 or float64 array of any shape
        What is learned. It is written.
    dw : array of the same shape
        Gradient by w.
    config : dict, optional
        "learning_rate", by default 1e-2.

    Returns
    -------
    next_w : array
        w itself.
    config : dict
        For the next update.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import sgd
    >>> w, config = sgd(np.array([1.0]), np.array([2.0]), {"learning_rate": 0.25})
    >>> w
    array([0.5])
    """
    config = _with_defaults(config, learning_rate=1e-2)
    (values,), (grad,) = as_floats(w=w), promoted(dw=dw)
    check_written(["w"], {"w": w, "dw": dw})            # of which dw may be a copy from here on
    with course_names(**_OPTIONS):
        kernels.sgd_update(w, grad.astype(values.dtype, copy=False), lr=config["learning_rate"])
    return w, config


def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Take a step along a decaying sum of steps: v = momentum v - learning_rate dw, next_w = w + v.

    Parameters
    ----------
    w, dw : arrays of one shape
        What is learned, and the gradient by it.
    config : dict, optional
        "learning_rate", by default 1e-2, "momentum", by default 0.9, and "velocity", v, at first 0.

    Returns
    -------
    next_w : array of w's shape
        The updated w.
    config : dict
        For the next update, with the new velocity.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import sgd_momentum
    >>> w, config = sgd_momentum(np.array([1.0]), np.array([2.0]), {"learning_rate": 0.25})
    >>> w, config["velocity"]
    (array([0.5]), array([-0.5]))
    """
    config = _with_defaults(config, learning_rate=1e-2, momentum=0.9)
    w, dw = _of_one_shape(w, dw)
    lr = as_float("config['learning_rate']", config["learning_rate"], 0)
    momentum = as_float("config['momentum']", config["momentum"], 0)
    # Not the kernel's rule, whose buffer sums gradients: a velocity holds the learning rate that each step had.
    config["velocity"] = momentum * _state(config, "velocity", w) - lr * dw
    return w + config["velocity"], config


def rmsprop(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Take a step by the gradient over its root mean square: `fastnn.kernels.rmsprop_update`.

    Parameters
    ----------
    w, dw : arrays of one shape
        What is learned, and the gradient by it.
    config : dict, optional
        "learning_rate", by default 1e-2, "decay_rate", by default 0.99, "epsilon", by default 1e-8, and "cache", the
        decaying mean of squares, at first 0.

    Returns
    -------
    next_w : array of w's shape
        The updated w.
    config : dict
        For the next update, with the new cache.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import rmsprop
    >>> w, config = rmsprop(np.array([1.0]), np.array([4.0]), {"learning_rate": 0.5, "decay_rate": 0.75})
    >>> w.round(4), config["cache"]
    (array([0.]), array([4.]))
    """
    config = _with_defaults(config, learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    w, dw = _of_one_shape(w, dw)
    next_w, cache = w.copy(), _state(config, "cache", w)
    with course_names(**_OPTIONS):
        kernels.rmsprop_update(next_w, dw, cache, lr=config["learning_rate"], alpha=config["decay_rate"],
                               eps=config["epsilon"])
    config["cache"] = cache
    return next_w, config


def adam(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Take a step by Adam's rule: `fastnn.kernels.adam_update`.

    Parameters
    ----------
    w, dw : arrays of one shape
        What is learned, and the gradient by it.
    config : dict, optional
        "learning_rate", by default 1e-3, "beta1", by default 0.9, "beta2", by default 0.999, "epsilon", by default
        1e-8; "m" and "v", the decaying means of the gradient and its square, and "t", the number of updates before
        this one, all 0 at first.

    Returns
    -------
    next_w : array of w's shape
        The updated w.
    config : dict
        For the next update, with the new m, v and t.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.cs231n import adam
    >>> w, config = adam(np.array([1.0, 1.0]), np.array([3.0, -0.1]), {"learning_rate": 0.5})
    >>> w.round(4), config["t"]
    (array([0.5, 1.5]), 1)
    """
    config = _with_defaults(config, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, t=0)
    w, dw = _of_one_shape(w, dw)
    next_w, m, v = w.copy(), _state(config, "m", w), _state(config, "v", w)
    t = as_int("config['t']", config["t"], 0) + 1
    with course_names(**_OPTIONS):
        kernels.adam_update(next_w, dw, m, v, step=t, lr=config["learning_rate"], eps=config["epsilon"],
                            betas=(config["beta1"], config["beta2"]))
    config.update(m=m, v=v, t=t)
    return next_w, config


def _with_defaults(config: Config | None, **defaults: float) -> Config:
    config = {} if config is None else config
    for name, value in defaults.items():
        config.setdefault(name, value)
    return config


def _of_one_shape(w: Array, dw: Array) -> list[Array]:
    w, dw = promoted(w=w, dw=dw)
    check_shape("dw", dw, w.shape)
    return [w, dw]


def _state(config: Config, name: str, w: Array) -> Array:
    """Return a copy of an array of state in w's dtype, or zeros before the first update."""
    state = np.array(config.get(name, np.zeros_like(w)), w.dtype)
    check_shape(f"config[{name!r}]", state, w.shape)
    return state
