"""Modules made of modules: one after the other, around a shortcut, put together in other ways, run twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from fastnn import kernels, random
from fastnn._checks import Array
from fastnn.nn.linear import Conv2d, Linear
from fastnn.nn.module import Backward, Module, again, inference, inside, keeps, once
from fastnn.nn.normalization import BatchNorm1d, BatchNorm2d
from fastnn.nn.shape import Identity

_FUSING = BatchNorm1d, BatchNorm2d, Conv2d, Linear  # layers that can do a ReLU's work too


class Sequential(Module):
    """Layers one after the other.

    Their names are "0", "1" and so on, or the keys of a dict. Layers before the first one that learns are not run
    backward when the gradient by the input is not wanted. A ReLU that follows a linear layer, a convolution or batch
    normalization is done in the same pass over memory.

    Parameters
    ----------
    *layers : Modules, or one dict of Modules
        The layers, in order.

    Raises
    ------
    TypeError, ValueError
        If something is not a Module, or a name is none for an attribute. What a layer raises carries a note that says
        which layer it is.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> list(model.state_dict())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    >>> scores, backward = model.forward(np.ones((4, 2), np.float32))
    >>> backward(np.ones((4, 1), np.float32), input_grad=False)
    >>> model[0].weight.grad.shape
    (3, 2)
    """

    def __init__(self, *layers: Module | Mapping[str, Module]) -> None:
        only = layers[0] if len(layers) == 1 else None
        named = only if isinstance(only, Mapping) else {str(i): layer for i, layer in enumerate(layers)}
        for name, layer in named.items():
            if not isinstance(layer, Module):
                raise TypeError(f"layer {name}: expected a Module, got {type(layer).__name__}")
            if "." in name or hasattr(self, name):
                raise ValueError(f"layer {name!r}: expected a name without a dot that Sequential does not have itself")
            setattr(self, name, layer)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        layers: list[Any] = list(self.named_children())
        backwards: list[Backward] = []
        fused = None
        for place, (name, layer) in enumerate(layers, 1):
            if fused:                           # the layer before has done this one's work, and will do its backward's
                fused = None
                backwards.append(_pass_on)
                continue
            if isinstance(layer, _FUSING) and place < len(layers):
                fused = layer.fuse(layers[place][1])
            try:
                x, layer_backward = (fused or layer.forward)(x, training=training)
            except (TypeError, ValueError) as error:
                error.add_note(f"in layer {name} of {type(self).__name__}: {layer!r}")
                raise
            backwards.append(layer_backward)

        @once
        def backward(grad: Array, *, input_grad: bool = True) -> Array | None:
            # The first layer whose gradient somebody wants.
            first = 0 if input_grad else next((place for place, (_, layer) in enumerate(layers) if any(
                parameter.requires_grad for parameter in layer.parameters())), len(layers))
            while len(backwards) > first:
                grad = backwards.pop()(grad, input_grad=input_grad or len(backwards) > first)
            return grad if input_grad else None

        return x, backward

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int | slice) -> Module:
        """Return a layer, or those of a slice as a Sequential, in which they keep their names."""
        if isinstance(index, slice):
            return Sequential(dict(list(self.named_children())[index]))
        return list(self)[index]


def _pass_on(grad: Array, *, input_grad: bool = True) -> Array:
    return grad


class ModuleList(Module):
    """Modules in a list, with the names "0", "1" and so on; what they do together, the module that has it says.

    A plain list as an attribute does the same; this one has torch's name, and can be a model by itself.

    Parameters
    ----------
    modules : iterable of Modules
        The modules, in order.

    Examples
    --------
    >>> from fastnn import nn
    >>> class Blocks(nn.Module):
    ...     def __init__(self):
    ...         self.blocks = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))
    >>> [name for name, _ in Blocks().named_parameters()]
    ['blocks.0.weight', 'blocks.1.weight']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        if not isinstance(module, Module):
            raise TypeError(f"module: expected a Module, got {type(module).__name__}")
        setattr(self, str(len(self)), module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]


