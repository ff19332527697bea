"""Optimizers: torch's rules, each update one fused pass over the parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastnn import kernels
from fastnn._checks import Array, as_float, check_written, own_memory
from fastnn.nn.module import Module, Parameter, beside, checked_state

Group = dict[str, Any]


class Optimizer:
    """What all optimizers share: groups of parameters with options, and each parameter's state.

    A subclass names the kernel of its update and the arrays of state that it takes; options and state go to the kernel
    by their names.

    Parameters
    ----------
    params : iterable of Parameters, or of dicts
        What is learned. A dict is a group: {"params": Parameters} and the options in which it differs, such as
        {"params": biases, "weight_decay": 0.0}.
    **options
        The options of all groups that do not say otherwise.

    Attributes
    ----------
    param_groups : list of dicts
        The groups with all their options, which may be changed between steps. If a change needs new state, that starts
        at 0; state that is no longer needed is dropped with the next step.

    Raises
    ------
    TypeError, ValueError
        If an option is unknown or out of range, or there is no parameter, or one is there twice, or two share memory.
    """

    _kernel: Callable[..., None]

    def __init__(self, params: Iterable[Parameter] | Iterable[Group], **options: Any) -> None:
        self.param_groups = _groups(params, options)
        self._states: dict[int, dict[str, Array]] = {}      # by the place of the parameter
        self.check()

    def check(self) -> None:
        """Raise a TypeError or ValueError where an option of a group is of the wrong kind or out of range."""
        nothing = np.empty(0)
        for group in self.param_groups:
            as_float("lr", group["lr"], 0)
            self._update(nothing, nothing, self._state(nothing, group), group, group["lr"])     # the kernel checks

    def step(self, factor: float = 1.0) -> None:
        """Update each parameter that has a gradient and is not frozen.

        Parameters
        ----------
        factor : float
            A factor for the learning rate of each group: the value of a schedule.
        """
        for place, (parameter, group) in enumerate(self._parameters()):
            if parameter.requires_grad and parameter.grad is not None:
                state = self._states[place] = self._state(parameter.data, group, self._states.get(place, {}))
                self._update(parameter.data, parameter.grad, state, group, group["lr"] * factor)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter, _ in self._parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Array]:
        """Return NumPy copies of the states, flat: "3.exp_avg" belongs to the fourth parameter.

        A parameter that was never updated has none.
        """
        return {f"{place}.{name}": kernels.to_host(array).copy() for place, state in self._states.items()
                for name, array in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises
        ------
        ValueError
            If names or shapes do not fit the parameters, or their dtype cannot hold a value. Nothing has been changed
            then.
        """
        if not isinstance(state, Mapping):
            raise TypeError("state: expected a mapping of names to arrays, as state_dict returns, got "
                            f"{type(state).__name__}")
        updated = {str(name).partition(".")[0] for name in state}
        states = {place: self._state(parameter.data, group)
                  for place, (parameter, group) in enumerate(self._parameters()) if str(place) in updated}
        own = {f"{place}.{name}": array for place, arrays in states.items() for name, array in arrays.items()}
        given, _ = checked_state(type(self).__name__, own, state)
        for name, array in given.items():
            own[name][...] = beside(own[name], array)
        self._states = states

    def _parameters(self) -> Iterator[tuple[Parameter, Group]]:
        return ((parameter, group) for group in self.param_groups for parameter in group["params"])

    def _state(self, data: Array, group: Group, before: Mapping[str, Array] = MappingProxyType({})) -> dict[str, Array]:
        """Return the arrays that the kernel takes with the group's options: those from before, and zeros.

        They lie where the parameter does, but for the number of steps, which the host counts.
        """
        def of(name: str) -> Array:
            if name == "step":
                return before[name] if name in before else np.zeros((), np.int64)
            return beside(data, before[name]) if name in before else np.zeros_like(data)

        return {name: of(name) for name in self._state_names(group)}

    def _state_names(self, group: Group) -> tuple[str, ...]:
        """Return the names of the arrays of state that the kernel takes with the group's options."""
        raise NotImplementedError

    def _update(self, data: Array, grad: Array, state: dict[str, Any], group: Group, lr: float) -> None:
        options = {name: value for name, value in group.items() if name not in ("params", "lr")}
        self._kernel(data, grad, **state, lr=lr, **options)


