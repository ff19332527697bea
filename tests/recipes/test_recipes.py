"""Recipes: their options, where their runs lie, how they are resumed, and what a whole run leaves behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fastnn import data, recipes, training
from fastnn.data import Dataset, Split
from fastnn.recipes import RECIPES, CNNMnist, OverfitCheck, ThreeLayerConvNet
from fastnn.training.plots import filters

FILES = {"config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "results.json", "report.html",
         "curves.png", "confusion.png", "classes.png", "samples.png", "weights-by-epoch.png"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("run") / "cnn"
    recipes.CNN(epochs=2, run_dir=folder).run()
    return folder


def small(channels: int, size: int) -> Dataset:
    """Images whose class is where they are light."""
    labels = np.tile(np.arange(10), 12)
    images = np.random.default_rng(0).integers(0, 60, (120, channels, size, size), np.uint8)
    images[np.arange(120), :, 2 * labels + 2] = 255
    return Dataset(Split(images[:100], labels[:100]), Split(images[100:], labels[100:]), tuple("abcdefghij"), "small")


# --- options ---


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_has_the_common_options(recipe: type[recipes.Recipe]) -> None:
    names = {field.name for field in fields(recipe)}
    assert {"seed", "run_dir", "data_dir"} <= names
    assert ("resume" in names) == ("epochs" in names or recipe is recipes.TransformerLM)    # which counts updates
    assert all((recipe.name, recipe.needs, recipe.takes))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize(("options", "error", "message"), [
    ({"data_dir": Path("nowhere")}, FileNotFoundError, "data_dir: expected a folder, but there is none at nowhere"),
    ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
    ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
    ({"seed": 1.5}, TypeError, "seed: expected an integer, got 1.5"),
    ({"epochs": "3"}, TypeError, "epochs: expected an integer, got '3'"),
    ({"batch_size": None}, TypeError, "batch_size: expected an integer, got None"),
    ({"device": "gpu"}, ValueError, "device: expected one of cpu, cuda, got 'gpu'"),
    ({"resume": True}, FileNotFoundError, "resume: expected a run of .* under .*runs, but there is none"),
    ({"resume": True, "run_dir": Path("nothing")}, FileNotFoundError, "nothing: expected the folder of a run"),
])
def test_options_that_cannot_be_obeyed(recipe: Any, options: dict[str, Any], error: type[Exception],
                                       message: str) -> None:
    if not options.keys() <= {field.name for field in fields(recipe)}:
        pytest.skip("the recipe has no such option")
    if options.get("epochs") == 0 == recipe.least_epochs:
        pytest.skip("the recipe takes no epochs")
    with pytest.raises(error, match=message):
        recipe(**options).run()
    assert list(Path().iterdir()) == []     # nothing was written


def test_a_set_that_is_not_in_the_folder(tmp_path: Path) -> None:
    for recipe in (recipes.CNN(dataset="mnist", data_dir=tmp_path), CNNMnist(data_dir=tmp_path),
                   ThreeLayerConvNet(data_dir=tmp_path), OverfitCheck(data_dir=tmp_path)):
        with pytest.raises(FileNotFoundError, match="expected its files in"):
            recipe.run()
    assert list(tmp_path.iterdir()) == []


def test_learning_rates_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"lrs: expected learning rates above 0, each once, got \(0.1, 0.0\)"):
        OverfitCheck(lrs=(0.1, 0.0)).run()


# --- folders ---


def test_runs_are_numbered() -> None:
    Path("runs/cnn-7").mkdir(parents=True)
    Path("runs/cnn-mnist-9").mkdir()
    Path("runs/cnn-x").mkdir()
    assert recipes.CNN().open_run_dir() == Path("runs/cnn-8")
    assert recipes.CNN().open_run_dir() == Path("runs/cnn-9")
    assert recipes.CNN(run_dir=Path("a/b")).open_run_dir() == Path("a/b")
    assert Path("runs/cnn-9").is_dir()
    assert Path("a/b").is_dir()


def test_a_folder_that_cannot_be_made() -> None:
    Path("runs").write_text("a file")
    for recipe, folder in (recipes.CNN(), "runs/cnn-1"), (recipes.CNN(run_dir=Path("runs")), "runs"):
        path = re.escape(str(Path(folder)))
        with pytest.raises(OSError, match=f"run_dir: the folder {path} cannot be made .*; give another"):
            recipe.open_run_dir()


def test_a_run_is_not_overwritten(run_dir: Path) -> None:
    before = (run_dir / "last.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already; give another folder, or resume that run"):
        recipes.CNN(run_dir=run_dir).run()
    assert (run_dir / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize("recipe", [
    recipes.CNN(seed=3, epochs=5, dataset="fashion-mnist", data_dir=Path("/data")), OverfitCheck(lrs=(0.1, 0.2, 0.3))])
def test_a_recipe_comes_back_from_its_config(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(recipe.config()))
    recipe.run_dir = tmp_path
    assert recipes.load(tmp_path) == recipe


@dataclass
class Pathy(recipes.CNN):
    weights: Path | None = None
    note: str | None = None


def test_a_path_comes_back_as_one(tmp_path: Path) -> None:
    recipe = Pathy(weights=tmp_path / "w", note="text")
    (tmp_path / "config.json").write_text(json.dumps(recipe.config()))
    recipe.run_dir = tmp_path
    assert recipes.load(tmp_path, Pathy) == recipe


@pytest.mark.parametrize(("text", "message"), [
    ("{", "expected the configuration of a run in JSON"),
    ("[]", r"expected the configuration of a run in JSON, got \[\]"),
    ('{"recipe": "diffusion"}', "expected what a run of one of cnn, .* wrote, got"),
])
def test_a_config_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        recipes.load(tmp_path)


# --- a whole run ---


def test_what_a_run_leaves_and_prints(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in run_dir.iterdir()} == FILES
    recipes.CNN(epochs=2, run_dir=tmp_path / "again").run()
    out = capsys.readouterr().out.splitlines()
    accuracy = json.loads((run_dir / "results.json").read_text())["accuracy"]
    assert out[0] == ("cnn: CNN with 30,762 parameters, on 1,293 images of digits (1 x 8 x 8); 144 for validation, "
                      "360 for the test")
    assert out[1] == f"run folder: {tmp_path / 'again'}"
    assert sum(line.startswith("epoch ") for line in out) == 2
    assert out[-2] == f"report: {tmp_path / 'again' / 'report.html'}"
    assert out[-1] == f"test accuracy: {100 * accuracy:.2f} %"        # that of the other run: the seed decides
    assert accuracy > 0.5
    for name in ("last.safetensors", "best.safetensors"):
        tensors, again = training.load(run_dir / name)[0], training.load(tmp_path / "again" / name)[0]
        assert all(np.array_equal(tensors[key], again[key]) for key in tensors), name


def test_another_seed_gives_another_run(run_dir: Path, tmp_path: Path) -> None:
    recipes.CNN(epochs=1, seed=1, run_dir=tmp_path / "other").run()
    assert not np.array_equal(training.load(run_dir / "last.safetensors")[0]["model.0.weight"],
                              training.load(tmp_path / "other" / "last.safetensors")[0]["model.0.weight"])


def test_a_resumed_run_ends_as_one_that_never_stopped(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "Trainer", stopping_trainer())
        with pytest.raises(KeyboardInterrupt):
            recipes.CNN(epochs=2).run()
    folder = Path("runs/cnn-1")
    assert not (folder / "results.json").exists()
    recipes.CNN(epochs=2, resume=True).run()                          # the newest run
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = training.load(folder / name)[0], training.load(run_dir / name)[0]
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name
    confusions = [json.loads((run / "results.json").read_text())["confusion"] for run in (folder, run_dir)]
    assert confusions[0] == confusions[1]


def stopping_trainer() -> type[training.Trainer]:
    """A trainer that is interrupted in the middle of the second epoch, as by Ctrl-C."""
    class Stop(training.Callback):
        def on_step_end(self, trainer: training.Trainer, loss: float) -> None:
            if len(trainer.history) == 1:
                trainer._interrupts.requested = signal.SIGINT

    class StoppingTrainer(training.Trainer):
        def fit(self, *args: Any, **options: Any) -> training.History:
            self.callbacks.append(Stop())
            return super().fit(*args, **options)

    return StoppingTrainer


def test_a_run_is_resumed_with_its_own_options(run_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"lr: expected 0\.01, with which the run in .* was begun, got 0\.5"):
        recipes.CNN(epochs=2, lr=0.5, run_dir=run_dir, resume=True).run()
    with pytest.raises(ValueError, match=r"run_dir: expected a run of cnn-mnist, but .* holds one of cnn"):
        CNNMnist(run_dir=run_dir, resume=True).run()


def test_evaluating_a_run_gives_its_results_again(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes.load(run_dir).evaluate()
    out = capsys.readouterr().out
    results = json.loads((run_dir / "results.json").read_text())
    assert out.splitlines()[-1] == f"test accuracy: {100 * results['accuracy']:.2f} %"
    assert training.confusion_table(np.array(results["confusion"]), tuple("0123456789")) in out
    assert "class  images  right  accuracy  read as" in out
    assert "Commonest confusions: " in out


def test_a_run_predicts_image_files(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    recipe, digits = recipes.load(run_dir), data.digits()
    model, inputs = recipe.trained()
    scores = model(data.to_float(digits.test.images, inputs["mean"], inputs["std"], scale=16))
    surest = int(scores.max(1).argmax())
    pixels = np.rint(digits.test.images[surest, 0] * (255 / 16)).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "as it is.png")
    image.fromarray(255 - pixels).resize((64, 64), image.Resampling.BOX).save(tmp_path / "dark.png")
    recipe.predict([tmp_path / "as it is.png", tmp_path / "dark.png"], top=2)
    plain, dark = capsys.readouterr().out.splitlines()
    name = scores[surest].argmax()
    assert plain.startswith(f"{tmp_path / 'as it is.png'}: {name} ")
    assert plain.count("%") == 2
    assert dark.startswith(f"{tmp_path / 'dark.png'}: {name} ")
    assert dark.endswith("(brought from 64x64 to 8x8 pixels; inverted, since its background is light)")


def test_probabilities_of_all_classes_make_one(run_dir: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("L", (8, 8), 90).save(tmp_path / "gray.png")
    recipes.load(run_dir).predict([tmp_path / "gray.png"], top=99)
    shares = [float(part.split()[1]) for part in capsys.readouterr().out.split(": ")[1].split(", ")]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(100, abs=0.6)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("change", [
    lambda config: [config],
    lambda config: config.pop("inputs"),
    lambda config: config["inputs"].pop("mean"),
    lambda config: config["inputs"].update(shape=[1, 8]),
    lambda config: config["inputs"].update(std="wide"),
    lambda config: config["inputs"].update(classes=["0", "1"]),
])
def test_inputs_that_are_damaged_are_refused(run_dir: Path, tmp_path: Path, change: Any) -> None:
    recipe = recipes.load(run_dir)
    (tmp_path / "best.safetensors").write_bytes((run_dir / "best.safetensors").read_bytes())
    config = json.loads((run_dir / "config.json").read_text())
    changed = change(config)
    (tmp_path / "config.json").write_text(json.dumps(changed if changed == [config] else config))
    recipe.run_dir = tmp_path
    with pytest.raises(ValueError, match=r"config\.json: expected (under inputs the classes, shape, .* that this CNN|"
                                         r"the configuration of a run in JSON, got \[)"):
        recipe.evaluate()


# --- data sets and models of one's own ---


def images(count: int, *shape: int, classes: int = 10) -> Split:
    labels = np.arange(count) % classes
    return Split(np.random.default_rng(0).integers(0, 255, (count, *shape), np.uint8), labels)


@dataclass
class Own(recipes.FullyConnected):
    """A small network with batch normalization, on the data set that the test gives."""

    name: ClassVar[str] = "own"
    needs: ClassVar[str] = "nothing"
    takes: ClassVar[str] = "1 s"
    shape: ClassVar[tuple[int, ...]] = (1, 4, 4)
    given: ClassVar[Dataset]

    hidden: tuple[int, ...] = (4,)
    batch_norm: bool = True
    epochs: int = 1

    def load_dataset(self) -> Dataset:
        return self.given


@dataclass
class OwnLinear(recipes.SVMCifar10):
    given: ClassVar[Dataset]

    def load_dataset(self) -> Dataset:
        return self.given


NAMES = tuple("abcdefghij")


@pytest.mark.parametrize(("dataset", "message"), [
    (Dataset(images(40, 1, 4, 4), images(20, 1, 5, 5), NAMES, "own"), r"one size and dtype .* \(20, 1, 5, 5\)"),
    (Dataset(images(40, 1, 4, 4), images(20, 3, 4, 4), NAMES, "own"), r"one size and dtype .* \(20, 3, 4, 4\)"),
    (Dataset(images(40, 4, 4), images(20, 4, 4), NAMES, "own"), r"images \(N, C, H, W\)"),
    (Dataset(images(40, 1, 4, 4), images(20, 1, 4, 4), NAMES[:9], "own"), "train labels from 0 to 8, .* got 0 to 9"),
    (Dataset(images(40, 1, 4, 4, classes=9), images(20, 1, 4, 4), NAMES[:9], "own"), "test labels from 0 to 8"),
    (Dataset(images(40, 1, 4, 4), images(0, 1, 4, 4), NAMES, "own"), "test labels from 0 to 9, .* got none"),
    (Dataset(images(40, 1, 4, 4), images(20, 1, 4, 4), (*NAMES, "k"), "own"), "gives scores, 10, got 11: a, b, .*k"),
    (Dataset(images(40, 1, 4, 4, classes=9), images(20, 1, 4, 4, classes=9), NAMES[:9], "own"), "scores, 10, got 9"),
    (Dataset(images(40, 2, 4, 4), images(20, 2, 4, 4), NAMES, "own"), r"shape \(2, 4, 4\) do not fit this"),
])
def test_a_data_set_that_does_not_fit_is_refused_before_anything_is_written(
        dataset: Dataset, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe in (Own(), OwnLinear(), OwnLinear(factors=(1.0,))):
        monkeypatch.setattr(type(recipe), "given", dataset, raising=False)
        expected = message if isinstance(recipe, Own) else "do not fit this" if "scores" in message else message
        with pytest.raises(ValueError, match=f"dataset: .*{expected}"):
            recipe.run()
        assert list(Path().iterdir()) == []


def test_a_run_is_evaluated_on_data_like_those_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "given", Dataset(images(60, 1, 4, 4), images(20, 1, 4, 4), NAMES, "own"), raising=False)
    recipe = Own()
    recipe.run()
    recipe.evaluate()
    for other in (Dataset(images(40, 1, 2, 8), images(20, 1, 2, 8), NAMES, "own"),
                  Dataset(images(40, 1, 4, 4), images(20, 1, 4, 4), NAMES[::-1], "own")):
        monkeypatch.setattr(Own, "given", other)
        with pytest.raises(ValueError, match=r"dataset: expected images of shape \(1, 4, 4\) of the classes a, b"):
            recipe.evaluate()


def test_images_that_cannot_be_drawn_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(images(60, 4, 2, 2), images(20, 4, 2, 2), NAMES, "own")
    monkeypatch.setattr(Own, "given", dataset, raising=False)
    monkeypatch.setattr(Own, "shape", (4, 2, 2))
    Own().run()
    assert {path.name for path in Path("runs/own-1").iterdir()} == FILES - {"samples.png"}


@pytest.mark.parametrize("batch_size", [2, 4, 6, 7, 10, 35, 36, 37])
def test_no_batch_size_ends_a_run(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 37 images, which leave a single one for the last batch or not."""
    monkeypatch.setattr(Own, "given", Dataset(images(41, 1, 4, 4), images(20, 1, 4, 4), NAMES, "own"), raising=False)
    trainer, *_ = Own(batch_size=batch_size).fit(progress=False)
    left_out = 37 % batch_size == 1
    assert trainer.history.records[0]["step"] == 37 // batch_size + (37 % batch_size > 1)
    assert left_out or trainer._state.updates == -(-37 // batch_size)


def test_batches_of_one_image_that_cannot_be_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "given", Dataset(images(41, 1, 4, 4), images(20, 1, 4, 4), NAMES, "own"), raising=False)
    with pytest.raises(ValueError, match="batch_size: expected at least 2, since this FullyConnectedNet cannot be tra"):
        Own(batch_size=1).run()
    assert list(Path().iterdir()) == []
    trainer, *_ = Own(batch_size=1, batch_norm=False).fit(progress=False)
    assert trainer.history.records[0]["step"] == 37


