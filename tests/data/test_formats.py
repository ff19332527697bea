import gzip
import os
import pickle
import pickletools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from fastnn import data
from fastnn.data import formats

IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


@pytest.mark.parametrize("code", IDX_CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 28, 28)])
def test_read_idx_dtypes(tmp_path, code, shape):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(code)
    header = bytes([0, 0, IDX_CODES[code], len(shape)]) + b"".join(n.to_bytes(4) for n in shape)
    (tmp_path / "file").write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())
    found = data.read_idx(tmp_path / "file")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert found.flags.writeable


def test_read_idx_gzipped_whatever_its_name(tmp_path, idx_bytes):
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "zipped").write_bytes(gzip.compress(idx_bytes(array)))
    (tmp_path / "plain.gz").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(data.read_idx(str(tmp_path / "zipped")), array)
    np.testing.assert_array_equal(data.read_idx(tmp_path / "plain.gz"), array)


@pytest.mark.parametrize("raw", [b"", b"\0\0", b"<html>", b"\0\0\x07\1\0\0\0\0", b"\1\0\x08\1\0\0\0\0"])
def test_read_idx_refuses_other_files(tmp_path, raw):
    (tmp_path / "file").write_bytes(raw)
    with pytest.raises(ValueError, match=r"file: expected an IDX file, which starts with 00 00.*; got .*; fetch"):
        data.read_idx(tmp_path / "file")


@given(array=hypothesis_numpy.arrays(np.uint8, hypothesis_numpy.array_shapes(max_side=5)), cut=st.integers(1, 200))
def test_read_idx_refuses_any_other_length(array, cut, idx_bytes, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "length"
    raw = idx_bytes(array)
    path.write_bytes(raw[:-cut] if cut < len(raw) - 4 else raw + bytes(cut))
    with pytest.raises(ValueError, match=f"expected {len(raw)} bytes|truncated|too long"):
        data.read_idx(path)


def test_read_idx_refuses_a_header_that_promises_too_much(tmp_path):
    (tmp_path / "file").write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(10))
    with pytest.raises(ValueError, match=r"\(4294967295, 4294967295, 4294967295\).*got 26: the file is truncated"):
        data.read_idx(tmp_path / "file")


def test_a_zipped_file_is_read_no_further_than_its_header_allows(tmp_path, idx_bytes):
    whole = idx_bytes(np.arange(10))
    (tmp_path / "bomb").write_bytes(gzip.compress(whole + bytes(200 << 20), 1))
    (tmp_path / "promise").write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + b"\x7f\xff\xff\xff" * 3 + bytes(10)))
    (tmp_path / "rows").write_bytes(gzip.compress(b"1," * (50 << 20), 1))
    for name, read, message in [
        ("bomb", data.read_idx, r"expected 18 bytes for the header's shape \(10,\) .*, got more: the file is too long"),
        ("promise", data.read_idx, "the file is truncated"),
        ("rows", data.read_csv, "line 1: expected at most 1,000,000 lines of fewer than 16,384 characters"),
        ("rows", lambda path: formats.read_bytes(path, 1000), "expected a data file of at most 1,000 bytes, got more"),
    ]:
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(("dimensions", "message"), [
    (0, "1 to 32 dimensions, got 0"), (255, "1 to 32 dimensions, got 255"),
    (32, r"shape \(4294967295, 4294967295, 4294967295, ...\) of 32 dimensions and dtype uint8, got 132"),
])
def test_a_header_of_many_dimensions_is_said_shortly(tmp_path, dimensions, message):
    (tmp_path / "file").write_bytes(bytes([0, 0, 8, dimensions]) + b"\xff" * 4 * dimensions)
    with pytest.raises(ValueError, match=message) as error:
        data.read_idx(tmp_path / "file")
    assert len(str(error.value)) < 600


def test_an_empty_array_beyond_every_index(tmp_path):
    (tmp_path / "file").write_bytes(bytes([0, 0, 8, 4]) + bytes(4) + b"\xff" * 12)
    with pytest.raises(ValueError, match="is no array's"):
        data.read_idx(tmp_path / "file")


