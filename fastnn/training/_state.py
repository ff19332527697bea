"""Where a run stands: what its checkpoints hold beside tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fastnn.training._sums import Sums
from fastnn.training.metrics import Record, checked_record, is_number


@dataclass
class State:
    """The epochs that a run has done, and how far it is in the running one."""

    epoch: int = 0                          # epochs done
    updates: int = 0                        # steps done in all
    best: list[float] | None = None         # validation accuracy and negative loss of the best checkpoint
    records: list[Record] = field(default_factory=list)
    step: int = 0                           # steps done in the running epoch, and how long they took
    seconds: float = 0.0
    sums: Sums = field(default_factory=Sums)

    def next_epoch(self) -> None:
        self.epoch += 1
        self.step, self.seconds, self.sums = 0, 0.0, Sums()

    def saved(self) -> dict[str, Any]:
        """Return it as JSON holds it, after a look at the sums, which lie beside the rest."""
        values = dataclasses.asdict(self)
        return values | values.pop("sums")

    @classmethod
    def read(cls, saved: Any, steps_per_epoch: int) -> State:
        """Return what was `saved`, or raise a ValueError that says what is wrong with it."""
        names = cls().saved().keys()
        if not isinstance(saved, dict) or saved.keys() - names:
            raise ValueError(f"expected {', '.join(sorted(names))}, got {saved!r:.100}")
        saved = cls().saved() | {"tokens": saved.get("samples", 0)} | saved       # older versions knew samples alone
        for name, kind in (("epoch", int), ("updates", int), ("step", int), ("samples", int), ("tokens", int),
                           ("loss_sum", float), ("correct", int), ("seconds", float)):
            if not is_number(saved[name], kind) and (name, saved[name]) != ("correct", None):
                raise ValueError(f"expected a {kind.__name__} as {name}, got {saved[name]!r:.100}")
        for name, length in (("best", 2), ("records", saved["epoch"])):
            value = saved[name]
            if not (isinstance(value, list) and len(value) == length) and (name, value) != ("best", None):
                raise ValueError(f"expected a list of {length} as {name}, got {value!r:.100}")
        if not all(map(is_number, saved["best"] or ())):
            raise ValueError(f"expected numbers as best, got {saved['best']!r:.100}")
        for number, record in enumerate(saved["records"], 1):
            checked_record(record, f"record {number}")
        sums = Sums(*(saved.pop(field.name) for field in dataclasses.fields(Sums)))
        state = cls(**saved, sums=sums)
        if state.updates != state.epoch * steps_per_epoch + state.step or state.step > steps_per_epoch:
            raise ValueError(f"expected as many updates as {state.epoch} epochs of {steps_per_epoch} steps and "
                             f"{state.step} more have, got {state.updates}")
        return state
