"""Distances as their formula says; the other implementations are compared with this one.

They are exact integers, or of the widest numbers there are, which on most machines reach far beyond float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn._checks import Array


def pairwise_l2(x: Array, y: Array, distances: Array, squared: bool, algorithm: str) -> None:
    for m in range(len(x)):
        for n in range(len(y)):
            square = _squared_distance(x[m], y[n])
            distances[m, n] = square if squared else np.sqrt(square)


def knn(queries: Array, points: Array, distances: Array, indices: Array, squared: bool, algorithm: str,
        memory_budget: int) -> None:
    k = distances.shape[1]
    for m in range(len(queries)):
        candidates = [(_squared_distance(queries[m], points[n]), n) for n in range(len(points))]
        candidates.sort(key=lambda candidate: (math.isnan(candidate[0]), *candidate))
        for rank in range(k):
            square, indices[m, rank] = candidates[rank]
            distances[m, rank] = square if squared else np.sqrt(square)


def _squared_distance(x: Array, y: Array) -> Any:
    exact: Any = int if x.dtype == np.uint8 else np.longdouble
    total = exact(0)
    for d in range(len(x)):
        difference = exact(x[d]) - exact(y[d])
        total += difference * difference
    return total