def damage(raw, how):
    if how == "truncated":
        return raw[: len(raw) // 2]
    if how == "changed":
        return raw[:50] + bytes([raw[50] ^ 255]) + raw[51:]
    return raw + b"trailing"


@pytest.mark.parametrize("how", ["truncated", "changed", "longer"])
def test_damaged_gzip(tmp_path, idx_bytes, how):
    raw = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, (9, 9, 9))))
    path = tmp_path / "images.gz"
    path.write_bytes(damage(raw, how))
    with pytest.raises(ValueError, match=r"images.gz: expected a whole gzip stream, got \d+ bytes .*; fetch the file"):
        data.read_idx(path)


def csv_rows(count=3):
    rng = np.random.default_rng(0)
    return np.column_stack([rng.integers(0, 10, count), rng.integers(0, 256, (count, 784))])


def csv_text(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


HEADER = ",".join(["label", *(f"pixel{n}" for n in range(1, 785))]) + "\n"


@pytest.mark.parametrize("header", ["", HEADER, HEADER.replace("pixel", ""), HEADER.replace("label", "")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read_csv(tmp_path, header, end):
    rows = csv_rows()
    raw = (header + csv_text(rows)).replace("\n", end).encode()
    files = {"plain": raw, "unended": raw.rstrip(), "blank": raw + b"\n", "zip": gzip.compress(raw)}
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
        images, labels = data.read_csv(tmp_path / name)
        np.testing.assert_array_equal(images.reshape(3, 784), rows[:, 1:])
        np.testing.assert_array_equal(labels, rows[:, 0])
        assert (images.shape, images.dtype, labels.dtype) == ((3, 1, 28, 28), np.uint8, np.int64)
        assert images.flags.writeable


@pytest.mark.parametrize("header", ["", HEADER])
@pytest.mark.parametrize(
    ("cell", "value", "message"),
    [
        (5, "", "cell 6: expected a whole number from 0 to 255, got ''"),
        (5, "x", "cell 6: .*got 'x'"),
        (784, "256", "cell 785: .*got '256'"),
        (1, "-1", "cell 2: .*got '-1'"),
        (1, "1.5", "cell 2: .*got '1.5'"),
        (1, "nan", "cell 2: .*got 'nan'"),
        (1, "\xff", "cell 2: "),
        (0, "", "cell 1: .*got ''"),
        (0, "10", "expected a label from 0 to 9, got 10"),
        (3, "1,2", "expected 785 cells .* got 786"),
    ],
)
@pytest.mark.parametrize("row", [0, 2])
def test_read_csv_names_the_line(tmp_path, header, cell, value, message, row):
    lines = [line.split(",") for line in csv_text(csv_rows()).splitlines()]
    lines[row][cell] = value
    (tmp_path / "file.csv").write_text(header + "\n".join(map(",".join, lines)), encoding="latin-1")
    with pytest.raises(ValueError, match=rf"file.csv, line {row + 1 + bool(header)}[:,] ?{message}"):
        data.read_csv(tmp_path / "file.csv")


def test_read_csv_refuses_short_rows_and_no_rows(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text(csv_text(csv_rows())[:-10])
    with pytest.raises(ValueError, match=r"line 3: expected 785 cells \(label, 784 pixels\), got 78\d"):
        data.read_csv(path)
    for text in ("", HEADER, "\n\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="expected rows of a label and 784 pixels, got none"):
            data.read_csv(path)


def test_read_cifar_batch(cifar_bytes):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (7, 3072), dtype=np.uint8), rng.integers(0, 10, 7)
    images, found = formats.read_cifar_batch(cifar_bytes(pixels, labels.tolist()), "batch")
    np.testing.assert_array_equal(images[:, 1], pixels[:, 1024:2048].reshape(-1, 32, 32))
    np.testing.assert_array_equal(found, labels)
    assert (images.dtype, found.dtype) == (np.uint8, np.int64)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, getattr, np.load, np.frombuffer])
def test_no_pickle_runs_code(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    argument = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    raw = pickle.dumps({b"data": Calls(function, argument), b"labels": []}, protocol)
    with pytest.raises(ValueError, match=r"batch: expected a CIFAR batch, .* asks for .*, which no CIFAR batch"):
        formats.read_cifar_batch(raw, "batch")
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [1, {}, {b"data": 1, b"labels": 1}, {b"data": b"\0", b"labels": [1]}, {b"labels": [1, 2]}]
)
def test_other_pickles_are_refused(content):
    with pytest.raises(ValueError, match="batch: expected a CIFAR batch"):
        formats.read_cifar_batch(pickle.dumps(content, 2).replace(b"_codecs\nencode", b"numpy\nndarray"), "batch")


@pytest.mark.parametrize(("shape", "labels"), [((2, 3072), [1]), ((2, 100), [1, 2])])
def test_batches_of_wrong_shape_are_refused(cifar_bytes, shape, labels):
    with pytest.raises(ValueError, match=r"batch: expected uint8 data of shape \(N, 3072\) and N integer labels"):
        formats.read_cifar_batch(cifar_bytes(np.zeros(shape, np.uint8), labels), "batch")


@pytest.mark.parametrize("code", [b"M8", b"m8", b"O8", b"V8", b"S1", b"f8", b"i1", b"u2", b"u1,u1", b"b"])
def test_arrays_of_another_dtype_are_refused(cifar_bytes, code):
    raw = cifar_bytes(np.zeros((2, 3072), np.uint8), [1, 2]).replace(b"U\x02u1", b"U" + bytes([len(code)]) + code)
    with pytest.raises(ValueError, match=f"expected rows of uint8, got an array of b'{code.decode()}'"):
        formats.read_cifar_batch(raw, "batch")


@pytest.mark.parametrize("inside", [
    b"]" * 10_000 + b"a" * 9_999, b"]q\x07h\x07a", b")" + b"\x85" * 500_000, b"](K\x01K\x02]ae", b"N", b"}",
    b"](K\x01U\x012e", b"](K\x01J\xff\xff\xff\xffe", b"](K\x01K\x0ae", b"](K\x01\x88e", b"](K\x01K\x02e0", b"(((((",
])
def test_labels_that_are_no_list_of_small_numbers_are_refused(cifar_bytes, inside):
    raw = cifar_bytes(np.zeros((2, 3072), np.uint8), [1, 2])
    labels = b"](K\x01K\x02e"
    assert raw.count(labels) == 1
    with pytest.raises(ValueError, match="batch: expected a CIFAR batch") as error:
        formats.read_cifar_batch(raw.replace(labels, inside), "batch")
    assert len(str(error.value)) < 300


def test_the_labels_of_cifar_100(cifar_bytes):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    raw = cifar_bytes(pixels, fine_labels=[99, 0, 42])
    images, labels = formats.read_cifar_batch(raw, "train", labels="fine_labels")
    np.testing.assert_array_equal(images.reshape(3, 3072), pixels)
    assert labels.tolist() == [99, 0, 42]
    assert images.flags.writeable
    with pytest.raises(ValueError, match="there is no b'coarse_labels'"):
        formats.read_cifar_batch(raw, "train", labels="coarse_labels")
    with pytest.raises(ValueError, match="labels: expected one of labels, fine_labels, coarse_labels, got 'data'"):
        formats.read_cifar_batch(raw, "train", labels="data")


@given(cut=st.floats(0, 0.999))
def test_truncated_batches_are_refused(cifar_bytes, cut):
    raw = cifar_bytes(np.zeros((2, 3072), np.uint8), [1, 2])
    with pytest.raises(ValueError, match="batch: expected a CIFAR batch"):
        formats.read_cifar_batch(raw[: int(len(raw) * cut)], "batch")


@pytest.mark.real_data
def test_what_is_admitted_is_what_the_batches_hold(data_dir):
    folder = next(data_dir.glob("**/cifar-10-batches-py"))
    raw = (folder / "test_batch").read_bytes()
    held = list(pickletools.genops(raw))
    assert {tuple(argument.split()) for code, argument, _ in held if code.name == "GLOBAL"} == formats._CIFAR_GLOBALS
    assert {code.name for code, _, _ in held} <= formats._CIFAR_OPCODES
