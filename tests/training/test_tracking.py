"""Tracking: what Weights & Biases and TensorBoard are handed, beside the run's own files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnn import data, nn, optim, training
from fastnn._extras import install
from fastnn.recipes import CNN

MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("wandb", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from fastnn.cli import main
main()
"""


def fit(run_dir, track, epochs, resume=False, learning_rate=0.01):
    digits = data.digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    loader = data.DataLoader(digits.test, 120, transform=data.Normalize(0.3, 0.4, digits.scale))
    trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), learning_rate),
                               run_dir=run_dir, config={"lr": learning_rate}, progress=False,
                               callbacks=[training.tracker(track)] if track else [])
    trainer.fit(loader, loader, epochs=epochs, resume=resume)
    return trainer


def test_tensorboard_reads_what_was_tracked_and_a_resumed_run_goes_on(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(tmp_path, "tensorboard", 2)
    trainer = fit(tmp_path, "tensorboard", 4, resume=True)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {name for name in trainer.history.records[0] if name != "epoch"}
    for name in ("train_loss", "val_accuracy", "lr"):
        tracked = events.Scalars(name)
        assert [event.step for event in tracked] == [1, 2, 3, 4]
        np.testing.assert_allclose([event.value for event in tracked], trainer.history[name], rtol=1e-6)
    (config,) = {event.tensor_proto.string_val[0].decode() for event in events.Tensors("config")}
    assert json.loads(config.strip("`json\n")) == {"lr": 0.01}
    assert len(training.History.read(tmp_path)) == 4


def test_tensorboard_does_not_show_what_is_run_again(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(tmp_path, "tensorboard", 2)
    checkpoint = (tmp_path / "last.safetensors").read_bytes()
    fit(tmp_path, "tensorboard", 4, resume=True)
    (tmp_path / "last.safetensors").write_bytes(checkpoint)           # as if its epochs had not been saved
    trainer = fit(tmp_path, "tensorboard", 3, resume=True)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload().Scalars("train_loss")
    assert [event.step for event in events] == [1, 2, 3]
    np.testing.assert_allclose([event.value for event in events], trainer.history["train_loss"], rtol=1e-6)


def contents_of_a_log(path):
    """The contents of a file in LevelDB's log format with a header of 7 bytes, as Weights & Biases writes it."""
    block, at, contents, data = 32768, 7, b"", path.read_bytes()
    while at + 7 <= len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        contents += data[at + 7 : at + 7 + length]
        at += 7 + length
        if block - at % block < 7:
            at += block - at % block
        if kind in (1, 4):                  # whole, or its last part
            yield contents
            contents = b""


def offline_records(folder):
    """What lies in the folder of an offline run of Weights & Biases: its id, configuration and history."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    run_id, config, history = None, {}, []
    for contents in contents_of_a_log(path):
        record = wandb_internal_pb2.Record.FromString(contents)
        if record.HasField("run"):
            run_id = record.run.run_id
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            history.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json)
                            for item in record.history.item})
    return run_id, config, history


@pytest.mark.slow
def test_wandb_without_a_login_or_network_keeps_the_run_and_resumes_it_under_its_id(tmp_path):
    pytest.importorskip("wandb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    for options in ("--epochs", "1"), ("--epochs", "2", "--resume"):
        done = subprocess.run([sys.executable, "-m", "fastnn", "train", "cnn", "--track", "wandb", *options],
                              capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "wandb: no login was found, so the run is only kept in runs/cnn-1/wandb" in done.stdout
        assert "Traceback" not in done.stderr
    folders = sorted((tmp_path / "runs/cnn-1/wandb").glob("offline-run-*"))
    first, second = map(offline_records, folders)
    assert first[0] == second[0]
    assert first[1]["lr"] == 0.01
    records = training.History.read(tmp_path / "runs/cnn-1").records
    for record, (_, _, history) in zip(records, (first, second)):
        (tracked,) = history
        assert {name: tracked[name] for name in record} == record


def test_the_tool_may_be_another_when_a_run_is_resumed(tmp_path):
    fit(tmp_path, None, 1)
    pytest.importorskip("tensorboard")
    fit(tmp_path, "tensorboard", 2, resume=True)
    fit(tmp_path, None, 3, resume=True)
    CNN(epochs=1, run_dir=tmp_path / "cnn").run()
    CNN(epochs=1, run_dir=tmp_path / "cnn", resume=True, track="tensorboard").check()


@pytest.mark.parametrize("track", ["wandb", "tensorboard"])
def test_without_the_extra_it_says_what_to_install(track, tmp_path):
    done = subprocess.run([sys.executable, "-c", MISSING, "train", "cnn", "--track", track], capture_output=True,
                          text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"fastnn: tracking a run needs {track}: run {install('track')}\n"
    assert list(Path(tmp_path).iterdir()) == []


def test_wrong_use(tmp_path):
    with pytest.raises(ValueError, match="track: expected one of wandb, tensorboard, got 'mlflow'"):
        training.tracker("mlflow")
    pytest.importorskip("tensorboard")
    with pytest.raises(ValueError, match="track: expected a trainer with run_dir, where what is tracked lies; it has"):
        fit(None, "tensorboard", 1)
