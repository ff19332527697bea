"""A run that is interrupted, killed or starved in a real process, and taken up again, ends with the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fastnn import training

SCRIPT = Path(__file__).with_name("digits_run.py")


def start(folder, *options):
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, options)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, *options, status=0):
    process = start(folder, *options)
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, err
    return out


def start_and_wait(folder, epoch, step, *options):
    process = start(folder, "--wait", epoch, step, *options)
    assert process.stdout.readline() == "waiting\n", process.communicate()[1]
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def assert_same_run(folder, other):
    for name in ("last.safetensors", "best.safetensors"):
        (ours, our_metadata), (theirs, their_metadata) = training.load(folder / name), training.load(other / name)
        assert ours.keys() == theirs.keys()
        assert any(key.startswith("model.") for key in ours)
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name}: {key}", strict=True)
        assert timeless(our_metadata["state"]["records"]) == timeless(their_metadata["state"]["records"])
        assert our_metadata["state"]["best"] == their_metadata["state"]["best"]
    ours, theirs = (training.History.read(f).records for f in (folder, other))
    assert [record["epoch"] for record in ours] == [1, 2, 3]
    assert timeless(ours) == timeless(theirs)
    assert not list(folder.glob(".*"))


def timeless(records):
    return [{key: value for key, value in record.items() if key not in ("seconds", "images_per_second")}
            for record in records]


def test_the_run_learns_and_leaves_its_folder(whole):
    assert {path.name for path in whole.iterdir()} == {
        "config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "curves.png"}
    assert json.loads((whole / "config.json").read_text()) == {"batch_size": 32}
    history = training.History.read(whole)
    assert history["step"].tolist() == [10, 20, 30]
    assert (np.diff(history["val_loss"]) < 0).all()
    tensors, metadata = training.load(whole / "last.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"model", "optimizer", "callbacks"}
    assert metadata["seed"] == 5
    assert {name.split(".")[0] for name in training.load(whole / "best.safetensors")[0]} == {"model"}


def test_a_finished_run_goes_on_from_its_end(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    run(folder, "--resume")
    assert_same_run(folder, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize(("epoch", "step", "name"), [(1, 3, "SIGINT"), (2, 9, "SIGTERM"), (0, 0, "SIGHUP")])
def test_a_signal_saves_within_the_epoch_and_the_run_can_be_resumed(whole, tmp_path, epoch, step, name):
    process, number = start_and_wait(tmp_path, epoch, step), getattr(signal, name)
    for _ in range(2):                      # as `timeout` does, to a process and to its group
        process.send_signal(number)
    out, err = process.communicate("\n", timeout=600)
    assert process.returncode == 128 + number, err
    assert f"interrupted in epoch {epoch + 1} after step {step + 1}" in out
    assert (f"by {name}: " in out) == (name != "SIGINT")
    assert "resume=True" in out
    assert str(tmp_path / "last.safetensors") in out
    state = training.load(tmp_path / "last.safetensors")[1]["state"]
    assert (state["epoch"], state["step"], state["updates"]) == (epoch, step + 1, 10 * epoch + step + 1)
    run(tmp_path, "--resume")
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_second_signal_stops_at_once(tmp_path, name):
    process, number = start_and_wait(tmp_path, 1, 3), getattr(signal, name)
    before = (tmp_path / "last.safetensors").read_bytes()
    # Two signals that are sent at once count as one.
    for _ in range(100):
        process.send_signal(number)
        time.sleep(0.1)
        if process.poll() is not None:
            break
    err = process.communicate(timeout=10)[1]
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in err) == (name == "SIGINT")
    assert (tmp_path / "last.safetensors").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
def test_what_the_parent_ignores_is_ignored(whole, tmp_path):
    with ignored(signal.SIGHUP, signal.SIGINT):     # as nohup and a shell's background do
        process = start_and_wait(tmp_path, 1, 3)
    for number in (signal.SIGHUP, signal.SIGINT):
        process.send_signal(number)
    _, err = process.communicate("\n", timeout=600)
    assert process.returncode == 0, err
    assert_same_run(tmp_path, whole)


@contextmanager
def ignored(*numbers):
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- two at once ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")
def test_one_process_at_a_time_writes_to_a_run(whole, tmp_path):
    first = start_and_wait(tmp_path, 1, 3)
    files = contents(tmp_path)
    for options in (["--resume"], []):
        out = run(tmp_path, *options, status=3)
        assert out.startswith(f"{tmp_path}: another run writes in this folder: process {first.pid} on ")
        assert f"digits_run.py {tmp_path} --wait 1 3. Wait for its end" in out
    assert contents(tmp_path) == files
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["epoch"] == 1       # who reads needs no lock
    _, err = first.communicate("\n", timeout=600)
    assert first.returncode == 0, err
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")
def test_the_lock_dies_with_its_process_though_a_forked_child_lives_on(whole, tmp_path):
    process = start(tmp_path, "--wait", 1, 3, "--fork")
    child = int(process.stdout.readline())
    try:
        assert process.stdout.readline() == "waiting\n"
        process.kill()
        process.wait()
        assert (tmp_path / ".lock").exists()
        run(tmp_path, "--resume")
        os.kill(child, 0)                   # is there still
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()
    assert_same_run(tmp_path, whole)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole, tmp_path):
    process = start_and_wait(tmp_path, 2, 4)
    process.kill()
    process.communicate()
    # As if it had been killed a moment later, between a line and the checkpoint, with a file half-written.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "train_lo')
    (tmp_path / ".last.safetensors.1a2b3c4d.part").write_bytes(b"half")
    run(tmp_path, "--resume")
    assert_same_run(tmp_path, whole)


def test_a_run_has_no_fewer_epochs_than_it_has_done(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    process = start(folder, "--resume", "--epochs", 2)
    assert "epochs: expected at least 3, which the run in" in process.communicate(timeout=600)[1]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_run_killed_in_its_first_epoch_can_be_resumed(whole, tmp_path):
    process = start_and_wait(tmp_path, 0, 4)
    process.kill()
    process.communicate()
    run(tmp_path, "--resume")
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_can_be_resumed(whole, tmp_path):
    # metrics.jsonl is small and fits; checkpoints no longer do once AdamW has its moments.
    first = tmp_path / "first"
    process = start_and_wait(first, 0, 0)
    process.kill()
    process.communicate()
    limit = (first / "last.safetensors").stat().st_size + 500
    assert (whole / "last.safetensors").stat().st_size > limit > (whole / "metrics.jsonl").stat().st_size
    folder = tmp_path / "run"
    out = run(folder, "--file-size", limit, status=3)
    assert "last.safetensors: could not be written (File too large)" in out
    assert "resume" in out
    assert training.load(folder / "last.safetensors")[1]["state"]["epoch"] == 0
    assert not list(folder.glob(".*"))
    run(folder, "--resume")
    assert_same_run(folder, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_disk_too_full_for_the_first_checkpoint(whole, tmp_path):
    out = run(tmp_path, "--file-size", 1000, status=3)
    assert "last.safetensors: could not be written" in out
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "metrics.jsonl"}
    run(tmp_path, "--resume")
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_no_line_of_the_metrics_is_half_written(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_bytes()
    script = f"""
import resource
from fastnn import data, nn, optim, training
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
run = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), run_dir={str(folder)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(lines)} + 20,) * 2)
try:
    run._folder.append(dict(epoch=4, step=40), [])
except training.CheckpointError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "metrics.jsonl: could not be written" in out
    assert (folder / "metrics.jsonl").read_bytes() == lines
