"""Image files are read as the images that a model was trained on, and one bad file does not spoil the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fastnn import data, kernels, models, nn, recipes, training
from fastnn.data import Dataset, Split
from fastnn.nn.freezing import Frozen
from fastnn.recipes.image_file import inverted_above, read_image

PIL_Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def strokes(channels: int = 1, size: int = 8, *, paper: int = 0, ink: int = 255, scale: int = 255) -> Dataset:
    """Images whose class is which of four places has ink."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(4), 40)
    images = np.full((160, channels, size, size), paper, np.uint8)
    for image, label in zip(images, labels):
        top, left = 1 + (label // 2) * (size // 2 - 1), 1 + (label % 2) * (size // 2 - 1)
        image[:, top : top + size // 2 - 1, left : left + size // 2 - 1] = abs(ink - int(rng.integers(scale // 8 + 1)))
    return divided(images, labels, scale)


def divided(images: np.ndarray, labels: np.ndarray, scale: int = 255) -> Dataset:
    return Dataset(Split(images[:120], labels[:120]), Split(images[120:], labels[120:]), tuple("abcd"), "small", scale)


def noise() -> Dataset:
    """Images that are neither dark nor light at their edges."""
    light = strokes()
    images = np.random.default_rng(1).integers(0, 256, (160, 1, 8, 8), np.uint8)
    images[:, :, 1:-1, 1:-1] = np.concatenate([light.train.images, light.test.images])[:, :, 1:-1, 1:-1]
    return divided(images, np.concatenate([light.train.labels, light.test.labels]))


DATASETS: dict[str, Callable[[], Dataset]] = {
    "light on dark": strokes,
    "dark on light": lambda: strokes(paper=255, ink=0),
    "dark on light, scale 16": lambda: strokes(paper=16, ink=0, scale=16),
    "light on dark, scale 1": lambda: strokes(ink=1, scale=1),
    "noise": noise,
    "colours, dark": lambda: strokes(3),
    "colours, light": lambda: strokes(3, paper=255, ink=0),
}


@dataclass
class Strokes(recipes.ImageClassifier):
    """A linear classifier of strokes."""

    name: ClassVar[str] = "strokes"
    epochs: int = 8
    lr: float = 0.05
    label_smoothing: ClassVar[float] = 0.0
    kind: str = "light on dark"

    def load_dataset(self) -> Dataset:
        return DATASETS[self.kind]()

    def model(self) -> nn.Module:
        return models.SoftmaxClassifier(self.load_dataset().train.images[0].size, 4, seed=self.seed)


def as_files(dataset: Dataset, count: int = 20) -> list[Path]:
    """Write test images as PNG files."""
    paths = []
    for i, image in enumerate(dataset.test.images[:count]):
        pixels = np.rint(image * (255 / dataset.scale)).astype(np.uint8)
        paths.append(Path(f"{i}.png"))
        PIL_Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(paths[-1])
    return paths


def shares(out: str, classes: int) -> np.ndarray:
    """The probabilities that were printed, in the classes' order."""
    rows = [dict(re.findall(r"(\S+) ([\d.]+) %", line.split(": ", 1)[1])) for line in out.splitlines()]
    assert all(len(row) == classes for row in rows)
    return np.array([[float(share) for _, share in sorted(row.items())] for row in rows])


def scores(recipe: Any, images: np.ndarray) -> np.ndarray:
    """What `evaluate` finds for images: their probabilities in per cent."""
    model, inputs = recipe.trained()
    return 100 * kernels.softmax(model(data.to_float(images, inputs["mean"], inputs["std"], scale=inputs["scale"])))


@pytest.mark.parametrize("kind", DATASETS)
def test_images_of_the_data_set_are_read_as_evaluate_reads_them(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Strokes(kind=kind, run_dir=Path("run"))
    trainer, dataset, _ = recipe.fit(progress=False)
    assert trainer.history["val_accuracy"].max() > 0.9
    capsys.readouterr()
    recipes.load("run").predict(as_files(dataset), top=4)
    out, err = capsys.readouterr()
    assert "inverted" not in out + err
    np.testing.assert_allclose(shares(out, 4), scores(recipe, dataset.test.images[:20]), atol=0.0501)
    inputs = json.loads(Path("run/config.json").read_text())["inputs"]
    for file, image in zip(as_files(dataset), dataset.test.images):
        read, notes = read_image(file, *image.shape, dataset.scale, inputs["invert_above"])
        np.testing.assert_array_equal(read, image)
        assert notes == []


def test_only_what_is_the_reverse_of_dark_edges_is_inverted(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, inverts in ("light on dark", True), ("dark on light", False):
        recipe = Strokes(kind=kind, run_dir=Path(kind))
        recipe.fit(progress=False)
        test = recipe.load_dataset().test
        PIL_Image.fromarray(255 - test.images[0, 0]).save("reverse.png")
        capsys.readouterr()
        recipes.load(kind).predict([Path("reverse.png")], top=4)
        out, _ = capsys.readouterr()
        assert ("(inverted, since its background is light)" in out) == inverts
        expected = test.images[:1] if inverts else 255 - test.images[:1]
        np.testing.assert_allclose(shares(out, 4), scores(recipe, expected), atol=0.0501)


def test_how_light_an_edge_is_inverted() -> None:
    assert inverted_above(data.digits().train.images, 16) == 127
    assert inverted_above(16 - data.digits().train.images, 16) is None
    assert inverted_above(strokes(3).train.images, 255) is None
    few = np.zeros((1000, 1, 5, 5), np.uint8)
    few[:5] = 200                           # as pullovers that reach to the edge
    assert inverted_above(few, 255) == 200
    few[:50] = 200
    assert inverted_above(few, 255) is None


def test_a_run_that_does_not_say_how_light_its_images_are_inverts_none(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Strokes(run_dir=Path("run"))
    recipe.fit(progress=False)
    config = json.loads(Path("run/config.json").read_text())
    del config["inputs"]["invert_above"]
    Path("run/config.json").write_text(json.dumps(config))
    tensors, metadata = training.load("run/best.safetensors")
    training.save("run/best.safetensors", tensors, {**metadata, "config": config})
    PIL_Image.new("L", (8, 8), 255).save("white.png")
    capsys.readouterr()
    recipe.predict([Path("white.png")], top=4)
    out, err = capsys.readouterr()
    assert "run: the run does not say how light its images are at the edge" in err
    np.testing.assert_allclose(shares(out, 4), scores(recipe, np.full((1, 1, 8, 8), 255, np.uint8)), atol=0.0501)


def test_bad_files_are_named_and_the_others_predicted(capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Strokes(run_dir=Path("run"))
    recipe.fit(progress=False)
    good = as_files(recipe.load_dataset(), 8)
    Path("bad.png").write_text("no image")
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"^files: 2 of 11 could not be read: bad\.png, gone\.png$"):
        recipe.predict([*good[:4], Path("bad.png"), *good[4:], Path("gone.png"), good[0]])
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [str(path) for path in (*good, good[0])]
    assert [line.partition(": expected")[0] for line in err.splitlines()] == [
        "passed over: bad.png", "passed over: gone.png"]

    # What can be said without a kernel is said before one is compiled.
    monkeypatch.setattr(recipes.ImageClassifier, "_check_scores", lambda *_: pytest.fail("a kernel ran"))
    with pytest.raises(FileNotFoundError, match=r"^gone\.png: expected an image file, but there is no such file"):
        recipe.predict([Path("gone.png")])
    with pytest.raises(ValueError, match=r"^files: 2 of 2 could not be read: bad\.png, gone\.png"):
        recipe.predict([Path("bad.png"), Path("gone.png")])
    Path("run/best.safetensors").unlink()
    for use in recipe.evaluate, lambda: recipe.predict(good):
        with pytest.raises((OSError, ValueError, RuntimeError), match=r"best\.safetensors"):
            use()


def test_one_file_and_what_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Strokes(run_dir=Path("run"), epochs=1)
    recipe.fit(progress=False)
    (file,) = as_files(recipe.load_dataset(), 8)[:1]
    printed = []
    for files in ([file], file, str(file), iter([file])):
        capsys.readouterr()
        recipe.predict(files)                                                   # type: ignore[arg-type]
        printed.append(capsys.readouterr().out)
    assert printed == [printed[0]] * 4
    assert printed[0].startswith(f"{file}: ")
    with pytest.raises(ValueError, match="files: expected at least one image file, got none"):
        recipe.predict([])
    for top, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("3", TypeError)):
        with pytest.raises(error, match="top: expected"):
            recipe.predict(file, top)                                           # type: ignore[arg-type]


def test_evaluate_and_predict_run_a_frozen_model(monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Strokes(run_dir=Path("run"), epochs=1)
    _, dataset, _ = recipe.fit(progress=False)
    ran: list[int] = []
    call = Frozen.__call__

    def counted(self: Frozen, *inputs: Any) -> Any:
        ran.append(len(inputs[0]))
        return call(self, *inputs)

    monkeypatch.setattr(Frozen, "__call__", counted)
    recipes.load("run").evaluate()
    assert ran == [40]
    recipes.load("run").predict(as_files(dataset, 3))
    assert ran == [40, 3]
    assert "test accuracy" in capsys.readouterr().out


def test_a_data_set_that_is_another_now_is_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Strokes(run_dir=Path("run"), epochs=1)
    recipe.fit(progress=False)
    other = strokes()
    monkeypatch.setattr(Strokes, "load_dataset", lambda _: Dataset(other.train, other.test, tuple("abcde"), "other"))
    with pytest.raises(ValueError, match=r"dataset: expected images of shape \(1, 8, 8\) of the classes a, b, c, d, on "
                                         r"which the run in run was trained, got shape \(1, 8, 8\) and a, b, c, d, e"):
        recipe.evaluate()


@pytest.mark.real_data
@pytest.mark.parametrize("load", [data.mnist, data.fashion_mnist])
def test_real_data_sets_come_back_from_files(load: Callable[..., Dataset], data_dir: Path) -> None:
    dataset = load(data_dir)
    above = inverted_above(dataset.train.images, dataset.scale)
    assert above is not None
    for file, image in zip(as_files(dataset, 200), dataset.test.images):
        read, notes = read_image(file, *image.shape, dataset.scale, above)
        assert np.array_equal(read, image)
        assert notes == []
    edges = [np.median(np.concatenate([image[0, 0], image[0, -1], image[0, :, 0], image[0, :, -1]]))
             for part in (dataset.train, dataset.test) for image in part.images[::10]]
    assert max(edges) <= above
