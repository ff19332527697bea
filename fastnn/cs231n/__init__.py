"""Stanford CS231n's functions on fastnn's kernels: a notebook of the course runs by changing one import.

`from cs231n.layers import *` becomes `from fastnn.cs231n.layers import *`, and so for `fast_layers`, `layer_utils`,
`optim`, `gradient_check` and `classifiers`; all of their names are here, too. Names, argument lists, dicts and the
caches that the course documents are those of its assignments 1 and 2 (https://cs231n.github.io), as of 2018 and later.

Arrays may have any real dtype; as in NumPy, the widest one of a call is used. float64 and float32 are kept, integers
become float64. Shapes, keys and numbers that do not fit raise a TypeError or ValueError that names the argument, what
was expected and what came. Functions whose names end in `_naive` run plain loops, all others the compiled kernels.

Examples
--------
>>> import numpy as np
>>> from fastnn.cs231n import conv_forward_fast, conv_forward_naive
>>> x, w, b = np.ones((1, 3, 4, 4)), np.ones((2, 3, 3, 3)), np.array([0, 1])
>>> fast, _ = conv_forward_fast(x, w, b, {"stride": 1, "pad": 1})
>>> naive, _ = conv_forward_naive(x, w, b, {"stride": 1, "pad": 1})
>>> np.allclose(fast, naive)
True
"""

from __future__ import annotations

from fastnn.cs231n import classifiers, fast_layers, gradient_check, layer_utils, layers, optim

# Stars, since each module's __all__ says what the course's notebooks import by star from it.
from fastnn.cs231n.classifiers import *  # noqa: F403
from fastnn.cs231n.fast_layers import *  # noqa: F403
from fastnn.cs231n.gradient_check import *  # noqa: F403
from fastnn.cs231n.layer_utils import *  # noqa: F403
from fastnn.cs231n.layers import *  # noqa: F403
from fastnn.cs231n.optim import *  # noqa: F403

__all__ = [name for module in (layers, fast_layers, layer_utils, optim, gradient_check, classifiers)
           for name in module.__all__]
