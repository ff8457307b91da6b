"""``sparsight bench trojan`` and ``bench insertion``: whether maps show what they should."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.cases import (
    CALIBRATION,
    SCENE_SETTINGS,
    photographs,
    planted_photographs,
    scenes,
)
from sparsight.cli.display import Display, emit_json
from sparsight.cli.places import check_output

if TYPE_CHECKING:
    from torch import Tensor

    from sparsight.benchmarks.maps import Case, Row
    from sparsight.networks import Network

__all__ = ["bench_insertion", "bench_trojan", "write_cases"]

_MEASUREMENT = "Measurement"
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Folder for rows, tables, plots and cases; measured rows are taken up again.",
        rich_help_panel="Output",
        show_default=False,
    ),
]
ArmsOption = Annotated[
    str,
    typer.Option(
        help="Networks to draw maps on: names separated by commas, see the documentation.",
        rich_help_panel=_MEASUREMENT,
        show_default="all of them",
    ),
]
ReductionOption = Annotated[
    str,
    typer.Option(
        help="How channels become one: sum_abs, sum, max_abs, or own for each method's own.",
        rich_help_panel=_MEASUREMENT,
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Processes side by side, each with a copy of the network; 0 for one per core with "
        "the scenes, and one with photographs.",
        rich_help_panel=_MEASUREMENT,
    ),
]
MasksOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with a mask of the object for each image, a PNG of its name.",
        rich_help_panel=_MEASUREMENT,
        show_default=False,
    ),
]
BoxesOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV with columns file, x0, y0, x1, y1: where objects are.",
        rich_help_panel=_MEASUREMENT,
        show_default=False,
    ),
]
MethodsOption = Annotated[
    str, typer.Option(help="Attribution methods: names separated by commas, or all.")
]


def bench_trojan(
    out: OutOption,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Photographs or folders to lay triggers on; the embedded scenes if none is named.",
            show_default=False,
        ),
    ] = None,
    trigger: Annotated[
        list[str] | None,
        typer.Option(
            help="A sticker and the class that it was planted for, as FILE.png=CLASS; repeat it.",
            rich_help_panel=_MEASUREMENT,
            show_default=False,
        ),
    ] = None,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    count: Annotated[
        int,
        typer.Option("--cases", min=2, help="How many images.", rich_help_panel=_MEASUREMENT),
    ] = 200,
    arms: ArmsOption = "",
    methods: MethodsOption = "all",
    reduction: ReductionOption = "sum_abs",
    workers: WorkersOption = 0,
    device: shared.DeviceOption = "cpu",
    seed: shared.SeedOption = 0,
    as_json: shared.JsonOption = False,
) -> None:
    """Score maps against the triggers of images that fool a network.

    By itself: scenes with stickers, for which Trojans were planted into the embedded network. With
    images and --trigger: photographs, and a network of yours that carries Trojans. An image counts
    if the network answers the trigger's class with it, and another one without.

    Every map is drawn on the dense network, on traces and on networks that are pruned once for all
    images; maps that know no network are scored beside them. Rows are written as they are measured:
    after Ctrl-C the same command goes on.
    """
    from sparsight.benchmarks.maps import LOCALISATION
    from sparsight.errors import InputError
    from sparsight.networks import load

    if bool(images) != bool(trigger):
        raise InputError("images and --trigger go together: give both, or neither for the scenes")
    if not images and (model != "embedded" or weights is not None):
        raise InputError(
            "scenes fool only the embedded network: give images and --trigger for another one"
        )
    with Display(quiet=as_json) as display:
        settings = {} if images else SCENE_SETTINGS
        workers = workers or (1 if images else os.cpu_count() or 1)
        plan = _Plan(out, arms, methods, LOCALISATION, reduction, seed, settings, workers)
        network = load(model, weights=weights, labels=labels, device=device)
        if images and trigger:
            cases, calibration, facts = planted_photographs(
                network, images, trigger, count, seed, display
            )
        else:
            cases, calibration, facts = scenes(network, count, display)
        plan.measure(display, network, cases, calibration, facts, "the trigger")
    plan.tell(display, as_json=as_json)


def bench_insertion(
    images: Annotated[
        list[Path], typer.Argument(help="Image files or folders.", show_default=False)
    ],
    out: OutOption,
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    masks: MasksOption = None,
    boxes: BoxesOption = None,
    arms: ArmsOption = "",
    methods: MethodsOption = "all",
    reduction: ReductionOption = "own",
    workers: WorkersOption = 0,
    device: shared.DeviceOption = "cpu",
    seed: shared.SeedOption = 0,
    as_json: shared.JsonOption = False,
) -> None:
    """Score maps of the network's own answers by what the answer loses with the pixels they rank.

    Insertion and deletion ask the dense network, whatever network a map was drawn on. With masks or
    boxes of objects, maps are scored against these too. Networks that are pruned once are pruned on
    the images themselves, 256 of them at most. Rows are written as they are measured: after Ctrl-C
    the same command goes on.
    """
    import torch

    from sparsight.benchmarks.maps import INSERTION, LOCALISATION
    from sparsight.errors import InputError
    from sparsight.networks import load

    if masks is not None and boxes is not None:
        raise InputError("masks and boxes are both given: choose one")
    metrics = INSERTION + (LOCALISATION if masks is not None or boxes is not None else ())
    with Display(quiet=as_json) as display:
        plan = _Plan(out, arms, methods, metrics, reduction, seed, {}, workers or 1)
        network = load(model, weights=weights, labels=labels, device=device)
        cases = photographs(network, images, masks, boxes, display)
        calibration = torch.cat([case.x for case in cases[:CALIBRATION]])
        place = "the object" if len(metrics) > len(INSERTION) else ""
        images_of = [case.key for case in cases]
        plan.measure(display, network, cases, calibration, {"images": images_of}, place)
    plan.tell(display, as_json=as_json)


class _Plan:
    """What both commands do once they know their cases."""

    def __init__(
        self,
        out: Path,
        arms: str,
        methods: str,
        metrics: Sequence[str],
        reduction: str,
        seed: int,
        settings: dict[str, dict[str, Any]],
        workers: int,
    ) -> None:
        from sparsight.attribution import choose_methods
        from sparsight.attribution.result import read_reduction
        from sparsight.benchmarks.maps import ARMS, Summary, parse_arm

        check_output(out)
        self.out, self.metrics, self.seed, self.workers = out, metrics, seed, workers
        self.reduction = None if reduction == "own" else read_reduction(reduction)
        self.methods = choose_methods(methods)
        self.usual = not arms
        self.arms = [parse_arm(name.strip()) for name in (arms or ",".join(ARMS)).split(",")]
        self.settings = {name: settings[name] for name in self.methods if name in settings}
        self.facts: dict[str, Any] = {}
        self.found: dict[str, Summary] = {}

    def measure(
        self,
        display: Display,
        network: Network,
        cases: Sequence[Case],
        calibration: Tensor,
        facts: dict[str, Any],
        place: str,
    ) -> None:
        """Measure what is missing and write the report; show ``place`` in three cases."""
        from sparsight.benchmarks.maps import ends_in_classes, judge_maps

        if self.usual and cases and not ends_in_classes(network, cases[0].x):
            display.say(
                "sparse-fc is left out: the network ends in no linear layer over its classes"
            )
            self.arms = [arm for arm in self.arms if not arm.name.startswith("sparse-fc")]
        about = {
            "network": network.spec,
            "weights": str(network.info.get("weights", "as built")),
        }
        judged = judge_maps(
            network, cases, self.arms, self.methods, self.metrics, self.out,
            facts=facts | about, method_settings=self.settings, reduction=self.reduction,
            calibration=calibration, seed=self.seed, workers=self.workers, progress=display.step,
        )  # fmt: skip
        self.facts, self.found, rows = judged.facts, judged.summaries, judged.rows
        names = [arm.name for arm in self.arms]
        if {"dense", "trace"} <= set(names):
            write_cases(
                self.out, network, cases, rows, self.metrics[0], self.methods, self.seed, place
            )

    def tell(self, display: Display, *, as_json: bool) -> None:
        """Print the first metric's table, or all means as JSON."""
        from sparsight.cli.tables import maps_table
        from sparsight.reports.text import clean

        if as_json:
            means = {
                name: {arm: vars(by["mean"]) for arm, by in summary.means.items() if "mean" in by}
                for name, summary in self.found.items()
            }
            emit_json({**self.facts, "out": str(self.out), "means": means})
            return
        with display.aside() as console:
            console.print(maps_table(self.found[self.metrics[0]]))
            console.print(f"results {clean(self.out)}", soft_wrap=True, markup=False)


