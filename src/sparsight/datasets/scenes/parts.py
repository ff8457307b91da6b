"""What an object is made of, and how its surface takes the light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsight.datasets.scenes.shapes import Array, Distance
from sparsight.datasets.scenes.textures import Pattern

__all__ = ["Light", "Part", "Surface", "shade"]


@dataclass(frozen=True)
class Part:
    """One piece of an object, painted over the pieces before it.

    Attributes
    ----------
    distance
        Its outline, in the object's own frame of about [-1, 1], y up.
    role
        Which colour of the palette it takes: ``main``, ``second``, ``dark`` or ``light``.
    bevel
        Width over which its edge is rounded, in the object's frame.
    textured
        Whether it carries the object's pattern.
    form
        Distance by which it is rounded instead of its outline, for cylinders.
    """

    distance: Distance
    role: str = "main"
    bevel: float = 0.15
    textured: bool = False
    form: Distance | None = None


@dataclass(frozen=True)
class Light:
    """A far lamp: unit direction towards it (image axes, y up, z to the viewer) and strengths."""

    direction: tuple[float, float, float]
    ambient: float
    gloss: float
    sharpness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Light:
        """Draw a lamp somewhere above."""
        angle = rng.uniform(0.15, 0.85) * np.pi
        height = rng.uniform(0.6, 1.2)
        vector = np.array([np.cos(angle), np.sin(angle), height])
        x, y, z = (vector / np.linalg.norm(vector)).tolist()
        return cls((x, y, z), rng.uniform(0.35, 0.6), rng.uniform(0, 0.5), rng.uniform(8, 40))


@dataclass(frozen=True)
class Surface:
    """Two colours, each shape ``(3,)`` in [0, 1], and the pattern that mixes them."""

    colour: Array
    other: Array
    pattern: Pattern | None = None


def shade(
    distance: Array,
    spacing: float,
    bevel: float,
    surface: Surface,
    light: Light,
    u: Array,
    v: Array,
) -> Array:
    """Light a shape as if its edge were rounded.

    Parameters
    ----------
    distance
        Signed distance of each sample, shape ``(H, W)``, in image units.
    spacing
        Distance between neighbouring samples.
    bevel
        Width of the rounded edge, in image units.
    surface
        Colours and pattern.
    light
        The lamp.
    u, v
        Where on the object each sample lies, for the pattern; shape ``(H, W)``.

    Returns
    -------
    ndarray
        Colours, shape ``(3, H, W)``.
    """
    down, right = np.gradient(distance, spacing)
    slope = np.clip(1 + distance / bevel, 0, 1)
    facing = np.sqrt(np.maximum(1 - slope * slope, 0))
    lx, ly, lz = light.direction
    toward = slope * (right * lx - down * ly) + facing * lz
    lit = light.ambient + (1.25 - light.ambient) * np.maximum(toward, 0)
    base = surface.colour[:, None, None]
    if surface.pattern is not None:
        base = base + (surface.other - surface.colour)[:, None, None] * surface.pattern(u, v)
    # The highlight is strongest half-way between the lamp and the viewer.
    half = np.sqrt((1 + lz) / 2)
    shine = slope * (right * lx - down * ly) / (2 * half) + facing * half
    shine = light.gloss * np.clip(shine, 0, 1) ** light.sharpness
    colours: Array = np.clip(base * lit + shine, 0, 1).astype(np.float32)
    return colours
