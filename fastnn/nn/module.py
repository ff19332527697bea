"""Parameters, modules, and the functions that carry a gradient back through them."""

from __future__ import annotations

import difflib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _device, kernels
from fastnn._checks import FLOATS, Array

Backward: TypeAlias = Callable[..., Any]
Forward: TypeAlias = Callable[..., tuple[Any, Backward]]
_Member = TypeVar("_Member")

# Held while gradients or a layer's own state change. One for all, as a lock in each would bar pickle and deepcopy.
state_lock = threading.Lock()

inference: ContextVar[bool] = ContextVar("inference", default=False)     # keeps nothing for a backward pass
again: ContextVar[bool] = ContextVar("again", default=False)             # repeats a forward pass


class once:
    """A backward function that can be called once; the call frees what it has kept.

    Every layer's forward returns its backward function in this wrapper. Inside `module(x)`, where no gradient will
    be asked for, it keeps nothing from the start, so that the arrays in between are freed while inference goes on.

    Parameters
    ----------
    function : callable
        The backward function, `(grad_y, *, input_grad=True) -> grad_x`.

    Raises
    ------
    RuntimeError
        When called a second time, or for a forward pass that was inference.

    Examples
    --------
    >>> from fastnn import nn
    >>> @nn.once
    ... def backward(grad_y, *, input_grad=True):
    ...     return 2 * grad_y
    >>> backward(1.5)
    3.0
    >>> backward(1.5)
    Traceback (most recent call last):
    RuntimeError: backward was called before, and what it needs is freed; run forward again for each backward
    """

    __slots__ = ("_function",)

    def __init__(self, function: Backward) -> None:
        self._function: Backward | None = function if keeps() else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function, self._function = self._function, None
        if function is None:
            raise RuntimeError("backward was called inside module(x), which keeps nothing for it; "
                               "use module.forward(x, training=False)" if inference.get() else
                               "backward was called before, and what it needs is freed; "
                               "run forward again for each backward")
        return function(*args, **kwargs)


def keeps() -> bool:
    """Return whether a backward pass may follow: not in a forward pass that is `inside(inference)`."""
    return not inference.get()


def repeats() -> bool:
    """Return whether a forward pass runs a second time, for `Checkpointed`.

    A layer that keeps statistics of what it sees leaves them as they are then, since it has seen this before.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> class Counter(nn.Identity):
    ...     calls = 0
    ...
    ...     def forward(self, x, *, training=True):
    ...         self.calls += not nn.repeats()
    ...         return super().forward(x, training=training)
    >>> layer = Counter()
    >>> y, backward = nn.Checkpointed(layer).forward(np.ones(2))
    >>> backward(y), layer.calls
    (array([1., 1.]), 1)
    """
    return again.get()


@contextmanager
def inside(place: ContextVar[bool]) -> Iterator[None]:
    """Tell the layers that they run inside `inference`, or `again`."""
    token = place.set(True)
    try:
        yield
    finally:
        place.reset(token)


class Parameter:
    """An array that is learned, and its gradient.

    Parameters
    ----------
    data : array of any shape
        Initial value, float32 or float64: a NumPy array or, on a GPU, a CuPy array. It is used without a copy unless it
        is read-only or not C-contiguous.
    grad : array of the same shape, optional
        The gradient so far.
    requires_grad : bool
        Whether it is learned. A frozen parameter keeps its gradient as it is: layers and optimizers pass over it.

    Attributes
    ----------
    data, grad, requires_grad
        As given; `grad` is None until a backward pass adds to it.

    Raises
    ------
    TypeError, ValueError
        If data is no array of floats, or grad does not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> parameter = nn.Parameter(np.zeros(2))
    >>> parameter.accumulate(np.array([1.0, 2.0]))
    >>> parameter.accumulate(np.array([1.0, 2.0]))
    >>> parameter.grad
    array([2., 4.])
    """

    def __init__(self, data: Array, grad: Array | None = None, requires_grad: bool = True) -> None:
        on_device = _device.is_device(data)
        if not (on_device or isinstance(data, np.ndarray)) or data.dtype not in FLOATS:
            raise TypeError("data: expected a NumPy or CuPy array of float32 or float64, got "
                            f"{data.dtype if isinstance(data, np.ndarray) or on_device else type(data).__name__}")
        self.data = _device.contiguous("data", data) if on_device else np.require(data, requirements=["C", "A", "W"])
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        if grad is not None:
            self._check(grad)
            self.grad = grad

    def accumulate(self, grad: Array | None) -> None:
        """Add to the gradient; None, and anything for a frozen parameter, adds nothing.

        Several threads may do so at once. The array may become the gradient: do not write to it afterwards.
        """
        if grad is None or not self.requires_grad:
            return
        self._check(grad)
        with state_lock:
            self.grad = grad if self.grad is None else kernels.add(self.grad, grad)

    def _check(self, grad: Array) -> None:
        if grad.shape != self.data.shape or grad.dtype != self.data.dtype:
            raise ValueError(f"grad: expected shape {self.data.shape} and {self.data.dtype} as data has, "
                             f"got {grad.shape} and {grad.dtype}")

    def __repr__(self) -> str:
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"Parameter(shape={self.data.shape}, dtype={self.data.dtype}{frozen})"