def test_a_single_image_to_train_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "given", Dataset(images(2, 1, 4, 4), images(20, 1, 4, 4), NAMES, "own"), raising=False)
    monkeypatch.setattr(Own, "validation", 0.5)
    with pytest.raises(ValueError, match=r"its only batch has a single sample, .*; give more samples"):
        Own(batch_size=4).run()


def test_names_of_classes_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(images(41, 1, 4, 4), images(20, 1, 4, 4), (0, 1, 2, 3), "own")       # type: ignore[arg-type]
    monkeypatch.setattr(Own, "given", dataset, raising=False)
    with pytest.raises(TypeError, match=r"dataset: expected names of classes that are text, got \(0, 1, 2, 3\)"):
        Own().run()
    assert list(Path().iterdir()) == []


def test_after_a_run_its_folder_is_free() -> None:
    recipe = recipes.CNN(epochs=1, run_dir=Path("run"))
    recipe.run()
    recipe.resume, recipe.epochs = True, 2
    recipe.fit(progress=False)
    assert not Path("run/.lock").exists()


# --- folders as text ---


def test_folders_may_be_text(tmp_path: Path) -> None:
    recipe = recipes.CNN(run_dir="a/b", data_dir=str(tmp_path), epochs=1)      # type: ignore[arg-type]
    assert (recipe.run_dir, recipe.data_dir) == (Path("a/b"), tmp_path)
    recipe.data_dir = "nowhere"                                                 # type: ignore[assignment]
    with pytest.raises(FileNotFoundError, match="data_dir: expected a folder, but there is none at nowhere"):
        recipe.run()
    recipe.data_dir = None                              # which the digits do without
    recipe.run()
    recipe = recipes.CNN(run_dir="a/b", resume=True, epochs=2)                  # type: ignore[arg-type]
    recipe.run()
    assert len(training.History.read("a/b")) == 2
    recipes.load("a/b").evaluate()
    assert training.write_report("a/b", training.Evaluation(0.5)) == Path("a/b/report.html")
    for name in ("run_dir", "data_dir"):
        with pytest.raises(TypeError, match=f"{name}: expected a path, got int"):
            recipes.CNN(**{name: 3})                                            # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_takes_folders_as_text(recipe: Any) -> None:
    with pytest.raises(FileNotFoundError, match="data_dir: expected a folder, but there is none at nowhere"):
        recipe(run_dir="run", data_dir="nowhere").run()
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("options", "message"), [
    ({"epochs": "2"}, "expected int as epochs, got '2'"), ({"epochs": True}, "expected int as epochs, got True"),
    ({"lr": None}, "expected float as lr, got None"), ({"dataset": 3}, "expected one of 'digits', .* as dataset, got"),
    ({"data_dir": 4}, "expected a path or null as data_dir, got 4"), ({"track": []}, "expected .* or null as track, "),
    ({"batch_size": 10**9}, "expected batch_size 64, with which best.safetensors was written, got 1000000"),
    ({"dataset": "mnist"}, "expected dataset 'digits', with which best.safetensors was written, got 'mnist'")])
