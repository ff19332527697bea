from __future__ import annotations

from pathlib import Path

import pytest

from fastnn import recipes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe cnn, of one epoch."""
    folder = tmp_path_factory.mktemp("source") / "cnn"
    recipes.CNN(epochs=1, run_dir=folder).fit(progress=False)
    return folder
