"""Three colour scales, evenly spaced to the eye, that dissolve into what lies beneath.

Colours are interpolated in OKLab and respaced to equal steps. Each scale starts from the
*plate*, a light neutral, and every colour is stored as the most transparent paint that gives it
over the plate: on the plate a map has exactly the colours of its scale, on a photograph the
weak values let the photograph through.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIFFERENCE", "HEAT", "PLATE", "SIGNED", "lookup", "oklab", "ramp"]

Floats = NDArray[np.float64]

#: Names of the scales: non-negative heat, evidence for/against, traced minus dense.
HEAT, SIGNED, DIFFERENCE = "heat", "signed", "difference"
#: sRGB of the neutral ground that stands for zero.
PLATE = (246, 245, 241)

# Way points of each arm as OKLCH: lightness, chroma, hue in degrees.
_ARMS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "heat": ((0.88, 0.12, 92), (0.73, 0.17, 55), (0.54, 0.19, 18), (0.31, 0.11, 335)),
    "for": ((0.83, 0.09, 58), (0.64, 0.18, 40), (0.42, 0.15, 29)),
    "against": ((0.83, 0.07, 232), (0.62, 0.14, 248), (0.40, 0.13, 262)),
    "more": ((0.83, 0.08, 312), (0.61, 0.17, 306), (0.38, 0.16, 298)),
    "less": ((0.85, 0.08, 165), (0.64, 0.11, 168), (0.41, 0.08, 175)),
}
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(srgb: Floats) -> Floats:
    """Convert sRGB in 0..1 to OKLab along the last axis."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T)


def _srgb(lab: Floats) -> Floats:
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T).clip(0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(gamma.clip(0, 1))


@cache
def ramp(arm: str, count: int) -> Floats:
    """Return ``(count, 3)`` sRGB colours in 0..1 from the plate outwards, in equal OKLab steps."""
    plate = oklab(np.array(PLATE) / 255)
    points = [plate]
    for lightness, chroma, hue in _ARMS[arm]:
        angle = np.deg2rad(hue)
        points.append(np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)]))
    stops = np.stack(points)
    fine = np.linspace(0, len(stops) - 1, 2001)
    lab = np.stack([np.interp(fine, np.arange(len(stops)), axis) for axis in stops.T], axis=1)
    colours = _srgb(lab)
    steps = np.linalg.norm(np.diff(oklab(colours), axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, length[-1], count)
    return np.stack([np.interp(wanted, length, axis) for axis in colours.T], axis=1)


def _dissolve(colours: Floats) -> NDArray[np.uint8]:
    plate = np.array(PLATE) / 255
    change = colours - plate
    room = np.where(change < 0, plate, 1 - plate)
    least = (np.abs(change) / room).max(axis=1)
    alpha = np.maximum(least, np.minimum(1, 1.25 * np.linspace(0, 1, len(colours))))
    alpha = np.maximum(np.ceil(255 * alpha), 1) / 255
    paint = ((colours - (1 - alpha[:, None]) * plate) / alpha[:, None]).clip(0, 1)
    rgba = np.concatenate([paint, alpha[:, None]], axis=1)
    rgba[0, 3] = 0
    return np.asarray((255 * rgba).round().astype(np.uint8))


@cache
def lookup(scale: str) -> NDArray[np.uint8]:
    """Return the ``(256, 4)`` RGBA table of a scale.

    Entry 0 is zero and 255 the top of :data:`HEAT`; entry 128 is zero, 1 and 255 the ends of the
    two-sided scales.

    Examples
    --------
    >>> int(lookup(HEAT)[0, 3]), int(lookup(SIGNED)[128, 3])
    (0, 0)
    """
    if scale == HEAT:
        return _dissolve(ramp("heat", 256))
    low, high = ("against", "for") if scale == SIGNED else ("less", "more")
    down, up = _dissolve(ramp(low, 128)), _dissolve(ramp(high, 128))
    return np.concatenate([down[-1:], down[:0:-1], up])
