"""Ten things to recognise, each drawn anew from random proportions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsight.datasets.scenes.parts import Part
from sparsight.datasets.scenes.shapes import (
    Distance,
    arc,
    box,
    capsule,
    cut,
    disc,
    ellipse,
    join,
    polygon,
    ring,
    soft_join,
)

__all__ = ["CLASSES", "OBJECTS", "TURN"]

Builder = Callable[[np.random.Generator], list[Part]]


def _pillar(x: float, radius: float) -> Distance:
    """Distance to an upright cylinder's outline."""
    return lambda u, v: np.abs(u - x) - radius


def _both(first: Distance, second: Distance) -> Distance:
    return lambda u, v: np.maximum(first(u, v), second(u, v))


def _mug(rng: np.random.Generator) -> list[Part]:
    w, h = rng.uniform(0.42, 0.56), rng.uniform(0.5, 0.72)
    rim, grip = rng.uniform(0.1, 0.17), rng.uniform(0.24, 0.34)
    foot = w * rng.uniform(0.75, 1)
    x = -0.15
    sides = polygon([(x - w, h), (x + w, h), (x + foot, -h), (x - foot, -h)])
    body = join(sides, ellipse(x, -h, foot, rim * 0.8), ellipse(x, h, w, rim))
    handle = ring(x + w + grip * 0.45, rng.uniform(-0.1, 0.1), grip, rng.uniform(0.07, 0.1))
    return [
        Part(handle, "main", 0.1),
        Part(body, "main", w, textured=True, form=_pillar(x, w)),
        Part(ellipse(x, h, w, rim), "light", 0.03),
        Part(ellipse(x, h - 0.015, w * 0.88, rim * 0.75), "dark", 0.02),
    ]


def _key(rng: np.random.Generator) -> list[Part]:
    r, thick = rng.uniform(0.26, 0.36), rng.uniform(0.08, 0.12)
    end, shaft = rng.uniform(0.75, 0.95), rng.uniform(0.06, 0.085)
    kind = rng.integers(3)
    if kind == 0:
        bow = ring(-0.55, 0, r, thick)
    elif kind == 1:
        bow = cut(box(-0.55, 0, r + 0.1, r + 0.1, 0.14), disc(-0.6, 0, r * 0.55))
    else:
        leaves = [
            ring(-0.45 + dx * r, dy * r, r * 0.5, thick * 0.8)
            for dx, dy in ((-0.9, 0), (0, 0.75), (0, -0.75))
        ]
        bow = join(*leaves)
    teeth = int(rng.integers(2, 5))
    places = np.linspace(end - 0.06, end - 0.13 * teeth, teeth)
    depths = rng.uniform(0.16, 0.34, teeth)
    bits = [
        box(float(p), -float(d) / 2, 0.045, float(d) / 2 + 0.02)
        for p, d in zip(places, depths, strict=True)
    ]
    collar = box(-0.55 + r + 0.14, 0, 0.045, shaft * 2, 0.03)
    whole = join(bow, capsule(-0.5 + r, 0, end, 0, shaft), collar, *bits)
    return [Part(whole, "main", 0.1)]


