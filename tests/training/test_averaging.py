"""Averages of weights: by their formulas, where they are seen, and over a run that is interrupted."""

import signal
import sys

import numpy as np
import pytest

from fastnn import data, nn, optim, random, training

DIGITS = data.digits()
AVERAGING = [lambda: training.ExponentialMovingAverage(0.9), lambda: training.Lookahead(3, lambda t: 0.5 + 1 / (t + 2))]


def loader(count=96, **options):
    part = data.Split(DIGITS.train.images[:count], DIGITS.train.labels[:count])
    return data.DataLoader(part, 32, transform=data.Normalize(0.3, 0.4, DIGITS.scale), **options)


def trainer(*callbacks, run_dir=None):
    with random.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    return training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.02), callbacks=callbacks,
                            run_dir=run_dir, progress=False)


class Weights(training.Callback):
    """Notes the model's arrays at each hook."""

    def __init__(self):
        self.begin, self.steps, self.epochs = [], [], []

    def on_epoch_begin(self, trainer, epoch):
        self.begin.append(trainer.model.state_dict())

    def on_step_end(self, trainer, loss):
        self.steps.append(trainer.model.state_dict())

    def on_epoch_end(self, trainer, record):
        self.epochs.append(trainer.model.state_dict())


def assert_same(some, others, **tolerance):
    assert some.keys() == others.keys()
    for name, array in some.items():
        if tolerance:
            np.testing.assert_allclose(array, others[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(array, others[name], err_msg=name, strict=True)


def floats(state):
    return {name: array.astype(np.float64) for name, array in state.items() if array.dtype == np.float32}


def test_a_moving_average_is_its_formula_and_changes_no_step(tmp_path):
    plain, noted = Weights(), Weights()
    trainer(plain).fit(loader(), loader(), epochs=3)
    run = trainer(training.ExponentialMovingAverage(0.8), noted, run_dir=tmp_path)
    run.fit(loader(), loader(), epochs=3)
    assert len(plain.steps) == len(noted.steps) == 9
    for ours, theirs in zip(plain.begin + plain.steps, noted.begin + noted.steps, strict=True):
        assert_same(ours, theirs)
    average = floats(plain.begin[0])
    for t, weights in enumerate(plain.steps, 1):
        decay = min(0.8, (1 + t) / (10 + t))
        average = {name: decay * average[name] + (1 - decay) * array for name, array in floats(weights).items()}
        if t % 3 == 0:
            assert_same(floats(noted.epochs[t // 3 - 1]), average, rtol=1e-5, atol=1e-6)
            assert noted.epochs[t // 3 - 1]["2.num_batches_tracked"] == t
    assert_same(run.model.state_dict(), noted.epochs[-1])
    best = int(np.argmax([(r["val_accuracy"], -r["val_loss"]) for r in run.history.records], axis=0)[0])
    assert_same(training.checkpoint.part(training.load(tmp_path / "best.safetensors")[0], "model"), noted.epochs[best])


def test_what_is_validated_is_the_average():
    run = trainer(training.ExponentialMovingAverage(0.9))
    history = run.fit(loader(), loader(), epochs=2)
    assert run.evaluate(loader()).loss == history["val_loss"][-1]
    assert trainer().fit(loader(), loader(), epochs=2)["val_loss"][-1] != history["val_loss"][-1]


def test_lookahead_is_its_formula():
    noted, shares = Weights(), []

    def alpha(t):
        shares.append((t, 1 / (1 + t)))
        return shares[-1][1]

    # Before and after it: the weights of a step, and what has become of them.
    before = Weights()
    run = trainer(before, training.Lookahead(2, alpha), noted)
    run.fit(loader(), epochs=3)
    assert shares == [(2, 1 / 3), (4, 1 / 5), (6, 1 / 7), (8, 1 / 9)]
    slow = floats(before.begin[0])
    for t, (fast, weights) in enumerate(zip(before.steps, noted.steps, strict=True), 1):
        if t % 2:
            assert_same(fast, weights)
        else:
            slow = {name: slow[name] + (array - slow[name]) / (1 + t) for name, array in floats(fast).items()}
            assert_same(floats(weights), slow, rtol=1e-5, atol=1e-6)
        if t % 3 == 0:
            assert_same(floats(noted.epochs[t // 3 - 1]), slow, rtol=1e-5, atol=1e-6)
    assert_same(noted.begin[1], noted.steps[2])


class Signals(training.Callback):
    """Asks for the run's end at a step, or in the validation after it."""

    def __init__(self, at_step, validating):
        self.steps, self.at_step, self.validating = 0, at_step, validating

    def on_step_end(self, trainer, loss):
        self.steps += 1
        if self.steps == self.at_step and not self.validating:
            signal.raise_signal(signal.SIGINT)

    def on_steps_end(self, trainer):
        if self.steps == self.at_step and self.validating:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
@pytest.mark.parametrize("averaging", AVERAGING)
@pytest.mark.parametrize(("at_step", "validating"), [(1, False), (3, False), (3, True), (5, False), (6, True)])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, averaging, at_step, validating):
    trainer(averaging(), run_dir=tmp_path / "whole").fit(loader(), loader(), epochs=3)
    with pytest.raises(training.Interrupted):
        trainer(averaging(), Signals(at_step, validating), run_dir=tmp_path / "cut").fit(loader(), loader(), epochs=3)
    trainer(averaging(), run_dir=tmp_path / "cut").fit(loader(), loader(), epochs=3, resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        assert_same(*(training.load(tmp_path / folder / name)[0] for folder in ("whole", "cut")))


@pytest.mark.parametrize("averaging", AVERAGING)
def test_a_finished_run_can_be_made_longer_and_a_new_one_begins_anew(tmp_path, averaging):
    trainer(averaging(), run_dir=tmp_path / "whole").fit(loader(), epochs=3)
    run = trainer(averaging(), run_dir=tmp_path / "longer")
    run.fit(loader(), epochs=1)
    run.fit(loader(), epochs=3, resume=True)
    whole, longer = (training.load(tmp_path / folder / "last.safetensors")[0] for folder in ("whole", "longer"))
    assert_same(whole, longer)

    callback = averaging()
    for _ in range(2):
        run = trainer(callback)
        run.fit(loader(), epochs=3)
        assert_same(run.model.state_dict(), training.checkpoint.part(whole, "model"))


def test_parameters_of_a_loss_and_those_with_two_names():
    class Scaled(nn.Module):
        def __init__(self, shared):
            self.loss, self.shared = nn.CrossEntropyLoss(), shared

        def forward(self, scores, labels, *, training=True):
            loss, loss_backward = self.loss.forward(scores, labels)
            factor = self.shared.data

            def backward(grad=1.0):
                self.shared.accumulate(np.ones_like(factor))
                return loss_backward(grad)

            return loss + factor.sum(), backward

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = optim.SGD([*model.parameters()], 0.1)
    noted = Weights()
    loss = Scaled(model[1].bias)
    own = nn.Parameter(np.zeros(2, np.float32))
    loss.own = own
    run = training.Trainer(model, loss, optimizer, callbacks=[training.ExponentialMovingAverage(0.5), noted],
                           progress=False)
    before = model.state_dict()
    run.fit(loader(32), epochs=1)
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(array, before[name] * 2 / 11 + noted.steps[0][name] * 9 / 11, rtol=1e-5, atol=1e-7)
    run.callbacks[0].on_epoch_begin(run, 1)
    assert_same(model.state_dict(), noted.steps[0])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: training.ExponentialMovingAverage(1), "decay: expected a number below 1, got 1"),
    (lambda: training.ExponentialMovingAverage(-0.1), "decay: expected a number from 0 to inf, got -0.1"),
    (lambda: training.Lookahead(0), "k: expected at least 1, got 0"),
    (lambda: training.Lookahead(5, 1.5), "alpha: expected a number from 0 to 1, got 1.5"),
    (lambda: training.Lookahead(5, "a"), "alpha: expected a number, got 'a'"),
    (lambda: trainer(training.Lookahead(1, lambda t: 2)).fit(loader(), epochs=1), "alpha: expected .* 0 to 1, got 2"),
])
def test_wrong_options(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_two_that_average_are_refused_before_anything_is_written(tmp_path):
    run = trainer(training.Lookahead(), training.ExponentialMovingAverage(), run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="callbacks: expected at most one that averages weights, got Lookahead, Exp"):
        run.fit(loader(), epochs=1)
    assert not (tmp_path / "run").exists()


def test_a_state_of_another_model_is_refused():
    callback = training.Lookahead()
    run = trainer(callback)
    run.fit(loader(), epochs=1)
    state = callback.state_dict()
    callback.load_state_dict({**state, "kept.model.1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r"state does not fit Lookahead.*mismatched: model\.1\.weight"):
        callback.on_fit_begin(run)
