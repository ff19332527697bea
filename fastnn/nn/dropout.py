"""Dropout."""

from __future__ import annotations

import numpy as np

from fastnn import _device, kernels, random
from fastnn._checks import Array, as_array, as_float, check_shape
from fastnn.kernels.activation import dropout_mask
from fastnn.nn.module import Backward, Module, once, state_lock


class Dropout(Module):
    """Set each element to 0 with probability p in training, and scale the others by 1 / (1 - p).

    Srivastava and others, "Dropout" (JMLR 15, 2014), in the inverted form: inference changes nothing. Inside
    `fastnn.random.at_step`, as in the trainer, the mask depends on the step and on how many masks were drawn in it
    before, so that a resumed run draws the same bits. Elsewhere it depends on the layer and on how often it was called.
    Masks have the same bits on a GPU as on the host.

    Parameters
    ----------
    p : float
        The probability, from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer = nn.Dropout(0.25)
    >>> y, backward = layer.forward(np.ones(1000), training=True)
    >>> np.unique(y).round(4), abs(y.mean() - 1) < 0.1
    (array([0.    , 1.3333]), np.True_)
    >>> (layer(np.ones(1000)) == 1).all()
    np.True_
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = as_float("p", p, 0, 1)
        self._seed, self._layer = random.next_layer()
        self._calls = 0

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        p = self.p if training else 0.0
        x = as_array("x", x)
        shape = x.shape
        mask = self._mask(x) if p else None

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array | None:
            check_shape("grad_y", grad_y, shape)
            if not input_grad:
                return None
            return grad_y if mask is None else kernels.dropout_backward(grad_y, mask, p)

        return x if mask is None else kernels.dropout(x, mask, p), backward

    def _mask(self, x: Array) -> Array:
        # In a step the layer's own number plays no part: no checkpoint holds it, and a copy has the same.
        seed, *counters = random.next_draw(self._next_call)
        rng = random.generator(seed, "dropout", *counters)
        if not _device.is_device(x):
            return rng.random(x.shape, np.float32) >= self.p
        return dropout_mask(x, rng.bit_generator, self.p)

    def _next_call(self) -> tuple[int, ...]:
        with state_lock:
            self._calls += 1
            return self._seed, self._layer, self._calls