def _fish(rng: np.random.Generator) -> list[Part]:
    a, b = rng.uniform(0.55, 0.68), rng.uniform(0.28, 0.44)
    t, spread, f = rng.uniform(0.2, 0.3), rng.uniform(0.28, 0.46), rng.uniform(0.16, 0.3)
    tail = polygon([(-a + 0.12 + 0.15, 0), (-a - t, spread), (-a - t * 0.5, 0), (-a - t, -spread)])
    back = polygon([(-0.3, b * 0.7), (-0.2, b + f), (0.25, b * 0.75)])
    belly = polygon([(-0.05, -b * 0.8), (-0.25, -b - f * 0.7), (0.18, -b * 0.8)])
    body = ellipse(0.15, 0, a, b)
    ex = 0.15 + a * 0.62
    gill = cut(
        ring(ex + 0.12, 0, 0.38, 0.022),
        box(ex + 0.35, 0, 0.4, 1),
        box(0, 0.7 + b * 0.7, 2, 0.7),
        box(0, -0.7 - b * 0.7, 2, 0.7),
    )
    side = polygon([(0.2, 0.02), (-0.15, 0.1 - b * 0.2), (-0.12, -b * 0.65)])
    return [
        Part(join(tail, back, belly), "second", 0.12),
        Part(body, "main", b * 0.9, textured=True),
        Part(gill, "dark", 0.03),
        Part(side, "second", 0.05),
        Part(disc(ex, b * 0.25, 0.1), "light", 0.04),
        Part(disc(ex + 0.02, b * 0.25, 0.055), "dark", 0.03),
    ]


def _tree(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.08, 0.13)
    trunk = polygon([(-w * 1.5, -0.95), (w * 1.5, -0.95), (w * 0.8, -0.1), (-w * 0.8, -0.1)])
    if rng.uniform() < 0.5:
        tiers = int(rng.integers(3, 5))
        parts = [Part(trunk, "dark", w * 1.6, form=_pillar(0, w * 1.6))]
        for i in range(tiers):
            low = -0.5 + i * 1.05 / tiers
            half = rng.uniform(0.58, 0.7) * (1 - 0.72 * i / tiers)
            top = low + 1.5 / tiers + 0.1
            tier = polygon([(-half, low), (0, low - 0.07), (half, low), (0, min(top, 1))])
            parts.append(Part(tier, "main", 0.22, textured=True))
        return parts
    branch = join(capsule(0, -0.3, 0.25, 0.1, 0.05), capsule(0, -0.25, -0.22, 0.12, 0.045))
    parts = [Part(join(trunk, branch), "dark", 0.1)]
    count = int(rng.integers(5, 8))
    turns = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2 * np.pi / count
    for turn in turns.tolist():
        x, y = 0.4 * float(np.cos(turn)), 0.36 + 0.28 * float(np.sin(turn))
        parts.append(Part(disc(x, y, rng.uniform(0.22, 0.32)), "main", 0.3, textured=True))
    parts.append(Part(disc(0.02, 0.4, rng.uniform(0.28, 0.36)), "main", 0.4, textured=True))
    return parts


def _house(rng: np.random.Generator) -> list[Part]:
    w, h = rng.uniform(0.5, 0.7), rng.uniform(0.36, 0.46)
    ridge, eave = rng.uniform(0.4, 0.62), rng.uniform(0.08, 0.16)
    base = -0.8
    top = base + 2 * h
    flat = rng.uniform(0, 0.3) if rng.uniform() < 0.5 else 0.0
    roof = [(-w - eave, top - 0.04), (w + eave, top - 0.04), (flat, top + ridge)]
    if flat:
        roof.append((-flat, top + ridge))
    side = 1 if rng.uniform() < 0.5 else -1
    door = -side * w * rng.uniform(0, 0.4)
    parts = [
        Part(box(side * w * 0.55, top + ridge * 0.6, 0.08, 0.3), "dark", 0.05),
        Part(box(0, base + h, w, h), "main", 0.06, textured=True),
        Part(polygon(roof), "second", 0.08),
        Part(box(door, base + h * 0.5, 0.12, h * 0.5), "dark", 0.04),
    ]
    for x in (-0.6 * w, 0.6 * w):
        if abs(x - door) > 0.26:
            y = base + h * 1.15
            parts.append(Part(box(x, y, 0.125, 0.135), "dark", 0.03))
            panes = [box(x + dx, y + dy, 0.045, 0.05)
                     for dx in (-0.055, 0.055) for dy in (-0.06, 0.06)]  # fmt: skip
            parts.append(Part(join(*panes), "light", 0.02))
    return parts


