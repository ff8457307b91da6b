"""``sparsight tune``: ratios per block by the published search, beside the rule that needs none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.cases import SCENE_SETTINGS, photographs, planted_photographs, scenes
from sparsight.cli.display import Display, emit_json
from sparsight.cli.maps import (
    BoxesOption,
    MasksOption,
    MethodsOption,
    OutOption,
    ReductionOption,
    WorkersOption,
)
from sparsight.cli.places import check_output

__all__ = ["tune"]

_SEARCH = "Search"


def tune(
    out: OutOption,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files or folders; the embedded scenes if none is named.",
            show_default=False,
        ),
    ] = None,
    trigger: Annotated[
        list[str] | None,
        typer.Option(
            help="A sticker to lay on the images and the class that it was planted for, as "
            "FILE.png=CLASS; repeat it.",
            rich_help_panel=_SEARCH,
            show_default=False,
        ),
    ] = None,
    masks: MasksOption = None,
    boxes: BoxesOption = None,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    count: Annotated[
        int, typer.Option("--cases", min=2, help="Images to tune on.", rich_help_panel=_SEARCH)
    ] = 40,
    test: Annotated[
        int, typer.Option(min=2, help="Other images to compare on.", rich_help_panel=_SEARCH)
    ] = 40,
    methods: MethodsOption = "saliency",
    metric: Annotated[
        str, typer.Option(help="What makes a map good.", rich_help_panel=_SEARCH)
    ] = "roc_auc",
    solver: Annotated[
        str,
        typer.Option(
            help="One that solves layers by themselves: sparsegpt, obs, refit, forward, wanda, "
            "magnitude.",
            rich_help_panel=_SEARCH,
        ),
    ] = "sparsegpt",
    augmentations: shared.AugmentationsOption = 64,
    reduction: ReductionOption = "sum_abs",
    workers: WorkersOption = 0,
    device: shared.DeviceOption = "cpu",
    seed: shared.SeedOption = 0,
    as_json: shared.JsonOption = False,
) -> None:
    """Search sparsity ratios block by block, as published, and say what that gains and risks.

    For each method: from the output to the input, every block takes the ratio of a grid at which
    the method's maps score best. On other images, these ratios are compared with the default trace,
    which is tuned on nothing, and with wrong ratios. ratios-METHOD.json serves as --sparsity.

    After Ctrl-C the same command goes on.
    """
    from sparsight.attribution import choose_methods
    from sparsight.attribution.result import read_reduction
    from sparsight.benchmarks.maps import Solutions, tune_and_compare
    from sparsight.cli.tables import maps_table
    from sparsight.errors import InputError
    from sparsight.networks import load
    from sparsight.reports.text import clean

    if not images and (model != "embedded" or weights is not None):
        raise InputError("scenes fool only the embedded network: name images for another one")
    places = [given for given in (trigger, masks, boxes) if given]
    if len(places) > 1 or (places and not images):
        raise InputError(
            "--trigger, --masks and --boxes each say where the reason is in images: name images "
            "and choose one"
        )
    check_output(out)
    names = choose_methods(methods)
    settings = {} if images else {n: SCENE_SETTINGS[n] for n in names if n in SCENE_SETTINGS}
    channels = None if reduction == "own" else read_reduction(reduction)
    with Display(quiet=as_json) as display:
        network = load(model, weights=weights, labels=labels, device=device)
        if not images:
            found, _, _ = scenes(network, count + test, display)
        elif trigger:
            found, _, _ = planted_photographs(network, images, trigger, count + test, seed, display)
        else:
            found = photographs(network, images, masks, boxes, display)[: count + test]
        if len(found) < count + 2:
            raise InputError(
                f"only {len(found)} images can be used, and {count} are to tune on: give more, or "
                "fewer --cases"
            )
        known, unseen = (
            Solutions(
                network, found[part], out / "solutions" / name, solver=solver,
                augmentations=augmentations, seed=seed,
            )
            for name, part in (("tuning", slice(count)), ("comparing", slice(count, None)))
        )  # fmt: skip
        result = tune_and_compare(
            known, unseen, names, metric, out, method_settings=settings, reduction=channels,
            workers=workers or 1, progress=display.step,
        )  # fmt: skip
        summary = result.judged.summaries[metric]
        if as_json:
            ratios = {name: tuned.ratios for name, tuned in result.tuned.items()}
            means = {arm: {m: vars(e) for m, e in by.items()} for arm, by in summary.means.items()}
            emit_json({"out": str(out), "metric": metric, "ratios": ratios, "means": means})
            return
        with display.aside() as console:
            console.print(maps_table(summary))
            console.print(f"results {clean(out)}", soft_wrap=True, markup=False)
