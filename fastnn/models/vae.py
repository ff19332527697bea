"""A variational autoencoder of binary images."""

from __future__ import annotations

import numpy as np

from fastnn import kernels, random
from fastnn._checks import Array, as_array, as_int, check_shape
from fastnn.nn import Backward, Flatten, Linear, Module, Reparameterization, Sequential, Tanh, Variational, once
from fastnn.nn.init import xavier_normal
from fastnn.nn.module import beside

_AT_ONCE = 1 << 22                          # logits that are computed at once for a likelihood


class VAE(Module):
    """Encoder: linear, tanh, linear to the moments of the latent variables; decoder: linear, tanh, linear to logits.

    Kingma and Welling, "Auto-encoding variational Bayes" (arXiv:1312.6114), appendix C. Trained by `nn.ELBOLoss`.

    Parameters
    ----------
    in_features : int, default 196
        Features of an input, each 0 or 1 or between.
    hidden : int, default 128
        Units of the encoder's and of the decoder's hidden layer.
    latent : int, default 8
        Latent variables, which are N(0, 1) and independent beforehand.
    samples : int, default 1
        Draws of the latent variables for each input.
    seed : int, default 0
        What the initial weights are drawn from.

    Notes
    -----
    Takes inputs of shape (N, ...), in_features in all for each, and returns a `nn.Variational`: logits of shape
    (samples, N, in_features), and mean and log_variance of shape (N, latent). Backward takes one of gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import models, nn
    >>> model, x = models.VAE(samples=2), np.ones((3, 1, 14, 14), np.float32)
    >>> output, backward = model.forward(x)
    >>> output.logits.shape, output.mean.shape
    ((2, 3, 196), (3, 8))
    >>> loss, loss_backward = nn.ELBOLoss().forward(output, x)
    >>> backward(loss_backward()).shape
    (3, 1, 14, 14)
    >>> model.reconstruct(x).shape, model.decode(np.zeros((5, 8), np.float32)).max() < 1
    ((3, 196), np.True_)
    """

    def __init__(self, in_features: int = 196, hidden: int = 128, latent: int = 8, *, samples: int = 1,
                 seed: int = 0) -> None:
        self.in_features, self.latent = in_features, as_int("latent", latent, 1)
        with random.seeded(seed):
            self.encoder = Sequential(Flatten(), Linear(in_features, hidden, init=xavier_normal), Tanh(),
                                      Linear(hidden, 2 * latent, init=xavier_normal))
            self.reparameterization = Reparameterization(samples)
            self.decoder = Sequential(Linear(latent, hidden, init=xavier_normal), Tanh(),
                                      Linear(hidden, in_features, init=xavier_normal))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Variational, Backward]:
        moments, encoder_backward = self.encoder.forward(x, training=training)          # (N, 2 latent)
        mean, log_variance = moments[:, : self.latent], moments[:, self.latent :]
        z, z_backward = self.reparameterization.forward(mean, log_variance, training=training)   # (samples, N, latent)
        logits, decoder_backward = self.decoder.forward(z, training=training)           # (samples, N, in_features)

        @once
        def backward(grads: Variational, *, input_grad: bool = True) -> Array | None:
            by_z = z_backward(decoder_backward(grads.logits))
            # (N, latent) twice -> (N, 2 latent)
            grad_moments = np.concatenate([grads.mean + by_z[0], grads.log_variance + by_z[1]], axis=1)
            return encoder_backward(grad_moments, input_grad=input_grad)

        return Variational(logits, mean, log_variance), backward

    def encode(self, x: Array) -> tuple[Array, Array]:
        """Return mean and log-variance of the latent variables, given inputs: two arrays of shape (N, latent)."""
        moments = self.encoder(x)
        return moments[:, : self.latent], moments[:, self.latent :]

    def decode(self, z: Array) -> Array:
        """Return the probabilities that features are 1, given latent variables (..., latent): (..., in_features)."""
        return kernels.sigmoid(self.decoder(z))

    def reconstruct(self, x: Array) -> Array:
        """Return the probabilities of inputs' features at the mean of their latent variables: (N, in_features)."""
        return self.decode(self.encode(x)[0])

    def sample(self, n: int, *, seed: int = 0) -> Array:
        """Return the probabilities of n inputs whose latent variables are drawn from N(0, 1).

        The i-th depends on the seed and on i alone.

        Parameters
        ----------
        n : int
            How many.
        seed : int, default 0
            What they are drawn from.

        Returns
        -------
        array of shape (n, in_features)

        Examples
        --------
        >>> from fastnn import models
        >>> models.VAE().sample(4).shape
        (4, 196)
        """
        n, seed = as_int("n", n, 1), as_int("seed", seed, 0)
        z = np.stack([random.generator(seed, "prior", i).standard_normal(self.latent) for i in range(n)])
        return self.decode(self._beside_weights(z))

    def log_likelihood(self, x: Array, *, samples: int = 100, seed: int = 0) -> Array:
        """Estimate the log-likelihood of binary inputs by importance sampling, in nats.

        log of the mean over samples z ~ q(z | x) of p(x | z) p(z) / q(z | x): Burda, Grosse and Salakhutdinov,
        "Importance weighted autoencoders" (arXiv:1509.00519), equation 8. On average below the truth, to which it rises
        with the number of samples; with one it is the evidence lower bound.

        Parameters
        ----------
        x : array of shape (N, ...)
            Features, 0 or 1.
        samples : int, default 100
            Draws for each input.
        seed : int, default 0
            What they are drawn from.

        Returns
        -------
        NumPy float64 array of shape (N,)

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import models
        >>> model, x = models.VAE(4), np.array([[0.0, 1.0, 1.0, 0.0]], np.float32)
        >>> model.log_likelihood(x, samples=1000).shape
        (1,)
        """
        samples, seed = as_int("samples", samples, 1), as_int("seed", seed, 0)
        x = as_array("x", x)
        n, size = len(x), max(1, _AT_ONCE // (samples * self.in_features))
        parts = [self._log_likelihood(x[i : i + size], samples, random.generator(seed, "likelihood", i // size))
                 for i in range(0, n, size)]
        return np.concatenate([np.zeros(0), *parts])

    def _log_likelihood(self, x: Array, samples: int, rng: np.random.Generator) -> Array:
        mean, log_variance = self.encode(x)
        noise = rng.standard_normal((samples, *mean.shape))
        z = mean + np.exp(0.5 * log_variance) * self._beside_weights(noise)             # (samples, N, latent)
        logits = self.decoder(z)                                                        # (samples, N, in_features)
        truth = np.broadcast_to(x.reshape(1, len(x), -1), logits.shape)
        errors = kernels.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        # log p(x | z) + log p(z) - log q(z | x), of which the normal distributions' constants cancel.
        weights = 0.5 * (noise**2).sum(2) - kernels.to_host(
            errors.sum(2, dtype=np.float64) + 0.5 * ((z * z).sum(2) - log_variance.sum(1)))
        largest = weights.max(0)
        return largest + np.log(np.exp(weights - largest).mean(0))

    def interpolate(self, x: Array, y: Array, steps: int = 8) -> Array:
        """Return what lies between inputs: probabilities along the line between the means of their latent variables.

        Parameters
        ----------
        x, y : arrays of shape (N, ...)
            Where the lines begin and end.
        steps : int, default 8
            Points of a line, both ends among them.

        Returns
        -------
        array of shape (N, steps, in_features)

        Examples
        --------
        >>> import numpy as np
        >>> from fastnn import models
        >>> x = np.eye(2, 196, dtype=np.float32)
        >>> models.VAE().interpolate(x, 1 - x).shape
        (2, 8, 196)
        """
        begin, end = self.encode(x)[0], self.encode(y)[0]
        check_shape("y", y, np.shape(x))
        shares = self._beside_weights(np.linspace(0, 1, as_int("steps", steps, 2)))[:, None]
        return self.decode(begin[:, None] + shares * (end - begin)[:, None])           # (N, steps, latent) before

    def latent_map(self, side: int = 20) -> Array:
        """Return what a space of two latent variables holds: probabilities on a grid of points.

        The points are quantiles of N(0, 1), so that each stands for as many inputs: Kingma and Welling, figure 4.

        Parameters
        ----------
        side : int, default 20
            Points along each axis.

        Returns
        -------
        array of shape (side, side, in_features)
            A row for each value of the first variable, from below 0 to above.

        Raises
        ------
        ValueError
            If there are not two latent variables.

        Examples
        --------
        >>> from fastnn import models
        >>> models.VAE(latent=2).latent_map(5).shape
        (5, 5, 196)
        """
        from scipy.special import ndtri

        if self.latent != 2:
            raise ValueError(f"latent_map: expected a model of two latent variables, got one of {self.latent}")
        quantiles = ndtri((np.arange(as_int("side", side, 1)) + 0.5) / side)
        points = np.stack(np.meshgrid(quantiles, quantiles, indexing="ij"), axis=-1)    # (side, side, 2)
        return self.decode(self._beside_weights(points))

    def _beside_weights(self, array: Array) -> Array:
        """Return an array of the weights' dtype where they lie."""
        weight = next(self.decoder.parameters()).data
        return beside(weight, array.astype(weight.dtype))
