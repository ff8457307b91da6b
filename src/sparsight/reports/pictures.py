"""Arrays as pictures that a page can hold: data URIs and an outline path."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsight.reports.case import Array
from sparsight.reports.colours import HEAT, lookup

__all__ = ["LARGEST", "image_uri", "indices", "map_uri", "outline_path", "scale_uri", "shrink"]

#: Pictures with a longer side are averaged down to this for the page; raw maps are kept beside it.
LARGEST = 384


def shrink(values: NDArray[np.float32], largest: int = LARGEST) -> NDArray[np.float32]:
    """Average ``(H, W)`` down so that its longer side is at most ``largest``."""
    height, width = values.shape
    factor = largest / max(height, width)
    if factor >= 1:
        return values
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BOX), dtype=np.float32)


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_uri(image: Array, largest: int = LARGEST, *, photo: bool = False) -> str:
    """Encode ``(H, W, 3)`` floats in 0..1 as a PNG, or JPEG for thumbnails (``photo=True``)."""
    picture = Image.fromarray((255 * np.asarray(image)).round().astype(np.uint8))
    if max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    if photo:
        return _uri(picture, "JPEG", quality=85, optimize=True)
    return _uri(picture, "PNG", optimize=True)


def indices(values: NDArray[np.float32], bound: float, scale: str) -> NDArray[np.uint8]:
    """Find the position of each value on a scale that is clipped at ``bound``.

    Examples
    --------
    >>> indices(np.array([[0.0, 2.0, -9.0]], np.float32), 2.0, "signed").tolist()
    [[128, 255, 1]]
    """
    if scale == HEAT:
        return np.asarray((255 * (values / bound).clip(0, 1)).round().astype(np.uint8))
    return np.asarray((128 + 127 * (values / bound).clip(-1, 1)).round().astype(np.uint8))


def _paletted(index: NDArray[np.uint8], scale: str) -> str:
    table = lookup(scale)
    picture = Image.fromarray(index, mode="L").convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(table[:, :3].tobytes())
    return _uri(
        picture, "PNG", optimize=False, compress_level=9, transparency=table[:, 3].tobytes()
    )


def map_uri(values: NDArray[np.float32], bound: float, scale: str) -> str:
    """Encode a map as a paletted PNG with alpha, at its own resolution."""
    return _paletted(indices(values, bound, scale), scale)


def scale_uri(scale: str) -> str:
    """Draw a scale as a strip of one pixel's height, lowest value left."""
    first = 0 if scale == HEAT else 1
    return _paletted(np.arange(first, 256, dtype=np.uint8)[None], scale)


def outline_path(mask: NDArray[np.bool_]) -> str:
    """Trace the edges of a mask as an SVG path in pixel coordinates.

    Examples
    --------
    >>> outline_path(np.array([[True, True]]))
    'M0 0h2M0 1h2M0 0v1M2 0v1'
    """
    padded = np.pad(mask.astype(np.int8), 1)
    parts: list[str] = []
    for axis, letter in ((0, "h"), (1, "v")):
        edges = np.diff(padded, axis=axis) != 0
        for line, row in enumerate(edges if axis == 0 else edges.T):
            jumps = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
            for start, stop in jumps.reshape(-1, 2) - 1:
                at = f"{start} {line}" if letter == "h" else f"{line} {start}"
                parts.append(f"M{at}{letter}{stop - start}")
    return "".join(parts)
