"""Image files of all kinds, brought to what a network was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fastnn.data import digits
from fastnn.recipes import read_image


def save(image: Image.Image, tmp_path: Path, name: str = "image.png") -> Path:
    image.save(tmp_path / name)
    return tmp_path / name


def bar(mode: str, paper: object, ink: object, size: tuple[int, int] = (28, 28)) -> Image.Image:
    """A thick vertical bar in the middle of the paper."""
    image = Image.new(mode, size, paper)  # type: ignore[arg-type]
    x, y = size[0] // 2, size[1] // 2
    ImageDraw.Draw(image).rectangle((x - 3, y - 8, x + 2, y + 7), fill=ink)  # type: ignore[arg-type]
    return image


def test_an_image_of_the_data_set_comes_back_as_it_was(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    image[[0, -1]] = image[:, [0, -1]] = 0
    read, notes = read_image(save(Image.fromarray(image), tmp_path), 1, 28, 28)
    np.testing.assert_array_equal(read[0], image)
    assert notes == []


def test_a_scale_of_16_keeps_the_digits(tmp_path: Path) -> None:
    digit = digits().test.images[0, 0]
    read, _ = read_image(save(Image.fromarray(np.rint(digit * (255 / 16)).astype(np.uint8)), tmp_path), 1, 8, 8, 16)
    np.testing.assert_array_equal(read[0], digit)


@pytest.mark.parametrize(("mode", "paper", "ink"), [
    ("L", 255, 0), ("RGB", (250, 240, 255), (0, 0, 80)), ("1", 1, 0), ("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
    ("LA", (255, 255), (0, 255)), ("P", 255, 0), ("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), ("I;16", 65535, 0),
])
def test_dark_ink_on_light_paper_is_inverted(tmp_path: Path, mode: str, paper: object, ink: object) -> None:
    image = bar("L" if mode == "P" else mode, paper, ink)
    image = image.convert("P") if mode == "P" else image
    read, notes = read_image(save(image, tmp_path, "image.tif" if mode == "CMYK" else "image.png"), 1, 28, 28)
    assert read.shape == (1, 28, 28)
    assert read[0, 14, 14] > 235
    assert read[0, 0, 0] < 20
    assert notes[-1] == "inverted, since its background is light"


def test_light_ink_on_dark_paper_stays(tmp_path: Path) -> None:
    read, notes = read_image(save(bar("I;16", 0, 65535), tmp_path), 1, 28, 28)
    assert (read[0, 14, 14], read[0, 0, 0]) == (255, 0)
    assert notes == []


def test_another_shape_gets_a_margin_and_is_not_stretched(tmp_path: Path) -> None:
    read, notes = read_image(save(bar("L", 255, 0, (200, 50)), tmp_path), 1, 40, 40)
    # 200 x 50 becomes 40 x 10 in the middle of white paper: the bar of 6 x 16 pixels becomes about 1 x 3.
    assert notes == ["brought from 200x50 to 40x40 pixels", "inverted, since its background is light"]
    assert read[0, 20, 20] > 100
    assert read[0, :15].max() == read[0, 25:].max() == 0
    assert 2 <= np.count_nonzero(read[0, :, 20] > 100) <= 4


def test_colours_stay_for_a_network_of_three_channels(tmp_path: Path) -> None:
    read, notes = read_image(save(Image.new("RGB", (64, 64), (255, 200, 10)), tmp_path), 3, 32, 32)
    assert read.shape == (3, 32, 32)
    assert read[:, 5, 5].tolist() == [255, 200, 10]
    assert notes == ["brought from 64x64 to 32x32 pixels"]


def test_a_photo_that_says_it_is_turned_is_turned(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8), 0)
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 3                        # turned by 180 degrees
    image.save(tmp_path / "image.png", exif=exif)
    assert read_image(tmp_path / "image.png", 1, 8, 8)[0][0, 7, 7] == 255


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: expected an image file, but there is no such file"):
        read_image(tmp_path / "nothing.png", 1, 8, 8)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png: expected an image file, but it cannot be read as one"):
        read_image(tmp_path / "text.png", 1, 8, 8)
    whole = save(Image.effect_noise((64, 64), 50), tmp_path).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.png: expected an image file, but it cannot be read as one"):
        read_image(tmp_path / "half.png", 1, 8, 8)
