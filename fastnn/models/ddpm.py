"""Diffusion: images that turn into noise step by step, and a network by which noise turns into images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastnn import kernels, random
from fastnn._checks import Array, as_array, as_float, as_int, check_choice, check_shape, is_sequence
from fastnn.nn import Backward, Module
from fastnn.nn.module import beside

Schedule: TypeAlias = Literal["linear", "cosine"]

_AT_ONCE = 100                              # images that are drawn at once


class Denoised(NamedTuple):
    """Where a walk from noise to images stands: the time step that it has reached, -1 at the end.

    `images` are as noisy as that step has them, `guess` what the network took for the images without noise.
    """

    time: int
    images: Array
    guess: Array


class DDPM(Module):
    """A denoising diffusion model: a network that is trained to find the noise in an image, and draws images by it.

    Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (arXiv:2006.11239). An image x_0 becomes, at time
    step t from 0 to timesteps - 1, x_t = sqrt(signal_t) x_0 + sqrt(1 - signal_t) noise (equation 4; signal is their
    alpha-bar). The network finds the noise in x_t, and is trained by the mean square of its error (equation 14): a
    loader with ``transform=data.Normalize(0.5, 0.5)`` and ``batch_transform=model.noised`` gives the trainer x_t and t
    as inputs and the noise as target of `nn.MSELoss`.

    Parameters
    ----------
    model : Module
        The network, such as a `UNet`: ``forward(x, t)`` takes images (N, C, H, W) and integers (N,), and returns an
        array of x's shape.
    timesteps : int, default 1000
        Steps from an image to noise, at least 2.
    schedule : {"linear", "cosine"}, default "linear"
        How the noise grows: its share in a step along a line, from 1e-4 to 0.02 of 1,000 steps and in proportion more
        of fewer; or so that the signal falls along a cosine, with which less of the time is spent near pure noise
        (Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, equation 17).

    Attributes
    ----------
    signal : float64 array of shape (timesteps,)
        The share of the image in the variance of x_t; it falls.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import data, models, nn, optim, training
    >>> model = models.DDPM(models.UNet(width=8, multipliers=(1, 2)), timesteps=100)
    >>> loader = data.DataLoader((data.digits().train.images[:64],), 32, transform=data.Normalize(0.5, 0.5, 16),
    ...                          batch_transform=model.noised)
    >>> trainer = training.Trainer(model, nn.MSELoss(), optim.AdamW(model.parameters(), 1e-3), progress=False)
    >>> history = trainer.fit(loader, epochs=1)
    >>> model.sample(2, (1, 8, 8), steps=5).shape
    (2, 1, 8, 8)
    """

    def __init__(self, model: Module, timesteps: int = 1000, schedule: Schedule = "linear") -> None:
        if not isinstance(model, Module):
            raise TypeError(f"model: expected a Module, got {type(model).__name__}")
        check_choice("schedule", schedule, ("linear", "cosine"))
        self.model, self.timesteps, self.schedule = model, as_int("timesteps", timesteps, 2), schedule
        self.signal = _linear(timesteps) if schedule == "linear" else _cosine(timesteps)

    def forward(self, x: Array, time: Array, *, training: bool = True) -> tuple[Array, Backward]:
        return self.model.forward(x, time, training=training)

    def add_noise(self, images: NDArray[np.floating], time: NDArray[np.integer],
                  noise: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return images as they are at time steps: x_t, in which there is so much of the noise.

        Parameters
        ----------
        images, noise : ndarrays of shape (N, C, H, W)
            x_0, with values from -1 to 1, and noise from N(0, 1).
        time : ndarray of integers, shape (N,)
            Time steps, from 0 to timesteps - 1.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import models
        >>> model, x = models.DDPM(models.UNet()), np.ones((2, 1, 1, 1))
        >>> model.add_noise(x, np.array([0, 999]), 0 * x).ravel().round(3)
        array([1.   , 0.006])
        """
        images, noise, time = as_array("images", images), as_array("noise", noise), as_array("time", time)
        check_shape("noise", noise, images.shape)
        check_shape("time", time, (len(images),))
        if time.dtype.kind not in "iu":
            raise TypeError(f"time: expected integers, got {time.dtype}")
        if time.size and not 0 <= time.min() <= time.max() < self.timesteps:
            raise ValueError(f"time: expected steps from 0 to {self.timesteps - 1}, got {time.min()} to {time.max()}")
        signal = self.signal[time].reshape(-1, 1, 1, 1)                                 # (N,) -> (N, 1, 1, 1)
        return np.sqrt(signal).astype(images.dtype) * images + np.sqrt(1 - signal).astype(images.dtype) * noise

    def noised(self, batch: tuple[NDArray[np.floating], ...],
               rng: np.random.Generator) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.floating]]:
        """Return (x_t, t, noise) of a batch of images (x_0,), each at a time step of its own: for a loader.

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import models, random
        >>> model = models.DDPM(models.UNet())
        >>> x, time, noise = model.noised((np.zeros((2, 1, 4, 4), np.float32),), random.generator(0, "mix"))
        >>> x.shape, time.shape, noise.dtype
        ((2, 1, 4, 4), (2,), dtype('float32'))
        """
        (images,) = batch
        time = rng.integers(0, self.timesteps, len(images))
        noise = rng.standard_normal(images.shape).astype(images.dtype)
        return self.add_noise(images, time, noise), time, noise

    def sample(self, n: int, shape: Sequence[int], *, steps: int | None = None, eta: float | None = None,
               seed: int = 0) -> NDArray[np.floating]:
        """Draw images: from noise, by the network, step by step.

        With all steps as Ho and others do (algorithm 2, with the variance of equation 7). With fewer as Song, Meng and
        Ermon do, "Denoising diffusion implicit models" (arXiv:2010.02502), equation 12: some 50 do for images nearly as
        good. The i-th image depends on the seed and on i alone.

        Parameters
        ----------
        n : int
            How many.
        shape : sequence of ints
            Shape of an image: (C, H, W).
        steps : int, optional
            Time steps that are visited, evenly spread, from 1 to all; all where not given. So many as there are is not
            the same: with a number of steps, eta is 0 where it is not given.
        eta : float, optional
            How much noise each step adds, from 0, with which the first noise alone decides about the image, to 1, with
            which all steps together are DDPM; 1 where `steps` is not given, else 0.
        seed : int, default 0
            What the noise is drawn from.

        Returns
        -------
        NumPy array of shape (n, C, H, W)
            With values from -1 to 1.

        Examples
        --------
        >>> from fastnn import models
        >>> model = models.DDPM(models.UNet(width=8, multipliers=(1,)), timesteps=10)
        >>> images = model.sample(3, (1, 4, 4), seed=1)
        >>> images.shape, bool(abs(images).max() <= 1)
        ((3, 1, 4, 4), True)
        """
        n, seed = as_int("n", n, 1), as_int("seed", seed, 0)
        parts = []
        for start in range(0, n, _AT_ONCE):
            for walk in self.denoise(range(start, min(n, start + _AT_ONCE)), shape, steps=steps, eta=eta, seed=seed):
                images = walk.images
            parts.append(kernels.to_host(images))
        return np.concatenate(parts)

    def denoise(self, numbers: Sequence[int], shape: Sequence[int], *, steps: int | None = None,
                eta: float | None = None, seed: int = 0) -> Iterator[Denoised]:
        """Walk from noise to images, and say after each step where the walk stands; see `sample`.

        Parameters
        ----------
        numbers : sequence of ints
            Which of the images that `sample` draws.
        shape, steps, eta, seed
            As for `sample`.

        Yields
        ------
        Denoised

        Examples
        --------
        >>> from fastnn import models
        >>> model = models.DDPM(models.UNet(width=8, multipliers=(1,)), timesteps=10)
        >>> [walk.time for walk in model.denoise([0], (1, 4, 4), steps=4)]
        [6, 3, 0, -1]
        """
        if not is_sequence(shape):
            raise TypeError(f"shape: expected that of an image, such as (1, 28, 28), got {shape!r:.100}")
        sizes = tuple([as_int("shape", size, 1) for size in shape])
        times, seed = self.times(steps), as_int("seed", seed, 0)
        eta = as_float("eta", (1.0 if steps is None else 0.0) if eta is None else eta, 0, 1)
        rngs = [random.generator(seed, "diffusion", as_int("numbers", number, 0)) for number in numbers]
        if not rngs:
            raise ValueError("numbers: expected one image at least, got none")
        return self._walk_down(rngs, sizes, times, eta)

    def times(self, steps: int | None = None) -> list[int]:
        """Return the time steps that so many steps visit, from the noisiest to 0; all for None.

        Examples
        --------
        >>> from fastnn import models
        >>> models.DDPM(models.UNet(), timesteps=10).times(4)
        [9, 6, 3, 0]
        """
        if steps is None:
            return list(range(self.timesteps))[::-1]
        if as_int("steps", steps, 1) > self.timesteps:
            raise ValueError(f"steps: expected at most the model's {self.timesteps} time steps, got {steps}")
        return [round(time) for time in np.linspace(self.timesteps - 1, 0, steps).tolist()]

    def _walk_down(self, rngs: Sequence[np.random.Generator], shape: tuple[int, ...], times: list[int],
                   eta: float) -> Iterator[Denoised]:
        weight = next((parameter.data for parameter in self.model.parameters()), np.zeros(0, np.float32))

        def drawn() -> Array:
            return beside(weight, np.stack([rng.standard_normal(shape) for rng in rngs]).astype(weight.dtype))

        x = drawn()
        for time, following in zip(times, [*times[1:], -1]):
            signal, next_signal = (float(self.signal[t]) if t >= 0 else 1.0 for t in (time, following))
            noise = self.model(x, beside(weight, np.full(len(x), time)))
            guess = np.clip((x - (1 - signal) ** 0.5 * noise) / signal**0.5, -1, 1)
            noise = (x - signal**0.5 * guess) / (1 - signal) ** 0.5         # that in x, if the guess is right
            added = eta**2 * (1 - next_signal) / (1 - signal) * (1 - signal / next_signal)      # a variance
            x = next_signal**0.5 * guess + (1 - next_signal - added) ** 0.5 * noise
            if added:
                x += added**0.5 * drawn()
            yield Denoised(following, x, guess)


def _linear(timesteps: int) -> NDArray[np.float64]:
    betas = np.linspace(1e-4, 0.02, timesteps) * (1000 / timesteps)
    return np.cumprod(1 - np.minimum(betas, 0.999))


def _cosine(timesteps: int) -> NDArray[np.float64]:
    wave = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - wave[1:] / wave[:-1], 0.999))
