"""Traces, sources and coverage as tables for a terminal and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sparsight.benchmarks import SpeedReport
from sparsight.benchmarks.maps import Summary
from sparsight.networks import Network
from sparsight.networks.coverage import Coverage, UncoveredLayer
from sparsight.reports.text import clean, percent, plain_number, seconds
from sparsight.traces import Overlap, Trace, TraceDiff
from sparsight.visualization import Layer

__all__ = [
    "coverage_table",
    "describe_trace",
    "layers_table",
    "maps_table",
    "sources_table",
    "speed_table",
    "trace_diff_table",
    "trace_table",
]

_SHOWN = 6
_WIDEST = 30
_NARROW = 20  # beside seven columns of numbers, in eighty columns of a terminal


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        number = column.startswith("#")
        table.add_column(
            column.removeprefix("#"), justify="right" if number else "left", no_wrap=number,
            overflow="fold",
        )  # fmt: skip
    return table


def _shape(groups: int, rows: int, columns: int) -> str:
    return f"{rows} x {columns}" if groups == 1 else f"{groups} x {rows} x {columns}"


def trace_table(found: Trace, network: Network) -> Group:
    """Lay a trace out: what it kept of the answer, then layer by layer."""
    dense, traced = (clean(network.label(index)) for index in found.prediction)
    verdict = Text()
    if found.agrees:
        verdict.append(f"prediction kept: {dense}", style="green")
    else:
        verdict.append(f"prediction changed from {dense} to {traced}", style="red")
    verdict.append(
        f" · {percent(found.sparsity)} of the weights removed · KL {plain_number(found.kl)} nats"
    )
    if "held_out" in found.settings:
        unseen = found.settings["held_out"]
        verdict.append(
            f"\nother views: {percent(unseen['agree'])} of the predictions kept · "
            f"KL {plain_number(unseen['kl'])} nats"
        )
    if not found.settings.get("within", True):
        verdict.append("\nno sparsity that was tried keeps the answers as asked", style="red")
    table = _table("layer", "kind", "#weights", "#asked", "#removed", "#error", "note")
    longest = max((len(layer.name) for layer in found.layers), default=0)
    table.columns[0].min_width = min(longest, _WIDEST)
    for layer in found.layers:
        table.add_row(
            Text(clean(layer.name)),
            layer.kind,
            _shape(layer.groups, layer.rows, layer.columns),
            percent(layer.requested),
            percent(layer.sparsity),
            "–" if layer.error is None else plain_number(layer.error),
            Text(clean(layer.note), style="dim"),
        )
    return Group(verdict, Text(), table, Text())


def describe_trace(found: Trace, network: Network, image: Path, folder: Path) -> dict[str, Any]:
    """Say of a trace what a script wants to know, in plain values."""
    dense, traced = found.prediction
    return {
        "image": str(image),
        "folder": str(folder),
        "network": network.spec,
        "prediction": {
            "dense": {"index": dense, "label": network.label(dense)},
            "traced": {"index": traced, "label": network.label(traced)},
            "kept": found.agrees,
        },
        "confidence": dict(zip(("dense", "traced"), found.confidence, strict=True)),
        "kl": found.kl,
        "sparsity": found.sparsity,
        "layers": [asdict(layer) for layer in found.layers],
        "settings": dict(found.settings),
        "seconds": dict(found.seconds),
    }


def _overlap(what: str, found: Overlap) -> str:
    corrected = "" if found.corrected is None else f", corrected {found.corrected:.2f}"
    return f"{what}: {percent(found.jaccard)} shared, {percent(found.chance)} by chance{corrected}"


def trace_diff_table(found: TraceDiff, folders: Iterable[Path]) -> Group:
    """Lay out how two traces differ: their answers, what they share, then layer by layer."""
    head = Text()
    for side, folder, (dense, traced) in zip("AB", folders, found.predictions, strict=True):
        answer = f"class {dense} kept" if dense == traced else f"class {dense} became {traced}"
        head.append(f"{side}  {clean(folder)}: {answer}\n")
    head.append(f"{_overlap('weights', found.weights)}\n")
    head.append(f"{_overlap('filters and neurons', found.units)}\n")
    if found.difference is not None:
        head.append(f"values of shared weights: {percent(found.difference)} apart\n")
    table = _table("layer", "#A", "#B", "#shared", "#chance", "#corrected", "#units", "#values")
    longest = max((len(layer.name) for layer in found.layers), default=0)
    table.columns[0].min_width = min(longest, _NARROW)
    for layer in found.layers:
        weights = layer.weights
        table.add_row(
            Text(clean(layer.name)),
            percent(weights.a / weights.total),
            percent(weights.b / weights.total),
            percent(weights.jaccard),
            percent(weights.chance),
            "–" if weights.corrected is None else f"{weights.corrected:.2f}",
            percent(layer.units.jaccard),
            "–" if layer.difference is None else percent(layer.difference),
        )
    return Group(head, table)


def coverage_table(found: Coverage) -> Group:
    """Lay out which weights of a network are covered, and which are not and why."""
    head = Text(clean(found.spec), style="bold")
    tone = "green" if not found.uncovered else "yellow"
    head.append(
        f"\n{percent(found.share)} of {found.total:,} multiplying weights covered", style=tone
    )
    kinds = _table("kind", "#matrices")
    for kind, count in found.kinds.items():
        kinds.add_row(kind, str(count))
    parts: list[Text | Table] = [head, Text(), kinds]
    groups: dict[tuple[str, str], list[UncoveredLayer]] = {}
    for layer in found.uncovered:
        groups.setdefault((layer.kind, layer.reason), []).append(layer)
    for (kind, reason), layers in groups.items():
        weights = sum(layer.weights for layer in layers)
        names = ", ".join(layer.name or "(root)" for layer in layers[:_SHOWN])
        more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
        line = Text(f"\n{len(layers)} x {clean(kind)}, {weights:,} weights, not covered: ")
        parts += [line.append(clean(reason)), Text(clean(f"  {names}{more}"), style="dim")]
    return Group(*parts)


def sources_table(rows: Iterable[dict[str, Any]]) -> Table:
    """Lay out where networks come from and what is installed for it."""
    table = _table("model", "from", "installed", "")
    for row in rows:
        state = Text(row["version"] or "no", style="green" if row["ready"] else "yellow")
        table.add_row(row["spec"], row["source"], state, Text(row["remedy"], style="dim"))
    return table


def speed_table(report: SpeedReport) -> Group:
    """Lay out what was timed, each stage of it, and how many forward passes and traces that is."""
    medians, machine = report.medians, report.machine
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    head = Text(clean(report.network), style="bold")
    head.append(
        f", weights {clean(report.weights)} · {clean(report.image)} · {report.augmentations} views"
        f"\n{device}{machine['processor']}, {machine['threads']} threads · "
        f"{report.rounds} of {report.repeats} repeats, medians",
        style="not bold",
    )
    table = _table("", "#seconds", "#in forward passes", "#in traces")
    forward, whole = medians.get("forward"), medians.get("trace")
    for name, spent in medians.items():
        ratios = [f"{spent / other:.2f}" if other else "" for other in (forward, whole)]
        table.add_row(name, seconds(spent), *ratios)
        for stage, part in report.stage_medians.get(name, {}).items():
            table.add_row(Text(f"  {stage}", style="dim"), Text(seconds(part), style="dim"))
    parts: list[Text | Table] = [head, Text(), table, Text()]
    layers = ", ".join(f"{count} by {name}" for name, count in report.layers.items())
    parts.append(Text(f"layers pruned: {layers}"))
    parts += [Text(f"{what}: {value:.2f}") for what, value in report.ratios.items()]
    parts += [
        Text(f"memory of one trace, {place}: {gib:.2f} GiB") for place, gib in report.memory.items()
    ]
    parts += [Text(f"! {clean(note)}", style="yellow") for note in report.notes]
    return Group(*parts)


def maps_table(summary: Summary) -> Table:
    """Lay one metric out: arms down, the mean over methods and what it took across."""
    table = _table("", f"#{summary.metric} %", "#gap closed %", "#kept", "#s/image")
    table.columns[0].min_width = _NARROW
    for arm, means in summary.means.items():
        if arm == "blind":
            continue
        closed = summary.closed.get(arm)
        table.add_row(
            clean(arm),
            means["mean"].percent(),
            closed.percent(0) if closed else "",
            percent(summary.kept[arm]),
            seconds(summary.seconds[arm]),
        )
    for name, estimate in summary.means.get("blind", {}).items():
        table.add_row(name, estimate.percent(), "", "", "")
    table.caption = f"{summary.cases} images"
    return table


def layers_table(found: Iterable[Layer]) -> Table:
    """List layers with their channels and the size of what they give."""
    table = _table("layer", "kind", "#channels", "#places")
    for layer in found:
        places = [str(n) for i, n in enumerate(layer.shape, 1) if i != layer.axis]
        table.add_row(layer.name, layer.kind, str(layer.channels), " x ".join(places) or "1")
    return table
