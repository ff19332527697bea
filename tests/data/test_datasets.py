import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from fastnn import data
from fastnn.data import datasets

IDX_FILES = [f"{part}-{file}-ubyte" for part in ("train", "t10k") for file in ("images-idx3", "labels-idx1")]


def write_csv_set(folder):
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    tables = []
    for file, count in (("fashion-mnist_train.csv", 20), ("fashion-mnist_test.csv", 8)):
        table = np.column_stack([rng.integers(0, 10, count), rng.integers(0, 256, (count, 784))])
        np.savetxt(folder / file, table, "%d", ",", header="label," + ",".join(map(str, range(784))), comments="")
        tables.append(table)
    return tables


def check(dataset, counts, shape, scale):
    assert len(dataset.classes) == 10
    assert dataset.scale == scale
    for part, count in zip((dataset.train, dataset.test), counts, strict=True):
        assert len(part) == count
        assert part.images.shape == (count, *shape)
        assert part.images.dtype == np.uint8
        assert part.images.flags.c_contiguous
        assert part.images.flags.writeable
        assert part.labels.shape == (count,)
        assert part.labels.dtype == np.int64
        assert set(part.labels) == set(range(10))
        assert part.images.max() == scale


def test_digits():
    digits = data.digits()
    check(digits, (1437, 360), (1, 8, 8), 16)
    assert digits.name == "digits"


@pytest.mark.peers
def test_digits_are_those_of_scikit_learn_and_the_split_is_stratified():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    digits, original = data.digits(), sklearn_datasets.load_digits()
    rows = {image.tobytes(): row for row, image in enumerate(original.images.astype(np.uint8))}
    test = [rows[image.tobytes()] for image in digits.test.images[:, 0]]
    assert test == sorted(test)
    np.testing.assert_array_equal(original.target[test], digits.test.labels)
    train = np.setdiff1d(np.arange(len(original.target)), test)
    np.testing.assert_array_equal(original.images[train], digits.train.images[:, 0])
    np.testing.assert_array_equal(original.target[train], digits.train.labels)
    shares = np.bincount(digits.test.labels) / np.bincount(original.target)
    assert np.abs(shares - 360 / 1797).max() < 1 / 170


def test_digits_file_is_small_and_holds_no_objects():
    path = datasets.Path(datasets.__file__).with_name("digits.npz")
    assert path.stat().st_size < 60_000
    with np.load(path, allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file} <= {"u", "i"}


def test_import_loads_nothing_that_is_slow():
    heavy = "{'scipy', 'pooch', 'matplotlib', 'numba', 'sklearn'}"
    code = f"import fastnn.data, sys; print({heavy} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


def test_split_counts_must_agree():
    with pytest.raises(ValueError, match=r"labels: expected one for each image, shape \(3,\), got \(2,\)"):
        data.Split(np.zeros((3, 1, 8, 8), np.uint8), np.zeros(2, np.int64))


def test_dataset_is_frozen():
    with pytest.raises(AttributeError):
        data.digits().train.images = None


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("fashion_mnist", "fashion-mnist")])
@pytest.mark.parametrize("direct", [False, True])
def test_idx_folder(tmp_path, write_idx_set, name, folder, suffix, direct):
    arrays = [*write_idx_set(tmp_path if direct else tmp_path / folder, suffix).values()]
    dataset = data.load(name, tmp_path)
    assert dataset.name == name
    for part, (images, labels) in zip((dataset.train, dataset.test), (arrays[:2], arrays[2:]), strict=True):
        np.testing.assert_array_equal(part.images, images[:, None])
        np.testing.assert_array_equal(part.labels, labels)
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64


def test_folder_from_environment_and_argument_wins(tmp_path, write_idx_set, monkeypatch):
    write_idx_set(tmp_path / "a" / "mnist")
    write_idx_set(tmp_path / "b" / "mnist", seed=1)
    monkeypatch.setenv("FASTNN_DATA", str(tmp_path / "a"))
    from_environment, from_argument = data.mnist(), data.mnist(str(tmp_path / "b"))
    assert (from_environment.train.images != from_argument.train.images).any()


def test_fashion_csv(tmp_path):
    train, test = write_csv_set(tmp_path / "fashion-mnist")
    dataset = data.fashion_mnist(tmp_path)
    np.testing.assert_array_equal(dataset.train.images.reshape(-1, 784), train[:, 1:])
    np.testing.assert_array_equal(dataset.train.labels, train[:, 0])
    np.testing.assert_array_equal(dataset.test.labels, test[:, 0])
    assert dataset.classes[0] == "T-shirt/top"


def test_fashion_idx_comes_before_csv(tmp_path, write_idx_set):
    write_csv_set(tmp_path)
    write_idx_set(tmp_path)
    assert len(data.fashion_mnist(tmp_path).train) == 30
    (tmp_path / IDX_FILES[3]).unlink()
    assert len(data.fashion_mnist(tmp_path).train) == 20


