"""The command that says what a model costs."""

from __future__ import annotations

import inspect
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import fastnn
from fastnn import models, nn
from fastnn._checks import as_int
from fastnn.cli.parsing import meant
from fastnn.cli.runs import trained_of
from fastnn.recipes import Compression, ImageClassifier, ImageGenerator, TransformerLM
from fastnn.recipes.base import read_config
from fastnn.training.run_folder import CONFIG

# What each takes of those that have no size of their own.
_SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("ResNet18", "ResNet34", "ResNet50", "MobileNet"), (3, 224, 224)),
    **dict.fromkeys(("CNNMnist", "EmbeddingNet", "UNet"), (1, 28, 28)),
    **dict.fromkeys(("GaborBank", "VAE"), (1, 14, 14)),
    "CNN": (1, 8, 8), "DecoderTransformer": (128,)}
_PHOTOGRAPH = (3, 32, 32)
_SMALL = 64                                 # rows: networks that have a form for small images take it below


def summary(model: str, /, input_shape: tuple[int, ...] | None = None, recipe: str | None = None) -> None:
    """Say what a model costs, layer by layer: output shape, parameters, multiply-adds, memory kept for backward.

    All but the parameters is for one sample; the memory is that of the arrays that wait for the backward pass.

    Parameters
    ----------
    model : str
        One of fastnn.models, such as resnet18, or the folder of a run, such as runs/cnn-1.
    input_shape : tuple of int
        Shape of one sample, such as 3 32 32; by default that of the run's images, or a usual one for the model. A model
        is made for so many channels and pixels, and below 64 pixels in the form for small images that some have.
    recipe : str
        MODULE:CLASS or FILE.py:CLASS of a run of a recipe of your own; its code is imported.
    """
    known = {name.lower(): name for name in models.__all__ if _is_network(getattr(models, name))}
    name = known.get(model.lower().replace("-", "").replace("_", ""))
    if Path(model, CONFIG).exists():
        if read_config(Path(model)).get("recipe") == Compression.name:
            raise ValueError(f"model: expected the run of a network that is trained, got {model}, a compression, whose "
                             "report has its sizes; give the run that was compressed")
        run = trained_of(Path(model), recipe, ImageClassifier | ImageGenerator | TransformerLM, "a trained network")
        found, own_shape = _network(run)
        shape = input_shape or own_shape
    elif name:
        if recipe is not None:
            raise ValueError(f"recipe: expected none for one of fastnn.models, got {recipe}; it is for the folder of a "
                             "run")
        shape = tuple(as_int("input_shape", size, 1) for size in input_shape or _SHAPES.get(name, _PHOTOGRAPH))
        found = getattr(models, name)(**_options(getattr(models, name), shape))
    else:
        raise ValueError(f"model: expected one of {', '.join(known)}, or the folder of a run, got {model!r}"
                         f"{meant(model, known)}")
    costs = fastnn.summary(found, shape, np.int64 if isinstance(found, models.DecoderTransformer) else None)
    print(f"{type(found).__name__}, samples of shape {' x '.join(map(str, shape))}\n\n{costs}")


def _network(run: Any) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network of a run, and the shape of the samples that it was trained on."""
    if isinstance(run, ImageClassifier):
        found, inputs = run.trained()
        return found, tuple(inputs["shape"])
    if isinstance(run, TransformerLM):
        return run.trained()[0], (run.context,)
    found = run.trained()
    found = found.model if isinstance(found, models.DDPM) else found
    return found, _SHAPES.get(type(found).__name__, _PHOTOGRAPH)


def _is_network(model: Any) -> bool:
    """Whether this is a network, not one around another."""
    return (isinstance(model, type) and issubclass(model, nn.Module)
            and "model" not in inspect.signature(model).parameters)


def _options(model: type, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the options with which a model takes samples of a shape, as far as it has such."""
    fitting = {"in_features": prod(shape), "in_channels": shape[0], "image_size": shape[-1],
               "small_images": shape[-1] < _SMALL}
    return {name: value for name, value in fitting.items() if name in inspect.signature(model).parameters}
