"""Checkpoints: named arrays with what is known about them, in one safetensors file that is never half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastnn._checks import is_sequence
from fastnn._extras import require
from fastnn._files import as_path, one_line, open_file, parse_json
from fastnn.nn import Module
from fastnn.training._lock import grasp, locked
from fastnn.training._sparse import packed, unpacked

Tensors: TypeAlias = dict[str, NDArray[Any]]

_METADATA, _SPARSE = "fastnn", "fastnn.sparse"
_PART = ".part"
_HEAD = 512             # bytes from which it is seen what a file is
_WHOLE = 1 << 62

_DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
           "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8"}

_FREE, _ALLOW, _MOVE = "Free some space", "Allow writing there", "Move away what lies there"
_CURES = {errno.ENOSPC: _FREE, errno.EDQUOT: _FREE, errno.EFBIG: _FREE, errno.EACCES: _ALLOW, errno.EPERM: _ALLOW,
          errno.EROFS: _ALLOW, errno.EISDIR: _MOVE, errno.EEXIST: _MOVE, errno.ENOTDIR: _MOVE}

_TORCH = ("this file is a pickle of torch.save (.pt, .pth), which can run anything: in PyTorch, "
          "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW) makes a checkpoint of its state dict")
_FORMATS = [(re.compile(pattern, re.DOTALL), what) for pattern, what in (
    (rb"\Z", "this file is empty: truncated, or never written"),
    (rb"PK\x03\x04.{26}[^\0]*\.npy", "this file is an archive of numpy.savez (.npz): give load_state_dict what "
                                    "numpy.load(FILE) returns"),
    (rb"PK\x03\x04.*\.keras|PK\x03\x04.{26}metadata\.json", "this file is a model of Keras"),
    (rb"PK\x03\x04.{26}[^\0]*/data\.pkl", _TORCH),
    (rb"PK\x03\x04", "this file is a zip archive"),
    (rb"\x80[\x02-\x05]", _TORCH),
    (rb"\x89HDF\r\n\x1a\n", "this file is HDF5 (.h5), as Keras writes"),
    (rb"\x93NUMPY", "this file is an array of numpy.save (.npy)"),
    (rb"\x1f\x8b", "this file is compressed by gzip: unpack it"),
    (rb"GGUF", "this file is GGUF, as llama.cpp reads"),
    (rb"version https://git-lfs", "this file is a pointer of git-lfs, not what it points to: run git lfs pull"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|head|error)", "this file is a page of HTML or XML, as a download "
                                                              "that failed leaves: fetch it again"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8", "this file is an image"))]


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
         metadata: Mapping[str, Any] | None = None, *, sparse: bool = False) -> None:
    """Write arrays and metadata to a file, whole or not at all.

    The bytes are written to a file beside it and flushed to the disk; then that file is renamed. Whatever happens on
    the way, there is either the old file or the new one at `path`.

    Parameters
    ----------
    path : str or path-like
        Where to, in a folder that exists.
    tensors : mapping of str to ndarray
        Arrays of any shape, real numbers or bool.
    metadata : mapping, optional
        What JSON can hold.
    sparse : bool, default False
        Store of an array with many zeros, NAME, a bit for each element as NAME.bitmask and those that are not 0 as
        NAME.compressed, where that is smaller; `load` and `load_model` give the array back. Other programs see the two.
        A zero loses its sign.

    Raises
    ------
    CheckpointError
        If the file cannot be written, for example because the disk is full.
    TypeError, ValueError
        If an array holds something else, or JSON cannot hold the metadata.

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
    try:
        text = json.dumps(dict(metadata or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"metadata: expected a mapping of values that JSON holds: {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise TypeError(f"tensors: expected a mapping of names to arrays, got {tensors!r:.100}")
    # safetensors takes the memory as it lies, strides ignored.
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    for name, tensor in contiguous.items():
        if tensor.dtype.kind not in "biuf" or tensor.dtype.itemsize > 8:
            raise TypeError(f"tensors: expected arrays of real numbers or bool, got {tensor.dtype} for {name}")
    safetensors = require("safetensors.numpy", "saving a checkpoint")
    texts = {_METADATA: text}
    if sparse:
        contiguous, shapes = packed(contiguous)
        texts[_SPARSE] = json.dumps(shapes)
    replace_file(path, safetensors.save(contiguous, texts))


def load(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, Any]]:
    """Read a file that `save` wrote, or any other safetensors file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    tensors : dict of str to ndarray
        The arrays; bfloat16, which NumPy does not have, as float32 of the same values.
    metadata : dict
        What was saved with them; empty where the file is another program's.

    Raises
    ------
    CheckpointError
        If there is no such file, or it is truncated, damaged or something else: the message says what.

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
    path, safetensors = as_path("path", path), require("safetensors", "reading a checkpoint")
    raw = _read(path)
    try:
        tensors = {name: _decoded(name, **entry) for name, entry in sorted(safetensors.deserialize(raw))}
        tensors = unpacked(tensors, _described(raw, _SPARSE))
    except (safetensors.SafetensorError, ValueError) as error:
        raise _damaged(path, raw, error) from error
    return tensors, _metadata(path, raw)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what was saved with the tensors of a file, without reading these; errors are those of `load`."""
    path = Path(path)
    return _metadata(path, _read(path, header=True))


class Loaded(dict[str, Any]):
    """What `load_model` returns: the checkpoint's metadata, and what was passed over.

    Attributes
    ----------
    missing_keys : list of str
        Names of the model's arrays that kept their values.
    unexpected_keys : list of str
        Names of the file's arrays that have no place in the model.
    """

    def __init__(self, metadata: Mapping[str, Any], missing_keys: list[str], unexpected_keys: list[str]) -> None:
        super().__init__(metadata)
        self.missing_keys, self.unexpected_keys = missing_keys, unexpected_keys


def load_model(path: str | os.PathLike[str], model: Module, *, strict: bool = True, prefix: str | None = None,
               skip: str | Sequence[str] = ()) -> Loaded:
    """Give a model the weights and running statistics of a checkpoint, in the model's dtype.

    Parameters
    ----------
    path : str or path-like
        A checkpoint of `Trainer`, or a safetensors file of a state dict such as torchvision's.
    model : Module
        A model of the same layers.
    strict : bool, default True
        Whether names that are missing in the file, or unexpected, are an error.
    prefix : str, optional
        How the names of the model's arrays begin in the file, such as "module." in a file of torch's DataParallel;
        other names are ignored. By default "model." in a checkpoint of `Trainer`, and nothing in other files.
    skip : str or sequence of str, optional
        Names of arrays or of layers that the model keeps as they are, such as "fc" to keep its own head.

    Returns
    -------
    Loaded
        The checkpoint's metadata, a dict; its attributes `missing_keys` and `unexpected_keys` say what was passed over.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, or one of a model with other layers; then the model is unchanged.
    ValueError
        If nothing in the file or the model is called as `prefix` or `skip` say.

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
    path = as_path("path", path)
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got {type(model).__name__}")
    skip = [skip] if isinstance(skip, str) else skip
    if not isinstance(prefix, str | None):
        raise TypeError(f"prefix: expected text, got {prefix!r:.100}")
    if not is_sequence(skip) or not all(isinstance(name, str) for name in skip):
        raise TypeError(f"skip: expected names of arrays or layers, got {skip!r:.100}")
    tensors, metadata = load(path)
    prefix = ("model." if "state" in metadata else "") if prefix is None else prefix
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if prefix and not state:
        raise ValueError(f"prefix: expected what names in {os.fspath(path)} begin with, such as "
                         f"{next(iter(tensors), 'none')}, got {prefix!r}")
    own = model.state_dict()
    kept = _below(skip, own)
    if unknown := [name for name in skip if not _below([name], {**own, **state})]:
        raise ValueError(f"skip: expected names of arrays or layers of {type(model).__qualname__}, such as "
                         f"{next(iter(own), 'none')}, got {', '.join(unknown)}")
    passed = _below(skip, state)
    state = {name: tensor for name, tensor in state.items() if name not in passed}
    try:
        if not strict and own and not own.keys() & state.keys():
            strict = True                   # none has a place, which nobody means: say so
        missing, unexpected = model.load_state_dict({**state, **{name: own[name] for name in kept}}, strict)
    except (TypeError, ValueError) as error:
        ours, theirs = type(model).__qualname__, metadata.get("model")
        raise CheckpointError(f"{os.fspath(path)}: expected a checkpoint of this {ours}"
                              + (f", got one of {theirs}" if theirs not in (None, ours) else "") + f": {error}"
                              ) from error
    return Loaded(metadata, missing + kept, unexpected + [name for name in passed if name not in own])


def _below(names: Sequence[str], state: Mapping[str, Any]) -> list[str]:
    """Return those names of a state that are among names of arrays and layers, or below one."""
    return [key for key in state if any(f"{key}.".startswith(f"{name}.") for name in names)]


def part(tensors: Tensors, name: str) -> Tensors:
    """Return the tensors whose names start with "name.", without it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def replace_file(path: str | os.PathLike[str], contents: bytes) -> None:
    """Write a file of a run, whole or not at all; see `save`."""
    path = Path(path)
    try:
        for leftover in path.parent.iterdir():
            if leftover.name.startswith(f".{path.name}.") and leftover.suffix == _PART:
                _remove_if_left_over(leftover)
        grasped: bool | None = False
        while grasped is False:
            # A name of its own for each, since several processes may write this file at once.
            beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")
            file, grasped = locked(beside)
        try:
            with file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
                if os.name == "posix":
                    os.replace(beside, path)
            if os.name != "posix":          # where no open file can be renamed
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


def _remove_if_left_over(beside: Path) -> None:
    """Remove what a killed process left behind: its lock has died with it."""
    with suppress(OSError), open(beside, "rb") as file:
        if grasp(file):
            beside.unlink()


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """Return the error that says that a file of a run could not be written, what has become of it, and what to do."""
    there = path.parent.is_dir()
    if not there:
        state, cure = f"there is no folder {path.parent}", "Make it, or give another path"
    else:
        state = "what lay there before is unchanged" if os.path.lexists(path) else "nothing lay there before"
        cure = _CURES.get(error.errno or 0, "See what is wrong with the disk")
        if (path.parent / "config.json").is_file():
            cure += ", then resume the run"
    return CheckpointError(f"{path}: could not be written ({error.strerror}); {state}. {cure}")


# --- what a file is that is no checkpoint ---


def _inside(path: Path) -> str:
    """Say which checkpoints lie in a folder."""
    inside = sorted(file.name for file in path.iterdir() if file.suffix == ".safetensors") if path.is_dir() else []
    return f", which holds {', '.join(inside[:5])}: give one" if inside else ""


def _foreign(path: Path, head: bytes) -> str | None:
    """Say what a file is that does not begin as safetensors do: a number of eight bytes, then as much JSON."""
    for magic, what in _FORMATS:
        if magic.match(head):
            return what
    if head[:1] == b"{" and head[8:9] != b"{":
        return _json(path)
    length = int.from_bytes(head[:8], "little")
    if length and head[8:9] in (b"", b"{"):
        return None
    return f"this file is none: it begins with {head[:16]!r}"


def _json(path: Path) -> str:
    try:
        parts = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "this file is text, which begins as JSON does"
    return (f"this file is the index of one in {len(parts)} parts, {', '.join(map(str, parts[:5]))}"
            f"{' ...' * (len(parts) > 5)}: give load_state_dict the tensors of all of them in one dict")


def _read(path: Path, header: bool = False) -> bytes:
    """Return what a file of tensors holds, or its header alone."""
    try:
        with open_file(path, "a checkpoint") as file:
            head = file.read(_HEAD)
            # What is told from its beginning, and may be large, is not read.
            if foreign := _foreign(path, head):
                raise CheckpointError(f"{path}: expected a checkpoint (a safetensors file), but {foreign}")
            end = 8 + int.from_bytes(head[:8], "little") if header else _WHOLE
            return head + file.read(max(0, min(end, os.fstat(file.fileno()).st_size) - len(head)))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{error}{_inside(path)}") from error


def _header(raw: bytes) -> dict[str, Any]:
    length = int.from_bytes(raw[:8], "little")
    return parse_json(raw[8:8 + length], "its header", "names and places of tensors")


def _metadata(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        return _described(raw, _METADATA)
    except ValueError as error:
        raise _damaged(path, raw, error) from error


def _described(raw: bytes, name: str) -> dict[str, Any]:
    """Return what the header says under a name."""
    texts = _header(raw).get("__metadata__", {})
    text = texts.get(name, "{}") if isinstance(texts, dict) else texts
    if not isinstance(text, str):
        raise ValueError(f"its metadata are {text!r:.100}, not a text")
    return parse_json(text, name, "metadata")


def _damaged(path: Path, raw: bytes, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: expected a checkpoint (a safetensors file), but this file is "
                           f"{_truncated(raw) or f'damaged: {one_line(error)}'}")


def _truncated(raw: bytes) -> str | None:
    """Say how much is missing, if the file ends before what its header says."""
    needed = 8 + int.from_bytes(raw[:8], "little")
    if len(raw) >= needed:
        try:
            needed += max(entry["data_offsets"][1] for name, entry in _header(raw).items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return None
    return f"truncated: it has {len(raw):,} of {needed:,} bytes" if len(raw) < needed else None


def _decoded(name: str, dtype: str, shape: Sequence[int], data: bytearray) -> NDArray[Any]:
    if dtype == "BF16":                     # the upper half of a float32; NumPy has none
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    if dtype not in _DTYPES:
        raise ValueError(f"{name} is in {dtype}, which is not read: turn it into float32 where it was made")
    return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
