"""The training loop: what a run does, what its folder holds, and how it is stopped and taken up again."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import fastnn
from fastnn import kernels, random
from fastnn.kernels import _cuda
from fastnn.nn import Module
from fastnn.optim import Optimizer, clip_grad_norm_, clip_grad_value_
from fastnn.training._extra import require
from fastnn.training._interrupts import Interrupts
from fastnn.training._progress import Progress
from fastnn.training.callbacks import Callback
from fastnn.training.checkpoint import CheckpointError, load, part, replace_file, save, unwritable
from fastnn.training.metrics import Evaluation, History, Record, checked_record, confusion_matrix, is_number

LAST, BEST, CONFIG = "last.safetensors", "best.safetensors", "config.json"

_LOOK = 50              # steps on a GPU after which their sums are waited for


class Loader(Protocol):
    """What fit takes batches from: `fastnn.data.DataLoader`, or anything with these two methods.

    A batch is a tuple of arrays: the model's inputs, and last what the loss compares its output with.
    """

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start_step: int = 0, /) -> Generator[tuple[NDArray[Any], ...], None, None]: ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a run, after the step that was going on.

    Attributes
    ----------
    checkpoint : Path or None
        From where ``fit(resume=True)`` goes on; None where the run has no folder and nothing was saved.

    Examples
    --------
    >>> from pathlib import Path
    >>> from fastnn import training
    >>> print(training.Interrupted(0, 3, Path("last.safetensors")))
    interrupted in epoch 1 after step 3: saved to last.safetensors; fit(resume=True) goes on from there
    """

    def __init__(self, epoch: int, step: int, checkpoint: Path | None) -> None:
        saved = f"saved to {checkpoint}; fit(resume=True) goes on from there" if checkpoint else (
            "nothing was saved, since the trainer has no run_dir")
        super().__init__(f"interrupted in epoch {epoch + 1} after step {step}: {saved}")
        self.checkpoint = checkpoint


