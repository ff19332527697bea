"""The recipe that attacks a trained network, and trains it against that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import data, recipes, training
from fastnn.data import Dataset, Split
from fastnn.recipes import Adversarial, adversarial
from fastnn.training import attacks

ROBUST = "trained on attacked images"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adversarial, "_DRAWN", 2)       # matplotlib takes longest of all


def test_a_network_is_attacked_and_trained_against_it(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Adversarial(init_from=source, run_dir=Path("run"), epochs=1, images=60, eps=16.0, steps=3).run()
    found = json.loads(Path("run/results.json").read_text())
    assert list(found["figures"]) == found["headline"] == [
        f"{name}{after}" for after in ("", f", {ROBUST}") for name in ("clean", "1 step", "3 steps")]
    assert capsys.readouterr().out.splitlines()[-1] == "test accuracy: " + "; ".join(
        f"{share} {name}" for name, share in found["figures"].items())
    assert {path.stem for path in Path("run").glob("*.png")} == {
        "adversarial-training", "accuracy-against-eps", "loss-at-each-step",
        *(f"{name}{number}" for name in ("gradients-for-right-answers", "gradients-for-wrong-answers",
                                         "attacked-images-and-their-changes") for number in ("", "-2"))}
    images, labels = data.digits().test.images[:60], data.digits().test.labels[:60]
    for folder, suffix in ((source, ""), (Path("run/robust"), f", {ROBUST}")):
        model, inputs = recipes.load(folder).trained()
        normalize = data.Normalize(inputs["mean"], inputs["std"], inputs["scale"])
        shares = [attacks.accuracy_against_eps(model, normalize(images, None), labels, [eps / 255], steps=steps,
                                               normalize=normalize)[0] for eps, steps in ((0, 1), (16, 1), (16, 3))]
        assert [found["figures"][f"{name}{suffix}"] for name in ("clean", "1 step", "3 steps")] == [
            f"{100 * share:.2f} %" for share in shares]
    # Training went on from the network, on images and validation images that were attacked.
    config = json.loads(Path("run/robust/config.json").read_text())
    assert (config["recipe"], config["init_from"], config["epochs"]) == ("cnn", str(source), 1)
    again = recipes.CNN(init_from=source, epochs=1, run_dir=Path("again"))
    again.fit(progress=False, change=lambda loader, model, normalize: training.AdversarialLoader(
        loader, model, 16 / 255, normalize=normalize, noise=2))
    for name in ("last.safetensors", "best.safetensors"):
        assert_same(Path("run/robust", name), Path("again", name))


def assert_same(ours: Path, theirs: Path) -> None:
    tensors, others = training.load(ours)[0], training.load(theirs)[0]
    assert tensors.keys() == others.keys()
    for name in tensors:
        np.testing.assert_array_equal(tensors[name], others[name], err_msg=name)


def test_without_a_run_a_network_is_trained_first_and_killed_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.tile(np.arange(10), 4)
    images = np.random.default_rng(0).integers(0, 60, (40, 3, 32, 32)) + 19 * labels[:, None, None, None]
    part, speedrun = Split(images.astype(np.uint8), labels), adversarial.CIFAR10Speedrun
    monkeypatch.setattr(data, "cifar10", lambda folder: Dataset(part, part, tuple("abcdefghij"), "cifar10"))
    monkeypatch.setattr(adversarial, "CIFAR10Speedrun", lambda **options: speedrun(
        width=2, batch_size=20, **{"epochs": 1, **options}))
    options: dict[str, Any] = {"epochs": 2, "images": 10}
    Adversarial(run_dir=Path("whole"), **options).run()
    trainer, updates = training.Trainer, iter(range(100))

    class Stop(training.Callback):
        def on_step_end(self, trainer: training.Trainer, loss: float) -> None:
            if next(updates) == 4:
                raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(training, "Trainer", lambda *args, callbacks=(), **options: trainer(
            *args, callbacks=[*callbacks, Stop()], **options))
        with pytest.raises(SystemExit):
            Adversarial(run_dir=Path("run"), **options).run()
    Path("run").rename("moved")
    Adversarial(run_dir=Path("moved"), resume=True, **options).run()
    for name in ("network", "robust"):
        assert_same(Path("moved", name, "last.safetensors"), Path("whole", name, "last.safetensors"))
    figures = [json.loads(Path(folder, "results.json").read_text())["figures"] for folder in ("moved", "whole")]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"eps": 0.0}, ValueError, "eps: expected a number above 0, got 0.0"),
    ({"steps": 1}, ValueError, "steps: expected at least 2, got 1"),
    ({"images": 0}, ValueError, "images: expected at least 1, got 0"),
    ({"epochs": -1}, ValueError, "epochs: expected at least 0, got -1"),
    ({"init_from": Path("nowhere")}, FileNotFoundError, "init_from: expected the folder of a trained run, such as"),
])
def test_wrong_options_are_refused_before_anything_is_written(options: dict[str, Any], error: type[Exception],
                                                              message: str) -> None:
    with pytest.raises(error, match=message):
        Adversarial(**options).run()
    assert list(Path().iterdir()) == []
