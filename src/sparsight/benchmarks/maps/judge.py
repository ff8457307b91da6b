"""From cases to tables: measure what is missing, write rows, summary, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsight.attribution.result import Reduction
from sparsight.benchmarks.maps.arms import Arm
from sparsight.benchmarks.maps.cases import Case
from sparsight.benchmarks.maps.report import write_report
from sparsight.benchmarks.maps.row import Row
from sparsight.benchmarks.maps.run import Progress, measure_maps
from sparsight.benchmarks.maps.score import score_by
from sparsight.benchmarks.maps.summary import Summary
from sparsight.networks import Network

__all__ = ["Judged", "judge_maps"]


@dataclass(frozen=True)
class Judged:
    """What a benchmark of maps found.

    Attributes
    ----------
    facts
        Everything that decided about it, in plain values.
    rows
        Scores of every case on every arm.
    summaries
        By metric.
    """

    facts: dict[str, Any]
    rows: list[Row]
    summaries: dict[str, Summary]


def judge_maps(
    network: Network,
    cases: Sequence[Case],
    arms: Sequence[Arm],
    methods: Sequence[str],
    metrics: Sequence[str],
    folder: Path,
    *,
    facts: Mapping[str, Any],
    method_settings: Mapping[str, Mapping[str, Any]],
    reduction: Reduction | None,
    calibration: Tensor,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Judged:
    """Score maps of all cases on all arms and write the report into ``folder``.

    Parameters
    ----------
    network, cases, arms, methods, folder, method_settings, reduction, calibration, seed, workers,
    progress
        See :func:`sparsight.benchmarks.maps.measure_maps`.
    metrics
        Names in :data:`sparsight.attribution.metrics.METRICS`.
    facts
        What network and which cases, in plain values; the rest is added.

    Raises
    ------
    InputError
        As :func:`~sparsight.benchmarks.maps.measure_maps`, or if there is no such metric.
    """
    known = {
        **facts,
        "arms": [arm.name for arm in arms],
        "methods": list(methods),
        "settings": {name: dict(given) for name, given in method_settings.items()},
        "metrics": list(metrics),
        "reduction": reduction or "own",
        "seed": seed,
    }
    rows = measure_maps(
        network, cases, arms, methods, score_by(metrics, network), folder,
        settings=known, method_settings=method_settings, reduction=reduction,
        calibration=calibration, seed=seed, workers=workers, progress=progress,
    )  # fmt: skip
    return Judged(known, rows, write_report(folder, rows, metrics, known))
