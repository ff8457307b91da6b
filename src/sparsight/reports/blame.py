"""Who is to blame, as plain data, and as charts that need no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from sparsight.errors import InputError
from sparsight.reports.colours import HEAT
from sparsight.reports.pictures import image_uri, map_uri, shrink
from sparsight.reports.text import clean, percent, plain_number

__all__ = [
    "BlameReport",
    "BlamedUnit",
    "Curves",
    "Profile",
    "SimilarImage",
    "blame_context",
]

Array = NDArray[np.floating]

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 34
_WIDTH, _HEIGHT = 400, 220
_POINTS = 1500  # of a profile: more than pixels
_CLIP = 99.0  # percentile at which a map's colours end


@dataclass(frozen=True)
class BlamedUnit:
    """A unit that is to blame: its layer, number, scores, and what a trace kept of its weights."""

    layer: str
    number: int
    score: float
    z: float
    share: float
    kept: float | None = None


@dataclass(frozen=True, eq=False)
class Profile:
    """Scores of all units, layer by layer, of one network.

    Attributes
    ----------
    side
        ``Dense`` or ``Traced``.
    layers
        Title, and scores of its units.
    depth
        Title, share of the units most to blame, share of all units.
    raised
        Share of units whose z-score is above zero.
    map
        ``(H, W)``, not negative: pixels that drive the units most to blame.
    """

    side: str
    layers: Sequence[tuple[str, Array]]
    depth: Sequence[tuple[str, float, float]]
    raised: float
    map: Array | None = None


@dataclass(frozen=True, eq=False)
class Curves:
    """What becomes of the answer as units go off, by the order in which they do.

    Attributes
    ----------
    counts
        Units off.
    predicted, true
        Probability of the class predicted and of the label, by order.
    damage
        Share of right answers lost, by order; empty if not measured.
    mode
        What off means.
    """

    counts: Sequence[int]
    predicted: Mapping[str, Sequence[float]]
    true: Mapping[str, Sequence[float]]
    damage: Mapping[str, Sequence[float]] = field(default_factory=dict)
    mode: str = "weights"


@dataclass(frozen=True, eq=False)
class SimilarImage:
    """An image that fails for the same reason; its picture if it could be read."""

    name: str
    label: str
    predicted: str
    similarity: float
    picture: Array | None = None


@dataclass(frozen=True, eq=False)
class BlameReport:
    """Everything about a mistake that a page shows.

    Attributes
    ----------
    label, predicted
        What the answer should be, and what it is.
    loss
        Of the label, or what gradients are of.
    ranked_by
        Name of the score.
    units
        Those most to blame, the worst first.
    profiles
        Of the dense network, and of a trace.
    curves
        Of knocking out, if they were measured.
    neighbours
        Images that fail for the same reason.
    facts
        Settings to print, name and value.
    overlap
        Share of the units most to blame that the trace kept any weight of, and of all units.
    """

    label: str
    predicted: str
    loss: float
    ranked_by: str
    units: Sequence[BlamedUnit]
    profiles: Sequence[Profile]
    curves: Curves | None = None
    neighbours: Sequence[SimilarImage] = ()
    facts: Sequence[tuple[str, str]] = ()
    overlap: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.profiles:
            raise InputError("no profile: blame needs that of one network at least, so give one")

    def describe(self) -> dict[str, object]:
        """Plain values for a manifest; pictures and profiles are in :meth:`arrays`."""
        return {
            "label": self.label,
            "predicted": self.predicted,
            "loss": self.loss,
            "ranked_by": self.ranked_by,
            "units": [vars(unit) for unit in self.units],
            "profiles": [
                {
                    "side": profile.side,
                    "layers": [title for title, _ in profile.layers],
                    "depth": [list(row) for row in profile.depth],
                    "raised": profile.raised,
                }
                for profile in self.profiles
            ],
            "curves": None if self.curves is None else vars(self.curves),
            "neighbours": [
                {key: value for key, value in vars(near).items() if key != "picture"}
                for near in self.neighbours
            ],
            "facts": [list(fact) for fact in self.facts],
            "overlap": None if self.overlap is None else list(self.overlap),
        }

    def arrays(self) -> dict[str, Array]:
        """Scores of all units, maps and pictures, by name."""
        found: dict[str, Array] = {}
        for profile in self.profiles:
            side = profile.side.lower()
            found |= {f"{side}/scores/{title}": scores for title, scores in profile.layers}
            if profile.map is not None:
                found[f"{side}/map"] = profile.map
        for number, near in enumerate(self.neighbours):
            if near.picture is not None:
                found[f"near/{number}"] = near.picture
        return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}

    @classmethod
    def read(cls, described: Mapping[str, Any], arrays: Mapping[str, Array]) -> BlameReport:
        """Put together what :meth:`describe` and :meth:`arrays` took apart.

        Raises
        ------
        KeyError, TypeError
            If something is missing.
        """
        profiles = [
            Profile(
                one["side"],
                [(t, arrays[f"{one['side'].lower()}/scores/{t}"]) for t in one["layers"]],
                [(name, blamed, own) for name, blamed, own in one["depth"]],
                one["raised"],
                arrays.get(f"{one['side'].lower()}/map"),
            )
            for one in described["profiles"]
        ]
        curves, overlap = described["curves"], described["overlap"]
        return cls(
            described["label"],
            described["predicted"],
            described["loss"],
            described["ranked_by"],
            [BlamedUnit(**unit) for unit in described["units"]],
            profiles,
            None if curves is None else Curves(**curves),
            [
                SimilarImage(**near, picture=arrays.get(f"near/{number}"))
                for number, near in enumerate(described["neighbours"])
            ],
            [(name, value) for name, value in described["facts"]],
            None if overlap is None else (overlap[0], overlap[1]),
        )


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
    charts = []
    if report.curves is not None:
        curves = report.curves
        charts = [
            line_chart(f"Probability of {report.predicted}", curves.counts, curves.predicted),
        ]
        if report.label != report.predicted:
            charts.append(line_chart(f"Probability of {report.label}", curves.counts, curves.true))
        if curves.damage:
            charts.append(line_chart("Right answers lost elsewhere", curves.counts, curves.damage))
    return {
        "report": report,
        "maps": maps,
        "profiles": [
            (profile, profile_chart(profile, report.ranked_by)) for profile in report.profiles
        ],
        "depths": [(profile, depth_chart(profile)) for profile in report.profiles],
        "charts": charts,
        "neighbours": thumbnails,
        "with_trace": any(unit.kept is not None for unit in report.units),
    }


def _frame(width: float, height: float, title: str, label: str) -> list[str]:
    return [
        f'<svg class="chart" viewBox="0 0 {width} {height}" style="max-width:{width}px" '
        f'role="img" aria-label="{escape(clean(label))}">'
        f'<text class="head" x="{_LEFT}" y="16">{escape(clean(title))}</text>'
    ]


def _horizontal(value: float, y: float, width: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def line_chart(title: str, counts: Sequence[int], series: Mapping[str, Sequence[float]]) -> Markup:
    """Draw shares against the number of units off, a line for each order.

    Examples
    --------
    >>> str(line_chart("p", [0, 1], {"salient": [1.0, 0.2]}))[:4]
    '<svg'
    """
    ends = ", ".join(f"{name} {percent(values[-1])}" for name, values in series.items())
    parts = _frame(_WIDTH, _HEIGHT, title, f"{title}; with {counts[-1]} units off: {ends}")
    inner, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    last = max(counts[-1], 1)

    def place(count: float, value: float) -> tuple[float, float]:
        # The root spreads the first few units, where most happens.
        return _LEFT + inner * (count / last) ** 0.5, _TOP + tall * (1 - min(max(value, 0), 1))

    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_horizontal(value, place(0, value)[1], _WIDTH, f"{100 * value:.0f} %"))
    shown: list[float] = []
    for count in counts:
        x = place(count, 0)[0]
        if not shown or x - shown[-1] > 24:
            shown.append(x)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">'
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
    tall, inner = height - _TOP - _BOTTOM, width - _LEFT - _RIGHT
    best = max(ordered, key=lambda pair: pair[1].max())
    sentence = (
        f"{profile.side}: {score} of {total} units; largest {plain_number(high)} in {best[0]}"
    )
    parts = _frame(width, height, f"{profile.side}: {score}, sorted within each layer", sentence)
    for value in (low, (low + high) / 2, high):
        y = _TOP + tall * (1 - (value - low) / span)
        parts.append(_horizontal(value, y, width, plain_number(value)))
    start = 0
    for number, (title, values) in enumerate(ordered):
        few = max(2, round(_POINTS * len(values) / total))
        chosen = np.unique(np.linspace(0, len(values) - 1, few).round().astype(int))
        points = " ".join(
            f"{_LEFT + inner * (start + i) / total:.1f},"
            f"{_TOP + tall * (1 - (values[i] - low) / span):.1f}"
            for i in chosen
        )
        tip = f"{title}: {len(values)} units, largest {plain_number(float(values[0]))}"
        parts.append(
            f'<polyline class="line layer{number % 2}" points="{points}"><title>'
            f"{escape(clean(tip))}</title></polyline>"
        )
        start += len(values)
    parts.append(
        f'<text class="tick" x="{_LEFT}" y="{height - 12}">first layer</text>'
        f'<text class="tick" x="{width - _RIGHT}" y="{height - 12}" text-anchor="end">last</text>'
    )
    parts.append("</svg>")
    return Markup("".join(parts))


def depth_chart(profile: Profile) -> Markup:
    """Draw each layer's share of the units most to blame, and of all units as a dash."""
    rows = profile.depth
    step = min(40.0, max(7.0, 1000 / max(1, len(rows))))
    width, height = max(420.0, _LEFT + _RIGHT + step * len(rows)), 200
    top = max(max(max(blamed, own) for _, blamed, own in rows), 1e-9)
    tall = height - _TOP - _BOTTOM
    most = max(rows, key=lambda row: row[1])
    title = f"{profile.side}: where the units most to blame are"
    parts = _frame(width, height, title, f"{title}; most in {most[0]}, {percent(most[1])}")
    for value in (0.0, top / 2, top):
        y = _TOP + tall * (1 - value / top)
        parts.append(_horizontal(value, y, width, percent(value, 0)))
    for number, (name, blamed, own) in enumerate(rows):
        x, y = _LEFT + step * number, _TOP + tall * (1 - blamed / top)
        tip = f"{name}: {percent(blamed)} of those to blame, {percent(own)} of all units"
        dash = _TOP + tall * (1 - own / top)
        parts.append(
            f"<g><title>{escape(clean(tip))}</title>"
            f'<rect class="bar" x="{x + step * 0.15:.1f}" y="{y:.1f}" width="{step * 0.7:.1f}" '
            f'height="{max(0.0, _TOP + tall - y):.1f}"/>'
            f'<path class="own" d="M{x + 1:.1f} {dash:.1f}h{step - 2:.1f}"/></g>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))
