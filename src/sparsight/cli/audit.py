"""``sparsight audit``: whether answers hang on a cue that works anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json
from sparsight.errors import InputError

if TYPE_CHECKING:
    from sparsight.audits import Audit
    from sparsight.networks import Network
    from sparsight.sweeps import Sweep

__all__ = ["audit"]

_SHOWN = 8
_SUSPICIOUS, _WORD = 3, "suspicious"


def audit(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of a sweep, or of images.", metavar="FOLDER", show_default=False
        ),
    ],
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of which images patches are tried on.")
    ] = 0,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="File that says what is suspicious, of clean networks of your own.",
            show_default="the one that comes along",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Of the sweep of images, see sparsight sweep.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel="Output",
            help="Folder for the sweep of images; the verdict goes into the folder of the sweep.",
            show_default=False,
        ),
    ] = None,
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Judge whether answers hang on a planted or spurious cue: of images, classes, the network.

    The patch that the traced map of an image points to is pasted into other images. If it flips
    more of them than patches of clean networks do, the image is suspicious.

    Exit code 0: nothing suspicious; 3: a class is; 2: an error, or too few images to say.
    """
    import torch

    from sparsight.audits import Calibration
    from sparsight.audits import audit as judge
    from sparsight.networks import load
    from sparsight.sweeps import Sweep
    from sparsight.sweeps.result import MANIFEST

    known = Calibration.shipped() if calibration is None else Calibration.load(calibration)
    swept = (folder / MANIFEST).is_file()
    if swept and out is not None:
        raise InputError(f"{folder} is a sweep, its verdict goes there: leave --out out")
    with Display(quiet=as_json) as display:
        torch.manual_seed(0)  # for --weights random
        network = load(model, weights=weights, labels=labels, device=device)
        if swept:
            found, home = Sweep.load(folder), folder
        elif out is None:
            raise InputError(
                f"{folder} holds no sweep: name a folder for one with --out, or make it with "
                "sparsight sweep"
            )
        else:
            home = out
            found = _sweep(network, folder, out, workers, display, overwrite=overwrite)
        verdict = judge(network, found, calibration=known, seed=seed, progress=display.step)
        verdict.save(found.folder)
    if as_json:
        emit_json({"out": str(found.folder), **verdict.describe()})
    else:
        _show(verdict, home, display)
    if not verdict.enough:
        raise InputError(
            "no class has enough images for a verdict, only images are judged: give more images of "
            "one answer"
        )
    if verdict.suspicious:
        raise typer.Exit(_SUSPICIOUS)


def _sweep(
    network: Network, folder: Path, out: Path, workers: int, display: Display, *, overwrite: bool
) -> Sweep:
    from sparsight.datasets.folders import list_images
    from sparsight.sweeps import sweep

    return sweep(
        network, list_images(folder), out, workers=workers, overwrite=overwrite,
        progress=display.step,
    )  # fmt: skip


def _show(verdict: Audit, home: Path, display: Display) -> None:
    from rich.table import Table
    from rich.text import Text

    from sparsight.reports.text import clean, percent

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("answered with")
    for name in ("images", "flagged", "chance if clean"):
        table.add_column(name, justify="right")
    table.add_column(min_width=len(_WORD))
    for one in verdict.classes[:_SHOWN]:
        word = Text(_WORD, style="red") if one.suspicious else Text("")
        if not one.enough:
            word = Text("too few", style="dim")
        table.add_row(
            Text(clean(one.label)), str(one.images), str(one.flagged), f"{one.chance:.2g}", word
        )
    share, low, high = verdict.calibration.false_alarms
    judged = len(verdict.table) - len(verdict.unjudged)
    with display.aside() as console:
        console.print(table)
        if len(verdict.classes) > _SHOWN:
            console.print(f"and {len(verdict.classes) - _SHOWN} more classes", style="dim")
        console.print(
            f"{len(verdict.flagged)} of {judged} images flagged; of clean networks "
            f"{percent(share)} are ({percent(low)} to {percent(high)})",
            markup=False,
        )
        said = _WORD if verdict.suspicious else "nothing suspicious found"
        console.print(f"verdict {said}: {clean(home / 'audit.json')}", soft_wrap=True, markup=False)
    if verdict.unjudged:
        name, why = verdict.unjudged[0]
        display.say(f"{len(verdict.unjudged)} images could not be judged, the first: {name}: {why}")