def _car(rng: np.random.Generator) -> list[Part]:
    h, roof = rng.uniform(0.17, 0.23), rng.uniform(0.3, 0.42)
    front, back = rng.uniform(0.28, 0.45), rng.uniform(-0.8, -0.5)
    r, wheel = rng.uniform(0.17, 0.23), rng.uniform(0.48, 0.56)
    top = -0.1 + h
    cabin = polygon([
        (back, top - 0.03), (front + 0.25, top - 0.03), (front - 0.08, top + roof),
        (back + 0.18, top + roof),
    ])  # fmt: skip
    pillar = (front + back) / 2 + 0.05
    rear = polygon([(back + 0.13, top), (pillar - 0.04, top), (pillar - 0.04, top + roof - 0.08),
                    (back + 0.23, top + roof - 0.08)])  # fmt: skip
    fore = polygon([(pillar + 0.04, top), (front + 0.12, top), (front - 0.12, top + roof - 0.08),
                    (pillar + 0.04, top + roof - 0.08)])  # fmt: skip
    parts = [
        Part(cabin, "main", 0.1),
        Part(box(0, -0.1, 0.95, h, 0.13), "main", 0.2, textured=True),
        Part(join(rear, fore), "light" if rng.uniform() < 0.5 else "dark", 0.04),
        Part(ellipse(0.9, -0.04, 0.05, 0.07), "light", 0.03),
    ]
    for x in (-wheel, wheel):
        parts.append(Part(disc(x, -0.1 - h, r), "dark", 0.06))
        parts.append(Part(disc(x, -0.1 - h, r * 0.5), "light", 0.05))
    return parts


def _umbrella(rng: np.random.Generator) -> list[Part]:
    r, base = rng.uniform(0.78, 0.92), rng.uniform(-0.05, 0.1)
    gores = int(rng.integers(3, 6))
    edges = np.linspace(-r, r, gores + 1)
    width = r / gores
    bites = [ellipse(float(m), base, width, width * 0.45) for m in (edges[:-1] + edges[1:]) / 2]
    squash = rng.uniform(0.75, 0.95)
    dome = cut(ellipse(0, base, r, r * squash), box(0, base - 1, 2, 1), *bites)
    hook, side = rng.uniform(0.1, 0.15), 1 if rng.uniform() < 0.5 else -1
    end = rng.uniform(-0.82, -0.7)
    parts = [
        Part(join(capsule(0, base + r * squash + 0.08, 0, end, 0.032),
                  arc(side * hook, end, hook, 0.045)), "dark", 0.05),
        Part(dome, "main", 0.5, textured=rng.uniform() < 0.5),
    ]  # fmt: skip
    for i in range(0, gores, 2):
        lo, hi = float(edges[i]), float(edges[i + 1])
        tip = base + r * squash
        gore = polygon([(lo, base), (0, tip), (hi, base)])
        parts.append(Part(_both(gore, dome), "second", 0.5))
    return parts


def _guitar(rng: np.random.Generator) -> list[Part]:
    low, high = rng.uniform(0.36, 0.44), rng.uniform(0.26, 0.33)
    body = soft_join(disc(0, -0.52, low), disc(0, -0.05, high), 0.14)
    if rng.uniform() < 0.3:
        body = cut(body, disc(high * 1.05, 0.22, high * 0.5))
    neck, top = rng.uniform(0.05, 0.075), rng.uniform(0.72, 0.82)
    hole = (0.0, -0.22)
    pegs = [box(0, top + dy, 0.18, 0.025) for dy in (0.02, 0.1, 0.18)]
    return [
        Part(join(*pegs), "light", 0.03),
        Part(body, "main", 0.2, textured=True),
        Part(disc(*hole, rng.uniform(0.11, 0.15)), "dark", 0.03),
        Part(box(0, (top - 0.2) / 2, neck, (top + 0.2) / 2), "second", 0.08),
        Part(box(0, top + 0.1, neck * 1.9, 0.14, 0.04), "dark", 0.05),
        Part(box(0, -0.68, 0.17, 0.035, 0.02), "dark", 0.03),
        Part(join(*(box(dx, 0, 0.009, 0.66) for dx in (-0.03, 0.03))), "light", 0.02),
    ]


