"""The training loop: epochs of steps, each followed by validation and a checkpoint."""

from __future__ import annotations

import json
import math
import numbers
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

import fastnn
from fastnn import _device, kernels, random
from fastnn._checks import as_float, as_int, is_sequence
from fastnn._files import as_path
from fastnn.nn import Module
from fastnn.optim import Optimizer, clip_grad_norm_, clip_grad_value_
from fastnn.training._ahead import compile_run
from fastnn.training._interrupts import Interrupts, Signalled
from fastnn.training._loader import Loader, check_loader, fault, in_order, placed
from fastnn.training._parts import Parts
from fastnn.training._progress import Progress
from fastnn.training._state import State
from fastnn.training._sums import Sums, double, is_classification
from fastnn.training._trial import Trial, check_monitored
from fastnn.training.averaging import check_averaging
from fastnn.training.callback import Callback
from fastnn.training.metrics import FIGURES, Evaluation, History, Record, as_figure, confusion_matrix
from fastnn.training.pruning import check_pruning
from fastnn.training.run_folder import BEST, LAST, RunFolder


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
        may have parameters and buffers of its own, which are trained and saved with the model's. Losses of batches
        count by their samples or, where the loss has a method ``tokens(targets)``, by how many tokens that says.
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
        if isinstance(callbacks, Callback) or not is_sequence(callbacks):
            raise TypeError(f"callbacks: expected a list of them, got {_an(type(callbacks).__name__)}")
        for name, value, kind in (("model", model, Module), ("loss", loss, Module), ("optimizer", optimizer, Optimizer),
                                  *(("callbacks", callback, Callback) for callback in callbacks)):
            if not isinstance(value, kind):
                got = f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__
                raise TypeError(f"{name}: expected {_an(kind.__name__)}, got {got}")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if (limit is not None and not (isinstance(limit, numbers.Real) and limit > 0)) or limit is True:
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
            self.config = json.loads(json.dumps(dict(config or {}), default=_as_json, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(f"config: expected values that JSON holds, or paths: {error}") from error
        self._stop_reason: str | None = None
        self._parts.check_optimizer()
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
        check_loader("train_loader", train_loader)
        if validation_loader is not None:
            check_loader("validation_loader", validation_loader)
        if resume and self.run_dir is None:
            raise ValueError("resume: expected a trainer with run_dir, where the checkpoint lies; it has none")
        self._parts.check_optimizer()
        self._start_over()
        self._train_loader, self._steps_per_epoch = train_loader, len(train_loader)
        if not resume:                      # before there is a folder
            self._check_run(train_loader, validation_loader, epochs)
        with self._folder.held(resume):
            if self._folder.goes_on(resume):
                self._take_up(epochs)
            if resume:
                self._check_run(train_loader, validation_loader, epochs)
            self._folder.begin(self.config, self.history.records)
            self._call("on_fit_begin")
            with Interrupts() as self._interrupts, self._progress(epochs) as progress:
                self._say_what_stays(progress)
                if not self._state.updates:
                    self._save(LAST)
                while self._state.epoch < epochs and self._stop_reason is None:
                    self._pause_point()
                    self._train_epoch(train_loader, progress)
                    self._call("on_steps_end")
                    evaluation = None if validation_loader is None else self._validate(validation_loader)
                    self._end_epoch(evaluation, progress)
                if self._stop_reason is not None:
                    progress.say(f"stopped after epoch {self._state.epoch}: {self._stop_reason}")
            self._call("on_fit_end")
            self._folder.draw(self.history)
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
        check_loader("loader", loader)
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

    @property
    def _parts(self) -> Parts:
        return Parts(self.model, self.loss, self.optimizer, self.callbacks)

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *args)

    # --- before the first step ---

    def _start_over(self) -> None:
        self._state = State()
        self._unproven: Sequence[Any] | None = None     # the batch of a step after which nothing was looked at
        self._stop_reason = None
        self._folder = RunFolder(self.run_dir)
        self.history = History(self._state.records)

    def _check_run(self, train_loader: Loader, validation_loader: Loader | None, epochs: int) -> None:
        if self._state.epoch < epochs:
            self._factor(0)                 # the schedule's first, which it checks
        check_averaging(self.callbacks)
        check_pruning(self.callbacks)
        check_monitored(self.callbacks, validated=validation_loader is not None)
        compile_run(self, train_loader, validation_loader)
        Trial(self._parts, self.device, self.seed).run(train_loader, validation_loader)

    def _take_up(self, epochs: int) -> None:
        """Go on from the last checkpoint in the folder."""
        self._state = state = self._folder.load(self._parts, self._identity())
        self.history = History(state.records)
        if epochs < state.epoch:
            raise ValueError(f"epochs: expected at least {state.epoch}, which the run in {self.run_dir} has done, got "
                             f"{epochs}")

    def _progress(self, epochs: int) -> Progress:
        steps = self._steps_per_epoch
        return Progress(epochs * steps, self._state.epoch * steps + self._state.step, epochs, self.progress)

    def _say_what_stays(self, progress: Progress) -> None:
        if stays := self._parts.left_out():
            more = f" and {len(stays) - 5} more" if len(stays) > 5 else ""
            progress.say(f"not trained, since the optimizer does not hold them: {', '.join(stays[:5])}{more}")

    # --- an epoch ---

    def _train_epoch(self, loader: Loader, progress: Progress) -> None:
        state, shown = self._state, None
        progress.epoch_begins(state.epoch)
        self._call("on_epoch_begin", state.epoch)
        clock = time.perf_counter()
        with closing(loader.epoch(state.epoch, state.step)) as batches:
            for batch in batches:
                *inputs, targets = placed(batch, self.device)
                loss = self._step(inputs, targets)
                if state.sums.due:
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

    def _step(self, inputs: Sequence[Any], targets: Any) -> Any:
        """Make one update and return the loss, which lies where the model is; on a GPU it waits for nothing."""
        state, parts = self._state, self._parts
        parts.zero_grad()
        with random.at_step(self.seed, state.epoch, state.step):
            scores, backward = self.model.forward(*inputs, training=True)
            loss, loss_backward = self.loss.forward(scores, targets)
            loss = double(loss)
            if not state.sums.add(loss, len(targets), parts.tokens(targets)):
                raise self._diverged(f"the loss is {loss}", self._fault(state.step))
            backward(loss_backward(), input_grad=False)
        for name, parameter in parts.learned():
            if parameter.grad is not None and not state.sums.add_gradient(parameter.grad):
                raise self._diverged(f"the gradient by {name} is not finite", self._fault(state.step))
        self._call("on_gradients")
        if self.clip_value is not None:
            clip_grad_value_((parameter for _, parameter in parts.learned()), self.clip_value)
        if self.clip_norm is not None:
            clip_grad_norm_((parameter for _, parameter in parts.learned()), self.clip_norm)
        self.optimizer.step(self._factor(state.step))
        state.sums.count(scores, targets)
        state.step += 1
        state.updates += 1
        return loss

    def _factor(self, step: int) -> float:
        if self.schedule is None:
            return 1.0
        return as_float("schedule", self.schedule(self._state.epoch + step / self._steps_per_epoch), 0)

    def _learning_rate(self, step: int) -> float:
        return float(self.optimizer.param_groups[0]["lr"] * self._factor(step))

    def _look(self) -> None:
        """Wait for the steps made on a GPU, and see that all was finite."""
        state = self._state
        since = state.step - state.sums.unseen
        if not state.sums.look():
            raise self._diverged("a loss or a gradient is not finite", self._fault(since), since)

    def _prove(self) -> None:
        """See that the steps so far left what may be saved: finite arrays and, of the last batch, a finite loss."""
        if broken := self._parts.not_finite():
            raise self._diverged(f"{broken} is not finite")
        if self._unproven is not None and self.run_dir is not None:
            *inputs, targets = self._unproven
            loss = float(self.loss.forward(self.model(*inputs), targets, training=False)[0])
            if not math.isfinite(loss):
                raise self._diverged(f"the loss of the last batch is {loss} after its update,")
        self._unproven = None

    def _diverged(self, what: str, fault: str | None = None, since: int | None = None) -> DivergedError:
        state = self._state
        when = (f"after {state.step} of {self._steps_per_epoch} steps" if since is None else
                f"within steps {since + 1} to {state.step} of {self._steps_per_epoch}")
        scaled = "" if self._parts.of_tokens else ", inputs scaled to mean 0 and deviation 1"
        clipped = "" if self.clip_norm is not None else ", or clip_norm=1"
        cure = fault or f"try a lower learning rate{scaled}{clipped}"
        kept = f"; {self.run_dir / LAST} is as it was" if self.run_dir else ""
        return DivergedError(f"{what} in epoch {state.epoch + 1} {when} "
                             f"(learning rate {self._learning_rate(state.step):g}): {cure}{kept}")

    def _fault(self, since: int) -> str | None:
        state = self._state
        one = state.step == since
        return fault(self._train_loader, "this batch" if one else "batch {}", state.epoch, since,
                     1 if one else state.step - since)

    def _validate(self, loader: Loader) -> Evaluation:
        evaluation = self._evaluate(loader, self._pause_point)
        if not math.isfinite(evaluation.loss):
            raise self._diverged(f"the validation loss is {evaluation.loss}",
                                 fault(in_order(loader), "validation batch {}", 0, 0, None))
        self._call("on_validation_end", evaluation)
        return evaluation

    def _evaluate(self, loader: Loader, after_batch: Callable[[], None]) -> Evaluation:
        sums = Sums()
        labels, predictions, classes = [], [], 0
        with closing(in_order(loader).epoch(0)) as batches:
            for step, batch in enumerate(batches):
                *inputs, targets = placed(batch, self.device)
                with random.at_step(self.seed, step):       # a model that draws in inference, draws the same each time
                    scores = self.model(*inputs)
                sums.add(double(self.loss(scores, targets)), len(targets), self._parts.tokens(targets))
                if is_classification(scores, targets):
                    labels.append(batch[-1])
                    predictions.append(scores.argmax(1))
                    classes = scores.shape[1]
                after_batch()
        if not sums.samples:
            raise ValueError("loader: expected at least one sample, got an empty loader")
        loss = sums.mean
        if not classes:
            return Evaluation(loss)
        all_labels = kernels.to_host(np.concatenate(labels)).astype(np.int64)
        all_predictions = kernels.to_host(np.concatenate(predictions))
        if math.isfinite(loss) and (all_labels.min() < 0 or all_labels.max() >= classes):
            return Evaluation(loss)             # a loss that takes such labels takes the scores for something else
        confusion = confusion_matrix(all_labels, all_predictions, classes)
        return Evaluation(loss, float(confusion.trace() / sums.samples), confusion, all_labels, all_predictions)

    def _end_epoch(self, evaluation: Evaluation | None, progress: Progress) -> None:
        state, sums = self._state, self._state.sums
        of_tokens = self._parts.of_tokens
        record: Record = {
            "epoch": state.epoch + 1,
            "step": state.updates,
            "lr": self._learning_rate(state.step - 1),
            "train_loss": sums.mean,
            "train_accuracy": None if sums.correct is None else sums.correct / sums.samples,
            "val_loss": evaluation and evaluation.loss,
            "val_accuracy": evaluation and evaluation.accuracy,
            "seconds": state.seconds,
            "images_per_second": None if of_tokens else sums.samples / state.seconds,
        }
        if of_tokens:
            record["tokens_per_second"] = sums.tokens / state.seconds
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)
            gave = f"{type(callback).__name__} gave the record of epoch {state.epoch + 1}"
            if missing := [name for name in FIGURES if name not in record]:
                raise ValueError(f"{gave} without {', '.join(missing)}: expected figures to be added alone")
            for name, figure in record.items():
                record[name] = as_figure(gave, name, figure)
        self._folder.append(record, state.records)
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

    # --- checkpoints ---

    def _save(self, name: str) -> Path | None:
        if self.run_dir is None:
            return None
        self._prove()
        path = self._folder.save(name, self._parts, {**self._identity(), "version": fastnn.__version__,
                                                     "config": self.config, "state": self._state.saved()})
        self._call("on_checkpoint", path)
        return path

    def _identity(self) -> dict[str, Any]:
        """What a run must have in common with a checkpoint to go on from it."""
        return {"model": type(self.model).__qualname__, "optimizer": type(self.optimizer).__qualname__,
                "seed": self.seed, "steps_per_epoch": self._steps_per_epoch}

    def _pause_point(self) -> None:
        """Between two steps, where a checkpoint is whole: save and leave, if a signal asks for it."""
        if number := self._interrupts.requested:
            self._look()
            raise Interrupted(self._state.epoch, self._state.step, self._save(LAST), number)


def _as_json(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else os.fspath(value)


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "AEIO" else f"a {name}"
