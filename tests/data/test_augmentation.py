import numpy as np
import pytest
from scipy import ndimage

from fastnn import data
from fastnn.random import generator


def random_images(shape=(20, 3, 9, 12), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def rng(step=0):
    return generator(0, "augment", 0, step)


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


class Factors:
    """Draws the factors that it was given, in their order."""

    def __init__(self, *factors):
        self.factors = list(factors)

    def uniform(self, low, high, shape):
        assert low <= self.factors[0] <= high
        return np.full(shape, self.factors.pop(0))


def gray(image):
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize(("brightness", "contrast", "saturation"), [
    (1.3, 1, 1), (0.5, 1, 1), (1, 1.4, 1), (1, 0.6, 1), (1, 1, 1.5), (1, 1, 0), (1.1, 0.8, 1.2), (0.7, 0.5, 0.3)])
def test_color_jitter_is_one_step_after_the_other(brightness, contrast, saturation, dtype):
    """As in torchvision where nothing is clipped between the steps; the order changes nothing."""
    images = (random_images((6, 3, 5, 7)) // 2 + 60).astype(dtype)
    result = data.ColorJitter(2, 2, 2)(images, Factors(brightness, contrast, saturation))
    for image, found in zip(images.astype(float), result, strict=True):
        expected = brightness * image
        expected = contrast * expected + (1 - contrast) * gray(expected).mean()
        expected = saturation * expected + (1 - saturation) * gray(expected)
        tolerance = {np.uint8: 0.5001, np.float32: 2e-4, np.float64: 1e-12}[dtype]
        np.testing.assert_allclose(found, expected.clip(0, 255), rtol=0, atol=tolerance)


def test_color_jitter_of_nothing_is_the_identity_and_factors_stay_in_their_ranges():
    images = random_images()
    np.testing.assert_array_equal(data.ColorJitter()(images, rng()), images)
    flat = np.full((4000, 1, 1, 1), 0.5)
    bright = data.ColorJitter(brightness=0.2, scale=1)(flat, rng()) / 0.5
    assert 0.8 <= bright.min() < 0.801
    assert 1.199 < bright.max() <= 1.2
    bright = data.ColorJitter(brightness=3, scale=1)(flat, rng()) / 0.5
    assert 0 <= bright.min() < 0.01, "no factor is negative"
    assert bright.max() == 2, "clipped at 1"


def test_color_jitter_of_gray_images():
    images = random_images((6, 1, 5, 7))
    result = data.ColorJitter(2, 2, 2)(images, Factors(1.0, 0.5, 0.1))
    expected = 0.5 * images + 0.5 * images.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result, expected, atol=0.51)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 30])
def test_cutout_is_one_square_cut_off_at_the_edge(size):
    images = random_images((400, 3, 9, 12), np.float32) + 1
    cut = data.Cutout(size, fill=[0, -1, 0.5])(images, rng())
    squares = (cut != images).all(1)
    np.testing.assert_array_equal((cut != images).any(1), squares)
    centres = set()
    for square in squares:
        rows, columns = np.nonzero(square.any(1))[0], np.nonzero(square.any(0))[0]
        assert square.sum() == len(rows) * len(columns)
        assert (np.diff(rows) == 1).all()
        assert (np.diff(columns) == 1).all()
        assert len(rows) == size or 0 in rows or 8 in rows
        assert min(size, 5) // 2 <= len(rows) <= size
        centres.add((rows[0], columns[0]))
    assert len(centres) > (40 if size < 8 else 5 if size < 30 else 0)
    np.testing.assert_array_equal(np.unique(cut.transpose(1, 0, 2, 3)[:, squares], axis=1).ravel(), [0, -1, 0.5])


