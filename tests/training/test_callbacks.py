import fractions
import json

import numpy as np
import pytest

from fastnn import data, nn, optim, random, training

DIGITS = data.digits()


def loader(count=64, batch_size=32, **options):
    part = data.Split(DIGITS.train.images[:count], DIGITS.train.labels[:count])
    return data.DataLoader(part, batch_size, transform=data.Normalize(0.3, 0.4, DIGITS.scale), **options)


def trainer(*callbacks, run_dir=None, seed=0):
    with random.seeded(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return training.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), callbacks=callbacks,
                            run_dir=run_dir, progress=False)


class Scripted(training.Callback):
    """Puts given figures into the records, and notes the weights of each epoch."""

    def __init__(self, name, values):
        self.name, self.values, self.weights = name, values, []

    def on_epoch_end(self, trainer, record):
        record[self.name] = self.values[record["epoch"] - 1]
        self.weights.append(trainer.model[1].weight.data.copy())


class Notes(training.Callback):
    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda trainer, *args: self.calls.append((name, *args))
        return super().__getattribute__(name)


def test_the_hooks_and_their_order(tmp_path):
    notes = Notes()
    run = trainer(notes, run_dir=tmp_path)
    run.fit(loader(), loader(), epochs=1)
    steps = ["on_gradients", "on_step_end"] * 2
    assert [name for name, *_ in notes.calls] == [
        "on_fit_begin", "on_checkpoint", "on_epoch_begin", *steps, "on_steps_end", "on_validation_end", "on_epoch_end",
        "on_checkpoint", "on_checkpoint", "on_fit_end"]
    arguments = {name: args for name, *args in notes.calls}
    assert arguments["on_epoch_begin"] == [0]
    assert isinstance(arguments["on_step_end"][0], float)
    assert isinstance(arguments["on_validation_end"][0], training.Evaluation)
    assert arguments["on_epoch_end"][0] is run.history.records[0]
    assert [args[0].name for name, *args in notes.calls if name == "on_checkpoint"] == [
        "last.safetensors", "best.safetensors", "last.safetensors"]


def test_a_callback_may_change_gradients_and_add_to_the_record(tmp_path):
    class Freeze(training.Callback):
        def on_gradients(self, trainer):
            for parameter in trainer.model.parameters():
                assert (parameter.grad != 0).any()
                parameter.grad[...] = 0

        def on_epoch_end(self, trainer, record):
            record["note"] = 7

    run = trainer(Freeze(), run_dir=tmp_path)
    before = run.model.state_dict()
    run.fit(loader(), epochs=1)
    for name, tensor in run.model.state_dict().items():
        np.testing.assert_array_equal(tensor, before[name])
    assert training.History.read(tmp_path)["note"] == [7]


@pytest.mark.parametrize(("values", "options", "epochs"), [
    ([5, 4, 3, 2, 1, 0], {"patience": 1}, 6),
    ([5, 4, 4, 4, 4, 4], {"patience": 1}, 3),
    ([5, 4, 6, 6, 6, 6], {"patience": 3}, 5),
    ([5, 4, 6, 3, 6, 6], {"patience": 2}, 6),
    ([5, 4.9, 4.8, 4.7, 4.6, 0], {"patience": 2, "min_delta": 0.5}, 3),
    ([5, 4.9, 4.4, 4.3, 4.2, 0], {"patience": 2, "min_delta": 0.5}, 5),
])
def test_early_stopping(values, options, epochs):
    scripted = Scripted("val_loss", values)
    history = trainer(scripted, training.EarlyStopping(**options)).fit(loader(), epochs=6)
    assert history["val_loss"].tolist() == values[:epochs]


def test_accuracies_shall_rise():
    scripted = Scripted("val_accuracy", [0.1, 0.2, 0.15, 0.2, 0.1])
    history = trainer(scripted, training.EarlyStopping(2, monitor="val_accuracy")).fit(loader(), epochs=5)
    assert len(history) == 4


