"""Compiling ahead, by real processes with an empty cache."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from fastnn.kernels import compilation
from fastnn.kernels._plans import forget_plans
from fastnn.testing import KERNELS, Kernel, assert_same_bits

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK, reason="needs the compiler")

TRAIN = """
import hashlib
import numpy as np
import fastnn
from fastnn import data, nn, optim, training
from fastnn.kernels import compilation

digits = data.digits()
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2),
                      nn.Linear(16, 10))
trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), progress=False,
                           callbacks=[training.ExponentialMovingAverage(0.9)], clip_norm=1.0)
loader, held = (data.DataLoader(part, 100, transform=data.Normalize(0.3, 0.4, digits.scale))
                for part in (digits.train, digits.test))
trainer.fit(loader, held, epochs=1)
print(hashlib.sha256(b"".join(array.tobytes() for _, array in sorted(model.state_dict().items()))).hexdigest())
print(sum(not function.from_disk for function in compilation.functions()))
"""


def python(code: str, cache: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "FASTNN_CACHE_DIR": str(cache)},
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("row", KERNELS.values(), ids=str)
def test_a_trial_leaves_no_trace(row: Kernel) -> None:
    """Nothing that is decided once is decided by the ones that kernels give then."""
    for call in row.calls(row.dtypes[0]):
        expected = row.run(call)
        forget_plans()
        with compilation.launching_nothing():
            row.run(copy.deepcopy(call))
        assert_same_bits(row.run(call), expected, what=f"{row}{call.kwargs}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The cache of a process that found it empty and trained, and a digest of what it learned."""
    cache = tmp_path_factory.mktemp("ahead") / "cache"
    digest, compiled = python(TRAIN, cache)
    assert compiled == "0"                  # not by itself: others did it, before the first step
    return cache, digest


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is copied")
def test_processes_compile_all_of_a_run_before_its_first_step(trained: tuple[Path, str]) -> None:
    cache, digest = trained
    files = sorted(cache.iterdir())
    assert python(TRAIN, cache) == [digest, "0"]
    assert sorted(cache.iterdir()) == files


@pytest.mark.parametrize("spoil", [
    # The processes are killed at once, or the first thing that they do fails.
    "import os, signal; fork = os.fork\n"
    "def killed():\n"
    "    process = fork()\n"
    "    if process: os.kill(process, signal.SIGKILL)\n"
    "    return process\n"
    "os.fork = killed",
    "from fastnn.nn import Linear\n"
    "def fail(self, memo): raise TypeError('no copies')\n"
    "Linear.__deepcopy__ = fail",
], ids=["killed", "no copies"])
def test_what_was_not_compiled_ahead_is_compiled_when_it_is_needed(spoil: str, trained: tuple[Path, str],
                                                                   tmp_path: Path) -> None:
    digest, compiled = python(spoil + TRAIN, tmp_path / "cache")
    assert digest == trained[1]
    assert int(compiled) > 5


def test_code_that_waits_for_a_result_does_not_wait_for_ever() -> None:
    def wait() -> None:
        while KERNELS["relu"](next(iter(KERNELS["relu"].samples(np.random.default_rng(0), np.dtype("f"))))).all():
            pass

    assert compilation.compile_ahead(wait, shown=False)[0] > 0


def test_an_error_is_left_for_the_run_or_raised_at_once() -> None:
    def fail() -> None:
        raise ValueError("wrong")

    compilation.compile_ahead(fail, shown=False)
    with pytest.raises(ValueError, match="wrong"):
        compilation.compile_ahead(fail, shown=False, strict=True)
