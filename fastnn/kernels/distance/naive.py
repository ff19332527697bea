"""Distances as their formula says, in double precision or exact integers: the judge of the other implementations."""

from __future__ import annotations

import math

from fastnn.kernels._arrays import Array


def pairwise_l2(x: Array, y: Array, squared: bool, algorithm: str, distances: Array) -> None:
    for m in range(len(x)):
        for n in range(len(y)):
            square = _squared_distance(x[m], y[n])
            distances[m, n] = square if squared else math.sqrt(square)


def knn(queries: Array, points: Array, algorithm: str, memory_budget: int, squares: Array, indices: Array) -> None:
    k = squares.shape[1]
    for m in range(len(queries)):
        candidates = [(_squared_distance(queries[m], points[n]), n) for n in range(len(points))]
        candidates.sort(key=lambda candidate: (math.isnan(candidate[0]), *candidate))
        for rank in range(k):
            squares[m, rank], indices[m, rank] = candidates[rank]


def _squared_distance(x: Array, y: Array) -> float:
    total = 0
    for d in range(len(x)):
        difference = x[d].item() - y[d].item()
        total += difference * difference
    return total
