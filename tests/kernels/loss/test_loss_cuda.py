"""Losses on a GPU, where nobody can look at the labels before a kernel does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import kernels

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.mark.parametrize("classes", [1, 9, 600])
@pytest.mark.parametrize(("name", "options"), [
    ("cross_entropy", {}), ("cross_entropy", {"label_smoothing": 0.1, "ignore_index": -1000}),
    ("hinge_loss", {"margin": 0.3})])
def test_labels_out_of_range_give_nan_in_their_rows_alone(name: str, options: dict[str, Any], classes: int) -> None:
    rng = np.random.default_rng(0)
    x, grads, labels = rng.standard_normal((7, classes)), rng.standard_normal(7), rng.integers(0, classes, 7)
    bad = labels.copy()
    bad[[2, 5]] = classes, -1
    fine = np.array([0, 1, 3, 4, 6])
    for function, inputs in ((name, (x,)), (f"{name}_backward", (grads, x))):
        run = getattr(kernels, function)
        truth = run(*inputs, labels, reduction="none", target="naive", **options)
        found = fastnn.to_host(run(*map(fastnn.to_device, (*inputs, bad)), reduction="none", **options))
        np.testing.assert_allclose(found[fine], truth[fine], rtol=1e-12, atol=1e-14)
        assert np.isnan(found[[2, 5]]).all()
