"""The recipes of deep convolutional networks: their schedules and options, and what a run that was stopped ends as."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import data, models, nn, optim, recipes, training
from fastnn.data import Dataset, Split
from fastnn.nn import Module
from fastnn.recipes import RECIPES

REAL = data.cifar10
SMALL: dict[str, dict[str, Any]] = {
    "resnet-cifar10": {"width": 2, "lr": 0.02},
    "allcnn-cifar10": {"width": 4},
    "depthwise-cifar10": {"width": 2},
    "cifar10-speedrun": {"width": 2},
}
SHORT_OR_FULL = [name for name in SMALL if issubclass(RECIPES[name], recipes.ShortOrFull)]


@pytest.fixture(autouse=True)
def small_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, CIFAR-10 has 130 images of noise, whose class is their colour."""
    monkeypatch.chdir(tmp_path)
    labels = np.tile(np.arange(10), 13)
    colours = np.stack([labels // 9, labels // 3 % 3, labels % 3], 1)[:, :, None, None]
    noise = np.random.default_rng(0).integers(0, 60, (130, 3, 32, 32))
    images = (noise + 60 * colours).astype(np.uint8)
    dataset = Dataset(Split(images[:100], labels[:100]), Split(images[100:], labels[100:]), tuple("abcdefghij"),
                      "cifar10")
    monkeypatch.setattr(data, "cifar10", lambda folder: dataset)


def recipe(name: str, **options: Any) -> Any:
    return RECIPES[name](batch_size=20, **{"epochs": 2, **SMALL[name], **options})


class Stop(training.Callback):
    """In the middle of the second epoch, a signal, or the end of the process without a word."""

    def __init__(self, killed: bool) -> None:
        self.killed = killed

    def on_step_end(self, trainer: training.Trainer, loss: float) -> None:
        if trainer._state.updates == 7:
            if self.killed:
                raise SystemExit
            trainer._interrupts.requested = signal.SIGINT


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_a_run_stopped_within_an_epoch_ends_as_one_that_never_was(name: str, killed: bool) -> None:
    whole, stopped = Path("whole"), Path("stopped")
    trainer, *_ = recipe(name, run_dir=whole).fit(progress=False)
    with pytest.raises((training.Interrupted, SystemExit)):
        recipe(name, run_dir=stopped).fit(callbacks=[Stop(killed)], progress=False)
    state = training.load(stopped / "last.safetensors")[1]["state"]
    assert (state["epoch"], state["step"]) == (1, 0 if killed else 2)
    resumed, *_ = recipe(name, run_dir=stopped, resume=True).fit(progress=False)
    assert resumed._state.updates == trainer._state.updates == 10
    for file in ({path.name for path in whole.glob("*.safetensors")}):
        ours, theirs = training.load(stopped / file)[0], training.load(whole / file)[0]
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{file}: {key}", strict=True)


@pytest.mark.parametrize("name", SMALL)
def test_a_run_is_evaluated_and_predicts(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    recipe(name, run_dir="run").run()
    accuracy = capsys.readouterr().out.splitlines()[-1]
    found = recipes.load("run")
    found.evaluate()
    assert capsys.readouterr().out.splitlines()[-1] == accuracy
    photograph = data.cifar10(None).test.images[3]
    image.fromarray(photograph.transpose(1, 2, 0)).save("photograph.png")
    found.predict("photograph.png", top=10)
    shares = dict(part.split()[:2] for part in capsys.readouterr().out.partition(": ")[2].split(", "))
    model, inputs = found.trained()
    scores = found.measured(model)(data.to_float(photograph[None], inputs["mean"], inputs["std"]))
    expected = 100 * np.exp(scores[0]) / np.exp(scores[0]).sum()
    np.testing.assert_allclose([float(shares[letter]) for letter in "abcdefghij"], expected, atol=0.06)


# --- schedules ---


@pytest.mark.parametrize("name", SHORT_OR_FULL)
def test_the_short_schedule_is_one_cycle_and_the_full_one_falls_in_steps(name: str) -> None:
    short, full = RECIPES[name](), RECIPES[name](schedule="full")
    for one in (short, full):
        one.check()
    assert short.epochs < full.epochs == 100
    factor = short.make_schedule()
    assert factor(0) < factor(0.3 * short.epochs) == 1 > factor(short.epochs)
    factor = full.make_schedule()
    falls = [epoch for epoch in range(100) if epoch and factor(epoch) < factor(epoch - 1)]
    assert falls == ([40, 80] if name == "allcnn-cifar10" else [50, 75])
    assert [factor(0), factor(99)] == pytest.approx([1, 0.01])


@pytest.mark.parametrize("name", SHORT_OR_FULL)
def test_another_number_of_epochs_stretches_the_schedule(name: str) -> None:
    stretched, full = RECIPES[name](schedule="full", epochs=20), RECIPES[name](schedule="full")
    for one in (stretched, full):
        one.check()
    assert [stretched.make_schedule()(t) for t in range(20)] == [full.make_schedule()(5 * t) for t in range(20)]
    assert stretched.command() == f"fastnn train {name} --epochs 20 --schedule full"
    assert full.command() == f"fastnn train {name} --schedule full"


def test_a_run_keeps_the_number_of_epochs_that_its_schedule_has() -> None:
    one = recipe("allcnn-cifar10", epochs=-1)
    one.of_schedule = {"short": {"epochs": 1}, "full": {"epochs": 3}}
    one.run_dir = Path("run")
    one.fit(progress=False)
    assert recipes.load("run").epochs == 1


@pytest.mark.parametrize(("options", "optimizer", "lr", "weight_decay"), [
    ({}, optim.SGD, 0.1, 5e-4),
    ({"schedule": "full"}, optim.AdamW, 0.002, 0.1),
    ({"schedule": "full", "lr": 0.3}, optim.AdamW, 0.3, 0.1),
])
def test_the_schedule_of_a_residual_network_chooses_its_optimizer_rates_and_width(
        options: dict[str, Any], optimizer: type[optim.Optimizer], lr: float, weight_decay: float) -> None:
    one = RECIPES["resnet-cifar10"](**options)
    model = one.model()
    assert model.conv1.out_channels == one.width == (64 if one.schedule == "full" else 32)
    assert type(one.make_optimizer(model)) is optimizer
    assert (one.lr, one.weight_decay) == (lr, weight_decay)
    assert ("--lr" in one.command()) == ("lr" in options)


# --- the speed run ---


def test_the_speed_run_updates_as_the_paper_says() -> None:
    one = RECIPES["cifar10-speedrun"](batch_size=1024, width=4)
    model = one.model()
    others, biases = one.make_optimizer(model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(parameter)] for parameter in biases["params"] if parameter.requires_grad] == [
        f"layer{layer}.{i}.bias" for layer in (1, 2, 3) for i in (2, 5)]
    assert len(biases["params"]) + len(others["params"]) == len(names)
    # lr / (1 + 1 / (1 - momentum)), and 0.0153 by which weights decay for each lr.
    assert others["lr"] == pytest.approx(11.5 / (1 + 1 / 0.15))
    assert others["lr"] * others["weight_decay"] == pytest.approx(0.0153 / (1 + 1 / 0.15))
    assert biases["lr"] == pytest.approx(64 * others["lr"])
    assert biases["lr"] * biases["weight_decay"] == pytest.approx(others["lr"] * others["weight_decay"])
    factor = one.make_schedule()
    assert [factor(0), factor(2.3), factor(10)] == pytest.approx([0.2, 1, 0.07])
    lookahead, _ = one.callbacks(steps=48)
    assert [lookahead.alpha(step) for step in (0, 480)] == pytest.approx([1, 1 - 0.95**5])


def test_the_first_filters_of_the_speed_run_whiten_and_stay() -> None:
    class Watch(training.Callback):
        learns: list[bool] = []             # noqa: RUF012 (of this test alone)

        def on_step_end(self, trainer: training.Trainer, loss: float) -> None:
            self.learns.append(trainer.model.conv1.bias.requires_grad)

    one = recipe("cifar10-speedrun", epochs=5)
    trainer, dataset, normalize = one.fit(callbacks=[Watch()], progress=False)
    model = trainer.model
    expected = models.SpeedrunNet(width=2).whiten(
        data.to_float(dataset.train.images, normalize.mean, normalize.std)).conv1
    np.testing.assert_array_equal(model.conv1.weight.data, expected.weight.data)
    assert not np.array_equal(model.conv1.bias.data, recipe("cifar10-speedrun").model().conv1.bias.data)
    assert Watch.learns == 15 * [True] + 10 * [False]
    assert all(record["val_loss"] is None for record in trainer.history.records)
    assert not Path("runs/cifar10-speedrun-1/best.safetensors").exists()


def test_the_speed_run_is_measured_on_views(capsys: pytest.CaptureFixture[str]) -> None:
    recipe("cifar10-speedrun", run_dir="run").run()
    found = recipes.load("run")
    model, inputs = found.trained()
    test = data.cifar10(None).test
    scores = models.MultiCrop(model)(data.to_float(test.images, inputs["mean"], inputs["std"]))
    assert json.loads(Path("run/results.json").read_text())["accuracy"] == (scores.argmax(1) == test.labels).mean()
    assert "on 100 images of cifar10 (3 x 32 x 32); 0 for validation, 30 for the test" in capsys.readouterr().out


# --- models and options ---


@pytest.mark.parametrize(("options", "model"), [
    ({}, models.ResNet18), ({"depth": 34}, models.ResNet34), ({"depth": 50}, models.ResNet50)])
def test_the_depth_chooses_the_residual_network(options: dict[str, Any], model: type[Module]) -> None:
    made = RECIPES["resnet-cifar10"](width=8, **options).model()
    assert type(made) is model
    assert made.conv1.kernel_size == (3, 3)
    assert not isinstance(made.layer1[0], nn.Checkpointed)
    checkpointed = RECIPES["resnet-cifar10"](width=8, checkpointed=True, **options).model()
    assert isinstance(checkpointed.layer1[0], nn.Checkpointed)


@pytest.mark.parametrize(("name", "options", "message"), [
    *((name, {"width": 0}, "width: expected at least 1, got 0") for name in SMALL),
    *((name, {"lr": 0.0}, "lr: expected a number above 0, got 0.0") for name in SMALL),
    *((name, {"weight_decay": -0.5}, "weight_decay: expected at least 0, got -0.5") for name in SMALL),
    *((name, {"dataset": "svhn"}, "dataset: expected one of 'cifar10', 'cifar100', got 'svhn'") for name in SMALL),
    *((name, {"schedule": "long"}, "schedule: expected one of 'short', 'full', got 'long'") for name in SHORT_OR_FULL),
    *((name, {"epochs": -2}, "epochs: expected at least 1, got -2") for name in SMALL),
    ("cifar10-speedrun", {"epochs": -1}, "epochs: expected at least 1, got -1"),
    ("resnet-cifar10", {"depth": 101}, "depth: expected one of 18, 34, 50, got 101"),
    ("allcnn-cifar10", {"dropout": 1.0}, "dropout: expected from 0 to below 1, got 1.0"),
    ("allcnn-cifar10", {"dropout": -0.1}, "dropout: expected from 0 to below 1, got -0.1"),
])
def test_wrong_options_are_refused_before_anything_is_written(name: str, options: dict[str, Any],
                                                              message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(name, **options).run()
    assert list(Path().iterdir()) == []


@pytest.mark.real_data
@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_learns_real_photographs(name: str, data_dir: Path) -> None:
    dataset = REAL(data_dir)
    train, test = (Split(part.images[:1000], part.labels[:1000]) for part in (dataset.train, dataset.test))
    few = Dataset(train, test, dataset.classes, dataset.name)
    trainer, *_ = RECIPES[name](epochs=3, batch_size=50, width=16).fit(dataset=few, progress=False)
    assert trainer.history["train_accuracy"][-1] > 0.15             # 0.1 is chance
