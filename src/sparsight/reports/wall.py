"""A wall: thousands of images that one network looked at, as one page to filter and to sort."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsight.errors import InputError
from sparsight.reports.colours import HEAT, PLATE, SIGNED, lookup
from sparsight.reports.pictures import indices
from sparsight.reports.readings import shared_bound, shares
from sparsight.reports.wall_page import MARK, Tile, render_wall
from sparsight.storage import atomic_folder

__all__ = ["WallItem", "write_wall"]

_PAGE, _THUMBNAILS, _CASES = "index.html", "thumbnails", "cases"
_OURS = re.compile(r"\d{5,}(\.map)?\.(jpg|png)")
_OF_CASES = frozenset({"index.html", "maps.safetensors", "case.json"})
#: Longest side of a thumbnail; below which pixels stay sharp; how pale a picture is under a map.
_LARGEST, _SHARP, _PALE = 160, 64, 0.45


@dataclass(frozen=True, eq=False)
class WallItem:
    """One image of a sweep: what the network and its trace say of it.

    Attributes
    ----------
    name
        The file as shown, e.g. ``"fish/0001.png"``.
    picture
        ``(h, w, 3)`` bytes of any size, what the thumbnail is made of; None if the image could
        not be read.
    label
        The true class, if it is known.
    predicted, confidence
        The dense network's answer and its probability.
    traced
        What the trace answers.
    kl
        Divergence of the traced from the dense class probabilities, in nats.
    sparsity
        Fraction of the weights that the trace removed.
    suspicion
        An audit's score, 0 to 1.
    heat
        ``(h, w)`` map of the trace over the whole picture, of any resolution.
    signed
        Whether negative values of the map mean evidence *against* the class.
    link
        Path of its case file, relative to the page's folder, with forward slashes.
    problem
        Why there is no result.

    Examples
    --------
    >>> item = WallItem("a.png", None, "dog", "cat", 0.9, "dog", kl=0.3, sparsity=0.95)
    >>> item.wrong, item.changed
    (True, True)
    """

    name: str
    picture: NDArray[np.uint8] | None
    label: str | None
    predicted: str | None
    confidence: float | None
    traced: str | None
    kl: float | None
    sparsity: float | None
    suspicion: float | None = None
    heat: NDArray[np.float32] | None = None
    signed: bool = False
    link: str | None = None
    problem: str | None = None

    def __post_init__(self) -> None:
        for what in ("confidence", "sparsity", "suspicion"):
            value = getattr(self, what)
            if value is not None:
                if not -1e-6 <= value <= 1 + 1e-6:
                    raise self._fault(f"{what} is {value}: give a number from 0 to 1, or None")
                object.__setattr__(self, what, min(1.0, max(0.0, float(value))))
        if self.kl is not None:
            if math.isnan(self.kl) or self.kl < -1e-6:
                raise self._fault(f"kl is {self.kl}: give nats, 0 or more, or None")
            object.__setattr__(self, "kl", max(0.0, float(self.kl)))
        for what in ("label", "predicted", "traced", "problem"):
            if getattr(self, what) == "":
                raise self._fault(f"{what} is empty text: give None where there is none")
        self._check_picture()
        parts = [] if self.link is None else self.link.split("/")
        if self.link is not None and not set(parts).isdisjoint({"", ".", ".."}):
            raise self._fault(f"link {self.link!r}: give a path below the page's folder")

    def _check_picture(self) -> None:
        picture, heat = self.picture, self.heat
        if picture is not None and (
            picture.ndim != 3
            or picture.shape[2] != 3
            or 0 in picture.shape
            or picture.dtype != np.uint8
        ):
            raise self._fault(
                f"picture is {picture.dtype} of shape {picture.shape}: give bytes (h, w, 3)"
            )
        if heat is None:
            return
        if heat.ndim != 2 or 0 in heat.shape:
            raise self._fault(f"heat has shape {heat.shape}: give (h, w)")
        if not np.isfinite(heat).all():
            raise self._fault("heat holds NaN or infinite values: leave the map out")
        if not self.signed and float(heat.min()) < 0:
            raise self._fault("heat has negative values: pass signed=True or its absolute")

    def _fault(self, what: str) -> InputError:
        return InputError(f"{self.name}: its {what}")

    @property
    def wrong(self) -> bool | None:
        """Whether the answer is not the truth; None where one of them is not known."""
        return None if None in (self.label, self.predicted) else self.label != self.predicted

    @property
    def changed(self) -> bool | None:
        """Whether the trace changed its mind; None where one of the answers is not known."""
        return None if None in (self.predicted, self.traced) else self.predicted != self.traced

    def __repr__(self) -> str:
        says = f"problem={self.problem!r}" if self.problem else f"predicted={self.predicted!r}"
        return f"WallItem({self.name!r}, label={self.label!r}, {says})"


Items: TypeAlias = Iterable[WallItem] | Callable[[Path], Iterable[WallItem]]


def _foreign(folder: Path, beside: Collection[str]) -> str | None:
    """Find something in a former wall that Sparsight did not write there."""
    page = folder / _PAGE
    if page.is_file() and MARK not in page.read_text("utf-8", errors="replace")[:2000]:
        return _PAGE
    for name in beside:
        if (folder / name).is_dir() or (folder / name).is_symlink():
            return name
    for place in (_THUMBNAILS, _CASES):
        if (folder / place).is_symlink() or (folder / place).is_file():
            return place
        for here, folders, files in os.walk(folder / place):
            inner = Path(here)
            for name in sorted(folders + files):
                ours = _OURS.fullmatch(name) if place == _THUMBNAILS else name in _OF_CASES
                if (inner / name).is_symlink() or (name in files and not ours):
                    return (inner / name).relative_to(folder).as_posix()
    return None


def _with_map(picture: Image.Image, item: WallItem) -> tuple[Image.Image | None, str]:
    """Paint the map over a pale picture; return it and the scale, nothing for a map of zeros."""
    heat = None if item.heat is None else shares(np.asarray(item.heat, dtype=np.float32))
    if heat is None:
        return None, ""
    scale = SIGNED if item.signed else HEAT
    fitted = np.asarray(Image.fromarray(heat).resize(picture.size, Image.Resampling.BOX))
    paint = lookup(scale)[indices(fitted, shared_bound([heat]), scale)].astype(np.float64)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    ground = _PALE * np.array(PLATE) + (1 - _PALE) * grey
    alpha = paint[..., 3:] / 255
    mixed = alpha * paint[..., :3] + (1 - alpha) * ground
    return Image.fromarray(mixed.round().astype(np.uint8)), scale


def _tile(item: WallItem, folder: Path, number: int) -> Tile:
    """Write an item's thumbnails and keep what the page says of it."""
    kind, scale = "", ""
    if item.picture is not None:
        picture = Image.fromarray(np.ascontiguousarray(item.picture))
        kind = "png" if max(picture.size) < _SHARP else "jpg"
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS, reducing_gap=3.0)
        heat, scale = _with_map(picture, item)
        picture.save(folder / f"{number:05d}.{kind}", quality=85, optimize=True)
        if heat is not None:
            heat.save(folder / f"{number:05d}.map.{kind}", quality=85, optimize=True)
    return Tile(
        name=item.name, number=number, picture=kind, scale=scale, label=item.label,
        predicted=item.predicted, traced=item.traced, confidence=item.confidence, kl=item.kl,
        sparsity=item.sparsity, suspicion=item.suspicion, link=item.link, problem=item.problem,
        wrong=item.wrong, changed=item.changed,
    )  # fmt: skip


