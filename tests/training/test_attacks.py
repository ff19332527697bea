"""Attacks: gradients by the input against differences, FGSM against its formula and torch, adversarial training."""

import signal
import sys

import numpy as np
import pytest

from fastnn import data, nn, optim, random, training
from fastnn.testing import numeric_gradient, relative_error
from fastnn.training import attacks

DIGITS = data.digits()
NORMALIZE = data.Normalize(0.3, 0.4, DIGITS.scale)


def net(dtype=np.float64, channels=2):
    with random.seeded(1):
        model = nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5),
                              nn.Flatten(), nn.Linear(48, 3)).to(dtype)
    model[1].running_mean[...] = [0.1, -0.2, 0.3]
    model[1].running_var[...] = [0.5, 2, 1]
    return model


def samples(n=7, dtype=np.float64, channels=2):
    rng = random.generator(0, "samples")
    return rng.random((n, channels, 4, 4)).astype(dtype), rng.integers(0, 3, n)


class Broken(nn.Module):
    def forward(self, x, *, training=True):
        raise ZeroDivisionError


class NoGradient(nn.Module):
    def forward(self, x, *, training=True):
        return x.reshape(len(x), -1)[:, :3], lambda grad, *, input_grad=True: None


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss(0.1), nn.HingeLoss()])
def test_the_input_gradient_is_that_of_each_images_own_loss(loss):
    model, (images, labels) = net(), samples()
    gradient = attacks.input_gradient(model, images, labels, loss=loss)
    for image, label, found in zip(images, labels, gradient, strict=True):
        moved = image.copy()

        def value(moved=moved, label=label):
            return float((loss or nn.CrossEntropyLoss())(model(moved[None]), np.array([label])))

        assert relative_error(found, numeric_gradient(value, moved)) < 1e-7
    for batch_size in (1, 3):
        np.testing.assert_array_equal(
            attacks.input_gradient(model, images, labels, loss=loss, batch_size=batch_size), gradient)


def test_the_model_stays_as_it_is():
    model, (images, labels) = net(), samples()
    model[0].bias.requires_grad = False
    model[5].weight.accumulate(np.ones_like(model[5].weight.data))
    before = model.state_dict()
    attacks.fgsm(model, images, labels, 0.1, steps=2)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["5.weight"]
    assert (model[5].weight.grad == 1).all()
    with pytest.raises(ZeroDivisionError):
        attacks.input_gradient(nn.Sequential(model, Broken()), images, labels)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.bias"]


@pytest.mark.parametrize(("eps", "steps", "step_size"), [(0.1, 1, None), (0.1, 5, None), (0.2, 4, 0.15), (0, 1, None)])
@pytest.mark.parametrize("normalize", [None, data.Normalize([0.4, 0.6], [0.2, 0.5]), data.Normalize(0.5, 2)])
def test_fgsm_is_its_formula_in_pixels_from_0_to_1(eps, steps, step_size, normalize):
    model, (pixels, labels) = net(), samples()

    def seen(pixels):
        return pixels if normalize is None else data.to_float(pixels, normalize.mean, normalize.std, scale=1,
                                                              dtype=np.float64)

    found = attacks.fgsm(model, seen(pixels), labels, eps, steps=steps, step_size=step_size, normalize=normalize)
    expected, losses = pixels, []
    for _ in range(steps):
        gradient = attacks.input_gradient(model, seen(expected), labels)
        losses.append(nn.CrossEntropyLoss()(model(seen(expected)), labels))
        step = (eps / steps if step_size is None else step_size) * np.sign(gradient)
        expected = np.clip(np.clip(expected + step, pixels - eps, pixels + eps), 0, 1)
    losses.append(nn.CrossEntropyLoss()(model(seen(expected)), labels))
    np.testing.assert_allclose(found.images, seen(expected), atol=1e-12)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-10)
    np.testing.assert_allclose(found.scores, model(seen(expected)), rtol=1e-8)
    if eps:
        assert found.losses[-1] > found.losses[0] + 0.1
        moves = abs(expected - pixels)
        assert moves.max() == pytest.approx(eps)
        assert {0, 1} <= set(expected.ravel())


