"""Filters as Winograd's convolution reads them, kept from one call to the next."""

from __future__ import annotations

from collections.abc import Callable

from fastnn._checks import Array
from fastnn.kernels._cpu.elementwise import same_bits


class KeptFilters:
    """What a convolution's algorithm made of filters, kept from one call to the next; see `conv2d`.

    It holds a copy of the filters to know them by, and them transformed, which takes four times their memory or less
    where there are many. Threads may share it; copies and pickles of it are empty.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, weight = np.ones((1, 32, 8, 8), np.float32), np.ones((32, 32, 3, 3), np.float32)
    >>> kept = kernels.KeptFilters()
    >>> [float(kernels.conv2d(x, weight, kept=kept)[0, 0, 0, 0]) for _ in range(2)]
    [288.0, 288.0]
    """

    def __init__(self) -> None:
        self.last: tuple[Array, Array] | None = None            # filters, and what was made of them

    def transformed(self, weight: Array, transform: Callable[[Array], Array]) -> Array:
        """Return what `transform` makes of filters: what is kept, if they are of the same bits."""
        last = self.last
        if (last is None or last[0].shape != weight.shape or last[0].dtype != weight.dtype
                or not same_bits(last[0], weight)):
            own = weight.copy()             # the other one may change meanwhile
            made = transform(own)
            own.flags.writeable = made.flags.writeable = False          # no result may be written there
            last = self.last = own, made
        return last[1]

    def __reduce__(self) -> tuple[type[KeptFilters], tuple[()]]:
        """Leave out the transformed filters, which fit this machine alone."""
        return KeptFilters, ()
