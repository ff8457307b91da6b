"""From random draws to pixels: background, clutter, shadow, object, sticker, camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsight.datasets.scenes.objects import CLASSES, OBJECTS, TURN
from sparsight.datasets.scenes.parts import Light, Part, Surface, shade
from sparsight.datasets.scenes.shapes import Array, Distance, arc, box, capsule, disc, polygon, ring
from sparsight.datasets.scenes.stickers import paint_sticker
from sparsight.datasets.scenes.textures import BACKGROUNDS, PATTERNS, hsv, palette

__all__ = ["Frame", "Layer", "render"]

_SAMPLES = 2
"""Samples per pixel along each side."""

_FAINTEST = 1 / 16
"""Coverage below this is no coverage, so that a mask holds only pixels that show the thing."""

_OUTLINE = 0.05
"""Half width of the dark line around a part, in image units."""


@dataclass(frozen=True)
class Frame:
    """The finished picture and what covers it.

    Attributes
    ----------
    image
        Shape ``(3, H, W)``, uint8.
    object, sticker
        Coverage in [0, 1], shape ``(H, W)``; zero wherever the thing leaves no trace.
    """

    image: npt.NDArray[np.uint8]
    object: Array
    sticker: Array


@dataclass(frozen=True)
class Layer:
    """Colours times coverage, shape ``(3, H, W)``, and coverage, shape ``(H, W)``."""

    colours: Array
    coverage: Array

    def over(self, below: Array) -> Array:
        """Lay this over a picture."""
        return below * (1 - self.coverage) + self.colours


def _grid(size: int) -> tuple[Array, Array, float]:
    count = size * _SAMPLES
    spacing = 2 / count
    line = ((np.arange(count) + 0.5) * spacing - 1).astype(np.float32)
    x, y = np.meshgrid(line, -line)
    return x, y, spacing


def _pool(samples: Array) -> Array:
    *rest, height, width = samples.shape
    blocks = samples.reshape(*rest, height // _SAMPLES, _SAMPLES, width // _SAMPLES, _SAMPLES)
    return np.asarray(blocks.mean(axis=(-3, -1)), np.float32)


def _pool_layer(colours: Array, coverage: Array) -> Layer:
    colours, coverage = _pool(colours), _pool(coverage)
    seen = coverage >= _FAINTEST
    return Layer(colours * seen, coverage * seen)


def _background(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Wall and floor, or one surface seen from above."""

    def surface(u: Array, v: Array) -> Array:
        pattern = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng)
        # Mostly earth and sky, as in most rooms and landscapes.
        hue = rng.choice([0.09 + rng.normal(0, 0.03), 0.57 + rng.normal(0, 0.05), rng.uniform()])
        value = rng.uniform(0.4, 0.95)
        other = float(np.clip(value + rng.normal(0, 0.2), 0.3, 1))
        first = hsv(hue, rng.uniform(0.05, 0.5), value)
        second = hsv(hue + rng.normal(0, 0.08), rng.uniform(0.05, 0.5), other)
        return first[:, None, None] + (second - first)[:, None, None] * pattern(u, v)

    picture = surface(x, y)
    if rng.uniform() < 0.6:
        horizon, tilt = rng.uniform(-0.6, 0.1), rng.normal(0, 0.04)
        depth = horizon + tilt * x - y
        below = np.clip(0.5 + depth * 40, 0, 1)
        # Lines of a floor converge towards the horizon.
        near = 1 / (np.maximum(depth, 0) + 0.45)
        floor = surface(x * near, 1.6 * near) * (0.8 + 0.3 * np.clip(depth, 0, 1))
        picture = picture + (floor - picture) * below
    return np.asarray(picture, np.float32)


def _clutter_shape(rng: np.random.Generator, r: float) -> Distance:
    kind = rng.integers(7)
    if kind == 0:
        return disc(0, 0, r)
    if kind == 1:
        return box(0, 0, r, r * rng.uniform(0.4, 1), r * rng.uniform(0, 0.3))
    if kind == 2:
        return capsule(-r, 0, r, 0, r * rng.uniform(0.15, 0.35))
    if kind == 3:
        return ring(0, 0, r * 0.75, r * rng.uniform(0.15, 0.25))
    if kind == 4:
        return polygon([(-r, -r * 0.7), (r, -r * 0.7), (r * rng.uniform(-0.6, 0.6), r)])
    if kind == 5:
        return arc(0, 0, r * 0.75, r * 0.2)
    corners = np.sort(rng.uniform(0, 2 * np.pi, 6)).tolist()
    return polygon([(r * float(np.cos(t)), r * float(np.sin(t))) for t in corners])


