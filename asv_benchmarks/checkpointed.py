"""What `nn.Checkpointed` saves and what it costs: training steps of ResNet-50 on images of CIFAR's size.

    python checkpointed.py              a table for the terminal, in some minutes
    python checkpointed.py --batch 4    of a smaller batch

Memory is what a step needs beside parameters, gradients and the optimizer's state, each network in a process of its
own, as in peers.py; steps are timed in turns in one process.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor

import peers
import rows

import fastnn

NAMES = ("resnet50", "resnet50, checkpointed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    n = parser.parse_args().batch
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        memory = list(pool.map(peers.peak_memory, ["fastnn"] * 2, NAMES, [n] * 2))
    steps = {name: functools.partial(rows.our_step(name), *rows.batch_of(name, n)) for name in NAMES}
    times = peers.alternate(steps, 10.0, 5, 20)
    kept = [n * fastnn.summary(rows.our_model(name), rows.NETWORKS[name].image).kept for name in NAMES]
    print(peers.markdown(["training step", "kept for backward", "memory", "time"], [
        [f"{name}, batch {n}", f"{kept_bytes / 1e6:.0f} MB", f"{needed / 1e6:.0f} MB",
         f"{1e3 * statistics.median(times[name]):.0f} ms"] for name, kept_bytes, needed in zip(NAMES, kept, memory)]))


if __name__ == "__main__":
    main()
