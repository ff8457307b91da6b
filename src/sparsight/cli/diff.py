"""``sparsight trace diff``: two saved traces, weight by weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

__all__ = ["trace_diff"]


def _trace_in(folder: Path) -> Path:
    """Find the trace in a folder: the folder itself, or one called trace inside."""
    inside = folder / "trace"
    if not (folder / "trace.json").exists() and (inside / "trace.json").exists():
        return inside
    return folder


def trace_diff(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="Folder of a trace, or one with a trace/ in it.", show_default=False
        ),
    ],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="The same, to compare with.", show_default=False)
    ],
    as_json: shared.JsonOption = False,
) -> None:
    """Compare two saved traces: which weights both keep, and how much of that is chance.

    The folders are those that sparsight trace IMAGE --out FOLDER writes. To trace an image file
    that is called diff, write ./diff.
    """
    from sparsight.cli.tables import trace_diff_table
    from sparsight.traces import Trace, compare

    with Display(quiet=True) as display:
        folders = _trace_in(a), _trace_in(b)
        one, two = (Trace.load(folder) for folder in folders)
        found = compare(one, two)
        if as_json:
            sides = zip("ab", folders, (one, two), strict=True)
            heads = {
                side: {
                    "folder": str(folder),
                    "network": trace.settings.get("network"),
                    "sparsity": trace.sparsity,
                }
                for side, folder, trace in sides
            }
            emit_json(heads | found.describe())
            return
        with display.aside() as console:
            console.print(trace_diff_table(found, folders))
