"""Two promises of the classical systems against their peers, on CIFAR-10, alternating in one process.

    python classical.py                 on real photographs where FASTNN_DATA has them, else on random bytes

All 10,000 x 50,000 exact distances with the 10 nearest, of bytes, against NumPy's float32 matrix product of the same
shapes, and the memory of the search beside the data; an epoch of the linear SVM by gradient descent in batches of 200
(mirrored and normalised from bytes on the way) against scikit-learn's SGDClassifier on both cores.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__" and os.environ.get("OMP_WAIT_POLICY") != "passive":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "passive"})

import numpy as np

import fastnn
from fastnn import data, models, optim, training

REPEATS = 5


def main() -> None:
    dataset = photographs()
    train, test = dataset.train, dataset.test
    points, queries = train.images.reshape(len(train), -1), test.images.reshape(len(test), -1)
    fastnn.knn(queries[:10], points, 10)                    # compiles
    beside = memory(lambda: fastnn.knn(queries, points, 10)) / 1e6
    compare("10 nearest of bytes", lambda: fastnn.knn(queries, points, 10), "matrix product", product(queries, points))
    print(f"the search takes {beside:.1f} MB beside the data\n")

    normalize = data.Normalize(*data.channel_statistics(train.images))
    model = models.LinearSVM(points.shape[1])
    trainer = training.Trainer(model, model.criterion, optim.SGD(model.parameters(), 5e-4, momentum=0.9),
                               progress=False)
    loader = data.DataLoader(train, 200, transform=data.Compose([data.RandomHorizontalFlip(), normalize]))

    from sklearn.linear_model import SGDClassifier

    inputs = normalize(train.images, np.random.default_rng(0)).reshape(len(train), -1)
    theirs = SGDClassifier(loss="hinge", max_iter=1, tol=None, n_jobs=-1)
    compare("epoch of LinearSVM", lambda: trainer.fit(loader, epochs=1),
            "SGDClassifier", lambda: theirs.fit(inputs, train.labels))


def photographs() -> data.Dataset:
    try:
        return data.cifar10(os.environ["FASTNN_DATA"])
    except (KeyError, FileNotFoundError):
        rng = np.random.default_rng(0)
        train, test = (data.Split(rng.integers(0, 256, (n, 3, 32, 32), np.uint8), rng.integers(0, 10, n))
                       for n in (50_000, 10_000))
        return data.Dataset(train, test, tuple("0123456789"), "random bytes")


def product(queries: np.ndarray, points: np.ndarray) -> Callable[[], object]:
    left, right = queries.astype(np.float32), points.astype(np.float32).T
    out = np.empty((len(queries), len(points)), np.float32)
    return lambda: np.matmul(left, right, out=out)


def compare(name: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object]) -> None:
    """Print the medians of alternating runs, after one of each to warm up."""
    seconds = [[], []]
    for repeat in range(REPEATS + 1):
        for kept, function in zip(seconds, (ours, theirs)):
            time.sleep(0.05)
            begin = time.perf_counter()
            function()
            if repeat:
                kept.append(time.perf_counter() - begin)
    medians = [statistics.median(kept) for kept in seconds]
    print(f"{name}: {medians[0]:.2f} s; {peer}: {medians[1]:.2f} s; {medians[1] / medians[0]:.2f} times as fast")


def memory(function: Callable[[], object]) -> int:
    """Return by how many bytes the process grows at most while `function` runs, with an empty pool."""
    fastnn.clear_pool()
    sizes, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            sizes.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return max(sizes) - sizes[0]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
