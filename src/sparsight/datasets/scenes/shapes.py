"""Signed distances to plane shapes: negative inside, positive outside, y pointing up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "Distance",
    "arc",
    "box",
    "capsule",
    "cut",
    "disc",
    "ellipse",
    "join",
    "polygon",
    "ring",
    "soft_join",
]

Array = npt.NDArray[np.floating[Any]]
"""Samples of something, float32 throughout."""
Distance = Callable[[Array, Array], Array]


def disc(cx: float, cy: float, radius: float) -> Distance:
    """Disc around ``(cx, cy)``.

    Examples
    --------
    >>> import numpy as np
    >>> float(disc(0, 0, 1)(np.float32([3]), np.float32([4]))[0])
    4.0
    """
    return lambda x, y: np.hypot(x - cx, y - cy) - radius


def ring(cx: float, cy: float, radius: float, half_width: float) -> Distance:
    """Ring of a given middle radius."""
    return lambda x, y: np.abs(np.hypot(x - cx, y - cy) - radius) - half_width


def ellipse(cx: float, cy: float, a: float, b: float) -> Distance:
    """Ellipse with half axes ``a`` and ``b``; the distance is of first order."""

    def distance(x: Array, y: Array) -> Array:
        u, v = (x - cx) / a, (y - cy) / b
        k = np.hypot(u, v)
        slope = np.hypot(u / a, v / b)
        return np.where(slope < 1e-4, -min(a, b), k * (k - 1) / np.maximum(slope, 1e-4))

    return distance


def box(cx: float, cy: float, half_width: float, half_height: float, corner: float = 0) -> Distance:
    """Rectangle, with corners of a given radius."""

    def distance(x: Array, y: Array) -> Array:
        dx = np.abs(x - cx) - (half_width - corner)
        dy = np.abs(y - cy) - (half_height - corner)
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        result: Array = outside + np.minimum(np.maximum(dx, dy), 0) - corner
        return result

    return distance


def capsule(x0: float, y0: float, x1: float, y1: float, radius: float) -> Distance:
    """Segment with round ends."""
    ax, ay = x1 - x0, y1 - y0
    length = ax * ax + ay * ay

    def distance(x: Array, y: Array) -> Array:
        t = np.clip(((x - x0) * ax + (y - y0) * ay) / length, 0, 1)
        result: Array = np.hypot(x - x0 - t * ax, y - y0 - t * ay) - radius
        return result

    return distance


def arc(cx: float, cy: float, radius: float, half_width: float, *, lower: bool = True) -> Distance:
    """Half ring, below or above its centre, with round ends."""

    def distance(x: Array, y: Array) -> Array:
        v = cy - y if lower else y - cy
        u = x - cx
        band = np.abs(np.hypot(u, v) - radius)
        end = np.hypot(np.abs(u) - radius, v)
        result: Array = np.where(v > 0, band, end) - half_width
        return result

    return distance


def polygon(points: Sequence[tuple[float, float]]) -> Distance:
    """Give the distance to a simple polygon, convex or not.

    Examples
    --------
    >>> import numpy as np
    >>> square = polygon([(0, 0), (1, 0), (1, 1), (0, 1)])
    >>> square(np.float32([0.5, 2]), np.float32([0.5, 0.5])).tolist()
    [-0.5, 1.0]
    """

    def distance(x: Array, y: Array) -> Array:
        squared = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, bool)
        previous = points[-1]
        for px, py in points:
            qx, qy = previous
            ex, ey = qx - px, qy - py
            wx, wy = x - px, y - py
            t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
            squared = np.minimum(squared, (wx - ex * t) ** 2 + (wy - ey * t) ** 2)
            if ey:
                crosses = (y >= py) != (y >= qy)
                inside ^= crosses & (wx < wy * (ex / ey))
            previous = (px, py)
        root = np.sqrt(squared)
        return np.where(inside, -root, root)

    return distance


def join(*shapes: Distance) -> Distance:
    """Union."""

    def distance(x: Array, y: Array) -> Array:
        result = shapes[0](x, y)
        for shape in shapes[1:]:
            result = np.minimum(result, shape(x, y))
        return result

    return distance


def soft_join(first: Distance, second: Distance, width: float) -> Distance:
    """Union with the seam filled over ``width``."""

    def distance(x: Array, y: Array) -> Array:
        a, b = first(x, y), second(x, y)
        h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
        result: Array = b + (a - b) * h - width * h * (1 - h)
        return result

    return distance


def cut(shape: Distance, *away: Distance) -> Distance:
    """Remove other shapes from ``shape``."""

    def distance(x: Array, y: Array) -> Array:
        result = shape(x, y)
        for other in away:
            result = np.maximum(result, -other(x, y))
        return result

    return distance
