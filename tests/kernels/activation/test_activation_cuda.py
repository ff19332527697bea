"""Activations on a GPU: the masks of dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.mark.parametrize(("size", "p"), [(1, 0.5), (7, 0.1), (8, 0.3), (77, 0.7), (200, 0.5), (33, 0.0), (33, 1.0)])
def test_dropout_masks_are_those_of_the_host(size: int, p: float) -> None:
    from fastnn.kernels.activation import cuda

    bits = np.random.Philox(np.random.SeedSequence([2**70, size]))
    key: Any = bits.state["state"]["key"].tolist()
    mask = fastnn.to_device(np.zeros(size, bool))
    cuda.dropout_mask(tuple(key), p, mask)
    assert (fastnn.to_host(mask) == (np.random.Generator(bits).random(size, np.float32) >= p)).all()
