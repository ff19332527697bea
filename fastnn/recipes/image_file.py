"""Any image file as what a network was trained on: its size, its channels, its range of values."""

from __future__ import annotations

import os
import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastnn._checks import as_float, as_int
from fastnn._extras import require
from fastnn._files import as_path, one_line, open_file

MAX_PIXELS = 1 << 26
# Of pixels, with a signature. Others start an interpreter (EPS), draw (WMF), or take nearly any file for theirs (TGA).
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "PCX", "QOI", "SGI")
# By what EXIF says of the camera's orientation: methods of Pillow's Transpose.
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
          8: "ROTATE_90"}
_WHITE_IS_ZERO, _PHOTOMETRIC, _BITS, _ORIENTATION = 0, 262, 258, 274      # tags of TIFF and EXIF


def read_image(path: str | os.PathLike[str], channels: int, height: int, width: int, scale: int = 255,
               invert_above: float | None = 127, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.uint8], list[str]]:
    """Read an image file, whatever its format and size.

    Transparent images are put on white or on black, whichever is further from what is drawn, so that neither black nor
    white ink vanishes. 16 bits are reduced to 8. Images whose format names no largest value, such as 32 bits and
    floats, are refused. Only the first of several frames is read. The camera's orientation is applied, a colour profile
    is not. If one channel is asked for, colours become gray. An image of another shape gets a margin in the colour of
    its edge. The gray data sets of the package show light strokes on black, so a gray image that is light at its edge
    is inverted.

    Parameters
    ----------
    path : str or path-like
        The file: PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000, PPM, PCX, QOI or SGI.
    channels : {1, 3}
        Gray or colour.
    height, width : int
        The size to bring it to.
    scale : int, default 255
        What white becomes: the largest value of the data set's pixels.
    invert_above : float or None, default 127
        A gray image whose edge is lighter than this, on a scale from 0 to 255, is inverted; None inverts no image.
    max_pixels : int, default 2**26
        The most pixels to decode, which take about 12 bytes each for a moment. A JPEG of more is decoded at a half, a
        quarter or an eighth of its size.

    Returns
    -------
    image : ndarray of uint8, shape (channels, height, width)
    notes : list of str
        What was done to it, in words.

    Raises
    ------
    FileNotFoundError, OSError
        If there is no such file, or it cannot be opened.
    ValueError
        If it is of no such format, damaged, larger than `max_pixels`, wholly transparent, or of an unknown range.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from fastnn.recipes import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "white.png")
    ...     Image.new("RGB", (64, 32), "white").save(path)
    ...     image, notes = read_image(path, 1, 8, 8, scale=16)
    >>> image.max(), notes
    (np.uint8(0), ['made gray', 'brought from 64x32 to 8x8 pixels', 'inverted, since its background is light'])
    """
    if type(channels) is not int or channels not in (1, 3):
        raise ValueError(f"channels: expected 1 or 3, got {channels!r:.100}")
    height, width = as_int("height", height, 1), as_int("width", width, 1)
    as_float("scale", scale, 0, 255)
    as_int("max_pixels", max_pixels, 1)
    if height * width > MAX_PIXELS:
        raise ValueError(f"height, width: expected at most {MAX_PIXELS} pixels, got {height} x {width}")
    image, notes = _decoded(as_path("path", path), max_pixels)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        if mode == "L":
            notes.append("made gray")
        image = image.convert(mode)
    edge = _edge(np.asarray(image))
    if image.size != (width, height):
        notes.append(f"brought from {image.width}x{image.height} to {width}x{height} pixels")
        image = _fit(image, width, height, edge)
    pixels = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
    if channels == 1 and invert_above is not None and edge[0] > invert_above:
        notes.append("inverted, since its background is light")
        pixels = 255 - pixels
    return np.rint(pixels * (scale / 255)).astype(np.uint8), notes


def _decoded(path: str | os.PathLike[str], max_pixels: int) -> tuple[Any, list[str]]:
    """Return the first frame of an image file, upright, in the mode L or RGB, and what was done to it."""
    require("PIL.Image", "reading an image").init()
    with open_file(path, "an image file") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")             # of what is odd in a file that can be read all the same
        try:
            return _opaque(_in_8_bits(_upright(_opened(file, max_pixels))))
        except _RefusedError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error
        except Exception as error:                  # a damaged image raises nearly anything
            raise ValueError(f"{os.fspath(path)}: expected an image file, but it cannot be read as one: it is "
                             f"truncated or damaged ({one_line(error) or type(error).__name__:.100})") from error


class _RefusedError(ValueError):
    """An image is whole, but not one to be read."""