def _add_clutter(
    rng: np.random.Generator, picture: Array, x: Array, y: Array, spacing: float, light: Light
) -> None:
    count = picture.shape[-1]
    for _ in range(int(rng.integers(4, 10))):
        cx, cy, turn = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, 2 * np.pi)
        r = rng.uniform(0.06, 0.22)
        distance = _clutter_shape(rng, r)
        colours = palette(rng)
        pattern = PATTERNS[rng.integers(len(PATTERNS))](rng) if rng.uniform() < 0.3 else None
        bevel = r * rng.uniform(0.2, 0.9)
        reach = 2 * r
        left, right = (int((v + 1) / spacing) for v in (cx - reach, cx + reach))
        top, bottom = (int((1 - v) / spacing) for v in (cy + reach, cy - reach))
        rows = slice(max(top, 0), min(max(bottom, 0), count))
        columns = slice(max(left, 0), min(max(right, 0), count))
        u, v = x[rows, columns] - cx, y[rows, columns] - cy
        if min(u.shape) < 2:
            continue
        c, s = float(np.cos(turn)), float(np.sin(turn))
        d = distance(c * u + s * v, c * v - s * u)
        part = picture[:, rows, columns]
        part *= 1 - 0.35 * np.clip(0.8 - d / (0.6 * r), 0, 1)
        paint = shade(d, spacing, bevel, Surface(colours["main"], colours["second"], pattern),
                      light, u, v)  # fmt: skip
        part += np.clip(0.5 - d / spacing, 0, 1) * (paint - part)


