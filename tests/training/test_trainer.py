import json
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from fastnn import data, nn, optim, random, training

DIGITS = data.digits()
TRANSFORM = data.Normalize(0.3, 0.4, DIGITS.scale)


def loader(count=96, batch_size=32, **options):
    part = data.Split(DIGITS.train.images[:count], DIGITS.train.labels[:count])
    return data.DataLoader(part, batch_size, transform=TRANSFORM, **options)


def net(hidden=8, seed=0):
    with random.seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 10))


def trainer(model=None, lr=0.1, **options):
    model = model or net()
    optimizer = optim.SGD(model.parameters(), lr, momentum=0.9)
    return training.Trainer(model, nn.CrossEntropyLoss(), optimizer, **{"progress": False, **options})


def weights(model):
    return {name: tensor.copy() for name, tensor in model.state_dict().items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name, strict=True)


def test_a_run_is_the_loop_that_its_text_promises():
    run = trainer(seed=4, schedule=lambda t: 1 / (1 + t), clip_value=0.05, clip_norm=0.2)
    history = run.fit(loader(), loader(64, shuffle=False), epochs=2)

    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for epoch in range(2):
        losses, correct = [], 0
        for step, (images, labels) in enumerate(loader().epoch(epoch)):
            with random.at_step(4, epoch, step):
                scores, backward = model.forward(images, training=True)
                value, loss_backward = loss.forward(scores, labels)
                backward(loss_backward(), input_grad=False)
            optim.clip_grad_value_(model.parameters(), 0.05)
            optim.clip_grad_norm_(model.parameters(), 0.2)
            optimizer.step(1 / (1 + epoch + step / 3))
            model.zero_grad()
            losses.append(float(value))
            correct += int((scores.argmax(1) == labels).sum())
        record = history.records[epoch]
        assert record["train_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
        assert record["train_accuracy"] == correct / 96
        assert record["lr"] == pytest.approx(0.1 / (1 + epoch + 2 / 3))
        images, labels = next(loader(64, 64, shuffle=False).epoch(0))
        assert record["val_loss"] == pytest.approx(float(loss(model(images), labels)), rel=1e-6)
        assert record["val_accuracy"] == training.accuracy(model(images), labels)
    assert_equal(weights(run.model), weights(model))
    assert history["epoch"].tolist() == [1, 2]
    assert history["step"].tolist() == [3, 6]
    assert (history["seconds"] > 0).all()
    np.testing.assert_allclose(history["images_per_second"], 96 / history["seconds"])


def test_losses_are_means_over_samples_not_over_batches():
    run = trainer(lr=1e-12)
    run.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    history = run.fit(loader(40, 32), loader(40, 32), epochs=1)
    whole = run.evaluate(loader(40, 40))
    assert history["train_loss"][0] == pytest.approx(whole.loss, rel=1e-6)
    assert history["val_loss"][0] == pytest.approx(whole.loss, rel=1e-6)


def test_an_evaluation_has_the_loaders_order_and_changes_nothing():
    run = trainer()
    before = weights(run.model)
    order = [labels for _, labels in loader(seed=3).epoch(0)]
    for _ in range(2):      # the same epoch each time
        evaluation = run.evaluate(loader(seed=3))
        np.testing.assert_array_equal(evaluation.labels, np.concatenate(order))
    assert evaluation.accuracy == (evaluation.predictions == evaluation.labels).mean()
    np.testing.assert_array_equal(
        evaluation.confusion, training.confusion_matrix(evaluation.labels, evaluation.predictions, 10))
    assert_equal(weights(run.model), before)


def test_a_frozen_parameter_stays():
    run = trainer()
    frozen = run.model[1].weight
    frozen.requires_grad = False
    before, moving = frozen.data.copy(), run.model[4].weight.data.copy()
    run.fit(loader(), epochs=1)
    np.testing.assert_array_equal(frozen.data, before)
    assert (run.model[4].weight.data != moving).any()


def test_gradients_from_before_do_not_enter():
    first, second = trainer(), trainer()
    for parameter in second.model.parameters():
        parameter.grad = np.full_like(parameter.data, 1000)
    assert_equal(weights(first.fit(loader(), epochs=1) and first.model), weights(second.fit(loader(), epochs=1)
                                                                                 and second.model))


def test_a_regression_is_judged_by_its_loss(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    y = x @ np.array([[1.0], [2.0], [-1.0]], np.float32)
    model = nn.Sequential(nn.Linear(3, 1))
    run = training.Trainer(model, nn.MSELoss(), optim.Adam(model.parameters(), 0.1), run_dir=tmp_path, progress=False)
    history = run.fit(data.DataLoader((x, y), 16), data.DataLoader((x, y), 64), epochs=8)
    assert history["val_loss"][-1] < 0.1 * history["val_loss"][0]
    assert np.isnan(history["val_accuracy"]).all()
    evaluation = run.evaluate(data.DataLoader((x, y), 16))
    assert evaluation.confusion is None
    assert evaluation.loss == pytest.approx(float(((model(x) - y) ** 2).mean()), rel=1e-5)
    best = training.load(tmp_path / "best.safetensors")[1]["state"]["best"]
    assert best == [0.0, -history["val_loss"].min()]


class TwoInputs(nn.Module):
    def __init__(self):
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, x, y, *, training=True):
        a, left = self.left.forward(x, training=training)
        b, right = self.right.forward(y, training=training)

        def backward(grad, *, input_grad=True):
            return left(grad, input_grad=input_grad), right(grad, input_grad=input_grad)

        return a + b, backward


def test_a_model_may_have_several_inputs():
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((32, n)).astype(np.float32) for n in (3, 4))
    labels = (x[:, 0] + y[:, 0] > 0).astype(np.int64)
    history = trainer(TwoInputs()).fit(data.DataLoader((x, y, labels), 8), epochs=10)
    assert history["train_accuracy"][-1] > 0.9


