"""``sparsight bench speed``: how long a trace takes on this machine, and what against."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

__all__ = ["bench_speed", "report_name"]

_MEASUREMENT = "Measurement"


def report_name(spec: str) -> str:
    """Name the file of a network's report.

    Examples
    --------
    >>> report_name("torchvision:resnet50"), report_name("my nets/net.py:build")
    ('speed-resnet50.json', 'speed-build.json')
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", re.split(r"[:/\\]", spec)[-1]).strip(".-")
    return f"speed-{name or 'network'}.json"


def bench_speed(
    image: Annotated[
        Path | None, typer.Argument(help="Image file; noise if none is given.", show_default=False)
    ] = None,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    device: shared.DeviceOption = "cpu",
    sparsity: shared.SparsityOption = shared.DEFAULT_SPARSITY,
    augmentations: shared.AugmentationsOption = 64,
    seed: shared.SeedOption = 0,
    repeats: Annotated[
        int,
        typer.Option(min=1, help="How often each is timed.", rich_help_panel=_MEASUREMENT),
    ] = 5,
    published: Annotated[
        bool,
        typer.Option(
            help="Time the published steps too, once; they are slow.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = True,
    solvers: Annotated[
        str,
        typer.Option(
            help="Other solvers to time: names separated by commas, or all.",
            rich_help_panel=_MEASUREMENT,
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File for the report; a report that is there is replaced.",
            rich_help_panel="Output",
            show_default="speed-MODEL.json",
        ),
    ] = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Time a trace against forward passes of its views and against the published steps.

    Everything is timed in turn. Without --weights a network of a library stays untrained.
    The report is written after every timing, so Ctrl-C loses only the one that runs.
    """
    import torch

    from sparsight.benchmarks import check_solvers, measure_speed, peak_memory
    from sparsight.cli.places import check_report_file
    from sparsight.cli.settings import named
    from sparsight.cli.tables import speed_table
    from sparsight.errors import SparsightError
    from sparsight.networks import load, open_image
    from sparsight.reports.text import clean

    file = out or Path(report_name(model))
    others = check_solvers([name.strip() for name in solvers.split(",") if name.strip()])
    check_report_file(file)
    asked = shared.read_sparsity(sparsity)
    with Display(quiet=as_json) as display:
        torch.manual_seed(seed)  # for random weights
        network = load(model, weights=weights or "random", device=device)
        try:
            if image is not None:
                open_image(image)  # refused in plain words, not in those of another process
            display.step("memory", 0, 1)
            memory = peak_memory(
                model, weights=weights or "random", image=image, device=device,
                sparsity=asked, augmentations=augmentations, seed=seed,
            )  # fmt: skip
            report = measure_speed(
                network, image, sparsity=asked, augmentations=augmentations, repeats=repeats,
                solvers=others, published=int(published), seed=seed, memory=memory,
                progress=display.step, keep=lambda found: found.save(file),
            )  # fmt: skip
        except SparsightError as error:
            if image is None:
                raise
            raise named(image, error) from error
    if as_json:
        emit_json(report.describe() | {"file": str(file)})
        return
    with display.aside() as console:
        console.print(speed_table(report))
        console.print(f"report {clean(file)}", soft_wrap=True, markup=False)