def test_options_that_are_damaged_are_refused(run_dir: Path, tmp_path: Path, options: Any, message: str) -> None:
    folder = shutil.copytree(run_dir, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        recipes.load(folder).evaluate()
    with pytest.raises(ValueError, match=rf"config\.json: {message.replace('best', 'last')}"):
        replace(recipes.load(folder), resume=True).run()
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


# --- the other recipes, on small data ---


@dataclass
class SmallMnist(CNNMnist):
    def load_dataset(self) -> Dataset:
        return small(1, 28)


@dataclass
class SmallCifar(ThreeLayerConvNet):
    def load_dataset(self) -> Dataset:
        return small(3, 32)


def test_the_cnn_trains_on_the_set_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, split in ("train", small(1, 28).train), ("t10k", small(1, 28).test):
        for name, array in ("images-idx3", split.images[:, 0]), ("labels-idx1", split.labels.astype(np.uint8)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4) for length in array.shape)
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    recipes.CNN(dataset="mnist", data_dir=tmp_path, epochs=1).run()
    assert "on 90 images of mnist (1 x 28 x 28); 10 for validation, 20 for the test" in capsys.readouterr().out
    saved = recipes.load("runs/cnn-1")
    assert (saved.dataset, saved.data_dir) == ("mnist", tmp_path)
    saved.evaluate()


