"""The pool: memory comes back when its last array dies, never before, within a bound."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastnn
from fastnn.kernels import _memory

SHAPE = (300, 1024)
SIZE = 4 * 300 * 1024


@pytest.fixture(autouse=True)
def own_pool(monkeypatch):
    monkeypatch.setattr(_memory, "_pool", _memory._Pool())


def address(array):
    return array.__array_interface__["data"][0]


def new():
    return _memory.empty(SHAPE, np.float32)


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


@pytest.mark.peers
def test_a_torch_tensor_keeps_memory():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(new())
    tensor.fill_(1)
    new()[:] = 2
    assert tensor.eq(1).all()


def test_small_arrays_are_numpys_own():
    assert _memory.empty((8, 8), np.float32).base is None
    assert not _memory._pool.leases


def blocks():
    """The pool's idle blocks, once what it knows of them was looked through."""
    pool = _memory._pool
    pool.shrink(pool.limit)
    assert pool.sizes == sorted(block.size for block in pool.idle)
    assert pool.sizes == [block.size for block in pool.idle]
    assert pool.idle_bytes == sum(pool.sizes)
    assert pool.live_bytes == sum(block.size for _, block in pool.leases.values())
    for block in pool.idle + [block for _, block in pool.leases.values()]:
        assert block.left is None or (block.left.right is block and block.left.begin + block.left.size == block.begin)
        assert block.right is None or block.right.left is block
        assert (block.left is None) == (block.begin == 0)
        assert (block.right is None) == (block.begin + block.size == block.slab.nbytes)
        assert not block.idle or not any(near is not None and near.idle for near in (block.left, block.right))
    return pool.idle


def test_idle_memory_is_bounded_and_cleared():
    fastnn.set_pool_limit(2 * SIZE)
    arrays = [new() for _ in range(5)]
    assert not blocks()
    del arrays
    assert [block.size for block in blocks()] == 2 * [SIZE]
    fastnn.clear_pool()
    assert not blocks()
    fastnn.set_pool_limit(0)
    new()
    assert not blocks()


def test_slabs_not_used_lately_make_room():
    fastnn.set_pool_limit(2 * SIZE)
    old = [_memory.empty((SIZE,), np.uint8) for _ in range(2)]
    other = [_memory.empty((SIZE // 2,), np.uint8) for _ in range(2)]
    del old
    del other
    assert [block.size for block in blocks()] == [SIZE // 2, SIZE // 2, SIZE]


def test_smaller_arrays_share_the_memory_of_a_larger_one():
    place = address(new())
    parts = [_memory.empty((SIZE // 3,), np.uint8) for _ in range(3)]
    assert [address(part) - place for part in parts] == [0, SIZE // 3, 2 * SIZE // 3]
    middle = parts.pop(1)
    parts.clear()
    assert [block.size for block in blocks()] == 2 * [SIZE // 3]
    del middle
    assert [block.size for block in blocks()] == [SIZE]
    assert address(new()) == place


def test_a_small_array_does_not_keep_a_large_slab():
    large = _memory.empty((17 << 17,), np.uint8)
    begin, end = address(large), address(large) + large.nbytes
    del large
    assert not begin <= address(_memory.empty((1 << 17,), np.uint8)) < end
    assert begin <= address(_memory.empty((17 << 13,), np.uint8)) < end


def test_sizes_that_change_take_little_more_than_was_ever_in_use():
    """SIZE bytes in 1, 2, ... 8 arrays in turn: a pool of buffers by size would keep eight times as many."""
    for step in range(40):
        arrays = [_memory.empty((SIZE // (1 + step % 8),), np.uint8) for _ in range(1 + step % 8)]
        del arrays
        assert sum(block.slab.nbytes for block in blocks() if block.begin == 0) <= SIZE * 5 / 4


def test_memory_is_numpys_while_another_call_is_inside():
    """As where an array dies, or another thread asks, in the middle of a call."""
    first = new()
    with _memory._pool.lock:
        assert new().base is None
        del first
        assert _memory._pool.live_bytes == SIZE
    assert [block.size for block in blocks()] == [SIZE]


def test_no_memory_is_lost_or_shared():
    rng, arrays = np.random.default_rng(0), {}
    for step in range(4000):
        if len(arrays) > 40 or (arrays and rng.random() < 0.45):
            del arrays[list(arrays)[rng.integers(len(arrays))]]
        else:
            arrays[step] = _memory.empty((int(2 ** rng.uniform(17, 22)),), np.uint8)
            arrays[step][[0, -1]] = step % 251
        if step % 100 == 0:
            blocks()
    assert all((array[[0, -1]] == step % 251).all() for step, array in arrays.items())
    places = sorted((address(array), address(array) + array.nbytes) for array in arrays.values())
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(places))
    arrays.clear()
    assert all(block.size == block.slab.nbytes for block in blocks())
    assert _memory._pool.idle_bytes <= _memory._pool.most_live * 9 / 8


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
            arrays = [_memory.empty((20_000 + 1000 * (step % 3),), np.int64) for _ in range(3)]
            for i, array in enumerate(arrays):
                array[:] = mark + i
            failures.extend(1 for i, array in enumerate(arrays) if not (array == mark + i).all())

    threads = [threading.Thread(target=work, args=(10 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not _memory._pool.leases
    assert all(block.size == block.slab.nbytes for block in blocks())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_pool_of_its_own():
    code = """
import os, numpy as np
from fastnn.kernels import _memory
kept, idle = _memory.empty((100_000,), np.float64), _memory.empty((100_000,), np.float64)
kept[:] = 1
del idle
child = os.fork()
mine = _memory.empty((100_000,), np.float64)
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
