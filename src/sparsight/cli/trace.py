"""``sparsight trace``: the weights that matter for one image, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

__all__ = ["trace"]


def trace(
    image: Annotated[Path, typer.Argument(help="Image file.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the trace.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    sparsity: shared.SparsityOption = shared.DEFAULT_SPARSITY,
    augmentations: shared.AugmentationsOption = 64,
    solver: shared.SolverOption = shared.DEFAULT_SOLVER,
    pattern: shared.PatternOption = "weight",
    target: Annotated[
        str | None,
        typer.Option(
            help="Class whose evidence the trace keeps, by number or name; the prediction if not "
            "given.",
            rich_help_panel="Trace",
        ),
    ] = None,
    damping: shared.DampingOption = None,
    focus: Annotated[
        float | None,
        typer.Option(
            help="Share of the weight on the image itself, the rest on its views, in [0, 1].",
            rich_help_panel="Trace",
            show_default="0.5",
        ),
    ] = None,
    positions: Annotated[
        int | None,
        typer.Option(
            help="Positions that a layer is fitted on; a view is used for every 8 of them.",
            rich_help_panel="Trace",
            show_default="256",
        ),
    ] = None,
    gradients: Annotated[
        int | None,
        typer.Option(
            help="Images, this one and then its views, whose gradients say which weights matter.",
            rich_help_panel="Trace",
            show_default="16",
        ),
    ] = None,
    refitted: Annotated[
        int | None,
        typer.Option(
            help="Weights of a row that are refitted at most; the others keep their values.",
            rich_help_panel="Trace",
            show_default="128",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="What the network runs in meanwhile: full (its own) or bfloat16.",
            rich_help_panel="Trace",
            show_default="full",
        ),
    ] = None,
    stem: shared.StemOption = False,
    seed: shared.SeedOption = 0,
    chunk: shared.ChunkOption = None,
    device: shared.DeviceOption = "cpu",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Prune the network for one image and save what is left, layer by layer.

    Python reads it back with sparsight.Trace.load(FOLDER); sparsight trace diff A B compares two.
    An image file that is called diff is ./diff.
    """
    from sparsight.cli.places import check_trace_folder
    from sparsight.cli.settings import TraceSettings
    from sparsight.cli.tables import describe_trace, trace_table
    from sparsight.reports.text import clean

    settings = TraceSettings(
        model=model,
        weights=weights,
        labels=labels,
        sparsity=sparsity,
        augmentations=augmentations,
        solver=solver,
        pattern=pattern,
        damping=damping,
        stem=stem,
        seed=seed,
        chunk=chunk,
        device=device,
        target=target,
        focus=focus,
        positions=positions,
        gradients=gradients,
        refitted=refitted,
        precision=precision,
    )
    check_trace_folder(out, overwrite=overwrite)
    with Display(quiet=as_json) as display:
        network = settings.load()
        found = settings.trace(network, image, display.step)
        found.save(out, overwrite=overwrite)
    if as_json:
        emit_json(describe_trace(found, network, image, out))
        return
    with display.aside() as console:
        console.print(trace_table(found, network))
        console.print(f"trace {clean(out)}", soft_wrap=True, markup=False)