def test_missing_files_are_listed(tmp_path, write_idx_set, monkeypatch):
    write_idx_set(tmp_path / "mnist")
    (tmp_path / "mnist" / IDX_FILES[1]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / 'mnist'}: lacks {IDX_FILES[1]}; " in message
    assert f"{tmp_path}: lacks {', '.join(IDX_FILES)}" in message
    assert "given as data_dir" in message
    assert "neither to download" in message
    monkeypatch.setenv("FASTNN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"(?s)given as FASTNN_DATA.*cifar-10-batches-py: no such folder"):
        data.cifar10()


def test_empty_argument_is_a_folder_too_and_starts_no_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        data.mnist("")


def test_no_folder_means_download(tmp_path, write_idx_set, monkeypatch):
    write_idx_set(tmp_path, ".gz")
    fetched = []

    def fetch(name):
        fetched.append(name)
        return [tmp_path / f"{file}.gz" for file in IDX_FILES]

    monkeypatch.setattr(datasets, "fetch", fetch)
    monkeypatch.setenv("FASTNN_DATA", "")
    assert len(data.mnist().train) == 30
    assert len(data.fashion_mnist().test) == 12
    assert fetched == ["mnist", "fashion_mnist"]


def test_damaged_original_is_named_with_both_checksums(tmp_path, write_idx_set):
    write_idx_set(tmp_path / "mnist", ".gz")
    path = tmp_path / "mnist" / f"{IDX_FILES[0]}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="corrupt or truncated") as caught:
        data.mnist(tmp_path)
    expected = "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    assert all(word in str(caught.value) for word in (str(path), expected, got, "fetch the file again"))


def test_damaged_plain_file_is_named(tmp_path, write_idx_set):
    write_idx_set(tmp_path)
    path = tmp_path / IDX_FILES[2]
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=rf"{IDX_FILES[2]}: expected .* too long; fetch it again$"):
        data.mnist(tmp_path)


@pytest.mark.parametrize(
    ("index", "array", "message"),
    [
        (0, np.zeros((30, 14, 14)), r"expected uint8 of shape \(30, 28, 28\)"),
        (0, np.zeros((29, 28, 28)), r"expected uint8 of shape \(30, 28, 28\)"),
        (1, np.zeros((30, 1)), r"expected uint8 of shape \(30,\)"),
        (1, np.zeros(0), r"got uint8 of shape \(0,\)"),
        (3, np.full(12, 10), "expected labels from 0 to 9, got 10"),
    ],
)
def test_wrong_contents(tmp_path, write_idx_set, idx_bytes, index, array, message):
    write_idx_set(tmp_path)
    (tmp_path / IDX_FILES[index]).write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=message):
        data.mnist(tmp_path)


