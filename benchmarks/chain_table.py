"""What the study of chains found, as tables of the docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from halves import interval

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "chains.md"
SELECTIONS = {
    "gates": "gates",
    "contribution, free": "most contributing",
    "contribution": "most contributing, as many in each layer",
    "magnitude": "heaviest, as many in each layer",
    "random": "random, as many in each layer",
    "inverted": "everything else",
    "constant": "one constant answer",
    "whole": "the whole network",
}


def percents(values: Sequence[float]) -> str:
    """Write a mean and its interval."""
    value, low, high = (100 * v for v in interval(values))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def nats(values: Sequence[float]) -> str:
    """Write a mean and its interval."""
    value, low, high = interval(values)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def of_pairs(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Render every selection on every set of images."""
    parts = [
        "| kept | KL, the images | same answer, the images | among the classes, the images "
        "| KL, others of the classes | same answer | among the classes | right "
        "| other classes: same answer | collapse onto the classes |",
        "|---|" + "---:|" * 9,
    ]
    for key, shown in SELECTIONS.items():
        given, held, others = (
            [row[part][key] for row in rows] for part in ("given", "held", "others")
        )
        cells = [
            nats([r["kl"] for r in given]),
            percents([r["agreement"] for r in given]),
            percents([r["among"] for r in given]),
            nats([r["kl"] for r in held]),
            percents([r["agreement"] for r in held]),
            percents([r["among"] for r in held]),
            percents([r["accuracy"] for r in held]),
            percents([r["agreement"] for r in others]),
            percents([r["into"] for r in others]),
        ]
        parts.append(f"| {shown} | " + " | ".join(cells) + " |")
    return parts


def along(rows: dict[str, dict[str, Any]], whole: dict[str, Any], what: str) -> list[str]:
    """Render how gates do over sizes or numbers of images, on the same sub-tasks."""
    values = sorted({float(key.split("|")[2]) for key in rows})
    titles = [
        title
        for title in sorted({key.split("|")[1] for key in rows})
        if f"pairs|{title}" in whole and all(f"{what}|{title}|{v:g}" in rows for v in values)
    ]
    usual = 0.05 if what == "sizes" else 10.0
    shown = sorted({*values, usual})
    first = "kept" if what == "sizes" else "images of each class"
    parts = [
        f"| {first} | KL, the images | same answer, the images | KL, others "
        "| same answer, others | among the classes, others |",
        "|---:|" + "---:|" * 5,
    ]
    for value in shown:
        name = f"{value:g}"
        found = [
            whole[f"pairs|{title}"] if value == usual else rows[f"{what}|{title}|{name}"]
            for title in titles
        ]
        given, held = ([row[part]["gates"] for row in found] for part in ("given", "held"))
        parts.append(
            f"| {f'{100 * value:g} %' if what == 'sizes' else name} | "
            f"{nats([r['kl'] for r in given])} | {percents([r['agreement'] for r in given])} | "
            f"{nats([r['kl'] for r in held])} | {percents([r['agreement'] for r in held])} | "
            f"{percents([r['among'] for r in held])} |"
        )
    return parts


def table(content: dict[str, Any]) -> str:
    """Render what was found as Markdown."""
    parts: list[str] = []
    for name, rows in content.items():
        if not isinstance(rows, dict) or not any(key.startswith("pairs|") for key in rows):
            continue
        pairs = [row for key, row in rows.items() if key.startswith("pairs|")]
        share, closed = (mean(row[key] for row in pairs) for key in ("share", "closed"))
        learnt = nats([row["kl of gates as learnt"] for row in pairs])
        reached = sum(row["held"]["gates"]["among"] >= 0.9 for row in pairs)
        parts += [
            f"### {name}",
            f"{len(pairs)} sub-tasks, ten images of each class; {100 * share:.1f} % of the units "
            f"kept, {100 * closed:.0f} % of the branches closed. Means with 95 % intervals over "
            f"sub-tasks, KL in nats, the rest in percent. With gates as they were learnt, no "
            f"copies, the KL on the images is {learnt}. In {reached} of {len(pairs)} sub-tasks "
            "nine of ten other images get the network's answer among the classes.\n",
            *of_pairs(pairs),
            "",
        ]
        for what, heading in (("sizes", "Size"), ("images", "Images")):
            own = {key: row for key, row in rows.items() if key.startswith(f"{what}|")}
            if own:
                parts += [f"{heading}, on {len({k.split('|')[1] for k in own})} of them:\n"]
                parts += [*along(own, rows, what), ""]
        alike = [row for key, row in rows.items() if key.startswith("stability|")]
        if alike:
            told = "; ".join(f"{key} {percents([row[key] for row in alike])}" for key in alike[0])
            parts += [f"Units shared, percent of those that either chain keeps: {told}.", ""]
    return "\n".join(parts)