@pytest.mark.parametrize(("monitor", "mode", "rises"), [
    *((f"val_{name}", "auto", True) for name in ("accuracy", "acc", "f1", "f1_macro", "auc", "recall", "precision@5")),
    ("top5-accuracy", "auto", True), ("ROC_AUC", "auto", True),
    *((f"val_{name}", "auto", False) for name in ("loss", "error", "top5_error", "perplexity", "rmse", "mae")),
    ("val_cost", "min", False), ("val_cost", "max", True), ("val_accuracy", "min", False), ("val_loss", "max", True),
])
def test_whether_a_figure_shall_rise_or_fall(monitor, mode, rises):
    for values, epochs in (([1, 2, 3, 2, 2, 2], 5 if rises else 3), ([3, 2, 1, 2, 2, 2], 3 if rises else 5)):
        stopping = training.EarlyStopping(2, monitor=monitor, mode=mode, restore_best=True)
        scripted = Scripted(monitor, values)
        run = trainer(scripted, stopping)
        assert len(run.fit(loader(), epochs=6)) == epochs
        np.testing.assert_array_equal(run.model[1].weight.data, scripted.weights[epochs - 3])


@pytest.mark.parametrize("monitor", ["val_score", "lr", "val_glossary", "accuracy_loss", "error_of_f1", "step"])
def test_a_name_that_does_not_decide_is_an_error_before_training(monitor):
    with pytest.raises(ValueError, match=f"mode: expected min or max, since the name {monitor} does not say whether"):
        training.EarlyStopping(2, monitor=monitor)
    assert training.EarlyStopping(2, monitor=monitor, mode="max").mode == "max"


def test_an_epoch_without_a_value_is_no_improvement():
    values = [0.1, 0.2, None, None, 0.3]
    assert len(trainer(Scripted("f1", values), training.EarlyStopping(2, monitor="f1")).fit(loader(), epochs=5)) == 4


NUMBERS = [1, 0.5, True, np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5), np.int8(-3),
           np.uint64(2**63), np.bool_(True), np.array(0.5, np.float32), np.array(3), np.array(False),
           fractions.Fraction(1, 2), None]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_figures_are_written_as_plain_numbers(tmp_path, value):
    history = trainer(Scripted("figure", [value]), run_dir=tmp_path).fit(loader(), epochs=1)
    written = json.loads((tmp_path / "metrics.jsonl").read_text())["figure"]
    assert type(written) in (int, float, type(None))
    assert written == history.records[0]["figure"] == (None if value is None else value)
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["records"] == history.records
    assert training.History.read(tmp_path).records == history.records


@pytest.mark.parametrize("name", ["figure", "train_loss", "lr"])
@pytest.mark.parametrize(("value", "error", "message"), [
    *((value, ValueError, "(nan|-?inf|1000.*): expected a finite number, or None where it has no value")
      for value in (float("nan"), np.float32(np.inf), np.array(-np.inf), np.float64("nan"), 10**400)),
    *((value, TypeError, ".*: expected a number, or None where there is none")
      for value in ("0.5", np.ones(1), np.ones(2), [0.5], {"a": 1}, 1j, np.complex64(1), np.str_("1"), object(),
                    np.datetime64("2020-01-01", "ns"), np.timedelta64(1, "ns"), np.array("x"), b"1")),
])
def test_what_is_no_figure_is_named_with_its_callback(tmp_path, name, value, error, message):
    """At once: no later callback sees it, and nothing of the epoch is written."""
    notes = Notes()
    run = trainer(Scripted(name, [1, value]), notes, run_dir=tmp_path)
    with pytest.raises(error, match=f"^Scripted gave the record of epoch 2 the figure {name} = {message}"):
        run.fit(loader(), epochs=3)
    assert [call for call, *_ in notes.calls].count("on_epoch_end") == 1
    assert len(training.History.read(tmp_path)) == 1
    assert training.load(tmp_path / "last.safetensors")[1]["state"]["epoch"] == 1


