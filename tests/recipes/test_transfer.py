"""Runs that begin with the weights of another one: of every classifier, and in the recipe that compares them."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fastnn import data, recipes, training
from fastnn.data import Dataset, Split
from fastnn.recipes import transfer


@dataclass
class Others(recipes.CNN):
    """The darker half of the digits, whose classes have other names."""

    name: ClassVar[str] = "others"

    def load_dataset(self) -> Dataset:
        digits = data.digits()
        dark = np.argsort(digits.train.images.mean((1, 2, 3)))[: len(digits.train) // 2]
        return replace(digits, classes=tuple("abcdefghij"),
                       train=Split(digits.train.images[dark], digits.train.labels[dark]))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(path: Path) -> dict[str, Any]:
    return training.checkpoint.part(training.load(path)[0], "model")


def changed(ours: dict[str, Any], theirs: dict[str, Any]) -> set[str]:
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not np.array_equal(ours[name], theirs[name])}


# --- every classifier ---


def test_a_run_begins_with_the_weights_of_another_one(source: Path) -> None:
    given = weights(source / "best.safetensors")
    for recipe, new in ((recipes.CNN(init_from=source), set()), (Others(init_from=source), {"12.weight", "12.bias"})):
        model = recipe.model()
        recipe.begin(model, recipe.load_dataset().classes)
        assert changed(model.state_dict(), given) == new


def test_frozen_layers_stay_and_images_are_normalized_as_they_were(source: Path) -> None:
    given = weights(source / "best.safetensors")
    recipe = Others(init_from=source, freeze=("0", "1", "3"), epochs=1, run_dir=Path("run"))
    *_, normalize = recipe.fit(progress=False)
    learned = {name for name in given if not name.startswith(("0.", "1.", "3."))}
    assert changed(weights(Path("run/last.safetensors")), given) == learned
    inputs = [json.loads((folder / "config.json").read_text())["inputs"] for folder in (source, Path("run"))]
    assert [inputs[1][name] for name in ("mean", "std")] == [inputs[0][name] for name in ("mean", "std")]
    np.testing.assert_array_equal(normalize.mean, inputs[0]["mean"])


def test_a_run_goes_on_without_the_one_that_it_began_with(source: Path) -> None:
    shutil.copytree(source, "source")
    options: dict[str, Any] = {"init_from": Path("source"), "freeze": ("0", "1"), "epochs": 2}
    recipes.CNN(**options, run_dir=Path("whole")).fit(progress=False)
    with pytest.raises(SystemExit):
        recipes.CNN(**options, run_dir=Path("stopped")).fit(callbacks=[Stop(30)], progress=False)
    shutil.rmtree("source")
    recipes.CNN(**options, run_dir=Path("stopped"), resume=True).run()
    for name in ("last.safetensors", "best.safetensors"):
        assert not changed(weights(Path("stopped", name)), weights(Path("whole", name)))
    recipes.load("stopped").evaluate()
    assert "--init-from source " in json.loads(Path("stopped/results.json").read_text())["command"]
    with pytest.raises(ValueError, match=r"init_from: expected .*source, with which the run in stopped was begun"):
        recipes.CNN(**{**options, "init_from": Path("other")}, run_dir=Path("stopped"), resume=True).run()


class Stop(training.Callback):
    """Ends the process after so many updates."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_step_end(self, trainer: training.Trainer, loss: float) -> None:
        self.updates -= 1
        if not self.updates:
            raise SystemExit


@pytest.mark.parametrize(("recipe", "error", "message"), [
    (recipes.CNN(init_from=Path("nowhere")), FileNotFoundError,
     "init_from: expected the folder of a trained run, such as runs/cnn-1, but there is no config.json in .*nowhere"),
    (recipes.CNN(freeze=("conv9",)), ValueError, "which this CNN calls 0.weight, .*; got 'conv9', which fits none"),
    (recipes.CNN(freeze=("*",)), ValueError, "freeze: expected patterns that leave something to be learned"),
    (recipes.Transfer(freeze=("layer9",)), ValueError, "ResNet18 calls conv1.weight, .*; got 'layer9', which fits"),
    (recipes.Transfer(images=(20, 5)), ValueError, r"images: expected rising numbers from 1 to 5,000, got \(20, 5\)"),
    (recipes.Transfer(images=()), ValueError, r"images: expected rising numbers from 1 to 5,000, got \(\)"),
    (recipes.Transfer(updates=0), ValueError, "updates: expected at least 1, got 0"),
    (recipes.Transfer(lr=-1), ValueError, "lr: expected a number above 0, got -1"),
    (recipes.Transfer(dataset="svhn"), ValueError, "dataset: expected one of 'cifar10', 'fashion-mnist', got 'svhn'"),
    (recipes.Transfer(init_from=Path("nowhere")), FileNotFoundError, "init_from: expected the folder of a trained run"),
])
def test_wrong_options_are_refused_before_anything_is_written(recipe: Any, error: type[Exception],
                                                              message: str) -> None:
    with pytest.raises(error, match=message):
        recipe.run()
    assert list(Path().iterdir()) == []


def test_runs_that_do_not_fit_are_refused_before_anything_is_written(source: Path) -> None:
    for recipe in (recipes.FFNFashion(init_from=source), recipes.Transfer(init_from=source)):
        with pytest.raises(training.CheckpointError,
                           match=r"expected a checkpoint of this .*, got one of CNN: ") as caught:
            recipe.begin(recipe.model(), "ab") if isinstance(recipe, recipes.ImageClassifier) else run_small(recipe)
        assert caught.value.__notes__[0].startswith("init_from: expected the run of a ")
    assert list(Path().iterdir()) == []
    Path("figures").mkdir()
    Path("figures/config.json").write_text('{"recipe": "regression"}')
    with pytest.raises(ValueError, match="init_from: expected the folder of a run that keeps a trained classifier of"):
        recipes.CNN(init_from=Path("figures")).run()
    with pytest.raises(ValueError, match="epochs: expected none with init_from, whose network is trained already, got"):
        recipes.Transfer(init_from=source, epochs=3).run()


