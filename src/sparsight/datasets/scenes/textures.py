"""Patterns over the plane, colours, and the backgrounds made of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsight.datasets.scenes.shapes import Array

__all__ = ["BACKGROUNDS", "PATTERNS", "Pattern", "hsv", "noise", "palette"]

Pattern = Callable[[Array, Array], Array]
Maker = Callable[[np.random.Generator], Pattern]


def hsv(hue: float, saturation: float, value: float) -> Array:
    """Colour of a hue in turns, shape ``(3,)``.

    Examples
    --------
    >>> hsv(1 / 3, 1, 1).tolist()
    [0.0, 1.0, 0.0]
    """
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return np.asarray(value * (1 + saturation * (np.clip(wheel, 0, 1) - 1)), np.float32)


def palette(rng: np.random.Generator) -> dict[str, Array]:
    """Draw colours for an object; no colour belongs to a class."""
    hue = rng.uniform()
    other = hue + rng.choice([rng.uniform(0.06, 0.15), rng.uniform(0.3, 0.7)])
    return {
        "main": hsv(hue, rng.uniform(0.3, 0.95), rng.uniform(0.55, 1)),
        "second": hsv(other, rng.uniform(0.25, 0.9), rng.uniform(0.45, 1)),
        "dark": hsv(rng.uniform(), rng.uniform(0.1, 0.5), rng.uniform(0.12, 0.3)),
        "light": hsv(rng.uniform(), rng.uniform(0.03, 0.2), rng.uniform(0.85, 1)),
    }


def noise(rng: np.random.Generator, frequency: float, octaves: int = 1) -> Pattern:
    """Smooth random values in [0, 1]; ``frequency`` bumps per unit length."""
    side = 16
    lattices = rng.random((octaves, side, side), dtype=np.float32)

    def pattern(x: Array, y: Array) -> Array:
        total = np.zeros_like(x)
        weight, scale = 1.0, frequency
        for lattice in lattices:
            u, v = x * scale + 64, y * scale + 64
            i, j = np.floor(u), np.floor(v)
            a, b = u - i, v - j
            a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
            p, q = i.astype(np.int32) % side, j.astype(np.int32) % side
            p1, q1 = (p + 1) % side, (q + 1) % side
            top = lattice[p, q] + (lattice[p1, q] - lattice[p, q]) * a
            low = lattice[p, q1] + (lattice[p1, q1] - lattice[p, q1]) * a
            total += weight * (top + (low - top) * b)
            weight, scale = weight / 2, scale * 2
        return total / (2 - 2 ** (1.0 - octaves))

    return pattern


def _turned(rng: np.random.Generator, pattern: Pattern) -> Pattern:
    angle = rng.uniform(0, np.pi)
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return lambda x, y: pattern(c * x + s * y, c * y - s * x)


def _edge(wave: Array, sharpness: float = 4) -> Array:
    edge: Array = np.clip(0.5 + sharpness * wave, 0, 1)
    return edge


def _stripes(rng: np.random.Generator) -> Pattern:
    k, bias = rng.uniform(10, 26), rng.uniform(-0.3, 0.3)
    return _turned(rng, lambda x, y: _edge(np.sin(x * k) + bias))


def _checks(rng: np.random.Generator) -> Pattern:
    k = rng.uniform(7, 18)
    return _turned(rng, lambda x, y: _edge(np.sin(x * k) * np.sin(y * k), 6))


def _gingham(rng: np.random.Generator) -> Pattern:
    k = rng.uniform(8, 20)
    return _turned(rng, lambda x, y: (_edge(np.sin(x * k)) + _edge(np.sin(y * k))) / 2)


def _dots(rng: np.random.Generator) -> Pattern:
    k, size = rng.uniform(8, 18), rng.uniform(0.4, 1.0)
    return _turned(rng, lambda x, y: _edge(np.cos(x * k) + np.cos(y * k) - 2 + size, 2))


def _zigzag(rng: np.random.Generator) -> Pattern:
    k, teeth = rng.uniform(10, 20), rng.uniform(3, 6)
    return _turned(
        rng, lambda x, y: _edge(np.sin(k * (y + 0.25 / teeth * np.abs((x * teeth) % 2 - 1) * 2)))
    )


def _mottled(rng: np.random.Generator) -> Pattern:
    return noise(rng, rng.uniform(2, 7), 2)


def _camouflage(rng: np.random.Generator) -> Pattern:
    bumps = noise(rng, rng.uniform(1.5, 4))
    return lambda x, y: _edge(bumps(x, y) - 0.5, 8)


def _wood(rng: np.random.Generator) -> Pattern:
    bumps, k = noise(rng, rng.uniform(0.8, 1.6)), rng.uniform(14, 30)
    return _turned(rng, lambda x, y: 0.5 + 0.4 * np.sin(k * (y + 0.5 * bumps(x * 0.4, y))))


def _planks(rng: np.random.Generator) -> Pattern:
    grain, k = _wood(rng), rng.uniform(1.6, 3.2)
    tone = rng.random(32, dtype=np.float32)

    def pattern(x: Array, y: Array) -> Array:
        row = y * k
        whole = np.floor(row)
        seam = _edge(0.47 - np.abs(row - whole - 0.5), 30)
        board = tone[whole.astype(np.int32) % 32]
        tones: Array = seam * (0.35 + 0.35 * board + 0.3 * grain(x + board * 3, y))
        return tones

    return _turned(rng, pattern) if rng.uniform() < 0.4 else pattern


def _bricks(rng: np.random.Generator) -> Pattern:
    k, tone = rng.uniform(3, 6), rng.random((32, 32), dtype=np.float32)

    def pattern(x: Array, y: Array) -> Array:
        row = y * k
        j = np.floor(row)
        column = x * k * 0.5 + (j % 2) * 0.5
        i = np.floor(column)
        gap = np.minimum(0.44 - np.abs(row - j - 0.5), 2 * (0.47 - np.abs(column - i - 0.5)))
        shades = tone[i.astype(np.int32) % 32, j.astype(np.int32) % 32]
        tones: Array = _edge(gap, 12) * (0.45 + 0.55 * shades)
        return tones

    return pattern


def _clouds(rng: np.random.Generator) -> Pattern:
    puffs = noise(rng, rng.uniform(0.7, 1.8), 4)
    return lambda x, y: np.clip(2.2 * puffs(x, y * 1.6) - 0.7, 0, 1)


def _grass(rng: np.random.Generator) -> Pattern:
    blades, patches = noise(rng, rng.uniform(7, 12)), noise(rng, 1.5)
    return lambda x, y: 0.6 * blades(x * 1.6, y * 0.5) + 0.4 * patches(x, y)


def _tiles(rng: np.random.Generator) -> Pattern:
    k = rng.uniform(5, 10)
    speckle = noise(rng, 9, 2)
    return lambda x, y: (
        _edge(0.95 - np.maximum(np.cos(x * k), np.cos(y * k)), 10) * (0.75 + 0.25 * speckle(x, y))
    )


def _glow(rng: np.random.Generator) -> Pattern:
    spots = rng.uniform([-1, -1, 0.08, 0.2], [1, 1, 0.3, 0.8], size=(9, 4)).tolist()

    def pattern(x: Array, y: Array) -> Array:
        total = np.zeros_like(x)
        for cx, cy, radius, strength in spots:
            total += strength * _edge(radius - np.hypot(x - cx, y - cy), 14)
        return np.minimum(total, 1)

    return pattern


PATTERNS: tuple[Maker, ...] = (_stripes, _checks, _dots, _zigzag, _mottled, _camouflage, _wood)
BACKGROUNDS: tuple[Maker, ...] = (
    _clouds,
    _grass,
    _planks,
    _bricks,
    _tiles,
    _glow,
    _gingham,
    _stripes,
    _mottled,
    _wood,
)
