"""Any image file as what a network was trained on: its size, its channels, its range of values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn.training._extra import require


def read_image(path: str | os.PathLike[str], channels: int, height: int, width: int, scale: int = 255,
               invert_above: float | None = 127) -> tuple[NDArray[np.uint8], list[str]]:
    """Read an image file, whatever its format and size.

    Transparent parts become white, colours gray where one channel is asked for, and what is not of the right shape
    gets a margin of the colour that its edge has. The gray data sets of the package show light strokes on black: a gray
    image that is light at its edge is inverted.

    Parameters
    ----------
    path : str or path-like
        The file, in any format that Pillow reads.
    channels : {1, 3}
        Gray or colour.
    height, width : int
        The size to bring it to.
    scale : int, default 255
        What white becomes: the largest value of the data set's pixels.
    invert_above : float or None, default 127
        A gray image whose edge is lighter than this, on a scale from 0 to 255, is inverted; None inverts no image.

    Returns
    -------
    image : ndarray of uint8, shape (channels, height, width)
    notes : list of str
        What was done to it, in words.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If Pillow cannot read it.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from fastnn.recipes import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "white.png")
    ...     Image.new("RGB", (64, 32), "white").save(path)
    ...     image, notes = read_image(path, 1, 8, 8, scale=16)
    >>> image.max(), notes
    (np.uint8(0), ['made gray', 'brought from 64x32 to 8x8 pixels', 'inverted, since its background is light'])
    """
    image = _open(path)
    notes = []
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value / 257)    # 65535 to 255; convert("L") would cut off
    if image.has_transparency_data:
        pillow = require("PIL.Image", "reading an image")
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("put on white, since it is transparent")
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        if mode == "L" and image.mode not in ("1", "I", "F"):
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


def _open(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{os.fspath(path)}: expected an image file, but "
                                + ("it is a folder" if Path(path).is_dir() else "there is no such file"))
    pillow = require("PIL.Image", "reading an image")
    try:
        with pillow.open(path) as image:
            return require("PIL.ImageOps", "reading an image").exif_transpose(image)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise ValueError(f"{os.fspath(path)}: expected an image file, but it cannot be read as one: {error}") from error


def inverted_above(images: NDArray[np.uint8], scale: int) -> float | None:
    """How light the edge of a gray image is, from 0 to 255, if it shows the reverse of these images.

    None where that cannot be told: these are colours, or more than 1 % of them are not dark at the edge themselves.
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