# --- the recipe ---


def photographs(folder: Any) -> Dataset:
    """Noise whose class is its colour."""
    labels = np.tile(np.arange(10), 8)
    images = np.random.default_rng(0).integers(0, 60, (80, 3, 32, 32)) + 19 * labels[:, None, None, None]
    part = Split(images.astype(np.uint8), labels)
    return Dataset(part, part, tuple("abcdefghij"), "cifar10")


def run_small(recipe: recipes.Transfer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "cifar10", photographs)
        recipe.run()


def small(**options: Any) -> recipes.Transfer:
    return recipes.Transfer(**{"images": (2, 4), "updates": 2, "repeats": 1, "batch_size": 4, "width": 2, "epochs": 1,
                               **options})


def test_what_few_images_are_and_which_classes() -> None:
    dataset = photographs(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "cifar10", lambda folder: dataset)
        eight, two = (transfer.images_of(name, None) for name in ("cifar10-eight", "cifar10-two"))
        few = transfer.TransferPart(dataset="cifar10-two", images=2, repeated=6).load_dataset().train
        more = transfer.TransferPart(dataset="cifar10-two", images=4, repeated=6).load_dataset().train
    assert (eight.classes, two.classes) == (tuple("abcdefgh"), ("i", "j"))
    assert np.unique(eight.train.labels).tolist() == list(range(8))
    np.testing.assert_array_equal(two.test.images, dataset.test.images[dataset.test.labels >= 8])
    assert few.labels.tolist() == more.labels.tolist() == [0] * 6 + [1] * 6
    different = [{image.tobytes() for image in part.images} for part in (few, more)]
    assert [len(images) for images in different] == [4, 8]
    assert different[0] < different[1]


def test_transfer_is_compared_with_training_from_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run_small(small(run_dir=Path("run")))
    found = json.loads(Path("run/results.json").read_text())
    assert list(found["figures"]) == found["headline"] == ["2 images a class", "4 images a class"]
    assert found["command"].startswith("fastnn train transfer --epochs 1 --images 2 4 --updates 2 ")
    assert Path("run/test-accuracy-against-images-of-each-class.png").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "test accuracy: " + "; ".join(
        f"{share} with {name}" for name, share in found["figures"].items())
    given = weights(Path("run/source/last.safetensors"))
    learned = changed(weights(Path("run/2-transferred-1/last.safetensors")), given)
    assert learned == {name for name in given if name.startswith(("layer3", "layer4", "fc"))}
    assert recipes.load("run/2-from-nothing-1").freeze == ()
    # The first training can be used again.
    run_small(small(run_dir=Path("again"), epochs=10, init_from=Path("run/source")))
    assert json.loads(Path("again/results.json").read_text())["figures"] == found["figures"]
    assert not Path("again/source").exists()


@pytest.mark.parametrize("updates", [7, 21])
def test_a_transfer_that_was_killed_ends_as_one_that_never_was(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, trainer = Stop(updates), training.Trainer
    run_small(small(run_dir=Path("whole")))
    monkeypatch.setattr(training, "Trainer", lambda *args, callbacks=(), **options: trainer(
        *args, callbacks=[*callbacks, stop], **options))
    with pytest.raises(SystemExit):
        run_small(small(run_dir=Path("run")))
    run_small(small(run_dir=Path("run"), resume=True))
    for path in Path("whole").rglob("last.safetensors"):
        assert not changed(weights(Path("run", *path.parts[1:])), weights(path)), path


def test_a_run_goes_on_from_another_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(source, "source")
    recipe = recipes.Adversarial(init_from=Path("source"), images=10, run_dir=Path("run"))
    monkeypatch.setattr(recipe, "attack", lambda *args: sys.exit())
    with pytest.raises(SystemExit):
        recipe.run()
    assert recipe.command() == "fastnn train adversarial --init-from source --images 10"
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    replace(recipes.load("../run"), resume=True).check()
    assert recipe.command() == f"fastnn train adversarial --init-from {Path('../source').resolve()} --images 10"


@pytest.mark.parametrize("recipe", [small(epochs=2), recipes.Adversarial(epochs=2)])
def test_a_run_in_parts_goes_on_with_its_own_number_of_epochs(recipe: Any) -> None:
    begun = replace(recipe, epochs=1, run_dir=Path("run"))
    begun.open_run_dir()
    begun.write_config()
    config = Path("run/config.json").read_bytes()
    with pytest.raises(ValueError, match="epochs: expected 1, with which the run in run was begun, got 2; leave it"):
        run_small(replace(recipe, run_dir=Path("run"), resume=True))
    assert Path("run/config.json").read_bytes() == config


@pytest.mark.real_data
@pytest.mark.parametrize("dataset", ["cifar10", "fashion-mnist"])
def test_the_real_images_are_there(dataset: Any, data_dir: Path) -> None:
    recipe = recipes.Transfer(dataset=dataset)
    recipe.check()
    for part, classes, shape in ((recipe.source(), 8, (3, 32, 32)), (recipe.target(20), 2, (3, 32, 32))):
        part.data_dir = data_dir
        found = part.load_dataset()
        if dataset != "cifar10":
            classes, shape = 10, (1, 28, 28)
        assert (len(found.classes), found.train.images.shape[1:]) == (classes, shape)
        part.check_dataset(found, part.model())
    assert len(found.train) == 500 * classes