def test_an_alternating_flip_shows_each_image_in_both_ways_in_two_epochs():
    images = random_images((501, 1, 2, 3))
    flip = data.AlternatingHorizontalFlip(seed=1)

    def seen(epoch, **options):
        loader = data.DataLoader((images, np.arange(501)), 100, seed=3, transform=flip, **options)
        found = np.empty(501, bool)
        for batch, rows in loader.epoch(epoch):
            flipped = (batch == images[rows, ..., ::-1]).all((1, 2, 3))
            assert (flipped | (batch == images[rows]).all((1, 2, 3))).all()
            found[rows] = flipped
        return found

    first = seen(0)
    assert abs(first.mean() - 0.5) < 0.1
    np.testing.assert_array_equal(seen(1), ~first)
    np.testing.assert_array_equal(seen(4, shuffle=False), first)
    flip = data.Compose([data.Compose([flip]), data.RandomCrop(0)])
    np.testing.assert_array_equal(seen(1, prefetch=False), ~first)
    flip = data.AlternatingHorizontalFlip(seed=2)
    assert (seen(0) != first).mean() > 0.3
    with pytest.raises(TypeError, match="AlternatingHorizontalFlip: expected to be the transform of a DataLoader"):
        flip(images, rng())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mixup_mixes_labels_as_it_mixes_images(dtype):
    labels = np.arange(200) % 10
    images = np.eye(10, dtype=dtype)[labels].reshape(200, 1, 2, 5)
    before = images.copy()
    mixed, probabilities = data.MixUp(10, alpha=0.4)((images, labels), rng())
    np.testing.assert_array_equal(images, before)
    assert mixed.dtype == probabilities.dtype == dtype
    np.testing.assert_allclose(mixed.reshape(200, 10), probabilities, atol=1e-7)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert set((probabilities > 0).sum(1)) == {1, 2}
    assert ((mixed != images).any((1, 2, 3))).mean() > 0.8
    again = data.MixUp(10, alpha=0.4)((images, labels), rng())
    np.testing.assert_array_equal(again[0], mixed)
    with pytest.raises(TypeError, match="images: expected floats, got uint8; give the loader a Normalize"):
        data.MixUp(10)((images.astype(np.uint8), labels), rng())


def test_mixup_at_small_alpha_leaves_most_images_nearly_pure():
    images, labels = np.zeros((2000, 1, 1, 1)), np.arange(2000)
    shares = {alpha: data.MixUp(2000, alpha)((images, labels), rng())[1].max(1) for alpha in (0.1, 1)}
    assert np.median(shares[0.1]) > 0.99
    assert 0.7 < np.median(shares[1]) < 0.95


def test_a_batch_transform_has_a_generator_of_its_own():
    images, labels = np.zeros((8, 1, 2, 2), np.float32), np.arange(8)

    def loader(transform):
        return data.DataLoader((images, labels), 4, transform=transform, batch_transform=data.MixUp(8))

    for (_, one), (_, other) in zip(loader(None).epoch(1), loader(data.RandomCrop(1)).epoch(1), strict=True):
        np.testing.assert_array_equal(one, other)
    (_, resumed), = loader(None).epoch(1, start_step=1)
    np.testing.assert_array_equal(resumed, one)
    with pytest.raises(TypeError, match="batch_transform: expected a function of a batch and a random generator"):
        data.DataLoader((images, labels), 4, batch_transform=3)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "place"), [("Brightness", 0), ("Contrast", 1), ("Color", 2)])
@pytest.mark.parametrize("factor", [0.3, 0.8, 1.2, 1.7])
def test_color_jitter_is_pillows_enhancement(data_dir, name, place, factor):
    """Which rounds the gray image and its mean, too."""
    image, enhance = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageEnhance")
    images = data.cifar10(data_dir).test.images[:20]
    factors = [1.0, 1.0, 1.0]
    factors[place] = factor
    found = data.ColorJitter(1, 1, 1)(images, Factors(*factors))
    for ours, pixels in zip(found, images.transpose(0, 2, 3, 1), strict=True):
        theirs = np.asarray(getattr(enhance, name)(image.fromarray(pixels)).enhance(factor)).transpose(2, 0, 1)
        assert abs(ours.astype(int) - theirs).max() <= 1
