"""The comparison with peers sees what plans launch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn.kernels._cpu import launch

PEERS = Path(__file__).parents[1] / "asv_benchmarks" / "peers.py"


@pytest.mark.peers
@pytest.mark.skipif(launch.config.DISABLE_JIT or launch.config.BOUNDSCHECK, reason="blocks run one by one")
def test_the_blocks_of_warm_calls_are_seen() -> None:
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("peers", PEERS)
    assert spec is not None
    assert spec.loader is not None
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    x, weight = np.ones((8, 64, 32, 32), np.float32), np.ones((64, 64, 3, 3), np.float32)
    for call in (lambda: fastnn.relu(x), lambda: fastnn.conv2d(x, weight, stride=2),
                 lambda: fastnn.conv2d(x, weight, padding=1)):
        call()
        found = peers.launches(call)
        assert found["blocks"]
        assert 0 <= found["serial"] < 1
        assert found["on_many_cores"] > 1
    assert not launch.watchers