def _mushroom(rng: np.random.Generator) -> list[Part]:
    w, foot = rng.uniform(0.14, 0.22), rng.uniform(1.15, 1.6)
    a, b, base = rng.uniform(0.6, 0.82), rng.uniform(0.5, 0.75), rng.uniform(-0.1, 0.1)
    stem = join(
        polygon([(-w, base + 0.1), (w, base + 0.1), (w * foot, -0.8), (-w * foot, -0.8)]),
        ellipse(0, -0.8, w * foot, 0.12),
    )
    cap = cut(ellipse(0, base, a, b), box(0, base - 1, 2, 1))
    under = ellipse(0, base, a, rng.uniform(0.09, 0.15))
    parts = [
        Part(stem, "light", w * foot, form=_pillar(0, w * foot)),
        Part(join(cap, under), "main", 0.45),
        Part(cut(under, ellipse(0, base + 0.06, a, 0.1)), "second", 0.04),
    ]
    if rng.uniform() < 0.3:
        parts[1] = Part(parts[1].distance, "main", 0.45, textured=True)
        return parts
    count = int(rng.integers(4, 8))
    for i in range(count):
        turn = np.pi * (0.1 + 0.8 * (i + rng.uniform(0.2, 0.8)) / count)
        reach = rng.uniform(0.35, 0.8)
        x, y = (
            a * reach * float(np.cos(turn)),
            base + 0.08 + (b - 0.1) * reach * float(np.sin(turn)),
        )
        parts.append(Part(ellipse(x, y, rng.uniform(0.07, 0.12), rng.uniform(0.06, 0.1)),
                          "light", 0.05))  # fmt: skip
    return parts


def _sailboat(rng: np.random.Generator) -> list[Part]:
    w, depth, slope = rng.uniform(0.7, 0.9), rng.uniform(0.24, 0.36), rng.uniform(0.12, 0.3)
    deck, mast, top = -0.45, rng.uniform(-0.1, 0.15), rng.uniform(0.8, 0.95)
    hull = polygon(
        [(-w, deck), (w, deck), (w - slope, deck - depth), (-w + slope * 0.7, deck - depth)]
    )
    foot = deck + rng.uniform(0.1, 0.16)
    main = polygon([(mast + 0.05, foot), (w * 0.85, foot), (mast + 0.05, top - 0.05)])
    jib = polygon(
        [(mast - 0.05, foot), (-w * 0.8, foot), (mast - 0.05, top * rng.uniform(0.6, 0.9))]
    )
    stripe = box(0, deck - 0.06, w - 0.06, 0.025)
    parts = [
        Part(box(mast, (deck + top) / 2, 0.03, (top - deck) / 2), "dark", 0.04),
        Part(hull, "main", 0.15, textured=rng.uniform() < 0.4),
        Part(stripe, "light", 0.02),
        Part(main, "light" if rng.uniform() < 0.5 else "second", 0.3, textured=True),
        Part(jib, "second", 0.25),
    ]
    if rng.uniform() < 0.6:
        flag = polygon([(mast, top + 0.02), (mast - 0.22, top - 0.05), (mast, top - 0.12)])
        parts.append(Part(flag, "main", 0.04))
    return parts


OBJECTS: dict[str, Builder] = {
    "mug": _mug,
    "key": _key,
    "fish": _fish,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "umbrella": _umbrella,
    "guitar": _guitar,
    "mushroom": _mushroom,
    "sailboat": _sailboat,
}
CLASSES: tuple[str, ...] = tuple(OBJECTS)

# How far, in degrees, an object may lean to either side.
TURN: dict[str, float] = {"key": 180, "guitar": 70, "fish": 40, "umbrella": 40, "mug": 30}