@pytest.mark.parametrize(("name", "other"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_files_of_the_other_set(tmp_path, write_idx_set, idx_bytes, name, other):
    labels = write_idx_set(tmp_path)[IDX_FILES[3]]
    labels[:10] = datasets._FIRST_LABELS[other]
    (tmp_path / IDX_FILES[3]).write_bytes(idx_bytes(labels))
    with pytest.raises(ValueError, match=f"expected {name}, got {other}"):
        data.load(name, tmp_path)
    assert len(data.load(other, tmp_path).test) == 12


@pytest.mark.parametrize("folder", ["cifar-10/cifar-10-batches-py", "cifar-10-batches-py", "."])
def test_cifar_folder(tmp_path, cifar_batches, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, (_, _, raw) in cifar_batches.items():
        (tmp_path / folder / name).write_bytes(raw)
    dataset = data.cifar10(tmp_path)
    images, labels, _ = zip(*cifar_batches.values(), strict=True)
    np.testing.assert_array_equal(dataset.train.images.reshape(100, 3072), np.concatenate(images[:5]))
    np.testing.assert_array_equal(dataset.train.labels, np.concatenate(labels[:5]))
    np.testing.assert_array_equal(dataset.test.images.reshape(20, 3072), images[5])
    np.testing.assert_array_equal(dataset.test.labels, labels[5])
    assert dataset.classes[6] == "frog"


def test_cifar_download(cifar_batches, monkeypatch):
    contents = {name: raw for name, (_, _, raw) in cifar_batches.items()}
    monkeypatch.setattr(datasets, "fetch_batches", {"cifar10": contents}.__getitem__)
    assert len(data.cifar10().train) == 100
    contents["test_batch"] += b" "
    with pytest.raises(ValueError, match="test_batch: expected SHA-256"):
        data.cifar10()


def test_cifar_batch_with_code_is_refused_unread(tmp_path, cifar_batches):
    for name, (_, _, raw) in cifar_batches.items():
        (tmp_path / name).write_bytes(raw)
    trace = tmp_path / "trace"
    (tmp_path / "data_batch_2").write_bytes(b"cos\nsystem\n(S'touch %b'\ntR." % os.fsencode(trace))
    with pytest.raises(ValueError, match="data_batch_2: expected SHA-256"):
        data.cifar10(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("folder", ["cifar-100/cifar-100-python", "cifar-100-python", "."])
def test_cifar_100_folder(tmp_path, cifar100_batches, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, (*_, raw) in cifar100_batches.items():
        (tmp_path / folder / name).write_bytes(raw)
    fine, coarse = data.load("cifar100", tmp_path), data.cifar100(tmp_path, coarse=True)
    for name in ("train", "test"):
        images, fine_labels, coarse_labels, _ = cifar100_batches[name]
        for dataset, labels in ((fine, fine_labels), (coarse, coarse_labels)):
            np.testing.assert_array_equal(getattr(dataset, name).images.reshape(20, 3072), images)
            np.testing.assert_array_equal(getattr(dataset, name).labels, labels)
            assert dataset.name == "cifar100"
    assert (len(fine.classes), fine.classes[8], fine.classes[99]) == (100, "bicycle", "worm")
    assert (len(coarse.classes), coarse.classes[17]) == (20, "trees")


def test_cifar_100_download(cifar100_batches, monkeypatch):
    contents = {name: raw for name, (*_, raw) in cifar100_batches.items()}
    monkeypatch.setattr(datasets, "fetch_batches", {"cifar100": contents}.__getitem__)
    assert len(data.cifar100().train) == 20
    contents["train"] += b" "
    with pytest.raises(ValueError, match="train: expected SHA-256"):
        data.cifar100()


def test_names_of_classes_are_distinct_and_in_order():
    for names in (datasets._CIFAR10, datasets._CIFAR100, datasets._CIFAR100_COARSE):
        assert list(names) == sorted(set(names))


def test_load_refuses_other_names():
    with pytest.raises(ValueError, match="expected one of digits, mnist, fashion_mnist, cifar10, cifar100, got 'svhn'"):
        data.load("svhn")
    assert data.load("digits").name == "digits"


@pytest.mark.parametrize("size", [0.2, 287, np.int64(287), np.float32(0.2)])
def test_split_is_stratified_and_whole(size):
    digits = data.digits().train
    train, validation = data.split(digits, size, seed=3)
    assert (len(train), len(validation)) == (1150, 287)
    counts = np.bincount(digits.labels)
    assert np.abs(np.bincount(validation.labels) - counts * 287 / len(digits)).max() < 1
    both = np.concatenate([train.images, validation.images])
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in digits.images)
    again = data.split(digits, size, seed=3)[1]
    np.testing.assert_array_equal(again.images, validation.images)
    other = data.split(digits, size, seed=4)[1]
    assert (other.images != validation.images).any()


def test_split_keeps_order_and_copies():
    part = data.Split(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), np.arange(100) % 7 * 10)
    train, validation = data.split(part, 33)
    for half in (train, validation):
        assert (np.diff(half.images.ravel().astype(int)) > 0).all()
        assert not np.shares_memory(half.images, part.images)


@pytest.mark.parametrize("size", [0, -1, 1437, 1.0, 0.0, -0.5, 1e-6])
def test_split_refuses_empty_parts(size):
    with pytest.raises(ValueError, match="size: expected a number of samples from 1 to 1436"):
        data.split(data.digits().train, size)


def test_split_refuses_what_is_no_number():
    with pytest.raises(TypeError):
        data.split(data.digits().train, "0.2")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mnist", [0.1307], [0.3081]),
        ("fashion_mnist", [0.2860], [0.3530]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_real(data_dir, name, mean, std):
    dataset = data.load(name, data_dir)
    shape, counts = ((3, 32, 32), (50000, 10000)) if name == "cifar10" else ((1, 28, 28), (60000, 10000))
    check(dataset, counts, shape, 255)
    found = data.channel_statistics(dataset.train.images)
    np.testing.assert_allclose(found, (mean, std), atol=6e-5)
    counts = np.bincount(dataset.train.labels)
    if name == "mnist":
        np.testing.assert_array_equal(counts, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    else:
        np.testing.assert_array_equal(counts, len(dataset.train) // 10)


@pytest.mark.real_data
def test_real_cifar_images_lie_as_published(data_dir):
    folder = next(data_dir.glob("**/cifar-10-batches-py"))
    raw = (folder / "data_batch_1").read_bytes()
    dataset = data.cifar10(folder)
    pixels = dataset.train.images[:10000].tobytes()
    assert raw.count(pixels[:3072]) == 1
    assert raw[raw.index(pixels[:3072]) :].startswith(pixels)
    assert [dataset.classes[label] for label in dataset.train.labels[:3]] == ["frog", "truck", "truck"]


@pytest.mark.real_data
def test_real_cifar_refuses_a_changed_batch(data_dir, tmp_path):
    folder = next(data_dir.glob("**/cifar-10-batches-py"))
    for file in folder.iterdir():
        os.symlink(file, tmp_path / file.name)
    raw = bytearray((tmp_path / "data_batch_1").read_bytes())
    raw[100_000] ^= 1
    (tmp_path / "data_batch_1").unlink()
    (tmp_path / "data_batch_1").write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    with pytest.raises(ValueError, match=rf"data_batch_1: expected SHA-256 54636561\w+, got {digest}"):
        data.cifar10(tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "other"), [("mnist", "fashion-mnist"), ("fashion_mnist", "mnist")])
def test_real_files_of_the_other_set(data_dir, name, other):
    with pytest.raises(ValueError, match=f"expected {name}, got {other.replace('-', '_')}"):
        data.load(name, data_dir / other)
