import copy
import errno
import io
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
from fastnn._extras import install
from fastnn.training._trial import Trial

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
    run = trainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=1e-12)
    history = run.fit(loader(40, 32), loader(40, 32), epochs=1)
    whole = run.evaluate(loader(40, 40))
    assert history["train_loss"][0] == pytest.approx(whole.loss, rel=1e-6)
    assert history["val_loss"][0] == pytest.approx(whole.loss, rel=1e-6)


def test_losses_of_tokens_are_means_over_those_that_count():
    class Scores(nn.Linear):
        """Scores of 3 tokens by the token before."""

        def forward(self, x, *, training=True):
            return super().forward(np.eye(5, dtype=np.float32)[x], training=training)

    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 3, n) for n in (9, 9, 3, 2, 2)]
    run = trainer(Scores(5, 3), lr=1e-12)
    run.loss = nn.TokenCrossEntropyLoss()
    batches = data.SequenceLoader(sequences, 2)
    history = run.fit(batches, batches, epochs=1)
    tokens, targets = next(data.SequenceLoader(sequences, 5).epoch(0))
    whole = float(run.loss(run.model(tokens), targets))
    assert history["train_loss"][0] == pytest.approx(whole, rel=1e-6)
    assert history["val_loss"][0] == pytest.approx(whole, rel=1e-6)
    np.testing.assert_allclose(history["tokens_per_second"], 20 / history["seconds"])
    assert history.records[0]["images_per_second"] is None


