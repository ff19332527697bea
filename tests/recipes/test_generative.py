"""Recipes that draw images: what a run leaves, how it is resumed, and `fastnn sample`."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import data, models, recipes, training
from fastnn.cli.runs import sample
from fastnn.cli.summary import summary
from fastnn.recipes import CNN, DDPMMnist, VAEMnist
from fastnn.recipes.generative import as_pixels
from fastnn.recipes.vae_mnist import binarized

Image = pytest.importorskip("PIL.Image")


def large(part: data.Split) -> data.Split:
    """Digits of 8x8 pixels as MNIST has them: 28x28, from 0 to 255."""
    images = np.pad(part.images.repeat(3, 2).repeat(3, 3), ((0, 0), (0, 0), (2, 2), (2, 2)))
    return data.Split(np.minimum(images, 15) * 17, part.labels)


DIGITS = data.digits()
FEW = data.Split(DIGITS.train.images[:400], DIGITS.train.labels[:400])
DATASET = data.Dataset(large(FEW), large(DIGITS.test), DIGITS.classes, "mnist")


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images, a network of few channels, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes.ImageGenerator, "load_dataset", lambda self: DATASET)
    monkeypatch.setattr(DDPMMnist, "model", lambda self: models.DDPM(
        models.UNet(width=8, multipliers=(1,), attention=False, seed=self.seed), self.timesteps, self.schedule))


def stopped_in_the_second_epoch(recipe: Any) -> None:
    class Stop(training.Callback):
        def on_step_end(self, trainer: training.Trainer, loss: float) -> None:
            if len(trainer.history) == 1:
                trainer._interrupts.requested = signal.SIGINT

    with pytest.raises(KeyboardInterrupt):
        recipe.fit(callbacks=[Stop()], progress=False)


def assert_same_weights(folder: Path, other: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = training.load(folder / name)[0], training.load(other / name)[0]
        ours = {key: array for key, array in ours.items() if not key.startswith("callbacks.1")}         # that of Stop
        assert ours.keys() == theirs.keys()
        for key, array in theirs.items():
            np.testing.assert_array_equal(ours[key], array, err_msg=key)


def vae(**options: Any) -> VAEMnist:
    return VAEMnist(**{"epochs": 2, "per_class": 20, "latent": 2, **options})


def test_a_vae_from_training_to_samples(capsys: pytest.CaptureFixture[str]) -> None:
    vae(run_dir=Path("whole")).run()
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "vae-mnist: VAE with 51,400 parameters, on 200 images of mnist (1 x 14 x 14); 100 for validation"
    assert out[-1].startswith("test ELBO: -")
    assert {path.name for path in Path("whole").iterdir()} == {
        "config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "results.json", "report.html",
        "curves.png", "terms.csv", "elbo-terms-by-update.png", "validation-by-update.png", "reconstructions.png",
        "samples-from-the-prior.png", "between-digits.png", "map-of-the-latent-space.png"}
    terms = np.loadtxt("whole/terms.csv", delimiter=",", skiprows=1)
    record = json.loads(Path("whole/metrics.jsonl").read_text().splitlines()[1])
    assert terms[:, 0].tolist() == [1, 2, 3, 4]                             # 2 epochs of 2 batches of 100
    np.testing.assert_allclose(terms[2:, 1:].mean(0), [record["train_reconstruction"], record["train_kl"]], rtol=1e-5)
    assert record["train_loss"] == pytest.approx(record["train_reconstruction"] + record["train_kl"], rel=1e-6)
    assert record["val_loss"] == pytest.approx(record["val_reconstruction"] + record["val_kl"], rel=1e-6)
    assert -record["val_loss"] < record["val_log_likelihood"] < 0

    stopped_in_the_second_epoch(vae(run_dir=Path("again")))
    vae(run_dir=Path("again"), resume=True).run()
    assert_same_weights(Path("again"), Path("whole"))
    assert Path("again/terms.csv").read_bytes() == Path("whole/terms.csv").read_bytes()

    capsys.readouterr()
    sample(Path("whole"), n=6, seed=1)
    sample(Path("whole"), n=16, interpolate=True, output=Path("lines.png"))
    sample(Path("whole"), n=9, latent_map=True)
    assert capsys.readouterr().out.splitlines() == [
        "6 images: whole/samples-seed-1.png", "16 images: lines.png", "9 images: whole/latent-map.png"]
    for name, width, height in (("whole/samples-seed-1.png", 3, 2), ("lines.png", 8, 2),
                                ("whole/latent-map.png", 3, 3)):
        with Image.open(name) as image:
            assert image.size == (4 * (15 * width - 1), 4 * (15 * height - 1))
    summary("whole")
    assert capsys.readouterr().out.startswith("VAE, samples of shape 1 x 14 x 14\n")


def test_digits_are_binarized_at_half_their_size() -> None:
    images = np.zeros((1, 1, 28, 28), np.uint8)
    images[0, 0, :2, :4] = [[255, 1, 255, 0], [255, 1, 128, 127]]
    assert binarized(images)[0, 0, 0, :3].tolist() == [1, 0, 0]
    assert binarized(images + np.uint8(128))[0, 0, 5, 5] == 1


def test_a_diffusion_from_training_to_samples(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 128, "timesteps": 50, "samples": 3}
    DDPMMnist(run_dir=Path("whole"), **options).run()
    assert {path.name for path in Path("whole").glob("*.png")} == {
        "curves.png", "images-become-noise.png", "noise-becomes-images.png", "samples-by-all-steps.png",
        "samples-by-50-steps.png"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("validation noise error: ")
    stopped_in_the_second_epoch(DDPMMnist(run_dir=Path("again"), **options))
    DDPMMnist(run_dir=Path("again"), resume=True, **options).fit(progress=False)
    assert_same_weights(Path("again"), Path("whole"))

    for seed in (1, 1, 2):
        sample(Path("whole"), n=2, steps=3, seed=seed, output=Path(f"{len(list(Path().glob('*.png')))}.png"))
    files = [Path(f"{i}.png").read_bytes() for i in range(3)]
    assert files[0] == files[1] != files[2]
    assert "3/3" in capsys.readouterr().err                # the bar
    recipe = recipes.load(Path("whole"))
    assert isinstance(recipe, DDPMMnist)
    images = as_pixels(recipe.trained().sample(2, (1, 28, 28), steps=3, seed=2), -1)
    with Image.open("2.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[::2, ::2], training.plots.tile(images))
    capsys.readouterr()
    summary("whole")
    assert capsys.readouterr().out.startswith("UNet, samples of shape 1 x 28 x 28\n")


def test_a_classifier_reads_what_is_drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader(CNN):
        def load_dataset(self) -> data.Dataset:
            return DATASET

    monkeypatch.setitem(recipes.RECIPES, "cnn", Reader)
    Reader(epochs=1, run_dir=Path("reader")).fit(progress=False)
    DDPMMnist(run_dir=Path("run"), epochs=1, batch_size=128, timesteps=50, samples=3, classifier=Path("reader")).run()
    figures = json.loads(Path("run/results.json").read_text())["figures"]
    assert {"validation noise error", "read, all steps", "read, 50 steps"} <= figures.keys()
    capsys.readouterr()
    sample(Path("run"), n=4, steps=2, classifier=Path("reader"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["digit", "images", "share", "surely"]
    assert sum(int(line.split()[1]) for line in lines[2:12]) == 4
    assert lines[-1].startswith("read with a probability of 0.9 or more: ")


def test_a_classifier_of_something_else_reads_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clothes(CNN):
        def load_dataset(self) -> data.Dataset:
            return replace(DATASET, classes=tuple("abcdefghij"))

    monkeypatch.setitem(recipes.RECIPES, "cnn", Clothes)
    Clothes(epochs=1, run_dir=Path("clothes")).fit(progress=False)
    with pytest.raises(ValueError, match=r"classifier: expected one of digits, .* got one whose classes are a, b, c"):
        DDPMMnist(run_dir=Path("run"), classifier=Path("clothes")).run()
    assert not Path("run").exists()


@pytest.mark.parametrize(("recipe", "message"), [
    (vae(latent=0), "latent: expected at least 1, got 0"),
    (vae(samples=0), "samples: expected at least 1, got 0"),
    (vae(lr=0), "lr: expected a number above 0, got 0"),
    (vae(per_class=200), r"per_class: expected at most \d\d, since a class of mnist has \d\d training images and 10"),
    (DDPMMnist(timesteps=10), "timesteps: expected at least 50, got 10"),
    (DDPMMnist(ema=1), "ema: expected from 0 to below 1, got 1"),
    (DDPMMnist(weight_decay=-1), "weight_decay: expected at least 0, got -1"),
    (DDPMMnist(schedule="square"), "schedule: expected .*, got 'square'"),                # type: ignore[arg-type]
    (DDPMMnist(classifier=Path("nowhere")), "classifier: expected the folder of a run, such as .*, but there is none"),
])
def test_wrong_options_are_refused_before_anything_is_written(recipe: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe.run()
    assert list(Path().iterdir()) == []


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    run = vae(run_dir=tmp_path / "run", latent=3, epochs=1)
    run.fit(progress=False)
    for options, message in [
        ({"n": 0}, "n: expected at least 1, got 0"),
        ({"n": 10**12}, "n: expected at most 10,000 images in a file, got 1,000,000,000,000"),
        ({"output": tmp_path}, "output: expected a file in a folder, but .* is one"),
        ({"steps": 5}, "steps: expected none for a run of vae-mnist"),
        ({"classifier": Path("x")}, "classifier: expected none for a run of vae-mnist"),
        ({"latent_map": True}, r"latent_map: expected a run with two latent variables \(--latent 2\), got one with 3"),
        ({"latent_map": True, "interpolate": True}, "latent_map: expected one of interpolate and latent_map, got both"),
        ({"interpolate": True, "n": 9}, "n: expected a multiple of 8, the images of a line, with interpolate, got 9"),
        ({"interpolate": True, "n": 8000}, "n: expected at most 1440, since there are 360 test digits"),
        ({"data_dir": tmp_path}, "data_dir: expected none without interpolate"),
        ({"output": Path("a.jpg")}, "output: expected a file whose name ends in .png, got a.jpg"),
        ({"output": Path("no/a.png")}, "output: expected a file in a folder, but there is no folder no"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            sample(tmp_path / "run", **options)         # type: ignore[arg-type]
    Path(tmp_path / "run/best.safetensors").unlink()
    with pytest.raises(training.CheckpointError, match=r"best\.safetensors"):
        sample(tmp_path / "run")
