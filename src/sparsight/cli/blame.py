"""``sparsight blame``: who made this mistake; ``sparsight blame-stats``: what is usual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

__all__ = ["blame", "blame_stats"]

_PAGE, _FACTS, _MAPS = "index.html", "blame.json", "blame.safetensors"
_CHECK = "What if"


def blame_stats(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, or folders of them.", metavar="IMAGE", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="File for the statistics.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    truth: shared.TruthOption = None,
    units: Annotated[
        str | None,
        typer.Option(
            help="filter, row, head, neuron, norm, or several of them with commas.",
            show_default="filter, or head,neuron where convolutions are few",
        ),
    ] = None,
    loss: Annotated[str, typer.Option(help="label, prediction, logit or difference.")] = "label",
    split: Annotated[str, typer.Option(help="Moments of parts too: correct, class, or both.")] = "",
    tail: Annotated[
        int, typer.Option(min=0, help="Keep so many of each unit's largest values.")
    ] = 0,
    profiles: Annotated[
        bool,
        typer.Option(
            "--profiles", help="Keep all values: for percentiles, and images that fail alike."
        ),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 8,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Measure how strongly each unit is usually pulled on, over a labelled data set.

    The same command, run again after an interruption, goes on where it was.
    """
    from sparsight.blame import statistics
    from sparsight.datasets.folders import label_images
    from sparsight.errors import InputError
    from sparsight.networks import load
    from sparsight.reports.text import clean

    if out.is_dir() or (out.exists() and not overwrite):
        raise InputError(f"{out} is there already: choose another file, or --overwrite it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror or error})") from error
    state = out.with_name(f".{out.name}.state")
    samples = label_images(images, truth)
    network = load(model, weights=weights, labels=labels, device=device)
    kinds = None if units is None else [kind.strip() for kind in units.split(",")]
    with Display(quiet=as_json) as display:
        found = statistics(
            network, samples, kinds=kinds, loss=loss,
            split=[part.strip() for part in split.split(",") if part.strip()],
            tail=tail, profiles=profiles, batch=batch,
            state=state, progress=display.step,
        )  # fmt: skip
        found.save(out, overwrite=overwrite)
        state.unlink(missing_ok=True)
    facts = {
        "out": str(out), "samples": found.samples, "correct": found.correct,
        "units": len(found.raw.mean), "kinds": list(found.kinds),
        "untouched": list(found.untouched),
    }  # fmt: skip
    if as_json:
        emit_json(facts)
        return
    with display.aside() as console:
        console.print(
            f"{found.samples} images, {found.correct} answered rightly; {facts['units']} units "
            f"({', '.join(found.kinds)})",
            soft_wrap=True, markup=False, highlight=False,
        )  # fmt: skip
        if found.untouched:
            console.print(
                f"no gradient reaches {clean(', '.join(found.untouched))}: their saliency is zero",
                soft_wrap=True, markup=False, style="yellow",
            )  # fmt: skip
        console.print(f"statistics {clean(out)}", soft_wrap=True, markup=False)


def blame(
    image: Annotated[Path, typer.Argument(help="Image file.", show_default=False)],
    statistics: Annotated[
        Path,
        typer.Option(
            "--statistics", "-s", help="File that sparsight blame-stats wrote.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for page and numbers.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    label: Annotated[
        str | None,
        typer.Option(
            help="What the answer should be, by number or name; the prediction if not given.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="Rank units by z, share, raw, percentile or tail.")] = "z",
    top: Annotated[int, typer.Option(min=1, help="Units listed, and that the map is of.")] = 10,
    pixels: Annotated[
        str, typer.Option("--map", help="Map of pixels: match (as published), sum or none.")
    ] = "match",
    traced: Annotated[
        bool, typer.Option("--trace", help="Measure a trace for the image as well.")
    ] = False,
    off: Annotated[
        str,
        typer.Option(
            help="What off means: weights (to zero), zero (the output) or mean (the output).",
            rich_help_panel=_CHECK,
        ),
    ] = "weights",
    mend: Annotated[
        float | None,
        typer.Option(
            help="Rate of one gradient step: also show what mending the units does.",
            rich_help_panel=_CHECK,
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="Images, or folders of them, to count the damage on; repeat it.",
            rich_help_panel=_CHECK,
            show_default=False,
        ),
    ] = None,
    truth: shared.TruthOption = None,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    sparsity: shared.SparsityOption = shared.DEFAULT_SPARSITY,
    augmentations: shared.AugmentationsOption = 64,
    seed: shared.SeedOption = 0,
    device: shared.DeviceOption = "cpu",
    overwrite: shared.OverwriteOption = False,
    as_json: shared.JsonOption = False,
) -> None:
    """Which units made this mistake, which pixels drive them, and what if they were off.

    Writes OUT/index.html, with all numbers in blame.json and blame.safetensors.
    """
    from safetensors.numpy import save_file

    from sparsight.blame import Statistics
    from sparsight.cli.options import read_sparsity
    from sparsight.datasets.folders import label_images
    from sparsight.mistake import investigate
    from sparsight.networks import load, open_image
    from sparsight.reports.blame_page import render_blame
    from sparsight.reports.text import clean
    from sparsight.storage import atomic_folder, write_manifest
    from sparsight.traces import trace

    usual = Statistics.load(statistics)
    others = label_images(reference, truth) if reference else []
    network = load(model, weights=weights, labels=labels, device=device)
    opened = open_image(image)
    with (
        Display(quiet=as_json) as display,
        atomic_folder(out, {_PAGE, _FACTS, _MAPS}, overwrite=overwrite) as folder,
    ):
        found = None
        if traced:
            found = trace(
                network, opened, sparsity=read_sparsity(sparsity), augmentations=augmentations,
                seed=seed, progress=display.step,
            )  # fmt: skip
        report = investigate(
            network, image, label, statistics=usual, by=by, top=top,
            objective=None if pixels == "none" else pixels, trace=found, mode=off, rate=mend,
            reference=[(file, own) for file, own in others if file.resolve() != image.resolve()],
            seed=seed, progress=display.step,
        )  # fmt: skip
        x = network.prepare(opened)
        shown = network.preprocessing.denormalize(x[0].float().cpu()).clamp(0, 1)
        picture = shown.expand(3, -1, -1).permute(1, 2, 0).numpy()
        title = f"{image.name}: who made this {report.predicted}?"
        page = render_blame(report, picture, title, network.spec)
        (folder / _PAGE).write_text(page, encoding="utf-8")
        save_file(report.arrays(), folder / _MAPS)
        facts = {"kind": "blame", "schema": 1, "image": image.name, **report.describe()}
        write_manifest(folder, _FACTS, facts)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **report.describe()}, indent=2, allow_nan=False))
        return
    with display.aside() as console:
        console.print(
            clean(f"{title} It should be {report.label}."), style="bold", soft_wrap=True,
            markup=False,
        )  # fmt: skip
        for unit in report.units:
            console.print(
                f"{clean(unit.layer)}:{unit.number}  {by} {unit.score:.2f}", soft_wrap=True,
                markup=False, highlight=False,
            )  # fmt: skip
        console.print(f"page {clean(out / _PAGE)}", soft_wrap=True, markup=False)
