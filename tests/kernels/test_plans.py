"""Plans: what a call decides is kept for its shapes, dtypes and options, and can be asked for."""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import kernels
from fastnn.kernels import _plans, conv, peak
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
    assert kernels.max_pool2d(x, [2, 1]).shape == (1, 1, 3, 6)                  # which has no hash


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
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                _plans.forget_plans()
                for image, result in zip(x, expected):
                    np.testing.assert_array_equal(kernels.avg_pool2d(image, 1), result)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# --- explain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_kernel_can_be_explained(row: Kernel) -> None:
    """Its arrays stay as they are, also those that the kernel writes."""
    for call in calls_of(row):
        before = call.copy()
        lines = repr(fastnn.explain(getattr(kernels, row.name), *call.args, **call.kwargs)).splitlines()
        assert lines[0].startswith(f"{row.name}(")
        assert lines[0].endswith('on "cpu"')
        assert any(re.match(r"  counts    [\d.]+ [kMGT]?operations|  counts    [\d.]+ [kMGT]? ?operations", line)
                   for line in lines)
        for array, old in zip(call.arrays(), before.arrays()):
            np.testing.assert_array_equal(array, old)


@pytest.mark.skipif(config.DISABLE_JIT or config.BOUNDSCHECK, reason="blocks run one by one")
def test_an_explanation_says_what_runs_and_why() -> None:
    x, weight = np.ones((8, 64, 16, 16), np.float32), np.ones((64, 64, 3, 3), np.float32)
    fastnn.set_num_threads(2)
    said = fastnn.explain(fastnn.conv2d, x, weight, padding=1)
    assert said.why.startswith("winograd, as winograd saves 32.0 products")
    assert [launch.threads for launch in said.launches] == [2, 2]
    assert said.launches[-1].numbers["pad_y"] == 1
    assert said.operations == 2 * 8 * 64 * 16 * 16 * 64 * 9
    assert said.bytes == 2 * x.nbytes + weight.nbytes
    fastnn.set_num_threads(1)
    assert [launch.threads for launch in fastnn.explain(fastnn.conv2d, x, weight, padding=1).launches] == [1, 1]
    fastnn.set_num_threads(None)
    strided = fastnn.explain(fastnn.conv2d, x, weight, stride=2)
    assert strided.why.startswith("direct, as winograd needs filters of 3 x 3")
    assert fastnn.explain(fastnn.conv2d, x, weight, algorithm="direct").why == "direct, as asked for"
    assert fastnn.explain(fastnn.relu, x[0, 0], target="naive").target == "naive"


def test_what_is_no_kernel_is_refused_before_it_runs() -> None:
    ran: list[int] = []
    for other in (ran.append, print, fastnn.nn.Linear, None):
        with pytest.raises(TypeError, match=r"kernel: expected a function of fastnn\.kernels"):
            fastnn.explain(other, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="kernel: expected a kernel, got get_num_threads"):
        fastnn.explain(fastnn.get_num_threads)
    assert not ran
    with pytest.raises(TypeError, match="x: expected an array, got list"):
        fastnn.explain(fastnn.relu, [1.0])


def test_peaks_are_told_once_they_are_measured(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "none yet" / "bench.json"
    monkeypatch.setattr(peak, "_file", lambda: file)
    x = np.ones(1000, np.float32)
    assert fastnn.explain(fastnn.relu, x).floor is None
    monkeypatch.setattr(peak, "_COPIED", 1 << 16)
    peaks = peak.measure()
    assert set(peaks) == {"float32", "float64", "copy"}
    assert min(peaks.values()) > 1e6
    peak.note("relu", "of 33 MB", 0.8125)
    said = fastnn.explain(fastnn.relu, x)
    assert said.floor == max(1000 / peaks["float32"], 8000 / peaks["copy"])
    assert "  share     81 % of the peak by `fastnn bench`, of 33 MB" in repr(said)
    peak.measure()
    assert fastnn.explain(fastnn.relu, x).shares == {"of 33 MB": 0.8125}
    file.write_text("[", "utf-8")                           # what is damaged is measured again
    assert fastnn.explain(fastnn.relu, x).floor is None
