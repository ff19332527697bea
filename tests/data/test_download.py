import hashlib
import io
import logging
import re
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fastnn._extras import install
from fastnn.data import download

pooch = pytest.importorskip("pooch")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder on a server of this machine, and a cache folder of its own."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def publish(served, monkeypatch, name, files):
    folder, url = served
    for file, raw in files.items():
        (folder / file).write_bytes(raw)
    digests = {file: hashlib.sha256(raw).hexdigest() for file, raw in files.items()}
    monkeypatch.setitem(download.SOURCES, name, download.Source(url, digests))


def test_sources_are_pinned():
    for source in download.SOURCES.values():
        assert source.url.startswith("https://")
        assert source.url.endswith("/")
        assert all(len(digest) == 64 for digest in source.sha256.values())
    assert all(len(digest) == 64 for batches in download.BATCHES.values() for digest in batches.sha256.values())
    assert list(download.BATCHES["cifar10"].sha256) == [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]


def test_fetch_downloads_once_and_says_so(served, tmp_path, monkeypatch, caplog):
    publish(served, monkeypatch, "mnist", {"one": b"1", "two": b"22"})
    with caplog.at_level(logging.WARNING, "fastnn.data"):
        paths = download.fetch("mnist")
        (record,) = caplog.records
        assert paths == [tmp_path / "cache" / "fastnn" / "mnist" / file for file in ("one", "two")]
        assert [path.read_bytes() for path in paths] == [b"1", b"22"]
        assert served[1] in record.getMessage()
        for file in served[0].iterdir():
            file.unlink()
        assert download.fetch("mnist") == paths
        assert caplog.records == [record]


def test_fetch_refuses_what_is_not_the_original(served, monkeypatch):
    publish(served, monkeypatch, "mnist", {"one": b"1"})
    (served[0] / "one").write_bytes(b"forged")
    with pytest.raises(ValueError, match="SHA256 hash of downloaded file"):
        download.fetch("mnist")


def test_a_damaged_cache_is_fetched_again(served, monkeypatch):
    publish(served, monkeypatch, "mnist", {"one": b"1"})
    (path,) = download.fetch("mnist")
    path.write_bytes(b"damaged")
    assert download.fetch("mnist")[0].read_bytes() == b"1"


def test_a_failed_download_says_what_to_do(served, monkeypatch):
    publish(served, monkeypatch, "mnist", {"one": b"1"})
    (served[0] / "one").unlink()
    with pytest.raises(OSError, match=r"could not be fetched .*404.*; try again, or fetch the files yourself"):
        download.fetch("mnist")


def test_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs pooch: run {re.escape(install('train'))}, or"):
        download.fetch("mnist")


def tar_bytes(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return stream.getvalue()


def test_cifar_batches_are_read_by_exact_name(served, tmp_path, monkeypatch):
    batches = {name: name.encode() for name in reversed(download.BATCHES["cifar10"].sha256)}
    members = {f"cifar-10-batches-py/{name}": raw for name, raw in batches.items()}
    others = {"../data_batch_1": b"evil", "data_batch_1": b"evil", "cifar-10-batches-py/readme.html": b""}
    archive = tar_bytes({**members, **others})
    publish(served, monkeypatch, "cifar10", {"cifar-10-python.tar.gz": archive})
    contents = download.fetch_batches("cifar10")
    assert contents == batches
    assert list(contents) == list(download.BATCHES["cifar10"].sha256)
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["cifar-10-python.tar.gz"]


def test_cifar_archive_without_a_batch(served, monkeypatch):
    archive = tar_bytes({f"cifar-10-batches-py/data_batch_{n}": b"" for n in range(1, 6)})
    publish(served, monkeypatch, "cifar10", {"cifar-10-python.tar.gz": archive})
    with pytest.raises(ValueError, match="got none named test_batch"):
        download.fetch_batches("cifar10")


def test_the_files_of_cifar_100(served, monkeypatch):
    files = {"test": b"22", "train": b"1"}
    archive = tar_bytes({f"cifar-100-python/{name}": raw for name, raw in {**files, "meta": b""}.items()})
    publish(served, monkeypatch, "cifar100", {"cifar-100-python.tar.gz": archive})
    contents = download.fetch_batches("cifar100")
    assert contents == files
    assert list(contents) == ["train", "test"]
