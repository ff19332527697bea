"""What a run calls as it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastnn.training.checkpoint import Tensors
from fastnn.training.metrics import Evaluation, Record


class Callback:
    """What a run calls as it goes; a subclass overrides what it needs.

    `trainer` is the `Trainer`, whose model, loss, optimizer, history, config, run_dir and `stop` may be used. A
    callback that remembers something from epoch to epoch hands it over in `state_dict`, so that it lies in the
    checkpoints and a resumed run ends as the uninterrupted one.

    Examples
    --------
    >>> from fastnn import training
    >>> class Perplexity(training.Callback):
    ...     def on_epoch_end(self, trainer, record):
    ...         record["val_perplexity"] = math.exp(record["val_loss"])
    """

    # Any, since the trainer's module imports this one; a subclass may say `Trainer`.
    def on_fit_begin(self, trainer: Any) -> None:
        """Before the first step; a resumed run has its state back."""

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Before the first step of epoch `epoch` (from 0), and before the next one where a run is resumed within it."""

    def on_gradients(self, trainer: Any) -> None:
        """When every parameter has its gradient, before clipping and the update."""

    def on_step_end(self, trainer: Any, loss: Any) -> None:
        """After the update; `loss` is that of the batch, a float.

        Where the model is trained on a GPU, it is an array of no dimensions there, whose ``float(loss)`` waits for the
        step.
        """

    def on_steps_end(self, trainer: Any) -> None:
        """After the last step of an epoch, before the validation: once more where a run is resumed in between."""

    def on_validation_end(self, trainer: Any, evaluation: Evaluation) -> None:
        """After the validation of an epoch."""

    def on_epoch_end(self, trainer: Any, record: Record) -> None:
        """Before the epoch's record is written and its checkpoint saved; may add figures to the record.

        A figure is a finite number, of Python or NumPy, or None where it has no value.
        """

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        """After a checkpoint was saved."""

    def on_fit_end(self, trainer: Any) -> None:
        """After the last epoch."""

    def state_dict(self) -> Tensors:
        """Return what a resumed run needs, as arrays by name."""
        return {}

    def load_state_dict(self, state: Tensors) -> None:
        """Take back what `state_dict` returned."""