def write_wall(
    folder: str | Path,
    items: Items,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    beside: Collection[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write ``index.html`` and ``thumbnails/``, a page of thousands of images and their answers.

    The folder is built under another name beside its place and renamed when it is complete: after
    an error or Ctrl-C there is either the former state or the new one. Thumbnails are written as
    the items come, so that pictures need not be held together.

    Parameters
    ----------
    folder
        Where; parents are made.
    items
        The images, in any order; or a function that is given the fresh folder and yields them,
        and may meanwhile write case files to ``cases/NAME/`` in it, for the items to link to.
    title
        Headline of the page.
    facts
        Names and texts that stand under it, e.g. the network and the settings.
    beside
        Names of other files that such a function writes into the fresh folder itself.
    overwrite
        Replace a wall that is already there. Files that are no part of it are never deleted.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If there are no items, one of them cannot be shown, or the folder holds something that
        would be lost.

    Examples
    --------
    >>> import tempfile
    >>> item = WallItem("a.png", np.zeros((8, 8, 3), np.uint8), "dog", "cat", 0.9, "cat", 0.1, 0.9)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     page = write_wall(Path(place) / "wall", [item], title="All dogs")
    ...     sorted(path.name for path in page.parent.rglob("*.*"))
    ['00000.png', 'index.html']
    """
    folder = Path(folder)
    foreign = _foreign(folder, beside) if overwrite else None
    if foreign is not None:
        raise InputError(
            f"{folder} holds {foreign}, which is no part of this result and would be lost: "
            "move it away"
        )
    replaces = {_PAGE, _THUMBNAILS, _CASES, *beside}
    with atomic_folder(folder, replaces, overwrite=overwrite) as fresh:
        thumbnails = fresh / _THUMBNAILS
        thumbnails.mkdir()
        given = items(fresh) if callable(items) else items
        tiles = [_tile(item, thumbnails, number) for number, item in enumerate(given)]
        if not tiles:
            raise InputError(f"there is no image to show in {folder}: give at least one")
        (fresh / _PAGE).write_text(render_wall(tiles, title, facts), encoding="utf-8")
    return folder / _PAGE
