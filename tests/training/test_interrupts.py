"""Signals that come where Python cannot raise them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("then", ["pass", "raise RuntimeError('something is half done')"])
def test_a_signal_that_c_code_passes_over_comes_again(then: str) -> None:
    """As LLVM does, which calls Python while it compiles."""
    code = f"""
import ctypes, os, signal, time
from fastnn.training._interrupts import Interrupts, Signalled

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)

try:
    with Interrupts(at_once=True):
        callback()
        {then}
        time.sleep(20)
except Signalled as error:
    print(error.signal)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("15\n", "", 0)
