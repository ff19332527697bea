"""UNet and DDPM: gradients, what is drawn by which formula, and the same network in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import data, models, nn, optim, random, testing, training

RNG = np.random.default_rng(0)
IMAGES, TIMES = RNG.standard_normal((2, 1, 4, 4)), np.array([3, 40])


def drawn(model: nn.Module) -> Any:
    """A model without parameters that are 0."""
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data[...] += 0.2 * rng.standard_normal(parameter.data.shape)
    return model


def small(dtype: Any = np.float64, **options: Any) -> models.UNet:
    return drawn(models.UNet(**{"width": 2, "multipliers": (1, 2), "groups": 2, **options}).to(dtype))


@pytest.mark.parametrize("options", [{}, {"multipliers": (2, 1, 3), "attention": False}])
def test_gradients(options: dict[str, Any]) -> None:
    checks = testing.check_gradients(small(**options), IMAGES, TIMES, whole=True)
    assert [check.name for check in checks] == ["parameters", "x0"]
    assert max(check.error for check in checks) <= 1e-7


def test_the_time_decides_and_images_do_not_meet() -> None:
    model = small()
    together, apart = model(IMAGES, TIMES), [model(IMAGES[[i]], TIMES[[i]])[0] for i in range(2)]
    np.testing.assert_array_equal(together, apart)
    assert (model(IMAGES, TIMES[::-1].copy()) != together).all()
    assert model(IMAGES[:0], TIMES[:0]).shape == (0, 1, 4, 4)
    x, grad = IMAGES.copy(), np.ones_like(IMAGES)
    model.forward(x, TIMES)[1](grad)                        # which adds in place, but not to what it is given
    assert (x == IMAGES).all()
    assert (grad == 1).all()
    whole = models.UNet()
    assert (whole(np.ones((1, 1, 4, 4), np.float32)) == 0).all()            # as the last layer starts
    assert sum(parameter.data.size for parameter in whole.parameters()) == 715_777


@pytest.mark.parametrize(("call", "message"), [
    (lambda: models.UNet(width=12), "width: expected a multiple of groups = 8, got 12"),
    (lambda: models.UNet(multipliers=()), "multipliers: expected a sequence of integers"),
    (lambda: small()(IMAGES[:, :, :3]), r"x: expected shape \(N, 1, H, W\) with H and W multiples of 2, got \(2, 1, 3"),
    (lambda: small()(IMAGES, TIMES[:1]), r"time: expected a number for each of the 2 images, got shape \(1,\)"),
    (lambda: models.DDPM(small(), 50).add_noise(IMAGES, TIMES + 10, IMAGES), "time: expected steps from 0 to 49"),
    (lambda: models.DDPM(small(), 50).add_noise(IMAGES, TIMES, IMAGES[:1]), r"noise: expected shape \(2, 1, 4, 4\)"),
    (lambda: models.DDPM(small(), 1), "timesteps: expected at least 2, got 1"),
    (lambda: models.DDPM(small(), 10, "square"), "schedule: expected .*linear.*cosine.*, got 'square'"),      # type: ignore[arg-type]
    (lambda: models.DDPM(small(), 10).sample(1, (1, 4, 4), steps=11), "steps: expected at most the model's 10 time"),
    (lambda: models.DDPM(small(), 10).sample(1, (1, 4, 4), eta=2), "eta: expected"),
    (lambda: models.DDPM(small(), 10).sample(0, (1, 4, 4)), "n: expected at least 1, got 0"),
])
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [2, 50, 1000])
def test_the_signal_falls_to_next_to_nothing(schedule: Any, timesteps: int) -> None:
    signal = models.DDPM(small(), timesteps, schedule).signal
    assert (np.diff(np.append(1, signal)) < 0).all()
    assert 0 < signal[-1] < 1e-3
    if timesteps == 1000:
        betas = 1 - signal / np.append(1, signal[:-1])
        first = (1e-4, 0.02) if schedule == "linear" else (4.13e-5, 0.999)              # as their papers have them
        np.testing.assert_allclose(betas[[0, -1]], first, rtol=1e-3)


def test_all_steps_are_the_formulas_of_the_paper() -> None:
    model = models.DDPM(small(), 10)
    rng = random.generator(5, "diffusion", 0)
    x = rng.standard_normal((1, 1, 4, 4))
    for t in reversed(range(10)):
        signal, before = model.signal[t], model.signal[t - 1] if t else 1.0
        alpha, beta = signal / before, 1 - signal / before
        guess = np.clip((x - np.sqrt(1 - signal) * model(x, np.array([t]))) / np.sqrt(signal), -1, 1)
        x = (np.sqrt(before) * beta * guess + np.sqrt(alpha) * (1 - before) * x) / (1 - signal)         # equation 7
        if t:
            x += np.sqrt((1 - before) / (1 - signal) * beta) * rng.standard_normal(x.shape)
    np.testing.assert_allclose(model.sample(1, (1, 4, 4), seed=5), x, rtol=1e-9)


def test_an_image_depends_on_seed_and_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.DDPM(small(np.float32), 10, "cosine")
    five = model.sample(5, (1, 4, 4), seed=1)
    monkeypatch.setattr(models.ddpm, "_AT_ONCE", 2)
    np.testing.assert_array_equal(model.sample(3, (1, 4, 4), seed=1), five[:3])
    assert (model.sample(1, (1, 4, 4), seed=2) != five[:1]).any()
    few = [walk.time for walk in model.denoise([0], (1, 4, 4), steps=3)]
    assert (few, model.times(3)) == ([4, 0, -1], [9, 4, 0])


def test_a_perfect_network_finds_the_image() -> None:
    class Oracle(nn.Module):
        """Knows the one image that there is."""

        def __init__(self) -> None:
            self.image = nn.Parameter(np.clip(IMAGES[:1], -1, 1))

        def forward(self, x: Any, time: Any, *, training: bool = True) -> Any:
            signal = model.signal[time].reshape(-1, 1, 1, 1)
            return (x - np.sqrt(signal) * self.image.data) / np.sqrt(1 - signal), None

    model = models.DDPM(Oracle(), 20)
    for options in ({}, {"steps": 5}, {"steps": 5, "eta": 0.5}):
        image = model.sample(1, (1, 4, 4), **options)
        np.testing.assert_allclose(image, np.clip(IMAGES[:1], -1, 1), atol=1e-9)


def test_it_learns_from_a_loader_of_noisy_images() -> None:
    model = models.DDPM(models.UNet(width=4, multipliers=(1,), groups=2, attention=False), 50)
    images = data.digits().train.images[:16, :, 2:6, 2:6]
    loader = data.DataLoader((images,), 8, transform=data.Normalize(0.5, 0.5, 16), batch_transform=model.noised)
    trainer = training.Trainer(model, nn.MSELoss(), optim.AdamW(model.parameters(), 0.02), progress=False)
    history = trainer.fit(loader, loader, epochs=10)
    assert history["val_loss"][-1] < 0.8        # without a network it is 1


@pytest.mark.peers
def test_results_and_gradients_are_those_of_the_same_network_in_torch() -> None:
    torch = pytest.importorskip("torch")
    model = small(multipliers=(1, 2))
    networks = importlib_networks()
    twin = networks.torch_unet(torch, width=2, multipliers=(1, 2), groups=2).double()
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in model.state_dict().items()})
    y, backward = model.forward(IMAGES, TIMES)
    grad_x, _ = backward(IMAGES)
    x = torch.from_numpy(IMAGES).requires_grad_()
    with torch.enable_grad():
        theirs = twin(x, torch.from_numpy(TIMES))
        theirs.backward(torch.from_numpy(IMAGES))
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(grad_x, x.grad.numpy(), rtol=1e-8, atol=1e-11)
    for name, parameter in twin.named_parameters():
        ours = dict(model.named_parameters())[name].grad
        np.testing.assert_allclose(ours, parameter.grad.numpy(), rtol=1e-8, atol=1e-11, err_msg=name)


def importlib_networks() -> Any:
    """The benchmarks' twins, which lie beside no package."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location(
        "generative", Path(__file__).parents[2] / "asv_benchmarks" / "generative.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("use", "message"), [
    (lambda model: model.denoise([-1], (1, 4, 4)), "numbers: expected at least 0, got -1"),
    (lambda model: model.denoise([], (1, 4, 4)), "numbers: expected one image at least, got none"),
    (lambda model: model.denoise([0], (1, 4, 4), seed=-1), "seed: expected at least 0, got -1"),
    (lambda model: model.sample(1, 8), "shape: expected that of an image, such as .*, got 8"),
    (lambda model: model.add_noise(np.zeros((1, 1, 4, 4)), np.array([1.5]), np.zeros((1, 1, 4, 4))),
     "time: expected integers, got float64"),
    (lambda model: model.add_noise([1.0], np.array([1]), np.zeros(1)), "images: expected an array, got list"),
])
def test_wrong_arguments_are_named(use: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        use(models.DDPM(models.UNet(width=8, multipliers=(1,)), 10))


def test_a_network_without_parameters_draws() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Any, time: Any, *, training: bool = True) -> Any:
            return x, None

    assert models.DDPM(Nothing(), 10).sample(2, (1, 4, 4)).shape == (2, 1, 4, 4)
