"""Texts: files of the user's own, and three books in the public domain.

`books` looks for ``hound-of-the-baskervilles.txt``, ``tinyshakespeare.txt`` and ``war-and-peace.txt`` in the subfolder
``text/`` of a data folder, or directly in it, as `fastnn.data.datasets` does for images, and else downloads them.
"""

from __future__ import annotations

import os
import re

from fastnn.data.datasets import find
from fastnn.data.download import BOOKS, check_sha256, fetch_book
from fastnn.data.formats import read_bytes

_LIMIT = 1 << 30            # bytes of a text
# What Project Gutenberg puts behind a book.
_END_MATTER = re.compile(r"^(End of (the )?Project Gutenberg|\*\*\* ?END OF TH)", re.MULTILINE)


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file in UTF-8, plain or gzipped.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    str
        The text, its lines ended by a line feed, without a byte-order mark.

    Raises
    ------
    FileNotFoundError, OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not UTF-8, is larger than 1 GiB, or holds nothing but white space.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastnn import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "poem.txt")
    ...     _ = path.write_bytes(b"All is well.\\r\\n")
    ...     data.read_text(path)
    'All is well.\\n'
    """
    raw = read_bytes(path, _LIMIT, "a text")
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        other = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise ValueError(f"{os.fspath(path)}: expected a text in UTF-8, but byte {error.start + 1:,}, in line "
                         f"{line:,}, is 0x{raw[error.start]:02x}, which does not fit there; if it is a text in "
                         f"{other}, convert it by iconv -f {other} -t UTF-8") from error
    if not text.strip():
        raise ValueError(f"{os.fspath(path)}: expected a text, got "
                         + (f"{len(raw):,} bytes of white space" if raw else "an empty file"))
    return text


def books(data_dir: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return three books: The Hound of the Baskervilles, some of Shakespeare's plays, and War and Peace in English.

    Parameters
    ----------
    data_dir : str or path-like, optional
        The folder to look in; see `fastnn.data.texts`.

    Returns
    -------
    dict of str to str
        The texts by name, 4.7 million characters in all.

    Raises
    ------
    FileNotFoundError
        If a folder is given that lacks the files.
    ValueError
        If a file is no text, or what was downloaded is another one.

    Examples
    --------
    >>> from fastnn import data
    >>> data.books()["tinyshakespeare"][:14]  # doctest: +SKIP
    'First Citizen:'
    >>> data.books("no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: books: expected its files in no-such-folder (given as data_dir), ...
    """
    paths = find("books", data_dir, [[f"{name}.txt" for name in BOOKS]])
    if paths is not None:
        return {name: read_text(path) for name, path in zip(BOOKS, paths, strict=True)}
    texts = {}
    for name, source in BOOKS.items():
        path = fetch_book(name)
        texts[name] = clean(read_text(path))
        (digest,) = source.sha256.values()
        check_sha256(texts[name].encode(), digest, str(path))
    return texts


def clean(text: str) -> str:
    """Return a text without Project Gutenberg's end matter, and with one line feed at its end.

    Examples
    --------
    >>> from fastnn.data import texts
    >>> texts.clean("All is well.\\n\\n\\nEnd of the Project Gutenberg EBook of Happiness\\n")
    'All is well.\\n'
    """
    if end := _END_MATTER.search(text):
        text = text[: end.start()]
    return text.rstrip() + "\n"


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, which blank lines separate.

    Examples
    --------
    >>> from fastnn import data
    >>> data.paragraphs("To be, or\\nnot to be.\\n \\n\\nThat is the question.\\n")
    ['To be, or\\nnot to be.', 'That is the question.']
    """
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
