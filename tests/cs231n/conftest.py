from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Draw what the course's notebooks draw, which seed NumPy's global generator with 231; its state is put back."""
    state = np.random.get_state()       # noqa: NPY002
    np.random.seed(231)                 # noqa: NPY002
    yield
    np.random.set_state(state)          # noqa: NPY002
