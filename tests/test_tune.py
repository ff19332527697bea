"""The command that measures tuned numbers again knows all of them."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tune() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune", ROOT / "asv_benchmarks" / "tune.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("device", "shelf"), [("cpu", "_cpu"), ("cuda", "_gpu")])
def test_every_tuned_number_has_calls_that_it_decides_about(tune: ModuleType, device: str, shelf: str) -> None:
    tree = ast.parse((ROOT / "fastnn" / "kernels" / shelf / "tuning.py").read_text())
    names = {name.id for statement in tree.body if isinstance(statement, ast.Assign)
             for name in ast.walk(statement) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    assert set(tune.CALLS[device]) == names
    assert all(tune.CALLS[device].values())