@pytest.mark.peers
@pytest.mark.parametrize("steps", [1, 3])
def test_fgsm_as_with_torch(steps):
    torch = pytest.importorskip("torch")
    model, (images, labels) = net(), samples()
    theirs = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.BatchNorm2d(3), torch.nn.ReLU(),
                                 torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(48, 3)).double().eval()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    x = start = torch.tensor(images)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        torch.nn.functional.cross_entropy(theirs(x), torch.tensor(labels)).backward()
        x = (x + 0.05 * x.grad.sign()).clamp(start - 0.1, start + 0.1).clamp(0, 1)
    found = attacks.fgsm(model, images, labels, 0.1, steps=steps, step_size=0.05)
    np.testing.assert_allclose(found.images, x.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_batch_size_changes_no_bit(dtype):
    model, (images, labels) = net(dtype), samples(dtype=dtype)
    before = images.copy()

    def attack(**options):
        return attacks.fgsm(model, images, labels, 0.1, steps=2, rng=random.generator(0, "attack"), **options)

    found = attack()
    np.testing.assert_array_equal(images, before)
    assert found.images.dtype == found.scores.dtype == dtype
    for batch_size in (1, 3, 7):
        other = attack(batch_size=batch_size)
        np.testing.assert_array_equal(other.images, found.images)
        np.testing.assert_array_equal(other.scores, found.scores)
        np.testing.assert_allclose(other.losses, found.losses, rtol=1e-5)


def test_a_random_start_lies_within_eps():
    model, (images, labels) = net(), samples()
    plain = attacks.fgsm(model, images, labels, 0.1, step_size=0)
    np.testing.assert_array_equal(plain.images, images)
    starts = [attacks.fgsm(model, images, labels, 0.1, step_size=0, rng=random.generator(seed, "attack")).images
              for seed in (0, 0, 1)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert (starts[0] != starts[2]).mean() > 0.9
    moves = abs(starts[0] - images)
    assert 0.09 < moves.max() <= 0.1 + 1e-12
    assert 0.03 < moves.mean() < 0.06
    assert ((starts[0] >= 0) & (starts[0] <= 1)).all()


def loader(count=320, **options):
    part = data.Split(DIGITS.train.images[:count], DIGITS.train.labels[:count])
    return data.DataLoader(part, 64, transform=data.Compose([data.RandomCrop(1), NORMALIZE]), **options)


def trainer(run_dir=None, callbacks=()):
    with random.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1),
                              nn.Linear(32, 10))
    return training.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.01), run_dir=run_dir,
                            callbacks=callbacks, progress=False)


def adversarial(run, count=320):
    return training.AdversarialLoader(loader(count), run.model, 0.1, normalize=NORMALIZE, random_start=True)


def test_a_trained_model_falls_with_eps_and_adversarial_training_helps_against_it():
    test = NORMALIZE(DIGITS.test.images, None)
    found = {}
    for kind in ("plain", "adversarial"):
        run = trainer()
        run.fit(loader(1437) if kind == "plain" else adversarial(run, 1437), epochs=10)
        found[kind] = attacks.accuracy_against_eps(run.model, test, DIGITS.test.labels, [0, 0.05, 0.1, 0.2],
                                                   normalize=NORMALIZE)
        assert found[kind][0] == run.evaluate(data.DataLoader(DIGITS.test, 100, transform=NORMALIZE)).accuracy
        assert (np.diff(found[kind]) < 0).all()
        five = attacks.accuracy_against_eps(run.model, test, DIGITS.test.labels, [0.1], steps=5, normalize=NORMALIZE)
        assert five <= found[kind][2]
    assert found["plain"][0] > 0.85
    assert found["adversarial"][2] > found["plain"][2] + 0.15


