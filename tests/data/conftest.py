import gzip
import hashlib

import numpy as np
import pytest

from fastnn.data import datasets, download

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def no_folder_and_no_download(request, monkeypatch):
    """Without a folder of its own, no test may read one of the user's or reach for the network."""
    if "real_data" in request.keywords:
        return
    monkeypatch.delenv("FASTNN_DATA", raising=False)

    def refuse(*args):
        pytest.fail("a download was started")

    monkeypatch.setattr(datasets, "fetch", refuse)
    monkeypatch.setattr(datasets, "fetch_batches", refuse)


@pytest.fixture(scope="session")
def idx_bytes():
    """A function: the IDX file that holds an array as uint8."""

    def encode(array):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4) for length in array.shape)
        return header + array.astype(np.uint8).tobytes()

    return encode


@pytest.fixture(scope="session")
def write_idx_set(idx_bytes):
    """A function that writes a small data set in MNIST's format and returns its arrays by file."""

    def write(folder, suffix="", seed=0):
        rng = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = []
        for count in (30, 12):
            arrays += [rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)]
        for file, array in zip(IDX_FILES, arrays, strict=True):
            raw = idx_bytes(array)
            (folder / (file + suffix)).write_bytes(gzip.compress(raw) if suffix else raw)
        return dict(zip(IDX_FILES, arrays, strict=True))

    return write


def short_string(text):
    return b"U" + bytes([len(text)]) + text


def integer(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


@pytest.fixture(scope="session")
def cifar_bytes():
    """A function: images (N, 3072) and labels, or other lists by name, pickled as Python 2 pickled CIFAR's batches."""

    def encode(images, labels=(), **others):
        dtype = (
            *(b"cnumpy\ndtype\n", short_string(b"u1"), b"K\x00K\x01\x87R"),
            *(b"(K\x03", short_string(b"|"), b"NNN", integer(-1), integer(-1), b"K\x00tb"),
        )
        array = (
            *(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85", short_string(b"b"), b"\x87R"),
            *(b"(K\x01", *map(integer, images.shape), b"\x86", *dtype, b"\x89"),
            *(b"T", images.nbytes.to_bytes(4, "little"), images.tobytes(), b"tb"),
        )
        items = [short_string(b"data"), *array]
        for name, numbers in (others or {"labels": labels}).items():
            items += [short_string(name.encode()), b"](", *(b"K" + bytes([number]) for number in numbers), b"e"]
        return b"".join((b"\x80\x02}(", *items, b"u."))

    return encode


@pytest.fixture
def cifar_batches(cifar_bytes, monkeypatch):
    """Six small batches by name, (images, labels, file contents), which count as the originals."""
    rng = np.random.default_rng(0)
    batches = {}
    for name in download.BATCHES["cifar10"].sha256:
        images, labels = rng.integers(0, 256, (20, 3072), dtype=np.uint8), rng.integers(0, 10, 20)
        raw = cifar_bytes(images, labels.tolist())
        monkeypatch.setitem(download.BATCHES["cifar10"].sha256, name, hashlib.sha256(raw).hexdigest())
        batches[name] = images, labels, raw
    return batches


@pytest.fixture
def cifar100_batches(cifar_bytes, monkeypatch):
    """Two small files by name, (images, fine labels, coarse labels, file contents), which count as the originals."""
    rng = np.random.default_rng(0)
    batches = {}
    for name in download.BATCHES["cifar100"].sha256:
        images = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        fine, coarse = rng.integers(0, 100, 20), rng.integers(0, 20, 20)
        raw = cifar_bytes(images, fine_labels=fine.tolist(), coarse_labels=coarse.tolist())
        monkeypatch.setitem(download.BATCHES["cifar100"].sha256, name, hashlib.sha256(raw).hexdigest())
        batches[name] = images, fine, coarse, raw
    return batches
