"""A recipe on a GPU, or in the simulator: what it leaves, and what can be done with it elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fastnn import _device, data, models, nn, recipes

pytestmark = pytest.mark.cuda


class Tiny(recipes.ImageClassifier):
    name: ClassVar[str] = "tiny"
    needs: ClassVar[str] = "nothing"
    takes: ClassVar[str] = "1 s"

    def load_dataset(self) -> data.Dataset:
        labels = np.tile(np.arange(2), 10)
        images = np.zeros((20, 1, 1, 2), np.uint8)
        images[np.arange(20), 0, 0, labels] = 200 + np.arange(20)
        return data.Dataset(data.Split(images[:12], labels[:12]), data.Split(images[12:], labels[12:]), ("a", "b"),
                            "small")

    def model(self) -> nn.Module:
        return models.SoftmaxClassifier(2, 2, seed=self.seed)


def test_a_run_can_be_measured_on_either_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_device = Tiny(epochs=2, batch_size=6, run_dir=tmp_path, device="cuda")
    on_device.run()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["machine"].startswith(f"{_device.gpu()}; ")
    own = f"{Tiny.__module__}:Tiny"
    assert results["command"] == f"fastnn train {own} --device cuda --epochs 2 --batch-size 6"
    assert json.loads((tmp_path / "config.json").read_text())["device"] == "cuda"
    tests = []
    for device in ("cpu", "cuda"):
        capsys.readouterr()
        replace(on_device, device=device).evaluate()
        tests.append(capsys.readouterr().out)
    assert tests[0] == tests[1]
    assert "test accuracy: 100.00 %" in tests[0]