def write_cases(
    folder: Path,
    network: Network,
    cases: Sequence[Case],
    rows: Sequence[Row],
    metric: str,
    methods: Sequence[str],
    seed: int,
    place: str,
) -> Path:
    """Write case files of the best, the median and the worst case of the default trace.

    Cases are ordered by what the trace adds to the dense network's mean over methods.

    Returns
    -------
    Path
        The page that links them.
    """
    from sparsight.casefile import explain
    from sparsight.reports import write_case, write_index

    gain = {
        case.key: _mean(rows, case.key, "trace", metric) - _mean(rows, case.key, "dense", metric)
        for case in cases
    }
    order = sorted(gain, key=gain.__getitem__)
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    for title, key in chosen.items():
        number = next(i for i, case in enumerate(cases) if case.key == key)
        case = cases[number]
        page = explain(
            network, case.image, target=case.target, methods=methods, seed=seed + number,
            image_name=f"{title} ({100 * gain[key]:+.1f} points in the benchmark): {key}",
        )  # fmt: skip
        if case.mask is not None:
            page = replace(page, truth_mask=case.mask, truth_name=place)
        at = folder / "cases" / title
        write_case(page, at, overwrite=at.exists())
    return write_index(folder / "cases", title="Best, median and worst case of the trace")


def _mean(rows: Sequence[Row], case: str, arm: str, metric: str) -> float:
    scores = next(row.scores for row in rows if (row.case, row.arm) == (case, arm))
    values = [values[metric] for values in scores.values() if metric in values]
    return sum(values) / max(len(values), 1)
