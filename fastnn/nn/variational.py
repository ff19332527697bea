"""What a variational autoencoder adds to layers: samples that carry gradients, and the evidence lower bound."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastnn import kernels, random
from fastnn._checks import Array, as_float, as_floats, as_int, check_not_empty, check_rank, check_shape
from fastnn.nn.module import Backward, Module, beside, once, state_lock


class Reparameterization(Module):
    """Draw from normal distributions, so that gradients by the samples reach the means and variances.

    z = mean + exp(log_variance / 2) noise, with noise from N(0, 1): Kingma and Welling, "Auto-encoding variational
    Bayes" (arXiv:1312.6114), section 2.4. Samples are drawn in inference as in training. Inside
    `fastnn.random.at_step`, as in the trainer, the noise depends on the step, so that a resumed run draws the same
    bits; elsewhere on the layer and on how often it was called. It has the same bits on a GPU as on the host.

    Parameters
    ----------
    samples : int
        Draws from each distribution.

    Notes
    -----
    Takes means and logarithms of variances of shape (N, D), and returns samples of shape (samples, N, D).

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> layer, mean, log_variance = nn.Reparameterization(2), np.zeros((3, 4)), np.zeros((3, 4))
    >>> z, backward = layer.forward(mean, log_variance)
    >>> grad_mean, grad_log_variance = backward(np.ones_like(z))
    >>> z.shape, np.allclose(grad_log_variance, 0.5 * z.sum(0))
    ((2, 3, 4), True)
    """

    def __init__(self, samples: int = 1) -> None:
        self.samples = as_int("samples", samples, 1)
        self._seed, self._layer = random.next_layer()
        self._calls = 0

    def forward(self, mean: Array, log_variance: Array, *, training: bool = True) -> tuple[Array, Backward]:
        mean, log_variance = as_floats(mean=mean, log_variance=log_variance)
        check_rank("mean", mean, 2, layout="(N, D)")
        check_shape("log_variance", log_variance, mean.shape)
        seed, *counters = random.next_draw(self._next_call)
        noise = random.generator(seed, "reparameterization", *counters).standard_normal((self.samples, *mean.shape))
        with np.errstate(over="ignore", invalid="ignore"):      # what is not finite is an answer, as from kernels
            spread = np.exp(0.5 * log_variance) * beside(mean, noise.astype(mean.dtype))

        @once
        def backward(grad_z: Array, *, input_grad: bool = True) -> tuple[Array | None, Array | None]:
            check_shape("grad_z", grad_z, spread.shape)
            return (grad_z.sum(0), 0.5 * (grad_z * spread).sum(0)) if input_grad else (None, None)

        return mean + spread, backward

    def _next_call(self) -> tuple[int, ...]:
        with state_lock:
            self._calls += 1
            return self._seed, self._layer, self._calls


class GaussianKLLoss(Module):
    """Mean over N of the divergence KL(N(mean, variance) || N(0, 1)), summed over the D independent elements.

    1/2 (mean^2 + variance - 1 - log variance) of each element: Kingma and Welling (arXiv:1312.6114), appendix B.

    Notes
    -----
    `forward(mean, log_variance)`, arrays of shape (N, D), returns the divergence in nats and a backward that gives the
    gradients by both.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> divergence, backward = nn.GaussianKLLoss().forward(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))
    >>> divergence, backward()[0]
    (np.float64(0.5), array([[1., 0.]]))
    """

    def forward(self, mean: Array, log_variance: Array, *, training: bool = True) -> tuple[Any, Backward]:
        mean, log_variance = as_floats(mean=mean, log_variance=log_variance)
        check_rank("mean", mean, 2, layout="(N, D)")
        check_shape("log_variance", log_variance, mean.shape)
        check_not_empty("mean", mean)
        n = len(mean)
        with np.errstate(over="ignore", invalid="ignore"):      # what is not finite is an answer, as from kernels
            excess = np.expm1(log_variance)                     # near 0 variance - 1 would lose its digits
            total = (mean * mean + (excess - log_variance)).sum(dtype=np.float64)

        @once
        def backward(grad: float = 1.0) -> tuple[Array, Array]:
            scale = mean.dtype.type(grad / n)
            return scale * mean, (scale / 2) * excess

        return (total / (2 * n)).astype(mean.dtype), backward


class Variational(NamedTuple):
    """What a variational autoencoder with a Bernoulli decoder says of N inputs; its gradients come as one, too.

    Attributes
    ----------
    logits : array of shape (samples, N, features)
        Of the probability that a feature is 1, for each sample of the latent variables.
    mean, log_variance : arrays of shape (N, latent)
        Of the latent variables, given the input.
    """

    logits: Any
    mean: Any
    log_variance: Any


class ELBOLoss(Module):
    """The negative evidence lower bound of binary data, in nats: reconstruction error + beta KL divergence.

    Kingma and Welling, "Auto-encoding variational Bayes" (arXiv:1312.6114), equation 10. The reconstruction error is
    the cross-entropy of each input's features under the decoder's probabilities, summed over the features, and its mean
    over samples and inputs; the other term is `GaussianKLLoss`. The negative of the loss is, with beta 1, a lower bound
    of the mean log-likelihood of the inputs.

    Parameters
    ----------
    beta : float
        The weight of the divergence; Higgins and others, "beta-VAE" (ICLR 2017).

    Notes
    -----
    `forward(output, targets)` takes a `Variational` and targets from 0 to 1 of shape (N, ...), features in all for each
    input. Its backward returns a `Variational` of gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import nn
    >>> output = nn.Variational(np.zeros((2, 1, 3)), np.array([[1.0]]), np.array([[0.0]]))
    >>> criterion = nn.ELBOLoss()
    >>> loss, backward = criterion.forward(output, np.array([[0.0, 1.0, 1.0]]))
    >>> loss.round(4), [float(term.round(4)) for term in criterion.terms]
    (np.float64(2.5794), [2.0794, 0.5])
    >>> backward().mean
    array([[1.]])
    """

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = as_float("beta", beta, 0)
        self._terms: tuple[Any, Any] | None = None

    @property
    def terms(self) -> tuple[Any, Any] | None:
        """Reconstruction error and divergence of the last forward pass, for those who log them; None before it."""
        return self._terms

    def forward(self, output: Variational, targets: Array, *, training: bool = True) -> tuple[Any, Backward]:
        logits, mean, log_variance = output
        logits, targets = as_floats(logits=logits, targets=targets)
        check_rank("logits", logits, 3, layout="(samples, N, features)")
        check_not_empty("logits", logits)
        samples, n, features = logits.shape
        if targets.shape[:1] != (n,) or targets.size != n * features:
            raise ValueError(f"targets: expected {n} of {features} features each, got shape {targets.shape}")
        truth = np.broadcast_to(targets.reshape(n, features), logits.shape).reshape(-1, features)
        rows, count = logits.reshape(-1, features), samples * n
        reconstruction = kernels.binary_cross_entropy_with_logits(rows, truth) * features       # the mean of all
        divergence, divergence_backward = GaussianKLLoss().forward(mean, log_variance)
        beta = self.beta
        self._terms = reconstruction, divergence

        @once
        def backward(grad: float = 1.0) -> Variational:
            grad_rows = kernels.binary_cross_entropy_with_logits_backward(grad / count, rows, truth, reduction="sum")
            return Variational(grad_rows.reshape(logits.shape), *divergence_backward(grad * beta))

        return reconstruction + beta * divergence, backward
