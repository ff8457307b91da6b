"""``sparsight gallery``: a sweep as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

__all__ = ["gallery"]


def gallery(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a sweep.", metavar="DIR", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the page.",
            rich_help_panel="Output",
            show_default="DIR/gallery",
        ),
    ] = None,
    cases: Annotated[
        str,
        typer.Option(
            help="Images that get a case file: all, odd (a wrong answer, or one that the trace "
            "changed) or none."
        ),
    ] = "all",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """All images of a sweep on one page: filter, sort, and open the case file of each.

    If DIR holds an audit of the sweep, suspicion is shown too.

    The page opens from a file, without a server or a network.
    """
    from sparsight.audits import FILES, Audit
    from sparsight.gallery import write_gallery
    from sparsight.reports.text import clean
    from sparsight.sweeps import Sweep

    with Display(quiet=as_json) as display:
        found = Sweep.load(folder)
        audit = Audit.load(folder) if (folder / FILES[0]).is_file() else None
        page = write_gallery(
            found, out or folder / "gallery", cases=cases, audit=audit, overwrite=overwrite,
            progress=display.step,
        )  # fmt: skip
    if as_json:
        emit_json({"page": str(page), "images": len(found), "unusable": len(found.bad)})
        return
    with display.aside() as console:
        console.print(f"page {clean(page)}", soft_wrap=True, markup=False)
