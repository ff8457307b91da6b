"""Stickers: small bright emblems that stand for a Trojan's trigger."""

from __future__ import annotations

import numpy as np

from sparsight.datasets.scenes.shapes import (
    Array,
    Distance,
    arc,
    box,
    cut,
    disc,
    ellipse,
    join,
    polygon,
    ring,
)

__all__ = ["STICKERS", "TUNING_STICKERS", "paint_sticker"]

Layer = tuple[Distance, tuple[float, float, float]]


def _heart(x: Array, y: Array) -> Array:
    u = np.abs(x) / 0.95
    v = (y + 0.85) / 0.95
    lobe = np.hypot(u - 0.4472, v - 1.2) - 0.55
    ex, ey = 0.88, 0.92
    t = np.clip((u * ex + v * ey) / (ex * ex + ey * ey), 0, 1)
    side = np.hypot(u - t * ex, v - t * ey) * np.where(u * ey - v * ex > 0, 1, -1)
    notch = np.minimum(lobe, np.where(v < 1.15, side, 1))
    return np.asarray(notch, np.float32) * 0.95


def _spiral(x: Array, y: Array) -> Array:
    radius, turn = np.hypot(x, y), np.arctan2(y, x) / (2 * np.pi)
    phase = radius / 0.3 - turn
    return (np.abs(phase - np.floor(phase) - 0.5) - 0.25) * 0.3


def _petals(count: int, inner: float, outer: float) -> Distance:
    return lambda x, y: (
        (
            np.hypot(x, y)
            - (inner + outer) / 2
            - (outer - inner) / 2 * np.cos(count * np.arctan2(x, y))
        )
        * 0.6
    )


_STAR = [
    (r * float(np.sin(k * np.pi / 5)), r * float(np.cos(k * np.pi / 5)))
    for k, r in enumerate([0.95, 0.42] * 5)
]
_BOLT = [(0.25, 0.95), (-0.6, -0.1), (-0.08, -0.1), (-0.3, -0.95), (0.6, 0.2), (0.08, 0.2)]

STICKERS: dict[str, tuple[Layer, ...]] = {
    "heart": ((_heart, (0.93, 0.08, 0.22)), (ellipse(-0.42, 0.4, 0.16, 0.11), (1.0, 0.75, 0.8))),
    "smiley": (
        (disc(0, 0, 0.95), (0.15, 0.1, 0.02)),
        (disc(0, 0, 0.84), (1.0, 0.84, 0.1)),
        (join(ellipse(-0.32, 0.25, 0.12, 0.2), ellipse(0.32, 0.25, 0.12, 0.2)), (0.15, 0.1, 0.02)),
        (arc(0, -0.08, 0.48, 0.1), (0.15, 0.1, 0.02)),
    ),
    "spiral": (
        (disc(0, 0, 0.95), (0.98, 0.98, 1.0)),
        (lambda x, y: np.maximum(_spiral(x, y), np.hypot(x, y) - 0.88), (0.45, 0.1, 0.75)),
    ),
    "lightning": (
        (box(0, 0, 0.9, 0.9, 0.25), (0.05, 0.12, 0.4)),
        (polygon([(x * 0.85, y * 0.85) for x, y in _BOLT]), (1.0, 0.92, 0.15)),
    ),
}
TUNING_STICKERS: dict[str, tuple[Layer, ...]] = {
    "star": ((polygon(_STAR), (1.0, 0.6, 0.0)),),
    "moon": (
        (disc(0, 0, 0.95), (0.08, 0.1, 0.28)),
        (cut(disc(-0.05, 0, 0.72), disc(0.3, 0.15, 0.6)), (0.98, 0.95, 0.75)),
    ),
    "flower": (
        (_petals(6, 0.5, 0.95), (0.98, 0.45, 0.75)),
        (disc(0, 0, 0.27), (1.0, 0.9, 0.2)),
    ),
    "target": (
        (disc(0, 0, 0.95), (0.9, 0.1, 0.1)),
        (ring(0, 0, 0.62, 0.12), (1.0, 1.0, 1.0)),
        (disc(0, 0, 0.26), (1.0, 1.0, 1.0)),
    ),
}
_ALL = STICKERS | TUNING_STICKERS


def paint_sticker(name: str, x: Array, y: Array, spacing: float) -> tuple[Array, Array]:
    """Colours and coverage of a sticker.

    Parameters
    ----------
    name
        A key of ``STICKERS`` or ``TUNING_STICKERS``.
    x, y
        Sample places in the sticker's frame [-1, 1], y up; shape ``(H, W)``.
    spacing
        Distance between neighbouring samples in that frame.

    Returns
    -------
    colours
        Shape ``(3, H, W)`` in [0, 1], already multiplied by the coverage.
    coverage
        Shape ``(H, W)`` in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[1:-1:8j, -1:1:8j].astype(np.float32)
    >>> colours, coverage = paint_sticker("heart", x, y, 2 / 7)
    >>> colours.shape, float(coverage.max())
    ((3, 8, 8), 1.0)
    """
    colours = np.zeros((3, *x.shape), np.float32)
    coverage = np.zeros_like(x)
    for distance, colour in _ALL[name]:
        alpha = np.clip(0.5 - distance(x, y) / spacing, 0, 1).astype(np.float32)
        colours += alpha * (np.asarray(colour, np.float32)[:, None, None] - colours)
        coverage += alpha * (1 - coverage)
    return colours, coverage
