"""The lock of a run's folder, and what becomes of a run whose folder does."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time

import pytest

from fastnn import data, nn, optim, training
from fastnn.training import _lock, run_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="removes open files, forks and signals")


class Once(training.Callback):
    """Does something after the first step of the second epoch, or of the first one."""

    def __init__(self, action, epoch=1):
        self.action, self.epoch = action, epoch

    def on_step_end(self, trainer, loss):
        if trainer._state.epoch == self.epoch and trainer._state.step == 1:
            self.action()


def fit(run_dir, *actions, epochs=3, resume=False, epoch=1):
    digits = data.digits()
    part = data.Split(digits.train.images[:40], digits.train.labels[:40])
    loader = data.DataLoader(part, 20, transform=data.Normalize(0.3, 0.4, digits.scale))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), run_dir=run_dir,
                               callbacks=[Once(action, epoch) for action in actions], progress=False)
    return trainer.fit(loader, loader, epochs=epochs, resume=resume)


def refused(run_dir, match, **options):
    with pytest.raises(training.CheckpointError, match=match):
        fit(run_dir, **options)


def test_the_lock_says_who_holds_it_and_is_gone_afterwards(tmp_path):
    run_dir, seen = tmp_path / "run", []
    fit(run_dir, lambda: seen.append((run_dir / ".lock").read_text()))
    assert seen[0].startswith(f"process {os.getpid()} on ")
    assert seen[0].count("\n") == 1
    assert {path.name for path in run_dir.iterdir()} == {
        "config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "curves.png"}


@pytest.mark.parametrize("resume", [True, False])
def test_two_trainers_of_one_process(tmp_path, resume):
    """That of another thread is refused, by any name of the folder; one in another folder is not."""
    (tmp_path / "link").symlink_to(tmp_path / "run")
    answers = []

    def other():
        for run_dir in (tmp_path / "link", tmp_path / "elsewhere"):
            try:
                answers.append(fit(run_dir, resume=resume and run_dir.exists()))
            except training.CheckpointError as error:
                answers.append(str(error))

    def begin():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    assert len(fit(tmp_path / "run", begin)) == 3
    assert "another run writes in this folder: another thread of this process. Wait for its end" in answers[0]
    assert len(answers[1]) == 3


def test_a_failed_run_lets_go(tmp_path):
    def fail():
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        fit(tmp_path, fail)
    assert not (tmp_path / ".lock").exists()
    assert len(fit(tmp_path, resume=True)) == 3


def test_a_lock_that_a_killed_process_left_behind_is_nobodys(tmp_path):
    (tmp_path / ".lock").write_bytes(b"process 1 on earth, since 1970\xff\n")
    assert len(fit(tmp_path)) == 3
    assert not (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def none(file):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_lock, "_lock", none)
    with pytest.warns(UserWarning, match="its file system has no locks, so that nothing keeps a second process from"):
        assert len(fit(tmp_path)) == 3
    assert not list(tmp_path.glob(".*"))


def test_a_lock_file_that_was_removed_is_made_again(tmp_path):
    lock = tmp_path / ".lock"
    with run_folder.hold(tmp_path) as held:
        lock.unlink()
        held.check()
        assert lock.read_text().startswith(f"process {os.getpid()} on ")
        lock.unlink()
        file, _ = _lock.locked(lock)        # another one has taken it meanwhile
        with file, pytest.raises(training.CheckpointError, match="another run writes in this folder: another process"):
            held.check()


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("what", ["removed", "moved", "replaced by a file", "replaced by a folder", "removed above"])
def test_a_folder_that_goes_in_the_middle(tmp_path, what, epoch):
    run_dir, aside = tmp_path / "runs" / "run", tmp_path / "aside"

    def go():
        if what == "removed above":
            return shutil.rmtree(tmp_path / "runs")
        run_dir.rename(aside) if what == "moved" else shutil.rmtree(run_dir)
        if what == "replaced by a file":
            run_dir.write_text("mine")
        if what == "replaced by a folder":
            run_dir.mkdir()
        return None

    with pytest.raises(training.CheckpointError) as caught:
        fit(run_dir, go, epoch=epoch)
    assert str(caught.value) == (
        f"{run_dir}: the folder in which this run writes is no longer there: it was moved, removed or replaced. Where "
        "it was moved, resume the run in its new place; what was removed is lost: begin a new run")
    if what == "replaced by a file":
        assert run_dir.read_text() == "mine"
    elif what == "replaced by a folder":
        assert not list(run_dir.iterdir())
    else:
        assert not run_dir.exists()
    if what == "moved":
        assert len(fit(aside, resume=True)) == 3
        assert not list(aside.glob(".*"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "last.safetensors", "best.safetensors", "config.json"])
def test_a_file_that_goes_in_the_middle_comes_back(tmp_path, name):
    history = fit(tmp_path, (tmp_path / name).unlink)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == history.records
    assert len(lines) == 3
    assert (tmp_path / name).exists() == (name != "config.json")
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["epoch"] == 3


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(training.CheckpointError) as caught:
        fit(tmp_path, lambda: patch.setattr(os, "fsync", fail))
    assert str(caught.value).endswith("safetensors: could not be written (No space left on device); what lay there "
                                      "before is unchanged. Free some space, then resume the run")
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["epoch"] == 1
    assert not list(tmp_path.glob(".*"))
    assert fit(tmp_path, resume=True).records[0]["epoch"] == 1


def test_where_nothing_can_be_written_nothing_is(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", match=r"file: could not be written \(File exists\).*Move away what lies there")
    refused(tmp_path / "file" / "run", match=r"could not be written \(Not a directory\)")
    refused(tmp_path / "none", match="there is no such file", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_goes_on_in_its_own_dtype_alone(tmp_path):
    fit(tmp_path, epochs=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, dtype="float64"))
    trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), run_dir=tmp_path)
    digits = data.digits()
    loader = data.DataLoader(data.Split(digits.train.images[:40], digits.train.labels[:40]), 20)
    with pytest.raises(training.CheckpointError, match=r"expected 1\.bias in float64, got float32"):
        trainer.fit(loader, epochs=2, resume=True)


# --- signals ---


@pytest.mark.usefixtures("signals_heard")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_ended_by_signals_as_before(tmp_path):
    """A worker of another library, say, which its parent ends by SIGTERM: the run is not its own."""
    ended = []

    def fork():
        for number in (signal.SIGTERM, signal.SIGHUP):
            read, write = os.pipe()
            if not (child := os.fork()):
                os.write(write, b"!")
                time.sleep(60)
                os._exit(0)
            os.read(read, 1)                # Python forgets signals that come while it forks
            os.kill(child, number)
            ended.append(os.WTERMSIG(os.waitpid(child, 0)[1]) == number)
            os.close(read)
            os.close(write)

    assert len(fit(tmp_path, fork)) == 3
    assert ended == [True, True]


@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_handlers_come_back_and_those_of_others_are_not_called(tmp_path, name):
    number, calls = getattr(signal, name), []

    def handler(number, frame):
        calls.append(number)

    signal.signal(number, handler)
    with pytest.raises(training.Interrupted, match="interrupted in epoch 2 after step 1") as caught:
        fit(tmp_path, lambda: signal.raise_signal(number))
    assert caught.value.signal == number
    assert signal.getsignal(number) is handler
    assert not calls

    def twice():
        signal.raise_signal(number)
        time.sleep(0.15)
        signal.raise_signal(number)

    with pytest.raises(training.Interrupted):       # the second one does what it would without us
        fit(tmp_path, twice, resume=True, epoch=2)
    assert calls == [number]
    assert len(fit(tmp_path, resume=True)) == 3
    assert signal.getsignal(number) is handler


@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_is_ignored_stays_so(tmp_path, name):
    number = getattr(signal, name)
    signal.signal(number, signal.SIG_IGN)
    assert len(fit(tmp_path, lambda: signal.raise_signal(number))) == 3
    assert signal.getsignal(number) is signal.SIG_IGN
