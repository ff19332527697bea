"""How close is close: one table of tolerances, and comparisons that say where arrays differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray

# Relative to the largest finite magnitude in the expected array: the rounding of sums over some hundred terms.
TOLERANCES = {np.dtype(np.float32): 5e-6, np.dtype(np.float64): 2e-14}
GRADIENT_TOLERANCES = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-13}


def assert_close(actual: Any, expected: Any, *, dtype: Any = None, gradient: bool = False, factor: float = 1.0,
                 what: str = "result") -> None:
    """Raise AssertionError unless two results agree: integers exactly, floats to their dtype's tolerance.

    NaN and inf must stand at the same places. Tuples are compared item by item; None equals None alone.

    Parameters
    ----------
    actual, expected : array, tuple of them, or None
        What came and what should have come.
    dtype : dtype, optional
        Whose tolerance counts; that of `actual` by default.
    gradient : bool
        Whether the tolerances for gradients hold, which are wider.
    factor : float
        Multiplies the tolerance, for kernels whose documented error is larger.
    what : str
        How the message names the result.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.testing import assert_close
    >>> assert_close(np.array([1.0, np.nan]), np.array([1.0 + 1e-15, np.nan]))
    >>> try:
    ...     assert_close(np.array([1.0, 2.0]), np.array([1.1, 2.0]))
    ... except AssertionError as error:
    ...     print(str(error).partition(";")[0])
    result: 1 of 2 elements differ
    """
    for name, got, should in _arrays(actual, expected, what):
        if should.dtype.kind not in "fc":
            wrong, tolerance = got != should, 0.0
            difference = np.abs(got.astype(np.float64) - should.astype(np.float64))
        else:
            finite = np.isfinite(should)
            largest = np.abs(should[finite]).max(initial=0.0)
            tolerances = GRADIENT_TOLERANCES if gradient else TOLERANCES
            tolerance = factor * tolerances[np.dtype(dtype or got.dtype)] * float(largest)
            with np.errstate(invalid="ignore"):
                difference = np.abs(got - should)
            same = (got == should) | (np.isnan(got) & np.isnan(should))
            wrong = np.where(finite & np.isfinite(got), difference > tolerance, ~same)
        if wrong.any():
            ranked = np.where(wrong, np.nan_to_num(difference, nan=np.inf, posinf=np.inf), -1)
            worst = tuple(int(i) for i in np.unravel_index(np.argmax(ranked), wrong.shape))
            raise AssertionError(
                f"{name}: {wrong.sum()} of {wrong.size} elements differ; the largest difference is "
                f"{difference[worst]:.3g} at {worst}: {got[worst]} for {should[worst]}, tolerance {tolerance:.2g}")


def assert_same_bits(actual: Any, expected: Any, *, what: str = "result") -> None:
    """Raise AssertionError unless two results are the same to the bit, where -0 is not 0, and a NaN is one of many.

    Tuples are compared item by item; None equals None alone.

    Parameters
    ----------
    actual, expected : array, tuple of them, or None
        What came and what should have come.
    what : str
        How the message names the result.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.testing import assert_same_bits
    >>> assert_same_bits(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    >>> assert_same_bits(np.array([1.0, -0.0]), np.array([1.0, 0.0]))
    Traceback (most recent call last):
    ...
    AssertionError: result: 1 of 2 elements have other bits, the first at (1,): -0.0 for 0.0
    """
    for name, got, should in _arrays(actual, expected, what):
        if got.dtype != should.dtype:
            raise AssertionError(f"{name}: expected {should.dtype}, got {got.dtype}")
        bits = [np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8) for array in (got, should)]
        wrong = (bits[0] != bits[1]).any(axis=1).reshape(got.shape)
        if wrong.any():
            first = tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
            raise AssertionError(f"{name}: {wrong.sum()} of {wrong.size} elements have other bits, the first at "
                                 f"{first}: {got[first]} for {should[first]}")


def _arrays(actual: Any, expected: Any, what: str) -> Iterator[tuple[str, Array, Array]]:
    """Iterate over the arrays of two results with their names, each pair of one shape."""
    if isinstance(expected, tuple | list):
        if not isinstance(actual, tuple | list) or len(actual) != len(expected):
            raise AssertionError(f"{what}: expected {len(expected)} arrays, got {actual!r}")
        for index, (a, e) in enumerate(zip(actual, expected)):
            yield from _arrays(a, e, f"{what}[{index}]")
    elif expected is None or actual is None:
        if expected is not actual:
            raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")
    else:
        actual, expected = np.asarray(actual), np.asarray(expected)
        if actual.shape != expected.shape:
            raise AssertionError(f"{what}: expected shape {expected.shape}, got {actual.shape}")
        yield what, actual, expected


def assert_same_neighbors(actual: tuple[Array, Array], expected: tuple[Array, Array], *, tolerance: float) -> None:
    """Raise AssertionError unless two answers of `knn` agree, up to the order of points at almost equal distances.

    Parameters
    ----------
    actual, expected : (distances, indices), each of shape (M, k)
        What came and what should have come.
    tolerance : float
        Relative difference of distances that counts as none.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.testing import assert_same_neighbors
    >>> a = np.array([[1.0, 2.0, 2.0]]), np.array([[7, 3, 4]])
    >>> b = np.array([[1.0, 2.0, 2.0]]), np.array([[7, 4, 3]])
    >>> assert_same_neighbors(a, b, tolerance=1e-6)
    """
    (distances, indices), (true_distances, true_indices) = actual, expected
    np.testing.assert_allclose(distances, true_distances, rtol=tolerance, atol=0)
    for row, (got, should) in enumerate(zip(indices, true_indices)):
        for rank in np.flatnonzero(got != should):
            near = np.isclose(true_distances[row], true_distances[row, rank], rtol=2 * tolerance, atol=0)
            # The last group may go on beyond k, where any of its points may stand.
            if not near[-1] and got[rank] not in should[near]:
                raise AssertionError(f"query {row}, rank {rank}: expected point {should[rank]}, got {got[rank]}")
