"""A small UNet for diffusion: from a noisy image and its time step to the noise in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastnn import kernels, random
from fastnn._checks import Array, as_array, as_floats, as_int, check_rank, is_sequence
from fastnn.nn import (
    Backward,
    Conv2d,
    GroupNorm,
    Identity,
    Linear,
    Module,
    MultiheadAttention,
    Sequential,
    SiLU,
    SinusoidalEmbedding,
    Upsample,
    once,
)
from fastnn.nn.init import zeros
from fastnn.nn.module import beside


class TimedBlock(Module):
    """shortcut(x) + two 3x3 convolutions of x, each after group normalization and SiLU.

    Between them the time shifts each channel. The second one starts at 0, so that the block starts as its shortcut.
    """

    def __init__(self, in_channels: int, channels: int, time_features: int, groups: int) -> None:
        self.body1 = Sequential({"norm": GroupNorm(groups, in_channels), "act": SiLU(),
                                 "conv": Conv2d(in_channels, channels, 3, padding=1)})
        self.shift = Linear(time_features, channels)
        self.body2 = Sequential({"norm": GroupNorm(groups, channels), "act": SiLU(),
                                 "conv": Conv2d(channels, channels, 3, padding=1, init=zeros)})
        self.shortcut = Identity() if in_channels == channels else Conv2d(in_channels, channels, 1)

    def forward(self, x: Array, time: Array, *, training: bool = True) -> tuple[Array, Backward]:
        h, body1_backward = self.body1.forward(x, training=training)
        shift, shift_backward = self.shift.forward(time, training=training)
        # (N, C) -> (N, C, 1, 1); the sum may be in place, since nobody keeps the result of a convolution.
        h += shift[:, :, None, None]
        h, body2_backward = self.body2.forward(h, training=training)
        s, shortcut_backward = self.shortcut.forward(x, training=training)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> tuple[Array, Array]:
            grad_h = body2_backward(grad_y)
            grad_time = shift_backward(grad_h.sum((2, 3)))
            return kernels.add(body1_backward(grad_h), shortcut_backward(grad_y)), grad_time

        return kernels.add(h, s), backward


class PixelAttention(Module):
    """x + attention of all pixels of x to each other, after group normalization; heads have 32 channels if they can."""

    def __init__(self, channels: int, groups: int) -> None:
        self.norm = GroupNorm(groups, channels)
        self.attention = MultiheadAttention(channels, channels // 32 if channels % 32 == 0 else 1)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        n, c, height, width = x.shape
        h, norm_backward = self.norm.forward(x, training=training)
        # (N, C, H, W) -> (N, H W, C), and back
        rows = as_array("x", h.reshape(n, c, height * width).swapaxes(1, 2))
        rows, attention_backward = self.attention.forward(rows, training=training)
        h = as_array("x", rows.swapaxes(1, 2)).reshape(x.shape)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> Array:
            # the same way
            grad_rows = as_array("grad_y", grad_y.reshape(n, c, height * width).swapaxes(1, 2))
            grad_h = as_array("grad_y", attention_backward(grad_rows).swapaxes(1, 2)).reshape(n, c, height, width)
            return kernels.add(norm_backward(grad_h), grad_y)

        return kernels.add(h, x), backward


class UNet(Module):
    """A network of a diffusion: down to small images of many channels and up again, with ways across at each size.

    Ronneberger, Fischer and Brox, "U-Net" (arXiv:1505.04597), with the blocks and the embedding of the time step of Ho,
    Jain and Abbeel, "Denoising diffusion probabilistic models" (arXiv:2006.11239), appendix B. The time step, as sines
    and cosines through two linear layers, reaches every block at every size. Images are halved by strided convolutions
    and doubled by a 1x1 convolution and repeating pixels.

    Parameters
    ----------
    in_channels : int, default 1
        Channels of an image, and of the result.
    width : int, default 32
        Channels at full size, a multiple of `groups`.
    multipliers : sequence of ints, default (1, 2, 2)
        How many times as many channels there are at each size, from the full one to the smallest.
    attention : bool, default True
        Whether the pixels of the smallest size attend to each other.
    groups : int, default 8
        Groups of channels that are normalized.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    `forward(x, time)` takes images (N, in_channels, H, W), whose sides are multiples of 2 to the power of the halvings,
    and numbers (N,), the time steps; 0 for all where they are not given. It returns an array of x's shape. The last
    convolution starts at 0. With the defaults there are 0.72 M parameters and, for 28 x 28 pixels, 95 M multiply-adds.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models
    >>> model = models.UNet(width=8, multipliers=(1, 2))
    >>> model(np.ones((3, 1, 8, 8), np.float32), np.array([0, 10, 99])).shape
    (3, 1, 8, 8)
    """

    def __init__(self, in_channels: int = 1, width: int = 32, multipliers: Sequence[int] = (1, 2, 2), *,
                 attention: bool = True, groups: int = 8, seed: int = 0) -> None:
        width, groups = as_int("width", width, 1), as_int("groups", groups, 1)
        if not is_sequence(multipliers) or not len(multipliers):
            raise TypeError(f"multipliers: expected a sequence of integers, one a size, got {multipliers!r:.100}")
        if width % groups:
            raise ValueError(f"width: expected a multiple of groups = {groups}, got {width}")
        self.in_channels, self.halvings = as_int("in_channels", in_channels, 1), len(multipliers) - 1
        channels = [width * as_int("multipliers", multiplier, 1) for multiplier in multipliers]
        features = 4 * width
        with random.seeded(seed):
            # In float64, which is rounded to the images' dtype.
            waves = SinusoidalEmbedding(width + width % 2, dtype=np.float64)
            self.time = Sequential(waves, Linear(waves.embedding_dim, features), SiLU(), Linear(features, features),
                                   SiLU())
            self.conv_in = Conv2d(in_channels, width, 3, padding=1)
            befores = [width, *channels[:-1]]
            self.down = [TimedBlock(before, after, features, groups) for before, after in zip(befores, channels)]
            self.downsample = [Conv2d(count, count, 3, stride=2, padding=1) for count in channels[:-1]]
            lowest = channels[-1]
            self.middle1 = TimedBlock(lowest, lowest, features, groups)
            self.attention = PixelAttention(lowest, groups) if attention else Identity()
            self.middle2 = TimedBlock(lowest, lowest, features, groups)
            # From the smallest size up; what comes across is put beside what comes from below, of as many channels.
            self.up = [TimedBlock(2 * count, count, features, groups) for count in reversed(channels)]
            self.upsample = [Sequential({"conv": Conv2d(below, count, 1), "resize": Upsample(scale_factor=2)})
                           for below, count in zip(channels[:0:-1], channels[-2::-1])]
            self.out = Sequential({"norm": GroupNorm(groups, width * multipliers[0]), "act": SiLU(), "conv": Conv2d(
                width * multipliers[0], in_channels, 3, padding=1, init=zeros)})

    def forward(self, x: Array, time: Array | None = None, *, training: bool = True) -> tuple[Array, Backward]:
        (x,) = as_floats(x=x)
        check_rank("x", x, 4, layout="(N, C, H, W)")
        n, c, height, width = x.shape
        multiple = 2**self.halvings
        if c != self.in_channels or height % multiple or width % multiple:
            raise ValueError(f"x: expected shape (N, {self.in_channels}, H, W) with H and W multiples of {multiple}, "
                             f"got {x.shape}")
        time = beside(x, np.zeros(n)) if time is None else as_array("time", time)
        if time.shape != (n,):
            raise ValueError(f"time: expected a number for each of the {n} images, got shape {time.shape}")

        embedded, time_backward = self._embedded(time, x, training)
        h, in_backward = self.conv_in.forward(x, training=training)
        across: list[Array] = []
        downs: list[Backward] = []
        halves: list[Backward] = []
        ups: list[Backward] = []
        doubles: list[Backward] = []
        for size, block in enumerate(self.down):
            h, back = block.forward(h, embedded, training=training)
            downs.append(back)
            across.append(h)
            if size < self.halvings:
                h, back = self.downsample[size].forward(h, training=training)
                halves.append(back)
        h, middle1_backward = self.middle1.forward(h, embedded, training=training)
        h, attention_backward = self.attention.forward(h, training=training)
        h, middle2_backward = self.middle2.forward(h, embedded, training=training)
        for size, block in enumerate(self.up):
            if size:
                h, back = self.upsample[size - 1].forward(h, training=training)
                doubles.append(back)
            h = np.concatenate([h, across.pop()], axis=1)           # (N, C, H, W) twice -> (N, 2 C, H, W)
            h, back = block.forward(h, embedded, training=training)
            ups.append(back)
        y, out_backward = self.out.forward(h, training=training)

        @once
        def backward(grad_y: Array, *, input_grad: bool = True) -> tuple[Array | None, None]:
            grad = out_backward(grad_y)
            by_time: list[Array] = []
            grads_across: list[Array] = []

            def through(back: Backward) -> None:
                nonlocal grad
                grad, grad_time = back(grad)
                by_time.append(grad_time)

            while ups:
                through(ups.pop())
                cut = grad.shape[1] // 2
                grads_across.append(grad[:, cut:])
                grad = as_array("grad_y", grad[:, :cut])
                if doubles:
                    grad = doubles.pop()(grad)
            through(middle2_backward)
            grad = attention_backward(grad)
            through(middle1_backward)
            while downs:
                if len(halves) == len(downs):
                    grad = halves.pop()(grad)
                grad += grads_across.pop()      # in place, as a block or a convolution has just made it
                through(downs.pop())
            time_backward(sum(by_time), input_grad=False)
            return in_backward(grad, input_grad=input_grad), None

        return y, backward

    def _embedded(self, time: Array, x: Array, training: bool) -> tuple[Array, Backward]:
        """Return the features (N, 4 width) of time steps, in the dtype of x."""
        waves, layers = self.time[0], self.time[1:]
        return layers.forward(waves(time).astype(x.dtype, copy=False), training=training)