def _opened(file: BinaryIO, max_pixels: int) -> Any:
    """Return Pillow's image of a file, not decoded yet."""
    pillow = require("PIL.Image", "reading an image")
    start = file.read(16)
    # Image.open knows one limit of size, for the whole process, and warns below it.
    for factory, accepts in (pillow.OPEN[name] for name in _FORMATS if name in pillow.OPEN):
        accepted = accepts(start) if len(start) > 1 else False
        if accepted and not isinstance(accepted, str):          # text says what this build of Pillow lacks
            file.seek(0)
            image = factory(file)
            break
    else:
        found = f"it begins with {start.hex(' ')}; save it as PNG" if start else "it is empty"
        raise _RefusedError(f"expected an image file, but it cannot be read as one of {', '.join(_FORMATS)}: {found}")
    pixels = image.width * image.height
    if pixels > max_pixels and image.format in ("JPEG", "MPO") and "progressive" not in image.info:
        factor = next((n for n in (2, 4, 8) if pixels <= n * n * max_pixels), 8)
        image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
    if image.width * image.height > max_pixels:
        raise _RefusedError(f"expected an image of at most {max_pixels:,} pixels, got {image.width} x {image.height}; "
                            "save it smaller, or give read_image a larger max_pixels")
    return image


def _upright(image: Any) -> Any:
    """Return an image, decoded, as the camera was held."""
    pillow = require("PIL.Image", "reading an image")
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:                               # damaged notes of the camera, beside a picture that is whole
        turn = None
    return image.transpose(pillow.Transpose[turn]) if turn else image


def _in_8_bits(image: Any) -> Any:
    """Return an image in the mode L, RGB, LA or RGBA, the whole range of its format scaled to 8 bits."""
    pillow = require("PIL.Image", "reading an image")
    transparency = image.info.get("transparency")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit whole numbers"
        raise _RefusedError(f"expected pixels of 8 or 16 bits, got {kind}, of which nobody knows what is white; scale "
                            "them from 0 to 255 and save them as an 8-bit image")
    if image.mode.startswith("I"):
        values, white = np.asarray(image).astype(np.uint16), 65535
        if tags := getattr(image, "tag_v2", {}):
            white = (1 << tags.get(_BITS, (16,))[0]) - 1
            if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
                values = white - values
        gray = ((values * np.uint32(255) + white // 2) // white).astype(np.uint8)
        opaque = np.where(values == transparency, 0, 255).astype(np.uint8)
        bands = [pillow.fromarray(band) for band in (gray, opaque)]
        return bands[0] if transparency is None else pillow.merge("LA", bands)
    is_gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return image.convert("LA" if is_gray else "RGBA")
    return image.convert("L" if is_gray else "RGB")


def _opaque(image: Any) -> tuple[Any, list[str]]:
    """Return an image without transparency, on the ground that is further from what it shows, and what was done."""
    pillow = require("PIL.Image", "reading an image")
    if image.mode in ("L", "RGB"):
        return image, []
    mode, (least, most) = image.mode.removesuffix("A"), image.getchannel("A").getextrema()
    if most == 0:
        raise _RefusedError("expected something to be seen, but the whole image is transparent")
    if least == 255:
        return image.convert(mode), []
    # Colours count as much as they show.
    light, alpha = np.moveaxis(np.asarray(image.reduce(max(1, max(image.size) // 512)).convert("LA"), float), -1, 0)
    ground = "white" if (light * alpha).sum() <= 127.5 * alpha.sum() else "black"
    framed = pillow.new(mode, image.size, ground)
    framed.paste(image.convert(mode), mask=image.getchannel("A"))
    return framed, [f"put on {ground}, since it is transparent"]


def inverted_above(images: NDArray[np.uint8], scale: int) -> float | None:
    """Return the lightness, from 0 to 255, above which the edge of a gray image shows the reverse of these images.

    None if that cannot be told, because these images have colours, or more than 1 % of them are not dark at the edge.
    """
    if images.shape[1] != 1:
        return None
    gray = images[:, 0]
    edges = np.concatenate([gray[:, 0], gray[:, -1], gray[:, :, 0], gray[:, :, -1]], axis=1)
    lightness = np.median(edges, axis=1) * (255 / scale)
    return max(127.0, float(lightness.max())) if np.quantile(lightness, 0.99) < 64 else None


def _edge(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
    """The colour along an image's edge: the median of each channel."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(edge, axis=0))


def _fit(image: Any, width: int, height: int, background: tuple[int, ...]) -> Any:
    """Resize an image, with a margin where its shape is another, so that nothing is stretched."""
    pillow = require("PIL.Image", "reading an image")
    factor = min(width / image.width, height / image.height)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    framed = pillow.new(image.mode, (width, height), background)
    framed.paste(image.resize(size, pillow.Resampling.BILINEAR), ((width - size[0]) // 2, (height - size[1]) // 2))
    return framed