class SGD(Optimizer):
    """Gradient descent, with momentum if wanted; see `fastnn.kernels.sgd_update` for the rule.

    Parameters
    ----------
    params : iterable of Parameters, or of dicts
        What is learned: parameters, or groups of them with options of their own.
    lr : float
        Learning rate.
    momentum : float
        How much of the earlier steps each update keeps.
    nesterov : bool
        Whether to look ahead along the momentum.
    weight_decay : float
        L2 penalty, added to the gradient.

    Raises
    ------
    TypeError, ValueError
        If an option is unknown or out of range, or there is no parameter, or one is there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, optim
    >>> parameter = nn.Parameter(np.array([1.0]))
    >>> optimizer = optim.SGD([parameter], lr=0.5)
    >>> parameter.accumulate(2 * parameter.data)
    >>> optimizer.step()
    >>> parameter.data
    array([0.])
    """

    _kernel = staticmethod(kernels.sgd_update)

    def __init__(self, params: Iterable[Parameter] | Iterable[Group], lr: float, *, momentum: float = 0.0,
                 nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()


class RMSProp(Optimizer):
    """Gradients over their root mean square; see `fastnn.kernels.rmsprop_update` for the rule.

    Parameters
    ----------
    params : iterable of Parameters, or of dicts
        What is learned: parameters, or groups of them with options of their own.
    lr : float
        Learning rate.
    alpha : float
        How much of the mean square each update keeps.
    eps : float
        Added to the root.
    weight_decay : float
        L2 penalty, added to the gradient.
    momentum : float
        How much of the earlier steps each update keeps.

    Raises
    ------
    TypeError, ValueError
        If an option is unknown or out of range, or there is no parameter, or one is there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, optim
    >>> parameter = nn.Parameter(np.array([1.0]))
    >>> optimizer = optim.RMSProp([parameter], lr=0.05)
    >>> parameter.accumulate(2 * parameter.data)
    >>> optimizer.step()
    >>> parameter.data.round(4)
    array([0.5])
    """

    _kernel = staticmethod(kernels.rmsprop_update)

    def __init__(self, params: Iterable[Parameter] | Iterable[Group], lr: float = 0.01, *, alpha: float = 0.99,
                 eps: float = 1e-8, weight_decay: float = 0.0, momentum: float = 0.0) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("square_avg", "momentum_buffer") if group["momentum"] else ("square_avg",)


class Adam(Optimizer):
    """Decaying means of the gradient over the root of those of its squares; see `fastnn.kernels.adam_update`.

    Parameters
    ----------
    params : iterable of Parameters, or of dicts
        What is learned: parameters, or groups of them with options of their own.
    lr : float
        Learning rate.
    betas : pair of floats
        How much of the two means each update keeps.
    eps : float
        Added to the root.
    weight_decay : float
        L2 penalty, added to the gradient. `AdamW` decays the parameter instead.

    Raises
    ------
    TypeError, ValueError
        If an option is unknown or out of range, or there is no parameter, or one is there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, optim
    >>> parameter = nn.Parameter(np.array([1.0, 1.0]))
    >>> optimizer = optim.Adam([parameter], lr=0.5)
    >>> parameter.accumulate(np.array([3.0, -0.1]))
    >>> optimizer.step()
    >>> parameter.data.round(4)
    array([0.5, 1.5])
    """

    _kernel = staticmethod(kernels.adam_update)
    _decoupled = False

    def __init__(self, params: Iterable[Parameter] | Iterable[Group], lr: float = 1e-3, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return "step", "exp_avg", "exp_avg_sq"

    def _update(self, data: Array, grad: Array, state: dict[str, Any], group: Group, lr: float) -> None:
        step = int(state["step"]) + 1
        super()._update(data, grad, {**state, "step": step}, {**group, "decoupled": self._decoupled}, lr)
        state["step"][...] = step


class AdamW(Adam):
    """Adam with weight decay that bypasses the gradient: parameter -= lr weight_decay parameter.

    Parameters
    ----------
    params, lr, betas, eps
        As for `Adam`.
    weight_decay : float
        Share of each parameter, times lr, that an update takes away.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn, optim
    >>> parameter = nn.Parameter(np.array([1.0]))
    >>> optimizer = optim.AdamW([parameter], lr=0.5, weight_decay=0.1)
    >>> parameter.accumulate(np.array([0.0]))
    >>> optimizer.step()
    >>> parameter.data
    array([0.95])
    """

    _decoupled = True

    def __init__(self, params: Iterable[Parameter] | Iterable[Group], lr: float = 1e-3, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)


def parameter_groups(model: Module, weight_decay: float) -> list[Group]:
    """Return two groups for an optimizer: weights, which decay, and biases and scales, which do not.

    Parameters
    ----------
    model : Module
        The model. Its parameters of two or more dimensions count as weights.
    weight_decay : float
        The weight decay of the first group.

    Examples
    --------
    >>> from fastnn import nn, optim
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> optimizer = optim.SGD(optim.parameter_groups(model, 5e-4), lr=0.1)
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.0005), (3, 0.0)]
    """
    parameters = list(model.parameters())
    return [{"params": [p for p in parameters if p.data.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.data.ndim < 2], "weight_decay": 0.0}]


def _groups(params: Iterable[Parameter] | Iterable[Group], options: Group) -> list[Group]:
    """Return the groups with all their options, once they hold each parameter once and know their options."""
    if isinstance(params, Module):
        raise TypeError(f"params: expected Parameters, got the {type(params).__name__} itself; give its .parameters()")
    if isinstance(params, Parameter | dict) or not isinstance(params, Iterable):
        raise TypeError(f"params: expected a list of Parameters, or of groups, got {type(params).__name__}; give "
                        "model.parameters()")
    given: list[Any] = list(params)
    groups: list[Group] = given if given and all(isinstance(group, dict) for group in given) else [{"params": given}]
    for group in groups:
        if "params" not in group or group.keys() - options.keys() != {"params"}:
            raise ValueError(f"params: expected groups of 'params' and options out of {sorted(options)}, "
                             f"got one of {sorted(group)}")
        if isinstance(group["params"], Module | Parameter) or not isinstance(group["params"], Iterable):
            raise TypeError(f"params: expected a list of Parameters in a group, got {type(group['params']).__name__}; "
                            "give model.parameters()")
    groups = [{**options, **group, "params": list(group["params"])} for group in groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    for parameter in parameters:
        if not isinstance(parameter, Parameter):
            raise TypeError(f"params: expected Parameters, got {type(parameter).__name__}; give model.parameters()")
    if not parameters or len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError("params: expected each parameter once, got "
                         f"{'one in two places' if parameters else 'none; is it an iterator that was used before?'}")
    arrays = {f"params[{i}].data": parameter.data for i, parameter in enumerate(parameters)}
    if not own_memory(arrays.values()):
        check_written(list(arrays), arrays)
    return groups
