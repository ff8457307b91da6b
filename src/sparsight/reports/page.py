"""A case file as one self-contained page: no network, no external file, no framework."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sparsight.reports.blame_charts import blame_context
from sparsight.reports.case import CaseFile, ClassRow, MapPair, ViewPair
from sparsight.reports.chain_picture import picture_context
from sparsight.reports.colours import DIFFERENCE, HEAT, PLATE, SIGNED, lookup
from sparsight.reports.layer_plot import layer_plot, layer_sentence
from sparsight.reports.pictures import image_uri, map_uri, outline_path, scale_uri, shrink
from sparsight.reports.readings import Grade, Reading, grade_gap, grade_kl, read_pair
from sparsight.reports.text import clean, firm, flatten, percent, plain_number, probability, seconds

__all__ = ["environment", "render_page"]


@dataclass(frozen=True)
class _Cell:
    """One picture in a row of the maps' grid."""

    side: str
    heading: str
    scale: str
    uri: str = ""
    empty: str = ""


@dataclass(frozen=True)
class _Badge:
    side: str
    value: str
    grade: Grade


@dataclass(frozen=True)
class _Row:
    pair: MapPair
    cells: tuple[_Cell, ...]
    bound: float
    badges: tuple[_Badge, ...]
    facts: tuple[tuple[str, str, str], ...]
    pixelated: bool


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else clean(value)


def resource(name: str) -> Markup:
    """Read a style sheet or script of ours, to be put into a page as it is."""
    return Markup((files("sparsight.reports") / "templates" / name).read_text("utf-8"))


def styles(*names: str) -> Markup:
    """Read style sheets of ours, in this order."""
    return Markup("").join(resource(f"{name}.css") for name in names)


@cache
def environment() -> jinja2.Environment:
    """Build the template environment: autoescape everywhere, an error for a missing name."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsight.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": lambda value: firm(percent(value)),
        "probability": lambda value: firm(probability(value)),
        "seconds": lambda value: firm(seconds(value)),
        "number": plain_number,
    }
    made.globals |= {"resource": resource, "plate": "rgb({}, {}, {})".format(*PLATE)}
    return made


def script_digest(script: str) -> str:
    """Return what a content security policy allows one script by."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _cell(side: str, reading: Reading, pair: MapPair) -> _Cell:
    heading = {"dense": "Dense", "traced": "Traced", "difference": "Traced − dense"}[side]
    scale = DIFFERENCE if side == "difference" else SIGNED if pair.signed else HEAT
    heat = getattr(reading, side)
    if heat is not None:
        return _Cell(side, heading, scale, map_uri(shrink(heat), reading.bound, scale))
    if side == "difference":
        empty = "needs both maps"
    else:
        empty = "zero everywhere" if side in pair.heats else "not computed"
    return _Cell(side, heading, scale, empty=empty)


def _facts(pair: MapPair, reading: Reading) -> tuple[tuple[str, str, str], ...]:
    def two(
        name: str, dense: float | None, traced: float | None, show: Callable[[float], str]
    ) -> list[tuple[str, str, str]]:
        if dense is None and traced is None:
            return []
        return [
            (
                name,
                "–" if dense is None else show(dense),
                "–" if traced is None else show(traced),
            )
        ]

    return (
        *two("Area holding half", reading.dense_half, reading.traced_half, percent),
        *two("Inside the outline", reading.dense_inside, reading.traced_inside, percent),
        *two("Took", pair.dense_seconds, pair.traced_seconds, seconds),
    )


def _row(pair: MapPair, mask: NDArray[np.bool_] | None) -> tuple[_Row, Reading]:
    reading = read_pair(pair, mask)
    gaps = {"dense": pair.dense_gap, "traced": pair.traced_gap}
    badges = tuple(
        _Badge(side, "" if gaps[side] is None else firm(percent(abs(gaps[side] or 0.0))), grade)
        for side in pair.heats
        for grade in (grade_gap(gaps[side]),)
    )
    row = _Row(
        pair=pair,
        cells=tuple(_cell(side, reading, pair) for side in ("dense", "traced", "difference")),
        bound=reading.bound,
        badges=badges,
        facts=_facts(pair, reading),
        pixelated=max(pair.shape or (0,)) < 150,
    )
    return row, reading


def _view(view: ViewPair) -> tuple[ViewPair, str, str]:
    dense: Any = view.dense
    traced: Any = view.traced
    return view, image_uri(dense), image_uri(traced)


def _classes(case: CaseFile) -> list[ClassRow]:
    return sorted(case.classes, key=lambda row: -max(row.dense, row.traced))


def page_context(case: CaseFile) -> dict[str, Any]:
    """Work out everything that the template prints."""
    mask: Any = case.truth_mask
    rows = [_row(pair, mask) for pair in case.maps if not pair.refused]
    image: Any = case.image
    scripts = [resource("case.js")] + ([] if case.chain is None else [resource("chain.js")])
    return {
        "case": case,
        "classes": _classes(case),
        "rows": [(row, reading.correlation) for row, reading in rows],
        "views": [_view(view) for view in case.views],
        "blame": None if case.blame is None else blame_context(case.blame),
        "chain": None if case.chain is None else picture_context(case.chain.report),
        "refused": [pair for pair in case.maps if pair.refused],
        "any_signed": any(row.pair.signed for row, _ in rows),
        "kl_grade": grade_kl(case.kl),
        "photo": image_uri(image),
        "photo_pixelated": max(image.shape[:2]) < 150,
        "height": image.shape[0],
        "width": image.shape[1],
        "outline": None if mask is None or not mask.any() else Markup(outline_path(mask)),
        "mask_area": None if mask is None else float(mask.mean()),
        "strips": {scale: scale_uri(scale) for scale in (HEAT, SIGNED, DIFFERENCE)},
        "tables": {
            scale: base64.b64encode(lookup(scale).tobytes()).decode()
            for scale in (HEAT, SIGNED, DIFFERENCE)
        },
        "layer_plot": layer_plot(case.layers) if case.layers else None,
        "layer_sentence": layer_sentence(case.layers),
        "settings": flatten(case.settings),
        "longest": max(case.timings.values(), default=0.0),
        "style": styles("base", "case", "chart", "blame", "chain"),
        "scripts": scripts,
        "script_hashes": [script_digest(script) for script in scripts],
    }


def render_page(case: CaseFile, *, alone: bool = False) -> str:
    """Render the page's HTML.

    A strict Content-Security-Policy allows the inline style, one script by its hash, and pictures
    in data URIs: nothing is ever fetched. Every text of the case is escaped.

    Parameters
    ----------
    case
        What to show.
    alone
        Whether the page will be without the case's other files, so that it must not link to them.

    Examples
    --------
    >>> row = ClassRow(0, "<b>cat</b>", 0.9, 0.8)
    >>> case = CaseFile("t", np.zeros((4, 4, 3)), "i.png", "n", 0, "<b>cat</b>", (row,), 0.0, 0.9)
    >>> "<b>cat" in render_page(case), "&lt;b&gt;cat" in render_page(case)
    (False, True)
    """
    return environment().get_template("case.html.j2").render(page_context(case), alone=alone)
