"""The file formats of the data sets: IDX, CSV and CIFAR's pickled batches."""

from __future__ import annotations

import gzip
import io
import math
import os
import pickletools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from fastnn._files import open_file

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_DIMENSIONS = 32
_CSV_COLUMNS = 1 + 28 * 28
_CSV_CELLS = {str(value): value for value in range(256)}
_CSV_LINE = 1 << 14         # characters: twice what a header of Fashion-MNIST has
_CSV_LINES = 1_000_000
_BLOCK = 1 << 20
_GZIP_RATIO = 1032          # deflate's highest


@contextmanager
def _unzipped(path: str | os.PathLike[str], what: str) -> Iterator[tuple[BinaryIO, int, bool]]:
    """Open a file, through gzip where it is a gzip stream; yield it, its size on the disk and whether it is zipped."""
    with open_file(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        if not zipped:
            yield file, size, False
            return
        try:
            with gzip.open(file) as stream:
                yield cast("BinaryIO", stream), size, True
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{os.fspath(path)}: expected a whole gzip stream, got {size} bytes of a corrupt or truncated one "
                f"({error}); fetch the file again"
            ) from error


def _read(stream: BinaryIO, size: int) -> bytearray:
    """Return the next `size` bytes, or fewer where the stream ends; memory grows with what comes, not with `size`."""
    contents = bytearray()
    while block := stream.read(min(_BLOCK, size - len(contents))):
        contents += block
    return contents


def read_bytes(path: str | os.PathLike[str], limit: int, what: str = "a data file") -> bytes:
    """Return what a file holds, unzipped where it is a gzip stream, whatever its name.

    Parameters
    ----------
    path : str or path-like
        The file.
    limit : int
        The bytes that it may hold, unzipped. No more are read.
    what : str, default "a data file"
        What errors say that it should be.

    Raises
    ------
    FileNotFoundError, OSError
        Where there is no such file, or it cannot be read.
    ValueError
        Where it holds more, or the gzip stream is corrupt or truncated.

    Examples
    --------
    >>> import gzip, pathlib, tempfile
    >>> from fastnn.data import formats
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "greeting.gz")
    ...     _ = path.write_bytes(gzip.compress(b"hello"))
    ...     formats.read_bytes(path, 100)
    b'hello'
    """
    with _unzipped(path, what) as (stream, _, _):
        contents = _read(stream, limit + 1)
    if len(contents) > limit:
        raise ValueError(f"{os.fspath(path)}: expected {what} of at most {limit:,} bytes, got more; fetch the "
                         "file again, or give another")
    return bytes(contents)


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
    with _unzipped(path, "an IDX file") as (stream, size, zipped):
        head = bytes(_read(stream, 4))
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_DTYPES:
            raise ValueError(
                f"{os.fspath(path)}: expected an IDX file, which starts with 00 00, a type code (08 for uint8) and the "
                f"number of dimensions; got {head.hex(' ') or 'an empty file'}; fetch the file again"
            )
        dtype = np.dtype(_IDX_DTYPES[head[2]])
        if not 1 <= head[3] <= _IDX_DIMENSIONS:
            raise ValueError(
                f"{os.fspath(path)}: expected an IDX file of 1 to {_IDX_DIMENSIONS} dimensions, got {head[3]}; fetch "
                "the file again"
            )
        start = 4 + 4 * head[3]
        lengths = _read(stream, start - 4)
        shape = tuple(int.from_bytes(lengths[at : at + 4]) for at in range(0, len(lengths), 4))
        count = math.prod(shape) * dtype.itemsize
        header = f"the header's shape {_shortened(shape)} and dtype {dtype.name}"
        # The size on the disk says whether a plain file fits, and a bound for a zipped one.
        got = str(size)
        fits = size == start + count if not zipped else start + count <= _GZIP_RATIO * size
        if fits:
            values = _read(stream, count)
            fits, longer = len(values) == count, bool(stream.read(1))
            fits = fits and not longer
            got = "more" if longer else str(start + len(values))
        if not fits:
            short = got != "more" and int(got) < start + count
            raise ValueError(
                f"{os.fspath(path)}: expected {start + count} bytes for {header}, got {got}: the file is "
                f"{'truncated' if short else 'too long'}; fetch it again"
            )
    try:
        array = np.frombuffer(values, dtype).reshape(shape)
    except ValueError as error:                         # a length of 0 beside such whose product is beyond an index
        raise ValueError(f"{os.fspath(path)}: {header} is no array's ({error}); fetch the file again") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _shortened(shape: tuple[int, ...]) -> str:
    if len(shape) <= 4:
        return str(shape)
    return f"({', '.join(map(str, shape[:3]))}, ...) of {len(shape)} dimensions"


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
        If a line does not have 785 cells, if a cell is missing or not a whole number from 0 to 255, or if a label is
        above 9; the message names the line. Also if there are no rows.

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
    pixels, labels = bytearray(), bytearray()
    for number, line in _lines(path):
        cells = line.split(",")
        is_header = number == 1 and ("label" in cells[0].lower() or _CSV_CELLS.keys().isdisjoint(cells))
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
                f"got {cell!r:.40}; correct the line or fetch the file again"
            ) from None
        if row[0] > 9:
            raise ValueError(f"{path}, line {number}: expected a label from 0 to 9, got {row[0]}; correct the line")
        labels.append(row[0])
        pixels += row[1:]
    if not labels:
        raise ValueError(f"{path}: expected rows of a label and 784 pixels, got none; fetch the file again")
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28)
    return images, np.frombuffer(labels, np.uint8).astype(np.int64)


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """The lines of a CSV file with their numbers; one that is longer than any of ours is not read to its end."""
    with (
        _unzipped(path, "a CSV file") as (stream, _, _),
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace") as text,
    ):
        number = 0
        while line := text.readline(_CSV_LINE):
            number += 1
            if number > _CSV_LINES or len(line) == _CSV_LINE:
                raise ValueError(
                    f"{path}, line {number}: expected at most {_CSV_LINES:,} lines of fewer than {_CSV_LINE:,} "
                    "characters (label, 784 pixels), got more; correct the file or fetch it again"
                )
            yield number, line.removesuffix("\n")


