"""The file formats of the data sets: IDX, CSV and CIFAR's pickled batches."""

from __future__ import annotations

import gzip
import io
import math
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CSV_COLUMNS = 1 + 28 * 28
_CSV_CELLS = {str(value).encode(): value for value in range(256)}


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return what a file holds, unzipped where it is a gzip stream, whatever its name.

    Parameters
    ----------
    path : str or path-like
        The file.

    Raises
    ------
    ValueError
        Where the gzip stream is corrupt or truncated.

    Examples
    --------
    >>> import gzip, pathlib, tempfile
    >>> from fastnn.data import formats
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "greeting.gz")
    ...     _ = path.write_bytes(gzip.compress(b"hello"))
    ...     formats.read_bytes(path)
    b'hello'
    """
    raw = Path(path).read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole gzip stream, got {len(raw)} bytes of a corrupt or truncated one "
            f"({error}); fetch the file again"
        ) from error


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an IDX file, the format of MNIST, plain or gzipped.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    ndarray
        The array of the shape and dtype that the file's header gives, in the machine's byte order;
        uint8 of shape (N, H, W) for images, (N,) for labels.

    Raises
    ------
    ValueError
        Where the file is no IDX file, or is shorter or longer than its header says.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastnn import data
    >>> labels = data.digits().test.labels.astype("uint8")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1]) + len(labels).to_bytes(4) + labels.tobytes())
    ...     data.read_idx(path)[:5] == labels[:5]
    array([ True,  True,  True,  True,  True])
    """
    raw = read_bytes(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_DTYPES:
        raise ValueError(
            f"{path}: expected an IDX file, which starts with 00 00, a type code (08 for uint8) and the number "
            f"of dimensions; got {raw[:4].hex(' ') or 'an empty file'}; fetch the file again"
        )
    dtype = np.dtype(_IDX_DTYPES[raw[2]])
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[at : at + 4]) for at in range(4, start, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes for the header's shape {shape} and dtype {dtype.name}, "
            f"got {len(raw)}: the file is {'truncated' if len(raw) < expected else 'too long'}; fetch it again"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_csv(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read Fashion-MNIST's CSV: a row holds the label and 784 pixels; a header row may come first.

    The first row is a header where its first cell has "label" in it, or no cell is a pixel's value.

    Parameters
    ----------
    path : str or path-like
        The file, plain or gzipped. Blank lines are skipped.

    Returns
    -------
    images : ndarray of uint8, shape (N, 1, 28, 28)
    labels : ndarray of int64, shape (N,)

    Raises
    ------
    ValueError
        Naming the line: where it has not 785 cells, where a cell is missing or no whole number from
        0 to 255, or where the label is above 9. Also where there are no rows.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from fastnn import data
    >>> digits = data.digits().test
    >>> pixels = np.kron(digits.images[:5, 0], np.ones((3, 3), int))
    >>> pixels = np.pad(pixels, ((0, 0), (2, 2), (2, 2))).reshape(5, 784)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "digits.csv")
    ...     np.savetxt(path, np.column_stack([digits.labels[:5], pixels]), "%d", ",")
    ...     images, labels = data.read_csv(path)
    >>> images.shape, (labels == digits.labels[:5]).all()
    ((5, 1, 28, 28), np.True_)
    """
    rows = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        cells = line.split(b",")
        is_header = number == 1 and (b"label" in cells[0].lower() or _CSV_CELLS.keys().isdisjoint(cells))
        if is_header or not line.strip():
            continue
        if len(cells) != _CSV_COLUMNS:
            raise ValueError(
                f"{path}, line {number}: expected {_CSV_COLUMNS} cells (label, 784 pixels), got {len(cells)}; "
                "correct the line or fetch the file again"
            )
        try:
            row = bytes(map(_CSV_CELLS.__getitem__, cells))
        except KeyError as error:
            cell = error.args[0]
            raise ValueError(
                f"{path}, line {number}, cell {cells.index(cell) + 1}: expected a whole number from 0 to 255, "
                f"got {cell.decode(errors='replace')!r}; correct the line or fetch the file again"
            ) from None
        if row[0] > 9:
            raise ValueError(f"{path}, line {number}: expected a label from 0 to 9, got {row[0]}; correct the line")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: expected rows of a label and 784 pixels, got none; fetch the file again")
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, _CSV_COLUMNS)
    return table[:, 1:].copy().reshape(-1, 1, 28, 28), table[:, 0].astype(np.int64)


def _dtype(descriptor: Any, align: Any, copy: Any) -> Any:
    # The batches give align and copy as 0 and 1; NumPy 2.4.0 to 2.4.4 warn where they are no booleans.
    return np.dtype(descriptor, bool(align), bool(copy))


# Everything that the official batches name; what an array's own pickle calls is taken from an array,
# because its module is private and has moved between NumPy versions.
_CIFAR_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
}


class _CifarUnpickler(pickle.Unpickler):
    """An unpickler that admits nothing but what CIFAR's batches hold."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CIFAR_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch holds")
        return _CIFAR_GLOBALS[module, name]


def read_cifar_batch(raw: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one pickled batch of CIFAR-10's python version, running nothing that it may contain.

    Parameters
    ----------
    raw : bytes
        The contents of the file.
    name : str
        What errors call it.

    Returns
    -------
    images : ndarray of uint8, shape (N, 3, 32, 32)
        The planes are red, green, blue.
    labels : ndarray of int64, shape (N,)

    Raises
    ------
    ValueError
        Where the pickle is no such batch, or asks for anything that a batch does not hold.

    Examples
    --------
    >>> import os, pickle
    >>> from fastnn.data import formats
    >>> formats.read_cifar_batch(pickle.dumps(os.getcwd, protocol=2), "evil")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: evil: expected a CIFAR-10 batch, got a pickle that cannot be read: it asks for ...
    """
    try:
        batch = _CifarUnpickler(io.BytesIO(raw), encoding="bytes").load()
        images, labels = batch[b"data"], np.array(batch[b"labels"])
        fits = images.dtype == np.uint8 and images.shape == (len(labels), 3 * 32 * 32)
        fits = fits and np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{name}: expected a CIFAR-10 batch, got a pickle that cannot be read: {error}; fetch the file again"
        ) from error
    if not fits:
        raise ValueError(
            f"{name}: expected uint8 data of shape (N, 3072) and N integer labels, got {images.dtype} of shape "
            f"{images.shape} and {labels.dtype} of shape {labels.shape}; fetch the file again"
        )
    return images.reshape(-1, 3, 32, 32), labels.astype(np.int64)
