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
        "on_fit_begin", "on_checkpoint", "on_epoch_begin", *steps, "on_validation_end", "on_epoch_end",
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


def test_a_figure_that_is_not_measured_is_named():
    with pytest.raises(ValueError, match=r"monitor: val_loss is not measured .* monitor one of epoch, .*train_loss"):
        trainer(training.EarlyStopping(1)).fit(loader(), epochs=1)


@pytest.mark.parametrize(("options", "message"), [
    ({"patience": 0}, "patience: expected at least 1 epoch, got 0"),
    ({"patience": 1, "min_delta": -1}, "min_delta: expected at least 0, got -1"),
])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        training.EarlyStopping(**options)


def test_the_reason_is_printed(capsys):
    run = trainer(Scripted("val_loss", [1, 2]), training.EarlyStopping(1))
    run.progress = True
    run.fit(loader(), epochs=2)
    assert "stopped after epoch 2: val_loss has not improved for 1 epochs" in capsys.readouterr().out