# What the official batches are made of: Python 2's pickles of dicts, lists, strings, small integers and one array.
_CIFAR_OPCODES = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "BINSTRING", "SHORT_BINSTRING", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
}
_CIFAR_GLOBALS = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
_CIFAR_CLASSES = {"labels": 10, "fine_labels": 100, "coarse_labels": 20}


def _unpickled(raw: bytes) -> Any:
    """Return what a pickle of CIFAR says, calling nothing: REDUCE gives (function, arguments), BUILD adds the state."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    for opcode, argument, _ in pickletools.genops(raw):
        name = opcode.name
        if name not in _CIFAR_OPCODES:
            raise ValueError(f"it asks for {name}, which no CIFAR batch holds")
        if name == "GLOBAL":
            named = tuple(_checked(argument, str).split(" ", 1))
            if named not in _CIFAR_GLOBALS:
                raise ValueError(f"it asks for {'.'.join(named):.80}, which no CIFAR batch holds")
            stack.append(named)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[_checked(argument, int)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[_checked(argument, int)])
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            stack.append(_checked(argument, str).encode("latin-1"))
        elif name.startswith("BININT"):
            stack.append(argument)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            for key, value in zip(items[::2], items[1::2], strict=True):
                stack[-1][_checked(key, bytes)] = value
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "BUILD"):
            length = int(name[-1]) if name.startswith("TUPLE") else 2
            stack.append(tuple(stack.pop() for _ in range(length))[::-1])
    (whole,) = stack
    return whole


def _checked(value: Any, *kinds: type) -> Any:
    """Return the value; or a tuple, where several kinds are given, whose elements are of these."""
    values = value if len(kinds) > 1 else (value,)
    if type(values) is not tuple or len(values) != len(kinds) or not all(map(isinstance, values, kinds)):
        raise ValueError(f"{type(value).__name__} in place of {', '.join(kind.__name__ for kind in kinds)}")
    return value


def _pickled_array(value: Any) -> NDArray[np.uint8]:
    """Return the array of uint8 that a pickle describes: a call of _reconstruct with its state."""
    (function, _), (_, shape, described, in_columns, contents) = _checked(value, tuple, tuple)
    (dtype, (code, *_)), (_, byte_order, *_) = _checked(described, tuple, tuple)
    if (function, dtype) != (("numpy.core.multiarray", "_reconstruct"), ("numpy", "dtype")):
        raise ValueError(f"expected an array, got what {function!r:.80} makes")
    if (_checked(code, bytes), _checked(byte_order, bytes), in_columns) != (b"u1", b"|", False):
        raise ValueError(f"expected rows of uint8, got an array of {code!r:.40}")
    rows, columns = _checked(shape, int, int)
    if len(_checked(contents, bytes)) != rows * columns or rows < 0:
        raise ValueError(f"expected {rows} x {columns} bytes, got {len(contents)}")
    return np.frombuffer(bytearray(contents), np.uint8).reshape(rows, columns)


def read_cifar_batch(raw: bytes, name: str, labels: str = "labels") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one pickled batch of CIFAR-10's or CIFAR-100's python version.

    Nothing that a pickle may ask for is run. It is read opcode by opcode, and only the few opcodes that the official
    files consist of are accepted, with one array of uint8.

    Parameters
    ----------
    raw : bytes
        The contents of the file.
    name : str
        What errors call it.
    labels : {"labels", "fine_labels", "coarse_labels"}
        Which labels: CIFAR-100 has fine and coarse ones.

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
    ValueError: evil: expected a CIFAR batch, got a pickle that cannot be read: it asks for ...
    """
    if labels not in _CIFAR_CLASSES:
        raise ValueError(f"labels: expected one of {', '.join(_CIFAR_CLASSES)}, got {labels!r}")
    try:
        batch = _checked(_unpickled(raw), dict)
        images, found = _pickled_array(batch[b"data"]), _checked(batch[labels.encode()], list)
        if not all(type(label) is int and 0 <= label < _CIFAR_CLASSES[labels] for label in found):
            raise ValueError(f"expected labels from 0 to {_CIFAR_CLASSES[labels] - 1}, got others")
    except Exception as error:  # a damaged pickle raises nearly anything
        what = f"there is no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{name}: expected a CIFAR batch, got a pickle that cannot be read: {what}; fetch the file again"
        ) from error
    if images.shape != (len(found), 3 * 32 * 32):
        raise ValueError(
            f"{name}: expected uint8 data of shape (N, 3072) and N integer labels, got {images.dtype} of shape "
            f"{images.shape} and {len(found)} labels; fetch the file again"
        )
    return images.reshape(-1, 3, 32, 32), np.array(found, np.int64)
