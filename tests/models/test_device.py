"""Models on a GPU, or in the simulator where they are small, against the same on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import _device, data, models, nn, optim, random, training
from fastnn.cli.gradients import _cases
from fastnn.models.nearest_neighbors import cross_validate

pytestmark = pytest.mark.cuda


def passed(model: nn.Module, *inputs: Any) -> list[Any]:
    """The result of a model in training and inference, the gradient by its input, and those by its parameters."""
    with random.at_step(0):
        y, backward = model.forward(*inputs, training=True)
    grad = backward() if not isinstance(y, tuple) and y.ndim == 0 else backward(y)
    with random.at_step(1):
        in_inference = model(*inputs)
    return [fastnn.to_host(array) for array in flat(
        (y, grad, *(p.grad for p in model.parameters() if p.requires_grad), in_inference)) if array is not None]


def flat(value: Any) -> list[Any]:
    """The arrays of a tuple, of the tuples in it, and so on."""
    return [array for part in value for array in flat(part)] if isinstance(value, tuple) else [value]


def assert_same_there(name: str, model: nn.Module, *inputs: np.ndarray) -> None:
    state = model.state_dict()
    expected = passed(model, *inputs)
    model.load_state_dict(state)
    model.zero_grad()
    found = passed(model.to("cuda"), *map(fastnn.to_device, inputs))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_gabor_bank() -> None:
    images = random.generator(0, "images").random((1, 1, 4, 4))
    images[0, 0, :2, :2] = 0
    assert_same_there("GaborBank", models.GaborBank(1, [0.3], size=3).to(np.float64), images)


def test_a_fully_connected_net() -> None:
    x = random.generator(0, "x").standard_normal((3, 2, 2))
    assert_same_there("FullyConnectedNet", models.FullyConnectedNet(4, (3,), 2, activation="tanh").to(np.float64), x)


def test_several_views() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2)).to(np.float64)
    x = random.generator(0, "x").standard_normal((2, 2, 3, 4))
    assert_same_there("MultiCrop", models.MultiCrop(model, shift=2), x)


def test_nearest_neighbours() -> None:
    rng = random.generator(0, "points")
    points, labels = rng.integers(0, 255, (8, 2, 2), np.uint8), rng.integers(0, 2, 8)
    host = models.KNearestNeighbors(3).fit(points, labels)
    device = models.KNearestNeighbors(3).fit(fastnn.to_device(points), labels)
    for ours, theirs in zip(device.neighbors(fastnn.to_device(points[:3])), host.neighbors(points[:3])):
        np.testing.assert_allclose(fastnn.to_host(ours), theirs, rtol=1e-6)
    np.testing.assert_array_equal(device.predict(fastnn.to_device(points)), host.predict(points))
    theirs = _device.cuda.to_device(points.reshape(8, 4))
    distances = models.KNearestNeighbors(3).fit(theirs, labels).neighbors(theirs)[0]
    assert type(distances) is type(theirs)                     # searched there, not copied to the host
    np.testing.assert_array_equal(cross_validate(fastnn.to_device(points), labels, [1, 2], folds=2),
                                  cross_validate(points, labels, [1, 2], folds=2))


def test_a_variational_autoencoder() -> None:
    model, x = models.VAE(4, 3, 2, samples=2).to(np.float64), random.generator(0, "x").random((2, 4))
    drawn, between = model.sample(2), model.interpolate(x[:1], x[1:], 3)
    assert_same_there("VAE", model, x)
    placed = fastnn.to_device(x)
    for found, expected in ((model.sample(2), drawn), (model.interpolate(placed[:1], placed[1:], 3), between)):
        np.testing.assert_allclose(fastnn.to_host(found), expected, rtol=1e-7)
    output, backward = model.forward(placed)
    loss, loss_backward = nn.ELBOLoss().forward(output, placed)
    assert all(map(_device.is_device, (loss, backward(loss_backward()))))


def test_a_decoder_transformer(nothing_waits: Any) -> None:
    config = models.DecoderTransformerConfig(5, 4, embed_dim=4, num_heads=1, head_dim=2, num_layers=1, hidden=3)
    model, tokens = models.DecoderTransformer(config).to(np.float64), np.array([[2, 3, 0]])
    drawn, weights = list(model.generate([2], 4, seed=1)), model.attention_weights(tokens[:, :2])
    assert_same_there("DecoderTransformer", model, tokens)
    assert list(model.generate([2], 4, seed=1)) == drawn
    np.testing.assert_allclose(model.attention_weights(tokens[:, :2]), weights, rtol=1e-7)
    placed = fastnn.to_device(tokens)
    nothing_waits(lambda: model.forward(placed))


def test_a_diffusion_model(nothing_waits: Any) -> None:
    rng = random.generator(0, "weights")
    model = models.DDPM(models.UNet(width=2, multipliers=(1,), groups=1).to(np.float64), 4)
    for parameter in model.parameters():
        parameter.data += 0.2 * rng.standard_normal(parameter.data.shape)
    images = model.sample(1, (1, 1, 2), steps=2)
    x, time = rng.standard_normal((1, 1, 1, 2)), np.array([3])
    assert_same_there("DDPM", model, x, time)
    np.testing.assert_allclose(model.sample(1, (1, 1, 2), steps=2), images, rtol=1e-7)
    placed = fastnn.to_device(x), fastnn.to_device(time)
    nothing_waits(lambda: model.forward(*placed))


@pytest.mark.gpu
def test_every_layer_and_model() -> None:
    for name, model, inputs in _cases(0):
        assert_same_there(name, model, *inputs)


@pytest.mark.gpu
def test_a_whole_run_of_the_digits() -> None:
    digits = data.digits()
    model = models.CNN()
    trainer = training.Trainer(model, nn.CrossEntropyLoss(), optim.AdamW(model.parameters(), 0.01), device="cuda",
                               progress=False)
    transform = data.Normalize(0.3, 0.4, digits.scale)
    trainer.fit(data.DataLoader(digits.train, 64, transform=transform), epochs=5)
    assert trainer.evaluate(data.DataLoader(digits.test, 100, shuffle=False, transform=transform)).accuracy > 0.97
