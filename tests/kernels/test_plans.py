"""Plans: what a call decides is kept for its shapes, dtypes and options, and can be asked for."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import kernels
from fastnn.kernels import _plans, conv, peak, pooling
from fastnn.kernels._cpu import launch
from fastnn.kernels._cpu.compiler import config
from fastnn.testing import KERNELS, Call, Kernel, assert_same_bits

ROWS = list(KERNELS.values())
FLOAT32 = np.dtype(np.float32)


def calls_of(row: Kernel) -> list[Call]:
    return list(row.calls(FLOAT32 if FLOAT32 in row.dtypes else row.dtypes[0]))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_kept_plan_gives_the_bits_of_a_new_one(row: Kernel) -> None:
    """Whatever other calls came between."""
    calls = calls_of(row)
    results = []
    for call in calls:
        _plans.forget_plans()
        results.append(row.run(call))
    for _ in range(2):
        for call, expected in zip(calls, results):
            assert_same_bits(row.run(call), expected, what=f"{row}{call.kwargs}")


def test_options_that_are_equal_but_of_another_kind_are_not_mixed_up() -> None:
    x = np.ones((1, 1, 6, 6), np.float32)
    assert kernels.max_pool2d(x, 1).shape == (1, 1, 6, 6)
    assert kernels.max_pool2d(x, (2, 1)).shape == (1, 1, 3, 6)
    for wrong in (True, 1.0, (2, True), (2, 1.0)):
        with pytest.raises(TypeError, match="kernel_size: expected an integer"):
            kernels.max_pool2d(x, wrong)
    plans = len(pooling._max_pool2d.plans)
    for _ in range(2):
        assert kernels.max_pool2d(x, [2, 1]).shape == (1, 1, 3, 6)              # as the pair, which has a hash
    assert len(pooling._max_pool2d.plans) == plans


def test_a_wrong_target_is_refused_whatever_was_called_before() -> None:
    kernels.relu(np.ones(3))
    for wrong in ("", "gpu", 0, False, np.ones(2), ["cpu"]):
        with pytest.raises(ValueError, match="target: expected one of"):
            kernels.relu(np.ones(3), target=wrong)  # type: ignore[arg-type]


def test_the_sign_of_a_zero_counts() -> None:
    """0.0 and -0.0 would be one key."""
    x = np.array([-1.0], np.float32)
    for slope in (0.0, -0.0, 0.0):
        assert np.signbit(kernels.leaky_relu(x, slope)[0]) == (not np.signbit(slope))


def test_plans_of_many_shapes_do_not_pile_up() -> None:
    for size in range(2 * _plans._MOST):
        kernels.relu(np.ones(size, np.float32))
    assert all(len(planned.plans) <= _plans._MOST for planned in _plans._every)


def test_a_refused_call_leaves_no_plan() -> None:
    x, weight = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 5, 5), np.float32)
    _plans.forget_plans()
    for _ in range(2):
        with pytest.raises(ValueError, match="weight: expected a kernel no larger"):
            kernels.conv2d(x, weight)
    assert not conv._conv2d.plans


def test_threads_may_plan_at_once() -> None:
    x = [np.full((1, 1, 3, size), size, np.float32) for size in range(1, 60)]
    expected = [kernels.avg_pool2d(image, 1) for image in x]

    def work(_: int) -> None:
        for _ in range(20):
            _plans.forget_plans()
            for image, result in zip(x, expected):
                np.testing.assert_array_equal(kernels.avg_pool2d(image, 1), result)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


# --- explain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_kernel_can_be_explained(row: Kernel) -> None:
    """Its arrays stay as they are, also those that the kernel writes."""
    for call in calls_of(row):
        before = call.copy()
        lines = repr(fastnn.explain(getattr(kernels, row.name), *call.args, **call.kwargs)).splitlines()
        assert lines[0].startswith(f"{row.name}(")
        assert lines[0].endswith('on "cpu"')
        counts = [line for line in lines if line.startswith("  counts ")]
        assert re.fullmatch(r"  counts    [\d.]+ ([kMGT] )?operations, [\d.]+ [kMGT]?B in and out", *counts)
        for array, old in zip(call.arrays(), before.arrays()):
            np.testing.assert_array_equal(array, old)


@pytest.mark.skipif(config.DISABLE_JIT or config.BOUNDSCHECK, reason="blocks run one by one")
def test_an_explanation_says_what_runs_and_why() -> None:
    x, weight = np.ones((8, 64, 16, 16), np.float32), np.ones((64, 64, 3, 3), np.float32)
    fastnn.set_num_threads(2)
    said = fastnn.explain(fastnn.conv2d, x, weight, padding=1)
    assert said.why.startswith("winograd; winograd saves 32.0 products")
    assert [launch.threads for launch in said.launches] == [2, 2]
    assert said.launches[-1].numbers["pad_y"] == 1
    assert said.operations == 2 * 8 * 64 * 16 * 16 * 64 * 9
    assert said.bytes == 2 * x.nbytes + weight.nbytes
    fastnn.set_num_threads(1)
    assert [launch.threads for launch in fastnn.explain(fastnn.conv2d, x, weight, padding=1).launches] == [1, 1]
    fastnn.set_num_threads(None)
    assert fastnn.explain(fastnn.conv2d, x, weight, algorithm="direct").why == "direct, as asked for"
    assert fastnn.explain(fastnn.conv2d, x, weight[:, :1], groups=64).why.startswith("depthwise; winograd needs")
    assert fastnn.explain(fastnn.relu, x[0, 0], target="naive").target == "naive"


@pytest.mark.parametrize(("channels", "side", "needs", "said"), [
    (28, 16, (True, True, True), r"by x winograd; .* 14\.0 products .* 12 on; by weight direct; .* 14\.0 .* 16 on"),
    (40, 8, (False, True, False), r"by weight direct, as winograd needs \d+ tiles in a batch to be faster"),
    (28, 16, (False, False, True), "")])
def test_each_gradient_has_its_reason(channels: int, side: int, needs: tuple, said: str) -> None:
    x, weight = np.ones((1, channels, side, side), np.float32), np.ones((channels, channels, 3, 3), np.float32)
    found = fastnn.explain(fastnn.conv2d_backward, x, x, weight, padding=1, needs=needs)
    assert re.fullmatch(said, found.why)
    assert any("winograd" in one.name for one in found.launches) == ("winograd;" in found.why.partition("by w")[0])


def test_nothing_is_run_but_a_kernel_and_on_copies_alone() -> None:
    ran: list[int] = []
    before = fastnn.get_num_threads()
    for other in (ran.append, print, fastnn.nn.Linear, None, fastnn.set_num_threads, fastnn.explain):
        with pytest.raises(TypeError, match=r"kernel: expected one of fastnn\.kernels, such as conv2d, got"):
            fastnn.explain(other, 1)  # type: ignore[arg-type]
    assert (ran, fastnn.get_num_threads()) == ([], before)
    with pytest.raises(TypeError, match="x: expected an array, got list"):
        fastnn.explain(fastnn.relu, [1.0])
    x = np.ones(3)
    with pytest.raises(ValueError, match="expected memory of its own"):
        fastnn.explain(fastnn.relu, x, out=x)
    with pytest.raises(ValueError, match="expected memory of its own"):
        fastnn.explain(fastnn.sgd_update, x, x, lr=1.0)
    image, weight, kept = np.ones((1, 32, 8, 8), np.float32), np.ones((32, 32, 3, 3), np.float32), kernels.KeptWeight()
    first, second = (fastnn.explain(fastnn.conv2d, image, weight, algorithm="winograd", kept=kept) for _ in range(2))
    assert [one.name for one in first.launches] == [one.name for one in second.launches]


def test_threads_may_explain_at_once() -> None:
    x = np.ones((4, 5), np.float32)

    def work(_: int) -> None:
        for _ in range(30):
            names = [one.name for one in fastnn.explain(fastnn.softmax, x).launches]
            assert names == ["softmax.cpu._softmax"]
            fastnn.relu(x)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not _plans._watchers
    assert not launch.watchers


def test_peaks_are_told_once_they_are_measured(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "none yet" / "bench.json"
    monkeypatch.setattr(peak, "_file", lambda: file)
    x = np.ones(1000, np.float32)
    assert fastnn.explain(fastnn.relu, x).seconds_at_peak is None
    for name, value in (("_COPIED", 1 << 10), ("_DEPTH", 2), ("_TURNS", 1), ("_BLOCKS", 2)):
        monkeypatch.setattr(peak, name, value)
    peaks = peak.measure()
    assert set(peaks) == {"float32", "float64", "uint8", "copy"}
    assert min(peaks.values()) > 0
    peak.note("relu", "of 33 MB", 0.8125)
    said = fastnn.explain(fastnn.relu, x)
    assert said.seconds_at_peak == max(1000 / peaks["float32"], 8000 / peaks["copy"])
    assert "  share     81 % of the peak by `fastnn bench`, of 33 MB" in repr(said)
    assert "at peak" not in repr(fastnn.explain(fastnn.relu, x, target="naive"))
    peak.measure()
    assert fastnn.explain(fastnn.relu, x).shares == {"of 33 MB": 0.8125}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    file.write_text("[", "utf-8")                           # what is damaged is measured again
    assert fastnn.explain(fastnn.relu, x).seconds_at_peak is None
