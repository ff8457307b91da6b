"""The per-layer plot as SVG: what was removed above, what it cost below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sparsight.reports.case import LayerRow
from sparsight.reports.text import clean, percent, plain_number

__all__ = ["layer_plot", "layer_sentence", "ticks"]

_LEFT, _RIGHT, _TOP, _PANEL, _GAP, _BOTTOM = 52, 14, 26, 118, 40, 34


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from at or below ``low`` to at or above ``high``.

    Examples
    --------
    >>> ticks(0.0, 0.31)
    [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    span = max(high - low, 1e-9)
    size = 10.0 ** math.floor(math.log10(span / (most - 1)))
    step = next(k * size for k in (1, 2, 5, 10, 20) if span / (k * size) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Axis:
    top: float
    values: list[float]

    def y(self, value: float) -> float:
        low, high = self.values[0], self.values[-1]
        share = (min(max(value, low), high) - low) / (high - low)
        return round(self.top + _PANEL * (1 - share), 2)

    def lines(self, width: float, *, as_percent: bool) -> str:
        parts = []
        for value in self.values:
            label = f"{100 * value:.4g} %" if as_percent else plain_number(value)
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y}" y2="{y}"/>'
                f'<text class="tick" x="{_LEFT - 8}" y="{y + 3.5}" text-anchor="end">{label}</text>'
            )
        return "".join(parts)


def _tooltip(place: int, row: LayerRow) -> str:
    parts = [
        f"{place}. {row.name} ({row.kind})",
        f"removed {percent(row.sparsity)}, asked {percent(row.requested)}",
        "output error not measured" if row.error is None else f"output error {row.error:.3g}",
    ]
    if row.note:
        parts.append(row.note)
    return clean(" · ".join(parts))


def layer_sentence(layers: Sequence[LayerRow]) -> str:
    """Say the plot in words, for those who do not see it and those in a hurry.

    Examples
    --------
    >>> layer_sentence([LayerRow("fc", "fc.weight", "Linear", 2, 2, 1, 0.5, 0.5, 0.25)])
    '1 layer. Largest relative output error: fc 0.25. Median 0.25.'
    """
    parts = [f"{len(layers)} layer{'' if len(layers) == 1 else 's'}."]
    measured = [(row.error, row.name) for row in layers if row.error is not None]
    if measured:
        worst = sorted(measured, key=lambda pair: -pair[0])[:3]
        listed = ", ".join(f"{name} {error:.2g}" for error, name in worst)
        errors = sorted(error for error, _ in measured)
        middle = len(errors) // 2
        median = errors[middle] if len(errors) % 2 else (errors[middle - 1] + errors[middle]) / 2
        parts.append(f"Largest relative output error: {listed}. Median {median:.2g}.")
    noted = sum(1 for row in layers if row.note)
    if noted:
        has = "layer has a note" if noted == 1 else "layers have notes"
        parts.append(f"{noted} {has} from the solver (marked ▲, text in the table).")
    return " ".join(parts)


def layer_plot(layers: Sequence[LayerRow]) -> Markup:
    """Draw the layers in order: sparsity as dots with the request as a dash, errors as bars.

    The width follows the number of layers, so that 5 and 161 are both legible. Colours come from
    the page's style sheet; every layer has a ``<title>`` and ``data-tip`` for the script.

    Examples
    --------
    >>> str(layer_plot([LayerRow("fc", "fc.weight", "Linear", 2, 2, 1, 0.5, 0.5)]))[:4]
    '<svg'
    """
    step = min(44.0, max(6.6, 1060 / max(1, len(layers))))
    width = round(max(420.0, _LEFT + _RIGHT + step * len(layers)), 1)
    fractions = [value for row in layers for value in (row.sparsity, row.requested)]
    low = max(0.0, min(fractions) - 0.005)
    upper = _Axis(_TOP, ticks(low, 1.0) if low > 0.1 else ticks(0.0, 1.0))
    errors = [row.error for row in layers if row.error is not None]
    lower = _Axis(_TOP + _PANEL + _GAP, ticks(0.0, max(errors, default=0.0) or 0.1))
    height = lower.top + _PANEL + _BOTTOM
    parts = [
        f'<svg class="layers" viewBox="0 0 {width} {height}" '
        f'style="max-width:{width}px;min-width:{min(960.0, width)}px" '
        f'role="img" aria-label="{escape(clean(layer_sentence(layers)))}">',
        f'<text class="head" x="{_LEFT}" y="14">Weights removed</text>',
        upper.lines(width, as_percent=True),
        f'<text class="head" x="{_LEFT}" y="{lower.top - 12}">Relative output error</text>',
        lower.lines(width, as_percent=False),
    ]
    dot = round(min(3.6, max(1.9, step * 0.3)), 2)
    bar = round(min(16.0, step * 0.68), 2)
    base = lower.y(lower.values[0])
    every = next(k for k in (1, 5, 10, 20, 50, 100, 500) if len(layers) / k <= 24 or k == 500)
    for place, row in enumerate(layers, start=1):
        x = round(_LEFT + step * (place - 0.5), 2)
        half = round(min(8.0, step * 0.42), 2)
        tip = escape(_tooltip(place, row))
        parts.append(f'<g class="layer" data-tip="{tip}"><title>{tip}</title>')
        parts.append(
            f'<rect class="hit" x="{x - step / 2:.2f}" y="{_TOP}" width="{step:.2f}" '
            f'height="{base - _TOP:.2f}"/>'
        )
        asked = upper.y(row.requested)
        parts.append(f'<path class="asked" d="M{x - half:.2f} {asked}h{2 * half:.2f}"/>')
        parts.append(f'<circle class="got" cx="{x}" cy="{upper.y(row.sparsity)}" r="{dot}"/>')
        if row.error is not None:
            y = lower.y(row.error)
            parts.append(
                f'<rect class="error" x="{x - bar / 2:.2f}" y="{y}" width="{bar}" '
                f'height="{max(0.0, base - y):.2f}"/>'
            )
        if row.note:
            parts.append(f'<path class="noted" d="M{x} {base + 4}l3.4 6h-6.8z"/>')
        parts.append("</g>")
        if place == 1 or place % every == 0:
            parts.append(
                f'<text class="tick" x="{x}" y="{base + 23}" text-anchor="middle">{place}</text>'
            )
    parts.append("</svg>")
    return Markup("".join(parts))
