"""Every kernel of the table compiled to PTX without a GPU: types and registers, which the simulator does not know.

A process compiles for one compute capability (`pytest tests/kernels/test_ptx.py --capability 8.0`).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn.testing import Kernel, ptx
from fastnn.testing.table import CASES

pytestmark = pytest.mark.ptx

_LOCAL = 16                                     # bytes: less than any tile of sums, and so none of them


@pytest.mark.parametrize(("row", "dtype"), CASES, ids=str)
def test_ptx(row: Kernel, dtype: np.dtype, request: pytest.FixtureRequest) -> None:
    major, minor = map(int, request.config.getoption("--capability").split("."))
    with ptx.compiling((major, minor)) as compiled, np.errstate(all="ignore"):
        for call in row.calls(dtype, "cuda"):
            row(call.copy().map(fastnn.to_device))
    assert compiled.kernels
    for name, text in compiled.kernels.items():
        assert f".target sm_{major}{minor}" in text
        memory = sum(map(int, re.findall(r"__local_depot\d+\[(\d+)\]", text)))
        assert memory <= _LOCAL, f"{name}: arrays of a thread are not in registers, but in {memory} bytes of memory"


def test_nan_is_asked_for_by_name() -> None:
    """numba-cuda-mlir 0.6 compiles x != x to False, for NaN too; math.isnan is right everywhere."""
    sources = [path for path in Path(fastnn.kernels.__file__).parent.rglob("*.py") if "cuda.jit" in path.read_text()]
    assert sources
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.NotEq):
                assert ast.dump(node.left) != ast.dump(node.comparators[0]), f"{path.name}, line {node.lineno}"
