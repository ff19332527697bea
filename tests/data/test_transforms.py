import numpy as np
import pytest

from fastnn import data
from fastnn.random import generator

TRANSFORMS = [
    data.RandomCrop(2),
    data.RandomCrop(2, mode="constant"),
    data.RandomCrop(0),
    data.RandomHorizontalFlip(),
    data.RandomApply(data.RandomCrop(1), p=0.3),
    data.RandomAffine(15, translate=(0.1, 0.2)),
    data.ColorJitter(0.4, 0.3, 0.5),
    data.Cutout(4, fill=[1, 2, 3]),
    data.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.1]),
    data.Compose([data.RandomCrop(1), data.RandomHorizontalFlip(), data.Normalize(0.5, 0.2)]),
]


def random_images(shape=(20, 3, 9, 12), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def rng(step=0):
    return generator(0, "augment", 0, step)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_every_transform(transform, dtype):
    images = random_images(dtype=dtype)
    before = images.copy()
    images.flags.writeable = False
    result = transform(images, rng())
    np.testing.assert_array_equal(images, before)
    assert result.shape == images.shape
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert not np.shares_memory(result, images)
    floats = isinstance(transform, data.Normalize | data.Compose)
    assert result.dtype == (np.float32 if floats else dtype)
    np.testing.assert_array_equal(transform(images, rng()), result)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_every_transform_takes_strided_and_empty_batches(transform):
    images = random_images((10, 3, 9, 24))[::2, :, :, ::2]
    np.testing.assert_array_equal(transform(images, rng()), transform(images.copy(), rng()))
    assert transform(images[:0], rng()).shape == (0, 3, 9, 12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_every_transform_refuses_other_shapes(transform):
    with pytest.raises(ValueError, match=r"images: expected shape \(N, C, H, W\), got \(9, 9\)"):
        transform(np.zeros((9, 9), np.uint8), rng())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_float(dtype):
    images = random_images()
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.1])
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    found = data.to_float(images, mean, std, dtype=dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(data.to_float(images, dtype=dtype), (images / dtype(255)))
    np.testing.assert_allclose(data.to_float(images, 0.5, 0.2), (images / 255 - 0.5) / 0.2, rtol=1e-5, atol=1e-6)


def test_to_float_with_the_digits_scale():
    digits = data.digits()
    floats = data.to_float(digits.train.images, scale=digits.scale)
    assert (floats.min(), floats.max()) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mean": [0.1, 0.2]}, ValueError, r"mean: expected a number, 3 \(one a channel\), or .* \(2,\)"),
        ({"std": np.ones((3, 1, 1))}, ValueError, r"std: expected a number, 3 \(one"),
        ({"std": [1, 0, 1]}, ValueError, r"std: expected values above 0, got \[1, 0, 1\]; a constant channel needs"),
        ({"std": np.nan}, ValueError, "std: expected values above 0"),
        ({"scale": 0}, ValueError, "scale: expected a number above 0, got 0"),
        ({"dtype": np.int32}, TypeError, "dtype: expected a floating dtype, such as float32, got int32"),
    ],
)
def test_to_float_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        data.to_float(random_images(), **arguments)


