"""A federation on a page: accuracy against rounds and bytes, what was sent, who has what."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from sparsight.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame, horizontal
from sparsight.reports.federate import FederateReport
from sparsight.reports.page import environment, styles
from sparsight.reports.text import clean, percent, plain_number

__all__ = ["accuracy_chart", "client_chart", "render_federate", "sent_chart"]

_NAMES = ("local", "global")
_CELL, _ROW = 16.0, 18.0
_MEBI = 2**20


def accuracy_chart(report: FederateReport, *, by_bytes: bool = False) -> Markup:
    """Draw accuracies against rounds, or against mebibytes that went up and down.

    Examples
    --------
    >>> row = {"round": 1, "up": 10, "down": 20, "local": 0.5, "failed": {}, "sent": {}}
    >>> str(accuracy_chart(FederateReport("net", {}, ["a"], {}, [row])))[:4]
    '<svg'
    """
    spent, places = 0.0, []
    for row in report.log:
        spent += (row["up"] + row["down"]) / _MEBI
        places.append(spent if by_bytes else float(row["round"]))
    most = max(places)
    title = "Accuracy against mebibytes, up and down" if by_bytes else "Accuracy against rounds"
    ends = ", ".join(f"{n} {percent(report.last[n])}" for n in _NAMES if n in report.last)
    parts = frame(WIDTH, HEIGHT, title, f"{title}; at last: {ends}")
    inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(horizontal(part, TOP + tall * (1 - part), WIDTH, percent(part, 0)))
    for kind, name in enumerate(_NAMES):
        points = [
            (LEFT + inner * place / most, TOP + tall * (1 - row[name]), row)
            for place, row in zip(places, report.log, strict=True)
            if name in row
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline class="line line{kind}" points="{line}"/>')
        parts += [
            f'<circle class="dot{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"><title>'
            f"{name}, round {row['round']}: {percent(row[name])}</title></circle>"
            for x, y, row in points
        ]
    end = plain_number(most) if by_bytes else str(int(most))
    parts.append(
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 14}">0</text>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 14}" text-anchor="end">{end}</text>'
        "</svg>"
    )
    return Markup("".join(parts))


def _heat(
    title: str, label: str, names: Sequence[str], rows: Sequence[Sequence[float]],
    tips: Sequence[Sequence[str]], left: str, right: str,
) -> Markup:  # fmt: skip
    """Draw a table of shares: the darker, the more."""
    wide = 8 + 6.2 * max(map(len, names), default=1)
    step = max(3.0, min(_CELL, 640 / max(1, len(rows[0]))))
    width = wide + step * len(rows[0]) + RIGHT
    height = TOP + _ROW * len(rows) + BOTTOM
    parts = frame(max(width, 360), height, title, label)
    for number, (name, values) in enumerate(zip(names, rows, strict=True)):
        y = TOP + _ROW * number
        parts.append(
            f'<text class="tick" x="{wide - 6:.1f}" y="{y + 12:.1f}" text-anchor="end">'
            f"{escape(clean(name))}</text>"
        )
        for place, value in enumerate(values):
            parts.append(
                f'<rect class="cell" x="{wide + step * place:.1f}" y="{y:.1f}" '
                f'width="{max(step - 1, 1):.1f}" height="{_ROW - 2:.1f}" '
                f'opacity="{0.06 + 0.94 * min(max(value, 0), 1):.3f}"><title>'
                f"{escape(clean(tips[number][place]))}</title></rect>"
            )
    base = height - 14
    parts.append(
        f'<text class="tick" x="{wide:.1f}" y="{base:.1f}">{escape(clean(left))}</text>'
        f'<text class="tick" x="{wide + step * len(rows[0]):.1f}" y="{base:.1f}" '
        f'text-anchor="end">{escape(clean(right))}</text></svg>'
    )
    return Markup("".join(parts))


def sent_chart(report: FederateReport) -> Markup:
    """Draw the share of each layer that clients sent, over the rounds."""
    rows = [row for row in report.log if row["sent"]]
    names = list(rows[0]["sent"])
    values = [[float(row["sent"][name]) for row in rows] for name in names]
    tips = [
        [f"{name}, round {row['round']}: {percent(row['sent'][name])}" for row in rows]
        for name in names
    ]
    title = "Share of each layer that clients sent"
    return _heat(
        title, f"{title}, over {len(rows)} rounds", [n.removesuffix(".weight") for n in names],
        values, tips, "first round", "last" if len(rows) > 6 else "",
    )  # fmt: skip


def client_chart(report: FederateReport) -> Markup:
    """Draw which classes each client has."""
    counts = report.clients["counts"]
    values = [[count / max(1, sum(own)) for count in own] for own in counts]
    named = list(report.classes) + [str(n) for n in range(len(report.classes), len(counts[0]))]
    tips = [
        [f"client {client}: {count} of {named[label]}" for label, count in enumerate(own)]
        for client, own in enumerate(counts)
    ]
    title = "Which classes each client has"
    return _heat(
        title, f"{title}; {len(counts)} clients, {len(counts[0])} classes",
        [f"client {n}: {sum(own)} images" for n, own in enumerate(counts)], values, tips,
        named[0], named[len(counts[0]) - 1] if len(counts[0]) > 9 else "",
    )  # fmt: skip


def render_federate(report: FederateReport) -> str:
    """Render a page of its own; it loads nothing and runs no script.

    Examples
    --------
    >>> row = {"round": 1, "up": 10, "down": 20, "loss": 1.0, "seconds": 0.5, "local": 0.5}
    >>> row |= {"least": 0.5, "failed": {}, "sent": {"conv": 0.5}, "answered": [0]}
    >>> clients = {"images": [3], "counts": [[1, 2]], "distance": 0.0}
    >>> settings = {"algorithm": "spatl", "selector": "update", "budget": 0.5, "head": "local"}
    >>> text = render_federate(FederateReport("<net>", settings, ["a", "b"], clients, [row]))
    >>> "&lt;net&gt;" in text, "<script" in text
    (True, False)
    """
    measured = any(name in row for row in report.log for name in _NAMES)
    charts = [accuracy_chart(report), accuracy_chart(report, by_bytes=True)] if measured else []
    sent = sent_chart(report) if any(row["sent"] for row in report.log) else None
    return (
        environment()
        .get_template("federate_page.html.j2")
        .render(
            report=report, charts=charts, sent=sent, clients=client_chart(report), mebi=_MEBI,
            style=styles("base", "chart", "harden", "federate"),
        )
    )  # fmt: skip