def test_a_model_that_draws_in_inference_draws_the_same_in_each_evaluation():
    class Noisy(nn.Linear):
        def forward(self, x, *, training=True):
            scores, backward = super().forward(x.reshape(len(x), -1), training=training)
            return self.draw.forward(scores, np.zeros_like(scores), training=training)[0][0], backward

    model = Noisy(64, 10)
    model.draw = nn.Reparameterization()
    losses = [trainer(model, seed=seed).evaluate(loader()).loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_an_evaluation_has_the_order_of_the_data_and_changes_nothing():
    run = trainer()
    before = weights(run.model)
    expected = run.model(TRANSFORM(DIGITS.train.images[:96], None)).argmax(1)
    for options in ({}, {"shuffle": False}, {"batch_size": 40, "drop_last": True}, {"seed": 3}):
        evaluation = run.evaluate(loader(**options))
        np.testing.assert_array_equal(evaluation.labels, DIGITS.train.labels[:96])
        np.testing.assert_array_equal(evaluation.predictions, expected)
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
@pytest.mark.usefixtures("signals_heard")
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
@pytest.mark.usefixtures("signals_heard")
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
@pytest.mark.usefixtures("signals_heard")
def test_ctrl_c_at_the_very_end_reports_no_further_epoch(tmp_path):
    # The first checkpoint is that before the run, the second one that of the only epoch.
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer(run_dir=tmp_path, callbacks=[PressCtrlC("on_checkpoint", 2)]).fit(loader(), epochs=1)
    assert not isinstance(caught.value, training.Interrupted)
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["epoch"] == 1


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
@pytest.mark.usefixtures("signals_heard")
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


# --- a loss with parameters of its own ---


class Temperature(nn.Module):
    """Cross-entropy of scores times a learned factor; a buffer counts its batches in training."""

    buffers = ("batches",)

    def __init__(self, factor=2.0):
        self.factor = nn.Parameter(np.array(factor, np.float32))
        self.batches = np.zeros((), np.float32)

    def forward(self, scores, labels, *, training=True):
        factor = self.factor.data
        loss, loss_backward = nn.CrossEntropyLoss().forward(factor * scores, labels)
        if training:
            self.batches = self.batches + np.float32(1)

        def backward(grad=1.0):
            grad = loss_backward(grad)
            self.factor.accumulate((grad * scores).sum())
            return factor * grad

        return loss, backward


def tempered(seed=0, factor=2.0, **options):
    model, loss = net(seed=seed), Temperature(factor)
    optimizer = optim.Adam([*model.parameters(), *loss.parameters()], 0.01)
    return training.Trainer(model, loss, optimizer, progress=False, **options)


def test_parameters_of_a_loss_are_trained_with_the_models():
    run = tempered(clip_norm=0.1, clip_value=0.05)
    run.loss.factor.grad = np.array(1000, np.float32)           # from before: it is zeroed
    run.fit(loader(), loader(), epochs=2)

    model, loss = net(), Temperature()
    learned = [*model.parameters(), *loss.parameters()]
    optimizer = optim.Adam(learned, 0.01)
    for epoch in range(2):
        for step, (images, labels) in enumerate(loader().epoch(epoch)):
            with random.at_step(0, epoch, step):
                scores, backward = model.forward(images, training=True)
                _, loss_backward = loss.forward(scores, labels)
                backward(loss_backward(), input_grad=False)
            optim.clip_grad_value_(learned, 0.05)
            optim.clip_grad_norm_(learned, 0.1)
            optimizer.step()
            optimizer.zero_grad()
    assert_equal(weights(run.model), weights(model))
    assert_equal(weights(run.loss), weights(loss))
    assert loss.factor.data != 2
    assert run.loss.batches == 6


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("hook", ["on_step_end", "on_validation_end"])
def test_a_run_with_such_a_loss_resumes_to_the_same_bits(tmp_path, hook):
    whole = tempered(callbacks=[training.EarlyStopping(9, restore_best=True)])
    whole.fit(loader(), loader(), epochs=3)
    with pytest.raises(training.Interrupted):
        tempered(run_dir=tmp_path, callbacks=[training.EarlyStopping(9, restore_best=True), PressCtrlC(hook, 2)]).fit(
            loader(), loader(), epochs=3)
    run = tempered(5, 7.0, run_dir=tmp_path, callbacks=[training.EarlyStopping(9, restore_best=True)])
    run.fit(loader(), loader(), epochs=3, resume=True)
    assert_equal(weights(run.model), weights(whole.model))
    assert_equal(weights(run.loss), weights(whole.loss))
    tensors = [training.load(tmp_path / name)[0] for name in ("last.safetensors", "best.safetensors")]
    assert all({"loss.factor", "loss.batches"} <= part.keys() for part in tensors)

    other = tempered(5, 7.0, run_dir=tmp_path)                  # what cannot be loaded leaves both as they were
    other.loss.further = nn.Linear(1, 1)
    before = weights(other.model), weights(other.loss)
    with pytest.raises(training.CheckpointError, match=r"missing: further\.weight"):
        other.fit(loader(), epochs=4, resume=True)
    assert_equal(weights(other.model), before[0])
    assert_equal(weights(other.loss), before[1])


def test_what_is_not_finite_in_a_loss_is_named():
    class Broken(training.Callback):
        def __init__(self, where):
            self.where = where

        def on_gradients(self, trainer):
            if self.where == "buffer":
                trainer.loss.batches = np.float32(np.inf)
            else:
                trainer.loss.factor.grad = np.array(np.nan, np.float32)

    for where, message in (("buffer", "batches of the loss is not finite"), ("gradient", "factor of the loss is not")):
        with pytest.raises(training.DivergedError, match=message):
            tempered(callbacks=[Broken(where)]).fit(loader(32), epochs=1)

    class Infinite(Temperature):
        def forward(self, scores, labels, *, training=True):
            loss, backward = super().forward(scores, labels, training=training)
            self.factor.accumulate(np.array(np.inf, np.float32))
            return loss, backward

    run = tempered()
    run.loss.__class__ = Infinite
    with pytest.raises(training.DivergedError, match="the gradient by factor of the loss is not finite"):
        run.fit(loader(32), epochs=1)


# --- what an optimizer holds ---


def test_parameters_that_are_not_trained_are_no_secret(capsys):
    model, other = net(), net()
    for strange in ([*other.parameters()], [*model.parameters(), other[1].weight]):
        with pytest.raises(ValueError, match=r"optimizer: .* of this Sequential or of the loss, got .* are of neither"):
            training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(strange, 0.1))
    run = trainer(model)
    run.model = other
    with pytest.raises(ValueError, match="got 4 of 4 that are of neither; build it with model"):
        run.fit(loader(), epochs=1)

    run = trainer(net())
    run.optimizer.param_groups.append(run.optimizer.param_groups[0])
    with pytest.raises(ValueError, match="optimizer: expected each parameter once, got one in two places"):
        run.fit(loader(), epochs=1)

    run = trainer(net())
    for parameter in run.model.parameters():
        parameter.requires_grad = False
    assert run.evaluate(loader()).accuracy is not None
    with pytest.raises(ValueError, match="optimizer: expected a parameter that is learned, but all that it holds"):
        run.fit(loader(), epochs=1)

    model, loss = net().to(np.float64).to("cpu").to(np.float32), Temperature()
    before = weights(model)
    part = training.Trainer(model, loss, optim.SGD(model[4].parameters(), 0.1))
    part.fit(loader(), epochs=1)
    assert "not trained, since the optimizer does not hold them: 1.weight, 1.bias, factor of the loss\n" in (
        capsys.readouterr().out)
    changed = {name for name, array in weights(model).items() if (array != before[name]).any()}
    assert changed == {"4.weight", "4.bias"}
    model[1].weight.requires_grad = model[1].bias.requires_grad = loss.factor.requires_grad = False
    part.fit(loader(), epochs=1)
    assert "not trained" not in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (lambda model, optimizer: (model, nn.CrossEntropyLoss, optimizer), "loss: expected a Module, got the class Cross"),
    (lambda model, optimizer: (model, optimizer, nn.CrossEntropyLoss()), "loss: expected a Module, got SGD"),
    (lambda model, optimizer: (model.forward, nn.MSELoss(), optimizer), "model: expected a Module, got method"),
    (lambda model, optimizer: (model, nn.MSELoss(), optim.SGD), "optimizer: expected an Optimizer, got the class SGD"),
])
def test_what_a_trainer_is_made_of(arguments, message):
    model = net()
    with pytest.raises(TypeError, match=message):
        training.Trainer(*arguments(model, optim.SGD(model.parameters(), 0.1)))
    with pytest.raises(TypeError, match="callbacks: expected a Callback, got the class WeightHistograms itself"):
        trainer(callbacks=[training.WeightHistograms])


# --- what is said before the first step ---


def normalizing(features=64):
    with random.seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def deep(size):
    """Batch normalization of images, at the end of one pixel each where they have 2 x 2."""
    with random.seeded(0):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Flatten(),
                             nn.Linear(4 * (size // 2) ** 2, 10))


class Plain:
    """A loader of one's own."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start_step=0):
        return self.loader.epoch(epoch, start_step)


@pytest.mark.parametrize("wrap", [lambda loader: loader, Plain])
@pytest.mark.parametrize(("model", "size", "count", "batch_size", "message"), [
    (normalizing, 8, 65, 32, r"its last batch, 3 of 3, has a single .*; leave it out \(drop_last=True\), or give an"),
    (normalizing, 8, 5, 1, "give another batch_size"),
    (normalizing, 8, 1, 8, "its only batch has a single sample, .*; give more samples"),
    (lambda: deep(2), 2, 65, 32, "its last batch, 3 of 3, has a single sample"),
    (lambda: deep(4), 4, 65, 32, None),
    (net, 8, 65, 32, None),
    (normalizing, 8, 66, 32, None),
])
def test_a_single_sample_that_cannot_be_normalized(tmp_path, wrap, model, size, count, batch_size, message):
    images = np.random.default_rng(0).standard_normal((count, 1, size, size)).astype(np.float32)
    batches = wrap(data.DataLoader((images, DIGITS.train.labels[:count]), batch_size))
    for folder in (None, tmp_path / "run"):
        run = trainer(model(), run_dir=folder)
        before = weights(run.model)
        if message is None:
            assert len(run.fit(batches, epochs=1)) == 1
            continue
        with pytest.raises(ValueError, match=f"train_loader: .*{message}"):
            run.fit(batches, epochs=1)
        assert_equal(weights(run.model), before)
        assert not list(tmp_path.iterdir())


def test_validation_takes_a_single_sample():
    assert trainer(normalizing()).fit(loader(64), loader(1, 1), epochs=1).records[0]["val_loss"] > 0


@pytest.mark.parametrize("given", [
    (DIGITS.train.images, DIGITS.train.labels), [DIGITS.train.images, DIGITS.train.labels], DIGITS.train,
    DIGITS.train.images, DIGITS, iter([1]), None, 3])
def test_what_is_no_loader(given):
    message = "expected a fastnn.data.DataLoader, or another object with .*; data.DataLoader.* makes one of NumPy"
    with pytest.raises(TypeError, match=f"train_loader: {message}"):
        trainer().fit(given, epochs=1)
    with pytest.raises(TypeError, match=f"^loader: {message}"):
        trainer().evaluate(given)
    if given is not None:
        with pytest.raises(TypeError, match=f"validation_loader: {message}"):
            trainer().fit(loader(), given, epochs=1)


@pytest.mark.peers
def test_torchs_loader_is_none():
    torch = pytest.importorskip("torch.utils.data")
    with pytest.raises(TypeError, match=r"train_loader: expected a fastnn.data.DataLoader, .* got torch\.utils\.data"):
        trainer().fit(torch.DataLoader([1, 2, 3], 2), epochs=1)


IMAGES, LABELS = np.zeros((8, 1, 8, 8), np.float32), np.arange(8)


@pytest.mark.parametrize(("arrays", "message"), [
    ((np.zeros((8, 3, 8, 8), np.float32), LABELS), r"expected 64 features .* got shape \(4, 192\)"),
    ((np.zeros((8, 1, 9, 9), np.float32), LABELS), "expected 64 features"),
    ((IMAGES.astype(np.float64), LABELS), "float64"),
    ((IMAGES, LABELS + 5), "labels: expected labels from 0 to 9 for 10 classes, got 1[0-2]"),
    ((IMAGES, LABELS - 1), "labels: expected labels from 0 to 9 for 10 classes, got -1"),
    ((np.tile(IMAGES, (2, 1, 1, 1)), np.repeat([10, 3], 8)), "labels: expected labels from 0 to 9 .*, got 10"),
    ((np.tile(IMAGES, (2, 1, 1, 1)), np.repeat([3, -1], 8)), "labels: expected labels from 0 to 9 .*, got -1"),
    ((IMAGES, np.zeros((8, 3), np.float32)), "labels: expected"),
    ((IMAGES,), "loader: expected batches that are tuples of the model's inputs and the targets, got 1"),
    ((IMAGES, IMAGES, LABELS), "takes|argument"),
])
def test_data_that_do_not_fit_are_refused_before_the_first_step(tmp_path, arrays, message):
    run = trainer(run_dir=tmp_path / "run")
    before = weights(run.model)
    wrong = data.DataLoader(arrays, 4, shuffle=False)
    for loaders, name in (((wrong, None), "train_loader"), ((loader(), wrong), "validation_loader")):
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            run.fit(*loaders, epochs=1)
        assert f"of {name}, tried before the first step" in caught.value.__notes__[-1]
        assert not list(tmp_path.iterdir())
        assert_equal(weights(run.model), before)


class Centers(nn.Module):
    """The squared distance of each point to the learned centre of its class, of which there may be any number."""

    def __init__(self, classes, features):
        self.centers = nn.Parameter(np.zeros((classes, features), np.float32))

    def forward(self, points, labels, *, training=True):
        difference = points - self.centers.data[labels]

        def backward(grad=1.0):
            grad = (2 * grad / len(points)) * difference
            centers = np.zeros_like(self.centers.data)
            np.add.at(centers, labels, -grad)
            self.centers.accumulate(centers)
            return grad

        return (difference ** 2).sum() / len(points), backward


def test_labels_that_are_no_places_of_scores():
    with random.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    loss = Centers(10, 2)
    run = training.Trainer(model, loss, optim.SGD([*model.parameters(), *loss.parameters()], 0.01), progress=False)
    history = run.fit(loader(), loader(), epochs=2)
    assert history["val_loss"][1] < history["val_loss"][0]
    assert run.evaluate(loader()).confusion is None


def test_what_is_tried_before_the_first_step_leaves_no_trace():
    """Neither in running statistics, nor in a loss, nor in what is drawn."""
    model = normalizing()
    with random.seeded(0):
        reference = normalizing()
    run = training.Trainer(model, Temperature(), optim.SGD(model.parameters(), 0.1), progress=False)
    before = weights(model), weights(run.loss)
    Trial(run._parts, run.device, run.seed).run(loader(), loader())
    assert_equal(weights(model), before[0])
    assert_equal(weights(run.loss), before[1])
    assert_equal(weights(reference), before[0])
    assert all(parameter.grad is None for parameter in model.parameters())


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


def test_data_that_are_not_finite_are_blamed():
    images, labels = next(loader(batch_size=96).epoch(0))
    images[40, 0, 2, 2] = np.nan
    sick = data.DataLoader((images, labels), 32)
    with pytest.raises(training.DivergedError, match=r"the inputs of this batch are not finite themselves: mend the "
                                                     r"data \(sample 40 of the loader's arrays\)"):
        trainer().fit(sick, epochs=1)
    with pytest.raises(training.DivergedError, match=r"the validation loss is nan in epoch 1 after 3 of 3 steps .*: "
                                                     r"the inputs of validation batch 2 are .* \(sample 40 of the"):
        trainer().fit(loader(), sick, epochs=1)
    with pytest.raises(training.DivergedError, match=r"the inputs of validation batch \d are .* \(sample \d+ of it\)"):
        trainer().fit(loader(), Plain(sick), epochs=1)

    def spoil(batch, rng):
        return np.where(batch > 1, np.inf, batch).astype(np.float32)

    with pytest.raises(training.DivergedError, match=r"the inputs of this batch .*: mend the transform"):
        trainer().fit(data.DataLoader((images[:32], labels[:32]), 32, transform=spoil), epochs=1)

    x = np.ones((4, 2), np.float32)
    y = np.array([[1], [2], [np.inf], [3]], np.float32)
    model = TwoInputs()
    run = training.Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), progress=False)
    with pytest.raises(training.DivergedError, match=r"the targets .*: mend the data \(array 2, sample 2 of the load"):
        run.fit(data.DataLoader((np.ones((4, 3), np.float32), np.ones((4, 4), np.float32), y + 0 * x), 4), epochs=1)


def test_a_model_that_overflows_in_validation_alone_is_not_blamed_on_the_data():
    images, labels = next(loader(batch_size=96).epoch(0))
    run = trainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10)))
    with np.errstate(all="ignore"), pytest.raises(training.DivergedError, match=r"the validation loss .* lower lear"):
        run.fit(loader(), data.DataLoader((images * np.float32(1e38), labels), 32), epochs=1)


class Spoil(training.Callback):
    """Breaks something in the last step of the second epoch."""

    def __init__(self, what):
        self.what = what

    def on_step_end(self, trainer, loss):
        if trainer._state.updates == 6:
            self.what(trainer)


def spoil_parameter(trainer):
    trainer.model[1].weight.data[0, 0] = np.nan


def spoil_statistics(trainer):
    trainer.model[2].running_var = trainer.model[2].running_var * np.float32(np.inf)


def spoil_moment(trainer):
    trainer.optimizer._states[0]["exp_avg_sq"][0, 0] = np.inf


def spoil_size(trainer):
    for parameter in trainer.model.parameters():
        parameter.data *= np.float32(1e30)


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize(("what", "message"), [
    (spoil_parameter, r"1\.weight is not finite"),
    (spoil_statistics, r"2\.running_var is not finite"),
    (spoil_moment, r"the optimizer's exp_avg_sq for 1\.weight is not finite"),
    (spoil_size, r"the loss of the last batch is (nan|inf) after its update,"),
])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_a_last_step_breaks_is_not_saved(tmp_path, validated, what, message):
    """Whatever it is, the checkpoint before stays, and the message says so; without a folder, too, it is an error."""
    def run(what, **options):
        model = normalizing()
        return training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), progress=False,
                                callbacks=[Spoil(what)], **options)

    fit = {"validation_loader": loader(), "epochs": 2} if validated else {"epochs": 2}

    class Keep(training.Callback):
        def on_epoch_begin(self, trainer, epoch):
            if epoch == 1:
                self.files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}

    broken, keep = run(what, run_dir=tmp_path), Keep()
    broken.callbacks.append(keep)
    with pytest.raises(training.DivergedError, match=f"^{message} in epoch 2 after 3 of 3 steps .*: try a") as caught:
        broken.fit(loader(), **fit)
    assert str(caught.value).endswith(f"{tmp_path / 'last.safetensors'} is as it was")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == keep.files
    if what is not spoil_size:
        with pytest.raises(training.DivergedError, match=message):
            run(what).fit(loader(), **fit)
    resumed, whole = run(lambda trainer: None, run_dir=tmp_path), run(lambda trainer: None)
    resumed.fit(loader(), **fit, resume=True)
    whole.fit(loader(), **fit)
    assert_equal(weights(resumed.model), weights(whole.model))


def test_a_rate_that_is_far_too_high_leaves_the_first_checkpoint(tmp_path):
    for place, (count, epochs) in enumerate([(32, 1), (32, 2), (96, 1)]):
        run = trainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10)), lr=1e30,
                      run_dir=tmp_path / str(place))
        before = weights(run.model)
        with np.errstate(all="ignore"), pytest.raises(training.DivergedError, match="is as it was"):
            run.fit(loader(count), epochs=epochs)
        tensors, metadata = training.load(tmp_path / str(place) / "last.safetensors")
        assert_equal(training.checkpoint.part(tensors, "model"), before)
        assert metadata["state"]["epoch"] == 0


@pytest.mark.skipif(os.name != "posix", reason="signals to oneself")
def test_what_a_step_breaks_is_not_saved_on_ctrl_c(tmp_path):
    run = trainer(run_dir=tmp_path, callbacks=[Spoil(spoil_parameter), PressCtrlC("on_step_end", 6)])
    with pytest.raises(training.DivergedError, match=r"1\.weight is not finite in epoch 2 after 3 of 3 steps"):
        run.fit(loader(), epochs=3)
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["epoch"] == 1


def test_weights_that_are_not_finite_from_the_start(tmp_path):
    run = trainer(run_dir=tmp_path / "run")
    run.model[4].bias.data[3] = np.inf
    with pytest.raises(ValueError, match=r"model: expected finite weights to begin with, but 4\.bias is not finite"):
        run.fit(loader(), epochs=1)
    assert not list(tmp_path.iterdir())


# --- wrong arguments, and what is shown ---


@pytest.mark.parametrize(("options", "message"), [
    ({"seed": -1}, "seed: expected at least 0, got -1"),
    ({"clip_norm": 0}, "clip_norm: expected a number above 0 or None, got 0"),
    ({"clip_value": float("nan")}, "clip_value: expected a number above 0 or None, got nan"),
    ({"clip_norm": "1"}, "clip_norm: expected a number above 0 or None, got '1'"),
    ({"seed": 1.5}, "seed: expected an integer, got 1.5"),
    ({"run_dir": 3}, "run_dir: expected a path, got int"),
    ({"device": ["cpu"]}, "device: expected one of cpu, cuda"),
    ({"schedule": 0.1}, "schedule: expected a function of the epochs done, or None, got 0.1"),
    ({"callbacks": training.EarlyStopping(3)}, "callbacks: expected a list of them, got an EarlyStopping"),
])
def test_wrong_options_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        trainer(**options)


@pytest.mark.parametrize("factor", [None, "1", float("nan"), -1.0])
def test_what_a_schedule_gives_is_seen_before_anything_is_written(factor, tmp_path):
    with pytest.raises((TypeError, ValueError), match="schedule: expected a number"):
        trainer(schedule=lambda epoch: factor, run_dir=tmp_path / "run").fit(loader(), epochs=1)
    assert not list(tmp_path.iterdir())


def test_a_schedule_is_not_asked_about_epochs_that_will_not_be(tmp_path):
    factors = [1.0, 0.5]
    for resume in (False, True):
        run = trainer(schedule=lambda epoch: factors[int(epoch)], run_dir=tmp_path / "run")
        assert len(run.fit(loader(), epochs=2, resume=resume)) == 2


def test_a_trainer_can_be_copied_after_its_run(tmp_path):
    run = trainer(run_dir=tmp_path / "run")
    run.fit(loader(), epochs=1)
    assert_equal(weights(copy.deepcopy(run).model), weights(run.model))


def test_a_config_that_json_cannot_hold_is_refused():
    for value in (np.ones(2), float("inf"), print):
        with pytest.raises(TypeError, match="config: expected values that JSON holds"):
            trainer(config={"value": value})


def test_wrong_arguments_of_fit_are_refused():
    with pytest.raises(ValueError, match="epochs: expected at least 1, got 0"):
        trainer().fit(loader(), epochs=0)
    for epochs in (2.5, "2", None, True):
        with pytest.raises(TypeError, match="epochs: expected an integer, got"):
            trainer().fit(loader(), epochs=epochs)

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
    assert out[1:] == [f"saving a run needs safetensors: run {install('train')}"]
    assert not (tmp_path / "run").exists()


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_goes_on_without_its_terminal(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, stream, Gone())
    model = nn.Linear(3, 2)
    trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1))
    history = trainer.fit(data.DataLoader((np.ones((4, 3), np.float32), np.zeros(4, int)), 2), epochs=3)
    assert len(history) == 3
