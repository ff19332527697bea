"""Trainer, metrics, checkpoints, pictures and reports.

Examples
--------
>>> from fastnn import data, nn, optim, training
>>> digits = data.digits()
>>> train, validation = data.split(digits.train, 0.1)
>>> normalize = data.Normalize(*data.channel_statistics(train.images, digits.scale), digits.scale)
>>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
>>> trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), progress=False)
>>> history = trainer.fit(data.DataLoader(train, 64, transform=normalize),
...                       data.DataLoader(validation, 256, shuffle=False, transform=normalize), epochs=3)
>>> history["val_accuracy"].shape
(3,)
"""

from fastnn.training import attacks, plots, pruning
from fastnn.training._loader import Loader
from fastnn.training.attacks import AdversarialLoader
from fastnn.training.averaging import ExponentialMovingAverage, Lookahead
from fastnn.training.callback import Callback
from fastnn.training.callbacks import EarlyStopping, WeightHistograms
from fastnn.training.checkpoint import CheckpointError, load, load_model, save
from fastnn.training.metrics import (
    ClassResult,
    Evaluation,
    History,
    accuracy,
    commonest_confusions,
    confusion_matrix,
    confusion_table,
    per_class,
    per_class_table,
)
from fastnn.training.pruning import Pruning
from fastnn.training.report import write_report
from fastnn.training.tracking import Track, tracker
from fastnn.training.trainer import DivergedError, Interrupted, Trainer
from fastnn.training.transfer import freeze_layers, head

__all__ = [
    "AdversarialLoader",
    "Callback",
    "CheckpointError",
    "ClassResult",
    "DivergedError",
    "EarlyStopping",
    "Evaluation",
    "ExponentialMovingAverage",
    "History",
    "Interrupted",
    "Loader",
    "Lookahead",
    "Pruning",
    "Track",
    "Trainer",
    "WeightHistograms",
    "accuracy",
    "attacks",
    "commonest_confusions",
    "confusion_matrix",
    "confusion_table",
    "freeze_layers",
    "head",
    "load",
    "load_model",
    "per_class",
    "per_class_table",
    "plots",
    "pruning",
    "save",
    "tracker",
    "write_report",
]
