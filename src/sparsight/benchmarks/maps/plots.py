"""Plots of a benchmark of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from sparsight.attribution.metrics import METRICS
from sparsight.benchmarks.maps.summary import Estimate, Summary

__all__ = ["plot_arms", "plot_seconds"]

_MARKERS, _STYLES = "osD^vP", (":", "--", "-.")
_LEAST_SECONDS = 1e-3


def plot_arms(file: Path, summaries: Mapping[str, Summary]) -> None:
    """Draw each arm's values by method, a panel a metric, with maps that know no network as lines.

    An arrow says which way is better.

    Parameters
    ----------
    file
        Where the picture goes.
    summaries
        By metric, all of the same arms.
    """
    widest = max(len(_methods(summary)) for summary in summaries.values())
    figure = _figure(max(7, 1.5 + 0.9 * widest), 1 + 2.2 * len(summaries))
    panels = figure.subplots(len(summaries), squeeze=False)[:, 0]
    for panel, (metric, summary) in zip(panels, summaries.items(), strict=True):
        methods, arms = _methods(summary), _arms(summary)
        for i, arm in enumerate(arms):
            beside = 0.6 * ((i + 0.5) / len(arms) - 0.5)
            places = [j + beside for j in range(len(methods))]
            _points(panel, places, [summary.means[arm][m] for m in methods], arm, i)
        for style, (name, e) in zip(cycle(_STYLES), summary.means["blind"].items(), strict=False):
            panel.axhline(100 * e.value, color="0.4", linestyle=style, lw=1, label=f"{name} map")
        for j in range(0, len(methods), 2):
            panel.axvspan(j - 0.5, j + 0.5, color="0.95", zorder=0)
        panel.set_xlim(-0.5, len(methods) - 0.5)
        better = "↑" if METRICS[metric].best > METRICS[metric].worst else "↓"
        panel.set_ylabel(f"{metric.replace('_', ' ')}, % {better}")
        panel.set_xticks(range(len(methods)), [""] * len(methods))
        panel.tick_params(axis="x", length=0)
        if panel is panels[-1] or methods != _methods(list(summaries.values())[-1]):
            names = [m.replace("_", " ") for m in methods]
            panel.set_xticks(range(len(methods)), names, rotation=30, ha="right")
    figure.legend(
        *panels[0].get_legend_handles_labels(), fontsize=7, ncols=5, loc="outside upper center"
    )
    figure.savefig(file, dpi=110)


def plot_seconds(file: Path, summary: Summary) -> None:
    """Draw the mean over methods against the seconds that an image takes.

    Parameters
    ----------
    file
        Where the picture goes.
    summary
        Of one metric.
    """
    figure = _figure(6.5, 4)
    axis = figure.subplots()
    for i, arm in enumerate(_arms(summary)):
        spent = max(summary.seconds[arm], _LEAST_SECONDS)
        _points(axis, [spent], [summary.means[arm]["mean"]], arm, i)
    axis.set_xscale("log")
    axis.set_xlabel(
        f"seconds per image to get the network that maps are drawn on ({_LEAST_SECONDS} or more)"
    )
    axis.set_ylabel(f"{summary.metric}, mean of methods, %")
    axis.margins(x=0.1)
    figure.legend(fontsize=7, ncols=4, loc="outside upper center")
    figure.savefig(file, dpi=110)


def _arms(summary: Summary) -> list[str]:
    return [arm for arm in summary.means if arm != "blind"]


def _methods(summary: Summary) -> list[str]:
    return list(summary.means[_arms(summary)[0]])


def _points(
    axis: Any, places: Sequence[float], values: Sequence[Estimate], arm: str, number: int
) -> None:
    """Draw values with their intervals; an arm has one marker and colour in all pictures."""
    middle = [100 * e.value for e in values]
    spread = [
        [max(0.0, 100 * (e.value - e.low)) for e in values],
        [max(0.0, 100 * (e.high - e.value)) for e in values],
    ]
    axis.errorbar(
        places, middle, spread, fmt=_MARKERS[number % len(_MARKERS)], color=f"C{number}",
        label=arm, ms=5, capsize=2, elinewidth=0.9, ecolor="0.3",
    )  # fmt: skip


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
