from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest

from fastnn.kernels import _cuda


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets."""
    folder = os.environ.get("FASTNN_DATA")
    if not folder:
        pytest.skip("FASTNN_DATA is not set")
    return Path(folder)


@pytest.fixture
def nothing_waits() -> Callable[[Callable[[], object]], None]:
    """A function that runs another one and sees that it does not wait for the GPU: no copy to the host, above all."""
    def check(call: Callable[[], object]) -> None:
        if _cuda.SIMULATED:
            copies = _cuda.xp.copies_to_host
            call()
            assert _cuda.xp.copies_to_host == copies
            return
        call()                                  # compiles kernels and allocates memory, which waits
        stream = _cuda.xp.cuda.get_current_stream()
        stream.synchronize()
        wait = _cuda.xp.RawKernel("""
            extern "C" __global__ void wait(long long cycles) {
                long long begin = clock64();
                while (clock64() - begin < cycles) {}
            }""", "wait")
        wait((1,), (1,), (np.int64(4e9),))      # about two seconds
        call()
        assert not stream.done
        stream.synchronize()

    return check


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true",
                     help="fail where a comparison with a peer, a test on real data or in a browser is skipped")
    parser.addoption("--mutations", type=int, default=25, help="how many damaged files of each format are tried")
    parser.addoption("--capability", help="compile the CUDA kernels to PTX for this compute capability, such as 9.0")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in ("cuda", "gpu"):
        if item.get_closest_marker(mark):
            why = "there is only Numba's simulator" if mark == "gpu" and _cuda.SIMULATED else _cuda.why_not()
            if why is not None:
                pytest.skip(f"no CUDA: {why}")
    if item.get_closest_marker("ptx") and not item.config.getoption("--capability"):
        pytest.skip("--capability is not given")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    needed = [mark for mark in ("peers", "real_data", "browser") if item.get_closest_marker(mark)]
    if report.skipped and needed and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"a {needed[0]} test was skipped: {report.longrepr}"
    return report
