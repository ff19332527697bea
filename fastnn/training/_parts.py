"""The parts of a run: a model, its loss, their optimizer and the callbacks; how checkpoints hold them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.nn import Module, Parameter
from fastnn.optim import Optimizer
from fastnn.training._sums import first_not_finite
from fastnn.training.callback import Callback
from fastnn.training.checkpoint import CheckpointError, Tensors, part


@dataclass(frozen=True)
class Parts:
    """What is trained, what trains it, and who looks on."""

    model: Module
    loss: Module
    optimizer: Optimizer
    callbacks: Sequence[Callback]

    def learned(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters of the model and those of the loss, by name; one that both have, once."""
        own = set()
        for name, parameter in self.model.named_parameters():
            own.add(id(parameter))
            yield name, parameter
        yield from ((f"{name} of the loss", parameter) for name, parameter in self.loss.named_parameters()
                    if id(parameter) not in own)

    def held(self) -> list[Parameter]:
        """The parameters that the optimizer holds."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def check_optimizer(self) -> None:
        """Raise an error where the optimizer holds a parameter of something else, or twice."""
        held = self.held()
        learned = {id(parameter) for _, parameter in self.learned()}
        if strange := sum(id(parameter) not in learned for parameter in held):
            raise ValueError(f"optimizer: expected parameters of this {type(self.model).__name__} or of the loss, got "
                             f"{strange} of {len(held)} that are of neither; build it with model.parameters() of the "
                             "model that is trained")
        if len({id(parameter) for parameter in held}) < len(held):
            raise ValueError("optimizer: expected each parameter once, got one in two places")

    def left_out(self) -> list[str]:
        """The names of parameters that could be trained, but are not the optimizer's."""
        held = set(map(id, self.held()))
        return [name for name, parameter in self.learned() if parameter.requires_grad and id(parameter) not in held]

    @property
    def of_tokens(self) -> bool:
        """Whether the loss is a mean over tokens, not over samples."""
        return hasattr(self.loss, "tokens")

    def tokens(self, targets: Any) -> Any:
        """How many tokens the loss of a batch is the mean over; None where it is one over samples."""
        return self.loss.tokens(targets) if hasattr(self.loss, "tokens") else None

    def zero_grad(self) -> None:
        self.model.zero_grad()
        self.loss.zero_grad()

    def not_finite(self) -> str | None:
        """Name an array that is not finite, of the model, the loss or the optimizer's state."""
        names = {id(parameter): name for name, parameter in self.learned()}
        return first_not_finite([
            *self.model._arrays(), *((f"{name} of the loss", array) for name, array in self.loss._arrays()),
            *((f"the optimizer's {state} for {names.get(id(parameter), place)}", array)
              for place, parameter in enumerate(self.held())
              for state, array in self.optimizer._states.get(place, {}).items())])

    # --- in a checkpoint ---

    def tensors(self, weights_alone: bool = False) -> Tensors:
        """Return what a checkpoint holds of them, by names that begin with the part's."""
        states = {"model": self.model.state_dict(), "loss": self.loss.state_dict()}
        if not weights_alone:
            states["optimizer"] = self.optimizer.state_dict()
            states |= {_key(i, callback): callback.state_dict() for i, callback in enumerate(self.callbacks)}
        return {f"{prefix}.{name}": tensor for prefix, state in states.items() for name, tensor in state.items()}

    def options(self) -> list[dict[str, Any]]:
        """The options of the optimizer's groups, with how many parameters each has, as JSON holds them."""
        groups = [{**group, "params": len(group["params"])} for group in self.optimizer.param_groups]
        options: list[dict[str, Any]] = json.loads(json.dumps(groups, default=lambda number: number.item()))
        return options

    def load(self, path: Path, tensors: Tensors, metadata: dict[str, Any]) -> None:
        """Take up everything from a checkpoint, or nothing."""
        weights = [(module, module.state_dict()) for module in (self.model, self.loss)]
        groups = [dict(group) for group in self.optimizer.param_groups]
        attributes = [(owner, _attributes(owner)) for owner in (self.optimizer, *self.callbacks)]
        what = f"a checkpoint of another model or optimizer than this {metadata['model']} and {metadata['optimizer']}"
        try:
            for prefix, (_, own) in zip(("model", "loss"), weights):
                for name, tensor in part(tensors, prefix).items():
                    if name in own and tensor.dtype != own[name].dtype:         # it would end with other bits
                        raise ValueError(f"expected {name} in {own[name].dtype}, got {tensor.dtype}")
            self.model.load_state_dict(part(tensors, "model"))
            self.loss.load_state_dict(part(tensors, "loss"))
            # Before the state, since they decide which arrays it has; runs from before they were kept have none.
            self._load_options(metadata.get("options", self.options()))
            self.optimizer.load_state_dict(part(tensors, "optimizer"))
            for i, callback in enumerate(self.callbacks):
                what = f"the state of the callback {type(callback).__qualname__} cannot be taken back"
                if callback_state := part(tensors, _key(i, callback)):
                    callback.load_state_dict(callback_state)
        except BaseException as error:
            for module, arrays in weights:
                module.load_state_dict(arrays)
            for owner, values in attributes:
                vars(owner).clear()
                vars(owner).update(values)
            for group, options in zip(self.optimizer.param_groups, groups):
                group.update(options)
            if not isinstance(error, Exception):
                raise
            name = f"{type(error).__name__} " if isinstance(error, KeyError) else ""
            raise CheckpointError(f"{path}: {what}: {name}{error}") from error

    def _load_options(self, saved: list[dict[str, Any]]) -> None:
        ours = self.options()
        if [(group["params"], group.keys()) for group in saved] != [(group["params"], group.keys()) for group in ours]:
            raise ValueError(f"expected an optimizer with the groups {ours}, got {saved}")
        for group, options in zip(self.optimizer.param_groups, saved):
            # JSON makes lists of tuples, as of betas.
            group.update({name: tuple(value) if isinstance(value, list) else value
                          for name, value in options.items() if name != "params"})
        self.optimizer.check()


def _key(i: int, callback: Callback) -> str:
    return f"callbacks.{i}.{type(callback).__qualname__}"


def _attributes(owner: object) -> dict[str, Any]:
    """The attributes of an object, those copied that are commonly changed in place."""
    return {name: value.copy() if isinstance(value, np.ndarray | list | dict | set) else value
            for name, value in vars(owner).items()}
