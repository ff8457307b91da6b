"""A sweep as a page: a wall of all images, and a case file behind each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.attribution import METHODS
from sparsight.audits import Audit
from sparsight.errors import InputError
from sparsight.readout import classes, layers, warnings
from sparsight.reports import CaseFile, MapPair, WallItem, render_page, write_wall
from sparsight.sweeps import Sweep

__all__ = ["CASES", "case_of", "write_gallery"]

Progress = Callable[[str, int, int], None]

CASES = ("all", "odd", "none")
"""Which images get a case file: all; those with a wrong answer or one that the trace changed."""


def case_of(found: Sweep, number: int, *, audit: Audit | None = None) -> CaseFile:
    """Make the case file of an image of a sweep.

    Parameters
    ----------
    found
        A sweep that kept pictures, and traces.
    number
        Of the image.
    audit
        Of the sweep; what it says of the image is noted.

    Raises
    ------
    InputError
        If there is no such image, it could not be used, something was not kept, or the audit is
        of another sweep.
    """
    _check(found, audit)
    row = found.row(number)
    if row["problem"] is not None:
        raise InputError(f"image {number} could not be used: {row['problem']}")
    trace = found.trace(number, weights=False)
    target = row["prediction"]
    maps = tuple(_pairs(found, row))
    name = Path(row["name"]).name
    return CaseFile(
        title=f"{name}: why {found.label(target)}?",
        image=np.asarray(found.picture(number), dtype=np.float32) / 255,
        image_name=name,
        network=found.about["network"],
        target_index=target,
        target_label=found.label(target),
        classes=classes(trace, found.label),
        kl=trace.kl,
        sparsity=trace.sparsity,
        maps=maps,
        layers=layers(trace),
        settings={"trace": dict(trace.settings)},
        versions=dict(trace.versions),
        seed=found.about["settings"]["seed"],
        timings={
            key.removeprefix("seconds."): value
            for key, value in row.items()
            if key.startswith("seconds.") and value is not None
        },
        warnings=warnings(trace, target, maps, found.label),
        notes=_remarks(row, None if audit is None else audit.row(number)),
        created=found.about["created"],
    )


def _pairs(found: Sweep, row: Mapping[str, Any]) -> Iterator[MapPair]:
    heats = found.maps(row["number"])
    for name in found.about["settings"]["methods"]:
        method = METHODS[name]
        dense, traced = (heats.get((name, side)) for side in ("dense", "traced"))
        if dense is None:
            why = row.get(f"{name}.refused")
            if why is not None:
                yield MapPair(name, method.title, refused=why)
            continue
        yield MapPair(
            name, method.title, dense, traced,
            signed=method.reduction == "sum",
            dense_gap=row.get(f"{name}.dense.gap"),
            traced_gap=row.get(f"{name}.traced.gap"),
            gap_of=method.gap_of or "completeness",
        )  # fmt: skip


def _check(found: Sweep, audit: Audit | None) -> None:
    if audit is not None and audit.sweep != found.digest:
        raise InputError(
            f"the audit is of another sweep than {found.folder}: run sparsight audit again, or "
            "delete audit.json"
        )


def _remarks(row: Mapping[str, Any], audited: Mapping[str, Any] | None) -> str:
    """Say in words what the row says of the truth and of blame, and what the audit says."""
    said = []
    if row["label_name"] is not None:
        said.append(f"The label is {row['label_name']!r}.")
    units = row.get("blame.units")
    if units:
        said.append(f"Units whose saliency stands out most in this sweep: {', '.join(units[:5])}.")
    if audited is not None and audited["problem"] is None:
        said.append(
            f"The {audited['height']} x {audited['width']} pixels that its map points to, pasted "
            f"into other images, flip {100 * audited['transfer']:.0f} % of them to its answer"
            + (": more than patches of clean networks do." if audited["suspicious"] else ".")
        )
    return " ".join(said)


def write_gallery(
    found: Sweep,
    folder: str | Path,
    *,
    cases: str = "all",
    audit: Audit | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the wall of a sweep: a static page, thumbnails, and case files.

    Parameters
    ----------
    found
        A sweep that kept pictures.
    folder
        Where.
    cases
        One of :data:`CASES`; they need traces too.
    audit
        Of the sweep: how suspicious each image is.
    overwrite
        Replace a gallery that is there.
    progress
        Called as ``progress("gallery", done, total)``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If pictures or traces were not kept, the folder holds something else, or the audit is of
        another sweep.

    Examples
    --------
    >>> import tempfile, torch, sparsight
    >>> from sparsight.sweeps import sweep
    >>> home = Path(tempfile.mkdtemp())
    >>> images = [torch.randn(3, 64, 64)]
    >>> found = sweep(sparsight.load("embedded"), images, home / "sweep", augmentations=2)
    >>> page = write_gallery(found, home / "gallery")
    >>> sorted(p.name for p in page.parent.iterdir())
    ['cases', 'index.html', 'thumbnails']
    """
    _check(found, audit)
    if cases not in CASES:
        raise InputError(f"no choice of cases is called {cases!r}: choose from {', '.join(CASES)}")
    for what in ("pictures",) if cases == "none" else ("pictures", "traces"):
        if what not in found.about["settings"]["keep"]:
            raise InputError(
                f"this sweep kept no {what}: sweep again with --keep maps,pictures,traces"
                + ("" if what == "pictures" else ", or make the gallery with --cases none")
            )
    if cases != "none" and "trace" not in found.about["settings"]["do"]:
        raise InputError("this sweep has no traces to make cases of: give --cases none")

    def items(fresh: Path) -> Iterator[WallItem]:
        for number in range(len(found)):
            if progress is not None:
                progress("gallery", number, len(found))
            yield _item(found, number, fresh, cases, audit)

    about = found.about
    facts = [
        ("network", about["network"]),
        ("images", str(len(found))),
        ("done to each", ", ".join(about["settings"]["do"])),
        ("sparsity", json.dumps(about["settings"]["sparsity"]).strip('"')),
        ("seed", str(about["settings"]["seed"])),
    ]
    title = f"{len(found)} images through {about['network']}"
    return write_wall(folder, items, title=title, facts=facts, overwrite=overwrite)


def _item(found: Sweep, number: int, fresh: Path, cases: str, audit: Audit | None) -> WallItem:
    row = found.row(number)
    if row["problem"] is not None:
        empty = (None,) * 6
        return WallItem(row["name"], None, row["label_name"], *empty[1:], problem=row["problem"])
    heat, signed = None, False
    for (name, side), value in found.maps(number).items():
        if side == "traced" or heat is None:
            heat, signed = value.numpy(), METHODS[name].reduction == "sum"
        if side == "traced":
            break
    item_link = None
    odd = bool(row["wrong"] or row.get("changed"))
    if cases == "all" or (cases == "odd" and odd):
        item_link = f"cases/{number:06d}/index.html"
        page = fresh / item_link
        page.parent.mkdir(parents=True)
        case = case_of(found, number, audit=audit)
        page.write_text(render_page(case, alone=True), encoding="utf-8")
    return WallItem(
        row["name"], np.asarray(found.picture(number)), row["label_name"],
        row["prediction_name"], row["confidence"], row.get("traced_name"), row.get("kl"),
        row.get("sparsity"), suspicion=None if audit is None else audit.row(number)["transfer"],
        heat=heat, signed=signed, link=item_link,
    )  # fmt: skip
