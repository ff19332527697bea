"""Updates on a GPU of more elements than its blocks have under way at once, and of a tail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, kernels
from fastnn.testing import assert_close

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize(("name", "states", "options"), [
    ("sgd_update", 0, {"lr": 0.1, "weight_decay": 0.01}),
    ("sgd_update", 1, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("rmsprop_update", 1, {"lr": 0.1, "weight_decay": 0.01}),
    ("rmsprop_update", 2, {"lr": 0.1, "momentum": 0.9}),
    ("adam_update", 2, {"lr": 0.1, "step": 3, "weight_decay": 0.1, "decoupled": True})])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_element_is_updated_once(name: str, states: int, options: dict[str, Any], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    size = 107 if _device.SIMULATED else 5_000_011
    arrays = [rng.random(size).astype(dtype) for _ in range(2 + states)]
    placed = [fastnn.to_device(array) for array in arrays]
    getattr(kernels, name)(*placed, **options)
    getattr(kernels, name)(*arrays, **options)
    assert_close([fastnn.to_host(array) for array in placed], arrays, dtype=dtype)
