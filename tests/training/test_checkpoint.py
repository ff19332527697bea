import errno
import gzip
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fastnn import nn, training

TENSORS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "strided": np.arange(10)[::3],
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False]),
    "bytes": np.arange(3, dtype=np.uint8),
    "big-endian": np.array([1.5, 2.5], ">f4"),
    "not finite": np.array([np.nan, np.inf, -0.0]),
}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "a.safetensors"
    metadata = {"text": "ä\n", "list": [1, 2.5, None], "deep": {"a": True}}
    training.save(path, TENSORS, metadata)
    tensors, loaded = training.load(str(path))
    assert loaded == metadata
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], tensor)
        assert tensors[name].shape == tensor.shape
        assert tensors[name].dtype == tensor.dtype.newbyteorder("=")
    assert np.signbit(tensors["not finite"][2])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_files_of_other_programs_are_read(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "a", metadata={"format": "pt"})
    tensors, metadata = training.load(tmp_path / "a")
    assert metadata == {}
    np.testing.assert_array_equal(tensors["weight"], np.ones(3))


def test_arrays_of_many_zeros_are_stored_sparsely(tmp_path):
    from safetensors.numpy import load_file

    rng, path = np.random.default_rng(0), tmp_path / "sparse"
    many = [np.where(rng.random((30, 5, 7)) < 0.2, rng.integers(1, 9, (30, 5, 7)), 0).astype(dtype)
            for dtype in ("f4", "f8", "i1", "?")]
    tensors = {**{array.dtype.name: array for array in many}, "few": rng.standard_normal(999, np.float32),
               "none": np.zeros((99, 99), np.float32), "small": np.zeros(9), "number": np.array(0),
               "empty": np.empty((0, 3)), "taken": many[0], "taken.bitmask": np.arange(3)}
    training.save(path, tensors, {"epoch": 2}, sparse=True)
    loaded, metadata = training.load(path)
    assert metadata == {"epoch": 2}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor, err_msg=name, strict=True)
    stored = load_file(path)
    assert {name for name in stored if name.endswith(".compressed")} == {
        "float32.compressed", "float64.compressed", "int8.compressed", "bool.compressed", "none.compressed"}
    assert stored["float32.bitmask"].nbytes == -(-many[0].size // 8)
    np.testing.assert_array_equal(np.unpackbits(stored["none.bitmask"]), 0)
    training.save(path, {"weight": np.eye(99, dtype=np.float32)}, sparse=True)
    model = nn.Linear(99, 99, bias=False)
    training.load_model(path, model)
    np.testing.assert_array_equal(model.weight.data, np.eye(99))


@pytest.mark.parametrize(("change", "message"), [
    ({"w.bitmask": None}, "of w, which holds many zeros, expected a shape, the bits of a mask and values"),
    ({"w.compressed": None}, "of w, which holds many zeros, expected"),
    ({"w.bitmask": np.zeros(99, np.uint8)}, "of w, which holds many zeros, expected"),
    ({"w.bitmask": np.zeros(100, np.int8)}, "of w, which holds many zeros, expected"),
    ({"w.bitmask": np.zeros(100, np.uint8)}, r"of w, expected 0 values, as its mask says, got shape \(40,\)"),
    ({"w.compressed": np.ones((2, 10))}, r"of w, expected 40 values, as its mask says, got shape \(2, 10\)"),
    ([["w"]], "fastnn.sparse: expected metadata in JSON"),
    ({"v": [2]}, "of v, which holds many zeros, expected"),
    ({"w": [40, -20]}, "of w, which holds many zeros, expected"),
    ({"w": [40, 1e30]}, "of w, which holds many zeros, expected"),
    ({"w": 800}, "of w, which holds many zeros, expected"),
])
def test_damage_to_what_is_stored_sparsely_is_named(tmp_path, change, message):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "sparse"
    training.save(path, {"w": np.arange(800.0).reshape(40, 20) * (np.arange(20) == 3)}, sparse=True)
    tensors, shapes = load_file(path), {"w": [40, 20]}
    if isinstance(change, dict) and next(iter(change)).startswith("w."):
        tensors = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
    else:
        shapes = change
    save_file(tensors, path, {"fastnn.sparse": json.dumps(shapes)})
    with pytest.raises(training.CheckpointError, match=f"this file is damaged: .*{message}"):
        training.load(path)


def test_metadata_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    training.save(path, TENSORS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        training.save(path, {}, {"loss": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        training.save(path, {}, {"array": np.ones(1)})
    assert path.read_bytes() == before


@pytest.mark.parametrize("length", [0, 4, 8, 60, 500, -1])
def test_a_truncated_file_is_named(tmp_path, length):
    path = tmp_path / "a.safetensors"
    training.save(path, TENSORS, {"epoch": 1})
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    with pytest.raises(training.CheckpointError, match=r"a\.safetensors: expected a checkpoint .* truncated"):
        training.load(path)


def in_memory(write, *args, **options):
    file = io.BytesIO()
    write(file, *args, **options)
    return file.getvalue()


@pytest.mark.parametrize(("contents", "what"), [
    (b"hello, world, I am a text", "is none: it begins with b'hello, world, I '"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "is an image"),
    (bytes(1000), "is none: it begins with"),
    (b"", "is empty"),
    (in_memory(np.savez, weight=np.ones(3)), r"is an archive of numpy.savez \(.npz\)"),
    (in_memory(np.savez_compressed, **{"0.weight": np.ones(3)}), r"is an archive of numpy.savez \(.npz\)"),
    (in_memory(np.save, np.ones(3)), "is an array of numpy.save"),
    (pickle.dumps({"weight": [1.0]}), "is a pickle of torch.save"),
    (b"\x89HDF\r\n\x1a\n" + bytes(100), "is HDF5"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "is a pointer of git-lfs.*git lfs pull"),
    (b"\n<!DOCTYPE html><html><title>404</title></html>", "is a page of HTML"),
    (b"<html><body>Not found</body></html>", "is a page of HTML"),
    (gzip.compress(bytes(100), mtime=0), "is compressed by gzip"),
    (b"GGUF\x03\0\0\0" + bytes(100), "is GGUF"),
    (b'{"metadata": {}, "weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}',
     "is the index of one in 2 parts, model-1-of-2.safetensors, model-2-of-2.safetensors: give"),
    (b'{"lr": 0.1, "epochs": 3}', "is text, which begins as JSON does"),
    (b"[" * 100_000, "is none: it begins with"),
    (b'{"a": ' * 100_000, "is text, which begins as JSON does"),
])
def test_a_foreign_file_is_named(tmp_path, contents, what):
    path = tmp_path / "weights"
    path.write_bytes(contents)
    expected = rf"weights: expected a checkpoint \(a safetensors file\), but this file {what}"
    with pytest.raises(training.CheckpointError, match=expected) as caught:
        training.load(path)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.peers
def test_files_of_torch_are_read_or_named(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        state = theirs.to(dtype).state_dict()
        save_file(state, tmp_path / "a", metadata={"format": "pt"})
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        training.load_model(tmp_path / "a", model)
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, state[name].double().numpy().astype(array.dtype))
    for zipped in (True, False):
        torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(training.CheckpointError, match=r"is a pickle of torch\.save .*torch\.save_file"):
            training.load(tmp_path / "a.pth")


def safetensors_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(("contents", "what"), [
    (safetensors_file({"a": entry()}, bytes(3)), r"truncated: it has \d+ of \d+ bytes"),
    (safetensors_file({"a": entry()}, bytes(5)), "damaged: "),
    (safetensors_file({"a": entry(shape=(2,))}, bytes(4)), "damaged: "),
    (safetensors_file({"a": entry(dtype="F99")}, bytes(4)), "damaged: "),
    (safetensors_file({"a": entry(offsets=(0, 1 << 60))}, bytes(4)), "truncated: it has"),
    (safetensors_file({"a": entry(offsets=("0", "4"))}, bytes(4)), "damaged: "),
    (safetensors_file({"a": [entry()]}, bytes(4)), "damaged: "),
    (safetensors_file(b'{"a": ' * 10_000), "damaged: "),
    (safetensors_file({"__metadata__": {"fastnn": "[1]"}}), r"damaged: fastnn: expected metadata in JSON, got \[1\]"),
    (safetensors_file({"__metadata__": {"fastnn": "{"}}), "damaged: "),
    (safetensors_file({"__metadata__": {"fastnn": "[" * 100_000}}), "damaged: "),
    (safetensors_file({"a": entry("F8_E4M3", (4,))}, bytes(4)), "damaged: a is in F8_E4M3, which is not read"),
])
def test_a_damaged_file_is_called_so(tmp_path, contents, what):
    (tmp_path / "a").write_bytes(contents)
    with pytest.raises(training.CheckpointError, match=rf"expected a checkpoint .*, but this file is {what}"):
        training.load(tmp_path / "a")


def test_bfloat16_is_read_as_float32_of_the_same_values(tmp_path):
    values = np.array([[1.0, -2.5], [3e38, np.inf], [2**-130, -0.0]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = {"a": entry("BF16", (3, 2), (0, 12)), "b": entry("BF16", (), (12, 14))}
    (tmp_path / "a").write_bytes(safetensors_file(header, bits.tobytes() + b"\x80\x3f"))
    tensors = training.load(tmp_path / "a")[0]
    np.testing.assert_array_equal(tensors["a"], (values.view(np.uint32) & 0xFFFF0000).view(np.float32), strict=True)
    np.testing.assert_array_equal(tensors["b"], np.array(1, np.float32), strict=True)
    assert tensors["a"].flags.writeable


@pytest.mark.parametrize("dtype", [np.complex64, object, np.longdouble, "U3", "M8[s]"])
def test_arrays_that_are_no_real_numbers_are_refused_before_anything_is_written(tmp_path, dtype):
    with pytest.raises(TypeError, match=r"tensors: expected arrays of real numbers or bool, got .* for a"):
        training.save(tmp_path / "a", {"a": np.zeros(2, dtype)})
    assert not list(tmp_path.iterdir())


class Wrapper(nn.Module):
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))


def test_names_are_taken_as_they_are_unless_a_prefix_is_named(tmp_path):
    wrapper = Wrapper()
    state = {name: array + 1 for name, array in wrapper.state_dict().items()}
    training.save(tmp_path / "plain", state, {"note": "no run"})
    training.save(tmp_path / "run", {f"model.{name}": array for name, array in state.items()}, {"state": {}})
    parallel = {f"module.{name}": array for name, array in state.items()}
    training.save(tmp_path / "parallel", parallel | {"step": np.ones(1)})
    for name, options in (("plain", {}), ("run", {}), ("parallel", {"prefix": "module."})):
        other = Wrapper()
        loaded = training.load_model(tmp_path / name, other, **options)
        assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
        assert all(np.array_equal(array, state[key]) for key, array in other.state_dict().items()), name
    inner = wrapper.model
    with pytest.raises(training.CheckpointError, match=r"begin with 'model\.'.* load_model does with prefix='model\.'"):
        training.load_model(tmp_path / "plain", inner)
    training.load_model(tmp_path / "plain", inner, prefix="model.")
    with pytest.raises(ValueError, match=r"prefix: expected what names in .* begin with, such as model.*'net\.'"):
        training.load_model(tmp_path / "plain", inner, prefix="net.")


def test_a_part_of_a_model_and_another_head(tmp_path):
    state = {name: array + 1 for name, array in Wrapper().state_dict().items()}
    training.save(tmp_path / "a", state | {"more": np.ones(1)})
    model = Wrapper()
    model.model = nn.Sequential(model.model[0], nn.Linear(2, 7))
    before = model.state_dict()
    for strict in (True, False):
        with pytest.raises(training.CheckpointError, match=r"model\.1\.weight \(expected float32 of shape \(7, 2\)"):
            training.load_model(tmp_path / "a", model, strict=strict)
        assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    with pytest.raises(training.CheckpointError, match="unexpected: more"):
        training.load_model(tmp_path / "a", model, skip=["model.1"])
    for options in ({"skip": ["model.1", "more"]}, {"skip": "model.1", "strict": False}):
        loaded = training.load_model(tmp_path / "a", model, **options)
        assert (loaded.missing_keys, loaded.unexpected_keys) == (["model.1.weight", "model.1.bias"], ["more"])
    assert np.array_equal(model.model[1].weight.data, before["model.1.weight"])
    assert not np.array_equal(model.model[0].weight.data, before["model.0.weight"])
    with pytest.raises(ValueError, match=r"skip: expected names of arrays or layers of Wrapper, .*, got model\.10"):
        training.load_model(tmp_path / "a", model, skip=["model.1", "model.10"])
    with pytest.raises(training.CheckpointError, match="missing: weight, bias; unexpected: "):
        training.load_model(tmp_path / "a", nn.Linear(3, 2), strict=False)      # nothing of it is there
    with pytest.raises(TypeError, match="model: expected a Module, got str"):
        training.load_model(tmp_path / "a", "model")                            # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path: expected a path, got Wrapper"):
        training.load_model(model, tmp_path / "a")                              # type: ignore[arg-type]


# --- writing ---


@pytest.mark.parametrize(("error", "message"), [
    (errno.ENOSPC, r"\(No space left on device\); what lay there before is unchanged\. Free some space$"),
    (errno.EACCES, r"\(Permission denied\); what lay there before is unchanged\. Allow writing there$"),
    (errno.EROFS, r"\(Read-only file system\); what lay there before is unchanged\. Allow writing there$"),
    (errno.EIO, r"\(Input/output error\); what lay there before is unchanged\. See what is wrong with the disk$"),
])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, error, message, call):
    path = tmp_path / "a.safetensors"
    training.save(path, TENSORS, {"old": 1})

    def fail(*args):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(training.CheckpointError, match=rf"a\.safetensors: could not be written {message}"):
            training.save(path, {})
    assert training.load(path)[1] == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="other errors are reported")
def test_a_message_says_what_is_true_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(training.CheckpointError, match=r"\(No such file or directory\); there is no folder .*nothing"):
        training.save(tmp_path / "nothing" / "a", TENSORS)
    with pytest.raises(training.CheckpointError, match=r"\(Not a directory\); there is no folder .*file\. Make it"):
        training.save(tmp_path / "file" / "a", TENSORS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(training.CheckpointError, match=r"\(Is a directory\).*\. Move away what lies there"):
        training.save(tmp_path / "folder", TENSORS)


@pytest.mark.skipif(sys.platform == "win32", reason="replaces no file that is being read")
def test_files_that_several_write_at_once_are_always_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    script = f"""
import sys
import numpy as np
from fastnn import training
for i in range(60):
    training.save({str(path)!r}, {{"a": np.full(100_000, i)}}, {{"i": i}})
"""
    processes = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    reads = 0
    while any(process.poll() is None for process in processes):
        if path.exists():
            tensors, metadata = training.load(path)
            assert (tensors["a"] == metadata["i"]).all()
            reads += 1
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 3
    assert reads > 10
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    training.save(tmp_path / "last.safetensors", {})
    for path, what in ((tmp_path / "nothing", "there is no such file$"),
                       (tmp_path, "it is a folder, which holds last.safetensors: give one"),
                       (os.devnull, "it is a pipe or a device")):
        with pytest.raises(training.CheckpointError, match=f"expected a checkpoint, but {what}"):
            training.load(path)


def test_saving_to_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(training.CheckpointError, match=r"could not be written \(No such file"):
        training.save(tmp_path / "nothing" / "a", TENSORS)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    training.save(path, TENSORS, {"old": 1})
    script = f"""
import resource
import numpy as np
from fastnn import training
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    training.save({str(path)!r}, {{"a": np.zeros(10_000)}})
except training.CheckpointError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "a.safetensors: could not be written (File too large)" in done.stdout
    assert training.load(path)[1] == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_kill_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.safetensors"
    script = f"""
import numpy as np
from fastnn import training
for i in range(10**6):
    training.save({str(path)!r}, {{"a": np.full(500_000, i)}}, {{"i": i}})
    if i == 0:
        print("saved", flush=True)
"""
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "saved\n"
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        tensors, metadata = training.load(path)
        assert (tensors["a"] == metadata["i"]).all()
    assert len(list(tmp_path.iterdir())) <= 2


def test_a_model_takes_its_weights_from_a_checkpoint_or_a_plain_state_dict(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    training.save(tmp_path / "plain", state)
    training.save(tmp_path / "run", {f"model.{name}": t for name, t in state.items()} | {"optimizer.step": np.ones(1)},
                  {"state": {}})
    for name, metadata in (("plain", {}), ("run", {"state": {}})):
        other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        assert training.load_model(tmp_path / name, other) == metadata
        for key, tensor in other.state_dict().items():
            np.testing.assert_array_equal(tensor, state[key], strict=True)


def test_the_checkpoint_of_another_model_changes_nothing(tmp_path):
    training.save(tmp_path / "a", nn.Linear(3, 2).state_dict())
    model = nn.Linear(4, 2)
    before = model.state_dict()
    for strict in (True, False):
        with pytest.raises(training.CheckpointError, match=r"expected a checkpoint of this Linear.*weight \(expected"):
            training.load_model(tmp_path / "a", model, strict=strict)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor, before[name])


def test_what_is_said_of_a_damaged_file_is_one_line(tmp_path):
    training.save(tmp_path / "a", TENSORS)
    raw = (tmp_path / "a").read_bytes()
    assert raw.count(b'"F64"') > 0
    (tmp_path / "a").write_bytes(raw.replace(b'"F64"', b'"\\n4"', 1))
    with pytest.raises(training.CheckpointError, match=r"damaged: .*unknown variant") as raised:
        training.load(tmp_path / "a")
    assert "\n" not in str(raised.value)
