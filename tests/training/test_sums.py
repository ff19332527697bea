"""Sums over steps on the host and on a GPU, or in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import kernels
from fastnn.training._sums import Sums, double, first_not_finite

HOST, GPU = np.asarray, kernels.to_device
PLACES = [pytest.param(HOST, id="host"), pytest.param(GPU, id="gpu", marks=pytest.mark.cuda)]

SCORES, LABELS = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]), np.array([1, 0, 0])


@pytest.mark.parametrize("place", PLACES)
def test_a_look_makes_numbers_of_sums(place: Any) -> None:
    sums = Sums()
    for loss in (0.5, 0.25):
        assert sums.add(double(place(np.float32(loss))), 3)
        assert sums.add_gradient(place(np.ones(2, np.float32)))
        sums.count(place(SCORES), place(LABELS))
    assert (sums.unseen, sums.due) == (2, place is HOST)
    assert sums.look()
    assert sums == Sums(6, 2.25, 4, 6)
    assert (type(sums.loss_sum), type(sums.correct), sums.unseen) == (float, int, 0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_known_at_once_on_the_host_and_at_a_look_on_a_gpu(place: Any, value: float) -> None:
    sums = Sums()
    assert sums.add(double(place(np.float64(value))), 1) == (place is GPU)
    assert not sums.look()
    sums = Sums()
    assert sums.add_gradient(place(np.array([1.0, value]))) == (place is GPU)
    assert sums.look() == (place is HOST)
    assert first_not_finite([("a", place(np.ones(2))), ("b", place(np.array([value, 0.0])))]) == "b"


def test_a_regression_counts_nothing() -> None:
    sums = Sums()
    sums.count(SCORES, SCORES)
    sums.count(SCORES, LABELS)
    assert sums.correct is None
