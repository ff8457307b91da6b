"""Write the tables of ``docs/explanation/speed.md`` from the reports in ``results``.

sparsight bench speed --model NAME --out benchmarks/results/speed-NAME.json
python benchmarks/speed_table.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sparsight.benchmarks import SpeedReport
from tables import write_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "explanation" / "speed.md"
HEAD = "| | seconds | in forward passes | in traces | of which |\n|---|---:|---:|---:|---|"


def reports() -> dict[str, SpeedReport]:
    """Read the committed reports by the names of their files."""
    return {file.name: SpeedReport.load(file) for file in sorted(RESULTS.glob("speed-*.json"))}


def block(name: str, report: SpeedReport) -> str:
    """Render one report, from the file ``name``, as Markdown."""
    machine = report.machine
    device = "" if machine["device"] == "cpu" else f"{machine['device']} and "
    facts = [
        f"weights {report.weights}",
        f"{report.augmentations} views of {report.image}",
        f"{device}{machine['processor']} with {machine['threads']} threads",
        f"medians of {report.rounds}",
        *(f"peak memory ({place}) {gib:.2f} GiB" for place, gib in report.memory.items()),
    ]
    layers = ", ".join(f"{count} layers by {name}" for name, count in report.layers.items())
    medians, parts = report.medians, report.stage_medians
    rows = []
    for subject, spent in medians.items():
        stages = ", ".join(f"{stage} {part:.3g}" for stage, part in parts.get(subject, {}).items())
        bases = (medians.get(base) for base in ("forward", "trace"))
        ratios = " | ".join(f"{spent / base:.2f}" if base else "" for base in bases)
        rows.append(f"| {subject} | {spent:.3g} | {ratios} | {stages} |")
    title = f"`{name}`, **{report.network}**: {'; '.join(facts)}. Pruned: {layers}."
    notes = [f"{note[0].upper()}{note[1:]}." for note in report.notes]
    return "\n\n".join([title, "\n".join([HEAD, *rows]), *notes])


def table(found: Mapping[str, SpeedReport]) -> str:
    """Render all reports, or say that there are none."""
    blocks = [block(name, report) for name, report in found.items()]
    return "\n\n".join(blocks) or "No report is committed yet; `make bench-speed` makes one."


if __name__ == "__main__":
    write_table(PAGE, table(reports()))
