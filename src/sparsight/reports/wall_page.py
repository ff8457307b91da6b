"""The page of a wall: what it says of each image as data, and the controls that fit them."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from sparsight.reports.page import environment, resource, script_digest, styles
from sparsight.reports.text import clean

__all__ = ["MARK", "Tile", "render_wall"]

#: What a page of this kind is recognised by.
MARK = '<meta name="generator" content="sparsight wall">'


@dataclass(frozen=True)
class Tile:
    """What the page says of one image; its pictures are files already."""

    name: str
    number: int
    picture: str
    scale: str
    label: str | None
    predicted: str | None
    traced: str | None
    confidence: float | None
    kl: float | None
    sparsity: float | None
    suspicion: float | None
    link: str | None
    problem: str | None
    wrong: bool | None = None
    changed: bool | None = None

    @property
    def answer(self) -> str:
        """``unread``, ``unlabelled``, ``wrong`` or ``right``."""
        if self.problem is not None or self.predicted is None:
            return "unread"
        return {None: "unlabelled", True: "wrong", False: "right"}[self.wrong]


@dataclass(frozen=True)
class _Measure:
    """A number that every image may have, and how it is written."""

    key: str
    title: str
    unit: str
    lowest: str = ""
    highest: str = ""


_MEASURES = (
    _Measure("confidence", "Confidence", "%"),
    _Measure("kl", "KL", "nats"),
    _Measure("sparsity", "Removed", "%"),
    _Measure("suspicion", "Suspicion", ""),
)


def _natural(text: str) -> tuple[list[Any], str]:
    """Order ``2`` before ``10``, without regard to case.

    Examples
    --------
    >>> sorted(["b10", "B2", "a"], key=_natural)
    ['a', 'B2', 'b10']
    """
    parts: list[Any] = []
    for place, part in enumerate(re.split(r"([0-9]+)", text.casefold())):
        parts += [len(part.lstrip("0")), part.lstrip("0")] if place % 2 else [part]
    return (parts, text)


def _measures(tiles: Sequence[Tile]) -> list[_Measure]:
    """Keep the measures that some image has, each with its ends rounded outwards."""
    found = []
    for measure in _MEASURES:
        factor, step = (100, 10) if measure.unit == "%" else (1, 1000)
        own = [getattr(tile, measure.key) for tile in tiles]
        values = [factor * value for value in own if value is not None and math.isfinite(value)]
        if values:
            low, high = math.floor(step * min(values)) / step, math.ceil(step * max(values)) / step
            ends = f"{low:.9g}", f"{high:.9g}"
            found.append(_Measure(measure.key, measure.title, measure.unit, *ends))
    return found


def _number(value: float | None) -> float | str | None:
    if value is None:
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else "inf"


def _data(tiles: Sequence[Tile], classes: Sequence[str]) -> Markup:
    """Write the images as JSON that cannot leave its element, whatever names they have."""
    place = {name: number for number, name in enumerate(classes)}

    def known(name: str | None) -> int:
        return -1 if name is None else place[clean(name)]

    rows = [
        [
            clean(tile.name),
            f"{tile.number:05d}",
            tile.picture,
            int(tile.scale != ""),
            known(tile.label),
            known(tile.predicted),
            known(tile.traced),
            tile.answer,
            int(tile.changed is True),
            *(_number(getattr(tile, measure.key)) for measure in _MEASURES),
            "" if tile.link is None else quote(os.fsencode(tile.link)),
            "" if tile.problem is None else clean(tile.problem),
        ]
        for tile in tiles
    ]
    text = json.dumps(
        {"classes": list(classes), "rows": rows}, allow_nan=False, separators=(",", ":")
    )
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def render_wall(tiles: Sequence[Tile], title: str, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Render the page's HTML; images are sorted by name.

    A strict Content-Security-Policy allows one script by its hash, and pictures of the page's own
    folder. Names and labels reach the page as data and become text, never markup.

    Examples
    --------
    >>> tile = Tile("</script>", 0, "", "", *[None] * 8, "cannot be read")
    >>> "</script>" in render_wall([tile], "t").split('<script type="application/json"')[1][:60]
    False
    """
    tiles = sorted(tiles, key=lambda tile: (_natural(tile.name), tile.number))
    labels = Counter(clean(tile.label) for tile in tiles if tile.label is not None)
    answers = Counter(clean(tile.predicted) for tile in tiles if tile.predicted is not None)
    traced = {clean(tile.traced) for tile in tiles if tile.traced is not None}
    classes = sorted({*labels, *answers, *traced}, key=_natural)
    script = resource("wall.js")
    return (
        environment()
        .get_template("wall.html.j2")
        .render(
            title=title,
            facts=facts,
            mark=Markup(MARK),
            count=len(tiles),
            kinds=Counter(tile.answer for tile in tiles),
            changed=sum(tile.changed is True for tile in tiles),
            scales={tile.scale for tile in tiles} - {""},
            labels=[(name, labels[name]) for name in classes if name in labels],
            answers=[(name, answers[name]) for name in classes if name in answers],
            measures=_measures(tiles),
            data=_data(tiles, classes),
            style=styles("base", "wall"),
            script=script,
            script_hash=script_digest(script),
        )
    )
