"""Compressions of runs: the table, the weights that are left, and what one that was stopped ends as."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import data, nn, recipes, training
from fastnn.cli.results import results
from fastnn.cli.runs import classifier_of
from fastnn.cli.summary import summary
from fastnn.data import Dataset, Split
from fastnn.nn.cost import in_bytes
from fastnn.training import pruning

DIGITS = data.digits()
FEW = Dataset(Split(DIGITS.train.images[:320], DIGITS.train.labels[:320]), DIGITS.test, DIGITS.classes, DIGITS.name,
              DIGITS.scale)
KINDS = ("float32", "pruned", "int8", "pruned-and-int8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run on few digits, and a compression of it: at sparsities of 50, 80 and 90 %, 5 steps at each."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes.CNN, "load_dataset", lambda self: FEW)
        recipes.CNN(epochs=6, lr=0.02, run_dir=folder / "cnn-1").run()
        compression(folder, "compress-1").run()
        yield folder


def compression(runs: Path, name: str | Path, **options: Any) -> recipes.Compression:
    return recipes.Compression(**{"source": runs / "cnn-1", "run_dir": runs / name, "epochs": 1,
                                  "sparsities": (0.9, 0.5), **options})


def weights(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return {str(path.relative_to(folder)): training.load(path)[0] for path in folder.rglob("*.safetensors")}


def test_the_table_says_what_lies_in_the_folder(runs: Path) -> None:
    folder, source = runs / "compress-1", recipes.load(runs / "cnn-1")
    found = json.loads((folder / "results.json").read_text())
    sizes = [(folder / f"{kind}.safetensors").stat().st_size for kind in KINDS]
    for kind, size in zip(KINDS, sizes, strict=True):
        assert f" %, {in_bytes(size)}, " in found["figures"][kind.replace("-", " ")]
    float32, pruned, int8, both = sizes
    assert pruned < 0.3 * float32 > int8 > both
    model, _ = source.trained()
    before = model.state_dict()
    training.load_model(folder / "float32.safetensors", model)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    training.load_model(folder / "pruned.safetensors", model)
    assert pruning.sparsity(model) == pytest.approx(0.8, abs=1e-3)
    for level in (0.5, 0.8, 0.9):
        training.load_model(folder / f"sparsity-{level}/last.safetensors", model)
        assert pruning.sparsity(model) == pytest.approx(level, abs=1e-3)
    page = (folder / "report.html").read_text()
    assert all(f"<td>{100 * level:g} %</td>" in page for level in (0.5, 0.8, 0.9))
    assert (folder / "accuracy-against-sparsity.png").exists()


def test_fine_tuning_begins_with_the_model_of_the_sparsity_before(runs: Path) -> None:
    zeros = []
    model, _ = recipes.load(runs / "cnn-1").trained()
    for level in (0.5, 0.8, 0.9):
        training.load_model(runs / f"compress-1/sparsity-{level}/last.safetensors", model)
        zeros.append(np.concatenate([w.data.ravel() == 0 for w in pruning.prunable(model).values()]))
    assert zeros[1][zeros[0]].all()
    assert zeros[2][zeros[1]].all()


def test_results_have_a_row_for_each_run_that_was_compressed(runs: Path, capsys: pytest.CaptureFixture[str],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    results(runs, latest=True)
    *_, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| compress | - | float32: ")
    assert row.count(" images/s") == 4
    again = recipes.load(runs / "compress-1")
    assert again.command() == "fastnn compress cnn-1 --epochs 1 --sparsities 0.9 0.5"


def test_a_compression_has_no_summary_of_another_network(runs: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the run of a network that is trained, got .*compress-1, a compr"):
        summary(str(runs / "compress-1"))


def test_the_compressed_model_is_evaluated_and_predicts(runs: Path, capsys: pytest.CaptureFixture[str],
                                                        tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    classifier = classifier_of(runs / "compress-1", None)
    classifier.evaluate()
    figure = json.loads((runs / "compress-1/results.json").read_text())["figures"]["pruned and int8"]
    assert capsys.readouterr().out.splitlines()[-1] == f"test accuracy: {figure.partition(',')[0]}"
    pixels = DIGITS.test.images[5]
    image.fromarray((pixels[0] * (255 / DIGITS.scale)).astype(np.uint8)).save(tmp_path / "digit.png")
    classifier.predict(tmp_path / "digit.png", top=10)
    shares = dict(part.split()[:2] for part in capsys.readouterr().out.partition(": ")[2].split(", "))
    model, inputs = recipes.load(runs / "cnn-1").trained()
    small = fastnn.quantize(model, np.ones((1, 1, 8, 8), np.float32))
    training.load_model(runs / "compress-1/pruned-and-int8.safetensors", small)
    scores = small(data.to_float(pixels[None], inputs["mean"], inputs["std"], scale=inputs["scale"]))[0]
    expected = 100 * np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose([float(shares[str(digit)]) for digit in range(10)], expected, atol=0.06)


def test_it_is_evaluated_whatever_the_source_has_learned_since(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes.CNN, "load_dataset", lambda self: FEW)
    monkeypatch.setattr(recipes.CNN, "model", lambda self: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)))
    recipes.CNN(epochs=1, run_dir=tmp_path / "cnn-1").run()
    compression(tmp_path, "compress-1", sparsities=()).run()
    best = tmp_path / "cnn-1/best.safetensors"
    tensors, metadata = training.load(best)
    tensors["model.2.weight"][0] = -1           # no longer folded through max pooling
    training.save(best, tensors, metadata)
    classifier_of(tmp_path / "compress-1", None).evaluate()
    figure = json.loads((tmp_path / "compress-1/results.json").read_text())["figures"]["pruned and int8"]
    assert capsys.readouterr().out.splitlines()[-1] == f"test accuracy: {figure.partition(',')[0]}"


class Killed(SystemExit):
    """The end of the process."""


@pytest.mark.parametrize("at_step", [3, 8])
def test_one_that_was_killed_ends_with_the_same_bits(runs: Path, at_step: int, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def end(trainer: training.Trainer) -> None:
        nonlocal steps
        steps += 1
        if steps == at_step:
            if at_step == 8:
                trainer._interrupts.requested = 2
            else:
                raise Killed

    original = training.Pruning.on_step_end
    with monkeypatch.context() as patch:
        patch.setattr(training.Pruning, "on_step_end", lambda self, trainer, loss: (
            original(self, trainer, loss), end(trainer)))
        with pytest.raises((Killed, training.Interrupted)):
            compression(runs, tmp_path).run()
    assert not (tmp_path / "results.json").exists()
    for folder in (tmp_path, tmp_path / "sparsity-0.5"):
        with pytest.raises(FileNotFoundError, match="expected the folder of a compression that has ended, but"):
            classifier_of(folder, None)
    compression(runs, tmp_path, resume=True).run()
    ours, theirs = weights(tmp_path), weights(runs / "compress-1")
    assert ours.keys() == theirs.keys()
    for file, tensors in ours.items():
        assert tensors.keys() == theirs[file].keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, theirs[file][name], err_msg=f"{file}: {name}", strict=True)


def test_another_number_of_epochs_is_refused_before_anything_is_written(runs: Path) -> None:
    before = (runs / "compress-1/config.json").read_bytes()
    with pytest.raises(ValueError, match=r"epochs: expected 1, with which the run in .* was begun, got 2"):
        compression(runs, "compress-1", epochs=2, resume=True).run()
    assert (runs / "compress-1/config.json").read_bytes() == before


@pytest.mark.parametrize(("options", "message"), [
    ({"sparsity": 1}, "sparsity: expected a number from 0 to below 1, got 1"),
    ({"sparsities": (0.5, -0.1)}, "sparsities: expected a number from 0 to below 1, got -0.1"),
    ({"lr_factor": 0}, "lr_factor: expected a number above 0, got 0"),
    ({"epochs": 0}, "epochs: expected at least 1, got 0"),
    ({"source": "nowhere"}, "nowhere: expected the folder of a run"),
])
def test_wrong_options_are_refused_before_anything_is_written(runs: Path, options: dict[str, Any], message: str,
                                                              tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match=message):
        compression(runs, tmp_path / "new", **options).run()
    assert not (tmp_path / "new").exists()