def data_of(parameter: Parameter | None) -> Array | None:
    """Return the array of a parameter that may be absent."""
    return None if parameter is None else parameter.data


def learns(parameter: Parameter | None) -> bool:
    """Return whether a parameter that may be absent wants a gradient."""
    return parameter is not None and parameter.requires_grad


def accumulate(parameter: Parameter | None, grad: Array | None) -> None:
    """Add to the gradient of a parameter that may be absent."""
    if parameter is not None:
        parameter.accumulate(grad)


class LoadResult(NamedTuple):
    """What `load_state_dict(..., strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A layer, a model or a loss: parameters, and how a result and its gradients are computed.

    A subclass defines `forward(self, x, *, training=True)`, which returns the result and a function
    `backward(grad_y, *, input_grad=True)`. `backward` adds to the gradients of the parameters and returns the gradient
    by x, or one gradient for each input if there are several: None for inputs of integers, and None for all inputs with
    `input_grad=False`. Where the result is a tuple of arrays, so is grad_y. It never writes to `grad_y`, and is called
    at most once; until then the inputs must not change. `training` says how dropout and batch normalization behave; no
    mode is stored. `module(x)` is inference: it returns the result of `forward(x, training=False)` alone and keeps
    nothing.

    Attributes that are parameters or modules, or lists of them, are found automatically.

    Attributes
    ----------
    buffers : tuple of str
        Class attribute: the names of arrays that belong to the state but are not learned. One that is None is absent.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         self.factor = nn.Parameter(np.array(3.0))
    ...
    ...     def forward(self, x, *, training=True):
    ...         factor = self.factor.data
    ...
    ...         @nn.once
    ...         def backward(grad_y, *, input_grad=True):
    ...             self.factor.accumulate(np.asarray((grad_y * x).sum()))
    ...             return grad_y * factor if input_grad else None
    ...
    ...         return x * factor, backward
    >>> model = nn.Sequential(Scale(), nn.ReLU())
    >>> y, backward = model.forward(np.array([1.0, 2.0]))
    >>> backward(np.ones(2))
    array([3., 3.])
    >>> {name: float(parameter.grad) for name, parameter in model.named_parameters()}
    {'0.factor': 3.0}
    """

    buffers: tuple[str, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Backward]:
        """Return the result and the function that carries a gradient back; see the class."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(self, x, *, training=True)")

    def __call__(self, *inputs: Any) -> Any:
        with inside(inference):
            return self.forward(*inputs, training=False)[0]

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Iterate over the modules that are attributes of this one, with their names."""
        return self._members(Module)

    def children(self) -> Iterator[Module]:
        """Iterate over the modules that are attributes of this one."""
        return (child for _, child in self._members(Module))

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Iterate over this module and all inside it, with their names, each once."""
        return _unique(self._walk())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Iterate over all parameters with their names, such as "features.0.weight", each once."""
        return _unique((_join(prefix, name), parameter) for prefix, module in self._walk()
                       for name, parameter in module._members(Parameter))

    def parameters(self) -> Iterator[Parameter]:
        """Iterate over all parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Array]:
        """Return NumPy copies of all parameters and buffers by name, as torch names them.

        They are NumPy arrays for a module on a GPU, too, so that what was saved on one device loads on another.
        """
        return {name: kernels.to_host(array).copy() for name, array in self._arrays()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copy arrays into the parameters and buffers of the same names, wherever these lie.

        Parameters
        ----------
        state : mapping of names to arrays
            What `state_dict` returned, or arrays (or torch tensors) with its names and shapes. Real numbers of other
            dtypes are turned into the module's, as torch does.
        strict : bool
            Whether names that are missing or unexpected are an error. If False, parameters without an array keep their
            values: leave a name out to keep a layer of another shape.

        Returns
        -------
        LoadResult
            The names that were passed over: (missing_keys, unexpected_keys).

        Raises
        ------
        TypeError
            If the state is no mapping.
        ValueError
            If a name or shape does not fit, or the module's dtype cannot hold a value: a finite one that overflows, a
            fraction for a counter. Nothing has been written then.

        Notes
        -----
        Where a state lacks num_batches_tracked, the count of batch normalization, which torch before 1.0 did not have,
        it is as it was.
        """
        own = dict(self._arrays())
        given, result = checked_state(type(self).__name__, own, state, strict)
        copies = {name: array.copy() for name, array in given.items()}      # they may be views of what is written
        for name, array in copies.items():
            own[name][...] = beside(own[name], array)
        return result

    def to(self, device_or_dtype: DTypeLike) -> Self:
        """Move all parameters, their gradients and buffers of floats, or turn them into another dtype.

        Parameters
        ----------
        device_or_dtype : {"cpu", "cuda"}, float32 or float64
            The device to move to, or the dtype to turn into. Buffers of integers are counters; they stay on the host as
            they are.

        Returns
        -------
        Module
            This one.

        Raises
        ------
        CudaUnavailableError
            If there is no GPU, no compiler for it or no CuPy.
        TypeError
            If it is neither a device nor such a dtype.

        Notes
        -----
        Optimizers may be built before a move: their state follows. Build them after a change of dtype: the state of one
        that has made a step keeps its dtype, and no longer fits.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import nn
        >>> nn.Linear(2, 3).to(np.float64).to("cpu").weight
        Parameter(shape=(3, 2), dtype=float64)
        """
        turned = _turn(device_or_dtype)
        for parameter in self.parameters():
            parameter.data = turned(parameter.data)
            parameter.grad = None if parameter.grad is None else turned(parameter.grad)
        for _, module in self.named_modules():
            for name, array in module._own_buffers():
                if array.dtype in FLOATS:
                    setattr(module, name, turned(array))
        return self

    def __repr__(self) -> str:
        """The options that the module was made with, then the modules inside it, one a line."""
        options = [f"{name}={value!r}" for name, value in vars(self).items()
                   if not name.startswith("_") and isinstance(value, bool | int | float | str | tuple | None)]
        children = [f"  ({name}): {child!r}".replace("\n", "\n  ") for name, child in self._members(Module)]
        inside = ", ".join(options) + ("\n" + "\n".join(children) + "\n" if children else "")
        return f"{type(self).__name__}({inside})"

    def _members(self, kind: type[_Member]) -> Iterator[tuple[str, _Member]]:
        for name, value in vars(self).items():
            if isinstance(value, list | tuple):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, kind))
            elif isinstance(value, kind):
                yield name, value

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, child in self._members(Module):
            yield from child._walk(_join(prefix, name))

    def _own_buffers(self) -> Iterator[tuple[str, Array]]:
        for name in self.buffers:
            array = getattr(self, name)
            if isinstance(array, np.generic):       # what arithmetic makes of an array of no dimensions
                array = np.asarray(array)
                setattr(self, name, array)
            if array is not None:
                yield name, array

    def _arrays(self) -> Iterator[tuple[str, Array]]:
        """Iterate over all arrays of the state; one that is used in two places has both names, as in torch."""
        for prefix, module in self._walk():
            for name, parameter in module._members(Parameter):
                yield _join(prefix, name), parameter.data
            for name, array in module._own_buffers():
                yield _join(prefix, name), array


