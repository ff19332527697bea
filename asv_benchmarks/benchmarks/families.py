"""The four first families of kernels, naive and compiled, by functions that fastnn has had from its first kernels on.

Nothing here asks for anything newer, so that asv can run it on every commit: `history.py` does, on milestones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastnn

TARGETS = ["naive", "cpu"]
FULL = {"naive": 1, "cpu": 32}              # images: the naive versions take too long for more
POINTS = {"naive": 128, "cpu": 2048}


def _normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _images(target: str, channels: int = 64, size: int = 32, seed: int = 0) -> Any:
    return _normal(FULL[target], channels, size, size, seed=seed)


def _convolution(kernel: int, **options: int) -> Callable[[str], Callable[[], Any]]:
    def make(target: str) -> Callable[[], Any]:
        x, weight, bias = _images(target), _normal(64, 64, kernel, kernel), _normal(64)
        return lambda: fastnn.conv2d(x, weight, bias, target=target, **options)

    return make


def _convolution_backward(target: str) -> Callable[[], Any]:
    x, grad, weight = _images(target), _images(target, seed=1), _normal(64, 64, 3, 3)
    return lambda: fastnn.conv2d_backward(grad, x, weight, padding=1, target=target)


def _max_pooling(target: str) -> Callable[[], Any]:
    x = _images(target)
    return lambda: fastnn.max_pool2d(x, 2, return_indices=True, target=target)


def _max_pooling_backward(target: str) -> Callable[[], Any]:
    x, grad = _images(target), _images(target, size=16, seed=1)
    _, indices = fastnn.max_pool2d(x, 2, return_indices=True, target=target)
    return lambda: fastnn.max_pool2d_backward(grad, indices, x.shape, target=target)


def _mean_pooling(target: str) -> Callable[[], Any]:
    x = _images(target)
    return lambda: fastnn.avg_pool2d(x, 3, stride=2, padding=1, target=target)


def _distances(dimensions: int) -> Callable[[str], Callable[[], Any]]:
    def make(target: str) -> Callable[[], Any]:
        x, y = (_normal(POINTS[target], dimensions, seed=seed) for seed in range(2))
        return lambda: fastnn.pairwise_l2(x, y, target=target)

    return make


def _neighbours(target: str) -> Callable[[], Any]:
    queries, points = (_normal(POINTS[target], 64, seed=seed) for seed in range(2))
    return lambda: fastnn.knn(queries, points, 10, target=target)


def _batch_norm(training: bool) -> Callable[[str], Callable[[], Any]]:
    def make(target: str) -> Callable[[], Any]:
        x, weight, bias = _images(target), _normal(64), _normal(64, seed=1)
        mean, var = np.zeros(64, np.float32), np.ones(64, np.float32)
        return lambda: fastnn.batch_norm(x, mean, var, weight, bias, training=training, target=target)

    return make


def _batch_norm_backward(target: str) -> Callable[[], Any]:
    x, grad, weight = _images(target), _images(target, seed=1), _normal(64)
    _, mean, invstd = fastnn.batch_norm(x, None, None, weight, weight, training=True, return_stats=True, target=target)
    return lambda: fastnn.batch_norm_backward(grad, x, weight, mean, invstd, target=target)


CALLS: dict[str, dict[str, Callable[[str], Callable[[], Any]]]] = {
    "convolution": {"3x3": _convolution(3, padding=1), "3x3, all gradients": _convolution_backward,
                    "1x1": _convolution(1), "3x3, stride 2": _convolution(3, stride=2, padding=1)},
    "pooling": {"maxima 2x2": _max_pooling, "maxima 2x2, gradient": _max_pooling_backward,
                "means 3x3, stride 2": _mean_pooling},
    "distance": {"pairwise_l2, 16 dimensions": _distances(16), "pairwise_l2, 784 dimensions": _distances(784),
                 "knn, k = 10, 64 dimensions": _neighbours},
    "batch norm": {"training": _batch_norm(True), "inference": _batch_norm(False), "gradient": _batch_norm_backward},
}
MAKERS = {f"{family}: {call}": make for family, calls in CALLS.items() for call, make in calls.items()}


class Families:
    """Seconds of one call: of one image or 128 points by a naive version, of 32 images or 2,048 points by a fast."""

    params = (TARGETS, list(MAKERS))
    param_names = ("target", "call")
    timeout = 300
    warmup_time = 0.0

    def setup(self, target: str, name: str) -> None:
        self.call = MAKERS[name](target)
        self.call()                         # compiles

    def time_call(self, target: str, name: str) -> None:
        self.call()
