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


# --- what a format may hold ---


def written(tmp_path: Path, values: object, dtype: str, name: str, **options: object) -> Path:
    Image.fromarray(np.array(values, dtype)).save(tmp_path / name, **options)  # type: ignore[arg-type]
    return tmp_path / name


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm", "big-endian.tif"])
def test_16_bits_are_scaled(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 128, 129], [257, 32896, 65535], [0, 0, 0]], np.uint16)
    path = tmp_path / name
    if name == "big-endian.tif":
        Image.frombytes("I;16B", (3, 3), values.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(values).save(path)
    read, notes = read_image(path, 1, 3, 3)
    assert read.tolist() == [[[0, 0, 1], [1, 128, 255], [0, 0, 0]]]
    assert notes == []


def test_16_bits_on_a_transparent_ground(tmp_path: Path) -> None:
    values = np.full((9, 9), 1000)
    values[3:6, 3:6] = 65535
    read, notes = read_image(written(tmp_path, values, "u2", "a.png", transparency=1000), 1, 9, 9)
    assert (read[0, 4, 4], read[0, 0, 0]) == (255, 0)
    assert notes == ["put on black, since it is transparent"]


@pytest.mark.parametrize(("dtype", "name", "kind"), [
    ("f4", "a.tif", "floating-point numbers"), ("f4", "a.pfm", "floating-point numbers"),
    ("i4", "a.tif", "32-bit whole numbers")])
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, dtype: str, name: str, kind: str) -> None:
    path = written(tmp_path, np.arange(64).reshape(8, 8), dtype, name)
    with pytest.raises(ValueError, match=f"expected pixels of 8 or 16 bits, got {kind}, .*; scale them from 0 to 255"):
        read_image(path, 1, 8, 8)


@pytest.mark.parametrize("light", [0, 255])
@pytest.mark.parametrize(("mode", "suffix"), [("LA", "png"), ("RGBA", "png"), ("PA", "tif"), ("P", "png"), ("P", "gif"),
                                              ("RGBA", "webp"), ("RGBA", "tif"), ("L", "png"), ("RGB", "png")])
def test_ink_on_a_transparent_ground_is_seen(tmp_path: Path, light: int, mode: str, suffix: str) -> None:
    path = tmp_path / f"ink.{suffix}"
    ground, options = 128, {}
    image = bar("RGBA", (ground, ground, ground, 0), (light, light, light, 255))
    if mode in ("L", "RGB"):                # a colour that stands for transparency
        image, options = image.convert(mode), {"transparency": ground if mode == "L" else (ground,) * 3}
    elif mode == "P":
        image, options = bar("P", 0, 1), {"transparency": 0}
        image.putpalette([ground] * 3 + [light] * 3)
    elif mode == "PA":
        image = image.convert("PA")
    else:
        image = image.convert(mode)
    image.save(path, **options)  # type: ignore[arg-type]
    read, notes = read_image(path, 3, 28, 28)
    assert read[:, 14, 14].tolist() == [light] * 3
    assert read[:, 0, 0].tolist() == [255 - light] * 3
    assert notes == [f"put on {'black' if light else 'white'}, since it is transparent"]


def test_an_image_that_is_wholly_transparent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image\.png: expected something to be seen, but the whole image is transp"):
        read_image(save(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), tmp_path), 3, 8, 8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "I;16", "RGBA", "LA", "PA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_comes_to_the_same(tmp_path: Path, mode: str, channels: int) -> None:
    gray = np.zeros((8, 8), np.uint8)
    gray[2:6, 2:6] = 255
    image = Image.fromarray(gray)
    image = Image.fromarray(gray * np.uint16(257)) if mode == "I;16" else (
        image.convert("RGB").convert(mode) if mode in ("LAB", "CMYK", "YCbCr", "PA") else image.convert(mode))
    read, _ = read_image(save(image, tmp_path, "image.tif"), channels, 8, 8)
    assert np.abs(read.astype(int) - gray).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "pcx", "sgi", "jp2"])
def test_formats_that_are_read(tmp_path: Path, suffix: str) -> None:
    from PIL import features

    if suffix in ("webp", "jp2") and not features.check({"webp": "webp", "jp2": "jpg_2000"}[suffix]):
        pytest.skip("not in this Pillow")
    read, _ = read_image(save(bar("L", 0, 255).convert("RGB"), tmp_path, f"image.{suffix}"), 3, 28, 28)
    assert read[:, 14, 14].min() > 230
    assert read[:, 0, 0].max() < 20


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\1", b"%PDF-1.4",
                                   b"\xd7\xcd\xc6\x9a", b"\x89HDF\r\n\x1a\n", b"GRIB", b"<svg", b"SIMPLE  ="])
def test_formats_of_more_than_pixels_are_refused(tmp_path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    (tmp_path / "image.png").write_bytes(start + bytes(500))
    with pytest.raises(ValueError, match=r"cannot be read as one of PNG, .*: it begins with .*; save it as PNG"):
        read_image(tmp_path / "image.png", 1, 8, 8)


def test_more_pixels_than_are_decoded(tmp_path: Path) -> None:
    large = bar("L", 0, 255, (280, 280)).convert("RGB")
    message = r"expected an image of at most 10,000 pixels, got 280 x 280; save it smaller, or give read_image a larger"
    for name, options in (("a.png", {}), ("progressive.jpg", {"progressive": True})):
        large.save(tmp_path / name, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            read_image(tmp_path / name, 3, 28, 28, max_pixels=10_000)
        assert read_image(tmp_path / name, 3, 28, 28, max_pixels=280 * 280)[0].any()
    large.save(tmp_path / "a.jpg", quality=95)
    half, whole = (read_image(tmp_path / "a.jpg", 3, 28, 28, max_pixels=pixels)[0] for pixels in (19_600, 78_400))
    assert np.abs(half.astype(int) - whole).mean() < 5
    with pytest.raises(ValueError, match="expected an image of at most 1,000 pixels, got 35 x 35"):
        read_image(tmp_path / "a.jpg", 3, 28, 28, max_pixels=1000)


def test_a_header_that_claims_a_huge_image_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
                                     + (60_000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24))
    with pytest.raises(ValueError, match=r"expected an image of at most 67,108,864 pixels, got 60000 x 60000"):
        read_image(tmp_path / "a.bmp", 3, 8, 8)


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1)])
def test_long_and_thin_images(tmp_path: Path, size: tuple[int, int]) -> None:
    assert read_image(save(Image.new("RGBA", size, (255, 0, 0, 128)), tmp_path), 3, 28, 28)[0].shape == (3, 28, 28)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    for name in ("two.gif", "two.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert read_image(tmp_path / name, 1, 8, 8)[0].max() == 0


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"a\.png: expected an image file, but it cannot .*: it is empty"):
        read_image(tmp_path / "a.png", 1, 8, 8)
