"""fastnn.estimators with scikit-learn, and without."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastnn
from fastnn._extras import install

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, *args):
        if name == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'", name=name)

sys.meta_path.insert(0, Absent())
import fastnn
try:
    fastnn.estimators
except ModuleNotFoundError as error:
    print(error.name, error)
"""


def test_without_scikit_learn_a_sentence_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    # An error without a name is what the command line prints without a traceback.
    assert done.stdout == f"None fastnn.estimators needs scikit-learn: run {install('sklearn')}\n"


@pytest.mark.peers
def test_estimators_are_loaded_on_first_use() -> None:
    pytest.importorskip("sklearn")
    assert fastnn.estimators.__all__ == ["KNeighborsClassifier", "LinearSVM", "MLPClassifier", "SoftmaxClassifier"]
    assert "estimators" in dir(fastnn)
