"""Who is to blame, as charts that need no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from sparsight.reports.blame import BlameReport, Curves, Profile
from sparsight.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame, horizontal
from sparsight.reports.colours import HEAT
from sparsight.reports.pictures import image_uri, map_uri, shrink
from sparsight.reports.text import clean, percent, plain_number

__all__ = ["blame_context"]

_POINTS = 1500  # of a profile: more than pixels
_CLIP = 99.0  # percentile at which a map's colours end


def blame_context(report: BlameReport) -> dict[str, object]:
    """Work out what the template prints."""
    maps = []
    for profile in report.profiles:
        if profile.map is not None:
            heat = shrink(np.asarray(profile.map, dtype=np.float32))
            bound = float(np.percentile(heat, _CLIP)) or float(heat.max()) or 1.0
            maps.append((profile.side, map_uri(heat, bound, HEAT)))
    thumbnails = [
        (near, "" if near.picture is None else image_uri(near.picture, 160, photo=True))
        for near in report.neighbours
    ]
    return {
        "report": report,
        "maps": maps,
        "profiles": [
            (profile, profile_chart(profile, report.ranked_by)) for profile in report.profiles
        ],
        "depths": [(profile, depth_chart(profile)) for profile in report.profiles],
        "charts": _charts(report, report.curves),
        "mended": _charts(report, report.mended),
        "neighbours": thumbnails,
        "with_trace": any(unit.kept is not None for unit in report.units),
    }


def _charts(report: BlameReport, curves: Curves | None) -> list[Markup]:
    """Draw what becomes of the answer, and of others."""
    if curves is None:
        return []
    charts = [line_chart(f"Probability of {report.predicted}", curves.counts, curves.predicted)]
    if report.label != report.predicted:
        charts.append(line_chart(f"Probability of {report.label}", curves.counts, curves.true))
    if curves.damage:
        charts.append(line_chart("Right answers lost elsewhere", curves.counts, curves.damage))
    return charts


def line_chart(title: str, counts: Sequence[int], series: Mapping[str, Sequence[float]]) -> Markup:
    """Draw shares against the number of units off, a line for each order.

    Examples
    --------
    >>> str(line_chart("p", [0, 1], {"salient": [1.0, 0.2]}))[:4]
    '<svg'
    """
    ends = ", ".join(f"{name} {percent(values[-1])}" for name, values in series.items())
    parts = frame(WIDTH, HEIGHT, title, f"{title}; with {counts[-1]} units off: {ends}")
    inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    last = max(counts[-1], 1)

    def place(count: float, value: float) -> tuple[float, float]:
        # The root spreads the first few units, where most happens.
        return LEFT + inner * (count / last) ** 0.5, TOP + tall * (1 - min(max(value, 0), 1))

    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(horizontal(value, place(0, value)[1], WIDTH, f"{100 * value:.0f} %"))
    shown: list[float] = []
    for count in counts:
        x = place(count, 0)[0]
        if not shown or x - shown[-1] > 24:
            shown.append(x)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">'
                f"{count}</text>"
            )
    for name, values in series.items():
        points = [place(c, v) for c, v in zip(counts, values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline class="line {escape(name)}" points="{path}"><title>'
            f"{escape(clean(name))}</title></polyline>"
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def profile_chart(profile: Profile, score: str) -> Markup:
    """Draw the scores of all units, in each layer from the largest to the smallest."""
    width, height = 1060, 230
    total = sum(len(values) for _, values in profile.layers)
    ordered = [(title, np.sort(np.asarray(v, dtype=float))[::-1]) for title, v in profile.layers]
    high = max(float(values.max()) for _, values in ordered)
    low = min(0.0, min(float(values.min()) for _, values in ordered))
    span = max(high - low, 1e-12)
    tall, inner = height - TOP - BOTTOM, width - LEFT - RIGHT
    best = max(ordered, key=lambda pair: pair[1].max())
    sentence = (
        f"{profile.side}: {score} of {total} units; largest {plain_number(high)} in {best[0]}"
    )
    parts = frame(width, height, f"{profile.side}: {score}, sorted within each layer", sentence)
    for value in (low, (low + high) / 2, high):
        y = TOP + tall * (1 - (value - low) / span)
        parts.append(horizontal(value, y, width, plain_number(value)))
    start = 0
    for number, (title, values) in enumerate(ordered):
        few = max(2, round(_POINTS * len(values) / total))
        chosen = np.unique(np.linspace(0, len(values) - 1, few).round().astype(int))
        points = " ".join(
            f"{LEFT + inner * (start + i) / total:.1f},"
            f"{TOP + tall * (1 - (values[i] - low) / span):.1f}"
            for i in chosen
        )
        tip = f"{title}: {len(values)} units, largest {plain_number(float(values[0]))}"
        parts.append(
            f'<polyline class="line layer{number % 2}" points="{points}"><title>'
            f"{escape(clean(tip))}</title></polyline>"
        )
        start += len(values)
    parts.append(
        f'<text class="tick" x="{LEFT}" y="{height - 12}">first layer</text>'
        f'<text class="tick" x="{width - RIGHT}" y="{height - 12}" text-anchor="end">last</text>'
    )
    parts.append("</svg>")
    return Markup("".join(parts))


def depth_chart(profile: Profile) -> Markup:
    """Draw each layer's share of the units most to blame, and of all units as a dash."""
    rows = profile.depth
    step = min(40.0, max(7.0, 1000 / max(1, len(rows))))
    width, height = max(420.0, LEFT + RIGHT + step * len(rows)), 200
    top = max(max(max(blamed, own) for _, blamed, own in rows), 1e-9)
    tall = height - TOP - BOTTOM
    most = max(rows, key=lambda row: row[1])
    title = f"{profile.side}: where the units most to blame are"
    parts = frame(width, height, title, f"{title}; most in {most[0]}, {percent(most[1])}")
    for value in (0.0, top / 2, top):
        y = TOP + tall * (1 - value / top)
        parts.append(horizontal(value, y, width, percent(value, 0)))
    for number, (name, blamed, own) in enumerate(rows):
        x, y = LEFT + step * number, TOP + tall * (1 - blamed / top)
        tip = f"{name}: {percent(blamed)} of those to blame, {percent(own)} of all units"
        dash = TOP + tall * (1 - own / top)
        parts.append(
            f"<g><title>{escape(clean(tip))}</title>"
            f'<rect class="bar" x="{x + step * 0.15:.1f}" y="{y:.1f}" width="{step * 0.7:.1f}" '
            f'height="{max(0.0, TOP + tall - y):.1f}"/>'
            f'<path class="own" d="M{x + 1:.1f} {dash:.1f}h{step - 2:.1f}"/></g>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))
