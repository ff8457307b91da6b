"""``sparsight bench trojan``: whether maps find the sticker that fooled the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

if TYPE_CHECKING:
    from sparsight.benchmarks.maps import Case, Row
    from sparsight.networks import Network

__all__ = ["bench_trojan", "write_cases"]

_MEASUREMENT = "Measurement"
_CALIBRATION = 256  # images for networks that are pruned once
_FIRST = 900_000  # of their seeds
_SETTINGS: dict[str, dict[str, Any]] = {  # enough for scenes of 64 pixels, in a third of the time
    "gradient_shap": {"samples": 20},
    "integrated_gradients": {"steps": 25},
    "lime": {"samples": 300},
    "occlusion": {"window": 6, "stride": 4},
}


def bench_trojan(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for rows, tables, plots and cases; measured rows are taken up again.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    count: Annotated[
        int,
        typer.Option("--cases", min=2, help="How many images.", rich_help_panel=_MEASUREMENT),
    ] = 200,
    arms: Annotated[
        str,
        typer.Option(
            help="Networks to draw maps on: names separated by commas, see the documentation.",
            rich_help_panel=_MEASUREMENT,
            show_default="all of them",
        ),
    ] = "",
    methods: Annotated[
        str, typer.Option(help="Attribution methods: names separated by commas, or all.")
    ] = "all",
    device: shared.DeviceOption = "cpu",
    seed: shared.SeedOption = 0,
    as_json: shared.JsonOption = False,
) -> None:
    """Score maps against the stickers of scenes that fool the embedded network.

    Every map is drawn on the dense network, on traces and on networks that are pruned once for all
    images; maps that know no network are scored beside them. Rows are written as they are measured:
    after Ctrl-C the same command goes on.
    """
    import torch

    from sparsight.benchmarks.maps import (
        ARMS,
        LOCALISATION,
        measure_maps,
        parse_arm,
        scene_cases,
        score_by,
        write_report,
    )
    from sparsight.casefile import choose_methods
    from sparsight.cli.tables import maps_table
    from sparsight.datasets.scenes import CLASSES, render_scene
    from sparsight.networks import load
    from sparsight.reports.text import clean

    chosen = choose_methods(methods)
    parsed = [parse_arm(name.strip()) for name in (arms or ",".join(ARMS)).split(",")]
    facts: dict[str, Any] = {
        "network": "embedded",
        "arms": [arm.name for arm in parsed],
        "methods": list(chosen),
        "settings": {name: _SETTINGS[name] for name in chosen if name in _SETTINGS},
        "cases": count,
        "seed": seed,
    }
    with Display(quiet=as_json) as display:
        network = load("embedded", device=device)
        cases = []
        for case in scene_cases(network, count):
            cases.append(case)
            display.step("finding cases", len(cases), count)
        scenes = (render_scene(i % len(CLASSES), seed=_FIRST + i) for i in range(_CALIBRATION))
        calibration = torch.cat([network.prepare(scene.picture()) for scene in scenes])
        rows = measure_maps(
            network, cases, parsed, chosen, score_by(LOCALISATION, network), out,
            settings=facts, method_settings=_SETTINGS, calibration=calibration, seed=seed,
            progress=display.step,
        )  # fmt: skip
        found = write_report(out, rows, LOCALISATION, facts)
        if {"dense", "trace"} <= set(facts["arms"]):
            write_cases(out, network, cases, rows, LOCALISATION[0], chosen, seed)
    if as_json:
        emit_json(
            {
                **facts,
                "out": str(out),
                "means": {
                    name: {
                        arm: vars(means["mean"])
                        for arm, means in summary.means.items()
                        if "mean" in means
                    }
                    for name, summary in found.items()
                },
            }
        )
        return
    with display.aside() as console:
        console.print(maps_table(found[LOCALISATION[0]]))
        console.print(f"results {clean(out)}", soft_wrap=True, markup=False)


def write_cases(
    folder: Path,
    network: Network,
    cases: Sequence[Case],
    rows: Sequence[Row],
    metric: str,
    methods: Sequence[str],
    seed: int,
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
            image_name=f"{title} ({100 * gain[key]:+.1f} points): {key}",
        )  # fmt: skip
        place = folder / "cases" / title
        page = replace(page, truth_mask=case.mask, truth_name="the sticker")
        write_case(page, place, overwrite=place.exists())
    return write_index(folder / "cases", title="Best, median and worst case of the trace")


def _mean(rows: Sequence[Row], case: str, arm: str, metric: str) -> float:
    scores = next(row.scores for row in rows if (row.case, row.arm) == (case, arm))
    values = [values[metric] for values in scores.values() if metric in values]
    return sum(values) / max(len(values), 1)
