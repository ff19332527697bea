"""The recipes of nearest neighbours, linear classifiers, fully connected networks and features, on small data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn import data, recipes, training
from fastnn.data import Dataset, Split
from fastnn.recipes import RECIPES
from fastnn.recipes.regression import target


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small(channels: int, size: int, train: int = 300, coloured: bool = True) -> Dataset:
    """Images whose class is where they are light, and what colour they have."""
    labels = np.tile(np.arange(10), train // 10 + 10)
    images = np.random.default_rng(0).integers(0, 60, (len(labels), channels, size, size), np.uint8)
    if channels == 3 and coloured:          # which shows wherever augmentation moves an image
        images += 60 * np.stack([labels // 9, labels // 3 % 3, labels % 3], 1).astype(np.uint8)[:, :, None, None]
    images[np.arange(len(labels)), :, 2 * labels + 2] = 255
    return Dataset(Split(images[:train], labels[:train]), Split(images[train:], labels[train:]), tuple("abcdefghij"),
                   "small")


def hundred_classes() -> Dataset:
    """Images of 100 classes, which show in which row and column they are light."""
    labels = np.tile(np.arange(100), 8)
    images = np.random.default_rng(0).integers(0, 60, (len(labels), 3, 32, 32), np.uint8)
    images[np.arange(len(labels)), :, 3 * (labels // 10) + 1] = 255
    images[np.arange(len(labels)), :, :, 3 * (labels % 10) + 1] = 255
    return Dataset(Split(images[:600], labels[:600]), Split(images[600:], labels[600:]),
                   tuple(f"class {label}" for label in range(100)), "cifar100")


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "cifar10", lambda folder: small(3, 32))
    monkeypatch.setattr(data, "cifar100", lambda folder: hundred_classes())
    monkeypatch.setattr(data, "mnist", lambda folder: small(1, 28))
    monkeypatch.setattr(data, "fashion_mnist", lambda folder: small(1, 28))


_SEEN = {"curves.png", "augmented-images.png", "filters-of-the-first-layer.png", "classes.png"}
SMALL: dict[str, tuple[dict[str, Any], set[str]]] = {
    "knn-cifar10": ({"ks": (1, 3), "sizes": (100, 300)}, {
        "accuracy-against-k.png", "test-accuracy-against-the-number-of-training-images.png",
        "distance-to-the-nearest-training-image.png"}),
    "svm-cifar10": ({"epochs": 2, "batch_size": 20, "factors": (1.0, 10.0)}, {
        "templates.png", "validation-accuracy-over-the-grid.png", "the-first-steps.png", "best.safetensors"}),
    "softmax-cifar10": ({"epochs": 2, "batch_size": 20, "factors": (1.0,)}, {"templates.png", "best.safetensors"}),
    "two-layer-net": ({"epochs": 3, "batch_size": 20}, {"what-the-hidden-units-look-for.png", "weights-by-epoch.png"}),
    "fc-net": ({"epochs": 3, "batch_size": 20, "hidden": (20, 20), "dropout": 0.1}, {"confusion.png", "classes.png"}),
    "ffn-cifar10": ({"epochs": 5, "batch_size": 20, "hidden": (20,)}, {"what-units-of-the-first-layer-look-for.png"}),
    "ffn-fashion": ({"epochs": 3, "batch_size": 20}, {"curves.png", "samples.png"}),
    "ffn-comparison": ({"epochs": 1, "batch_size": 50, "hidden": (10,)}, {
        "validation-accuracy-against-epoch.png", "validation-accuracy-after-the-last-epoch.png"}),
    "gabor-svm-mnist": ({"sizes": (100, 300), "updates": 60, "svc_images": 100}, {
        "gabor-filters.png", "confusions-by-pixels.png", "confusions-by-gabor-features.png",
        "test-error-against-the-number-of-training-images.png"}),
    "embedding-net-mnist": ({"updates": 100, "every": 50, "lr": 0.03}, {
        "validation-loss-against-updates.png", "validation-error-against-updates.png"}),
    "resnet-cifar10": ({"epochs": 3, "batch_size": 20, "lr": 0.02, "width": 4}, _SEEN),
    "allcnn-cifar10": ({"epochs": 3, "batch_size": 20, "width": 8, "dropout": 0.1}, _SEEN),
    "depthwise-cifar10": ({"epochs": 4, "batch_size": 20, "width": 4}, _SEEN),
    "cifar10-speedrun": ({"epochs": 4, "batch_size": 20, "width": 4}, _SEEN),
    "regression": ({"points": 2, "repeats": 1, "updates": 20}, {
        "largest-error-against-the-number-of-samples.png", "what-is-learned-from-1-000-samples.png"}),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.usefixtures("small_data")
def test_a_small_run(name: str, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, pictures = SMALL[name]
    recipe = RECIPES[name](device=device, **options)
    recipe.run()
    folder = Path(f"runs/{name}-1")
    assert pictures | {"config.json", "results.json", "report.html"} <= {path.name for path in folder.iterdir()}
    found = json.loads((folder / "results.json").read_text())
    assert found["headline"]
    assert set(found["headline"]) <= found["figures"].keys()
    assert found["command"].startswith(f"fastnn train {name} --")
    assert found["minutes"] > 0
    if found.get("accuracy") is not None:
        assert found["accuracy"] > 0.5          # the classes are plain to see
    out = capsys.readouterr().out
    assert f"run folder: {folder}" in out
    assert out.splitlines()[-2] == f"report: {folder / 'report.html'}"
    assert recipes.load(folder) == recipe


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if issubclass(recipe, recipes.CIFAR)])
@pytest.mark.usefixtures("small_data")
def test_a_small_run_on_cifar_100(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    others = {"three-layer-convnet": {"epochs": 1}, "overfit-check": {"epochs": 2},
              "svm-cifar10": {"epochs": 2, "factors": (1.0,)},
              **{name: {"epochs": 1, "batch_size": 100, "width": 4} for name in (
                  "resnet-cifar10", "allcnn-cifar10", "depthwise-cifar10", "cifar10-speedrun")}}
    recipe = RECIPES[name](dataset="cifar100", **(others[name] if name in others else SMALL[name][0]))
    recipe.run()
    folder, out = Path(f"runs/{name}-1"), capsys.readouterr().out
    found = json.loads((folder / "results.json").read_text())
    assert found["command"].startswith(f"fastnn train {name} --")
    assert "--dataset cifar100" in found["command"]
    assert "cifar100" in (folder / "report.html").read_text()
    assert recipes.load(folder) == recipe
    if "classes" in found:
        assert [row["name"] for row in found["classes"]] == [f"class {label}" for label in range(100)]
    if (folder / "best.safetensors").exists():
        assert "Confusion matrix" not in out            # 100 columns
        assert "class 99 " in out
        recipes.load(folder).evaluate()


@pytest.mark.parametrize(("recipe", "message"), [
    (recipes.KNNCifar10(dataset="svhn"), "dataset: expected one of 'cifar10', 'cifar100', got 'svhn'"),
    (recipes.SVMCifar10(dataset=100), "dataset: expected one of 'cifar10', 'cifar100', got 100"),
    (recipes.FCNet(dataset="cifar-100"), "dataset: expected one of 'cifar10', 'cifar100', got 'cifar-100'"),
    (recipes.KNNCifar10(ks=()), r"ks: expected rising numbers from 1 to 10,000, got \(\)"),
    (recipes.KNNCifar10(ks=(3, 1)), "ks: expected rising numbers"),
    (recipes.KNNCifar10(sizes=(60_000,)), "sizes: expected rising numbers from 1 to 50,000"),
    (recipes.KNNCifar10(sizes=(40,)), "sizes: expected at least as many images as neighbours, 50, got"),
    (recipes.KNNCifar10(folds=1), "folds: expected from 2 to 1,000, got 1"),
    (recipes.SVMCifar10(factors=(1.0, 0.0)), "factors: expected numbers above 0, each once"),
    (recipes.SVMCifar10(factors=(float("nan"),)), "factors: expected numbers above 0, each once"),
    (recipes.SVMCifar10(lr=float("inf")), "lr: expected a number above 0, got inf"),
    (recipes.TwoLayerNet(weight_decay=float("inf")), "weight_decay: expected at least 0, got inf"),
    (recipes.EmbeddingNetMnist(lr=float("nan")), "lr: expected a number above 0, got nan"),
    (recipes.SVMCifar10(weight_decay=-1), "weight_decay: expected at least 0, got -1"),
    (recipes.TwoLayerNet(hidden=0), "hidden: expected at least 1, got 0"),
    (recipes.FCNet(hidden=(10, 0)), r"hidden: expected at least 1 unit a layer, got \(10, 0\)"),
    (recipes.FCNet(dropout=1), "dropout: expected from 0 to below 1, got 1"),
    (recipes.FFNComparison(inits=("he_normal", "he_normal")), "inits: expected some of he_normal, .*, each once, got"),
    (recipes.FFNComparison(hidden=()), "hidden: expected layers of at least 1 unit"),
    (recipes.GaborSVMMnist(sizes=(5,)), "sizes: expected numbers from 10 to 60,000"),
    (recipes.GaborSVMMnist(orientations=0), "orientations: expected at least 1, got 0"),
    (recipes.GaborSVMMnist(frequencies=(0.7,)), "frequencies: expected numbers above 0 and below 0.5"),
    (recipes.EmbeddingNetMnist(updates=300), "updates: expected a multiple of every = 250, got 300"),
    (recipes.EmbeddingNetMnist(lr=0), "lr: expected a number above 0, got 0"),
    (recipes.Regression(points=1), "points: expected at least 2, got 1"),
])
def test_options_that_cannot_be_obeyed(recipe: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.run()
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("small_data")
def test_the_best_cell_of_a_grid_becomes_the_run(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "cifar10", lambda folder: small(3, 32, coloured=False))
    recipe = recipes.SVMCifar10(epochs=2, batch_size=20, factors=(1e-3, 1.0))
    recipe.run()
    out = capsys.readouterr().out
    folder = Path("runs/svm-cifar10-1")
    cells = {path: training.History.read(path)["val_accuracy"].max() for path in folder.iterdir() if path.is_dir()}
    assert len(cells) == 4
    best = max(cells, key=lambda path: cells[path])
    assert (best / "best.safetensors").read_bytes() in [
        (path / "best.safetensors").read_bytes() for path, share in cells.items() if share == cells[best]]
    assert training.History.read(folder)["val_accuracy"].max() == cells[best]
    assert "loss of the first 10 steps, pixels from 0 to 255: " in out
    first = float(out.split("mean 0, deviation 1: ")[1].split()[0])
    assert first == pytest.approx(9, rel=0.2)
    recipes.load(folder).evaluate()
    assert capsys.readouterr().out.splitlines()[-1] == out.splitlines()[-1]


@pytest.mark.usefixtures("small_data")
def test_a_grid_that_was_stopped_goes_on() -> None:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 20, "factors": (1.0, 10.0)}
    recipes.SoftmaxCifar10(run_dir=Path("whole"), **options).run()
    shutil.copytree("whole", "stopped")
    cells = sorted(path for path in Path("stopped").iterdir() if path.is_dir())
    shutil.rmtree(cells[-1])
    for path in Path("stopped").glob("*.*"):
        if path.is_file() and path.name != "config.json":
            path.unlink()
    recipes.SoftmaxCifar10(run_dir=Path("stopped"), resume=True, **options).run()
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = training.load(Path("stopped", name))[0], training.load(Path("whole", name))[0]
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    results = [json.loads(Path(folder, "results.json").read_text()) for folder in ("stopped", "whole")]
    assert results[0]["confusion"] == results[1]["confusion"]
    assert results[0]["minutes"] is None


@pytest.mark.usefixtures("small_data")
def test_a_cell_that_diverges_leaves_the_grid_its_others(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipes.SVMCifar10(epochs=1, batch_size=20, lr=1e-3, factors=(1.0, 1e30))
    recipe.run()
    out = capsys.readouterr().out
    assert "diverged" in out
    assert "report: " in out
    assert np.isnan(recipe.grid).any()
    with pytest.raises(training.DivergedError):
        recipes.SVMCifar10(epochs=1, batch_size=20, lr=1e33, factors=(1.0, 2.0)).run()


@pytest.mark.usefixtures("small_data")
def test_a_finished_grid_can_be_used_while_it_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"batch_size": 20, "factors": (1.0, 10.0)}
    recipes.SVMCifar10(epochs=1, **options).run()
    with monkeypatch.context() as patch:
        patch.setattr(recipes.ImageClassifier, "fit", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recipes.SVMCifar10(epochs=2, resume=True, **options).run()
    recipes.load("runs/svm-cifar10-1").evaluate()


def test_the_function_of_the_regression_and_its_cure() -> None:
    np.testing.assert_allclose(target(np.array([0.0, 1.0, 0.5])), [0, 0, np.sin(10 * np.pi / 16)], atol=1e-14)
    x = np.linspace(0, 1, 1001)
    predict = recipes.Regression(updates=1000).learn(1000, 0, cured=True)
    assert np.abs(predict(x) - target(x)).max() < 0.2


@pytest.mark.real_data
def test_nearest_neighbours_of_real_photographs(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes.KNNCifar10(ks=(1,), folds=2, sizes=(5000,), data_dir=data_dir).run()
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "test accuracy: 27.01 %"          # on any machine: distances are exact
    assert out[-3].startswith("N = 5000   test accuracy 27.01 %, mean distance to the nearest 2554, searched in ")


@pytest.mark.real_data
def test_a_linear_machine_on_real_photographs(data_dir: Path) -> None:
    recipes.SVMCifar10(epochs=2, factors=(1.0,), data_dir=data_dir).run()
    assert json.loads(Path("runs/svm-cifar10-1/results.json").read_text())["accuracy"] > 0.36