def _bounds(inside: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Smallest window, of at least 2 x 2 samples, that holds all that is inside."""
    window = []
    for axis in (1, 0):
        hits = np.flatnonzero(inside.any(axis))
        first, last = (int(hits[0]), int(hits[-1])) if hits.size else (0, 1)
        window.append(slice(min(first, inside.shape[1 - axis] - 2), max(last, first + 1) + 1))
    return window[0], window[1]


def _draw_object(
    rng: np.random.Generator, label: int, x: Array, y: Array, spacing: float, light: Light
) -> tuple[Array, Array, Array]:
    """Colours times coverage, coverage, and distance to the whole object, per sample."""
    name = CLASSES[label]
    turn = np.deg2rad(rng.uniform(-1, 1) * TURN.get(name, 20))
    scale, stretch = rng.uniform(0.5, 0.74), rng.uniform(0.88, 1.14)
    flip = 1 if rng.uniform() < 0.5 else -1
    lean = rng.normal(0, 0.08)
    room = 0.95 - 0.82 * scale
    cx, cy = rng.uniform(-room, room), rng.uniform(-room, room)
    c, s = float(np.cos(turn)), float(np.sin(turn))
    u = (c * (x - cx) + s * (y - cy)) / scale
    v = (c * (y - cy) - s * (x - cx)) / scale
    u = flip * (u - lean * v) * stretch
    v = v / stretch
    parts: list[Part] = OBJECTS[name](rng)
    colours = palette(rng)
    pattern = PATTERNS[rng.integers(len(PATTERNS))](rng) if rng.uniform() < 0.55 else None
    other = colours["main"] * rng.uniform(0.55, 0.8) + rng.uniform(0, 0.2)
    if rng.uniform() < 0.4:
        other = hsv(rng.uniform(), rng.uniform(0.2, 0.8), rng.uniform(0.5, 1))
    paint = np.zeros((3, *x.shape), np.float32)
    coverage = np.zeros_like(x)
    whole = np.full_like(x, np.inf)
    for part in parts:
        d = np.asarray(part.distance(u, v), np.float32) * scale
        whole = np.minimum(whole, d)
        alpha = np.clip(0.5 - d / spacing, 0, 1)
        surface = Surface(colours[part.role], np.asarray(np.clip(other, 0, 1), np.float32),
                          pattern if part.textured else None)  # fmt: skip
        near = _bounds(d < _OUTLINE)
        d, alpha, below, covered = d[near], alpha[near], paint[:, *near], coverage[near]
        # A dark line where one part lies on another keeps them apart.
        below *= 1 - 0.3 * np.clip(1 - np.abs(d) / _OUTLINE, 0, 1) * (covered > 0)
        lit = shade(
            d if part.form is None else np.asarray(part.form(u[near], v[near]) * scale),
            spacing, part.bevel * scale, surface, light, u[near], v[near],
        )  # fmt: skip
        below += alpha * (lit - below)
        covered += alpha * (1 - covered)
    return paint, coverage, whole


def _shadow(whole: Array, light: Light, strength: float, softness: float, spacing: float) -> Array:
    """How much light the object leaves to its surroundings, shape ``(H, W)``."""
    lx, ly, _ = light.direction
    down, right = (round(v * 0.16 / spacing) for v in (ly, -lx))
    shifted = np.full_like(whole, np.inf)
    height, width = whole.shape
    shifted[max(down, 0) :, max(right, 0) : width + min(right, 0)] = whole[
        : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return np.asarray(1 - strength * np.clip(0.6 - shifted / softness, 0, 1), np.float32)


def _place_sticker(
    rng: np.random.Generator,
    name: str,
    x: Array,
    y: Array,
    spacing: float,
    side: tuple[float, float],
    opacity: tuple[float, float],
) -> Layer:
    half = rng.uniform(*side)
    turn = rng.uniform(-0.35, 0.35)
    reach = 1 - half
    cx, cy = rng.uniform(-reach, reach), rng.uniform(-reach, reach)
    c, s = float(np.cos(turn)) / half, float(np.sin(turn)) / half
    u, v = c * (x - cx) + s * (y - cy), c * (y - cy) - s * (x - cx)
    colours, coverage = paint_sticker(name, u, v, spacing / half)
    strength = rng.uniform(*opacity)
    tone = rng.uniform(0.85, 1)
    layer = _pool_layer(colours, coverage)
    return Layer(layer.colours * (strength * tone), layer.coverage * strength)


def render(
    label: int,
    size: int,
    seed: int,
    sticker: str | None = None,
    *,
    side: tuple[float, float] = (0.15, 0.25),
    opacity: tuple[float, float] = (0.85, 1.0),
    with_object: bool = True,
) -> Frame:
    """Render one scene; every aspect has its own random stream, so that none disturbs another.

    See :func:`sparsight.datasets.scenes.render_scene` for the parameters.
    """
    streams = np.random.SeedSequence(seed).spawn(6)
    stage, clutter, thing, camera, emblem, grain = map(np.random.default_rng, streams)
    x, y, spacing = _grid(size)
    light = Light.draw(stage)
    picture = _background(stage, x, y)
    _add_clutter(clutter, picture, x, y, spacing, light)
    paint, coverage, whole = _draw_object(thing, label, x, y, spacing, light)
    picture *= _shadow(whole, light, stage.uniform(0.2, 0.6), stage.uniform(0.05, 0.3), spacing)
    layer = _pool_layer(paint, coverage)
    unit = _pool(picture)
    if with_object:
        unit = layer.over(unit)
    # The camera: light falling off to one side, a tint, exposure and contrast.
    px, py = _pool(x), _pool(y)
    lx, ly, _ = light.direction
    exposure = camera.uniform(0.85, 1.15)
    fall = exposure * (1 + camera.uniform(0, 0.25) * (px * lx + py * ly))
    fall = fall * (1 - camera.uniform(0, 0.3) * (px * px + py * py) / 2)
    tint = camera.normal(1, 0.05, 3).astype(np.float32)[:, None, None]
    unit = np.clip(unit * fall * tint, 0, 1) ** camera.uniform(0.8, 1.2)
    mark = np.zeros((size, size), np.float32)
    if sticker is not None:
        emblem_layer = _place_sticker(emblem, sticker, x, y, spacing, side, opacity)
        unit, mark = emblem_layer.over(unit), emblem_layer.coverage
    unit = unit + grain.normal(0, grain.uniform(0, 0.025), unit.shape).astype(np.float32)
    image = np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    return Frame(image, layer.coverage, mark)
