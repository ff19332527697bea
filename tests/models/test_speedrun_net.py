"""The speed run's network: its first filters, its initial weights, and what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastnn import data, models, nn


def photographs(n: int = 600, channels: int = 3) -> np.ndarray:
    """Images whose neighbouring pixels and channels are alike."""
    noise = np.random.default_rng(0).standard_normal((n, channels, 12, 12))
    return (noise + np.roll(noise, 1, 3) + 2 * noise.mean(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_and_of_one_scale(channels: int) -> None:
    images = photographs(channels=channels)
    model = models.SpeedrunNet(in_channels=channels).whiten(images, eps=1e-12)
    filtered = model.conv1(images)
    moments = np.einsum("nahw,nbhw->ab", filtered, filtered, dtype=np.float64) / filtered[:, 0].size
    half = 4 * channels
    np.testing.assert_allclose(moments[:half, :half], np.eye(half), atol=1e-4)
    np.testing.assert_allclose(model.conv1.weight.data[half:], -model.conv1.weight.data[:half])
    assert not model.conv1.weight.requires_grad


def test_whitening_is_that_of_all_patches_at_once() -> None:
    images = photographs()
    patches = np.stack([images[:, :, i : i + 11, j : j + 11] for i in (0, 1) for j in (0, 1)], 2)
    patches = patches.transpose(0, 3, 4, 1, 2).reshape(-1, 12).astype(np.float64)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    weight = models.SpeedrunNet().whiten(images).conv1.weight.data[:12].reshape(12, 12)
    expected = (vectors / np.sqrt(values + 5e-4)).T[::-1]
    signs = np.sign((weight * expected).sum(1, keepdims=True))
    np.testing.assert_allclose(signs * weight, expected, rtol=1e-4, atol=1e-5)


def test_a_pattern_that_never_occurs_is_not_blown_up() -> None:
    model = models.SpeedrunNet().whiten(np.ones((3, 3, 4, 4)))
    assert abs(model.conv1.weight.data).max() <= 1 / np.sqrt(5e-4)


@pytest.mark.parametrize(("images", "eps", "error", "message"), [
    (np.ones((2, 1, 8, 8)), 1e-3, ValueError, r"images: expected 3 channels of at least .*got shape \(2, 1"),
    (np.ones((2, 3, 8, 1)), 1e-3, ValueError, "images: expected 3 channels of at least 2 x 2 pixels"),
    (np.ones((3, 8, 8)), 1e-3, ValueError, r"images: expected 4 dimensions \(N, C, H, W\), got shape \(3, 8, 8\)"),
    (np.ones((0, 3, 8, 8)), 1e-3, ValueError, "images: expected at least one element"),
    (np.ones((2, 3, 8, 8), np.uint8), 1e-3, TypeError, "images: expected floats, normalised as for training, got uint"),
    (np.full((2, 3, 8, 8), np.nan), 1e-3, ValueError, "images: expected finite numbers"),
    (np.ones((2, 3, 8, 8)), 0.0, ValueError, "eps: expected a number from 1.17549e-38"),
    ([1.0], 1e-3, ValueError, r"images: expected 4 dimensions \(N, C, H, W\), got shape \(1,\)"),
])
def test_wrong_images(images: Any, eps: float, error: type[Exception], message: str) -> None:
    model = models.SpeedrunNet()
    before = model.conv1.weight.data.copy()
    with pytest.raises(error, match=message):
        model.whiten(images, eps)
    np.testing.assert_array_equal(model.conv1.weight.data, before)
    assert model.conv1.weight.requires_grad


def test_convolutions_begin_as_the_identity() -> None:
    model = models.SpeedrunNet(width=8)
    wide, same = model.layer2[0].weight.data, model.layer2[4].weight.data      # 8 to 32 channels, and 32 to 32
    x = np.random.default_rng(0).standard_normal((2, 32, 9, 9), dtype=np.float32)
    np.testing.assert_array_equal(nn.Sequential(model.layer2[4])(x), x)
    assert (wide[:8, range(8), 1, 1].diagonal() == 1).all()
    assert np.count_nonzero(wide[:8]) == 8
    assert np.count_nonzero(wide[8:]) == wide[8:].size
    assert np.count_nonzero(same) == 32


def test_scales_of_normalization_stay() -> None:
    model = models.SpeedrunNet(width=4)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"layer{layer}.{i}.weight" for layer in (1, 2, 3) for i in (2, 5)]


@pytest.mark.parametrize("size", [25, 32, 48])
def test_sizes_that_fit(size: int) -> None:
    assert models.SpeedrunNet(width=4)(np.zeros((1, 3, size, size), np.float32)).shape == (1, 10)


@pytest.mark.parametrize("size", [24, 49])
def test_sizes_that_do_not(size: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        models.SpeedrunNet(width=4)(np.zeros((1, 3, size, size), np.float32))


@pytest.mark.real_data
def test_it_learns_real_photographs(data_dir: Any) -> None:
    dataset = data.cifar10(data_dir)
    mean, std = data.channel_statistics(dataset.train.images)
    images, labels = data.to_float(dataset.train.images[:400], mean, std), dataset.train.labels[:400]
    model = models.SpeedrunNet(width=16).whiten(images)
    loss, losses = nn.CrossEntropyLoss(), []
    for _ in range(8):
        scores, backward = model.forward(images, training=True)
        value, loss_backward = loss.forward(scores, labels)
        backward(loss_backward(), input_grad=False)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter.data -= 2.0 * parameter.grad
        model.zero_grad()
        losses.append(float(value))
    assert losses[-1] < 0.9 * losses[0]