def test_a_figure_without_a_name():
    with pytest.raises(TypeError, match="Scripted gave the record of epoch 1 a figure named 3: expected a string"):
        trainer(Scripted(3, [1])).fit(loader(), epochs=1)


def test_the_best_weights_come_back_on_request():
    for restore in (False, True):
        scripted = Scripted("val_loss", [3, 1, 2, 2, 2])
        run = trainer(scripted, training.EarlyStopping(2, restore_best=restore))
        run.fit(loader(), epochs=5)
        assert len(scripted.weights) == 4
        expected = scripted.weights[1 if restore else 3]
        np.testing.assert_array_equal(run.model[1].weight.data, expected)


def test_early_stopping_goes_on_where_it_was(tmp_path):
    values = [3, 1, 2, 2, 2, 2]

    def parts():
        return Scripted("val_loss", values), training.EarlyStopping(3, restore_best=True)

    first = parts()
    trainer(*first, run_dir=tmp_path).fit(loader(), epochs=3)
    second = parts()
    run = trainer(*second, run_dir=tmp_path, seed=1)
    history = run.fit(loader(), epochs=6, resume=True)
    assert history["val_loss"].tolist() == values[:5]
    assert second[1].best == 1
    np.testing.assert_array_equal(run.model[1].weight.data, first[0].weights[1])

    third = parts()
    run = trainer(*third, run_dir=tmp_path, seed=2)
    assert len(run.fit(loader(), epochs=6, resume=True)) == 5, "a run that was stopped early stays so"
    np.testing.assert_array_equal(run.model[1].weight.data, first[0].weights[1])

    patient = Scripted("val_loss", values), training.EarlyStopping(4)
    assert len(trainer(*patient, run_dir=tmp_path).fit(loader(), epochs=6, resume=True)) == 6


def test_early_stopping_begins_anew_with_a_new_run():
    stopping = training.EarlyStopping(1)
    for _ in range(2):
        history = trainer(Scripted("val_loss", [1, 2, 3]), stopping).fit(loader(), epochs=3)
        assert len(history) == 2


@pytest.mark.parametrize(("callbacks", "steps"), [
    ([training.EarlyStopping(1)], 0),
    ([training.WeightHistograms(), training.EarlyStopping(1)], 0),
    ([training.EarlyStopping(1), Scripted("val_loss", [1])], 0),        # which measures it too late
    ([Scripted("val_f1", [1]), training.EarlyStopping(1)], 1),          # which might have measured it
])
def test_a_figure_that_is_not_measured_is_named(callbacks, steps):
    run = trainer(*callbacks)
    with pytest.raises(ValueError, match=r"monitor: val_loss is not measured .* monitor one of epoch, .*train_loss"):
        run.fit(loader(), epochs=1)
    assert (run._state.updates > 0) == (steps > 0)


@pytest.mark.parametrize(("options", "message"), [
    ({"patience": 0}, "patience: expected at least 1, got 0"),
    ({"patience": "3"}, "patience: expected an integer, got '3'"),
    ({"patience": 1, "min_delta": -1}, "min_delta: expected a number from 0 to inf, got -1"),
    ({"patience": 1, "monitor": None}, "monitor: expected the name of a figure, got None"),
    ({"patience": 1, "mode": "maximum"}, "mode: expected one of auto, min, max, got 'maximum'"),
])
def test_wrong_options_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        training.EarlyStopping(**options)


def test_the_reason_is_printed(capsys):
    run = trainer(Scripted("val_loss", [1, 2]), training.EarlyStopping(1))
    run.progress = True
    run.fit(loader(), epochs=2)
    assert "stopped after epoch 2: val_loss has not improved for 1 epochs" in capsys.readouterr().out
