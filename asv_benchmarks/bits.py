"""The bits of every kernel's results on every sample of the table, which a mere change of structure keeps.

``python asv_benchmarks/bits.py bits.json`` writes a hash a call where there is no such file; where there is one, it
names the calls whose bits are others now, and ends with status 1. Bits differ between processors: both runs are made
on one machine. With NUMBA_ENABLE_CUDASIM=1 the CUDA kernels are among them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.testing import KERNELS

TARGETS = ("naive", "cpu", *(("cuda",) if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else ()))


def hashes() -> Iterator[tuple[str, str]]:
    """Iterate over all calls by name, with the hash of what they give."""
    for name, kernel in KERNELS.items():
        for target in TARGETS:
            for dtype in kernel.dtypes:
                for number, call in enumerate(kernel.calls(dtype, target)):
                    algorithm = call.kwargs.get("algorithm")
                    if target == "naive" and algorithm not in (None, *kernel.algorithms[:1]):
                        continue
                    with np.errstate(all="ignore"):
                        results = kernel.run(call, target)
                    yield f"{name} {target} {dtype} {number} {algorithm or ''}".strip(), hashed(results)
        for benchmark in kernel.benchmarks:             # of a size at which all blocks are whole
            yield f"{name} cpu {benchmark.label}", hashed(kernel.run(benchmark.call(1)))


def hashed(results: tuple[Any, ...]) -> str:
    """Return a hash of arrays: of dtype, shape and bytes. NaN counts as one value, whatever its sign and payload."""
    digest = hashlib.sha256()
    for array in results:
        if array is None:
            digest.update(b"none")
            continue
        array = np.array(array, order="C")
        if array.dtype.kind == "f":
            array[np.isnan(array)] = np.nan
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="where the hashes lie, or shall lie")
    file = parser.parse_args().file
    now = dict(hashes())
    if not file.exists():
        file.write_text(json.dumps(now, indent=0) + "\n")
        print(f"{len(now)} calls of {len(KERNELS)} kernels: written to {file}")
        return 0
    before = json.loads(file.read_text())
    differ = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    for name in differ:
        print(f"{name}: " + ("not there before" if name not in before else "gone" if name not in now else "other bits"))
    print(f"{len(now)} calls of {len(KERNELS)} kernels: {len(differ)} differ from {file}")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
