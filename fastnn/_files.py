"""Reading files: only regular ones, only as many bytes as are expected, and JSON that only holds what we write."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

_JSON_LIMIT = 1 << 24       # bytes of a JSON file
_DIGITS = 40                # of a whole number: more than 128 bits need


def as_path(name: str, value: Any) -> Path:
    """Return what is given as a path or text as a Path."""
    try:
        return Path(value)
    except TypeError:
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}") from None


def one_line(message: object) -> str:
    """Return a message in one line: those of other libraries, which quote what a file holds, may have more.

    Examples
    --------
    >>> from fastnn._files import one_line
    >>> one_line(ValueError("unknown dtype a\\n  b"))
    'unknown dtype a b'
    """
    return re.sub(r"\s*[\r\n]+\s*", " ", str(message)).strip()


def open_file(path: str | os.PathLike[str], what: str) -> BufferedReader:
    """Open a file for reading; errors say `what` it should be.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be opened, or is a folder, a pipe or a device, which may never end.

    Examples
    --------
    >>> from fastnn._files import open_file
    >>> open_file("nothing.png", "an image file")
    Traceback (most recent call last):
    FileNotFoundError: nothing.png: expected an image file, but there is no such file
    """
    expected = f"{os.fspath(path)}: expected {what}, but"
    try:
        file = open(path, "rb", opener=_without_waiting)       # noqa: SIM115 (the caller closes it)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{expected} there is no such file") from error
    except OSError as error:
        why = "it is a folder" if Path(path).is_dir() else f"it cannot be opened ({error.strerror})"
        raise type(error)(f"{expected} {why}") from error
    except ValueError as error:                         # a null character in its name
        raise ValueError(f"{expected} no file has such a name ({error})") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{expected} it is a pipe or a device")
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer, too, would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_file(path: str | os.PathLike[str], what: str, limit: int) -> bytes:
    """Return what a file holds, at most `limit` bytes.

    Raises
    ------
    OSError
        As `open_file`.
    ValueError
        If it is larger.
    """
    with open_file(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        contents = b"" if size > limit else file.read(limit + 1)
    if max(size, len(contents)) > limit:
        raise ValueError(f"{os.fspath(path)}: expected {what} of at most {limit:,} bytes, got a larger file")
    return contents


def read_json(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises
    ------
    OSError
        As `open_file`.
    ValueError
        If the file is larger than any that we write, or `parse_json` refuses it.
    """
    return parse_json(read_file(path, what, _JSON_LIMIT), os.fspath(path), what)


def parse_json(text: str | bytes, where: str, what: str) -> dict[str, Any]:
    """Return the object of a JSON text, each of its numbers finite and each name given once.

    Raises
    ------
    ValueError
        If it is something else; the message begins with `where` it is and `what` it should be.

    Examples
    --------
    >>> from fastnn._files import parse_json
    >>> parse_json('{"loss": NaN}', "line 3", "the figures of an epoch")
    Traceback (most recent call last):
    ValueError: line 3: expected the figures of an epoch in JSON, got something else: a number that is NaN
    """
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_number,
                           object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{where}: expected {what} in JSON, got something else: {why}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected {what} in JSON, got {value!r:.100}")
    return value


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number that is {text:.{_DIGITS}}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.{_DIGITS}} is there twice")
    return whole
