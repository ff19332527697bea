"""The training loop: what a run does, what its folder holds, and how it is stopped and taken up again."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import math
import numbers
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import fastnn
from fastnn import _device, kernels, random
from fastnn._checks import as_float, as_int
from fastnn._files import as_path
from fastnn.data import DataLoader
from fastnn.nn import Module, Parameter
from fastnn.optim import Optimizer, clip_grad_norm_, clip_grad_value_
from fastnn.training._extra import require
from fastnn.training._folder import RunLock, hold
from fastnn.training._interrupts import Interrupts, Signalled
from fastnn.training._progress import Progress
from fastnn.training.callbacks import Callback, EarlyStopping
from fastnn.training.checkpoint import CheckpointError, load, part, replace_file, save, unwritable
from fastnn.training.metrics import (
    Evaluation,
    History,
    Record,
    as_figure,
    checked_record,
    confusion_matrix,
    is_number,
)

LAST, BEST, CONFIG = "last.safetensors", "best.safetensors", "config.json"

# What the trainer measures itself, in the record of each epoch.
_FIGURES = ("epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
            "images_per_second")

_LOOK = 50              # steps on a GPU after which their sums are waited for


class Loader(Protocol):
    """What fit takes batches from: `fastnn.data.DataLoader`, or anything with these two methods.

    A batch is a tuple of arrays: the model's inputs, and last what the loss compares its output with.
    """

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start_step: int = 0, /) -> Generator[tuple[NDArray[Any], ...], None, None]: ...


class Interrupted(Signalled):
    """Ctrl-C, SIGTERM or SIGHUP ended a run, after the step that was going on.

    Attributes
    ----------
    checkpoint : Path or None
        From where ``fit(resume=True)`` goes on; None where the run has no folder and nothing was saved.
    signal : int
        The signal's number.

    Examples
    --------
    >>> from pathlib import Path
    >>> from fastnn import training
    >>> print(training.Interrupted(0, 3, Path("last.safetensors")))
    interrupted in epoch 1 after step 3: saved to last.safetensors; fit(resume=True) goes on from there
    """

    def __init__(self, epoch: int, step: int, checkpoint: Path | None, number: int = signal.SIGINT) -> None:
        saved = f"saved to {checkpoint}; fit(resume=True) goes on from there" if checkpoint else (
            "nothing was saved, since the trainer has no run_dir")
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        super().__init__(number, f"interrupted in epoch {epoch + 1} after step {step}{by}: {saved}")
        self.checkpoint = checkpoint


class DivergedError(RuntimeError):
    """A loss, a gradient or what a step left is not finite. The last checkpoint is as it was.

    On the host the update was not made. On a GPU, where a look at each step's loss would wait for the step, some dozens
    more may have been, and the message says within which steps it happened.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import data, nn, optim, training
    >>> model = nn.Linear(2, 1)
    >>> trainer = training.Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), progress=False)
    >>> x = np.array([[1.0, np.nan]], np.float32)
    >>> trainer.fit(data.DataLoader((x, x[:, :1]), 1), epochs=1)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fastnn.training.trainer.DivergedError: the loss is nan in epoch 1 after 0 of 1 steps (learning rate 0.1): ...
    """


@dataclasses.dataclass
class _State:
    """Where a run stands: all that a checkpoint holds beside tensors."""

    epoch: int = 0                          # epochs done
    updates: int = 0                        # steps done in all
    best: list[float] | None = None         # validation accuracy and negative loss of the best checkpoint
    records: list[Record] = dataclasses.field(default_factory=list)
    step: int = 0                           # steps done in the running epoch, and sums over them
    samples: int = 0
    loss_sum: Any = 0.0                     # a number; on a GPU an array there, between two looks at it
    correct: Any = 0                        # the same, or None: the task is no classification
    seconds: float = 0.0

    @classmethod
    def read(cls, saved: Any, steps_per_epoch: int) -> _State:
        """Return the state that a checkpoint holds, or raise a ValueError that says what is wrong with it."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(saved, dict) or saved.keys() - names:
            raise ValueError(f"expected {', '.join(sorted(names))}, got {saved!r:.100}")
        state = cls(**saved)
        for name, kind in (("epoch", int), ("updates", int), ("step", int), ("samples", int), ("loss_sum", float),
                           ("correct", int), ("seconds", float)):
            value = getattr(state, name)
            if not is_number(value, kind) and (name, value) != ("correct", None):
                raise ValueError(f"expected a {kind.__name__} as {name}, got {value!r:.100}")
        for name, length in (("best", 2), ("records", state.epoch)):
            value = getattr(state, name)
            if not (isinstance(value, list) and len(value) == length) and (name, value) != ("best", None):
                raise ValueError(f"expected a list of {length} as {name}, got {value!r:.100}")
        if not all(map(is_number, state.best or ())):
            raise ValueError(f"expected numbers as best, got {state.best!r:.100}")
        for number, record in enumerate(state.records, 1):
            checked_record(record, f"record {number}")
        if state.updates != state.epoch * steps_per_epoch + state.step or state.step > steps_per_epoch:
            raise ValueError(f"expected as many updates as {state.epoch} epochs of {steps_per_epoch} steps and "
                             f"{state.step} more have, got {state.updates}")
        return state

    def next_epoch(self) -> None:
        self.epoch += 1
        self.step, self.samples, self.loss_sum, self.correct, self.seconds = 0, 0, 0.0, 0, 0.0


