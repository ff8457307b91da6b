"""A hardened network on a page: what is left where, how it came to be, what holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from markupsafe import Markup, escape

from sparsight.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame, horizontal
from sparsight.reports.harden import HardenReport
from sparsight.reports.page import environment, styles
from sparsight.reports.text import clean, percent, plain_number

__all__ = ["epoch_chart", "rate_chart", "render_harden"]

_WIDE = 1060


def epoch_chart(
    title: str, log: Sequence[Mapping[str, Any]], names: Sequence[str], *, shares: bool = True
) -> Markup:
    """Draw columns of the log over the epochs, dashed lines between the stages.

    Examples
    --------
    >>> rows = [{"stage": "prune", "epoch": 1, "loss": 2.0}]
    >>> str(epoch_chart("Loss", rows, ["loss"], shares=False))[:4]
    '<svg'
    """
    values = [row[name] for row in log for name in names if name in row]
    top = 1.0 if shares else max([*values, 1e-9])
    ends = ", ".join(
        f"{name} {_number([row[name] for row in log if name in row][-1], shares)}"
        for name in names
        if any(name in row for row in log)
    )
    parts = frame(WIDTH, HEIGHT, title, f"{title}; at last: {ends}")
    inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most = max(1, len(log) - 1)

    def place(number: int, value: float) -> tuple[float, float]:
        return LEFT + inner * number / most, TOP + tall * (1 - min(max(value / top, 0), 1))

    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = _number(top * part, shares)
        parts.append(horizontal(top * part, place(0, top * part)[1], WIDTH, text))
    for number in range(1, len(log)):
        if log[number]["stage"] != log[number - 1]["stage"]:
            x = place(number, 0)[0] - inner / most / 2
            parts.append(
                f'<line class="line stage" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" '
                f'y2="{TOP + tall}"><title>{escape(clean(log[number]["stage"]))}</title></line>'
            )
    for number, label in {0: "1", len(log) - 1: str(len(log))}.items():
        x = place(number, 0)[0]
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{label}</text>'
        )
    for kind, name in enumerate(names):
        points = " ".join(
            "{:.1f},{:.1f}".format(*place(number, row[name]))
            for number, row in enumerate(log)
            if name in row
        )
        parts.append(
            f'<polyline class="line line{kind}" points="{points}"><title>{escape(clean(name))}'
            "</title></polyline>"
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def _number(value: float, share: bool) -> str:
    return percent(value, 0) if share else plain_number(value)


def rate_chart(kept: Sequence[tuple[str, int, int]], share: float) -> Markup:
    """Draw the share that is left of each layer, on a scale of powers of ten.

    Examples
    --------
    >>> str(rate_chart([("conv", 2, 10), ("fc", 1, 100)], 3 / 110))[:4]
    '<svg'
    """
    lowest = min(own / size for _, own, size in kept)
    decades = 1 + int(-log10(max(lowest, 1e-9)) + 1e-9)  # the least has some height
    step = min(60.0, (_WIDE - LEFT - RIGHT) / len(kept))
    width = max(420.0, LEFT + RIGHT + step * len(kept))
    tall = HEIGHT - TOP - BOTTOM
    least = min(kept, key=lambda row: row[1] / row[2])
    parts = frame(
        width, HEIGHT, "Share of each layer that is left",
        f"Share of each layer that is left; least in {least[0]}, {percent(least[1] / least[2])}",
    )  # fmt: skip

    def height(rate: float) -> float:
        return tall * max(0.0, 1 + log10(max(rate, 1e-9)) / decades)

    for decade in range(decades + 1):
        value = 10.0**-decade
        parts.append(horizontal(value, TOP + tall - height(value), width, percent(value)))
    for number, (name, own, size) in enumerate(kept):
        rate = own / size
        x, tip = LEFT + step * number, f"{name}: {own} of {size}, {percent(rate)}"
        parts.append(
            f"<g><title>{escape(clean(tip))}</title>"
            f'<rect class="bar" x="{x + step * 0.15:.1f}" y="{TOP + tall - height(rate):.1f}" '
            f'width="{step * 0.7:.1f}" height="{height(rate):.1f}"/></g>'
        )
    y = TOP + tall - height(share)
    parts.append(f'<line class="own" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 12}">first layer</text>'
        f'<text class="tick" x="{width - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">last</text>'
        "</svg>"
    )
    return Markup("".join(parts))


def render_harden(report: HardenReport) -> str:
    """Render a page of its own; it loads nothing and runs no script.

    Examples
    --------
    >>> settings = {"mode": "weights", "method": "harp", "target": 0.1, "objective": "pgd"}
    >>> report = HardenReport("<net>", settings, True, [("conv", 1, 10)], [], {})
    >>> text = render_harden(report)
    >>> "&lt;net&gt;" in text, "<script" in text
    (True, False)
    """
    charts = []
    if report.log:
        charts = [
            epoch_chart("Accuracy on images set apart", report.log, ["clean", "robust"]),
            epoch_chart("Loss", report.log, ["loss"], shares=False),
        ]
        if any("share" in row for row in report.log):
            pruned = [row for row in report.log if "share" in row]
            charts.append(
                epoch_chart("Share kept, as the rates have it", pruned, ["share"], shares=False)
            )
    attacks = {
        name: row for name, row in (report.robustness or {}).items() if isinstance(row, Mapping)
    }
    return (
        environment()
        .get_template("harden_page.html.j2")
        .render(
            report=report,
            rates=rate_chart(report.kept, report.share),
            charts=charts,
            attacks=attacks,
            style=styles("base", "chart", "harden"),
        )
    )