def beside(like: Array, array: Array) -> Array:
    """Return an array where another one lies: as it is, or a copy on the host or the GPU."""
    if _device.is_device(like):
        return _device.to_device(array)
    return _device.to_host(array) if _device.is_device(array) else array


def _turn(device_or_dtype: Any) -> Callable[[Array], Array]:
    """Return what brings an array to a device or into a dtype."""
    if isinstance(device_or_dtype, str) and device_or_dtype in _device.DEVICES:
        return _device.DEVICES[device_or_dtype]
    try:
        dtype: Any = np.dtype(repr(None) if device_or_dtype is None else device_or_dtype)      # None would be float64
    except TypeError:
        dtype = repr(device_or_dtype)
    if dtype not in FLOATS:
        raise TypeError(f"device_or_dtype: expected 'cpu', 'cuda', float32 or float64, got {dtype}")
    return lambda array: array.astype(dtype, copy=False)


def checked_state(owner: str, own: Mapping[str, Array], state: Mapping[str, Any],
                  strict: bool | None = None) -> tuple[dict[str, Array], LoadResult]:
    """Return those arrays of `state` that have a place in `own`, in its dtypes, once names, shapes and values fit.

    Names must, too, unless `strict` is False; None is for those who do not ask.
    """
    if not isinstance(state, Mapping):
        raise TypeError("state: expected a mapping of names to arrays, as state_dict returns, got "
                        f"{type(state).__name__}")
    missing = [name for name in own if name not in state and name.rpartition(".")[2] != "num_batches_tracked"]
    unexpected = [name for name in state if name not in own]
    given, mismatched = {}, []
    for name, like in own.items():
        try:
            if name in state:
                given[name] = _cast(state[name], like)
        except ValueError as error:
            mismatched.append(f"{name} ({error})")
    problems = [(what, names) for what, names in (("missing", missing if strict is not False else []),
                                                  ("unexpected", unexpected if strict is not False else []),
                                                  ("mismatched", mismatched)) if names]
    if problems:
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems)
        raise ValueError(f"state does not fit {owner}, and nothing was loaded: {listed}. "
                         f"{_cure(missing, unexpected, state)}"
                         + ", or leave out what does not fit, with strict=False" * (strict is not None))
    return given, LoadResult(missing, unexpected)