@pytest.mark.parametrize(("recipe", "pictures"), [
    (SmallMnist(epochs=4, batch_size=10), set()),
    (SmallCifar(epochs=2, batch_size=10), {"filters-of-the-first-layer.png"}),
])
def test_a_small_run(recipe: Any, pictures: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe.run()
    assert {path.name for path in recipe.run_dir.iterdir()} == FILES | pictures
    assert json.loads((recipe.run_dir / "results.json").read_text())["accuracy"] >= 0.3
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: ")


def test_filters_are_stretched_to_their_own_range() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3, 4, 4)) * np.array([1, 9, 3, 1e-6, 1]).reshape(5, 1, 1, 1)
    pictures = [axes.images[0].get_array() for axes in filters(weight).axes]
    assert [picture.shape for picture in pictures] == [(4, 4, 3)] * 5
    assert all(picture.min() == 0 and picture.max() == 1 for picture in pictures)


def test_overfit_check_keeps_its_config_when_it_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "cifar10", lambda folder: small(3, 32))
    OverfitCheck(epochs=1, lrs=(0.01,)).run()
    path = Path("runs/overfit-check-1/config.json")
    before = path.stat().st_mtime_ns
    OverfitCheck(epochs=1, lrs=(0.01,), resume=True).run()
    assert path.stat().st_mtime_ns == before
    OverfitCheck(epochs=2, lrs=(0.01,), resume=True).run()
    assert json.loads(path.read_text())["epochs"] == 2