def test_the_loader_attacks_with_the_weights_of_the_moment():
    run = trainer()
    attacked = training.AdversarialLoader(loader(), run.model, 0.1, steps=2, normalize=NORMALIZE)
    assert len(attacked) == 5
    for (images, labels), (clean, expected_labels) in zip(attacked.epoch(1, 3), loader().epoch(1, 3), strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(
            images, attacks.fgsm(run.model, clean, labels, 0.1, steps=2, normalize=NORMALIZE).images)
        run.model[1].weight.data[...] *= -1
    assert run.evaluate(attacked).accuracy <= run.evaluate(loader()).accuracy


def test_noise_comes_before_the_attack():
    run, clean = trainer(), next(iter(loader().epoch(0)))[0]
    noisy, again, attacked = (next(iter(training.AdversarialLoader(
        loader(), run.model, 0.1, step_size=step, normalize=NORMALIZE, noise=2, seed=3).epoch(0)))[0]
        for step in (0, 0, 0.1))
    np.testing.assert_array_equal(noisy, again)
    pixels, moved = NORMALIZE.inverse(clean), NORMALIZE.inverse(noisy)
    assert 0.19 < abs(moved - pixels).max() <= 0.2 + 1e-6
    assert -1e-6 <= moved.min() <= moved.max() <= 1 + 1e-6
    steps = abs(NORMALIZE.inverse(attacked) - moved)
    assert 0.09 < steps.max() <= 0.1 + 1e-6
    other = training.AdversarialLoader(loader(), run.model, 0.1, step_size=0, normalize=NORMALIZE, noise=2, seed=4)
    assert (next(iter(other.epoch(0)))[0] != noisy).mean() > 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("signals_heard")
def test_an_interrupted_adversarial_run_ends_with_the_same_bits(tmp_path):
    class Stop(training.Callback):
        def on_step_end(self, trainer, loss):
            if trainer.optimizer._states[0]["step"] == 7:
                signal.raise_signal(signal.SIGINT)

    run = trainer(tmp_path / "whole")
    run.fit(adversarial(run), epochs=3)
    run = trainer(tmp_path / "cut", [Stop()])
    with pytest.raises(training.Interrupted):
        run.fit(adversarial(run), epochs=3)
    run = trainer(tmp_path / "cut")
    run.fit(adversarial(run), epochs=3, resume=True)
    whole, cut = (training.load(tmp_path / name / "last.safetensors")[0] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, cut[name], err_msg=name)


IMAGES, LABELS = samples()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: attacks.fgsm(net, IMAGES, LABELS, 0.1), "model: expected a Module, got function"),
    (lambda: attacks.fgsm(net(), IMAGES, LABELS, 0.1, loss=3), "loss: expected a Module, got int"),
    (lambda: attacks.fgsm(net(), IMAGES, LABELS, -0.1), "eps: expected a number from 0 to inf, got -0.1"),
    (lambda: attacks.fgsm(net(), IMAGES, LABELS, 0.1, steps=0), "steps: expected at least 1, got 0"),
    (lambda: attacks.fgsm(net(), IMAGES, LABELS, 0.1, step_size="a"), "step_size: expected a number, got 'a'"),
    (lambda: training.AdversarialLoader(loader(), net(), 0.1, noise=-1),
     "noise: expected a number from 0 to inf, got -1"),
    (lambda: attacks.fgsm(net(), IMAGES, LABELS, 0.1, normalize=3), "normalize: expected a fastnn.data.Normalize or N"),
    (lambda: attacks.fgsm(net(), IMAGES, LABELS, 0.1, normalize=data.Normalize([1, 2, 3], 1)), "mean: expected a num"),
    (lambda: attacks.fgsm(net(), IMAGES, LABELS, 0.1, batch_size=0), "batch_size: expected at least 1, got 0"),
    (lambda: attacks.fgsm(net(), IMAGES[0], LABELS, 0.1), "images, labels: expected a label for each image"),
    (lambda: attacks.fgsm(net(), IMAGES[:0], LABELS[:0], 0.1), "images, labels: .* at least one, got shapes"),
    (lambda: attacks.fgsm(net(), IMAGES * 255, LABELS, 0.1), "images: expected pixels from 0 to 1, .*give normalize="),
    (lambda: attacks.fgsm(net(), 3 * IMAGES, LABELS, 0.1, normalize=NORMALIZE),
     "images: expected pixels that are from 0 to 1 before normalize, got values from"),
    (lambda: attacks.fgsm(net(), IMAGES.astype(np.uint8), LABELS, 0.1), "images: expected floats, .* got uint8; give"),
    (lambda: attacks.fgsm(net(), IMAGES.tolist(), LABELS, 0.1), "images: expected a NumPy array, got list"),
    (lambda: attacks.fgsm(NoGradient(), IMAGES, LABELS, 0.1), "model: expected one that gives .* got none of NoGradie"),
    (lambda: attacks.accuracy_against_eps(net(), IMAGES, LABELS, 0.1), "eps: expected a sequence of numbers, got 0.1"),
    (lambda: attacks.accuracy_against_eps(net(), IMAGES, LABELS, [0, -1]), "eps: expected a number from 0 to inf"),
    (lambda: training.AdversarialLoader(IMAGES, net(), 0.1), "loader: expected a fastnn.data.DataLoader"),
    (lambda: training.AdversarialLoader(loader(), net(), -1), "eps: expected a number from 0 to inf, got -1"),
    (lambda: training.AdversarialLoader(loader(), net(), 0.1, seed=-1), "seed: expected at least 0, got -1"),
    (lambda: list(training.AdversarialLoader(data.DataLoader((IMAGES,), 2), net(), 0.1).epoch(0)),
     "loader: expected batches of images and labels, got 1 arrays"),
])
def test_wrong_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()
