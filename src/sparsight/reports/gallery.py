"""An index of several cases: thumbnails, verdicts, relative links."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparsight.errors import InputError
from sparsight.reports.case import CaseFile
from sparsight.reports.page import environment, styles
from sparsight.reports.pictures import image_uri, map_uri, shrink
from sparsight.reports.readings import Grade, grade_kl, read_pair
from sparsight.reports.store import read_case

__all__ = ["write_index"]

_MARK = '<meta name="generator" content="sparsight index">'
_THUMBNAIL = 192


@dataclass(frozen=True, eq=False)
class _Card:
    case: CaseFile
    link: str
    thumbnail: str
    heat: str
    heat_title: str
    kl_grade: Grade
    small: bool
    methods: int


def _card(case: CaseFile, folder: Path) -> _Card:
    image: Any = case.image
    shown = next((pair for pair in case.maps if "traced" in pair.heats), None)
    heat, small = "", max(image.shape[:2]) < 150
    if shown is not None:
        reading = read_pair(shown)
        if reading.traced is not None:
            scale = "signed" if shown.signed else "heat"
            heat = map_uri(shrink(reading.traced, _THUMBNAIL), reading.bound, scale)
    return _Card(
        case=case,
        link=quote(os.fsencode(folder.name)) + "/index.html",
        thumbnail=image_uri(image, _THUMBNAIL, photo=not small),
        heat=heat,
        heat_title=shown.title if shown is not None and heat else "",
        kl_grade=grade_kl(case.kl),
        small=small,
        methods=sum(not pair.refused for pair in case.maps),
    )


def write_index(folder: str | Path, *, title: str = "Case files") -> Path:
    """Write ``folder/index.html``, a gallery of all cases in its direct subfolders.

    Cases are listed by folder name. Those that cannot be read (changed files, another schema)
    are listed with the reason. An earlier index is replaced, any other page is not.

    Parameters
    ----------
    folder
        Folder whose subfolders are cases.
    title
        Headline of the page.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If there is no case, or ``index.html`` is something else than an index.

    Examples
    --------
    >>> import tempfile
    >>> from sparsight.errors import InputError
    >>> with tempfile.TemporaryDirectory() as place:
    ...     try:
    ...         write_index(place)
    ...     except InputError as error:
    ...         print(str(error).split(":")[-1].strip())
    write one with write_case first
    """
    folder = Path(folder)
    page = folder / "index.html"
    if (folder / "case.json").exists():
        raise InputError(f"{folder} is itself a case: give the folder that holds the cases")
    if page.exists() and _MARK not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise InputError(f"{page} is not an index that Sparsight wrote: move it away")
    places = sorted(path.parent for path in folder.glob("*/case.json"))
    places = [place for place in places if not place.name.startswith(".")]
    if not places:
        raise InputError(f"{folder} has no cases in it: write one with write_case first")
    cards: list[_Card] = []
    broken: list[tuple[str, str]] = []
    for place in places:
        try:
            cards.append(_card(read_case(place), place))
        except InputError as error:
            broken.append((place.name, str(error).replace(f"{folder}{os.sep}", "")))
    text = (
        environment()
        .get_template("index.html.j2")
        .render(
            title=title,
            cards=cards,
            broken=broken,
            style=styles("base", "index"),
        )
    )
    fresh = folder / f".index.{secrets.token_hex(4)}.partial"
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(page)
    finally:
        fresh.unlink(missing_ok=True)
    return page