class Trainer:
    """Trains a model by steps, and keeps what a run leaves behind in a folder.

    A run folder holds config.json, metrics.jsonl (a line an epoch), last.safetensors and, with validation,
    best.safetensors (the weights of the epoch with the highest validation accuracy, of those the one with the lowest
    loss; by the loss alone where the task is no classification) and curves.png. `write_report` adds the rest.

    Parameters
    ----------
    model : Module
        What is trained.
    loss : Module
        ``loss.forward(scores, targets)`` gives the mean loss of a batch and its gradient, as `nn.CrossEntropyLoss`. It
        may have parameters and buffers of its own, which are trained and saved with the model's.
    optimizer : Optimizer
        Of parameters of the model and of the loss. Those that it does not hold stay as they are, and `fit` says so.
    schedule : callable, optional
        ``schedule(t)`` is the factor on the learning rate after t epochs, a float; see `fastnn.optim`.
    callbacks : sequence of Callback, optional
        See `Callback`.
    run_dir : str or path-like, optional
        The run's folder, made if it is not there. Without one nothing is saved.
    seed : int, default 0
        What dropout draws its masks from.
    device : {"cpu", "cuda"}, default "cpu"
        Where to train: the model is moved there and stays there, and the optimizer's state and each batch follow. On a
        GPU no step waits for the one before, so that the next batches are loaded meanwhile. A checkpoint can be taken
        up on either device; the same bits it gives on the same one.
    clip_norm : float, optional
        The largest norm that all gradients together may have.
    clip_value : float, optional
        The largest magnitude that an element of a gradient may have.
    config : mapping, optional
        What made this run, for config.json: values that JSON holds, and paths.
    progress : bool, default True
        Show a bar on stderr and print a line an epoch.

    Attributes
    ----------
    history : History
        What was measured so far.

    Raises
    ------
    TypeError, ValueError
        If an option is not what it should be, or the optimizer holds a parameter that is not of the model or the loss.

    Examples
    --------
    >>> from fastnn import data, nn, optim, training
    >>> digits = data.digits()
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), progress=False)
    >>> loader = data.DataLoader(digits.train, 64, transform=data.Normalize(0.3, 0.4, digits.scale))
    >>> history = trainer.fit(loader, epochs=3)
    >>> history["train_accuracy"][-1] > 0.9
    np.True_
    """

    def __init__(
        self,
        model: Module,
        loss: Module,
        optimizer: Optimizer,
        *,
        schedule: Callable[[float], float] | None = None,
        callbacks: Sequence[Callback] = (),
        run_dir: str | os.PathLike[str] | None = None,
        seed: int = 0,
        device: str = "cpu",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        config: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        if isinstance(callbacks, Callback):
            raise TypeError(f"callbacks: expected a list of them, got {_an(type(callbacks).__name__)}")
        for name, value, kind in (("model", model, Module), ("loss", loss, Module), ("optimizer", optimizer, Optimizer),
                                  *(("callbacks", callback, Callback) for callback in callbacks)):
            if not isinstance(value, kind):
                got = f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__
                raise TypeError(f"{name}: expected {_an(kind.__name__)}, got {got}")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not (isinstance(limit, numbers.Real) and limit > 0):
                raise ValueError(f"{name}: expected a number above 0 or None, got {limit!r}")
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule: expected a function of the epochs done, or None, got {schedule!r:.100}")
        if not isinstance(device, str) or device not in _device.DEVICES:
            raise ValueError(f"device: expected one of {', '.join(_device.DEVICES)}, got {device!r}")
        self.device = device
        self.model = model.to(device)
        self.loss = loss.to(device)
        self.optimizer = optimizer
        self.schedule = schedule
        self.callbacks = list(callbacks)
        self.run_dir = None if run_dir is None else as_path("run_dir", run_dir)
        self.seed = as_int("seed", seed, 0)
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.progress = progress
        try:
            self.config = json.loads(json.dumps(dict(config or {}), default=os.fspath, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(f"config: expected values that JSON holds, or paths: {error}") from error
        self._stop_reason: str | None = None
        self._lock: RunLock | None = None
        self._check_optimizer()
        self._start_over()

    def fit(self, train_loader: Loader, validation_loader: Loader | None = None, *, epochs: int,
            resume: bool = False) -> History:
        """Train for a number of epochs, each followed by validation and a checkpoint.

        Ctrl-C, and SIGTERM and SIGHUP where they are not ignored, end the run after the step that is going on, with a
        checkpoint; a second one at once, without. While it goes on, no other process can train in the run folder.

        Parameters
        ----------
        train_loader : Loader
            Batches to train on.
        validation_loader : Loader, optional
            Batches to validate on, the same in each epoch: those that `evaluate` takes.
        epochs : int
            How many epochs the run has, those before a resumption included.
        resume : bool, default False
            Go on from last.safetensors in the run folder. The run ends with the same bits as an uninterrupted one,
            given the same loaders, schedule and callbacks. A callback whose state is not in the checkpoint starts anew.
            The optimizer's options, such as its learning rate, are those in the checkpoint, since a callback may have
            changed them; a callback may change them again in `on_fit_begin`.

        Returns
        -------
        History
            The run's, from its first epoch.

        Raises
        ------
        CheckpointError
            If a file of the run cannot be written, another process or thread writes in the run folder, or the
            checkpoint is not one of this model, its dtype, optimizer and seed.
        DivergedError
            If a loss or a gradient is not finite, or a step leaves what is not: parameters, running statistics or the
            optimizer's state, or a model whose loss is not finite. Nothing of it is saved.
        FileExistsError
            If the folder holds a run already and `resume` is False.
        Interrupted
            After Ctrl-C, SIGTERM or SIGHUP.
        TypeError, ValueError
            If `epochs` is below 1, `resume` is asked for without a run folder, or a loader is none, is empty, or gives
            what the model or the loss does not take: what is wrong with images, labels or a last batch of one sample
            is said before the first step. Also if a callback adds to a record what is no finite number.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import data, nn, optim, training
        >>> model = nn.Linear(2, 1)
        >>> trainer = training.Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), progress=False)
        >>> x = np.eye(2, dtype=np.float32)
        >>> history = trainer.fit(data.DataLoader((x, x.sum(1, keepdims=True)), 2), epochs=50)
        >>> history["train_loss"][-1] < 0.01 * history["train_loss"][0]
        np.True_
        """
        epochs = as_int("epochs", epochs, 1)
        _check_loader("train_loader", train_loader)
        if validation_loader is not None:
            _check_loader("validation_loader", validation_loader)
        if resume and self.run_dir is None:
            raise ValueError("resume: expected a trainer with run_dir, where the checkpoint lies; it has none")
        self._check_optimizer()
        self._start_over()
        self._train_loader, self._steps_per_epoch = train_loader, len(train_loader)
        if not resume:                      # before there is a folder
            self._check_run(train_loader, validation_loader, epochs)
        with self._folder_held(resume):
            if self.run_dir is not None:
                self._take_up(self.run_dir, resume, epochs)
            if resume:
                self._check_run(train_loader, validation_loader, epochs)
            if self.run_dir is not None:
                self._open(self.run_dir)
            self._call("on_fit_begin")
            with Interrupts() as self._interrupts, self._progress(epochs) as progress:
                self._say_what_stays(progress)
                if not self._state.updates:
                    self._save(LAST)
                while self._state.epoch < epochs and self._stop_reason is None:
                    self._pause_point()
                    self._train_epoch(train_loader, progress)
                    evaluation = None if validation_loader is None else self._validate(validation_loader)
                    self._end_epoch(evaluation, progress)
                if self._stop_reason is not None:
                    progress.say(f"stopped after epoch {self._state.epoch}: {self._stop_reason}")
            self._call("on_fit_end")
            if self.run_dir is not None and self.history:
                from fastnn.training import plots

                replace_file(self.run_dir / "curves.png", plots.png(plots.curves(self.history)))
        return self.history

    def evaluate(self, loader: Loader) -> Evaluation:
        """Measure the model on all samples of a loader, in inference.

        Parameters
        ----------
        loader : Loader
            Batches of inputs and targets. Where the targets are classes (integers, one a sample) and the model gives
            scores of shape (N, C), accuracy, confusion matrix and predictions are found too. Those of a
            `fastnn.data.DataLoader` are taken in the order of its arrays, whether or not it shuffles them or drops the
            last batch; of another loader, in the order of its epoch 0.

        Returns
        -------
        Evaluation

        Raises
        ------
        TypeError, ValueError
            If it is no loader, or an empty one.

        Examples
        --------
        >>> from fastnn import data, nn, optim, training
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1))
        >>> digits = data.digits()
        >>> transform = data.Normalize(0.3, 0.4, digits.scale)
        >>> trainer.evaluate(data.DataLoader(digits.test, 100, shuffle=False, transform=transform)).confusion.sum()
        np.int64(360)
        """
        _check_loader("loader", loader)
        return self._evaluate(loader, lambda: None)

    def stop(self, reason: str) -> None:
        """End the run after the epoch that is going on; for callbacks.

        Parameters
        ----------
        reason : str
            Printed at the end of the run.

        Examples
        --------
        >>> from fastnn import training
        >>> class StopWhenPerfect(training.Callback):
        ...     def on_epoch_end(self, trainer, record):
        ...         if record["val_accuracy"] == 1:
        ...             trainer.stop("every validation image is recognised")
        """
        self._stop_reason = reason

    def _start_over(self) -> None:
        self._state = _State()
        self._looked, self._gradients = 0, 0.0
        self._unproven: Sequence[Any] | None = None     # the batch of a step after which nothing was looked at
        self.history = History(self._state.records)
        self._stop_reason = None

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *args)

    def _progress(self, epochs: int) -> Progress:
        steps = self._steps_per_epoch
        return Progress(epochs * steps, self._state.epoch * steps + self._state.step, epochs, self.progress)

    # --- before the first step ---

    def _learned(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters of the model and those of the loss, by name; one that both have, once."""
        own = set()
        for name, parameter in self.model.named_parameters():
            own.add(id(parameter))
            yield name, parameter
        yield from ((f"{name} of the loss", parameter) for name, parameter in self.loss.named_parameters()
                    if id(parameter) not in own)

    def _held(self) -> list[Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _check_optimizer(self) -> None:
        held = self._held()
        learned = {id(parameter) for _, parameter in self._learned()}
        if strange := sum(id(parameter) not in learned for parameter in held):
            raise ValueError(f"optimizer: expected parameters of this {type(self.model).__name__} or of the loss, got "
                             f"{strange} of {len(held)} that are of neither; build it with model.parameters() of the "
                             "model that is trained")
        if len({id(parameter) for parameter in held}) < len(held):
            raise ValueError("optimizer: expected each parameter once, got one in two places")

    def _say_what_stays(self, progress: Progress) -> None:
        held = set(map(id, self._held()))
        stays = [name for name, parameter in self._learned() if parameter.requires_grad and id(parameter) not in held]
        if stays:
            more = f" and {len(stays) - 5} more" if len(stays) > 5 else ""
            progress.say(f"not trained, since the optimizer does not hold them: {', '.join(stays[:5])}{more}")

    def _check_run(self, train_loader: Loader, validation_loader: Loader | None, epochs: int) -> None:
        if self.schedule is not None and self._state.epoch < epochs:
            as_float("schedule", self.schedule(self._state.epoch), 0)
        self._check_monitored(validated=validation_loader is not None)
        self._check_model(train_loader, validation_loader)

    def _check_monitored(self, *, validated: bool) -> None:
        figures = [name for name in _FIGURES if validated or not name.startswith("val_")]
        for callback in self.callbacks:
            if isinstance(callback, EarlyStopping):
                callback.check_measured(figures)
            elif not type(callback).__module__.startswith("fastnn."):
                return                      # it may measure anything for those after it

    def _check_model(self, train_loader: Loader, validation_loader: Loader | None) -> None:
        """See that training and validation will not fail for what can be known before, and leave files.

        Training is tried on the last batch, the smallest.
        """
        if not any(parameter.requires_grad for parameter in self._held()):
            raise ValueError("optimizer: expected a parameter that is learned, but all that it holds are frozen "
                             "(requires_grad=False)")
        if broken := self._not_finite():
            raise ValueError(f"model: expected finite weights to begin with, but {broken} is not finite")
        with self._trial("train_loader", train_loader, len(train_loader) - 1) as (inputs, targets):
            try:
                scores = self.model.forward(*inputs, training=True)[0]
            except ValueError as error:
                if len(targets) > 1:
                    raise
                self.model.forward(*(np.concatenate([x, x]) for x in inputs), training=True)    # else it is not that
                count = len(train_loader)
                what = f"last batch, {count} of {count}, has"
                cure = "leave it out (drop_last=True), or give another batch_size"
                if getattr(train_loader, "batch_size", None) == 1:
                    what, cure = "batches have", "give another batch_size"
                elif count == 1:
                    what, cure = "only batch has", "give more samples"
                raise ValueError(f"train_loader: its {what} a single sample, on which the model cannot be trained, as "
                                 f"with batch normalization ({error}); {cure}") from error
            self.loss.forward(scores, targets)
            self._check_labels(train_loader, scores, targets)
        if validation_loader is not None:
            with self._trial("validation_loader", _in_order(validation_loader), 0) as (inputs, targets):
                scores = self.model(*inputs)
                self.loss.forward(scores, targets, training=False)
                self._check_labels(validation_loader, scores, targets)

    def _check_labels(self, loader: Loader, scores: Any, targets: Any) -> None:
        """Ask the loss about the least and the largest label of all, since only it knows which it takes."""
        if _is_classification(scores, targets) and isinstance(loader, DataLoader):
            low, high = int(loader.arrays[-1].min()), int(loader.arrays[-1].max())
            losses = [self.loss.forward(scores, targets * 0 + label, training=False)[0] for label in (low, high)]
            # A GPU's answer to a label that is out of range; scores that are not finite are another matter.
            if math.isnan(float(losses[0] + losses[1])) and np.isfinite(kernels.to_host(scores)).all():
                raise ValueError(f"labels: expected those that the loss takes for {scores.shape[1]} scores, got {low} "
                                 f"to {high}, for which it is nan")

    @contextmanager
    def _trial(self, name: str, loader: Loader, step: int) -> Iterator[tuple[Sequence[Any], Any]]:
        """Give a batch to be tried, after which model and loss are as they were; errors say what was tried."""
        buffers = [(module, name, array.copy()) for owner in (self.model, self.loss)
                   for _, module in owner.named_modules() for name, array in module._own_buffers()]
        try:
            with closing(loader.epoch(0, step)) as batches:
                *inputs, targets = self._placed(next(batches, ()))
            with random.at_step(self.seed, 0, step):
                yield inputs, targets
        except (TypeError, ValueError) as error:
            error.add_note(f"in batch {step + 1} of {name}, tried before the first step")
            raise
        finally:
            for module, buffer, array in buffers:
                setattr(module, buffer, array)

    # --- an epoch ---

    def _train_epoch(self, loader: Loader, progress: Progress) -> None:
        state = self._state
        progress.epoch_begins(state.epoch)
        self._call("on_epoch_begin", state.epoch)
        self._looked, shown = state.step, None
        clock = time.perf_counter()
        with closing(loader.epoch(state.epoch, state.step)) as batches:
            for batch in batches:
                *inputs, targets = self._placed(batch)
                loss, correct = self._step(inputs, targets)
                state.step += 1
                state.updates += 1
                state.samples += len(targets)
                state.loss_sum += loss * len(targets)
                state.correct = None if state.correct is None or correct is None else state.correct + correct
                if self.device == "cpu" or state.step % _LOOK == 0:
                    self._look()
                    shown = float(loss)
                before, clock = clock, time.perf_counter()
                state.seconds += clock - before
                self._unproven = *inputs, targets
                self._call("on_step_end", loss)
                self._pause_point()         # before anything is printed: the terminal may be gone
                progress.step_ends(shown)
        self._look()
        self._prove()
        state.seconds += time.perf_counter() - clock

    def _placed(self, batch: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Return a batch where the model is; a copy to a GPU is queued behind the steps before it."""
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            got = len(batch) if isinstance(batch, tuple | list) else type(batch).__name__
            raise ValueError(f"loader: expected batches that are tuples of the model's inputs and the targets, got "
                             f"{got}")
        return batch if self.device == "cpu" else [kernels.to_device(array) for array in batch]

    def _step(self, inputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> tuple[Any, Any]:
        """Make one update; return the loss and the number of right predictions, which lie where the model is.

        On a GPU it waits for nothing: whether all is finite shows in the sums, at the next look.
        """
        state = self._state
        self.model.zero_grad()
        self.loss.zero_grad()
        with random.at_step(self.seed, state.epoch, state.step):
            scores, backward = self.model.forward(*inputs, training=True)
            loss, loss_backward = self.loss.forward(scores, targets)
            if self.device == "cpu" and not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", self._fault_of_batch())
            backward(loss_backward(), input_grad=False)
        for name, parameter in self._learned():
            if parameter.grad is None:
                continue
            if self.device != "cpu":
                self._gradients += parameter.grad.sum(dtype=np.float64)     # finite as long as all gradients are
            elif not np.isfinite(parameter.grad).all():
                raise self._diverged(f"the gradient by {name} is not finite", self._fault_of_batch())
        self._call("on_gradients")
        if self.clip_value is not None:
            clip_grad_value_((parameter for _, parameter in self._learned()), self.clip_value)
        if self.clip_norm is not None:
            clip_grad_norm_((parameter for _, parameter in self._learned()), self.clip_norm)
        self.optimizer.step(self._factor(state.step))
        return _double(loss), _count_correct(scores, targets)

    def _look(self) -> None:
        """Wait for the steps made on a GPU, take their sums to the host, and see that all was finite."""
        if self.device == "cpu":
            return
        state = self._state
        since, self._looked = self._looked, state.step
        state.loss_sum, gradients, self._gradients = float(state.loss_sum), float(self._gradients), 0.0
        state.correct = None if state.correct is None else int(state.correct)
        if not math.isfinite(state.loss_sum) or not math.isfinite(gradients):
            fault = _fault(self._train_loader, "batch {}", state.epoch, since, state.step - since)
            raise self._diverged("a loss or a gradient is not finite", fault, since)

    def _factor(self, step: int) -> float:
        return 1.0 if self.schedule is None else self.schedule(self._state.epoch + step / self._steps_per_epoch)

    def _learning_rate(self, step: int) -> float:
        return float(self.optimizer.param_groups[0]["lr"] * self._factor(step))

    def _prove(self) -> None:
        """See that the steps so far left what may be saved: finite arrays and, of the last batch, a finite loss."""
        if broken := self._not_finite():
            raise self._diverged(f"{broken} is not finite")
        if self._unproven is not None and self.run_dir is not None:
            *inputs, targets = self._unproven
            loss = float(self.loss.forward(self.model(*inputs), targets, training=False)[0])
            if not math.isfinite(loss):
                raise self._diverged(f"the loss of the last batch is {loss} after its update,")
        self._unproven = None

    def _not_finite(self) -> str | None:
        """Name an array that is not finite, of the model, the loss or the optimizer's state."""
        arrays = [*self.model._arrays(), *((f"{name} of the loss", array) for name, array in self.loss._arrays())]
        names, held = {id(parameter): name for name, parameter in self._learned()}, self._held()
        arrays += [(f"the optimizer's {state} for {names.get(id(parameter), place)}", array)
                   for place, parameter in enumerate(held)
                   for state, array in self.optimizer._states.get(place, {}).items()]
        arrays = [(name, array) for name, array in arrays if array.dtype.kind == "f"]
        # On a GPU sums, finite as long as all of an array is, are waited for once.
        sums = sum(array.sum(dtype=np.float64) for _, array in arrays if _device.is_device(array))
        if math.isfinite(float(sums)):
            arrays = [(name, array) for name, array in arrays if not _device.is_device(array)]
        return next((name for name, array in arrays if not np.isfinite(kernels.to_host(array)).all()), None)

    def _diverged(self, what: str, fault: str | None = None, since: int | None = None) -> DivergedError:
        state = self._state
        when = (f"after {state.step} of {self._steps_per_epoch} steps" if since is None else
                f"within steps {since + 1} to {state.step} of {self._steps_per_epoch}")
        cure = fault or "try a lower learning rate, inputs scaled to mean 0 and deviation 1, or clip_norm=1"
        kept = f"; {self.run_dir / LAST} is as it was" if self.run_dir else ""
        return DivergedError(f"{what} in epoch {state.epoch + 1} {when} "
                             f"(learning rate {self._learning_rate(state.step):g}): {cure}{kept}")

    def _fault_of_batch(self) -> str | None:
        return _fault(self._train_loader, "this batch", self._state.epoch, self._state.step, 1)

    def _validate(self, loader: Loader) -> Evaluation:
        evaluation = self._evaluate(loader, self._pause_point)
        if not math.isfinite(evaluation.loss):
            fault = _fault(_in_order(loader), "validation batch {}", 0, 0, None)
            raise self._diverged(f"the validation loss is {evaluation.loss}", fault)
        self._call("on_validation_end", evaluation)
        return evaluation

    def _evaluate(self, loader: Loader, after_batch: Callable[[], None]) -> Evaluation:
        loss_sum: Any = 0.0
        samples = 0
        labels, predictions, classes = [], [], 0
        with closing(_in_order(loader).epoch(0)) as batches:
            for batch in batches:
                *inputs, targets = self._placed(batch)
                scores = self.model(*inputs)
                loss_sum += _double(self.loss(scores, targets)) * len(targets)
                samples += len(targets)
                if _is_classification(scores, targets):
                    labels.append(batch[-1])
                    predictions.append(scores.argmax(1))
                    classes = scores.shape[1]
                after_batch()
        if not samples:
            raise ValueError("loader: expected at least one sample, got an empty loader")
        loss = float(loss_sum) / samples
        if not classes:
            return Evaluation(loss)
        all_labels = kernels.to_host(np.concatenate(labels)).astype(np.int64)
        all_predictions = kernels.to_host(np.concatenate(predictions))
        if math.isfinite(loss) and (all_labels.min() < 0 or all_labels.max() >= classes):
            return Evaluation(loss)             # a loss that takes such labels takes the scores for something else
        confusion = confusion_matrix(all_labels, all_predictions, classes)
        return Evaluation(loss, float(confusion.trace() / samples), confusion, all_labels, all_predictions)

    def _end_epoch(self, evaluation: Evaluation | None, progress: Progress) -> None:
        state = self._state
        record: Record = {
            "epoch": state.epoch + 1,
            "step": state.updates,
            "lr": self._learning_rate(state.step - 1),
            "train_loss": state.loss_sum / state.samples,
            "train_accuracy": None if state.correct is None else state.correct / state.samples,
            "val_loss": evaluation and evaluation.loss,
            "val_accuracy": evaluation and evaluation.accuracy,
            "seconds": state.seconds,
            "images_per_second": state.samples / state.seconds,
        }
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)
            for name, figure in record.items():
                record[name] = as_figure(f"{type(callback).__name__} gave the record of epoch {state.epoch + 1}", name,
                                         figure)
        self._append(record)
        state.records.append(record)
        state.next_epoch()
        is_best = False
        if evaluation is not None:
            figures = [evaluation.accuracy or 0.0, -evaluation.loss]
            is_best = state.best is None or figures > state.best
            if is_best:
                state.best = figures
                self._save(BEST)
        self._save(LAST)
        progress.epoch_ends(record, is_best)

    # --- the run folder ---

    @contextmanager
    def _folder_held(self, resume: bool) -> Iterator[None]:
        """Hold the run folder, if there is to be one."""
        if self.run_dir is None:
            yield
            return
        for module in ("safetensors", "matplotlib"):
            require(module, "saving a run")
        if not resume:
            try:
                self.run_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(self.run_dir, error) from error
        elif not self.run_dir.is_dir():
            load(self.run_dir / LAST)       # says that there is none
        try:
            with hold(self.run_dir) as self._lock:
                yield
        finally:
            self._lock = None

    def _take_up(self, run_dir: Path, resume: bool, epochs: int) -> None:
        """Go on from what lies in the folder, or see that nothing does."""
        saved = (run_dir / LAST).exists()
        # A run that could not save its first checkpoint, for a full disk say, has nothing to go on from but its start.
        if resume and (saved or History.read(run_dir) or not (run_dir / CONFIG).exists()):
            self._load(run_dir / LAST)
            if epochs < self._state.epoch:
                raise ValueError(f"epochs: expected at least {self._state.epoch}, which the run in {run_dir} has done, "
                                 f"got {epochs}")
        elif saved:
            raise FileExistsError(f"{run_dir}: holds a run already; go on with it (resume=True), or give another "
                                  "run_dir")

    def _open(self, run_dir: Path) -> None:
        replace_file(run_dir / CONFIG, (json.dumps(self.config, indent=2) + "\n").encode())
        # Lines after the checkpoint belong to epochs that will be run again.
        self._write_metrics(run_dir)

    def _write_metrics(self, run_dir: Path) -> None:
        replace_file(run_dir / "metrics.jsonl", "".join(map(_line, self._state.records)).encode())

    def _append(self, record: Record) -> None:
        if self.run_dir is None:
            return
        if self._lock is not None:
            self._lock.check()
        path, line = self.run_dir / "metrics.jsonl", _line(record).encode()
        if not path.exists():               # someone removed it
            self._write_metrics(self.run_dir)
        try:
            with open(path, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    if file.write(line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise unwritable(path, error) from error

    def _save(self, name: str) -> Path | None:
        if self.run_dir is None:
            return None
        self._prove()
        states = {"model": self.model.state_dict(), "loss": self.loss.state_dict()}
        if name == LAST:
            states["optimizer"] = self.optimizer.state_dict()
            states |= {_key(i, callback): callback.state_dict() for i, callback in enumerate(self.callbacks)}
        path = self.run_dir / name
        if self._lock is not None:
            self._lock.check()
        save(path, {f"{prefix}.{key}": tensor for prefix, state in states.items() for key, tensor in state.items()},
             {**self._identity(), "version": fastnn.__version__, "config": self.config, "options": self._options(),
              "state": dataclasses.asdict(self._state)})
        self._call("on_checkpoint", path)
        return path

    def _identity(self) -> dict[str, Any]:
        """What a run must have in common with a checkpoint to go on from it."""
        return {"model": type(self.model).__qualname__, "optimizer": type(self.optimizer).__qualname__,
                "seed": self.seed, "steps_per_epoch": self._steps_per_epoch}

    def _options(self) -> list[dict[str, Any]]:
        """The options of the optimizer's groups, with how many parameters each has, as JSON holds them."""
        groups = [{**group, "params": len(group["params"])} for group in self.optimizer.param_groups]
        options: list[dict[str, Any]] = json.loads(json.dumps(groups, default=lambda number: number.item()))
        return options

    def _load_options(self, saved: list[dict[str, Any]]) -> None:
        ours = self._options()
        if [(group["params"], group.keys()) for group in saved] != [(group["params"], group.keys()) for group in ours]:
            raise ValueError(f"expected an optimizer with the groups {ours}, got {saved}")
        for group, options in zip(self.optimizer.param_groups, saved):
            # JSON makes lists of tuples, as of betas.
            group.update({name: tuple(value) if isinstance(value, list) else value
                          for name, value in options.items() if name != "params"})
        self.optimizer.check()

    def _load(self, path: Path) -> None:
        """Take up everything from a checkpoint, or nothing."""
        tensors, metadata = load(path)
        if "state" not in metadata:
            raise CheckpointError(f"{path}: expected a checkpoint of a run, got a file that holds only tensors")
        for name, ours in self._identity().items():
            if metadata.get(name) != ours:
                raise CheckpointError(f"{path}: expected a run with {name} {ours!r}, as this one has, got one with "
                                      f"{metadata.get(name)!r}; resume it with what it was started with")
        try:
            state = _State.read(metadata["state"], self._steps_per_epoch)
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged: of where the run stands, {error}") from error
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
            self._load_options(metadata.get("options", self._options()))
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
        self._state, self.history = state, History(state.records)

    def _pause_point(self) -> None:
        """Between two steps, where a checkpoint is whole: save and leave, if a signal asks for it."""
        if number := self._interrupts.requested:
            self._look()
            raise Interrupted(self._state.epoch, self._state.step, self._save(LAST), number)


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "AEIO" else f"a {name}"


def _check_loader(name: str, loader: Any) -> None:
    kind = type(loader)
    if hasattr(kind, "__len__") and not len(loader):
        raise ValueError(f"{name}: expected at least one batch, got an empty loader")
    if not callable(getattr(loader, "epoch", None)) or not hasattr(kind, "__len__"):
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        raise TypeError(f"{name}: expected a fastnn.data.DataLoader, or another object with len() and "
                        f"epoch(epoch, start_step), got {module}{kind.__qualname__}; data.DataLoader((images, labels), "
                        "batch_size) makes one of NumPy arrays")


def _in_order(loader: Loader) -> Loader:
    return loader.in_order() if isinstance(loader, DataLoader) else loader


def _fault(loader: Loader, name: str, epoch: int, start: int, count: int | None) -> str | None:
    """Say where in some batches of a loader, which are loaded again, a value lies that is not finite."""
    with closing(loader.epoch(epoch, start)) as batches:
        for step, batch in enumerate(itertools.islice(batches, count), start):
            for place, array in enumerate(map(kernels.to_host, batch)):
                finite = np.isfinite(array)
                if finite.all():
                    continue
                sample = int(np.argwhere(~finite)[0, 0]) if array.ndim else 0
                where, cure = f"sample {sample} of it", "data"
                if isinstance(loader, DataLoader):
                    sample = int(loader.order(epoch)[step * loader.batch_size + sample])
                    where = f"sample {sample} of the loader's arrays"
                    if np.isfinite(loader.arrays[place][sample]).all():
                        cure = "transform"
                what = "targets" if place == len(batch) - 1 else "inputs"
                which = f"array {place}, " if len(batch) > 2 else ""
                return (f"the {what} of {name.format(step + 1)} are not finite themselves: mend the {cure} "
                        f"({which}{where})")
    return None


def _key(i: int, callback: Callback) -> str:
    return f"callbacks.{i}.{type(callback).__qualname__}"


def _attributes(owner: object) -> dict[str, Any]:
    """The attributes of an object, those copied that are commonly changed in place."""
    return {name: value.copy() if isinstance(value, np.ndarray | list | dict | set) else value
            for name, value in vars(owner).items()}


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _is_classification(scores: NDArray[Any], targets: NDArray[Any]) -> bool:
    return scores.ndim == 2 and targets.ndim == 1 and targets.dtype.kind in "iu"


def _count_correct(scores: NDArray[Any], targets: NDArray[Any]) -> Any:
    if not _is_classification(scores, targets):
        return None
    correct = (scores.argmax(1) == targets).sum()
    return correct if _device.is_device(correct) else int(correct)


def _double(loss: Any) -> Any:
    """Return a loss as float64, which sums of many need: a float, or an array on the GPU."""
    return loss.astype(np.float64) if _device.is_device(loss) else float(loss)
