import numpy as np
import pytest
from scipy import ndimage

from fastnn import data
from fastnn.random import generator

TRANSFORMS = [
    data.RandomCrop(2),
    data.RandomCrop(2, mode="constant"),
    data.RandomCrop(0),
    data.RandomHorizontalFlip(),
    data.RandomApply(data.RandomCrop(1), p=0.3),
    data.RandomAffine(15, translate=(0.1, 0.2)),
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


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_random_crop_cuts_from_the_padded_image(mode):
    images = random_images((500, 2, 5, 6))
    crops = data.RandomCrop(2, mode)(images, rng())
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode)
    places = set()
    for crop, image in zip(crops, padded, strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if (image[:, y : y + 5, x : x + 6] == crop).all()]
        assert found
        places.update(found)
    assert len(places) == 25


def test_random_horizontal_flip():
    images = random_images((2000, 1, 2, 3))
    flipped = data.RandomHorizontalFlip(0.3)(images, rng())
    is_flipped = (flipped == images[..., ::-1]).all((1, 2, 3))
    assert (is_flipped | (flipped == images).all((1, 2, 3))).all()
    assert abs(is_flipped.mean() - 0.3) < 0.05
    np.testing.assert_array_equal(data.RandomHorizontalFlip(0)(images, rng()), images)
    applied = data.RandomApply(data.RandomHorizontalFlip(1), 0.3)(images, rng())
    np.testing.assert_array_equal(applied, flipped)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_random_affine_is_scipys_affine_transform(dtype):
    images = random_images((6, 2, 9, 12), dtype)
    angles, x_moves, y_moves = rng().uniform(-1, 1, (3, 6))
    result = data.RandomAffine(30, (0.25, 0.1))(images, rng())
    centre = np.array([4, 5.5])
    for n in range(6):
        angle = np.radians(30 * angles[n])
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moves = np.array([0.1 * 9 * y_moves[n], 0.25 * 12 * x_moves[n]])
        offset = centre - matrix @ (centre + moves)
        for c in range(2):
            expected = ndimage.affine_transform(images[n, c], matrix, offset, order=1, mode="grid-constant")
            difference = np.abs(result[n, c].astype(float) - expected)
            assert difference.max() <= (1 if dtype == np.uint8 else 1e-9)


def test_random_affine_of_nothing_is_the_identity():
    images = random_images()
    np.testing.assert_array_equal(data.RandomAffine(0)(images, rng()), images)


def test_random_affine_moves_whole_pixels_and_fills_with_zeros():
    class Fixed:
        def uniform(self, low, high, shape):
            return np.broadcast_to(np.array([0.0, 1.0, -1.0]).reshape(3, 1, 1, 1), shape)

    images = np.full((2, 1, 4, 8), 200, np.uint8)
    moved = data.RandomAffine(0, (0.25, 0.5))(images, Fixed())
    expected = np.zeros_like(images)
    expected[:, :, :2, 2:] = 200
    np.testing.assert_array_equal(moved, expected)


def test_random_affine_turns_both_ways_about_the_centre():
    images = np.zeros((200, 1, 9, 9), np.float64)
    images[:, :, 4, 4] = 1
    images[:, :, 4, 7] = 1
    turned = data.RandomAffine(45)(images, rng())
    np.testing.assert_allclose(turned[:, 0, 4, 4], 1)
    above, below = turned[:, 0, :4].sum((1, 2)), turned[:, 0, 5:].sum((1, 2))
    assert 60 < (above > below).sum() < 140


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
