import os
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


@pytest.mark.parametrize("contents", [b"hello, world, I am a text", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_a_foreign_file_is_named(tmp_path, contents):
    path = tmp_path / "picture.png"
    path.write_bytes(contents)
    with pytest.raises(training.CheckpointError, match=r"picture\.png: expected a checkpoint"):
        training.load(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path, what in ((tmp_path / "nothing", "there is no such file"), (tmp_path, "it is a folder")):
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
                  {"epoch": 3})
    for name, metadata in (("plain", {}), ("run", {"epoch": 3})):
        other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        assert training.load_model(tmp_path / name, other) == metadata
        for key, tensor in other.state_dict().items():
            np.testing.assert_array_equal(tensor, state[key], strict=True)


def test_the_checkpoint_of_another_model_changes_nothing(tmp_path):
    training.save(tmp_path / "a", nn.Linear(3, 2).state_dict())
    model = nn.Linear(4, 2)
    before = model.state_dict()
    with pytest.raises(training.CheckpointError, match=r"expected a checkpoint of this Linear(.|\n)*weight"):
        training.load_model(tmp_path / "a", model)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor, before[name])
