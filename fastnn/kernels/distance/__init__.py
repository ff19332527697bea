"""Euclidean distances between points, and nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._checks import FLOATS, Array, as_int, check_choice, check_present, check_rank, check_side, check_size
from fastnn.kernels._outputs import result_of
from fastnn.kernels._plans import Plan, bound, planned
from fastnn.kernels._targets import implementation

__all__ = ["knn", "pairwise_l2"]

_ALGORITHMS = ("direct", "gemm")
_KNN_ALGORITHMS = ("auto", "direct", "filter")
_MEMORY_BUDGET = 64 << 20
_DTYPES = (*FLOATS, np.dtype(np.uint8))


def pairwise_l2(x: Array, y: Array, *, squared: bool = False, algorithm: str = "direct", out: Array | None = None,
                target: str | None = None) -> Array:
    """Return the Euclidean distance of every row of x to every row of y.

    Parameters
    ----------
    x : array of shape (M, D)
        Points, float32, float64 or uint8.
    y : array of shape (N, D)
        Points of the same dtype.
    squared : bool
        Whether to leave out the square root.
    algorithm : {"direct", "gemm"}
        "direct" sums (x - y)^2, so that close points far from the origin keep their distance. "gemm" forms
        |x|^2 - 2 x y + |y|^2, which takes half the arithmetic, but rounds away distances that are small beside
        |x|^2 + |y|^2.
    out : array of shape (M, N), optional
        Where the result is written.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs; see `fastnn.use_target`.

    Returns
    -------
    array of shape (M, N)
        The distances, of x's dtype; for uint8 the exact squares as int64, or their roots as float64.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, or `out` does not fit or overlaps with an input.

    Notes
    -----
    3 M N D operations ("gemm": 2 M N D); M N numbers are written, on "cpu" from 16 MB on past the caches, where x is
    copied once, too. The bits of a distance depend on its own two points alone, and are the same in either order of the
    two. On "cpu" and "cuda" the error of a squared distance s is at most eps / 2 (d + 3) s by "direct", with
    d = min(D, 256) + D / 256, where eps is 1.2e-7 for float32 and 2.2e-16 for float64: sums of 256 dimensions are added
    up. "gemm" adds such sums to the squared lengths in float64, and turns what comes out negative into 0: the error is
    at most eps (d + 2) |x| |y| + eps s + 1.1e-16 (d + 3) (|x|^2 + |y|^2). For uint8 both are exact.

    Where squares, or products by "gemm", leave the range of the dtype, a distance is summed again in float64, of scaled
    differences: coordinates of 1e200 and 1e-200 have right distances. That takes longer, also for equal points.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> kernels.pairwise_l2(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
    array([[5., 1.]])
    """
    return _pairwise_l2((x, y), (squared, algorithm), target, out)


def knn(queries: Array, points: Array, k: int, *, squared: bool = False, algorithm: str = "auto",
        memory_budget: int | None = None, target: str | None = None) -> tuple[Array, Array]:
    """Return for every query the distances and indices of its k nearest points, nearest first.

    Parameters
    ----------
    queries : array of shape (M, D)
        float32, float64 or uint8.
    points : array of shape (N, D)
        Of the same dtype. It may be a `numpy.memmap` larger than memory: if contiguous it is never copied, only read.
    k : int
        How many neighbours, from 1 to N.
    squared : bool
        Whether to leave out the square root.
    algorithm : {"auto", "direct", "filter"}
        All give the same result, to the bit. "direct" sums (x - y)^2 for every query and point, as `pairwise_l2` does.
        "filter" sums it for those points alone that a cheaper product with a proven bound on its error does not rule
        out; it works for up to 64 neighbours, and goes over to "direct" where too many points are left. "auto" takes
        it for many queries of 64 dimensions or more. On "cuda" there is no filter.
    memory_budget : int, optional
        Bytes that may be used beside the arguments and the results, 64 MiB by default. Queries are walked in batches
        that fit; each batch reads all points once. The answer does not depend on it.
    target : {"naive", "cpu", "cuda"}, optional
        Which implementation runs.

    Returns
    -------
    distances : array of shape (M, k)
        Of the queries' dtype; for uint8 the exact squares as int64, or their roots as float64.
    indices : array of shape (M, k)
        Rows of `points`, int64. Among equal squared distances the lowest index comes first; NaN comes after inf.

    Raises
    ------
    TypeError, ValueError
        If dtypes, shapes or options do not fit, k is not from 1 to N, or the budget is too small to work with.

    Notes
    -----
    3 M N D operations ("filter" and bytes: 2 M N D, cheaper ones where the CPU has a matrix unit); the points are read
    once for each batch of queries (on "cuda" for each 64, mostly from the cache), and no M x N matrix is made.
    Distances are those of `pairwise_l2` to the bit, with its error bound, and points are ranked by their squares. A
    query whose squares leave the range of the dtype is answered again, by distances; on "cuda" it is not: its distances
    are inf or 0 where squares are. The answer for a query depends on no other query, on no number of threads and on no
    budget. The bound of the filter, and its proof, are in `distance/filtered.py`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> distances, indices = kernels.knn(np.array([[1.0]]), np.array([[4.0], [0.0], [2.0]]), k=2)
    >>> distances, indices
    (array([[1., 1.]]), array([[1, 2]]))
    """
    return _knn((queries, points), (k, squared, algorithm, memory_budget), target)


@planned
def _pairwise_l2(x: Array, y: Array, squared: bool, algorithm: str, target: str | None) -> Plan:
    _check_points(x=x, y=y)
    check_choice("algorithm", algorithm, _ALGORITHMS)
    check_size((len(x), len(y)), y=1)
    module, squared = implementation(__name__, target, x), bool(squared)
    distances = result_of((len(x), len(y)), _result_dtype(x.dtype, squared), x)
    if 0 in distances.shape:
        return Plan(_nothing, distances)
    run = bound(module, "pairwise_l2", x, y, distances, squared=squared, algorithm=algorithm)
    return Plan(run, distances, operations=(2 if algorithm == "gemm" else 3) * len(x) * y.size)


@planned
def _knn(queries: Array, points: Array, k: int, squared: bool, algorithm: str, memory_budget: int | None,
         target: str | None) -> Plan:
    _check_points(queries=queries, points=points)
    k = as_int("k", k, 1)
    if k > len(points):
        raise ValueError(f"k: expected from 1 to the number of points, {len(points)}, got {k}")
    check_choice("algorithm", algorithm, _KNN_ALGORITHMS)
    budget = _MEMORY_BUDGET if memory_budget is None else as_int("memory_budget", memory_budget, 1)
    check_size((len(queries), k), k=1)
    module, squared = implementation(__name__, target, queries), bool(squared)
    distances = result_of((len(queries), k), _result_dtype(queries.dtype, False), queries)
    indices, dtype = result_of(distances.shape, np.int64, queries), _result_dtype(queries.dtype, squared)
    converted = dtype != distances.dtype
    run = _nothing if len(queries) == 0 else bound(
        module, "knn", queries, points, distances, indices, squared=squared, algorithm=algorithm, memory_budget=budget)

    def knn(queries: Array, points: Array) -> tuple[Array, Array]:
        found, places = distances.new(), indices.new()
        run(queries, points, found, places)
        return found.astype(dtype) if converted else found, places

    return Plan(knn, operations=3 * len(queries) * points.size, why=getattr(run, "why", ""))


def _nothing(*arrays: Array) -> None:
    """The distances of no pairs."""


def _check_points(**arrays: Array) -> None:
    """Raise unless two named arrays are points of one dtype and dimension."""
    for name, array in arrays.items():
        check_present(name, array)
    (first, x), (second, y) = arrays.items()
    if x.dtype not in _DTYPES:
        raise TypeError(f"{first}: expected float32, float64 or uint8, got {x.dtype}; "
                        f"convert it with {first}.astype(numpy.float32)")
    if y.dtype != x.dtype:
        raise TypeError(f"{second}: expected {x.dtype} as {first} has, got {y.dtype}; give both one dtype with .astype")
    check_side(second, y, first, x)
    check_rank(first, x, 2, layout="(points, dimensions)")
    check_rank(second, y, 2, layout="(points, dimensions)")
    if y.shape[1] != x.shape[1]:
        raise ValueError(f"{second}: expected {x.shape[1]} dimensions as {first} of shape {x.shape} has, "
                         f"got shape {y.shape}")


def _result_dtype(dtype: Any, squared: bool) -> Any:
    """Distances have the dtype of the points; those of bytes are exact as int64 squares, or float64."""
    return dtype if dtype in FLOATS else np.dtype(np.int64 if squared else np.float64)