def _cast(value: Any, like: Array) -> Array:
    """Return an array on the host in the dtype of another one, if it fits there."""
    value = value.data if isinstance(value, Parameter) else value
    try:
        if hasattr(value, "detach"):        # torch's tensors: NumPy takes none that learns, and has no bfloat16
            value = value.detach()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        array = kernels.to_host(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected {_kind(like)}, got {type(value).__name__}, which is no array: {error}") from error
    if not like.ndim and array.shape == (1,):           # how torch before 0.4 wrote numbers
        array = array.reshape(())
    # What casts to float32 without loss counts as numbers, whichever package defines it.
    real = array.dtype.kind in "biuf" or np.can_cast(array.dtype, np.float32)
    if array.shape != like.shape or not real:
        raise ValueError(f"expected {_kind(like)}, got {_kind(array)}")
    if array.dtype == like.dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(like.dtype)
        # Numbers are rounded, but whole ones are taken only where nothing is lost: they may be the bits of others.
        rounded = like.dtype in FLOATS and array.dtype.kind not in "biu"
        lost = np.isfinite(array) & ~np.isfinite(cast) if rounded else array != cast
    if lost.any():
        raise ValueError(f"expected {like.dtype}, got {array[lost][0]} in {array.dtype}, which it cannot hold")
    return cast


def _cure(missing: list[str], unexpected: list[str], state: Mapping[str, Any]) -> str:
    """Return what may help where names or shapes of a state do not fit."""
    if inner := [name for name, value in state.items() if isinstance(value, Mapping)]:
        return f"What is under {inner[0]!r} is a mapping itself: give that"
    if prefix := _prefix(unexpected, missing):
        return (f"Names of the state begin with {prefix!r}, which those of the module do not: take it away, as "
                f"load_model does with prefix={prefix!r}")
    if prefix := _prefix(missing, unexpected):
        return f"Names of the module begin with {prefix!r}, which those of the state do not: add it"
    close = [f"{name} for {like[0]}" for name in missing
             if (like := difflib.get_close_matches(str(name), map(str, unexpected), 1, 0.8))]
    if close:
        return f"Rename what is meant ({_some(close)})"
    return "Build it with the options of the one that was saved"


def _prefix(longer: Sequence[Any], shorter: Sequence[Any]) -> str:
    """Return what is to be put before names to get other ones; "" where that is nothing."""
    for one, other in itertools.product(map(str, longer), map(str, shorter)):
        if one.endswith(f".{other}"):
            prefix = one.removesuffix(other)
            return prefix if {f"{prefix}{name}" for name in shorter} <= set(longer) else ""
    return ""


def _some(names: Sequence[Any], most: int = 5) -> str:
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _unique(named: Iterable[tuple[str, _Member]]) -> Iterator[tuple[str, _Member]]:
    seen: set[int] = set()
    for name, value in named:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value