def test_channel_statistics():
    images = random_images((1500, 3, 9, 12))
    images[:, 2] = 77
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-12, atol=1e-13)
    assert std[2] == 0
    floats = data.to_float(images, mean, [*std[:2], 1])
    np.testing.assert_allclose(floats.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(floats.std((0, 2, 3)), [1, 1, 0], atol=1e-5)


def test_pixel_statistics():
    images = np.random.default_rng(0).integers(0, 256, (3000, 2, 3, 4), np.uint8)
    images[:, 0, 0, 0] = 7
    mean, std = data.pixel_statistics(images, floor=0.01)
    np.testing.assert_allclose(mean, (images / 255).mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(0) + 0.01, rtol=1e-12)
    floats = data.Normalize(mean, std)(images, rng())
    assert abs(floats.mean(0)).max() < 1e-5
    assert floats.std(0).max() < 1
    np.testing.assert_allclose(floats, (images / 255 - mean) / std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: data.pixel_statistics(np.zeros((2, 1, 3, 3))), TypeError, "images: expected uint8, got float64"),
    (lambda: data.pixel_statistics(np.zeros((0, 1, 3, 3), np.uint8)), ValueError, "expected at least one image"),
    (lambda: data.pixel_statistics(np.zeros((2, 1, 3, 3), np.uint8), floor=-1), ValueError, "floor: expected at least"),
    (lambda: data.pixel_statistics(np.zeros((2, 1, 3, 3), np.uint8), 0), ValueError, "scale: expected a number above"),
    (lambda: data.channel_statistics(np.zeros((2, 1, 3, 3), np.uint8), -5), ValueError, "scale: expected a number abo"),
])
def test_pixel_statistics_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_channel_statistics_refuses():
    with pytest.raises(TypeError, match="images: expected uint8, got float32"):
        data.channel_statistics(random_images(dtype=np.float32))
    with pytest.raises(ValueError, match="at least one image"):
        data.channel_statistics(random_images()[:0])
    with pytest.raises(ValueError, match=r"expected shape \(N, C, H, W\)"):
        data.channel_statistics(random_images()[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.RandomCrop(-1), "padding: expected at least 0, got -1"),
        (lambda: data.RandomCrop(1, mode="edge"), "mode: expected 'reflect' or 'constant', got 'edge'"),
        (lambda: data.RandomHorizontalFlip(1.5), "p: expected a number from 0 to 1, got 1.5"),
        (lambda: data.RandomApply(data.RandomCrop(1), -0.1), "p: expected a number from 0 to 1, got -0.1"),
        (lambda: data.RandomAffine(-1), "degrees: expected a number from 0 to inf, got -1"),
        (lambda: data.RandomAffine(1, (0.1,)), "translate: expected two fractions"),
        (lambda: data.RandomAffine(1, (0.1, -0.1)), "translate: expected two fractions"),
        (lambda: data.ColorJitter(-0.1), "brightness: expected a number from 0 to inf, got -0.1"),
        (lambda: data.ColorJitter(saturation=np.nan), "saturation: expected a number from 0 to inf, got nan"),
        (lambda: data.ColorJitter(scale=0), "scale: expected a number above 0, got 0"),
        (lambda: data.ColorJitter()(random_images((2, 4, 3, 3)), rng()), "images: expected 1 or 3 channels, .* got 4"),
        (lambda: data.Cutout(0), "size: expected at least 1, got 0"),
        (lambda: data.Cutout(2, np.inf), "fill: expected finite numbers, got inf"),
        (lambda: data.Cutout(2, 256)(random_images(), rng()), "fill: expected values of uint8 as the images .* 256"),
        (lambda: data.Cutout(2, [1, 2])(random_images(), rng()), r"fill: expected a number, 3 \(one a channel"),
        (lambda: data.AlternatingHorizontalFlip(-1), "seed: expected at least 0, got -1"),
        (lambda: data.MixUp(0), "num_classes: expected at least 1, got 0"),
        (lambda: data.MixUp(10, 0), "alpha: expected a number above 0, got 0"),
        (lambda: data.MixUp(10)((random_images(dtype=float),), rng()), "batch: expected images and labels, got 1 arr"),
        (lambda: data.MixUp(10)((random_images(dtype=float), np.full(20, 10)), rng()), "labels: expected .* got 10"),
        (lambda: data.RandomCrop(9)(random_images(), rng()), "padding: expected below 9 to reflect images of 9x12"),
    ],
)
def test_refused_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_compose_runs_in_order_with_one_generator():
    seen = []

    def note(images, rng):
        seen.append(rng)
        return images + 1

    source = rng()
    doubled = data.Compose([note, lambda images, rng: images * 2])(np.zeros((1, 1, 1, 1)), source)
    assert doubled == 2
    assert seen == [source]


def test_the_inverse_of_normalisation_gives_pixels_back():
    images = random_images()
    for normalize in (data.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.1]), data.Normalize(0.5, np.full((3, 9, 12), 0.3))):
        found = normalize.inverse(normalize(images, rng()))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, images / 255, atol=1e-6)
    with pytest.raises(ValueError, match="std: expected a number, 1 "):
        data.Normalize(0, [1, 2, 3]).inverse(images[:, :1])
