"""Runs shown by Weights & Biases or TensorBoard, beside what they write to their folder in any case."""

from __future__ import annotations

import json
import os
import secrets
import time
from typing import Any, Literal, TypeAlias

import numpy as np

from fastnn._extras import require
from fastnn._files import one_line
from fastnn.training.callback import Callback
from fastnn.training.checkpoint import Tensors
from fastnn.training.metrics import Record
from fastnn.training.trainer import Trainer

Track: TypeAlias = Literal["wandb", "tensorboard"]


def tracker(track: Track) -> Callback:
    """Return the callback that hands a run's configuration and the record of each epoch to a tracking tool.

    It comes last among a trainer's callbacks, since those before it may add to the record. The trainer needs a run
    folder.

    Parameters
    ----------
    track : "wandb" or "tensorboard"
        For Weights & Biases, what is tracked lies in wandb/ in the run's folder. It is sent to the account that is
        logged in; without a login, or where WANDB_MODE is "offline", it stays there until ``wandb sync`` sends it. A
        resumed run keeps its id. For TensorBoard, event files lie in the run's folder, so that ``tensorboard --logdir
        runs`` shows all runs.

    Returns
    -------
    Callback

    Raises
    ------
    ModuleNotFoundError
        If the tool is not installed.
    ValueError
        If there is no such tool; in `fit`, if the trainer has no run folder.

    Examples
    --------
    >>> from fastnn.training import tracking
    >>> tracking.tracker("mlflow")
    Traceback (most recent call last):
    ValueError: track: expected one of wandb, tensorboard, got 'mlflow'
    """
    trackers: dict[str, type[Callback]] = {"wandb": _Wandb, "tensorboard": _TensorBoard}
    if track not in trackers:
        raise ValueError(f"track: expected one of {', '.join(trackers)}, got {track!r}")
    return trackers[track]()


class _Wandb(Callback):
    def __init__(self) -> None:
        self._wandb = require("wandb", "tracking a run", "track")
        self._id = ""

    def on_fit_begin(self, trainer: Trainer) -> None:
        folder = _run_dir(trainer)
        try:
            mode: Any = os.environ.get("WANDB_MODE")
            if mode is None and not self._wandb.login(prompt=False, verify=False):
                mode = "offline"
                print(f"wandb: no login was found, so the run is only kept in {folder / 'wandb'}; \"wandb login\" and "
                      "\"wandb sync\" send it", flush=True)
            resumed, self._id = bool(self._id), self._id or secrets.token_hex(4)
            # Offline there is no server that knows the run: its parts have one id, under which they are sent.
            self._run = self._wandb.init(
                project="fastnn", name=folder.name, id=self._id, dir=folder, config=trainer.config, mode=mode,
                resume="allow" if resumed and mode not in ("offline", "disabled") else None, reinit="finish_previous",
                settings=self._wandb.Settings(console="off", silent=not trainer.progress))
        except self._wandb.Error as error:
            raise ValueError(f"track: wandb cannot begin a run: {one_line(error)}") from error

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        self._run.log({name: value for name, value in record.items() if value is not None}, step=record["epoch"])

    def on_fit_end(self, trainer: Trainer) -> None:
        self._run.finish()

    def state_dict(self) -> Tensors:
        return {"id": np.frombuffer(self._id.encode(), np.uint8)}

    def load_state_dict(self, state: Tensors) -> None:
        self._id = state["id"].tobytes().decode()


class _TensorBoard(Callback):
    """Writes with TensorBoard's own event writer, which needs neither TensorFlow nor PyTorch.

    Its `tensorboard.summary.Writer` knows scalars alone, and no resumed runs.
    """

    def __init__(self) -> None:
        self._writer_type = require("tensorboard.summary.writer.event_file_writer", "tracking a run",
                                    "track").EventFileWriter
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2

        self._event, self._summary, self._tensor = event_pb2, summary_pb2, tensor_pb2

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._writer = self._writer_type(os.fspath(_run_dir(trainer)))
        # What was written of epochs after the checkpoint is not shown: they are run again.
        self._writer.add_event(self._event.Event(
            wall_time=time.time(), step=len(trainer.history) + 1,
            session_log=self._event.SessionLog(status=self._event.SessionLog.START)))
        text = "```json\n" + json.dumps(trainer.config, indent=2) + "\n```"
        plugin = self._summary.SummaryMetadata(
            plugin_data=self._summary.SummaryMetadata.PluginData(plugin_name="text"))
        self._add(len(trainer.history), [self._summary.Summary.Value(
            tag="config", metadata=plugin, tensor=self._tensor.TensorProto(dtype="DT_STRING",
                                                                           string_val=[text.encode()]))])

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        self._add(record["epoch"], [self._summary.Summary.Value(tag=name, simple_value=value)
                                    for name, value in record.items() if value is not None and name != "epoch"])

    def _add(self, epoch: int, values: list[Any]) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=epoch,
                                                 summary=self._summary.Summary(value=values)))
        self._writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        self._writer.close()


def _run_dir(trainer: Trainer) -> Any:
    if trainer.run_dir is None:
        raise ValueError("track: expected a trainer with run_dir, where what is tracked lies; it has none")
    return trainer.run_dir
