"""What all charts share: a frame with a title, and lines to read values by."""

from __future__ import annotations

from markupsafe import escape

from sparsight.reports.text import clean

__all__ = ["BOTTOM", "HEIGHT", "LEFT", "RIGHT", "TOP", "WIDTH", "frame", "horizontal"]

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 34
WIDTH, HEIGHT = 400, 220


def frame(width: float, height: float, title: str, label: str) -> list[str]:
    """Begin an SVG: its size, what it is called, and what it shows in words."""
    return [
        f'<svg class="chart" viewBox="0 0 {width} {height}" style="max-width:{width}px" '
        f'role="img" aria-label="{escape(clean(label))}">'
        f'<text class="head" x="{LEFT}" y="16">{escape(clean(title))}</text>'
    ]


def horizontal(value: float, y: float, width: float, text: str) -> str:
    """Draw a line across, and its value at the left."""
    return (
        f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )
