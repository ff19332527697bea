import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets."""
    folder = os.environ.get("FASTNN_DATA")
    if not folder:
        pytest.skip("FASTNN_DATA is not set")
    return Path(folder)