def test_the_best_checkpoint_is_that_of_the_best_validation_accuracy(tmp_path):
    class Keep(training.Callback):
        def __init__(self):
            self.states = []

        def on_epoch_end(self, trainer, record):
            self.states.append(weights(trainer.model))

    keep = Keep()
    # A rate that grows until training falls apart, so that the best epoch is not the last.
    run = trainer(run_dir=tmp_path, callbacks=[keep], lr=0.03, schedule=lambda t: 3.0 ** t)
    history = run.fit(loader(), loader(200, 100), epochs=6)
    figures = list(zip(history["val_accuracy"], -history["val_loss"]))
    best = figures.index(max(figures))
    assert 0 < best < 5
    model = net(seed=1)
    metadata = training.load_model(tmp_path / "best.safetensors", model)
    assert_equal(weights(model), keep.states[best])
    assert metadata["state"]["epoch"] == best + 1
    assert_equal(weights(model), training.checkpoint.part(training.load(tmp_path / "best.safetensors")[0], "model"))


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer().fit(loader(), loader(), epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    trainer(run_dir=tmp_path).fit(loader(), epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"holds a run already; go on with it \(resume=True\)"):
        trainer(run_dir=tmp_path).fit(loader(), epochs=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_folder_is_made_and_says_what_was_run(tmp_path):
    folder = tmp_path / "deep" / "run"
    config = {"lr": 0.1, "data": tmp_path, "sizes": (3, 4), "name": "ä"}
    run = trainer(run_dir=folder, config=config)
    run.fit(loader(), epochs=1)
    assert json.loads((folder / "config.json").read_text()) == {
        "lr": 0.1, "data": str(tmp_path), "sizes": [3, 4], "name": "ä"}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history.records
    assert list(run.history.records[0]) == ["epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss",
                                            "val_accuracy", "seconds", "images_per_second"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(training.CheckpointError, match=r"file\Wrun: could not be written"):
        trainer(run_dir=tmp_path / "file" / "run").fit(loader(), epochs=1)


# --- resuming ---


def test_a_resumed_run_may_have_more_epochs(tmp_path):
    whole = trainer()
    expected = whole.fit(loader(), loader(), epochs=4)
    trainer(run_dir=tmp_path).fit(loader(), loader(), epochs=2)
    run = trainer(net(seed=9), run_dir=tmp_path)
    history = run.fit(loader(), loader(), epochs=4, resume=True)
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(history["val_loss"], expected["val_loss"])
    assert_equal(weights(run.model), weights(whole.model))


@pytest.mark.parametrize(("change", "message"), [
    ({"model": lambda: net(hidden=9)}, r"1\.weight \(expected float32 of shape \(9, 64\), got float32 of shape \(8"),
    ({"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, r"unexpected: .*4\.weight"),
    ({"model": lambda: net().to(np.float64)}, "float64"),
    ({"model": TwoInputs}, "expected a run with model 'TwoInputs', as this one has, got one with 'Sequential'"),
    ({"seed": 1}, "expected a run with seed 1, as this one has, got one with 0"),
    ({"batch_size": 16}, "steps_per_epoch 6, as this one has, got one with 3"),
    ({"optimizer": optim.Adam}, "optimizer 'Adam', as this one has, got one with 'SGD'"),
])
def test_the_checkpoint_of_another_run_is_refused_before_anything_changes(tmp_path, change, message):
    trainer(run_dir=tmp_path).fit(loader(), epochs=1)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run = trainer(change["model"]() if "model" in change else net(seed=3), run_dir=tmp_path, seed=change.get("seed", 0))
    if "optimizer" in change:
        run.optimizer = change["optimizer"](run.model.parameters())
    before = weights(run.model)
    with pytest.raises(training.CheckpointError, match=message) as caught:
        run.fit(loader(batch_size=change.get("batch_size", 32)), epochs=2, resume=True)
    assert str(tmp_path / "last.safetensors") in str(caught.value)
    assert_equal(weights(run.model), before)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_an_optimizer_of_other_groups_leaves_the_model_as_it_was(tmp_path):
    trainer(run_dir=tmp_path).fit(loader(), epochs=1)
    run = trainer(net(seed=3), run_dir=tmp_path)
    run.optimizer = optim.SGD([run.model[1].weight], 0.1, momentum=0.9)
    before = weights(run.model)
    with pytest.raises(training.CheckpointError, match="another model or optimizer than this Sequential and SGD"):
        run.fit(loader(), epochs=2, resume=True)
    assert_equal(weights(run.model), before)


def test_the_optimizers_options_are_those_of_the_checkpoint(tmp_path):
    class Halve(training.Callback):
        def on_epoch_end(self, trainer, record):
            trainer.optimizer.param_groups[0]["lr"] *= np.float32(0.5)

    def adam(lr, betas, **options):
        run = trainer(callbacks=[Halve()], **options)
        run.optimizer = optim.Adam(optim.parameter_groups(run.model, 0.1), lr, betas=betas)
        return run

    whole = adam(0.01, (0.8, 0.99))
    whole.fit(loader(), epochs=4)
    adam(0.01, (0.8, 0.99), run_dir=tmp_path).fit(loader(), epochs=2)
    run = adam(0.5, (0.9, 0.999), run_dir=tmp_path)
    run.fit(loader(), epochs=4, resume=True)
    np.testing.assert_allclose(run.history["lr"], [0.01, 0.005, 0.0025, 0.00125], rtol=1e-6)
    assert run.optimizer.param_groups[1]["betas"] == (0.8, 0.99)
    assert_equal(weights(run.model), weights(whole.model))

    run.optimizer = optim.Adam(run.model.parameters())
    with pytest.raises(training.CheckpointError, match="expected an optimizer with the groups"):
        run.fit(loader(), epochs=5, resume=True)


def test_a_callback_that_fails_leaves_everything_as_it_was(tmp_path):
    class Stubborn(training.Callback):
        def state_dict(self):
            return {"value": np.zeros(1)}

        def load_state_dict(self, state):
            raise KeyError("valeu")

    def run(**options):
        return trainer(callbacks=[training.EarlyStopping(9), Stubborn()], run_dir=tmp_path, **options)

    run().fit(loader(), loader(), epochs=1)
    second = run(model=net(seed=3), lr=0.5)
    before = weights(second.model)
    with pytest.raises(training.CheckpointError, match=r"callback .*Stubborn cannot be taken back: KeyError"):
        second.fit(loader(), loader(), epochs=2, resume=True)
    assert_equal(weights(second.model), before)
    assert second.optimizer.state_dict() == {}
    assert second.optimizer.param_groups[0]["lr"] == 0.5
    assert second.callbacks[0].best is None
    assert not second.history


def test_metrics_that_are_damaged_are_named(tmp_path):
    for line in ("{", "3", '"\xff'):
        (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n' + line.encode("latin1") + b"\n")
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected lines that a run wrote in JSON, got"):
            training.History.read(tmp_path)


def test_what_cannot_be_resumed_is_named(tmp_path):
    with pytest.raises(ValueError, match="resume: expected a trainer with run_dir"):
        trainer().fit(loader(), epochs=1, resume=True)
    with pytest.raises(training.CheckpointError, match=r"last\.safetensors: expected a checkpoint, but there is no"):
        trainer(run_dir=tmp_path / "no").fit(loader(), epochs=1, resume=True)
    assert not (tmp_path / "no").exists()
    trainer(run_dir=tmp_path / "lost").fit(loader(), epochs=1)
    (tmp_path / "lost" / "last.safetensors").unlink()
    with pytest.raises(training.CheckpointError, match="there is no such file"):
        trainer(run_dir=tmp_path / "lost").fit(loader(), epochs=1, resume=True)
    training.save(tmp_path / "last.safetensors", net().state_dict())
    with pytest.raises(training.CheckpointError, match="got a file that holds only tensors"):
        trainer(run_dir=tmp_path).fit(loader(), epochs=1, resume=True)
    (tmp_path / "last.safetensors").write_bytes((tmp_path / "last.safetensors").read_bytes()[:-9])
    with pytest.raises(training.CheckpointError, match="truncated"):
        trainer(run_dir=tmp_path).fit(loader(), epochs=1, resume=True)


# --- Ctrl-C ---


class PressCtrlC(training.Callback):
    """Sends this process a real SIGINT in the n-th validation or step."""

    def __init__(self, hook, n=1):
        self.left = n
        setattr(self, hook, self.press)

    def press(self, *args):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
@pytest.mark.parametrize("hook", ["on_step_end", "on_gradients", "on_validation_end", "on_checkpoint"])
def test_the_handler_is_restored(tmp_path, hook):
    calls = []

    def handler(number, frame):
        calls.append(number)

    previous = signal.signal(signal.SIGINT, handler)
    try:
        run = trainer(run_dir=tmp_path, callbacks=[PressCtrlC(hook, 2)])
        with pytest.raises(training.Interrupted) as caught:
            run.fit(loader(), loader(), epochs=4)
        assert caught.value.checkpoint == tmp_path / "last.safetensors"
        assert isinstance(caught.value, KeyboardInterrupt)
        assert signal.getsignal(signal.SIGINT) is handler
        assert not calls
        run = trainer(net(seed=1), run_dir=tmp_path)
        run.fit(loader(), loader(), epochs=4, resume=True)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, previous)
    whole = trainer()
    whole.fit(loader(), loader(), epochs=4)
    assert_equal(weights(run.model), weights(whole.model))


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
def test_ctrl_c_between_the_batches_of_a_validation(tmp_path):
    """The epoch's steps are done and its validation is not: it is made anew."""
    whole = trainer()
    expected = whole.fit(loader(), loader(), epochs=2)
    run = trainer(run_dir=tmp_path)
    evaluated, loss = [], run.loss

    class Pressing(nn.CrossEntropyLoss):
        def __call__(self, *inputs):
            evaluated.append(1)
            if len(evaluated) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return loss(*inputs)

    run.loss = Pressing()
    with pytest.raises(training.Interrupted, match="in epoch 1 after step 3"):
        run.fit(loader(), loader(), epochs=2)
    assert len(evaluated) == 2
    history = trainer(run_dir=tmp_path).fit(loader(), loader(), epochs=2, resume=True)
    for name in ("lr", "train_loss", "train_accuracy", "val_loss"):
        np.testing.assert_array_equal(history[name], expected[name])


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
def test_ctrl_c_at_the_very_end_reports_no_further_epoch(tmp_path):
    # The first checkpoint is that before the run, the second one that of the only epoch.
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer(run_dir=tmp_path, callbacks=[PressCtrlC("on_checkpoint", 2)]).fit(loader(), epochs=1)
    assert not isinstance(caught.value, training.Interrupted)
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["epoch"] == 1


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
def test_without_a_folder_ctrl_c_says_that_nothing_was_saved():
    with pytest.raises(training.Interrupted, match="nothing was saved") as caught:
        trainer(callbacks=[PressCtrlC("on_step_end")]).fit(loader(), epochs=1)
    assert caught.value.checkpoint is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_on_another_thread_leaves_signals_alone():
    errors = []

    def work():
        try:
            trainer().fit(loader(), epochs=1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
def test_an_ignored_sigint_stays_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert len(trainer(callbacks=[PressCtrlC("on_step_end")]).fit(loader(), epochs=1)) == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


# --- what diverges ---


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    states = []

    class Keep(training.Callback):
        def on_step_end(self, trainer, loss):
            assert math.isfinite(loss)
            states.append(weights(trainer.model))

    run = trainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10)), lr=1e30, run_dir=tmp_path,
                  callbacks=[Keep()])
    with np.errstate(all="ignore"), pytest.raises(training.DivergedError) as caught:
        run.fit(loader(), epochs=1)
    message = str(caught.value)
    assert "not finite" in message or "the loss is" in message
    assert f"in epoch 1 after {len(states)} of 3 steps (learning rate 1e+30): try a lower learning rate" in message
    assert f"{tmp_path / 'last.safetensors'} is as it was" in message
    if states:
        assert_equal(weights(run.model), states[-1])
    for tensor in training.load(tmp_path / "last.safetensors")[0].values():
        assert np.isfinite(tensor).all()


def test_a_gradient_that_is_not_finite_is_named():
    class Overflow(training.Callback):
        pass

    class Loss(nn.CrossEntropyLoss):
        def forward(self, scores, labels, *, training=True):
            loss, backward = super().forward(scores, labels)
            return loss, lambda: np.full_like(backward(), np.inf)

    run = trainer()
    run.loss = Loss()
    before = weights(run.model)
    with np.errstate(all="ignore"), pytest.raises(training.DivergedError, match=r"the gradient by .*weight is not"):
        run.fit(loader(), epochs=1)
    assert_equal(weights(run.model), before)


def test_inputs_that_are_not_finite_are_blamed():
    images, labels = next(loader(batch_size=96).epoch(0))
    images[3, 0, 2, 2] = np.nan
    with pytest.raises(training.DivergedError, match="the inputs of this batch are not finite themselves"):
        trainer().fit(data.DataLoader((images, labels), 32), epochs=1)


def test_a_validation_loss_that_is_not_finite_stops_the_run():
    images, labels = next(loader(batch_size=96).epoch(0))
    images[3, 0, 2, 2] = np.nan
    with pytest.raises(training.DivergedError, match="the validation loss is nan in epoch 1 after 3 of 3 steps"):
        trainer().fit(loader(), data.DataLoader((images, labels), 32), epochs=1)


# --- wrong arguments, and what is shown ---


@pytest.mark.parametrize(("options", "message"), [
    ({"seed": -1}, "seed: expected at least 0, got -1"),
    ({"clip_norm": 0}, "clip_norm: expected a number above 0 or None, got 0"),
    ({"clip_value": float("nan")}, "clip_value: expected a number above 0 or None, got nan"),
])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options)


def test_a_config_that_json_cannot_hold_is_refused():
    for value in (np.ones(2), float("inf"), print):
        with pytest.raises(TypeError, match="config: expected values that JSON holds"):
            trainer(config={"value": value})


def test_wrong_arguments_of_fit_are_refused():
    with pytest.raises(ValueError, match="epochs: expected at least 1, got 0"):
        trainer().fit(loader(), epochs=0)

    class Empty:
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="validation_loader: expected at least one batch"):
        trainer().fit(loader(), Empty(), epochs=1)


def test_progress_is_a_bar_on_stderr_and_a_line_an_epoch_on_stdout(capfd):
    trainer(progress=True).fit(loader(), loader(), epochs=2)
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2  train loss ")
    assert lines[1].startswith("epoch 2/2  train loss ")
    assert all("accuracy" in line and "%" in line and "validation loss" in line for line in lines)
    assert "6/6" in err
    trainer(progress=False).fit(loader(), epochs=1)
    assert capfd.readouterr() == ("", "")


def test_nothing_heavy_is_imported_before_it_is_used():
    script = "import sys, fastnn.training; print({'matplotlib', 'tqdm', 'safetensors', 'PIL'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out == "set()\n"


def test_without_the_extra_a_run_goes_on_without_a_bar_and_saving_says_what_to_install(tmp_path):
    script = f"""
import sys
for name in ("matplotlib", "tqdm", "safetensors"):
    sys.modules[name] = None
from fastnn import data, nn, optim, training
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
loader = data.DataLoader(data.digits().test, 360, transform=data.Normalize(0.3, 0.4, 16))
def trainer(**options):
    return training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), **options)
trainer().fit(loader, epochs=1)
try:
    trainer(run_dir={str(tmp_path / "run")!r}).fit(loader, epochs=1)
except ModuleNotFoundError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0].startswith("epoch 1/1  train loss ")
    assert out[1:] == ['saving a run needs safetensors: run pip install "fastnn-kernels[train]"']
    assert not (tmp_path / "run").exists()
