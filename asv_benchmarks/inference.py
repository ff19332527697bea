"""Networks for inference alone, frozen and quantised, beside PyTorch and ONNX Runtime.

    python inference.py                 a table for the terminal, in a minute
    python inference.py --quick         fewer calls: whether it works

Each candidate has a process of its own with its own defaults, as users have it: its threads may spin while they wait,
which would take the cores of another one in the same process. Processes take turns, call by call of the table, and the
median of their medians counts. All have the same number of threads.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers
from networks import NETWORKS, torch_model

import fastnn

CANDIDATES = ("fastnn", "fastnn, int8", "PyTorch", "ONNX Runtime")
BATCHES = (1, 32)
TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--candidate", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.candidate:
        name, network, n = options.candidate
        print(milliseconds(name, network, int(n), 0.1 if options.quick else 1.0))
        return
    names = [name for name in CANDIDATES if {"PyTorch": peers.torch, "ONNX Runtime": peers.table.optional("onnx_peer")}
             .get(name, fastnn) is not None]
    rows = []
    for network in ("resnet18", "cifar10-speedrun"):
        for n in BATCHES:
            found: dict[str, list[float]] = {name: [] for name in names if can(name, network)}
            for _ in range(1 if options.quick else TURNS):
                for name in found:
                    command = [sys.executable, str(Path(__file__)), *["--quick"] * options.quick, "--candidate", name,
                               network, str(n)]
                    found[name].append(float(subprocess.run(command, check=True, capture_output=True,
                                                            text=True).stdout.split()[-1]))
            times = {name: statistics.median(turns) for name, turns in found.items()}
            rows.append([f"{network}, batch {n}", *(
                f"{times[name]:.2f} ms ({times[name] / times['fastnn']:.2f})" if name in times else "-"
                for name in names)])
            print(peers.markdown(["inference", *names], rows[-1:]), flush=True)
    print(peers.markdown(["inference (time over fastnn's)", *names], rows))


def can(name: str, network: str) -> bool:
    """Whether a candidate has all layers of a network."""
    return name != "ONNX Runtime" or network == "resnet18"


def milliseconds(name: str, network: str, n: int, seconds: float) -> float:
    """Return the median time of a call, in this process."""
    model, images = NETWORKS[network].ours(), np.random.default_rng(0).standard_normal(
        (max(n, 64), *NETWORKS[network].image), dtype=np.float32)
    call: Any
    if name == "PyTorch":
        import torch

        torch.set_num_threads(fastnn.get_num_threads())
        twin, tensor = torch_model(torch, NETWORKS[network], model).eval(), torch.from_numpy(images[:n])

        def call(_: Any) -> Any:
            with torch.inference_mode():
                return twin(tensor)
    elif name == "ONNX Runtime":
        import onnx_peer

        call = onnx_peer.session(model, images[:n].shape, fastnn.get_num_threads())
    else:
        call = fastnn.quantize(model, images) if name.endswith("int8") else fastnn.freeze(model)
    batch, times = images[:n].copy(), []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        call(batch)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times[2:])


if __name__ == "__main__":
    main()
