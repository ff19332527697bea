from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import _device

# Tests run in several processes, which share the cores: waiting threads must not hold them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets."""
    folder = os.environ.get("FASTNN_DATA")
    if not folder:
        pytest.skip("FASTNN_DATA is not set")
    return Path(folder)


@pytest.fixture(autouse=True)
def process_unchanged() -> Iterator[None]:
    """A test leaves what is set for the whole process as it was: else the next one fails, in some orders alone."""
    before = _settings()
    yield
    after = _settings()
    changed = {name: (before[name], value) for name, value in after.items() if value != before.get(name, value)}
    assert not changed, f"settings of the process, before and after this test: {changed}"


def _settings() -> dict[str, object]:
    found: dict[str, object] = {
        "threads": fastnn.get_num_threads(), "np.errstate": np.geterr(), "folder": Path.cwd()}
    torch = sys.modules.get("torch")
    if hasattr(torch, "is_grad_enabled"):
        found |= {"torch's gradients": torch.is_grad_enabled(), "torch's dtype": torch.get_default_dtype(),
                  "torch's threads": torch.get_num_threads()}
    return found


@pytest.fixture
def signals_heard() -> Iterator[None]:
    """Signals do what they do by default, to this process and those that it begins, though its parent may ignore them.

    A shell ignores SIGINT for what it runs in the background, and nohup SIGHUP.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        defaults[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def nothing_waits() -> Callable[[Callable[[], object]], None]:
    """A function that runs another one and sees that it does not wait for the GPU: no copy to the host, above all."""
    def check(call: Callable[[], object]) -> None:
        if _device.SIMULATED:
            copies = _device.xp.copies_to_host
            call()
            assert _device.xp.copies_to_host == copies
            return
        call()                                  # compiles kernels and allocates memory, which waits
        stream = _device.xp.cuda.get_current_stream()
        stream.synchronize()
        wait = _device.xp.RawKernel("""
            extern "C" __global__ void wait(long long cycles) {
                long long begin = clock64();
                while (clock64() - begin < cycles) {}
            }""", "wait")
        wait((1,), (1,), (np.int64(4e9),))      # about two seconds
        call()
        assert not stream.done
        stream.synchronize()

    return check


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many processes as cores, and no more than a machine's memory can hold."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


# In this order processes compile few kernels twice: one walks over all of them, beside tests that need few.
_FIRST = ("tests/kernels/test_table.py", "tests/data", "tests/training", "tests/recipes", "tests/sweeps",
          "tests/test_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {start: place for place, start in enumerate(_FIRST)}
    items.sort(key=lambda item: next((places[start] for start in _FIRST if item.nodeid.startswith(start)), len(_FIRST)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true",
                     help="fail where a comparison with a peer, a test on real data or in a browser is skipped")
    parser.addoption("--mutations", type=int, default=25, help="how many damaged files of each format are tried")
    parser.addoption("--capability", help="compile the CUDA kernels to PTX for this compute capability, such as 9.0")
    parser.addoption("--random-calls", type=int, default=1500, help="how many random calls of kernels are judged")
    parser.addoption("--seed", type=int, default=0, help="which random calls these are")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in ("cuda", "gpu"):
        if item.get_closest_marker(mark):
            why = "there is only Numba's simulator" if mark == "gpu" and _device.SIMULATED else _device.why_not()
            if why is not None:
                pytest.skip(f"no CUDA: {why}")
    if item.get_closest_marker("ptx") and not item.config.getoption("--capability"):
        pytest.skip("--capability is not given")


def _skipped_by_ci(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether a library was missing where all are installed: a test that needs another one is marked so."""
    return "FASTNN_CI" in os.environ and report.skipped and "could not import" in str(report.longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
        collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if _skipped_by_ci(report):
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    needed = [mark for mark in ("peers", "real_data", "browser") if item.get_closest_marker(mark)]
    if report.skipped and needed and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"a {needed[0]} test was skipped: {report.longrepr}"
    elif not needed and _skipped_by_ci(report):
        report.outcome = "failed"
        report.longrepr = f"a test was skipped that is not marked as one of peers: {report.longrepr}"
    return report
