"""Threads, forks, the compile cache: real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest

import fastnn
from fastnn.kernels._cpu import launch

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs the compiler")

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
each_layer = pytest.mark.parametrize("layer", [
    pytest.param("omp", marks=pytest.mark.skipif(sys.platform == "darwin", reason="Numba brings no OpenMP here")),
    "workqueue"])

LARGE = "x = np.random.default_rng(0).standard_normal((8, 16, 32, 32)).astype(np.float32)\n" \
        "w = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)\n" \
        "expected = fastnn.conv2d(x, w)\n"


def python(code: str, cwd: Path | None = None, **environment: str | None) -> str:
    """Run code in a new process and return what it prints; None removes a variable."""
    env = {**os.environ, **{k: v for k, v in environment.items() if v is not None}}
    for name in (k for k, v in environment.items() if v is None):
        env.pop(name, None)
    code = f"import numpy as np, fastnn\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, cwd=cwd,
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_types_that_follow_from_one_array() -> None:
    """One compilation for each dtype of it, whatever the other arguments are said to be."""
    def halve(block, x, total, count):  # type: ignore[no-untyped-def]
        for i in range(count):
            x[i] /= 2
            total[0] += x[i]

    kernel = launch.block_kernel(writes="x total", typed_by="x")(halve)
    del launch.kernels[kernel.name]
    for dtype in (np.float32, np.float64, np.float32):
        x, total = np.ones(3, dtype), np.zeros(1)
        kernel(1, x, total, 3, work=1)
        assert (x == 0.5).all()
        assert total == 1.5
    assert [key.name for key in kernel.compiled] == ["float32", "float64"]


@each_layer
def test_concurrent_callers_on_each_threading_layer(layer: str) -> None:
    """workqueue aborts the process when two threads launch at once, so others than the main one use our pool."""
    assert python(LARGE + """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    results = list(pool.map(lambda _: fastnn.conv2d(x, w), range(40)))
    results.append(fastnn.conv2d(x, w))
print(all((r == expected).all() for r in results))
""", NUMBA_THREADING_LAYER=layer) == "True\n"


@forks
@each_layer
def test_fork_after_use(layer: str) -> None:
    """GNU OpenMP kills a forked child that uses it again."""
    assert python(LARGE + """
import os
child = os.fork()
if child == 0:
    os._exit(0 if (fastnn.conv2d(x, w) == expected).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print((fastnn.conv2d(x, w) == expected).all())
""", NUMBA_THREADING_LAYER=layer) == "0\nTrue\n"


@forks
def test_fork_after_use_of_our_own_pool_alone() -> None:
    assert python("""
import os, signal
fastnn.set_num_threads(3)
x = np.ones(400_000, np.float32)
fastnn.relu(x)
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if fastnn.relu(x).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""", NUMBA_NUM_THREADS="2") == "0\n"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_want_of_memory_is_an_error_on_any_thread(threads: int) -> None:
    @launch.block_kernel(writes="y")
    def hungry(block: int, size: int, y: np.ndarray) -> None:
        y[block] = np.empty(size, np.uint8)[-1]

    fastnn.set_num_threads(threads)
    try:
        with pytest.raises(MemoryError, match=r"no memory left for the scratch of|Allocation failed"):
            hungry(4, 1 << 60, np.zeros(4), work=1 << 30)
    finally:
        fastnn.set_num_threads(None)


@forks
def test_fork_before_use_and_twice() -> None:
    assert python("""
import os
x, w = np.ones((8, 16, 32, 32), np.float32), np.ones((16, 16, 3, 3), np.float32)
child = os.fork()
if child == 0:
    fastnn.conv2d(x, w)
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if fastnn.conv2d(x, w).any() else 1)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""") == "0\n"


@pytest.mark.peers
def test_inside_joblib_and_a_torch_data_loader() -> None:
    pytest.importorskip("joblib")
    pytest.importorskip("torch")
    assert python(LARGE + """
import joblib, torch
for backend in ("threading", "loky"):
    results = joblib.Parallel(2, backend=backend)(joblib.delayed(fastnn.conv2d)(x, w) for _ in range(4))
    print(all((r == expected).all() for r in results))

class Convolved(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return fastnn.conv2d(x, w)

for batch in torch.utils.data.DataLoader(Convolved(), batch_size=2, num_workers=2):
    print(bool((batch.numpy() == expected).all()))
""") == "True\n" * 4


def test_set_num_threads() -> None:
    before = fastnn.get_num_threads()
    fastnn.set_num_threads(3)
    assert fastnn.get_num_threads() == 3
    fastnn.set_num_threads(None)
    assert fastnn.get_num_threads() == before
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="n: expected an integer from 1 to 1024, or None, got"):
            fastnn.set_num_threads(wrong)  # type: ignore[arg-type]


def test_default_threads_respect_the_environment() -> None:
    assert python("print(fastnn.get_num_threads())", OMP_NUM_THREADS="1") == "1\n"
    assert python("print(fastnn.get_num_threads())", NUMBA_NUM_THREADS="1") == "1\n"


def test_numba_settings_of_the_user_are_kept() -> None:
    before = numba.get_num_threads()
    fastnn.set_num_threads(2)
    try:
        fastnn.conv2d(np.ones((8, 16, 32, 32), np.float32), np.ones((16, 16, 3, 3), np.float32))
        assert numba.get_num_threads() == before
    finally:
        fastnn.set_num_threads(None)


def test_a_kernel_that_writes_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"writes names \['z'\], its parameters are \['x', 'y'\]"):
        @launch.block_kernel(writes="z")
        def kernel(block: int, x: np.ndarray, y: np.ndarray) -> None:
            y[block] = x[block]


def test_an_array_in_a_tuple_is_refused() -> None:
    """Its reference would be given up by each block."""
    class Part(NamedTuple):
        x: np.ndarray

    class Whole(NamedTuple):
        n: int
        part: Part

    def fill(block, whole, y):  # type: ignore[no-untyped-def]
        y[:] = whole.part.x[block]

    kernel = launch.block_kernel(writes="y")(fill)
    del launch.kernels[kernel.name]
    with pytest.raises(TypeError, match="whole: expected arrays as arguments of their own"):
        kernel(1, Whole(1, Part(np.ones(3))), np.zeros(3), work=1)
