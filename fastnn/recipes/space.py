"""What a sweep searches: for each option, a range of numbers or a tuple of choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Range:
    """An interval of numbers, or of integers if both ends are integers.

    Parameters
    ----------
    low, high : float
        The ends, both included.
    log : bool, default False
        Draw the number on a logarithmic scale, as is usual for learning rates.

    Raises
    ------
    ValueError
        If `low` is not below `high`, or not above 0 on a logarithmic scale.

    Examples
    --------
    >>> from fastnn import recipes
    >>> recipes.Range(1e-4, 1e-2, log=True).draws_integers
    False
    >>> print(recipes.Range(2, 5))
    2 to 5
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low: expected a number below high, {self.high}, got {self.low}")
        if self.log and not self.low > 0:
            raise ValueError(f"low: expected a number above 0 on a logarithmic scale, got {self.low}")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (" (logarithmic)" if self.log else "")

    @property
    def draws_integers(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space: TypeAlias = Mapping[str, Range | tuple[Any, ...]]
