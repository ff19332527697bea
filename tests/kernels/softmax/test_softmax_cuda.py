"""Softmax on a GPU: rows of every length, and rows without a sum."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn
from fastnn import _device, kernels

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.mark.parametrize("columns", [2, 3, 5, 9, 33, 200] if _device.SIMULATED else [2, 33, 257, 1025, 5000, 70001])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_of_every_length(name: str, columns: int) -> None:
    """Some threads have no row, others no column."""
    x = 3 * np.random.default_rng(0).standard_normal((5, columns))
    truth = getattr(kernels, name)(x, target="naive")
    found = fastnn.to_host(getattr(kernels, name)(fastnn.to_device(x)))
    np.testing.assert_allclose(found, truth, rtol=1e-13)


def test_softmax_of_rows_without_a_sum() -> None:
    """All NaN where a row holds NaN or inf, or nothing but -inf."""
    x = np.zeros((5, 9), np.float32)
    x[1, 3], x[2, 8], x[3], x[4, 0] = np.nan, np.inf, -np.inf, -np.inf
    for run in (kernels.softmax, kernels.log_softmax):
        found = fastnn.to_host(run(fastnn.to_device(x)))
        assert np.isnan(found[1:4]).all()
        assert not np.isnan(found[[0, 4]]).any()
