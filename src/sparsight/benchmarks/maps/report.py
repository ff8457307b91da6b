"""What a benchmark of maps leaves in its folder: summary, tables, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsight.attribution.metrics import METRICS
from sparsight.benchmarks.maps.plots import plot_arms, plot_seconds
from sparsight.benchmarks.maps.run import Row
from sparsight.benchmarks.maps.summary import Summary, summarise
from sparsight.errors import InputError
from sparsight.storage import library_versions, write_manifest, write_text

__all__ = ["markdown", "summaries", "write_report"]

_SUMMARY, _TABLES = "summary.json", "tables.md"


def summaries(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Summary]:
    """Summarise every metric that maps of a method have values of.

    Raises
    ------
    InputError
        If there is none.
    """
    drawn = (row.scores.values() for row in rows if row.arm != "blind")
    measured = {name for found in drawn for values in found for name in values}
    if not measured & set(metrics):
        reasons = [reason for row in rows for reason in row.refused.values()]
        why = f" ({reasons[0]})" if reasons else ""
        raise InputError(f"no map could be scored{why}: choose other methods, metrics or images")
    return {
        name: summarise(rows, name, METRICS[name].best, METRICS[name].worst)
        for name in metrics
        if name in measured
    }


def markdown(summary: Summary) -> str:
    """Render one metric as a table: methods down, arms across, intervals in brackets.

    Maps that know no network have the same value in every column, so they are given once.
    """
    arms = [arm for arm in summary.means if arm != "blind"]
    methods = list(summary.means[arms[0]])
    lines = [
        f"| {summary.metric}, % | {' | '.join(arms)} |",
        f"|---|{'---:|' * len(arms)}",
    ]
    for method in methods:
        cells = [summary.means[arm][method].percent() for arm in arms]
        strong = "**" if method == "mean" else ""
        lines.append(f"| {strong}{method}{strong} | {' | '.join(cells)} |")
    closed = [summary.closed[a].percent(0) if a in summary.closed else "" for a in arms]
    lines.append(f"| gap closed | {' | '.join(closed)} |")
    lines.append(f"| seconds per image | {' | '.join(f'{summary.seconds[a]:.2g}' for a in arms)} |")
    lines.append(f"| answer kept | {' | '.join(f'{summary.kept[a]:.0%}' for a in arms)} |")
    lines.append(f"| pruned | {' | '.join(f'{summary.pruned[a]:.0%}' for a in arms)} |")
    for name, estimate in summary.means.get("blind", {}).items():
        lines.append(f"| {name} map | {estimate.percent()} |{' |' * (len(arms) - 1)}")
    lacking = [
        f"{method} on {arm} ({count} of {summary.cases})"
        for arm, found in summary.lacking.items()
        for method, count in found.items()
    ]
    if lacking:
        lines += [
            "",
            f"No map, or one without a value, counted as the worst: {', '.join(lacking)}.",
        ]
    if summary.left_out:
        lines += ["", f"Left out, without a value anywhere: {', '.join(summary.left_out)}."]
    return "\n".join(lines)


def write_report(
    folder: Path, rows: Sequence[Row], metrics: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Summary]:
    """Write ``summary.json``, ``tables.md``, ``arms.png`` and ``seconds.png``.

    Parameters
    ----------
    folder
        Where the rows are.
    rows
        All of them.
    metrics
        Names in :data:`sparsight.attribution.metrics.METRICS`.
    facts
        What was measured, in plain values.
    """
    found = summaries(rows, metrics)
    content = {
        **facts,
        "versions": library_versions(),
        "metrics": {name: asdict(summary) for name, summary in found.items()},
    }
    write_manifest(folder, _SUMMARY, content)
    counts = {name: summary.cases for name, summary in found.items()}
    alike = len(set(counts.values())) == 1
    told = ", ".join(f"{count} for {name}" for name, count in counts.items())
    cases = f"{next(iter(counts.values()))} cases" if alike else f"Cases: {told}"
    text = [f"{cases}; brackets: 95 % bootstrap intervals over cases."]
    text += [markdown(summary) for summary in found.values()]
    write_text(folder / _TABLES, "\n\n".join(text) + "\n")
    plot_arms(folder / "arms.png", found)
    plot_seconds(folder / "seconds.png", next(iter(found.values())))
    return found
