"""Checkpoints: named arrays with what is known about them, in one safetensors file that is never half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastnn._files import open_file, parse_json
from fastnn.nn import Module
from fastnn.training._extra import require

Tensors: TypeAlias = dict[str, NDArray[Any]]

_METADATA = "fastnn"


class CheckpointError(RuntimeError):
    """A file of a run cannot be written, or cannot be read as what it should be.

    Examples
    --------
    >>> from fastnn.training import checkpoint
    >>> checkpoint.load("none.safetensors")
    Traceback (most recent call last):
    fastnn.training.checkpoint.CheckpointError: none.safetensors: expected a checkpoint, but there is no such file
    """


def save(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]],
         metadata: Mapping[str, Any] | None = None) -> None:
    """Write arrays and metadata to a file, whole or not at all.

    The bytes go to a file beside it, reach the disk, and then take the name at once: whatever happens on the way,
    under `path` lies either the old file or the new one.

    Parameters
    ----------
    path : str or path-like
        Where to, in a folder that exists.
    tensors : mapping of str to ndarray
        Arrays of any shape, real numbers or bool.
    metadata : mapping, optional
        What JSON can hold.

    Raises
    ------
    CheckpointError
        If the file cannot be written, for a full disk say.
    TypeError, ValueError
        If JSON cannot hold the metadata.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> from fastnn.training import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "weights.safetensors")
    ...     checkpoint.save(path, {"weight": np.arange(3.0)}, {"epoch": 2})
    ...     checkpoint.load(path)
    ({'weight': array([0., 1., 2.])}, {'epoch': 2})
    """
    text = json.dumps(dict(metadata or {}), allow_nan=False)
    # safetensors takes the memory as it lies, strides ignored.
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    safetensors = require("safetensors.numpy", "saving a checkpoint")
    replace_file(path, safetensors.save(contiguous, {_METADATA: text}))


def load(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, Any]]:
    """Read a file that `save` wrote, or any other safetensors file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    tensors : dict of str to ndarray
        The arrays.
    metadata : dict
        What was saved with them; empty where the file is another program's.

    Raises
    ------
    CheckpointError
        If there is no such file, or it is truncated or something else.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> from fastnn import training
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     training.save(Path(folder, "bias"), {"bias": np.zeros(2)})
    ...     training.load(Path(folder, "bias"))
    ({'bias': array([0., 0.])}, {})
    """
    return _read(path, tensors=True)


def _read(path: str | os.PathLike[str], tensors: bool) -> tuple[Tensors, dict[str, Any]]:
    safetensors = require("safetensors", "reading a checkpoint")
    try:
        open_file(path, "a checkpoint").close()
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = parse_json((file.metadata() or {}).get(_METADATA, "{}"), _METADATA, "metadata")
            names = file.keys() if tensors else []
            return {name: file.get_tensor(name) for name in names}, metadata
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{os.fspath(path)}: expected a checkpoint (a safetensors file), but this file is "
                              f"truncated or something else: {error}") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what was saved with the tensors of a file, without reading these; errors are those of `load`."""
    return _read(path, tensors=False)[1]


def load_model(path: str | os.PathLike[str], model: Module) -> dict[str, Any]:
    """Give a model the weights and running statistics of a checkpoint.

    Parameters
    ----------
    path : str or path-like
        A checkpoint of `Trainer`, or a safetensors file of a state dict such as torchvision's.
    model : Module
        A model of the same layers.

    Returns
    -------
    dict
        The checkpoint's metadata.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, or one of a model with other layers; the model is as before then.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastnn import nn, training
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "weights.safetensors")
    ...     training.save(path, nn.Linear(3, 2).state_dict())
    ...     training.load_model(path, nn.Linear(3, 2))
    {}
    """
    tensors, metadata = load(path)
    state = part(tensors, "model") or tensors
    try:
        model.load_state_dict(state)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{os.fspath(path)}: expected a checkpoint of this {type(model).__qualname__}, "
                              f"got one of {metadata.get('model', 'another model')}: {error}") from error
    return metadata


def part(tensors: Tensors, name: str) -> Tensors:
    """Return the tensors whose names start with "name.", without it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def replace_file(path: str | os.PathLike[str], contents: bytes) -> None:
    """Write a file of a run, whole or not at all; see `save`."""
    path = Path(path)
    # One name for all attempts, so that a killed process leaves one file behind and the next attempt takes it over.
    beside = path.with_name(f".{path.name}.part")
    try:
        try:
            with open(beside, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        raise unwritable(path, error) from error
    with suppress(OSError):                 # not every system can open a folder to make the new name last
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """Return the error that says that a file of a run could not be written."""
    return CheckpointError(f"{path}: could not be written ({error.strerror}); what lay there before is unchanged. "
                           "Free some space or mend the folder, then resume the run")
