"""What a user waits for before the first result: imports, and kernels that compile or load from the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

FIRST_CALL = """
import time, numpy as np, fastnn
x, w = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
begin = time.perf_counter()
fastnn.conv2d(x, w)
print(time.perf_counter() - begin)
"""


class Import:
    """Seconds until `import fastnn` is done, NumPy's own time left out."""

    unit = "seconds"

    def track_import(self) -> float:
        code = "import numpy, time; t = time.perf_counter(); import fastnn; print(time.perf_counter() - t)"
        return min(run(code) for _ in range(5))


class FirstCall:
    """Seconds of the first convolution of a process."""

    params = (["cold", "cached"],)
    param_names = ("cache",)
    unit = "seconds"
    timeout = 120

    def setup(self, cache: str) -> None:
        self.folder = tempfile.mkdtemp()
        if cache == "cached":
            run(FIRST_CALL, FASTNN_CACHE_DIR=self.folder)

    def teardown(self, cache: str) -> None:
        shutil.rmtree(self.folder)

    def track_first_call(self, cache: str) -> float:
        return run(FIRST_CALL, FASTNN_CACHE_DIR=self.folder)


class Training:
    """Seconds of one training step of the cnn-mnist network, a batch of 64."""

    params = (["cpu"],)
    param_names = ("target",)
    timeout = 120

    def setup(self, target: str) -> None:
        import numpy as np

        from fastnn import models, nn, optim, use_target

        self.use_target = use_target
        rng = np.random.default_rng(0)
        self.images = rng.standard_normal((64, 1, 28, 28), dtype=np.float32)
        self.labels = rng.integers(0, 10, 64)
        self.model, self.loss = models.CNNMnist(), nn.CrossEntropyLoss()
        self.optimizer = optim.Adam(self.model.parameters())
        self.time_step(target)

    def time_step(self, target: str) -> None:
        with self.use_target(target):
            scores, backward = self.model.forward(self.images, training=True)
            _, loss_backward = self.loss.forward(scores, self.labels)
            backward(loss_backward(), input_grad=False)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def peakmem_step(self, target: str) -> None:
        self.time_step(target)


def run(code: str, **environment: str) -> float:
    """Return the number that a new process prints."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **environment},
                          capture_output=True, text=True, check=True, timeout=100)
    return float(done.stdout)
