"""Samples that carry gradients, and the terms of the evidence lower bound."""

from __future__ import annotations

import numpy as np
import pytest

from fastnn import nn, random

RNG = np.random.default_rng(0)
MEAN, LOG_VARIANCE = RNG.standard_normal((2, 5, 3))


def test_samples_have_the_mean_and_variance_that_is_asked_for() -> None:
    z, _ = nn.Reparameterization(40_000).forward(MEAN, LOG_VARIANCE, training=False)    # drawn in inference, too
    np.testing.assert_allclose(z.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(z.var(0), np.exp(LOG_VARIANCE), rtol=0.05)


def test_a_step_decides_what_is_drawn() -> None:
    layer, other = nn.Reparameterization(2), nn.Reparameterization(2)

    def drawn(layer: nn.Module, *step: int) -> np.ndarray:
        with random.at_step(*step):
            return layer.forward(MEAN, LOG_VARIANCE)[0]

    np.testing.assert_array_equal(drawn(layer, 0, 1, 2), drawn(other, 0, 1, 2))
    assert (drawn(layer, 0, 1, 2) != drawn(layer, 0, 1, 3)).all()
    assert (layer(MEAN, LOG_VARIANCE) != layer(MEAN, LOG_VARIANCE)).all()
    assert layer(*np.float32([MEAN, LOG_VARIANCE])).dtype == np.float32
    assert np.isinf(layer(MEAN, LOG_VARIANCE + 2e3)).all()              # without a warning


def test_the_divergence_from_the_prior() -> None:
    divergence = nn.GaussianKLLoss()(MEAN, LOG_VARIANCE)
    formula = 0.5 * (MEAN**2 + np.exp(LOG_VARIANCE) - 1 - LOG_VARIANCE).sum(1).mean()
    np.testing.assert_allclose(divergence, formula, rtol=1e-12)
    zeros = np.zeros((2, 3), np.float32)
    assert nn.GaussianKLLoss()(zeros, zeros) == 0
    tiny = np.full((1, 1), 1e-12)
    by_log_variance = nn.GaussianKLLoss().forward(0 * tiny, tiny)[1]()[1]
    np.testing.assert_allclose(by_log_variance, 0.5e-12, rtol=1e-9)             # 1 - exp would leave four digits
    assert np.isinf(nn.GaussianKLLoss()(zeros, zeros + 1e3))


def test_the_bound_is_the_sum_of_its_terms() -> None:
    logits, targets = RNG.standard_normal((2, 5, 4)), RNG.integers(0, 2, (5, 2, 2)).astype(float)
    criterion = nn.ELBOLoss(beta=3)
    assert criterion.terms is None
    loss, backward = criterion.forward(nn.Variational(logits, MEAN, LOG_VARIANCE), targets)
    likely = 1 / (1 + np.exp(-logits * (2 * targets.reshape(5, 4) - 1)))
    assert criterion.terms is not None
    divergence = nn.GaussianKLLoss()(MEAN, LOG_VARIANCE)
    np.testing.assert_allclose(criterion.terms, [-np.log(likely).sum(2).mean(), divergence])
    np.testing.assert_allclose(loss, criterion.terms[0] + 3 * criterion.terms[1])
    assert [grad.shape for grad in backward()] == [logits.shape, MEAN.shape, MEAN.shape]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: nn.Reparameterization(0), "samples: expected at least 1, got 0"),
    (lambda: nn.ELBOLoss(-1), "beta: expected a number from 0 .*got -1"),
    (lambda: nn.Reparameterization()(MEAN, LOG_VARIANCE[:, :1]), r"log_variance: expected shape \(5, 3\)"),
    (lambda: nn.GaussianKLLoss()(MEAN[0], LOG_VARIANCE[0]), r"mean: expected .*\(N, D\)"),
    (lambda: nn.GaussianKLLoss()(MEAN[:0], LOG_VARIANCE[:0]), "mean: expected at least one"),
    (lambda: nn.ELBOLoss()(nn.Variational(np.ones((2, 5, 4)), MEAN, LOG_VARIANCE), np.ones((5, 3))),
     r"targets: expected 5 of 4 features each, got shape \(5, 3\)"),
])
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()                                  # type: ignore[operator]
