"""The pool: memory comes back when its last array dies, never before, within a bound."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastnn
from fastnn.kernels import _pool

SHAPE = (300, 1024)
SIZE = _pool._size_class(4 * 300 * 1024)


@pytest.fixture(autouse=True)
def own_pool(monkeypatch):
    monkeypatch.setattr(_pool, "_pool", _pool._Pool())


def address(array):
    return array.__array_interface__["data"][0]


def new():
    return _pool.empty(SHAPE, np.float32)


def test_memory_of_a_dead_array_is_used_again():
    first = new()
    place = address(first)
    assert place % 64 == 0
    assert first.flags.writeable
    assert first.flags.c_contiguous
    del first
    assert address(new()) == place


@pytest.mark.parametrize("hold", [
    lambda a: a[5:, ::2], lambda a: a.T, memoryview, lambda a: a.reshape(-1).view(np.int32)[3:],
    lambda a: np.from_dlpack(a), lambda a: a[0, 0:1].base[:a.nbytes], lambda a: np.frombuffer(a, np.uint8)[7:],
], ids=["slice", "transpose", "memoryview", "other dtype", "dlpack", "base", "buffer"])
def test_whatever_shares_memory_keeps_it(hold):
    array = new()
    array[:] = 1
    held = hold(array)
    del array
    others = [new() for _ in range(3)]
    for other in others:
        other[:] = 2
    assert not (np.asarray(held).view() == 2).any()
    place = address(np.asarray(held))
    assert not any(address(other) <= place < address(other) + SIZE for other in others)


def test_a_torch_tensor_keeps_memory():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(new())
    tensor.fill_(1)
    new()[:] = 2
    assert tensor.eq(1).all()


def test_small_arrays_are_numpys_own():
    assert _pool.empty((8, 8), np.float32).base is None
    assert not _pool._pool.leases


@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1, 100_000, 1 << 20, 123_456_789])
def test_classes_waste_an_eighth_at_most(size):
    assert size <= _pool._size_class(size) <= size * 9 / 8


def test_idle_memory_is_bounded_and_cleared():
    fastnn.set_pool_limit(2 * SIZE)
    arrays = [new() for _ in range(5)]
    assert _pool._pool.bytes == 0
    del arrays
    assert _pool._pool.bytes == 2 * SIZE == sum(raw.size for raw in _pool._pool.idle[SIZE])
    fastnn.clear_pool()
    assert _pool._pool.bytes == 0
    assert not _pool._pool.idle[SIZE]
    fastnn.set_pool_limit(0)
    new()
    assert _pool._pool.bytes == 0


def test_sizes_not_asked_for_lately_make_room():
    fastnn.set_pool_limit(2 * SIZE)
    old = [_pool.empty((SIZE,), np.uint8) for _ in range(2)]
    del old
    other = [_pool.empty((SIZE // 2,), np.uint8) for _ in range(2)]
    del other
    assert len(_pool._pool.idle[SIZE // 2]) == 2
    assert len(_pool._pool.idle[SIZE]) == 1


@pytest.mark.parametrize("limit", [-1, 1.5, True, "1 GB"])
def test_a_limit_is_a_number_of_bytes(limit):
    with pytest.raises(ValueError, match="size: expected a number of bytes or None"):
        fastnn.set_pool_limit(limit)


def test_results_come_from_the_pool():
    x = np.ones(SHAPE, np.float32)
    place = address(fastnn.relu(x))
    assert address(fastnn.relu(x)) == place


def test_threads_never_share_memory():
    failures = []

    def work(mark):
        for step in range(300):
            arrays = [_pool.empty((20_000 + 1000 * (step % 3),), np.int64) for _ in range(3)]
            for i, array in enumerate(arrays):
                array[:] = mark + i
            failures.extend(1 for i, array in enumerate(arrays) if not (array == mark + i).all())

    threads = [threading.Thread(target=work, args=(10 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not _pool._pool.leases
    assert sum(raw.size for buffers in _pool._pool.idle.values() for raw in buffers) <= _pool._pool.limit


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_pool_of_its_own():
    code = """
import os, numpy as np
from fastnn.kernels import _pool
kept, idle = _pool.empty((100_000,), np.float64), _pool.empty((100_000,), np.float64)
kept[:] = 1
del idle
child = os.fork()
mine = _pool.empty((100_000,), np.float64)
mine[:] = 2 + (child == 0)
if child == 0:
    os._exit(0 if (kept == 1).all() and (mine == 3).all() else 1)
assert os.waitpid(child, 0)[1] == 0 and (kept == 1).all() and (mine == 2).all()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_process_ends_quietly_with_live_arrays():
    code = "import fastnn, numpy as np; y = fastnn.relu(np.ones((1000, 1000)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