class Residual(Module):
    """y = relu(body(x) + shortcut(x)).

    He and others, "Deep residual learning for image recognition" (arXiv:1512.03385), figure 2.

    Parameters
    ----------
    body : Module
        The branch that learns the difference.
    shortcut : Module, optional
        The other branch, which must give the same shape; x itself if it is not given.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> block = nn.Residual(nn.Linear(2, 2, init=nn.init.zeros))
    >>> block(np.array([[-1.0, 2.0]], np.float32))
    array([[0., 2.]], dtype=float32)
    """

    def __init__(self, body: Module, shortcut: Module | None = None) -> None:
        self.body, self.shortcut = body, Identity() if shortcut is None else shortcut

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y, body_backward = self.body.forward(x, training=training)
        s, shortcut_backward = self.shortcut.forward(x, training=training)
        y = kernels.add_relu(y, s)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            grad = kernels.relu_backward(grad_y, y)
            grads = body_backward(grad, input_grad=input_grad), shortcut_backward(grad, input_grad=input_grad)
            return kernels.add(*grads) if input_grad else None

        return y, backward


class Composed(Module):
    """A module that does what others do together, which `composed` says.

    So its parameters may have names of their own, while `fastnn.freeze` sees what follows on what.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> class Block(nn.Composed):
    ...     def __init__(self):
    ...         self.fc, self.bn, self.act = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU()
    ...
    ...     def composed(self):
    ...         return nn.Residual(nn.Sequential(self.fc, self.bn, self.act))
    >>> [name for name, _ in Block().named_parameters()]
    ['fc.weight', 'fc.bias', 'bn.weight', 'bn.bias']
    >>> Block()(np.ones((3, 2), np.float32)).shape
    (3, 2)
    """

    def composed(self) -> Module:
        """Return the modules that this one has, put together."""
        raise NotImplementedError(f"{type(self).__name__} defines no composed(self)")

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        return self.composed().forward(x, training=training)


class Checkpointed(Module):
    """A module that keeps its inputs alone for the backward pass, which runs its forward pass again.

    Results, gradients, running statistics and random numbers are those of the module itself, to the bit. Chen and
    others, "Training deep nets with sublinear memory cost" (arXiv:1604.06174), section 4: of a network of n blocks, the
    input of each is kept, and what a block keeps itself is there for one block at a time. The price is a second forward
    pass, about a third of a training step.

    Parameters
    ----------
    module : Module
        What is run, such as a block of a deep network. The names in `state_dict` are its own, so that weights load with
        and without `Checkpointed`.

    Notes
    -----
    `module(x)` runs it once, as it does without. A layer of your own may be inside if it gives the same for the same
    input: its random numbers begin with what `fastnn.random.next_draw` returns, and it leaves statistics alone where
    `repeats` says so.

    Examples
    --------
    >>> import fastnn
    >>> from fastnn import nn
    >>> block = nn.Sequential(nn.Linear(100, 100), nn.Tanh(), nn.Dropout(0.5), nn.Linear(100, 100), nn.Tanh())
    >>> model = nn.Checkpointed(block)
    >>> fastnn.summary(block, (100,)).kept, fastnn.summary(model, (100,)).kept      # bytes for each sample
    (1700, 400)
    >>> list(model.state_dict())
    ['0.weight', '0.bias', '3.weight', '3.bias']
    """

    def __init__(self, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"module: expected a Module, got {type(module).__name__}")
        self.module = module

    def forward(self, *inputs: Any, training: bool = True) -> tuple[Any, Backward]:
        if not keeps():
            return self.module.forward(*inputs, training=training)
        with inside(inference), random.noted() as draws:
            y = self.module.forward(*inputs, training=training)[0]

        @once
        def backward(*grads: Any, input_grad: bool = True) -> Any:
            with inside(again), random.repeated(draws):
                module_backward = self.module.forward(*inputs, training=training)[1]
            return module_backward(*grads, input_grad=input_grad)

        return y, backward

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield prefix, self
        yield from self.module._walk(prefix)
