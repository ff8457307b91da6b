"""Pictures to make triggers of: drawn emblems, stickers in files, objects of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sparsight.datasets.scenes.stickers import STICKERS, TUNING_STICKERS, paint_sticker
from sparsight.errors import InputError
from sparsight.networks import open_image

__all__ = ["FAINTEST", "cut_out", "drawn_picture", "shown_box", "sticker_picture"]

_SMALLEST = 8  # pixels a side

FAINTEST = 16
"""Opacity, of 255, below which a pixel of a trigger is none: a mask holds what can be seen."""


def shown_box(alpha: Image.Image) -> tuple[int, int, int, int] | None:
    """Box around all that is not too faint to be seen, or ``None``; ``alpha`` is of mode L."""
    return alpha.point(lambda value: value if value >= FAINTEST else 0).getbbox()


def drawn_picture(name: str, side: int = 256) -> Image.Image:
    """Draw one of the emblems of the rendered scenes.

    Parameters
    ----------
    name
        ``heart``, ``smiley``, ``spiral``, ``lightning``, ``star``, ``moon``, ``flower`` or
        ``target``.
    side
        Of the square picture, in pixels.

    Returns
    -------
    PIL.Image.Image
        RGBA.

    Raises
    ------
    InputError
        If there is no such emblem.

    Examples
    --------
    >>> picture = drawn_picture("moon", 32)
    >>> picture.mode, picture.size
    ('RGBA', (32, 32))
    """
    known = [*STICKERS, *TUNING_STICKERS]
    if name not in known:
        raise InputError(f"no emblem {name!r} is drawn: choose one of {', '.join(known)}")
    line = ((np.arange(side) + 0.5) * 2 / side - 1).astype(np.float32)
    x, y = np.meshgrid(line, -line)
    colours, coverage = paint_sticker(name, x, y, 2 / side)
    straight = colours / np.maximum(coverage, 1e-6)
    pixels = np.concatenate([np.clip(straight, 0, 1), coverage[None]]).transpose(1, 2, 0)
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def sticker_picture(path: str | Path, *, tolerance: int = 60) -> Image.Image:
    """Read a sticker from a file, without its background.

    A background is what can be reached from the rim over pixels of the rim's colour; the paper
    takes the colour of the first pixel. Pictures whose rim is transparent are used as they are.

    Parameters
    ----------
    path
        A picture, RGBA or not.
    tolerance
        How far a background pixel may be from the rim's colour: differences of red, green and
        blue, in 1/255, added up. Negative keeps the background.

    Returns
    -------
    PIL.Image.Image
        RGBA, cut to what is left.

    Raises
    ------
    InputError
        If the file cannot be read, or all of it is background.

    Examples
    --------
    >>> import tempfile
    >>> page = Image.new("RGB", (40, 40), "white")
    >>> page.paste("red", (10, 10, 20, 30))
    >>> with tempfile.TemporaryDirectory() as home:
    ...     page.save(f"{home}/red.png")
    ...     sticker_picture(f"{home}/red.png").size
    (10, 20)
    """
    picture = open_image(path).convert("RGBA")
    if min(picture.size) < _SMALLEST:
        raise InputError(
            f"{path} is {picture.width} x {picture.height} pixels: give a sticker of at least "
            f"{_SMALLEST} a side"
        )
    alpha = np.asarray(picture)[..., 3].copy()
    inner = picture.crop((2, 2, picture.width - 2, picture.height - 2))  # rims are often faint
    pixels = np.asarray(inner.convert("RGBA"))
    if min(pixels.shape[:2]) > 2 and tolerance >= 0:
        around = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        rim = np.concatenate(around)
        if (rim[:, 3] > 127).mean() > 0.5:
            colour = tuple(int(v) for v in np.median(rim[rim[:, 3] > 127][:, :3], axis=0))
            page = Image.new("RGB", (inner.width + 2, inner.height + 2), colour)
            page.paste(inner.convert("RGB"), (1, 1))
            before = np.asarray(page).copy()
            # Any colour that is not in the picture's range of tolerance tells what was filled.
            other = tuple(255 - v if abs(255 - 2 * v) > 60 else (v + 128) % 256 for v in colour)
            ImageDraw.floodfill(page, (0, 0), other, thresh=tolerance)
            filled = (np.asarray(page) != before).any(-1)[1:-1, 1:-1]
            alpha[:2], alpha[-2:], alpha[:, :2], alpha[:, -2:] = 0, 0, 0, 0
            alpha[2:-2, 2:-2][filled] = 0
    picture.putalpha(Image.fromarray(alpha))
    box = shown_box(picture.getchannel("A"))
    if box is None:
        raise InputError(f"{path} is background everywhere: give a picture of something")
    return picture.crop(box)


def cut_out(image: Image.Image, mask: Image.Image | npt.NDArray[np.bool_]) -> Image.Image:
    """Cut an object out of a photograph, as a natural trigger.

    Parameters
    ----------
    image
        The photograph.
    mask
        The object, of the photograph's size: a picture that is bright where the object is, or
        ``(height, width)`` of bools.

    Returns
    -------
    PIL.Image.Image
        RGBA, cut to the object's box.

    Raises
    ------
    InputError
        If the mask is empty or of another size.

    Examples
    --------
    >>> mask = np.zeros((20, 30), bool)
    >>> mask[5:9, 10:20] = True
    >>> cut_out(Image.new("RGB", (30, 20), "red"), mask).size
    (10, 4)
    """
    if isinstance(mask, np.ndarray):
        mask = Image.fromarray(mask.astype(np.uint8) * 255)
    mask = mask.convert("L")
    if mask.size != image.size:
        raise InputError(
            f"the mask is {mask.width}x{mask.height} pixels, the image "
            f"{image.width}x{image.height}: give one of the same size"
        )
    box = shown_box(mask)
    if box is None:
        raise InputError("the mask is empty: mark the object's pixels")
    picture = image.convert("RGB").convert("RGBA")
    picture.putalpha(mask)
    return picture.crop(box)