@pytest.mark.slow
@pytest.mark.real_data
def test_overfit_check_learns_five_images_by_heart(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OverfitCheck(data_dir=data_dir).run()
    folder = Path("runs/overfit-check-1")
    losses = {lr: training.History.read(folder / f"lr-{lr}")["val_loss"] for lr in (0.01, 0.1)}
    assert all(len(loss) == 20 for loss in losses.values())
    assert losses[0.1][-1] < 0.02
    assert 1.5 < losses[0.01][-1] < 2.3
    assert (folder / "loss-against-epoch.png").read_bytes()[1:4] == b"PNG"
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"after 20 epochs: loss {losses[0.01][-1]:.4f} at learning rate 0.01, loss {losses[0.1][-1]:.4f} at learning "
        "rate 0.1")
    with pytest.raises(FileExistsError, match="holds a run already"):
        OverfitCheck(run_dir=folder, data_dir=data_dir).run()
    OverfitCheck(epochs=21, data_dir=data_dir, resume=True).run()
    assert len(training.History.read(folder / "lr-0.1")) == 21


@pytest.mark.real_data
@pytest.mark.parametrize(("recipe", "train", "test", "shape"), [
    (recipes.CNN(dataset="mnist"), 60_000, 10_000, (1, 28, 28)),
    (recipes.CNN(dataset="fashion-mnist"), 60_000, 10_000, (1, 28, 28)),
    (CNNMnist(), 60_000, 10_000, (1, 28, 28)),
    (ThreeLayerConvNet(), 50_000, 10_000, (3, 32, 32)),
])
def test_recipes_find_their_data(recipe: Any, train: int, test: int, shape: tuple[int, ...], data_dir: Path) -> None:
    recipe.data_dir = data_dir
    dataset = recipe.load_dataset()
    assert (len(dataset.train), len(dataset.test), dataset.train.images.shape[1:]) == (train, test, shape)
