"""What importing does and does not do, and which part may import which."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastnn

PACKAGE = Path(fastnn.__file__).parent

# Arrows run one way: a part may import what stands behind it, itself, and what all of the package needs.
COMMON = {"_checks", "_device", "_extras", "_files", "__version__"}
LOWER = {
    "_checks": set(),
    "_device": set(),
    "_extras": set(),
    "_files": set(),
    "_simulator": set(),
    "random": set(),
    "kernels": set(),
    "nn": {"kernels", "random"},
    "optim": {"nn", "kernels", "random"},
    "cs231n": {"kernels"},
    "data": {"nn", "optim", "kernels", "random"},
    "training": {"nn", "optim", "kernels", "random", "data"},
    "models": {"nn", "optim", "kernels", "random"},
    "estimators": {"models", "training", "data", "nn", "optim", "kernels", "random"},
    "testing": {"nn", "optim", "kernels", "random", "models"},
    "recipes": {"models", "training", "data", "nn", "optim", "kernels", "random"},
    "sweeps": {"recipes", "models", "training", "data", "nn", "optim", "kernels", "random"},
    "cli": {"sweeps", "recipes", "models", "training", "data", "nn", "optim", "kernels", "random", "testing"},
    "__main__": {"cli"},
}


# Each file of these may be read after those that it imports.
WITHOUT_CIRCLES = ("cli", "cs231n", "data", "estimators", "kernels", "models", "nn", "optim", "recipes", "sweeps",
                   "testing", "training")

MODULES = {".".join(("fastnn", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
           for path in PACKAGE.rglob("*.py")}


def imported_modules(path: Path) -> set[str]:
    """The modules of fastnn that a file imports anywhere in it, for types alone too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {name if (name := f"{node.module}.{alias.name}") in MODULES else str(node.module)
                      for alias in node.names}
    return found & MODULES.keys()


@pytest.mark.parametrize("part", WITHOUT_CIRCLES)
def test_no_file_imports_one_that_imports_it(part: str) -> None:
    graph = {module: imported_modules(path) for module, path in MODULES.items() if module.split(".")[1:2] == [part]}
    assert len(graph) > 1
    list(graphlib.TopologicalSorter(graph).static_order())      # a CycleError names the circle


def imported_parts(tree: ast.AST) -> set[str]:
    """The parts of fastnn that a file imports anywhere in it."""
    parts: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            parts |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fastnn.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "fastnn":
            parts |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastnn."):
            parts.add(str(node.module).split(".")[1])
    return parts


def test_arrows_run_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":
            continue
        beyond = imported_parts(ast.parse(path.read_text())) - LOWER[part] - COMMON - {part}
        assert not beyond, f"{path.relative_to(PACKAGE)} imports {sorted(beyond)}"


def imported_names(tree: ast.AST) -> Iterator[str]:
    """All that a file imports of fastnn, modules and their names, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_nobody_outside_imports_a_private_file_of_kernels() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "kernels"):
            continue
        for name in imported_names(ast.parse(path.read_text())):
            private = name.startswith("fastnn.kernels.") and "._" in name
            assert not private, f"{path.relative_to(PACKAGE)} imports {name}"


def test_testing_needs_no_pytest() -> None:
    for path in (PACKAGE / "testing").rglob("*.py"):
        assert "pytest" not in path.read_text().replace("pytest's", "")


def test_importing_loads_nothing_and_changes_no_state() -> None:
    code = """
import json, os, sys, threading, warnings
import numpy as np
state = np.random.get_state()[1].tolist()
environment, filters, hooks = dict(os.environ), list(warnings.filters), (sys.excepthook, sys.unraisablehook)
before = set(sys.modules)
import fastnn
after = set(sys.modules) - before
same = (state == np.random.get_state()[1].tolist() and environment == dict(os.environ)
        and filters == list(warnings.filters) and hooks == (sys.excepthook, sys.unraisablehook)
        and threading.active_count() == 1)
print(json.dumps({"same": same, "loaded": sorted(m.split(".")[0] for m in after)}))
import fastnn.cs231n, fastnn.kernels, fastnn.nn, fastnn.optim, fastnn.data, fastnn.training, fastnn.models
print(json.dumps({"same": environment == dict(os.environ) and state == np.random.get_state()[1].tolist()
                  and threading.active_count() == 1,
                  "heavy": [m for m in ("matplotlib", "tyro", "pooch", "PIL", "tqdm", "safetensors", "torch",
                                        "scipy.ndimage", "optuna", "wandb", "tensorboard",
                                        "tokenizers") if m in sys.modules]}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["same"]
    assert set(first["loaded"]) <= {"fastnn", "importlib", "__future__"}, first["loaded"]
    assert second == {"same": True, "heavy": []}


def test_import_costs_at_most_a_tenth_of_a_second_more_than_numpy() -> None:
    code = "import numpy, time; t = time.perf_counter(); import fastnn; print(time.perf_counter() - t)"
    seconds = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
               for _ in range(3)]
    assert min(seconds) < 0.1


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'fastnn' has no attribute 'conv3d'"):
        _ = fastnn.conv3d
    assert {"conv2d", "nn", "recipes", "use_target"} <= set(dir(fastnn))
    assert fastnn.recipes.__name__ == "fastnn.recipes"


def test_it_runs_without_docstrings() -> None:
    code = "import numpy as np, fastnn; print(fastnn.gelu.__doc__, fastnn.relu(np.ones(1), target='naive'))"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None [1.]\n"