class DivergedError(RuntimeError):
    """A loss or a gradient is not finite. The last checkpoint is as it was.

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
        ``loss.forward(scores, targets)`` gives the mean loss of a batch and its gradient, as `nn.CrossEntropyLoss`.
    optimizer : Optimizer
        Of the model's parameters.
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
        if seed < 0:
            raise ValueError(f"seed: expected at least 0, got {seed}")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}: expected a number above 0 or None, got {limit}")
        if device not in _cuda.DEVICES:
            raise ValueError(f"device: expected one of {', '.join(_cuda.DEVICES)}, got {device!r}")
        self.device = device
        self.model = model.to(device)
        self.loss = loss.to(device)
        self.optimizer = optimizer
        self.schedule = schedule
        self.callbacks = list(callbacks)
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.seed = seed
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.progress = progress
        try:
            self.config = json.loads(json.dumps(dict(config or {}), default=os.fspath, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(f"config: expected values that JSON holds, or paths: {error}") from error
        self._stop_reason: str | None = None
        self._start_over()

    def fit(self, train_loader: Loader, validation_loader: Loader | None = None, *, epochs: int,
            resume: bool = False) -> History:
        """Train for a number of epochs, each followed by validation and a checkpoint.

        Ctrl-C ends the run after the step that is going on, with a checkpoint; a second one at once, without.

        Parameters
        ----------
        train_loader : Loader
            Batches to train on.
        validation_loader : Loader, optional
            Batches to validate on, the same in each epoch: its epoch 0.
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
            If a file of the run cannot be written, or the checkpoint is not one of this model, optimizer and seed.
        DivergedError
            If a loss or a gradient is not finite.
        FileExistsError
            If the folder holds a run already and `resume` is False.
        Interrupted
            After Ctrl-C.
        ValueError
            If `epochs` is below 1, a loader is empty, or `resume` is asked for without a run folder.

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
        if epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {epochs}")
        for name, loader in (("train_loader", train_loader), ("validation_loader", validation_loader)):
            if loader is not None and not len(loader):
                raise ValueError(f"{name}: expected at least one batch, got an empty loader")
        if resume and self.run_dir is None:
            raise ValueError("resume: expected a trainer with run_dir, where the checkpoint lies; it has none")
        self._start_over()
        self._steps_per_epoch = len(train_loader)
        if self.run_dir is not None:
            self._open(self.run_dir, resume, epochs)
        self._call("on_fit_begin")
        with Interrupts() as self._interrupts, self._progress(epochs) as progress:
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
        """Measure the model on epoch 0 of a loader, in inference.

        Parameters
        ----------
        loader : Loader
            Batches of inputs and targets. Where the targets are classes (integers, one a sample) and the model gives
            scores of shape (N, C), accuracy, confusion matrix and predictions are found too.

        Returns
        -------
        Evaluation

        Raises
        ------
        ValueError
            If the loader is empty.

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
        self.history = History(self._state.records)
        self._stop_reason = None

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *args)

    def _progress(self, epochs: int) -> Progress:
        steps = self._steps_per_epoch
        return Progress(epochs * steps, self._state.epoch * steps + self._state.step, epochs, self.progress)

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
                self._call("on_step_end", loss)
                progress.step_ends(shown)
                self._pause_point()
        self._look()
        state.seconds += time.perf_counter() - clock

    def _placed(self, batch: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """Return a batch where the model is; a copy to a GPU is queued behind the steps before it."""
        return batch if self.device == "cpu" else [kernels.to_device(array) for array in batch]

    def _step(self, inputs: Sequence[NDArray[Any]], targets: NDArray[Any]) -> tuple[Any, Any]:
        """Make one update; return the loss and the number of right predictions, which lie where the model is.

        On a GPU it waits for nothing: whether all is finite shows in the sums, at the next look.
        """
        state = self._state
        self.model.zero_grad()
        with random.at_step(self.seed, state.epoch, state.step):
            scores, backward = self.model.forward(*inputs, training=True)
            loss, loss_backward = self.loss.forward(scores, targets)
            if self.device == "cpu" and not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", inputs)
            backward(loss_backward(), input_grad=False)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is None:
                continue
            if self.device != "cpu":
                self._gradients += parameter.grad.sum(dtype=np.float64)     # finite as long as all gradients are
            elif not np.isfinite(parameter.grad).all():
                raise self._diverged(f"the gradient by {name} is not finite", inputs)
        self._call("on_gradients")
        if self.clip_value is not None:
            clip_grad_value_(self.model.parameters(), self.clip_value)
        if self.clip_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.clip_norm)
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
            raise self._diverged("a loss or a gradient is not finite", since=since)

    def _factor(self, step: int) -> float:
        return 1.0 if self.schedule is None else self.schedule(self._state.epoch + step / self._steps_per_epoch)

    def _learning_rate(self, step: int) -> float:
        return float(self.optimizer.param_groups[0]["lr"] * self._factor(step))

    def _diverged(self, what: str, inputs: Sequence[NDArray[Any]] = (), since: int | None = None) -> DivergedError:
        state = self._state
        when = (f"after {state.step} of {self._steps_per_epoch} steps" if since is None else
                f"within steps {since + 1} to {state.step} of {self._steps_per_epoch}")
        cure = "try a lower learning rate, inputs scaled to mean 0 and deviation 1, or clip_norm=1"
        if not all(np.isfinite(x).all() for x in inputs):
            cure = "the inputs of this batch are not finite themselves: mend the data"
        kept = f"; {self.run_dir / LAST} is as it was" if self.run_dir else ""
        return DivergedError(f"{what} in epoch {state.epoch + 1} {when} "
                             f"(learning rate {self._learning_rate(state.step):g}): {cure}{kept}")

    def _validate(self, loader: Loader) -> Evaluation:
        evaluation = self._evaluate(loader, self._pause_point)
        if not math.isfinite(evaluation.loss):
            raise self._diverged(f"the validation loss is {evaluation.loss}")
        self._call("on_validation_end", evaluation)
        return evaluation

    def _evaluate(self, loader: Loader, after_batch: Callable[[], None]) -> Evaluation:
        loss_sum: Any = 0.0
        samples = 0
        labels, predictions, classes = [], [], 0
        with closing(loader.epoch(0)) as batches:
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
        self._call("on_epoch_end", record)
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

    def _open(self, run_dir: Path, resume: bool, epochs: int) -> None:
        for module in ("safetensors", "matplotlib"):
            require(module, "saving a run")
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
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(run_dir, error) from error
        replace_file(run_dir / CONFIG, (json.dumps(self.config, indent=2) + "\n").encode())
        # Lines after the checkpoint belong to epochs that will be run again.
        replace_file(run_dir / "metrics.jsonl", "".join(map(_line, self._state.records)).encode())

    def _append(self, record: Record) -> None:
        if self.run_dir is None:
            return
        path, line = self.run_dir / "metrics.jsonl", _line(record).encode()
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
        states = {"model": self.model.state_dict()}
        if name == LAST:
            states["optimizer"] = self.optimizer.state_dict()
            states |= {_key(i, callback): callback.state_dict() for i, callback in enumerate(self.callbacks)}
        path = self.run_dir / name
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
        weights, groups = self.model.state_dict(), [dict(group) for group in self.optimizer.param_groups]
        attributes = [(owner, _attributes(owner)) for owner in (self.optimizer, *self.callbacks)]
        what = f"a checkpoint of another model or optimizer than this {metadata['model']} and {metadata['optimizer']}"
        try:
            self.model.load_state_dict(part(tensors, "model"))
            # Before the state, since they decide which arrays it has; runs from before they were kept have none.
            self._load_options(metadata.get("options", self._options()))
            self.optimizer.load_state_dict(part(tensors, "optimizer"))
            for i, callback in enumerate(self.callbacks):
                what = f"the state of the callback {type(callback).__qualname__} cannot be taken back"
                if callback_state := part(tensors, _key(i, callback)):
                    callback.load_state_dict(callback_state)
        except BaseException as error:
            self.model.load_state_dict(weights)
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
        """Between two steps, where a checkpoint is whole: save and leave, if Ctrl-C was pressed."""
        if self._interrupts.requested:
            self._look()
            raise Interrupted(self._state.epoch, self._state.step, self._save(LAST))


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
    return correct if _cuda.is_device(correct) else int(correct)


def _double(loss: Any) -> Any:
    """Return a loss as float64, which sums of many need: a float, or an array on the GPU."""
    return loss.astype(np.float64) if _cuda.is_device(loss) else float(loss)
