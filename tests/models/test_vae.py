"""The variational autoencoder: its gradients and likelihood, what it draws, and the same training in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import data, models, nn, optim, random, testing, training

BINARY = (np.random.default_rng(0).random((60, 4, 3)) < 0.4).astype(np.float64)


class Bound(nn.Module):
    """The whole objective: the negative bound of inputs."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.criterion = model, nn.ELBOLoss()

    def forward(self, x: Any, *, training: bool = True) -> tuple[Any, nn.Backward]:
        output, backward = self.model.forward(x)
        loss, loss_backward = self.criterion.forward(output, (x > 0.5).astype(float))
        return loss, lambda grad, *, input_grad=True: backward(loss_backward(grad), input_grad=input_grad)


def small(**options: Any) -> models.VAE:
    return models.VAE(12, 6, **{"latent": 2, "samples": 2, **options}).to(np.float64)


def test_gradients_of_the_whole_objective() -> None:
    x = np.random.default_rng(1).random((3, 4, 3))
    assert max(check.error for check in testing.check_gradients(Bound(small()), x)) <= 1e-7


def test_the_likelihood_is_the_integral_over_the_latent_variable() -> None:
    model, x = small(latent=1), BINARY[:3]
    for parameter in model.parameters():
        parameter.data *= 2
    z = np.linspace(-9, 9, 4001)[:, None]
    probabilities = model.decode(z)                                             # (4001, 12)
    likely = np.where(x.reshape(3, 1, 12) > 0, probabilities, 1 - probabilities).prod(2)
    integral = np.log((likely * np.exp(-0.5 * z[:, 0]**2)).sum(1) * 0.0045 / np.sqrt(2 * np.pi))
    np.testing.assert_allclose(model.log_likelihood(x, samples=40_000), integral, atol=0.02)
    bounds = [-float(nn.ELBOLoss()(model(x[[i]]), x[[i]])) for i in range(3) for _ in range(200)]
    assert (np.reshape(bounds, (3, 200)).mean(1) < integral).all()


def test_what_it_draws() -> None:
    model = small(seed=3)
    np.testing.assert_array_equal(model.sample(5, seed=1)[:2], model.sample(2, seed=1))
    assert (model.sample(2, seed=1) != model.sample(2, seed=2)).any()
    lines = model.interpolate(BINARY[:2], BINARY[2:4], 4)
    np.testing.assert_allclose(lines[:, [0, -1]].reshape(4, 12), model.reconstruct(BINARY[[0, 2, 1, 3]]))
    latent_map = model.latent_map(3)
    np.testing.assert_array_equal(latent_map[1, 1], model.decode(np.zeros(2)))
    with pytest.raises(ValueError, match=r"y: expected shape \(2, 4, 3\), got \(3, 4, 3\)"):
        model.interpolate(BINARY[:2], BINARY[:3])
    with pytest.raises(ValueError, match="latent_map: expected a model of two latent variables, got one of 3"):
        small(latent=3).latent_map()


def trainer(model: nn.Module, **options: Any) -> training.Trainer:
    return training.Trainer(model, nn.ELBOLoss(), optim.Adam(model.parameters(), 0.02), progress=False, **options)


def test_it_is_trained_and_validated_by_the_trainer() -> None:
    run, loader = trainer(small()), data.DataLoader((BINARY, BINARY), 20)
    history = run.fit(loader, loader, epochs=15)
    assert history["train_loss"][-1] < history["train_loss"][0] - 0.5
    assert run.evaluate(loader).loss == run.evaluate(loader).loss               # which draws the same each time


@pytest.mark.peers
def test_after_the_same_updates_the_bound_is_that_of_a_twin_in_torch() -> None:
    torch = pytest.importorskip("torch")
    layers, model, epochs = torch.nn, small(), 4
    weights = {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    encoder = layers.Sequential(layers.Flatten(), layers.Linear(12, 6), layers.Tanh(), layers.Linear(6, 4)).double()
    decoder = layers.Sequential(layers.Linear(2, 6), layers.Tanh(), layers.Linear(6, 12)).double()
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        part.load_state_dict({key.removeprefix(f"{name}."): weights[key] for key in weights if key.startswith(name)})

    def bound(x: Any, *step: int) -> Any:
        mean, log_variance = encoder(x).chunk(2, dim=1)
        noise = random.generator(0, "reparameterization", *step, 0).standard_normal((2, *mean.shape))
        logits = decoder(mean + torch.exp(log_variance / 2) * torch.from_numpy(noise))
        errors = layers.functional.binary_cross_entropy_with_logits(
            logits, x.reshape(1, len(x), -1).expand_as(logits), reduction="none").sum(2).mean()
        return errors - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()

    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.02)
    loader = data.DataLoader((BINARY, BINARY), 20)
    for epoch in range(epochs):
        for step, (x, _) in enumerate(loader.epoch(epoch)):
            with torch.enable_grad():
                optimizer.zero_grad()
                bound(torch.from_numpy(x), epoch, step).backward()
            optimizer.step()

    held_out = data.DataLoader((BINARY[:9], BINARY[:9]), 9, shuffle=False)
    history = trainer(model).fit(loader, held_out, epochs=epochs)
    with torch.no_grad():
        theirs = float(bound(torch.from_numpy(BINARY[:9]), 0))
    np.testing.assert_allclose(history["val_loss"][-1], theirs, rtol=1e-9)
