"""Tuned ratios beside the rule that is tuned on nothing, and what wrong ones cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsight.attribution.result import Reduction
from sparsight.benchmarks.maps.arms import parse_arm, trace_arm
from sparsight.benchmarks.maps.judge import Judged, judge_maps
from sparsight.benchmarks.maps.report import markdown
from sparsight.benchmarks.maps.run import Progress, check_settings
from sparsight.benchmarks.maps.score import check_places, score_by
from sparsight.benchmarks.maps.solutions import Solutions
from sparsight.benchmarks.maps.tuning import Sensitivity, Tuned, tune_ratios, wrong_ratios
from sparsight.storage import write_text

__all__ = ["SideBySide", "tune_and_compare"]


@dataclass(frozen=True)
class SideBySide:
    """What tuning gains and risks.

    Attributes
    ----------
    tuned
        By method.
    wrong
        What wrong ratios cost on other cases, by method.
    judged
        Maps on the dense network, the default trace, and traces with each set of ratios.
    """

    tuned: dict[str, Tuned]
    wrong: dict[str, Sensitivity]
    judged: Judged


def tune_and_compare(
    known: Solutions,
    unseen: Solutions,
    methods: Sequence[str],
    metric: str,
    folder: Path,
    *,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    reduction: Reduction | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> SideBySide:
    """Tune ratios on some cases, and compare on others, maybe of another network.

    Into ``folder`` go ``ratios-METHOD.json`` (a sparsity for :func:`sparsight.trace`), the searches
    and sensitivities, ``test/`` (as :func:`judge_maps` writes it) and ``tables.md``. What is there
    already is not measured again.

    Parameters
    ----------
    known, unseen
        To tune on, and to compare on; of networks with the same blocks.
    methods, metric
        To tune for, each method by itself.
    folder
        Made if it is not there.
    method_settings, reduction, workers, progress
        As in :func:`sparsight.benchmarks.maps.measure_maps`.

    Raises
    ------
    InputError
        If the folder holds something else, or there is no method or metric of that name.
    """
    score_by([metric], unseen.network)  # is there such a metric?
    for solutions in (known, unseen):
        check_places(metric, solutions.cases)
    given = method_settings or {}
    about = {"tuned on": known.facts(), "compared on": unseen.facts()}
    asked = {"methods": list(methods), "metric": metric, "reduction": reduction or "own"}
    settings = {name: dict(one) for name, one in given.items()}
    check_settings(folder, {**about, **asked, "settings": settings})
    for solutions in (known, unseen):
        solutions.solve(progress)
    tuned: dict[str, Tuned] = {}
    wrong: dict[str, Sensitivity] = {}
    for name in methods:
        tuned[name] = tune_ratios(
            known, name, metric, folder / f"search-{name}.json",
            method_settings=given, reduction=reduction, progress=progress,
        )  # fmt: skip
        ratios = json.dumps(tuned[name].ratios, indent=2) + "\n"
        write_text(folder / f"ratios-{name}.json", ratios)
        wrong[name] = wrong_ratios(
            unseen, tuned[name], folder / f"wrong-{name}.json",
            method_settings=given, reduction=reduction, progress=progress,
        )  # fmt: skip
    how: dict[str, Any] = {"solver": unseen.solver, "augmentations": unseen.augmentations}
    arms = [parse_arm("dense"), parse_arm("trace"), trace_arm("ramp", sparsity="ramp:0.6", **how)]
    arms += [trace_arm(f"for {n}", sparsity=found.ratios, **how) for n, found in tuned.items()]
    judged = judge_maps(
        unseen.network, unseen.cases, arms, methods, [metric], folder / "test",
        facts=about,
        method_settings=given, reduction=reduction, calibration=unseen.cases[0].x,
        seed=unseen.seed, workers=workers, progress=progress,
    )  # fmt: skip
    text = [
        f"Tuned on {len(known.cases)} images, compared on {len(unseen.cases)} others. `trace` is "
        "the default and tuned on nothing, `ramp` rises from 0 to 0.6 with depth, `for METHOD` has "
        "the ratios that were tuned for it. Brackets: 95 % bootstrap intervals over images.",
        markdown(judged.summaries[metric]),
        "What a wrong ratio in one block changes, in per cent, on the images compared on:",
        *(wrong[name].markdown(tuned[name].ratios) for name in methods),
    ]
    write_text(folder / "tables.md", "\n\n".join(text) + "\n")
    return SideBySide(tuned, wrong, judged)
