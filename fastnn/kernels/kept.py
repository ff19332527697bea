"""A weight as an algorithm reads it, kept from one call to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from fastnn._checks import Array
from fastnn.kernels._cpu.elementwise import same_bits

__all__ = ["KeptWeight"]


class KeptWeight:
    """What algorithms made of a weight, kept from one call to the next; see `conv2d` and `linear`.

    For Winograd's algorithm these are transformed filters, which take four times the memory of the filters, or less
    where those are 5 x 5. It knows the weight by a copy that it compares, so the weight may change between the calls.
    Threads may share it; copies and pickles of it are empty.

    Parameters
    ----------
    constant : bool
        Promise that an array once seen never changes. It is then known by identity, without a copy, and weights packed
        for matrix products are kept, too; to compare these would take about as long as to pack them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.ones((1, 32, 8, 8), np.float32), np.ones((32, 32, 3, 3), np.float32)
    >>> kept = kernels.KeptWeight()
    >>> [float(kernels.conv2d(x, weight, kept=kept)[0, 0, 0, 0]) for _ in range(2)]
    [288.0, 288.0]
    """

    def __init__(self, constant: bool = False) -> None:
        self.constant = constant
        self.last: tuple[Array, dict[Hashable, Array]] | None = None        # a weight, and what was made of it

    def made(self, weight: Array, form: Hashable, make: Callable[[Array], Array]) -> Array:
        """Return what `make` makes of a weight: what is kept of that form, if it is the same one."""
        last = self.last
        if last is None or not (last[0] is weight if self.constant else _same(last[0], weight)):
            own = weight
            if not self.constant:
                own = weight.copy()         # the other one may change meanwhile
                own.flags.writeable = False                     # no result may be written there
            last = self.last = own, {}
        made = last[1].get(form)
        if made is None:
            made = make(last[0])
            made.flags.writeable = False
            last[1][form] = made
        return made

    def __reduce__(self) -> tuple[type[KeptWeight], tuple[bool]]:
        """Leave out what was made, which fits this machine alone."""
        return KeptWeight, (self.constant,)


def check_kept(kept: KeptWeight | None) -> None:
    """Raise a TypeError for what keeps nothing."""
    if kept is not None and not isinstance(kept, KeptWeight):
        raise TypeError(f"kept: expected KeptWeight or None, got {type(kept).__name__}")


def _same(own: Array, weight: Array) -> bool:
    return own.shape == weight.shape and own.dtype == weight.dtype and same_bits(own, weight)
