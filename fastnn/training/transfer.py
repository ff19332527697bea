"""Transfer: a model that goes on from the weights of another task, with a new head and layers that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from fastnn._checks import is_sequence
from fastnn.nn import BatchNorm1d, BatchNorm2d, Module

_SHOWN = 8                                  # names in an error


def freeze_layers(model: Module, patterns: str | Sequence[str]) -> list[str]:
    """Let parameters stay as they are in training, by patterns of their names or of their layers' names.

    Batch normalization whose parameters are all frozen is in training as in inference: it uses its running statistics,
    and these stay too. One without parameters is frozen by its own name or that of a layer around it.

    Parameters
    ----------
    model : Module
        Its frozen parameters get requires_grad=False. `fastnn.freeze`, in contrast, makes a model for inference.
    patterns : str or sequence of str
        Names in which * stands for anything, ? for a character and [12] for one of these: "conv1" and "layer[12].*".

    Returns
    -------
    list of str
        The names of the parameters that fit.

    Raises
    ------
    TypeError, ValueError
        If a pattern is no text or fits nothing, or they leave nothing to be learned. Then the model is unchanged.

    Examples
    --------
    >>> from fastnn import models, training
    >>> model = models.ResNet18(10, small_images=True, width=8)
    >>> training.freeze_layers(model, ["conv1", "bn?"])
    ['conv1.weight', 'bn1.weight', 'bn1.bias']
    >>> model.bn1.frozen, model.fc.weight.requires_grad
    (True, True)
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not is_sequence(patterns) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"freeze: expected patterns of names, got {patterns!r:.100}")
    parameters = dict(model.named_parameters())
    norms = {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm1d | BatchNorm2d)}
    bare = [name for name, norm in norms.items() if not list(norm.parameters())]
    names = [*parameters, *bare]
    fits = [[name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
            for pattern in patterns]
    for pattern, fitting in zip(patterns, fits):
        if not fitting:
            some = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
            raise ValueError(f"freeze: expected patterns of names of parameters or layers, which this "
                             f"{type(model).__name__} calls {some}; got {pattern!r}, which fits none")
    chosen = {name for fitting in fits for name in fitting}
    frozen = [name for name in parameters if name in chosen]
    if fits and not any(parameter.requires_grad for name, parameter in parameters.items() if name not in chosen):
        raise ValueError(f"freeze: expected patterns that leave something to be learned, got {', '.join(patterns)}, "
                         f"which fit all parameters of this {type(model).__name__}")
    for name in frozen:
        parameters[name].requires_grad = False
    layers = chosen.intersection(bare) | {name.rpartition(".")[0] for name in frozen}
    for name, norm in norms.items():
        if name in layers:
            norm.frozen = not any(parameter.requires_grad for parameter in norm.parameters())
    return frozen


def head(model: Module) -> list[str]:
    """Return the names of the last layer's arrays, which `load_model` skips where the classes are others.

    The last layer is that of the last weights of two or more dimensions, with what follows it.

    Parameters
    ----------
    model : Module

    Returns
    -------
    list of str
        Empty where there are no such weights.

    Examples
    --------
    >>> from fastnn import models, training
    >>> training.head(models.ResNet18(10, small_images=True, width=8))
    ['fc.weight', 'fc.bias']
    """
    weights = [name for name, parameter in model.named_parameters() if parameter.data.ndim >= 2]
    names = list(model.state_dict())
    layer = weights[-1].rpartition(".")[0] if weights else None
    first = next((place for place, name in enumerate(names) if name.rpartition(".")[0] == layer), len(names))
    return names[first:]
