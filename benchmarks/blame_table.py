"""What the study of blame found, as a table of the docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "blame.md"


def percents(values: Sequence[float]) -> str:
    """Write a mean and its interval."""
    value, low, high = (100 * v for v in values)
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def network_table(name: str, found: dict[str, Any]) -> list[str]:
    """Render what was found of one network, as far as it was measured."""
    facts, off = found["facts"], found["units off"]
    shown = [off["counts"].index(count) for count in (0, 1, 5, 10, 20, 50)]
    parts = [
        f"### {name}",
        f"{facts['statistics']['images']} images for statistics, "
        f"{facts['measured on']['images']} to measure on; {facts['units']} filters. Percent of "
        f"{off['images']} wrong answers: probability of the class that was predicted, then share "
        "of answers that become right.\n",
        "| off | " + " | ".join(f"{off['counts'][k]}" for k in shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for key, curve in off["curves"].items():
        for what in ("predicted", "corrected"):
            row = [percents(curve[what][k]) for k in shown]
            parts.append(f"| {key}: {what} | " + " | ".join(row) + " |")
    told = "; ".join(
        f"{order} {percents(lost['10 off'])} and {percents(lost['50 off'])}"
        for order, lost in off["right answers lost"].items()
    )
    parts.append(f"\nRight answers lost with 10 and 50 off, percent: {told}.")
    if "neighbours" in found:
        near = found["neighbours"]
        shares = "; ".join(f"{k} {percents(v)}" for k, v in near["share"].items())
        parts.append(
            f"\nOf the {near['nearest']} nearest among {near['among']} mistakes, percent that "
            f"share label and wrong answer ({near['images']} images): {shares}."
        )
    if "mending" in found:
        mend = found["mending"]
        names = list(mend["salient"])
        parts += [
            f"\nOne gradient step on {mend['units']} filters, rate {mend['rate']}, percent of "
            f"{mend['images']} wrong answers:\n",
            "| filters | " + " | ".join(names) + " |",
            "|---|" + "---:|" * len(names),
        ]
        for order in ("salient", "random", "least"):
            row = [percents(mend[order][what]) for what in names]
            parts.append(f"| {order} | " + " | ".join(row) + " |")
    if "mending by number" in found:
        swept = found["mending by number"]
        parts += [
            f"\nThe same on more and more filters, {swept['images']} wrong answers: mended, then "
            "right answers lost, percent:\n",
            "| filters | " + " | ".join(f"{count}" for count in swept["counts"]) + " |",
            "|---|" + "---:|" * len(swept["counts"]),
        ]
        for order in ("salient", "random", "least"):
            for what, values in swept[order].items():
                row = [percents(value) for value in values]
                parts.append(f"| {order}: {what} | " + " | ".join(row) + " |")
    return [*parts, ""]


def table(content: dict[str, Any]) -> str:
    """Render what was found as Markdown."""
    parts = []
    for name in (name for name, found in content.items() if "units off" in found):
        parts += network_table(name, content[name])
    for key in (key for key in content if key.startswith("Trojans")):
        rows = content[key]
        parts += [
            f"### {key}",
            "How many filters are off is chosen on other images. Success of the Trojan, then clean "
            "accuracy, percent, before and after; in bold where success falls by four fifths and "
            "accuracy by less than three points.\n",
            "| ranked by | " + " | ".join(rows) + " |",
            "|---|" + "---|" * len(rows),
        ]
        for way in (way for way in next(iter(rows.values())) if ", " in way):
            cells = []
            for found in rows.values():
                one = found[way]
                best = one["chosen"]
                if best is None:
                    cells.append("none found")
                    continue
                cell = (
                    f"{one['off'][best]} off: {100 * one['success'][0]:.0f} → "
                    f"{100 * one['success'][best]:.0f}, {100 * one['clean'][0]:.0f} → "
                    f"{100 * one['clean'][best]:.0f}"
                )
                cells.append(f"**{cell}**" if one["reached"] else cell)
            parts.append(f"| {way} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)
