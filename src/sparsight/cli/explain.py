"""``sparsight explain``: a case file for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json
from sparsight.errors import SparsightError

if TYPE_CHECKING:
    from sparsight.cli.batch import Job
    from sparsight.cli.settings import ExplainSettings

__all__ = ["explain"]


def explain(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, or folders of them.", metavar="IMAGE", show_default=False
        ),
    ],
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    target: Annotated[
        str | None,
        typer.Option(help="Class to explain, by number or name; the prediction if not given."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Attribution methods, separated by commas, or all.")
    ] = "saliency,integrated_gradients,lrp",
    neuron: Annotated[
        list[str] | None,
        typer.Option(
            help="Also visualize it, dense and traced: target for the class explained, or as for "
            "sparsight visualize; repeat it.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each visualization; 128 if not given.")
    ] = None,
    blame: Annotated[
        Path | None,
        typer.Option(
            help="Statistics that sparsight blame-stats wrote: also say which units are to blame "
            "for an answer that is not the target.",
            show_default=False,
        ),
    ] = None,
    chain: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a chain that sparsight chain wrote: also show what it makes of the "
            "image.",
            show_default=False,
        ),
    ] = None,
    sparsity: shared.SparsityOption = shared.DEFAULT_SPARSITY,
    augmentations: shared.AugmentationsOption = 64,
    solver: shared.SolverOption = shared.DEFAULT_SOLVER,
    pattern: shared.PatternOption = "weight",
    damping: shared.DampingOption = None,
    stem: shared.StemOption = False,
    seed: shared.SeedOption = 0,
    chunk: shared.ChunkOption = None,
    device: shared.DeviceOption = "cpu",
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the cases.", rich_help_panel="Output"),
    ] = Path("sparsight-out"),
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Why did the network say this? Dense and traced maps of each image, on one page.

    Each image becomes OUT/NAME/index.html, several get a gallery, OUT/index.html.

    The same command, run again, goes on where it was interrupted.
    """
    from sparsight.cli.settings import ExplainSettings

    settings = ExplainSettings(
        model=model,
        weights=weights,
        labels=labels,
        target=target,
        methods=methods,
        neuron=tuple(neuron or ()),
        steps=steps,
        blame=blame,
        chain=chain,
        sparsity=sparsity,
        augmentations=augmentations,
        solver=solver,
        pattern=pattern,
        damping=damping,
        stem=stem,
        seed=seed,
        chunk=chunk,
        device=device,
    )
    if not _run(images, settings, out, overwrite=overwrite, as_json=as_json):
        raise typer.Exit(2)


def _run(
    given: list[Path], settings: ExplainSettings, out: Path, *, overwrite: bool, as_json: bool
) -> bool:
    """Make all cases that can be made; whether that were all."""
    from sparsight.cli.batch import describe, find_images, plan
    from sparsight.reports import print_summary, write_index

    cases: list[Mapping[str, Any]] = []
    with Display(quiet=as_json) as display:
        images, failed = find_images(given)
        several = len(images) + len(failed) > 1
        for error in failed.values():
            display.complain(str(error))
        jobs: list[Job] = []
        if images:
            network = settings.load()
            jobs = plan(images, settings, out, overwrite=overwrite)
        try:
            for number, job in enumerate(jobs):
                display.count("images", number, len(jobs))
                try:
                    case = job.case(settings, network, display.step)
                except SparsightError as error:
                    failed[str(job.image)] = error
                    display.complain(str(error))
                    continue
                cases.append(describe(job, case))
                if not as_json:
                    with display.aside() as console:
                        if job.done:
                            console.print("there already, with the same settings", style="dim")
                        print_summary(case, job.page, console)
                        console.print()
        except KeyboardInterrupt:
            if several:
                display.say(
                    f"{len(cases)} of {len(jobs)} cases are in {out}: "
                    "the same command goes on from there"
                )
            raise
        index = write_index(out) if several and cases else None
    if as_json:
        errors = [{"image": image, "error": str(error)} for image, error in failed.items()]
        emit_json({"cases": cases, "failed": errors, "index": index and str(out / index.name)})
    elif index:
        with display.aside() as console:
            console.print(f"index {out / index.name}", soft_wrap=True, markup=False)
    return not failed
