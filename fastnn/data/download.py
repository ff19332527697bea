"""Where the data sets come from, the SHA-256 of each file, and how they are fetched."""

from __future__ import annotations

import hashlib
import logging
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from fastnn._extras import install

_log = logging.getLogger("fastnn.data")


@dataclass(frozen=True)
class Source:
    """The files of one data set: the address of their folder, and the SHA-256 of each by its name.

    Examples
    --------
    >>> from fastnn.data import download
    >>> list(download.SOURCES["cifar10"].sha256)
    ['cifar-10-python.tar.gz']
    """

    url: str
    sha256: dict[str, str]


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion_mnist": Source(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"},
    ),
}


@dataclass(frozen=True)
class Batches:
    """What is read of an archive: the folder in it, the most bytes of a file, and the SHA-256 of each by its name.

    Examples
    --------
    >>> from fastnn.data import download
    >>> list(download.BATCHES["cifar100"].sha256)
    ['train', 'test']
    """

    folder: str
    limit: int
    sha256: dict[str, str]


BATCHES = {
    "cifar10": Batches(
        "cifar-10-batches-py",
        1 << 25,
        {
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        },
    ),
    "cifar100": Batches(
        "cifar-100-python",
        1 << 28,
        {
            "train": "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b",
            "test": "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864",
        },
    ),
}

# Texts are checked as `texts.clean` leaves them, without what their publishers put around them.
BOOKS = {
    "hound-of-the-baskervilles": Source(
        "https://raw.githubusercontent.com/karlafej/WebAppEx/61338920e38fa42c8dc086d3fc77328809d2ee67/data/",
        {"2852-0.txt": "c924565fda018f39b9d2ebea20ae1e52c7a1ff895969b2f4f6b39d1b6977dbe0"},
    ),
    "tinyshakespeare": Source(
        "https://raw.githubusercontent.com/karpathy/char-rnn/d1d7aa34fdb3626174bce1d753e6cc6845ce7087/data/"
        "tinyshakespeare/",
        {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    ),
    "war-and-peace": Source(
        "https://raw.githubusercontent.com/berkecanrizai/txt-visualizer/ea7fea22452a41b2176faba7e417befaa945e833/",
        {"2600-0.txt": "0f2d29064439bb60049b06fd0c9e75b92e7cc7119c9cf16f5bc6ebe0579263a1"},
    ),
}


def check_sha256(raw: bytes, expected: str, name: str) -> None:
    """Raise a ValueError unless `raw`, the contents of the file `name`, has the SHA-256 `expected`.

    Examples
    --------
    >>> from fastnn.data import download
    >>> download.check_sha256(b"damaged", "00", "test_batch")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: test_batch: expected SHA-256 00, got 41f0c27c00...; the file is damaged ...
    """
    got = hashlib.sha256(raw).hexdigest()
    if got != expected:
        raise ValueError(
            f"{name}: expected SHA-256 {expected}, got {got}; the file is damaged or not the original: fetch it again"
        )


def fetch(name: str) -> list[Path]:
    """Return the files of the data set `name`, downloaded to the user's cache folder if not there yet.

    Parameters
    ----------
    name : str
        A key of `SOURCES`.

    Returns
    -------
    list of Path
        One path for each file, in the order of `SOURCES`, its SHA-256 checked.

    Raises
    ------
    ModuleNotFoundError
        Where pooch is not installed.
    OSError
        Where a file cannot be fetched.
    ValueError
        Where what came has another SHA-256.

    Examples
    --------
    >>> from fastnn.data import download
    >>> download.fetch("mnist")[0].name  # doctest: +SKIP
    'train-images-idx3-ubyte.gz'
    """
    return _retrieved(name, SOURCES[name], checked=True)


def fetch_book(name: str) -> Path:
    """Return the file of a book, downloaded to the user's cache folder if not there yet; its SHA-256 is not checked.

    Parameters
    ----------
    name : str
        A key of `BOOKS`.

    Raises
    ------
    ModuleNotFoundError, OSError
        As `fetch`.

    Examples
    --------
    >>> from fastnn.data import download
    >>> download.fetch_book("tinyshakespeare").name  # doctest: +SKIP
    'input.txt'
    """
    return _retrieved(name, BOOKS[name], checked=False)[0]


def _retrieved(name: str, source: Source, checked: bool) -> list[Path]:
    instead = "or fetch the files yourself and give their folder as data_dir or FASTNN_DATA"
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"downloading {name} needs pooch: run {install('train')}, {instead}"
        ) from error
    folder = Path(pooch.os_cache("fastnn"), name)
    if not all((folder / file).is_file() for file in source.sha256):
        _log.warning("downloading %s from %s to %s, since no data folder was given", name, source.url, folder)
    try:
        return [
            Path(pooch.retrieve(source.url + file, f"sha256:{digest}" if checked else None, file, folder))
            for file, digest in source.sha256.items()
        ]
    except OSError as error:
        raise OSError(f"{source.url} could not be fetched to {folder}: {error}; try again, {instead}") from error


def fetch_batches(name: str) -> dict[str, bytes]:
    """Return the contents of a data set's batches, in the order of `BATCHES`, from the archive in the cache.

    Parameters
    ----------
    name : str
        A key of `BATCHES`.

    Raises
    ------
    ModuleNotFoundError, OSError, ValueError
        As `fetch`, and where the archive is damaged or lacks a batch.

    Examples
    --------
    >>> from fastnn.data import download
    >>> sorted(download.fetch_batches("cifar10"))[-1]  # doctest: +SKIP
    'test_batch'
    """
    (archive,), batches = fetch(name), BATCHES[name]
    members = {f"{batches.folder}/{file}": file for file in batches.sha256}
    contents = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if member.name in members and member.size <= batches.limit and (file := tar.extractfile(member)):
                    contents[members[member.name]] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive}: expected a whole archive, got a damaged one ({error}); fetch it again") from error
    if missing := batches.sha256.keys() - contents.keys():
        raise ValueError(f"{archive}: expected the batches of {name}, got none named {', '.join(sorted(missing))}")
    return {file: contents[file] for file in batches.sha256}
