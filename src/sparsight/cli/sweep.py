"""``sparsight sweep``: every image of a data set, one row each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.data import HELP
from sparsight.cli.display import Display, emit_json
from sparsight.errors import InputError

if TYPE_CHECKING:
    from sparsight.networks import Network
    from sparsight.sweeps import Sweep

__all__ = ["sweep"]

_SWEEP, _WORKERS = "Sweep", "Workers"


def sweep(
    data: Annotated[str, typer.Argument(help=HELP, metavar="DATA", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the result.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    truth: shared.TruthOption = None,
    no_truth: Annotated[
        bool, typer.Option("--no-truth", help="The images' classes are not known.")
    ] = False,
    do: Annotated[
        str,
        typer.Option(help="Some of trace, attribute and blame.", rich_help_panel=_SWEEP),
    ] = "trace,attribute,blame",
    methods: Annotated[
        str,
        typer.Option(
            help="Attribution methods, separated by commas, or all.", rich_help_panel=_SWEEP
        ),
    ] = "saliency",
    keep: Annotated[
        str,
        typer.Option(
            help="Some of maps, pictures and traces, or none: what is kept of each image beside "
            "its row.",
            rich_help_panel=_SWEEP,
        ),
    ] = "maps,pictures,traces",
    shard: Annotated[
        int,
        typer.Option(min=1, help="Images done and written together.", rich_help_panel=_SWEEP),
    ] = 16,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes of Ray, each with the network; 0 for none of them.",
            rich_help_panel=_WORKERS,
            show_default="one for each core, or GPU",
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            help="Of each worker; another number may round otherwise.",
            rich_help_panel=_WORKERS,
        ),
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster, ray://HOST:PORT or HOST:PORT; its machines must share the "
            "folders. By default one is begun here.",
            rich_help_panel=_WORKERS,
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
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Look at every image of a data set: answers, traces, maps, what is to blame.

    OUT/table.parquet has one row per image; an image that cannot be used gets one that says why.

    The same command, run again, goes on where it was interrupted.
    """
    from sparsight.cli.settings import TraceSettings
    from sparsight.cluster import cores
    from sparsight.sweeps import SweepSettings
    from sparsight.sweeps import sweep as run

    wanted = SweepSettings.of(
        do=do, methods=methods, keep="" if keep == "none" else keep, shard=shard, threads=threads,
        sparsity=shared.read_sparsity(sparsity), augmentations=augmentations, solver=solver,
        pattern=pattern, damping=damping, stem=stem, seed=seed, chunk=chunk,
    )  # fmt: skip
    settings = TraceSettings(
        model=model, weights=weights, labels=labels, sparsity=sparsity,
        augmentations=augmentations, solver=solver, pattern=pattern, damping=damping, stem=stem,
        seed=seed, chunk=chunk, device=device,
    )  # fmt: skip
    with Display(quiet=as_json) as display:
        network = settings.load()
        samples = _samples(data, truth, network, display, known=not no_truth)
        if workers is None:
            workers = max(1, cores() // threads) if network.device.type == "cpu" else _gpus()
        found = run(
            network, samples, out, wanted, workers=workers, address=address,
            overwrite=overwrite, progress=display.step,
        )  # fmt: skip
    _show(found, out, display, as_json=as_json)


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _samples(
    data: str, truth: Path | None, network: Network, display: Display, *, known: bool
) -> list[Any]:
    from sparsight.cli.data import read_samples
    from sparsight.datasets.folders import list_images

    if known:
        try:
            return read_samples(data, truth, network, test=True, progress=display.step)
        except InputError as error:
            if truth is None and Path(data).is_dir():
                raise InputError(
                    f"{error}; if the classes of the images are not known, say so: --no-truth"
                ) from error
            raise
    if truth is not None:
        raise InputError("--truth and --no-truth: give one of them")
    if not Path(data).exists():
        raise InputError(f"--no-truth is for files and folders, and {data} is none: leave it out")
    return list_images(data)


def _show(found: Sweep, out: Path, display: Display, *, as_json: bool) -> None:
    from dataclasses import asdict

    from sparsight.reports.text import clean
    from sparsight.sweeps.findings import Estimate, findings

    told = findings(found)
    if as_json:
        plain = {k: asdict(v) if isinstance(v, Estimate) else v for k, v in told.items()}
        unusable = [{"image": image, "error": why} for image, why in found.bad]
        emit_json({"out": str(out), "findings": plain, "unusable": unusable})
        return
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, pad_edge=False, show_header=False)
    for name, value in told.items():
        rows.add_row(Text(clean(name)), str(value))
    with display.aside() as console:
        console.print(rows)
        console.print(f"table {clean(out / 'table.parquet')}", soft_wrap=True, markup=False)
    if found.bad:
        first, why = found.bad[0]
        display.say(f"{len(found.bad)} images could not be used, the first: {first}: {why}")
